//! `manifest.json` of a published tree: what it was built from, for which kernel, and the digest
//! of every file in it. Written last, before the tree gets its name.

use serde::{Deserialize, Serialize};

use super::Digest;
use crate::host::Release;

/// The manifest format this program writes; older ones are read too.
pub const MANIFEST_VERSION: u32 = 1;

/// A published tree's `manifest.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Manifest {
    /// Format version, [`MANIFEST_VERSION`].
    pub version: u32,
    /// The kernel release the modules are for.
    pub kernel_release: Release,
    /// GNU build-id of that kernel, lower-case hexadecimal (`/sys/kernel/notes`).
    pub kernel_build_id: String,
    /// `vermagic` of the modules (`modinfo -F vermagic`).
    pub vermagic: String,
    /// The key of the tree: the directory's own name.
    pub key: String,
    /// OpenZFS version, as `modinfo -F version zfs.ko` prints it.
    pub zfs_version: String,
    /// OpenZFS version of the programs below `userland/`, written as `zfs_version`; none where the
    /// tree has no such programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub userland_version: Option<String>,
    /// `portage` or `make`.
    pub recipe: String,
    /// Program and version that published it; none where that was before 0.2.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub built_by: Option<String>,
    /// When it was published, seconds since the epoch.
    pub created: u64,
    /// What went into the key, name by name, for people and for `status`.
    pub inputs: std::collections::BTreeMap<String, String>,
    /// Every regular file of the tree but the manifest, sorted by path.
    pub files: Vec<FileEntry>,
}

/// One file of a published tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FileEntry {
    /// Path relative to the tree.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// BLAKE2b-512 in hexadecimal.
    pub blake2b: Digest,
    /// Mode 0755; otherwise 0644.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub executable: bool,
}

impl Manifest {
    /// Parses the bytes of a `manifest.json`.
    ///
    /// # Errors
    /// Not JSON of this shape, or a format version this program does not know.
    pub fn parse(bytes: &[u8]) -> anyhow::Result<Manifest> {
        #[derive(Deserialize)]
        struct Probe {
            version: u32,
        }
        let probe: Probe = serde_json::from_slice(bytes)?;
        if probe.version == 0 || probe.version > MANIFEST_VERSION {
            anyhow::bail!(
                "manifest format {} is not known to this program (it knows 1 to {MANIFEST_VERSION})",
                probe.version
            );
        }
        Ok(serde_json::from_slice(bytes)?)
    }

    /// The entry of `path`, a path relative to the tree.
    pub fn file(&self, path: &str) -> Option<&FileEntry> {
        self.files.binary_search_by(|f| f.path.as_str().cmp(path)).ok().map(|i| &self.files[i])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_from_before_programs_were_published_is_read_and_written_as_it_was() {
        let digest = "0".repeat(128);
        let old = format!(
            r#"{{"version":1,"kernel-release":"6.1.0-1-test","kernel-build-id":"ab","vermagic":"6.1.0 ","key":"k","zfs-version":"2.3.2-1","recipe":"make","created":1,"inputs":{{}},"files":[{{"path":"lib/modules/zfs.ko","size":1,"blake2b":"{digest}"}}]}}"#
        );
        let manifest = Manifest::parse(old.as_bytes()).unwrap();
        assert_eq!(manifest.userland_version, None);
        assert!(!manifest.files[0].executable);
        assert_eq!(serde_json::to_string(&manifest).unwrap(), old);
        let newer = old.replace("\"version\":1", "\"version\":2");
        assert!(Manifest::parse(newer.as_bytes()).is_err(), "a format that is not known");
    }
}
