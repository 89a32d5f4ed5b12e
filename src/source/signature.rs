//! Checks OpenPGP signatures with the programs of the prefix, as its owner.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Obtain, QUIET};
use crate::exit::{Exit, WithExit};
use crate::fail;
use crate::prefix::enter::Place;
use crate::prefix::owned::owners_dir;
use crate::process::{Cancel, Interrupted, Run, describe};

/// A directory of the owner's for one check. It is removed after the check.
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

/// Checks a detached signature with gpg(1). If the signature is over the content of a compressed
/// file, `packed` is the name of that file. Otherwise it is empty.
///
/// # Errors
/// [`Exit::Refused`], with what gpg said.
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
    // The file of the signature belongs to root. Others may only read it.
    let mut text = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(with.dir("files")?)?;
    text.write_all(signature.as_bytes())?;
    let readable = vec![file.to_owned(), keys.to_owned(), text.path().to_owned()];
    let place = Place { work: Some(scratch.0.clone()), readable, ..Place::default() };
    let why = format!("the signature of {shown} is checked with it");
    let unpack = match packed.rsplit('.').next() {
        Some("xz" | "txz") => "xz",
        Some("gz" | "tgz") => "gzip",
        Some("zst") => "zstd",
        Some("bz2") => "bzip2",
        _ => "cat",
    };
    with.program(unpack, &why, &place)?;
    let ring = keyring(with, &place, keys, &why)?;
    let home = place.work.clone().unwrap_or_default();
    let mut run = with.program("bash", &why, &place)?.args(["-c", VERIFY, "bash"]);
    run = run.arg(file).arg(ring).arg(text.path()).arg(home).arg(unpack);
    if unpack != "cat" {
        run = run.arg("-dc");
    }
    judge(with, &run, shown, keys)
}

/// Lets a program ($5 …) unpack a file and gpg(1) check the result. What gpg prints on its status
/// file descriptor (GnuPG's doc/DETAILS) is the verdict. gpgv would not do: it does not check
/// whether a key was revoked or has expired.
const VERIFY: &str = "\
file=$1 ring=$2 signature=$3 home=$4; shift 4
\"$@\" < \"$file\" |
    gpg --batch --no-tty --no-autostart --homedir \"$home\" --no-default-keyring \\
        --keyring \"$ring\" --status-fd 1 --verify \"$signature\" -
ended=(\"${PIPESTATUS[@]}\")
case ${ended[0]} in
0) exit ${ended[1]} ;;
[123]) echo '[unpack] damaged'; exit 1 ;;
# gpg did not want the rest.
141) exit $((ended[1] ? ended[1] : 125)) ;;
esac
echo \"$1: exit status ${ended[0]}\"
exit 125";

/// Makes a keyring for gpg from the file of keys, which may be in any form. gpg needs the binary
/// form.
fn keyring(with: &Obtain<'_>, place: &Place, keys: &Path, why: &str) -> Result<PathBuf> {
    let home = place.work.clone().unwrap_or_default();
    let ring = home.join("keys.gpg");
    let import = gpg(with, place, why)?
        .args(["--no-default-keyring", "--keyring"])
        .arg(&ring)
        .arg("--import")
        .arg(keys);
    imported(with, &import, keys)?;
    Ok(ring)
}

fn gpg(with: &Obtain<'_>, place: &Place, why: &str) -> Result<Run> {
    let home = place.work.clone().unwrap_or_default();
    let gpg = with.program("gpg", why, place)?;
    Ok(gpg.args(["--batch", "--no-tty", "--quiet", "--no-autostart", "--homedir"]).arg(home))
}

/// How a program that checks something ended by itself, and what it printed.
#[derive(Debug)]
struct Said {
    code: i32,
    lines: Vec<String>,
}

/// Runs the program. If something ends it from outside, that is no verdict but an error.
fn said(run: &Run, cancel: &Cancel, shown: &str) -> Result<Said> {
    let mut lines = Vec::new();
    let ended = run.lines(cancel, |line| {
        if lines.len() < 1000 {
            lines.push(line.chars().take(500).collect::<String>());
        }
    })?;
    if let Some(failure) = ended.not_begun() {
        return Err(failure.into());
    }
    if ended.cancelled || cancel.is_set() {
        return Err(Interrupted.into());
    }
    let why = match ended.status.code() {
        Some(code) if code < 125 && !ended.stalled && ended.beyond.is_none() => {
            return Ok(Said { code, lines });
        }
        _ if ended.stalled => {
            "it neither said nor did anything for too long, and was ended".to_owned()
        }
        _ => describe(ended.status),
    };
    fail!(
        Exit::Other,
        "{shown}: could not be checked: {why}: {}; the download is kept for the next try",
        last(&lines)
    )
}

fn last(lines: &[String]) -> String {
    lines[lines.len().saturating_sub(5)..].join(" / ")
}

/// Runs the command that imports the configured keys.
fn imported(with: &Obtain<'_>, import: &Run, keys: &Path) -> Result<()> {
    let said = said(import, with.cancel, &keys.display().to_string())?;
    if said.code != 0 {
        let path = keys.display();
        fail!(Exit::Refused, "{path}: no usable OpenPGP public key in it: {}", last(&said.lines));
    }
    Ok(())
}

/// Runs a command that prints gpg's status, and judges by that status.
fn judge(with: &Obtain<'_>, run: &Run, shown: &str, keys: &Path) -> Result<()> {
    let said = said(run, with.cancel, shown)?;
    let path = keys.display();
    match verdict(&said.lines) {
        Some(Ok(())) if said.code == 0 => Ok(()),
        Some(Err(why)) => fail!(
            Exit::Refused,
            "{shown}: its signature is refused: {}. What was fetched was removed: {}",
            why.replace("{keys}", &path.to_string()),
            last(&said.lines)
        ),
        _ => fail!(
            Exit::Other,
            "{shown}: its signature could not be checked: exit status {}: {}",
            said.code,
            last(&said.lines)
        ),
    }
}

/// What gpg (or git) found out. None if there is no clear result. As in git, one bad signature is
/// enough to refuse. So is one by a key that was revoked or has expired.
fn verdict(lines: &[String]) -> Option<Result<(), &'static str>> {
    let status = |name: &str| {
        lines.iter().any(|line| {
            let words = line.strip_prefix("[GNUPG:] ").unwrap_or_default();
            words.split(' ').next() == Some(name)
        })
    };
    let says = |text: &str| lines.iter().any(|line| line.contains(text));
    let refused = [
        (status("REVKEYSIG"), "its key was revoked ({keys})"),
        (status("EXPKEYSIG"), "its key has expired ({keys}; get the keys anew)"),
        (status("EXPSIG"), "it has expired"),
        (status("BADSIG"), "the file was changed after signing, or is damaged"),
        (status("ERRSIG") || status("NO_PUBKEY"), "it is of no key in {keys}"),
        (lines.iter().any(|line| line == "[unpack] damaged"), "the file is damaged"),
        (status("NODATA"), "it is no OpenPGP signature"),
        (says("no signature found") || says("cannot verify a non-tag object"), "it has none"),
    ];
    if let Some((_, why)) = refused.iter().find(|(is, _)| *is) {
        return Some(Err(why));
    }
    (status("GOODSIG") && status("VALIDSIG")).then_some(Ok(()))
}

/// Checks an RPM with rpmkeys(8). It uses the prefix's rpmkeys, or this machine's with the rights
/// of the prefix's owner.
///
/// # Errors
/// [`Exit::Refused`]: it is not signed, or not with one of these keys. [`Exit::PrefixIncomplete`]:
/// there is no rpmkeys.
pub(super) fn rpm(with: &mut Obtain<'_>, file: &Path, keys: &Path, shown: &str) -> Result<()> {
    with.say(&format!("checking the signature of {shown}"));
    let scratch = Scratch::new(with)?;
    let readable = vec![file.to_owned(), keys.to_owned()];
    let place = Place { work: Some(scratch.0.clone()), readable, ..Place::default() };
    let own = Path::new("/usr/bin/rpmkeys");
    let rpmkeys = || -> Result<Run> {
        if with.has("rpmkeys") {
            return Ok(with.prefix.run("rpmkeys", &place));
        }
        if own.exists() {
            return Ok(Run::new(own)
                .user(with.prefix.user)
                .env("PATH", "/usr/bin:/bin")
                .env("HOME", &scratch.0)
                .env("LC_ALL", "C"));
        }
        fail!(
            Exit::PrefixIncomplete,
            "neither this machine nor the prefix {} has rpmkeys, which the signature of {shown} is checked with",
            with.prefix.path.display()
        )
    };
    let database = scratch.0.join("rpmdb");
    let run = || rpmkeys().map(|run| run.arg("--dbpath").arg(&database).idle(QUIET));
    imported(with, &run()?.arg("--import").arg(keys), keys)?;
    // Digests alone prove nothing. This level demands a signature too (rpmkeys(8)).
    let check = run()?
        .args(["--define", "_pkgverify_level all", "--define", "_pkgverify_flags 0"])
        .args(["--checksig", "--verbose"])
        .arg(file);
    let said = said(&check, with.cancel, shown)?;
    if said.code != 0 {
        fail!(
            Exit::Refused,
            "{shown}: its signature is refused: it is of no key in {}, or the file was changed after signing. What was fetched was removed: {}",
            keys.display(),
            last(&said.lines)
        );
    }
    Ok(())
}

/// Runs `git verify-tag` for `refs/tags/TAG` in `repository`. Checks that exactly this tag was
/// signed: a repository could show another tag, an older one, under its name.
///
/// # Errors
/// [`Exit::Refused`]: the error has what git said.
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
    // GNUPGHOME is in a private /tmp, so that the path of gpg's socket is short. gpg makes the
    // socket even if it does not need it.
    let script = "export GNUPGHOME=/tmp/gnupg; mkdir -m 0700 $GNUPGHOME || exit; \
                  gpg --batch --no-tty --quiet --no-autostart --import \"$1\" || exit 124; \
                  exec git -C \"$2\" -c gpg.program=gpg -c gpg.ssh.program=false \
                  -c gpg.x509.program=false verify-tag --raw -- \"refs/tags/$3\"";
    let run = with.program("bash", &why, place)?.args(["-c", script, "bash"]);
    let run = run.arg(keys).arg(repository).arg(tag).env("GIT_CONFIG_NOSYSTEM", "1");
    judge(with, &run, &shown, keys)?;
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
            "{}: contains {} public keys, but exactly one is needed to tell which copy of the package is meant; set kernel.source",
            keys.display(),
            ids.len()
        ),
    }
}

/// The ids in the `pub` records of `gpg --with-colons`. Field 5 is the key id (GnuPG's
/// doc/DETAILS).
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
    fn only_what_gpg_found_out_is_a_verdict() {
        let good = "[GNUPG:] GOODSIG 12 good\n[GNUPG:] VALIDSIG AB 2026-01-01";
        for (case, text, expected) in [
            ("good", good.to_owned(), Some(true)),
            ("no more than good", "[GNUPG:] GOODSIG 12 good".to_owned(), None),
            ("said elsewhere", "gpg: x [GNUPG:] GOODSIG 1\n[GNUPG:] VALIDSIG 1".to_owned(), None),
            ("nothing", "gpg: out of core".to_owned(), None),
            ("revoked", "[GNUPG:] REVKEYSIG 12 x\n[GNUPG:] VALIDSIG AB".to_owned(), Some(false)),
            ("expired", "[GNUPG:] EXPKEYSIG 12 x\n[GNUPG:] VALIDSIG AB".to_owned(), Some(false)),
            ("two", format!("{good}\n[GNUPG:] ERRSIG 34 1 10 00"), Some(false)),
            ("damaged", format!("{good}\n[unpack] damaged"), Some(false)),
            ("git", "error: no signature found".to_owned(), Some(false)),
        ] {
            let lines: Vec<String> = text.lines().map(str::to_owned).collect();
            assert_eq!(verdict(&lines).map(|v| v.is_ok()), expected, "{case}");
        }
    }

    #[test]
    fn a_program_that_was_killed_or_is_missing_refuses_nothing() {
        for (script, refused) in [("kill -9 $$", true), ("exit 127", true), ("exit 1", false)] {
            let run = Run::new("/bin/sh").args(["-c", script]);
            let said = said(&run, &Cancel::default(), "x");
            assert_eq!(said.is_err(), refused, "{script}: {said:?}");
            if let Err(error) = said {
                assert_eq!(crate::exit::of(&error), Exit::Other, "{script}");
            }
        }
        let cancel = Cancel::default();
        cancel.0.store(true, std::sync::atomic::Ordering::Relaxed);
        let run = Run::new("/bin/sh").args(["-c", "exit 1"]);
        assert!(said(&run, &cancel, "x").unwrap_err().is::<Interrupted>());
    }

    #[test]
    fn the_key_id_is_field_five_of_a_pub_record() {
        let list = "tru::1:1:0\npub:-:4096:1:0BE4A1E4E99D6AD1:1706000000:::-:::scSC::::::23::0:\n\
                    fpr:::::::::466CF2D8B60BC3057AA9453E0BE4A1E4E99D6AD1:\n\
                    sub:-:4096:1:1111111122222222:1706000000::::::e::::::23:\n";
        assert_eq!(short_ids(list), ["e99d6ad1"]);
        assert!(short_ids("pub:-:1:1:AB:\nuid:x\n").is_empty());
    }
}
