//! The client of systemd's manager: against a real systemd (a machine of its own), and, for what a real
//! one does not do on request, against a peer of that name on a real bus of its own.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lab::disk::State;
use lab::nspawn::Machine;
use zbus::blocking::Connection;
use zbus::blocking::connection::Builder;
use zbus::zvariant::{ObjectPath, OwnedObjectPath};
use zfs_prefix::systemd::manager::{Error, JobResult, Manager};

/// Longer than any job here takes.
const LONG: Duration = Duration::from_secs(120);
const SHORT: Duration = Duration::from_secs(1);

const UNITS: [(&str, &str); 10] = [
    (
        "good",
        "[Unit]\nStartLimitIntervalSec=0\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true",
    ),
    ("once", "[Unit]\nStartLimitIntervalSec=0\n[Service]\nType=oneshot\nExecStart=/bin/true"),
    ("bad", "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'exit 7'"),
    (
        "needs-bad",
        "[Unit]\nRequires=bad.service\nAfter=bad.service\n[Service]\nExecStart=/bin/true",
    ),
    (
        "never",
        "[Unit]\nConditionPathExists=/nonexistent\nConditionPathExists=!/also-not\n[Service]\nExecStart=/bin/true",
    ),
    ("asked", "[Service]\nType=oneshot\nExecCondition=/bin/false\nExecStart=/bin/true"),
    ("slow", "[Service]\nType=oneshot\nExecStart=/bin/sleep 1000"),
    ("asserts", "[Unit]\nAssertPathExists=!/etc\n[Service]\nExecStart=/bin/true"),
    (
        "needs-asserts",
        "[Unit]\nRequires=asserts.service\nAfter=asserts.service\nRequiresMountsFor=/srv/x\n\
         [Service]\nExecStart=/bin/true",
    ),
    ("late", "[Unit]\nJobRunningTimeoutSec=1\n[Service]\nType=oneshot\nExecStart=/bin/sleep 1000"),
];

#[test]
fn each_end_of_a_job_of_a_real_systemd_is_told_and_no_wait_is_without_an_end() {
    let root = lab::root::root().unwrap();
    let work = lab::tmp::scratch("manager-");
    let state = State::fresh(&root, &work.path().join("state")).unwrap();
    for (name, text) in UNITS {
        state.write(&format!("/etc/systemd/system/{name}.service"), format!("{text}\n")).unwrap();
    }
    let mount = "[Mount]\nWhat=tank/x\nWhere=/srv/x\nType=zfs\n";
    state.write("/etc/systemd/system/srv-x.mount", mount).unwrap();
    let machine = Machine::boot("manager", &root, &state, None, Duration::from_secs(60)).unwrap();
    let check = |line: &str| machine.check(line).unwrap().trim().to_owned();
    let bus = format!("unix:path={}", machine.path("/run/dbus/system_bus_socket").display());
    let mut manager = Manager::connect(Some(&bus)).unwrap();

    for (unit, want) in [
        ("good", JobResult::Done),
        ("once", JobResult::Done),
        ("bad", JobResult::Failed),
        ("needs-bad", JobResult::Dependency),
        ("never", JobResult::Done),
        ("late", JobResult::Timeout),
        ("asserts", JobResult::Assert),
        ("needs-asserts", JobResult::Dependency),
    ] {
        let unit = format!("{unit}.service");
        assert_eq!(manager.start(&unit, LONG), Ok(want), "{unit}");
    }
    let asked = manager.start("asked.service", LONG).unwrap();
    assert!(matches!(asked, JobResult::Done | JobResult::Skipped), "{asked:?}");
    assert_eq!(manager.unit("asked.service").unwrap().result, "exec-condition");

    let good = manager.unit("good.service").unwrap();
    assert_eq!((&*good.load, &*good.active, &*good.file), ("loaded", "active", "static"));
    assert_eq!((&*good.result, good.condition, good.job), ("success", true, false));
    let bad = manager.unit("bad.service").unwrap();
    assert_eq!((&*bad.active, &*bad.result, bad.status), ("failed", "exit-code", Some(7)));
    let never = manager.unit("never.service").unwrap();
    assert_eq!((&*never.active, never.condition), ("inactive", false));
    assert_eq!(never.unmet, ["ConditionPathExists=/nonexistent"]);
    assert_eq!(never.absent_paths, ["/also-not"]);
    let needs = manager.unit("needs-bad.service").unwrap();
    assert!(needs.wants.contains(&"bad.service".into()), "{needs:?}");
    assert!(needs.after.contains(&"bad.service".into()), "{needs:?}");
    assert!(manager.unit("bad.service").unwrap().wanted_by.contains(&"needs-bad.service".into()));
    assert_eq!(manager.unit("no-such.service").unwrap().load, "not-found");
    assert_eq!(manager.unit("asserts.service").unwrap().absent_paths, ["/etc"]);
    let needs = manager.unit("needs-asserts.service").unwrap();
    for required in ["asserts.service", "srv-x.mount"] {
        assert!(needs.requires.contains(&required.into()), "{needs:?}");
    }
    assert_eq!((&needs.mounts_for[..], &*needs.kind), (&["/srv/x".to_owned()][..], "simple"));
    let idle = manager.idle_mounts().unwrap();
    assert!(idle.contains(&"srv-x.mount".into()) && !idle.contains(&"-.mount".into()), "{idle:?}");
    let mount = manager.unit("srv-x.mount").unwrap();
    assert_eq!((&*mount.kind, &*mount.what, &*mount.place), ("zfs", "tank/x", "/srv/x"));
    let text = "[Unit]\nAssertPathExists=!/run\n";
    check(&format!(
        "mkdir /etc/systemd/system/srv-x.mount.d && printf '{text}' >/etc/systemd/system/srv-x.mount.d/x.conf"
    ));
    manager.reload().unwrap();
    assert_eq!(manager.unit("srv-x.mount").unwrap().absent_paths, ["/run"], "not read again");

    // Those that end before anybody can wait for them.
    for n in 0..100 {
        assert_eq!(manager.start("good.service", LONG), Ok(JobResult::Done), "{n}");
        assert_eq!(manager.start("once.service", LONG), Ok(JobResult::Done), "{n}");
    }
    let entered = "systemctl show --value -p ActiveEnterTimestampMonotonic good.service";
    let before = check(entered);
    assert_eq!(manager.restart("good.service", LONG), Ok(JobResult::Done));
    assert_ne!(check(entered), before, "not restarted");
    check("ln -s /dev/null /etc/systemd/system/masked.service && systemctl daemon-reload");
    for (unit, name) in [
        ("no-such.service", "NoSuchUnit"),
        ("masked.service", "UnitMasked"),
        ("junk", "InvalidArgs"),
    ] {
        match manager.start(unit, LONG) {
            Err(Error::Refused { name: found, message }) => {
                assert!(found.ends_with(name) && !message.is_empty(), "{unit}: {found} {message}");
            }
            other => panic!("{unit}: {other:?}"),
        }
    }

    // Two at once: what is told of one while the other is waited for is not lost.
    let slow = manager.begin("slow.service", false).unwrap();
    let once = manager.begin("once.service", false).unwrap();
    assert_eq!(manager.ended(&slow, SHORT), Err(Error::NotInTime(SHORT)));
    assert_eq!(manager.ended(&once, Duration::ZERO), Ok(JobResult::Done));
    check("systemctl stop slow.service");
    assert_eq!(manager.ended(&slow, LONG), Ok(JobResult::Canceled));
    assert_eq!(manager.start("slow.service", SHORT), Err(Error::NotInTime(SHORT)));
    let slow = manager.unit("slow.service").unwrap();
    assert!(slow.active == "activating" && slow.job && slow.is_up(), "{slow:?}");
    let meanwhile = |line: &str| {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(SHORT);
                machine.check(line).unwrap();
            });
            manager.start("slow.service", LONG)
        })
    };
    let mut meanwhile = meanwhile;
    assert_eq!(meanwhile("systemctl stop slow.service"), Ok(JobResult::Canceled));
    let reloaded = meanwhile("systemctl daemon-reload && systemctl stop slow.service");
    assert_eq!(reloaded, Ok(JobResult::Canceled), "a reload loses nothing");
    assert_eq!(meanwhile("systemctl daemon-reexec"), Err(Error::Reexecuted));
    assert_eq!(manager.start("good.service", LONG), Err(Error::Reexecuted));
    assert!(manager.is_over());

    let mut manager = Manager::connect(Some(&bus)).unwrap();
    assert_eq!(manager.start("good.service", LONG), Ok(JobResult::Done), "the new one");
    let closed = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(SHORT);
            machine.check("systemctl kill -s KILL --kill-whom=main dbus.service").unwrap();
        });
        manager.start("slow.service", LONG)
    });
    assert_eq!(closed, Err(Error::Closed));
}

/// A bus of its own, with a socket of its own; ended when dropped.
struct Bus {
    daemon: Child,
    address: String,
    _dir: tempfile::TempDir,
}

impl Bus {
    fn start() -> Bus {
        let dir = lab::tmp::scratch("manager-");
        let mut daemon = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "dbus-daemon", "--session", "--nofork"])
            .arg("--print-address=1")
            .arg(format!("--address=unix:path={}", dir.path().join("bus").display()))
            .stdout(Stdio::piped())
            .spawn()
            .expect("dbus-daemon");
        let mut address = String::new();
        BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Bus { daemon, address: address.trim().to_owned(), _dir: dir }
    }

    fn connect(&self) -> Connection {
        Builder::address(&*self.address).unwrap().build().unwrap()
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

const SYSTEMD: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

fn job() -> OwnedObjectPath {
    ObjectPath::try_from("/org/freedesktop/systemd1/job/7").unwrap().into()
}

fn removed(result: &str) -> (u32, OwnedObjectPath, String, String) {
    (7, job(), "x.service".to_owned(), result.to_owned())
}

/// What is there in systemd's place: it tells of a job before it answers who asked for it, or never.
struct Peer;

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl Peer {
    fn subscribe(&self) {}

    /// A path at which nobody answers: then there is nothing to keep.
    fn load_unit(&self, _unit: String) -> OwnedObjectPath {
        ObjectPath::try_from("/org/freedesktop/systemd1/unit/x").unwrap().into()
    }

    async fn start_unit(
        &self,
        unit: String,
        _mode: String,
        #[zbus(connection)] connection: &zbus::Connection,
    ) -> OwnedObjectPath {
        if unit == "early.service" {
            let none = None::<&str>;
            connection
                .emit_signal(none, PATH, MANAGER, "JobRemoved", &removed("done"))
                .await
                .unwrap();
        }
        job()
    }
}

fn peer(bus: &Bus) -> Connection {
    let builder = Builder::address(&*bus.address).unwrap();
    builder.serve_at(PATH, Peer).unwrap().name(SYSTEMD).unwrap().build().unwrap()
}

#[test]
fn a_job_that_ends_before_it_is_known_is_not_missed_and_nobody_else_can_end_one() {
    let bus = Bus::start();
    let _peer = peer(&bus);
    let mut manager = Manager::connect(Some(&bus.address)).unwrap();
    assert_eq!(manager.start("early.service", LONG), Ok(JobResult::Done));
    let forger = bus.connect();
    let everybody = None::<&str>;
    let forged = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(SHORT / 2);
            // To all, and to each by its name: then no match rule of the bus is asked.
            forger.emit_signal(everybody, PATH, MANAGER, "JobRemoved", &removed("done")).unwrap();
            for n in 0..9 {
                let to = format!(":1.{n}");
                let to = Some(to.as_str());
                forger.emit_signal(to, PATH, MANAGER, "JobRemoved", &removed("done")).unwrap();
                let (path, name) = ("/org/freedesktop/DBus", "org.freedesktop.DBus");
                let change = (SYSTEMD, ":1.0", "");
                forger.emit_signal(to, path, name, "NameOwnerChanged", &change).unwrap();
            }
        });
        manager.start("silent.service", 3 * SHORT)
    });
    assert_eq!(forged, Err(Error::NotInTime(3 * SHORT)));
}

#[test]
fn a_manager_or_a_bus_that_goes_away_is_an_error_with_a_name() {
    let mut bus = Bus::start();
    assert!(matches!(Manager::connect(Some(&bus.address)), Err(Error::NoBus(_))), "no manager");
    let first = peer(&bus);
    let mut manager = Manager::connect(Some(&bus.address)).unwrap();
    let begun = Instant::now();
    let gone = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(SHORT / 2);
            first.release_name(SYSTEMD).unwrap();
        });
        manager.start("silent.service", LONG)
    });
    assert_eq!(gone, Err(Error::Reexecuted));
    assert_eq!(manager.unit("x.service"), Err(Error::Reexecuted), "and so it stays");
    let _second = peer(&bus);
    let mut manager = Manager::connect(Some(&bus.address)).unwrap();
    let closed = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(SHORT / 2);
            bus.daemon.kill().unwrap();
        });
        manager.start("silent.service", LONG)
    });
    assert_eq!(closed, Err(Error::Closed));
    assert!(begun.elapsed() < LONG, "waited for the limit");
    assert!(matches!(Manager::connect(Some(&bus.address)), Err(Error::NoBus(_))), "no bus");
    let nowhere: PathBuf = "/nonexistent/bus".into();
    let error = Manager::connect(Some(&format!("unix:path={}", nowhere.display())));
    assert!(matches!(error, Err(Error::NoBus(_))));
}
