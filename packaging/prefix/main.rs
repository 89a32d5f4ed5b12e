//! `make prefix`: a self-contained prefix from this machine's Debian, as a directory, an archive
//! and its manifest.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use lab::prefix::make;
use make::packages::{Apt, portage};

/// Makes a toolchain prefix out of Debian packages and Portage.
#[derive(Debug, Parser)]
#[command(name = "make-prefix")]
struct Cli {
    /// Where the tree, the archive and its manifest go; must not exist
    output: PathBuf,
    /// Where the prefix will be; its programs work nowhere else
    #[arg(long, default_value = "/home/core/gentoo")]
    eprefix: PathBuf,
    /// A source tarball that an ebuild of the overlay names
    #[arg(long, value_name = "FILE")]
    distfile: Vec<PathBuf>,
    /// Keep downloaded packages here
    #[arg(long, value_name = "DIR", default_value = "target/prefix-packages")]
    packages: PathBuf,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    ensure!(!cli.output.exists(), "{}: is there already", cli.output.display());
    fs::create_dir_all(&cli.output).with_context(|| cli.output.display().to_string())?;
    let here = lab::repo().join("packaging");
    fs::create_dir_all(&cli.packages)?;
    let cache = cli.packages.canonicalize()?;
    let parts = make::Parts {
        packages: Apt::default().packages(&cache.join("deb"))?,
        wheel: portage(&here.join("prefix/requirements.txt"), &cache.join("wheel"))?,
        overlay: here.join("overlay"),
        distfiles: cli.distfile,
    };
    println!("{} packages, {}", parts.packages.len(), parts.wheel.display());
    let tree = make::tree::Tree {
        dir: cli.output.join("tree"),
        eprefix: cli.eprefix.to_string_lossy().into_owned(),
    };
    let made = make::make(&parts, &cli.eprefix, &tree.dir)?;
    println!("{}: digest {}", tree.dir.display(), made.digest);
    let archive =
        make::pack::archive(&tree, &made.digest, made.time, &parts.packages, &cli.output)?;
    println!("{}", archive.display());
    Ok(())
}
