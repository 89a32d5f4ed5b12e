//! Archives that are refused: nothing of them is left.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

use super::world::{World, tool};
use lab::files::entries;

/// Entries as somebody evil would write them: name, kind, link, mode.
type Entry<'a> = (&'a str, EntryType, &'a str, u32);

/// An archive of these, after a harmless file; names are written as they are.
fn evil(world: &World, entries: &[Entry<'_>]) -> PathBuf {
    let path = world.share.join("evil.tar");
    let mut builder = Builder::new(fs::File::create(&path).unwrap());
    let harmless = ("harmless", EntryType::Regular, "", 0o644);
    for (name, kind, link, mode) in [&[harmless], entries].concat() {
        let mut header = Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(0);
        let content = if kind == EntryType::Regular { "evil" } else { "" };
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, content.as_bytes()).unwrap();
    }
    builder.finish().unwrap();
    path
}

fn unsigned(world: &World, archive: &Path) {
    world.configure(&format!("source = {archive:?}\nallow-unsigned = true"));
}

#[test]
fn an_entry_that_leads_outside_or_gives_rights_is_refused_by_name() {
    use EntryType::{Block, Char, Directory, Fifo, Link, Regular, Symlink};
    let world = World::new();
    let outside = world.root.join("outside");
    fs::create_dir(&outside).unwrap();
    std::os::unix::fs::chown(&outside, Some(4242), Some(4242)).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    let outside_name = outside.to_str().unwrap();
    let secret = format!("{outside_name}/secret");
    let cases: &[(&str, &[Entry<'_>], &str)] = &[
        ("traversal", &[("../escaped", Regular, "", 0o644)], "../escaped: a path with \"..\""),
        ("inner traversal", &[("a/../../escaped", Regular, "", 0o644)], "a path with \"..\""),
        ("absolute", &[(&secret, Regular, "", 0o644)], "an absolute path in the archive"),
        (
            "absolute symlink outside, then through it",
            &[("link", Symlink, outside_name, 0o777), ("link/escaped", Regular, "", 0o644)],
            "link/escaped: goes through a symlink of the archive",
        ),
        (
            "absolute symlink of a program outside",
            &[("bin/link", Symlink, outside_name, 0o777)],
            "bin/link: a symlink to",
        ),
        (
            "relative symlink outside",
            &[("usr/lib/link", Symlink, "../../../../outside", 0o777)],
            "usr/lib/link: a symlink to ../../../../outside, outside the prefix",
        ),
        (
            "through a symlink inside",
            &[
                ("d/x", Regular, "", 0o644),
                ("link", Symlink, "d", 0o777),
                ("link/y", Regular, "", 0o644),
            ],
            "link/y: goes through a symlink of the archive",
        ),
        (
            "a directory over a symlink",
            &[
                ("d/x", Regular, "", 0o644),
                ("link", Symlink, "d", 0o777),
                ("link", Directory, "", 0o755),
            ],
            "link: a directory where the archive made something else",
        ),
        (
            "a file over a symlink",
            &[("link", Symlink, "harmless", 0o777), ("link", Regular, "", 0o644)],
            "link: is in the archive twice",
        ),
        ("hard link outside", &[("h", Link, &secret, 0o644)], "h: a hard link to"),
        ("hard link upwards", &[("h", Link, "../../outside/secret", 0o644)], "outside the prefix"),
        (
            "hard link to a symlink",
            &[("s", Symlink, "harmless", 0o777), ("h", Link, "s", 0o644)],
            "h: a hard link to s, which is no file",
        ),
        ("hard link to nothing", &[("h", Link, "none", 0o644)], "is not in the archive so far"),
        ("character device", &[("null", Char, "", 0o644)], "null: a device in the archive"),
        ("block device", &[("sda", Block, "", 0o644)], "sda: a device in the archive"),
        ("FIFO", &[("pipe", Fifo, "", 0o644)], "pipe: a FIFO in the archive"),
        ("setuid", &[("su", Regular, "", 0o4755)], "su: a setuid bit (mode 4755)"),
        ("setgid", &[("wall", Regular, "", 0o2755)], "wall: a setgid bit"),
        ("world-writable", &[("w", Regular, "", 0o666)], "w: may be written to by everybody"),
    ];
    for (case, entries, says) in cases {
        unsigned(&world, &evil(&world, entries));
        world.refuses(case, 15, says);
    }
    assert_eq!(entries(&outside), ["secret"]);
    assert_eq!(fs::read_to_string(outside.join("secret")).unwrap(), "secret");
    assert_eq!(entries(&world.root.join("home")), ["core"]);
    // What root itself packs: real devices and setuid programs.
    let tree = world.share.join("devices");
    fs::create_dir(&tree).unwrap();
    tool("mknod", |m| m.arg(tree.join("null")).args(["c", "1", "3"]));
    let archive = world.share.join("devices.tar");
    tool("tar", |t| t.arg("-C").arg(&tree).arg("-cf").arg(&archive).arg("."));
    unsigned(&world, &archive);
    world.refuses("packed by tar", 15, "./null: a device in the archive");
}

#[test]
fn an_archive_of_a_gentoo_prefix_has_links_to_the_hosts_accounts_and_a_tmp_for_all() {
    use EntryType::{Directory, Symlink};
    let world = World::new();
    let links = ["passwd", "group", "resolv.conf", "hosts", "localtime"];
    let links: Vec<_> =
        links.iter().map(|name| (format!("etc/{name}"), format!("/etc/{name}"))).collect();
    let mut all: Vec<Entry<'_>> = vec![
        ("etc/", Directory, "", 0o755),
        ("tmp/", Directory, "", 0o1777),
        ("var/tmp/", Directory, "", 0o1777),
        ("var/lib/portage/", Directory, "", 0o2775),
    ];
    all.extend(links.iter().map(|(name, to)| (name.as_str(), Symlink, to.as_str(), 0o777)));
    unsigned(&world, &evil(&world, &all));
    let done = world.provision(&[]);
    assert_eq!(done.status, Some(0), "{}", done.said);
    for (name, to) in &links {
        assert_eq!(fs::read_link(world.prefix().join(name)).unwrap(), Path::new(to), "{name}");
    }
    for name in ["tmp", "var/tmp", "var/lib/portage"] {
        let mode = fs::metadata(world.prefix().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o755, "{name}");
    }
}

#[test]
fn archives_of_every_compression_are_unpacked_and_damaged_ones_are_named() {
    let world = World::new();
    for (name, how) in [
        ("p.tar", None),
        ("p.tar.gz", Some("--gzip")),
        ("p.tar.xz", Some("--xz")),
        ("p.tar.zst", Some("--zstd")),
    ] {
        let archive = world.archive(name, how.as_slice());
        let bytes = fs::read(&archive).unwrap();
        for (case, damaged) in [
            ("half", bytes[..bytes.len() / 2].to_vec()),
            (
                "without its end",
                bytes[..bytes.len() - if how.is_some() { 3 } else { 10_240 }].to_vec(),
            ),
        ] {
            fs::write(&archive, damaged).unwrap();
            unsigned(&world, &archive);
            world.refuses(&format!("{name}: {case}"), 15, "the archive");
            assert_eq!(entries(&world.downloads()), [""; 0], "{name}: {case}");
        }
        fs::write(&archive, &bytes).unwrap();
        let done = world.provision(&[]);
        assert_eq!(done.status, Some(0), "{name}: {}", done.said);
        world.assert_provisioned(name);
        fs::remove_dir_all(world.prefix()).unwrap();
    }
    let other = world.share.join("prefix.zip");
    fs::write(&other, "PK\u{3}\u{4}").unwrap();
    unsigned(&world, &other);
    world.refuses("zip", 15, "neither tar nor tar compressed with zstd, gzip or xz");
    unsigned(&world, &world.share.join("none.tar"));
    world.refuses("none", 11, "none.tar: No such file or directory");
    unsigned(&world, &world.share);
    world.refuses("a directory", 11, "not a regular file");
}

#[test]
fn a_zstd_archive_of_several_frames_is_one_archive() {
    let world = World::new();
    let plain = fs::read(world.archive("p.tar", &[])).unwrap();
    let mut frames = Vec::new();
    for half in [&plain[..plain.len() / 2], &plain[plain.len() / 2..]] {
        let file = world.share.join("half");
        fs::write(&file, half).unwrap();
        tool("zstd", |z| z.args(["-q", "-f", "--check", "-19", "--long=27"]).arg(&file));
        frames.extend(fs::read(world.share.join("half.zst")).unwrap());
    }
    let archive = world.share.join("frames.tar.zst");
    fs::write(&archive, &frames).unwrap();
    unsigned(&world, &archive);
    let done = world.provision(&[]);
    assert_eq!(done.status, Some(0), "{}", done.said);
    world.assert_provisioned("frames");
}

/// As pzstd has one before each frame, and a seekable file one at its end.
fn skippable(content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap();
    [&[0x5e, 0x2a, 0x4d, 0x18], &length.to_le_bytes()[..], content].concat()
}

#[test]
fn skippable_frames_of_a_zstd_archive_are_skipped_as_zstd_does() {
    let world = World::new();
    let frame = fs::read(world.archive("p.tar.zst", &["--zstd"])).unwrap();
    let archive = world.share.join("skippable.tar.zst");
    unsigned(&world, &archive);
    // The last one is longer than what is read ahead.
    let whole = [skippable(&[1, 2, 3, 4]), frame, skippable(&[]), skippable(&[7; 600_000])];
    let whole = whole.concat();
    fs::write(&archive, &whole[..whole.len() - 1]).unwrap();
    world.refuses("cut off", 15, "it was cut off");
    fs::write(&archive, whole).unwrap();
    tool("zstd", |z| z.args(["-q", "-t"]).arg(&archive));
    let done = world.provision(&[]);
    assert_eq!(done.status, Some(0), "{}", done.said);
    world.assert_provisioned("skippable");
}

#[test]
fn only_what_the_configured_key_signed_is_unpacked() {
    let world = World::new();
    let archive = world.archive("prefix.tar.zst", &["--zstd"]);
    let (maker, other) = (world.key("maker"), world.key("other"));
    let config = |more: &str| world.configure(&format!("source = {archive:?}\n{more}"));
    config("");
    world.refuses("no key", 15, "prefix.public-key is not set");
    config(&format!("public-key = {maker:?}"));
    world.refuses("no signature", 15, "demands a signature");
    world.sign("other", &archive, &[]);
    world.refuses("another's signature", 15, "it is of another key than prefix.public-key");
    world.sign("maker", &archive, &["-l"]);
    world.refuses("legacy", 15, "of the legacy kind");
    let signature = world.share.join("prefix.tar.zst.minisig");
    fs::write(&signature, "signed by me").unwrap();
    world.refuses("no signature at all", 15, "is no signature of minisign");
    world.sign("maker", &archive, &[]);
    config(&format!("public-key = {other:?}"));
    world.refuses("another key", 15, "it is of another key");
    config(&format!("public-key = {:?}", "RW".to_owned() + &"A".repeat(54)));
    world.refuses("a key that is none", 15, "prefix.public-key is no key of minisign");
    let good = fs::read(&archive).unwrap();
    fs::OpenOptions::new().append(true).open(&archive).unwrap().write_all(b"\0").unwrap();
    config(&format!("public-key = {maker:?}\nallow-unsigned = true"));
    world.refuses("one byte more", 15, "archive or signature were changed after signing");
    fs::write(&archive, good).unwrap();
    for (case, more, says) in [
        ("digest", format!("sha256 = {:?}", "0".repeat(64)), "its SHA-256 is"),
        ("size", "size = 17".to_owned(), "bytes, prefix.size says 17"),
    ] {
        config(&format!("public-key = {maker:?}\n{more}"));
        world.refuses(case, 15, says);
        config(&format!("allow-unsigned = true\n{more}"));
        world.refuses(&format!("unsigned, {case}"), 15, says);
    }
    assert_eq!(entries(&world.downloads()), [""; 0]);
    config(&format!("public-key = {:?}", world.share.join("maker.pub")));
    let done = world.provision(&[]);
    assert_eq!(done.status, Some(0), "{}", done.said);
    world.assert_provisioned("a key in a file");
}
