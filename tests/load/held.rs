//! Modules that modprobe.d(5) or the kernel command line hold back.

use std::process::Output;

use zfs_prefix::load::ByHand;

use super::*;

/// Lines for modprobe.d, and where the message says that what is: none, where they hold nothing
/// back.
const LINES: [(&str, &str); 11] = [
    ("blacklist btrfs\n", "1 says \"blacklist btrfs\""),
    ("# no\n\nblacklist \\\n  btrfs\n", "3 says \"blacklist btrfs\""),
    ("install btrfs /bin/false\n", "1 says \"install btrfs /bin/false\""),
    ("install btr* /usr/bin/true #x\n", "1 says \"install btr* /usr/bin/true #x\""),
    // Of those that it needs, from the store and from the system.
    ("blacklist raid6-pq\n", "1 says \"blacklist raid6-pq\""),
    ("install xor /bin/true\n", "1 says \"install xor /bin/true\""),
    ("install libcrc32c /bin/false\n", "1 says \"install libcrc32c /bin/false\""),
    // For modprobe, a blacklist says nothing of a module that another one needs.
    ("blacklist libcrc32c\n", ""),
    ("softdep btrfs pre: nowhere\n#blacklist btrfs\noptions btrfs x=1\n", ""),
    ("install btrfs /sbin/modprobe -i btrfs\ninstall btrfs /bin/false\n", ""),
    ("blacklist zfs\n", ""),
];

#[test]
fn a_module_that_is_held_back_is_not_loaded_and_the_line_is_named() {
    for (text, says) in LINES {
        let machine = Machine::new();
        machine.write("usr/lib/modprobe.d/x.conf", text.as_bytes());
        let mut recorder = machine.recorder();
        let outcome = machine.loader().run(&mut recorder).unwrap();
        machine.loader().check().unwrap();
        let Outcome::HeldBack(hold) = outcome else {
            assert_eq!(says, "", "{text}: {outcome:?}");
            assert_eq!(names(&recorder).last(), Some(&"btrfs"), "{text}");
            continue;
        };
        let place = machine.host.path("/usr/lib/modprobe.d/x.conf").display().to_string();
        assert_eq!(hold.to_string(), format!("{place}:{says}"), "{text}");
        assert_eq!((recorder.inserted.len(), machine.active()), (0, None), "{text}");
    }
}

#[test]
fn files_of_modprobe_d_mask_each_other_as_for_kmod_and_the_command_line_counts() {
    let held = |machine: &Machine| {
        let outcome = machine.loader().run(&mut machine.recorder()).unwrap();
        matches!(outcome, Outcome::HeldBack(_))
    };
    type Make = fn(&mut Machine);
    let cases: [(&str, Make, bool); 9] = [
        ("a file", |m| m.write("etc/modprobe.d/x.conf", b"blacklist btrfs"), true),
        ("another suffix", |m| m.write("etc/modprobe.d/x.txt", b"blacklist btrfs"), false),
        ("hidden", |m| m.write("etc/modprobe.d/.x.conf", b"blacklist btrfs"), false),
        (
            "masked by an empty file",
            |m| {
                m.write("lib/modprobe.d/x.conf", b"blacklist btrfs");
                m.write("run/modprobe.d/x.conf", b"");
            },
            false,
        ),
        (
            "masked by a link to /dev/null",
            |m| {
                m.write("usr/lib/modprobe.d/x.conf", b"blacklist btrfs");
                fs::create_dir_all(m.host.path("/etc/modprobe.d")).unwrap();
                symlink("/dev/null", m.host.path("/etc/modprobe.d/x.conf")).unwrap();
            },
            false,
        ),
        (
            "a directory masks nothing",
            |m| {
                m.write("usr/lib/modprobe.d/x.conf", b"blacklist btrfs");
                fs::create_dir_all(m.host.path("/etc/modprobe.d/x.conf")).unwrap();
            },
            true,
        ),
        (
            "the first install line of the first name",
            |m| {
                m.write("etc/modprobe.d/b.conf", b"install btrfs /sbin/modprobe -i btrfs");
                m.write("usr/lib/modprobe.d/a.conf", b"install btrfs /bin/false");
            },
            true,
        ),
        ("command line", |m| m.host.cmdline = "a modprobe.blacklist=x,btrfs b".into(), true),
        ("behind --", |m| m.host.cmdline = "a -- modprobe.blacklist=btrfs".into(), false),
    ];
    for (case, make, expected) in cases {
        let mut machine = Machine::new();
        make(&mut machine);
        assert_eq!(held(&machine), expected, "{case}");
    }
}

#[test]
fn a_fifo_in_modprobe_d_keeps_no_boot_waiting() {
    let machine = Machine::new();
    machine.write("etc/modprobe.d/a.conf", b"options btrfs a=1");
    run(Command::new("mkfifo").arg(machine.host.path("/etc/modprobe.d/b.conf")));
    let mut recorder = machine.recorder();
    machine.loader().run(&mut recorder).unwrap();
    assert_eq!(recorder.inserted.last().unwrap().1, "a=1");
}

#[test]
fn by_hand_it_is_loaded_all_the_same_and_once() {
    for line in ["blacklist btrfs\n", "install xor /bin/false\n"] {
        let machine = Machine::new();
        machine.write("etc/modprobe.d/x.conf", line.as_bytes());
        let asked = ByHand::ask(&machine.host).unwrap();
        let mut recorder = machine.recorder();
        let outcome = machine.loader().run(&mut recorder).unwrap();
        assert!(matches!(outcome, Outcome::Loaded { .. }), "{line}: {outcome:?}");
        fs::remove_dir_all(machine.host.path("/sys/module")).unwrap();
        let outcome = machine.loader().run(&mut recorder).unwrap();
        assert!(matches!(outcome, Outcome::HeldBack(_)), "{line}: {outcome:?}");
        drop(asked);

        // Nobody comes to take it.
        drop(ByHand::ask(&machine.host).unwrap());
        let outcome = machine.loader().run(&mut recorder).unwrap();
        assert!(matches!(outcome, Outcome::HeldBack(_)), "{line}: {outcome:?}");
    }
}

#[test]
fn where_nothing_is_published_it_is_held_back_and_by_hand_the_advice_is_not_the_unit_that_refuses()
{
    let machine = Machine::new();
    fs::remove_dir_all(machine.layout().current_dir()).unwrap();
    machine.write("etc/modprobe.d/x.conf", b"blacklist btrfs\n");
    let outcome = machine.loader().run(&mut machine.recorder()).unwrap();
    assert!(matches!(outcome, Outcome::HeldBack(_)), "{outcome:?}");
    machine.loader().check().unwrap();
    let _asked = ByHand::ask(&machine.host).unwrap();
    let check = machine.loader().check().unwrap_err();
    let run = machine.loader().run(&mut machine.recorder()).unwrap_err();
    for error in [check, run] {
        let message = format!("{error:#}");
        assert_eq!(exit::of(&error), Exit::NothingPublished, "{message}");
        assert!(message.contains("x.conf:1 says \"blacklist btrfs\""), "{message}");
        assert!(message.contains("zfs-prefix build --force"), "{message}");
        assert!(!message.contains("systemctl start zfs-build"), "{message}");
    }
}

#[test]
fn what_the_kernel_forbids_is_told_in_its_words_whatever_the_policy_is() {
    let mut machine = Machine::new();
    machine.write("sys/kernel/security/lockdown", b"none [integrity] confidentiality\n");
    machine.host.cmdline = "quiet module_blacklist=btrfs".to_owned();
    let mut recorder = machine.recorder();
    let line = "Module btrfs is blacklisted".to_owned();
    recorder.refuse.insert("btrfs".to_owned(), (Errno::EPERM, line));
    let error = machine.loader().run(&mut recorder).unwrap_err();
    let message = error.to_string();
    assert_eq!(exit::of(&error), Exit::Refused, "{message}");
    assert!(
        message.contains("it says: Module btrfs is blacklisted; module_blacklist= on"),
        "{message}"
    );
    assert!(!message.contains("signature") && !message.contains("CAP_SYS_MODULE"), "{message}");
}

/// A machine below a directory that runs the kernel of this machine.
struct Programs(TempDir);

impl Programs {
    fn new(cmdline: &str) -> Programs {
        let programs = Programs(lab::tmp::scratch("held-"));
        programs.write("proc/cmdline", &format!("{cmdline}\n"));
        programs
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn run(&self, program: &str, arguments: &[&str]) -> (i32, String) {
        let mut command = Command::new(program);
        command.args(arguments).env("ZFS_PREFIX_ROOT", self.0.path()).env_remove("JOURNAL_STREAM");
        let Output { status, stdout, stderr } = command.output().unwrap();
        let text = String::from_utf8([stdout, stderr].concat()).unwrap();
        (status.code().unwrap(), text)
    }
}

const LOAD: &str = env!("CARGO_BIN_EXE_zfs-load");
const BUILD: &str = env!("CARGO_BIN_EXE_zfs-build");
const ADMIN: &str = env!("CARGO_BIN_EXE_zfs-prefix");

#[test]
fn the_programs_say_in_one_line_what_holds_zfs_back_and_nothing_is_built_at_boot() {
    for (text, cmdline, module) in [
        ("blacklist zfs", "quiet", "zfs"),
        ("install spl /bin/false", "quiet", "spl"),
        ("", "modprobe.blacklist=zfs", "zfs"),
    ] {
        let machine = Programs::new(cmdline);
        machine.write("etc/modprobe.d/x.conf", &format!("#\n{text}\n"));
        let word = if text.is_empty() { cmdline } else { text };
        let place = if text.is_empty() { "command line" } else { "/etc/modprobe.d/x.conf:2" };
        let says = format!("{place} says \"{word}\"");
        let (status, told) = machine.run(LOAD, &[]);
        assert_eq!((status, told.lines().count()), (0, 1), "{text}: {told}");
        assert!(told.contains("zfs is not loaded: ") && told.contains(&says), "{text}: {told}");
        assert!(told.contains("zfs-prefix load --import"), "{text}: {told}");
        assert_eq!(told.contains("and zfs needs spl"), module == "spl", "{told}");
        assert_eq!(machine.run(LOAD, &["--check"]), (0, String::new()), "{text}");

        let (status, told) = machine.run(BUILD, &[]);
        assert_eq!((status, told.lines().count()), (0, 1), "{text}: {told}");
        assert!(told.contains("nothing is built: ") && told.contains(&says), "{text}: {told}");
        assert!(told.contains("zfs-prefix build --force"), "{text}: {told}");
        assert!(!machine.0.path().join("run/zfs-prefix/published").exists(), "{text}");
        let (status, told) = machine.run(BUILD, &["--force"]);
        assert!(status != 0 && !told.contains("nothing is built"), "{text}: {status}: {told}");
        let (_, told) = machine.run(BUILD, &["--kernel-release", "6.0.0-other"]);
        assert!(told.contains("nothing is built: "), "another kernel, {text}: {told}");

        let (status, told) = machine.run(ADMIN, &["status"]);
        assert_eq!(status, 3, "{text}: {told}");
        assert!(told.contains("   held back: ") && told.contains(&says), "{text}: {told}");
        assert!(!told.contains("systemctl start zfs-build"), "{text}: {told}");
        let (_, json) = machine.run(ADMIN, &["status", "--json"]);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["held-back"][0]["module"], module, "{json:#}");
        assert_eq!(json["held-back"][0]["says"], word, "{json:#}");
        assert_eq!(json["held-back"][0]["by-kernel"], false, "{json:#}");
    }
}

#[test]
fn what_the_kernel_forbids_is_neither_built_at_boot_nor_called_unpublished_only() {
    let machine = Programs::new("quiet module_blacklist=spl,zfs");
    for (program, arguments, status) in
        [(LOAD, &[][..], 3), (LOAD, &["--check"], 3), (BUILD, &[], 0)]
    {
        let (ended, told) = machine.run(program, arguments);
        assert_eq!(ended, status, "{program}: {told}");
        assert!(told.contains("says \"module_blacklist=spl,zfs\""), "{program}: {told}");
        assert!(told.contains("take it out of there and reboot"), "{program}: {told}");
        assert!(!told.contains("systemctl start zfs-build"), "{program}: {told}");
        assert!(!told.contains("load --import"), "nothing here can override it: {told}");
    }
    let (_, told) = machine.run(ADMIN, &["status"]);
    assert!(told.contains("   held back: the kernel command line says"), "{told}");
    assert!(!told.contains("load --import"), "{told}");
    // For another kernel there may be another command line.
    let (_, told) = machine.run(BUILD, &["--kernel-release", "6.0.0-other"]);
    assert!(!told.contains("nothing is built"), "{told}");
}

#[test]
fn a_container_is_known_by_marks_of_this_boot_and_not_by_what_an_image_kept() {
    let machine = Programs::new("quiet zfs_prefix=0 modprobe.blacklist=zfs");
    machine.write("proc/1/cmdline", "/sbin/init\0");
    machine.write(".dockerenv", "");
    let (_, told) = machine.run(ADMIN, &["status"]);
    assert!(told.contains("inactive: switched off"), "the command line counts: {told}");
    assert!(told.contains("says \"modprobe.blacklist=zfs\""), "{told}");
    machine.write("run/systemd/container", "docker\n");
    let (_, told) = machine.run(ADMIN, &["status"]);
    assert!(told.contains("inactive: in a container"), "{told}");
    assert!(told.contains("says \"modprobe.blacklist=zfs\""), "the kernel's own words: {told}");
}
