//! Who waits for whom, and for how long: units that wait for their pools, with everything else that can
//! be configured; and that nothing of OpenZFS's waits for ever.

use super::*;

/// What `boot.require-pools-for` is for.
const DOCKER: &str = "[Unit]\nRequiresMountsFor=/safe/data\n[Service]\nExecStart=/bin/sh\n";
const WAITS: &str = "boot.require-pools-for = [\"docker.service\", \"docker.socket\"]\n";
const EXPECTED: &str = "pools.expected = [\"tank\"]\npools.import-timeout = \"45min\"\n";
/// A unit before local-fs.target, as mounts are.
const MOUNT: &str = "[Unit]\nBefore=local-fs.target\nAfter=zfs-import.target\n\
                     [Mount]\nWhere=/srv/data\nWhat=tank/data\nType=zfs\nOptions=zfsutil\n";

/// docker.service and its socket, in the boot; and the datasets, which only our generator makes units of.
fn with_docker(root: &Path) {
    write(root, "etc/zfs/zfs-list.cache/tank", DATASETS.rsplit_once("tank/var").unwrap().0);
    write(root, "bin/sh", "#!/bin/true\n");
    fs::set_permissions(root.join("bin/sh"), fs::Permissions::from_mode(0o755)).unwrap();
    write(root, "etc/systemd/system/docker.service", DOCKER);
    write(root, "etc/systemd/system/docker.socket", "[Socket]\nListenStream=/run/docker.sock\n");
    for (target, unit) in [("multi-user", "docker.service"), ("sockets", "docker.socket")] {
        let wants = root.join(format!("etc/systemd/system/{target}.target.wants"));
        fs::create_dir_all(&wants).unwrap();
        symlink(format!("../{unit}"), wants.join(unit)).unwrap();
    }
}

#[test]
fn units_that_wait_for_their_pools_make_no_cycle_whatever_else_is_configured() {
    let block = "zfs_prefix.when_missing=block";
    let both = format!("{WAITS}{EXPECTED}");
    for (name, make, cmdline, var, configuration) in [
        ("the package's, waiting", machine as fn() -> _, "quiet", None, WAITS),
        ("the package's, all, block", machine, block, Some(VAR_OF_ITS_OWN), &both),
        ("ours, waiting", machine_without_openzfs, "quiet", None, WAITS),
        ("ours, all", machine_without_openzfs, "quiet", Some(VAR_OF_ITS_OWN), &both),
        ("ours, all, block", machine_without_openzfs, block, Some(VAR_OF_ITS_OWN), &both),
    ] {
        let dir: tempfile::TempDir = make();
        let root = dir.path().join("root");
        with_docker(&root);
        write(&root, "etc/zfs-prefix/config.toml", configuration);
        if let Some(unit) = var {
            mount_var(&root, unit);
        }
        generate(&root, cmdline);
        let drop_in = root.join("run/systemd/system/docker.service.d/50-zfs-prefix.conf");
        assert!(drop_in.exists(), "{name}: docker waits for nothing");
        let units = ["docker.service", "docker.socket", "zfs-mount.service", "local-fs.target"];
        assert_eq!(verify(&root, &[&BOOT[..], &OTHERS, &units].concat()), "", "{name}");
    }
}

#[test]
fn a_mount_unit_that_waited_for_the_pools_would_be_a_cycle() {
    let dir = machine();
    let root = dir.path().join("root");
    // As the real zfs-mount-generator writes it.
    let mount = MOUNT.replace("local-fs.target", "local-fs.target zfs-mount.service");
    write(&root, "etc/systemd/system/srv-data.mount", &mount);
    let requires = root.join("etc/systemd/system/local-fs.target.requires");
    fs::create_dir_all(&requires).unwrap();
    symlink("../srv-data.mount", requires.join("srv-data.mount")).unwrap();
    generate(&root, "quiet");
    assert_eq!(verify(&root, &BOOT), "");
    let drop_in = "[Unit]\nRequires=zfs-pools.service\nAfter=zfs-pools.service\n";
    write(&root, "etc/systemd/system/srv-data.mount.d/pools.conf", drop_in);
    let said = verify(&root, &BOOT);
    assert!(said.contains("ordering cycle") && said.contains("srv-data.mount"), "{said}");
}

/// The value that holds of `key`: of the last drop-in in the order of names, or of the unit itself.
fn setting(root: &Path, unit: &str, key: &str) -> Option<String> {
    let directories = ["usr/lib/systemd/system", "run/systemd/system"].map(|d| root.join(d));
    let template =
        unit.split_once('@').map_or(unit.to_owned(), |(stem, _)| format!("{stem}@.service"));
    let units = directories.iter().map(|d| d.join(unit));
    let drop_ins = directories.iter().map(|d| d.join(format!("{template}.d/50-zfs-prefix.conf")));
    let texts = units.chain(drop_ins).filter_map(|path| fs::read_to_string(path).ok());
    let mut values = texts.filter_map(|text| {
        text.lines()
            .filter_map(|l| l.strip_prefix(&format!("{key}=")).map(str::to_owned))
            .next_back()
    });
    values.next_back()
}

#[test]
fn nothing_of_openzfs_that_the_boot_waits_for_waits_for_ever() {
    for make in [machine as fn() -> tempfile::TempDir, machine_without_openzfs] {
        let dir = make();
        let root = dir.path().join("root");
        write(&root, "etc/zfs/zfs-list.cache/tank", DATASETS);
        write(&root, "etc/zfs-prefix/config.toml", EXPECTED);
        generate(&root, "quiet");
        let start = |unit: &str| setting(&root, unit, "TimeoutStartSec");
        for (unit, bound) in [
            ("zfs-import-cache.service", "2700s"),
            ("zfs-import-scan.service", "2700s"),
            ("zfs-mount.service", "15min"),
            ("zfs-share.service", "15min"),
            ("zfs-volume-wait.service", "15min"),
            ("zfs-load-key@tank-safe.service", "15min"),
        ] {
            assert_eq!(start(unit).as_deref(), Some(bound), "{unit}");
            // Four times this long for what cannot be killed.
            let stop = setting(&root, unit, "TimeoutStopSec");
            assert!(matches!(stop.as_deref(), Some("10s" | "30s")), "{unit}: {stop:?}");
        }
        // All else that does one thing and has a start to wait for.
        for directory in ["usr/lib/systemd/system", "run/systemd/system"] {
            for unit in entries(&root.join(directory)).iter().filter(|n| n.starts_with("zfs")) {
                let text = fs::read_to_string(root.join(directory).join(unit)).unwrap_or_default();
                let starts = text.contains("Type=oneshot") && !DEBIANS.contains(&unit.as_str());
                assert!(!starts || start(unit).is_some(), "{unit} has no limit");
            }
        }
    }
}

/// Of Debian's package: nothing in a boot waits for the timers' units; modprobe(8) does no I/O on pools.
const DEBIANS: [&str; 3] = ["zfs-load-module.service", "zfs-scrub@.service", "zfs-trim@.service"];
