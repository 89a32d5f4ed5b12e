//! OpenPGP signatures, checked by the programs of the prefix as its owner.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Obtain, QUIET};
use crate::build::command::Run;
use crate::build::workdir::owners_dir;
use crate::exit::{Exit, WithExit};
use crate::fail;
use crate::prefix::enter::Place;

/// A directory of the owner's for one check, removed when it is over.
struct Scratch(PathBuf);

impl Scratch {
    fn new(with: &Obtain<'_>) -> Result<Scratch> {
        let dir = with.dir("trees")?.with_file_name("scratch");
        owners_dir(&dir, with.prefix.user)?;
        Ok(Scratch(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The next one removes it too.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// gpgv(1) of a detached signature. `packed`: the name of the compressed file, if the signature is
/// over what is in it; otherwise empty.
///
/// # Errors
/// [`Exit::Refused`], with what gpgv said.
pub(super) fn detached(
    with: &mut Obtain<'_>,
    file: &Path,
    packed: &str,
    signature: &str,
    keys: &Path,
    shown: &str,
) -> Result<()> {
    with.say(&format!("checking the signature of {shown}"));
    let scratch = Scratch::new(with)?;
    // Root's, and only to be read.
    let mut text = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(with.dir("files")?)?;
    text.write_all(signature.as_bytes())?;
    let readable = vec![file.to_owned(), keys.to_owned(), text.path().to_owned()];
    let place = Place { work: Some(scratch.0.clone()), readable, ..Place::default() };
    let why = format!("the signature of {shown} is checked with it");
    let ring = keyring(with, &place, keys, &why)?;
    with.program("gpgv", &why, &place)?;
    let unpack = match packed.rsplit('.').next() {
        Some("xz" | "txz") => "xz",
        Some("gz" | "tgz") => "gzip",
        Some("zst") => "zstd",
        Some("bz2") => "bzip2",
        _ => "cat",
    };
    let (unpack, flags) = if unpack == "cat" { ("cat", "") } else { (unpack, "-dc") };
    let script = "set -o pipefail; file=$1 ring=$2 signature=$3; shift 3; \
                  \"$@\" < \"$file\" | gpgv --keyring \"$ring\" \"$signature\" -";
    let mut run = with.program("bash", &why, &place)?.args(["-c", script, "bash"]);
    run = run.arg(file).arg(ring).arg(text.path()).arg(unpack);
    if !flags.is_empty() {
        run = run.arg(flags);
    }
    refused(with, &run, shown, keys)
}

/// The keys in the binary form that gpgv reads, whatever form they are in.
fn keyring(with: &Obtain<'_>, place: &Place, keys: &Path, why: &str) -> Result<PathBuf> {
    let home = place.work.clone().unwrap_or_default();
    let ring = home.join("keys.gpg");
    gpg(with, place, why)?
        .args(["--no-default-keyring", "--keyring"])
        .arg(&ring)
        .arg("--import")
        .arg(keys)
        .output(with.cancel)
        .with_context(|| format!("{}: no usable OpenPGP public key in it", keys.display()))
        .exit(Exit::Refused)?;
    Ok(ring)
}

fn gpg(with: &Obtain<'_>, place: &Place, why: &str) -> Result<Run> {
    let home = place.work.clone().unwrap_or_default();
    let gpg = with.program("gpg", why, place)?;
    Ok(gpg.args(["--batch", "--no-tty", "--quiet", "--no-autostart", "--homedir"]).arg(home))
}

fn refused(with: &Obtain<'_>, run: &Run, shown: &str, keys: &Path) -> Result<()> {
    run.output(with.cancel)
        .with_context(|| {
            format!(
                "{shown}: its signature is refused: it is of no key in {}, or the file was changed after signing. The download was removed",
                keys.display()
            )
        })
        .exit(Exit::Refused)
        .map(drop)
}

/// rpmkeys(8) of an RPM: the prefix's, or this machine's with the rights of the prefix's owner.
///
/// # Errors
/// [`Exit::Refused`]: unsigned, or not by one of these keys. [`Exit::PrefixIncomplete`]: there is
/// no rpmkeys.
pub(super) fn rpm(with: &mut Obtain<'_>, file: &Path, keys: &Path, shown: &str) -> Result<()> {
    with.say(&format!("checking the signature of {shown}"));
    let scratch = Scratch::new(with)?;
    let readable = vec![file.to_owned(), keys.to_owned()];
    let place = Place { work: Some(scratch.0.clone()), readable, ..Place::default() };
    let own = Path::new("/usr/bin/rpmkeys");
    let rpmkeys = || -> Result<Run> {
        match with.has("rpmkeys") {
            true => Ok(with.prefix.run("rpmkeys", &place)),
            false if own.exists() => Ok(Run::new(own)
                .user(with.prefix.user)
                .env("PATH", "/usr/bin:/bin")
                .env("HOME", &scratch.0)
                .env("LC_ALL", "C")),
            false => fail!(
                Exit::PrefixIncomplete,
                "neither this machine nor the prefix {} has rpmkeys, which the signature of {shown} is checked with",
                with.prefix.path.display()
            ),
        }
    };
    let database = scratch.0.join("rpmdb");
    let run = || rpmkeys().map(|run| run.arg("--dbpath").arg(&database).idle(QUIET));
    let import = run()?.arg("--import");
    import
        .arg(keys)
        .output(with.cancel)
        .with_context(|| format!("{}: no usable OpenPGP public key in it", keys.display()))
        .exit(Exit::Refused)?;
    // Digests alone prove nothing: the level asks for a signature too (rpmkeys(8)).
    let check = run()?
        .args(["--define", "_pkgverify_level all", "--define", "_pkgverify_flags 0"])
        .args(["--checksig", "--verbose"])
        .arg(file);
    refused(with, &check, shown, keys)
}

/// `git verify-tag` of `refs/tags/TAG` in `repository`; what was signed has to be that tag, not
/// another one (an older one) under its name.
///
/// # Errors
/// [`Exit::Refused`], with what git said.
pub(super) fn tag(
    with: &mut Obtain<'_>,
    repository: &Path,
    place: &Place,
    tag: &str,
    keys: &Path,
) -> Result<()> {
    let shown = format!("the tag {tag}");
    let why = format!("the signature of {shown} is checked with it");
    with.program("gpg", &why, place)?;
    // In a private /tmp: the name of gpg's socket, which it makes whether needed or not, is short.
    let script = "export GNUPGHOME=/tmp/gnupg; mkdir -m 0700 $GNUPGHOME || exit; \
                  gpg --batch --no-tty --quiet --no-autostart --import \"$1\" || \
                  { echo \"$1: no usable OpenPGP public key in it\"; exit 1; }; \
                  exec git -C \"$2\" -c gpg.program=gpg -c gpg.ssh.program=false \
                  -c gpg.x509.program=false verify-tag -- \"refs/tags/$3\"";
    let run = with.program("bash", &why, place)?.args(["-c", script, "bash"]);
    let run = run.arg(keys).arg(repository).arg(tag).env("GIT_CONFIG_NOSYSTEM", "1");
    refused(with, &run, &shown, keys)?;
    let signed = with
        .program("git", &why, place)?
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .arg("-C")
        .arg(repository)
        .args(["for-each-ref", "--format=%(tag)", "--"])
        .arg(format!("refs/tags/{tag}"))
        .output(with.cancel)?;
    if signed.trim_end_matches('\n') != tag {
        fail!(
            Exit::Refused,
            "{shown}: what was signed is the tag {:?}; the repository shows it under another name",
            signed.trim()
        );
    }
    Ok(())
}

/// The last eight hexadecimal digits of the id of the one key in `keys`.
///
/// # Errors
/// [`Exit::Refused`]: there is none, or more than one.
pub(super) fn key_id(with: &mut Obtain<'_>, keys: &Path) -> Result<String> {
    let scratch = Scratch::new(with)?;
    let place = Place {
        work: Some(scratch.0.clone()),
        readable: vec![keys.to_owned()],
        ..Place::default()
    };
    let list = gpg(with, &place, "it reads the id of the key that the package is signed with")?
        .args(["--with-colons", "--show-keys"])
        .arg(keys)
        .output(with.cancel)
        .with_context(|| format!("{}: no OpenPGP public key in it", keys.display()))
        .exit(Exit::Refused)?;
    match short_ids(&list).as_slice() {
        [id] => Ok(id.clone()),
        ids => fail!(
            Exit::Refused,
            "{}: {} public keys in it, one is needed to know which copy of the package is meant; set kernel.source",
            keys.display(),
            ids.len()
        ),
    }
}

/// From the `pub` records of `gpg --with-colons` (GnuPG's doc/DETAILS): field 5 is the key id.
fn short_ids(list: &str) -> Vec<String> {
    let id = |line: &str| {
        let mut fields = line.split(':');
        let id = (fields.next() == Some("pub")).then(|| fields.nth(3)).flatten()?;
        id.get(id.len().checked_sub(8)?..).map(str::to_lowercase)
    };
    list.lines().filter_map(id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_id_is_field_five_of_a_pub_record() {
        let list = "tru::1:1:0\npub:-:4096:1:0BE4A1E4E99D6AD1:1706000000:::-:::scSC::::::23::0:\n\
                    fpr:::::::::466CF2D8B60BC3057AA9453E0BE4A1E4E99D6AD1:\n\
                    sub:-:4096:1:1111111122222222:1706000000::::::e::::::23:\n";
        assert_eq!(short_ids(list), ["e99d6ad1"]);
        assert!(short_ids("pub:-:1:1:AB:\nuid:x\n").is_empty());
    }
}
