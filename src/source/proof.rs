//! How a source is proved to be the right one.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::config::Pinned;
use crate::exit::{Exit, WithExit};
use crate::fail;
use crate::prefix::owned::owner_on_the_way;
use crate::store::Digest;

/// The proof that a source needs before it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// Its SHA-256 is this one.
    Sha256(String),
    /// It is signed with one of the OpenPGP keys in this file.
    Keys(PathBuf),
    /// No proof: the configuration allows that.
    Unsigned,
    /// No proof: the source is on this machine's disks.
    Local,
}

impl Proof {
    /// The proof that the configuration demands for `pinned`. `cure` is for the error: it says what
    /// to set if a source from the network has neither digest nor keys.
    ///
    /// # Errors
    /// [`Exit::Refused`]: the configuration has no proof for it.
    pub(super) fn of(
        pinned: &Pinned,
        keys: Option<&Path>,
        allow_unsigned: bool,
        cure: &str,
    ) -> Result<Proof> {
        match (&pinned.sha256, keys) {
            (Some(sha256), _) => Ok(Proof::Sha256(sha256.clone())),
            // Keys that are set apply to local sources too: that is what the configuration says.
            (None, Some(keys)) => Ok(Proof::Keys(keys.to_owned())),
            _ if !pinned.asks_network() => Ok(Proof::Local),
            (None, None) if allow_unsigned => Ok(Proof::Unsigned),
            (None, _) => fail!(
                Exit::Refused,
                "{pinned} comes from the network, and nothing could prove that it is the right one: {cure}; see zfs-prefix.toml(5)"
            ),
        }
    }

    /// Two proofs with different identities differ. A file of keys counts by its content, if it can
    /// be read.
    pub(super) fn identity(&self) -> String {
        match self {
            Proof::Sha256(sha256) => format!("sha256 {sha256}"),
            Proof::Keys(path) => {
                let digest = fs::read(path).map(|bytes| Digest::of(&bytes).as_str().to_owned());
                format!("keys {}", digest.unwrap_or_default())
            }
            Proof::Unsigned => "unsigned".to_owned(),
            Proof::Local => "local".to_owned(),
        }
    }

    /// In words, for the journal.
    pub(super) fn shown(&self) -> String {
        match self {
            Proof::Sha256(_) => "by its digest".to_owned(),
            Proof::Keys(path) => format!("signed, by {}", path.display()),
            Proof::Unsigned => "unsigned".to_owned(),
            Proof::Local => "of this machine".to_owned(),
        }
    }
}

/// Refuses a place on this machine that somebody else than root or `owner`, the prefix's owner, can
/// change: who can write there decides what root loads.
///
/// # Errors
/// It belongs to somebody else, or does not exist.
pub(super) fn check_owner(path: &Path, owner: u32) -> Result<()> {
    let uid = owner_on_the_way(path)?;
    if uid != 0 && uid != owner {
        anyhow::bail!(
            "it belongs to uid {uid}, neither root nor the prefix's owner (uid {owner}): who can write to it decides what is loaded into the kernel; move it to a directory of root's"
        );
    }
    Ok(())
}

/// Checks that `path` is a file of public keys, and that only root can change it.
///
/// # Errors
/// [`Exit::Refused`]: it does not exist, somebody else can change it, or it contains a secret key.
pub(super) fn check_keys(path: &Path) -> Result<()> {
    let shown = || format!("{}: the keys that the source has to be signed with", path.display());
    let meta = fs::metadata(path).with_context(shown).exit(Exit::Refused)?;
    let root = nix::unistd::geteuid().as_raw();
    let roots = meta.uid() == root && meta.mode() & 0o022 == 0;
    if !meta.is_file() || !roots || meta.mode() & 0o004 == 0 {
        fail!(
            Exit::Refused,
            "{}: whoever can write to it decides which sources are trusted; it has to be a regular file of root's with mode 0644",
            path.display()
        );
    }
    // Check the directories too: who can rename the file can replace it.
    let uid = owner_on_the_way(path).with_context(shown).exit(Exit::Refused)?;
    if uid != root && uid != 0 {
        fail!(
            Exit::Refused,
            "{}: a directory above it belongs to uid {uid}, who can replace the file and so decides which sources are trusted",
            path.display()
        );
    }
    let bytes = fs::read(path).with_context(shown).exit(Exit::Refused)?;
    // In a binary file, a first packet with tag 5 is a secret key, in the old format or the new
    // (RFC 9580, 4.2).
    let binary = matches!(bytes.first(), Some(0x94..=0x97 | 0xc5));
    if binary || bytes.windows(17).any(|w| w == b"PRIVATE KEY BLOCK") {
        fail!(
            Exit::Refused,
            "{}: has a secret key in it; only the public one belongs here (gpg --armor --export KEY)",
            path.display()
        );
    }
    Ok(())
}
