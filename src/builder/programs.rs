//! OpenZFS's programs beside its modules: which package they are of, how the recipe `make` builds
//! them, and how they are bound to the place where root publishes them.

use std::path::{Path, PathBuf};

use anyhow::Result;
use tracing::info;

use super::recipe::Job;
use crate::prefix::portage::package_of;
use crate::process::Run;
use crate::userland::choice::Choice;
use crate::userland::version::Version;
use crate::userland::{DIR, PLACE, bind};

/// The package of the programs; also what stands for them with the recipe `make`.
pub(super) const PROGRAMS: &str = "sys-fs/zfs";
const MODULES: &str = "sys-fs/zfs-kmod";

/// What configure is told, as the ebuild does; `@` is [`PLACE`].
const CONFIGURE: [&str; 18] = [
    "--with-config=user",
    "--prefix=@",
    "--sysconfdir=/etc",
    "--localstatedir=/var",
    "--runstatedir=/run",
    "--with-mounthelperdir=@/sbin",
    "--with-dracutdir=@/lib/dracut",
    "--with-udevdir=@/lib/udev",
    "--with-udevruledir=@/lib/udev/rules.d",
    "--enable-systemd",
    "--with-systemdunitdir=@/lib/systemd/system",
    "--with-systemdpresetdir=@/lib/systemd/system-preset",
    "--with-systemdmodulesloaddir=@/lib/modules-load.d",
    "--with-systemdgeneratordir=@/lib/systemd/system-generators",
    "--disable-static",
    "--disable-nls",
    "--disable-sysvinit",
    "--disable-pam",
];
/// Bindings for other languages, and a library for messages of crashes.
const WITHOUT: [&str; 3] = ["--disable-pyzfs", "--without-python", "--without-libunwind"];
/// make, without the programs of OpenZFS's own test suite: a quarter of the work.
const MAKE: &str = r#"none=$(sed -n 's/^\(scripts_zfs_tests[a-z_]*_PROGRAMS\) *=.*/\1=/p' Makefile) || exit
exec make V=0 "$@" $none"#;
/// To where the ebuild has it; the defaults for /etc are in its share/etc.
const MOVE: &str = r#"mv "$1$2" "$3" && mv "$1/etc" "$3/share/etc""#;

/// The atom of the programs that belong to the modules among `atoms`, which name their versions;
/// none where the system's are used.
///
/// # Errors
/// The system's are wanted, and do not agree.
pub(super) fn wanted(userland: &Choice, atoms: &[String]) -> Result<Option<String>> {
    let version = version_of_modules(atoms);
    if !userland.wanted(version)? {
        return Ok(None);
    }
    Ok(Some(match version {
        // Any revision of the ebuild: the modules' ebuild has others.
        Some(version) => {
            format!("~{PROGRAMS}-{}", version.rsplit_once("-r").map_or(version, |(v, _)| v))
        }
        None => PROGRAMS.to_owned(),
    }))
}

/// `atoms` with the one of the `programs`, if there is one, in place of what portage.atoms says of them.
pub(super) fn among(mut atoms: Vec<String>, programs: Option<&str>) -> Vec<String> {
    if let Some(programs) = programs {
        atoms.retain(|atom| package_of(atom) != PROGRAMS);
        atoms.push(programs.to_owned());
    }
    atoms
}

/// The version of the modules that `atoms` name, which have versions.
pub(super) fn version_of_modules(atoms: &[String]) -> Option<&str> {
    atoms.iter().find_map(|atom| version_in(atom))
}

/// The version in an atom like `=sys-fs/zfs-kmod-2.3.2-r1`.
fn version_in(atom: &str) -> Option<&str> {
    let plain = atom.trim_start_matches(['=', '~']).split([':', '[']).next()?;
    plain.strip_prefix(MODULES)?.strip_prefix('-')
}

/// The version that the text of a META file says.
pub(super) fn version_of(meta: &str) -> Option<String> {
    let value = |key: &str| {
        let line = meta.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.map(str::trim).filter(|value| !value.is_empty())
    };
    let version = format!("{}-{}", value("Version")?, value("Release").unwrap_or("1"));
    Version::parse(&version).map(|_| version)
}

impl Job<'_> {
    /// configure, make and install of the programs in the tarball `source`, which has the modules too.
    pub(super) fn make_programs(&self, source: &Path) -> Vec<Run> {
        let dir = self.work.tmp.join("programs");
        let image = self.work.tmp.join("programs-image");
        let at = |program: &str, dir: &Path| {
            let run = self.prefix.run(program, &self.place).dir(dir);
            self.prefix.cached(run, &self.work.top)
        };
        let run = |program: &str| at(program, &dir);
        let make = || run("bash").args(["-c", MAKE, "bash"]).arg(format!("-j{}", self.jobs));
        let more = super::plan::configure(self.settings);
        vec![
            at("mkdir", &self.work.tmp).arg(&dir),
            run("tar")
                .args(["--extract", "--strip-components=1", "--no-same-owner", "--file"])
                .arg(source),
            run("bash")
                .arg("./configure")
                .args(CONFIGURE.iter().chain(&WITHOUT).map(|argument| argument.replace('@', PLACE)))
                .args(more),
            make(),
            make().arg(format!("DESTDIR={}", image.display())).arg("install"),
            run("bash")
                .args(["-c", MOVE, "bash"])
                .arg(&image)
                .arg(PLACE)
                .arg(self.work.root.join(DIR)),
        ]
    }

    /// Binds the programs below what was `installed`, if there were to be any; their directory.
    ///
    /// # Errors
    /// See [`bind::bind`].
    pub(super) fn bind(&mut self, installed: &Path) -> Result<Option<PathBuf>> {
        let Some(programs) = self.programs else { return Ok(None) };
        let dir = installed.join(DIR);
        info!("binding {programs} to {PLACE}");
        bind::bind(self.prefix, &self.place, &self.work.top, &dir, self.steps.cancel)?;
        Ok(Some(dir))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Userland;
    use crate::host::Host;

    #[test]
    fn programs_that_portage_atoms_names_too_are_built_once_and_of_the_version_of_the_modules() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::below(root.path(), "6.1.0");
        let atoms = ["=sys-fs/zfs-kmod-2.3.2", "=sys-fs/zfs-2.3.9"].map(str::to_owned).to_vec();
        for (configured, expected) in [
            (Userland::Prefix, Some("~sys-fs/zfs-2.3.2")),
            (Userland::Auto, Some("~sys-fs/zfs-2.3.2")),
        ] {
            let programs = wanted(&Choice::of(&host, configured), &atoms).unwrap();
            assert_eq!(programs.as_deref(), expected, "{configured:?}");
            let all = among(atoms.clone(), programs.as_deref());
            assert_eq!(all, ["=sys-fs/zfs-kmod-2.3.2", "~sys-fs/zfs-2.3.2"]);
        }
        // Not passed over, though portage.atoms names them: the system has none.
        assert!(wanted(&Choice::of(&host, Userland::Host), &atoms).is_err());
        assert_eq!(among(atoms.clone(), None), atoms);
    }

    #[test]
    fn the_version_of_programs_is_that_of_the_modules() {
        for (atom, expected) in [
            ("=sys-fs/zfs-kmod-2.3.2", Some("2.3.2")),
            ("=sys-fs/zfs-kmod-2.4.0_rc1-r1:0/2.4.0", Some("2.4.0_rc1-r1")),
            ("sys-fs/zfs-kmod", None),
            ("=sys-fs/zfs-2.3.2", None),
        ] {
            assert_eq!(version_in(atom), expected, "{atom}");
        }
        let meta =
            "Meta:          1\nName:          zfs\nVersion:       2.4.0\nRelease:       rc1\n";
        assert_eq!(version_of(meta).as_deref(), Some("2.4.0-rc1"));
        assert_eq!(version_of("Version: x\n"), None);
    }

    #[test]
    fn both_recipes_configure_the_programs_in_the_same_way() {
        let ebuild = include_str!("../../packaging/overlay/sys-fs/zfs/zfs-2.3.2.ebuild");
        assert!(ebuild.contains(&format!("USERLAND={PLACE}\n")));
        let ebuild = ebuild.replace('"', "").replace("${lib}", "${USERLAND}/lib");
        for argument in CONFIGURE.iter().chain(&WITHOUT) {
            let argument = argument.replace('@', "${USERLAND}");
            let words = ebuild.split_whitespace().filter(|word| *word == argument).count();
            assert_eq!(words, 1, "{argument}");
        }
    }
}
