//! OpenZFS's programs where the system has none: compiled in the prefix, bound, verified and published
//! with the modules. What root runs of them is root's.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use lab::native::Native;
use lab::prefix::EPREFIX;
use lab::tool::run;
use zfs_prefix::exit::{self, Exit};
use zfs_prefix::store::{Manifest, check_tree, current_key};
use zfs_prefix::userland::{PLACE, verify};

/// The stage, with whiteouts (overlayfs) over the programs of the root image's OpenZFS.
fn stage_without_zpool() -> tempfile::TempDir {
    let dir = lab::tmp::scratch("userland-");
    run(Command::new("cp").arg("-a").arg(lab::stage().join("usr")).arg(dir.path())).unwrap();
    let sbin = dir.path().join("usr/sbin");
    fs::create_dir_all(&sbin).unwrap();
    for program in ["zpool", "zfs", "zed", "zgenhostid"] {
        run(Command::new("mknod").arg(sbin.join(program)).args(["c", "0", "0"])).unwrap();
    }
    dir
}

/// The tree that `current` names, and its manifest.
fn published(lab: &Native) -> (PathBuf, Manifest) {
    let release = lab.release.parse().unwrap();
    let key = current_key(&lab.layout(), &release).expect("current points into the store");
    let tree = lab.layout().tree(&release, &key);
    let manifest = check_tree(&tree).unwrap();
    (tree, manifest)
}

#[test]
#[ignore = "compiles OpenZFS's modules and its programs: make check-all"]
fn programs_are_built_where_the_system_has_none_and_root_runs_no_file_of_the_prefix() {
    let stage = stage_without_zpool();
    let lab = Native::staged("userland", stage.path(), |state| {
        lab::prefix::install(state).unwrap();
    });
    assert_ne!(lab.exec("test -e /usr/sbin/zpool").status, 0, "the system has no zpool");
    let (status, journal) = lab.build();
    assert_eq!(status, "0", "{journal}");
    let (tree, manifest) = published(&lab);
    assert_eq!(manifest.userland_version.as_ref(), Some(&manifest.zfs_version));
    assert!(manifest.zfs_version.starts_with(lab::root::ZFS), "{}", manifest.zfs_version);
    let executable = |path: &str| manifest.file(path).is_some_and(|file| file.executable);
    for program in ["sbin/zpool", "sbin/zfs", "sbin/zed", "sbin/mount.zfs", "lib/udev/zvol_id"] {
        assert!(executable(&format!("userland/{program}")), "{program}");
    }
    assert_eq!(
        lab.check("find /var/lib/zfs-prefix -type f ! -perm 0644 ! -perm 0755 -o ! -user root"),
        "",
        "neither another owner nor another mode"
    );

    activate(&lab);
    assert_runs_without_the_prefix(&lab);
    assert_changed_trees_are_refused(&tree, &manifest.zfs_version);

    let (status, journal) = lab.build();
    assert_eq!(status, "0", "{journal}");
    assert!(journal.contains("are published already") && !journal.contains("emerge"), "{journal}");
    // Modes are part of what was published.
    lab.check(&format!("chmod 0644 {PLACE}/sbin/zpool"));
    let list = lab.exec("zfs-prefix list");
    assert_eq!(list.status, 15, "{}", list.output);
    assert!(list.output.contains("zpool: has mode 0644, published was 0755"), "{}", list.output);
}

#[test]
#[ignore = "compiles OpenZFS's modules and its programs once more: make check-all"]
fn the_make_recipe_publishes_programs_that_are_as_good_although_the_system_has_some() {
    let lab = Native::boot("userland-make");
    let distfile = lab.check(&format!("ls {EPREFIX}/var/cache/distfiles/zfs-linux_*.orig.tar.gz"));
    let text = format!(
        "[build]\nrecipe = \"make\"\n[zfs]\nsource = \"{distfile}\"\nuserland = \"prefix\"\n"
    );
    lab.state.write("/etc/zfs-prefix/config.toml", text).unwrap();
    let (status, journal) = lab.build();
    assert_eq!(status, "0", "{journal}");
    let (_, manifest) = published(&lab);
    assert_eq!(manifest.userland_version.as_ref(), Some(&manifest.zfs_version));
    activate(&lab);
    assert_runs_without_the_prefix(&lab);
}

/// As the loader does, which cannot load into the host's kernel.
fn activate(lab: &Native) {
    let current = format!("/var/lib/zfs-prefix/current/{}", lab.release);
    lab.check(&format!(
        "mkdir -p /run/zfs-prefix && ln -s \"$(readlink -f {current})\" /run/zfs-prefix/active"
    ));
}

/// Each program finds all its libraries among what was published, and zpool says its version with
/// no file of the prefix opened.
fn assert_runs_without_the_prefix(lab: &Native) {
    let elves = lab.check(&format!(
        "cd {PLACE} && for file in $(find . -type f -perm 0755 ! -path './lib/ld-*'); do
            [ \"$(head -c 4 $file | tail -c 3)\" != ELF ] || echo $file
        done"
    ));
    assert!(elves.lines().count() >= 12, "{elves}");
    let real = lab.check(&format!("readlink -f {PLACE}"));
    for elf in elves.lines() {
        let interpreter = format!("{PLACE}/lib/ld-linux-x86-64.so.2");
        let listed = lab.check(&format!("{interpreter} --list {PLACE}/{elf}"));
        for line in listed.lines().filter(|line| !line.contains("linux-vdso")) {
            let inside = line.contains(&real) || line.contains(PLACE);
            assert!(inside && !line.contains("not found"), "{elf}: {line}");
        }
    }
    let trace = "/var/tmp/zpool.strace";
    let zpool = format!("strace -f -e trace=%file -o {trace} {PLACE}/sbin/zpool");
    // Without the module it does not say that one's version, and fails.
    let said = lab.exec(&format!("{zpool} -V")).output;
    assert!(said.contains(&format!("zfs-{}-", lab::root::ZFS)), "{said}");
    let calls = lab.check(&format!("cat {trace}"));
    assert!(calls.contains(&format!("{real}/sbin/../lib/libzfs.so")), "{calls}");
    let of_owner: Vec<&str> = calls.lines().filter(|line| line.contains("/home/")).collect();
    assert_eq!(of_owner, [""; 0], "a file of the prefix's owner");
    let libraries = |line: &&str| line.contains(".so") && !line.contains(" = -1 ");
    let foreign: Vec<&str> =
        calls.lines().filter(libraries).filter(|line| !line.contains(&real)).collect();
    assert_eq!(foreign, [""; 0], "a library of somebody else's");
}

/// A copy of the published tree, changed in one way, as the prefix's owner could have left it.
fn assert_changed_trees_are_refused(tree: &Path, version: &str) {
    let owners = [PathBuf::from(EPREFIX)];
    let copy = || {
        let dir = lab::tmp::scratch("userland-");
        run(Command::new("cp").arg("-a").arg(tree.join("userland")).arg(dir.path())).unwrap();
        dir
    };
    let replaced = |path: &Path, from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let mut bytes = fs::read(path).unwrap();
        let at = bytes.windows(from.len()).position(|window| window == from.as_bytes());
        let at = at.unwrap_or_else(|| panic!("{}: no {from}", path.display()));
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        fs::write(path, bytes).unwrap();
    };
    let dir = copy();
    assert_eq!(verify(dir.path(), &owners, version).unwrap(), version);
    type Change<'a> = &'a dyn Fn(&Path);
    let changes: [(&str, Change, &str); 12] = [
        (
            "an interpreter of the owner's",
            &|u| {
                replaced(
                    &u.join("sbin/zpool"),
                    "/run/zfs-prefix/active/userland/lib/ld-",
                    "/home/core/gentoo/xxxxxxxxxxxxx/lib/ld-",
                )
            },
            "sbin/zpool: its interpreter is /home",
        ),
        (
            "a run path to elsewhere",
            &|u| replaced(&u.join("sbin/zfs"), "$ORIGIN/../lib", "/tmp/////////x"),
            "sbin/zfs: its run path",
        ),
        (
            "a library that is not among them",
            &|u| replaced(&u.join("sbin/zed"), "libzfs.so.6\0", "libevil.so\0\0"),
            "sbin/zed: needs libevil.so",
        ),
        (
            "a library that is gone",
            &|u| fs::remove_file(u.join("lib/libuuid.so.1")).unwrap(),
            "needs libuuid.so.1",
        ),
        (
            "a path of the prefix in the C library",
            &|u| {
                replaced(
                    &u.join("lib/libc.so.6"),
                    "/---/lib/x86_64-linux-gnu/gconv",
                    "/home/core/gentoo/lib64/gconv/x",
                )
            },
            "lib/libc.so.6: has /home/core/gentoo in it, at byte",
        ),
        (
            "a setuid program",
            &|u| {
                fs::set_permissions(u.join("sbin/zfs"), fs::Permissions::from_mode(0o4755)).unwrap()
            },
            "mode 4755",
        ),
        (
            "a file that others may write to",
            &|u| {
                fs::set_permissions(u.join("sbin/zfs"), fs::Permissions::from_mode(0o777)).unwrap()
            },
            "mode 0777",
        ),
        (
            "a script run by the prefix's shell",
            &|u| fs::write(u.join("sbin/fsck.zfs"), "#!/home/core/gentoo/bin/bash\n").unwrap(),
            "sbin/fsck.zfs: is run by",
        ),
        (
            "a link",
            &|u| std::os::unix::fs::symlink("/home/core/zdb", u.join("sbin/new")).unwrap(),
            "sbin/new",
        ),
        (
            "a version of the C library that it is not",
            &|u| replaced(&u.join("sbin/zpool"), "GLIBC_2.34\0", "GLIBC_9.34\0"),
            "sbin/zpool: needs GLIBC_9.34 of libc.so.6, which the published one does not have",
        ),
        (
            "no helper of udev's",
            &|u| fs::remove_file(u.join("lib/udev/zvol_id")).unwrap(),
            "lib/udev/zvol_id: there is no such program",
        ),
        (
            "no zpool",
            &|u| fs::remove_file(u.join("sbin/zpool")).unwrap(),
            "sbin/zpool: there is no such program",
        ),
    ];
    for (case, change, says) in changes {
        let dir = copy();
        change(&dir.path().join("userland"));
        let error = verify(dir.path(), &owners, version).expect_err(case);
        assert_eq!(exit::of(&error), Exit::Refused, "{case}: {error:#}");
        assert!(format!("{error:#}").contains(says), "{case}: {error:#}");
    }
    let error = verify(dir.path(), &owners, "2.1.0-1").expect_err("another version");
    assert_eq!(exit::of(&error), Exit::Refused);
    let said = format!("{error:#}");
    assert!(said.contains(version) && said.contains("2.1.0-1"), "{said}");
}
