//! How the modules are made: the key `build.recipe` and all keys that belong to it.

use anyhow::Result;

use super::binhost::Binhost;
use super::packages::EXPERIMENTAL;
use crate::config::{self, Settings};
use crate::exit::Exit;
use crate::fail;
use crate::host::{Host, Release};
use crate::prefix::portage;
use crate::source::ZfsSource;

/// A recipe, with its arguments.
#[derive(Debug)]
pub enum Recipe {
    /// emerge in the prefix.
    Portage {
        /// The atoms that emerge builds.
        atoms: Vec<String>,
        /// The tarball that the ebuild is for, if one is configured.
        source: Option<ZfsSource>,
        /// Where a binary package may be.
        binhost: Option<Binhost>,
        /// More arguments for configure.
        configure: Vec<String>,
    },
    /// configure and make of a release tarball.
    Make {
        /// The tarball.
        source: ZfsSource,
        /// More arguments for configure.
        configure: Vec<String>,
    },
}

impl Recipe {
    /// The configured recipe for `release`.
    ///
    /// # Errors
    /// As [`ZfsSource::of`] and [`Binhost::of`]; [`Exit::Other`]: `make` without a tarball.
    pub fn of(host: &Host, settings: &Settings, release: &Release) -> Result<Recipe> {
        let source = ZfsSource::of(settings)?;
        match (settings.build.recipe, source) {
            (config::Recipe::Portage, source) => Ok(Recipe::Portage {
                atoms: portage::atoms(settings),
                source,
                binhost: Binhost::of(host, settings, release)?,
                configure: with_experimental(settings, &settings.portage.extra_econf),
            }),
            (config::Recipe::Make, Some(source)) => Ok(Recipe::Make {
                source,
                configure: with_experimental(settings, &settings.zfs.configure),
            }),
            (config::Recipe::Make, None) => fail!(
                Exit::Other,
                "build.recipe = \"make\" needs zfs.source, an OpenZFS release tarball; none is configured"
            ),
        }
    }

    /// The tarball, if one is configured.
    pub fn source(&self) -> Option<&ZfsSource> {
        match self {
            Recipe::Portage { source, .. } => source.as_ref(),
            Recipe::Make { source, .. } => Some(source),
        }
    }

    /// Where a binary package may be.
    pub fn binhost(&self) -> Option<&Binhost> {
        match self {
            Recipe::Portage { binhost, .. } => binhost.as_ref(),
            Recipe::Make { .. } => None,
        }
    }

    /// More arguments for configure.
    pub fn configure(&self) -> &[String] {
        match self {
            Recipe::Portage { configure, .. } | Recipe::Make { configure, .. } => configure,
        }
    }

    /// The atoms that emerge builds.
    pub fn atoms(&self) -> &[String] {
        match self {
            Recipe::Portage { atoms, .. } => atoms,
            Recipe::Make { .. } => &[],
        }
    }
}

fn with_experimental(settings: &Settings, configured: &[String]) -> Vec<String> {
    let mut all = configured.to_vec();
    if settings.zfs.linux_experimental && !all.iter().any(|argument| argument == EXPERIMENTAL) {
        all.push(EXPERIMENTAL.to_owned());
    }
    all
}
