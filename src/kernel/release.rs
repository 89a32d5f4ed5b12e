//! The kernel release: what `uname -r` prints, and a directory name under /usr/lib/modules.

use std::fmt;
use std::str::FromStr;

/// A kernel release that is safe as one path component: not empty, at most 64 bytes
/// (`__NEW_UTS_LEN`, include/uapi/linux/utsname.h), no `/`, no white space or control bytes, not
/// beginning with a dot or a dash.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct Release(String);

impl Release {
    /// The release of the running kernel, from uname(2).
    ///
    /// # Errors
    /// uname(2) failed, or the name is not a possible release.
    pub fn running() -> anyhow::Result<Release> {
        let uts = nix::sys::utsname::uname()?;
        uts.release().to_string_lossy().parse()
    }

    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Release {
    type Err = anyhow::Error;

    fn from_str(s: &str) -> anyhow::Result<Release> {
        let plain = |c: char| c.is_ascii_graphic() && c != '/';
        if s.is_empty() || s.len() > 64 || s.starts_with(['.', '-']) || !s.chars().all(plain) {
            anyhow::bail!(
                "{s:?} is not a kernel release: expected one word as `uname -r` prints it"
            );
        }
        Ok(Release(s.to_owned()))
    }
}

impl TryFrom<String> for Release {
    type Error = anyhow::Error;
    fn try_from(s: String) -> anyhow::Result<Release> {
        s.parse()
    }
}

impl From<Release> for String {
    fn from(r: Release) -> String {
        r.0
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_one_path_component() {
        for good in ["6.1.0-56-cloud-amd64", "6.12.4-flatcar", "6.1.0+", "7.3.4-200.fc43.x86_64"] {
            assert_eq!(good.parse::<Release>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "a/b", "-r", "a b", "a\n", "é", &"x".repeat(65)] {
            assert!(bad.parse::<Release>().is_err(), "{bad:?} was taken");
        }
    }
}
