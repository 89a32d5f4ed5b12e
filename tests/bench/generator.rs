//! What the generator costs a boot: its runs against those of /bin/true, of a bash script that
//! does nothing, and of the zram-generator, interleaved so that all meet the same machine.

mod report;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use lab::tool::run;
use report::{Table, milliseconds};

const WARM_UP: usize = 5;
/// Runs with many datasets take long.
const FEW: usize = 10;

/// Time of a generator run.
#[derive(Parser)]
struct Cli {
    /// What `make install DESTDIR=` filled
    #[arg(long)]
    stage: PathBuf,
    /// Measured runs of each program
    #[arg(long, default_value_t = 1000)]
    runs: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

struct Contender {
    name: String,
    program: PathBuf,
    root: Option<(&'static str, PathBuf)>,
    times: Vec<Duration>,
    /// At most this many runs.
    most: usize,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let scratch = lab::tmp::dir("bench-")?;
    let generator = cli.stage.join("usr/lib/systemd/system-generators/zfs-prefix-generator");
    let size = fs::metadata(&generator)
        .with_context(|| format!("{} (run `make stage`)", generator.display()))?
        .len();
    let root = |name: &str, config: &str| mini_root(&cli.stage, &scratch.path().join(name), config);
    let ours =
        |name: &str, root| contender(name, generator.clone(), Some(("ZFS_PREFIX_ROOT", root)));
    let mut contenders = vec![
        contender("/bin/true", "/bin/true".into(), None),
        ours("zfs-prefix-generator", root("default", "")?),
        ours("zfs-prefix-generator, block", root("block", "[boot]\nwhen-missing = \"block\"\n")?),
        contender("bash script `:`", script(scratch.path())?, None),
    ];
    for (name, list) in lists() {
        let root = root(name, "")?;
        fs::create_dir_all(root.join("etc/zfs/zfs-list.cache"))?;
        fs::write(root.join("etc/zfs/zfs-list.cache/tank"), list)?;
        contenders.push(Contender { most: FEW, ..ours(name, root) });
    }
    let title = format!("Generators: {} runs each, spawn to exit", cli.runs);
    let mut table = Table::new(title, &["minimum ms", "median ms"]);
    table.remark(format!("zfs-prefix-generator has {size} bytes"));
    match zram_generator(scratch.path()) {
        Ok(program) => {
            let root = scratch.path().join("zram");
            fs::create_dir_all(root.join("proc"))?;
            for file in ["proc/cmdline", "proc/meminfo"] {
                fs::copy(Path::new("/").join(file), root.join(file))?;
            }
            contenders.push(contender(
                "zram-generator, no device configured",
                program,
                Some(("ZRAM_GENERATOR_ROOT", root)),
            ));
        }
        Err(error) => table.remark(format!("zram-generator was not measured: {error:#}")),
    }
    // As /run, where systemd has generators write.
    let memory = tempfile::tempdir_in("/dev/shm").context("/dev/shm, a tmpfs")?;
    for round in 0..WARM_UP + cli.runs {
        for contender in &mut contenders {
            if contender.times.len() == contender.most {
                continue;
            }
            let time = contender.run(&memory.path().join("output"))?;
            if round >= WARM_UP {
                contender.times.push(time);
            }
        }
    }
    for contender in &contenders {
        table.row(&contender.name, &milliseconds(&contender.times));
    }
    table.print(cli.json);
    Ok(())
}

fn contender(name: &str, program: PathBuf, root: Option<(&'static str, PathBuf)>) -> Contender {
    Contender { name: name.to_owned(), program, root, times: vec![], most: usize::MAX }
}

/// Lists of datasets, with names for them: very many; and such with the longest paths that a property
/// can have, each of which a unit waits for.
fn lists() -> [(&'static str, String); 3] {
    let line = |dataset: &str, point: &str, paths: &str, nofail: &str| {
        let flags = "on\ton\ton\ton\ton\toff\ton\toff\t-\tnone\t-";
        format!("{dataset}\t{point}\t{flags}\t{paths}\t-\t-\t-\t-\t{nofail}\t-\n")
    };
    let plain = |n: usize| line(&format!("tank/data/{n}"), &format!("/tank/data/{n}"), "-", "-");
    let deep = |n: usize, path: &str| {
        let nofail = if n == 0 { "off" } else { "-" };
        line(&format!("tank/{n}"), &format!("/tank/{n}"), path, nofail)
    };
    let longest = "/a".repeat(4096);
    [
        ("zfs-prefix-generator, 60,000 datasets", (0..60_000).map(plain).collect()),
        (
            "zfs-prefix-generator, 1,000 datasets that require a path of 8 KiB",
            (0..1000).map(|n| deep(n, &longest)).collect(),
        ),
        (
            "zfs-prefix-generator, 1,000 datasets that each require another path of 4,000 bytes",
            (0..1000).map(|n| deep(n, &format!("/{n}{}", &longest[..3990]))).collect(),
        ),
    ]
}

impl Contender {
    /// One run, as systemd does it: three fresh directories, the variables of systemd 251.
    fn run(&self, output: &Path) -> Result<Duration> {
        let directories = ["normal", "early", "late"].map(|d| output.join(d));
        for directory in &directories {
            fs::create_dir_all(directory)?;
        }
        let mut command = Command::new(&self.program);
        command.args(&directories).env_clear();
        command.envs([("PATH", "/usr/sbin:/usr/bin"), ("SYSTEMD_ARCHITECTURE", "x86-64")]);
        command.env("SYSTEMD_IN_INITRD", "0");
        command.envs(self.root.iter().map(|(name, root)| (name, root)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let begin = Instant::now();
        let status = command.status().with_context(|| self.name.clone())?;
        let time = begin.elapsed();
        ensure!(status.success(), "{}: {status}", self.name);
        fs::remove_dir_all(output)?;
        Ok(time)
    }
}

/// A root directory with the static units and a configuration; it has to make the generator work.
fn mini_root(stage: &Path, root: &Path, config: &str) -> Result<PathBuf> {
    for dir in ["usr/lib/zfs-prefix", "proc", "dev", "etc/zfs-prefix"] {
        fs::create_dir_all(root.join(dir))?;
    }
    for dir in ["systemd", "zfs-prefix/dropins"] {
        let lib = stage.join("usr/lib").join(dir);
        run(Command::new("cp").arg("-rT").arg(lib).arg(root.join("usr/lib").join(dir)))?;
    }
    fs::write(root.join("proc/cmdline"), "root=/dev/vda ro quiet\n")?;
    fs::write(root.join("dev/kmsg"), "")?;
    fs::write(root.join("etc/zfs-prefix/config.toml"), config)?;
    let output = root.join("look");
    fs::create_dir(&output)?;
    let generator = root.join("usr/lib/systemd/system-generators/zfs-prefix-generator");
    run(Command::new(generator)
        .arg(&output)
        .env("ZFS_PREFIX_ROOT", root)
        .env("SYSTEMD_ARCHITECTURE", "x86-64"))?;
    ensure!(output.join("zfs-import.target.wants/zfs-load.service").is_symlink(), "wrote nothing");
    let early = output.join("zfs-build-early.service.d/50-zfs-prefix.conf").exists();
    ensure!(early != config.is_empty(), "the configuration {config:?} had no effect");
    Ok(root.to_owned())
}

fn script(scratch: &Path) -> Result<PathBuf> {
    let path = scratch.join("script");
    fs::write(&path, "#!/bin/bash\n:\n")?;
    run(Command::new("chmod").arg("0755").arg(&path))?;
    Ok(path)
}

/// Debian's, unpacked and not installed.
fn zram_generator(scratch: &Path) -> Result<PathBuf> {
    let deb = lab::apt::Apt::open(lab::apt::KERNEL)?.deb("systemd-zram-generator")?;
    let tree = scratch.join("zram-package");
    run(Command::new("dpkg-deb").arg("-x").arg(deb).arg(&tree))?;
    let program = "systemd/system-generators/zram-generator";
    let places = [tree.join("usr/lib").join(program), tree.join("lib").join(program)];
    places.into_iter().find(|p| p.exists()).context("the package has no generator")
}
