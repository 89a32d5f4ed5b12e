//! The units that zfs-mount-generator(8) would write, on a system where it cannot run at boot.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::dataset::{self, Dataset, Mount, Nofail, Pulled};
use super::dataset_text as text;
use super::dataset_text::World;
use super::graph::{Node, Role, Traits, traits};
use super::installed::Zfs;
use super::mounts::Mounts;
use super::output::{Entry, Precedence, What};
use super::problems::Problems;
use super::zfs_list::List;
use crate::host::Host;

/// A directory for each imported pool, if the module is loaded.
const POOLS: &str = "/proc/spl/kstat/zfs";

/// A unit with the links that pull it in.
#[derive(Debug)]
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

/// The units of datasets, and a summary of them for the debug log.
#[derive(Debug)]
pub(super) struct Units {
    pub(super) all: Vec<Unit>,
    pub(super) summary: String,
}

/// The units of all datasets in `lists`: of keys, and of file systems. `zfs`: how they call zfs(8).
pub(super) fn units(
    host: &Host,
    lists: &[List],
    mounts: &Mounts<'_>,
    zfs: &Zfs,
    problems: &mut Problems,
) -> Units {
    let imported = imported(host);
    let world = World { zfs, imported: &imported };
    let datasets = datasets(lists, mounts, problems);
    let claims = claims(&datasets, mounts, problems);
    let nodes = nodes(&claims, &datasets, problems);
    let written = nodes.iter().zip(traits(&nodes)).map(|(node, traits)| match node.role {
        Role::Key(location) => {
            Unit::new(node.name, text::key(node.dataset, location, &world), Vec::new())
        }
        Role::Mount(mount) => {
            let text = text::mount(node.dataset, mount, traits, &world);
            Unit::new(node.name, text, links(node.name, mount, traits))
        }
    });
    let all: Vec<Unit> = written.collect();
    let summary = format!("; {} units of datasets{}", all.len(), below_links(&nodes));
    Units { all, summary }
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
    let pools = std::fs::read_dir(host.path(POOLS)).into_iter().flatten().flatten();
    let pools = pools.filter(|pool| pool.file_type().is_ok_and(|kind| kind.is_dir()));
    pools.filter_map(|pool| pool.file_name().into_string().ok()).collect()
}

/// All of them that become units, in the order of the lists.
fn datasets<'a>(
    lists: &'a [List],
    mounts: &Mounts<'_>,
    problems: &mut Problems,
) -> Vec<Dataset<'a>> {
    let mut datasets = Vec::new();
    for list in lists {
        for (number, line) in list.lines() {
            match line {
                Ok(line) => {
                    datasets.extend(dataset::read(list, number, &line, mounts, problems));
                }
                Err(why) => problems.add(format_args!("{}: the line {why}", list.place(number))),
            }
        }
    }
    datasets
}

/// The name of each unit, and which of `datasets` claim it.
fn claims(
    datasets: &[Dataset<'_>],
    mounts: &Mounts<'_>,
    problems: &mut Problems,
) -> BTreeMap<String, Vec<usize>> {
    let mut claims: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (at, dataset) in datasets.iter().enumerate() {
        let name = dataset.name;
        if dataset.key.is_some_and(|(root, _)| root == name) {
            claims.entry(dataset::key_unit(name)).or_default().push(at);
        }
        let Some(mount) = &dataset.mount else { continue };
        match mounts.in_fstab(Path::new(&mount.point)) {
            None => claims.entry(dataset::mount_unit(&mount.point)).or_default().push(at),
            // Probably fstab has this very dataset, because somebody prefers fstab.
            Some(true) => {}
            Some(false) => {
                let (place, point) = (&dataset.place, &mount.point);
                problems
                    .add(format_args!("{place}: {name:?}: not at {point}, which /etc/fstab has"));
            }
        }
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
mod tests {
    use super::super::zfs_list::tests::of;
    use super::*;

    /// What is written for these lines of a list of the pool tank, and what is said.
    fn written(root: &Path, list: &str) -> (BTreeMap<String, String>, Vec<String>) {
        let host = crate::generator::tests::host(root);
        let lists = [of("tank", list)];
        let mut problems = Problems::default();
        let mounts = Mounts::read(&host, &lists, &mut problems);
        let zfs = Zfs { command: PathBuf::from("/usr/sbin/zfs"), search: None };
        let units = units(&host, &lists, &mounts, &zfs, &mut problems).all;
        let entries = units.into_iter().flat_map(|unit| {
            assert_eq!(unit.file.path.components().count(), 1, "{:?}", unit.file.path);
            assert!(unit.links.iter().all(|link| link.path.components().count() == 2));
            std::iter::once(unit.file).chain(unit.links)
        });
        let written = entries.map(|entry| {
            let what = match entry.what {
                What::File(text) => text,
                What::Link(target) => target.display().to_string(),
            };
            (entry.path.display().to_string(), what)
        });
        (written.collect(), problems.into_lines())
    }

    const FLAGS: &str = "on\ton\ton\ton\toff\ton\toff";

    #[test]
    fn nothing_in_a_list_leads_out_of_the_directory_or_becomes_a_setting_of_its_own() {
        let root = tempfile::tempdir().unwrap();
        let tail = "-\tnone\t-\t-\t-\t-\t-\t-\t-\t-";
        for (line, why) in [
            (format!("../../etc/x\t/x\ton\t{FLAGS}\t{tail}"), "no name of a dataset"),
            (format!("tank/../x\t/x\ton\t{FLAGS}\t{tail}"), "no name of a dataset"),
            (format!("tank//x\t/x\ton\t{FLAGS}\t{tail}"), "no name of a dataset"),
            (format!("tank/$(reboot)\t/x\ton\t{FLAGS}\t{tail}"), "no name of a dataset"),
            (format!("tank/x \t/x\ton\t{FLAGS}\t{tail}"), "no name of a dataset"),
            (format!("tank/x\t/../x\ton\t{FLAGS}\t{tail}"), "no absolute path"),
            (format!("tank/x\t/x\\\ton\t{FLAGS}\t{tail}"), "cannot be written"),
            (format!("tank/x\t/x \ton\t{FLAGS}\t{tail}"), "cannot be written"),
            (format!("tank/x\t/x\rExecStart=/y\ton\t{FLAGS}\t{tail}"), "control character"),
            (format!("tank/x\t/{}\ton\t{FLAGS}\t{tail}", "y".repeat(260)), "too long"),
            (format!("tank/x\t/x\tperhaps\t{FLAGS}\t{tail}"), "canmount=perhaps"),
            ("tank/x\t/x\ton".to_owned(), "columns are missing"),
            ("no list".to_owned(), "columns are missing"),
        ] {
            let (units, said) = written(root.path(), &line);
            assert!(units.is_empty(), "{line:?}: {units:?}");
            assert_eq!(said.len(), 1, "{line:?}: {said:?}");
            assert!(said[0].starts_with("/etc/zfs/zfs-list.cache/tank:1: "), "{said:?}");
            assert!(said[0].contains(why), "{line:?}: {said:?}");
        }
        // What only a part of is wrong with is mounted without that part.
        let line = format!(
            "tank/x\t/x\ton\t{FLAGS}\t-\tnone\ta/b.service\trelative\t../x.service\tno-unit\t\
             ../../up.target a.target\t-\tperhaps\toff"
        );
        let (units, said) = written(root.path(), &line);
        assert_eq!(units.keys().collect::<Vec<_>>(), ["a.target.wants/x.mount", "x.mount"]);
        assert!(!units["x.mount"].contains("..") && !units["x.mount"].contains("relative"));
        assert_eq!(said.len(), 5, "{said:?}");
    }

    #[test]
    fn names_are_read_back_by_systemd_as_they_are() {
        let root = tempfile::tempdir().unwrap();
        let line = format!(
            "tank/a %x\t/é 100%/\"b'\ton\t{FLAGS}\ttank/a %x\tfile:///k y/it's 5%\t-\t/n%n"
        );
        let (units, said) = written(root.path(), &line);
        assert_eq!(said, [""; 0]);
        let mount = &units["\\xc3\\xa9\\x20100\\x25-\\x22b\\x27.mount"];
        assert!(mount.contains("\nWhere=/é 100%%/\"b'\nWhat=tank/a %%x\n"), "{mount}");
        assert!(mount.contains("\nRequiresMountsFor=/n%%n\n"), "{mount}");
        let key = &units["zfs-load-key@tank-a\\x20\\x25x.service"];
        assert!(key.contains("\nRequiresMountsFor=/n%%n \"/k y/it's 5%%\"\n"), "{key}");
        assert!(key.contains(" /usr/sbin/zfs \"tank/a %%x\"\n"), "{key}");
        assert!(mount.contains("\nRequires=zfs-load-key@tank-a\\x20\\x25x.service\n"), "{mount}");
    }

    #[test]
    fn a_mount_point_of_fstab_is_fstabs_and_the_key_is_loaded_all_the_same() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        let fstab = "/dev/vda /srv/ ext4 noauto 0 0\ntank/home /home zfs zfsutil 0 0\n";
        std::fs::write(root.path().join("etc/fstab"), fstab).unwrap();
        let list = format!(
            "tank\t/srv\ton\t{FLAGS}\ttank\tprompt\ntank/home\t/home\ton\t{FLAGS}\ttank\tnone\n"
        );
        let (units, said) = written(root.path(), &list);
        assert_eq!(units.keys().collect::<Vec<_>>(), ["zfs-load-key@tank.service"]);
        assert!(
            said.len() == 1 && said[0].contains("not at /srv, which /etc/fstab has"),
            "{said:?}"
        );
    }

    #[test]
    fn a_pool_that_is_imported_already_is_not_waited_for() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("proc/spl/kstat/zfs/tank")).unwrap();
        let line = |name| format!("{name}\t/{name}\ton\t{FLAGS}\t{name}\tprompt\n");
        let (units, said) = written(root.path(), &(line("tank") + &line("other")));
        assert_eq!(said, [""; 0]);
        assert_eq!(units.len(), 6, "{units:?}");
        for (name, text) in units.iter().filter(|(name, _)| !name.contains(".wants/")) {
            let waits = text.contains("zfs-import.target");
            assert_eq!(waits, name.contains("other"), "{name}: {text}");
        }
    }

    /// A line with these properties from `encroot` on, as many as are given.
    fn line(name: &str, point: &str, rest: &str) -> String {
        let given = rest.split('\t').count();
        format!("{name}\t{point}\ton\t{FLAGS}\t{rest}{}\n", "\t-".repeat(10 - given))
    }

    #[test]
    fn what_a_required_file_system_needs_is_skipped_with_it_where_there_is_no_module() {
        const OFF: &str = "-\tnone\t-\t-\t-\t-\t-\t-\toff";
        let root = tempfile::tempdir().unwrap();
        let list = [
            // Above it; where its key is, whose own key is somewhere else; what it names; and above
            // that.
            line("tank/a", "/a", "-\tnone"),
            line("tank/a/b", "/a/b", "-\tnone"),
            line("tank/a/b/c", "/a/b/c", &format!("tank/k{}", OFF.strip_prefix('-').unwrap())),
            line("tank/k", "none", "tank/k\tfile:///keys/k"),
            line("tank/keys", "/keys", "tank/keys\tfile:///stick/key"),
            line("tank/stick", "/stick", "-\tnone\tnamed.mount\t/paths/p/q"),
            line("tank/named", "/named", "-\tnone"),
            line("tank/paths", "/paths/p", "-\tnone"),
            // Nobody's business.
            line("tank/other", "/other", "-\tnone"),
            line("tank/below", "/a/b/c/d", "-\tnone"),
        ];
        let (units, said) = written(root.path(), &list.concat());
        assert_eq!(said, [""; 0]);
        let skipped = |text: &str| text.contains("\nConditionPathIsDirectory=/sys/module/zfs\n");
        let mut mounts = units.iter().filter(|(name, _)| name.ends_with(".mount"));
        assert!(mounts.all(|(name, text)| {
            let alone = ["other.mount", "a-b-c-d.mount"].contains(&name.as_str());
            name.contains(".target.") || skipped(text) != alone
        }));
        assert_eq!(units.values().filter(|text| skipped(text)).count(), 9, "{units:?}");
        // Without it nothing is skipped but keys.
        let (units, _) = written(root.path(), &list.concat().replace("\toff\t-\n", "\ton\t-\n"));
        assert_eq!(units.values().filter(|text| skipped(text)).count(), 2, "{units:?}");
    }

    #[test]
    fn what_needs_a_key_from_the_network_is_mounted_after_the_local_file_systems() {
        let root = tempfile::tempdir().unwrap();
        let list = [
            line("tank/far", "/far", "tank/far\thttps://keys.example/far"),
            line("tank/far/in", "/in", "tank/far\tnone"),
            line("tank/plain", "/far/plain", "-\tnone"),
            line("tank/safe", "/safe", "tank/safe\tfile:///far/keys/safe"),
            line("tank/must", "/must", "tank/far\tnone\t-\t-\t-\t-\t-\t-\toff"),
            line("tank/by", "/by", "tank/far\tnone\t-\t-\t-\t-\tx.target"),
            line("tank/near", "/near", "-\tnone"),
        ];
        let (units, said) = written(root.path(), &list.concat());
        assert_eq!(said, [""; 0]);
        let links: Vec<&str> =
            units.keys().map(String::as_str).filter(|name| name.contains('/')).collect();
        let expected = [
            "local-fs.target.wants/near.mount",
            "remote-fs.target.requires/must.mount",
            "remote-fs.target.wants/far-plain.mount",
            "remote-fs.target.wants/far.mount",
            "remote-fs.target.wants/in.mount",
            "remote-fs.target.wants/safe.mount",
            "x.target.wants/by.mount",
        ];
        assert_eq!(links, expected);
        for name in ["far", "far-plain", "in", "safe", "must", "by", "near"] {
            let text = &units[&format!("{name}.mount")];
            let waited_for =
                ["zfs-mount.service", "local-fs.target"].iter().any(|unit| text.contains(unit));
            assert_eq!(waited_for, name == "near", "{text}");
            let default = !text.contains("\nDefaultDependencies=no\nConflicts=umount.target\n");
            assert_eq!(default, name == "near", "{text}");
        }
        assert!(units["by.mount"].contains("\nBefore=umount.target x.target\n"), "{units:?}");
    }

    #[test]
    fn only_the_unit_of_a_key_can_have_too_long_a_name_for_one() {
        let root = tempfile::tempdir().unwrap();
        // Each of these dashes is four characters there.
        let name = format!("tank/{}", "-".repeat(60));
        let (units, said) = written(root.path(), &line(&name, "/x", "-\tnone"));
        assert_eq!(said, [""; 0]);
        assert!(units.contains_key("x.mount"), "{units:?}");
        let (units, said) = written(root.path(), &line(&name, "/x", &format!("{name}\tprompt")));
        assert!(said.len() == 1 && said[0].contains("loads the key of"), "{said:?}");
        assert!(!units.keys().any(|name| name.contains("load-key")), "{units:?}");
    }

    #[test]
    fn a_mount_point_below_a_link_is_mounted_where_that_leads_to() {
        let root = tempfile::tempdir().unwrap();
        // As on Fedora CoreOS. What is in /var may be there or not.
        std::os::unix::fs::symlink("var/srv", root.path().join("srv")).unwrap();
        let list = [
            line("tank/data", "/srv/data", "tank/data\tfile:///srv/keys/data"),
            line("tank/more", "/srv/data/more", "-\tnone\t-\t/srv/x"),
        ];
        let (units, said) = written(root.path(), &list.concat());
        assert_eq!(said, [""; 0]);
        assert!(units["var-srv-data.mount"].contains("\nWhere=/var/srv/data\n"), "{units:?}");
        let more = &units["var-srv-data-more.mount"];
        assert!(more.contains("\nRequiresMountsFor=/var/srv/x\n"), "{more}");
        let key = &units["zfs-load-key@tank-data.service"];
        assert!(key.contains("\nRequiresMountsFor=/var/srv/keys/data\n"), "{key}");
        std::fs::create_dir_all(root.path().join("var/srv")).unwrap();
        std::os::unix::fs::symlink("/elsewhere", root.path().join("var/srv/data")).unwrap();
        assert_eq!(written(root.path(), &list.concat()).0, units, "once /var is there");
    }
}
