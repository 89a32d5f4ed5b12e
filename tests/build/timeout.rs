//! `build.timeout`, with a toolchain whose make prints for ever.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;
use zfs_prefix::host::Release;
use zfs_prefix::store::{FailureRecord, Layout};

/// Where the machine is for the builder. What a program in the prefix sees hides /var/tmp, where
/// files of tests may be.
const AT: &str = "/mnt";
/// The prefix's owner.
const OWNER: u32 = 2000;
/// Leaves a process behind, in a session of its own, and never ends.
const MAKE: &str = "setsid sh -c 'while :; do sleep 1; done' &\n\
                    while :; do echo '  CC [M]  endless.o'; sleep 0.1; done\n";

/// A machine in a directory: the running kernel with its build tree, a tarball, and a prefix of
/// busybox and scripts.
struct Machine(TempDir);

impl Machine {
    fn new() -> Machine {
        let machine = Machine(lab::files::scratch("timeout-"));
        // The prefix's owner has to get through.
        fs::set_permissions(machine.0.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let release = Release::running().unwrap();
        let tree = format!("usr/lib/modules/{release}/build");
        machine.write(&format!("{tree}/.config"), "CONFIG_MODULES=y\n");
        let symvers = "0x00000001\tkfree\tvmlinux\tEXPORT_SYMBOL\t\n";
        machine.write(&format!("{tree}/Module.symvers"), symvers);
        let uts = format!("#define UTS_RELEASE \"{release}\"\n");
        machine.write(&format!("{tree}/include/generated/utsrelease.h"), &uts);
        machine.write("proc/cmdline", "quiet\n");
        lab::files::copy(Path::new("/sys/kernel/notes"), &machine.path("sys/kernel/notes"));
        machine.write("zfs-2.3.2.tar.gz", "not looked into");
        machine.write(
            "etc/zfs-prefix/config.toml",
            &format!(
                "prefix.path = \"{AT}/prefix\"\nkernel.tree = [\"shipped\"]\n\
                 build.recipe = \"make\"\nbuild.timeout = \"15s\"\n\
                 zfs.source = \"{AT}/zfs-2.3.2.tar.gz\"\n"
            ),
        );
        machine.prefix();
        machine
    }

    fn prefix(&self) {
        lab::files::copy(Path::new("/bin/busybox"), &self.path("prefix/bin/busybox"));
        for name in ["sh", "cat", "cp", "mkdir", "rm", "setsid", "sleep"] {
            symlink("busybox", self.path(&format!("prefix/bin/{name}"))).unwrap();
        }
        let meta = "echo 'Version: 2.3.2'\necho 'Linux-Minimum: 2.6'\necho 'Linux-Maximum: 99.0'\n";
        for (name, script) in [
            ("bin/bash", "exec sh \"$@\"\n"),
            ("usr/bin/gcc", "echo 'gcc (test) 12.2.0'\n"),
            ("usr/bin/tar", meta),
            ("usr/bin/make", MAKE),
        ] {
            let path = self.path(&format!("prefix/{name}"));
            fs::write(&path, format!("#!/bin/sh\n{script}")).unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        }
        chown(self.path("prefix"), Some(OWNER), Some(OWNER)).unwrap();
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn build(&self) -> Output {
        let script = format!("mount --bind \"$1\" {AT} && exec env ZFS_PREFIX_ROOT={AT} \"$2\"");
        let mut build = Command::new("unshare");
        build.args(["--mount", "sh", "-c", &script, "sh"]).arg(self.0.path());
        build.arg(env!("CARGO_BIN_EXE_zfs-build")).output().unwrap()
    }

    /// The processes in its prefix, by their environment.
    fn processes(&self) -> Vec<String> {
        let own = format!("EPREFIX={AT}/prefix\0");
        let pids = lab::files::entries(Path::new("/proc"));
        let in_prefix = |pid: &String| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            String::from_utf8_lossy(&environment).contains(&own)
        };
        pids.into_iter().filter(in_prefix).collect()
    }
}

#[test]
fn a_build_that_prints_for_ever_is_ended_by_its_timeout_with_nothing_left_behind() {
    let machine = Machine::new();
    let output = machine.build();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(14), "{said}");
    assert!(said.contains("CC [M]  endless.o"), "the step that never ends was reached: {said}");
    assert!(said.contains("the build was not done after 15 s (build.timeout)"), "{said}");
    assert_eq!(machine.processes(), Vec::<String>::new());
    let layout = Layout::new(machine.0.path());
    assert_eq!(lab::files::entries(&layout.cache().join("build")), Vec::<String>::new());
    let release = Release::running().unwrap();
    let record = FailureRecord::read(&layout, &release).unwrap().expect("a failure record");
    assert_eq!((record.exit.code(), record.stage.as_str()), (14, "kernel"), "{record:?}");
    assert!(record.line().contains("build.timeout"), "{record:?}");
    let again = machine.build();
    assert_eq!(again.status.code(), Some(21), "it rests like any other failure: {again:?}");
}
