use super::*;
use std::time::SystemTime;

#[test]
fn the_kernels_archive_signs_what_is_in_the_compressed_file() {
    for (given, expected) in [
        ("https://h/linux-6.6.74.tar.xz?x=.tar.gz", "https://h/linux-6.6.74.tar?x=.tar.gz"),
        ("https://h/linux-6.6.74.tar", "https://h/linux-6.6.74.tar"),
        ("https://h/linux-6.6.74.txz?x", "https://h/linux-6.6.74.tar?x"),
    ] {
        let of = uncompressed(&Source::Https(given.to_owned()));
        assert_eq!(of.full(), expected, "{given}");
    }
}

#[test]
fn a_cached_file_that_has_rotted_counts_for_nothing_and_goes() {
    let dir = tempfile::tempdir().unwrap();
    let (path, record) = (dir.path().join("x.tar.xz"), dir.path().join("x.tar.xz.json"));
    let digest = format!("{:x}", Sha256::digest(b"as it was fetched"));
    let cached = Cached {
        source: Source::Https("https://h/x.tar.xz".to_owned()),
        key: "kernel.source",
        what: "a kernel's source",
        largest: 1 << 20,
        proof: Proof::Sha256(digest.clone()),
        signed: None,
        unreadable: Exit::NoKernelSource,
    };
    let of = Record {
        version: 1,
        source: cached.source.to_string(),
        sha256: digest.clone(),
        size: 17,
        proof: cached.proof.shown(),
        stamp: String::new(),
    };
    fs::write(&record, serde_json::to_vec(&of).unwrap()).unwrap();
    fs::write(&path, "as it was fetched").unwrap();
    assert_eq!(cached.whole(&path, &record).unwrap(), Some(digest));
    fs::write(&path, "as it was fetcheD").unwrap();
    assert_eq!(cached.whole(&path, &record).unwrap(), None, "one bit is another");
    assert!(!path.exists() && !record.exists());
}

#[test]
fn what_was_used_last_is_kept_and_what_is_new_always() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for (age, name) in [(30, "a.tar.xz"), (10, "b"), (20, "c"), (40, "new")] {
        fs::write(at(name), "x").unwrap();
        fs::write(at(&format!("{name}.json")), "{}").unwrap();
        let file = File::options().write(true).open(at(&format!("{name}.json"))).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
    }
    fs::write(at("d.part.json"), "{}").unwrap();
    used(&at("c.json"));
    keep(dir.path(), 2, Duration::ZERO, &[at("new.json")]).unwrap();
    let mut left: Vec<_> =
        fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["c", "c.json", "d.part.json", "new", "new.json"]);
    keep(dir.path(), 1, Duration::ZERO, &[at("new.json"), at("c.json")]).unwrap();
    assert!(at("c").exists(), "nothing that is spared goes, however few are to be kept");
}

#[test]
fn leftovers_go_after_a_week_and_what_has_a_record_stays() {
    let dir = tempfile::tempdir().unwrap();
    let week = 7 * 24 * 3600;
    for (name, age, stays) in [
        ("whole", week * 9, true),
        ("whole.json", week * 9, true),
        ("a.part", week + 9, false),
        ("a.part.json", week + 9, false),
        ("b.part", week - 9, true),
        ("b.part.json", week - 9, true),
        ("unrecorded", week + 9, false),
        (".tmpx", week + 9, false),
    ] {
        let path = dir.path().join(name);
        fs::write(&path, "x").unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        // Sweep after each file, beside the files before it.
        if name != "whole" {
            sweep(dir.path()).unwrap();
            assert_eq!(path.exists(), stays, "{name}");
        }
    }
    assert!(dir.path().join("whole").exists());
}
