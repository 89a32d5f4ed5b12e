//! Finds a kernel's image and configuration on a machine of any distribution. An image has to say
//! its own release: an update may have replaced it with the image of another kernel.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::Image;
use super::kconfig::{Kconfig, MAX_CONFIG};
use crate::compress::{Compression, Tail, unpack};
use crate::exit::{Exit, WithExit};
use crate::fail;
use crate::host::{Host, Release};

/// How many bytes of a bzImage hold its release (Documentation/arch/x86/boot.rst: `kernel_version`
/// points into the first 64 KiB and 512 bytes).
const HEADER: u64 = 0x1_0200 + 256;

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

/// The image of kernel `release`: `configured` (kernel.image, its template filled in), or the first
/// of /usr/lib/modules/RELEASE/vmlinuz, /boot/vmlinuz-RELEASE, /usr/boot/vmlinuz and
/// /boot/flatcar/vmlinuz-{a,b} that is of this very release. At the first two places, an image
/// without a boot header (arm64) is taken by its name: otherwise each boot would have to unpack it.
///
/// # Errors
/// [`Exit::NoKernelSource`]: no image of this release was found. The error names each place and the
/// reason.
pub fn image(host: &Host, configured: Option<&Path>, release: &Release) -> Result<PathBuf> {
    let places = match configured {
        Some(path) => vec![path.to_owned()],
        None => vec![
            format!("/usr/lib/modules/{release}/vmlinuz").into(),
            format!("/boot/vmlinuz-{release}").into(),
            "/usr/boot/vmlinuz".into(),
            "/boot/flatcar/vmlinuz-a".into(),
            "/boot/flatcar/vmlinuz-b".into(),
        ],
    };
    let (mut missing, mut wrong) = (Vec::new(), Vec::new());
    for (index, path) in places.iter().map(|p| host.path(p)).enumerate() {
        // The first two are named after the release.
        match is_of(&path, release, configured.is_none() && index < 2) {
            Ok(()) => return Ok(path),
            Err(error) if is_missing(&error) => missing.push(path.display().to_string()),
            Err(error) => wrong.push(format!("; {}: {error:#}", path.display())),
        }
    }
    let missing = match missing.as_slice() {
        [] => String::new(),
        paths => format!("; there is none in {}", paths.join(", ")),
    };
    fail!(
        Exit::NoKernelSource,
        "kernel {release}: no kernel image{}{missing}; set kernel.image to it",
        wrong.concat()
    );
}

fn is_missing(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|e| e.kind() == std::io::ErrorKind::NotFound)
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
    if nameless.exists() && is_of(&beside, release, false).is_ok() {
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

/// Checks that the file is an image of this release. The error says what it is instead. A file that
/// is `named` after the release is not unpacked for this check: callers compare its build-id where
/// that matters.
fn is_of(path: &Path, release: &Release, named: bool) -> Result<()> {
    let mut header = Vec::new();
    open(path)?.take(HEADER).read_to_end(&mut header)?;
    // The header of a bzImage has the release, so nothing has to be unpacked.
    let found = match boot_header_release(&header) {
        Some(found) => found,
        None if named && looks_like_an_image(&header) => return Ok(()),
        None => Image::open(path)?.release().context("an image that does not say its release")?,
    };
    ensure!(found == release.as_str(), "is of kernel {found}");
    Ok(())
}

/// arm64 Image, EFI zboot image, or one of these compressed as a whole.
fn looks_like_an_image(header: &[u8]) -> bool {
    header.get(0x38..0x3c) == Some(b"ARM\x64")
        || header.get(4..8) == Some(b"zimg")
        || Compression::of(header).is_some()
}

/// The release in the header of an x86 bzImage: the first word of what `kernel_version` points to.
fn boot_header_release(image: &[u8]) -> Option<String> {
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let offset = u16::from_le_bytes(image.get(0x20e..0x210)?.try_into().ok()?);
    let text = image.get(0x200 + usize::from(offset)..).filter(|_| offset != 0)?;
    let end = text.iter().take(128).position(|b| matches!(b, 0 | b' '))?;
    std::str::from_utf8(&text[..end]).ok().filter(|word| !word.is_empty()).map(str::to_owned)
}
