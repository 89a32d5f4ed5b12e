//! `zfs-prefix prefix provision`: a prefix is fetched from a real https server, checked with real
//! signatures and put in place, or nothing is left of it.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

mod archives;
mod crashes;
mod network;
mod world;

use std::fs;
use std::os::unix::fs::{MetadataExt, chown, lchown, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use crate::load::made;
use lab::server::{Certificate, Manner, Server};
use world::{OWNER, World, ran};

#[test]
fn a_signed_archive_from_an_https_server_becomes_the_owners_prefix() {
    let world = World::new();
    let server = Server::start(Certificate::Good, &world.authority);
    let archive = world.archive("prefix.tar.zst", &["--zstd"]);
    let key = world.key("maker");
    world.sign("maker", &archive, &[]);
    let bytes = fs::read(&archive).unwrap();
    server.put("/p/prefix.tar.zst", bytes, Manner::Well);
    let signature = fs::read(world.share.join("prefix.tar.zst.minisig")).unwrap();
    server.put("/p/prefix.tar.zst.minisig", signature, Manner::Well);
    let url = server.url("/p/prefix.tar.zst");
    world.configure(&format!("source = {url:?}\npublic-key = {key:?}"));

    let told = UnixDatagram::bind(world.share.join("notify")).unwrap();
    told.set_nonblocking(true).unwrap();
    let mut command = world.command(&["--no-audit"]);
    let done = ran(command.env("NOTIFY_SOCKET", world.share.join("notify")).output().unwrap());
    assert_eq!(done.status, Some(0), "{}", done.said);
    assert!(
        done.said.contains("provisioned") && done.said.contains("file:prefix.tar.zst"),
        "{}",
        done.said
    );
    world.assert_provisioned("https");
    assert_progress_was_told(&told);

    let prefix = world.prefix();
    let meta = |name: &str| fs::symlink_metadata(prefix.join(name)).unwrap();
    assert_eq!(meta("").mode() & 0o7777, 0o755);
    assert_eq!(meta("usr/bin/bash").mode() & 0o7777, 0o755);
    assert_eq!(meta("usr/noise").mode() & 0o7777, 0o644);
    assert_eq!(meta("var/locked").mode() & 0o7777, 0o555);
    assert_eq!(meta("usr/bin/bash").mtime(), 1_393_675_200, "2014-03-01 12:00 UTC");
    assert_eq!(meta("usr/bin/bash").ino(), meta("usr/bin/rbash").ino());
    assert_eq!(fs::read_link(prefix.join("bin")).unwrap(), Path::new("usr/bin"));
    assert_eq!(fs::read_link(prefix.join("sh")).unwrap(), prefix.join("usr/bin/bash"));
    let mark = fs::read_to_string(prefix.join(".zfs-prefix.json")).unwrap();
    let mark: serde_json::Value = serde_json::from_str(&mark).unwrap();
    assert_eq!((mark["version"].as_u64(), mark["source"].as_str()), (Some(1), Some(&*url)));
    assert_eq!(mark["sha256"].as_str().map(str::len), Some(64));
    assert!(mark["digest"].is_null() && mark["when"].as_u64().unwrap() > 1_700_000_000, "{mark}");

    world.refuses("it is there", 1, "is there already; to put another one in its place");
    server.asked();
    let again = world.provision(&["--if-missing"]);
    assert_eq!(again.status, Some(0), "{}", again.said);
    assert_eq!(server.asked(), [], "nothing is asked of the network then");
}

#[test]
fn what_only_root_may_read_is_not_copied_through_a_name_of_the_owners() {
    let world = World::new();
    let secret = world.share.join("secret");
    fs::write(&secret, "root's").unwrap();
    let archive = world.home().join("prefix.tar");
    world.configure(&format!("source = {archive:?}\nallow-unsigned = true"));
    for case in ["a symlink", "a hard link"] {
        if case == "a symlink" {
            symlink(&secret, &archive).and_then(|()| lchown(&archive, Some(OWNER), None)).unwrap();
        } else {
            fs::hard_link(&secret, &archive).unwrap();
        }
        world.refuses(case, 11, "move it to a directory of root's");
        let part = world.downloads().join("prefix.tar.part");
        assert!(!part.exists(), "{case}");
        fs::remove_file(&archive).unwrap();
    }
}

fn assert_progress_was_told(told: &UnixDatagram) {
    let mut all = String::new();
    let mut message = [0; 4096];
    while let Ok(n) = told.recv(&mut message) {
        all.push_str(&String::from_utf8_lossy(&message[..n]));
        all.push('\n');
    }
    for expected in [
        "STATUS=fetching https://",
        "EXTEND_TIMEOUT_USEC=",
        "STATUS=checking",
        "STATUS=provisioned",
    ] {
        assert!(all.contains(expected), "no {expected} in {all}");
    }
}

#[test]
fn a_manifest_beside_the_archive_says_which_tree_it_is_and_refuses_another_place() {
    let world = World::new();
    let archive = world.archive("prefix.tar.gz", &["--gzip"]);
    world.configure(&format!("source = {archive:?}\nallow-unsigned = true"));
    let sums = std::process::Command::new("sha256sum").arg(&archive).output().unwrap();
    let sha256 = String::from_utf8(sums.stdout).unwrap()[..64].to_owned();
    let manifest = |eprefix: &Path, sha256: &str| {
        let digest = "0f".repeat(64);
        let json = serde_json::json!({
            "version": 1, "eprefix": eprefix, "digest": digest, "archive": {"sha256": sha256},
        });
        fs::write(world.share.join("prefix.json"), json.to_string()).unwrap();
    };
    manifest(Path::new("/opt/gentoo"), &sha256);
    world.refuses("another place", 11, "was made for /opt/gentoo");
    for (case, eprefix, sha, digest) in [
        ("its own", world.prefix(), sha256.clone(), Some("0f".repeat(64))),
        ("of another archive", world.prefix(), "0".repeat(64), None),
    ] {
        manifest(&eprefix, &sha);
        let done = world.provision(&[]);
        assert_eq!(done.status, Some(0), "{case}: {}", done.said);
        let mark = fs::read(world.prefix().join(".zfs-prefix.json")).unwrap();
        let mark: serde_json::Value = serde_json::from_slice(&mark).unwrap();
        assert_eq!(mark["digest"].as_str(), digest.as_deref(), "{case}");
        assert_eq!(mark["sha256"].as_str(), Some(&*sha256), "{case}");
        fs::remove_dir_all(world.prefix()).unwrap();
    }
}

#[test]
fn a_tree_without_a_toolchain_is_refused_by_the_audit_and_nothing_is_left() {
    let world = World::new();
    let archive = world.archive("prefix.tar.gz", &["--gzip"]);
    world.configure(&format!("source = {archive:?}\nallow-unsigned = true"));

    // Nobody can say so on a machine that lets nobody in: the archive is not to blame.
    let mut unable = std::process::Command::new("setpriv");
    unable.arg("--bounding-set=-sys_admin").arg(env!("CARGO_BIN_EXE_zfs-prefix"));
    world.prepare(&mut unable);
    let unable = ran(unable.args(["prefix", "provision", "--if-missing"]).output().unwrap());
    assert_eq!(unable.status, Some(1), "{}", unable.said);
    assert!(unable.said.contains("CAP_SYS_ADMIN is needed"), "{}", unable.said);
    assert_eq!(world.listing(), [""; 0]);
    assert_ne!(lab::files::entries(&world.downloads()), [""; 0], "what was fetched is kept");
    assert!(!world.root.join("var/lib/zfs-prefix/failures/prefix.json").exists(), "no pause");

    let refused = ran(world.command(&[]).output().unwrap());
    assert_eq!(refused.status, Some(11), "{}", refused.said);
    assert!(refused.said.contains("the prefix in it is not sound"), "{}", refused.said);
    assert!(refused.said.contains("no program bash"), "{}", refused.said);
    assert!(refused.said.contains("; provision a complete prefix"), "a cure: {}", refused.said);
    assert_eq!(world.listing(), [""; 0]);
    assert_eq!(lab::files::entries(&world.downloads()), [""; 0]);
}

#[test]
fn a_refused_archive_is_not_fetched_again_by_every_build_until_something_changes() {
    let world = World::new();
    let server = Server::start(Certificate::Good, &world.authority);
    let archive = world.archive("prefix.tar.gz", &["--gzip"]);
    server.put("/prefix.tar.gz", fs::read(archive).unwrap(), Manner::Well);
    let url = server.url("/prefix.tar.gz");
    let config = |more: &str| {
        world.configure(&format!("source = {url:?}\nallow-unsigned = true\n{more}"));
    };
    config(&format!("sha256 = {:?}", "0".repeat(64)));
    let unit = || world.provision(&["--if-missing"]);
    let first = unit();
    assert_eq!(first.status, Some(15), "{}", first.said);
    server.asked();
    let second = unit();
    assert_eq!(second.status, Some(21), "{}", second.said);
    assert!(second.said.contains("its SHA-256 is"), "the reason is repeated: {}", second.said);
    assert!(second.said.contains("next try in"), "{}", second.said);
    assert_eq!(server.asked(), [], "nothing is fetched meanwhile");
    let by_hand = world.provision(&[]);
    assert_eq!(by_hand.status, Some(15), "{}", by_hand.said);
    config("");
    let changed = unit();
    assert_eq!(changed.status, Some(0), "{}", changed.said);
    let record = world.root.join("var/lib/zfs-prefix/failures/prefix.json");
    assert!(!record.exists(), "forgotten");
}

#[test]
fn with_replace_the_new_prefix_takes_the_name_and_the_old_one_is_kept_beside_it() {
    let world = World::new();
    let archive = world.archive("prefix.tar.gz", &["--gzip"]);
    world.configure(&format!("source = {archive:?}\nallow-unsigned = true"));
    assert_eq!(world.provision(&[]).status, Some(0));
    fs::write(world.prefix().join("mine"), "precious").unwrap();
    let done = world.provision(&["--replace"]);
    assert_eq!(done.status, Some(0), "{}", done.said);
    assert!(!world.prefix().join("mine").exists());
    let listing = world.listing();
    assert!(listing.len() == 2 && listing[1].starts_with("gentoo.old-"), "{listing:?}");
    let kept = world.home().join(&listing[1]);
    assert!(done.said.contains(&kept.display().to_string()), "{}", done.said);
    assert_eq!(fs::read_to_string(kept.join("mine")).unwrap(), "precious");
}

#[test]
fn the_owner_is_who_is_configured_or_who_owns_the_home() {
    let world = World::new();
    let archive = world.archive("prefix.tar", &[]);
    let source = format!("source = {archive:?}\nallow-unsigned = true\n");
    for (case, home, user, status, says) in [
        (
            "root's home",
            0,
            "",
            11,
            "belongs to root, and builds do not run as root: set prefix.user",
        ),
        ("root's home", 0, "user = \"nobody-here\"", 11, "no such user"),
        (
            "another's home",
            4243,
            "user = \"4242\"",
            11,
            "belongs to user 4243, the prefix in it would be user 4242's",
        ),
    ] {
        chown(world.home(), Some(home), Some(home)).unwrap();
        world.configure(&format!("{source}{user}"));
        world.refuses(case, status, says);
    }
    chown(world.home(), Some(0), Some(0)).unwrap();
    world.configure(&format!("{source}user = \"{OWNER}\""));
    let done = world.provision(&[]);
    assert_eq!(done.status, Some(0), "{}", done.said);
    world.assert_provisioned("in root's directory");
    assert_eq!(fs::metadata(world.home()).unwrap().uid(), 0);
}

#[test]
fn nothing_configured_is_said_and_fails_only_when_asked_for_by_hand() {
    let world = World::new();
    world.configure("");
    world.refuses("by hand", 11, "prefix.source is not set: say where its archive is");
    let unit = world.provision(&["--if-missing"]);
    assert_eq!(unit.status, Some(0), "{}", unit.said);
    assert!(
        unit.said.contains("no prefix at") && unit.said.contains("nothing to provision"),
        "{}",
        unit.said
    );
    let usage = world.provision(&["--source", "http://localhost/prefix.tar"]);
    assert_eq!(usage.status, Some(2), "{}", usage.said);
    assert!(usage.said.contains("can be replaced on its way"), "{}", usage.said);
    assert_eq!(world.listing(), [""; 0]);
}

#[test]
fn where_no_build_needs_a_prefix_the_unit_asks_nothing_of_the_network() {
    let world = World::new();
    let server = Server::start(Certificate::Good, &world.authority);
    let archive = world.archive("prefix.tar.gz", &["--gzip"]);
    server.put("/prefix.tar.gz", fs::read(archive).unwrap(), Manner::Well);
    let url = server.url("/prefix.tar.gz");
    world.configure(&format!("source = {url:?}\nallow-unsigned = true"));
    let stands_aside = |case: &str, says: &str| {
        let unit = world.provision(&["--if-missing"]);
        assert_eq!(unit.status, Some(0), "{case}: {}", unit.said);
        assert!(unit.said.contains(says), "{case}: {}", unit.said);
        assert_eq!(server.asked(), [], "{case}");
        assert_eq!(world.listing(), [""; 0], "{case}");
    };
    let modules = world.modules();
    fs::create_dir_all(modules.join("extra")).unwrap();
    let vermagic = made::vermagic(&made::running());
    fs::write(modules.join("extra/zfs.ko"), made::module(&vermagic, "")).unwrap();
    stands_aside("shipped", "extra/zfs.ko, and nothing else to build for");
    fs::remove_dir(modules.join("build")).unwrap();
    stands_aside("shipped and no tree", "has no build tree in");
    fs::remove_file(modules.join("extra/zfs.ko")).unwrap();
    stands_aside("no tree", "has no build tree in");
    fs::create_dir(modules.join("build")).unwrap();
    let hold = world.root.join("etc/modprobe.d/zfs.conf");
    fs::create_dir_all(hold.parent().unwrap()).unwrap();
    fs::write(&hold, "install zfs /bin/false\n").unwrap();
    stands_aside("held back", "zfs.conf:1 says \"install zfs /bin/false\"");
    fs::remove_file(hold).unwrap();
    fs::remove_dir(modules.join("build")).unwrap();
    // Another kernel's build may be the one that asks: zfs-build@.service.
    fs::create_dir_all(modules.with_file_name("1.2.3-other").join("build")).unwrap();
    let unit = world.provision(&["--if-missing"]);
    assert_eq!(unit.status, Some(0), "{}", unit.said);
    world.assert_provisioned("another kernel");
}

#[test]
fn another_source_on_the_command_line_comes_with_a_digest_of_its_own() {
    let world = World::new();
    let archive = world.archive("prefix.tar.xz", &["--xz"]);
    let wrong = "0".repeat(64);
    world.configure(&format!(
        "source = \"/nowhere.tar\"\nsha256 = {wrong:?}\nsize = 1\nallow-unsigned = true"
    ));
    let source = archive.to_str().unwrap();
    let refused = world.provision(&["--source", source, "--sha256", &wrong]);
    assert_eq!(refused.status, Some(15), "{}", refused.said);
    let done = world.provision(&["--source", source]);
    assert_eq!(done.status, Some(0), "{}", done.said);
    world.assert_provisioned("another source");
}
