//! Where binary packages are, and whose they have to be.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::config::{Settings, fill_release};
use crate::exit::Exit;
use crate::fail;
use crate::host::{Host, Release};
use crate::store::Digest;

/// The configured binhost for one kernel.
#[derive(Clone, Debug)]
pub struct Binhost {
    /// Its URL: http, https or file.
    pub url: String,
    /// The file with the trusted public keys; root's.
    pub(super) key: PathBuf,
    /// Digest of that file.
    pub key_digest: Digest,
}

impl Binhost {
    /// The binhost of the configuration, where there is one.
    ///
    /// # Errors
    /// The file with the public keys is not there, is not root's alone, or has a secret key in it.
    pub fn of(host: &Host, settings: &Settings, release: &Release) -> Result<Option<Binhost>> {
        let Some(template) = &settings.portage.binhost else { return Ok(None) };
        let key = host.path(&settings.portage.binhost_key);
        let shown = || {
            format!(
                "portage.binhost is set, but not the public key its packages are signed with: {} (portage.binhost-key)",
                key.display()
            )
        };
        let meta = fs::metadata(&key).with_context(shown)?;
        let owner = nix::unistd::geteuid().as_raw();
        if !meta.is_file() || !only_writer(&meta, owner) {
            fail!(
                Exit::Other,
                "{}: whoever can write to it decides which packages are trusted; it has to be a regular file of root's with mode 0644",
                key.display()
            );
        }
        let bytes = fs::read(&key).with_context(shown)?;
        if bytes.windows(17).any(|w| w == b"PRIVATE KEY BLOCK") {
            fail!(
                Exit::Other,
                "{}: has a secret key in it; only the public one belongs here (gpg --armor --export KEY)",
                key.display()
            );
        }
        let key_digest = Digest::of(&bytes);
        Ok(Some(Binhost { url: fill_release(template, release), key, key_digest }))
    }

    /// What of it is on this machine, wherever that is mounted: the keys, and the directory of
    /// packages if it is one that is there.
    pub fn files(&self) -> Vec<PathBuf> {
        let dir = self.url.strip_prefix("file://").map(PathBuf::from);
        std::iter::once(self.key.clone()).chain(dir.filter(|dir| dir.is_dir())).collect()
    }
}

/// Others may read it, and only `owner` may write to it.
fn only_writer(meta: &fs::Metadata, owner: u32) -> bool {
    use std::os::unix::fs::MetadataExt;
    meta.uid() == owner && meta.mode() & 0o022 == 0 && meta.mode() & 0o004 != 0
}
