//! What the builder costs beside the compiler: bare `./configure && make` of the same OpenZFS tree
//! against `zfs-build` with the recipe `make`, in the same native machine, as the same user.

mod report;
mod timed;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use lab::disk::State;
use lab::nspawn::Machine;
use lab::prefix::EPREFIX;
use lab::root::Root;
use report::Table;
use timed::{Times, stages, timed};

/// What the builder passes too: without it the bare build would spend its time on debug information.
const NO_DEBUG_INFO: &str =
    "CONFIG_DEBUG_INFO= CONFIG_DEBUG_INFO_BTF= CONFIG_DEBUG_INFO_DWARF_TOOLCHAIN_DEFAULT=";

/// Time of a build.
#[derive(Parser)]
struct Cli {
    /// What `make install DESTDIR=` filled
    #[arg(long)]
    stage: PathBuf,
    /// Compiler jobs at once [default: the number of cores]
    #[arg(long)]
    jobs: Option<usize>,
    /// Neither build to its end: is everything in place?
    #[arg(long)]
    dry: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let stage = cli.stage.canonicalize().with_context(|| cli.stage.display().to_string())?;
    let root = lab::root::root()?;
    let work = lab::tmp::dir("bench-")?;
    let state = State::fresh(&root, &work.path().join("state"))?;
    lab::prefix::install(&state)?;
    let machine =
        Machine::boot("bench-build", &root, &state, Some(&stage), Duration::from_secs(60))?;
    let source =
        machine.check(&format!("ls {EPREFIX}/var/cache/distfiles/zfs-linux_*.orig.tar.*"))?;
    let source = source.trim();
    let config = format!("[build]\nrecipe = \"make\"\n\n[zfs]\nsource = \"{source}\"\n");
    state.write("/etc/zfs-prefix/config.d/50-bench.toml", config)?;
    let cores = std::thread::available_parallelism()?.get();
    let jobs = cli.jobs.unwrap_or(cores);

    // Both find the sources in memory, otherwise the first would read them for the second.
    machine.check(&format!(
        "cat {source} > /dev/null; cat $(find /usr/src /usr/lib/gcc -type f) > /dev/null"
    ))?;
    let bare = bare(&machine, &root, source, jobs, cli.dry)?;
    let ours = ours(&machine, &root, jobs, cli.dry)?;
    machine.power_off(Duration::from_secs(60))?;

    let dry = if cli.dry { " (DRY: no build was finished)" } else { "" };
    let title = format!("Builds of {source} for {}, {jobs} jobs{dry}", root.release);
    let mut table = Table::new(title, &["wall s", "CPU s"]);
    let mut sum = [0.0; 2];
    for (name, times) in &bare {
        table.row(format!("bare: {name}"), &times.row());
        sum = [sum[0] + times.wall, sum[1] + times.cpu];
    }
    table.row("bare", &sum);
    for (stage, seconds) in stages(&ours.output) {
        table.row(format!("zfs-build: stage {stage}"), &[seconds]);
    }
    table.row("zfs-build", &ours.row());
    let percent = |ours: f64, bare: f64| (ours / bare - 1.0) * 100.0;
    if !cli.dry {
        table.row("overhead, per cent", &[percent(ours.wall, sum[0]), percent(ours.cpu, sum[1])]);
    }
    table.remark("zfs-build includes stripping, depmod, verification and publishing.");
    table.print(cli.json);
    Ok(())
}

/// Unpacking, configuring, compiling; by hand, as the prefix's owner.
fn bare(
    machine: &Machine,
    root: &Root,
    source: &str,
    jobs: usize,
    dry: bool,
) -> Result<Vec<(&'static str, Times)>> {
    let modules = format!("/usr/lib/modules/{}", root.release);
    let configure = if dry {
        "./configure --help".to_owned()
    } else {
        format!(
            "./configure --with-config=kernel --with-linux={modules}/source --with-linux-obj={modules}/build"
        )
    };
    let make =
        if dry { "make --version".to_owned() } else { format!("make -j{jobs} {NO_DEBUG_INFO}") };
    let unpack = format!("tar --extract --strip-components=1 --no-same-owner --file {source}");
    machine.check("install -d -o core -g core /var/cache/bare")?;
    let mut times = vec![];
    for (name, command) in [("unpack", unpack), ("configure", configure), ("make", make)] {
        let line = format!(
            "cd /var/cache/bare && setpriv --reuid=core --regid=core --clear-groups env -i \
             HOME=/var/cache/bare TMPDIR=/var/cache/bare LC_ALL=C TERM=dumb TEST_JOBS={jobs} \
             PATH={EPREFIX}/usr/bin:{EPREFIX}/bin:/usr/sbin:/usr/bin:/sbin:/bin {command}"
        );
        let ran = timed(machine, &line)?;
        ensure!(ran.0 == 0, "bare {name}: exit status {}\n{}", ran.0, ran.1.output);
        times.push((name, ran.1));
    }
    Ok(times)
}

fn ours(machine: &Machine, root: &Root, jobs: usize, dry: bool) -> Result<Times> {
    // A signal ends it in the middle of configure.
    let limit = if dry { "timeout -s TERM 15 " } else { "" };
    let (status, times) = timed(
        machine,
        &format!(
            "{limit}/usr/lib/zfs-prefix/zfs-build --kernel-release {} --jobs {jobs}",
            root.release
        ),
    )?;
    let stopped = dry && times.output.contains("was stopped by a signal");
    ensure!(stopped || status == 0, "zfs-build: exit status {status}\n{}", times.output);
    let built = stages(&times.output).iter().any(|(stage, _)| *stage == "publish");
    ensure!(stopped || built, "nothing was built:\n{}", times.output);
    Ok(times)
}
