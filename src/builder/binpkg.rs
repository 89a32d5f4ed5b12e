//! Binary packages: another machine of the fleet has compiled and signed the modules, and this one
//! merges them instead of compiling. Portage checks the signature, as the prefix's owner. Then the
//! modules pass the same verification as those that were compiled here.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tracing::{info, warn};

use super::binhost::Binhost;
use super::job::{ANSWER, Job};
use super::output::reason_of;
use super::packages;
use super::steps::failed;
use crate::exit::{Exit, WithExit};
use crate::fail;
use crate::prefix::portage::package_of;
use crate::process::Run;
use crate::userland::choice::Choice;

/// What Portage says (gpkg.py, BinpkgVerifier.py) when a package is not what was signed.
const REFUSED: [&str; 4] = [
    "Binary package is not usable",
    "Invalid binary package",
    "GnuPG verification failed",
    "Digest verification failed",
];
/// What Portage says (Binpkg.py) when it rewrites paths in a package from another EPREFIX.
const OTHER_PREFIX: &str = ">>> Adjusting Prefix to";
/// What Portage says (depgraph.py) when it has no binary package that it may take.
const NONE_THERE: [&str; 3] = [
    "there are no binary packages to satisfy",
    "there are no ebuilds built with USE flags to satisfy",
    "All binary packages that could satisfy",
];
/// What Portage says (BinpkgFetcher.py) when the index names a file that does not exist.
const NO_FILE: &str = "!!! File not found: ";
/// What wget(1), Portage's FETCHCOMMAND, and curl(1), its usual replacement, say when a file does
/// not exist or the connection fails or breaks. The words that tell the most come first.
const NOT_FETCHED: [&str; 6] =
    ["ERROR 4", "ERROR 5", "unable to resolve host", "failed: Connection", "Giving up.", "curl: ("];
/// What Portage says when it cannot read the binhost's index. The next line has the reason.
const UNREACHABLE: &str = "Error fetching binhost package info";

/// A package in the work directory. The signature of its metadata is right.
#[derive(Debug)]
pub struct Package {
    url: String,
    /// The atoms, with the versions that would be compiled.
    atoms: Vec<String>,
    verify: &'static str,
    /// The package of OpenZFS's programs, if they are wanted.
    pub programs: Option<String>,
}

impl Job<'_> {
    /// Fetches the binary packages of the configured atoms. None if the binhost has none that fits,
    /// or cannot be reached: then the journal has the reason.
    ///
    /// # Errors
    /// [`Exit::Refused`]: a package exists, but its signature or digest is not right, or Portage
    /// cannot take it for a reason that is not known to be harmless.
    /// [`Exit::PrefixIncomplete`]: no gpg.
    pub fn fetch_package(
        &mut self,
        binhost: &Binhost,
        userland: &Choice,
    ) -> Result<Option<Package>> {
        let verify = self.verify_command(&binhost.key)?;
        let mut atoms = self.exact_atoms()?;
        let programs = packages::wanted(userland, &atoms)?;
        atoms = packages::among(atoms, programs.as_deref());
        let package = Package { url: binhost.url.clone(), atoms, verify, programs };
        let run = self
            .emerge_package(&package)
            .args(["--fetchonly", "--getbinpkg"])
            .args(&package.atoms)
            .env("PORTAGE_BINHOST", &binhost.url);
        let fetched = self.steps.follow(&run)?;
        if fetched.status.success() && !fetched.stalled {
            return Ok(Some(package));
        }
        package.refused(&fetched.tail)?;
        if reason_of(&fetched.tail).0 == Exit::NoSpace {
            return Err(failed(&run, &fetched, reason_of));
        }
        match package.missing(&fetched.tail) {
            Some(why) if !fetched.stalled => {
                warn!("no binary package: {why}; compiling instead");
                Ok(None)
            }
            _ => Err(failed(&run, &fetched, unknown_reason)).with_context(|| {
                format!(
                    "the binary package of {} cannot be used, and nothing is compiled in its place",
                    package.url
                )
            }),
        }
    }

    /// Merges the fetched packages into the work directory's ROOT. Only now Portage checks the
    /// signature of their contents. Returns the directory below which the modules are.
    ///
    /// # Errors
    /// [`Exit::Refused`]: the signature is not right, or the package is from another EPREFIX.
    /// [`Exit::BuildFailed`]: the merge failed.
    pub fn merge_package(&mut self, package: &Package) -> Result<PathBuf> {
        let run = self.emerge_package(package).args(&package.atoms);
        let merged = self.steps.follow(&run)?;
        package.refused(&merged.tail)?;
        if !merged.status.success() || merged.stalled {
            return Err(failed(&run, &merged, reason_of));
        }
        info!("merged the binary package of {} from {}", package.shown(), package.url);
        Ok(self.installed())
    }

    /// The configured atoms, each with the version that Portage would compile here. Without a
    /// version Portage would take the highest one that the binhost has.
    pub(super) fn exact_atoms(&self) -> Result<Vec<String>> {
        let exact = |atom: String| {
            if atom.starts_with('=') && !atom.ends_with('*') {
                return Ok(atom);
            }
            let asked = || format!("asking Portage which version of {atom} it would compile");
            let best = self
                .portage_program("portageq")
                .arg("best_visible")
                .arg(&self.prefix.path)
                .args(["ebuild", &atom])
                .idle(ANSWER);
            let said =
                best.output(self.steps.cancel).with_context(asked).exit(Exit::PrefixIncomplete)?;
            let package = format!("{}-", package_of(&atom));
            match said.lines().map(str::trim).rfind(|line| line.starts_with(&package)) {
                Some(version) => Ok(format!("={version}")),
                None => fail!(Exit::PrefixIncomplete, "{}: {}", asked(), said.trim()),
            }
        };
        self.recipe.atoms().iter().cloned().map(exact).collect()
    }

    /// The emerge command for binary packages only. It takes none whose signature is not right.
    fn emerge_package(&self, package: &Package) -> Run {
        self.emerge()
            .args(["--usepkgonly", "--binpkg-respect-use=y"])
            .env("PKGDIR", self.work.top.join("binpkgs"))
            .env("FEATURES", "binpkg-request-signature -binpkg-ignore-signature")
            .env("BINPKG_GPG_VERIFY_BASE_COMMAND", package.verify)
            .env("BINPKG_GPG_VERIFY_GPG_HOME", self.gpg_home())
            // The helper would fetch Gentoo's keys, which are not trusted here.
            .env("PORTAGE_TRUST_HELPER", "")
    }

    fn gpg_home(&self) -> PathBuf {
        self.work.top.join("gnupg")
    }

    /// Portage's command to check a signature (make.globals). It uses a keyring of this build
    /// alone, which trusts exactly the keys of the file. The keyrings of the prefix and of its
    /// owner are not used.
    fn verify_command(&self, key: &Path) -> Result<&'static str> {
        let run = |program| self.prefix.run(program, &self.place);
        run("mkdir").args(["-m", "0700"]).arg(self.gpg_home()).output(self.steps.cancel)?;
        let gpg = || {
            let quiet = ["--batch", "--no-tty", "--quiet", "--no-autostart", "--homedir"];
            run("gpg").args(quiet).arg(self.gpg_home())
        };
        let unusable = || format!("{}: no usable OpenPGP public key in it", key.display());
        gpg().arg("--import").arg(key).output(self.steps.cancel).with_context(unusable)?;
        let list = gpg().args(["--with-colons", "--list-keys"]).output(self.steps.cancel)?;
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
            .output(self.steps.cancel)?;
        // direct: no certificate of somebody else makes another key trusted.
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
    /// Its name and version.
    fn shown(&self) -> String {
        let names: Vec<_> = self.atoms.iter().map(|atom| atom.trim_start_matches('=')).collect();
        names.join(" ")
    }

    /// The URL of the binhost it is from.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Fails if Portage refused the package or changed it.
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
        // What Portage and gpg said, without the status lines that gpg prints for programs.
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

    /// Why there is no package, in a few words. None if the step failed for another reason.
    fn missing(&self, tail: &VecDeque<String>) -> Option<String> {
        let url = &self.url;
        let find = |mark: &str| tail.iter().position(|line| line.contains(mark));
        if let Some(at) = find(UNREACHABLE) {
            let why = tail.get(at + 1).map_or("", |line| line.trim());
            let why = why.split_once("] ").map_or(why, |(_, text)| text);
            return Some(format!("{url} cannot be read ({why})"));
        }
        // Another USE flag, a keyword, a licence: Portage says which.
        if let Some(at) = tail.iter().rev().find_map(|line| line.split_once("(masked by: ")) {
            return Some(format!("{url} has none that fits ({})", at.1.trim_end_matches(')')));
        }
        if NONE_THERE.iter().any(|mark| find(mark).is_some()) {
            return Some(format!("{url} has none that fits"));
        }
        // A Python traceback: something unexpected happened, whatever else was said before.
        if find("Traceback (most recent call last)").is_some() {
            return None;
        }
        let at = find(NO_FILE).or_else(|| NOT_FETCHED.iter().find_map(|mark| find(mark)))?;
        Some(format!("it could not be fetched from {url}: {}", tail[at].trim()))
    }
}

/// As [`reason_of`], but refuses a package that Portage cannot take for an unknown reason.
fn unknown_reason(tail: &VecDeque<String>) -> (Exit, &'static str) {
    match reason_of(tail) {
        (Exit::BuildFailed, hint) => (Exit::Refused, hint),
        known => known,
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
        let package =
            Package { url: "file:///srv".into(), atoms: vec![], verify: "", programs: None };
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
            (
                "HTTP request sent, awaiting response... 404 Not Found\n2026-11-23 15:20:00 ERROR \
                 404: Not Found.\n>>> Failed to emerge a/b",
                None,
                Some(
                    "it could not be fetched from file:///srv: 2026-11-23 15:20:00 ERROR 404: Not Found.",
                ),
            ),
            (
                "!!! All binary packages that could satisfy \"a/b\" have been masked.",
                None,
                Some("file:///srv has none that fits"),
            ),
            (
                "Connecting to h... failed: Connection refused.\nTraceback (most recent call \
                 last):\n  File \"gpkg.py\"\ntarfile.ReadError: unexpected end of data",
                None,
                None,
            ),
            ("a wording of Portage's that nobody here knows", None, None),
        ] {
            let tail = tail(said);
            let error = package.refused(&tail).err().map(|e| (crate::exit::of(&e), e.to_string()));
            match (refused, error) {
                (Some(words), Some((exit, text))) => {
                    assert_eq!(exit, Exit::Refused, "{said}");
                    assert!(text.contains(words) && !text.contains("GNUPG"), "{said}: {text}");
                }
                (None, None) => assert_eq!(package.missing(&tail).as_deref(), missing, "{said}"),
                (_, error) => panic!("{said}: {error:?}"),
            }
        }
    }
}
