//! The units that zfs-mount-generator(8) would write, on a system where it cannot run at boot.

use std::collections::BTreeMap;
use std::fmt::Arguments;
use std::path::{Path, PathBuf};

use super::dataset::{self, Dataset, Last, Mount, Nofail, Pulled};
use super::dataset_text as text;
use super::dataset_text::World;
use super::graph::{Node, Role, Traits, traits};
use super::installed::Zfs;
use super::output::{Entry, Precedence, What};
use super::vital::Index;
use crate::host::Host;
use crate::mountpoints::budget::Budget;
use crate::mountpoints::list::{List, Place};
use crate::mountpoints::problems::Problems;
use crate::mountpoints::{IMPORTED, Mounts};

/// A unit with the links that pull it in.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    pub(super) file: Entry,
    pub(super) links: Vec<Entry>,
}

impl Unit {
    fn new(name: &str, text: String, links: Vec<Entry>) -> Unit {
        Unit { file: entry(PathBuf::from(name), What::File(text)), links }
    }
}

fn entry(path: PathBuf, what: What) -> Entry {
    Entry { precedence: Precedence::Normal, path, what }
}

/// What the units of datasets depend on, beside the lists.
pub(super) struct System<'s> {
    pub(super) host: &'s Host,
    pub(super) mounts: &'s Mounts<'s>,
    pub(super) index: &'s Index<'s>,
    /// Paths that systemd itself needs, without links.
    pub(super) vital: &'s [String],
    /// How units call zfs(8).
    pub(super) zfs: &'s Zfs,
    /// zfs-mount-generator(8), if it writes the units. Then they only get drop-ins.
    pub(super) peer: Option<&'s Path>,
}

/// Passes the units of all datasets in `lists` to `write`: of keys, and of file systems. Stops when
/// the budget is used up, and reports what is left out. Returns a summary for the debug log.
pub(super) fn units(
    lists: &[List],
    system: &System<'_>,
    budget: &Budget,
    problems: &mut Problems,
    mut write: impl FnMut(&Unit, &mut Problems),
) -> String {
    let imported = imported(system.host);
    let world = World { zfs: system.zfs, imported: &imported };
    // What is wrong with a line is for whoever makes a unit of it to say.
    let mut peers = Problems::default();
    let of_lines = if system.peer.is_some() { &mut peers } else { &mut *problems };
    let datasets = datasets(lists, system.mounts, &budget.half(), of_lines);
    let claims = claims(&datasets, system, of_lines);
    let nodes = nodes(&claims, &datasets, of_lines);
    let traits = traits(&nodes, system.vital, budget);
    let (first, rest): (Vec<_>, Vec<_>) =
        nodes.iter().zip(traits).partition(|(_, traits)| traits.skipped || traits.vital);
    let mut written = 0;
    let mut left_out = LeftOut::default();
    for (node, traits) in first.into_iter().chain(rest) {
        if budget.is_over() {
            left_out.add(node.dataset.place);
            continue;
        }
        let unit = match system.peer {
            None => unit(node, traits, &world, problems),
            Some(_) => text::drop_in(node, traits)
                .map(|text| Unit { file: Entry::drop_in(node.name, text), links: Vec::new() }),
        };
        if let Some(unit) = unit {
            write(&unit, problems);
            written += 1;
        }
    }
    left_out.report(format_args!("writing units has taken too long"), problems);
    match system.peer {
        None => format!("; {written} units of datasets{}", below_links(&nodes)),
        Some(peer) => format!("; datasets are left to {}", peer.display()),
    }
}

fn unit(
    node: &Node<'_, '_>,
    traits: Traits,
    world: &World<'_>,
    problems: &mut Problems,
) -> Option<Unit> {
    match node.role {
        Role::Key(location) => {
            let text = text::key(node.dataset, location, traits, world);
            Some(Unit::new(node.name, text, Vec::new()))
        }
        Role::Mount(mount) if traits.vital && traits.network => {
            problems.add(format_args!(
                "{}: {:?}: left out: systemd needs {} before there is a network, and a key comes \
                 from there. Set keylocation to a file or to prompt",
                node.dataset.place, node.dataset.name, mount.point
            ));
            None
        }
        Role::Mount(mount) => {
            let text = text::mount(node.dataset, mount, traits, world);
            Some(Unit::new(node.name, text, links(node.name, mount, traits)))
        }
    }
}

/// Datasets for which the time was too short.
#[derive(Default)]
struct LeftOut<'a> {
    first: Option<Place<'a>>,
    number: usize,
}

impl<'a> LeftOut<'a> {
    fn add(&mut self, place: Place<'a>) {
        self.first.get_or_insert(place);
        self.number += 1;
    }

    fn report(&self, why: Arguments<'_>, problems: &mut Problems) {
        if let Some(first) = self.first {
            problems.add_always(format_args!(
                "{first}: {why}: this dataset and {} more have no units. \
                 zfs-mount.service mounts them, if it is enabled",
                self.number - 1
            ));
        }
    }
}

/// The units that are written: one for each name, whatever number of datasets claims it.
fn nodes<'c, 'a>(
    claims: &'c BTreeMap<String, Vec<usize>>,
    datasets: &'c [Dataset<'a>],
    problems: &mut Problems,
) -> Vec<Node<'c, 'a>> {
    let mut nodes = Vec::new();
    for (name, claims) in claims {
        let Some(first) = claims.first().and_then(|at| datasets.get(*at)) else { continue };
        match first.key.filter(|(root, _)| name.ends_with(SERVICE) && *root == first.name) {
            Some((_, location)) => {
                nodes.push(Node { name, dataset: first, role: Role::Key(location) });
            }
            None => {
                let claims = claims.iter().filter_map(|at| datasets.get(*at));
                let Some((dataset, mount)) = chosen(claims, problems) else { continue };
                nodes.push(Node { name, dataset, role: Role::Mount(mount) });
            }
        }
    }
    nodes
}

/// How many mount points are below links, and one as an example. A unit that waits for such a mount
/// point has to name the path that the link leads to.
fn below_links(nodes: &[Node<'_, '_>]) -> String {
    let mut linked = nodes.iter().filter_map(|node| match &node.role {
        Role::Mount(Mount { link: Some(link), point, .. }) => Some((link, point)),
        _ => None,
    });
    let Some((link, point)) = linked.next() else { return String::new() };
    let more = linked.count() + 1;
    format!(", {more} with a link in the mount point (as {link}, which is {point})")
}

/// The end of the names of units that load keys.
const SERVICE: &str = ".service";

fn imported(host: &Host) -> Vec<String> {
    let pools = std::fs::read_dir(host.path(IMPORTED)).into_iter().flatten().flatten();
    let pools = pools.filter(|pool| pool.file_type().is_ok_and(|kind| kind.is_dir()));
    pools.filter_map(|pool| pool.file_name().into_string().ok()).collect()
}

/// All of them that become units, in the order of the lists.
fn datasets<'a>(
    lists: &'a [List],
    mounts: &Mounts<'_>,
    budget: &Budget,
    problems: &mut Problems,
) -> Vec<Dataset<'a>> {
    let mut datasets = Vec::new();
    let mut left_out = LeftOut::default();
    let mut last = Last::default();
    for list in lists {
        for (number, line) in list.lines() {
            if budget.is_over() {
                left_out.add(list.place(number));
                continue;
            }
            match line {
                Ok(line) => {
                    let line = (number, &line);
                    datasets.extend(dataset::read(list, line, mounts, &mut last, problems));
                }
                Err(why) => problems.add(format_args!("{}: the line {why}", list.place(number))),
            }
        }
    }
    left_out.report(format_args!("reading the lists has taken too long"), problems);
    datasets
}

/// The name of each unit, and which of `datasets` claim it.
fn claims(
    datasets: &[Dataset<'_>],
    system: &System<'_>,
    problems: &mut Problems,
) -> BTreeMap<String, Vec<usize>> {
    let mut claims: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (at, dataset) in datasets.iter().enumerate() {
        let name = dataset.name;
        if dataset.key.is_some_and(|(root, _)| root == name) {
            claims.entry(dataset::key_unit(name)).or_default().push(at);
        }
        let Some(mount) = &dataset.mount else { continue };
        let unit = dataset::mount_unit(&mount.point);
        let (place, point) = (&dataset.place, &mount.point);
        let who = match system.mounts.in_fstab(Path::new(point)) {
            // Probably fstab has this very dataset, because somebody prefers fstab.
            Some(true) => continue,
            Some(false) => PathBuf::from("/etc/fstab"),
            None => match system.index.file(&unit) {
                Some(file) => file,
                None => {
                    claims.entry(unit).or_default().push(at);
                    continue;
                }
            },
        };
        let who = who.display();
        problems.add(format_args!("{place}: {name:?}: not at {point}, which {who} has"));
    }
    claims
}

/// The dataset that is mounted, of those with the same mount point: the first with `canmount=on`.
/// One with `noauto` is mounted only if there is no other: several are the boot environments of one
/// system.
fn chosen<'c, 'a>(
    claims: impl Iterator<Item = &'c Dataset<'a>>,
    problems: &mut Problems,
) -> Option<(&'c Dataset<'a>, &'c Mount<'a>)> {
    let (mut on, mut noauto, mut others) = (None, None, 0);
    for dataset in claims {
        let Some(mount) = &dataset.mount else { continue };
        match on {
            _ if mount.noauto => (noauto, others) = (Some((dataset, mount)), others + 1),
            None => on = Some((dataset, mount)),
            Some((first, _)) => problems.add(format_args!(
                "{}: {:?}: {} is that of {:?} already",
                dataset.place, dataset.name, mount.point, first.name
            )),
        }
    }
    on.or(noauto.filter(|_| others == 1))
}

/// The links to `unit` in the directories of those that pull it in.
fn links(unit: &str, mount: &Mount<'_>, traits: Traits) -> Vec<Entry> {
    let local_fs = [text::file_systems(traits)];
    let (wanted, required): (&[&str], &[&str]) = match &mount.pulled {
        Pulled::ByNobody => (&[], &[]),
        Pulled::ByLocalFs(Nofail::Off) => (&[], &local_fs),
        Pulled::ByLocalFs(Nofail::Unset | Nofail::On) => (&local_fs, &[]),
        Pulled::By(wanted, required) => (wanted, required),
    };
    let link = |by: &str, kind: &str| {
        let path = PathBuf::from(format!("{by}.{kind}/{unit}"));
        entry(path, What::Link(Path::new("..").join(unit)))
    };
    let wants = wanted.iter().map(|by| link(by, "wants"));
    wants.chain(required.iter().map(|by| link(by, "requires"))).collect()
}

#[cfg(test)]
#[path = "datasets_tests.rs"]
mod tests;
