//! What a recovered build tree costs beside the kernel's own make: `olddefconfig modules_prepare` by
//! hand, as the prefix's owner, against the stage `kernel` of `zfs-build`, in the same machine with
//! the same unpacked source.

mod report;
mod timed;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use lab::disk::State;
use lab::nspawn::Machine;
use lab::prefix::EPREFIX;
use report::Table;
use timed::{Times, stages, timed};

/// Time of a recovered build tree.
#[derive(Parser)]
struct Cli {
    /// What `make install DESTDIR=` filled
    #[arg(long)]
    stage: PathBuf,
    /// How often each is done; the fastest counts
    #[arg(long, default_value_t = 3)]
    rounds: usize,
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
    lab::source::offer(&state)?;
    let machine =
        Machine::boot("bench-tree", &root, &state, Some(&stage), Duration::from_secs(60))?;
    // Builds end behind the stage that is measured: there is nothing to compile.
    let end = r#"[[ ${EBUILD_PHASE} != unpack ]] || die "the benchmark ends here""#;
    machine.check(&format!("echo '{end}' > {EPREFIX}/etc/portage/bashrc"))?;
    let jobs = std::thread::available_parallelism()?.get();
    let build = format!("/usr/lib/zfs-prefix/zfs-build --force --kernel-release {}", root.release);
    let build = format!("{build} --jobs {jobs}");
    let first = timed(&machine, &build)?;
    let unpacked = seconds(&first.1)?;
    let mut ours = Vec::new();
    let mut bare = Vec::new();
    for _ in 0..cli.rounds {
        ours.push(seconds(&timed(&machine, &build)?.1)?);
        bare.push(by_hand(&machine, &root.release, jobs)?);
    }
    machine.power_off(Duration::from_secs(60))?;
    let least = |all: &[f64]| all.iter().copied().fold(f64::INFINITY, f64::min);
    let (ours, bare) = (least(&ours), least(&bare));
    let title =
        format!("A build tree for {}, {jobs} jobs, fastest of {}", root.release, cli.rounds);
    let mut table = Table::new(title, &["wall s"]);
    table.row("make olddefconfig modules_prepare", &[bare]);
    table.row("zfs-build: stage kernel, recovered", &[ours]);
    table.row("ratio", &[ours / bare]);
    table.row("the first time, unpacking included", &[unpacked]);
    table.remark("The stage recovers Module.symvers of image and modules, and compiles and checks the probe.");
    table.print(cli.json);
    Ok(())
}

fn seconds(times: &Times) -> Result<f64> {
    let stages = stages(&times.output);
    let kernel = stages.iter().find(|(name, _)| *name == "kernel");
    Ok(kernel.with_context(|| format!("no stage kernel:\n{}", times.output))?.1)
}

fn by_hand(machine: &Machine, release: &str, jobs: usize) -> Result<f64> {
    let source = machine
        .check("dirname $(find /var/cache/zfs-prefix -maxdepth 5 -name MAINTAINERS | head -n 1)")?;
    let output = "/var/cache/bare";
    machine.check(&format!(
        "rm -rf {output} && install -d -o core -g core {output} && install -o core -g core /usr/lib/modules/{release}/config {output}/.config"
    ))?;
    let line = format!(
        "setpriv --reuid=core --regid=core --clear-groups env -i HOME={output} TMPDIR={output} LC_ALL=C TERM=dumb \
         PATH={EPREFIX}/usr/bin:{EPREFIX}/bin make -C {} O={output} -j{jobs} KERNELRELEASE={release} SHELL={EPREFIX}/bin/bash \
         olddefconfig modules_prepare",
        source.trim()
    );
    let (status, times) = timed(machine, &line)?;
    ensure!(status == 0, "by hand: exit status {status}\n{}", times.output);
    Ok(times.wall)
}
