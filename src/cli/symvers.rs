//! `zfs-prefix symvers`: a Module.symvers without a kernel build tree.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::exit::{Exit, Failure, WithExit};
use crate::kernel::recover::{self, CheckReport};
use crate::kernel::{Image, Symvers, guard};
use crate::store::write_atomic;

/// Arguments of `zfs-prefix symvers`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The kernel image: bzImage, EFI zboot image, arm64 Image, vmlinux, compressed or not, or a
    /// UKI
    #[arg(long, value_name = "VMLINUZ")]
    image: PathBuf,
    /// Its modules, such as /usr/lib/modules/RELEASE: what they export, too
    #[arg(long, value_name = "DIR")]
    modules: Option<PathBuf>,
    /// Into this file instead of standard output; a device or a link is written in place
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Compare with the CRCs that each of the modules was built against; without -o no table is
    /// printed
    #[arg(long, requires = "modules")]
    check: bool,
}

/// A table, where it is from, and how it compares.
struct Table {
    symvers: Symvers,
    source: String,
    report: Option<CheckReport>,
}

/// Runs the command; the exit status.
///
/// # Errors
/// [`Exit::NoSymvers`]: no table could be recovered, or it differs from what the modules say.
/// Nothing is written then.
pub fn run(args: &Args) -> Result<u8> {
    let table = table(args).exit(Exit::NoSymvers)?;
    eprintln!("zfs-prefix: {} symbols, {}", table.symvers.len(), table.source);
    if let Some(report) = &table.report {
        eprintln!("zfs-prefix: {report}");
    }
    let text = table.symvers.to_text();
    match &args.output {
        Some(path) => write(path, text.as_bytes())?,
        // With --check, the operator wants to know whether the table is right.
        None if args.check => {}
        None => io::stdout().write_all(text.as_bytes()).context("standard output")?,
    }
    Ok(Exit::Done.code())
}

/// Replaces a new or regular file in one step. /dev/null, /dev/stdout, a FIFO or the target of a
/// link must not be replaced: it is written in place.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let absolute = std::path::absolute(path).with_context(|| format!("{}", path.display()))?;
    match fs::symlink_metadata(&absolute) {
        Ok(meta) if !meta.is_file() => {
            let opened = File::options().write(true).truncate(true).open(&absolute);
            opened
                .and_then(|mut file| file.write_all(bytes))
                .with_context(|| format!("{}: cannot be written in place", path.display()))
        }
        _ => write_atomic(&absolute, bytes),
    }
}

fn table(args: &Args) -> Result<Table> {
    let image = Image::open(&args.image)?;
    let table = match args.modules.as_deref() {
        Some(dir) => match recover::shipped_file(dir) {
            Some(file) => shipped(args, &image, dir, &file)?,
            None => recovered(args, &image, dir)?,
        },
        None => Table {
            symvers: own(args, &image)?,
            source: format!("recovered from {}", what(args, &image)),
            report: None,
        },
    };
    match &table.report {
        Some(report) if !report.is_sound() => bail!("{}: {report}", table.source),
        _ => Ok(table),
    }
}

/// What the image itself exports.
fn own(args: &Args, image: &Image) -> Result<Symvers> {
    image.symvers().with_context(|| format!("{}", args.image.display()))
}

fn recovered(args: &Args, image: &Image, dir: &Path) -> Result<Table> {
    let symvers = own(args, image)?;
    let of_image = symvers.len();
    let (symvers, report) = if args.check {
        let (symvers, report) = recover::checked(image, dir, recover::jobs())?;
        (symvers, Some(report))
    } else {
        (recover::symvers(image, Some(dir), recover::jobs())?, None)
    };
    let source = format!(
        "recovered: {of_image} from {}, {} from the modules below {}",
        what(args, image),
        symvers.len() - of_image,
        dir.join("kernel").display()
    );
    Ok(Table { symvers, source, report })
}

/// A table that came with the kernel is preferred to a recovered one, but it must agree with the
/// image.
fn shipped(args: &Args, image: &Image, dir: &Path, file: &Path) -> Result<Table> {
    let symvers = recover::shipped(dir)?.with_context(|| format!("{} is gone", file.display()))?;
    guard::exports(&format!("{}", file.display()), &symvers, &own(args, image)?)
        .with_context(|| format!("compared with {}", args.image.display()))
        .map_err(|e| Failure::new(Exit::NoSymvers, format!("{e:#}")))?;
    let report = if args.check {
        Some(recover::check(&symvers, dir, image.release().as_deref())?)
    } else {
        None
    };
    let source = format!("shipped in {}; {} agrees", file.display(), what(args, image));
    Ok(Table { symvers, source, report })
}

/// `/boot/vmlinuz (x86 bzImage, zstd, kernel 6.12.4-flatcar)`.
fn what(args: &Args, image: &Image) -> String {
    let mut words = vec![image.format().to_string()];
    words.extend(image.compression().map(|c| c.to_string()));
    words.extend(image.in_uki().then(|| "in a UKI".to_owned()));
    words.push(image.release().map_or("no release".to_owned(), |r| format!("kernel {r}")));
    format!("{} ({})", args.image.display(), words.join(", "))
}
