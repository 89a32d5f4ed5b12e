//! The units that zfs-mount-generator(8) would write, on a system where it cannot run at boot.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::dataset::{self, Dataset, Mount, Nofail, Pulled};
use super::dataset_text::{self as text, World};
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

/// The units of all datasets in `lists`: of keys, and of file systems. `zfs`: how they call zfs(8).
pub(super) fn units(
    host: &Host,
    lists: &[List],
    mounts: &Mounts,
    zfs: &Path,
    problems: &mut Problems,
) -> Vec<Unit> {
    let imported = imported(host);
    let world = World { zfs, imported: &imported };
    let datasets = datasets(lists, problems);
    let mut units = Vec::new();
    for (name, claims) in &claims(&datasets, mounts, problems) {
        let Some(first) = claims.first().and_then(|at| datasets.get(*at)) else { continue };
        match first.key.filter(|(root, _)| name.ends_with(SERVICE) && *root == first.name) {
            Some((_, location)) => {
                units.push(Unit::new(name, text::key(first, location, &world), Vec::new()));
            }
            None => {
                let claims = claims.iter().filter_map(|at| datasets.get(*at));
                let Some((dataset, mount)) = chosen(claims, problems) else { continue };
                let text = text::mount(dataset, mount, &world);
                units.push(Unit::new(name, text, links(name, mount)));
            }
        }
    }
    units
}

/// The end of the names of units that load keys.
const SERVICE: &str = ".service";

fn imported(host: &Host) -> Vec<String> {
    let pools = std::fs::read_dir(host.path(POOLS)).into_iter().flatten().flatten();
    let pools = pools.filter(|pool| pool.file_type().is_ok_and(|kind| kind.is_dir()));
    pools.filter_map(|pool| pool.file_name().into_string().ok()).collect()
}

/// All of them that become units, in the order of the lists.
fn datasets<'a>(lists: &'a [List], problems: &mut Problems) -> Vec<Dataset<'a>> {
    let mut datasets = Vec::new();
    for list in lists {
        for (number, line) in list.lines() {
            match line {
                Ok(line) => datasets.extend(dataset::read(list, number, &line, problems)),
                Err(why) => problems.add(format_args!("{}: the line {why}", list.place(number))),
            }
        }
    }
    datasets
}

/// The name of each unit, and which of `datasets` claim it.
fn claims(
    datasets: &[Dataset<'_>],
    mounts: &Mounts,
    problems: &mut Problems,
) -> BTreeMap<String, Vec<usize>> {
    let mut claims: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (at, dataset) in datasets.iter().enumerate() {
        let name = dataset.name;
        if dataset.key.is_some_and(|(root, _)| root == name) {
            claims.entry(text::key_unit(name)).or_default().push(at);
        }
        let Some(mount) = &dataset.mount else { continue };
        match mounts.in_fstab(Path::new(&mount.point)) {
            None => claims.entry(text::mount_unit(&mount.point)).or_default().push(at),
            // In all likelihood it is this dataset, and somebody who prefers fstab.
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

/// Who is mounted, of those with the same mount point: the first with `canmount=on`; one with
/// `noauto` only where there is no other (they are the boot environments of one system).
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
fn links(unit: &str, mount: &Mount<'_>) -> Vec<Entry> {
    let local_fs = ["local-fs.target"];
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
        let host = crate::unit::tests::host(root);
        let lists = [of("tank", list)];
        let mounts = Mounts::read(&host, &lists);
        let mut problems = Problems::default();
        let units = units(&host, &lists, &mounts, Path::new("/usr/sbin/zfs"), &mut problems);
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
        assert!(mount.contains("\nBindsTo=zfs-load-key@tank-a\\x20\\x25x.service\n"), "{mount}");
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
}
