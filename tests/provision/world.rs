//! A machine in a directory: a home for a prefix, configuration, keys, archives.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use lab::files::{entries, scratch};

/// The owner; this machine has no user of that number.
pub const OWNER: u32 = 4242;

/// The machine.
pub struct World {
    _dir: tempfile::TempDir,
    pub root: PathBuf,
    /// The authority's certificate that the machine trusts.
    pub authority: PathBuf,
    /// Where archives and keys are.
    pub share: PathBuf,
}

/// How a run ended.
#[derive(Debug)]
pub struct Ran {
    pub status: Option<i32>,
    pub said: String,
}

impl World {
    pub fn new() -> World {
        let dir = scratch("provision-");
        let root = dir.path().join("root");
        let share = dir.path().join("share");
        let world = World { authority: dir.path().join("authority.pem"), _dir: dir, root, share };
        let build = world.modules().join("build");
        for path in [&world.home(), &world.root.join("proc"), &world.share, &build] {
            fs::create_dir_all(path).unwrap();
        }
        // The owner has to get to its home, and to read the program.
        fs::set_permissions(world._dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(world.root.join("proc/cmdline"), "quiet\n").unwrap();
        chown(world.home(), Some(OWNER), Some(OWNER)).expect("these tests run as root");
        world
    }

    /// Of the running kernel.
    pub fn modules(&self) -> PathBuf {
        let uname = nix::sys::utsname::uname().unwrap();
        self.root.join("usr/lib/modules").join(uname.release())
    }

    pub fn home(&self) -> PathBuf {
        self.root.join("home/core")
    }

    pub fn prefix(&self) -> PathBuf {
        self.home().join("gentoo")
    }

    pub fn downloads(&self) -> PathBuf {
        self.root.join("var/cache/zfs-prefix/download")
    }

    /// The configuration, beside prefix.path.
    pub fn configure(&self, prefix: &str) {
        let path = self.root.join("etc/zfs-prefix/config.toml");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("[prefix]\npath = {:?}\n{prefix}\n", self.prefix())).unwrap();
    }

    /// The command, to be run by hand.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zfs-prefix"));
        self.prepare(&mut command);
        command.args(["prefix", "provision"]).args(args);
        command
    }

    pub fn prepare(&self, command: &mut Command) {
        // Whatever proxy or authorities this machine has: the server is on loopback.
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").expect("a search path"))
            .env("ZFS_PREFIX_ROOT", &self.root)
            .env("SSL_CERT_FILE", &self.authority)
            .stdin(Stdio::null());
    }

    /// `zfs-prefix prefix provision`. The trees here are no toolchains: not audited.
    pub fn provision(&self, args: &[&str]) -> Ran {
        ran(self.command(args).arg("--no-audit").output().unwrap())
    }

    /// What is in the prefix's parent.
    pub fn listing(&self) -> Vec<String> {
        entries(&self.home())
    }

    /// Fails with this status, says this, and leaves the home as it was.
    pub fn refuses(&self, case: &str, status: i32, says: &str) {
        let before = self.listing();
        let ran = self.provision(&[]);
        assert_eq!(ran.status, Some(status), "{case}: {}", ran.said);
        assert!(ran.said.contains(says), "{case}: {}", ran.said);
        assert_eq!(self.listing(), before, "{case}: something is left");
    }

    /// A tree like a prefix, as an archive in `share`.
    pub fn archive(&self, name: &str, compression: &[&str]) -> PathBuf {
        let tree = self.tree();
        let archive = self.share.join(name);
        tool("tar", |tar| {
            tar.arg("-C").arg(&tree).args(compression).arg("-cf").arg(&archive).arg(".")
        });
        archive
    }

    /// The content of [`World::archive`].
    pub fn tree(&self) -> PathBuf {
        let tree = self.share.join("tree");
        if tree.exists() {
            return tree;
        }
        fs::create_dir_all(tree.join("usr/bin")).unwrap();
        fs::create_dir_all(tree.join("var/locked")).unwrap();
        let bash = tree.join("usr/bin/bash");
        fs::write(&bash, "a program\n").unwrap();
        fs::set_permissions(&bash, fs::Permissions::from_mode(0o755)).unwrap();
        fs::hard_link(&bash, tree.join("usr/bin/rbash")).unwrap();
        // Nothing that compresses (xorshift).
        let mut x = 1u64;
        let mut random = || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x.to_le_bytes()[3]
        };
        let noise: Vec<u8> = (0..300_000).map(|_| random()).collect();
        fs::write(tree.join("usr/noise"), noise).unwrap();
        fs::write(tree.join("var/locked/file"), "x").unwrap();
        let long = "d".repeat(120);
        fs::create_dir_all(tree.join(&long).join(&long)).unwrap();
        fs::write(tree.join(&long).join(&long).join("f"), "deep").unwrap();
        std::os::unix::fs::symlink("usr/bin", tree.join("bin")).unwrap();
        std::os::unix::fs::symlink(self.prefix().join("usr/bin/bash"), tree.join("sh")).unwrap();
        // Read-only directories are unpacked too, and removed again.
        fs::set_permissions(tree.join("var/locked"), fs::Permissions::from_mode(0o555)).unwrap();
        tool("touch", |t| t.args(["-d", "2014-03-01 12:00:00 UTC"]).arg(&bash));
        tree
    }

    /// A key pair of minisign; the public key.
    pub fn key(&self, name: &str) -> String {
        let (public, secret) = (self.share.join(format!("{name}.pub")), self.secret(name));
        tool("minisign", |m| m.args(["-G", "-W", "-f", "-p"]).arg(&public).arg("-s").arg(secret));
        fs::read_to_string(public).unwrap().lines().nth(1).unwrap().to_owned()
    }

    fn secret(&self, name: &str) -> PathBuf {
        self.share.join(format!("{name}.sec"))
    }

    /// Signs `file` as `<file>.minisig`.
    pub fn sign(&self, key: &str, file: &Path, more: &[&str]) {
        tool("minisign", |m| {
            m.arg("-S").args(more).arg("-s").arg(self.secret(key)).arg("-m").arg(file)
        });
    }

    /// The prefix is the tree of [`World::tree`], and nothing else is in the home.
    pub fn assert_provisioned(&self, case: &str) {
        assert_eq!(self.listing(), ["gentoo"], "{case}");
        let prefix = self.prefix();
        assert_eq!(
            fs::read(prefix.join("usr/noise")).unwrap(),
            fs::read(self.tree().join("usr/noise")).unwrap(),
            "{case}"
        );
        for name in ["", "usr", "usr/bin/bash", "bin", "var/locked/file", ".zfs-prefix.json"] {
            let meta = fs::symlink_metadata(prefix.join(name)).unwrap();
            assert_eq!((meta.uid(), meta.gid()), (OWNER, OWNER), "{case}: {name:?}");
        }
        assert_eq!(entries(&self.downloads()), [""; 0], "{case}: the download is gone");
    }
}

/// Runs a real tool, which has to succeed.
pub fn tool(name: &str, arguments: impl FnOnce(&mut Command) -> &mut Command) {
    let mut command = Command::new(name);
    arguments(&mut command);
    let out = command.stdin(Stdio::null()).output();
    let out = out.unwrap_or_else(|e| panic!("{name}: {e} (make setup)"));
    assert!(out.status.success(), "{command:?}: {out:?}");
}

pub fn ran(out: Output) -> Ran {
    let said = [out.stdout, out.stderr].concat();
    Ran { status: out.status.code(), said: String::from_utf8_lossy(&said).into_owned() }
}
