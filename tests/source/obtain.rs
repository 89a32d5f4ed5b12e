//! Obtains sources as the builder does, for tests/source.rs: `obtain kernel RELEASE`, `obtain zfs`,
//! below $ZFS_PREFIX_ROOT and with its configuration. Prints what came of it, a line each.

use std::process::ExitCode;

use anyhow::{Context, Result};
use zfs_prefix::config;
use zfs_prefix::host::Host;
use zfs_prefix::prefix::Prefix;
use zfs_prefix::prefix::enter::{self, Place};
use zfs_prefix::process::{Cancel, Run};
use zfs_prefix::source::{KernelSource, Obtain, Obtained, ZfsSource, meta};
use zfs_prefix::store::Layout;

fn main() -> ExitCode {
    if let Some(status) = enter::main(std::env::args_os()) {
        return status;
    }
    match obtain() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            zfs_prefix::exit::of(&error).into()
        }
    }
}

fn obtain() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let host = Host::from_machine(std::env::var_os("ZFS_PREFIX_ROOT"))?;
    let loaded = config::load(&host);
    anyhow::ensure!(loaded.notes.is_empty(), "{:?}", loaded.notes);
    let settings = loaded.settings;
    let layout = Layout::new(&host.root);
    let prefix = Prefix::open(&settings.prefix.path)?;
    let cancel = Cancel::default();
    cancel.on_signals(&[libc::SIGTERM])?;
    let mut with = Obtain {
        layout: &layout,
        prefix: &prefix,
        network: !args.contains(&"--offline"),
        cancel: &cancel,
        report: &mut |text| eprintln!("{text}"),
    };
    match args[..] {
        ["kernel", release, ..] => {
            let Some(source) = KernelSource::of(&host, &settings, &release.parse()?)? else {
                println!("none");
                return Ok(());
            };
            println!("identity {}", source.identity());
            match source.obtain(&mut with)? {
                Obtained::Source(path) => println!("source {}", path.display()),
                Obtained::BuildTree(path) => println!("tree {}", path.display()),
            }
        }
        ["zfs", ..] => {
            let source = ZfsSource::of(&settings)?.context("zfs.source")?;
            println!("identity {}", source.identity());
            let tarball = source.obtain(&mut with)?;
            println!("tarball {}", tarball.display());
            println!("{}", meta(&prefix, &tarball, &cancel)?);
            if args.contains(&"--unpack") {
                let repository = source.repository(&tarball, &mut with)?;
                let version = settings.zfs.version.context("zfs.version")?;
                unpack(&prefix, &repository, &version, &host, &cancel)?;
            }
        }
        _ => anyhow::bail!("usage: obtain kernel RELEASE [--offline] | zfs [--offline] [--unpack]"),
    }
    Ok(())
}

/// Has Portage choose the version, check the Manifest and unpack.
fn unpack(
    prefix: &Prefix,
    repository: &zfs_prefix::source::Repository,
    version: &str,
    host: &Host,
    cancel: &Cancel,
) -> Result<()> {
    let work = host.path("/work");
    let place = Place {
        work: Some(work.clone()),
        readable: vec![repository.dir.clone()],
        ..Place::default()
    };
    let portage = |program: &str| {
        let run = prefix
            .run(program, &place)
            .env("PORTAGE_USERNAME", &prefix.account.user)
            .env("PORTAGE_GRPNAME", &prefix.account.group)
            .env("PORTAGE_TMPDIR", &work)
            .env("KV_OUT_DIR", work.join("kernel"))
            .idle(std::time::Duration::from_secs(300));
        repository.env.iter().fold(run, |run: Run, (name, value)| run.env(name, value))
    };
    let best = portage("portageq")
        .arg("best_visible")
        .arg(&prefix.path)
        .arg("ebuild")
        .arg(format!("=sys-fs/zfs-kmod-{version}"))
        .output(cancel)?;
    let best = best.trim().rsplit('\n').next().unwrap_or_default();
    println!("best {best}");
    let fetch = portage("emerge").args(["--oneshot", "--fetchonly", "--nodeps", "--color=n"]);
    print!("{}", fetch.arg(format!("={best}")).output(cancel)?);
    let ebuild = format!("sys-fs/zfs-kmod/zfs-kmod-{version}.ebuild");
    let ebuild = repository.dir.join(ebuild);
    print!("{}", portage("ebuild").arg(ebuild).arg("unpack").output(cancel)?);
    Ok(())
}
