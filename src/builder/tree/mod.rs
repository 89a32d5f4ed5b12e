//! The kernel build tree that modules are compiled against (`kernel.tree`): the system ships it, or
//! this program makes it from what the machine has.

mod found;
mod from_source;
mod handover;
mod probe;
mod shell;
mod shipped;
#[cfg(test)]
mod tests;

pub use shell::prepare;

use std::cell::OnceCell;
use std::path::PathBuf;

use anyhow::{Context, Result};
use tracing::{info, warn};

use super::steps::Steps;
use super::workdir::WorkDir;
use crate::config::{Settings, Strategy, expand_release};
use crate::exit::{Exit, Failure};
use crate::fail;
use crate::host::{Host, Release};
use crate::kernel::{Tree, guard};
use crate::prefix::Prefix;
use crate::prefix::enter::Place;
use crate::prefix::owned::read_plain;
use crate::source::{KernelSource, Obtain, Obtained};
use crate::store::{Digest, Inputs, Layout};
use found::Found;
use from_source::Ingredients;

/// A way to get a build tree. A cheap look has found nothing against it.
#[derive(Debug)]
pub struct Candidate {
    /// The strategy of this way.
    pub strategy: Strategy,
    /// The inputs that the key of a build with this tree is made of.
    pub inputs: Inputs,
    /// That key.
    pub key: String,
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// The tree exists.
    There(Box<Tree>),
    /// A package contains the tree. It has to be fetched and unpacked.
    Packaged(KernelSource),
    /// The tree has to be made from these.
    Made(Box<Ingredients>),
}

/// Every strategy of the configuration: the possible ones in their order, and why the others are
/// not possible. Every boot asks this, so nothing is fetched, unpacked or recovered for it.
#[derive(Debug)]
pub struct Candidates {
    /// Not empty.
    pub possible: Vec<Candidate>,
    /// The strategies that are not possible, with the reasons.
    pub refused: Vec<Refused>,
    /// What the machine has of the kernel.
    pub found: Found,
}

/// What the search for a build tree needs.
struct Looking<'a> {
    host: &'a Host,
    settings: &'a Settings,
    release: &'a Release,
    found: &'a Found,
    /// The identity of the source, after the first question. All strategies have the same source.
    /// For a directory the answer is slow: it looks at every file.
    identity: OnceCell<String>,
}

/// Why a strategy is not taken.
#[derive(Clone, Debug)]
pub struct Refused {
    strategy: Strategy,
    exit: Exit,
    reason: String,
    tried: bool,
}

impl Refused {
    fn of(strategy: Strategy, error: &anyhow::Error, tried: bool) -> Refused {
        Refused { strategy, exit: crate::exit::of(error), reason: format!("{error:#}"), tried }
    }
}

impl Candidates {
    /// Looks for candidates. `common` are the inputs of a build that do not depend on the tree.
    ///
    /// # Errors
    /// No strategy is possible. The error has the reason of each.
    pub fn of(
        host: &Host,
        settings: &Settings,
        release: &Release,
        common: &Inputs,
    ) -> Result<Candidates> {
        let found = Found::of(host, settings, release);
        let look = Looking { host, settings, release, found: &found, identity: OnceCell::new() };
        let (mut possible, mut refused) = (Vec::new(), Vec::new());
        for &strategy in &settings.kernel.tree {
            match look.way(strategy) {
                Ok(way) => {
                    let mut inputs = common.clone();
                    look.add(&way, strategy, &mut inputs);
                    let key = inputs.key();
                    possible.push(Candidate { strategy, inputs, key, way });
                }
                Err(error) => refused.push(Refused::of(strategy, &error, false)),
            }
        }
        if possible.is_empty() {
            Err(none_left(release, &refused))
        } else {
            Ok(Candidates { possible, refused, found })
        }
    }
}

/// The error when every strategy was refused. It has the exit status of the last one that was
/// tried. If none was tried, it has that of the first.
fn none_left(release: &Release, refused: &[Refused]) -> anyhow::Error {
    let counts = refused.iter().rfind(|r| r.tried).or(refused.first());
    let exit = counts.map_or(Exit::NoKernelSource, |r| r.exit);
    let reasons: Vec<_> =
        refused.iter().map(|r| format!("{}: {}", r.strategy.name(), r.reason)).collect();
    let text = format!("no build tree (kernel.tree):\n  {}", reasons.join("\n  "));
    let first = reasons.first().cloned().unwrap_or_default();
    Failure::new(exit, format!("kernel {release}: {text}")).said_by(first).into()
}

impl Looking<'_> {
    fn way(&self, strategy: Strategy) -> Result<Way> {
        let source = || KernelSource::of(self.host, self.settings, self.release);
        if strategy == Strategy::Shipped {
            let dir = tree_dir(self.host, self.settings, self.release);
            return match Tree::open(&dir, self.release) {
                Ok(tree) => Ok(Way::There(Box::new(tree))),
                Err(error) => match source() {
                    Ok(Some(source)) if source.is_package() => Ok(Way::Packaged(source)),
                    // An error of the source is reported where the source is needed.
                    _ => Err(error),
                },
            };
        }
        Ingredients::find(self, strategy, source()?).map(|i| Way::Made(Box::new(i)))
    }

    /// Adds to `inputs` what of `way` a key is made of.
    fn add(&self, way: &Way, strategy: Strategy, inputs: &mut Inputs) {
        let identity = |source: &KernelSource| self.identity.get_or_init(|| source.identity());
        match way {
            Way::There(tree) => {
                inputs.add("kernel-config", Digest::of(&tree.config).as_str());
                inputs.add("module-symvers", Digest::of(tree.symvers_text.as_bytes()).as_str());
            }
            Way::Packaged(source) => inputs.add("kernel-source", identity(source)),
            Way::Made(from) => {
                inputs.add("kernel-tree", strategy.name());
                inputs.add("kernel-source", identity(&from.source));
                // The exports are no input: the build-id is one, and it determines them.
                inputs
                    .add("kernel-config", Digest::of(from.canonical_config().as_bytes()).as_str());
            }
        }
    }
}

/// Why a build for kernel `release` would fail because it has no build tree. `None` if a cheap look
/// finds no such reason.
pub fn why_none(host: &Host, settings: &Settings, release: &Release) -> Option<String> {
    let found = Candidates::of(host, settings, release, &Inputs::new());
    found.err().map(|error| format!("{error:#}"))
}

/// The directory where the build tree of kernel `release` should be: kernel.build-dir.
pub fn tree_dir(host: &Host, settings: &Settings, release: &Release) -> PathBuf {
    match &settings.kernel.build_dir {
        Some(template) => host.path(expand_release(template, release)),
        None => host.path(format!("/usr/lib/modules/{release}/build")),
    }
}

/// A tree that modules can be compiled against.
#[derive(Debug)]
pub struct Prepared {
    /// The tree. If it was made here, its files belong to the prefix's owner. `config` and
    /// `symvers` are what root knows of it.
    pub tree: Tree,
    /// What of the machine a compilation against it can see.
    pub place: Place,
    /// If it was made here: the owner's directory that contains it.
    made_in: Option<PathBuf>,
}

impl Prepared {
    /// A list of modules of the tree, such as `modules.order`. None if the tree does not have it.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn list(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.tree.output.join(name);
        if std::fs::symlink_metadata(&path).is_err() {
            return Ok(None);
        }
        match &self.made_in {
            Some(top) => read_plain(top, &path).map(Some),
            None => std::fs::read(&path).map(Some).with_context(|| format!("{}", path.display())),
        }
    }
}

/// Prepares a tree. All programs run in the prefix, as its owner.
pub struct Preparing<'a> {
    /// This machine.
    pub host: &'a Host,
    /// The kernel.
    pub release: &'a Release,
    /// Where everything is.
    pub layout: &'a Layout,
    /// The prefix it is prepared in.
    pub prefix: &'a Prefix,
    /// The prefix's compiler, as it says itself.
    pub compiler: &'a str,
    /// The build-id of the kernel.
    pub build_id: &'a str,
    /// What the machine has of the kernel.
    pub found: &'a Found,
    /// Where it works.
    pub work: &'a WorkDir,
    /// The boot waits for it: it has no network, and may not take an hour.
    pub early: bool,
    /// Compiler jobs at once.
    pub jobs: u32,
    /// Runs it, step by step.
    pub steps: Steps<'a>,
}

impl Preparing<'_> {
    /// Prepares the tree of one candidate.
    ///
    /// # Errors
    /// This way does not lead to a tree. The error has its exit status.
    pub fn prepare(&mut self, candidate: &Candidate) -> Result<Prepared> {
        match &candidate.way {
            Way::There(tree) => self.shipped(tree),
            Way::Packaged(source) => self.unpacked(source),
            Way::Made(from) => self.made(candidate.strategy, from),
        }
    }

    /// Prepares the first candidate that can be prepared, and returns it with its tree. The journal
    /// says why others were refused.
    ///
    /// # Errors
    /// No candidate can be prepared: the error has every reason. Or a signal stopped it.
    pub fn first<'c>(&mut self, all: &'c Candidates) -> Result<(&'c Candidate, Prepared)> {
        let mut refused = all.refused.clone();
        for no in &refused {
            info!("kernel.tree: not {:?}: {}", no.strategy.name(), no.reason);
        }
        for candidate in &all.possible {
            let strategy = candidate.strategy;
            let no = match self.pointless(strategy, &refused) {
                Some(reason) => Refused { strategy, exit: Exit::Other, reason, tried: false },
                None => match self.prepare(candidate) {
                    Ok(prepared) => {
                        let place = prepared.tree.output.display();
                        info!("kernel.tree: {:?}: {place}", strategy.name());
                        return Ok((candidate, prepared));
                    }
                    Err(error) if self.steps.cancel.is_set() => return Err(error),
                    Err(error) if crate::exit::of(&error) == Exit::NoSpace => return Err(error),
                    Err(error) => Refused::of(strategy, &error, true),
                },
            };
            warn!("kernel.tree: not {:?}: {}", strategy.name(), no.reason);
            refused.push(no);
        }
        Err(none_left(self.release, &refused))
    }

    /// Why this strategy need not be tried after those that were refused. Building a whole kernel
    /// helps only if the kernel's exports could not be recovered. It does not help against a source
    /// or a configuration that was refused.
    fn pointless(&self, strategy: Strategy, refused: &[Refused]) -> Option<String> {
        if strategy != Strategy::Full {
            return None;
        }
        if self.early {
            return Some("building a whole kernel takes longer than a boot may be held up".into());
        }
        let same = |r: &&Refused| r.strategy == Strategy::Recovered && r.tried;
        let before = refused.iter().find(same).filter(|r| r.exit != Exit::NoSymvers);
        before.map(|_| "it would fail as \"recovered\" did".to_owned())
    }
}

impl Preparing<'_> {
    /// Unpacks a kernel-devel package. The tree in it belongs to the prefix's owner.
    fn unpacked(&mut self, source: &KernelSource) -> Result<Prepared> {
        let Obtained::BuildTree(output) = self.obtain(source)? else {
            fail!(
                Exit::NoKernelSource,
                "{}: the source of a kernel, not a build tree",
                source.shown()
            );
        };
        // This directory is root's. What is below it is the owner's.
        let top = self.layout.cache().join("sources");
        let read = |name: &str| read_plain(&top, &output.join(name));
        // Modules are compiled against the tree's own Module.symvers, so it has to be the kernel's.
        let tree = Tree::of(&output, &output, self.release, read, None)?;
        let image = self.found.open(self.build_id)?;
        if let Some(exports) = self.found.exports(image.as_ref(), self.jobs)? {
            let table = format!("the Module.symvers of {}", source.shown());
            guard::exports(&table, &tree.symvers, &exports)?;
        }
        let prepared = self.shipped(&tree)?;
        let made_in = prepared.made_in.or(Some(top));
        Ok(Prepared { made_in, ..prepared })
    }

    fn obtain(&mut self, source: &KernelSource) -> Result<Obtained> {
        let progress = &mut *self.steps.progress;
        source.obtain(&mut Obtain {
            layout: self.layout,
            prefix: self.prefix,
            network: !self.early,
            cancel: self.steps.cancel,
            report: &mut |text| progress.stage(text),
        })
    }
}
