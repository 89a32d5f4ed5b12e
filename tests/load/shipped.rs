//! What counts as the operating system's own module, for all who ask.

use std::process::Output;

use zfs_prefix::load::{Ships, ships};

use super::made;
use super::*;

#[test]
fn a_module_of_the_operating_system_is_left_to_modprobe() {
    let machine = Machine::new();
    let dir = machine.host.path("/usr/lib/modules").join(release());
    let mut recorder = machine.recorder();
    for pack in ["gzip", "xz", "zstd"] {
        let plain = dir.join("extra/zfs/btrfs.ko");
        machine.write_tree(&plain, &fs::read(module("btrfs")).unwrap());
        let suffix = match pack {
            "gzip" => "gz",
            "xz" => "xz",
            _ => "zst",
        };
        let unindexed = dir.join(format!("extra/zfs/btrfs.ko.{suffix}"));
        let mut packed = Command::new(pack);
        packed.args(["-q", "-c"]).arg(&plain).stdout(fs::File::create(&unindexed).unwrap());
        assert!(packed.status().unwrap().success(), "{pack}");
        fs::remove_file(plain).unwrap();
        let outcome = machine.loader().run(&mut recorder).unwrap();
        assert_eq!(outcome, Outcome::StandAside { path: unindexed.clone(), indexed: false });
        fs::remove_file(unindexed).unwrap();
    }
    let indexed = dir.join("updates/dkms/btrfs.ko");
    machine.write_tree(&indexed, &fs::read(module("btrfs")).unwrap());
    machine.depmod();
    let outcome = machine.loader().run(&mut recorder).unwrap();
    assert_eq!(outcome, Outcome::StandAside { path: indexed, indexed: true });
    assert_eq!(recorder.inserted, []);
    machine.loader().check().unwrap();
}

#[test]
fn a_link_to_a_module_of_another_kernel_keeps_nothing_from_being_loaded() {
    let machine = Machine::new();
    let old = "usr/lib/modules/6.0.0-1-old/extra/btrfs.ko";
    machine.write(old, &made::module(&made::vermagic("6.0.0-1-old"), ""));
    let dir = machine.host.path("/usr/lib/modules").join(release());
    fs::create_dir_all(dir.join("weak-updates")).unwrap();
    // As weak-modules(8) writes it.
    symlink(format!("/{old}"), dir.join("weak-updates/btrfs.ko")).unwrap();
    let index = fs::read_to_string(dir.join("modules.dep")).unwrap();
    fs::write(dir.join("modules.dep"), format!("weak-updates/btrfs.ko:\n{index}")).unwrap();
    let mut recorder = machine.recorder();
    let outcome = machine.loader().run(&mut recorder).unwrap();
    assert!(matches!(outcome, Outcome::Loaded { .. }), "{outcome:?}");
    assert_eq!(names(&recorder).last(), Some(&"btrfs"));
    fs::remove_dir_all(machine.host.path("/sys/module")).unwrap();
    fs::remove_file(machine.layout().active()).unwrap();
    fs::remove_dir_all(machine.layout().current_dir()).unwrap();
    let (exit, message) = machine.refused("nothing published");
    assert_eq!(exit, Exit::NothingPublished, "{message}");
    assert_eq!(exit::of(&machine.loader().check().unwrap_err()), Exit::NothingPublished);
}

/// A machine below a directory that runs the kernel of this machine, with a module of the kernel's
/// own.
struct System(TempDir);

impl System {
    fn new() -> System {
        let system = System(lab::tmp::scratch("shipped-"));
        fs::create_dir_all(system.0.path().join("proc")).unwrap();
        system.write("/proc/cmdline", b"quiet\n");
        let own = made::module(&made::vermagic(&made::running()), "");
        system.write(&system.path("kernel/fs/ext4.ko"), &own);
        system.index("kernel/fs/ext4.ko:\n");
        system
    }

    /// A path of the machine in the modules of its kernel.
    fn path(&self, below: &str) -> String {
        format!("/usr/lib/modules/{}/{below}", made::running())
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        let path = self.0.path().join(&path[1..]);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn link(&self, to: &str, path: &str) {
        let path = self.0.path().join(&path[1..]);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(to, path).unwrap();
    }

    /// What modules.dep has.
    fn index(&self, lines: &str) {
        self.write(&self.path("modules.dep"), lines.as_bytes());
    }

    fn ships(&self) -> Ships {
        let release = made::running().parse().unwrap();
        let host = Host {
            root: self.0.path().to_owned(),
            kernel_release: release,
            cmdline: String::new(),
            container: false,
            in_initrd: false,
        };
        ships(&host, &host.kernel_release).unwrap()
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(program);
        command.args(arguments).env("ZFS_PREFIX_ROOT", self.0.path()).env_remove("JOURNAL_STREAM");
        command.output().unwrap()
    }
}

/// Status, and all that was said.
fn said(output: &Output) -> (i32, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout) + &text(&output.stderr))
}

/// What is done to a system that has `extra/zfs.ko`, and why that does not count then.
type Fault = (&'static str, fn(&System, &str), &'static str);

const FAULTS: [Fault; 12] = [
    (
        "another kernel",
        |s, path| s.write(path, &made::module(&made::vermagic("6.0.0"), "")),
        "is for another kernel: its version magic is \"6.0.0 SMP preempt mod_unload modversions\"",
    ),
    (
        "another build",
        |s, path| s.write(path, &made::module(&format!("{} SMP", made::running()), "")),
        "is for another build of this kernel: its version magic is ",
    ),
    (
        "another machine",
        |s, path| s.write(path, &made::foreign(&made::vermagic(&made::running()))),
        "is for another kind of machine",
    ),
    ("a broken link", |s, path| s.link("/nowhere/zfs.ko", path), "/nowhere/zfs.ko, which does not"),
    ("a link to itself", |s, path| s.link("zfs.ko", path), "does not exist"),
    ("empty", |s, path| s.write(path, b""), "cannot be read as a module"),
    ("text", |s, path| s.write(path, b"echo zfs\n"), "cannot be read as a module"),
    (
        "truncated",
        |s, path| {
            let whole = made::module(&made::vermagic(&made::running()), "");
            s.write(path, &whole[..whole.len() / 2]);
        },
        "cannot be read as a module",
    ),
    (
        "a packed half",
        |s, path| {
            let whole = made::module(&made::vermagic(&made::running()), "");
            let packed = packed("gzip", &whole);
            s.write(path, &packed[..packed.len() / 2]);
        },
        "cannot be read as a module: damaged gzip data",
    ),
    (
        "a packed bomb",
        |s, path| s.write(path, &packed("zstd", &vec![0; 200 << 20])),
        "decompresses to more than 134217728 bytes",
    ),
    (
        "a FIFO",
        |s, path| {
            fs::create_dir_all(s.0.path().join(&path[1..]).parent().unwrap()).unwrap();
            run(Command::new("mkfifo").arg(s.0.path().join(&path[1..])));
        },
        "is no regular file",
    ),
    (
        "a dependency of another kernel",
        |s, path| {
            s.write(path, &made::module(&made::vermagic(&made::running()), "spl"));
            let spl = made::module(&made::vermagic("6.0.0"), "");
            s.write(&s.path("weak-updates/spl.ko"), &spl);
        },
        "depends on spl, but ",
    ),
];

fn packed(program: &str, bytes: &[u8]) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    let output = Command::new(program).args(["-q", "-c"]).arg(file.path()).output().unwrap();
    assert!(output.status.success(), "{program}: {output:?}");
    output.stdout
}

#[test]
fn a_file_that_is_no_module_for_this_kernel_is_named_with_the_reason_and_does_not_count() {
    for (case, fault, want) in FAULTS {
        for indexed in [false, true] {
            let system = System::new();
            if indexed {
                system.index("extra/zfs.ko:\nkernel/fs/ext4.ko:\n");
            }
            let path = system.path("extra/zfs.ko");
            fault(&system, &path);
            let Ships { module, others } = system.ships();
            assert_eq!(module, None, "{case}");
            assert_eq!(others.len(), 1, "{case}: {others:?}");
            let text = others[0].to_string();
            assert!(text.contains(&path) && text.contains(want), "{case}: {text}");
            // In all programs that ask, with the same words.
            let load = system.run(env!("CARGO_BIN_EXE_zfs-load"), &["--check"]);
            let (status, told) = said(&load);
            assert_eq!(status, 3, "{case}: {told}");
            assert!(told.contains(&text) && told.contains("start zfs-build"), "{case}: {told}");
            let (status, told) = said(&system.run(env!("CARGO_BIN_EXE_zfs-prefix"), &["status"]));
            assert_eq!(status, 3, "{case}: {told}");
            assert!(told.contains(&format!(" not counted: {text}\n")), "{case}: {told}");
            assert!(told.contains("published: nothing; build: systemctl"), "{case}: {told}");
        }
    }
}

#[test]
fn a_module_for_this_kernel_counts_also_beside_others_and_where_nothing_can_be_compared() {
    let own = made::vermagic(&made::running());
    let system = System::new();
    system.write(&system.path("weak-updates/zfs.ko"), &made::module(&made::vermagic("6.0.0"), ""));
    system.write(&system.path("weak-updates/spl.ko"), &made::module(&made::vermagic("6.0.0"), ""));
    system.write(&system.path("extra/zfs.ko"), &made::module(&own, "spl,zlib"));
    system.write(&system.path("extra/spl.ko"), &made::module(&own, "zfs"));
    system.index("weak-updates/zfs.ko:\nextra/zfs.ko:\nkernel/fs/ext4.ko:\n");
    let Ships { module, others } = system.ships();
    let shipped = module.expect("extra/zfs.ko is good");
    assert!(shipped.indexed && shipped.path.ends_with("extra/zfs.ko"), "{shipped:?}");
    assert_eq!(others.len(), 1, "{others:?}");
    // Without a module of the kernel's own, the release decides.
    for own_module in [&b""[..], &made::module(&made::vermagic("6.0.0"), "")] {
        let system = System::new();
        system.write(&system.path("kernel/fs/ext4.ko"), own_module);
        let other = made::module(&format!("{} SMP", made::running()), "");
        system.write(&system.path("updates/zfs.ko"), &other);
        assert!(system.ships().module.is_some_and(|shipped| !shipped.indexed));
    }
}

#[test]
fn all_programs_agree_on_what_the_loader_stands_aside_for() {
    let system = System::new();
    let path = system.path("extra/zfs.ko.xz");
    let own = made::module(&made::vermagic(&made::running()), "");
    let xz = packed("xz", &own);
    system.write(&path, &xz);
    system.index("extra/zfs.ko.xz:\n");
    let shown = system.0.path().join(&path[1..]);
    let shown = shown.to_str().unwrap();
    let (status, told) = said(&system.run(env!("CARGO_BIN_EXE_zfs-load"), &[]));
    assert_eq!(status, 0, "{told}");
    assert!(told.contains(&format!("ships {shown}; standing aside")), "{told}");
    let (status, told) = said(&system.run(env!("CARGO_BIN_EXE_zfs-build"), &[]));
    assert_eq!(status, 0, "{told}");
    assert!(told.contains(&format!("ships {shown}: nothing to build")), "{told}");
    let (status, told) = said(&system.run(env!("CARGO_BIN_EXE_zfs-prefix"), &["status"]));
    assert_eq!(status, 0, "modprobe can load it: {told}");
    for line in [
        format!("stands aside: the system ships {shown}; it is left to modprobe"),
        "loaded: no; load it: modprobe zfs; then: zfs-prefix load --import".to_owned(),
        "published: nothing, and nothing is to be built".to_owned(),
    ] {
        assert!(told.contains(&line), "{line}: {told}");
    }
    let json = system.run(env!("CARGO_BIN_EXE_zfs-prefix"), &["status", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["stands-aside-for"]["path"], shown, "{json:#}");
    assert_eq!(json["stands-aside-for"]["indexed"], true, "{json:#}");
    assert_eq!(json["not-counted"], serde_json::json!([]), "{json:#}");

    system.write(&path, &packed("xz", &made::module(&made::vermagic("6.0.0"), "")));
    let (status, told) = said(&system.run(env!("CARGO_BIN_EXE_zfs-build"), &[]));
    assert!(status != 0 && told.contains("not counted as the system's own"), "{status}: {told}");
    assert!(!told.contains("nothing to build"), "{told}");
    let json = system.run(env!("CARGO_BIN_EXE_zfs-prefix"), &["status", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(json["stands-aside-for"].is_null(), "{json:#}");
    assert_eq!(json["not-counted"][0]["path"], shown, "{json:#}");
    let vermagic = made::vermagic("6.0.0");
    assert_eq!(json["not-counted"][0]["vermagic"], vermagic.trim(), "{json:#}");
}

#[test]
fn a_boot_with_nothing_shipped_opens_no_module_of_the_system() {
    let system = System::new();
    let trace = system.0.path().join("trace");
    let load = env!("CARGO_BIN_EXE_zfs-load");
    let arguments = ["-f", "-e", "trace=open,openat,openat2", "-o", trace.to_str().unwrap(), load];
    let (status, told) = said(&system.run("strace", &arguments));
    assert_eq!(status, 3, "{told}");
    let trace = fs::read_to_string(&trace).unwrap();
    assert!(trace.contains("modules.dep"), "{trace}");
    assert!(!trace.contains(".ko"), "{trace}");
}
