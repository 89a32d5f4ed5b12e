//! Checks size, SHA-256 and signature of an archive. All three are over the bytes as they were
//! fetched.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use anyhow::{Context, Result};
use minisign_verify as minisign;
use sha2::{Digest, Sha256};

use super::Options;
use crate::config::{self, PublicKey, Source};
use crate::exit::{Exit, WithExit};
use crate::fail;
use crate::fetch::Wanted;

/// The largest archive if no size is configured. No prefix has as many bytes.
const LARGEST: u64 = 16 << 30;

/// What is known of the archive before it is fetched.
#[derive(Debug)]
pub(super) struct Expected {
    /// Bytes.
    pub(super) size: Option<u64>,
    sha256: Option<String>,
    key: Option<minisign::PublicKey>,
}

/// The result of the checks.
#[derive(Debug)]
pub(super) struct Checked {
    /// The archive's digest.
    pub(super) sha256: String,
    /// The trusted comment of its signature. None if it is not signed.
    pub(super) by: Option<String>,
}

impl Expected {
    /// Describes the archive for [`crate::fetch::file`].
    pub(super) fn wanted<'a>(&self, source: &'a Source) -> Wanted<'a> {
        Wanted {
            source,
            key: "prefix.source",
            what: "the archive",
            size: self.size,
            largest: LARGEST,
            size_key: Some("prefix.size"),
            unreadable: Exit::PrefixIncomplete,
        }
    }

    /// Reads the configuration and the command line.
    ///
    /// # Errors
    /// [`Exit::Refused`]: no key is set and unsigned archives are not allowed, or the key is not
    /// valid.
    pub(super) fn of(prefix: &config::Prefix, options: &Options) -> Result<Expected> {
        let key = prefix.public_key.as_ref().map(read_key).transpose()?;
        if key.is_none() && !prefix.allow_unsigned {
            fail!(
                Exit::Refused,
                "prefix.public-key is not set, so nobody could say whose the archive is: set it to the key that signed it, or prefix.allow-unsigned = true to take it from anybody; see zfs-prefix.toml(5)"
            );
        }
        // The digest and the size in the configuration belong to the archive that is named there.
        Ok(match options.source {
            None => Expected { size: prefix.size, sha256: prefix.sha256.clone(), key },
            Some(_) => Expected { size: None, sha256: options.sha256.clone(), key },
        })
    }

    /// Whether a signature is required.
    pub(super) fn signed(&self) -> bool {
        self.key.is_some()
    }
}

fn read_key(key: &PublicKey) -> Result<minisign::PublicKey> {
    match key {
        PublicKey::Text(text) => minisign::PublicKey::from_base64(text)
            .context("prefix.public-key is no key of minisign")
            .exit(Exit::Refused),
        PublicKey::File(path) => std::fs::read_to_string(path)
            .map_err(anyhow::Error::from)
            .and_then(|text| Ok(minisign::PublicKey::decode(&text)?))
            .with_context(|| format!("prefix.public-key: {} is no key of minisign", path.display()))
            .exit(Exit::Refused),
    }
}

/// Reads the archive once and compares it with all that is known of it.
///
/// # Errors
/// [`Exit::Refused`]: the error says which of the three is wrong and what was found.
pub(super) fn check(
    path: &Path,
    source: &Source,
    expected: &Expected,
    signature: Option<&str>,
) -> Result<Checked> {
    let signature = signature
        .map(minisign::Signature::decode)
        .transpose()
        .with_context(|| format!("{source}.minisig is no signature of minisign"))
        .exit(Exit::Refused)?;
    let mut verifier = match (&expected.key, &signature) {
        (Some(key), Some(signature)) => Some(
            key.verify_stream(signature).map_err(|e| refusal(source, &e)).exit(Exit::Refused)?,
        ),
        (Some(_), None) => fail!(Exit::Refused, "{source} has no signature"),
        (None, _) => None,
    };
    let mut sha256 = Sha256::new();
    let size = each_block(path, |block| {
        sha256.update(block);
        if let Some(verifier) = &mut verifier {
            verifier.update(block);
        }
    })
    .with_context(|| format!("{}", path.display()))?;
    expected.wanted(source).check_size(size)?;
    let sha256 = format!("{:x}", sha256.finalize());
    if let Some(wanted) = expected.sha256.as_ref().filter(|wanted| **wanted != sha256) {
        fail!(
            Exit::Refused,
            "{source}: its SHA-256 is {sha256}, expected {wanted}; it is another archive, or damaged. The download was removed"
        );
    }
    if let Some(mut verifier) = verifier {
        verifier.finalize().map_err(|e| refusal(source, &e)).exit(Exit::Refused)?;
    }
    let by = signature.filter(|_| expected.signed()).map(|s| s.trusted_comment().to_owned());
    Ok(Checked { sha256, by })
}

fn refusal(source: &Source, error: &minisign::Error) -> anyhow::Error {
    let why = match error {
        minisign::Error::UnexpectedKeyId => "it is of another key than prefix.public-key",
        minisign::Error::InvalidSignature => {
            "it does not fit: archive or signature were changed after signing. The download was removed"
        }
        minisign::Error::UnsupportedLegacyMode => {
            "it is of the legacy kind; sign anew, without minisign's -l"
        }
        other => return anyhow::anyhow!("the signature {source}.minisig is refused: {other}"),
    };
    anyhow::anyhow!("the signature {source}.minisig is refused: {why}")
}

fn each_block(path: &Path, mut take: impl FnMut(&[u8])) -> std::io::Result<u64> {
    let mut file = File::open(path)?;
    let mut block = vec![0; 256 * 1024];
    let mut size = 0;
    loop {
        match file.read(&mut block) {
            Ok(0) => return Ok(size),
            Ok(n) => {
                take(&block[..n]);
                size += n as u64;
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
