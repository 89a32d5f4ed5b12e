//! What recovering Module.symvers costs: stock kernels of Debian, against the bare `xz -dc` of the
//! same modules with as many processes, and depmod, which reads them all, too.

mod report;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use lab::kernel::{Kernel, kernel, modules};
use report::{Table, milliseconds};

/// Times of `zfs-prefix symvers`.
#[derive(Parser)]
struct Cli {
    /// What `make install DESTDIR=` filled
    #[arg(long)]
    stage: PathBuf,
    /// Runs of each
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Threads, or processes of xz
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Without the whole distribution kernel (130 MB more to download)
    #[arg(long)]
    small: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let program = cli.stage.canonicalize()?.join("usr/bin/zfs-prefix");
    let mut table =
        Table::new("Recovering Module.symvers", &["minimum ms", "median ms", "peak MB"]);
    let mut kernels = vec![
        ("bookworm", "linux-image-cloud-amd64"),
        ("trixie", "linux-image-cloud-amd64"),
        ("forky", "linux-image-cloud-amd64"),
    ];
    if !cli.small {
        kernels.push(("forky", "linux-image-amd64"));
    }
    for (suite, package) in kernels {
        let kernel = kernel(suite, "amd64", package)?;
        let files = modules(&kernel.modules)?;
        let name = format!("{} ({} modules)", kernel.release, files.len());
        let image = [Path::new("symvers"), Path::new("--image"), &kernel.image];
        let all = [&image[..], &[Path::new("--modules"), &kernel.modules]].concat();
        let checked = [&all[..], &[Path::new("--check")]].concat();
        for (what, arguments) in
            [("image", &image[..]), ("image, modules", &all), ("image, modules, --check", &checked)]
        {
            let mut command = limited(&cli, &program);
            command.args(arguments);
            table.row(format!("{name}: {what}"), &measure(&cli, &mut command)?);
        }
        if files.iter().all(|f| f.extension().is_some_and(|e| e == "xz")) {
            table.row(format!("{name}: xz -dc"), &measure(&cli, &mut xz(&cli, &kernel))?);
        }
        table.row(format!("{name}: depmod -n"), &measure(&cli, &mut depmod(&kernel)?)?);
    }
    table.remark(format!(
        "{} runs after one that brought everything into memory; {} threads or xz processes; depmod has one.",
        cli.runs, cli.jobs
    ));
    table.print(cli.json);
    Ok(())
}

/// The program with as many processors as it shall have threads.
fn limited(cli: &Cli, program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", &format!("0-{}", cli.jobs - 1)]).arg(program);
    command
}

/// Bare decompression of every module.
fn xz(cli: &Cli, kernel: &Kernel) -> Command {
    let mut command = Command::new("sh");
    let script = "find \"$1\" -name '*.ko.xz' -print0 | xargs -0 -n 16 -P \"$2\" xz -dc";
    command.args(["-c", script, "xz"]).arg(&kernel.modules).arg(cli.jobs.to_string());
    command
}

/// depmod of the same directory, which is `lib/modules/RELEASE` below some root.
fn depmod(kernel: &Kernel) -> Result<Command> {
    let root = kernel.modules.ancestors().nth(3).context("not lib/modules/RELEASE")?;
    let mut command = Command::new("depmod");
    command.arg("-n").arg("-b").arg(root).arg(&kernel.release);
    Ok(command)
}

/// Minimum and median of the runs, and the highest resident set of any.
fn measure(cli: &Cli, command: &mut Command) -> Result<[f64; 3]> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut times: Vec<Duration> = vec![];
    let mut peak = 0.0_f64;
    for run in 0..=cli.runs {
        let begin = Instant::now();
        let child = command.spawn().with_context(|| format!("{command:?}"))?;
        let (code, resident) = wait(child.id())?;
        let time = begin.elapsed();
        ensure!(code == 0, "{command:?} ended with {code}");
        if run > 0 {
            times.push(time);
        }
        peak = peak.max(resident);
    }
    let [minimum, median] = milliseconds(&times);
    Ok([minimum, median, peak])
}

/// Waits for a child; its exit status and its highest resident set in MB (of it and of the children
/// that it waited for, whichever is higher).
#[allow(unsafe_code, reason = "wait4(2) has no safe wrapper")]
fn wait(pid: u32) -> Result<(i32, f64)> {
    let pid = libc::pid_t::try_from(pid)?;
    let mut status = 0;
    // SAFETY: both are plain values that wait4 writes to, and live until it returns.
    let (ended, usage) = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        (libc::wait4(pid, &raw mut status, 0, &raw mut usage), usage)
    };
    ensure!(ended == pid, "wait4: {}", std::io::Error::last_os_error());
    ensure!(libc::WIFEXITED(status), "ended by signal {}", libc::WTERMSIG(status));
    Ok((libc::WEXITSTATUS(status), usage.ru_maxrss as f64 * 1024.0 / 1e6))
}
