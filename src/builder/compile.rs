//! The two ways to compile: `portage` (emerge in the prefix) and `make` (configure and make of a
//! release tarball). Both run as the prefix's owner and leave modules below the work directory.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::job::{ANSWER, Job};
use super::output::{fetch_reason_of, reason_of};
use super::packages;
use super::steps::Reason;
use crate::config::is_tarball;
use crate::exit::{Exit, WithExit};
use crate::fail;
use crate::kernel::{Kconfig, Tree};
use crate::prefix::portage::package_of;
use crate::process::Run;

/// Turns off debug information. That makes the modules smaller and the build faster, and does not
/// change their code (facts: zfs.ko 9.1 MB instead of 93.6 MB).
pub(super) const NO_DEBUG_INFO: [&str; 3] =
    ["CONFIG_DEBUG_INFO_BTF=", "CONFIG_DEBUG_INFO=", "CONFIG_DEBUG_INFO_DWARF_TOOLCHAIN_DEFAULT="];

/// [`NO_DEBUG_INFO`], as far as the kernel's configuration allows it. gendwarfksyms (Linux 6.14,
/// Documentation/kbuild/gendwarfksyms.rst) computes the CRCs of exports from debug information:
/// then the build needs it, and the modules are stripped afterwards anyway. The ebuild does the
/// same (`kernel_make`).
pub(super) fn without_debug_info(config: &Kconfig) -> &'static [&'static str] {
    if config.is_on("GENDWARFKSYMS") { &NO_DEBUG_INFO[..1] } else { &NO_DEBUG_INFO }
}

/// Keeps modules_install from compressing and signing as the kernel's configuration says. Both are
/// up to whoever publishes the tree.
const PLAIN_MODULES: [&str; 5] = [
    "CONFIG_MODULE_COMPRESS=",
    "CONFIG_MODULE_COMPRESS_GZIP=",
    "CONFIG_MODULE_COMPRESS_XZ=",
    "CONFIG_MODULE_COMPRESS_ZSTD=",
    "CONFIG_MODULE_SIG_ALL=",
];

impl Job<'_> {
    /// Fetches what the configured atoms need. It is a step of its own, because only this step has
    /// a network.
    ///
    /// # Errors
    /// [`Exit::Network`]: something could not be fetched. [`Exit::PrefixIncomplete`]: it cannot be
    /// fetched at all, and the prefix has to contain it. [`Interrupted`].
    pub fn fetch(&mut self) -> Result<()> {
        let run = self.emerge().arg("--fetchonly").args(self.atoms());
        self.step(&run, fetch_reason_of)
    }

    /// The OpenZFS tarball that Portage fetched. None if Portage does not say which file that is.
    ///
    /// # Errors
    /// Portage cannot be asked.
    pub fn distfile(&self) -> Result<Option<PathBuf>> {
        let atoms = self.exact_atoms()?;
        let Some(atom) = atoms.iter().find(|atom| package_of(atom) == "sys-fs/zfs-kmod") else {
            return Ok(None);
        };
        let asked = || format!("asking Portage for the tarball of {atom}");
        let ask = |args: &[&str]| {
            let run = self.portage_program("portageq").args(args).within(ANSWER);
            run.output(self.steps.cancel).with_context(asked).exit(Exit::PrefixIncomplete)
        };
        let package = atom.trim_start_matches('=').split([':', '[']).next().unwrap_or_default();
        let root = self.prefix.path.to_string_lossy();
        let uris = ask(&["metadata", &root, "ebuild", package, "SRC_URI"])?;
        let dir = PathBuf::from(ask(&["distdir"])?.trim());
        let words = uris.split_whitespace().filter_map(|word| word.rsplit('/').next());
        let mut files = words.filter(|word| is_tarball(Path::new(word))).map(|name| dir.join(name));
        Ok(files.find(|file| std::fs::symlink_metadata(file).is_ok_and(|meta| meta.is_file())))
    }

    /// `emerge -1v` of the configured atoms into the work directory's ROOT. Returns the directory
    /// below which the modules are.
    ///
    /// # Errors
    /// [`Exit::BuildFailed`] and its finer kinds, with the failing lines; [`Interrupted`].
    pub fn portage(&mut self) -> Result<PathBuf> {
        let atoms = self.atoms();
        let run = self.emerge().args(&atoms);
        self.steps.progress.compiling(&atoms.join(" "), self.expected);
        self.step(&run, reason_of)?;
        Ok(self.installed())
    }

    /// The atoms that emerge builds.
    fn atoms(&self) -> Vec<String> {
        packages::among(self.recipe.atoms().to_vec(), self.programs)
    }

    /// Where emerge installs: EROOT, which is EPREFIX below ROOT.
    pub(super) fn installed(&self) -> PathBuf {
        let prefix = self.prefix.path.strip_prefix("/").unwrap_or(&self.prefix.path);
        self.work.root.join(prefix)
    }

    /// The emerge command that all steps of a build share, without the atoms.
    pub(super) fn emerge(&self) -> Run {
        let mut econf: Vec<String> = self.tree.map(with_linux).into_iter().flatten().collect();
        econf.extend_from_slice(self.recipe.configure());
        let run = self
            .portage_program("emerge")
            .args(["--oneshot", "--verbose", "--quiet-build=n", "--color=n", "--nospinner"])
            .env("ROOT", &self.work.root)
            .env("PORTAGE_TMPDIR", &self.work.tmp)
            .env("PORTAGE_LOGDIR", self.work.top.join("log"))
            .env("EXTRA_ECONF", econf.join(" "))
            .env("MAKEOPTS", format!("-j{}", self.jobs))
            .env("TEST_JOBS", self.jobs.to_string());
        let run = match self.tree {
            Some(tree) => run.env("KERNEL_DIR", &tree.source).env("KV_OUT_DIR", &tree.output),
            None => run,
        };
        if self.prefix.has_ccache() {
            self.prefix.ccache(run.env("FEATURES", "ccache"), &self.work.top)
        } else {
            run
        }
    }

    /// A program of Portage, without arguments. User and group get the names that they have on this
    /// machine: where the prefix was made they may have had others.
    pub(super) fn portage_program(&self, program: &str) -> Run {
        let account = &self.prefix.account;
        let run = self
            .prefix
            .run(program, &self.place)
            .env("PORTAGE_USERNAME", &account.user)
            .env("PORTAGE_GRPNAME", &account.group);
        let more = self.tarball.iter().filter_map(|tarball| tarball.repository.as_ref());
        more.flat_map(|r| &r.env).fold(run, |run, (name, value)| run.env(name, value))
    }

    /// Runs configure, make and modules_install of `source` for the kernel of `tree`. Returns the
    /// directory below which the modules are.
    ///
    /// # Errors
    /// As [`Job::portage`].
    pub fn make(&mut self, source: &Path, tree: &Tree) -> Result<PathBuf> {
        let run = |program: &str| {
            let run = self.prefix.run(program, &self.place).dir(&self.work.tmp);
            self.prefix.cached(run, &self.work.top)
        };
        let config = Kconfig::parse(&tree.config)
            .with_context(|| format!("{}/.config", tree.output.display()))
            .exit(Exit::NoKernelSource)?;
        let no_debug_info = without_debug_info(&config);
        let steps = [
            run("tar")
                .args(["--extract", "--strip-components=1", "--no-same-owner", "--file"])
                .arg(source),
            run("bash")
                .args(["./configure", "--with-config=kernel"])
                .args(with_linux(tree))
                .args(self.recipe.configure())
                // How many jobs configure compiles its kernel checks with.
                .env("TEST_JOBS", self.jobs.to_string()),
            run("make").arg(format!("-j{}", self.jobs)).args(no_debug_info),
            run("make")
                .args(["-C", "module", "modules_install", "DEPMOD=:", "INSTALL_MOD_DIR=extra"])
                .arg(format!("INSTALL_MOD_PATH={}", self.work.root.display()))
                .args(no_debug_info)
                .args(PLAIN_MODULES),
        ];
        self.steps.progress.compiling(&source.to_string_lossy(), self.expected);
        for step in &steps {
            self.step(step, reason_of)?;
        }
        if self.programs.is_some() {
            for step in &self.make_programs(source) {
                self.step(step, reason_of)?;
            }
        }
        Ok(self.work.root.clone())
    }

    /// Runs one step. It has to succeed.
    fn step(&mut self, run: &Run, reason: Reason) -> Result<()> {
        self.steps.must(run, reason)
    }
}

/// Arguments of OpenZFS's configure for a kernel's tree.
fn with_linux(tree: &Tree) -> [String; 2] {
    [
        format!("--with-linux={}", tree.source.display()),
        format!("--with-linux-obj={}", tree.output.display()),
    ]
}

/// Strips debug information from the modules that a recipe made. Runs as the prefix's owner: the
/// modules are its files until root copies them. Our own ebuild has stripped its modules already.
///
/// # Errors
/// `strip` does not exist or failed.
pub fn strip(job: &Job, modules: &[PathBuf]) -> Result<()> {
    if modules.is_empty() {
        fail!(Exit::Refused, "nothing to strip");
    }
    job.prefix
        .run("strip", &job.place)
        .arg("--strip-debug")
        .args(modules)
        .output(job.steps.cancel)
        .context("stripping debug information")
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Cancel;

    #[test]
    fn debug_information_is_made_where_crcs_are_read_out_of_it() {
        for (text, cleared) in [
            ("CONFIG_GENDWARFKSYMS=y\nCONFIG_DEBUG_INFO=y\n", false),
            ("# CONFIG_GENDWARFKSYMS is not set\nCONFIG_GENKSYMS=y\n", true),
            ("CONFIG_DEBUG_INFO=y\n", true),
        ] {
            let arguments = without_debug_info(&Kconfig::parse(text.as_bytes()).unwrap());
            assert_eq!(arguments.contains(&"CONFIG_DEBUG_INFO="), cleared, "{text}");
            assert!(arguments.contains(&"CONFIG_DEBUG_INFO_BTF="), "{text}");
            let mut ebuilds = of_the_ebuild(text);
            let mut ours = arguments.to_vec();
            ours.sort_unstable();
            ebuilds.sort();
            assert_eq!(ebuilds, ours, "{text}");
        }
    }

    /// The CONFIG_… arguments that the ebuild's kernel_make passes to make for this configuration.
    fn of_the_ebuild(config: &str) -> Vec<String> {
        let tree = tempfile::tempdir().unwrap();
        std::fs::write(tree.path().join(".config"), config).unwrap();
        let overlay = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/overlay");
        let ebuilds = std::fs::read_dir(overlay.join("sys-fs/zfs-kmod")).unwrap();
        let mut ebuilds = ebuilds.map(|entry| entry.unwrap().path());
        let ebuild = ebuilds.find(|path| path.extension().is_some_and(|end| end == "ebuild"));
        let script = r#"emake() { printf '%s\n' "$@"; }; die() { exit 1; }
            . "$1" && KV_OUT_DIR=$2 kernel_make"#;
        // Run starts bash: when Run ends leftovers, it ends all other children too.
        let bash = Run::new("/bin/bash").args(["-c", script, "bash"]);
        let bash = bash.arg(ebuild.unwrap()).arg(tree.path()).env("PATH", "/usr/bin:/bin");
        let said = bash.output(&Cancel::default()).unwrap();
        said.lines().filter(|line| line.starts_with("CONFIG_")).map(str::to_owned).collect()
    }
}
