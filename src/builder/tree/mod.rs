//! The kernel build tree that modules are compiled against: the one that the system ships, or one
//! made here from what the machine has (`kernel.tree`).

mod apart;
mod found;
mod given;
mod made;
mod probe;
mod shipped;
#[cfg(test)]
mod tests;

pub use apart::prepare;

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
use made::Ingredients;

/// A way to a build tree that is possible as far as a cheap look tells.
#[derive(Debug)]
pub struct Candidate {
    /// Which one.
    pub strategy: Strategy,
    /// What the key of a build with it is made of.
    pub inputs: Inputs,
    /// That key.
    pub key: String,
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// It is there.
    There(Box<Tree>),
    /// A package of one, to be fetched and unpacked.
    Packaged(KernelSource),
    /// Made from these.
    Made(Box<Ingredients>),
}

/// Every strategy of the configuration: those that are possible, in their order, and why the others
/// are not. Nothing is fetched, unpacked or recovered: every boot asks this.
#[derive(Debug)]
pub struct Candidates {
    /// Not empty.
    pub possible: Vec<Candidate>,
    /// Strategy and reason.
    pub refused: Vec<Refused>,
    /// What the machine has of the kernel.
    pub found: Found,
}

/// Where ways are looked for.
struct Looking<'a> {
    host: &'a Host,
    settings: &'a Settings,
    release: &'a Release,
    found: &'a Found,
    /// The source's identity, once it was asked for: all strategies have the same source, and that
    /// of a directory is read off every file in it.
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
    /// `common`: the inputs of a build that the tree does not change.
    ///
    /// # Errors
    /// No strategy is possible, with the reason of each.
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

/// The error when every strategy was refused. The exit status is that of the last that was tried; of
/// the very first where none could be.
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
                    // What is wrong with the source is said where it is needed.
                    _ => Err(error),
                },
            };
        }
        Ingredients::find(self, strategy, source()?).map(|i| Way::Made(Box::new(i)))
    }

    /// What of `way` a key is made of.
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
                // The image's exports are those of its build-id, which is an input already.
                inputs
                    .add("kernel-config", Digest::of(from.canonical_config().as_bytes()).as_str());
            }
        }
    }
}

/// Why a build for kernel `release` would end for want of a build tree, as far as a cheap look tells;
/// `None` if it need not.
pub fn why_none(host: &Host, settings: &Settings, release: &Release) -> Option<String> {
    let found = Candidates::of(host, settings, release, &Inputs::new());
    found.err().map(|error| format!("{error:#}"))
}

/// Where the build tree of kernel `release` is looked for: kernel.build-dir.
pub fn tree_dir(host: &Host, settings: &Settings, release: &Release) -> PathBuf {
    match &settings.kernel.build_dir {
        Some(template) => host.path(expand_release(template, release)),
        None => host.path(format!("/usr/lib/modules/{release}/build")),
    }
}

/// A tree that modules can be compiled against.
#[derive(Debug)]
pub struct Prepared {
    /// The tree. Where it was made here, its files are the prefix's owner's; `config` and `symvers`
    /// are what root knows of it.
    pub tree: Tree,
    /// What a compilation against it gets of the machine.
    pub place: Place,
    /// The owner's directory that it is in, if it was made here.
    made_in: Option<PathBuf>,
}

impl Prepared {
    /// A list of modules (`modules.order` and its like) of the tree, if it has it.
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

/// Prepares a tree, in the prefix and as its owner.
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
    /// It holds up the boot: no network, and not for an hour.
    pub early: bool,
    /// Compiler jobs at once.
    pub jobs: u32,
    /// Runs it, step by step.
    pub steps: Steps<'a>,
}

impl Preparing<'_> {
    /// The tree of one candidate.
    ///
    /// # Errors
    /// It cannot be had this way: with its exit status.
    pub fn prepare(&mut self, candidate: &Candidate) -> Result<Prepared> {
        match &candidate.way {
            Way::There(tree) => self.shipped(tree),
            Way::Packaged(source) => self.unpacked(source),
            Way::Made(from) => self.made(candidate.strategy, from),
        }
    }

    /// The first of the candidates that can be prepared, and its tree; the others are in the journal
    /// with their reasons.
    ///
    /// # Errors
    /// None can: with every reason. It was stopped.
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

    /// Why this one need not be tried, after those that were refused. Building a whole kernel helps
    /// only where its exports could not be recovered; a source or a configuration that was refused
    /// stays what it is.
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
    /// A kernel-devel package, unpacked: a tree of the prefix's owner's.
    fn unpacked(&mut self, source: &KernelSource) -> Result<Prepared> {
        let Obtained::BuildTree(output) = self.obtain(source)? else {
            fail!(
                Exit::NoKernelSource,
                "{}: the source of a kernel, not a build tree",
                source.shown()
            );
        };
        // What is below it is the owner's; this one is root's.
        let top = self.layout.cache().join("sources");
        let read = |name: &str| read_plain(&top, &output.join(name));
        // Its own Module.symvers is what is compiled against: that has to be the kernel's.
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
