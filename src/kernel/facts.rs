//! The facts about a kernel that matter for building modules. They come from its image, its
//! configuration and, for the running kernel, from /proc and /sys.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use super::btf::{self, Btf};
use super::kconfig::Kconfig;
use super::notes::{BUILD_SALT, gnu_build_id, notes};
use super::{Format, Image, locate};
use crate::compress::Compression;
use crate::exit::{Exit, WithExit};
use crate::fail;
use crate::host::{Host, Release};
use crate::module::refusal::Policy;

/// Which kernel, and where its files are if not in the usual places.
pub struct Wanted<'a> {
    /// Its release. `None` means that of `image`, or else that of the running kernel.
    pub release: Option<Release>,
    /// Its image, below [`Host::root`].
    pub image: Option<PathBuf>,
    /// Where the configuration of a kernel is, below [`Host::root`], if that is configured.
    pub config: &'a dyn Fn(&Release) -> Option<PathBuf>,
}

/// The facts. `None` means that the fact could not be learnt; [`Facts::notes`] says why.
#[derive(Clone, Debug, Serialize)]
pub struct Facts {
    /// `uname -r`.
    pub release: Release,
    /// Whether it is the running kernel.
    pub running: bool,
    /// Its image.
    pub image: Option<PathBuf>,
    /// What kind of file that is.
    pub format: Option<Format>,
    /// How the kernel in it is compressed; `None` if it is not compressed.
    pub compression: Option<Compression>,
    /// Whether the image is a unified kernel image. `format` is then that of the kernel in it.
    pub uki: bool,
    /// GNU build-id.
    pub build_id: Option<String>,
    /// CONFIG_BUILD_SALT from the kernel's notes, or else from the configuration.
    pub build_salt: Option<String>,
    /// The compiler line: CONFIG_CC_VERSION_TEXT, or else the part of it in the image's banner.
    pub compiler: Option<String>,
    /// Where the configuration was found.
    pub config: Option<locate::Source>,
    /// What the configuration says.
    #[serde(flatten)]
    pub built: Option<Built>,
    /// How many structures the image's BTF describes; `None` if the image has no BTF.
    pub btf_structs: Option<usize>,
    /// What the running kernel demands of a module's signature now. `None` for any other kernel.
    pub policy: Option<Policy>,
    /// What could not be learnt, and what does not fit together.
    pub notes: Vec<String>,
    /// The configuration itself.
    #[serde(skip)]
    pub options: Option<Kconfig>,
}

/// The build options of the kernel that matter to modules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Built {
    /// The version of the source, from the head of the configuration.
    pub kernel_version: Option<String>,
    /// CONFIG_MODVERSIONS: symbols have CRCs. Without them, vermagic alone protects the machine.
    pub modversions: bool,
    /// CONFIG_MODULE_SIG: the kernel checks signatures.
    pub module_sig: bool,
    /// CONFIG_MODULE_SIG_FORCE: the kernel loads no module without a valid signature.
    pub module_sig_force: bool,
    /// CONFIG_MODULE_SIG_HASH.
    pub module_sig_hash: Option<String>,
    /// CONFIG_SECURITY_LOCKDOWN_LSM: lockdown (with Secure Boot, in distributions' kernels) may
    /// demand signatures.
    pub lockdown: bool,
    /// The order of members is random: `full`, `performance` or `none`.
    pub randstruct: &'static str,
    /// Link-time optimisation by clang: `full`, `thin` or `none`.
    pub lto: &'static str,
    /// CONFIG_CFI or CONFIG_CFI_CLANG.
    pub cfi: bool,
    /// CONFIG_GCC_PLUGINS.
    pub gcc_plugins: bool,
    /// CONFIG_TRIM_UNUSED_KSYMS: the kernel lacks exports that no module of the distribution uses.
    pub trim_unused_ksyms: bool,
    /// CONFIG_DEBUG_INFO_BTF.
    pub btf: bool,
    /// How the distribution's modules are compressed: `gzip`, `xz`, `zstd` or `none`.
    pub module_compression: &'static str,
}

impl Built {
    fn of(config: &Kconfig) -> Built {
        let on = |name: &str| config.is_on(name);
        let choice = |choices: &[(&str, &'static str)]| {
            choices.iter().find(|(name, _)| on(name)).map_or("none", |(_, word)| *word)
        };
        Built {
            kernel_version: config.kernel_version().map(str::to_owned),
            modversions: on("MODVERSIONS"),
            module_sig: on("MODULE_SIG"),
            module_sig_force: on("MODULE_SIG_FORCE"),
            module_sig_hash: config.get("MODULE_SIG_HASH").map(str::to_owned),
            lockdown: on("SECURITY_LOCKDOWN_LSM"),
            randstruct: choice(&[
                ("RANDSTRUCT_PERFORMANCE", "performance"),
                ("GCC_PLUGIN_RANDSTRUCT_PERFORMANCE", "performance"),
                ("RANDSTRUCT", "full"),
                ("RANDSTRUCT_FULL", "full"),
                ("GCC_PLUGIN_RANDSTRUCT", "full"),
            ]),
            lto: choice(&[
                ("LTO_CLANG_FULL", "full"),
                ("LTO_CLANG_THIN", "thin"),
                ("LTO_CLANG", "full"),
            ]),
            cfi: on("CFI") || on("CFI_CLANG"),
            gcc_plugins: on("GCC_PLUGINS"),
            trim_unused_ksyms: on("TRIM_UNUSED_KSYMS"),
            btf: on("DEBUG_INFO_BTF"),
            module_compression: choice(&[
                ("MODULE_COMPRESS_GZIP", "gzip"),
                ("MODULE_COMPRESS_XZ", "xz"),
                ("MODULE_COMPRESS_ZSTD", "zstd"),
            ]),
        }
    }
}

impl Facts {
    /// The facts about kernel `release` that the configuration alone gives. They are enough for
    /// [`super::guard::refusal`]. The image is not read.
    pub fn of_config(host: &Host, release: &Release, located: locate::Located) -> Facts {
        let mut facts = Facts::none(host, release);
        facts.take_config(located);
        facts
    }

    /// Everything that can be learnt about a kernel. A note says what cannot be learnt.
    ///
    /// # Errors
    /// [`Exit::NoKernelSource`]: the named image cannot be read, is of another release than the
    /// named one, or does not say its release; or there is neither image nor configuration.
    pub fn gather(host: &Host, wanted: &Wanted<'_>) -> Result<Facts> {
        let wants = wanted.release.as_ref();
        let named = wanted.image.as_deref().map(|path| open(&host.path(path), wants));
        let named = named.transpose().exit(Exit::NoKernelSource)?;
        let release = match (&wanted.release, &named) {
            (Some(release), _) => release.clone(),
            (None, Some((path, image))) => release_of(path, image).exit(Exit::NoKernelSource)?,
            (None, None) => host.kernel_release.clone(),
        };
        let mut facts = Facts::none(host, &release);
        let opened = match named {
            Some((path, image)) => {
                is_of(&path, &image, &release)?;
                Some((path, image))
            }
            None => {
                let found = facts.located(host);
                found.map_err(|e| facts.notes.push(format!("{e:#}"))).ok()
            }
        };
        if let Some((path, image)) = &opened {
            facts.take_image(path, image);
        }
        let image = opened.as_ref().map(|(_, image)| image);
        let configured = (wanted.config)(&release);
        match locate::config(host, configured.as_deref(), &release, image) {
            Ok(located) => facts.take_config(located),
            Err(error) if opened.is_none() || configured.is_some() => {
                facts.notes.push(format!("{error:#}"));
                fail!(Exit::NoKernelSource, "{}", facts.notes.join("\n"));
            }
            Err(error) => facts.notes.push(format!("{error:#}")),
        }
        if facts.running {
            facts.take_running(host);
        }
        Ok(facts)
    }

    fn none(host: &Host, release: &Release) -> Facts {
        Facts {
            release: release.clone(),
            running: !host.container && *release == host.kernel_release,
            image: None,
            format: None,
            compression: None,
            uki: false,
            build_id: None,
            build_salt: None,
            compiler: None,
            config: None,
            built: None,
            btf_structs: None,
            policy: None,
            notes: Vec::new(),
            options: None,
        }
    }

    /// The image where systems put it.
    fn located(&mut self, host: &Host) -> Result<(PathBuf, Image)> {
        let path = locate::image(host, None, &self.release)?;
        let (path, image) = open(&path, Some(&self.release))?;
        // It may have been taken by its name alone. One that does not say its release stays.
        match image.release() {
            Some(_) => is_of(&path, &image, &self.release)?,
            None => self.notes.push(format!("{}: {SILENT}", path.display())),
        }
        Ok((path, image))
    }

    fn take_image(&mut self, path: &Path, image: &Image) {
        self.image = Some(path.to_owned());
        self.format = Some(image.format());
        self.compression = image.compression();
        self.uki = image.in_uki();
        self.build_id = image.build_id();
        self.build_salt = image.build_salt();
        self.compiler = image.banner().and_then(compiler).map(str::to_owned);
        if let Some(bytes) = btf::in_image(image) {
            match Btf::parse(bytes) {
                Ok(btf) => self.btf_structs = Some(btf.len()),
                Err(error) => self.notes.push(format!("{}: {error:#}", path.display())),
            }
        }
    }

    fn take_config(&mut self, located: locate::Located) {
        let text = |name: &str| located.config.get(name).filter(|v| !v.is_empty());
        self.compiler = text("CC_VERSION_TEXT").map(str::to_owned).or(self.compiler.take());
        self.build_salt = self.build_salt.take().or_else(|| text("BUILD_SALT").map(str::to_owned));
        self.built = Some(Built::of(&located.config));
        self.config = Some(located.source);
        self.options = Some(located.config);
    }

    fn take_running(&mut self, host: &Host) {
        self.policy = Some(Policy::read(host));
        let path = host.path("/sys/kernel/notes");
        let Ok(bytes) = fs::read(&path) else {
            self.notes.push(format!("{}: cannot be read", path.display()));
            return;
        };
        let running = gnu_build_id(&bytes);
        if let (Some(image), Some(running), Some(path)) = (&self.build_id, &running, &self.image)
            && image != running
        {
            self.notes.push(format!(
                "{} is not the running kernel: its build-id is {image}, that of the running kernel {running}",
                path.display()
            ));
        }
        self.build_id = running.or(self.build_id.take());
        self.build_salt = build_salt(&bytes).or(self.build_salt.take());
    }
}

/// The note on an image without a release.
const SILENT: &str = "an image that does not say its release";

fn open(path: &Path, release: Option<&Release>) -> Result<(PathBuf, Image)> {
    Ok((path.to_owned(), Image::open_for(path, release)?))
}

fn release_of(path: &Path, image: &Image) -> Result<Release> {
    let release = image.release().context(SILENT);
    release.and_then(|r| r.parse()).with_context(|| format!("{}", path.display()))
}

fn is_of(path: &Path, image: &Image, release: &Release) -> Result<()> {
    let found = release_of(path, image).exit(Exit::NoKernelSource)?;
    if found != *release {
        fail!(
            Exit::NoKernelSource,
            "kernel {release}: {} is of kernel {found}; name its own image",
            path.display()
        );
    }
    Ok(())
}

/// `gcc (GCC) 14.3.1` of `Linux version 6.12.4 (who@where) (gcc (GCC) 14.3.1, GNU ld 2.44) #1 …`
/// (scripts/mkcompile_h).
fn compiler(banner: &str) -> Option<&str> {
    let (_, rest) = banner.split_once(") (")?;
    let (line, _) = rest.rsplit_once(") #")?;
    let end = [", GNU ld", ", LLD"].iter().find_map(|linker| line.find(linker));
    Some(&line[..end.unwrap_or(line.len())])
}

/// The string of the note `Linux` 0x100.
fn build_salt(bytes: &[u8]) -> Option<String> {
    [object::Endianness::Little, object::Endianness::Big].into_iter().find_map(|order| {
        let mut all = notes(bytes, order);
        let note = all.find(|n| n.name == b"Linux" && n.kind == BUILD_SALT)?;
        let text = note.desc.split(|b| *b == 0).next()?;
        std::str::from_utf8(text).ok().filter(|t| !t.is_empty()).map(str::to_owned)
    })
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, value: &str| writeln!(f, "{name:<20}{value}");
        let unknown = || "unknown".to_owned();
        let running = if self.running { " (running)" } else { "" };
        line("Release:", &format!("{}{running}", self.release))?;
        let image = self.image.as_ref().map(|p| p.display().to_string());
        line("Image:", &image.unwrap_or_else(unknown))?;
        if let Some(format) = self.format {
            let packed = self.compression.map(|c| format!(", {c}")).unwrap_or_default();
            let around = if self.uki { ", in a UKI" } else { "" };
            line("Format:", &format!("{format}{packed}{around}"))?;
        }
        line("Build-id:", self.build_id.as_deref().unwrap_or("unknown"))?;
        line("Build salt:", self.build_salt.as_deref().unwrap_or("none"))?;
        line("Compiler:", self.compiler.as_deref().unwrap_or("unknown"))?;
        let config = self.config.as_ref().map(ToString::to_string);
        line("Configuration:", &config.unwrap_or_else(unknown))?;
        if let Some(built) = &self.built {
            for (name, value) in built.lines() {
                line(name, &value)?;
            }
        }
        let btf = self.btf_structs.map(|n| format!("{n} structures"));
        line("BTF in the image:", &btf.unwrap_or_else(|| "none".to_owned()))?;
        if let Some(policy) = &self.policy {
            line("Lockdown now:", policy.lockdown.as_deref().unwrap_or("unknown"))?;
            line("sig_enforce now:", yes(policy.sig_enforce))?;
            line("Modules disabled:", yes(policy.modules_disabled))?;
            if let Some(names) = &policy.module_blacklist {
                line("module_blacklist:", names)?;
            }
        }
        self.notes.iter().try_for_each(|note| line("Note:", note))
    }
}

impl Built {
    fn lines(&self) -> [(&'static str, String); 11] {
        let signatures = match (self.module_sig, self.module_sig_force) {
            (false, _) => "none".to_owned(),
            (true, forced) => {
                let hash = self.module_sig_hash.as_deref().unwrap_or("unknown hash");
                let force = if forced { ", demanded" } else { ", not demanded" };
                let lockdown = if self.lockdown && !forced { " but under lockdown" } else { "" };
                format!("{hash}{force}{lockdown}")
            }
        };
        [
            ("Source version:", self.kernel_version.clone().unwrap_or_else(|| "unknown".into())),
            ("MODVERSIONS:", yes(self.modversions).into()),
            ("Signatures:", signatures),
            ("RANDSTRUCT:", self.randstruct.into()),
            ("LTO:", self.lto.into()),
            ("CFI:", yes(self.cfi).into()),
            ("GCC plugins:", yes(self.gcc_plugins).into()),
            ("Trimmed exports:", yes(self.trim_unused_ksyms).into()),
            ("BTF configured:", yes(self.btf).into()),
            ("Module compression:", self.module_compression.into()),
            ("Lockdown possible:", yes(self.lockdown).into()),
        ]
    }
}

fn yes(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

#[cfg(test)]
#[path = "facts_tests.rs"]
mod tests;
