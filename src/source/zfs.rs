//! The OpenZFS tarball that `zfs.source` names.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::cached::{Cached, Signed, tidy};
use super::proof::{Proof, check_keys};
use super::repository::{self, Repository};
use super::{Obtain, QUIET};
use crate::config::{self, Pinned, Settings};
use crate::exit::{Exit, WithExit};
use crate::fail;
use crate::prefix::Prefix;
use crate::prefix::enter::Place;
use crate::process::Cancel;
use crate::store::Digest;

/// The most bytes that it may have: ten times as many as a release.
const LARGEST: u64 = 512 << 20;

/// Where the tarball is, which version it has, and what proves it.
#[derive(Clone, Debug)]
pub struct ZfsSource {
    pinned: Pinned,
    version: Option<String>,
    proof: Proof,
}

impl ZfsSource {
    /// The configured tarball. None if `zfs.source` is not set.
    ///
    /// # Errors
    /// [`Exit::Other`]: `zfs.source` contains a version, but none is set. [`Exit::Refused`]: it
    /// comes from the network, and nothing would prove that it is the right one.
    pub fn of(settings: &Settings) -> Result<Option<ZfsSource>> {
        let Some(template) = &settings.zfs.source else { return Ok(None) };
        let version = settings.zfs.version.clone();
        // Portage writes 2.4.0_rc1, upstream writes 2.4.0-rc1. A revision (-r1) belongs to the
        // ebuild.
        let upstream = version
            .as_deref()
            .map(|version| version.split("-r").next().unwrap_or(version).replace('_', "-"));
        let pinned = template.fill("", upstream.as_deref().unwrap_or_default());
        if version.is_none() && pinned != *template {
            fail!(Exit::Other, "zfs.source has ${{version}} in it, and zfs.version is not set");
        }
        let cure = "put #sha256=… after it in zfs.source, or set zfs.source-key to the OpenPGP keys \
                    that it is signed with, or kernel.allow-unsigned = true to take it from anybody";
        let keys = settings.zfs.source_key.as_deref();
        let proof = Proof::of(&pinned, keys, settings.kernel.allow_unsigned, cure)?;
        if let Proof::Keys(path) = &proof {
            check_keys(path)?;
        }
        Ok(Some(ZfsSource { pinned, version, proof }))
    }

    /// Everything that decides what the tarball is, as far as it is known without fetching. The key
    /// of a build contains it. For a tarball on this machine use its digest instead.
    pub fn identity(&self) -> String {
        let full = self.pinned.source().map(|source| source.full()).unwrap_or_default();
        let version = self.version.as_deref().unwrap_or_default();
        let all = format!("{full}\n{}\n{version}", self.proof.identity());
        format!("{} {}", self.pinned, &Digest::of(all.as_bytes()).as_str()[..32])
    }

    /// Its path, if it is on this machine.
    pub fn path(&self) -> Option<&Path> {
        match &self.pinned.place {
            config::Place::File(path) => Some(Path::new(path)),
            _ => None,
        }
    }

    /// Fetches and verifies it, or finds it in the cache.
    ///
    /// # Errors
    /// [`Exit::Network`]; [`Exit::Refused`]: digest or signature are not right; [`Exit::Other`]: it
    /// does not exist; [`Exit::NoSpace`].
    pub fn obtain(&self, with: &mut Obtain<'_>) -> Result<PathBuf> {
        let cached = Cached {
            source: self.pinned.source().context("zfs.source is a file")?,
            key: "zfs.source",
            what: "an OpenZFS tarball",
            largest: LARGEST,
            proof: self.proof.clone(),
            signed: Some(Signed::File),
            unreadable: Exit::Other,
        };
        let file = cached.get(with)?;
        tidy(with, std::slice::from_ref(&file.path))?;
        Ok(file.path)
    }

    /// A Portage repository with an ebuild of this version. The ebuild is for the tarball that
    /// [`ZfsSource::obtain`] fetched.
    ///
    /// # Errors
    /// [`Exit::Other`]: no version is set. [`Exit::Refused`]: the tarball is not OpenZFS.
    /// [`Exit::PrefixIncomplete`]: Portage does not say which repositories it has.
    pub fn repository(&self, tarball: &Path, with: &mut Obtain<'_>) -> Result<Repository> {
        let Some(version) = &self.version else {
            fail!(
                Exit::Other,
                "zfs.source is set, and zfs.version does not say which version it is: Portage has to know"
            );
        };
        repository::make(with, version, &self.pinned, tarball)
    }
}

/// The META file of an OpenZFS tarball. It says which Linux versions are supported (Linux-Maximum).
///
/// # Errors
/// [`Exit::Refused`]: it has none.
pub fn meta(prefix: &Prefix, tarball: &Path, cancel: &Cancel) -> Result<String> {
    let place = Place { readable: vec![tarball.to_owned()], ..Place::default() };
    let text = prefix
        .run("tar", &place)
        .idle(QUIET)
        // The second one ends it early, at a file of the same name.
        .args(["--extract", "--to-stdout", "--occurrence=1", "--wildcards"])
        .args(["--no-wildcards-match-slash", "--file"])
        .arg(tarball)
        .arg("*/META")
        .output(cancel)
        .with_context(|| format!("{}: no META in it, is it OpenZFS?", tarball.display()))
        .exit(Exit::Refused)?;
    if !text.lines().any(|line| line.starts_with("Linux-Maximum:")) {
        fail!(
            Exit::Refused,
            "{}: its META names no Linux-Maximum, is it OpenZFS?",
            tarball.display()
        );
    }
    Ok(text)
}
