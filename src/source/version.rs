//! Which kernel a source is of: the numbers at the beginning of its top Makefile. This is the only
//! check of them. The build cannot notice a wrong source: it gets the release from outside.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use crate::exit::{Exit, WithExit};
use crate::fail;
use crate::host::Release;

/// The most bytes that are read. A Makefile has 70 KiB, the list of tags of a large repository some
/// hundreds.
const LARGEST: u64 = 4 << 20;

/// VERSION, PATCHLEVEL, SUBLEVEL and EXTRAVERSION of the top Makefile (Documentation/kbuild,
/// `kernelversion`).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    numbers: [u32; 3],
    extra: String,
}

/// Refuses the source in `top` if it is not that of kernel `release`. `makefile` is the name of its
/// top Makefile below `top`. Some distributions hide the third number: 6.1.0-56 is any 6.1.x. For
/// them only the first two numbers of the release count. `configured` is the version in the head of
/// the kernel's configuration ([`crate::kernel::Kconfig::kernel_version`]). If it is known, all
/// three of its numbers count. A version without numbers is not compared.
///
/// # Errors
/// [`Exit::NoKernelSource`]: the error names both versions.
pub(super) fn check(
    top: &Path,
    makefile: &Path,
    release: &Release,
    configured: Option<&str>,
    shown: &str,
) -> Result<()> {
    let text = read(top, makefile)
        .with_context(|| format!("{shown}: its top Makefile"))
        .exit(Exit::NoKernelSource)?;
    let Some(version) = Version::of(&text) else {
        fail!(Exit::NoKernelSource, "{shown}: its top Makefile names no VERSION and PATCHLEVEL");
    };
    if !version.is_of(release) {
        fail!(
            Exit::NoKernelSource,
            "{shown}: is the source of Linux {version}, and kernel {release} is {}: set kernel.source to the source of that one (with ${{version}} in it, it follows the kernel)",
            release.version()
        );
    }
    if let Some(configured) = configured
        && numbers(configured).is_some_and(|numbers| numbers != version.numbers)
    {
        fail!(
            Exit::NoKernelSource,
            "{shown}: is the source of Linux {version}, and the configuration of kernel {release} was made for Linux {configured}, as its first lines say: set kernel.source to the source of exactly that one"
        );
    }
    Ok(())
}

/// The three numbers that a version begins with; the third may be missing.
fn numbers(version: &str) -> Option<[u32; 3]> {
    let end = version.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(version.len());
    let mut numbers = version[..end].split('.').map(|number| number.parse().ok());
    let (version, patchlevel) = (numbers.next()??, numbers.next()??);
    Some([version, patchlevel, numbers.next().flatten().unwrap_or(0)])
}

/// Reads a file that somebody else may write to, in somebody else's directories. Follows no link,
/// does not wait for a FIFO, and reads at most 4 MiB.
///
/// # Errors
/// It does not exist, or is no regular file.
pub(super) fn read(top: &Path, path: &Path) -> Result<String> {
    let dir = File::options().read(true).custom_flags(libc::O_DIRECTORY).open(top)?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_BENEATH);
    let file = File::from(openat2(&dir, path, how)?);
    if !file.metadata()?.is_file() {
        anyhow::bail!("not a regular file");
    }
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl Version {
    fn of(makefile: &str) -> Option<Version> {
        let value = |name: &str| {
            let assigned = |line: &str| {
                let (left, right) = line.split_once('=')?;
                (left.trim() == name).then(|| right.trim().to_owned())
            };
            // Further below, the Makefile uses the same names for other things.
            makefile.lines().take(40).find_map(assigned)
        };
        let number = |name: &str| value(name)?.parse().ok();
        let numbers = [number("VERSION")?, number("PATCHLEVEL")?, number("SUBLEVEL").unwrap_or(0)];
        Some(Version { numbers, extra: value("EXTRAVERSION").unwrap_or_default() })
    }

    fn is_of(&self, release: &Release) -> bool {
        let version = release.version();
        let (numbers, candidate) = version.split_once("-rc").unwrap_or((&version, ""));
        let numbers: Option<Vec<u32>> = numbers.split('.').map(|n| n.parse().ok()).collect();
        let Some(numbers) = numbers else { return true };
        let extra = self.extra.strip_prefix("-rc").unwrap_or_default();
        let known = numbers.len().min(self.numbers.len());
        self.numbers[..known] == numbers[..known] && (candidate.is_empty() || extra == candidate)
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [version, patchlevel, sublevel] = self.numbers;
        write!(f, "{version}.{patchlevel}.{sublevel}{}", self.extra)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn makefile(numbers: [u32; 3], extra: &str) -> String {
        let [version, patchlevel, sublevel] = numbers;
        format!(
            "# SPDX-License-Identifier: GPL-2.0\nVERSION = {version}\nPATCHLEVEL = {patchlevel}\n\
             SUBLEVEL = {sublevel}\nEXTRAVERSION ={extra}\nNAME = Curry Ramen\n"
        )
    }

    #[test]
    fn all_numbers_that_a_release_shows_have_to_be_the_sources() {
        for (release, numbers, extra, good) in [
            ("6.6.74-flatcar", [6, 6, 74], "", true),
            ("6.6.74-flatcar", [6, 6, 70], "", false),
            ("6.6.74-flatcar", [6, 6, 0], "", false),
            ("6.12.4-200.fc41.x86_64", [6, 12, 4], "", true),
            ("6.12.4-200.fc41.x86_64", [6, 12, 40], "", false),
            ("6.1.0-56-cloud-amd64", [6, 1, 192], "", true),
            ("6.1.0-56-cloud-amd64", [6, 12, 192], "", false),
            ("6.1.0-56-cloud-amd64", [7, 1, 192], "", false),
            ("7.0.0", [7, 0, 0], "", true),
            ("6.13.0-rc2+", [6, 13, 0], " -rc2", true),
            ("6.13.0-rc2+", [6, 13, 0], " -rc3", false),
            ("6.13.0-rc2+", [6, 13, 0], "", false),
            ("custom", [6, 13, 0], "", true),
        ] {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("tree")).unwrap();
            fs::write(dir.path().join("tree/Makefile"), makefile(numbers, extra)).unwrap();
            let release: Release = release.parse().unwrap();
            let checked = check(dir.path(), Path::new("tree/Makefile"), &release, None, "x.tar.xz");
            assert_eq!(checked.is_ok(), good, "{release} {numbers:?}{extra}: {checked:?}");
            if let Err(error) = checked {
                assert_eq!(crate::exit::of(&error), Exit::NoKernelSource);
                let [version, patchlevel, sublevel] = numbers;
                let source = format!("Linux {version}.{patchlevel}.{sublevel}");
                let text = format!("{error:#}");
                assert!(text.contains(&source) && text.contains(release.as_str()), "{text}");
            }
        }
    }

    #[test]
    fn of_a_release_that_hides_the_third_number_the_configuration_tells_it() {
        for (release, configured, numbers, good) in [
            ("6.1.0-56-cloud-amd64", "6.1.174", [6, 1, 174], true),
            ("6.1.0-56-cloud-amd64", "6.1.174", [6, 1, 170], false),
            ("6.1.0-56-cloud-amd64", "6.1.174", [6, 1, 0], false),
            ("6.12.4-200.fc41.x86_64", "6.12.4-200.fc41.x86_64", [6, 12, 4], true),
            ("6.6.74-flatcar", "6.6.74", [6, 6, 74], true),
            ("6.6.74-flatcar", "6.6.73", [6, 6, 74], false),
            ("6.13.0", "6.13", [6, 13, 0], true),
            ("6.13.0-test", "6.13.0-rc2", [6, 13, 0], true),
            ("5.14.0-503.el9.x86_64", "5.14.0-503.el9.x86_64", [5, 14, 0], true),
            ("6.1.0-56-cloud-amd64", "custom", [6, 1, 170], true),
            ("6.1.0-56-cloud-amd64", "6.1.", [6, 1, 0], true),
        ] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("Makefile"), makefile(numbers, " -of-its-own")).unwrap();
            let release: Release = release.parse().unwrap();
            let makefile = Path::new("Makefile");
            let checked = check(dir.path(), makefile, &release, Some(configured), "x.tar.xz");
            assert_eq!(checked.is_ok(), good, "{release} {configured} {numbers:?}: {checked:?}");
            if let Err(error) = checked {
                assert_eq!(crate::exit::of(&error), Exit::NoKernelSource);
                let [version, patchlevel, sublevel] = numbers;
                let source = format!("Linux {version}.{patchlevel}.{sublevel}");
                for says in [&source, configured, "kernel.source"] {
                    assert!(format!("{error:#}").contains(says), "{says}: {error:#}");
                }
            }
        }
    }

    #[test]
    fn a_makefile_that_is_a_link_or_waits_or_names_nothing_is_no_answer() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("real")).unwrap();
        fs::write(at("real/Makefile"), makefile([6, 1, 0], "")).unwrap();
        fs::write(at("none"), "all:\n\ttrue\n").unwrap();
        std::os::unix::fs::symlink("real/Makefile", at("link")).unwrap();
        std::os::unix::fs::symlink("real", at("dir")).unwrap();
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        let release: Release = "6.1.0".parse().unwrap();
        for (name, good) in [
            ("real/Makefile", true),
            ("none", false),
            ("link", false),
            ("dir/Makefile", false),
            ("fifo", false),
            ("nothing", false),
        ] {
            let checked = check(dir.path(), Path::new(name), &release, None, "x");
            assert_eq!(checked.is_ok(), good, "{name}: {checked:?}");
        }
    }
}
