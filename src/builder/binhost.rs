//! Where binary packages are, and which keys have to have signed them.

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
    /// The file with the trusted public keys. It belongs to root.
    pub(super) key: PathBuf,
    /// Digest of that file.
    pub key_digest: Digest,
}

impl Binhost {
    /// The binhost of the configuration, if one is set.
    ///
    /// # Errors
    /// The file with the public keys does not exist, somebody but root can write to it, or it
    /// contains a secret key.
    pub fn of(host: &Host, settings: &Settings, release: &Release) -> Result<Option<Binhost>> {
        let Some(template) = &settings.portage.binhost else { return Ok(None) };
        let key = host.path(&settings.portage.binhost_key);
        let shown = || {
            format!(
                "portage.binhost is set, but the public key that its packages are signed with cannot be read: {} (portage.binhost-key)",
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

    /// Its files on this machine, wherever they are mounted: the keys, and the directory of
    /// packages if the binhost is a directory that exists.
    pub fn files(&self) -> Vec<PathBuf> {
        let dir = self.url.strip_prefix("file://").map(PathBuf::from);
        std::iter::once(self.key.clone()).chain(dir.filter(|dir| dir.is_dir())).collect()
    }
}

/// Whether others may read it and only `owner` may write to it.
fn only_writer(meta: &fs::Metadata, owner: u32) -> bool {
    use std::os::unix::fs::MetadataExt;
    meta.uid() == owner && meta.mode() & 0o022 == 0 && meta.mode() & 0o004 != 0
}
