//! The units of datasets against those of the real zfs-mount-generator(8): from the same lists the same
//! files, links and settings come out, but for the unit of `/` and what [`with_exceptions`] names; and what
//! the commands in them do.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

mod peer;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use peer::{Peer, words};

/// The columns of zfs-mount-generator(8), and what a dataset has that nobody set anything on.
const COLUMNS: [(&str, &str); 20] = [
    ("name", ""),
    ("mountpoint", ""),
    ("canmount", "on"),
    ("atime", "on"),
    ("relatime", "on"),
    ("devices", "on"),
    ("exec", "on"),
    ("readonly", "off"),
    ("setuid", "on"),
    ("nbmand", "off"),
    ("encroot", "-"),
    ("keylocation", "none"),
    ("requires", "-"),
    ("requires-mounts-for", "-"),
    ("before", "-"),
    ("after", "-"),
    ("wanted-by", "-"),
    ("required-by", "-"),
    ("nofail", "-"),
    ("ignore", "-"),
];

/// A line of a list: name, mount point, and `property=value` for what is not as always.
fn row(name: &str, point: &str, set: &[&str]) -> String {
    let mut row = BTreeMap::from([("name", name), ("mountpoint", point)]);
    for one in set {
        let (property, value) = one.split_once('=').unwrap();
        assert!(COLUMNS.iter().any(|(column, _)| *column == property), "{property}");
        row.insert(property, value);
    }
    let fields = COLUMNS.map(|(column, usual)| *row.get(column).unwrap_or(&usual));
    fields.join("\t") + "\n"
}

/// A machine whose generator is ours, with a zfs of its own, as the peer has one.
fn machine(lists: &[(&str, String)]) -> tempfile::TempDir {
    let root = lab::files::scratch("mounts-");
    lab::units::install_units(root.path(), "/usr/lib/systemd/system");
    lab::files::copy(Path::new("/bin/true"), &root.path().join("usr/sbin/zfs"));
    let texts = [("dev/kmsg", ""), ("proc/cmdline", "quiet\n")].map(|(p, t)| (p.to_owned(), t));
    let lists = lists.iter().map(|(n, t)| (format!("etc/zfs/zfs-list.cache/{n}"), t.as_str()));
    for (path, text) in texts.into_iter().chain(lists) {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    root
}

/// What our generator writes for these lists.
fn ours(lists: &[(&str, String)]) -> BTreeMap<String, String> {
    let root = machine(lists);
    let out = root.path().join("out");
    fs::create_dir(&out).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_zfs-prefix-generator"))
        .env_clear()
        .env("ZFS_PREFIX_ROOT", root.path())
        .envs([("SYSTEMD_IN_INITRD", "0"), ("SYSTEMD_ARCHITECTURE", "x86-64")])
        .arg(&out)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    peer::tree(&out)
}

/// What the lists add to what is written without any.
fn added(lists: &[(&str, String)]) -> BTreeMap<String, String> {
    let without = ours(&[]);
    let mut all = ours(lists);
    all.retain(|path, _| !without.contains_key(path));
    all
}

/// The settings of a unit, lists word by word. Left out: what only people read, and the commands, which
/// are compared by what they do.
fn settings(unit: &str) -> BTreeSet<(String, String, String)> {
    let mut section = "";
    let mut found = BTreeSet::new();
    for line in unit.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let Some((key, value)) = line.split_once('=') else {
            section = line;
            continue;
        };
        if matches!(key, "Description" | "ExecStart" | "ExecStop") {
            continue;
        }
        let lists = section == "[Unit]" && key != "SourcePath" && key != "Documentation";
        let values = if lists { words(value) } else { vec![value.to_owned()] };
        found.extend(values.into_iter().map(|v| (section.to_owned(), key.to_owned(), v)));
    }
    found
}

/// Lists, each with a sentence that says what it is about.
fn cases() -> Vec<(&'static str, Vec<(&'static str, String)>)> {
    let one = |about, rows: &[String]| (about, vec![("tank", rows.concat())]);
    let cut = |n: usize| {
        let row = row(&format!("tank/n{n}"), &format!("/n{n}"), &[]);
        row.trim_end().split('\t').take(n).collect::<Vec<_>>().join("\t") + "\n"
    };
    vec![
        one(
            "properties that become mount options",
            &[
                row("tank", "/tank", &[]),
                row("tank/a", "/a", &["relatime=off"]),
                row("tank/b", "/b", &["atime=off"]),
                row("tank/c", "/c", &["atime=off", "relatime=off"]),
                row("tank/d", "/d", &["devices=off", "exec=off", "setuid=off"]),
                row("tank/e", "/e", &["readonly=on", "nbmand=on"]),
                row("tank/f", "/f", &["atime=perhaps", "exec=perhaps"]),
            ],
        ),
        one(
            "what is not mounted, and what is when somebody needs it",
            &[
                row("tank", "none", &[]),
                row("tank/a", "legacy", &[]),
                row("tank/b", "/b", &["canmount=off"]),
                row("tank/c", "/c", &["canmount=noauto"]),
                row("tank/d", "/d", &["ignore=on"]),
                row("tank/e", "/e", &["ignore=off"]),
                row("tank/f", "/f", &["canmount=noauto", "nofail=off"]),
            ],
        ),
        one(
            "who pulls a mount unit in",
            &[
                row("tank/a", "/a", &["nofail=on"]),
                row("tank/b", "/b", &["nofail=off"]),
                row("tank/c", "/c", &["nofail=perhaps"]),
                row("tank/d", "/d", &["wanted-by=x.target y.service"]),
                row("tank/e", "/e", &["required-by=x.target y.service"]),
                row("tank/f", "/f", &["wanted-by=x.target", "required-by=y.target", "nofail=on"]),
                row("tank/g", "/g", &["wanted-by=none"]),
                row("tank/h", "/h", &["required-by=none", "nofail=off"]),
                row("tank/i", "/i", &["wanted-by=none", "required-by=z.target"]),
                row("tank/j", "/j", &["canmount=noauto", "wanted-by=x.target"]),
                row("tank/k", "/k", &["wanted-by=x.target", "required-by=x.target"]),
                row("tank/l", "/l", &["wanted-by=local-fs.target", "before=local-fs.target"]),
            ],
        ),
        one(
            "what a mount unit waits for",
            &[
                row("tank/a", "/a", &["requires=a.service b.mount", "after=c.service"]),
                row("tank/b", "/b", &["before=d.service e.socket", "requires-mounts-for=/x /y/z"]),
                row("tank/c", "/c", &["after=zfs-import.target"]),
            ],
        ),
        one(
            "encryption roots and what is below them",
            &[
                row("tank/a", "/a", &["encroot=tank/a", "keylocation=prompt"]),
                row("tank/a/b", "/a/b", &["encroot=tank/a"]),
                row("tank/c", "/c", &["encroot=tank/c", "keylocation=file:///etc/keys/c"]),
                row("tank/d", "/d", &["encroot=tank/d", "keylocation=file:///etc/my keys/d"]),
                row("tank/e", "/e", &["encroot=tank/e", "keylocation=https://keys.example/e"]),
                row("tank/f", "/f", &["encroot=tank/f", "keylocation=http://keys.example/f"]),
                row("tank/g", "/g", &["encroot=tank/g", "keylocation=prompt", "canmount=off"]),
                row("tank/h", "none", &["encroot=tank/h", "keylocation=file:///h"]),
                row("tank/i", "/i", &["encroot=tank/i", "keylocation=prompt", "ignore=on"]),
                row("tank/j", "/j", &["encroot=tank/j", "keylocation=file:///dev/disk/by-label/j"]),
                row("tank/k", "/k", &["encroot=tank/nowhere"]),
                row("tank/l", "/l", &["encroot=tank/l", "keylocation=none"]),
                row("tank/m", "legacy", &["encroot=tank/m", "keylocation=prompt"]),
                row("tank/n", "/n", &["encroot=tank/n", "keylocation=prompt", "canmount=noauto"]),
            ],
        ),
        one(
            "a key waits for what its dataset waits for",
            &[
                row(
                    "tank/a",
                    "/a",
                    &[
                        "encroot=tank/a",
                        "keylocation=file:///k/a",
                        "requires=a.service",
                        "requires-mounts-for=/r /s",
                        "before=b.service",
                        "after=c.service",
                        "wanted-by=d.target",
                    ],
                ),
                row(
                    "tank/b",
                    "/b",
                    &[
                        "encroot=tank/b",
                        "keylocation=https://keys.example/b",
                        "requires=a.service",
                        "requires-mounts-for=/r",
                        "nofail=off",
                    ],
                ),
            ],
        ),
        one(
            "names that have to be escaped",
            &[
                row("tank", "/", &[]),
                row("tank/a b", "/srv/a b", &["encroot=tank/a b", "keylocation=prompt"]),
                row(
                    "tank/c:d_e.f-g",
                    "/c:d_e.f-g",
                    &["encroot=tank/c:d_e.f-g", "keylocation=file:///k"],
                ),
                row("tank/h", "/.hidden/.i/a-b\\c@d+e~f$g'h\"i", &[]),
                row("tank/j", "//j//k", &[]),
            ],
        ),
        one(
            "one mount point for several datasets",
            &[
                row("tank/a1", "/a", &["canmount=noauto"]),
                row("tank/a2", "/a", &[]),
                row("tank/b1", "/b", &["canmount=noauto"]),
                row("tank/b2", "/b", &["canmount=noauto"]),
                row("tank/b3", "/b", &["canmount=noauto"]),
                row("tank/c1", "/c", &[]),
                row("tank/c2", "/c", &[]),
                row("tank/d1", "/d", &["wanted-by=x.target"]),
                row("tank/d2", "/d", &[]),
                row("tank/e1", "/e", &["canmount=noauto", "wanted-by=x.target"]),
                row("tank/e2", "/e", &[]),
                row("tank/f1", "/f", &["ignore=on"]),
                row("tank/f2", "/f", &["canmount=noauto"]),
                row("tank/g1", "/g", &["canmount=off"]),
                row("tank/g2", "/g", &["canmount=noauto"]),
            ],
        ),
        (
            "several pools",
            vec![
                ("tank", row("tank", "/tank", &[]) + &row("tank/a", "/a", &["canmount=noauto"])),
                ("data", row("data", "/data", &[]) + &row("data/a", "/a", &[])),
                ("rust", row("rust", "/rust", &["encroot=rust", "keylocation=prompt"])),
                ("none", String::new()),
                ("old", row("old/r", "/r", &["canmount=noauto"])),
                ("older", row("older/r", "/r", &["canmount=noauto"])),
            ],
        ),
        one("lists of older releases", &(9..20).map(cut).collect::<Vec<_>>()),
        one(
            "bad lines among good ones",
            &[
                row("tank/a", "relative", &[]),
                row("tank/b", "/x/../y", &[]),
                row("tank/c", "/x/./y", &[]),
                row("tank/d", "-", &[]),
                row("tank/e", "/e", &["canmount=perhaps"]),
                row("tank/f", "/f", &["ignore=perhaps"]),
                row("tank/g", &format!("/{}", "g/".repeat(130)), &[]),
                row("tank/h", "/h", &[]),
            ],
        ),
        // No empty line in any of them, as zed leaves one when a pool is exported: theirs crashes.
        one("no dataset", &[]),
    ]
}

/// Case and name of the mount units that need a key from the network.
const FAR: [(&str, &str); 3] = [
    ("encryption roots and what is below them", "e.mount"),
    ("encryption roots and what is below them", "f.mount"),
    ("a key waits for what its dataset waits for", "b.mount"),
];

/// Their unit as ours has to be, where it has to differ.
fn with_exceptions(theirs: &str, skipped: bool, far: bool) -> BTreeSet<(String, String, String)> {
    let unit = |key: &str, value: &str| ("[Unit]".to_owned(), key.to_owned(), value.to_owned());
    let mut all: BTreeSet<_> = settings(theirs)
        .into_iter()
        // With theirs, a file system is unmounted at once whose key somebody loaded by hand.
        .map(|(section, key, value)| match key.as_str() {
            "BindsTo" => (section, "Requires".to_owned(), value),
            _ => (section, key, value),
        })
        .collect();
    // The boot does not fail for want of a module, whatever local-fs.target requires.
    if skipped {
        all.insert(unit("ConditionPathIsDirectory", "/sys/module/zfs"));
    }
    // With theirs, a network that is up after local-fs.target (NetworkManager) makes a cycle.
    if far {
        assert!(all.remove(&unit("Before", "zfs-mount.service")), "{theirs}");
        if all.remove(&unit("Before", "local-fs.target")) {
            all.insert(unit("Before", "remote-fs.target"));
        }
        all.insert(unit("DefaultDependencies", "no"));
        all.insert(unit("Conflicts", "umount.target"));
        all.insert(unit("Before", "umount.target"));
    }
    all
}

/// Ours, without how a key unit finds zfs(8), which theirs has by its path.
fn without_the_search(ours: &str) -> BTreeSet<(String, String, String)> {
    let mut all = settings(ours);
    all.retain(|(_, key, _)| key != "ExecSearchPath");
    all
}

#[test]
fn from_the_same_lists_come_the_same_units_as_from_the_real_generator() {
    let peer = Peer::new();
    let mut compared = 0;
    for (about, lists) in cases() {
        let far = |path: &str| FAR.contains(&(about, path.rsplit('/').next().unwrap()));
        let mut theirs = BTreeMap::new();
        for (path, text) in peer.run(&lists) {
            // The root file system is mounted already, whatever fstab has for it.
            if path.rsplit('/').next() == Some("-.mount") {
                continue;
            }
            let later = far(&path) && path.starts_with("local-fs.target.");
            let path = if later { path.replace("local-fs", "remote-fs") } else { path };
            theirs.insert(path, text);
        }
        let ours = added(&lists);
        let names = |tree: &BTreeMap<String, String>| tree.keys().cloned().collect::<BTreeSet<_>>();
        assert_eq!(names(&ours), names(&theirs), "{about}: the names, ours and theirs");
        for (path, text) in &theirs {
            let ours = &ours[path];
            if path.contains('/') {
                assert_eq!(ours, text, "{about}: the link {path}");
            } else {
                let required = |target: &str| theirs.contains_key(&format!("{target}/{path}"));
                let skipped = path.starts_with("zfs-load-key@")
                    || required("local-fs.target.requires")
                    || required("remote-fs.target.requires");
                let expected = with_exceptions(text, skipped, far(path));
                assert_eq!(without_the_search(ours), expected, "{about}: {path}");
            }
            compared += 1;
        }
    }
    assert!(compared > 100, "only {compared} were compared");
}

#[test]
fn each_command_of_a_key_calls_zfs_as_theirs_does() {
    let keys = ["prompt", "file:///etc/keys/k", "https://keys.example/k"];
    let rows = keys.map(|location| {
        let name = format!("tank/{} x", &location[..4]);
        row(&name, "none", &[&format!("encroot={name}"), &format!("keylocation={location}")])
    });
    let lists = [("tank", rows.concat())];
    let peer = Peer::new();
    let (theirs, ours) = (peer.run(&lists), added(&lists));
    assert_eq!(ours.len(), keys.len(), "{ours:?}");
    for (unit, theirs) in &theirs {
        for key in ["ExecStart", "ExecStop"] {
            for state in ["unavailable", "available", "none", "-"] {
                // How often zfs fails before it does not.
                for failures in [0, 2, 9] {
                    let case = format!("{unit}, {key}, {state}, {failures} failures");
                    let (ours, theirs) = (command(&ours[unit], key), command(theirs, key));
                    let did = peer.did(&ours, state, failures);
                    assert_eq!(did, peer.did(&theirs, state, failures), "{case}");
                    assert!(did.contains("keystatus tank/"), "{case}: {did}");
                }
            }
            // What has to differ: programs come with the modules here, maybe after the boot. A unit that
            // is active without a key would never load it.
            let (ours, theirs) = (command(&ours[unit], key), command(theirs, key));
            assert!(peer.did(&theirs, "", 0).ends_with("exit 0\n"), "{unit}: theirs changed");
            assert!(!peer.did(&ours, "", 0).ends_with("exit 0\n"), "{unit}: loaded nothing");
        }
    }
}

/// A command of a unit.
fn command(unit: &str, key: &str) -> String {
    let line = unit.lines().find_map(|line| line.strip_prefix(&format!("{key}=")));
    line.unwrap_or_else(|| panic!("no {key} in {unit}")).to_owned()
}
