//! A real kernel's modules: Debian's stock cloud kernel, from the archive this machine uses.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The unpacked package, kept in target/lab. Never write into it.
pub fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let lab = target.parent().unwrap().join("lab");
        let package = package();
        let root = lab.join(&package);
        if !root.exists() {
            unpack(&lab, &package, &root);
        }
        root
    })
}

/// The kernel release: the name of its directory.
pub fn release() -> String {
    let mut names = fs::read_dir(root().join("lib/modules")).unwrap();
    names.next().unwrap().unwrap().file_name().into_string().unwrap()
}

/// All module files, sorted.
pub fn modules() -> Vec<PathBuf> {
    let mut all = Vec::new();
    walk(&root().join("lib/modules"), &mut all);
    all.sort();
    assert!(all.len() > 1000, "only {} modules in {}", all.len(), root().display());
    all
}

/// The file of the module with this file name (without `.ko`).
pub fn module(name: &str) -> PathBuf {
    let file = format!("{name}.ko");
    let found = modules().into_iter().find(|p| p.file_name().unwrap() == file.as_str());
    found.unwrap_or_else(|| panic!("the kernel package has no {file}"))
}

/// Runs a tool; its stdout. A tool that is missing or fails is a failed test.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {stderr}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn package() -> String {
    let depends = run(Command::new("apt-cache").args(["depends", "linux-image-cloud-amd64"]));
    let name = depends.lines().find_map(|l| l.trim().strip_prefix("Depends: "));
    name.unwrap_or_else(|| panic!("no kernel in the package lists: apt-get update?\n{depends}"))
        .to_owned()
}

fn unpack(lab: &Path, package: &str, root: &Path) {
    let work = lab.join(format!("{package}.{}", std::process::id()));
    fs::create_dir_all(&work).unwrap();
    let options = ["-o", "APT::Sandbox::User=root", "download", package];
    run(Command::new("apt-get").args(options).current_dir(&work));
    let mut debs = fs::read_dir(&work).unwrap();
    let deb = debs.next().unwrap().unwrap().path();
    run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(work.join("root")));
    // Whoever comes second finds it there and loses nothing.
    let _ = fs::rename(work.join("root"), root);
    fs::remove_dir_all(&work).unwrap();
}

fn walk(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, out);
        } else if path.extension().is_some_and(|e| e == "ko") {
            out.push(path);
        }
    }
}
