//! The real units of systemd and OpenZFS, from the packages of the Debian this machine runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::{entries, lab};

const PACKAGES: [&str; 4] = ["systemd", "udev", "zfsutils-linux", "zfs-zed"];

/// A root directory with the unpacked packages, kept in target/lab. Never write into it.
pub fn unpacked() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let root = lab().join("units-root");
        if !root.exists() {
            unpack(&root);
        }
        root
    })
}

fn unpack(root: &Path) {
    let work = lab().join(format!("units-root.{}", std::process::id()));
    let debs = work.join("debs");
    fs::create_dir_all(&debs).unwrap();
    download(&work, &debs);
    let tree = work.join("root");
    for name in ["bin", "sbin", "lib"] {
        fs::create_dir_all(tree.join("usr").join(name)).unwrap();
        std::os::unix::fs::symlink(format!("usr/{name}"), tree.join(name)).unwrap();
    }
    let found: Vec<_> = entries(&debs).into_iter().filter(|n| n.ends_with(".deb")).collect();
    assert_eq!(found.len(), PACKAGES.len(), "downloaded: {found:?}");
    for deb in found {
        run(Command::new("sh")
            .args([
                "-c",
                "dpkg-deb --fsys-tarfile \"$1\" | tar -x --keep-directory-symlink -C \"$2\"",
            ])
            .arg("sh")
            .args([&debs.join(deb), &tree]));
    }
    assert!(tree.join("usr/lib/systemd/system/zfs-import-cache.service").exists());
    assert!(tree.join("usr/lib/systemd/system/local-fs.target").exists());
    // Whoever comes second finds it there and loses nothing.
    let _ = fs::rename(&tree, root);
    fs::remove_dir_all(&work).unwrap();
}

/// With the machine's own sources plus `contrib`, in directories of our own: the machine's lists
/// stay as they are.
fn download(work: &Path, into: &Path) {
    let parts = work.join("parts");
    for directory in ["parts", "lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(work.join(directory)).unwrap();
    }
    let (deb822, one_line) = ("/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list");
    if let Ok(text) = fs::read_to_string(deb822) {
        let with_contrib = |line: &str| match line.strip_prefix("Components:") {
            Some(rest) if !rest.contains("contrib") => format!("{line} contrib\n"),
            _ => format!("{line}\n"),
        };
        let text: String = text.lines().map(with_contrib).collect();
        fs::write(parts.join("debian.sources"), text).unwrap();
    } else {
        let text = fs::read_to_string(one_line)
            .unwrap_or_else(|e| panic!("neither {deb822} nor {one_line}: {e}"));
        let debian = text.lines().filter(|l| l.starts_with("deb ") && l.contains(" main"));
        let text: String = debian.map(|l| format!("{l} contrib\n")).collect();
        fs::write(parts.join("debian.list"), text).unwrap();
    }
    let options = [
        "Dir::Etc::SourceList=/dev/null".to_owned(),
        format!("Dir::Etc::SourceParts={}", parts.display()),
        format!("Dir::State::Lists={}", work.join("lists").display()),
        format!("Dir::Cache={}", work.join("cache").display()),
        "APT::Sandbox::User=root".to_owned(),
    ];
    for verb in [&["update"][..], &[&["download"][..], &PACKAGES].concat()] {
        let mut apt = Command::new("apt-get");
        apt.current_dir(into);
        for option in &options {
            apt.args(["-o", option]);
        }
        run(apt.args(verb));
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
}
