//! OpenZFS tarballs by version.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::sha256;
use super::world::{World, zfs};
use lab::openzfs::Release;
use lab::server::{Certificate, Manner, Server};
use lab::tool::run;

#[test]
fn portage_unpacks_the_version_that_is_configured_from_the_tarball_that_was_fetched() {
    let world = World::new();
    let server = Server::start(Certificate::Good, &world.authority);
    let (have, other) = zfs();
    assert_ne!(other.version, have.version);
    for Release { version, tarball } in [&have, &other] {
        let bytes = fs::read(tarball).unwrap();
        let digest = sha256(&bytes);
        server.put(&format!("/zfs-{version}.tar.gz"), bytes, Manner::Well);
        let url = server.url("/zfs-${version}.tar.gz");
        world.configure(&format!(
            "[zfs]\nversion = {version:?}\nsource = \"{url}#sha256={digest}\"\n"
        ));
        let done = world.obtain(&["zfs", "--unpack"]);
        assert_eq!(done.status, Some(0), "{version}: {}", done.said);
        assert_eq!(done.line("best"), format!("sys-fs/zfs-kmod-{version}"), "{}", done.said);
        assert_eq!(done.line("Version:").trim(), version);
        let meta = format!("zfs-{version}/META");
        let meta = run(Command::new("tar").args(["-xOf"]).arg(tarball).arg(meta)).unwrap();
        let maximum = meta.lines().find_map(|line| line.strip_prefix("Linux-Maximum:")).unwrap();
        assert_eq!(done.line("Linux-Maximum:").trim(), maximum.trim());
        let work = format!("work/portage/sys-fs/zfs-kmod-{version}/work/zfs-{version}/META");
        assert!(world.root.join(work).is_file(), "{version}: {}", done.said);
        server.asked();
        let again = world.obtain(&["zfs", "--unpack", "--offline"]);
        assert_eq!(again.status, Some(0), "{version}: {}", again.said);
        assert_eq!(server.asked(), [], "{version}: nothing is fetched twice");
    }
}

#[test]
fn an_openzfs_tarball_is_signed_in_a_file_beside_it_and_has_meta_in_it() {
    let world = World::new();
    let server = Server::start(Certificate::Good, &world.authority);
    let good = world.key("good");
    let (have, _) = zfs();
    let bytes = fs::read(have.tarball).unwrap();
    let url = server.url("/zfs-${version}.tar.gz");
    server.put("/zfs-2.3.2.tar.gz.asc", world.sign("good", &bytes), Manner::Well);
    server.put("/zfs-2.3.2.tar.gz", bytes[..bytes.len() - 1].to_vec(), Manner::Well);
    world.configure(&format!(
        "[zfs]\nversion = \"2.3.2\"\nsource = {url:?}\nsource-key = {good:?}\n"
    ));
    let changed = world.obtain(&["zfs"]);
    assert_eq!(changed.status, Some(15), "{}", changed.said);
    assert!(changed.said.contains("its signature is refused"), "{}", changed.said);
    server.put("/zfs-2.3.2.tar.gz", bytes, Manner::Well);
    let done = world.obtain(&["zfs"]);
    assert_eq!(done.status, Some(0), "{}", done.said);
    assert!(Path::new(done.line("tarball")).is_file());

    let linux = world.archive("linux.tar.gz", "--gzip");
    world.configure(&format!("[zfs]\nversion = \"2.3.2\"\nsource = {linux:?}\n"));
    let other = world.obtain(&["zfs"]);
    assert_eq!(other.status, Some(15), "{}", other.said);
    assert!(other.said.contains("no META in it"), "{}", other.said);
    world.configure(&format!("[zfs]\nsource = {url:?}\nsource-key = {good:?}\n"));
    let without = world.obtain(&["zfs"]);
    assert_eq!(without.status, Some(1), "{}", without.said);
    assert!(without.said.contains("zfs.version is not set"), "{}", without.said);
}
