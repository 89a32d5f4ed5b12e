//! What is refused one after the other in the same machine: a damaged tree, a module that the kernel
//! is told to refuse, and one that modprobe.d(5) holds back.

use std::fs;

use zfs_prefix::log::id;

use super::REBUILD;
use super::scene::{NEVER, Scene, contains_all, shown};

#[test]
fn a_flipped_byte_is_refused_before_anything_is_loaded_and_what_the_kernel_forbids_in_its_words() {
    let scene = Scene::get();
    let state = scene.state();
    let zfs = scene.tree.module("zfs");
    let whole = fs::read(state.path(&shown(&zfs))).unwrap();
    state.write("/opt/zfs.ko", whole).unwrap();
    scene.tree.damage(&state, "zfs", |bytes| bytes[bytes.len() / 2] ^= 1).unwrap();
    // One machine for both: the tree is mended, and module_blacklist= shows.
    let script = format!(
        "
probe status zfs-prefix status
cp /opt/zfs.ko {zfs}
probe forbidden systemctl restart zfs-load.service
journalctl --sync
probe said-forbidden journalctl -b -q -o json -t zfs-load -u zfs-load.service
probe forbidden-load systemctl show zfs-load.service -p ActiveState,ExecMainStatus
probe status-forbidden zfs-prefix status
echo blacklist zfs > /etc/modprobe.d/50-no-zfs.conf
probe held systemctl restart zfs-load.service
journalctl --sync
probe said-held journalctl -b -q -o json -t zfs-load -u zfs-load.service
probe held-load systemctl show zfs-load.service -p ActiveState,ExecMainStatus
probe by-hand zfs-prefix load
",
        zfs = shown(&zfs)
    );
    let cmdline = format!("{NEVER} module_blacklist=zfs");
    let seen = scene.boot("flipped", &state, &cmdline, &script);
    let said = seen.refused(15, &scene.root.release);
    contains_all(&said, &[&shown(&zfs), "is damaged", REBUILD]);
    assert_eq!(seen.status("status"), 3, "nothing usable is published");
    contains_all(&seen.output("status"), &["not usable", "zfs.ko"]);

    let last = |probe: &str| seen.journal(probe).pop().unwrap();
    assert_ne!(seen.status("forbidden"), 0);
    let load = seen.properties("forbidden-load");
    assert_eq!((&*load["ActiveState"], &*load["ExecMainStatus"]), ("failed", "15"), "{load:?}");
    let entry = last("said-forbidden");
    assert_eq!(entry["MESSAGE_ID"], id::LOAD_FAILED, "{entry:#}");
    let message = entry["MESSAGE"].as_str().unwrap();
    contains_all(message, &[&shown(&zfs), "EPERM", "it says: Module zfs is blacklisted"]);
    contains_all(message, &["module_blacklist= on the kernel command line forbids it"]);
    assert!(!message.contains("CAP_SYS_MODULE") && !message.contains("spl: "), "{message}");
    let held = "the kernel command line says \"module_blacklist=zfs\"";
    contains_all(&seen.output("status-forbidden"), &[held]);

    let load = seen.properties("held-load");
    assert_eq!((&*load["ActiveState"], &*load["ExecMainStatus"]), ("active", "0"), "{load:?}");
    let entry = last("said-held");
    assert_eq!(entry["MESSAGE_ID"], id::HELD_BACK, "{entry:#}");
    let line = "/etc/modprobe.d/50-no-zfs.conf:1 says \"blacklist zfs\"";
    contains_all(entry["MESSAGE"].as_str().unwrap(), &[line, "zfs-prefix load --import"]);
    // By hand the loader asks the kernel, and that refuses.
    assert_eq!(seen.status("by-hand"), 15, "{}", seen.output("by-hand"));
    contains_all(&seen.output("by-hand"), &[line, "it is loaded now all the same"]);
}
