//! What the machine has of the kernel that is built for: its image, its modules, its configuration.
//! Finding them is cheap. They are read only when a tree is prepared.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tracing::warn;

use crate::config::{Settings, expand_release};
use crate::exit::{self, Exit, Failure, WithExit};
use crate::fail;
use crate::host::{Host, Release};
use crate::kernel::locate::{self, Located};
use crate::kernel::{Image, Symvers, guard, recover};

/// At most this many unreadable modules are named.
const NAMED: usize = 10;

/// Where things are.
#[derive(Debug)]
pub struct Found {
    /// The kernel's image, or why there is none.
    pub image: Result<PathBuf, String>,
    /// The directory of the modules that came with it.
    pub modules: PathBuf,
    release: Release,
    /// The configuration, after the first call of [`Found::config`].
    config: OnceCell<Result<Located, (Exit, String)>>,
}

impl Found {
    /// Looks for the image of kernel `release`.
    pub fn of(host: &Host, settings: &Settings, release: &Release) -> Found {
        let configured = settings.kernel.image.as_ref().map(|t| expand_release(t, release));
        let image = locate::image(host, configured.as_deref(), release);
        Found {
            image: image.map_err(|error| format!("{error:#}")),
            modules: host.path(format!("/usr/lib/modules/{release}")),
            release: release.clone(),
            config: OnceCell::new(),
        }
    }

    /// The kernel's configuration. If no file has it, the image is unpacked for it.
    ///
    /// # Errors
    /// [`Exit::NoKernelSource`]: neither a file nor the image has it.
    pub fn config(&self, host: &Host, settings: &Settings, release: &Release) -> Result<&Located> {
        let find = || {
            let configured = settings.kernel.config.as_ref().map(|t| expand_release(t, release));
            let find = |image| locate::config(host, configured.as_deref(), release, image);
            match (find(None), &self.image) {
                (Err(_), Ok(path)) => find(Some(&open(path, release)?)),
                (found, _) => found,
            }
        };
        let found = self
            .config
            .get_or_init(|| find().map_err(|error| (exit::of(&error), format!("{error:#}"))));
        found.as_ref().map_err(|(exit, text)| Failure::new(*exit, text.clone()).into())
    }

    /// Opens the image. It has to be from the same build of the kernel as the one that is built
    /// for: `build_id`.
    ///
    /// # Errors
    /// [`Exit::NoSymvers`]: it is from another build, of another kernel, or cannot be read.
    pub fn open(&self, build_id: &str) -> Result<Option<Image>> {
        let Ok(path) = &self.image else { return Ok(None) };
        let image = open(path, &self.release)?;
        match image.build_id() {
            Some(found) if found != build_id => fail!(
                Exit::NoSymvers,
                "{}: the image of another build of this kernel (build-id {found}, the kernel's is {build_id}); set kernel.image to the right one",
                path.display()
            ),
            Some(_) => {}
            None => warn!("{}: no build-id in it; taken for the kernel's image", path.display()),
        }
        Ok(Some(image))
    }

    /// Why the image does not tell something, for a message: there is none, and what to do; or it
    /// is not in the one that there is.
    pub fn no_image(&self) -> String {
        match &self.image {
            Err(why) => why.clone(),
            Ok(path) => format!("it is not in {}", path.display()),
        }
    }

    /// The exports of the kernel and its modules, as far as root's own files tell: the symvers file
    /// that came with the modules, otherwise the image. None without both.
    ///
    /// # Errors
    /// [`Exit::NoSymvers`]: they cannot be recovered. [`Exit::Refused`]: files contradict each
    /// other.
    pub fn exports(&self, image: Option<&Image>, jobs: u32) -> Result<Option<Symvers>> {
        if let Some(shipped) = recover::shipped(&self.modules).exit(Exit::NoSymvers)? {
            if let Some(image) = image {
                let file = format!("the symvers file in {}", self.modules.display());
                guard::exports(&file, &shipped, &image.symvers().exit(Exit::NoSymvers)?)?;
            }
            return Ok(Some(shipped));
        }
        let Some(image) = image else { return Ok(None) };
        // Unreadable modules matter little: the kernel itself exports nearly all that OpenZFS
        // needs, and verification checks each import.
        match recover::symvers_as_far_as_read(image, &self.modules, jobs as usize) {
            Ok((all, skipped)) => {
                for error in skipped.iter().take(NAMED) {
                    warn!("{error:#}; what this module exports is not known");
                }
                if skipped.len() > NAMED {
                    warn!("{} more modules cannot be read either", skipped.len() - NAMED);
                }
                Ok(Some(all))
            }
            Err(error) => {
                warn!(
                    "only the exports of the kernel itself are known, not those of its modules: {error:#}"
                );
                image.symvers().map(Some).exit(Exit::NoSymvers)
            }
        }
    }
}

fn open(path: &Path, release: &Release) -> Result<Image> {
    let image = Image::open_for(path, Some(release)).exit(Exit::NoSymvers)?;
    // It may have been taken by its name alone.
    let right = image.is_for(release).with_context(|| format!("{}", path.display()));
    right.exit(Exit::NoSymvers).map(|()| image)
}
