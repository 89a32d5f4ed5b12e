//! What follows a late build (zfs-load-late.service), natively, with the units of the real OpenZFS:
//! nothing is started that the boot would not have started. The load and the import themselves are
//! in tests/boot.rs.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

#[path = "lab/mod.rs"]
mod lab;

use std::path::PathBuf;
use std::time::Duration;

use lab::disk::State;
use lab::nspawn::Machine;

const TARGETS: &str = "zfs-import.target zfs.target";
/// The kernel here is the host's, which has no ZFS: this is what the programs ask for it.
const LOADED: &str = "mount -t tmpfs lab /sys/module && mkdir /sys/module/zfs";
/// /usr of an operating system that has nothing of OpenZFS.
const NO_UNITS: &str = "cp -a /usr/lib/systemd/system /run/units && cd /run/units && \
                        rm $(ls -d zfs* | grep -v -e zfs-load. -e zfs-build -e zfs-prefix) && \
                        mount --bind /run/units /usr/lib/systemd/system && \
                        rm -rf /etc/systemd/system/zfs*";

/// What is prepared, what the command says, and what the two targets are afterwards.
const CASES: [(&str, &str, &[&str], &str); 5] = [
    ("not loaded", "true", &["loaded nothing"], "inactive inactive"),
    ("all there", LOADED, &[], "active active"),
    ("disabled", "systemctl disable zfs.target", &["zfs.target is disabled"], "active inactive"),
    ("masked", "systemctl mask zfs.target", &["zfs.target is masked"], "active inactive"),
    (
        "not installed",
        NO_UNITS,
        &["zfs-import.target is not installed", "zfs.target is not installed"],
        "inactive inactive",
    ),
];

#[test]
fn after_a_late_build_nothing_is_started_that_the_boot_would_not_have_started() {
    let stage = std::env::var_os("ZFS_PREFIX_STAGE");
    let stage = PathBuf::from(stage.expect("ZFS_PREFIX_STAGE: run this through `make check`"));
    let root = lab::root::root().unwrap();
    let work = tempfile::tempdir_in(lab::dir()).unwrap();
    let state = State::fresh(&root, &work.path().join("state")).unwrap();
    // No build of this boot's own takes the mark away.
    state.write("/etc/zfs-prefix/config.toml", "[boot]\nwhen-missing = \"never\"\n").unwrap();
    let minute = Duration::from_secs(60);
    let machine = Machine::boot("late", &root, &state, Some(&stage), minute).unwrap();
    let check = |line: &str| machine.check(line).unwrap().trim().to_owned();

    let unit = "zfs-load-late.service";
    let start = || {
        machine.exec(&format!("systemctl start {unit}")).unwrap();
        check("journalctl --sync");
        check(&format!("journalctl -o cat -u {unit} | tail -n 1"))
    };
    let skipped = "unmet condition check ConditionPathExists=/run/zfs-prefix/published";
    assert!(start().ends_with(skipped), "nothing was published");
    check("mkdir -p /run/zfs-prefix && touch /run/zfs-prefix/published");
    assert!(start().starts_with("Finished "), "{}", check(&format!("journalctl -u {unit}")));
    assert!(start().ends_with(skipped), "the mark of one build serves once");

    for (case, prepare, says, want) in CASES {
        machine.exec(&format!("systemctl stop {TARGETS} zfs-load.service")).unwrap();
        check(&format!("{prepare} && systemctl daemon-reload"));
        let ran = machine.exec("zfs-prefix load --import").unwrap();
        assert_eq!(ran.status, 0, "{case}: {}", ran.output);
        for words in says {
            assert!(ran.output.contains(words), "{case}: no {words:?} in {}", ran.output);
        }
        let active = machine.exec(&format!("systemctl is-active {TARGETS}")).unwrap().output;
        assert_eq!(active.split_whitespace().collect::<Vec<_>>().join(" "), want, "{case}");
    }
}
