//! OpenZFS's programs beside its modules: which package they are of, how the recipe `make` builds
//! them, and how they are bound to the place where root publishes them.

use std::path::{Path, PathBuf};

use anyhow::Result;
use tracing::info;

use super::job::Job;
use crate::process::Run;
use crate::userland::{DIR, PLACE, bind};

/// Arguments of configure, the same as in the ebuild. `@` stands for [`PLACE`].
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
/// Turns off bindings for other languages, and a library for messages of crashes.
const WITHOUT: [&str; 3] = ["--disable-pyzfs", "--without-python", "--without-libunwind"];
/// make without the programs of OpenZFS's own test suite, which are a quarter of the work.
const MAKE: &str = r#"none=$(sed -n 's/^\(scripts_zfs_tests[a-z_]*_PROGRAMS\) *=.*/\1=/p' Makefile) || exit
exec make V=0 "$@" $none"#;
/// Moves the programs to where the ebuild has them. The defaults for /etc go to their share/etc.
const MOVE: &str = r#"mv "$1$2" "$3" && mv "$1/etc" "$3/share/etc""#;

impl Job<'_> {
    /// The steps to configure, make and install the programs in the tarball `source`, which has the
    /// modules too.
    pub(super) fn make_programs(&self, source: &Path) -> Vec<Run> {
        let dir = self.work.tmp.join("programs");
        let image = self.work.tmp.join("programs-image");
        let at = |program: &str, dir: &Path| {
            let run = self.prefix.run(program, &self.place).dir(dir);
            self.prefix.cached(run, &self.work.top)
        };
        let run = |program: &str| at(program, &dir);
        let make = || run("bash").args(["-c", MAKE, "bash"]).arg(format!("-j{}", self.jobs));
        let more = self.recipe.configure();
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

    /// Binds the programs below `installed`, and returns their directory. None if the build makes
    /// no programs.
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
