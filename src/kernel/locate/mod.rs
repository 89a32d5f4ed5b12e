//! Finds a kernel's image and configuration on a machine of any distribution. An image has to say
//! its own release: an update may have replaced it with the image of another kernel.

pub(crate) mod entry;
mod places;
mod search;

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

pub use search::image;

use super::Image;
use super::kconfig::{Kconfig, MAX_CONFIG};
use crate::compress::{Compression, Tail, unpack};
use crate::exit::{Exit, WithExit};
use crate::host::{Host, Release};

/// A configuration and where it was found.
#[derive(Clone, Debug)]
pub struct Located {
    /// Its text.
    pub text: Vec<u8>,
    /// The same, parsed.
    pub config: Kconfig,
    /// Where it was.
    pub source: Source,
}

/// Where a configuration was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// /proc/config.gz: the running kernel's own (CONFIG_IKCONFIG_PROC).
    Running,
    /// In the kernel's image (CONFIG_IKCONFIG).
    Image,
    /// A file.
    File(PathBuf),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Running => f.write_str("/proc/config.gz"),
            Source::Image => f.write_str("IKCONFIG in the image"),
            Source::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl serde::Serialize for Source {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The configuration of kernel `release`: `configured` (kernel.config, its template filled in), or
/// the first that exists of these:
/// - /proc/config.gz, for the running kernel. Not in a container: its kernel is the host's.
/// - The one in `image`, if the caller has opened an image.
/// - /usr/lib/modules/RELEASE/config
/// - /boot/config-RELEASE
/// - /usr/boot/config, if /usr/boot/vmlinuz is of this release.
///
/// # Errors
/// [`Exit::NoKernelSource`]: there is no configuration, or the first that exists cannot be read.
pub fn config(
    host: &Host,
    configured: Option<&Path>,
    release: &Release,
    image: Option<&Image>,
) -> Result<Located> {
    find_config(host, configured, release, image)
        .with_context(|| format!("kernel {release}"))
        .exit(Exit::NoKernelSource)
}

fn find_config(
    host: &Host,
    configured: Option<&Path>,
    release: &Release,
    image: Option<&Image>,
) -> Result<Located> {
    if let Some(path) = configured {
        return from_file(&host.path(path));
    }
    if !host.container && *release == host.kernel_release {
        let path = host.path("/proc/config.gz");
        if path.exists() {
            return from_file(&path).map(|located| Located { source: Source::Running, ..located });
        }
    }
    if let Some(text) = image.map(Image::ikconfig).transpose()?.flatten() {
        let config = Kconfig::parse(&text).context("IKCONFIG in the image")?;
        return Ok(Located { text, config, source: Source::Image });
    }
    let own = [format!("/usr/lib/modules/{release}/config"), format!("/boot/config-{release}")];
    for path in own.iter().map(|p| host.path(p)) {
        if path.exists() {
            return from_file(&path);
        }
    }
    let (nameless, beside) = (host.path("/usr/boot/config"), host.path("/usr/boot/vmlinuz"));
    if nameless.exists() && search::is_of(&beside, release) {
        return from_file(&nameless);
    }
    bail!(
        "no configuration: the kernel has neither /proc/config.gz nor IKCONFIG, and there is none in {}; set kernel.config to it",
        own.join(" or ")
    );
}

fn from_file(path: &Path) -> Result<Located> {
    let shown = || format!("{}", path.display());
    let limit = u64::try_from(MAX_CONFIG)?;
    let text = roots_own(path, limit).with_context(shown)?;
    let text = if Compression::of(&text) == Some(Compression::Gzip) {
        unpack(&text, Tail::Streams, MAX_CONFIG).with_context(shown)?
    } else {
        text
    };
    let config = Kconfig::parse(&text).with_context(shown)?;
    Ok(Located { text, config, source: Source::File(path.to_owned()) })
}

/// The contents of a regular file, at most `limit` bytes. Only root (in tests, we) may be able to
/// write the file: its contents decide what root loads.
fn roots_own(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    ensure!(u64::try_from(bytes.len())? <= limit, "larger than {limit} bytes");
    Ok(bytes)
}

fn open(path: &Path) -> Result<File> {
    // O_NONBLOCK: opening a FIFO does not wait for its writer.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let meta = file.metadata()?;
    ensure!(meta.is_file(), "not a regular file");
    let us = nix::unistd::geteuid().as_raw();
    ensure!(
        [0, us].contains(&meta.uid()) && meta.mode() & 0o022 == 0,
        "belongs to uid {} with mode {:04o}: it has to be root's own, and writable by nobody else",
        meta.uid(),
        meta.mode() & 0o7777
    );
    Ok(file)
}
