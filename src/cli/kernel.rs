//! `zfs-prefix kernel …`: what can be learnt of a kernel.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Subcommand;

use super::print;
use crate::config::{self, expand_release};
use crate::exit::Exit;
use crate::host::{Host, Release};
use crate::kernel::facts::{Facts, Wanted};

/// What can be asked of a kernel.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Release, compiler, configuration, signature policy and what else matters to modules
    Facts {
        /// Of the kernel in this image instead of the running one
        #[arg(long, value_name = "PATH")]
        image: Option<PathBuf>,
        /// Of this kernel instead of the running one
        #[arg(long, value_name = "RELEASE", conflicts_with = "image")]
        release: Option<Release>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

/// Runs a command; the exit status.
///
/// # Errors
/// With the exit status of what is wrong.
pub fn run(host: &Host, command: Command) -> Result<u8> {
    let Command::Facts { image, release, json } = command;
    let loaded = config::load(host);
    for note in &loaded.notes {
        eprintln!("zfs-prefix: {note}");
    }
    let kernel = loaded.settings.kernel;
    let image = match image {
        Some(path) => {
            let absolute = std::path::absolute(&path);
            Some(absolute.with_context(|| format!("{}", path.display()))?)
        }
        None => {
            let release = release.as_ref().unwrap_or(&host.kernel_release);
            kernel.image.as_deref().map(|template| expand_release(template, release))
        }
    };
    let config = |release: &Release| Some(expand_release(kernel.config.as_deref()?, release));
    let facts = Facts::gather(host, &Wanted { release, image, config: &config })?;
    if json {
        print(&serde_json::to_string_pretty(&facts)?)?
    } else {
        print(facts.to_string().trim_end())?
    }
    Ok(Exit::Done.code())
}
