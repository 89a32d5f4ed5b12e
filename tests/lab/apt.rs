//! Private apt states, for any suite of the machine's own Debian archive and any architecture. They
//! do not touch the machine's lists or packages.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::cache;
use super::tool::run;

/// The machine's own release. The laboratory's kernel and the packages of the prefix come from it.
pub const KERNEL: &str = "bookworm";
/// The release of the root image. It is another one than the machine's, with another C library.
pub const ROOT: &str = "trixie";
/// The suites with `-updates` and `-security`.
const STABLE: [&str; 2] = ["bookworm", "trixie"];
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// The maximum age of package lists. The archive may lack packages that older lists name.
const FRESH: Duration = Duration::from_secs(24 * 3600);

/// Both suites get OpenZFS from the backports. The archive has the source of that release too.
const PREFERENCES: &str =
    "Package: src:zfs-linux\nPin: release n=bookworm-backports\nPin-Priority: 990\n";

/// The private apt state of one suite and architecture, below `<lab>/apt`.
#[derive(Clone, Debug)]
pub struct Apt {
    /// The suite's name.
    pub suite: String,
    dir: PathBuf,
}

/// A file that the archive offers.
struct Remote {
    uri: String,
    file: String,
    hash: String,
}

impl Apt {
    /// The state of a suite for this architecture. Fetches package lists if there are none or they
    /// are old.
    ///
    /// # Errors
    /// The archive cannot be reached, or the machine has no archive configured.
    pub fn open(suite: &str) -> Result<Apt> {
        Apt::open_for(suite, "amd64")
    }

    /// [`Apt::open`] for another architecture (as `dpkg --print-architecture` prints it).
    ///
    /// # Errors
    /// As [`Apt::open`].
    pub fn open_for(suite: &str, arch: &str) -> Result<Apt> {
        let more = if STABLE.contains(&suite) {
            vec![
                format!("deb MAIN {suite}-updates main contrib"),
                format!("deb SECURITY {suite}-security main contrib"),
                format!("deb MAIN {KERNEL}-backports contrib"),
            ]
        } else {
            vec![]
        };
        let own = format!("deb MAIN {suite} main contrib");
        let lines: Vec<String> = std::iter::once(own).chain(more).collect();
        Apt::of(suite, arch, &lines)
    }

    /// A state with these lines of sources.list. MAIN and SECURITY in them are replaced.
    pub(crate) fn of(name: &str, arch: &str, lines: &[String]) -> Result<Apt> {
        let own = format!("{name}-{arch}");
        let apt = Apt { suite: name.to_owned(), dir: super::dir().join("apt").join(&own) };
        let _lock = apt.lock()?;
        for d in ["lists/partial", "cache/archives/partial", "files"] {
            fs::create_dir_all(apt.dir.join(d))?;
        }
        let list = sources(lines)?;
        let old = fs::read_to_string(apt.sources()).unwrap_or_default();
        fs::write(apt.sources(), &list)?;
        fs::write(apt.preferences(), PREFERENCES)?;
        fs::write(apt.config(), apt.configuration(arch))?;
        let age = fs::metadata(apt.stamp()).ok().and_then(|m| m.modified().ok()?.elapsed().ok());
        if old != list || age.is_none_or(|age| age > FRESH) {
            apt.update()?;
        }
        Ok(apt)
    }

    fn lock(&self) -> Result<fs::File> {
        let name = self.dir.file_name().context("a name")?.to_string_lossy();
        cache::lock(&format!("apt-{name}"))
    }

    fn stamp(&self) -> PathBuf {
        self.dir.join("updated")
    }

    fn update(&self) -> Result<()> {
        run(self.command("apt-get").args(["--error-on=any", "update"]))?;
        Ok(fs::write(self.stamp(), "")?)
    }

    /// Runs `ask`. If that fails, fetches new package lists and runs it once more: an archive
    /// changes daily, and drops packages that its lists no longer name.
    pub(crate) fn with_new_lists<T>(&self, ask: impl Fn() -> Result<T>) -> Result<T> {
        ask().or_else(|first| {
            let _lock = self.lock()?;
            self.update_for(&first)?;
            ask()
        })
    }

    fn update_for(&self, failed: &anyhow::Error) -> Result<()> {
        eprintln!("lab: {failed:#}\nlab: trying again with new package lists");
        self.update()
    }

    /// The sources.list, also for mmdebstrap.
    #[must_use]
    pub fn sources(&self) -> PathBuf {
        self.dir.join("sources.list")
    }

    /// The preferences, also for mmdebstrap.
    #[must_use]
    pub fn preferences(&self) -> PathBuf {
        self.dir.join("preferences")
    }

    /// The apt.conf, for `$APT_CONFIG`.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.dir.join("apt.conf")
    }

    fn configuration(&self, arch: &str) -> String {
        let d = self.dir.display();
        format!(
            "Dir::State::lists \"{d}/lists\";\nDir::State::status \"/dev/null\";\n\
             Dir::Cache \"{d}/cache\";\nDir::Etc::SourceList \"{d}/sources.list\";\n\
             Dir::Etc::SourceParts \"/dev/null\";\nDir::Etc::Preferences \"{d}/preferences\";\n\
             Dir::Etc::PreferencesParts \"/dev/null\";\nAPT::Sandbox::User \"root\";\n\
             APT::Install-Recommends \"false\";\nAPT::Architecture \"{arch}\";\n\
             APT::Architectures {{ \"{arch}\"; }};\nAcquire::Languages \"none\";\n\
             Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n"
        )
    }

    pub(crate) fn command(&self, program: &str) -> Command {
        let mut c = Command::new(program);
        c.env("APT_CONFIG", self.config()).env("LC_ALL", "C");
        // Not the directory with the files: apt-get prints no URI for a file that it finds there.
        c.current_dir(&self.dir);
        c
    }

    /// The dependencies of a package (`NAME` or `NAME=VERSION`), without versions and second
    /// choices.
    ///
    /// # Errors
    /// There is no such package.
    pub fn depends(&self, package: &str) -> Result<Vec<String>> {
        let out = run(self.command("apt-cache").args(["show", "--no-all-versions", package]))?;
        let lists = out.lines().filter_map(|l| {
            l.strip_prefix("Depends: ").or_else(|| l.strip_prefix("Pre-Depends: "))
        });
        let first = |one: &str| one.trim().split([' ', '(', ':']).next().map(str::to_owned);
        Ok(lists.flat_map(|l| l.split(',').filter_map(first).collect::<Vec<_>>()).collect())
    }

    /// The versions of a package, the newest first.
    ///
    /// # Errors
    /// apt-cache is not there.
    pub fn versions(&self, package: &str) -> Result<Vec<String>> {
        let out = run(self.command("apt-cache").args(["madison", package]))?;
        let version = |line: &str| line.split('|').nth(1).map(|v| v.trim().to_owned());
        let mut versions: Vec<String> = Vec::new();
        // madison has them in this order.
        for version in out.lines().filter_map(version) {
            if !versions.contains(&version) {
                versions.push(version);
            }
        }
        Ok(versions)
    }

    /// The version of `package` that would be installed.
    ///
    /// # Errors
    /// There is no such package.
    pub fn version(&self, package: &str) -> Result<String> {
        let out = run(self.command("apt-cache").args(["policy", package]))?;
        let version = out.lines().find_map(|l| l.trim().strip_prefix("Candidate: "));
        version.filter(|v| *v != "(none)").map(str::to_owned).with_context(|| {
            format!("{package}: not in {} of this machine's archive\n{out}", self.suite)
        })
    }

    /// The packages that apt would install for `packages` on an empty system: sorted `name version`
    /// lines.
    ///
    /// # Errors
    /// They cannot be installed.
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

    /// The .deb of `package` (`NAME` or `NAME=VERSION`). Downloads it if it is not there.
    ///
    /// # Errors
    /// The archive does not have it.
    pub fn deb(&self, package: &str) -> Result<PathBuf> {
        let _lock = self.lock()?;
        let get = || {
            let args = ["download", "--print-uris", package];
            self.fetch(&remote(&run(self.command("apt-get").args(args))?, ".deb")?)
        };
        get().or_else(|first| self.update_for(&first).and_then(|()| get()))
    }

    /// The upstream source archive (`.orig.tar.gz`) of the source package `name` of version
    /// `version`. Only that file: some mirrors do not have the .dsc of backports.
    ///
    /// # Errors
    /// The archive does not have it.
    pub fn orig(&self, name: &str, version: &str) -> Result<PathBuf> {
        let _lock = self.lock()?;
        let args = ["source", "--print-uris", "--download-only", "--only-source"];
        let uris = run(self.command("apt-get").args(args).arg(format!("{name}={version}")))?;
        self.fetch(&remote(&uris, ".orig.tar.gz")?)
    }

    fn fetch(&self, remote: &Remote) -> Result<PathBuf> {
        let path = self.dir.join("files").join(&remote.file);
        if !path.exists() {
            let partial = self.dir.join(format!("{}.partial", remote.file));
            let mut helper = self.command("/usr/lib/apt/apt-helper");
            helper.args(["download-file", &remote.uri]).arg(&partial).arg(&remote.hash);
            run(&mut helper).with_context(|| {
                format!(
                    "the index of {} names {}, but the archive does not have it: the archive is being updated, or its mirror is incomplete. Wait and try again",
                    self.suite, remote.file
                )
            })?;
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

/// The text of sources.list. MAIN is the archive of this machine's own packages, SECURITY that of
/// its security updates. If the machine has no such archive, those lines are left out.
fn sources(lines: &[String]) -> Result<String> {
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
    let security = uri(&format!("{KERNEL}-security"));
    let mut list = String::new();
    for line in lines.iter().filter(|l| security.is_some() || !l.contains("SECURITY")) {
        let (kind, rest) = line.split_once(' ').context("a line of sources.list")?;
        // Mirrors of unstable may be days behind, but their lists are signed all the same.
        let late = if rest.contains(" sid ") { " check-valid-until=no" } else { "" };
        let by = if Path::new(KEYRING).exists() {
            format!("[signed-by={KEYRING}{late}]")
        } else {
            format!("[trusted=no{late}]")
        };
        let rest = rest.replace("MAIN", main).replace("SECURITY", security.unwrap_or_default());
        list += &format!("{kind} {by} {rest}\n");
    }
    Ok(list)
}
