//! The static units, together with those of systemd and OpenZFS as Debian ships them, and with
//! what the generator adds.

#![allow(clippy::unwrap_used, reason = "a test may; clippy.toml knows only its test functions")]

mod order;
mod waiting;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use lab::files::{copy, entries, scratch};
use lab::repo as source;
use lab::units::{install_units, unit_names};

/// A copy of the unpacked packages with ours installed and OpenZFS enabled by its own preset.
fn machine() -> tempfile::TempDir {
    let dir = scratch("units-");
    let root = dir.path().join("root");
    let copied = Command::new("cp").arg("-al").arg(lab::units::unpacked()).arg(&root).status();
    assert!(copied.unwrap().success());
    install_units(&root, "/usr/lib/systemd/system");
    for (name, binary) in [
        ("usr/lib/zfs-prefix/zfs-load", env!("CARGO_BIN_EXE_zfs-load")),
        ("usr/lib/zfs-prefix/zfs-build", env!("CARGO_BIN_EXE_zfs-build")),
        ("usr/bin/zfs-prefix", env!("CARGO_BIN_EXE_zfs-prefix")),
    ] {
        copy(Path::new(binary), &root.join(name));
    }
    for (path, text) in [("etc/machine-id", ""), ("proc/cmdline", "quiet\n"), ("dev/kmsg", "")] {
        write(&root, path, text);
    }
    let openzfs: Vec<_> = entries(&root.join("usr/lib/systemd/system"))
        .into_iter()
        .filter(|n| n.starts_with("zfs") && root_unit(&root, n).contains("[Install]"))
        .filter(|n| !unit_names().contains(n) && !n.contains('@'))
        .collect();
    assert!(openzfs.contains(&"zfs-load-module.service".to_owned()), "{openzfs:?}");
    systemctl(&root, "preset", &openzfs);
    assert!(root.join("etc/systemd/system/zfs-import.target.wants").exists(), "nothing enabled");
    dir
}

fn root_unit(root: &Path, name: &str) -> String {
    fs::read_to_string(root.join("usr/lib/systemd/system").join(name)).unwrap_or_default()
}

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn systemctl(root: &Path, verb: &str, units: &[String]) {
    let mut command = Command::new("systemctl");
    let output = command.arg("--root").arg(root).arg(verb).args(units).output().unwrap();
    assert!(output.status.success(), "{verb} {units:?}: {output:?}");
}

/// Runs the generator; `systemd-analyze` has its own idea of the generators' directories, so the
/// output goes to /run/systemd/system, which has the same place between /etc and /usr.
fn generate(root: &Path, cmdline: &str) {
    write(root, "proc/cmdline", cmdline);
    let out = root.join("run/systemd/system");
    fs::create_dir_all(&out).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_zfs-prefix-generator"))
        .env("ZFS_PREFIX_ROOT", root)
        .env("SYSTEMD_IN_INITRD", "0")
        .env("SYSTEMD_ARCHITECTURE", "x86-64")
        .env_remove("SYSTEMD_VIRTUALIZATION")
        .env_remove("SYSTEMD_PROC_CMDLINE")
        .arg(&out)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// What is started at boot with OpenZFS enabled.
const BOOT: [&str; 2] = ["multi-user.target", "zfs-load.service"];
/// Units of ours that are started later, or only with "block".
const OTHERS: [&str; 10] = [
    "zfs-pools.service",
    "zfs-import-expected.service",
    "zfs-prefix-provision.service",
    "zfs-load-late.service",
    "zfs-build.service",
    "zfs-build-early.service",
    "zfs-build@6.1.0-56-cloud-amd64.service",
    "zfs-build.slice",
    "zfs-build-retry.timer",
    "zfs-build-retry@6.1.0-56-cloud-amd64.timer",
];

/// What is enabled by hand where there is no generator.
const ENABLED: [&str; 5] = [
    "zfs-load.service",
    "zfs-build.service",
    "zfs-build-early.service",
    "zfs-pools.service",
    "zfs-import-expected.service",
];

/// What `systemd-analyze verify` says; all of it counts, for it exits with 0 in spite of a cycle.
fn verify(root: &Path, units: &[&str]) -> String {
    let mut command = Command::new("systemd-analyze");
    command.env("SYSTEMD_LOG_LEVEL", "info").args(["--man=no", "--root"]).arg(root);
    let output = command.arg("verify").args(units).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { said } else { format!("{:?}\n{said}", output.status) }
}

/// /var as systemd-fstab-generator writes it.
const VAR_OF_ITS_OWN: &str = "[Unit]\nBefore=local-fs.target\n[Mount]\nWhere=/var\n\
                              What=/dev/disk/by-label/var\nType=ext4\n";
/// /var as zfs-mount-generator(8) writes it.
const VAR_ON_A_POOL: &str = "[Unit]\nBefore=local-fs.target zfs-mount.service\n\
                             After=zfs-import.target\nWants=zfs-import.target\n\
                             [Mount]\nWhere=/var\nWhat=tank/var\nType=zfs\nOptions=zfsutil\n";

fn mount_var(root: &Path, unit: &str) {
    write(root, "etc/systemd/system/var.mount", unit);
    let requires = root.join("etc/systemd/system/local-fs.target.requires");
    fs::create_dir_all(&requires).unwrap();
    symlink("../var.mount", requires.join("var.mount")).unwrap();
}

#[test]
fn the_boot_has_no_cycle_and_no_complaint_whatever_is_configured() {
    let (block, pools) = ("zfs_prefix.when_missing=block", "pools.expected = [\"tank\"]\n");
    for (name, cmdline, var, configuration) in [
        ("late", "quiet", None, ""),
        ("late, pools expected", "quiet", None, pools),
        ("block", block, None, ""),
        ("never", "zfs_prefix.when_missing=never", None, ""),
        ("off", "zfs_prefix=0", None, ""),
        ("late, /var of its own", "quiet", Some(VAR_OF_ITS_OWN), ""),
        ("block, /var of its own, pools expected", block, Some(VAR_OF_ITS_OWN), pools),
    ] {
        let dir = machine();
        let root = dir.path().join("root");
        write(&root, "etc/zfs-prefix/config.toml", configuration);
        if let Some(unit) = var {
            mount_var(&root, unit);
        }
        generate(&root, cmdline);
        assert_eq!(verify(&root, &[&BOOT[..], &OTHERS].concat()), "", "{name}");
    }
}

#[test]
fn the_static_units_alone_have_no_cycle_either() {
    for var in [None, Some(VAR_OF_ITS_OWN)] {
        let dir = machine();
        let root = dir.path().join("root");
        if let Some(unit) = var {
            mount_var(&root, unit);
        }
        systemctl(&root, "enable", &ENABLED.map(str::to_owned));
        let dormant = Path::new("/usr/lib/zfs-prefix/dropins");
        for unit in entries(&source().join("units/dropins")) {
            symlink(dormant.join(&unit), root.join("etc/systemd/system").join(&unit)).unwrap();
        }
        assert_eq!(verify(&root, &[&BOOT[..], &OTHERS].concat()), "", "{var:?}");
    }
}

#[test]
fn var_on_a_pool_is_a_cycle_unless_the_generator_masks_the_drop_in() {
    for cmdline in ["quiet", "zfs_prefix.when_missing=block"] {
        let dir = machine();
        let root = dir.path().join("root");
        mount_var(&root, VAR_ON_A_POOL);
        // The generator is not told: this shows that verify would see the cycle.
        generate(&root, "quiet");
        let said = verify(&root, &BOOT);
        assert!(said.contains("ordering cycle") && said.contains("var.mount"), "{said}");
        fs::remove_dir_all(root.join("run/systemd/system")).unwrap();
        let list =
            "tank/var\t/var\ton\ton\ton\ton\ton\toff\ton\toff\t-\tnone\t-\t-\t-\t-\t-\t-\t-\t-\n";
        write(&root, "etc/zfs/zfs-list.cache/tank", list);
        generate(&root, cmdline);
        assert_eq!(verify(&root, &BOOT), "", "{cmdline}");
    }
}

/// The userland that our copies of OpenZFS's units call.
const USERLAND: &str = "run/zfs-prefix/active/userland";

/// The same machine without OpenZFS's package: with our units of the same names, enabled by their
/// preset, and the programs they start.
fn machine_without_openzfs() -> tempfile::TempDir {
    let dir = machine();
    let root = dir.path().join("root");
    fs::remove_dir_all(root.join("etc/systemd/system")).unwrap();
    let units = root.join("usr/lib/systemd/system");
    for name in entries(&units).iter().filter(|n| n.starts_with("zfs") && !n.ends_with(".d")) {
        if !unit_names().contains(name) {
            fs::remove_file(units.join(name)).unwrap();
        }
    }
    for directory in ["sbin", "lib/udev/rules.d", "lib/systemd/system-preset", "lib/tmpfiles.d"] {
        let directory = root.join("usr").join(directory);
        let of_openzfs = |name: &String| {
            ["zfs", "zpool", "zed", "zvol", "vdev"].iter().any(|n| name.contains(n))
        };
        for name in entries(&directory).iter().filter(|name| of_openzfs(name)) {
            fs::remove_file(directory.join(name)).unwrap();
        }
    }
    fs::remove_file(root.join("usr/lib/systemd/system-generators/zfs-mount-generator")).unwrap();
    let output = install_openzfs(&root);
    assert!(output.status.success(), "{output:?}");
    for program in ["sbin/zpool", "sbin/zfs", "sbin/zed", "bin/zvol_wait"] {
        copy(Path::new("/bin/true"), &root.join(USERLAND).join(program));
    }
    let names = entries(&source().join("units/openzfs"));
    let ours: Vec<_> =
        names.into_iter().filter(|n| n.ends_with(".service") || n.ends_with(".target")).collect();
    systemctl(&root, "preset", &ours);
    dir
}

#[test]
fn where_the_system_has_none_our_openzfs_units_have_no_cycle_and_no_complaint() {
    for (name, cmdline, var) in [
        ("late", "quiet", None),
        ("block", "zfs_prefix.when_missing=block", None),
        ("block, /var of its own", "zfs_prefix.when_missing=block", Some(VAR_OF_ITS_OWN)),
    ] {
        let dir = machine_without_openzfs();
        let root = dir.path().join("root");
        if let Some(unit) = var {
            mount_var(&root, unit);
        }
        generate(&root, cmdline);
        let enabled =
            root.join("etc/systemd/system/zfs-import.target.wants/zfs-import-cache.service");
        assert!(enabled.is_symlink(), "{name}: the preset enabled nothing");
        assert_eq!(verify(&root, &[&BOOT[..], &OTHERS].concat()), "", "{name}");
    }
}

/// Datasets as zed lists them: /var, one with a key file below another one, one that asks, and one with a
/// key from the network, with others below it.
const DATASETS: &str = "\
tank\tnone\toff\ton\ton\ton\ton\toff\ton\toff\t-\tnone\t-\t-\t-\t-\t-\t-\t-\t-
tank/asked\t/asked\tnoauto\ton\ton\ton\ton\toff\ton\toff\ttank/asked\tprompt\t-\t-\t-\t-\t-\t-\t-\t-
tank/far\t/far\ton\ton\ton\ton\ton\toff\ton\toff\ttank/far\thttps://keys.example/far\t-\t-\t-\t-\t-\t-\t-\t-
tank/far/in\t/far/in\ton\ton\ton\ton\ton\toff\ton\toff\ttank/far\tnone\t-\t-\t-\t-\t-\t-\toff\t-
tank/plain\t/far/plain\ton\ton\ton\ton\ton\toff\ton\toff\t-\tnone\t-\t-\t-\t-\t-\t-\t-\t-
tank/keys\t/keys of all\ton\ton\ton\ton\ton\toff\ton\toff\t-\tnone\t-\t-\t-\t-\t-\t-\toff\t-
tank/safe\t/safe\ton\ton\ton\ton\ton\toff\ton\toff\ttank/safe\tfile:///keys of all/safe\t-\t-\t-\t-\t-\t-\t-\t-
tank/var\t/var\ton\ton\ton\ton\ton\toff\ton\toff\t-\tnone\t-\t-\t-\t-\t-\t-\t-\t-
";

/// A network as NetworkManager makes it: after D-Bus, which is after local-fs.target.
fn network(root: &Path) {
    let online = "[Unit]\nRequires=NetworkManager.service\nAfter=NetworkManager.service\n\
                  Before=network-online.target\n[Service]\nType=oneshot\nExecStart=/bin/sh\n";
    let manager = "[Unit]\nWants=network.target\nBefore=network.target\nRequires=bus.socket\n\
                   After=bus.socket\n[Service]\nExecStart=/bin/sh\n";
    for (name, text) in [
        ("NetworkManager-wait-online.service", online),
        ("NetworkManager.service", manager),
        ("bus.socket", "[Socket]\nListenStream=/run/bus\n"),
        ("bus.service", "[Service]\nExecStart=/bin/sh\n"),
    ] {
        write(root, &format!("etc/systemd/system/{name}"), text);
    }
    let wants = root.join("etc/systemd/system/network-online.target.wants");
    fs::create_dir_all(&wants).unwrap();
    let name = "NetworkManager-wait-online.service";
    symlink(Path::new("..").join(name), wants.join(name)).unwrap();
}

#[test]
fn a_boot_that_mounts_datasets_by_our_units_has_no_cycle_and_whoever_needs_one_waits_for_it() {
    for cmdline in ["quiet", "zfs_prefix.when_missing=block"] {
        let dir = machine_without_openzfs();
        let root = dir.path().join("root");
        write(&root, "etc/zfs/zfs-list.cache/tank", DATASETS);
        copy(Path::new("/bin/true"), &root.join("bin/sh"));
        let service = "[Unit]\nDefaultDependencies=no\nRequiresMountsFor=/safe/data\n[Service]\nExecStart=/bin/sh\n";
        write(&root, "etc/systemd/system/needs.service", service);
        let wants = root.join("etc/systemd/system/multi-user.target.wants");
        symlink("../needs.service", wants.join("needs.service")).unwrap();
        network(&root);
        generate(&root, cmdline);
        let said = fs::read_to_string(root.join("dev/kmsg")).unwrap();
        assert!(said.contains("10 units of datasets"), "{said}");
        let units = [
            "local-fs.target",
            "remote-fs.target",
            "far.mount",
            "needs.service",
            "safe.mount",
            "asked.mount",
            "zfs-load-key@tank-asked.service",
            "zfs-load-key@tank-safe.service",
        ];
        assert_eq!(verify(&root, &[&BOOT[..], &units].concat()), "", "{cmdline}");
        // Turned round it is a cycle: so starting the one starts all of these, in their order.
        let turned = "[Unit]\nBefore=zfs-load-key@tank-safe.service\n";
        write(&root, "etc/systemd/system/needs.service.d/turned.conf", turned);
        let said = verify(&root, &["needs.service"]);
        let way =
            ["needs.service", "safe.mount", "zfs-load-key@tank-safe.service", "ordering cycle"];
        assert!(way.iter().all(|part| said.contains(part)), "{cmdline}: {said}");
    }
}

#[test]
fn a_key_from_the_network_is_a_cycle_before_local_fs_and_verify_would_see_it() {
    let dir = machine_without_openzfs();
    let root = dir.path().join("root");
    write(&root, "etc/zfs/zfs-list.cache/tank", DATASETS);
    copy(Path::new("/bin/true"), &root.join("bin/sh"));
    network(&root);
    generate(&root, "quiet");
    // As zfs-mount-generator(8) has it, and systemd's defaults.
    let unit = root.join("run/systemd/system/far.mount");
    let text = fs::read_to_string(&unit).unwrap();
    let theirs = text.replace("DefaultDependencies=no\n", "").replace("remote-fs", "local-fs");
    assert_ne!(text, theirs);
    fs::write(&unit, theirs).unwrap();
    let said = verify(&root, &["multi-user.target", "far.mount"]);
    assert!(said.contains("ordering cycle") && said.contains("far.mount"), "{said}");
}

#[test]
fn openzfs_units_are_not_put_beside_those_that_are_there() {
    let dir = machine();
    let root = dir.path().join("root");
    let output = install_openzfs(&root);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("sbin/zpool is there"), "{said}");
    assert!(!root.join("opt/bin").exists(), "something was installed all the same");
    // Other files of a package, and its programs, say it too.
    for there in [
        "usr/lib/systemd/system/zfs-mount.service",
        "usr/lib/udev/rules.d/60-zvol.rules",
        "usr/sbin/zpool",
        "opt/bin/zfs",
    ] {
        let dir = lab::tmp::scratch("units-");
        write(dir.path(), there, "somebody's");
        let output = install_openzfs(dir.path());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{there}: {said}");
        assert!(said.contains(&format!("{there} is there")), "{said}");
        assert!(!dir.path().join("usr/lib/tmpfiles.d").exists(), "{there}: installed all the same");
    }
}

fn install_openzfs(root: &Path) -> std::process::Output {
    let install = source().join("packaging/install-openzfs");
    Command::new(install).arg(root).arg("/opt/bin").output().unwrap()
}

#[test]
fn openzfs_units_of_an_earlier_version_are_replaced_and_each_file_says_whose_it_is() {
    let dir = lab::tmp::scratch("units-");
    let root = dir.path();
    let installed = |root: &Path| install_openzfs(root).status.success();
    assert!(installed(root));
    let unit = root.join("usr/lib/systemd/system/zfs-mount.service");
    let text = fs::read_to_string(&unit).unwrap();
    fs::write(&unit, text.replace("[Service]", "[Service]\n# earlier")).unwrap();
    assert!(installed(root), "what it installed itself is in its way");
    assert_eq!(fs::read_to_string(&unit).unwrap(), text);
    let zpool = fs::read_link(root.join("opt/bin/zpool")).unwrap();
    assert_eq!(zpool, Path::new("/").join(USERLAND).join("sbin/zpool"));
    let wanted = "usr/lib/systemd/system/zfs-import.target.wants/zfs-vdev-links.service";
    assert!(root.join(wanted).exists(), "a link to nothing");
}

/// (who wants, what is wanted) of the `[Install]` sections.
fn installed_wants() -> BTreeSet<(String, String)> {
    let mut wants = BTreeSet::new();
    for name in unit_names() {
        let text = fs::read_to_string(source().join("units").join(&name)).unwrap();
        for line in text.lines().filter_map(|l| l.strip_prefix("WantedBy=")) {
            wants.extend(line.split_whitespace().map(|by| (by.to_owned(), name.clone())));
        }
    }
    wants
}

#[test]
fn enabling_the_static_units_gives_the_same_links_as_the_generator() {
    // "block" is the case with all of them.
    let golden = source().join("tests/golden/block/expected/normal");
    let mut generated = BTreeSet::new();
    for directory in entries(&golden) {
        if let Some(by) = directory.strip_suffix(".wants") {
            let units = entries(&golden.join(&directory));
            generated.extend(units.into_iter().map(|unit| (by.to_owned(), unit)));
        }
    }
    assert_eq!(generated, installed_wants());
}

#[test]
fn the_preset_enables_nothing() {
    let dir = machine();
    let root = dir.path().join("root");
    let preset = "90-zfs-prefix.preset";
    copy(
        &source().join("units").join(preset),
        &root.join("usr/lib/systemd/system-preset").join(preset),
    );
    systemctl(&root, "preset", &ENABLED.map(str::to_owned));
    let etc = root.join("etc/systemd/system");
    for name in ENABLED {
        let linked = Command::new("find").arg(&etc).args(["-name", name]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&linked.stdout), "", "{name}");
    }
}

#[test]
fn an_early_unit_pulls_in_no_mount_and_no_bus() {
    let pools = ["zfs-pools.service", "zfs-import-expected.service"];
    for name in ["zfs-load.service", "zfs-build-early.service"].into_iter().chain(pools) {
        let text = fs::read_to_string(source().join("units").join(name)).unwrap();
        assert!(text.contains("\nDefaultDependencies=no\n"), "{name}");
        let settings = text.lines().filter(|l| !l.starts_with('#'));
        for line in settings {
            let key = line.split('=').next().unwrap_or_default();
            let forbidden = ["Private", "Protect", "ReadOnly", "ReadWrite", "Inaccessible"]
                .iter()
                .chain(&["StateDirectory", "CacheDirectory", "LogsDirectory", "DynamicUser"])
                .chain(&["TemporaryFileSystem", "Bind", "Root", "BusName", "Mount"])
                .any(|start| key.starts_with(start));
            assert!(!forbidden, "{name}: {line} sets up a mount namespace, which needs mounts");
            let var = name != "zfs-build-early.service" && key == "RequiresMountsFor";
            assert!(!var, "{name}: {line} cannot be reset where /var is on a pool");
            assert!(!line.contains("network") && !line.contains("dbus"), "{name}: {line}");
        }
    }
}

#[test]
fn what_imports_pools_by_name_opens_nothing_below_var() {
    let dir = scratch("by-name-");
    let root = dir.path();
    write(root, "proc/cmdline", "quiet\n");
    write(root, "etc/zfs-prefix/config.toml", "pools.expected = [\"tank\"]\n");
    fs::create_dir_all(root.join("sys/module/zfs")).unwrap();
    // Not what zpool does is the question here, but what is opened on the way to it.
    write(root, "usr/sbin/zpool", "#!/bin/sh\nexit 0\n");
    fs::set_permissions(root.join("usr/sbin/zpool"), fs::Permissions::from_mode(0o755)).unwrap();
    let trace = root.join("trace");
    let output = Command::new("strace")
        .args(["-f", "-s", "4096", "-e", "trace=%file", "-o"])
        .arg(&trace)
        .args([env!("CARGO_BIN_EXE_zfs-prefix"), "pools", "--import"])
        .env("ZFS_PREFIX_ROOT", root)
        // Where cargo has its libraries may be below /var, and ld.so looks there.
        .env_remove("LD_LIBRARY_PATH")
        .output()
        .unwrap();
    assert!(output.status.success(), "strace is needed: {output:?}");
    let trace = fs::read_to_string(&trace).unwrap();
    assert!(trace.contains("config.toml\"") && trace.contains("/usr/sbin/zpool\""), "{trace}");
    let own = [Path::new(env!("CARGO_BIN_EXE_zfs-prefix"))];
    let opened = lab::strace::below_var(&trace, root, &own);
    assert!(opened.is_empty(), "{opened:?}");
}

#[test]
fn the_prefix_is_provisioned_before_a_late_build_and_never_before_one_that_holds_up_the_boot() {
    let text = |name: &str| fs::read_to_string(source().join("units").join(name)).unwrap();
    let provision = "zfs-prefix-provision.service";
    for build in ["zfs-build.service", "zfs-build@.service"] {
        for line in [format!("\nWants={provision}\n"), format!("\nAfter={provision}\n")] {
            assert!(text(build).contains(&line), "{build}: {line}");
        }
    }
    for name in unit_names() {
        let pulls = name.starts_with("zfs-build") && !name.contains("early");
        assert!(pulls || !text(&name).contains(&format!("={provision}")), "{name}");
        // Only a program that has something to fetch has the network brought up.
        let waits = text(&name).lines().any(|l| l.starts_with("Wants=network-online"));
        assert!(!waits, "{name} makes machines wait for a network that need none");
    }
}

#[test]
fn each_ordering_line_has_a_comment_that_says_why() {
    let orders = |line: &str| {
        ["After=", "Before=", "RequiresMountsFor=", "Conflicts=", "OnSuccess=", "OnFailure="]
            .iter()
            .any(|key| line.starts_with(key))
    };
    for name in unit_names() {
        let text = fs::read_to_string(source().join("units").join(&name)).unwrap();
        let lines: Vec<_> = text.lines().collect();
        for (above, line) in lines.iter().zip(&lines[1..]) {
            let explained = above.starts_with('#') || above.starts_with("Conflicts=");
            assert!(!orders(line) || explained, "{name}: {line}");
        }
    }
}

#[test]
fn the_catalog_explains_each_message_id_and_journalctl_takes_it() {
    let log = fs::read_to_string(source().join("src/log.rs")).unwrap();
    let known: BTreeSet<_> = log
        .lines()
        .filter_map(|l| l.trim().strip_prefix("pub const ")?.split('"').nth(1))
        .map(str::to_owned)
        .collect();
    assert!(known.len() >= 11, "{known:?}");
    let catalog = source().join("units/zfs-prefix.catalog");
    let text = fs::read_to_string(&catalog).unwrap();
    let explained: BTreeSet<_> =
        text.lines().filter_map(|l| l.strip_prefix("-- ")).map(str::to_owned).collect();
    assert_eq!(known, explained);
    for entry in text.split("\n-- ").skip(1) {
        for header in ["\nSubject: ", "\nDefined-By: zfs-prefix\n", "\nSupport: "] {
            assert!(entry.contains(header), "no {header:?} in {entry}");
        }
    }
    let root = scratch("catalog-");
    copy(&catalog, &root.path().join("usr/lib/systemd/catalog/zfs-prefix.catalog"));
    fs::create_dir_all(root.path().join("var/lib/systemd/catalog")).unwrap();
    let output = Command::new("journalctl")
        .arg("--update-catalog")
        .arg("--root")
        .arg(root.path())
        .output()
        .unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let database = fs::read(root.path().join("var/lib/systemd/catalog/database")).unwrap();
    let database = String::from_utf8_lossy(&database);
    let subjects = text.lines().filter(|l| l.starts_with("Subject: "));
    for subject in subjects {
        assert!(database.contains(subject), "{subject:?} is not in the database");
    }
}

#[test]
fn tmpfiles_makes_the_directories_of_the_layout() {
    let root = scratch("tmpfiles-");
    let configuration = "usr/lib/tmpfiles.d/zfs-prefix.conf";
    copy(&source().join("units/zfs-prefix.tmpfiles.conf"), &root.path().join(configuration));
    let output = Command::new("systemd-tmpfiles")
        .arg("--root")
        .arg(root.path())
        .args(["--create", "zfs-prefix.conf"])
        .output()
        .unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let layout = zfs_prefix::store::Layout::new(root.path());
    for directory in [layout.store(), layout.current_dir(), layout.cache(), layout.run()] {
        assert!(directory.is_dir(), "{}", directory.display());
    }
}

#[test]
fn the_man_page_of_the_configuration_is_formatted_without_a_warning() {
    let output = Command::new("man")
        .env("LC_ALL", "C.UTF-8")
        .env("MANPAGER", "cat")
        .args(["--warnings", "-l"])
        .arg(source().join("packaging/man/zfs-prefix.toml.5"))
        .output()
        .unwrap();
    let page = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && page.contains("when-missing"), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
