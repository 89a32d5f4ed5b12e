//! `zfs-prefix prefix info`: whose the prefix is, what is in it, where it came from.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::audit::libraries::{mapped_with, usual_interpreter};
use super::audit::programs::Programs;
use super::audit::toolchain::program;
use super::audit::tree::{Entry, Kind, Tree};
use super::audit::walk;
use super::enter::Account;
use super::portage::{atoms, locations, package_of};
use crate::config::Settings;
use crate::exit::Exit;
use crate::host::Host;
use crate::process::{Cancel, User};
use crate::text::printable;

/// What `prefix provision` leaves in EPREFIX.
const RECORD: &str = ".zfs-prefix.json";
/// ccache's directory, below EPREFIX.
const CCACHE: &str = "var/cache/ccache";
/// No configuration file is larger; nor is a libc.
const MAX_TEXT: u64 = 1 << 20;
const MAX_LIBC: u64 = 64 << 20;

/// A prefix; the JSON of `prefix info --json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Info {
    eprefix: PathBuf,
    owner: Account,
    /// The first line of `gcc --version`.
    compiler: Option<String>,
    compiler_path: Option<PathBuf>,
    /// What libc says of itself.
    libc: Option<String>,
    /// PT_INTERP of the prefix's programs.
    interpreter: Option<PathBuf>,
    portage: Option<String>,
    /// null: it was not made by `prefix provision`.
    provisioned: Option<Provisioned>,
    /// Bytes on disk.
    size: u64,
    /// Files, directories and links.
    files: usize,
    repositories: Vec<Repository>,
    /// Bytes on disk; null: there is no cache.
    ccache_size: Option<u64>,
    /// Why some of this is not known.
    problems: Vec<String>,
}

/// What `prefix provision` wrote down; the file belongs to the prefix's owner.
#[derive(Debug, Deserialize, Serialize)]
struct Provisioned {
    version: u32,
    source: String,
    sha256: String,
    digest: Option<String>,
    /// Seconds since 1970.
    when: u64,
}

/// A repository of repos.conf, and what it has of `portage.atoms`.
#[derive(Debug, Serialize)]
struct Repository {
    location: PathBuf,
    packages: Vec<String>,
}

impl Info {
    /// Looks at the configured prefix. Runs its programs as its owner.
    ///
    /// # Errors
    /// [`Exit::PrefixIncomplete`]: there is none.
    pub fn of(host: &Host, settings: &Settings, cancel: &Cancel) -> Result<Info> {
        let path = &settings.prefix.path;
        let tree = walk::read(path, path)?;
        let top = tree.entries.get(Path::new("")).context("the prefix has no top")?;
        let mut info = Info {
            eprefix: path.clone(),
            owner: Account::of(User { uid: top.uid, gid: top.gid }),
            compiler: None,
            compiler_path: program(&tree, Path::new("gcc")).map(|(gcc, _)| tree.absolute(&gcc)),
            libc: libc(&tree),
            interpreter: usual_interpreter(&tree),
            portage: None,
            provisioned: None,
            size: size(&tree, Path::new("")),
            files: tree.entries.len(),
            repositories: Vec::new(),
            ccache_size: tree
                .entries
                .get(Path::new(CCACHE))
                .map(|_| size(&tree, Path::new(CCACHE))),
            problems: Vec::new(),
        };
        info.provisioned = info.known(provisioned(&tree)).flatten();
        info.repositories = info.known(repositories(&tree, settings)).unwrap_or_default();
        info.ask(&tree, host, cancel);
        Ok(info)
    }

    /// [`Exit::PrefixIncomplete`] when something could not be found out.
    pub fn exit(&self) -> Exit {
        if self.problems.is_empty() { Exit::Done } else { Exit::PrefixIncomplete }
    }

    /// Asks the programs what only they can tell.
    fn ask(&mut self, tree: &Tree, host: &Host, cancel: &Cancel) {
        let entered = Programs::enter(tree, &tree.eprefix, host, cancel, None);
        let Some(programs) = self.known(entered.context("its programs were not run")) else {
            return;
        };
        let version = |name: &str| -> Result<String> {
            let (path, _) = program(tree, Path::new(name)).with_context(|| {
                format!("no program {name} (`zfs-prefix prefix audit` says more)")
            })?;
            programs.run(&tree.absolute(&path), &["--version"])
        };
        let compiler = self.known(version("gcc"));
        self.compiler = compiler.and_then(|text| text.lines().next().map(str::to_owned));
        let portage = self.known(version("emerge").and_then(|text| portage_version(&text)));
        self.portage = portage;
    }

    fn known<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.problems.push(format!("{error:#}"))).ok()
    }
}

/// The version in `Portage 3.0.83 (python 3.11.2-final-0, …)`; warnings may come before it.
fn portage_version(text: &str) -> Result<String> {
    let version = text.lines().find_map(|line| line.strip_prefix("Portage ")?.split(' ').next());
    Ok(version.with_context(|| format!("emerge --version says {text:?}"))?.to_owned())
}

/// Bytes on disk of everything at and below `below`. A file with several names counts once.
fn size(tree: &Tree, below: &Path) -> u64 {
    let mut seen = HashSet::new();
    let mut once = |entry: &Entry| {
        let (device, inode, links) = entry.identity;
        links == 1 || matches!(entry.kind, Kind::Directory) || seen.insert((device, inode))
    };
    let entries = tree.entries.iter().filter(|(path, _)| path.starts_with(below));
    entries.map(|(_, entry)| entry).filter(|entry| once(entry)).map(|entry| entry.size).sum()
}

/// The banner of the libc that the prefix's bash is linked with.
fn libc(tree: &Tree) -> Option<String> {
    let (bash, _) = program(tree, Path::new("bash"))?;
    let libc = |path: &PathBuf| path.file_name().is_some_and(|n| n == "libc.so.6");
    let bytes = tree.read(&mapped_with(tree, &bash).into_iter().find(libc)?, MAX_LIBC).ok()?;
    let begin = b"GNU C Library";
    let at = bytes.windows(begin.len()).position(|window| window == begin)?;
    let line = bytes[at..].split(|byte| matches!(byte, b'\n' | 0)).next()?;
    Some(String::from_utf8_lossy(line).trim_end_matches('.').to_owned())
}

fn provisioned(tree: &Tree) -> Result<Option<Provisioned>> {
    if !tree.entries.contains_key(Path::new(RECORD)) {
        return Ok(None);
    }
    let bytes = tree.read(Path::new(RECORD), MAX_TEXT)?;
    let shown = || tree.eprefix.join(RECORD).display().to_string();
    serde_json::from_slice(&bytes).map(Some).with_context(shown)
}

/// The repositories of etc/portage/repos.conf, a file or a directory of files (portage(5)).
fn repositories(tree: &Tree, settings: &Settings) -> Result<Vec<Repository>> {
    let conf = tree.eprefix.join("etc/portage/repos.conf");
    let (path, entry) = tree
        .resolve(&conf)
        .here()
        .with_context(|| format!("{}: Portage has no repository configured", conf.display()))?;
    let mut files: Vec<PathBuf> = match entry.kind {
        Kind::Directory => children(tree, &path).cloned().collect(),
        _ => vec![path],
    };
    files.sort();
    let mut found = Vec::new();
    for file in files {
        let text = tree.read(&file, MAX_TEXT)?;
        for location in locations(&String::from_utf8_lossy(&text), &tree.eprefix) {
            let packages = packages(tree, &location, settings);
            found.push(Repository { location, packages });
        }
    }
    Ok(found)
}

/// `category/name-version` of each ebuild for a configured atom.
fn packages(tree: &Tree, repository: &Path, settings: &Settings) -> Vec<String> {
    let mut found = Vec::new();
    for atom in atoms(settings) {
        let package = package_of(&atom);
        let category = package.split('/').next().unwrap_or_default();
        let Some((dir, _)) = tree.resolve(&repository.join(package)).here() else { continue };
        let ebuilds =
            children(tree, &dir).filter(|path| path.extension() == Some("ebuild".as_ref()));
        let names = ebuilds.filter_map(|path| path.file_stem());
        found.extend(names.map(|name| format!("{category}/{}", name.display())));
    }
    found.sort();
    found.dedup();
    found
}

fn children<'t>(tree: &'t Tree, dir: &Path) -> impl Iterator<Item = &'t PathBuf> {
    let dir = dir.to_owned();
    tree.entries.keys().filter(move |path| path.parent() == Some(&dir))
}

impl fmt::Display for Info {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, text: &str| match name {
            "" => writeln!(f, "              {}", printable(text)),
            _ => writeln!(f, "{name:>12}: {}", printable(text)),
        };
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let or_unknown = |text: Option<String>| text.unwrap_or_else(|| "not known".to_owned());
        let Account { uid, gid, user, group } = &self.owner;
        line("prefix", &self.eprefix.to_string_lossy())?;
        line("owner", &format!("{user} (uid {uid}), {group} (gid {gid})"))?;
        line("compiler", &or_unknown(self.compiler.clone()))?;
        line("", &or_unknown(path(&self.compiler_path)))?;
        line("libc", &or_unknown(self.libc.clone()))?;
        line("interpreter", &or_unknown(path(&self.interpreter)))?;
        line("Portage", &or_unknown(self.portage.clone()))?;
        match &self.provisioned {
            Some(p) => {
                line("provisioned", &format!("{} s ago from {}", age(p.when), p.source))?;
                line("", &format!("SHA-256 {}", p.sha256))?;
                p.digest.iter().try_for_each(|digest| line("", &format!("tree {digest}")))?;
            }
            None => line("provisioned", "no: made by hand, or by another program")?,
        }
        line("size", &format!("{} in {} files", mib(self.size), self.files))?;
        for repository in &self.repositories {
            let packages = if repository.packages.is_empty() {
                "none of portage.atoms".to_owned()
            } else {
                repository.packages.join(", ")
            };
            line("repository", &format!("{}: {packages}", repository.location.display()))?;
        }
        line("ccache", &self.ccache_size.map_or("none".to_owned(), mib))?;
        self.problems.iter().try_for_each(|problem| line("problem", problem))
    }
}

fn age(when: u64) -> u64 {
    crate::store::unix_now().saturating_sub(when)
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
