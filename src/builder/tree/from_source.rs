//! A build tree made from a kernel's source and its configuration. `recovered` takes the exports
//! from the shipped kernel itself. `full` builds the whole kernel, as it was done in 2014. Both do
//! it in kbuild's own way (Documentation/kbuild/modules.rst, kbuild.rst), out of the source tree.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tracing::{info, warn};

use super::handover::Handover;
use super::{Looking, Prepared, Preparing};
use crate::builder::compile::without_debug_info;
use crate::builder::output::reason_of;
use crate::config::Strategy;
use crate::exit::{Exit, WithExit};
use crate::fail;
use crate::kernel::locate::Located;
use crate::kernel::{Facts, Image, Kconfig, Symvers, Tree, guard, recover};
use crate::prefix::enter::Place;
use crate::prefix::owned::read_plain;
use crate::process::Run;
use crate::source::{KernelSource, Obtained};

/// What a tree is made of. It was found, but not read yet.
#[derive(Debug)]
pub struct Ingredients {
    /// The configuration of the kernel as it is shipped.
    pub config: Located,
    /// Where its source is.
    pub source: KernelSource,
}

/// Options that name the distribution's own files: keys, certificates, firmware. Nobody else has
/// these files. The others say how modules are signed when they are installed: some distributions
/// strip them from the configuration that they ship. No option and no structure depends on any of
/// them.
const FILES_OF_ITS_OWN: [&str; 7] = [
    "SYSTEM_TRUSTED_KEYS",
    "SYSTEM_REVOCATION_KEYS",
    "SYSTEM_BLACKLIST_HASH_LIST",
    "MODULE_SIG_KEY",
    "MODULE_SIG_ALL",
    "EXTRA_FIRMWARE",
    "EXTRA_FIRMWARE_DIR",
];

/// Options that are dropped too if the kernel itself is compiled, as in 2014: the keyring that such
/// keys are compiled into.
const KEYRING: [&str; 3] =
    ["SYSTEM_TRUSTED_KEYRING", "SYSTEM_EXTRA_CERTIFICATE", "SYSTEM_EXTRA_CERTIFICATE_SIZE"];

/// Options that depend on that keyring (`depends on` in certs/Kconfig and security/integrity of
/// Linux 5.4 to 7.x). They go with it, unless another option selects the keyring and it stays. None
/// of them has a part in a structure.
const ON_KEYRING: [&str; 14] = [
    "SECONDARY_TRUSTED_KEYRING",
    "SECONDARY_TRUSTED_KEYRING_SIGNED_BY_BUILTIN",
    "INTEGRITY_TRUSTED_KEYRING",
    "INTEGRITY_MACHINE_KEYRING",
    "INTEGRITY_CA_MACHINE_KEYRING",
    "INTEGRITY_CA_MACHINE_KEYRING_MAX",
    "IMA_TRUSTED_KEYRING",
    "IMA_BLACKLIST_KEYRING",
    "IMA_KEYRINGS_PERMIT_SIGNED_BY_BUILTIN_OR_SECONDARY",
    "IMA_QUEUE_EARLY_BOOT_KEYS",
    "IMA_LOAD_X509",
    "IMA_X509_PATH",
    "EVM_LOAD_X509",
    "EVM_X509_PATH",
];

/// The options that are removed from the configuration, and all that may be missing afterwards.
fn dropped(strategy: Strategy) -> (Vec<&'static str>, Vec<&'static str>) {
    let mut out = FILES_OF_ITS_OWN.to_vec();
    if strategy != Strategy::Full {
        return (out.clone(), out);
    }
    out.extend(KEYRING);
    let gone = out.iter().copied().chain(ON_KEYRING).collect();
    (out, gone)
}

/// Compares the configuration that kconfig has completed with the shipped one.
fn check_completed(strategy: Strategy, shipped: &Kconfig, prepared: &Kconfig) -> Result<()> {
    guard::config_but_for(shipped, prepared, &dropped(strategy).1)
}

/// Files that the kernels of CoreOS and Flatcar expect in the directory they are built in
/// (INITRAMFS_SOURCE is bootengine.cpio). Their content does not matter.
const TOUCHED: [&str; 2] = ["certs/.x509.list", "bootengine.cpio"];

impl Ingredients {
    /// Finds what a tree for the kernel is made of, on this machine and in its configuration.
    ///
    /// # Errors
    /// [`Exit::NoKernelSource`]: the kernel has no configuration, or no known source.
    /// [`Exit::NoSymvers`]: its exports cannot be recovered.
    pub fn find(
        look: &Looking,
        strategy: Strategy,
        source: Option<KernelSource>,
    ) -> Result<Ingredients> {
        let Some(source) = source else {
            fail!(
                Exit::NoKernelSource,
                "no source of this kernel is known for this system: set kernel.source"
            );
        };
        if source.is_package() {
            fail!(
                Exit::NoKernelSource,
                "kernel.source is a package of a build tree, which only \"shipped\" takes"
            );
        }
        if strategy == Strategy::Recovered
            && let Err(error) = &look.found.image
            && recover::shipped_file(&look.found.modules).is_none()
        {
            fail!(Exit::NoSymvers, "the kernel's exports cannot be recovered: {error}");
        }
        let config = look.found.config(look.host, look.settings, look.release)?.clone();
        let source = source.configured_by(&config.config);
        Ok(Ingredients { config, source })
    }

    /// The part of the configuration that decides about the tree. It is the same for every file
    /// that the configuration may be found in.
    pub fn canonical_config(&self) -> String {
        let own = |name: &str| guard::may_differ(name) || FILES_OF_ITS_OWN.contains(&name);
        self.config.config.canonical(own)
    }
}

impl Preparing<'_> {
    /// Makes the tree below the work directory. The guards run before anything is compiled that
    /// takes longer than the kernel's own preparations.
    pub(super) fn made(&mut self, strategy: Strategy, from: &Ingredients) -> Result<Prepared> {
        let known = self.known(strategy, from)?;
        let handover = self.hand_over(strategy, &known)?;
        let Obtained::Source(source) = self.obtain(&from.source)? else {
            fail!(
                Exit::NoKernelSource,
                "{}: a build tree, not the source of a kernel; set kernel.build-dir to it",
                from.source.shown()
            );
        };
        let kernel = Kernel { source, output: self.work.top.join("kernel") };
        let place = kernel.place(&self.work.top);
        self.configure(strategy, &kernel, &handover, &from.config.config)?;
        self.steps.must(&kernel.make(self, &place).arg("modules_prepare"), reason_of)?;
        self.settle(&kernel, (strategy == Strategy::Recovered).then_some(&handover))?;
        drop(handover);
        self.probe(&kernel, &place, known.image.as_ref(), true)?;
        let tree = match strategy {
            Strategy::Full => self.whole(&kernel, &from.config.config, known.exports)?,
            _ => self.read(strategy, &kernel, &from.config.config, known.exports)?,
        };
        Ok(Prepared { tree, place, made_in: Some(self.work.top.clone()) })
    }

    /// What root learns about the kernel before anything is fetched.
    fn known(&self, strategy: Strategy, from: &Ingredients) -> Result<Known> {
        let facts = Facts::of_config(self.host, self.release, from.config.clone());
        guard::refusal(&facts, self.compiler)?;
        let image = self.found.open(self.build_id)?;
        self.check_config(from, image.as_ref())?;
        let exports = match self.found.exports(image.as_ref(), self.jobs) {
            Err(error) if strategy == Strategy::Full => {
                warn!(
                    "the kernel's exports cannot be recovered, so the built ones are not compared with them: {error:#}"
                );
                None
            }
            exports => exports?,
        };
        if exports.is_none() && strategy == Strategy::Recovered {
            fail!(
                Exit::NoSymvers,
                "neither an image nor a symvers file in {} tells the kernel's exports: {}",
                self.found.modules.display(),
                self.found.no_image()
            );
        }
        let versions = from.config.config.is_on("MODVERSIONS");
        if exports.as_ref().is_some_and(|exports| exports.has_versions() != versions) {
            fail!(
                Exit::NoSymvers,
                "{} says CONFIG_MODVERSIONS={}, and the kernel's exports have {}CRCs: they are not of one kernel; set kernel.config, or kernel.image",
                from.config.source,
                if versions { "y" } else { "n" },
                if versions { "no " } else { "" }
            );
        }
        let salt = image.as_ref().and_then(Image::build_salt);
        info!("configuration from {}", from.config.source);
        let config = edited(strategy, &from.config, salt.as_deref());
        Ok(Known { config, image, exports })
    }

    /// Compares the configuration with the one in the image, if the image contains one: that is the
    /// right one.
    fn check_config(&self, from: &Ingredients, image: Option<&Image>) -> Result<()> {
        let inside = image.map(Image::ikconfig).transpose().exit(Exit::NoKernelSource)?.flatten();
        let Some(inside) = inside else { return Ok(()) };
        let inside = Kconfig::parse(&inside).context("the configuration in the image")?;
        guard::config_but_for(&inside, &from.config.config, &FILES_OF_ITS_OWN).with_context(|| {
            format!("{} is not the configuration that is in the kernel's image", from.config.source)
        })
    }

    fn hand_over(&self, strategy: Strategy, known: &Known) -> Result<Handover> {
        let symvers = known.exports.as_ref().filter(|_| strategy == Strategy::Recovered);
        let symvers = symvers.map(Symvers::to_text).unwrap_or_default();
        let files = [("config", &known.config[..]), ("symvers", symvers.as_bytes())];
        Handover::make(self.layout, self.release, &files)
    }

    /// Builds the whole kernel. Its exports have to be those of the shipped one, if these are
    /// known.
    fn whole(
        &mut self,
        kernel: &Kernel,
        shipped_config: &Kconfig,
        shipped: Option<Symvers>,
    ) -> Result<Tree> {
        let place = kernel.place(&self.work.top);
        // vmlinux_o makes vmlinux.o, which has the exports. Linking vmlinux itself would need BTF,
        // and so debug information of everything. Before 5.17 kbuild knows only vmlinux.
        let makefile = kernel.source.join("Makefile");
        let script = r#"grep -q '^vmlinux_o:' "$1" && echo yes || echo no"#;
        let known = self.prefix.run("bash", &place).args(["-c", script, "bash"]).arg(makefile);
        let run = kernel.make(self, &place);
        let run = match known.output(self.steps.cancel)?.trim() {
            // Without BTF kbuild leaves out what registers types with it (nf_conntrack_bpf.o). That
            // does no harm: only the exports are needed, and they are compared.
            "yes" => run
                .args(["vmlinux_o", "modules", "KBUILD_MODPOST_WARN=1"])
                .args(without_debug_info(shipped_config))
                .arg("CONFIG_DEBUG_INFO_BTF_MODULES="),
            _ => run.args(["vmlinux", "modules"]),
        };
        // With ccache, a build that was interrupted after half an hour does not start from nothing.
        let run = self.prefix.cached(run, &self.work.top);
        self.steps.must(&run, reason_of)?;
        self.settle(kernel, None)?;
        let built = self.read(Strategy::Full, kernel, shipped_config, None)?;
        match shipped {
            Some(shipped) => guard::exports(
                "what was built of kernel.source (with kernel.patches)",
                &built.symvers,
                &shipped,
            )?,
            None => warn!(
                "no kernel image: whether the kernel built here is the shipped one cannot be checked"
            ),
        }
        Ok(built)
    }

    /// Copies the configuration to the output directory and lets kconfig complete it. Checks what
    /// kconfig changed before anything is compiled.
    fn configure(
        &mut self,
        strategy: Strategy,
        kernel: &Kernel,
        handover: &Handover,
        shipped: &Kconfig,
    ) -> Result<()> {
        let place = kernel.place(&self.work.top);
        let script = r#"rm -rf -- "$1" && mkdir -p "$1/certs" && cp -- "$2" "$1/.config" && cd "$1" && shift 2 && touch -- "$@""#;
        let run = self.prefix.run("bash", &place).args(["-c", script, "bash"]);
        let run = run.arg(&kernel.output).arg(handover.path("config")).args(TOUCHED);
        run.output(self.steps.cancel)?;
        self.steps.must(&kernel.make(self, &place).arg("olddefconfig"), reason_of)?;
        let prepared = read_plain(&self.work.top, &kernel.output.join(".config"))?;
        let prepared = Kconfig::parse(&prepared).context("the completed .config")?;
        check_completed(strategy, shipped, &prepared)
    }

    /// Writes the release to `kernel.release`, and the exports to Module.symvers. Before 6.2 kbuild
    /// reads from `kernel.release` what a module is built for, and some distributions have another
    /// name in it.
    pub(super) fn settle(&mut self, kernel: &Kernel, exports: Option<&Handover>) -> Result<()> {
        let script = r#"cd "$1" && printf '%s\n' "$2" > include/config/kernel.release || exit
            [ -z "$3" ] || cp -- "$3" Module.symvers"#;
        let symvers = exports.map(|handover| handover.path("symvers")).unwrap_or_default();
        let place = kernel.place(&self.work.top);
        let run = self.prefix.run("bash", &place).args(["-c", script, "bash"]);
        let run = run.arg(&kernel.output).arg(self.release.as_str()).arg(symvers);
        run.output(self.steps.cancel).map(drop)
    }

    /// Reads what root has to know of the tree. `exports`, if given, replace those in the owner's
    /// file. Checks the configuration once more: modules will be compiled with this one.
    fn read(
        &self,
        strategy: Strategy,
        kernel: &Kernel,
        shipped: &Kconfig,
        exports: Option<Symvers>,
    ) -> Result<Tree> {
        let read = |name: &str| read_plain(&self.work.top, &kernel.output.join(name));
        let tree = Tree::of(&kernel.output, &kernel.source, self.release, read, exports)?;
        let config = Kconfig::parse(&tree.config).context("the tree's .config")?;
        check_completed(strategy, shipped, &config)?;
        Ok(tree)
    }
}

/// What root learnt about the kernel itself.
struct Known {
    /// The configuration for the tree.
    config: Vec<u8>,
    image: Option<Image>,
    exports: Option<Symvers>,
}

/// A kernel's source and where it is built.
pub(super) struct Kernel {
    pub(super) source: PathBuf,
    pub(super) output: PathBuf,
}

impl Kernel {
    pub(super) fn place(&self, work: &Path) -> Place {
        let outside = [&self.source].into_iter().filter(|path| !path.starts_with(work));
        let kernel = outside.cloned().collect();
        Place { work: Some(work.to_owned()), kernel, ..Place::default() }
    }

    /// The make command for a module in `dir`, against this tree. It runs in the output directory:
    /// the Makefile there leads to the source (Debian's headers are no source tree).
    pub(super) fn make_module(&self, preparing: &Preparing, place: &Place, dir: &Path) -> Run {
        let run = preparing.prefix.run("make", place).dir(&preparing.work.tmp);
        let run = run.arg("-C").arg(&self.output).arg(format!("-j{}", preparing.jobs));
        run.arg(format!("M={}", dir.display())).arg("modules")
    }

    /// The make command in the source tree that builds in the output directory. It always sets
    /// KERNELRELEASE, because the source has another local version.
    pub(super) fn make(&self, preparing: &Preparing, place: &Place) -> Run {
        let run = preparing.prefix.run("make", place).dir(&preparing.work.tmp);
        let run = run.arg("-C").arg(&self.source);
        let run = if self.output == self.source {
            run
        } else {
            run.arg(format!("O={}", self.output.display()))
        };
        run.arg(format!("-j{}", preparing.jobs)).arg(format!("KERNELRELEASE={}", preparing.release))
    }
}

/// The shipped configuration without the [`dropped`] options, and with the salt of the image. Some
/// distributions leave the salt out of the configuration that they ship.
fn edited(strategy: Strategy, shipped: &Located, salt: Option<&str>) -> Vec<u8> {
    let text = String::from_utf8_lossy(&shipped.text);
    let (out, _) = dropped(strategy);
    let own = |line: &&str| {
        let name = line.strip_prefix("CONFIG_").and_then(|rest| rest.split('=').next());
        !name.is_some_and(|name| out.contains(&name))
    };
    let mut edited: String = text.lines().filter(own).flat_map(|line| [line, "\n"]).collect();
    if let Some(salt) = salt.filter(|_| shipped.config.get("BUILD_SALT").is_none()) {
        edited.push_str(&format!("CONFIG_BUILD_SALT={salt:?}\n"));
    }
    edited.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(strategy: Strategy, text: &str, salt: Option<&str>) -> String {
        let config = Kconfig::parse(text.as_bytes()).unwrap();
        let source = crate::kernel::locate::Source::Running;
        let located = Located { text: text.into(), config, source };
        String::from_utf8(edited(strategy, &located, salt)).unwrap()
    }

    #[test]
    fn files_that_only_the_distribution_has_are_left_out_and_its_salt_is_put_in() {
        let edit = |text: &str, salt| edit(Strategy::Recovered, text, salt);
        let shipped = "CONFIG_A=y\nCONFIG_SYSTEM_TRUSTED_KEYS=\"debian/keys.pem\"\n# CONFIG_B is not set\nCONFIG_MODULE_SIG_KEY=\"\"\n";
        let kept = "CONFIG_A=y\n# CONFIG_B is not set\n";
        assert_eq!(edit(shipped, None), kept);
        let salted = "CONFIG_BUILD_SALT=\"6.1.0-x\"\n";
        assert_eq!(edit(shipped, Some("6.1.0-x")), format!("{kept}{salted}"));
        assert_eq!(edit(salted, Some("b")), salted, "the configuration knows it");
    }

    #[test]
    fn the_keyring_that_options_depend_on_is_dropped_only_where_the_kernel_is_compiled() {
        let rest = "CONFIG_A=y\nCONFIG_SECONDARY_TRUSTED_KEYRING=y\n";
        let keyring = "CONFIG_SYSTEM_TRUSTED_KEYRING=y\nCONFIG_SYSTEM_EXTRA_CERTIFICATE=y\n";
        let keys = "CONFIG_SYSTEM_TRUSTED_KEYS=\"keys.pem\"\n";
        let text = format!("{rest}{keyring}{keys}");
        assert_eq!(edit(Strategy::Recovered, &text, None), format!("{rest}{keyring}"));
        assert_eq!(edit(Strategy::Full, &text, None), rest);
        // What kconfig makes of that: nothing else selects the keyring.
        let parse = |text: &str| Kconfig::parse(text.as_bytes()).unwrap();
        let (shipped, completed) = (parse(&text), parse("CONFIG_A=y\n"));
        check_completed(Strategy::Full, &shipped, &completed).unwrap();
        let error = check_completed(Strategy::Recovered, &shipped, &completed).unwrap_err();
        assert!(error.to_string().contains("SYSTEM_TRUSTED_KEYRING: y -> not set"), "{error}");
        let other = check_completed(Strategy::Full, &shipped, &parse("CONFIG_B=y\n"));
        assert!(other.unwrap_err().to_string().contains("CONFIG_A: y"));
    }
}
