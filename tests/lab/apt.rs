//! A private apt: the machine's own Debian archive with the components and suites that have
//! OpenZFS, without touching the machine's lists or packages.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::tool::run;

/// The machine's own release: the kernel is its, and the prefix is made of its packages.
pub const KERNEL: &str = "bookworm";
/// The release of the root image: another one, with another C library.
pub const ROOT: &str = "trixie";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Lists older than this are fetched again: packages that they name may be gone.
const FRESH: Duration = Duration::from_secs(24 * 3600);

/// OpenZFS is the same release in both: the backports' one, whose source the archive has too.
pub const PREFERENCES: &str =
    "Package: src:zfs-linux\nPin: release n=bookworm-backports\nPin-Priority: 990\n";

/// The private apt state of one release, below `<lab>/apt`.
pub struct Apt {
    /// The release's name.
    pub suite: &'static str,
    dir: PathBuf,
}

/// A source tarball that the archive offers.
struct Remote {
    uri: String,
    file: String,
    hash: String,
}

impl Apt {
    /// Opens the state, and fetches the package lists when there are none or they are old.
    pub fn open(suite: &'static str) -> Result<Apt> {
        let _lock = super::cache::lock("apt")?;
        let apt = Apt { suite, dir: super::dir().join("apt").join(suite) };
        for d in ["lists/partial", "cache/archives/partial", "files"] {
            fs::create_dir_all(apt.dir.join(d))?;
        }
        fs::write(apt.sources(), sources(suite)?)?;
        fs::write(apt.preferences(), PREFERENCES)?;
        fs::write(apt.config(), apt.configuration())?;
        let stamp = apt.dir.join("updated");
        let age = fs::metadata(&stamp).ok().and_then(|m| m.modified().ok()?.elapsed().ok());
        if age.is_none_or(|age| age > FRESH) {
            run(apt.command("apt-get").args(["--error-on=any", "update"]))?;
            fs::write(stamp, "")?;
        }
        Ok(apt)
    }

    /// The sources.list, also for mmdebstrap.
    pub fn sources(&self) -> PathBuf {
        self.dir.join("sources.list")
    }

    /// The preferences, also for mmdebstrap.
    pub fn preferences(&self) -> PathBuf {
        self.dir.join("preferences")
    }

    /// The apt.conf, for `$APT_CONFIG`.
    pub fn config(&self) -> PathBuf {
        self.dir.join("apt.conf")
    }

    fn configuration(&self) -> String {
        let d = self.dir.display();
        format!(
            "Dir::State::lists \"{d}/lists\";\nDir::State::status \"/dev/null\";\n\
             Dir::Cache \"{d}/cache\";\nDir::Etc::SourceList \"{d}/sources.list\";\n\
             Dir::Etc::SourceParts \"/dev/null\";\nDir::Etc::Preferences \"{d}/preferences\";\n\
             Dir::Etc::PreferencesParts \"/dev/null\";\nAPT::Sandbox::User \"root\";\n\
             APT::Install-Recommends \"false\";\n"
        )
    }

    fn command(&self, program: &str) -> Command {
        let mut c = Command::new(program);
        c.env("APT_CONFIG", self.config()).env("LC_ALL", "C");
        // Not where the files are: apt-get prints no URI for a file that it finds there.
        c.current_dir(&self.dir);
        c
    }

    /// The kernel release that `linux-image-cloud-amd64` stands for.
    pub fn cloud_kernel(&self) -> Result<String> {
        let out = run(self.command("apt-cache").args(["depends", "linux-image-cloud-amd64"]))?;
        out.lines()
            .find_map(|l| l.trim().strip_prefix("Depends: linux-image-"))
            .map(str::to_owned)
            .with_context(|| format!("linux-image-cloud-amd64 depends on no kernel:\n{out}"))
    }

    /// The packages with the headers of a kernel: its own, those it shares, and their programs.
    pub fn headers(&self, release: &str) -> Result<Vec<String>> {
        let package = format!("linux-headers-{release}");
        let out = run(self.command("apt-cache").args(["depends", &package]))?;
        let depends = out.lines().filter_map(|l| l.trim().strip_prefix("Depends: "));
        let needed =
            depends.filter(|d| d.starts_with("linux-headers-") || d.starts_with("linux-kbuild-"));
        let mut all: Vec<String> = needed.map(str::to_owned).collect();
        if all.is_empty() {
            bail!("{package} depends on no other headers:\n{out}");
        }
        all.push(package);
        Ok(all)
    }

    /// What installing `packages` into nothing would install: sorted `name version` lines.
    pub fn plan(&self, packages: &[String]) -> Result<String> {
        let out = run(self.command("apt-get").args(["-s", "install"]).args(packages))?;
        let plan: BTreeSet<String> = out
            .lines()
            .filter_map(|l| l.strip_prefix("Inst "))
            .map(|l| l.split(' ').take(2).collect::<Vec<_>>().join(" "))
            .collect();
        if plan.is_empty() {
            bail!("apt-get -s install {packages:?} planned nothing:\n{out}");
        }
        Ok(plan.into_iter().collect::<Vec<_>>().join("\n"))
    }

    /// The .deb of `package`, downloaded when it is not there.
    pub fn deb(&self, package: &str) -> Result<PathBuf> {
        let _lock = super::cache::lock("apt")?;
        let uris = run(self.command("apt-get").args(["download", "--print-uris", package]))?;
        self.fetch(&remote(&uris, ".deb")?)
    }

    /// The upstream source archive (`.orig.tar.gz`) of the source package `name` of version
    /// `version`. Only that file: some mirrors do not have the .dsc of backports.
    pub fn orig(&self, name: &str, version: &str) -> Result<PathBuf> {
        let _lock = super::cache::lock("apt")?;
        let args = ["source", "--print-uris", "--download-only"];
        let uris = run(self.command("apt-get").args(args).arg(format!("{name}={version}")))?;
        self.fetch(&remote(&uris, ".orig.tar.gz")?)
    }

    /// The version of `package` that would be installed.
    pub fn version(&self, package: &str) -> Result<String> {
        let out = run(self.command("apt-cache").args(["policy", package]))?;
        out.lines()
            .find_map(|l| l.trim().strip_prefix("Candidate: "))
            .map(str::to_owned)
            .with_context(|| format!("{package}: not in the archive (contrib missing?)\n{out}"))
    }

    fn fetch(&self, remote: &Remote) -> Result<PathBuf> {
        let path = self.dir.join("files").join(&remote.file);
        if !path.exists() {
            let partial = self.dir.join(format!("{}.partial", remote.file));
            let mut helper = self.command("/usr/lib/apt/apt-helper");
            run(helper.args(["download-file", &remote.uri]).arg(&partial).arg(&remote.hash))?;
            fs::rename(partial, &path)?;
        }
        Ok(path)
    }
}

/// The line of `apt-get --print-uris` for the file that ends in `suffix`: URI in quotes, name,
/// size, hash.
fn remote(uris: &str, suffix: &str) -> Result<Remote> {
    for line in uris.lines() {
        let mut words = line.split(' ');
        if let (Some(uri), Some(file), Some(_size), Some(hash)) =
            (words.next(), words.next(), words.next(), words.next())
            && file.ends_with(suffix)
        {
            let uri = uri.trim_matches('\'').to_owned();
            return Ok(Remote { uri, file: file.to_owned(), hash: hash.to_owned() });
        }
    }
    bail!("no file {suffix} in the answer of apt-get --print-uris:\n{uris}")
}

/// sources.list from the machine's own configuration: the same archives for `suite`, contrib and
/// the backports with OpenZFS added.
fn sources(suite: &str) -> Result<String> {
    let targets = run(Command::new("apt-get")
        .args(["indextargets", "--format", "$(REPO_URI) $(RELEASE)"])
        .arg("Created-By: Packages"))?;
    let uri = |suite: &str| {
        targets.lines().find_map(|l| l.split_once(' ').filter(|(_, c)| *c == suite)).map(|l| l.0)
    };
    let main = uri(KERNEL).with_context(|| {
        format!(
            "apt has no lists of {KERNEL}: run `apt-get update` on a Debian 12 machine\n{targets}"
        )
    })?;
    let by =
        if Path::new(KEYRING).exists() { format!("[signed-by={KEYRING}]") } else { String::new() };
    let mut list = format!(
        "deb {by} {main} {suite} main contrib\n\
         deb {by} {main} {suite}-updates main contrib\n\
         deb {by} {main} {KERNEL}-backports contrib\n\
         deb-src {by} {main} {KERNEL}-backports contrib\n"
    );
    if let Some(security) = uri(&format!("{KERNEL}-security")) {
        list += &format!("deb {by} {security} {suite}-security main contrib\n");
    }
    Ok(list)
}
