//! Binary packages: what another machine of the fleet compiled and signed is merged instead of
//! compiled again. Portage checks the signature, as the prefix's owner; the modules then go
//! through the same verification as those that were compiled here.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tracing::{info, warn};

use super::command::Run;
use super::output::{failing_lines, reason_of};
use super::recipe::{Job, failed};
use crate::config::{Settings, fill_release};
use crate::exit::Exit;
use crate::fail;
use crate::host::Host;
use crate::kernel::Release;
use crate::store::Digest;

/// Marks of Portage (gpkg.py, BinpkgVerifier.py) for a package that is not what was signed.
const REFUSED: [&str; 4] = [
    "Binary package is not usable",
    "Invalid binary package",
    "GnuPG verification failed",
    "Digest verification failed",
];
/// Portage (Binpkg.py) when it rewrites paths in the files of a package from another EPREFIX.
const OTHER_PREFIX: &str = ">>> Adjusting Prefix to";
/// Portage, when a binary package was wanted and there is none.
const NONE_THERE: &str = "there are no binary packages to satisfy";
/// Portage, when the binhost's index cannot be had; the reason is in the line after.
const UNREACHABLE: &str = "Error fetching binhost package info";

/// The configured binhost for one kernel.
#[derive(Clone, Debug)]
pub struct Binhost {
    /// Its URL: http, https or file.
    pub url: String,
    /// The file with the trusted public keys; root's.
    key: PathBuf,
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

/// A package that lies in the work directory; the signature of its metadata is right.
#[derive(Debug)]
pub struct Package {
    url: String,
    verify: &'static str,
}

impl Job<'_> {
    /// Fetches the configured atoms' binary packages; none where the binhost has none that fits or
    /// cannot be reached, with the reason in the journal.
    ///
    /// # Errors
    /// [`Exit::Refused`]: a package is there, and its signature or its digest is not right.
    /// [`Exit::PrefixIncomplete`]: no gpg.
    pub fn fetch_package(&mut self, binhost: &Binhost) -> Result<Option<Package>> {
        let verify = self.verify_command(&binhost.key)?;
        let package = Package { url: binhost.url.clone(), verify };
        let run = self
            .emerge_package(&package)
            .args(["--fetchonly", "--getbinpkg"])
            .args(super::atoms(self.settings))
            .env("PORTAGE_BINHOST", &binhost.url);
        let fetched = self.follow(&run)?;
        if fetched.status.success() && !fetched.stalled {
            return Ok(Some(package));
        }
        package.refused(&fetched.tail)?;
        if reason_of(&fetched.tail).0 == Exit::NoSpace {
            return Err(failed(&run, &fetched, reason_of));
        }
        warn!("no binary package: {}; compiling instead", package.missing(&fetched.tail));
        Ok(None)
    }

    /// Merges the fetched packages into the work directory's ROOT; Portage checks the signature of
    /// their contents now. Returns the directory below which the modules are.
    ///
    /// # Errors
    /// [`Exit::Refused`]: the signature is not right, or the package is from another EPREFIX.
    /// [`Exit::BuildFailed`]: the merge failed.
    pub fn merge_package(&mut self, package: &Package) -> Result<PathBuf> {
        let atoms = super::atoms(self.settings);
        let run = self.emerge_package(package).args(&atoms);
        let merged = self.follow(&run)?;
        package.refused(&merged.tail)?;
        if !merged.status.success() || merged.stalled {
            return Err(failed(&run, &merged, reason_of));
        }
        info!("merged the binary package of {} from {}", atoms.join(" "), package.url);
        Ok(self.installed())
    }

    /// emerge for binary packages and nothing else; none whose signature is not right.
    fn emerge_package(&self, package: &Package) -> Run {
        self.emerge()
            .args(["--usepkgonly", "--binpkg-respect-use=y"])
            .env("PKGDIR", self.work.top.join("binpkgs"))
            .env("FEATURES", "binpkg-request-signature -binpkg-ignore-signature")
            .env("BINPKG_GPG_VERIFY_BASE_COMMAND", package.verify)
            .env("BINPKG_GPG_VERIFY_GPG_HOME", self.gpg_home())
            // Fetches keys of Gentoo's, which have no say here.
            .env("PORTAGE_TRUST_HELPER", "")
    }

    fn gpg_home(&self) -> PathBuf {
        self.work.top.join("gnupg")
    }

    /// Portage's command to check a signature (make.globals): with a keyring of this build alone,
    /// in which exactly the keys of the file are trusted. The prefix's keyring and its owner's have
    /// no say.
    fn verify_command(&self, key: &Path) -> Result<&'static str> {
        let run = |program| self.prefix.run(program, &self.place);
        run("mkdir").args(["-m", "0700"]).arg(self.gpg_home()).output(self.cancel)?;
        let gpg = || {
            let quiet = ["--batch", "--no-tty", "--quiet", "--no-autostart", "--homedir"];
            run("gpg").args(quiet).arg(self.gpg_home())
        };
        let unusable = || format!("{}: no usable OpenPGP public key in it", key.display());
        gpg().arg("--import").arg(key).output(self.cancel).with_context(unusable)?;
        let list = gpg().args(["--with-colons", "--list-keys"]).output(self.cancel)?;
        let trusted = fingerprints(&list);
        if trusted.is_empty() {
            fail!(Exit::Other, "{}", unusable());
        }
        // gpg takes ownertrust (6: ultimate) from a file or its standard input only.
        let trust = "home=$1; shift; printf '%s:6:\\n' \"$@\" | \
                     gpg --batch --no-tty --quiet --no-autostart --homedir \"$home\" --import-ownertrust";
        run("sh")
            .args(["-c", trust, "sh"])
            .arg(self.gpg_home())
            .args(trusted)
            .output(self.cancel)?;
        // direct: nobody's certificates make another key trusted.
        Ok("gpg --verify --batch --no-tty --no-autostart --no-secmem-warning \
            --no-auto-check-trustdb --trust-model direct --status-fd 2 [PORTAGE_CONFIG] [SIGNATURE]")
    }
}

/// The fingerprints of the primary keys in the output of `gpg --with-colons --list-keys` (GnuPG's
/// doc/DETAILS): the first `fpr` record after each `pub` record.
fn fingerprints(list: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut primary = false;
    for line in list.lines() {
        let mut fields = line.split(':');
        match fields.next() {
            Some("pub") => primary = true,
            Some("fpr") if primary => {
                primary = false;
                found.extend(fields.nth(8).filter(|f| !f.is_empty()));
            }
            _ => {}
        }
    }
    found
}

impl Package {
    /// An error if Portage refused the package, or changed it.
    fn refused(&self, tail: &VecDeque<String>) -> Result<()> {
        let url = &self.url;
        if let Some(line) = tail.iter().find(|line| line.contains(OTHER_PREFIX)) {
            fail!(
                Exit::Refused,
                "the binary package of {url} was made in a prefix at another path, and Portage changed bytes of its modules ({line}): make packages for this EPREFIX"
            );
        }
        let marked = |line: &String| REFUSED.iter().any(|mark| line.contains(mark));
        let Some(first) = tail.iter().position(marked) else { return Ok(()) };
        // Portage's own words and what gpg said, without gpg's status lines for programs.
        let for_people = |line: &&str| {
            !line.is_empty()
                && !["[GNUPG:]", "Raw GnuPG output", ">>>", "TRUST_HELPER", "Possible fix"]
                    .iter()
                    .any(|noise| line.contains(noise))
        };
        let reason: Vec<&str> = tail
            .iter()
            .skip(first)
            .map(|line| line.trim_matches([' ', '*', '\t']))
            .filter(for_people)
            .take(20)
            .collect();
        fail!(
            Exit::Refused,
            "the binary package of {url} is refused, and nothing is compiled in its place:\n  {}",
            reason.join("\n  ")
        )
    }

    /// Why there is no package, in a few words.
    fn missing(&self, tail: &VecDeque<String>) -> String {
        let url = &self.url;
        if let Some(at) = tail.iter().position(|line| line.contains(UNREACHABLE)) {
            let why = tail.get(at + 1).map_or("", |line| line.trim());
            let why = why.split_once("] ").map_or(why, |(_, text)| text);
            return format!("{url} cannot be read ({why})");
        }
        // Another USE flag, a keyword, a licence: Portage says which.
        if let Some(at) = tail.iter().rev().find_map(|line| line.split_once("(masked by: ")) {
            return format!("{url} has none that fits ({})", at.1.trim_end_matches(')'));
        }
        if tail.iter().any(|line| line.contains(NONE_THERE)) {
            return format!("{url} has none that fits");
        }
        format!("it could not be fetched from {url}: {}", failing_lines(tail).join(" / "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(text: &str) -> VecDeque<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn the_primary_keys_are_the_trusted_ones() {
        let list = "tru::1:1795442862:0:3:1:5\n\
                    pub:u:255:22:A9435CD87E3A6954:1795442580:::-:::scSC:::::ed25519:::0:\n\
                    fpr:::::::::FC988C9D833902FB7B72C1C2A9435CD87E3A6954:\n\
                    uid:u::::1795442580::4D4F::zfs-prefix <x@localhost>::::::::::0:\n\
                    sub:u:255:18:1111111111111111:1795442580::::::e:::::cv25519::\n\
                    fpr:::::::::1111111111111111111111111111111111111111:\n\
                    pub:e:255:22:77213489CEFBE4DC:1795442580:1795442581::-:::sc:::::ed25519:::0:\n\
                    fpr:::::::::C3F96D006737C5FC0CE3694C77213489CEFBE4DC:\n";
        let want = [
            "FC988C9D833902FB7B72C1C2A9435CD87E3A6954",
            "C3F96D006737C5FC0CE3694C77213489CEFBE4DC",
        ];
        assert_eq!(fingerprints(list), want);
        assert_eq!(fingerprints("tru::1:0:0:3:1:5\n"), [""; 0]);
    }

    #[test]
    fn a_refusal_is_told_from_a_binhost_that_has_nothing() {
        let package = Package { url: "file:///srv".into(), verify: "" };
        for (said, refused, missing) in [
            (
                " * Binary package is not usable (verification failed):\n *  Summary:\n \
                 * \tbinpkg appears unsigned (missing any signature)\n * \t[GNUPG:] NODATA 1",
                Some("binpkg appears unsigned"),
                None,
            ),
            (">>> Adjusting Prefix to /home/core/gentoo", Some("at another path"), None),
            (
                "\n!!! Digest verification failed:\n!!! Reason: Failed on SHA1 verification",
                Some("Failed on SHA1"),
                None,
            ),
            (
                "!!! [1f] Error fetching binhost package info from 'http://h'\n!!! [1f] <urlopen \
                 error [Errno 111] Connection refused>\nemerge: there are no binary packages to \
                 satisfy \"a/b\"",
                None,
                Some("file:///srv cannot be read (<urlopen error [Errno 111] Connection refused>)"),
            ),
            (
                "emerge: there are no binary packages to satisfy \"sys-fs/zfs-kmod\" for /x/.",
                None,
                Some("file:///srv has none that fits"),
            ),
            (
                "!!! All binary packages that could satisfy \"a/b\" have been masked.\n\
                 - a/b-1::x (masked by: use flag configuration mismatch)",
                None,
                Some("file:///srv has none that fits (use flag configuration mismatch)"),
            ),
            (
                "!!! File not found: /srv/a.gpkg.tar",
                None,
                Some(
                    "it could not be fetched from file:///srv: !!! File not found: /srv/a.gpkg.tar",
                ),
            ),
        ] {
            let tail = tail(said);
            let error = package.refused(&tail).err().map(|e| (crate::exit::of(&e), e.to_string()));
            match (refused, error) {
                (Some(words), Some((exit, text))) => {
                    assert_eq!(exit, Exit::Refused, "{said}");
                    assert!(text.contains(words) && !text.contains("GNUPG"), "{said}: {text}");
                }
                (None, None) => assert_eq!(package.missing(&tail), missing.unwrap(), "{said}"),
                (_, error) => panic!("{said}: {error:?}"),
            }
        }
    }
}
