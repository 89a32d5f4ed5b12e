//! The validated configuration that the programs work with.

use std::path::PathBuf;
use std::time::Duration;

use super::choice::{Enabled, Recipe, Strategy, Userland, WhenMissing};
use super::location::{Pinned, PublicKey, Source};
use crate::host::Host;

/// `[boot]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// Whether the boot is touched at all.
    pub enabled: Enabled,
    /// What to do without modules.
    pub when_missing: WhenMissing,
    /// How long a blocking build may take; 1 s to 24 h.
    pub timeout: Duration,
    /// Units that are restarted after a late import.
    pub restart_after_import: Vec<String>,
    /// Units that start only after their pools are there. Without the pools they do not start.
    pub require_pools_for: Vec<String>,
}

/// `[kernel]`; templates are for [`expand_release`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Template of the kernel build tree.
    pub build_dir: Option<String>,
    /// Template of the kernel image.
    pub image: Option<String>,
    /// The ways to get a build tree: at least one, none twice. The first that works is used.
    pub tree: Vec<Strategy>,
    /// Template of the kernel's configuration.
    pub config: Option<String>,
    /// Template of the kernel's source.
    pub source: Option<Pinned>,
    /// Templates of the patches on it, in their order.
    pub patches: Vec<Pinned>,
    /// A file with the OpenPGP public keys that the source has to be signed with.
    pub source_key: Option<PathBuf>,
    /// Also take files from the network that have neither digest nor key.
    pub allow_unsigned: bool,
}

/// `[prefix]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// EPREFIX; absolute, without `.`, `..` or doubled slashes.
    pub path: PathBuf,
    /// Where an archive of the prefix is. None: the prefix is there, or other means provide it.
    pub source: Option<Source>,
    /// SHA-256 of the archive, 64 lower-case hexadecimal digits.
    pub sha256: Option<String>,
    /// Size of the archive in bytes.
    pub size: Option<u64>,
    /// The key that the archive must be signed with.
    pub public_key: Option<PublicKey>,
    /// If there is no key, also take an archive without a signature.
    pub allow_unsigned: bool,
    /// Name or number of the user that is to own the prefix.
    pub user: Option<String>,
}

/// `[build]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// How the modules are built.
    pub recipe: Recipe,
    /// Parallel jobs, 1 to 512. None: the builder chooses.
    pub jobs: Option<u32>,
    /// Pause after the first failure.
    pub backoff: Duration,
    /// Longest pause; at least `backoff`.
    pub backoff_max: Duration,
    /// How long a build may take in all, 1 s to 30 days.
    pub timeout: Duration,
}

/// `[portage]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Portage {
    /// What is emerged: Portage atoms, at least one.
    pub atoms: Vec<String>,
    /// Arguments for EXTRA_ECONF, free of characters the shell would interpret.
    pub extra_econf: Vec<String>,
    /// URL of the binary packages: http, https or file, with `${release}` in it, for
    /// [`fill_release`]. It has no blanks, quotes or other characters that a shell or Portage
    /// interprets.
    pub binhost: Option<String>,
    /// The OpenPGP public keys that packages have to be signed with.
    pub binhost_key: PathBuf,
}

/// `[zfs]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Zfs {
    /// Template of the release tarball, with `${version}`.
    pub source: Option<Pinned>,
    /// A file with the OpenPGP public keys that it has to be signed with.
    pub source_key: Option<PathBuf>,
    /// A Portage version, as in `=sys-fs/zfs-kmod-VERSION`.
    pub version: Option<String>,
    /// Also try a kernel that is newer than the release supports.
    pub linux_experimental: bool,
    /// Arguments of configure for the recipe `make`.
    pub configure: Vec<String>,
    /// Whose programs are used with the modules.
    pub userland: Userland,
}

/// `[pools]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pools {
    /// The pools that this machine must have, each once. If empty: the pools it is known to have
    /// had.
    pub expected: Vec<String>,
    /// How long each import unit of OpenZFS may take, 1 s to 1 h. The same limit applies to the
    /// import by name, all pools together.
    pub import_timeout: Duration,
}

/// The validated configuration; keys and defaults are documented in zfs-prefix.toml(5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `[boot]`
    pub boot: Boot,
    /// `[kernel]`
    pub kernel: Kernel,
    /// `[prefix]`
    pub prefix: Prefix,
    /// `[build]`
    pub build: Build,
    /// `[portage]`
    pub portage: Portage,
    /// `[zfs]`
    pub zfs: Zfs,
    /// `[pools]`
    pub pools: Pools,
}

impl Default for Boot {
    fn default() -> Boot {
        Boot {
            enabled: Enabled::Auto,
            when_missing: WhenMissing::Late,
            timeout: Duration::from_secs(30 * 60),
            restart_after_import: Vec::new(),
            require_pools_for: Vec::new(),
        }
    }
}

impl Default for Kernel {
    fn default() -> Kernel {
        Kernel {
            build_dir: None,
            image: None,
            tree: vec![Strategy::Shipped, Strategy::Recovered, Strategy::Full],
            config: None,
            source: None,
            patches: Vec::new(),
            source_key: None,
            allow_unsigned: false,
        }
    }
}

impl Default for Prefix {
    fn default() -> Prefix {
        Prefix {
            path: PathBuf::from("/home/core/gentoo"),
            source: None,
            sha256: None,
            size: None,
            public_key: None,
            allow_unsigned: false,
            user: None,
        }
    }
}

impl Default for Build {
    fn default() -> Build {
        Build {
            recipe: Recipe::Portage,
            jobs: None,
            backoff: Duration::from_secs(30 * 60),
            backoff_max: Duration::from_secs(24 * 60 * 60),
            timeout: Duration::from_secs(6 * 60 * 60),
        }
    }
}

impl Default for Pools {
    fn default() -> Pools {
        Pools { expected: Vec::new(), import_timeout: Duration::from_secs(10 * 60) }
    }
}

impl Default for Portage {
    fn default() -> Portage {
        Portage {
            atoms: vec!["sys-fs/zfs-kmod".to_owned()],
            extra_econf: Vec::new(),
            binhost: None,
            binhost_key: PathBuf::from("/etc/zfs-prefix/binhost.asc"),
        }
    }
}

impl Portage {
    /// Whether the binhost is somewhere else than on this machine's disks.
    pub fn asks_network(&self) -> bool {
        self.binhost.as_ref().is_some_and(|url| !url.starts_with("file:"))
    }
}

impl Settings {
    /// Whether the boot of `host` is to be touched.
    ///
    /// # Errors
    /// Why it is not, for a log line.
    pub fn active(&self, host: &Host) -> Result<(), &'static str> {
        match self.boot.enabled {
            Enabled::Yes => Ok(()),
            Enabled::No => Err("switched off"),
            Enabled::Auto if host.container => {
                Err("in a container, and neither zfs_prefix=1 nor boot.enabled = true")
            }
            Enabled::Auto => Ok(()),
        }
    }
}
