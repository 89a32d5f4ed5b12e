//! The kernel's source: where it is, and how it becomes a tree.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::cached::{self, Cached, Signed};
use super::proof::{Proof, check_keys, check_owner};
use super::system::{self, SIGNER};
use super::{Obtain, signature, tree, unpack, version};
use crate::config::{self, Pinned, Settings};
use crate::exit::{Exit, WithExit};
use crate::fail;
use crate::fetch::network;
use crate::host::{Host, Release};
use crate::kernel::Kconfig;
use crate::store::Digest;

/// Change this if the same source is made into another tree.
const VERSION: &str = "1";
/// The key of the configuration, for messages.
const KEY: &str = "kernel.source";
/// Comes before the error of a source that nobody configured.
const DEFAULT: &str = "kernel.source is not set, so this system's own source was tried; if it is gone \
                       there, set kernel.source to where it is";
/// The most bytes of a file. No kernel's source or package has as many.
pub(super) const LARGEST: u64 = 4 << 30;

/// Where the source of one kernel is, what proves it, and the patches on it.
#[derive(Clone, Debug)]
pub struct KernelSource {
    release: Release,
    pinned: Pinned,
    kind: Kind,
    proof: Proof,
    patches: Vec<(Pinned, Proof)>,
    /// `kernel.source` is not set: this is the system's own source.
    default: bool,
    /// The version that the kernel's configuration was made for, if that is known.
    configured: Option<String>,
    /// A warning for the journal when it is used.
    lacks: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Git,
    Tarball,
    Rpm,
    Directory,
}

/// What a source became.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obtained {
    /// The kernel's source, patched: not to be written to, but compiled from with `O=`.
    Source(PathBuf),
    /// A build tree already, as a kernel-devel package has it.
    BuildTree(PathBuf),
}

impl KernelSource {
    /// The source of kernel `release`: the configured one, otherwise the system's. None if there is
    /// neither. Does not use the network.
    ///
    /// # Errors
    /// [`Exit::Refused`]: it comes from the network, and nothing would prove that it is the right
    /// one. [`Exit::NoKernelSource`]: the configuration makes no sense.
    pub fn of(host: &Host, settings: &Settings, release: &Release) -> Result<Option<KernelSource>> {
        let kernel = &settings.kernel;
        let (pinned, keys, lacks) = match &kernel.source {
            Some(template) => (template.for_kernel(release), kernel.source_key.clone(), None),
            None => match system::default(host, release) {
                Some(found) => {
                    let keys = kernel.source_key.clone().or(found.keys);
                    (found.pinned, keys, found.lacks.filter(|_| kernel.patches.is_empty()))
                }
                None => return Ok(None),
            },
        };
        let kind = Kind::of(&pinned.place);
        let cure = match kind {
            Kind::Git => {
                "set kernel.source-key to the OpenPGP keys that its tags are signed with, or \
                 kernel.allow-unsigned = true to take it from anybody"
            }
            _ => {
                "put #sha256=… after it in kernel.source, or set kernel.source-key to the OpenPGP \
                 keys that it is signed with, or kernel.allow-unsigned = true to take it from \
                 anybody"
            }
        };
        let proof = Proof::of(&pinned, keys.as_deref(), kernel.allow_unsigned, cure)?;
        if let Proof::Keys(path) = &proof {
            if kind == Kind::Directory {
                fail!(
                    Exit::Refused,
                    "kernel.source: {pinned}: a directory has no signature, and kernel.source-key demands one: name a signed tarball or tag, or remove kernel.source-key"
                );
            }
            check_keys(path)?;
        }
        let patches = kernel.patches.iter().map(|template| {
            let patch = template.for_kernel(release);
            let cure = "put #sha256=… after it in kernel.patches";
            let proof = Proof::of(&patch, None, kernel.allow_unsigned, cure)?;
            Ok((patch, proof))
        });
        let patches = patches.collect::<Result<Vec<_>>>()?;
        if kind == Kind::Rpm && !patches.is_empty() {
            fail!(
                Exit::NoKernelSource,
                "kernel.patches: {pinned} is a build tree, not a source that patches could be for"
            );
        }
        let default = kernel.source.is_none();
        let release = release.clone();
        let configured = None;
        Ok(Some(KernelSource { release, pinned, kind, proof, patches, default, configured, lacks }))
    }

    /// The same source, for a kernel with this configuration. The configuration says which patch
    /// level the source has to have, even if the release does not.
    pub fn configured_by(mut self, config: &Kconfig) -> KernelSource {
        self.configured = config.kernel_version().map(str::to_owned);
        self
    }

    /// Where it is, without secrets.
    pub fn shown(&self) -> String {
        self.pinned.to_string()
    }

    /// Whether it is a kernel-devel package, which becomes a build tree and needs no configuration.
    pub fn is_package(&self) -> bool {
        self.kind == Kind::Rpm
    }

    /// Everything that decides what the tree will be, as far as it is known without fetching: URL,
    /// digest or keys, and patches. For a source on this machine also size and time. The key of a
    /// build contains it.
    pub fn identity(&self) -> String {
        let mut all = vec![VERSION.to_owned(), self.release.to_string(), full(&self.pinned)];
        all.extend([self.proof.identity(), stamp(&self.pinned)]);
        for (patch, proof) in &self.patches {
            all.extend([full(patch), proof.identity(), stamp(patch)]);
        }
        let digest = Digest::of(all.join("\n").as_bytes());
        format!("{} {}", self.pinned, &digest.as_str()[..32])
    }

    /// Fetches, verifies, unpacks and patches it, unless that is done already.
    ///
    /// # Errors
    /// [`Exit::Network`]; [`Exit::Refused`]: digest or signature are not right;
    /// [`Exit::NoKernelSource`]: it is not there, or no kernel's source, or a patch does not fit;
    /// [`Exit::PrefixIncomplete`]: a program is missing; [`Exit::NoSpace`].
    pub fn obtain(&self, with: &mut Obtain<'_>) -> Result<Obtained> {
        if let Some(lacks) = self.lacks {
            tracing::warn!("{}: {lacks}", self.shown());
        }
        let patches = self.patches(with)?;
        let mut used: Vec<PathBuf> = patches.iter().map(|(path, _)| path.clone()).collect();
        let top = match self.kind {
            Kind::Git => self.clone(with, &patches)?,
            Kind::Directory if patches.is_empty() => {
                let dir = self.directory(with)?;
                return self.checked(&dir, "");
            }
            Kind::Directory => self.copy(with, &patches)?,
            Kind::Tarball | Kind::Rpm => self.archive(with, &patches, &mut used)?,
        };
        cached::tidy(with, &used)?;
        let tree = top.join(tree::CONTENT);
        if self.kind == Kind::Rpm {
            return unpack::devel_tree(&tree, &self.release).map(Obtained::BuildTree);
        }
        self.checked(&top, tree::CONTENT)
    }

    /// The tree `name` in `top`. If it is a source, checks that it is this kernel's. A build tree
    /// itself says which release it is for.
    fn checked(&self, top: &Path, name: &str) -> Result<Obtained> {
        let obtained = obtained(top.join(name));
        if matches!(obtained, Obtained::Source(_)) {
            let makefile = Path::new(name).join("Makefile");
            let configured = self.configured.as_deref();
            version::check(top, &makefile, &self.release, configured, &self.shown())?;
        }
        Ok(obtained)
    }

    fn patches(&self, with: &mut Obtain<'_>) -> Result<Vec<(PathBuf, String)>> {
        let fetch = |(patch, proof): &(Pinned, Proof)| {
            let source = patch.source().context("a patch is a file")?;
            let cached = Cached {
                source,
                key: "kernel.patches",
                what: "a patch",
                largest: 64 << 20,
                proof: proof.clone(),
                signed: None,
                unreadable: Exit::NoKernelSource,
            };
            let file = cached.get(with)?;
            Ok((file.path, file.sha256))
        };
        self.patches.iter().map(fetch).collect()
    }

    fn archive(
        &self,
        with: &mut Obtain<'_>,
        patches: &[(PathBuf, String)],
        used: &mut Vec<PathBuf>,
    ) -> Result<PathBuf> {
        let mut pinned = self.pinned.clone();
        if let (config::Place::Https(url), Proof::Keys(keys)) = (&pinned.place, &self.proof)
            && url.contains(SIGNER)
        {
            let url = url.replace(SIGNER, &signature::key_id(with, keys)?);
            pinned.place = config::Place::Https(url);
        }
        let cached = Cached {
            source: pinned.source().context("an archive is a file")?,
            key: KEY,
            what: "a kernel's source",
            largest: LARGEST,
            proof: self.proof.clone(),
            signed: Some(match self.kind {
                Kind::Rpm => Signed::Rpm,
                _ => Signed::Uncompressed,
            }),
            unreadable: Exit::NoKernelSource,
        };
        let file = cached
            .get(with)
            .map_err(|error| if self.default { error.context(DEFAULT) } else { error })?;
        used.push(file.path.clone());
        let id = self.id(&file.sha256, patches);
        tree::get(with, &id, |with, dir| {
            with.say(&format!("unpacking {}", self.pinned));
            match self.kind {
                Kind::Rpm => unpack::rpm(with, &file.path, dir),
                _ => unpack::tar(with, &file.path, dir, Exit::NoKernelSource),
            }?;
            self.patch(with, dir, patches)
        })
    }

    fn clone(&self, with: &mut Obtain<'_>, patches: &[(PathBuf, String)]) -> Result<PathBuf> {
        let config::Place::Git { url, tag } = &self.pinned.place else {
            fail!(Exit::Other, "{}: no repository", self.pinned);
        };
        // The id contains the object: in a repository on this machine a tag can move.
        let object = stamp(&self.pinned);
        let id = self.id(&format!("{url} {tag} {object} {}", self.proof.identity()), patches);
        if let (Some(path), Proof::Local) = (url.strip_prefix("file://"), &self.proof) {
            check_owner(Path::new(path), with.prefix.user.uid)
                .with_context(|| format!("{KEY}: {path}"))
                .exit(Exit::NoKernelSource)?;
        }
        if self.pinned.asks_network() && !tree::is_there(with, &id)? {
            if !with.network {
                fail!(
                    Exit::Network,
                    "{} was not fetched yet, and there is no network this early",
                    self.pinned
                );
            }
            network::wait_for_network(with.cancel);
        }
        tree::get(with, &id, |with, dir| {
            with.say(&format!("cloning {} ({})", self.pinned, self.proof.shown()));
            unpack::git(with, url, tag, &self.proof, dir)?;
            self.patch(with, dir, patches)
        })
    }

    fn copy(&self, with: &mut Obtain<'_>, patches: &[(PathBuf, String)]) -> Result<PathBuf> {
        let from = self.directory(with)?;
        let id = self.id(&unpack::stamp(&from)?, patches);
        tree::get(with, &id, |with, dir| {
            with.say(&format!("copying {}", from.display()));
            unpack::copy(with, &from, dir)?;
            self.patch(with, dir, patches)
        })
    }

    fn patch(&self, with: &mut Obtain<'_>, dir: &Path, files: &[(PathBuf, String)]) -> Result<()> {
        if self.kind != Kind::Rpm {
            unpack::check_source(&dir.join(tree::CONTENT), &self.shown())?;
        }
        for ((patch, _), (file, _)) in self.patches.iter().zip(files) {
            with.say(&format!("applying {patch}"));
            unpack::patch(with, file, &patch.to_string(), dir)?;
        }
        Ok(())
    }

    /// The configured directory. Checks that only root and the prefix's owner can change it.
    fn directory(&self, with: &Obtain<'_>) -> Result<PathBuf> {
        let config::Place::File(path) = &self.pinned.place else {
            fail!(Exit::Other, "{}: no directory", self.pinned);
        };
        let path = PathBuf::from(path);
        check_owner(&path, with.prefix.user.uid)
            .with_context(|| format!("{KEY}: {}", path.display()))
            .exit(Exit::NoKernelSource)?;
        if !path.is_dir() {
            fail!(
                Exit::NoKernelSource,
                "{KEY}: {}: neither a directory nor a .tar.gz, .tar.xz, .tar.zst, .tar.bz2 or .rpm",
                path.display()
            );
        }
        if obtained(path.clone()) == Obtained::Source(path.clone()) {
            unpack::check_source(&path, &self.shown())?;
        }
        Ok(path)
    }

    fn id(&self, content: &str, patches: &[(PathBuf, String)]) -> String {
        let patches: Vec<&str> = patches.iter().map(|(_, sha256)| sha256.as_str()).collect();
        let all = format!("{VERSION}\n{content}\n{}", patches.join(" "));
        Digest::of(all.as_bytes()).as_str()[..32].to_owned()
    }
}

impl Kind {
    fn of(place: &config::Place) -> Kind {
        let path = match place {
            config::Place::Git { .. } => return Kind::Git,
            config::Place::Https(url) => url.split('?').next().unwrap_or(url),
            config::Place::File(path) => path,
        };
        match () {
            () if path.ends_with(".rpm") => Kind::Rpm,
            () if config::is_tarball(Path::new(path)) => Kind::Tarball,
            () => Kind::Directory,
        }
    }
}

/// What the directory is. A build tree has both of these files (Documentation/kbuild/modules.rst),
/// a source has neither.
fn obtained(dir: PathBuf) -> Obtained {
    let built = ["Module.symvers", "include/config/auto.conf"];
    if built.iter().all(|file| dir.join(file).is_file()) {
        Obtained::BuildTree(dir)
    } else {
        Obtained::Source(dir)
    }
}

/// Everything that names the source, also what [`Pinned`] does not show.
fn full(pinned: &Pinned) -> String {
    pinned.source().map_or_else(|| pinned.to_string(), |source| source.full())
}

/// What is known without fetching about a place on this machine. For a file: its size and time. For
/// a directory: those of all files in it. For a repository: the object of the tag.
fn stamp(pinned: &Pinned) -> String {
    let path = match &pinned.place {
        config::Place::Git { url, tag } => return local_tag(url, tag).unwrap_or_default(),
        config::Place::File(path) if pinned.sha256.is_none() => Path::new(path),
        _ => return String::new(),
    };
    // If it does not exist or cannot be read, obtaining it reports that.
    let Ok(meta) = fs::metadata(path) else { return String::new() };
    if meta.is_dir() {
        unpack::stamp(path).unwrap_or_default()
    } else {
        format!("{} {}", meta.len(), meta.mtime())
    }
}

/// The object of a tag in a repository on this machine. The reference may be loose or packed
/// (gitrepository-layout(5)). None if the repository keeps references in another way.
fn local_tag(url: &str, tag: &str) -> Option<String> {
    let path = Path::new(url.strip_prefix("file://")?);
    let name = format!("refs/tags/{tag}");
    let directory = [path.join(".git"), path.to_owned()].into_iter().find(|d| d.is_dir())?;
    let object = |text: &str| {
        let word = text.split_whitespace().next()?;
        word.bytes().all(|b| b.is_ascii_hexdigit()).then(|| word.to_owned())
    };
    if let Ok(loose) = version::read(&directory, Path::new(&name)) {
        return object(&loose);
    }
    let packed = version::read(&directory, Path::new("packed-refs")).ok()?;
    packed.lines().find(|line| line.split(' ').nth(1) == Some(&name)).and_then(object)
}
