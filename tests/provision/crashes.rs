//! Killed, stopped, or out of space at any point: the home is as before or as after, and the next
//! run succeeds.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};

use super::world::{Ran, World, ran};

/// The system calls that change what is on the disk.
const CALLS: [&str; 14] = [
    "mkdir",
    "mkdirat",
    "rename",
    "renameat",
    "renameat2",
    "chown",
    "fchmod",
    "fchmodat",
    "fsync",
    "ftruncate",
    "syncfs",
    "symlinkat",
    "unlink",
    "unlinkat",
];

fn configured() -> World {
    let world = World::new();
    let archive = world.archive("prefix.tar.zst", &["--zstd"]);
    world.configure(&format!("source = {archive:?}\nallow-unsigned = true"));
    world
}

/// A run with `fault` at a system call of it, in whichever of its processes.
fn faulty(world: &World, inject: &str, args: &[&str]) -> Ran {
    let mut strace = Command::new("strace");
    world.prepare(&mut strace);
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("inject={inject}")]);
    strace.arg(env!("CARGO_BIN_EXE_zfs-prefix")).args(["prefix", "provision", "--no-audit"]);
    ran(strace.args(args).output().expect("strace (make setup)"))
}

/// `fault` at the first, second, fourth … call of each kind. Returns how many hit.
fn at_calls(fault: &str, verify: impl Fn(&Ran, &str)) -> usize {
    let mut hits = 0;
    for call in CALLS {
        for when in [1, 2, 3, 5, 8] {
            let case = format!("{call} number {when}: {fault}");
            let world = configured();
            let out = faulty(&world, &format!("{call}:{fault}:when={when}"), &[]);
            if out.status == Some(0) {
                // There was no such call, or it was one that may fail: removing the download.
                assert_eq!(world.listing(), ["gentoo"], "{case}");
                break;
            }
            hits += 1;
            verify(&out, &case);
            // Either not there, or whole; a killed one may have left its directory.
            if world.prefix().exists() {
                assert_whole(&world.prefix(), &case);
            }
            let next = world.provision(&["--if-missing"]);
            assert_eq!(next.status, Some(0), "{case}: the next run: {}", next.said);
            assert_eq!(world.listing(), ["gentoo"], "{case}: something is left");
        }
    }
    hits
}

fn assert_whole(tree: &Path, case: &str) {
    assert!(tree.join("var/locked/file").exists(), "{case}: half there");
    assert!(tree.join(".zfs-prefix.json").exists(), "{case}: half there");
}

/// A prefix that somebody made by hand.
fn made_by_hand(world: &World) {
    fs::create_dir(world.prefix()).unwrap();
    fs::write(world.prefix().join("mine"), "precious").unwrap();
    let owner = Some(super::world::OWNER);
    std::os::unix::fs::chown(world.prefix(), owner, owner).unwrap();
}

/// The names that old prefixes are kept under; nothing else is there but the prefix.
fn kept(world: &World, case: &str) -> Vec<PathBuf> {
    let (old, rest): (Vec<_>, Vec<_>) =
        world.listing().into_iter().partition(|name| name.starts_with("gentoo.old-"));
    assert_eq!(rest, ["gentoo"], "{case}: something is left");
    old.into_iter().map(|name| world.home().join(name)).collect()
}

/// As [`at_calls`] with a prefix that is replaced: it is never lost, and what was not yet a prefix
/// is never kept.
fn replacing_at_calls(fault: &str) -> usize {
    let mut hits = 0;
    for call in ["mkdir", "rename", "renameat", "renameat2", "fsync", "syncfs", "unlink"] {
        for when in 1..=3 {
            let case = format!("{call} number {when}, replacing: {fault}");
            let world = configured();
            made_by_hand(&world);
            let out = faulty(&world, &format!("{call}:{fault}:when={when}"), &["--replace"]);
            if out.status == Some(0) {
                assert_eq!(kept(&world, &case).len(), 1, "{case}");
                break;
            }
            hits += 1;
            let replaced = !world.prefix().join("mine").exists();
            if replaced {
                assert_whole(&world.prefix(), &case);
            }
            let next = world.provision(&["--replace"]);
            assert_eq!(next.status, Some(0), "{case}: the next run: {}", next.said);
            assert_whole(&world.prefix(), &case);
            let kept = kept(&world, &case);
            assert_eq!(kept.len(), 1 + usize::from(replaced), "{case}: {kept:?}");
            let by_hand = kept.iter().filter(|old| old.join("mine").exists()).count();
            assert_eq!(by_hand, 1, "{case}: the old prefix: {kept:?}");
        }
    }
    hits
}

#[test]
fn killed_or_failing_while_replacing_the_old_prefix_is_in_its_place_or_kept() {
    for fault in ["signal=KILL", "error=ENOSPC"] {
        let hits = replacing_at_calls(fault);
        assert!(hits > 6, "{fault}: only {hits} calls were hit");
    }
}

#[test]
fn an_old_prefix_whose_renaming_was_cut_off_gets_its_name_from_the_next_run() {
    let world = configured();
    made_by_hand(&world);
    // The second of the two renames, and the one that would make up for it.
    let out = faulty(&world, "rename:signal=KILL:when=1", &["--replace"]);
    assert_ne!(out.status, Some(0), "{}", out.said);
    assert_whole(&world.prefix(), "exchanged");
    let listing = world.listing();
    assert!(listing.len() == 2 && listing[0].starts_with(".gentoo.provision-"), "{listing:?}");
    assert!(world.home().join(&listing[0]).join("mine").exists(), "{listing:?}");
    let next = world.provision(&["--replace"]);
    assert_eq!(next.status, Some(0), "{}", next.said);
    assert_eq!(kept(&world, "the next run").len(), 2);
}

#[test]
fn killed_at_any_system_call_the_prefix_is_not_there_or_whole_and_the_next_run_cleans_up() {
    let hits = at_calls("signal=KILL", |_, _| {});
    assert!(hits > 20, "only {hits} calls were hit");
}

#[test]
fn a_failing_disk_at_any_system_call_is_an_error_and_nothing_is_left() {
    let hits = at_calls("error=ENOSPC", |out, case| {
        assert!(out.status.is_some_and(|status| status != 0), "{case}: {out:?}");
        assert!(out.said.contains("ERROR") || out.said.contains("zfs-prefix: "), "{case}: {out:?}");
    });
    assert!(hits > 20, "only {hits} calls were hit");
}

/// Runs `script` with a small file system at `dir`, in a mount namespace of its own; `$1` is the
/// program.
pub fn with_mount(world: &World, dir: &Path, options: &str, script: &str) -> Ran {
    fs::create_dir_all(dir).unwrap();
    let script = format!(
        "mount -t tmpfs -o {options} small '{0}' && {script}; status=$?; echo left: >&2; find '{0}' -mindepth 1 >&2; exit $status",
        dir.display()
    );
    let mut unshare = Command::new("unshare");
    world.prepare(&mut unshare);
    unshare.args(["--mount", "sh", "-c", &script, "sh", env!("CARGO_BIN_EXE_zfs-prefix")]);
    ran(unshare.output().expect("unshare"))
}

#[test]
fn a_full_disk_is_17_before_anything_is_written_or_in_the_middle_and_nothing_is_left() {
    let run = "\"$1\" prefix provision --no-audit";
    for (case, options, says) in [
        ("no room for the archive's content", "size=100k,uid=4242,gid=4242,mode=755", "are free"),
        ("no inodes", "size=8M,nr_inodes=6,uid=4242,gid=4242,mode=755", "No space left on device"),
    ] {
        let world = configured();
        let out = with_mount(&world, &world.home(), options, run);
        assert_eq!(out.status, Some(17), "{case}: {}", out.said);
        assert!(out.said.contains(says), "{case}: {}", out.said);
        assert!(out.said.ends_with("left:\n"), "{case}: {}", out.said);
    }
    let world = configured();
    let out = with_mount(&world, &world.downloads(), "size=100k", run);
    assert_eq!(out.status, Some(17), "{}", out.said);
    assert!(out.said.contains("the archive needs"), "{}", out.said);
    assert!(!out.said.contains(".part"), "the room is given back: {}", out.said);
    assert_eq!(world.listing(), [""; 0]);
}

#[test]
fn a_mount_point_is_no_place_for_a_prefix_and_is_named() {
    let world = configured();
    let run = "\"$1\" prefix provision --no-audit";
    let options = "size=8M,uid=4242,gid=4242,mode=755";
    let out = with_mount(&world, &world.prefix(), options, run);
    assert_eq!(out.status, Some(11), "{}", out.said);
    assert!(out.said.contains("is a mount point"), "{}", out.said);
    assert_eq!(world.listing(), ["gentoo"]);
}

/// An archive that takes a while, and a run that has begun to unpack it.
fn unpacking(world: &World) -> Child {
    let tree = world.share.join("many");
    fs::create_dir_all(&tree).unwrap();
    for i in 0..20_000 {
        fs::write(tree.join(i.to_string()), "x").unwrap();
    }
    let archive = world.share.join("many.tar");
    super::world::tool("tar", |t| t.arg("-C").arg(&tree).arg("-cf").arg(&archive).arg("."));
    world.configure(&format!("source = {archive:?}\nallow-unsigned = true"));
    let mut child = world.command(&["--no-audit"]).spawn().unwrap();
    let begun = || {
        let listing = world.listing();
        listing.first().is_some_and(|name| {
            world.home().join(name).join("100").exists()
                || world.home().join(name).read_dir().is_ok_and(|d| d.count() > 10)
        })
    };
    while !begun() {
        assert_eq!(child.try_wait().unwrap(), None, "it ended before");
        std::thread::sleep(Duration::from_millis(1));
    }
    child
}

#[test]
fn killed_while_unpacking_its_directory_is_removed_by_the_next_run() {
    let world = World::new();
    let mut child = unpacking(&world);
    child.kill().unwrap();
    child.wait().unwrap();
    let left = world.listing();
    assert!(left.len() == 1 && left[0].starts_with(".gentoo.provision-"), "{left:?}");
    // Not ours: another name, another kind.
    fs::create_dir(world.home().join(".gentoo.provision-abcdefg")).unwrap();
    fs::write(world.home().join(".gentoo.provision-file12"), "").unwrap();
    let next = world.provision(&[]);
    assert_eq!(next.status, Some(0), "{}", next.said);
    let listing = world.listing();
    assert_eq!(listing, [".gentoo.provision-abcdefg", ".gentoo.provision-file12", "gentoo"]);
}

#[test]
fn stopped_while_unpacking_nothing_is_left_and_it_is_no_failure() {
    let world = World::new();
    let mut child = unpacking(&world);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM), "as if not caught");
    assert_eq!(world.listing(), [""; 0]);
}
