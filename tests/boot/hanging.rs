//! A pool whose disk does not answer: the import hangs in the kernel, where nothing can end it.

use std::fs;
use std::os::unix::fs::symlink;

use zfs_prefix::log::id;

use super::pools::{disks, said, told};
use super::scene::{NEVER, Scene, Seen, With, contains_all};

/// The pool `h`, on a file of a file system of its own.
const MAKE: &str = "
modprobe loop
mkdir -p /srv/slow
probe format sh -c 'mkfs.ext4 -q /dev/disk/by-id/virtio-d1 && mount /dev/disk/by-id/virtio-d1 /srv/slow'
truncate -s 100M /srv/slow/image
losetup /dev/loop0 /srv/slow/image
probe make zpool create -O mountpoint=/h h /dev/loop0
zpool sync
sync
";
/// In the next boot this file system is frozen: what is read from the pool's disk is answered, what is
/// written to it never is.
const FREEZE: &str = "[Unit]\nDefaultDependencies=no\nConditionPathExists=/srv/slow\nAfter=systemd-udev-settle.service systemd-remount-fs.service\n\
    Before=zfs-import-cache.service\n[Service]\nType=oneshot\nRemainAfterExit=yes\n\
    ExecStart=/bin/sh -ec 'mount /dev/disk/by-id/virtio-d1 /srv/slow; modprobe loop; \
    losetup /dev/loop0 /srv/slow/image; fsfreeze -f /srv/slow'\n";

/// Whoever would import it: what docs/operate.md and zfs-prefix(8) give as the way out.
const MASKED: &str =
    "systemd.mask=zfs-import-cache.service systemd.mask=zfs-import-expected.service";

/// What hangs cannot be waited for, and the machine would not go off in good order.
const ASKED: &str = "
probe import systemctl show zfs-import-cache.service -p ActiveState,Result
probe check journalctl -b -q -o json -u zfs-pools.service -t zfs-prefix
probe status zfs-prefix status
probe progress cat /proc/spl/kstat/zfs/import_progress
echo o > /proc/sysrq-trigger
sleep 60
";

#[test]
#[ignore = "four minutes, most of them spent on waiting: make check-all"]
fn an_import_that_hangs_in_the_kernel_is_told_and_the_boot_goes_on() {
    let scene = Scene::get();
    let (_dir, disks) = disks(1);
    let state = scene.state();
    state
        .write(
            "/etc/zfs-prefix/config.toml",
            "pools.import-timeout = \"20s\"\npools.expected = [\"h\", \"tank\"]\n",
        )
        .unwrap();
    for unit in ["mount", "share", "volume-wait"] {
        let path = format!("/etc/systemd/system/zfs-{unit}.service.d/90-soon.conf");
        state.write(&path, "[Service]\nTimeoutStartSec=20s\n").unwrap();
    }
    state.write("/etc/systemd/system/freeze.service", FREEZE).unwrap();
    let wants = state.path("/etc/systemd/system/zfs-import-cache.service.wants");
    fs::create_dir_all(&wants).unwrap();
    symlink("../freeze.service", wants.join("freeze.service")).unwrap();
    let own = scene.disks(&state);
    let (cmdline, state, own) = (NEVER, &state, &own);
    let disks = &disks;
    let boot = With { name: "hanging-make", state, own, disks, cmdline, script: MAKE, kept: true };
    let seen = scene.boot_with(&boot);
    for made in ["format", "make"] {
        assert_eq!(seen.status(made), 0, "{made}: {}", seen.output(made));
    }
    hanging(&scene.boot_hanging(&With { name: "hanging", script: ASKED, ..boot }));

    let cmdline = &format!("{NEVER} {MASKED}");
    let script = "probe list zpool list";
    let seen =
        scene.boot_with(&With { name: "hanging-masked", cmdline, script, kept: false, ..boot });
    assert_eq!(seen.failed(), ["zfs-pools.service"], "the way out does not work");
    assert_eq!(seen.output("list"), "no pools available");
}

/// The import does not end, and neither does who asks for pools.
fn hanging(seen: &Seen) {
    assert_eq!(
        seen.failed(),
        [
            "zfs-import-cache.service",
            "zfs-import-expected.service",
            "zfs-mount.service",
            "zfs-pools.service",
            "zfs-share.service",
            "zfs-volume-wait.service"
        ]
    );
    let import = seen.properties("import");
    assert_eq!((&*import["ActiveState"], &*import["Result"]), ("failed", "timeout"), "{import:?}");
    let said = said(seen, "check");
    let pools: Vec<&str> = said.keys().map(String::as_str).collect();
    assert_eq!(pools, ["h", "tank"], "{said:#?}");
    let hangs = [
        "zpool list -H -p -o name,health,readonly was not done after 15 s",
        "loop0 has requests, and answered none",
        "the import of h goes on in the kernel",
        "(zpool, of zfs-import-cache.service) waits in the kernel",
        "To do: see the kernel log",
    ];
    for pool in pools {
        told(&said, pool, id::POOL_UNKNOWN, &hangs);
        assert!(!said[pool].1.contains(" vd"), "a disk that answers: {said:#?}");
    }
    assert_eq!(seen.status("status"), 20);
    contains_all(&seen.output("status"), &["pool: h UNKNOWN", "loop0 has requests"]);
}
