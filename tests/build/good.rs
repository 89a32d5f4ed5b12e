//! Whether what a build published is what it should be.

use std::path::{Path, PathBuf};
use std::time::Duration;

use lab::native::Native;
use lab::vm::{Disk, VmSpec};

/// The modules in `published` (lib/modules/RELEASE) have vermagic, imports and exports, with their
/// CRCs, of those that emerge alone makes against the kernel's official headers.
pub fn assert_as_against_the_official_headers(published: &Path) {
    let official = lab::emerge::modules(&lab::root::root().unwrap()).unwrap();
    let parse =
        |path: PathBuf| zfs_prefix::module::Module::parse(&std::fs::read(path).unwrap()).unwrap();
    for name in ["spl.ko", "zfs.ko"] {
        let ours = parse(published.join("extra").join(name));
        let theirs = parse(official.join(name));
        assert_eq!(ours.vermagic(), theirs.vermagic(), "{name}");
        assert_eq!(ours.imports(), theirs.imports(), "{name}: imports and their CRCs");
        assert_eq!(ours.exports(), theirs.exports(), "{name}: exports and their CRCs");
    }
}

/// A machine with this state in QEMU: the stock kernel loads what was published, and a pool is made.
pub fn assert_loads_in_the_stock_kernel(lab: &Native) {
    let root = lab::root::root().unwrap();
    let work = lab::tmp::scratch("build-");
    let state = lab.state.copy(&work.path().join("state")).unwrap();
    // It may be deleted at any time, and the kernel's source is large.
    lab::cache::remove(&state.path("/var/cache/zfs-prefix")).unwrap();
    let stage = lab::stage();
    let pool = work.path().join("pool.img");
    lab::disk::blank(&pool, 512 << 20).unwrap();
    let script = "
probe create zpool create -O mountpoint=/tank tank /dev/disk/by-id/virtio-pool
probe write sh -c 'echo written > /tank/file && zpool export tank && zpool import tank'
probe file cat /tank/file
probe health zpool list -H -o name,health tank
probe loaded journalctl -b -o cat -u zfs-load
";
    let spec = VmSpec {
        name: "build-recovered".into(),
        cmdline: String::new(),
        usr: lab::disk::usr(&root, Some(&stage)).unwrap(),
        state: state.disks(work.path()).unwrap(),
        keep_state: false,
        disks: vec![Disk { image: pool, serial: "pool".into(), keep: false }],
        script: script.into(),
        timeout: Duration::from_secs(300),
        network: false,
        live: false,
    };
    let boot = lab::vm::boot(&root, &spec).unwrap();
    let loaded = boot.probe("loaded").unwrap().output;
    assert_eq!(boot.probe("health").unwrap().output, "tank\tONLINE", "{loaded}");
    assert_eq!(boot.probe("file").unwrap().output, "written");
}
