//! Copies of the real prefix to be damaged: hard links, so that each costs a moment. A file is
//! therefore replaced and never written to.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use lab::cache;
use lab::prefix::EPREFIX;
use lab::tool::run;

/// Who has the prefix.
const OWNER: u32 = 500;

/// One finding of the JSON report.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    pub severity: String,
    pub check: String,
    pub file: String,
    pub problem: String,
    pub cure: String,
}

/// The findings of a report.
pub fn findings(report: &Value) -> BTreeSet<Found> {
    let found = |f: &Value| {
        let text = |key: &str| f[key].as_str().unwrap_or_else(|| panic!("{key} of {f}")).to_owned();
        Found {
            severity: text("severity"),
            check: text("check"),
            file: text("file"),
            problem: text("problem"),
            cure: text("cure"),
        }
    };
    report["findings"].as_array().unwrap_or_else(|| panic!("{report}")).iter().map(found).collect()
}

/// The prefix, its owner's. Shared: copy it, never change it.
pub fn pristine() -> PathBuf {
    lab::prefix::owned_by(OWNER).unwrap()
}

/// The program, on a host whose files are below `root`.
pub fn zfs_prefix(root: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_zfs-prefix"));
    command.env("ZFS_PREFIX_ROOT", root);
    command
}

/// Compiles a C program with the host's gcc.
pub fn compile(to: &Path, args: &[&str]) {
    let source = to.with_extension("c");
    let needs_main = if args.contains(&"-shared") { "int f(void)" } else { "int main(void)" };
    fs::write(&source, format!("#include <stdio.h>\n{needs_main} {{ return puts(\"x\") < 0; }}\n"))
        .unwrap();
    run(Command::new("gcc").arg("-o").arg(to).arg(&source).args(args)).unwrap();
}

/// A copy of a tree, and a host around it.
pub struct Copy {
    dir: tempfile::TempDir,
}

impl Copy {
    pub fn of(tree: &Path) -> Copy {
        let dir = lab::tmp::scratch("audit-");
        let to = dir.path().join("tree");
        // Another file system has no links to this one's files.
        let link = run(Command::new("cp").arg("-al").arg(tree).arg(&to));
        if link.is_err() {
            cache::remove(&to).unwrap();
            run(Command::new("cp").arg("-a").arg(tree).arg(&to)).unwrap();
        }
        let copy = Copy { dir };
        copy.host("proc/cmdline", "quiet\n");
        copy.host("etc/hostname", "lab\n");
        fs::create_dir_all(copy.dir.path().join("host/lib")).unwrap();
        copy
    }

    /// A directory beside it.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join("tree").join(path)
    }

    /// Writes a file of the host.
    pub fn host(&self, path: &str, text: &str) {
        let path = self.dir.path().join("host").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn remove(&self, path: &str) {
        fs::remove_file(self.path(path)).unwrap();
    }

    pub fn write(&self, path: &str, bytes: &[u8], mode: u32) {
        let mut made = vec![];
        let to = self.path(path);
        for dir in to.ancestors().skip(1).take_while(|dir| !dir.exists()) {
            made.push(dir.to_owned());
        }
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        made.iter().for_each(|dir| chown(dir, Some(OWNER), Some(OWNER)).unwrap());
        cache::remove(&to).unwrap();
        fs::write(&to, bytes).unwrap();
        chown(&to, Some(OWNER), Some(OWNER)).unwrap();
        fs::set_permissions(&to, Permissions::from_mode(mode)).unwrap();
    }

    pub fn directory(&self, path: &str, mode: u32) {
        fs::create_dir(self.path(path)).unwrap();
        chown(self.path(path), Some(OWNER), Some(OWNER)).unwrap();
        fs::set_permissions(self.path(path), Permissions::from_mode(mode)).unwrap();
    }

    pub fn link(&self, path: &str, target: &str) {
        // Makes the directories, too.
        self.write(path, b"", 0o644);
        self.remove(path);
        symlink(target, self.path(path)).unwrap();
        std::os::unix::fs::lchown(self.path(path), Some(OWNER), Some(OWNER)).unwrap();
    }

    /// A program (or what `args` say) compiled by the host's gcc.
    pub fn program(&self, path: &str, args: &[&str]) {
        let compiled = self.dir.path().join("compiled");
        compile(&compiled, args);
        self.write(path, &fs::read(&compiled).unwrap(), 0o755);
    }

    /// Changes a file's bytes; its mode stays.
    pub fn edit(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let file = fs::canonicalize(self.path(path)).unwrap();
        let file = file.strip_prefix(self.path("").canonicalize().unwrap()).unwrap();
        let path = file.to_str().unwrap();
        let mode = fs::metadata(self.path(path)).unwrap().permissions().mode();
        let mut bytes = fs::read(self.path(path)).unwrap();
        change(&mut bytes);
        self.write(path, &bytes, mode & 0o7777);
    }

    pub fn chmod(&self, path: &str, mode: u32) {
        let file = fs::metadata(self.path(path)).unwrap();
        let links = std::os::unix::fs::MetadataExt::nlink(&file);
        assert_eq!(links, 1, "{path} is shared with the pristine tree");
        fs::set_permissions(self.path(path), Permissions::from_mode(mode)).unwrap();
    }

    /// Lets the owner come to it.
    pub fn open_to_all(&self) {
        fs::set_permissions(self.dir.path(), Permissions::from_mode(0o755)).unwrap();
    }

    fn arguments(&self) -> [String; 5] {
        let tree = self.path("").display().to_string();
        ["prefix", "audit", &tree, "--eprefix", EPREFIX].map(str::to_owned)
    }

    /// The exit status and the JSON report.
    pub fn audit(&self) -> (Option<i32>, Value) {
        let mut command = zfs_prefix(&self.dir.path().join("host"));
        report(command.args(self.arguments()).arg("--json"))
    }

    /// The audit, run by another command.
    pub fn audited_by(&self, command: &[&str]) -> Output {
        let mut by = Command::new(command[0]);
        by.args(&command[1..]).arg(env!("CARGO_BIN_EXE_zfs-prefix")).args(self.arguments());
        by.env("ZFS_PREFIX_ROOT", self.dir.path().join("host")).output().unwrap()
    }

    /// The same without root's rights.
    pub fn audit_as_owner(&self) -> (Option<i32>, Value) {
        let program = self.dir.path().join("zfs-prefix");
        fs::copy(env!("CARGO_BIN_EXE_zfs-prefix"), &program).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--reuid=500", "--regid=500", "--clear-groups", "--inh-caps=-all"]);
        command.arg(program).env("ZFS_PREFIX_ROOT", self.dir.path().join("host"));
        report(command.args(self.arguments()).arg("--json"))
    }

    pub fn audit_as_text(&self) -> String {
        let mut command = zfs_prefix(&self.dir.path().join("host"));
        let output = command.args(self.arguments()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs the program where this copy is EPREFIX: in a mount namespace with it there.
    pub fn in_place(&self, args: &[&str]) -> (Option<i32>, String) {
        // Descriptors, because /home may hide tree and program.
        const SCRIPT: &str = "exec 8<\"$1\" 9<\"$2\" && eprefix=$3 && shift 3 && \
            mount -t tmpfs -o mode=755 tmpfs /home && mkdir -p \"$eprefix\" && \
            mount --bind /proc/self/fd/9 \"$eprefix\" && exec 9<&- && exec /proc/self/fd/8 \"$@\"";
        let output = Command::new("unshare")
            .args(["--mount", "bash", "-c", SCRIPT, "bash", env!("CARGO_BIN_EXE_zfs-prefix")])
            .arg(self.path(""))
            .arg(EPREFIX)
            .args(args)
            .env("ZFS_PREFIX_ROOT", self.dir.path().join("host"))
            .output()
            .unwrap();
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        (output.status.code(), text)
    }
}

fn report(command: &mut Command) -> (Option<i32>, Value) {
    let output = command.output().unwrap();
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{command:?}: {error}: {output:?}"));
    (output.status.code(), report)
}
