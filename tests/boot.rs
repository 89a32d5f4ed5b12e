//! Boots of the stock kernel in QEMU, with a pool: the good one, and everything that may be wrong
//! with the store, the kernel or the configuration. In each the boot comes up whole.

#![allow(clippy::unwrap_used)] // helpers of tests too: their panics are failed tests

mod hanging;
mod nothing;
mod pools;
mod refused;
mod scene;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::Duration;

use lab::disk::State;
use lab::nspawn::Machine;

use scene::{NEVER, Pool, Scene, contains_all, shown};
use serde_json::Value;
use zfs_prefix::log::id;
use zfs_prefix::userland::version;

/// What to do about a tree that is refused.
const REBUILD: &str = "systemctl start zfs-build";

#[test]
fn published_modules_are_loaded_with_their_options_and_the_pool_is_there_in_every_boot() {
    let scene = Scene::get();
    let state = scene.state();
    // It is named with line and column, and costs nothing else.
    let bad = "/etc/zfs-prefix/config.d/50-bad.toml";
    state.write(bad, "[boot]\nenabled = false\nwhen-missing = \"soon\"\n").unwrap();
    state.write("/etc/modprobe.d/zfs.conf", "options zfs zfs_arc_max=268435456\n").unwrap();
    // Debian's own programs are of the modules' version, and the operator wants no others.
    state.write("/etc/zfs-prefix/config.toml", "zfs.userland = \"host\"\n").unwrap();
    let script = "
probe mount-unit systemctl show -p ExecStart -p ExecSearchPath zfs-mount.service
probe versions zfs version
probe arc cat /sys/module/zfs/parameters/zfs_arc_max
probe txg cat /sys/module/zfs/parameters/zfs_txg_timeout
probe system systemctl is-system-running
probe status sh -c 'zfs-prefix status --json 2>/dev/null'
probe pools-said journalctl -b -q -o cat -u zfs-pools.service -t zfs-prefix
probe generator journalctl -b -q -o json _TRANSPORT=kernel -t zfs-prefix-generator
";
    let cmdline = format!("{NEVER} zfs.zfs_txg_timeout=7");
    for seen in scene.boots("published", &state, &cmdline, &[script, script]) {
        seen.imported();
        assert_eq!(seen.failed(), [""; 0]);
        // "starting": the script is a part of the boot.
        contains_all("starting running", &[&seen.output("system")]);
        let load = seen.properties("load");
        assert_eq!((&*load["ActiveState"], &*load["ExecMainStatus"]), ("active", "0"), "{load:?}");
        let said = seen.said(id::LOADED, &scene.root.release);
        contains_all(&said, &["loaded ZFS 2.", &scene.root.release, "spl, zfs"]);
        assert_eq!(seen.journal("said")[0]["ZFS_PREFIX_KEY"], scene.tree.key);
        assert_eq!(seen.output("active"), shown(&scene.tree.path()));
        assert_eq!(seen.output("arc"), "268435456", "from modprobe.d");
        assert_eq!(seen.output("txg"), "7", "from the kernel command line");
        let unit = seen.output("mount-unit");
        assert!(unit.contains("path=/sbin/zfs ") && !unit.contains("zfs-prefix"), "{unit}");
        let versions = seen.output("versions");
        let versions: Vec<&str> = versions.split_whitespace().collect();
        let agreed = matches!(versions[..], [programs, modules]
            if programs.starts_with("zfs-2.") && modules.starts_with("zfs-kmod-")
                && version::agree(programs, &modules.replace("zfs-kmod-", "zfs-")));
        assert!(agreed, "{versions:?}");
        assert_eq!(seen.status("status"), 0);
        let status: Value = serde_json::from_str(&seen.output("status")).unwrap();
        assert_eq!(status["loaded"]["tree"], shown(&scene.tree.path()), "{status:#}");
        assert_eq!(status["published"]["key"], scene.tree.key, "{status:#}");
        assert_eq!(status["pools"][0]["health"], "ONLINE", "{status:#}");
        assert_eq!(seen.output("pools-said"), "pools: tank ONLINE");
        let entries = seen.journal("generator");
        let errors: Vec<&Value> = entries.iter().filter(|e| e["PRIORITY"] == "3").collect();
        assert_eq!(errors.len(), 1, "{entries:#?}");
        let message = errors[0]["MESSAGE"].as_str().unwrap();
        contains_all(message, &[&format!("{bad}:3:16: "), "\"soon\"", "late"]);
    }
}

#[test]
fn without_a_published_tree_the_loader_is_skipped_and_runs_once_there_is_one() {
    let scene = Scene::get();
    let state = scene.state();
    let (current, hidden) = ("/var/lib/zfs-prefix/current", "/var/lib/zfs-prefix/current.hidden");
    fs::rename(state.path(current), state.path(hidden)).unwrap();
    let script = format!(
        "
probe status zfs-prefix status
rmdir {current} && mv {hidden} {current}
probe start systemctl start zfs-load.service
probe import systemctl start zfs-import-cache.service
probe mount systemctl start zfs-mount.service
probe load-late systemctl show zfs-load.service -p ActiveState,Result
probe pool-late zpool list -H -o name,health
probe file-late cat /tank/file
probe pools-early journalctl -b -q -o json -u zfs-pools.service -t zfs-prefix
probe pools systemctl restart zfs-pools.service
"
    );
    let seen = scene.boot("nothing", &state, NEVER, &script);
    let said = seen.skipped(&scene.root.release);
    contains_all(&said, &["no ZFS modules are published", &scene.root.release, REBUILD]);
    assert_eq!(seen.status("status"), 3);
    contains_all(&seen.output("status"), &["published: nothing", REBUILD, "loaded: no"]);
    assert_eq!(seen.status("start"), 0, "{}", seen.output("start"));
    let load = seen.properties("load-late");
    assert_eq!((&*load["ActiveState"], &*load["Result"]), ("active", "success"), "{load:?}");
    // One after the other: what orders them, zfs-import.target, is active already.
    assert_eq!(seen.status("import"), 0, "{}", seen.output("import"));
    assert_eq!(seen.status("mount"), 0, "{}", seen.output("mount"));
    assert_eq!(seen.output("pool-late"), "tank\tONLINE");
    assert_eq!(seen.output("file-late"), scene::FILE);
    let early = seen.journal("pools-early");
    assert_eq!(early.len(), 1, "{early:#?}");
    assert_eq!(early[0]["MESSAGE_ID"], id::POOL_ABSENT, "{early:#?}");
    let message = early[0]["MESSAGE"].as_str().unwrap();
    contains_all(message, &["pool tank ABSENT", "module is not loaded", "zfs-prefix status"]);
    assert_eq!(seen.status("pools"), 0, "{}", seen.output("pools"));
}

/// The image of a system with Debian 12's programs of OpenZFS, and their version.
fn usr_of_debian_12(scene: &Scene) -> (PathBuf, String) {
    let staged = lab::tmp::scratch("boot-");
    let apt = lab::apt::Apt::open(lab::apt::KERNEL).unwrap();
    let version = apt.version("libzfs4linux").unwrap();
    for package in ["zfsutils-linux", "libzfs4linux", "libnvpair3linux", "libuutil3linux"] {
        let deb = apt.deb(&format!("{package}={version}")).unwrap();
        let mut unpack = std::process::Command::new("dpkg-deb");
        lab::tool::run(unpack.arg("-x").arg(deb).arg(staged.path())).unwrap();
    }
    // Where these packages were made /sbin and /lib were directories of their own.
    for dir in ["sbin", "lib"] {
        let mut cp = std::process::Command::new("cp");
        cp.arg("-a").arg(staged.path().join(dir)).arg(staged.path().join("usr"));
        lab::tool::run(&mut cp).unwrap();
    }
    let stage = lab::stage();
    let mut cp = std::process::Command::new("cp");
    lab::tool::run(cp.arg("-a").arg(stage.join("usr")).arg(staged.path())).unwrap();
    let upstream = version.split('-').next().unwrap().to_owned();
    (scene.usr(&scene.root, staged.path()), upstream)
}

#[test]
fn programs_of_debian_12_are_refused_with_modules_of_another_version() {
    let scene = Scene::get();
    let (usr, version) = usr_of_debian_12(&scene);
    let seen = scene.boot_usr("other-programs", &usr, &scene.state());
    let message = seen.refused(15, &scene.root.release);
    contains_all(&message, &[&version, lab::root::ZFS, "/usr/sbin/zpool", REBUILD]);
}

#[test]
#[ignore = "one more boot for what load.rs proves without: make check-all"]
fn modules_of_another_kernel_release_are_refused_before_anything_is_loaded() {
    let scene = Scene::get();
    let state = scene.state();
    let release = &scene.root.release;
    let other = format!("9{}", &release[1..]);
    let (from, to) = (format!("vermagic={release} "), format!("vermagic={other} "));
    let change = |bytes: &mut [u8]| {
        let mut windows = bytes.windows(from.len());
        let at = windows.position(|w| w == from.as_bytes()).expect("zfs.ko has a vermagic");
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    };
    scene.tree.damage(&state, "zfs", change).unwrap();
    scene.tree.edit(&state, |_| {}).unwrap();
    let seen = scene.boot("other-release", &state, NEVER, "");
    let said = seen.refused(15, release);
    let zfs = shown(&scene.tree.module("zfs"));
    // The manifest agrees with it, so that only force makes the builder build it again.
    let built_for = format!("was built for kernel {other}, this is {release}");
    contains_all(&said, &[&zfs, &built_for, "zfs-prefix build --force"]);
}

#[test]
#[ignore = "one more boot for what load.rs proves without: make check-all"]
fn modules_of_another_kernel_of_the_same_release_are_as_good_as_none() {
    let scene = Scene::get();
    let state = scene.state();
    let mut ids = (String::new(), "0123456789abcdef".to_owned());
    let (right, wrong) = (&mut ids.0, &ids.1);
    scene.tree.edit(&state, |m| m.kernel_build_id.clone_from(wrong)).unwrap();
    let seen =
        scene.boot("other-build", &state, NEVER, "probe notes od -An -tx1 -v /sys/kernel/notes");
    right.extend(seen.output("notes").split_whitespace());
    let said = seen.skipped(&scene.root.release);
    contains_all(&said, &[wrong, REBUILD]);
    let running = said.split("build-id ").nth(1).unwrap().split(',').next().unwrap();
    assert!(running.len() == 40 && right.contains(running), "{running} in {right}");
}

#[test]
fn lockdown_is_named_as_the_reason_why_unsigned_modules_are_refused() {
    let scene = Scene::get();
    let state = scene.state();
    let seen = scene.boot("lockdown", &state, &format!("{NEVER} lockdown=integrity"), "");
    let said = seen.refused(16, &scene.root.release);
    let spl = shown(&scene.tree.module("spl"));
    contains_all(&said, &[&spl, "lockdown is integrity", "zfs-prefix signs no modules"]);
    // The kernel's own words come first.
    contains_all(&said, &["it says: Lockdown: zfs-load: unsigned module loading is restricted"]);
}

#[test]
#[ignore = "one more boot for what load.rs proves without: make check-all"]
fn a_store_that_others_than_root_can_write_to_is_not_loaded_from() {
    let scene = Scene::get();
    let state = scene.state();
    let dir = scene.tree.module("zfs").parent().unwrap().to_owned();
    let writable = fs::Permissions::from_mode(0o775);
    fs::set_permissions(state.path(&shown(&dir)), writable).unwrap();
    let seen = scene.boot("writable", &state, NEVER, "");
    let said = seen.refused(15, &scene.root.release);
    contains_all(&said, &[&shown(&dir), "has mode 0775", "find out who changed it", REBUILD]);
}

/// A native boot with an argument to PID 1, which is a container's command line: what the questions
/// about its units print.
fn units_of(scene: &Scene, state: &State) -> [String; 4] {
    let minute = Duration::from_secs(60);
    let stage = lab::stage();
    let argument = &["zfs_prefix=0"];
    let machine =
        Machine::boot_with("off", &scene.root, state, Some(&stage), argument, minute).unwrap();
    let said = [
        "systemctl list-units --all --plain --no-legend --full",
        "systemctl list-dependencies --all --plain --full",
        "ls -R /run/systemd/generator /run/systemd/generator.early /run/systemd/generator.late",
        "journalctl -b -q -o cat -u zfs-load.service",
    ]
    .map(|line| machine.exec(line).unwrap().output);
    machine.power_off(minute).unwrap();
    said
}

#[test]
fn switched_off_the_boot_has_the_same_units_as_without_the_generator() {
    let scene = Scene::get();
    let state = scene.state();
    let off = units_of(&scene, &state);
    let state = scene.state();
    let generator = state.path("/etc/systemd/system-generators/zfs-prefix-generator");
    symlink("/dev/null", generator).unwrap();
    let masked = units_of(&scene, &state);
    // Of the generators few are left in the laboratory.
    for ((off, masked), least) in off.iter().zip(&masked).zip([10, 10, 3]) {
        let lines = |text: &str| -> BTreeSet<String> {
            // Each machine's file systems are made anew.
            let same = text.lines().filter(|l| !l.contains("by\\x2duuid"));
            // Not the descriptions: name, load, active and sub state.
            same.map(|l| l.split_whitespace().take(4).collect::<Vec<_>>().join(" ")).collect()
        };
        let (off, masked) = (lines(off), lines(masked));
        let differences: Vec<&String> = off.symmetric_difference(&masked).collect();
        assert!(off.len() > least, "{off:?}");
        assert!(differences.is_empty(), "{differences:#?}");
    }
    assert_eq!(off[3], "");
}

#[test]
fn an_early_build_that_fails_holds_nothing_back() {
    let scene = Scene::get();
    let state = scene.state();
    state.write("/etc/zfs-prefix/config.toml", "prefix.path = \"/nonexistent\"\n").unwrap();
    let script = "
probe early systemctl show zfs-build-early.service -p ActiveState,ExecMainStatus,Result
probe why journalctl -b -q -o json -t zfs-build -u zfs-build-early.service
";
    let seen = scene.boot("block", &state, "zfs_prefix.when_missing=block", script);
    seen.imported();
    let early = seen.properties("early");
    assert_eq!((&*early["ActiveState"], &*early["ExecMainStatus"]), ("failed", "11"), "{early:?}");
    // The late one is its second chance; it may not have had it yet.
    let failed = seen.failed();
    assert!(failed.contains(&"zfs-build-early.service".to_owned()), "{failed:?}");
    let builds = ["zfs-build-early.service", "zfs-build.service"];
    assert!(failed.iter().all(|f| builds.contains(&f.as_str())), "{failed:?}");
    let why = seen.journal("why");
    let last = why.last().unwrap();
    assert_eq!(last["MESSAGE_ID"], id::BUILD_FAILED, "{why:#?}");
    contains_all(last["MESSAGE"].as_str().unwrap(), &["no prefix at /nonexistent", "prefix.path"]);
    seen.said(id::LOADED, &scene.root.release);
}

/// Reads what is on the pool: nothing without it.
const READS: &str = "[Unit]\nRequiresMountsFor=/tank/data\n\
    [Service]\nType=oneshot\nRemainAfterExit=yes\n\
    ExecStart=/bin/sh -c 'cat /tank/data/file > /run/read'\n[Install]\nWantedBy=multi-user.target\n";
/// As operators write it for datasets whose key is in a file.
const KEYS: &str = "[Unit]\nDefaultDependencies=no\nAfter=zfs-import.target\nBefore=zfs-mount.service\n\
    ConditionPathIsDirectory=/sys/module/zfs\n[Service]\nType=oneshot\nRemainAfterExit=yes\n\
    ExecStart=/usr/sbin/zfs load-key -a\n[Install]\nWantedBy=zfs-mount.service\n";

#[test]
fn modules_that_come_late_bring_all_that_the_boot_skipped_and_cover_nothing() {
    let scene = Scene::get();
    let state = scene.state();
    let config = "[boot]\nrestart-after-import = [\"reads.service\"]\n";
    state.write("/etc/zfs-prefix/config.toml", config).unwrap();
    for (unit, text, by) in
        [("reads", READS, "multi-user.target"), ("keys", KEYS, "zfs-mount.service")]
    {
        state.write(&format!("/etc/systemd/system/{unit}.service"), text).unwrap();
        let wants = state.path(&format!("/etc/systemd/system/{by}.wants"));
        fs::create_dir_all(&wants).unwrap();
        symlink(format!("../{unit}.service"), wants.join(format!("{unit}.service"))).unwrap();
    }
    let wants = state.path("/etc/systemd/system/local-fs.target.wants");
    fs::create_dir_all(&wants).unwrap();
    for (unit, what, place) in
        [("srv-web.mount", "tank/web", "/srv/web"), ("srv-db.mount", "tank/db", "/srv/db")]
    {
        let options = if what == "tank/web" { "zfsutil" } else { "defaults" };
        let text = format!(
            "[Unit]\nAfter=zfs-import.target\nBefore=local-fs.target zfs-mount.service\n\
             [Mount]\nWhat={what}\nWhere={place}\nType=zfs\nOptions={options}\n"
        );
        state.write(&format!("/etc/systemd/system/{unit}"), text).unwrap();
        symlink(format!("../{unit}"), wants.join(unit)).unwrap();
    }
    state.write("/etc/key", scene::KEY).unwrap();
    // systemd itself needs both. One of them has files by the time the pool is there.
    let flags = "on\ton\ton\ton\ton\toff\ton\toff\t-\tnone\t-\t-\t-\t-\t-\t-\t-\t-";
    let list = format!("tank/log\t/var/log\t{flags}\ntank/vtmp\t/var/tmp\t{flags}\n");
    state.write("/etc/zfs/zfs-list.cache/tank", &list).unwrap();
    state.write("/var/log/wtmp", "someone was here").unwrap();
    fs::remove_file(state.path("/etc/systemd/system/systemd-journal-flush.service")).unwrap();
    // Its modules are hidden from this boot.
    symlink("/dev/null", state.path("/etc/systemd/system/zfs-load.service")).unwrap();
    let make = "
probe make sh -ec 'zfs create tank/data && echo read > /tank/data/file
    zfs create -o encryption=on -o keyformat=raw -o keylocation=file:///etc/key tank/secret
    echo told > /tank/secret/file
    zfs create -o mountpoint=/srv/web tank/web && zfs create tank/web/below
    zfs create -o mountpoint=legacy tank/db
    zfs create -o mountpoint=/var/log tank/log && zfs create -o mountpoint=/var/tmp tank/vtmp
    zfs create -V 16M tank/volume'";
    let pool = Pool::make(&scene.root, "pool-late", make).unwrap();
    state.write(scene::CACHE, &pool.cache).unwrap();
    let late = "
probe before systemctl is-active zfs-mount zfs-import-cache reads
probe skipped systemctl show --value -p ConditionResult var-log.mount var-tmp.mount
rm /etc/systemd/system/zfs-load.service && systemctl daemon-reload
mkdir -p /tank/data /srv/web/logs && echo site > /srv/web/index && echo log > /srv/web/logs/today
touch /run/zfs-prefix/published
probe late systemctl start zfs-load-late.service
journalctl --sync
probe journal journalctl -b -q -o json -u zfs-load-late.service
probe mounted zfs list -H -o name,mounted -t filesystem
probe index cat /srv/web/index
probe read cat /run/read /tank/secret/file
probe units systemctl is-active zfs-import-cache keys zfs-volumes.target zfs-share zfs-zed reads
probe volume test -b /dev/zvol/tank/volume
probe held sh -c 'systemctl start zfs-mount.service; systemctl is-active zfs-mount; cat /run/zfs-prefix/mounts-refused'
probe unit-held sh -c 'systemctl start srv-web.mount || cat /srv/web/index'
rm -r /srv/web/index /srv/web/logs /run/zfs-prefix/mounts-refused
probe decided systemctl start zfs-mount.service
probe all zfs list -H -o mounted -t filesystem
probe again zfs-prefix load --import
";
    let seen = scene.boot_pool("comes-late", &pool, &state, late);
    assert_eq!(seen.output("before"), "inactive\ninactive\nfailed", "before the modules");
    let journal = seen.journal("journal");
    let said = |id: &str| -> Vec<&str> {
        let entries = journal.iter().filter(|entry| entry["MESSAGE_ID"] == id);
        entries.map(|entry| entry["MESSAGE"].as_str().unwrap()).collect()
    };
    assert_ne!(seen.status("late"), 0, "{journal:#?}");
    let refused = said(id::MOUNT_REFUSED);
    assert_eq!(seen.output("skipped"), "no\n\nno", "systemd needs these");
    assert_eq!(refused.len(), 3, "{refused:#?}");
    contains_all(refused[2], &["tank/log is not mounted", "/var/log has", "zfs mount tank/log"]);
    contains_all(
        refused[0],
        &["tank/web is not", "/srv/web has 2 files in it", "zfs mount tank/web"],
    );
    contains_all(
        refused[1],
        &["tank/web/below is not mounted", "below the mount point of tank/web"],
    );
    assert_eq!(said(id::LATE_STEP_FAILED), [""; 0]);
    let steps = said(id::LATE_STEP).join("\n");
    for step in [
        "zfs-load.service: started in",
        "udev: rules read",
        "zfs-import-cache.service: started in",
        "keys.service: started in",
        "zfs mount tank: mounted at /tank\n",
        "zfs mount tank/data: mounted at /tank/data\n",
        "srv-db.mount: started in",
        "var-tmp.mount: started in",
        "zfs-volume-wait.service: started in",
        "zfs-zed.service: started in",
        "reads.service: started in",
    ] {
        assert!(steps.contains(step), "no {step:?} in {steps}");
    }
    let last = said(id::LATE_INCOMPLETE);
    contains_all(last[0], &["3 failed: tank/web not mounted (2 files in it); tank/web/below not"]);
    assert_eq!(
        seen.output("mounted"),
        "tank\tyes\ntank/data\tyes\ntank/db\tyes\ntank/log\tno\ntank/secret\tyes\n\
         tank/vtmp\tyes\ntank/web\tno\ntank/web/below\tno"
    );
    assert_eq!(seen.output("index"), "site", "what was written was covered");
    assert_eq!(seen.output("read"), "read\ntold");
    assert_eq!(seen.output("units"), "active\n".repeat(6).trim_end());
    assert_eq!(seen.status("volume"), 0, "the volume has no device node");
    contains_all(&seen.output("held"), &["inactive\n", "tank/web\t/srv/web\t2 files in it\n"]);
    assert_eq!(seen.output("unit-held").lines().last(), Some("site"), "covered by its mount unit");
    assert_eq!((seen.status("decided"), &*seen.output("all")), (0, "yes\n".repeat(8).trim_end()));
    assert_eq!(seen.status("again"), 0, "{}", seen.output("again"));
    for unit in ["zfs-import-cache.service", "zfs-mount.service", "zfs-zed.service"] {
        contains_all(&seen.output("again"), &[&format!("{unit}: is active already\n")]);
    }
    // zed has made units of all datasets meanwhile; what they bring is named before.
    contains_all(&seen.output("again"), &["reads.service: restarted in", "is done: started "]);
    assert!(seen.output("again").trim_end().ends_with("reads.service"), "{}", seen.output("again"));
}

#[test]
fn a_late_build_starts_after_the_boot_and_ends_with_the_machine() {
    let scene = Scene::get();
    let state = scene.state_without_tree();
    let wait = |what: &str| {
        format!(
            "for i in $(seq 1200); do systemctl show zfs-build -p StatusText | grep -Eq '{what}' && break; sleep .2; done"
        )
    };
    let script = format!(
        "
{building}
probe build systemctl show zfs-build.service -p ActiveState,StatusText,InactiveExitTimestampMonotonic
probe target systemctl show multi-user.target -p ActiveEnterTimestampMonotonic
probe working pgrep -u core
probe stop systemctl stop zfs-build.service
probe stopped systemctl show zfs-build.service -p ActiveState,Result,ExecMainStatus
probe left pgrep -u core
probe journal journalctl -b -q -o cat -u zfs-build.service
probe after find /var/lib/zfs-prefix -not -type d
systemctl start --no-block zfs-build.service
{started}
probe again systemctl show zfs-build.service -p ActiveState
",
        // That a build is stopped well wherever it is, is shown natively.
        building = "for i in $(seq 1200); do pgrep -u core && break; sleep .2; done",
        started = wait("planning|fetching|building|configuring"),
    );
    let seen = scene.boot("late", &state, "", &script);
    seen.skipped(&scene.root.release);
    let (build, target) = (seen.properties("build"), seen.properties("target"));
    assert_eq!(build["ActiveState"], "activating", "{build:?}");
    assert_ne!(build["StatusText"], "", "{build:?}");
    let stamp = |text: &str| text.parse::<u64>().unwrap();
    let target = stamp(&target["ActiveEnterTimestampMonotonic"]);
    let begun = stamp(&build["InactiveExitTimestampMonotonic"]);
    assert!(0 < target && target < begun, "multi-user.target {target}, zfs-build {begun}");
    assert_eq!(seen.status("working"), 0, "the build has no processes");
    assert_eq!(seen.status("stop"), 0, "{}", seen.output("stop"));
    let stopped = seen.properties("stopped");
    assert_ne!(stopped["Result"], "timeout", "{stopped:?}");
    assert_ne!(stopped["ActiveState"], "activating", "{stopped:?}");
    assert_eq!(seen.output("left"), "", "processes of the build are left");
    contains_all(&seen.output("journal"), &["the build was stopped by a signal"]);
    assert_eq!(seen.output("after"), "", "left in the state directory");
    // And the machine went off with a build running: that is what the boot waited for.
    assert_eq!(seen.properties("again")["ActiveState"], "activating");
}
