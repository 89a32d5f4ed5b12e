use super::*;
use crate::host::files::Files;
use crate::mountpoints::Announced;
use crate::mountpoints::list::tests::of;
use crate::systemd::name::LONGEST;

/// What is written for these lines of a list of the pool tank, and what is said.
fn written(root: &Path, list: &str) -> (BTreeMap<String, String>, Vec<String>) {
    let host = crate::generator::tests::host(root);
    let files = Files::before_var(&host);
    let mut problems = Problems::default();
    let mut announced = Announced::read(files, &mut problems);
    announced.lists.push(of("tank", list));
    let mounts = Mounts::of(files, &announced);
    let zfs = Zfs { command: PathBuf::from("/usr/sbin/zfs"), search: None };
    let index = Index::read(files);
    let vital = crate::generator::vital::paths(&index, &announced.fstab);
    let system = System {
        host: &host,
        mounts: &mounts,
        index: &index,
        vital: &vital,
        zfs: &zfs,
        peer: None,
    };
    let mut all = Vec::new();
    units(&announced.lists, &system, &Budget::for_units(), &mut problems, |unit, _| {
        all.push(unit.clone());
    });
    let units = all;
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
    let line =
        format!("tank/a %x\t/é 100%/\"b'\ton\t{FLAGS}\ttank/a %x\tfile:///k y/it's 5%\t-\t/n%n");
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
    assert!(said.len() == 1 && said[0].contains("not at /srv, which /etc/fstab has"), "{said:?}");
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

/// Puts a file of a unit into the machine below `root`.
fn system_unit(root: &Path, name: &str, text: &str) {
    crate::generator::tests::host(root).put(&format!("/usr/lib/systemd/system/{name}"), text);
}

/// Case 4 of the field.
#[test]
fn nothing_is_mounted_where_the_system_mounts_something_itself() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("etc")).unwrap();
    std::fs::write(root.path().join("etc/fstab"), "/dev/vda / ext4\n").unwrap();
    system_unit(root.path(), "tmp.mount", "[Mount]\nWhat=tmpfs\nWhere=/tmp\n");
    std::os::unix::fs::symlink("/", root.path().join("link")).unwrap();
    let environment =
        line("zroot/ROOT/default", "/", "-\tnone").replace("\ton\ton", "\tnoauto\ton");
    let list = [
        environment,
        line("zroot/linked", "/link", "-\tnone"),
        line("zroot/tmp", "/tmp", "-\tnone"),
        line("zroot/run", "/run", "-\tnone"),
        line("zroot/home", "/home", "-\tnone"),
    ];
    let (units, said) = written(root.path(), &list.concat());
    let names: Vec<&String> = units.keys().collect();
    assert_eq!(names, ["home.mount", "local-fs.target.wants/home.mount"]);
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].contains("mountpoint=/run belongs to the system"), "{said:?}");
    let file = "/usr/lib/systemd/system/tmp.mount";
    assert!(said[1].contains(&format!("not at /tmp, which {file} has")), "{said:?}");
}

/// Case 1 of the field.
#[test]
fn a_mount_unit_that_systemd_needs_is_skipped_where_its_pool_or_its_key_is_not_there() {
    let root = tempfile::tempdir().unwrap();
    system_unit(root.path(), "basic.target", "[Unit]\nRequiresMountsFor=/var /var/tmp\n");
    system_unit(root.path(), "sshd.service", "[Service]\nStateDirectory=sshd\n");
    system_unit(root.path(), "tftp.service", "[Unit]\nRequiresMountsFor=/srv\n");
    let list = [
        line("tank/vtmp", "/var/tmp", "-\tnone"),
        // Above what is needed; its key is on another pool; and that has one of its own.
        line("tank/lib", "/var/lib", "tank/lib\tfile:///keys/lib"),
        line("safe/keys", "/keys", "safe/keys\tprompt"),
        // The word of the operator: local-fs.target requires it.
        line("tank/var", "/var", "-\tnone\t-\t-\t-\t-\t-\t-\toff"),
        line("tank/far", "/var/lib/sshd", "tank/far\thttps://keys.example/far"),
        line("tank/cache", "/var/cache", "-\tnone"),
        line("tank/srv", "/srv", "-\tnone"),
    ];
    let (units, said) = written(root.path(), &list.concat());
    let conditions = |name: &str| -> Vec<&str> {
        let lines = units[name].lines();
        lines.filter_map(|line| line.strip_prefix("ConditionPathIsDirectory=")).collect()
    };
    assert_eq!(conditions("var-tmp.mount"), ["/proc/spl/kstat/zfs/tank"]);
    assert_eq!(
        conditions("var-lib.mount"),
        ["/proc/spl/kstat/zfs/tank", "/run/zfs-prefix/keys/tank-lib"]
    );
    assert_eq!(
        conditions("keys.mount"),
        ["/proc/spl/kstat/zfs/safe", "/run/zfs-prefix/keys/safe-keys"]
    );
    assert_eq!(conditions("var.mount"), ["/sys/module/zfs"]);
    for other in ["var-cache.mount", "srv.mount"] {
        assert_eq!(conditions(other), [""; 0], "nothing starts without {other}");
    }
    // A key that cannot be loaded fails nothing else. While it is loaded, its directory is there.
    for (mount, key) in [("var-lib", "tank-lib"), ("keys", "safe-keys")] {
        let text = &units[&format!("{mount}.mount")];
        let wants = format!("\nWants=zfs-import.target zfs-load-key@{key}.service\n");
        assert!(text.contains(&wants) && !text.contains("\nRequires="), "{text}");
        let text = &units[&format!("zfs-load-key@{key}.service")];
        assert!(text.contains("\nRuntimeDirectory=zfs-prefix/keys/%i\n"), "{text}");
    }
    // systemd cannot wait for the network here.
    assert!(!units.contains_key("var-lib-sshd.mount"), "{units:?}");
    assert!(said.len() == 1 && said[0].contains("before there is a network"), "{said:?}");
}

/// Case 3 of the field.
#[test]
fn a_path_is_required_as_far_as_it_can_have_mount_units() {
    let root = tempfile::tempdir().unwrap();
    let deep = "/a".repeat(2000);
    let named = "/a".repeat(125);
    assert!(dataset::mount_unit(&format!("{named}/a")).len() > LONGEST, "no longer one has a unit");
    let list = [
        line("tank/deep", "/deep", &format!("-\tnone\t-\t{deep}\t-\t-\t-\t-\toff")),
        line("tank/dashes", "/dashes", &format!("-\tnone\t-\t/-{deep}")),
        line("tank/longer", "/longer", &format!("-\tnone\t-\t/x{deep}{deep}\t-")),
        line("tank/a", "/a/a/a", "-\tnone"),
    ];
    let (units, said) = written(root.path(), &list.concat());
    let required = |name: &str| {
        let line = units[name].lines().find_map(|line| line.strip_prefix("RequiresMountsFor="));
        line.unwrap_or_default().to_owned()
    };
    assert_eq!(required("deep.mount"), named);
    // A dash takes four characters.
    assert_eq!(required("dashes.mount"), format!("/-{}", "/a".repeat(122)));
    assert_eq!(required("longer.mount"), "");
    assert!(said.len() == 1 && said[0].contains("is too long for a path; left out"), "{said:?}");
    assert!(said[0].len() < 300, "{said:?}");
    // What is required by local-fs.target through such a path is still found.
    assert!(units["a-a-a.mount"].contains("\nConditionPathIsDirectory=/sys/module/zfs\n"));
}

#[test]
fn what_the_time_is_too_short_for_is_named_and_left_out() {
    let root = tempfile::tempdir().unwrap();
    let host = crate::generator::tests::host(root.path());
    let files = Files::before_var(&host);
    let lists = [of("tank", &line("tank/a", "/a", "-\tnone").repeat(3))];
    let announced = Announced::default();
    let (mounts, index) = (Mounts::of(files, &announced), Index::read(files));
    let zfs = Zfs { command: PathBuf::from("/usr/sbin/zfs"), search: None };
    let mut problems = Problems::default();
    let system =
        System { host: &host, mounts: &mounts, index: &index, vital: &[], zfs: &zfs, peer: None };
    let none = Budget::of(std::time::Duration::ZERO);
    units(&lists, &system, &none, &mut problems, |unit, _| panic!("{unit:?} is written"));
    let said = problems.into_lines();
    assert!(said.len() == 1 && said[0].contains("tank:1: reading the lists has taken"), "{said:?}");
    assert!(said[0].contains("this dataset and 2 more have no units"), "{said:?}");
}
