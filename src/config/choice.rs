//! Keys that take one of a few words.

/// `boot.enabled`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Enabled {
    /// Everywhere but in containers.
    #[default]
    Auto,
    /// Also in a container.
    Yes,
    /// Nowhere.
    No,
}

/// `boot.when-missing`: what happens when no modules are published for the running kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenMissing {
    /// Build after multi-user.target.
    #[default]
    Late,
    /// Build before the pool import, offline, for at most `boot.timeout`.
    Block,
    /// Do not build; only report it.
    Never,
}

/// `build.recipe`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recipe {
    /// emerge in the prefix.
    #[default]
    Portage,
    /// `./configure && make` of a release tarball.
    Make,
}

impl Recipe {
    /// As it is written in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Recipe::Portage => "portage",
            Recipe::Make => "make",
        }
    }
}

/// `zfs.userland`: whose zpool, zfs, … fit the modules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Userland {
    /// The system's programs if their version is that of the modules; otherwise the prefix's.
    #[default]
    Auto,
    /// Built in the prefix and published with the modules.
    Prefix,
    /// The system's own.
    Host,
}

impl Userland {
    /// As it is written in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Userland::Auto => "auto",
            Userland::Prefix => "prefix",
            Userland::Host => "host",
        }
    }
}

/// An element of `kernel.tree`: a way to get a build tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// The build tree that the system ships.
    Shipped,
    /// Source and configuration, with Module.symvers recovered from the image.
    Recovered,
    /// Source and configuration, and the whole kernel built for its Module.symvers.
    Full,
}

impl Strategy {
    /// As it is written in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Strategy::Shipped => "shipped",
            Strategy::Recovered => "recovered",
            Strategy::Full => "full",
        }
    }
}
