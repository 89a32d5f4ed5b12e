//! A root image and a prefix in a private mount namespace of one test's own.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// EPREFIX.
pub const E: &str = "/home/core/gentoo";
/// What is tested.
pub const SHELL: &str = "zfs-prefix prefix shell";

/// Root image and prefix, and what is done to the copies of them before a command runs.
pub struct Scene {
    root: PathBuf,
    prefix: PathBuf,
    /// The kernel release whose build tree the root image has.
    pub release: String,
    before: String,
    after: String,
}

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    /// Its exit status; 128 + signal when killed by one.
    pub status: i32,
    /// Its standard output.
    pub output: String,
    /// Its standard error.
    pub errors: String,
}

impl Scene {
    /// The root image and the prefix as they are.
    pub fn new() -> Scene {
        let root = lab::root::root().unwrap();
        let prefix = lab::prefix::owned_by(lab::prefix::CORE).unwrap();
        let (before, after) = (String::new(), String::new());
        Scene { root: root.dir, prefix, release: root.release, before, after }
    }

    /// Runs in the root image when the prefix is not there yet.
    pub fn before(mut self, script: &str) -> Scene {
        self.before = script.to_owned();
        self
    }

    /// Runs in the root image with the prefix.
    pub fn after(mut self, script: &str) -> Scene {
        self.after = script.to_owned();
        self
    }

    /// A shell command line in the root image, as root, with a few variables in its environment.
    pub fn command(&self, line: &str) -> Command {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/enter/scene.sh");
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", script])
            .args([&self.root, &self.prefix])
            .arg(env!("CARGO_BIN_EXE_zfs-prefix"))
            .args([&self.before, &self.after])
            .args(["/bin/bash", "-c", line])
            .stdin(Stdio::null())
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LD_LIBRARY_PATH", "/usr/lib/x86_64-linux-gnu")
            .env("OF_THE_CALLER", "1");
        command
    }

    /// Runs a shell command line in the root image, as root.
    pub fn run(&self, line: &str) -> Ran {
        let out = self.command(line).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let status = out.status.code().unwrap_or_else(|| 128 + out.status.signal().unwrap());
        Ran { status, output: text(&out.stdout), errors: text(&out.stderr) }
    }

    /// Runs a shell command line in the prefix, which ends well; its output.
    pub fn inside(&self, options: &str, line: &str) -> String {
        let quoted = line.replace('\'', r"'\''");
        let ran = self.run(&format!("{SHELL} {options} -- bash -c '{quoted}'"));
        assert_eq!(ran.status, 0, "{line}: {ran:?}");
        ran.output.trim_end().to_owned()
    }
}
