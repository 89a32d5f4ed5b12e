//! Does this OpenZFS release support this kernel? Its META file answers that. config/kernel.m4 of
//! OpenZFS enforces the same bounds, but only in configure.

use anyhow::{Context, Result};

use crate::exit::{Exit, WithExit};
use crate::fail;
use crate::host::Release;

/// Checks kernel `release` against `Linux-Minimum` and `Linux-Maximum` in the text of an OpenZFS
/// release's META. Every kernel of the maximum's major.minor series passes.
///
/// # Errors
/// [`Exit::KernelUnsupported`]: the kernel is older than the minimum, or newer than the maximum
/// without `experimental` (`zfs.linux-experimental`). [`Exit::Other`]: the META or the release has
/// no version to compare.
pub fn supported(meta: &str, release: &Release, experimental: bool) -> Result<()> {
    let field = |name: &str| {
        let line = meta.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
        line.map(str::trim).with_context(|| format!("META of OpenZFS: no {name} in it"))
    };
    let bound = |name: &str| -> Result<(&str, Version)> {
        let text = field(name)?;
        let version = version(text).with_context(|| format!("META of OpenZFS: {name}: {text:?}"));
        Ok((text, version?))
    };
    let zfs = field("Version")?;
    let (least, minimum) = bound("Linux-Minimum")?;
    let (most, maximum) = bound("Linux-Maximum")?;
    let kernel = version(release.as_str())
        .with_context(|| format!("kernel {release}: the release names no version"))
        .exit(Exit::Other)?;
    if kernel < minimum {
        fail!(
            Exit::KernelUnsupported,
            "kernel {release} is older than the oldest that OpenZFS {zfs} supports, Linux {least}; choose an older OpenZFS with zfs.version"
        );
    }
    if (kernel.0, kernel.1) > (maximum.0, maximum.1) && !experimental {
        fail!(
            Exit::KernelUnsupported,
            "kernel {release} is newer than the newest that OpenZFS {zfs} supports, Linux {most}; choose a newer OpenZFS with zfs.version, or try this one all the same with zfs.linux-experimental = true"
        );
    }
    Ok(())
}

type Version = (u32, u32, u32);

/// `6.12.4` of `6.12.4-200.fc41.x86_64`. A missing number is 0.
fn version(text: &str) -> Option<Version> {
    let end = text.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(text.len());
    let mut numbers = text[..end].trim_end_matches('.').split('.').map(str::parse::<u32>);
    let mut next = || match numbers.next() {
        Some(number) => number.ok(),
        None => Some(0),
    };
    Some((next()?, next()?, next()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit;

    const META: &str = "Meta:         1\nName:         zfs\nBranch:       1.0\nVersion:      2.3.4\n\
        Release:      1\nLinux-Maximum: 6.16\nLinux-Minimum: 4.18\n";

    #[test]
    fn kernels_from_the_minimum_to_the_maximums_series_pass() {
        for (release, experimental, message) in [
            ("6.12.4-flatcar", false, None),
            ("6.16.0", false, None),
            ("6.16.12-200.fc42.x86_64", false, None),
            ("6.1.0-56-cloud-amd64", false, None),
            ("4.18.0+", false, None),
            (
                "6.17.0-rc1",
                false,
                Some("newer than the newest that OpenZFS 2.3.4 supports, Linux 6.16"),
            ),
            ("6.17.0", true, None),
            ("7.0.1", false, Some("zfs.linux-experimental")),
            ("7.0.1", true, None),
            (
                "4.17.19",
                false,
                Some("older than the oldest that OpenZFS 2.3.4 supports, Linux 4.18"),
            ),
            ("4.17.19", true, Some("zfs.version")),
            ("3.10", false, Some("kernel 3.10 is older")),
        ] {
            let result = supported(META, &release.parse().unwrap(), experimental);
            match (message, result) {
                (None, result) => assert!(result.is_ok(), "{release}: {result:?}"),
                (Some(message), result) => {
                    let error = result.expect_err(release);
                    assert_eq!(exit::of(&error), Exit::KernelUnsupported, "{release}");
                    assert!(format!("{error:#}").contains(message), "{release}: {error:#}");
                }
            }
        }
    }

    #[test]
    fn a_meta_or_release_without_versions_is_an_error_that_says_so() {
        let release: Release = "6.1.0".parse().unwrap();
        for (case, meta, says) in [
            ("empty", String::new(), "no Version"),
            ("no maximum", META.replace("Linux-Maximum", "X"), "no Linux-Maximum"),
            ("words", META.replace("6.16", "latest"), "Linux-Maximum: \"latest\""),
            ("too large", META.replace("6.16", "6.99999999999"), "Linux-Maximum"),
        ] {
            let error = format!("{:#}", supported(&meta, &release, false).expect_err(case));
            assert!(error.contains(says), "{case}: {error}");
        }
        let odd: Release = "custom".parse().unwrap();
        let error = format!("{:#}", supported(META, &odd, true).unwrap_err());
        assert!(error.contains("names no version"), "{error}");
    }
}
