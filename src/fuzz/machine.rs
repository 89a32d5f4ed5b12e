//! A machine below a temporary directory. A target may write to only one directory of it.

use std::fs::{self, File};
use std::io::{Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::host::Host;
use crate::systemd::name::{LONGEST, is_unit};

/// The directory that a target writes to, and around it files that the target must not touch.
pub(super) struct Machine {
    root: TempDir,
    /// The directory that the target may write to. It is emptied before each input.
    pub(super) tree: PathBuf,
}

impl Machine {
    fn new(tree: &str) -> Machine {
        let root = tempfile::tempdir().unwrap();
        let tree = root.path().join(tree);
        fs::create_dir_all(&tree).unwrap();
        let machine = Machine { root, tree };
        for canary in ["etc/passwd", "run/canary", "home/core/canary", "home/canary", "dev/kmsg"] {
            machine.write(canary, b"canary");
        }
        machine
    }

    pub(super) fn root(&self) -> &Path {
        self.root.path()
    }

    /// The machine with this kernel command line.
    pub(super) fn host(&self, cmdline: &str) -> Host {
        Host {
            root: self.root().to_owned(),
            kernel_release: "6.1.0".parse().unwrap(),
            cmdline: cmdline.to_owned(),
            container: false,
            in_initrd: false,
        }
    }

    /// Writes a file and the directories above it. Returns its path.
    pub(super) fn write(&self, path: &str, bytes: &[u8]) -> PathBuf {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    /// Runs `work` with an empty tree. Asserts that nothing around the tree changes but the kernel
    /// log, and that the tree has no special files, and none that are setuid, setgid, sticky or
    /// writable by others.
    pub(super) fn check(&self, work: impl FnOnce()) {
        for entry in fs::read_dir(&self.tree).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                fs::remove_dir_all(entry.path()).unwrap()
            } else {
                fs::remove_file(entry.path()).unwrap()
            }
        }
        self.write("dev/kmsg", b"");
        let before = self.around();
        work();
        assert_eq!(self.around(), before);
        for path in below(&self.tree, &|_| true) {
            let meta = fs::symlink_metadata(&path).unwrap();
            let kinds = meta.is_file() || meta.is_dir() || meta.is_symlink();
            let rights = meta.is_symlink() || meta.mode() & 0o7002 == 0;
            assert!(kinds && rights, "{}: {:o}", path.display(), meta.mode());
        }
    }

    /// Everything outside of the tree: mode, size, links, and time of the last change.
    fn around(&self) -> Vec<(PathBuf, [i64; 2], [u64; 3])> {
        let log = self.root().join("dev/kmsg");
        let other = |path: &Path| path != self.tree && path != log;
        let state = |path: PathBuf| {
            let meta = fs::symlink_metadata(&path).unwrap();
            let size = if meta.is_file() { meta.len() } else { 0 };
            let changed = [meta.ctime(), meta.ctime_nsec()];
            (path, changed, [meta.mode().into(), size, meta.nlink()])
        };
        let mut around: Vec<_> = below(self.root(), &other).into_iter().map(state).collect();
        around.sort_unstable();
        around
    }

    /// Asserts that the generator wrote only files and links with names of units, and directories
    /// of such.
    pub(super) fn units(&self) {
        for path in below(&self.tree, &|_| true) {
            let name = path.strip_prefix(&self.tree).unwrap().to_str().unwrap();
            let meta = fs::symlink_metadata(&path).unwrap();
            match name.split('/').collect::<Vec<_>>()[..] {
                ["normal" | "early"] => assert!(meta.is_dir()),
                [_, directory] if meta.is_dir() => {
                    let (of, kind) = directory.rsplit_once('.').unwrap();
                    assert!(["wants", "requires", "d"].contains(&kind) && is_unit(of), "{name}");
                }
                [_, directory, file] if directory.ends_with(".d") => {
                    assert!(file.ends_with(".conf"), "{name}");
                }
                [_, unit] | [_, _, unit] => {
                    // is_unit() allows only shorter names: it leaves room for `.requires` of a
                    // directory. So only the end of the name is checked.
                    let end = unit.get(unit.len().saturating_sub(LONGEST - 9)..);
                    assert!(unit.len() <= LONGEST && end.is_some_and(is_unit), "{name}");
                }
                _ => panic!("{name}"),
            }
            if meta.is_file() {
                settings(&fs::read_to_string(&path).unwrap());
            }
        }
    }
}

/// Asserts that each line of a unit is a comment, the name of a section, or a setting, and that no
/// line continues on the next.
fn settings(text: &str) {
    assert!(text.starts_with("# Automatically generated by zfs-prefix-generator"), "{text}");
    for line in text.strip_suffix('\n').unwrap().split('\n') {
        let letters = |key: &str| !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric());
        let setting = line.split_once('=').is_some_and(|(key, _)| letters(key));
        let whole = !line.ends_with('\\') && !line.contains(char::is_control);
        let other = line.is_empty() || line.starts_with(['#', '[']);
        assert!(whole && (setting || other), "{line:?} in {text}");
    }
}

/// Everything below `dir` for which `with` is true, in no order. Links are not followed.
fn below(dir: &Path, with: &dyn Fn(&Path) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if with(&path) {
            found.push(path.clone());
            if entry.file_type().unwrap().is_dir() {
                found.extend(below(&path, with));
            }
        }
    }
    found
}

/// A machine to unpack an archive on, with the tree as deep as on a real machine.
pub(super) fn with_a_tree() -> &'static Machine {
    static MACHINE: OnceLock<Machine> = OnceLock::new();
    MACHINE.get_or_init(|| Machine::new("home/core/gentoo"))
}

/// A machine with the static units.
pub(super) fn with_units() -> &'static Machine {
    static MACHINE: OnceLock<Machine> = OnceLock::new();
    MACHINE.get_or_init(|| {
        let machine = Machine::new("output");
        let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("units");
        for path in below(&units, &|_| true).iter().filter(|path| path.is_file()) {
            let name = path.strip_prefix(&units).unwrap().to_str().unwrap();
            let to = match name.strip_prefix("dropins/") {
                Some(name) => format!("usr/lib/zfs-prefix/dropins/{name}"),
                None => format!("usr/lib/systemd/system/{name}"),
            };
            machine.write(&to, &fs::read(path).unwrap());
        }
        machine
    })
}

/// A file with this content and no name.
pub(super) fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

/// Gives a tar archive the right checksums and an end mark: a fuzzer does not find checksums by
/// trying. Other bytes stay as they are.
pub(super) fn repaired(bytes: &[u8]) -> Vec<u8> {
    let is_header = |block: &[u8]| block.get(257..262) == Some(b"ustar");
    let mut bytes = bytes.to_vec();
    if !is_header(&bytes) {
        return bytes;
    }
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    for block in bytes.chunks_exact_mut(512).filter(|block| is_header(block)) {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    bytes.extend([0; 1024]);
    bytes
}
