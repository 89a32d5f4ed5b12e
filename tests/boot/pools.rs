//! The expected pools, on disks that are missing, damaged or another host's. Each boot shows several
//! things: they are dear.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;
use zfs_prefix::log::id;
use zfs_prefix::pools::pool_names;

use super::scene::{CACHE, FILE, NEVER, Scene, Seen, With, contains_all};
use lab::disk::{State, blank};
use lab::vm::Disk;

const CONFIG: &str = "/etc/zfs-prefix/config.toml";
/// How zfs-pools.service ended, and what it said in this boot so far.
const ASKED: &str = "
probe unit systemctl show zfs-pools.service -p ActiveState,Result,ExecMainStatus
probe check journalctl -b -q -o json -u zfs-pools.service -t zfs-prefix
";

/// Disks `d1` … of 128 MiB, in files that are removed with the directory.
pub fn disks(count: usize) -> (tempfile::TempDir, Vec<Disk>) {
    let dir = lab::tmp::scratch("boot-");
    let disk = |n: usize| {
        let image = dir.path().join(format!("d{n}.img"));
        blank(&image, 128 << 20).unwrap();
        Disk { image, serial: format!("d{n}"), keep: false }
    };
    let disks = (1..=count).map(disk).collect();
    (dir, disks)
}

/// zfs-pools.service failed with 20.
fn failed(seen: &Seen) {
    let unit = seen.properties("unit");
    assert_eq!((&*unit["ActiveState"], &*unit["ExecMainStatus"]), ("failed", "20"), "{unit:?}");
}

/// The messages of a probe with `-o json`, by pool, each with its MESSAGE_ID; one for each.
pub fn said(seen: &Seen, probe: &str) -> BTreeMap<String, (String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let entries = seen.journal(probe);
    let by_pool: BTreeMap<_, _> = entries
        .iter()
        .map(|e| (text(&e["ZFS_PREFIX_POOL"]), (text(&e["MESSAGE_ID"]), text(&e["MESSAGE"]))))
        .collect();
    assert_eq!(by_pool.len(), entries.len(), "more than one entry for a pool: {entries:#?}");
    by_pool
}

/// Of this pool there is an entry with this MESSAGE_ID and these words.
pub fn told(said: &BTreeMap<String, (String, String)>, pool: &str, id: &str, words: &[&str]) {
    let (found, message) = said.get(pool).unwrap_or_else(|| panic!("nothing of {pool}: {said:#?}"));
    assert_eq!(found, id, "{message}");
    contains_all(message, words);
}

/// Pools on several disks, and one that is encrypted; the next boot expects those in zpool.cache.
const MAKE: &str = "
D=/dev/disk/by-id/virtio-d
probe mirror zpool create -O mountpoint=none m mirror ${D}1 ${D}2
probe stripe zpool create -O mountpoint=none s ${D}3 ${D}4
probe single zpool create -O mountpoint=none e ${D}5
probe faulted zpool create -O mountpoint=none f mirror ${D}6 ${D}7
probe offline zpool offline -f f ${D}6
dd if=/dev/urandom of=/etc/zfs/key bs=32 count=1 status=none
probe secret zfs create -o encryption=on -o keyformat=raw -o keylocation=file:///etc/zfs/key -o mountpoint=/secret e/secret
rm /etc/zfs-prefix/config.toml
sync
";

#[test]
fn a_named_pool_is_imported_without_a_cache_file_and_missing_disks_and_keys_are_told() {
    let scene = Scene::get();
    let (_dir, disks) = disks(7);
    let state = scene.state();
    fs::remove_file(state.path(CACHE)).unwrap();
    state.write(CONFIG, "pools.expected = [\"tank\"]\n").unwrap();
    let own = scene.disks(&state);
    let script = format!(
        "{ASKED}
probe import journalctl -b -q -o json -u zfs-import-expected.service -t zfs-prefix
probe order systemctl show zfs-import-expected.service zfs-import.target zfs-mount.service -p ActiveEnterTimestampMonotonic --value
probe cache base64 -w0 {CACHE}
{MAKE}"
    );
    let (cmdline, state, own) = (NEVER, &state, &own);
    let boot =
        With { name: "by-name", state, own, disks: &disks, cmdline, script: &script, kept: true };
    let seen = scene.boot_with(&boot);
    seen.imported();
    assert_eq!(seen.failed(), [""; 0]);
    told(&said(&seen, "import"), "tank", id::POOL_IMPORTED, &["imported tank by its name"]);
    told(&said(&seen, "check"), "", id::POOLS_SOUND, &["pools: tank ONLINE"]);
    let times: Vec<u64> =
        seen.output("order").split_whitespace().map(|t| t.parse().unwrap()).collect();
    assert!(times.len() == 3 && times.is_sorted() && times[0] > 0, "not early: {times:?}");
    assert_ne!(seen.output("cache"), "", "OpenZFS writes the cache file");
    for made in ["mirror", "stripe", "single", "faulted", "offline", "secret"] {
        assert_eq!(seen.status(made), 0, "{made}: {}", seen.output(made));
    }
    let some = [0, 2, 4, 5, 6].map(|n| disks[n].clone());
    let script = format!("{ASKED}{MISSING}");
    let name = "missing-disks";
    missing(&scene.boot_with(&With { name, disks: &some, script: &script, kept: false, ..boot }));
}

const MISSING: &str = r#"
probe import systemctl is-active zfs-import-cache.service
probe forgotten zpool list -H -o name s
probe cache cp /etc/zfs/zpool.cache /tmp/after
probe memory cat /var/lib/zfs-prefix/missing-pools
probe status zfs-prefix status
probe json zfs-prefix pools --json
zfs load-key -a
probe forget zfs-prefix pools --forget s
for p in /sys/bus/pci/devices/*/virtio*/block/*; do
    [ "$(cat "$p/serial")" = d1 ] && echo 1 > "${p%/virtio*/block*}/remove"
done
zfs create m/x & sleep 2
probe again zfs-prefix pools --check
# The machine would not go off in good order: it waits for what was written to m.
echo o > /proc/sysrq-trigger
sleep 60
"#;

/// A disk of the stripe and one of the mirror are gone, one of another mirror is faulted, and no key is
/// loaded.
fn missing(seen: &Seen) {
    assert_eq!(seen.output("pool"), "e\tONLINE\nf\tDEGRADED\nm\tDEGRADED\ntank\tONLINE");
    assert_eq!(seen.output("file"), FILE);
    failed(seen);
    assert_eq!(seen.failed(), ["zfs-pools.service"]);
    let check = said(seen, "check");
    let pools: Vec<_> = check.keys().map(String::as_str).collect();
    assert_eq!(pools, ["e", "f", "m", "s"], "{check:#?}");
    let attach = "attach them, then: zpool import s";
    told(
        &check,
        "s",
        id::POOL_ABSENT,
        &["pool s ABSENT: it is UNAVAIL", "virtio-d4 UNAVAIL", attach],
    );
    let was = "(was /dev/disk/by-id/virtio-d2-part1)";
    told(&check, "m", id::POOL_IMPAIRED, &["pool m DEGRADED: ", "UNAVAIL", was, "zpool status m"]);
    let faulted =
        ["pool f DEGRADED: ", "virtio-d6-part1 FAULTED (external device fault)", "zpool status f"];
    told(&check, "f", id::POOL_IMPAIRED, &faulted);
    let key = "not loaded: e/secret (key: file:///etc/zfs/key)";
    told(&check, "e", id::POOL_LOCKED, &["pool e ONLINE: ", key, "zfs load-key e/secret"]);
    // Why there is a memory: OpenZFS finds nothing wrong with its import.
    assert_eq!(seen.output("import"), "active");
    assert_ne!(seen.status("forgotten"), 0);
    assert_eq!(seen.output("memory"), "s");
    assert_eq!((seen.status("status"), seen.status("json")), (20, 20));
    contains_all(&seen.output("status"), &["pool: tank ONLINE", "pool: s ABSENT\n", attach, key]);
    let json: Value = serde_json::from_str(&seen.output("json")).unwrap();
    let by = |name: &str| {
        let pools = json["pools"].as_array().unwrap();
        pools.iter().find(|p| p["name"] == name).unwrap_or_else(|| panic!("{json:#}")).clone()
    };
    assert_eq!((&by("s")["expected"], &by("s")["state"]), (&"missing".into(), &"absent".into()));
    assert_eq!(by("m")["expected"], "cache-file");
    assert_eq!(seen.status("forget"), 0);
    // The other half of the mirror, too: no I/O any more, and nobody hangs because of it.
    assert_eq!(seen.status("again"), 20);
    let again = seen.output("again");
    contains_all(&again, &["pool m SUSPENDED", "zpool clear m"]);
    assert!(!again.contains("pool e ") && !again.contains("pool s "), "{again}");
}

#[test]
fn a_pool_of_another_host_is_named_with_its_command_and_not_forced_and_an_empty_cache_file_is_no_list()
 {
    let scene = Scene::get();
    let state = scene.state();
    state.write("/etc/hostid", [0x0c, 0xb1, 0xba, 0x00]).unwrap();
    state.write(CACHE, "").unwrap();
    state.write(CONFIG, "pools.expected = [\"tank\"]\n").unwrap();
    let script = format!(
        "{ASKED}
probe import journalctl -b -q -o json -u zfs-import-expected.service -t zfs-prefix
probe cache-unit systemctl show zfs-import-cache.service -p ConditionResult,ActiveState
rm {CONFIG}
probe empty zfs-prefix pools --check
rm {CACHE}
probe none zfs-prefix pools --check
"
    );
    let seen = scene.boot("other-host", &state, NEVER, &script);
    failed(&seen);
    assert_eq!(seen.failed(), ["zfs-import-expected.service", "zfs-pools.service"]);
    let refused = ["previously in use from another system", "hostid=78563412"];
    told(&said(&seen, "import"), "tank", id::POOL_NOT_IMPORTED, &refused);
    let words = [
        "tank ABSENT: it was last used by another host",
        "To do: if no other host uses it: zpool import -f tank",
    ];
    told(&said(&seen, "check"), "tank", id::POOL_ABSENT, &words);
    assert_eq!(seen.output("pool"), "", "it was imported by force");
    assert_eq!(seen.properties("cache-unit")["ConditionResult"], "no");
    for (probe, words) in
        [("empty", "zpool.cache is empty"), ("none", "there is no /etc/zfs/zpool.cache")]
    {
        assert_eq!(seen.status(probe), 0, "{}", seen.output(probe));
        contains_all(&seen.output(probe), &["no pool is expected", words]);
    }
}

#[test]
fn a_damaged_cache_file_is_said_to_be_one_and_an_import_by_hand_writes_it_anew() {
    let scene = Scene::get();
    let state: State = scene.state();
    let whole = fs::read(state.path(CACHE)).unwrap();
    assert_eq!(pool_names(&whole).unwrap(), ["tank"]);
    state.write(CACHE, &whole[..whole.len() / 2]).unwrap();
    let script = format!(
        "{ASKED}
probe status zfs-prefix status
probe hand zpool import tank
probe again systemctl restart zfs-pools.service
probe after journalctl -b -q -o cat -u zfs-pools.service -t zfs-prefix -n 1
probe file-after cat /tank/file
"
    );
    let seen = scene.boot("torn-cache", &state, NEVER, &script);
    failed(&seen);
    assert_eq!(seen.failed(), ["zfs-import-cache.service", "zfs-pools.service"]);
    let half = format!("it is damaged ({} bytes; at byte ", whole.len() / 2);
    let words = [CACHE, &half, "zpool import", "pools.expected"];
    told(&said(&seen, "check"), "", id::POOLS_NOT_KNOWN, &words);
    assert_eq!(seen.status("status"), 20);
    contains_all(&seen.output("status"), &["it is damaged"]);
    assert_eq!((seen.status("hand"), seen.status("again")), (0, 0), "{}", seen.output("hand"));
    assert_eq!(seen.output("after"), "pools: tank ONLINE");
    assert_eq!(seen.output("file-after"), FILE);
}
