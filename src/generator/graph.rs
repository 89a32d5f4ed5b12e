//! Which of the units of datasets need each other, and what follows from it.

use std::path::Path;

use super::dataset::{self, Dataset, Mount, Nofail, Pulled, key_unit, mount_unit};

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
}

/// The traits of each of `nodes`, which are in the order of their names.
pub(super) fn traits(nodes: &[Node<'_, '_>]) -> Vec<Traits> {
    let seeds = |is: fn(&Node<'_, '_>) -> bool| -> Vec<usize> {
        nodes.iter().enumerate().filter(|(_, node)| is(node)).map(|(at, _)| at).collect()
    };
    let (required, network) = (seeds(is_required), seeds(is_from_the_network));
    let mut traits = vec![Traits::default(); nodes.len()];
    // Most lists have none of either, and 40,000 datasets may be in them.
    if required.is_empty() && network.is_empty() {
        return traits;
    }
    let needs = needs(nodes);
    let mut needed = vec![Vec::new(); nodes.len()];
    for (at, needs) in needs.iter().enumerate() {
        needs.iter().for_each(|need| needed[*need].push(at));
    }
    reached(&needs, required, |at| std::mem::replace(&mut traits[at].skipped, true));
    reached(&needed, network, |at| std::mem::replace(&mut traits[at].network, true));
    traits
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
/// unit, and the mount points above its own.
fn needs(nodes: &[Node<'_, '_>]) -> Vec<Vec<usize>> {
    let named = |name: &str| nodes.binary_search_by(|node| node.name.cmp(name)).ok();
    // The mount unit of / is always there.
    let above = |path: &str| -> Vec<usize> {
        let points = Path::new(path).ancestors().filter_map(Path::to_str);
        points.filter(|point| *point != "/").filter_map(|at| named(&mount_unit(at))).collect()
    };
    let needs = nodes.iter().enumerate().map(|(at, node)| {
        let needs = &node.dataset.needs;
        let mut found: Vec<usize> = needs.requires.iter().filter_map(|name| named(name)).collect();
        needs.paths.iter().for_each(|path| found.extend(above(path)));
        match &node.role {
            Role::Key(_) => node.dataset.key_file.iter().for_each(|file| found.extend(above(file))),
            Role::Mount(mount) => {
                found.extend(above(&mount.point));
                found.extend(node.dataset.key.and_then(|(root, _)| named(&key_unit(root))));
            }
        }
        found.retain(|need| *need != at);
        found
    });
    needs.collect()
}
