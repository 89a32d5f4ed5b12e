//! Reasons, from what the real zpool printed (tests/pools), and the way to them.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::text::{Block, parse};
use super::*;

macro_rules! recorded {
    ($name:literal) => {
        include_str!(concat!("../../tests/pools/zfs-2.3.2/", $name, ".txt"))
    };
}

/// An empty machine.
pub(crate) fn host() -> (tempfile::TempDir, Host) {
    let root = tempfile::tempdir().unwrap();
    let host = Host::below(root.path(), "6.1.0");
    (root, host)
}

/// A file of that machine, with its directories.
pub(crate) fn write(host: &Host, path: &str, bytes: impl AsRef<[u8]>) {
    let path = host.path(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Puts a shell script in the place of a program: how programs are waited for is tested with it,
/// not what they do.
pub(crate) fn script(host: &Host, name: &str, text: &str) {
    let path = host.path("/usr/sbin").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn block(text: &str, pool: &str) -> Block {
    let blocks = parse(text);
    blocks.iter().find(|b| b.pool == pool).unwrap_or_else(|| panic!("{pool}: {blocks:?}")).clone()
}

#[test]
fn what_zpool_prints_is_read_pool_by_pool() {
    let pools = |text| parse(text).into_iter().map(|b| b.pool).collect::<Vec<_>>();
    assert_eq!(pools(recorded!("status-missing")), ["e", "m", "tank"]);
    assert_eq!(pools(recorded!("import-other-host")), ["tank", "f", "e", "s", "m"]);
    assert_eq!(pools(recorded!("import-none")), [""; 0]);
    let m = block(recorded!("status-missing"), "m");
    let (bad, all): (Vec<_>, _) = (m.bad_devices().collect(), m.devices.len());
    assert_eq!((bad.len(), all), (1, 2), "{m:?}");
    assert_eq!(bad[0].name, "4738834484744000121");
    assert_eq!(bad[0].note, "was /dev/disk/by-id/virtio-d2-part1");
    let continued = "One or more devices could not be used because the label is missing or invalid.  \
                     Sufficient replicas exist for the pool to continue functioning in a degraded \
                     state.";
    assert_eq!(m.status, continued);
    let f = block(recorded!("import-other-host"), "f");
    assert_eq!(
        (f.id.as_deref(), &*f.note),
        (Some("5791014981848753667"), "unsupported feature(s)")
    );
    assert!(f.status.ends_with("on this system: org.example:unknown_stuff"), "{f:?}");
}

#[test]
fn names_with_blanks_headings_and_the_layout_of_older_releases_are_read() {
    // As zpool_main.c of OpenZFS 2.1 aligns it.
    let text = "   pool: a b\n     id: 7\n  state: DEGRADED\n status: One.\n action: Two\n\tthree.\n \
                config:\n\n\ta b         DEGRADED\n\t  sda       ONLINE\n\tlogs\t\n\t  sdb       \
                UNAVAIL  cannot open\n";
    let block = block(text, "a b");
    assert_eq!((&*block.state, &*block.status, &*block.action), ("DEGRADED", "One.", "Two three."));
    let names: Vec<_> = block.devices.iter().map(|d| (&*d.name, &*d.note)).collect();
    assert_eq!(names, [("sda", ""), ("sdb", "cannot open")]);
    assert_eq!(parse("garbage\n: x\npool\n\tconfig: y\n"), []);
}

/// Of a pool that is absent: what is said, and what to do.
fn absent(text: &str, pool: &str, cache: &CacheFile) -> (String, String) {
    let reason = reason::absent(pool, By::CacheFile, &Ok(parse(text)), cache);
    (reason.why, reason.what_to_do)
}

#[test]
fn each_reason_why_a_pool_is_absent_has_its_words_and_its_command() {
    let twice = recorded!("import-exported").to_owned() + recorded!("import-degraded");
    let two_of_a_name =
        "there are 2 pools of that name: 15692815698673546699 (ONLINE), 1569281569867354";
    let forget = "attach its devices and import it: zpool import; if it is gone for good: rm \
                  /etc/zfs/zpool.cache; zfs-prefix pools --forget tank";
    let none = &CacheFile::Missing;
    for (case, text, pool, cache, why, what) in [
        (
            "a disk of a stripe is missing",
            recorded!("import-missing"),
            "s",
            none,
            "it is UNAVAIL, devices missing or unusable: virtio-d4 UNAVAIL",
            "attach them, then: zpool import s",
        ),
        (
            "a label is gone",
            recorded!("import-exported"),
            "s",
            none,
            "it is UNAVAIL, devices missing or unusable: virtio-d4 UNAVAIL (invalid label)",
            "attach them, then: zpool import s",
        ),
        (
            "another host",
            recorded!("import-other-host"),
            "tank",
            none,
            "it was last used by another host (its hostid is not this machine's)",
            "if no other host uses it: zpool import -f tank",
        ),
        (
            "another host, damaged",
            recorded!("import-damaged"),
            "h",
            none,
            "it was last used by another host (its hostid is not this machine's); it is FAULTED \
             (corrupted data)",
            "if no other host uses it: zpool import -f h",
        ),
        (
            "features",
            recorded!("import-other-host"),
            "f",
            none,
            "The pool uses the following feature(s) not supported on this system: \
             org.example:unknown_stuff",
            "an OpenZFS that supports them (zfs.version in zfs-prefix.toml(5)), then: zpool import f",
        ),
        (
            "nothing there",
            recorded!("import-none"),
            "tank",
            none,
            "no device of this machine has a pool of that name",
            forget,
        ),
        (
            "there, after the cache file was lost",
            recorded!("import-exported"),
            "m",
            none,
            "it is there, ONLINE, and not imported; there is no /etc/zfs/zpool.cache",
            "zpool import m",
        ),
        (
            "there, with an empty cache file",
            recorded!("import-degraded"),
            "m",
            &CacheFile::Empty,
            "it is there, DEGRADED, devices missing or unusable: virtio-d2 UNAVAIL (invalid label), \
             and not imported; /etc/zfs/zpool.cache is empty",
            "zpool import m",
        ),
        ("two of a name", &twice, "m", none, two_of_a_name, "zpool import NUMBER"),
    ] {
        let (said, todo) = absent(text, pool, cache);
        assert!(said.starts_with(why), "{case}: {said}");
        assert!(todo.ends_with(what), "{case}: {todo}");
        assert_eq!(todo.contains("-f "), case.starts_with("another"), "{case}: {todo}");
    }
}

#[test]
fn a_pool_that_is_imported_and_not_well_has_its_devices_and_zpools_advice() {
    for (case, text, pool, state, why, what) in [
        (
            "missing",
            recorded!("status-missing"),
            "m",
            State::Degraded,
            "4738834484744000121 UNAVAIL (was /dev/disk/by-id/virtio-d2-part1): One or more devices \
             could not be used",
            "Replace the device using 'zpool replace'. (zpool status m)",
        ),
        (
            "faulted",
            recorded!("status-degraded"),
            "m",
            State::Degraded,
            "/dev/disk/by-id/virtio-d2-part1 FAULTED (external device fault): One or more devices are \
             faulted",
            "repaired. (zpool status m)",
        ),
        (
            "offline",
            recorded!("status-offline"),
            "m",
            State::Degraded,
            "/dev/disk/by-id/virtio-d2-part1 OFFLINE: One or more devices has been taken offline",
            "'zpool replace'. (zpool status m)",
        ),
        (
            "suspended",
            recorded!("status-suspended"),
            "u",
            State::Suspended,
            "One or more devices are faulted in response to IO failures.",
            "bring its devices back, then: zpool clear u",
        ),
    ] {
        let reason = reason::impaired(pool, state, &Ok(parse(text)));
        assert!(reason.why.starts_with(why), "{case}: {}", reason.why);
        assert!(reason.what_to_do.ends_with(what), "{case}: {}", reason.what_to_do);
    }
}

/// A machine whose zpool and zfs print what the real ones printed.
fn machine(list: &str, status: &str, import: &str) -> (tempfile::TempDir, Host) {
    let (root, host) = host();
    fs::create_dir_all(host.path("/sys/module/zfs")).unwrap();
    for (name, text) in [("list", list), ("status", status), ("import", import)] {
        // Without the columns guid and altroot.
        let columns = |line: &str| match line.split('\t').collect::<Vec<_>>()[..] {
            [name, _guid, health, readonly, _] => format!("{name}\t{health}\t{readonly}\n"),
            _ => format!("{line}\n"),
        };
        let text: String = text.lines().map(columns).collect();
        fs::write(host.path("/").join(name), text).unwrap();
    }
    script(&host, "zpool", &format!("cat {}/$1", root.path().display()));
    script(&host, "zfs", "exit 0");
    (root, host)
}

fn settings(expected: &[&str]) -> Settings {
    let mut settings = Settings::default();
    settings.pools.expected = expected.iter().map(|&name| name.to_owned()).collect();
    settings
}

fn states(report: &Report) -> Vec<(&str, &str, bool)> {
    report.pools.iter().map(|p| (p.name.as_str(), p.word(), p.expected.is_some())).collect()
}

#[test]
fn expected_pools_come_first_and_only_they_decide() {
    let (list, status) = (recorded!("list-missing"), recorded!("status-missing"));
    let (_root, host) = machine(list, status, recorded!("import-missing"));
    let report = look(&host, &settings(&["tank"]));
    assert!(report.sound() && report.imported_unknown.is_none(), "{report:#?}");
    let tank = ("tank", "ONLINE", true);
    assert_eq!(states(&report), [tank, ("e", "ONLINE", false), ("m", "DEGRADED", false)]);
    let report = look(&host, &settings(&["s", "m", "tank"]));
    assert!(!report.sound() && report.imported_unknown.is_none(), "{report:#?}");
    let (absent, degraded) = (("s", "ABSENT", true), ("m", "DEGRADED", true));
    assert_eq!(states(&report), [absent, degraded, tank, ("e", "ONLINE", false)]);
    assert!(report.pools[..2].iter().all(|pool| pool.reason.is_some()));
}

#[test]
fn read_only_and_suspended_pools_are_not_sound() {
    let (list, status) = (recorded!("list-readonly"), recorded!("status-readonly"));
    let (_root, host) = machine(list, status, "");
    let report = look(&host, &settings(&["m", "tank"]));
    assert!(!report.sound());
    assert_eq!(states(&report), [("m", "READ-ONLY", true), ("tank", "ONLINE", true)]);
    assert_eq!(report.pools[0].reason.as_deref(), Some("it is imported read-only"));
    let (list, status) = (recorded!("list-suspended"), recorded!("status-suspended"));
    let (_root, host) = machine(list, status, "");
    let report = look(&host, &settings(&["u"]));
    assert!(!report.sound());
    assert_eq!(states(&report)[0], ("u", "SUSPENDED", true));
}

#[test]
fn without_module_or_program_or_answer_nothing_is_taken_for_sound() {
    let (_root, host) = host();
    let wanted = settings(&["tank"]);
    let why = |host: &Host| {
        let report = look(host, &wanted);
        assert!(!report.sound(), "{report:#?}");
        format!("{}: {}", report.pools[0].word(), report.pools[0].reason.clone().unwrap())
    };
    assert_eq!(why(&host), "ABSENT: the ZFS kernel module is not loaded");
    let what = look(&host, &wanted).pools[0].what_to_do.clone().unwrap();
    assert!(what.contains("zfs-prefix load --import"), "a load alone imports nothing: {what}");
    fs::create_dir_all(host.path("/sys/module/zfs")).unwrap();
    assert!(why(&host).starts_with("UNKNOWN: there is no zpool in /run/"), "{}", why(&host));
    script(&host, "zpool", "echo internal error; exit 1");
    assert!(why(&host).ends_with("exit status 1: internal error"), "{}", why(&host));
    let nothing = look(&host, &Settings::default());
    let unknown = nothing.imported_unknown.clone().unwrap_or_default();
    assert!(!nothing.sound() && nothing.pools.is_empty(), "{nothing:#?}");
    assert!(unknown.contains("exit status 1: internal error. To do: "), "{unknown}");
    script(&host, "zpool", "exit 0");
    let nothing = look(&host, &Settings::default());
    assert!(nothing.sound() && nothing.pools.is_empty(), "{nothing:#?}");
    let mut waiting = Settings::default();
    waiting.boot.require_pools_for = vec!["docker.service".to_owned()];
    let nothing = look(&host, &waiting);
    assert!(
        !nothing.sound() && nothing.expected_unknown.is_some(),
        "docker would start: {nothing:#?}"
    );
    fs::create_dir_all(host.path("/etc/zfs")).unwrap();
    fs::write(host.path("/etc/zfs/zpool.cache"), [7; 100]).unwrap();
    let unknown = look(&host, &Settings::default());
    assert!(!unknown.sound() && unknown.expected_unknown.is_some(), "{unknown:#?}");
}

#[test]
fn a_pool_whose_keys_could_not_be_listed_is_not_sound() {
    let (list, status) = (recorded!("list-missing"), recorded!("status-missing"));
    let (_root, host) = machine(list, status, "");
    script(&host, "zfs", "echo 'internal error'; exit 1");
    let report = look(&host, &settings(&["tank"]));
    let tank = &report.pools[0];
    assert_eq!((tank.word(), &tank.locked), ("ONLINE", &None));
    assert!(!tank.sound() && !report.sound(), "{report:#?}");
    let said = tank.to_string();
    for words in
        ["keys are loaded is not known: zfs list: exit status 1", "zfs get -r keystatus tank"]
    {
        assert!(said.contains(words), "{said}");
    }
    // It is DEGRADED: that is worse.
    let m = report.pools.iter().find(|pool| pool.name == "m").unwrap().to_string();
    assert!(m.contains("could not be used") && !m.contains("keys are loaded"), "{m}");
}

#[test]
fn the_cache_file_of_a_boot_with_a_missing_disk_has_forgotten_that_pool() {
    // Why there is a memory: four pools before the boot, three after it (tests/pools).
    let before = pool_names(include_bytes!("../../tests/pools/zpool.cache-four")).unwrap();
    let after = pool_names(include_bytes!("../../tests/pools/zpool.cache-after")).unwrap();
    let forgotten: Vec<_> = before.iter().filter(|name| !after.contains(name)).collect();
    assert_eq!(forgotten, ["s"]);
}
