//! OpenZFS's programs in the published tree, as far as the loader looks at them.

use super::*;

#[test]
fn programs_of_another_version_than_the_modules_are_refused_with_both_versions() {
    let zpool = |machine: &Machine, version: &str| {
        machine.write("usr/sbin/zpool", format!("\0zfs-{version}\0").as_bytes());
    };
    let publish = |machine: &Machine, programs: Option<&str>| {
        let userland_version = programs.map(str::to_owned);
        let zfs_version = "2.3.2-1".to_owned();
        machine.write_manifest(&Manifest { userland_version, zfs_version, ..machine.manifest() });
    };
    for (case, published, system, refused) in [
        ("the system's are older", None, Some("2.2.7-1"), Some("2.2.7-1")),
        ("host: only the system's count", Some("2.3.2-1"), Some("2.2.7-1"), Some("2.2.7-1")),
        ("host: they agree", Some("2.3.2-1"), Some("2.3.2-5"), None),
        ("published ones are older", Some("2.3.1-1"), None, Some("2.3.1-1")),
        ("they count, not the system's", Some("2.3.1-1"), Some("2.3.2-1"), Some("2.3.1-1")),
        ("the system's are another packager's", None, Some("2.3.2-2~bpo12+2"), None),
        ("published ones agree", Some("2.3.2-1"), Some("2.2.7-1"), None),
        ("none at all", None, None, None),
        ("the system's say nothing", None, Some("x"), None),
    ] {
        let machine = Machine::new();
        if let Some(version) = system {
            zpool(&machine, version);
        }
        publish(&machine, published);
        if case.starts_with("host: ") {
            machine.write("etc/zfs-prefix/config.toml", b"zfs.userland = \"host\"\n");
        }
        let Some(version) = refused else {
            machine.loader().run(&mut machine.recorder()).expect(case);
            continue;
        };
        let (exit, message) = machine.refused(case);
        assert_eq!(exit, Exit::Refused, "{case}: {message}");
        for part in [version, "2.3.2-1", "systemctl start zfs-build"] {
            assert!(message.contains(part), "{case}: {message}");
        }
        machine.loader().check().expect("a bad tree passes, so that the run names the reason");
    }
}

/// A machine with programs in its published tree.
fn with_programs() -> (Machine, PathBuf) {
    let machine = Machine::new();
    let zpool = machine.tree().join("userland/sbin/zpool");
    machine.write_tree(&zpool, b"a program");
    chmod(&zpool, 0o755);
    machine.write_tree(&machine.tree().join("userland/share/text"), b"text");
    machine.publish();
    (machine, zpool)
}

#[test]
fn programs_that_are_not_as_they_were_published_are_refused_before_a_module_goes_in() {
    let (machine, _) = with_programs();
    machine.loader().run(&mut machine.recorder()).expect("they are as they were published");
    type Damage = fn(&Path);
    let damages: [(&str, Damage, &str); 5] = [
        ("gone", |p| fs::remove_file(p).unwrap(), "damaged"),
        ("truncated", |p| fs::write(p, "a").unwrap(), "is damaged: 1 bytes"),
        (
            "not executable",
            |p| chmod(p, 0o644),
            "mode 0644, instead of the published 9 bytes, mode 0755",
        ),
        ("others write to it", |p| chmod(p, 0o757), "mode 0757"),
        ("and to its directory", |p| chmod(p.parent().unwrap(), 0o775), "mode 0775"),
    ];
    for (case, damage, want) in damages {
        let (machine, zpool) = with_programs();
        damage(&zpool);
        let (exit, message) = machine.refused(case);
        assert_eq!(exit, Exit::Refused, "{case}: {message}");
        assert!(message.contains(want), "{case}: {message}");
        assert!(message.contains("userland/sbin"), "{case}: {message}");
    }
}

#[test]
fn a_module_that_somebody_else_loaded_has_the_programs_of_its_own_version_or_none() {
    for (case, version, wanted) in
        [("of what is published", "1", true), ("another", "2", false), ("unknown", "", false)]
    {
        let (machine, _) = with_programs();
        machine.write("sys/module/btrfs/initstate", b"live\n");
        if !version.is_empty() {
            machine.write("sys/module/btrfs/version", version.as_bytes());
        }
        let mut recorder = machine.recorder();
        let outcome = machine.loader().run(&mut recorder).expect(case);
        assert!(matches!(outcome, Outcome::AlreadyLive { .. }), "{case}: {outcome:?}");
        assert_eq!((recorder.inserted.len(), machine.active().is_some()), (0, wanted), "{case}");
    }
}

#[test]
fn another_version_that_goes_in_meanwhile_is_an_error_and_gets_no_programs() {
    for (version, good) in [("1", true), ("2", false)] {
        let (machine, _) = with_programs();
        let mut recorder = machine.recorder();
        recorder.version = Some(version.to_owned());
        let result = machine.loader().run(&mut recorder);
        assert_eq!((result.is_ok(), machine.active().is_some()), (good, good), "{result:?}");
        if let Err(error) = result {
            let message = format!("{error:#}");
            assert!(
                message.contains("version 2") && message.contains("the published version is 1"),
                "{message}"
            );
        }
    }
}
