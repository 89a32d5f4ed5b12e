//! The stages of a build. The journal and failure records have their names.

/// One stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Looking at kernel, prefix and recipe.
    Plan,
    /// The kernel's build tree.
    Kernel,
    /// Sources, over the network.
    Fetch,
    /// The recipe: configure, compile, install.
    Build,
    /// Copying the modules into the staging tree.
    Harvest,
    /// Module indexes.
    Depmod,
    /// Checking the result.
    Verify,
    /// Into the store.
    Publish,
}

impl Stage {
    /// Its name: ZFS_PREFIX_STAGE.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Plan => "plan",
            Stage::Kernel => "kernel",
            Stage::Fetch => "fetch",
            Stage::Build => "build",
            Stage::Harvest => "harvest",
            Stage::Depmod => "depmod",
            Stage::Verify => "verify",
            Stage::Publish => "publish",
        }
    }

    /// What STATUS= says while it runs.
    pub fn doing(self) -> &'static str {
        match self {
            Stage::Plan => "planning the build",
            Stage::Kernel => "preparing the build tree",
            Stage::Fetch => "fetching sources",
            Stage::Build => "building",
            Stage::Harvest => "collecting modules",
            Stage::Depmod => "running depmod",
            Stage::Verify => "verifying modules",
            Stage::Publish => "publishing modules",
        }
    }
}
