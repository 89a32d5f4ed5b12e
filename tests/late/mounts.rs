//! Who mounts datasets when their pools come late, and what is not mounted by anybody.

use std::time::{Duration, Instant};

use super::{RUNS, fake, machine};

/// A mount unit as zfs-mount-generator(8) writes it, wanted by local-fs.target.
fn mount_unit(what: &str, place: &str, more: &str) -> String {
    format!(
        "[Unit]\n{more}Before=local-fs.target\n[Mount]\nWhat={what}\nWhere={place}\nType=zfs\nOptions=defaults,zfsutil\n"
    )
}

/// Wanted by local-fs.target, as a dataset's mount unit without nofail=off.
const WANTS: &str = "mkdir -p /etc/systemd/system/local-fs.target.wants && cd /etc/systemd/system && \
                     for u in *.mount; do ln -sf ../$u local-fs.target.wants/; done; \
                     systemctl daemon-reload";

/// What meddles: a service like any other. With it local-fs.target's mount units are started, over
/// sysinit.target.
const MEDDLES: &str = "[Unit]\nWants=srv-web.mount\n[Service]\nType=oneshot\n\
    ExecStart=/bin/sh -c 'test ! -e /run/lab || touch /run/lab/meddled'\n\
    [Install]\nWantedBy=zfs-import.target\n";

const CONFIG: &str = "[boot]\nenabled = true\nwhen-missing = \"never\"\n\
    restart-after-import = [\"needs.service\", \"writes.service\", \"srv-web.mount\", \"runs.service\", \"reads-db.service\"]\n\
    require-pools-for = [\"waits.service\"]\n";

#[test]
fn a_mount_point_with_files_is_covered_by_nobody_and_who_needs_it_is_left_as_it_is() {
    let needs = |path: &str| format!("[Unit]\nRequiresMountsFor={path}\n{RUNS}");
    let (machine, _work) = machine(
        "late-mounts",
        &[
            ("/etc/zfs-prefix/config.toml", CONFIG),
            ("/etc/fstab", "tank/db /srv/db zfs defaults,nofail 0 0\n"),
            ("/etc/systemd/system/srv-web.mount", &mount_unit("tank/web", "/srv/web", "")),
            ("/etc/systemd/system/meddles.service", MEDDLES),
            ("/etc/systemd/system/needs.service", &needs("/srv/web/logs")),
            // No mount unit: it began without.
            ("/etc/systemd/system/writes.service", &needs("/tank/data")),
            ("/etc/systemd/system/reads-db.service", &needs("/srv/db")),
            ("/etc/systemd/system/runs.service", RUNS),
            ("/etc/systemd/system/waits.service", RUNS),
        ],
    );
    let check = |line: &str| machine.check(line).unwrap().trim().to_owned();
    let pid = |unit: &str| check(&format!("systemctl show --value -p MainPID {unit}"));
    let active =
        |units: &str| machine.exec(&format!("systemctl is-active {units}")).unwrap().output;
    check(WANTS);
    check("systemctl stop waits.service");
    check(
        "mkdir -p /srv/web /tank/data /srv/db/made-by-tmpfiles && echo site >/srv/web/index && echo x >/tank/data/x",
    );
    fake::load(
        &machine,
        "tank /tank on\\ntank/data /tank/data on\\ntank/web /srv/web on\\ntank/db legacy on\\ntank/home /tank/home on\\n",
    );
    check("mkdir -p /run/zfs-prefix && touch /run/zfs-prefix/published");
    let (runs, writes) = (pid("runs"), pid("writes"));
    let ran = machine.exec("zfs-prefix load --import").unwrap();
    let said = &ran.output;
    assert_eq!(ran.status, 1, "{said}");
    check("test ! -e /run/zfs-prefix/published");
    check("test -e /run/lab/meddled");
    for words in [
        "zfs list -H -t filesystem -o name,mountpoint,canmount,mounted,keystatus,zoned,sharenfs,sharesmb,receive_resume_token,redact_snaps: a complaint of the library\n",
        "tank/web is not mounted: /srv/web has 1 file in it",
        "tank is not mounted: /tank has 1 file in it",
        "tank/home is not mounted: /tank/home is below the mount point of tank",
        "/srv/db has 1 empty directory in it, which will be hidden\n",
        "srv-db.mount: started in ",
        "reads-db.service: started in ",
        "needs.service: not started: tank/web is not mounted (1 file in it)\n",
        "writes.service: not restarted: tank is not mounted (1 file in it)\n",
        "srv-web.mount: not started: tank/web is not mounted (1 file in it)\n",
        "runs.service: restarted in ",
        "waits.service: not started: tank/web is not mounted\n",
        "When that is mended: zfs-prefix load --import\n",
    ] {
        assert!(said.contains(words), "no {words:?} in {said}");
    }
    assert_eq!(check("cat /srv/web/index /tank/data/x"), "site\nx", "covered");
    assert_eq!(check("findmnt -rn -o SOURCE /srv/db"), "tank/db");
    assert_ne!(pid("runs"), runs);
    assert_eq!(pid("writes"), writes, "restarted without its data");
    let off = "needs.service srv-web.mount zfs-mount.service waits.service";
    assert_eq!(active(off).split_whitespace().filter(|s| *s == "active").count(), 0, "{said}");

    // Whoever asks for it.
    for start in ["needs.service", "srv-web.mount", "zfs-mount.service", "meddles.service"] {
        machine.exec(&format!("systemctl start {start}")).unwrap();
        assert_eq!(check("cat /srv/web/index"), "site", "covered by {start}");
    }
    // Decided.
    check(
        "mv /srv/web/index /root/ && rm /run/zfs-prefix/mounts-refused && systemctl start needs.service",
    );
    assert_eq!(check("findmnt -rn -o SOURCE /srv/web"), "tank/web");
    check("rm /tank/data/x");
    let again = machine.exec("zfs-prefix load --import").unwrap();
    let journal = || check("journalctl -b -o short-monotonic -u srv-web.mount -u needs.service");
    assert_eq!(again.status, 0, "{}\n{}", again.output, journal());
    assert_eq!(check("findmnt -rn -o SOURCE /tank/home"), "tank/home");
    check("test ! -e /run/zfs-prefix/mounts-refused && systemctl is-active waits.service");
    assert_eq!(check("find /run/systemd/system -name '*refused*'"), "", "left over");
    // As after a soft-reboot, which keeps /run.
    check("touch /run/zfs-prefix/mounts-refused && systemctl restart zfs-load.service");
    check("test ! -e /run/zfs-prefix/mounts-refused");
}

/// A passphrase that is typed when there is a file.
const ASKS: &str = "[Unit]\nDefaultDependencies=no\nConditionPathIsDirectory=/sys/module/zfs\n\
    [Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c 'while ! test -e /run/lab/typed; do \
    sleep .2; done; touch /run/lab/tank-asked /run/lab/tank-asked-below'\n";
/// A key that is in a file.
const READS: &str = "[Unit]\nDefaultDependencies=no\nConditionPathIsDirectory=/sys/module/zfs\n\
    [Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/touch /run/lab/tank-secret\n";

#[test]
fn a_passphrase_that_nobody_types_keeps_nothing_else_waiting() {
    let key = |unit: &str| format!("BindsTo={unit}\nAfter={unit}\n");
    let (asks, reads) = ("zfs-load-key@tank-asked.service", "zfs-load-key@tank-secret.service");
    let needs = format!("[Unit]\nRequiresMountsFor=/tank/asked\n{RUNS}");
    let config = "[boot]\nenabled = true\nwhen-missing = \"never\"\n\
        restart-after-import = [\"needs.service\", \"runs.service\"]\n\
        require-pools-for = [\"waits.service\"]\n";
    let (machine, _work) = machine(
        "late-keys",
        &[
            ("/etc/zfs-prefix/config.toml", config),
            (&format!("/etc/systemd/system/{asks}"), ASKS),
            (&format!("/etc/systemd/system/{reads}"), READS),
            (
                "/etc/systemd/system/tank-asked.mount",
                &mount_unit("tank/asked", "/tank/asked", &key(asks)),
            ),
            (
                "/etc/systemd/system/tank-secret.mount",
                &mount_unit("tank/secret", "/tank/secret", &key(reads)),
            ),
            ("/etc/systemd/system/needs.service", &needs),
            ("/etc/systemd/system/runs.service", RUNS),
            ("/etc/systemd/system/waits.service", RUNS),
        ],
    );
    let check = |line: &str| machine.check(line).unwrap().trim().to_owned();
    check(WANTS);
    check("systemctl stop waits.service");
    fake::load(
        &machine,
        "tank /tank on\\ntank/asked /tank/asked on key\\ntank/asked/below /tank/asked/below on key\\n\
         tank/secret /tank/secret on key\\n",
    );
    let pid = || check("systemctl show --value -p MainPID runs.service");
    let before = pid();
    check(
        "systemd-run --unit=late-way --service-type=exec -p StandardError=file:/run/late-way -p RemainAfterExit=yes zfs-prefix load --import",
    );
    let deadline = Instant::now() + Duration::from_secs(120);
    while pid() == before || machine.exec("systemctl is-active waits.service").unwrap().status != 0
    {
        assert!(Instant::now() < deadline, "{}", check("cat /run/late-way"));
        std::thread::sleep(Duration::from_millis(200));
    }
    // All the rest is there, and nobody has typed anything.
    assert_eq!(check("findmnt -rn -o SOURCE /tank/secret"), "tank/secret");
    assert_ne!(machine.exec("findmnt /tank/asked").unwrap().status, 0);
    assert_eq!(
        machine.exec("systemctl is-active needs.service").unwrap().output.trim(),
        "inactive"
    );
    check("touch /run/lab/typed");
    while check("systemctl show --value -p SubState late-way.service") != "exited" {
        assert!(Instant::now() < deadline, "{}", check("cat /run/late-way"));
        std::thread::sleep(Duration::from_millis(200));
    }
    let said = check("cat /run/late-way");
    for words in [
        &format!("{reads}: started in "),
        &format!("{asks}: is not done yet; what can be mounted without it is mounted\n"),
        &format!("{asks}: started in "),
        "needs.service: started in ",
        "is done: started ",
    ] {
        assert!(said.contains(words), "no {words:?} in {said}");
    }
    assert_eq!(check("findmnt -rn -o SOURCE /tank/asked"), "tank/asked");
    assert_eq!(check("findmnt -rn -o SOURCE /tank/asked/below"), "tank/asked/below");
}

const SLOW: &str = "[Unit]\nConditionFileNotEmpty=\n[Service]\nExecStart=\n\
                    ExecStart=/bin/sh -c 'touch /run/lab/importing; sleep 4; touch /run/lab/imported'\n";

#[test]
fn an_import_is_waited_for_although_systemd_is_executed_anew_and_a_daemon_that_dies_is_named() {
    let config = "[boot]\nenabled = true\nwhen-missing = \"never\"\n";
    let (machine, _work) = machine(
        "late-reexec",
        &[
            ("/etc/zfs-prefix/config.toml", config),
            ("/etc/systemd/system/zfs-import-cache.service.d/60-lab.conf", SLOW),
            (
                "/etc/systemd/system/zfs-zed.service.d/70-lab.conf",
                "[Service]\nExecStart=\nExecStart=/bin/false\n",
            ),
        ],
    );
    fake::load(&machine, "tank /tank on\\n");
    let ran = std::thread::scope(|scope| {
        scope.spawn(|| {
            machine.check("while ! test -e /run/lab/importing; do sleep .1; done; systemctl daemon-reexec").unwrap();
        });
        machine.exec("zfs-prefix load --import; echo status $?; test -e /run/lab/imported").unwrap()
    });
    let said = &ran.output;
    assert_eq!(ran.status, 0, "the rest ran ahead of the import: {said}");
    for words in [
        "zfs-import-cache.service: started in ",
        "zfs-mount.service: started in ",
        "zfs-zed.service: ",
        "1 failed: zfs-zed.service (",
        "status 1\n",
    ] {
        assert!(said.contains(words), "no {words:?} in {said}");
    }
    machine.check("findmnt /tank").unwrap();
}
