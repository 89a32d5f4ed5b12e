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

    /// The version as upstream names it, without the suffix of the distribution or the build:
    /// `6.6.74` of `6.6.74-flatcar`, `6.1` of `6.1.0-56-cloud-amd64`, `6.13-rc2` of `6.13.0-rc2+`.
    /// A release that does not begin with two numbers is its own version.
    pub fn version(&self) -> String {
        let end = self.0.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(self.0.len());
        let (numbers, rest) = self.0.split_at(end);
        let mut parts: Vec<&str> = numbers.split('.').take_while(|part| !part.is_empty()).collect();
        if parts.len() < 2 {
            return self.0.clone();
        }
        if parts.len() == 3 && parts[2] == "0" {
            parts.pop();
        }
        let candidate = rest
            .strip_prefix("-rc")
            .map(|rest| &rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())]);
        match candidate {
            Some(number) if !number.is_empty() => format!("{}-rc{number}", parts.join(".")),
            _ => parts.join("."),
        }
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
    fn the_version_is_what_upstream_calls_it() {
        for (release, version) in [
            ("6.6.74-flatcar", "6.6.74"),
            ("6.12.4-200.fc41.x86_64", "6.12.4"),
            ("6.6.74+", "6.6.74"),
            ("6.1.0-56-cloud-amd64", "6.1"),
            ("7.0.0", "7.0"),
            ("7.0", "7.0"),
            ("6.13.0-rc2+", "6.13-rc2"),
            ("6.13.0-rc2-1-amd64", "6.13-rc2"),
            ("6.13.0-rcx", "6.13"),
            ("6.1.x", "6.1"),
            ("custom", "custom"),
        ] {
            assert_eq!(release.parse::<Release>().unwrap().version(), version, "{release}");
        }
    }

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
