//! A system with nothing of OpenZFS: neither modules nor programs, units, rules. Unattended, its
//! first boot fetches both over the network and has its pool; the next one has it from the start.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::scene::{KEY, Pool, Scene, Seen, contains_all};
use lab::disk::State;
use lab::nspawn::Machine;
use lab::root::Root;
use lab::server::Server;
use zfs_prefix::log::id;

/// The network of the machine: the host's loopback, and nothing behind it.
const NETWORK: &str = "[Match]\nType=ether\n\
    [Network]\nAddress=10.0.2.15/24\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n";
/// A service of the operator's.
const READS: &str = "[Unit]\nRequiresMountsFor=/tank/data\n[Service]\nType=oneshot\n\
    RemainAfterExit=yes\nExecStart=/bin/sh -c 'cat /tank/data/file > /run/read'\n";
/// Who sits at the console and types the passphrase, whenever systemd asks for that of tank/asked
/// (the protocol of the password agents: an answer is `+` and the words, which this program sends).
const TYPES: &str = "[Unit]\nDefaultDependencies=no\nConflicts=shutdown.target\nBefore=shutdown.target\n\
    [Service]\nExecStart=/bin/sh -c 'while sleep 1; do for ask in /run/systemd/ask-password/ask.*; do \
    grep -qx Id=zfs:tank/asked $ask 2>/dev/null || continue; \
    printf \"open sesame\" | /usr/lib/systemd/systemd-reply-password 1 $(sed -n s/^Socket=//p $ask) && \
    echo typed >> /run/typed; done; done'\n";

/// What another system left in the pool.
const MAKE: &str = "
mkdir -p /etc/zfs/zfs-list.cache && touch /etc/zfs/zfs-list.cache/tank
probe make sh -ec 'zfs create tank/data && echo read > /tank/data/file
    zfs create -o encryption=on -o keyformat=raw -o keylocation=file:///etc/key tank/secret
    echo told > /tank/secret/file
    echo open sesame | zfs create -o encryption=on -o keyformat=passphrase tank/asked
    echo opened > /tank/asked/file
    zfs create -V 16M tank/volume'
for i in $(seq 100); do
    grep -q tank/secret /etc/zfs/zfs-list.cache/tank && grep -q tank/asked /etc/zfs/zfs-list.cache/tank && break
    sleep .3
done
probe list base64 /etc/zfs/zfs-list.cache/tank
sync
";
/// Starts nothing, only waits: seldom, for each look costs an emulated machine half a second.
const WAIT: &str = "
for i in $(seq 300); do
    case $(systemctl show --value -p ActiveState zfs-build zfs-load-late | tr -s '\\n' ' ') in
        'failed '* | *failed*) break ;;
        'inactive inactive ') [ -d /sys/module/zfs ] && break ;;
    esac
    sleep 5
done
journalctl --sync
probe build systemctl show zfs-build.service -p Result,ExecMainStatus
probe late systemctl show zfs-load-late.service -p Result,ConditionResult,ExecMainStatus
";
const LOOK: &str = "
export PATH=$PATH:/usr/local/bin
probe log journalctl -b -q -o cat -u zfs-build.service -u zfs-load-late.service -u zfs-load.service
probe failed-late systemctl --failed --plain --no-legend
probe health zpool list -H -o name,health
probe version zfs version
probe zpool sh -c 'readlink -f $(command -v zpool)'
probe mounted zfs list -H -o name,mounted -t filesystem
probe read cat /run/read /tank/file /tank/secret/file /tank/asked/file
probe typed cat /run/typed
probe volume test -b /dev/zvol/tank/volume
probe units systemctl is-active zfs-load zfs-import-expected zfs-import.target zfs-mount zfs-zed zfs-volumes.target zfs.target zfs-pools reads
probe by-unit sh -c 'for u in tank-data.mount tank-secret.mount zfs-load-key@tank-secret.service tank-asked.mount zfs-load-key@tank-asked.service; do systemctl is-active $u; systemctl show --value -p FragmentPath $u; done'
probe page test -s /usr/share/man/man8/zpool.8
probe pools zfs-prefix pools
probe status zfs-prefix status
";

/// With programs of the system's own that are of another version.
const OTHERS: &str = "
probe log journalctl -b -q -o cat -u zfs-load.service -u zfs-mount.service -u zfs-zed.service
probe failed-late systemctl --failed --plain --no-legend
probe own zfs version
probe zed sh -c 'readlink /proc/$(systemctl show --value -p MainPID zfs-zed)/exe'
probe mount systemctl show --value -p Result,ActiveState zfs-mount
probe read cat /tank/file
probe status zfs-prefix status
";

/// The system: its root, what is staged, its /usr, and everything else.
fn system(scene: &Scene) -> (Root, tempfile::TempDir, PathBuf, State) {
    let bare = lab::without::openzfs(&scene.root).unwrap();
    let staged = lab::tmp::scratch("boot-");
    let stage = staged.path().join("stage");
    lab::without::stage_with_units(&lab::stage(), &stage).unwrap();
    let image = scene.usr(&bare, &stage);

    let state = State::fresh(&bare, &scene.work().join("nothing")).unwrap();
    state.write("/etc/systemd/system/reads.service", READS).unwrap();
    state.write("/etc/systemd/system/types.service", TYPES).unwrap();
    state.write("/etc/key", KEY).unwrap();
    state.write("/etc/systemd/network/10-lab.network", NETWORK).unwrap();
    for (by, unit) in [
        ("multi-user.target", "/usr/lib/systemd/system/systemd-networkd.service"),
        ("network-online.target", "/usr/lib/systemd/system/systemd-networkd-wait-online.service"),
        ("multi-user.target", "/etc/systemd/system/reads.service"),
        ("sysinit.target", "/etc/systemd/system/types.service"),
    ] {
        let wants = state.path(&format!("/etc/systemd/system/{by}.wants"));
        fs::create_dir_all(&wants).unwrap();
        symlink(unit, wants.join(unit.rsplit('/').next().unwrap())).unwrap();
    }
    preset(&bare, &state, &stage);
    lab::prefix::install(&state).unwrap();
    (bare, staged, image, state)
}

/// As whoever builds the image does.
fn preset(bare: &Root, state: &State, stage: &Path) {
    let minute = Duration::from_secs(60);
    let machine = Machine::boot("nothing", bare, state, Some(stage), minute).unwrap();
    let found = machine.exec("command -v zpool zfs zed zdb mount.zfs").unwrap();
    assert_ne!(found.status, 0, "the system has programs of its own: {}", found.output);
    machine.check(lab::without::PRESET).unwrap();
    machine.power_off(minute).unwrap();
}

/// What base64(1) has made of a file.
fn decoded(text: &str) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    Command::new("base64").arg("-d").arg(file.path()).output().unwrap().stdout
}

fn has_its_pool(seen: &Seen) {
    let log = seen.output("log");
    assert_eq!(seen.output("failed-late"), "", "{log}");
    assert_eq!(seen.output("health"), "tank\tONLINE", "{log}");
    assert_eq!(
        seen.output("mounted"),
        "tank\tyes\ntank/asked\tyes\ntank/data\tyes\ntank/secret\tyes",
        "{log}"
    );
    assert_eq!(seen.output("read"), format!("read\n{}\ntold\nopened", super::scene::FILE), "{log}");
    assert_eq!(seen.output("typed"), "typed", "asked once, by this boot: {log}");
    assert_eq!(seen.status("volume"), 0, "the volume has no device node: {log}");
    assert_eq!(seen.output("units"), "active\n".repeat(9).trim_end(), "{log}");
    // By the units that the generator made of the list, not by somebody else's.
    let names = [
        "tank-data.mount",
        "tank-secret.mount",
        "zfs-load-key@tank-secret.service",
        "tank-asked.mount",
        "zfs-load-key@tank-asked.service",
    ];
    let states = names.map(|name| format!("active\n/run/systemd/generator/{name}"));
    assert_eq!(seen.output("by-unit"), states.join("\n"), "{log}");
    let version = seen.output("version");
    let said: Vec<_> = version.lines().filter_map(|l| l.strip_prefix("zfs-")).collect();
    assert_eq!(said.len(), 2, "{version}");
    assert_eq!(said[1], format!("kmod-{}", said[0]), "programs and module agree");
    let zpool = seen.output("zpool");
    assert!(zpool.starts_with("/var/lib/zfs-prefix/store/"), "{zpool}");
    assert_eq!((seen.status("page"), seen.status("pools")), (0, 0), "{}", seen.output("pools"));
    assert_eq!(seen.status("status"), 0, "{}", seen.output("status"));
}

/// A system with nothing of OpenZFS, that knows a binhost with packages for it, and a pool that
/// another system has left.
struct System {
    scene: Scene,
    usr: PathBuf,
    bare: Root,
    stage: tempfile::TempDir,
    state: State,
    image: PathBuf,
    binhost: Server,
    _served: tempfile::TempDir,
}

impl System {
    /// `host` is this machine's loopback, as the system names it.
    fn that_sees(host: &str) -> System {
        let scene = Scene::get();
        let pool = Pool::make(&scene.root, "pool-nothing", MAKE).unwrap();
        let image = scene.work().join("pool-copy.img");
        let mut cp = Command::new("cp");
        lab::tool::run(cp.arg("--sparse=always").arg(&pool.image).arg(&image)).unwrap();
        let (bare, stage, usr, state) = system(&scene);
        // As zed wrote it there: an operator brings it along with the rest of /etc.
        state.write("/etc/zfs/zfs-list.cache/tank", decoded(&pool.output("list"))).unwrap();

        let emerged = lab::emerge::emerged(&scene.root).unwrap();
        let served = lab::tmp::scratch("binhost-");
        let mut cp = Command::new("cp");
        cp.arg("-a").arg(&emerged.packages).arg(served.path().join(&scene.root.release));
        lab::tool::run(&mut cp).unwrap();
        let binhost = Server::of(served.path());
        let config = format!(
            "portage.binhost = \"http://{host}:{}/${{release}}\"\npools.expected = [\"tank\"]\n\
             boot.restart-after-import = [\"reads.service\"]\n",
            binhost.port
        );
        state.write("/etc/zfs-prefix/config.toml", config).unwrap();
        state.write("/etc/zfs-prefix/binhost.asc", fs::read(&emerged.key).unwrap()).unwrap();
        System { scene, usr, bare, stage, state, image, binhost, _served: served }
    }

    fn has_fetched_packages(&self) {
        let asked = self.binhost.asked();
        let packages = asked.iter().filter(|asked| asked.path.ends_with(".gpkg.tar"));
        assert!(packages.count() >= 2, "{asked:?}");
    }
}

/// What a build from binary packages of modules and programs says.
fn merged_and_published(log: &str) {
    let version = lab::root::ZFS;
    let merged =
        format!("merged the binary package of sys-fs/zfs-kmod-{version} ~sys-fs/zfs-{version}");
    contains_all(log, &[&merged, "published modules for"]);
    assert!(!log.contains("configure"), "compiled: {log}");
}

/// The system's first boot, in an emulated machine, does everything by itself: fetches, publishes,
/// loads, imports.
#[test]
#[ignore = "four minutes, in which Portage runs emulated: make check-all"]
fn a_system_with_nothing_of_zfs_has_its_pool_in_its_first_unattended_boot_and_in_the_next() {
    let system = System::that_sees("10.0.2.2");
    let (scene, usr, image) = (&system.scene, &system.usr, &system.image);
    let disks = scene.disks(&system.state);
    let late = scene.boot_other("nothing-late", usr, &disks, image, &format!("{WAIT}{LOOK}"));
    let log = late.output("log");
    // Nothing was there when the boot needed it, and that is said; the boot came up all the same.
    assert_eq!(late.properties("load")["Result"], "exec-condition");
    // What is mounted below, the key and who reads it are not started without.
    assert_eq!(late.failed(), ["tank.mount", "zfs-pools.service"]);
    late.said(id::NOTHING_PUBLISHED, &scene.root.release);
    let build = late.properties("build");
    assert_eq!((&*build["Result"], &*build["ExecMainStatus"]), ("success", "0"), "{log}");
    merged_and_published(&log);
    let unit = late.properties("late");
    assert_eq!((&*unit["Result"], &*unit["ConditionResult"]), ("success", "yes"), "{unit:?}");
    has_its_pool(&late);
    system.has_fetched_packages();
    drop(system.binhost);

    let early = scene.boot_other("nothing-early", usr, &disks, image, LOOK);
    has_its_pool(&early);
    contains_all(&early.output("log"), &["loaded ZFS "]);
}

#[test]
fn a_system_with_nothing_of_zfs_that_was_built_for_has_its_pool_and_another_version_does_no_harm() {
    let system = System::that_sees("127.0.0.1");
    let (scene, state, image) = (&system.scene, &system.state, &system.image);
    let minute = Duration::from_secs(60);
    let stage = system.stage.path().join("stage");
    let machine =
        Machine::boot("nothing-build", &system.bare, state, Some(&stage), minute).unwrap();
    let unit = format!("zfs-build@{}.service", scene.root.release);
    let started = machine.exec(&format!("systemctl start {unit}")).unwrap();
    let log = machine.check(&format!("journalctl -o cat -u {unit}")).unwrap();
    assert_eq!(started.status, 0, "{log}");
    merged_and_published(&log);
    system.has_fetched_packages();
    machine.power_off(minute).unwrap();
    drop(system.binhost);

    let disks = scene.disks(state);
    let early = scene.boot_other("nothing-built", &system.usr, &disks, image, LOOK);
    has_its_pool(&early);
    contains_all(&early.output("log"), &["loaded ZFS "]);

    // The same machine after a change of its system, which now has programs of OpenZFS 2.1.
    let (usr, version) = super::usr_of_debian_12(scene);
    let others = scene.boot_other("nothing-others", &usr, &disks, image, OTHERS);
    let log = others.output("log");
    assert_eq!(others.output("failed-late"), "", "{log}");
    contains_all(&others.output("own"), &[&format!("zfs-{version}"), lab::root::ZFS]);
    let zed = others.output("zed");
    assert!(zed.starts_with("/var/lib/zfs-prefix/store/"), "{zed}: {log}");
    assert_eq!(others.output("mount"), "success\nactive", "{log}");
    assert_eq!(others.output("read"), super::scene::FILE, "{log}");
    let told = [
        &format!("programs: ZFS {}", lab::root::ZFS),
        &format!("/usr/sbin/zpool is of version {version}"),
        "first in PATH",
    ];
    contains_all(&others.output("status"), &told);
}
