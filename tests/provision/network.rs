//! Servers that fail, and transfers that go on where they stopped.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

use super::crashes::with_mount;
use super::world::World;
use lab::files::entries;
use lab::server::{Asked, Certificate, Manner, Server};

const PATH: &str = "/prefix.tar.zst";

/// A world whose source is on the server, and the archive's bytes.
fn world(certificate: Certificate) -> (World, Server, Vec<u8>) {
    let world = World::new();
    let server = Server::start(certificate, &world.authority);
    let bytes = fs::read(world.archive("prefix.tar.zst", &["--zstd"])).unwrap();
    world.configure(&format!("source = {:?}\nallow-unsigned = true", server.url(PATH)));
    (world, server, bytes)
}

/// The requests for the archive.
fn asked(server: &Server) -> Vec<Asked> {
    server.asked().into_iter().filter(|asked| asked.path == PATH).collect()
}

fn ranges(server: &Server) -> Vec<Option<String>> {
    asked(server).into_iter().map(|asked| asked.range).collect()
}

#[test]
fn a_transfer_that_stops_is_reported_and_the_next_run_goes_on_where_it_was() {
    let (world, server, bytes) = world(Certificate::Good);
    let total = bytes.len();
    server.put(PATH, bytes, Manner::StopsOnce(100_000));
    world.refuses("it stops", 19, &format!("the transfer stopped after 100000 of {total} bytes"));
    let part = world.downloads().join("prefix.tar.zst.part");
    let meta = fs::metadata(&part).unwrap();
    assert_eq!(
        (meta.len(), meta.mode() & 0o777),
        (100_000, 0o600),
        "unchecked, it is root's alone"
    );
    assert_eq!(ranges(&server), [None]);
    let done = world.provision(&[]);
    assert_eq!(done.status, Some(0), "{}", done.said);
    assert!(done.said.contains("going on from byte 100000"), "{}", done.said);
    let asked = asked(&server);
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(asked[0].range.as_deref(), Some("bytes=100000-"));
    assert!(asked[0].if_range.is_some(), "the file could be another one by now: {asked:?}");
    world.assert_provisioned("resumed");
}

#[test]
fn a_server_without_ranges_or_with_another_file_by_now_is_asked_for_the_whole() {
    for (case, later) in [("no ranges", Manner::NoRanges), ("changed", Manner::Well)] {
        let (world, server, bytes) = world(Certificate::Good);
        let mut first = bytes.clone();
        if case == "changed" {
            first[1000] ^= 1;
        }
        server.put(PATH, first, Manner::StopsOnce(50_000));
        world.refuses(case, 19, "the transfer stopped after 50000 of");
        server.put(PATH, bytes, later);
        let done = world.provision(&[]);
        assert_eq!(done.status, Some(0), "{case}: {}", done.said);
        let asked = ranges(&server);
        assert_eq!(asked.last().unwrap().as_deref(), Some("bytes=50000-"), "{case}: {asked:?}");
        world.assert_provisioned(case);
    }
}

#[test]
fn a_whole_download_that_was_not_unpacked_yet_is_not_fetched_again() {
    let (world, server, bytes) = world(Certificate::Good);
    server.put(PATH, bytes.clone(), Manner::StopsOnce(50_000));
    world.refuses("it stops", 19, "the transfer stopped");
    // As if power had failed right after the last byte.
    fs::write(world.downloads().join("prefix.tar.zst.part"), &bytes).unwrap();
    server.asked();
    let done = world.provision(&[]);
    assert_eq!(done.status, Some(0), "{}", done.said);
    assert_eq!(ranges(&server), [Some(format!("bytes={}-", bytes.len()))]);
    world.assert_provisioned("whole");
}

#[test]
fn a_part_with_wrong_bytes_is_refused_once_and_does_not_stick() {
    let (world, server, bytes) = world(Certificate::Good);
    let key = world.key("maker");
    world.sign("maker", &world.share.join("prefix.tar.zst"), &[]);
    let signature = fs::read(world.share.join("prefix.tar.zst.minisig")).unwrap();
    server.put("/prefix.tar.zst.minisig", signature, Manner::Well);
    server.put(PATH, bytes, Manner::StopsOnce(50_000));
    world.configure(&format!("source = {:?}\npublic-key = {key:?}", server.url(PATH)));
    world.refuses("it stops", 19, "the transfer stopped");
    fs::write(world.downloads().join("prefix.tar.zst.part"), [7; 40_000]).unwrap();
    world.refuses("poisoned", 15, "archive or signature were changed");
    assert_eq!(entries(&world.downloads()), [""; 0]);
    let done = world.provision(&[]);
    assert_eq!(done.status, Some(0), "{}", done.said);
    world.assert_provisioned("from its beginning");
}

#[test]
fn what_a_server_says_is_repeated_with_what_to_do() {
    let (world, server, bytes) = world(Certificate::Good);
    for (manner, says) in [
        (Manner::Says(404), "the server says 404: it has no such file; check prefix.source"),
        (
            Manner::Says(403),
            "the server says 403: it does not give this file without authorization",
        ),
        (Manner::Says(503), "the server says 503: it cannot help now"),
        (Manner::LeadsToHttp, "http://, where the archive could be replaced on its way"),
    ] {
        server.put(PATH, bytes.clone(), manner);
        world.refuses(says, 19, says);
    }
    let key = world.key("maker");
    server.put(PATH, bytes, Manner::Well);
    world.configure(&format!("source = {:?}\npublic-key = {key:?}", server.url(PATH)));
    world.refuses("no signature", 15, "the server says 404: the archive has no signature");
    world.configure(&format!("source = {:?}\nsize = 3\nallow-unsigned = true", server.url(PATH)));
    server.asked();
    world.refuses("size", 15, "bytes, prefix.size says 3");
    // Nobody listens on a port that was just given back.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    world.configure(&format!("source = \"https://localhost:{port}/p.tar\"\nallow-unsigned = true"));
    world.refuses("nobody there", 19, "onnection refused");
    world.configure("source = \"https://nowhere.invalid/p.tar\"\nallow-unsigned = true");
    world.refuses("no such host", 19, "https://nowhere.invalid/p.tar: ");
}

#[test]
fn what_a_query_says_reaches_the_server_and_nobody_else() {
    let (world, server, bytes) = world(Certificate::Good);
    let path = format!("{PATH}?token=hushhush");
    world.configure(&format!("source = {:?}\nallow-unsigned = true", server.url(&path)));
    let mut said = String::new();
    let part = world.downloads().join("prefix.tar.zst.part.json");
    for (manner, status) in [
        (Manner::Says(403), 19),
        (Manner::StopsOnce(50_000), 19),
        (Manner::NoRanges, 15),
        (Manner::Well, 0),
    ] {
        let content = if status == 15 { vec![b'x'; 100] } else { bytes.clone() };
        server.put(&path, content, manner);
        let ran = world.provision(&[]);
        assert_eq!(ran.status, Some(status), "{manner:?}: {}", ran.said);
        said += &ran.said;
        said += &fs::read_to_string(&part).unwrap_or_default();
        let record = world.root.join("var/lib/zfs-prefix/failures/prefix.json");
        said += &fs::read_to_string(record).unwrap_or_default();
    }
    said += &fs::read_to_string(world.prefix().join(".zfs-prefix.json")).unwrap();
    assert!(said.contains("prefix.tar.zst?…"), "{said}");
    assert!(!said.contains("hushhush"), "{said}");
    let asked = server.asked();
    assert!(asked.iter().all(|asked| asked.path.ends_with("?token=hushhush")), "{asked:?}");
}

#[test]
fn an_answer_without_end_is_given_up_before_the_disk_is_full() {
    let (world, server, bytes) = world(Certificate::Good);
    server.put(PATH, bytes, Manner::Endless);
    let run = "\"$1\" prefix provision --no-audit";
    for (case, more, status, says) in [
        (
            "a size",
            "size = 500000",
            15,
            "the server sends more than 500000 bytes, the expected size",
        ),
        ("none", "", 17, "bytes, all free space but 67.1 MB. The download was removed"),
    ] {
        let url = server.url(PATH);
        world.configure(&format!("source = {url:?}\nallow-unsigned = true\n{more}"));
        // 64 MiB of it are left to others.
        let out = with_mount(&world, &world.downloads(), "size=70m", run);
        assert_eq!(out.status, Some(status), "{case}: {}", out.said);
        assert!(out.said.contains(says), "{case}: {}", out.said);
        assert!(out.said.ends_with("left:\n"), "{case}: {}", out.said);
        assert_eq!(world.listing(), [""; 0], "{case}");
    }
}

fn lock(world: &World, name: &str) -> Flock<fs::File> {
    let path = world.root.join("run/zfs-prefix").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut file = fs::File::create(path).unwrap();
    writeln!(file, "1 build 6.1.0").unwrap();
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| e).expect(name)
}

#[test]
fn a_download_keeps_no_build_waiting_and_a_build_keeps_the_download() {
    let (world, server, bytes) = world(Certificate::Good);
    server.put(PATH, bytes.clone(), Manner::Hangs(60_000));
    let mut child = world.command(&["--no-audit"]).spawn().unwrap();
    let part = world.downloads().join("prefix.tar.zst.part");
    while fs::metadata(&part).map_or(0, |m| m.len()) < 60_000 {
        assert_eq!(child.try_wait().unwrap(), None, "it ended before");
        std::thread::sleep(Duration::from_millis(10));
    }
    let build = lock(&world, "lock");
    world.refuses("two of them", 18, "a prefix is being provisioned (process");
    child.kill().unwrap();
    child.wait().unwrap();
    server.put(PATH, bytes.clone(), Manner::Well);
    world.refuses("a build", 18, "another build is running (process 1, build 6.1.0, from");
    assert_eq!(fs::metadata(&part).unwrap().len(), bytes.len() as u64, "it stays");
    drop(build);
    let done = world.provision(&[]);
    assert_eq!(done.status, Some(0), "{}", done.said);
    world.assert_provisioned("after the build");
}

#[test]
fn a_server_that_cannot_be_trusted_gets_no_request() {
    for (certificate, says) in [
        (Certificate::Foreign, "this machine does not trust the authority of its certificate"),
        (Certificate::Expired, "its certificate has expired, or this machine's clock is wrong"),
        (Certificate::OtherName, "its certificate is for another server name"),
    ] {
        let (world, server, bytes) = world(certificate);
        server.put(PATH, bytes, Manner::Well);
        world.refuses(says, 19, says);
        assert_eq!(server.asked(), [], "{certificate:?}");
    }
    let (world, _server, _) = world(Certificate::Good);
    fs::write(&world.authority, "").unwrap();
    world.refuses("no authorities", 19, "no certificate of an authority is found");
}

#[test]
fn a_signal_ends_the_wait_for_a_silent_server_at_once_and_the_part_stays() {
    let (world, server, bytes) = world(Certificate::Good);
    server.put(PATH, bytes, Manner::Hangs(60_000));
    let mut child = world.command(&["--no-audit"]).spawn().unwrap();
    let part = world.downloads().join("prefix.tar.zst.part");
    while fs::metadata(&part).map_or(0, |m| m.len()) < 60_000 {
        assert_eq!(child.try_wait().unwrap(), None, "it ended before");
        std::thread::sleep(Duration::from_millis(10));
    }
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
    assert_eq!(world.listing(), [""; 0]);
    assert_eq!(fs::metadata(&part).unwrap().len(), 60_000);
}
