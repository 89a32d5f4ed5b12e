use std::time::Duration;

use super::super::tests::{host, write};
use super::*;

const BRIEF: Duration = Duration::from_millis(1);

#[test]
fn a_disk_is_named_that_answers_nothing_while_something_waits() {
    let (_root, host) = host();
    assert_eq!(findings(&host, PAUSE), [""; 0]);
    for (disk, stat) in [
        ("sda", "10 0 80 5 3 0 24 9 0 12 14 0 0 0 0 1 2"),
        ("sdb", "10 0 80 5 3 0 24 9 1 12 14 0 0 0 0 1 2"),
        ("sdc", " 7 0 80 5 3 0 24 9 3 12 14\n"),
        ("sdd", "10 0 80 5 3 0 24 9 1 12 14 5 0 0 0 1 2"),
        ("sr0", "torn"),
        // They wait for sdb and for its partition; the volume for its pool.
        ("dm-0", "1 0 80 5 3 0 24 9 1 12 14"),
        ("md127", "1 0 80 5 3 0 24 9 1 12 14"),
        ("zd0", "1 0 80 5 3 0 24 9 1 12 14"),
    ] {
        write(&host, &format!("/sys/block/{disk}/stat"), stat);
    }
    write(&host, "/sys/block/sdb/sdb1/stat", "");
    write(&host, "/sys/block/dm-0/slaves/sdb1/stat", "");
    write(&host, "/sys/block/md127/slaves/dm-0/stat", "");
    let says = "has requests, and answered none while it was watched for 0 s";
    let all = ["sdb", "sdc", "sdd"].map(|disk| format!("{disk} {says}"));
    assert_eq!(findings(&host, BRIEF), all);
    let busy = std::thread::spawn({
        let host = host.clone();
        move || {
            std::thread::sleep(Duration::from_millis(300));
            // A flush, a write, a discard.
            write(&host, "/sys/block/sdb/stat", "10 0 80 5 3 0 24 9 1 12 14 0 0 0 0 2 2");
            write(&host, "/sys/block/sdc/stat", "7 0 80 5 4 0 24 9 2 12 14");
            write(&host, "/sys/block/sdd/stat", "10 0 80 5 3 0 24 9 1 12 14 6 0 0 0 1 2");
            for above in ["dm-0", "md127"] {
                write(&host, &format!("/sys/block/{above}/stat"), "2 0 80 5 3 0 24 9 1 12 14");
            }
        }
    });
    assert_eq!(findings(&host, Duration::from_secs(1)), [""; 0]);
    busy.join().unwrap();
    for n in 0..7 {
        write(&host, &format!("/sys/block/vd{n}/stat"), "7 0 80 5 4 0 24 9 2 12 14");
    }
    let found = findings(&host, BRIEF);
    assert_eq!((found.len(), found[4].as_str()), (5, "and 6 more disks"), "{found:?}");
}

#[test]
fn imports_that_go_on_are_named_as_each_release_has_them() {
    let (_root, host) = host();
    let progress = "/proc/spl/kstat/zfs/import_progress";
    let goes_on = "goes on in the kernel";
    let text = b"\
pool_guid            load_state     multihost_secs max_txg      pool_name        notes
5100567895340836774  2              0              0            h                using uberblock with txg=8
1234567890123456789  4              -1             18446744073709551615 a b              -
12                   3              11             0            a-name-of-many-letters Loading \x1bBRT\xff
13                   1              0              0            -                -
14 1
";
    write(&host, progress, text);
    assert_eq!(
        findings(&host, PAUSE),
        [
            format!("the import of h {goes_on} (using uberblock with txg=8)"),
            format!("the import of a b {goes_on}"),
            "a-name-of-many-letters is looked at, not imported (Loading ?BRT\u{fffd}), \
             11 s more for its multihost check"
                .to_owned(),
            "a pool is being opened in the kernel".to_owned(),
        ]
    );
    let old = "pool_guid load_state multihost_secs max_txg pool_name\n12 2 0 0 an old one\n";
    write(&host, progress, old);
    assert_eq!(findings(&host, PAUSE), [format!("the import of an old one {goes_on}")]);
}

/// A thread of a process of this user's: its name, state, and how often it has slept.
fn task(host: &Host, task: &str, uid: u32, name: &str, state: char, slept: u32) {
    let pid: u64 = task.split('/').next().unwrap().parse().unwrap();
    let stat = format!("1 ({name}) {state} {}{} 0 0", "0 ".repeat(18), pid * 10);
    let status = format!(
        "Name:\tx\nUid:\t{uid}\t0\t0\t0\nvoluntary_ctxt_switches:\t{slept}\n\
         nonvoluntary_ctxt_switches:\t1\n"
    );
    write(host, &format!("/proc/{task}/stat"), stat);
    write(host, &format!("/proc/{task}/status"), status);
}

#[test]
fn programs_in_the_kernel_are_named_with_their_unit_and_those_that_work_are_not() {
    let (_root, host) = host();
    for (thread, uid, name, state) in [
        ("512", 0, "zfs", 'D'),
        ("512/task/512", 0, "zfs", 'D'),
        // Its main thread is gone, two of the others wait.
        ("319", 0, "zpool", 'Z'),
        ("319/task/319", 0, "zpool", 'Z'),
        ("319/task/377", 0, "zpool", 'D'),
        ("319/task/378", 0, "zpool", 'D'),
        // Threads of zed have names of their own.
        ("423", 0, "zed", 'S'),
        ("423/task/423", 0, "zed", 'S'),
        ("423/task/425", 0, "enum-pools", 'D'),
        ("601", 0, "zpool", 'S'),
        ("601/task/601", 0, "zpool", 'S'),
        ("602", 0, "a) D (b", 'D'),
        ("602/task/602", 0, "a) D (b", 'D'),
        ("603", 1000, "zpool", 'D'),
        ("603/task/603", 1000, "zpool", 'D'),
    ] {
        task(&host, thread, uid, name, state, 7);
    }
    write(&host, "/proc/604/stat", "604 (zpool");
    let unit = "0::/system.slice/zfs-import-cache.service\n";
    write(&host, "/proc/319/task/377/cgroup", unit);
    write(&host, "/proc/319/task/378/cgroup", unit);
    write(&host, "/proc/512/task/512/cgroup", "0::/user.slice/session-1.scope\n");
    let all = [
        "process 319 (zpool, of zfs-import-cache.service) waits in the kernel",
        "process 423 (zed) waits in the kernel",
        "process 512 (zfs) waits in the kernel",
    ];
    assert_eq!(findings(&host, BRIEF), all);
    let works = std::thread::spawn({
        let host = host.clone();
        move || {
            std::thread::sleep(Duration::from_millis(300));
            task(&host, "512/task/512", 0, "zfs", 'D', 8);
            task(&host, "423/task/425", 0, "enum-pools", 'S', 7);
        }
    });
    assert_eq!(findings(&host, Duration::from_secs(1)), all[..1]);
    works.join().unwrap();
}
