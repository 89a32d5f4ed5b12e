//! What follows a late build (zfs-load-late.service), natively, with the units of the real OpenZFS:
//! nothing is started that the boot would not have started. The load and the import themselves are
//! in tests/boot.rs.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

mod fake;
mod mounts;
mod system_paths;

use std::path::PathBuf;
use std::time::Duration;

use lab::disk::State;
use lab::nspawn::Machine;

const TARGETS: &str = "zfs-import.target zfs.target";
/// The kernel here is the host's, which has no ZFS: this is what the programs ask for it.
const LOADED: &str = "mount -t tmpfs lab /sys/module && mkdir /sys/module/zfs";
/// /usr of an operating system that has nothing of OpenZFS.
const NO_UNITS: &str = "cp -a /usr/lib/systemd/system /run/units && cd /run/units && \
                        rm -r $(ls -d zfs* | grep -v -e zfs-load. -e zfs-build -e zfs-prefix) && \
                        mount --bind /run/units /usr/lib/systemd/system && \
                        rm -rf /etc/systemd/system/zfs*";

/// What is prepared, the exit status of the command, what it says, and what the two targets are
/// afterwards.
const CASES: [(&str, &str, i32, &[&str], &str); 7] = [
    ("not loaded", "true", 3, &["zfs-load.service: loaded nothing"], "inactive inactive"),
    // The units are OpenZFS's own; that their programs find no ZFS in this kernel is reported.
    (
        "all there",
        LOADED,
        1,
        &[
            "zfs-import-cache.service: skipped, its condition is not met: ConditionFileNotEmpty=/etc/zfs/zpool.cache\n",
            "zfs-import-scan.service: disabled, not started\n",
            "zfs-import.target: started in",
            "zfs-mount.service: not started, for it is not known what it would cover: /usr/sbin/zfs list",
            "zfs-share.service: skipped, its condition is not met: ConditionPathExists=!/run/zfs-prefix/shares-refused\n",
            "zfs.target: started in",
            "failed: zfs-mount.service (not started",
        ],
        "active active",
    ),
    (
        "without the condition on zfs-mount.service",
        "cd /etc/systemd/system && mkdir -p zfs-mount.service.d && \
         ln -s /dev/null zfs-mount.service.d/50-zfs-prefix.conf",
        1,
        &[
            "zfs-share.service: not started: it would start zfs-mount.service\n",
            "zfs.target: not started: it would start zfs-mount.service\n",
        ],
        "active inactive",
    ),
    (
        "active targets are not started anew, what they want is",
        "rm -r /etc/systemd/system/zfs-mount.service.d && systemctl daemon-reload && \
         systemctl start zfs.target zfs-import.target",
        1,
        &["zfs-import.target: is active already\n", "zfs.target: is active already\n"],
        "active active",
    ),
    (
        "disabled",
        "systemctl disable zfs.target",
        0,
        &[
            "zfs.target: disabled",
            "zfs-import.target: not wanted in this boot",
            "is done: started zfs-load.service",
        ],
        "inactive inactive",
    ),
    ("masked", "systemctl mask zfs.target", 0, &["zfs.target: masked"], "inactive inactive"),
    (
        "not installed",
        NO_UNITS,
        0,
        &["zfs-import.target: not installed", "zfs.target: not installed"],
        "inactive inactive",
    ),
];

/// A machine with these files, the units named there enabled.
fn machine(name: &str, files: &[(&str, &str)]) -> (Machine, tempfile::TempDir) {
    let stage = lab::stage();
    let root = lab::root::root().unwrap();
    let work = lab::tmp::scratch("late-");
    let state = State::fresh(&root, &work.path().join("state")).unwrap();
    fake::write(&state);
    for (path, text) in files {
        state.write(path, text).unwrap();
        if text.contains("WantedBy=") {
            let by = text.rsplit("WantedBy=").next().unwrap().trim();
            let wants = state.path(&format!("/etc/systemd/system/{by}.wants"));
            std::fs::create_dir_all(&wants).unwrap();
            let link = wants.join(PathBuf::from(path).file_name().unwrap());
            std::os::unix::fs::symlink(path, link).unwrap();
        }
    }
    let minute = Duration::from_secs(60);
    (Machine::boot(name, &root, &state, Some(&stage), minute).unwrap(), work)
}

#[test]
fn after_a_late_build_nothing_is_started_that_the_boot_would_not_have_started() {
    // No build of this boot's own takes the mark away.
    let config =
        ("/etc/zfs-prefix/config.toml", "[boot]\nenabled = true\nwhen-missing = \"never\"\n");
    // It would fail, since zpool finds no ZFS in this kernel.
    let pools = (
        "/etc/systemd/system/zfs-pools.service.d/sound.conf",
        "[Service]\nExecStart=\nExecStart=/bin/true\n",
    );
    let (machine, _work) = machine("late", &[config, pools]);
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
    for attempt in 1..=2 {
        // As long as nothing is loaded each start is another try.
        start();
        let ended = format!("systemctl show --value -p ConditionResult,ExecMainStatus {unit}");
        let ended = check(&ended).replace('\n', " ");
        assert!(ended == "yes 3" || ended == "3 yes", "{attempt}: {ended}");
    }
    check("systemctl reset-failed && rm /run/zfs-prefix/published");

    for (case, prepare, status, says, want) in CASES {
        machine.exec(&format!("systemctl stop {TARGETS} zfs-load.service 'zfs-*'")).unwrap();
        // Five starts in ten seconds are one too many.
        machine.exec("systemctl reset-failed").unwrap();
        check(&format!("{prepare} && systemctl daemon-reload"));
        let ran = machine.exec("zfs-prefix load --import").unwrap();
        assert_eq!(ran.status, status, "{case}: {}", ran.output);
        for words in says {
            assert!(ran.output.contains(words), "{case}: no {words:?} in {}", ran.output);
        }
        let active = machine.exec(&format!("systemctl is-active {TARGETS}")).unwrap().output;
        assert_eq!(active.split_whitespace().collect::<Vec<_>>().join(" "), want, "{case}");
        if case == "all there" {
            // Nobody knows what would be covered, so it stays off, whoever asks for it.
            check("systemctl start zfs-mount.service zfs-share.service");
            let state = "systemctl show --value -p ActiveState,ConditionResult zfs-mount.service";
            assert_eq!(check(state).replace('\n', " "), "inactive no");
        }
    }
}

const RUNS: &str =
    "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n";

/// zfs-pools.service as it ends where pools are absent, until there is a file: then they are there.
const POOLS: &str = "[Service]\nType=oneshot\nRemainAfterExit=yes\n\
    ExecStart=/bin/sh -c 'test -e /run/pools || exit 20'\n\
    [Install]\nWantedBy=multi-user.target\n";

const CONFIG: &str = "[boot]\nenabled = true\nwhen-missing = \"never\"\n\
    restart-after-import = [\"runs.service\", \"stopped.service\", \"other.service\", \"gone.service\"]\n\
    require-pools-for = [\"waits.service\"]\n";

#[test]
fn what_waits_for_the_pools_is_started_with_them_and_what_began_without_is_restarted() {
    let not_enabled = RUNS.split("[Install]").next().unwrap();
    let (machine, _work) = machine(
        "dependents",
        &[
            ("/etc/zfs-prefix/config.toml", CONFIG),
            ("/etc/systemd/system/zfs-pools.service", POOLS),
            ("/etc/systemd/system/zfs-pools.service.d/60-lab.conf", "[Unit]\n"),
            ("/etc/systemd/system/waits.service", RUNS),
            ("/etc/systemd/system/runs.service", RUNS),
            ("/etc/systemd/system/stopped.service", RUNS),
            ("/etc/systemd/system/other.service", not_enabled),
        ],
    );
    let check = |line: &str| machine.check(line).unwrap().trim().to_owned();
    let states = || {
        let units = "waits runs stopped other";
        let shown = machine.exec(&format!("systemctl is-active {units}")).unwrap().output;
        shown.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let pid = || check("systemctl show --value -p MainPID runs.service");
    assert_eq!(states(), "inactive active active inactive", "the boot, without its pools");
    check("systemctl stop stopped.service");
    fake::load(&machine, "tank /tank on\\n");
    let first = pid();
    let ran = machine.exec("zfs-prefix load --import").unwrap();
    assert_eq!(ran.status, 20, "{}", ran.output);
    for words in [
        "zfs-pools.service: failed, exit status 20; journalctl -eu 'zfs-pools.service'\n",
        "waits.service: not started: expected pools are absent\n",
        "runs.service: not restarted: expected pools are absent\n",
        "stopped.service: not started: expected pools are absent\n",
        "other.service: not wanted in this boot, not started\n",
        "gone.service: there is no such unit: correct boot.restart-after-import",
    ] {
        assert!(ran.output.contains(words), "no {words:?} in {}", ran.output);
    }
    let last = ran.output.trim_end().lines().last().unwrap_or_default();
    assert!(last.contains("not all is done"), "{last}");
    for named in ["zfs-pools.service (failed", "waits.service (not", "; gone.service (there is"] {
        assert!(last.contains(named), "no {named:?} in {last}");
    }
    assert_eq!(states(), "inactive active inactive inactive");
    assert_eq!(pid(), first, "runs.service was restarted without its pools");

    check("touch /run/pools");
    let ran = machine.exec("zfs-prefix load --import").unwrap();
    for words in [
        "waits.service: started in ",
        "runs.service: restarted in ",
        "stopped.service: started in ",
    ] {
        assert!(ran.output.contains(words), "no {words:?} in {}", ran.output);
    }
    assert_eq!(ran.status, 1, "a unit that is not there: {}", ran.output);
    assert_eq!(states(), "active active active inactive");
    assert_ne!(pid(), first, "runs.service was not restarted");
    let again = machine.exec("zfs-prefix load --import").unwrap();
    for unit in ["zfs-pools.service", "waits.service"] {
        assert!(again.output.contains(&format!("{unit}: is active already\n")), "{}", again.output);
    }
}
