//! A machine in a directory, with the real prefix at its path, in a mount namespace of each run.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use lab::files::scratch;
use lab::openzfs::{self, Release};
use lab::root::ZFS;
use lab::tool::run;
use lab::turns::{Alone, Once};
use lab::{cache, prefix};

/// The prefix's owner; this machine has no user of that number.
pub const OWNER: u32 = 4242;
/// A suite with another OpenZFS than the prefix has.
const OTHER: &str = "2.1";

/// One run at a time uses the prefix: Portage locks what it works on.
static PREFIX: Alone = Alone::new();

pub struct World {
    _dir: tempfile::TempDir,
    pub root: PathBuf,
    /// The authority's certificate that the machine trusts.
    pub authority: PathBuf,
    /// Where sources and keys are.
    pub share: PathBuf,
}

/// How a run ended.
#[derive(Debug)]
pub struct Ran {
    pub status: Option<i32>,
    /// Its standard output, and both together.
    pub out: String,
    pub said: String,
}

impl Ran {
    /// The rest of the line that begins with this word.
    pub fn line(&self, word: &str) -> &str {
        let found = self.out.lines().find_map(|l| l.strip_prefix(word)?.strip_prefix(' '));
        found.unwrap_or_else(|| panic!("no line {word}: {}", self.said))
    }
}

impl World {
    /// In memory: what waits for the disk there would wait for everything that others write.
    pub fn new() -> World {
        let memory = tempfile::Builder::new().prefix("zfs-prefix-source-").tempdir_in("/dev/shm");
        World::at(memory.unwrap())
    }

    /// For what is large.
    pub fn on_disk() -> World {
        World::at(scratch("source-"))
    }

    fn at(dir: tempfile::TempDir) -> World {
        let (root, share) = (dir.path().join("root"), dir.path().join("share"));
        let world = World { authority: dir.path().join("authority.pem"), _dir: dir, root, share };
        for path in [&world.root.join("proc"), &world.share, &world.root.join("work")] {
            fs::create_dir_all(path).unwrap();
        }
        fs::set_permissions(world._dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(world.root.join("proc/cmdline"), "quiet\n").unwrap();
        // As much of a kernel as the ebuild looks at before it unpacks.
        let kernel = world.root.join("work/kernel");
        fs::create_dir_all(kernel.join("include/generated")).unwrap();
        for (name, text) in [
            ("Module.symvers", "x\n"),
            (".config", "x\n"),
            ("include/generated/utsrelease.h", "#define UTS_RELEASE \"6.1.0\"\n"),
        ] {
            fs::write(kernel.join(name), text).unwrap();
        }
        chown(world.root.join("work"), Some(OWNER), Some(OWNER)).expect("these tests run as root");
        world
    }

    pub fn configure(&self, text: &str) {
        let path = self.root.join("etc/zfs-prefix/config.toml");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// `obtain` (tests/source/obtain.rs), with the prefix in its place.
    pub fn obtain(&self, args: &[&str]) -> Ran {
        self.wrapped(&[], args)
    }

    /// The same, started by another program.
    pub fn wrapped(&self, by: &[&str], args: &[&str]) -> Ran {
        let _alone = PREFIX.lock();
        let script = format!(
            "mount -t tmpfs -o mode=755 tmpfs /home && mkdir -p /home/core/gentoo && \
             chown {OWNER}:{OWNER} /home/core && mount --bind \"$0\" /home/core/gentoo && exec \"$@\""
        );
        let output = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "--", "sh", "-c", &script])
            .arg(owned())
            .args(by)
            .arg(lab::program("obtain"))
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").expect("a search path"))
            .env("ZFS_PREFIX_ROOT", &self.root)
            .env("SSL_CERT_FILE", &self.authority)
            .stdin(Stdio::null())
            .output()
            .expect("unshare");
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = format!("{out}{}", String::from_utf8_lossy(&output.stderr));
        Ran { status: output.status.code(), out, said }
    }

    /// Ends with this status, says this, and leaves no tree and no file.
    pub fn refuses(&self, case: &str, args: &[&str], status: i32, says: &str) {
        let ran = self.obtain(args);
        assert_eq!(ran.status, Some(status), "{case}: {}", ran.said);
        assert!(ran.said.contains(says), "{case}: {}", ran.said);
        assert_eq!(self.trees(), [""; 0], "{case}: a tree is left");
    }

    pub fn cache(&self, name: &str) -> PathBuf {
        self.root.join("var/cache/zfs-prefix/sources").join(name)
    }

    /// The trees in the cache.
    pub fn trees(&self) -> Vec<String> {
        let Ok(listing) = fs::read_dir(self.cache("trees")) else { return Vec::new() };
        let names = listing.map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter(|name| !name.ends_with(".json")).collect()
    }

    /// A few real files of a real kernel: what is asked of a source, in `linux-6.1/`.
    pub fn small(&self) -> PathBuf {
        let tree = self.share.join("linux-6.1");
        if !tree.exists() {
            run(Command::new("cp").arg("-a").arg(few()).arg(&tree)).unwrap();
        }
        tree
    }

    /// [`World::small`] as an archive in `share`; `flag` is tar's for the compression.
    pub fn archive(&self, name: &str, flag: &str) -> PathBuf {
        let tree = self.small();
        let archive = self.share.join(name);
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(&self.share).args([flag, "-f"]).arg(&archive).arg("-c");
        run(tar.arg(tree.file_name().unwrap())).unwrap();
        archive
    }

    /// A patch of its README.
    pub fn patch(&self) -> PathBuf {
        let text = fs::read_to_string(self.small().join("README")).unwrap();
        let first = text.lines().next().unwrap();
        let patch = self.share.join("readme.patch");
        let header = "--- a/README\n+++ b/README\n@@ -1 +1,2 @@\n";
        fs::write(&patch, format!("{header}+patched\n {first}\n")).unwrap();
        patch
    }

    /// A new OpenPGP key: its public half as a file, and gpg with it.
    pub fn key(&self, name: &str) -> PathBuf {
        let public = self.share.join(format!("{name}.asc"));
        fs::create_dir(self.home(name)).unwrap();
        fs::set_permissions(self.home(name), fs::Permissions::from_mode(0o700)).unwrap();
        run(self
            .gpg(name)
            .args(["--pinentry-mode=loopback", "--passphrase=", "--quick-generate-key"])
            .args([name, "rsa2048", "default", "never"]))
        .unwrap();
        let text = run(self.gpg(name).args(["--armor", "--export"])).unwrap();
        fs::write(&public, text).unwrap();
        public
    }

    /// Has the public half of a key say that it was revoked.
    pub fn revoke(&self, name: &str) {
        let made = self.home(name).join("openpgp-revocs.d");
        let made = fs::read_dir(made).unwrap().next().unwrap().unwrap().path();
        // gpg keeps it from being imported by accident.
        let text = fs::read_to_string(made).unwrap().replace(":-----BEGIN", "-----BEGIN");
        let revocation = self.share.join("revocation");
        fs::write(&revocation, text).unwrap();
        run(self.gpg(name).arg("--import").arg(revocation)).unwrap();
        let text = run(self.gpg(name).args(["--armor", "--export"])).unwrap();
        fs::write(self.share.join(format!("{name}.asc")), text).unwrap();
    }

    pub fn home(&self, name: &str) -> PathBuf {
        self.share.join(format!("{name}.gnupg"))
    }

    fn gpg(&self, name: &str) -> Command {
        let mut gpg = Command::new("gpg");
        gpg.args(["--batch", "--quiet", "--homedir"]).arg(self.home(name));
        gpg
    }

    /// The detached signature of these bytes, armored.
    pub fn sign(&self, name: &str, bytes: &[u8]) -> Vec<u8> {
        let file = self.share.join("to-sign");
        fs::write(&file, bytes).unwrap();
        let mut gpg = self.gpg(name);
        gpg.args(["--armor", "--output", "-", "--detach-sign"]);
        run(gpg.arg(file)).unwrap().into_bytes()
    }
}

/// A copy of the prefix, its owner's.
fn owned() -> PathBuf {
    prefix::owned_by(OWNER).unwrap()
}

/// Debian's tarball of the kernel's source.
pub fn linux() -> PathBuf {
    lab::source::tarball().unwrap()
}

/// A few files of it, which are far apart in it.
fn few() -> &'static PathBuf {
    static FEW: Once<PathBuf> = Once::new();
    FEW.get(unpacked)
}

fn unpacked() -> PathBuf {
    let linux = linux();
    cache::artifact("linux-few", &[linux.as_os_str().as_encoded_bytes()], |to| {
        fs::create_dir(to)?;
        let files =
            ["Makefile", "Kbuild", "Kconfig", "README", "scripts/Makefile.modpost", "COPYING"];
        let mut tar = Command::new("tar");
        tar.arg("-xf").arg(&linux).args(["--strip-components=1", "--occurrence=1", "-C"]).arg(to);
        run(tar.args(files.map(|f| format!("linux-source-6.1/{f}")))).map(drop)
    })
    .unwrap()
}

/// The release of OpenZFS that the prefix has, and another one.
pub fn zfs() -> (Release, Release) {
    (openzfs::release(ZFS).unwrap(), openzfs::release(OTHER).unwrap())
}
