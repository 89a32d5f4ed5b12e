//! Sources of kernels and of OpenZFS: real ones, from a real https server, a git repository, RPMs
//! made by rpmbuild, signed by gpg; verified and unpacked by the programs of the real prefix.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

mod git;
mod rpm;
mod world;
mod zfs;

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use lab::server::{Certificate, Manner, Server};
use world::{OWNER, World};

const RELEASE: &str = "6.1.0-56-cloud-amd64";

fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

fn ranges(server: &Server) -> Vec<Option<String>> {
    server.asked().into_iter().map(|asked| asked.range).collect()
}

#[test]
fn a_kernels_tarball_is_fetched_resumed_verified_and_unpacked_once() {
    let world = World::on_disk();
    let server = Server::start(Certificate::Good, &world.authority);
    let bytes = fs::read(world::linux()).unwrap();
    let patch = fs::read(world.patch()).unwrap();
    let digests = [sha256(&bytes), sha256(&patch)];
    let total = bytes.len();
    server.put("/v6.x/linux-6.1.tar.xz", bytes, Manner::StopsOnce(20_000_000));
    server.put("/readme.patch", patch, Manner::Well);
    let config = format!(
        "[kernel]\nsource = \"{}#sha256={}\"\npatches = [\"{}#sha256={}\"]\n",
        server.url("/v6.x/linux-${version}.tar.xz"),
        digests[0],
        server.url("/readme.patch"),
        digests[1],
    );
    world.configure(&config);
    let stopped = format!("the transfer stopped after 20000000 of {total} bytes");
    world.refuses("it stops", &["kernel", RELEASE], 19, &stopped);
    server.asked();
    world.refuses("no network", &["kernel", RELEASE, "--offline"], 19, "no network this early");
    assert_eq!(ranges(&server), [], "nothing is asked without a network");

    let done = world.obtain(&["kernel", RELEASE]);
    assert_eq!(done.status, Some(0), "{}", done.said);
    assert_eq!(ranges(&server), [Some("bytes=20000000-".to_owned())], "the patch is there");
    let tree = Path::new(done.line("source"));
    let readme = fs::read_to_string(tree.join("README")).unwrap();
    assert!(readme.starts_with("patched\n"), "{readme}");
    let makefile = tree.join("arch/arm64/kvm/Makefile");
    let meta = fs::metadata(&makefile).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (OWNER, OWNER));
    let count = Command::new("find").arg(tree).args(["-type", "f"]).output().unwrap();
    let count = count.stdout.iter().filter(|b| **b == b'\n').count();
    assert!(count > 70_000, "{count} files");

    let again = world.obtain(&["kernel", RELEASE, "--offline"]);
    assert_eq!((again.status, &again.out), (Some(0), &done.out), "{}", again.said);
    assert!(!again.said.contains("unpacking"), "{}", again.said);
    assert_eq!(ranges(&server), [], "nothing is fetched twice");
    assert_eq!(fs::metadata(&makefile).unwrap().ino(), meta.ino(), "nor unpacked");
}

#[test]
fn what_comes_from_the_network_has_to_be_proved() {
    let world = World::new();
    let server = Server::start(Certificate::Good, &world.authority);
    let plain = fs::read(world.archive("linux-6.1.tar", "--no-auto-compress")).unwrap();
    let packed = fs::read(world.archive("linux-6.1.tar.xz", "--xz")).unwrap();
    let (good, other) = (world.key("good"), world.key("other"));
    let put = |path: &str, bytes: &[u8]| server.put(path, bytes.to_vec(), Manner::Well);
    put("/linux-6.1.tar.xz", &packed);
    let url = server.url("/linux-6.1.tar.xz");
    let args = ["kernel", RELEASE];

    world.configure(&format!("kernel.source = {url:?}"));
    world.refuses("nothing", &args, 15, "nothing could prove that it is the right one: put #sha");
    let wrong = "0".repeat(64);
    world.configure(&format!("kernel.source = \"{url}#sha256={wrong}\""));
    world.refuses("digest", &args, 15, "kernel.source says 0000");
    world.configure(&format!("[kernel]\nsource = {url:?}\nsource-key = {good:?}"));
    world.refuses("no signature", &args, 15, "has no signature beside it, and kernel.source-key");
    put("/linux-6.1.tar.sign", &world.sign("other", &plain));
    world.refuses("another key", &args, 15, "its signature is refused: it is of no key in");
    put("/linux-6.1.tar.sign", &world.sign("good", &packed));
    world.refuses("of something else", &args, 15, "its signature is refused");
    put("/linux-6.1.tar.sign", b"signed by me");
    world.refuses("no signature at all", &args, 15, "its signature is refused");
    let parts = lab::files::entries(&world.cache("files"));
    assert_eq!(parts, [""; 0], "what is wrong is not kept");

    put("/linux-6.1.tar.sign", &world.sign("good", &plain));
    let done = world.obtain(&args);
    assert_eq!(done.status, Some(0), "{}", done.said);
    assert!(Path::new(done.line("source")).join("Kbuild").is_file());

    world.configure(&format!("[kernel]\nsource = {url:?}\nsource-key = {other:?}"));
    let other_keys = world.obtain(&args);
    assert_eq!(other_keys.status, Some(15), "cached under other keys: {}", other_keys.said);
    chown(&good, Some(OWNER), None).unwrap();
    world.configure(&format!("[kernel]\nsource = {url:?}\nsource-key = {good:?}"));
    let keys = world.obtain(&args);
    assert_eq!(keys.status, Some(15), "{}", keys.said);
    assert!(keys.said.contains("decides which sources are trusted"), "{}", keys.said);
    world.configure(&format!("[kernel]\nsource = {url:?}\nallow-unsigned = true"));
    let unsigned = world.obtain(&args);
    assert_eq!(unsigned.status, Some(0), "{}", unsigned.said);
}

#[test]
fn each_compression_of_a_file_on_this_machine_becomes_a_tree_and_a_changed_one_another() {
    let world = World::new();
    for (name, flag) in [
        ("a.tar", "--no-auto-compress"),
        ("a.tar.gz", "--gzip"),
        ("a.tar.xz", "--xz"),
        ("a.tar.zst", "--zstd"),
        ("a.tar.bz2", "--bzip2"),
    ] {
        let archive = world.archive(name, flag);
        world.configure(&format!("kernel.source = {archive:?}"));
        let done = world.obtain(&["kernel", RELEASE, "--offline"]);
        assert_eq!(done.status, Some(0), "{name}: {}", done.said);
        assert!(Path::new(done.line("source")).join("Makefile").is_file(), "{name}");
    }
    assert!(world.trees().len() <= 3, "trees are not kept for ever: {:?}", world.trees());
    let archive = world.archive("a.tar", "--no-auto-compress");
    world.configure(&format!("kernel.source = {archive:?}"));
    let first = world.obtain(&["kernel", RELEASE]);
    fs::write(world.small().join("COPYING"), "changed\n").unwrap();
    let archive = world.archive("a.tar", "--no-auto-compress");
    later(&archive);
    let second = world.obtain(&["kernel", RELEASE]);
    assert_ne!(first.line("identity"), second.line("identity"), "{}", second.said);
    let copying = Path::new(second.line("source")).join("COPYING");
    assert_eq!(fs::read_to_string(copying).unwrap(), "changed\n");

    // As `mke2fs -d` copies it into a disk's image.
    let file = fs::File::options().write(true).open(&archive).unwrap();
    let time = file.metadata().unwrap().mtime().unsigned_abs();
    file.set_modified(UNIX_EPOCH + Duration::from_secs(time)).unwrap();
    let copied = world.obtain(&["kernel", RELEASE]);
    assert_eq!(copied.line("identity"), second.line("identity"), "fractions of a second");
}

/// Files are told apart by whole seconds.
fn later(path: &Path) {
    let file = fs::File::options().write(true).open(path).unwrap();
    let time = file.metadata().unwrap().modified().unwrap();
    file.set_modified(time + Duration::from_secs(1)).unwrap();
}

#[test]
fn a_directory_is_used_as_it_is_and_copied_for_patches() {
    let world = World::new();
    let dir = world.small();
    world.configure(&format!("kernel.source = {dir:?}"));
    let plain = world.obtain(&["kernel", RELEASE]);
    assert_eq!(plain.status, Some(0), "{}", plain.said);
    assert_eq!(Path::new(plain.line("source")), dir);
    let modpost = dir.join("scripts/Makefile.modpost");
    let text = fs::read_to_string(&modpost).unwrap();
    let time = fs::metadata(&modpost).unwrap().modified().unwrap();
    fs::write(&modpost, text.replacen('#', "%", 1)).unwrap();
    later(&modpost);
    let deep = world.obtain(&["kernel", RELEASE]);
    assert_ne!(plain.line("identity"), deep.line("identity"), "a file deep in it was changed");
    fs::write(&modpost, text).unwrap();
    fs::File::options().write(true).open(&modpost).unwrap().set_modified(time).unwrap();
    let plain = world.obtain(&["kernel", RELEASE]);
    let patch = world.patch();
    world.configure(&format!("[kernel]\nsource = {dir:?}\npatches = [{patch:?}]"));
    let patched = world.obtain(&["kernel", RELEASE]);
    assert_eq!(patched.status, Some(0), "{}", patched.said);
    let copy = Path::new(patched.line("source"));
    let readme = |dir: &Path| fs::read_to_string(dir.join("README")).unwrap();
    assert!(readme(copy).starts_with("patched\n"));
    assert!(!readme(&dir).starts_with("patched\n"), "the directory itself is not changed");
    assert_ne!(plain.line("identity"), patched.line("identity"));

    for (file, text) in [("Module.symvers", "x"), ("include/config/auto.conf", "x")] {
        fs::create_dir_all(dir.join(file).parent().unwrap()).unwrap();
        fs::write(dir.join(file), text).unwrap();
    }
    world.configure(&format!("kernel.source = {dir:?}"));
    assert_eq!(Path::new(world.obtain(&["kernel", RELEASE]).line("tree")), dir, "built already");
}

#[test]
fn what_is_no_kernels_source_is_named_and_leaves_nothing() {
    let world = World::new();
    let archive = world.archive("a.tar.gz", "--gzip");
    let args = ["kernel", RELEASE];
    let refuses = |case: &str, config: &str, says: &str| {
        world.configure(config);
        world.refuses(case, &args, 10, says);
    };
    let bad = world.share.join("bad.patch");
    fs::write(&bad, "--- a/README\n+++ b/README\n@@ -1 +1,2 @@\n+x\n no such line\n").unwrap();
    refuses(
        "a patch",
        &format!("[kernel]\nsource = {archive:?}\npatches = [{bad:?}]"),
        "bad.patch does not fit this source",
    );
    refuses("none", "kernel.source = \"/nowhere/linux.tar.xz\"", "/nowhere/linux.tar.xz");
    refuses("no directory", "kernel.source = \"/nowhere/linux\"", "/nowhere/linux");
    let empty = world.share.join("empty");
    fs::create_dir(&empty).unwrap();
    refuses("empty", &format!("kernel.source = {empty:?}"), "there is no Makefile in it");
    let whole = fs::read(&archive).unwrap();
    fs::write(&archive, &whole[..whole.len() / 2]).unwrap();
    refuses("cut off", &format!("kernel.source = {archive:?}"), "cannot be unpacked");
    world.configure("");
    let none = world.obtain(&args);
    assert_eq!((none.status, none.out.trim()), (Some(0), "none"), "{}", none.said);
}

#[test]
fn a_source_of_another_kernel_is_refused_with_both_versions() {
    let world = World::new();
    let dir = world.small();
    let archive = world.archive("a.tar.gz", "--gzip");
    let makefile = fs::read_to_string(dir.join("Makefile")).unwrap();
    let number = |name: &str| {
        let found = makefile.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
        found.unwrap().to_owned()
    };
    let sublevel: u32 = number("SUBLEVEL").parse().unwrap();
    assert_eq!((&*number("VERSION"), &*number("PATCHLEVEL")), ("6", "1"));
    let has = format!("is the source of Linux 6.1.{sublevel}");
    for source in [&archive, &dir] {
        world.configure(&format!("kernel.source = {source:?}"));
        for (release, good) in [
            (format!("6.1.{sublevel}-flatcar"), true),
            ("6.1.0-56-cloud-amd64".to_owned(), true),
            (format!("6.1.{}-flatcar", sublevel + 4), false),
            ("6.12.0-56-cloud-amd64".to_owned(), false),
        ] {
            let ran = world.obtain(&["kernel", &release]);
            let expected = if good { 0 } else { 10 };
            assert_eq!(ran.status, Some(expected), "{source:?} {release}: {}", ran.said);
            let named = ran.said.contains(&has) && ran.said.contains("set kernel.source");
            assert_eq!(named, !good, "{source:?} {release}: {}", ran.said);
        }
    }
}

#[test]
fn what_anybody_but_root_and_the_prefixs_owner_can_change_is_refused() {
    const OTHER: u32 = 4343;
    let world = World::new();
    let good = world.key("good");
    let home = world.share.join("home");
    fs::create_dir(&home).unwrap();
    let dir = home.join("linux-6.1");
    Command::new("cp").arg("-a").arg(world.small()).arg(&dir).status().unwrap();
    let archive = home.join("a.tar.gz");
    fs::copy(world.archive("a.tar.gz", "--gzip"), &archive).unwrap();
    let give = |path: &Path, uid: u32| chown(path, Some(uid), Some(uid)).unwrap();
    for (owner, status) in [(OTHER, 10), (OWNER, 0), (0, 0)] {
        for source in [&dir, &archive] {
            for path in [&home, &dir, &archive] {
                give(path, owner);
            }
            world.configure(&format!("kernel.source = {source:?}"));
            let ran = world.obtain(&["kernel", RELEASE]);
            assert_eq!(ran.status, Some(status), "{source:?} of {owner}: {}", ran.said);
            let says = "it belongs to uid 4343, neither root nor the prefix's owner (uid 4242)";
            assert_eq!(ran.said.contains(says), status != 0, "{source:?}: {}", ran.said);
        }
    }
    let keys = home.join("keys.asc");
    fs::copy(good, &keys).unwrap();
    give(&home, OWNER);
    let url = "https://localhost:1/linux.tar.xz";
    world.configure(&format!("[kernel]\nsource = {url:?}\nsource-key = {keys:?}"));
    let ran = world.obtain(&["kernel", RELEASE]);
    assert_eq!(ran.status, Some(15), "keys in a directory of the owner's: {}", ran.said);
    assert!(ran.said.contains("keys.asc"), "{}", ran.said);
}

#[test]
fn more_patches_than_files_are_kept_all_stay_while_they_are_used() {
    let world = World::new();
    let archive = world.archive("a.tar", "--no-auto-compress");
    let patches: Vec<_> = (0..26)
        .map(|number| {
            let patch = world.share.join(format!("{number}.patch"));
            fs::write(&patch, format!("--- /dev/null\n+++ b/new-{number}\n@@ -0,0 +1 @@\n+x\n"))
                .unwrap();
            patch
        })
        .collect();
    world.configure(&format!("[kernel]\nsource = {archive:?}\npatches = {patches:?}"));
    let done = world.obtain(&["kernel", RELEASE]);
    assert_eq!(done.status, Some(0), "{}", done.said);
    let tree = Path::new(done.line("source"));
    assert!((0..26).all(|number| tree.join(format!("new-{number}")).is_file()), "{}", done.said);
    let again = world.obtain(&["kernel", RELEASE, "--offline"]);
    assert_eq!((again.status, &again.out), (Some(0), &done.out), "{}", again.said);
    assert!(!again.said.contains("fetching"), "nothing is got twice: {}", again.said);
}

#[test]
fn killed_at_any_point_no_half_tree_is_taken_for_a_whole_one() {
    let mut killed = 0;
    for call in ["mkdir", "rename", "fchown", "fsync", "syncfs", "unlink", "ftruncate"] {
        for when in [1, 2] {
            let case = format!("{call} number {when}");
            let world = World::new();
            let archive = world.archive("a.tar.gz", "--gzip");
            let patch = world.patch();
            world.configure(&format!("[kernel]\nsource = {archive:?}\npatches = [{patch:?}]"));
            // Root's process alone: the others are ended with it.
            let inject = format!("inject={call}:signal=KILL:when={when}");
            let strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &inject];
            let first = world.wrapped(&strace, &["kernel", RELEASE]);
            killed += usize::from(first.status != Some(0));
            let unpacked = world.trees().into_iter().filter(|name| !name.ends_with(".new"));
            for name in unpacked {
                let readme = world.cache("trees").join(name).join("tree/README");
                let readme = fs::read_to_string(readme).unwrap_or_default();
                assert!(readme.starts_with("patched\n"), "{case}: half a tree");
            }
            let done = world.obtain(&["kernel", RELEASE]);
            assert_eq!(done.status, Some(0), "{case}: {}", done.said);
            let readme = Path::new(done.line("source")).join("README");
            assert!(fs::read_to_string(readme).unwrap().starts_with("patched\n"), "{case}");
            assert_eq!(world.trees().len(), 1, "{case}: {:?}", world.trees());
        }
    }
    assert!(killed >= 8, "only {killed} were killed");
}

#[test]
fn killed_while_an_old_tree_is_removed_no_half_of_it_is_taken_for_a_whole_one() {
    let mut killed = 0;
    let cases =
        [("unlink", 1), ("unlink", 2), ("unlinkat", 1), ("unlinkat", 3), ("rename,renameat", 6)];
    for (call, when) in cases {
        let case = format!("{call} number {when}");
        let world = World::new();
        let archives: Vec<_> = (0..4)
            .map(|number| {
                fs::write(world.small().join("COPYING"), number.to_string()).unwrap();
                world.archive(&format!("{number}.tar"), "--no-auto-compress")
            })
            .collect();
        let obtain = |number: usize, by: &[&str]| {
            world.configure(&format!("kernel.source = {:?}", archives[number]));
            world.wrapped(by, &["kernel", RELEASE])
        };
        for number in 0..3 {
            let done = obtain(number, &[]);
            assert_eq!(done.status, Some(0), "{case}: {}", done.said);
        }
        // The fourth evicts the first.
        let inject = format!("inject={call}:signal=KILL:when={when}");
        let strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &inject];
        killed += usize::from(obtain(3, &strace).status != Some(0));
        for number in [0, 3, 0] {
            let done = obtain(number, &[]);
            assert_eq!(done.status, Some(0), "{case}: {}", done.said);
            let tree = Path::new(done.line("source"));
            for file in ["Makefile", "Kbuild", "README", "scripts/Makefile.modpost"] {
                assert!(tree.join(file).is_file(), "{case}: {file} is gone");
            }
            let copying = fs::read_to_string(tree.join("COPYING")).unwrap();
            assert_eq!(copying, number.to_string(), "{case}");
        }
        assert_eq!(world.trees().len(), 3, "{case}: {:?}", world.trees());
    }
    assert!(killed >= 4, "only {killed} were killed");
}
