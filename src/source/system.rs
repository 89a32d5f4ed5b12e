//! Where the kernel's source is if `kernel.source` is not set. os-release(5) says which system this
//! is.

use std::path::PathBuf;

use crate::config::{Pinned, Place};
use crate::host::{Host, Release};

/// A source by default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Default {
    /// Where it is. It may contain [`SIGNER`], whose value is not known yet.
    pub(super) pinned: Pinned,
    /// The system's own keys for it.
    pub(super) keys: Option<PathBuf>,
    /// What this source lacks, if `kernel.patches` does not add it.
    pub(super) lacks: Option<&'static str>,
}

const FLATCAR: &str = "this is the kernel as upstream released it, without Flatcar's patches: name those of this \
                       release in kernel.patches";

/// Stands for the signing key in a URL of Fedora's build system. That keeps a signed copy of each
/// package in a directory with the last eight hexadecimal digits of the key's id.
pub(super) const SIGNER: &str = "${signer}";

/// The source of kernel `release` on this system. None if no source of this system is known.
pub(super) fn default(host: &Host, release: &Release) -> Option<Default> {
    let text = ["/etc/os-release", "/usr/lib/os-release"]
        .iter()
        .find_map(|path| std::fs::read_to_string(host.path(path)).ok())?;
    let (url, keys, lacks) = match field(&text, "ID")?.as_str() {
        "flatcar" => (flatcar(release)?, None, Some(FLATCAR)),
        "fedora" => {
            let (url, version) = fedora(release)?;
            let keys = format!("/etc/pki/rpm-gpg/RPM-GPG-KEY-fedora-{version}-primary");
            (url, Some(host.path(keys)), None)
        }
        _ => return None,
    };
    Some(Default { pinned: Pinned { place: Place::Https(url), sha256: None }, keys, lacks })
}

/// The release tarball of the kernel's own archive.
fn flatcar(release: &Release) -> Option<String> {
    let version = release.version();
    let major = version.split('.').next()?;
    let numbers = version.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    numbers.then(|| {
        format!("https://cdn.kernel.org/pub/linux/kernel/v{major}.x/linux-{version}.tar.xz")
    })
}

/// The URL of kernel-devel in Fedora's build system, and the version of Fedora.
/// `6.12.4-200.fc41.x86_64` is VERSION-RELEASE.ARCHITECTURE of the package.
fn fedora(release: &Release) -> Option<(String, u32)> {
    let (rest, machine) = release.as_str().rsplit_once('.')?;
    let (version, build) = rest.split_once('-')?;
    let of = build.rsplit_once(".fc")?.1.parse().ok()?;
    let known = ["x86_64", "aarch64"].contains(&machine) && !build.contains(['/', '+']);
    let base = "https://kojipkgs.fedoraproject.org/packages/kernel";
    known.then(|| {
        let file = format!("kernel-devel-{release}.rpm");
        (format!("{base}/{version}/{build}/data/signed/{SIGNER}/{machine}/{file}"), of)
    })
}

/// A variable of os-release(5).
fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().rfind(|line| line.split('=').next() == Some(name))?;
    let value = line.split_once('=')?.1.trim();
    Some(value.trim_matches(['"', '\'']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_system_has_its_own_source_and_debian_has_its_headers() {
        let koji = "https://kojipkgs.fedoraproject.org/packages/kernel";
        let kernel = "https://cdn.kernel.org/pub/linux/kernel";
        for (os, release, url, keys) in [
            (
                "NAME=\"Flatcar\"\nID=flatcar\nID_LIKE=coreos\n",
                "6.6.74-flatcar",
                Some(format!("{kernel}/v6.x/linux-6.6.74.tar.xz")),
                None,
            ),
            (
                "ID=\"flatcar\"\n",
                "7.0.0-flatcar",
                Some(format!("{kernel}/v7.x/linux-7.0.tar.xz")),
                None,
            ),
            (
                "ID=fedora\nVARIANT_ID=coreos\n",
                "6.12.4-200.fc41.x86_64",
                Some(format!(
                    "{koji}/6.12.4/200.fc41/data/signed/${{signer}}/x86_64/kernel-devel-6.12.4-200.fc41.x86_64.rpm"
                )),
                Some("/etc/pki/rpm-gpg/RPM-GPG-KEY-fedora-41-primary"),
            ),
            ("ID=fedora\n", "6.12.4-custom", None, None),
            ("ID=flatcar\n", "custom", None, None),
            ("ID=debian\n", "6.1.0-56-cloud-amd64", None, None),
            ("NAME=x\n", "6.1.0", None, None),
        ] {
            let root = tempfile::tempdir().unwrap();
            std::fs::create_dir(root.path().join("etc")).unwrap();
            std::fs::write(root.path().join("etc/os-release"), os).unwrap();
            let host = Host::below(root.path(), release);
            let found = default(&host, &host.kernel_release);
            let url_known = url.is_some();
            let place = |d: &Default| match &d.pinned.place {
                Place::Https(url) => url.clone(),
                other => panic!("{other:?}"),
            };
            assert_eq!(found.as_ref().map(place), url, "{os}{release}");
            let flatcar = os.contains("ID=flatcar") || os.contains("ID=\"flatcar");
            let lacks = found.as_ref().and_then(|d| d.lacks);
            assert_eq!(lacks.is_some(), flatcar && url_known, "{os}{release}");
            assert_eq!(found.and_then(|d| d.keys), keys.map(|k| host.path(k)), "{os}{release}");
        }
    }
}
