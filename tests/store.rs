//! The store survives a crash and a full disk at every single system call of a publication.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

use std::path::Path;
use std::process::{Command, Output};

use zfs_prefix::host::Release;
use zfs_prefix::store::{Layout, check_tree, current_key};

/// The system calls that change the store, as x86-64 and strace name them.
const CALLS: [&str; 9] =
    ["mkdir", "openat", "write", "fsync", "rename", "renameat2", "symlink", "unlink", "chmod"];

fn publish(root: &Path, key: &str, content: &str, inject: Option<&str>) -> Output {
    let mut command = match inject {
        None => Command::new(lab::program("publish")),
        Some(inject) => {
            let mut strace = Command::new("strace");
            strace.args(["-qq", "-o", "/dev/null", "-e", &format!("inject={inject}")]);
            strace.arg(lab::program("publish"));
            strace
        }
    };
    command.arg(root).args([key, content]).output().expect("strace (make setup)")
}

/// What the loader would find: the key and version of a sound tree. Anything torn panics.
fn seen(root: &Path, case: &str) -> (String, String) {
    let layout = Layout::new(root);
    let release: Release = "6.1.0".parse().unwrap();
    let key = current_key(&layout, &release).unwrap_or_else(|| panic!("{case}: no current"));
    let manifest =
        check_tree(&layout.tree(&release, &key)).unwrap_or_else(|e| panic!("{case}: {e:#}"));
    assert_eq!(manifest.key, key, "{case}");
    (key, manifest.zfs_version)
}

/// Publishes `key` over `old` (the same key: one tree takes the other's place) with `fault` at the first, second, … call of each kind, until that
/// kind has no more calls; each time the store must show the old tree or the new one, and a next
/// publication must succeed. Returns how many faults hit.
fn at_every_call(key: &str, fault: &str, verify: impl Fn(&Output, &str)) -> usize {
    let (before, after) = (("old".to_owned(), "1".to_owned()), (key.to_owned(), "2".to_owned()));
    let mut hits = 0;
    for call in CALLS {
        for when in 1.. {
            let root = lab::tmp::scratch("store-");
            let case = format!("{call} number {when}: {fault}");
            assert!(publish(root.path(), "old", "1", None).status.success(), "{case}");
            let inject = format!("{call}:{fault}:when={when}");
            let out = publish(root.path(), key, "2", Some(&inject));
            if out.status.success() {
                assert_eq!(seen(root.path(), &case), after, "{case}: success was claimed");
                break;
            }
            hits += 1;
            assert!(when < 500, "{case}: {out:?}");
            let found = seen(root.path(), &case);
            assert!(found == before || found == after, "{case}: {found:?}");
            verify(&out, &case);
            let next = publish(root.path(), key, "2", None);
            assert!(next.status.success(), "{case}: the next one: {next:?}");
            assert_eq!(seen(root.path(), &case), after, "{case}");
            let left: Vec<_> =
                std::fs::read_dir(root.path().join("var/lib/zfs-prefix/store/6.1.0"))
                    .unwrap()
                    .map(|e| e.unwrap().file_name().into_string().unwrap())
                    .filter(|name| name.starts_with(".staging"))
                    .collect();
            assert!(left.is_empty(), "{case}: {left:?} is left");
        }
    }
    hits
}

#[test]
fn killed_at_any_system_call_the_store_is_as_before_or_as_after() {
    for key in ["new", "old"] {
        let hits = at_every_call(key, "signal=KILL", |_, _| {});
        assert!(hits > 40, "{key}: only {hits} calls were hit");
    }
}

#[test]
fn a_full_disk_at_any_write_is_reported_as_17_and_the_store_is_as_before_or_as_after() {
    let hits = at_every_call("new", "error=ENOSPC", |out, case| {
        let text = String::from_utf8_lossy(&out.stderr);
        // Calls before main belong to the run-time linker, which has its own words and status.
        if case.starts_with("openat") || case.starts_with("write") && text.is_empty() {
            return;
        }
        assert_eq!(out.status.code(), Some(17), "{case}: {text}");
    });
    assert!(hits > 20, "only {hits} calls were hit");
}
