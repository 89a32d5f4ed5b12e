//! `zfs-prefix status`: all that the operator wants to know at three in the morning.

use std::fmt;
use std::fs;
use std::path::PathBuf;

use serde::Serialize;

use super::pools::not_known;
use super::programs::Programs;
use crate::config::Settings;
use crate::exit::Exit;
use crate::host::Host;
use crate::kernel::running_build_id;
use crate::load::{self, Hold, NotCounted, Shipped, Ships};
use crate::pools::{self, Report};
use crate::store::{self, FailureRecord, Layout, Manifest};

/// What modprobe will not find.
const UNINDEXED: &str = ", which modprobe will not find: depmod -a";

/// The state of this machine; the JSON of `status --json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    kernel_release: String,
    /// null: active. Otherwise why the boot path does nothing.
    inactive_because: Option<String>,
    published: Option<Published>,
    /// Why the published tree cannot be used, if so.
    published_problem: Option<String>,
    /// The operating system's own module for this kernel, which zfs-load leaves to modprobe.
    stands_aside_for: Option<Shipped>,
    /// Files with the name of that module that are not for this kernel.
    not_counted: Vec<NotCounted>,
    /// Why neither of these two is known.
    shipped_problem: Option<String>,
    /// What says that ZFS is not loaded, at boot or at all.
    held_back: Vec<Hold>,
    loaded: Option<Loaded>,
    /// Whose zpool is used; null where there is none.
    programs: Option<Programs>,
    last_failure: Option<FailureRecord>,
    failure_problem: Option<String>,
    /// Those that are expected or imported, and what says which are expected.
    #[serde(flatten)]
    pools: Report,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Published {
    key: String,
    zfs_version: String,
    recipe: String,
    created: u64,
    tree: PathBuf,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Loaded {
    zfs_version: String,
    /// The published tree it came from; null when something else loaded it.
    tree: Option<PathBuf>,
}

impl Status {
    /// Looks at the machine.
    pub fn of(host: &Host, settings: &Settings, layout: &Layout) -> Status {
        let release = &host.kernel_release;
        let (published, published_problem) = match published(host, layout) {
            Ok(found) => (found, None),
            Err(error) => (None, Some(format!("{error:#}"))),
        };
        let (last_failure, failure_problem) = match FailureRecord::read(layout, release) {
            Ok(record) => (record, None),
            Err(error) => (None, Some(format!("{error:#}"))),
        };
        let (ships, shipped_problem) = match load::ships(host, release) {
            Ok(ships) => (ships, None),
            Err(error) => (Ships::default(), Some(format!("{error:#}"))),
        };
        let loaded = loaded(host, layout);
        let programs = {
            let version = loaded.as_ref().map(|l| l.zfs_version.as_str());
            Programs::of(host, version, userland_version(layout).as_deref())
        };
        Status {
            kernel_release: release.to_string(),
            inactive_because: settings.active(host).err().map(str::to_owned),
            published,
            published_problem,
            stands_aside_for: ships.module,
            not_counted: ships.others,
            shipped_problem,
            held_back: load::holds(host, release),
            loaded,
            programs,
            last_failure,
            failure_problem,
            pools: pools::look(host, settings),
        }
    }

    /// 0 if ZFS is loaded or can be loaded, and [`Exit::NothingPublished`] if not.
    /// [`Exit::PoolsAbsent`] if ZFS is loaded, and the expected pools are not sound.
    pub fn exit(&self) -> Exit {
        let shipped = self.stands_aside_for.as_ref().is_some_and(|shipped| shipped.indexed);
        match (&self.loaded, &self.published) {
            (Some(_), _) if !self.pools.sound() => Exit::PoolsAbsent,
            (None, None) if !shipped => Exit::NothingPublished,
            _ => Exit::Done,
        }
    }

    /// What may be done where ZFS is not loaded; nothing where other lines say it.
    fn how_to_load(&self) -> &'static str {
        match (&self.stands_aside_for, &self.published, self.held_back.as_slice()) {
            (Some(shipped), _, _) if shipped.indexed => {
                "; load it: modprobe zfs; then: zfs-prefix load --import"
            }
            (None, Some(_), []) => "; load it: zfs-prefix load --import",
            _ => "",
        }
    }

    /// What the system has under the name of the module, and what keeps it from being loaded.
    fn own_module(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Shipped { path, indexed }) = &self.stands_aside_for {
            let path = path.display();
            let who = if *indexed { "; it is left to modprobe" } else { UNINDEXED };
            writeln!(f, "stands aside: the system ships {path}{who}")?;
        }
        if let Some(problem) = &self.shipped_problem {
            writeln!(f, "stands aside: not known: {problem}")?;
        }
        self.not_counted.iter().try_for_each(|other| writeln!(f, " not counted: {other}"))?;
        self.held_back.iter().try_for_each(|hold| match &self.stands_aside_for {
            Some(_) if !hold.by_kernel => writeln!(f, "   held back: {hold}"),
            _ => writeln!(f, "   held back: {}", hold.why_not_loaded()),
        })
    }
}

fn published(host: &Host, layout: &Layout) -> anyhow::Result<Option<Published>> {
    let release = &host.kernel_release;
    let Some(key) = store::current_key(layout, release) else { return Ok(None) };
    let tree = layout.tree(release, &key);
    let manifest = store::check_published(layout, release, &key, 0)?;
    let running = running_build_id(host)?;
    if manifest.kernel_build_id != running {
        anyhow::bail!(
            "{}: was built for another kernel of the same release (build-id {}, running is {running})",
            tree.display(),
            manifest.kernel_build_id
        );
    }
    let (zfs_version, recipe, created) = (manifest.zfs_version, manifest.recipe, manifest.created);
    Ok(Some(Published { key, zfs_version, recipe, created, tree }))
}

fn loaded(host: &Host, layout: &Layout) -> Option<Loaded> {
    let version = fs::read_to_string(host.path("/sys/module/zfs/version")).ok()?;
    Some(Loaded {
        zfs_version: version.trim().to_owned(),
        tree: fs::read_link(layout.active()).ok(),
    })
}

/// The version of the programs in the tree that is loaded.
fn userland_version(layout: &Layout) -> Option<String> {
    let bytes = fs::read(layout.active().join("manifest.json")).ok()?;
    Manifest::parse(&bytes).ok()?.userland_version
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "     kernel: {}", self.kernel_release)?;
        if let Some(why) = &self.inactive_because {
            writeln!(f, "   inactive: {why}")?;
        }
        match (&self.published, &self.published_problem) {
            (Some(p), _) => {
                writeln!(f, "  published: ZFS {} (key {}, {})", p.zfs_version, p.key, p.recipe)?;
            }
            (None, Some(problem)) => writeln!(f, "  published: not usable: {problem}")?,
            (None, None) => match (&self.stands_aside_for, self.held_back.first()) {
                (Some(_), _) => writeln!(f, "  published: nothing, and nothing is to be built")?,
                (_, Some(hold)) => {
                    let why = hold.why_not_built();
                    writeln!(f, "  published: nothing, and nothing is built: {why}")?;
                }
                _ => writeln!(f, "  published: nothing; build: systemctl start zfs-build")?,
            },
        }
        self.own_module(f)?;
        match &self.loaded {
            Some(Loaded { zfs_version, tree: Some(tree) }) => {
                writeln!(f, "     loaded: ZFS {zfs_version} from {}", tree.display())?;
            }
            Some(l) => writeln!(f, "     loaded: ZFS {}, not from the store", l.zfs_version)?,
            None => writeln!(f, "     loaded: no{}", self.how_to_load())?,
        }
        if let Some(programs) = &self.programs {
            write!(f, "{programs}")?;
        }
        match (&self.last_failure, &self.failure_problem) {
            (Some(r), _) => {
                let wait = r.next_try.saturating_sub(store::unix_now());
                writeln!(
                    f,
                    "last failure: stage {} (attempt {}, next try in {wait} s)",
                    r.stage, r.attempts
                )?;
                r.reason.lines().try_for_each(|line| writeln!(f, "             {line}"))?;
            }
            (None, Some(problem)) => writeln!(f, "last failure: {problem}")?,
            (None, None) => {}
        }
        let indent = "\n             ";
        for pool in &self.pools.pools {
            writeln!(f, "       pool: {}", pool.to_string().replace('\n', indent))?;
        }
        not_known(&self.pools).iter().try_for_each(|why| writeln!(f, "      pools: {why}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pools::tests::host;

    #[test]
    fn it_is_20_where_zfs_is_loaded_without_its_pools_and_3_where_there_is_nothing_to_load() {
        let (_root, host) = host();
        let layout = Layout::new(&host.root);
        let mut settings = Settings::default();
        settings.pools.expected = vec!["tank".to_owned()];
        let exit = |settings: &Settings| Status::of(&host, settings, &layout).exit();
        assert_eq!(exit(&settings), Exit::NothingPublished);
        fs::create_dir_all(host.path("/sys/module/zfs")).unwrap();
        fs::write(host.path("/sys/module/zfs/version"), "2.3.2\n").unwrap();
        crate::pools::tests::script(&host, "zpool", "exit 0");
        crate::pools::tests::script(&host, "zfs", "exit 0");
        assert_eq!(exit(&settings), Exit::PoolsAbsent);
        crate::pools::tests::script(&host, "zpool", "printf 'tank\\tONLINE\\toff\\n'");
        assert_eq!(exit(&settings), Exit::Done);
        settings.pools.expected.clear();
        assert_eq!(exit(&settings), Exit::Done);
    }
}
