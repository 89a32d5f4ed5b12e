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
use crate::exit::{Exit, WithExit};
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
}

/// Others may read it, and only `owner` may write to it.
fn only_writer(meta: &fs::Metadata, owner: u32) -> bool {
    use std::os::unix::fs::MetadataExt;
    meta.uid() == owner && meta.mode() & 0o022 == 0 && meta.mode() & 0o004 != 0
}

impl Job<'_> {
    /// Merges the configured atoms from binary packages of `binhost` into the work directory's
    /// ROOT. Returns the directory below which the modules are; none where the binhost has no
    /// such package or cannot be reached, with the reason in the journal.
    ///
    /// # Errors
    /// [`Exit::Refused`]: a package is there, and its signature, its digest or its EPREFIX is not
    /// right. [`Exit::PrefixIncomplete`]: no gpg. [`Exit::BuildFailed`]: the merge failed.
    pub fn merge_binary(&mut self, binhost: &Binhost, early: bool) -> Result<Option<PathBuf>> {
        if early && self.settings.portage.asks_network() {
            info!("{} is not asked: there is no network this early in the boot", binhost.url);
            return Ok(None);
        }
        let atoms = super::atoms(self.settings);
        let what = atoms.join(" ");
        self.progress.stage(&format!("fetching the binary package of {what}"));
        let verify = self.verify_command(&binhost.key)?;
        let emerge = |job: &Job<'_>| -> Result<Run> {
            Ok(job
                .emerge()?
                .args(["--usepkgonly", "--binpkg-respect-use=y"])
                .env("PKGDIR", job.work.top.join("binpkgs"))
                .env("FEATURES", "binpkg-request-signature -binpkg-ignore-signature")
                .env("BINPKG_GPG_VERIFY_BASE_COMMAND", &verify)
                .env("BINPKG_GPG_VERIFY_GPG_HOME", gpg_home(job))
                .env("PORTAGE_TRUST_HELPER", ""))
        };
        let fetch = emerge(self)?
            .args(["--fetchonly", "--getbinpkg"])
            .args(&atoms)
            .env("PORTAGE_BINHOST", &binhost.url);
        let fetched = self.step(&fetch)?;
        if !fetched.status.success() || fetched.stalled {
            refuse(&fetched.tail, binhost)?;
            if let (Exit::NoSpace, _) = reason_of(&fetched.tail) {
                return Err(failed(&fetch, &fetched));
            }
            warn!("no binary package: {}; compiling instead", why_none(&fetched.tail, binhost));
            return Ok(None);
        }
        self.progress.stage(&format!("merging the binary package of {what}"));
        let merge = emerge(self)?.args(&atoms);
        let merged = self.step(&merge)?;
        refuse(&merged.tail, binhost)?;
        if !merged.status.success() || merged.stalled {
            return Err(failed(&merge, &merged));
        }
        info!("merged the binary package of {what} from {}", binhost.url);
        Ok(Some(self.installed()))
    }

    /// Portage's command to check a signature: a keyring of this build alone, in which exactly the
    /// keys of the file are trusted. Neither the prefix's keyring nor its owner's has a say.
    fn verify_command(&self, key: &Path) -> Result<String> {
        let home = gpg_home(self);
        let make = self.prefix.run("mkdir", &self.work.top)?.args(["-m", "0700"]).arg(&home);
        make.output(self.cancel)?;
        let gpg = || -> Result<Run> {
            let run = self.prefix.run("gpg", &self.work.top)?;
            Ok(run.args(["--batch", "--no-tty", "--quiet", "--no-autostart"]).args(homedir(&home)))
        };
        let import = gpg()?.arg("--import").arg(key).output(self.cancel);
        import
            .with_context(|| format!("{}: no usable OpenPGP public key in it", key.display()))
            .exit(Exit::Other)?;
        let list = gpg()?.args(["--with-colons", "--list-keys"]).output(self.cancel)?;
        let program = self.prefix.program("gpg")?;
        let trusted = fingerprints(&list);
        if trusted.is_empty() {
            fail!(Exit::Other, "{}: no OpenPGP public key in it", key.display());
        }
        let trusted: String = trusted.iter().map(|f| format!(" --trusted-key {f}")).collect();
        // Portage replaces what is in brackets (portage's make.globals); direct: nobody's
        // certificates make another key trusted.
        Ok(format!(
            "{} --verify --batch --no-tty --no-autostart --no-auto-check-trustdb --trust-model direct{trusted} --status-fd 2 [PORTAGE_CONFIG] [SIGNATURE]",
            program.display()
        ))
    }
}

fn gpg_home(job: &Job<'_>) -> PathBuf {
    job.work.top.join("gnupg")
}

fn homedir(home: &Path) -> [&std::ffi::OsStr; 2] {
    ["--homedir".as_ref(), home.as_os_str()]
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

/// An error if Portage refused the package, or changed it.
fn refuse(tail: &VecDeque<String>, binhost: &Binhost) -> Result<()> {
    let url = &binhost.url;
    if let Some(line) = tail.iter().find(|line| line.contains(OTHER_PREFIX)) {
        fail!(
            Exit::Refused,
            "the binary package of {url} was made in a prefix at another path, and Portage changed bytes of its modules ({line}): make packages for this EPREFIX"
        );
    }
    let marked = |line: &&String| REFUSED.iter().any(|mark| line.contains(mark));
    let Some(first) = tail.iter().position(|line| marked(&line)) else { return Ok(()) };
    // Portage's own words: its summary and what gpg said, without gpg's status lines for programs.
    let ours = |line: &&String| !line.contains("[GNUPG:]") && !line.contains("Raw GnuPG output");
    let reason: Vec<&str> = tail
        .iter()
        .skip(first)
        .filter(ours)
        .map(|line| line.trim_matches([' ', '*', '\t']))
        .filter(|line| !line.is_empty() && !line.starts_with(">>>"))
        .take(20)
        .collect();
    fail!(
        Exit::Refused,
        "the binary package of {url} is refused; nothing is compiled in its place:\n  {}",
        reason.join("\n  ")
    )
}

/// Why there is no package, in a few words.
fn why_none(tail: &VecDeque<String>, binhost: &Binhost) -> String {
    let url = &binhost.url;
    if let Some(at) = tail.iter().position(|line| line.contains(UNREACHABLE)) {
        let why = tail.get(at + 1).map_or("", |line| line.trim());
        let why = why.trim_start_matches("!!! ");
        let why = why.split_once("] ").map_or(why, |(_, text)| text);
        return format!("{url} cannot be read ({why})");
    }
    if tail.iter().any(|line| line.contains(NONE_THERE)) {
        return format!("{url} has none that fits");
    }
    format!("it could not be fetched from {url}: {}", failing_lines(tail).join(" / "))
}
