//! Our copies of OpenZFS's units, for systems that have none: the same as those in the tarball of the
//! version that is built; and the whole set of units on a newer systemd than this machine's.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use lab::disk::State;
use lab::nspawn::Machine;
use lab::tool::run;

/// The userland that our copies call.
const USERLAND: &str = "/run/zfs-prefix/active/userland";

/// The one unit among our copies that OpenZFS does not have.
const VDEV: &str = "zfs-vdev-links.service";

/// A section and a setting of a unit file, lists of units one by one; nothing that only people read.
fn settings(unit: &str) -> BTreeSet<(String, String)> {
    let mut section = String::new();
    let mut found = BTreeSet::new();
    for line in unit.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let Some((key, value)) = line.split_once('=') else {
            line.clone_into(&mut section);
            continue;
        };
        match key {
            "Description" | "Documentation" => {}
            "After" | "Before" | "Wants" | "Requires" | "PartOf" | "WantedBy" | "Conflicts" => {
                let units = value.split_whitespace().map(|unit| format!("{key}={unit}"));
                found.extend(units.map(|one| (section.clone(), one)));
            }
            _ => drop(found.insert((section.clone(), line.to_owned()))),
        }
    }
    found
}

/// Where the release has its units, with what configure puts into them.
fn upstream() -> (tempfile::TempDir, impl Fn(&str) -> String) {
    let tarball = lab::openzfs::release(lab::root::ZFS).unwrap().tarball;
    let dir = lab::tmp::scratch("openzfs_units-");
    let mut tar = Command::new("tar");
    tar.arg("-xf").arg(tarball).arg("-C").arg(dir.path());
    tar.args(["--strip-components=1", "--wildcards", "*/etc/systemd/system/*"]);
    run(&mut tar).unwrap();
    let units = dir.path().join("etc/systemd/system");
    let read = move |name: &str| {
        let plain = fs::read_to_string(units.join(name));
        let text = plain.or_else(|_| fs::read_to_string(units.join(format!("{name}.in"))));
        [("sbindir", "sbin"), ("bindir", "bin")]
            .iter()
            .fold(text.unwrap_or_else(|e| panic!("{name}: {e}")), |text, (from, to)| {
                text.replace(&format!("@{from}@"), &format!("{USERLAND}/{to}"))
            })
            .replace("@sysconfdir@", "/etc")
            .replace("@initconfdir@", "/etc/default")
    };
    (dir, read)
}

#[test]
fn they_do_what_those_of_the_release_do() {
    let (_dir, theirs) = upstream();
    let dir = lab::repo().join("units/openzfs");
    let mut compared = 0;
    for entry in fs::read_dir(&dir).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let ours = fs::read_to_string(dir.join(&name)).unwrap();
        if name == "50-zfs.preset" {
            let lines = |text: &str| -> BTreeSet<String> {
                text.lines().filter(|l| !l.starts_with('#')).map(str::to_owned).collect()
            };
            assert_eq!(lines(&ours), lines(&theirs(&name)));
        }
        // Theirs has udev's helper at hand from the start.
        if name == VDEV || !(name.ends_with(".service") || name.ends_with(".target")) {
            continue;
        }
        compared += 1;
        let (ours, theirs) = (settings(&ours), settings(&theirs(&name)));
        // An initrd's.
        let initrd = ("[Unit]".to_owned(), "Before=dracut-mount.service".to_owned());
        let missing: Vec<_> = theirs.difference(&ours).filter(|s| **s != initrd).collect();
        assert_eq!(missing, Vec::<&(String, String)>::new(), "{name}");
        let ours_alone: Vec<_> = ours
            .difference(&theirs)
            .filter(|(_, line)| {
                let bound =
                    line.starts_with("TimeoutStartSec=") || line.starts_with("TimeoutStopSec=");
                !bound && !line.starts_with("Environment=")
            })
            .collect();
        assert_eq!(ours_alone, Vec::<&(String, String)>::new(), "{name}");
    }
    assert_eq!(compared, 9);
}

/// /usr of an operating system that has nothing of OpenZFS, with our copies of its units instead.
const OURS: &str = "cp -a /usr/lib/systemd/system /run/units && cd /run/units && \
    rm $(ls -d zfs* | grep -v -e zfs-load. -e zfs-build -e zfs-prefix -e zfs-pools -e zfs-import-expected -e '[.]d$') && \
    cp -r /opt/openzfs/usr/lib/systemd/system/* . && mount --bind /run/units /usr/lib/systemd/system && \
    rm -rf /etc/systemd/system/zfs*.wants && \
    mkdir -p /run/zfs-prefix/active && cp -a /opt/openzfs/userland /run/zfs-prefix/active && \
    systemctl preset $(cd /opt/openzfs/usr/lib/systemd/system && ls -d *.service *.target) && \
    cp -a /usr/lib/systemd/system-generators /run/generators && \
    rm /run/generators/zfs-mount-generator && mount --bind /run/generators /usr/lib/systemd/system-generators";

/// Units that are to be in the boot, beside those of the packages.
const FILES: [(&str, &str); 3] = [
    (
        "/etc/zfs/zfs-list.cache/tank",
        "tank\tnone\toff\ton\ton\ton\ton\toff\ton\toff\t-\tnone\t-\t-\t-\t-\t-\t-\t-\t-\n\
         tank/safe\t/safe\ton\ton\ton\ton\ton\toff\ton\toff\ttank/safe\tfile:///etc/zfs/key\t-\t-\t-\t-\t-\t-\t-\t-\n",
    ),
    (
        "/etc/systemd/system/docker.service",
        "[Unit]\nRequiresMountsFor=/safe/data\n[Service]\nExecStart=/bin/sleep infinity\n",
    ),
    // Over one that is there already, so never mounted.
    (
        "/etc/systemd/system/var.mount",
        "[Unit]\nBefore=local-fs.target\n[Mount]\nWhere=/var\nWhat=/dev/disk/by-label/var\nType=ext4\n",
    ),
];
/// Those of [`FILES`] that something has to pull in.
const LINKS: &str = "cd /etc/systemd/system && mkdir -p local-fs.target.requires multi-user.target.wants && \
    ln -sf ../var.mount local-fs.target.requires && ln -sf ../docker.service multi-user.target.wants";

/// `systemd-analyze verify` of the boot, with what the generators of the running systemd wrote: it looks at
/// an empty directory in place of theirs.
const VERIFY: &str = "export SYSTEMD_LOG_LEVEL=info \
    SYSTEMD_UNIT_PATH=/etc/systemd/system:/run/systemd/system:/run/systemd/generator:/usr/lib/systemd/system; \
    systemd-analyze --man=no verify multi-user.target local-fs.target zfs-load.service zfs-mount.service \
    docker.service safe.mount zfs-load-key@tank-safe.service 2>&1 | grep -i -e cycle -e zfs -e docker -e safe";

/// What `systemctl show` calls the bounds, of these units.
const BOUNDS: [(&str, &str, &str); 6] = [
    ("zfs-import-cache.service", "45min", "10s"),
    ("zfs-import-scan.service", "45min", "10s"),
    ("zfs-mount.service", "15min", "10s"),
    ("zfs-share.service", "15min", "10s"),
    ("zfs-volume-wait.service", "15min", "10s"),
    ("zfs-load-key@tank-safe.service", "15min", "30s"),
];

#[test]
fn the_whole_set_has_no_cycle_on_a_newer_systemd() {
    let stage = lab::stage();
    let root = lab::root::root().unwrap();
    let work = lab::tmp::scratch("openzfs_units-");
    let state = State::fresh(&root, &work.path().join("state")).unwrap();
    let install = lab::repo().join("packaging/install-openzfs");
    let into = state.path("/opt/openzfs");
    run(Command::new(install).arg(&into).arg("/opt/bin")).unwrap();
    for program in ["sbin/zpool", "sbin/zfs", "sbin/zed", "bin/zvol_wait"] {
        let path = into.join("userland").join(program);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(Path::new("/bin/true"), path).unwrap();
    }
    state.write("/etc/zfs-prefix/config.toml", "[boot]\nwhen-missing = \"never\"\n").unwrap();
    let minute = Duration::from_secs(60);
    let machine = Machine::boot("units", &root, &state, Some(&stage), minute).unwrap();
    let check = |line: &str| machine.check(line).unwrap().trim().to_owned();
    let version: u32 =
        check("systemctl --version | sed -n '1s/^systemd \\([0-9]*\\).*/\\1/p'").parse().unwrap();
    assert!(version >= 254, "{version} is no newer one");
    for (path, text) in FILES {
        state.write(path, text).unwrap();
    }
    check(LINKS);
    for set in ["the package's", "ours"] {
        if set == "ours" {
            check(OURS);
        }
        for when in ["late", "block", "never"] {
            let config = format!(
                "pools.expected = [\"tank\"]\npools.import-timeout = \"45min\"\n\
                 [boot]\nenabled = true\nwhen-missing = \"{when}\"\n\
                 require-pools-for = [\"docker.service\"]\n"
            );
            state.write("/etc/zfs-prefix/config.toml", &config).unwrap();
            check("systemctl daemon-reload");
            let before = check("systemctl show -p Before --value zfs-load.service");
            assert!(before.contains("zfs-import-cache.service"), "{set}, {when}: {before}");
            let wants = check("systemctl show -p Wants --value zfs-load.service multi-user.target");
            let wanted = |unit| wants.split_whitespace().any(|w| w == unit);
            assert_eq!(
                wanted("zfs-build-early.service"),
                when == "block",
                "{set}, {when}: {wants}"
            );
            assert_eq!(wanted("zfs-build.service"), when != "never", "{set}, {when}: {wants}");
            let requires = check("systemctl show -p Requires --value docker.service");
            assert!(requires.contains("zfs-pools.service"), "{set}, {when}: {requires}");
            let said = machine.exec(VERIFY).unwrap();
            assert_eq!(said.output.trim(), "", "{set}, {when}");
        }
        for (unit, start, stop) in BOUNDS {
            let shown = |key| check(&format!("systemctl show -p {key} --value {unit}"));
            let found = (shown("TimeoutStartUSec"), shown("TimeoutStopUSec"));
            assert_eq!(found, (start.to_owned(), stop.to_owned()), "{set}: {unit}");
        }
        // What is refused in boot.require-pools-for; it shows, too, that generated units are looked at.
        let waits = "/etc/systemd/system/safe.mount.d/pools.conf";
        state.write(waits, "[Unit]\nAfter=zfs-pools.service\n").unwrap();
        let said = machine.exec(VERIFY).unwrap().output;
        assert!(said.contains("ordering cycle") && said.contains("safe.mount"), "{set}: {said}");
        fs::remove_file(state.path(waits)).unwrap();
    }
}
