//! A zfs and a mount.zfs for a kernel without ZFS: datasets are tmpfs with the dataset's name. What is
//! under test is who mounts what, and when; real ones are in tests/boot.rs.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use lab::disk::State;
use lab::nspawn::Machine;

/// Of /run/lab/datasets: name, mount point, canmount, and `key` where a key is needed, which is there when
/// /run/lab/NAME is (slashes are dashes).
const ZFS: &str = r#"#!/bin/sh
export PATH=/usr/sbin:/usr/bin
key() { [ "$2" != key ] || [ -e "/run/lab/$(echo "$1" | tr / -)" ]; }
do_mount() { mkdir -p "$2" && mount -t tmpfs "$1" "$2"; }
case "$1 $2 $*" in
*volume*) ;;
list*)
    echo 'a complaint of the library'
    while read -r name place can locked; do
        state=- mounted=no
        [ "$locked" != key ] || state=available
        key "$name" "$locked" || state=unavailable
        ! findmnt -rn -S "$name" >/dev/null || mounted=yes
        printf '%s\t%s\t%s\t%s\t%s\toff\toff\toff\t-\t-\n' "$name" "$place" "$can" "$mounted" "$state"
    done </run/lab/datasets ;;
"mount -a"*)
    while read -r name place can locked; do
        [ "$can" = on ] && [ "$place" != legacy ] && key "$name" "$locked" || continue
        findmnt -rn -S "$name" >/dev/null || do_mount "$name" "$place"
    done </run/lab/datasets ;;
mount*)
    while read -r name place can locked; do
        [ "$name" != "$2" ] || do_mount "$name" "$place" || exit 1
    done </run/lab/datasets ;;
esac
"#;
const MOUNT: &str = "#!/bin/sh\nexec /usr/bin/mount -t tmpfs \"$1\" \"$2\"\n";
/// Runs as long as the machine does.
const ZED: &str = "[Service]\nExecStart=\nExecStart=/bin/sleep infinity\n";
/// The pools are there, and nothing else is asked.
const POOLS: &str = "[Service]\nExecStart=\nExecStart=/bin/true\n";

/// Puts it into `state`.
pub fn write(state: &State) {
    for (name, text) in [("zfs", ZFS), ("mount.zfs", MOUNT)] {
        let path = format!("/etc/lab/{name}");
        state.write(&path, text).unwrap();
        fs::set_permissions(state.path(&path), fs::Permissions::from_mode(0o755)).unwrap();
    }
    for (unit, text) in [("zfs-zed", ZED), ("zfs-pools", POOLS)] {
        state.write(&format!("/etc/systemd/system/{unit}.service.d/60-lab.conf"), text).unwrap();
    }
}

/// Puts it in the place of the real programs, as if the modules were there; `datasets`: the lines of the
/// file.
pub fn load(machine: &Machine, datasets: &str) {
    let line = format!(
        "{} && mkdir -p /run/lab && printf '{datasets}' >/run/lab/datasets && \
         for p in zfs mount.zfs; do mount --bind /etc/lab/$p /usr/sbin/$p || exit; done",
        super::LOADED
    );
    machine.check(&line).unwrap();
}
