//! The main component of any suite of the machine's own Debian archive, for any kind of machine.
//! Apart from `apt.rs`, which decides what the root image is made of, and with it how old it is.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::apt::KERNEL;
use super::tool::run;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Lists older than this are fetched again: packages that they name may be gone.
const FRESH: Duration = Duration::from_secs(24 * 3600);

/// A private apt state, below `<lab>/apt`.
pub struct Archive {
    dir: PathBuf,
}

impl Archive {
    /// Opens the state, and fetches the package lists when there are none or they are old.
    pub fn open(suite: &str, arch: &str) -> Result<Archive> {
        let _lock = super::cache::lock("apt")?;
        let archive = Archive { dir: super::dir().join("apt").join(format!("{suite}-{arch}")) };
        let dir = archive.dir.display();
        fs::create_dir_all(archive.dir.join("lists/partial"))?;
        fs::create_dir_all(archive.dir.join("cache/archives/partial"))?;
        let sources = format!("deb [signed-by={KEYRING}] {} {suite} main\n", uri()?);
        fs::write(archive.dir.join("sources.list"), sources)?;
        let configuration = format!(
            "Dir::State::lists \"{dir}/lists\";\nDir::State::status \"/dev/null\";\n\
             Dir::Cache \"{dir}/cache\";\nDir::Etc::SourceList \"{dir}/sources.list\";\n\
             Dir::Etc::SourceParts \"/dev/null\";\nDir::Etc::Preferences \"/dev/null\";\n\
             Dir::Etc::PreferencesParts \"/dev/null\";\nAPT::Sandbox::User \"root\";\n\
             APT::Architecture \"{arch}\";\nAPT::Architectures {{ \"{arch}\"; }};\n\
             Acquire::Languages \"none\";\n\
             Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n"
        );
        fs::write(archive.dir.join("apt.conf"), configuration)?;
        let stamp = archive.dir.join("updated");
        let age = fs::metadata(&stamp).ok().and_then(|m| m.modified().ok()?.elapsed().ok());
        if age.is_none_or(|age| age > FRESH) {
            run(archive.command("apt-get").args(["--error-on=any", "update"]))?;
            fs::write(stamp, "")?;
        }
        Ok(archive)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.dir.join("apt.conf")).env("LC_ALL", "C");
        command
    }

    /// What a package depends on, without versions and second choices.
    pub fn depends(&self, package: &str) -> Result<Vec<String>> {
        let out = run(self.command("apt-cache").args(["depends", package]))?;
        let names = out.lines().filter_map(|l| l.trim().strip_prefix("Depends: "));
        Ok(names.map(str::to_owned).collect())
    }

    /// The version of a package.
    pub fn version(&self, package: &str) -> Result<String> {
        let out = run(self.command("apt-cache").args(["policy", package]))?;
        let version = out.lines().find_map(|l| l.trim().strip_prefix("Candidate: "));
        version.map(str::to_owned).with_context(|| format!("{package}: not in the archive\n{out}"))
    }

    /// Downloads packages and unpacks them into `root`.
    pub fn unpack(&self, packages: &[String], root: &std::path::Path) -> Result<()> {
        let work = tempfile::tempdir_in(&self.dir)?;
        run(self.command("apt-get").arg("download").args(packages).current_dir(work.path()))?;
        for deb in fs::read_dir(work.path())? {
            run(Command::new("dpkg-deb").arg("-x").arg(deb?.path()).arg(root))?;
        }
        Ok(())
    }
}

/// Where this machine's apt gets its own packages from.
fn uri() -> Result<String> {
    let targets = run(Command::new("apt-get")
        .args(["indextargets", "--format", "$(REPO_URI) $(RELEASE)"])
        .arg("Created-By: Packages"))?;
    let mut found = targets.lines().filter_map(|line| line.split_once(' '));
    let uri = found.find(|(_, suite)| *suite == KERNEL).map(|(uri, _)| uri.to_owned());
    uri.with_context(|| format!("apt has no lists of {KERNEL}: run `apt-get update`\n{targets}"))
}
