//! `zfs-prefix prefix provision`: checks an archive and makes a prefix from it in its place.
//!
//! Root fetches into `/var/cache/zfs-prefix/download` and checks what it got. Everything below the
//! prefix's parent is done with the rights of its owner ([`step`]). The parent's owner makes and
//! renames the temporary directory. The prefix's owner unpacks into it. Until the one rename at the
//! end the prefix is as it was. The next run removes what a crash leaves.

mod check;
mod fetch;
mod manifest;
mod need;
mod pause;
mod place;
mod report;
mod sound;
pub mod step;
pub(crate) mod unpack;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use serde::Serialize;
use tracing::warn;

use crate::config::{Settings, Source};
use crate::exit::{self, Exit};
use crate::fail;
use crate::fetch::{Part, network};
use crate::host::Host;
use crate::pools::absent::{self, Directory};
use crate::process::Cancel;
use crate::store::{Holder, Layout, Lock, unix_now};
use check::Expected;
use pause::Pause;
use place::{Present, Target};
use report::Report;
use step::{Hands, Step};

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The archive to use instead of `prefix.source`. Then `prefix.sha256` and `prefix.size` do not
    /// apply.
    pub source: Option<Source>,
    /// The digest of that archive.
    pub sha256: Option<String>,
    /// Replace a prefix that exists, and keep it under another name.
    pub replace: bool,
    /// For the unit: it is no error if a prefix exists, or if nothing is configured.
    pub if_missing: bool,
    /// Audit the tree before it gets its name.
    pub audit: bool,
    /// This program. It runs itself with the rights of the prefix's owner.
    pub exe: PathBuf,
}

/// How signals end a run.
#[derive(Clone, Debug, Default)]
pub struct Signals {
    /// Set by SIGTERM and SIGINT: give up and clean up.
    pub cancel: Cancel,
    /// Set while there is nothing to clean up. Then a signal ends the process at once, even while
    /// it waits for a server.
    pub at_once: Arc<AtomicBool>,
}

/// The content of [`MARK`].
#[derive(Debug, Serialize)]
struct Mark<'a> {
    version: u32,
    source: String,
    sha256: &'a str,
    /// The digest of the tree by the archive's manifest; null without one.
    digest: Option<&'a str>,
    when: u64,
    /// The name of the directory that it was unpacked in. After a crash it tells the next run
    /// whether a directory with that name is a new tree or the old prefix.
    made_as: String,
}

/// How a run ended well, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There was nothing to do.
    Nothing(String),
    /// A prefix was put in place.
    Provisioned(String),
}

/// Fetches, checks, unpacks and puts in place.
///
/// # Errors
/// Each has its exit status: [`Exit::Refused`] for a signature, digest or entry that is not right,
/// [`Exit::Network`], [`Exit::NoSpace`], [`Exit::PrefixIncomplete`] for a place or an owner that is
/// not possible, [`Exit::PoolsAbsent`] for a place on a pool that is not there, [`Exit::Locked`].
/// After an error the prefix is as it was.
pub fn run(
    host: &Host,
    settings: &Settings,
    options: &Options,
    signals: &Signals,
) -> Result<Outcome> {
    let path = &settings.prefix.path;
    let present = Present::at(path);
    let source = options.source.as_ref().or(settings.prefix.source.as_ref());
    if options.if_missing && present == Present::Content {
        return Ok(Outcome::Nothing(format!("{} is there already", path.display())));
    }
    let Some(source) = source else {
        let text = format!("no prefix at {}, and prefix.source is not set", path.display());
        if options.if_missing {
            return Ok(Outcome::Nothing(format!("{text}: nothing to provision")));
        } else {
            fail!(
                Exit::PrefixIncomplete,
                "{text}: say where its archive is, in prefix.source or with --source; see zfs-prefix.toml(5)"
            )
        }
    };
    let layout = Layout::new(&host.root);
    if options.if_missing
        && let Some(why) = need::nothing_to_build(host, settings, &layout)
    {
        return Ok(Outcome::Nothing(format!(
            "{why}, and nothing else to build for: no prefix is fetched"
        )));
    }
    if !nix::unistd::geteuid().is_root() {
        fail!(
            Exit::Other,
            "provisioning needs root, which hands everything in the prefix to its owner: sudo zfs-prefix prefix provision"
        );
    }
    absent::refuse(host, settings, &[Directory::Prefix, Directory::Cache])?;
    let _lock = Lock::provision(&layout)?;
    // Look again with the lock: before, another run may have been at work.
    match Present::at(path) {
        Present::Content if options.if_missing => {
            return Ok(Outcome::Nothing(format!("{} is there already", path.display())));
        }
        Present::Content if !options.replace => fail!(
            Exit::Other,
            "{0} is there already; to put another one in its place, and keep this one beside it: zfs-prefix prefix provision --replace",
            path.display()
        ),
        _ => {}
    }
    let expected = Expected::of(&settings.prefix, options)?;
    let target = Target::find(&settings.prefix)?;
    let provision =
        Provision { host, settings, options, signals, layout, source, expected, target };
    provision.run().map(Outcome::Provisioned)
}

struct Provision<'a> {
    host: &'a Host,
    settings: &'a Settings,
    options: &'a Options,
    signals: &'a Signals,
    layout: Layout,
    source: &'a Source,
    expected: Expected,
    target: Target,
}

impl Provision<'_> {
    fn run(&self) -> Result<String> {
        let pause = Pause::of(&self.layout, self.settings, self.source)?;
        if self.options.if_missing {
            pause.check()?;
        }
        let hands = Hands {
            exe: &self.options.exe,
            user: self.target.user,
            parent_is_roots: self.target.parent_is_roots,
        };
        hands.in_parent(&self.clean(), &self.signals.cancel)?;
        let mut report = Report::new();
        let (part, fetched) = self.fetch(&mut report)?;
        let placed = self.check_and_place(&hands, &part, &fetched, &mut report);
        match &placed {
            Ok(text) => {
                part.remove();
                pause.over();
                report.done(text);
            }
            Err(error) => {
                pause.failed(error);
                // Remove a wrong archive: otherwise every run would go on from it. Keep a good one,
                // so that it need not be fetched again, unless the disk needs its room.
                let room = exit::of(error) == Exit::NoSpace && self.shares_disk(&part);
                if blames_archive(error) || room {
                    part.remove();
                }
            }
        }
        placed
    }

    fn fetch(&self, report: &mut Report) -> Result<(Part, fetch::Fetched)> {
        let part =
            Part::new(&self.layout.cache().join("download"), &crate::fetch::name(self.source))?;
        part.remove_others()?;
        // There is nothing to clean up here: the download is kept.
        self.signals.at_once.store(true, Ordering::Relaxed);
        if self.options.if_missing && matches!(self.source, Source::Https(_)) {
            network::wait_for_network(&self.signals.cancel);
        }
        let fetched = fetch::fetch(self.source, &part, &self.target.path, &self.expected, report);
        self.signals.at_once.store(false, Ordering::Relaxed);
        let fetched = fetched.inspect_err(|error| {
            if blames_archive(error) || exit::of(error) == Exit::NoSpace {
                part.remove();
            }
        })?;
        Ok((part, fetched))
    }

    fn check_and_place(
        &self,
        hands: &Hands<'_>,
        part: &Part,
        fetched: &fetch::Fetched,
        report: &mut Report,
    ) -> Result<String> {
        // Take the lock only after the download: until then builds may use the prefix that exists.
        // If a build holds the lock, the download stays for the next run.
        let _lock = Lock::take(&self.layout, &Holder::Provision)?;
        report.say("checking the archive");
        let signature = fetched.signature.as_deref();
        let checked = check::check(&part.path, self.source, &self.expected, signature)?;
        part.open_to_all()?;
        let digest = fetched.manifest.as_ref().and_then(|m| m.digest(&checked.sha256));
        self.put_in_place(hands, part, digest, &checked, report).inspect_err(|_| {
            // Remove what we made in the parent, even after a signal.
            let cleaned = hands.in_parent(&self.clean(), &Cancel::after(place::CLEANING));
            if let Err(error) = cleaned {
                warn!("{error:#}; the next run removes it");
            }
        })
    }

    /// Whether the download takes room where the prefix goes.
    fn shares_disk(&self, part: &Part) -> bool {
        let device = |path: &Path| std::fs::metadata(path).map(|meta| meta.dev()).ok();
        device(&part.path) == device(place::parent(&self.target.path))
    }

    fn clean(&self) -> Step {
        Step::Clean { target: self.target.path.clone(), uid: self.target.user.uid }
    }

    fn put_in_place(
        &self,
        hands: &Hands<'_>,
        part: &Part,
        digest: Option<&str>,
        checked: &check::Checked,
        report: &mut Report,
    ) -> Result<String> {
        let cancel = &self.signals.cancel;
        let (path, user) = (&self.target.path, self.target.user);
        let make = Step::Make { target: path.clone(), uid: user.uid, gid: user.gid };
        let dir = PathBuf::from(hands.in_parent(&make, cancel)?);
        let unpack = Step::Unpack {
            archive: part.path.clone(),
            dir: dir.clone(),
            eprefix: path.clone(),
            mark: self.mark(checked, digest, &dir)?,
        };
        hands.as_owner(&unpack, cancel, &mut |line| report.unpacking(line))?;
        if self.options.audit {
            report.say("auditing the prefix");
            sound::check(self.host, self.source, &dir, path, cancel)?;
        }
        // The rest is quick and must not be interrupted.
        if cancel.is_set() {
            anyhow::bail!("stopped by a signal; {} is as it was", path.display());
        }
        let place = Step::Place { dir, target: path.clone(), replace: self.options.replace };
        let old = hands.in_parent(&place, &Cancel::default())?;
        let kept = if old.is_empty() {
            String::new()
        } else {
            format!("; the old one is in {old}, remove it when it is not missed")
        };
        let by = checked
            .by
            .as_ref()
            .map_or_else(|| "unsigned".to_owned(), |by| format!("signed, {by:?}"));
        Ok(format!("provisioned {} from {} ({by}){kept}", path.display(), self.source))
    }

    fn mark(&self, checked: &check::Checked, digest: Option<&str>, dir: &Path) -> Result<String> {
        let mark = Mark {
            version: 1,
            source: self.source.to_string(),
            sha256: &checked.sha256,
            digest,
            when: unix_now(),
            made_as: dir.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        };
        Ok(serde_json::to_string(&mark)?)
    }
}

/// Whether the archive caused the failure, so that only fetching it again can help.
fn blames_archive(error: &anyhow::Error) -> bool {
    matches!(exit::of(error), Exit::Refused | Exit::PrefixIncomplete)
}
