//! Loading the published modules of the running kernel, early in the boot. Everything is checked
//! before the first module goes in: a refused tree leaves the kernel as it was.

mod held;
mod modprobe;
mod shipped;
mod state;
mod system;
mod tree;

use std::ffi::CString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use tracing::warn;

use crate::exit::{self, Exit, Failure};
use crate::fail;
use crate::host::{Host, Release};
use crate::log::id;
use crate::module::insert::{Image, Insert};
use crate::module::kmsg::Kmsg;
use crate::module::refusal::{Policy, explain};
use crate::module::{Found, order};
use crate::store::{Layout, make_dirs, switch_link};
pub use held::{ByHand, holds};
pub use modprobe::Hold;
use modprobe::Modprobe;
pub use shipped::{NotCounted, Shipped, Ships};
use state::State;
use system::System;
use tree::Tree;

/// What to load, and whom to trust.
#[derive(Clone, Debug)]
pub struct Loader<'a> {
    /// The machine.
    pub host: &'a Host,
    /// The module to load: `zfs`.
    pub module: &'a str,
    /// Who has to own the store: 0.
    pub owner: u32,
    /// How long a module that somebody else is inserting may take to become live.
    pub patience: Duration,
}

/// How a run that did not fail ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was in the kernel already; its version, if the module has one.
    AlreadyLive {
        /// `/sys/module/NAME/version`
        version: Option<String>,
    },
    /// The operating system ships it: zfs-load leaves it to modprobe.
    StandAside {
        /// The operating system's file.
        path: PathBuf,
        /// Whether modprobe will find it (it is in modules.dep).
        indexed: bool,
    },
    /// The operator's word, in modprobe.d(5) or on the kernel command line, is that the boot does
    /// not load it.
    HeldBack(Hold),
    /// Inserted.
    Loaded {
        /// The kernel.
        release: Release,
        /// The key of the tree.
        key: String,
        /// `/sys/module/NAME/version`
        version: Option<String>,
        /// The modules inserted, in order.
        modules: Vec<String>,
    },
}

/// One module that is to go in: checked, and ready.
struct Ready {
    path: PathBuf,
    file: File,
    /// The decompressed bytes, when the file itself is compressed.
    bytes: Option<Vec<u8>>,
    /// It is from the published tree, not one of the operating system's.
    published: bool,
}

/// What the operating system has as zfs.ko for kernel `release`: its own module, and files that are
/// none.
///
/// # Errors
/// Its module directories cannot be read.
pub fn ships(host: &Host, release: &Release) -> Result<Ships> {
    System::of(host, release)?.ships("zfs")
}

impl<'a> Loader<'a> {
    /// Loads `zfs` from trees that root owns.
    pub fn zfs(host: &'a Host) -> Loader<'a> {
        Loader { host, module: "zfs", owner: 0, patience: Duration::from_secs(60) }
    }

    /// Loads the module, unless it is there, the operating system has it, or the operator holds it
    /// back and has not asked for it ([`ByHand`]).
    ///
    /// # Errors
    /// [`Exit::NothingPublished`]: no tree for this very kernel. [`Exit::Refused`]: the tree is
    /// damaged, not root's, or for another kernel; or the kernel found it so, or is told to refuse
    /// it. [`Exit::SignaturePolicy`]: the kernel takes signed modules only. In all of them but the
    /// last two nothing was inserted.
    pub fn run(&self, insert: &mut impl Insert) -> Result<Outcome> {
        let system = System::of(self.host, &self.host.kernel_release)?;
        let (done, others) = self.nothing_to_do(&system)?;
        tell(&others);
        if let Some(outcome) = done {
            if matches!(outcome, Outcome::AlreadyLive { .. }) {
                self.point_to_what_is_live();
            }
            return Ok(outcome);
        }
        let modprobe = Modprobe::read(self.host);
        let by_hand = ByHand::take(self.host);
        let holds = modprobe.holds(self.module);
        if let Some(hold) = self.held_back(&holds, by_hand) {
            return Ok(Outcome::HeldBack(hold.clone()));
        }
        let tree = Tree::open(self.host, self.owner).map_err(|e| self.not_built(e, &holds))?;
        tree.check_version(self.host)?;
        tree.check_programs()?;
        let modules = order(self.module, |name| self.find(name, &tree, &system))?;
        let family = modprobe::family(self.module);
        let needed = modules.iter().filter(|(name, _)| !family.contains(name));
        let holds: Vec<Hold> =
            needed.filter_map(|(name, ready)| modprobe.hold(name, ready.published)).collect();
        if let Some(hold) = self.held_back(&holds, by_hand) {
            return Ok(Outcome::HeldBack(hold.clone()));
        }
        self.insert_all(&modules, &modprobe, insert)?;
        let version = state::version(self.host, self.module);
        if let Some(live) = version.as_deref().filter(|live| *live != tree.version()) {
            fail!(
                Exit::Other,
                "module {} of version {live} was inserted by somebody else meanwhile; the published version is {}: reboot; or export all pools, unload it and what it uses (rmmod zfs spl), and then: systemctl restart zfs-load",
                self.module,
                tree.version()
            );
        }
        self.point_active(&tree)?;
        Ok(Outcome::Loaded {
            release: self.host.kernel_release.clone(),
            key: tree.key().to_owned(),
            version,
            modules: modules.into_iter().map(|(name, _)| name).collect(),
        })
    }

    /// Whether [`Loader::run`] has something to load, without reading the modules: for
    /// ExecCondition=. A tree that is there but bad passes, and so does a module that is held back,
    /// so that the run names the reason.
    ///
    /// # Errors
    /// [`Exit::NothingPublished`] only.
    pub fn check(&self) -> Result<()> {
        // Looks for the tree first, which most boots have. Then only the run looks through the
        // system's modules.
        let error = match Tree::open(self.host, self.owner) {
            Err(error) if exit::of(&error) == Exit::NothingPublished => error,
            _ => return Ok(()),
        };
        let done = System::of(self.host, &self.host.kernel_release)
            .and_then(|system| self.nothing_to_do(&system));
        let Ok((None, others)) = done else { return Ok(()) };
        let holds = Modprobe::read(self.host).holds(self.module);
        if !holds.is_empty() && !ByHand::is_asked(self.host) {
            return Ok(());
        }
        tell(&others);
        Err(self.not_built(error, &holds))
    }

    /// What there is instead of a load, if so, and files that are not counted as the system's own.
    fn nothing_to_do(&self, system: &System<'_>) -> Result<(Option<Outcome>, Vec<NotCounted>)> {
        if state::of(self.host, self.module) == State::Coming {
            self.wait_until_live(self.module)?;
        }
        if state::of(self.host, self.module) == State::Live {
            let version = state::version(self.host, self.module);
            return Ok((Some(Outcome::AlreadyLive { version }), Vec::new()));
        }
        let Ships { module, others } = system.ships(self.module)?;
        let aside = |Shipped { path, indexed }| Outcome::StandAside { path, indexed };
        Ok((module.map(aside), others))
    }

    /// The operator's word against loading one of the modules, if it holds for this run.
    fn held_back<'h>(&self, holds: &'h [Hold], by_hand: bool) -> Option<&'h Hold> {
        let hold = holds.first()?;
        if by_hand {
            warn!(
                message_id = id::HELD_BACK,
                zfs_prefix_stage = "load",
                zfs_prefix_kernel = self.host.kernel_release.as_str(),
                "{hold}: {} is loaded all the same, since it was asked for by hand",
                self.module
            );
        }
        Some(hold).filter(|_| !by_hand)
    }

    /// The error of a machine without a tree. Where no build would be started by itself, its advice
    /// is another.
    fn not_built(&self, error: anyhow::Error, holds: &[Hold]) -> anyhow::Error {
        if exit::of(&error) != Exit::NothingPublished {
            return error;
        }
        // Only asked for here: a boot with a tree need not know.
        let refusals = modprobe::refusals(self.host, self.module);
        let Some(hold) = holds.first().or(refusals.first()) else { return error };
        let release = &self.host.kernel_release;
        Failure::new(
            Exit::NothingPublished,
            format!(
                "no ZFS modules are published for kernel {release}, and none are built: {}",
                hold.why_not_built()
            ),
        )
        .into()
    }

    fn insert_all(
        &self,
        modules: &[(String, Ready)],
        modprobe: &Modprobe,
        insert: &mut impl Insert,
    ) -> Result<()> {
        let mut parameters = Vec::with_capacity(modules.len());
        for (name, _) in modules {
            let text = CString::new(modprobe.options.of(name));
            parameters.push(text.with_context(|| format!("options of {name}"))?);
            if let Some(helper) = modprobe.helper(name) {
                warn!("{helper}: zfs-load does not run that, and loads {name} itself");
            }
        }
        let mut kmsg = Kmsg::at_end(&self.host.path("/dev/kmsg"));
        for ((name, ready), parameters) in modules.iter().zip(&parameters) {
            let image = ready.bytes.as_deref().map_or(Image::File(&ready.file), Image::Bytes);
            // What it said of the module before is none of its words about this one.
            let _ = kmsg.as_mut().map(Kmsg::skip);
            match insert.insert(name, image, parameters) {
                // Somebody else was faster: fine, if it stays.
                Ok(()) | Err(nix::errno::Errno::EEXIST) => self.wait_until_live(name)?,
                Err(errno) => {
                    let thread = nix::unistd::gettid().as_raw();
                    let log = kmsg.as_mut().map(|kmsg| kmsg.messages(thread));
                    let (path, policy) =
                        (ready.path.display().to_string(), Policy::read(self.host));
                    return Err(explain(name, &path, errno, &policy, log.as_deref()).into());
                }
            }
        }
        Ok(())
    }

    fn find(&self, name: &str, tree: &Tree, system: &System<'_>) -> Result<Found<Ready>> {
        if state::of(self.host, name) != State::Absent {
            return Ok(Found::Present);
        }
        if let Some(found) = tree.find(name)? {
            return Ok(found);
        }
        let found = system.find(name)?;
        Ok(match found {
            Found::Absent(looked) => {
                Found::Absent(format!("in {} or {looked}", tree.modules_dir().display()))
            }
            found => found,
        })
    }

    fn wait_until_live(&self, name: &str) -> Result<()> {
        if !state::wait_until_live(self.host, name, self.patience) {
            fail!(
                Exit::Other,
                "module {name} was inserted, but {} did not become live within {} s; see the kernel log: journalctl -k",
                self.host.path(format!("/sys/module/{name}")).display(),
                self.patience.as_secs()
            );
        }
        Ok(())
    }

    /// Points `active` to the tree of the live module, if nothing does. Somebody may have inserted
    /// the published module by hand (`modprobe -d`), or its loader did not come to its end. It gets
    /// its programs, too.
    fn point_to_what_is_live(&self) {
        let active = Layout::new(&self.host.root).active();
        if fs::symlink_metadata(active).is_ok() {
            return;
        }
        let Ok(tree) = Tree::open(self.host, self.owner) else { return };
        if tree.check_version(self.host).is_err() {
            return;
        }
        let live = state::version(self.host, self.module);
        if live.as_deref() != Some(tree.version()) {
            let live = live.as_deref().unwrap_or("of unknown version");
            let published = tree.version();
            warn!(
                "ZFS {live} was not loaded by zfs-load, and the published version is {published}: the programs of the published version are not used"
            );
            return;
        }
        if let Err(e) = tree.check_programs().and_then(|()| self.point_active(&tree)) {
            warn!("the programs published with the loaded modules are not used: {e:#}");
        }
    }

    fn point_active(&self, tree: &Tree) -> Result<()> {
        let layout = Layout::new(&self.host.root);
        make_dirs(&layout.run())?;
        let target = Layout::new(Path::new("/")).tree(&self.host.kernel_release, tree.key());
        switch_link(&layout.active(), &target).context("the modules are loaded")
    }
}

/// Names the files that are not counted as the operating system's own.
fn tell(others: &[NotCounted]) {
    for other in others {
        warn!(
            message_id = id::NOT_COUNTED,
            zfs_prefix_stage = "load",
            "not counted as the operating system's own module: {other}"
        );
    }
}
