//! Private apts: any suite of the machine's own Debian archive, for any kind of machine, without
//! touching the machine's lists or packages.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::cache;
use super::tool::run;

/// The machine's own release: the laboratory's kernel is its, and the prefix is made of its packages.
pub const KERNEL: &str = "bookworm";
/// The release of the root image: another one, with another C library.
pub const ROOT: &str = "trixie";
/// Those that have `-updates` and `-security` beside them.
const STABLE: [&str; 2] = ["bookworm", "trixie"];
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Lists older than this are fetched again: packages that they name may be gone.
const FRESH: Duration = Duration::from_secs(24 * 3600);

/// OpenZFS is the same release in both: the backports' one, whose source the archive has too.
const PREFERENCES: &str =
    "Package: src:zfs-linux\nPin: release n=bookworm-backports\nPin-Priority: 990\n";

/// The private apt state of one suite and kind of machine, below `<lab>/apt`.
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
    /// The state of a suite for this kind of machine; package lists are fetched when there are none
    /// or they are old.
    ///
    /// # Errors
    /// The archive cannot be reached, or the machine has none.
    pub fn open(suite: &str) -> Result<Apt> {
        Apt::open_for(suite, "amd64")
    }

    /// The same for another kind of machine (`dpkg --print-architecture` there).
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

    /// A state with these lines of sources.list, in which MAIN and SECURITY are replaced.
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

    /// Runs `ask`; when that fails, once more with new package lists: an archive changes daily, and
    /// does not keep what its lists no longer name.
    pub(crate) fn with_new_lists<T>(&self, ask: impl Fn() -> Result<T>) -> Result<T> {
        ask().or_else(|first| {
            let _lock = self.lock()?;
            self.update_for(&first)?;
            ask()
        })
    }

    fn update_for(&self, failed: &anyhow::Error) -> Result<()> {
        eprintln!("lab: {failed:#}\nlab: once more with new package lists");
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
        // Not where the files are: apt-get prints no URI for a file that it finds there.
        c.current_dir(&self.dir);
        c
    }

    /// What a package depends on, without versions and second choices. `NAME` or `NAME=VERSION`.
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

    /// What installing `packages` into nothing would install: sorted `name version` lines.
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

    /// The .deb of `package` (`NAME` or `NAME=VERSION`), downloaded when it is not there.
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
                    "the index of {} names {}, and the archive does not give it away: it is being changed, or its mirror is not complete. Wait and try again",
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

/// sources.list: MAIN is the archive that this machine gets its own packages from, SECURITY where
/// it gets their security updates; without such a one those lines are left out.
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
        // Mirrors of unstable may be days behind; what they have is signed all the same.
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
