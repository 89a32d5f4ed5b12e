//! The loader over a store of real modules. The kernel is the recorder: what it would have been
//! given, in which order, and that a refused tree gives it nothing at all.

#![allow(clippy::unwrap_used)] // helpers of tests too: their panics are failed tests

mod held;
pub mod made;
mod programs;
mod shipped;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lab::stock::{module, release, run};
use nix::errno::Errno;
use tempfile::TempDir;
use zfs_prefix::exit::{self, Exit};
use zfs_prefix::host::Host;
use zfs_prefix::kernel::gnu_build_id;
use zfs_prefix::load::{Loader, Outcome};
use zfs_prefix::module::insert::Recorder;
use zfs_prefix::store::{self, Layout, MANIFEST_VERSION, Manifest, entries};

const KEY: &str = "0123abcd";

/// A machine without btrfs, in whose store btrfs is published: btrfs needs raid6_pq and xor from
/// the store, libcrc32c and zstd_compress from the system.
struct Machine {
    dir: TempDir,
    host: Host,
    owner: u32,
}

impl Machine {
    fn new() -> Machine {
        let dir = lab::tmp::scratch("load-");
        let root = dir.path().to_owned();
        let host = Host {
            root: root.clone(),
            kernel_release: release().parse().unwrap(),
            cmdline: String::new(),
            container: false,
            in_initrd: false,
        };
        let owner = fs::metadata(&root).unwrap().uid();
        let machine = Machine { dir, host, owner };
        machine.write("sys/kernel/notes", &fs::read("/sys/kernel/notes").unwrap());
        machine.write("dev/kmsg", b"");
        fs::create_dir_all(root.join("sys/module")).unwrap();
        for name in ["libcrc32c", "zstd_compress"] {
            let to = format!("usr/lib/modules/{}/kernel/{name}.ko", release());
            machine.write(&to, &fs::read(module(name)).unwrap());
        }
        machine.depmod();
        for name in ["btrfs", "raid6_pq", "xor"] {
            machine.write_tree(&machine.file(name), &fs::read(module(name)).unwrap());
        }
        machine.publish();
        machine
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn write_tree(&self, path: &Path, bytes: &[u8]) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn depmod(&self) {
        // depmod wants BASE/lib/modules.
        let base = self.dir.path().join("usr");
        run(Command::new("depmod").arg("-b").arg(base).arg(release()));
    }

    fn layout(&self) -> Layout {
        Layout::new(self.dir.path())
    }

    fn tree(&self) -> PathBuf {
        self.layout().tree(&self.host.kernel_release, KEY)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.tree().join(format!("lib/modules/{}/extra/{name}.ko", release()))
    }

    fn manifest(&self) -> Manifest {
        let notes = fs::read(self.host.path("/sys/kernel/notes")).unwrap();
        Manifest {
            version: MANIFEST_VERSION,
            kernel_release: self.host.kernel_release.clone(),
            kernel_build_id: gnu_build_id(&notes).unwrap(),
            vermagic: release(),
            key: KEY.to_owned(),
            zfs_version: "1".to_owned(),
            userland_version: None,
            built_by: None,
            recipe: "make".to_owned(),
            created: 0,
            inputs: Default::default(),
            files: entries(&self.tree()).unwrap(),
        }
    }

    fn write_manifest(&self, manifest: &Manifest) {
        let json = serde_json::to_vec(manifest).unwrap();
        fs::write(self.tree().join("manifest.json"), json).unwrap();
    }

    /// Writes the manifest for what the tree holds now, and points `current` to it.
    fn publish(&self) {
        self.write_manifest(&self.manifest());
        self.point(&format!("../store/{}/{KEY}", release()));
    }

    fn point(&self, target: &str) {
        let link = self.layout().current(&self.host.kernel_release);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        let _ = fs::remove_file(&link);
        symlink(target, link).unwrap();
    }

    fn loader(&self) -> Loader<'_> {
        Loader { host: &self.host, module: "btrfs", owner: self.owner, patience: Duration::ZERO }
    }

    fn recorder(&self) -> Recorder {
        Recorder {
            sys_module: self.host.path("/sys/module"),
            kmsg: self.host.path("/dev/kmsg"),
            ..Recorder::default()
        }
    }

    fn active(&self) -> Option<PathBuf> {
        fs::read_link(self.layout().active()).ok()
    }

    /// Runs the loader, which must fail without having inserted anything; its status and message.
    fn refused(&self, case: &str) -> (Exit, String) {
        let mut recorder = self.recorder();
        let error = self.loader().run(&mut recorder).expect_err(case);
        assert_eq!(recorder.inserted, [], "{case}");
        assert_eq!(self.active(), None, "{case}");
        (exit::of(&error), format!("{error:#}"))
    }
}

fn names(recorder: &Recorder) -> Vec<&str> {
    recorder.inserted.iter().map(|(name, _, _)| name.as_str()).collect()
}

#[test]
fn modules_go_in_after_those_they_depend_on_and_active_names_their_tree() {
    let machine = Machine::new();
    let mut recorder = machine.recorder();
    let outcome = machine.loader().run(&mut recorder).unwrap();
    let want = ["zstd_compress", "raid6_pq", "xor", "libcrc32c", "btrfs"];
    assert_eq!(names(&recorder), want);
    let modules = want.map(str::to_owned).to_vec();
    let release = machine.host.kernel_release.clone();
    let tree = format!("/var/lib/zfs-prefix/store/{release}/{KEY}");
    assert_eq!(outcome, Outcome::Loaded { release, key: KEY.into(), version: None, modules });
    assert_eq!(machine.active().unwrap(), Path::new(&tree));
    assert!(recorder.inserted.iter().all(|(_, _, from_file)| *from_file));

    // A second run finds it there, whatever became of the store.
    fs::remove_dir_all(machine.layout().state()).unwrap();
    let mut recorder = machine.recorder();
    let again = machine.loader().run(&mut recorder).unwrap();
    assert_eq!(again, Outcome::AlreadyLive { version: None });
    assert_eq!(recorder.inserted, []);
}

#[test]
fn what_is_live_or_built_in_is_not_inserted_and_compressed_system_modules_are_unpacked() {
    let machine = Machine::new();
    machine.write("sys/module/xor/initstate", b"live\n");
    // Built in, with a directory of its own because it has parameters; and only in the list.
    fs::create_dir_all(machine.host.path("/sys/module/raid6_pq")).unwrap();
    let dir = machine.host.path("/usr/lib/modules").join(release());
    fs::remove_file(dir.join("kernel/libcrc32c.ko")).unwrap();
    fs::write(dir.join("modules.builtin"), "kernel/lib/libcrc32c.ko\n").unwrap();
    run(Command::new("xz").arg("--check=crc32").arg(dir.join("kernel/zstd_compress.ko")));
    // kmod of Debian 12 cannot index what it cannot read; the line is what another would write.
    fs::write(dir.join("modules.dep"), "kernel/zstd_compress.ko.xz:\n").unwrap();
    let mut recorder = machine.recorder();
    machine.loader().run(&mut recorder).unwrap();
    assert_eq!(names(&recorder), ["zstd_compress", "btrfs"]);
    let from_file: Vec<bool> = recorder.inserted.iter().map(|(_, _, file)| *file).collect();
    assert_eq!(from_file, [false, true]);
}

#[test]
fn an_absolute_link_into_the_store_is_as_good_as_a_relative_one() {
    let machine = Machine::new();
    machine.point(&format!("/var/lib/zfs-prefix/store/{}/{KEY}", release()));
    machine.loader().run(&mut machine.recorder()).unwrap();
    assert!(machine.active().is_some());
}

#[test]
fn options_of_every_module_come_from_modprobe_d_and_then_the_command_line() {
    let mut machine = Machine::new();
    machine.write("etc/modprobe.d/b.conf", b"options btrfs from=etc-b\noptions raid6-pq r=1\n");
    machine.write("usr/lib/modprobe.d/b.conf", b"options btrfs masked=1\n");
    machine.write("run/modprobe.d/a.conf", b"options btrfs \\\n  from=run-a\n");
    machine.write("etc/modprobe.d/c.txt", b"options btrfs not=conf\n");
    machine.write("lib/modprobe.d/z.conf", b"options libcrc32c z=1\n");
    symlink("/dev/null", machine.host.path("/etc/modprobe.d/m.conf")).unwrap();
    machine.write("usr/lib/modprobe.d/m.conf", b"options btrfs masked=2\n");
    machine.host.cmdline = "quiet btrfs.from=cmdline zstd-compress.c=\"a b\" -- btrfs.x=1".into();
    let mut recorder = machine.recorder();
    machine.loader().run(&mut recorder).unwrap();
    let got: Vec<(&str, &str)> =
        recorder.inserted.iter().map(|(n, p, _)| (n.as_str(), p.as_str())).collect();
    assert_eq!(
        got,
        [
            ("zstd_compress", "c=\"a b\""),
            ("raid6_pq", "r=1"),
            ("xor", ""),
            ("libcrc32c", "z=1"),
            ("btrfs", "from=run-a from=etc-b from=cmdline"),
        ]
    );
}

#[test]
fn options_of_modules_are_the_kernels_own_also_in_a_container() {
    let mut machine = Machine::new();
    machine.host.container = true;
    machine.host.cmdline = "/sbin/init btrfs.from=init".to_owned();
    machine.write("proc/cmdline", b"quiet btrfs.from=kernel\n");
    let mut recorder = machine.recorder();
    machine.loader().run(&mut recorder).unwrap();
    assert_eq!(recorder.inserted.last().unwrap().1, "from=kernel");
}

#[test]
fn nothing_published_is_status_3_with_the_way_out_from_the_check_too() {
    let machine = Machine::new();
    fs::remove_dir_all(machine.layout().current_dir()).unwrap();
    let (exit, message) = machine.refused("no link");
    assert_eq!(exit, Exit::NothingPublished);
    let want = format!(
        "no ZFS modules are published for kernel {}; zfs-build builds them: systemctl start zfs-build",
        release()
    );
    assert_eq!(message, want);
    let check = machine.loader().check().unwrap_err();
    assert_eq!((exit::of(&check), format!("{check:#}")), (exit, message));

    let machine = Machine::new();
    let mut manifest = machine.manifest();
    let ours = std::mem::replace(&mut manifest.kernel_build_id, "00ff".to_owned());
    machine.write_manifest(&manifest);
    let (exit, message) = machine.refused("another build of the same release");
    assert_eq!(exit, Exit::NothingPublished);
    assert!(message.contains("00ff") && message.contains(&ours), "{message}");
    assert_eq!(exit::of(&machine.loader().check().unwrap_err()), exit);
}

/// What is done to a machine, and what the refusal has to say.
type Damage = (&'static str, fn(&Machine), &'static str);

const DAMAGES: [Damage; 17] = [
    (
        "one flipped bit",
        |m| {
            let path = m.file("xor");
            let mut bytes = fs::read(&path).unwrap();
            bytes[9000] ^= 1;
            fs::write(path, bytes).unwrap();
        },
        "extra/xor.ko is damaged: 28145 bytes with BLAKE2b digest ",
    ),
    (
        "cut short",
        |m| {
            let bytes = fs::read(m.file("btrfs")).unwrap();
            fs::write(m.file("btrfs"), &bytes[..bytes.len() / 2]).unwrap();
        },
        "extra/btrfs.ko is damaged: ",
    ),
    (
        "longer",
        |m| {
            let bytes = [fs::read(m.file("xor")).unwrap(), vec![0]].concat();
            fs::write(m.file("xor"), bytes).unwrap();
        },
        "extra/xor.ko is damaged: 28146 bytes with ",
    ),
    ("gone", |m| fs::remove_file(m.file("xor")).unwrap(), "extra/xor.ko: No such file"),
    (
        "a symlink in place of a module",
        |m| {
            fs::remove_file(m.file("xor")).unwrap();
            symlink(module("xor"), m.file("xor")).unwrap();
        },
        "extra/xor.ko: Too many levels of symbolic links",
    ),
    (
        "a FIFO in place of a module",
        |m| {
            fs::remove_file(m.file("xor")).unwrap();
            run(Command::new("mkfifo").arg("-m").arg("644").arg(m.file("xor")));
        },
        "extra/xor.ko is a special file, not a regular file",
    ),
    ("a module anyone can write", |m| chmod(&m.file("xor"), 0o646), "extra/xor.ko has mode 0646"),
    ("a tree its group can write", |m| chmod(&m.tree(), 0o775), "0123abcd has mode 0775"),
    (
        "a directory on the way anyone can write",
        |m| chmod(m.file("xor").parent().unwrap(), 0o777),
        "/extra has mode 0777",
    ),
    ("current/ anyone can write", |m| chmod(&m.layout().current_dir(), 0o777), "/current has mode"),
    (
        "a link out of the store",
        |m| {
            let release = release();
            fs::rename(m.tree(), m.dir.path().join("elsewhere")).unwrap();
            m.point(&format!("../store/{release}/../../../../../elsewhere"));
        },
        "../../../../../elsewhere, not to a tree in /var/lib/zfs-prefix/store/",
    ),
    ("an absolute link elsewhere", |m| m.point("/home/core/gentoo"), "points to /home/core/gentoo"),
    (
        "the tree of another release",
        |m| m.point(&format!("../store/6.1.0-1-amd64/{KEY}")),
        "points to ../store/6.1.0-1-amd64/0123abcd, not",
    ),
    (
        "another key in the manifest",
        |m| {
            let text = fs::read_to_string(m.tree().join("manifest.json")).unwrap();
            fs::write(m.tree().join("manifest.json"), text.replace(KEY, "other")).unwrap();
        },
        "manifest.json is of kernel",
    ),
    (
        "a torn manifest",
        |m| {
            let bytes = fs::read(m.tree().join("manifest.json")).unwrap();
            fs::write(m.tree().join("manifest.json"), &bytes[..bytes.len() / 2]).unwrap();
        },
        "manifest.json cannot be read",
    ),
    (
        "a module of another kernel",
        |m| {
            let bytes = fs::read(m.file("xor")).unwrap();
            let at = bytes.windows(9).position(|w| w == b"vermagic=").unwrap() + 9;
            let mut other = bytes.clone();
            other[at] = b'9';
            fs::write(m.file("xor"), other).unwrap();
            m.publish();
        },
        "extra/xor.ko was built for kernel 9.1.0-",
    ),
    (
        "a dependency that is nowhere",
        |m| {
            fs::remove_dir_all(m.host.path("/usr/lib/modules")).unwrap();
            fs::remove_file(m.file("xor")).unwrap();
            m.publish();
        },
        "module zstd_compress, which btrfs depends on, is neither loaded nor built in, and there is none in ",
    ),
];

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_tree_that_is_not_what_root_published_is_refused_whole() {
    for (case, damage, want) in DAMAGES {
        let machine = Machine::new();
        damage(&machine);
        let (exit, message) = machine.refused(case);
        assert_eq!(exit, Exit::Refused, "{case}: {message}");
        assert!(message.contains(want), "{case}: {message}");
        // The check is cheap: it passes, so that the run names the reason.
        machine.loader().check().unwrap_or_else(|e| panic!("{case}: {e:#}"));
    }
}

#[test]
fn a_damaged_module_is_named_with_both_digests_and_what_to_do() {
    let machine = Machine::new();
    let path = machine.file("xor");
    let want = machine.manifest().files;
    let want = want.iter().find(|f| f.path.ends_with("xor.ko")).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[100] ^= 0x80;
    fs::write(&path, bytes).unwrap();
    let found = run(Command::new("b2sum").arg(&path));
    let (_, message) = machine.refused("flipped");
    let found = found.split(' ').next().unwrap();
    for part in [path.to_str().unwrap(), want.blake2b.as_str(), found, "systemctl start zfs-build"]
    {
        assert!(message.contains(part), "{part} is not in: {message}");
    }
}

#[test]
fn a_store_of_another_owner_is_refused() {
    let machine = Machine::new();
    let mut loader = machine.loader();
    loader.owner += 1;
    let mut recorder = machine.recorder();
    let error = loader.run(&mut recorder).unwrap_err();
    assert_eq!(exit::of(&error), Exit::Refused);
    let want = format!("belongs to uid {}, not {}", machine.owner, loader.owner);
    assert!(error.to_string().contains(&want), "{error}");
    assert_eq!(recorder.inserted, []);
}

/// What is advised has to cure: a build does not make these directories anew.
#[test]
fn a_store_that_others_could_write_to_is_taken_back_as_the_message_says() {
    for (change, of) in [
        ("chown 1000", ""),
        ("chmod 0777", "store"),
        ("chown 1000", "current"),
        ("chmod 0775", "store/RELEASE"),
    ] {
        let machine = Machine::new();
        let state = Layout::new(&machine.host.root).state();
        let path = state.join(of.replace("RELEASE", machine.host.kernel_release.as_str()));
        run(Command::new("sh").arg("-c").arg(format!("{change} {}", path.display())));
        let (_, message) = machine.refused(of);
        let (_, advice) = message.rsplit_once("and then: ").unwrap();
        let cure = advice.strip_suffix(" && systemctl start zfs-build").unwrap();
        run(Command::new("sh").arg("-c").arg(cure));
        machine.loader().run(&mut machine.recorder()).unwrap();
    }
    // The builder makes the link anew, so that is what is advised.
    let machine = Machine::new();
    let layout = Layout::new(&machine.host.root);
    let release = &machine.host.kernel_release;
    let key = store::current_key(&layout, release).unwrap();
    assert!(store::is_current(&layout, release, &key, machine.owner));
    std::os::unix::fs::lchown(layout.current(release), Some(1000), None).unwrap();
    let (_, message) = machine.refused("link");
    assert!(message.ends_with("then build anew: systemctl start zfs-build"), "{message}");
    assert!(!store::is_current(&layout, release, &key, machine.owner), "it would stay so");
}

#[test]
fn a_refusal_by_the_kernel_is_told_in_its_own_words() {
    for (case, errno, line, exit, want) in [
        (
            "lockdown",
            Errno::EPERM,
            "Lockdown: zfs-load: unsigned module loading is restricted; see man kernel_lockdown.7",
            Exit::SignaturePolicy,
            "boot without lockdown (Secure Boot) and sig_enforce",
        ),
        (
            "unknown symbol",
            Errno::ENOENT,
            "raid6_pq: Unknown symbol kernel_fpu_end (err -2)",
            Exit::Refused,
            "this kernel has no symbol kernel_fpu_end",
        ),
    ] {
        let machine = Machine::new();
        machine.write("dev/kmsg", b"4,1,1,-;raid6_pq: from before\n");
        let mut recorder = machine.recorder();
        recorder.refuse.insert("raid6_pq".to_owned(), (errno, line.to_owned()));
        let error = machine.loader().run(&mut recorder).unwrap_err();
        let message = error.to_string();
        assert_eq!(exit::of(&error), exit, "{case}: {message}");
        let path = machine.file("raid6_pq");
        for part in [path.to_str().unwrap(), line, want] {
            assert!(message.contains(part), "{case}: {part} is not in: {message}");
        }
        assert!(!message.contains("from before"), "{case}: {message}");
        assert_eq!(names(&recorder), ["zstd_compress", "raid6_pq"], "{case}");
        assert_eq!(machine.active(), None, "{case}");
    }
}

#[test]
fn a_module_somebody_else_inserted_meanwhile_has_to_be_live() {
    let machine = Machine::new();
    let mut recorder = machine.recorder();
    recorder.refuse.insert("xor".to_owned(), (Errno::EEXIST, String::new()));
    let error = machine.loader().run(&mut recorder).unwrap_err();
    assert_eq!(exit::of(&error), Exit::Other);
    assert!(error.to_string().contains("sys/module/xor did not become live"), "{error}");

    let machine = Machine::new();
    let mut recorder = machine.recorder();
    recorder.refuse.insert("xor".to_owned(), (Errno::EEXIST, String::new()));
    recorder.meanwhile = Some("xor".to_owned());
    machine.loader().run(&mut recorder).unwrap();
    assert!(machine.active().is_some());
}

#[test]
fn the_program_has_a_status_for_each_end_and_one_line_when_nothing_is_published() {
    let program = env!("CARGO_BIN_EXE_zfs-load");
    let root = lab::tmp::scratch("load-");
    fs::create_dir_all(root.path().join("proc")).unwrap();
    fs::write(root.path().join("proc/cmdline"), "quiet\n").unwrap();
    let call = |arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).env("ZFS_PREFIX_ROOT", root.path()).env_remove("JOURNAL_STREAM");
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    for arguments in [&[][..], &["--check"]] {
        let (status, out, err) = call(arguments);
        assert_eq!((status, out.as_str()), (3, ""), "{arguments:?}: {err}");
        assert_eq!(err.lines().count(), 1, "{arguments:?}: {err}");
        assert!(err.contains("systemctl start zfs-build"), "{arguments:?}: {err}");
    }
    for arguments in [&["--unknown"][..], &["--check", "x"]] {
        assert_eq!(call(arguments).0, 2, "{arguments:?}");
    }
    let (status, out, _) = call(&["--help"]);
    assert!(status == 0 && out.starts_with("Usage: zfs-load"), "{out}");
    let (status, out, _) = call(&["--version"]);
    assert_eq!((status, out), (0, format!("zfs-load {}\n", env!("CARGO_PKG_VERSION"))));
    fs::create_dir_all(root.path().join("sys/module/zfs")).unwrap();
    fs::write(root.path().join("sys/module/zfs/initstate"), "live\n").unwrap();
    fs::write(root.path().join("sys/module/zfs/version"), "2.3.2-2\n").unwrap();
    assert_eq!(call(&["--check"]).0, 0);
    let (status, _, err) = call(&[]);
    assert!(status == 0 && err.contains("ZFS 2.3.2-2 is loaded already"), "{err}");
}
