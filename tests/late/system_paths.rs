//! A boot without modules on a system whose own directories are datasets: at /var/tmp, /var/log, and where a
//! drop-in makes logind wait. Whoever writes the mount units, the boot is not lost.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use lab::disk::State;
use lab::nspawn::Machine;

/// Name, mount point, and `org.openzfs.systemd:nofail`.
const DATASETS: [(&str, &str, &str); 6] = [
    ("tank/vtmp", "/var/tmp", "-"),
    ("tank/log", "/var/log", "-"),
    ("tank/data", "/data", "-"),
    ("tank/must", "/must", "off"),
    ("tank/srv", "/srv", "-"),
    ("tank/cache", "/var/cache", "-"),
];
/// Systemd's own units that the boot must not lose.
const VITAL: &str = "local-fs.target basic.target multi-user.target systemd-logind.service \
                     systemd-journal-flush.service dbus.service";
/// Needs its data.
const NEEDS: &str = "[Unit]\nRequiresMountsFor=/srv/x\n[Service]\nExecStart=/bin/sleep infinity\n";

fn list() -> String {
    DATASETS.iter().map(|(name, point, nofail)| line(name, point, "-", nofail)).collect()
}

/// A line of a list; `paths`: `org.openzfs.systemd:requires-mounts-for`.
fn line(name: &str, point: &str, paths: &str, nofail: &str) -> String {
    let flags = "on\ton\ton\ton\ton\toff\ton\toff\t-\tnone";
    format!("{name}\t{point}\t{flags}\t-\t{paths}\t-\t-\t-\t-\t{nofail}\t-\n")
}

/// The machine after its boot; a boot that does not reach multi-user.target fails here.
fn booted(name: &str, peer: bool, list: &str) -> (Machine, tempfile::TempDir) {
    let own = lab::root::root().unwrap();
    let root = if peer { own } else { lab::without::openzfs(&own).unwrap() };
    let work = lab::tmp::scratch("paths-");
    let stage = if peer {
        lab::stage()
    } else {
        let stage = work.path().join("stage");
        lab::without::stage_with_units(&lab::stage(), &stage).unwrap();
        stage
    };
    let state = State::fresh(&root, &work.path().join("state")).unwrap();
    let drop_in = "[Unit]\nRequiresMountsFor=/data/logind\n";
    for (path, text) in [
        ("/etc/zfs-prefix/config.toml", "[boot]\nenabled = true\nwhen-missing = \"never\"\n"),
        ("/etc/zfs/zfs-list.cache/tank", list),
        ("/etc/fstab", "tank/legacy /legacy zfs defaults 0 0\n"),
        ("/etc/systemd/system/systemd-logind.service.d/data.conf", drop_in),
        ("/etc/systemd/system/needs.service", NEEDS),
    ] {
        state.write(path, text).unwrap();
    }
    let units = "/etc/systemd/system";
    fs::remove_file(state.path(&format!("{units}/systemd-journal-flush.service"))).unwrap();
    let wants = state.path(&format!("{units}/multi-user.target.wants"));
    fs::create_dir_all(&wants).unwrap();
    symlink("../needs.service", wants.join("needs.service")).unwrap();
    let minute = Duration::from_secs(60);
    (Machine::boot(name, &root, &state, Some(&stage), minute).unwrap(), work)
}

#[test]
fn datasets_that_systemd_itself_needs_cost_nothing_of_a_boot_without_modules() {
    for (name, peer) in [("paths-ours", false), ("paths-peers", true)] {
        let (machine, _work) = booted(name, peer, &list());
        let check = |line: &str| machine.check(line).unwrap().trim().to_owned();
        let states = machine.exec(&format!("systemctl is-active {VITAL}")).unwrap().output;
        assert_eq!(states, "active\n".repeat(6), "{name}");
        check("loginctl list-sessions");
        let of = |unit: &str| {
            let show = "systemctl show --value -p $p";
            let all = "for p in LoadState ActiveState ConditionResult";
            check(&format!("{all}; do {show} {unit}; done")).replace('\n', " ")
        };
        for unit in ["var-tmp", "var-log", "var-cache", "data", "must", "legacy"] {
            assert_eq!(of(&format!("{unit}.mount")), "loaded inactive no", "{name}: {unit}");
        }
        // Who said that it needs its data does not start without.
        assert_eq!(of("srv.mount"), "loaded failed yes", "{name}");
        assert_eq!(of("needs.service"), "loaded inactive no", "{name}");
        let written = "find /var/cache /home /var/lib/zfs-prefix";
        let before = check(written);
        for command in [
            "/usr/lib/zfs-prefix/zfs-build",
            "zfs-prefix prefix shell -- true",
            "zfs-prefix prefix audit",
            "zfs-prefix prefix provision --source /none.tar.zst --sha256 0000000000000000000000000000000000000000000000000000000000000000",
        ] {
            let ran = machine.exec(command).unwrap();
            assert_eq!(ran.status, 20, "{name}: {command}: {}", ran.output);
            let named = "/var/cache/zfs-prefix is on pool tank (dataset tank/cache, mount point /var/cache), which is not imported";
            assert!(ran.output.contains(named), "{name}: {command}: {}", ran.output);
            assert_eq!(check(written), before, "{name}: {command}");
        }
    }
}

/// Case 3 of the field: basic.target came after 91 seconds, and nothing of ours was there.
#[test]
fn a_thousand_datasets_with_the_longest_properties_cost_neither_the_boot_nor_the_loader() {
    let longest = "/a".repeat(2040);
    let rows = (0..1016).map(|n| {
        let nofail = if n == 0 { "off" } else { "-" };
        line(&format!("tank/{n}"), &format!("/tank/{n}"), &longest, nofail)
    });
    let (machine, _work) = booted("paths-deep", false, &rows.collect::<String>());
    let check = |line: &str| machine.check(line).unwrap().trim().to_owned();
    assert_eq!(check(&format!("systemctl is-active {VITAL}")), "active\n".repeat(6).trim_end());
    let generated = "/run/systemd/generator";
    check(&format!("test -L {generated}/zfs-import.target.wants/zfs-load.service"));
    assert_eq!(check(&format!("ls {generated} | grep -c '^tank-.*mount$'")), "1016");
}
