//! Which of the units of datasets need each other, and what follows from it.

use super::dataset::{self, Dataset, Mount, Nofail, Pulled, key_unit};
use crate::mountpoints::budget::Budget;
use crate::systemd::name::{LONGEST, escape_path};

/// A unit that will be written.
pub(super) struct Node<'c, 'a> {
    pub(super) name: &'c str,
    pub(super) dataset: &'c Dataset<'a>,
    pub(super) role: Role<'c, 'a>,
}

/// What it does for its dataset.
pub(super) enum Role<'c, 'a> {
    /// Loads the key from this location.
    Key(&'a str),
    Mount(&'c Mount<'a>),
}

/// What a unit is because of others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Traits {
    /// local-fs.target requires it, or a unit that needs it. Without modules it is skipped: if any
    /// of these units failed, the boot would fail.
    pub(super) skipped: bool,
    /// It, or a unit that it needs, loads a key from the network: it can only start after
    /// local-fs.target.
    pub(super) network: bool,
    /// systemd itself needs its mount point, or a unit that does needs this one. It must not fail
    /// because a pool or a key is not there.
    pub(super) vital: bool,
}

/// The traits of each of `nodes`, which are in the order of their names. `vital`: paths that
/// systemd itself needs, without links.
pub(super) fn traits(nodes: &[Node<'_, '_>], vital: &[String], budget: &Budget) -> Vec<Traits> {
    let seeds = |is: fn(&Node<'_, '_>) -> bool| -> Vec<usize> {
        nodes.iter().enumerate().filter(|(_, node)| is(node)).map(|(at, _)| at).collect()
    };
    let (required, network) = (seeds(is_required), seeds(is_from_the_network));
    let vital: Vec<usize> = vital.iter().flat_map(|path| above(path, nodes)).collect();
    let mut traits = vec![Traits::default(); nodes.len()];
    // Most lists have none of these, and 60,000 datasets may be in them.
    if required.is_empty() && network.is_empty() && vital.is_empty() {
        return traits;
    }
    let needs = needs(nodes, budget);
    let mut needed = vec![Vec::new(); nodes.len()];
    for (at, needs) in needs.iter().enumerate() {
        needs.iter().for_each(|need| needed[*need].push(at));
    }
    reached(&needs, required, |at| std::mem::replace(&mut traits[at].skipped, true));
    reached(&needs, vital, |at| std::mem::replace(&mut traits[at].vital, true));
    reached(&needed, network, |at| std::mem::replace(&mut traits[at].network, true));
    traits
}

/// The node with this name.
fn named(name: &str, nodes: &[Node<'_, '_>]) -> Option<usize> {
    nodes.binary_search_by(|node| node.name.cmp(name)).ok()
}

/// The nodes whose mount points are `path` or above it. The mount unit of / is always there.
fn above(path: &str, nodes: &[Node<'_, '_>]) -> Vec<usize> {
    // A mount point with a longer path has no unit.
    let path = path.get(..LONGEST).map_or(path, |cut| cut.rsplit_once('/').map_or("", |(p, _)| p));
    // The names of units above it begin as its own does: a dash is a slash.
    let name = escape_path(path);
    let ends = name.match_indices('-').map(|(at, _)| at).chain([name.len()]);
    let mut unit = String::new();
    let nodes = ends.filter_map(|end| {
        unit.clear();
        unit.push_str(&name[..end]);
        unit.push_str(".mount");
        named(&unit, nodes)
    });
    nodes.collect()
}

fn is_required(node: &Node<'_, '_>) -> bool {
    matches!(&node.role, Role::Mount(mount) if mount.pulled == Pulled::ByLocalFs(Nofail::Off))
}

fn is_from_the_network(node: &Node<'_, '_>) -> bool {
    matches!(node.role, Role::Key(location) if dataset::is_on_the_network(location))
}

/// Marks `next`, and all that can be reached from there. `mark` says whether a unit was marked
/// already.
fn reached(edges: &[Vec<usize>], mut next: Vec<usize>, mut mark: impl FnMut(usize) -> bool) {
    while let Some(at) = next.pop() {
        if !mark(at) {
            next.extend(&edges[at]);
        }
    }
}

/// For each unit, those that it cannot start without, as systemd sees it: what is written into the
/// unit, and the mount points above its own. When the budget is used up, nothing more is written.
fn needs(nodes: &[Node<'_, '_>], budget: &Budget) -> Vec<Vec<usize>> {
    let above = |path: &str| above(path, nodes);
    let needs = nodes.iter().enumerate().map(|(at, node)| {
        if budget.is_over() {
            return Vec::new();
        }
        let needs = &node.dataset.needs;
        let mut found: Vec<usize> =
            needs.requires.iter().filter_map(|name| named(name, nodes)).collect();
        needs.paths.iter().for_each(|path| found.extend(above(path)));
        match &node.role {
            Role::Key(_) => node.dataset.key_file.iter().for_each(|file| found.extend(above(file))),
            Role::Mount(mount) => {
                found.extend(above(&mount.point));
                found.extend(node.dataset.key.and_then(|(root, _)| named(&key_unit(root), nodes)));
            }
        }
        found.retain(|need| *need != at);
        found
    });
    needs.collect()
}
