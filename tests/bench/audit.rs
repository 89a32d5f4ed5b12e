//! What an audit of the prefix costs, against binutils' `readelf` over the same files, which reads
//! less of them (no libraries are looked up) and prints it; in turn, so that all meet the same machine.

mod report;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use lab::prefix::EPREFIX;
use lab::tool::run;
use report::{Table, milliseconds};
use serde_json::Value;

/// Time of an audit.
#[derive(Parser)]
struct Cli {
    /// What `make install DESTDIR=` filled
    #[arg(long)]
    stage: PathBuf,
    /// Measured runs of each
    #[arg(long, default_value_t = 15)]
    runs: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

struct Contender {
    name: &'static str,
    command: Command,
    /// The statuses that are no accident.
    expected: &'static [i32],
    times: Vec<Duration>,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let work = lab::tmp::dir("bench-")?;
    fs::set_permissions(work.path(), Permissions::from_mode(0o755))?;
    let tree = work.path().join("tree");
    run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(lab::prefix::tree()?).arg(&tree))?;
    run(Command::new("chown").args(["-hR", "500:500"]).arg(&tree))?;
    let program = cli.stage.canonicalize().context("run `make stage`")?.join("usr/bin/zfs-prefix");
    let report = audited(&program, &tree)?;
    let mut contenders = vec![
        contender("zfs-prefix prefix audit", audit(&program, &tree), &[0, 11]),
        // Without root nothing can be run in a tree that is not in its place: what is left is what
        // is compared. The finding that says so makes it 11.
        contender("the same, files only", as_owner(audit(&program, &tree)), &[11]),
        contender("find -exec readelf -hld {} +", readelf(&tree), &[0, 1]),
        contender("find, names and modes only", find(&tree), &[0]),
    ];
    for round in 0..=cli.runs {
        for contender in &mut contenders {
            let time = contender.run()?;
            // The first round brings everything into memory.
            if round > 0 {
                contender.times.push(time);
            }
        }
    }
    let (files, elf) = (&report["files"], &report["elf-files"]);
    let title =
        format!("Audits of a prefix of {files} files, {elf} of them ELF: {} runs", cli.runs);
    let mut table = Table::new(title, &["minimum ms", "median ms"]);
    for contender in &contenders {
        table.row(contender.name, &milliseconds(&contender.times));
    }
    table.remark("The whole audit starts seven programs of the prefix, asks gcc for its parts, compiles a program and runs it.");
    table.print(cli.json);
    Ok(())
}

fn contender(name: &'static str, command: Command, expected: &'static [i32]) -> Contender {
    Contender { name, command, expected, times: vec![] }
}

impl Contender {
    fn run(&mut self) -> Result<Duration> {
        let begin = Instant::now();
        let status = self.command.status().context(self.name)?;
        let time = begin.elapsed();
        let fine = status.code().is_some_and(|code| self.expected.contains(&code));
        ensure!(fine, "{}: {status}", self.name);
        Ok(time)
    }
}

/// That it looks at everything, and its figures.
fn audited(program: &Path, tree: &Path) -> Result<Value> {
    let output = audit(program, tree).arg("--json").stdout(Stdio::piped()).output()?;
    let report: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("{}", String::from_utf8_lossy(&output.stderr)))?;
    ensure!(report["compiler"].is_string(), "the compiler was not run: {report:#}");
    let names = run(Command::new("find").arg(tree).args(["-printf", "x"]))?;
    ensure!(report["files"] == names.len(), "{} names: {}", names.len(), report["files"]);
    Ok(report)
}

fn quiet(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn audit(program: &Path, tree: &Path) -> Command {
    let mut command = quiet(program);
    command.args(["prefix", "audit"]).arg(tree).args(["--eprefix", EPREFIX]);
    command
}

fn as_owner(command: Command) -> Command {
    let mut owners = quiet(Path::new("setpriv"));
    owners.args(["--reuid=500", "--regid=500", "--clear-groups"]).arg(command.get_program());
    owners.args(command.get_args());
    owners
}

fn readelf(tree: &Path) -> Command {
    let mut command = quiet(Path::new("find"));
    command.arg(tree).args(["-type", "f", "-exec", "readelf", "-hld", "{}", "+"]);
    command
}

fn find(tree: &Path) -> Command {
    let mut command = quiet(Path::new("find"));
    command.arg(tree).args(["-printf", "%m %U %p\n"]);
    command
}
