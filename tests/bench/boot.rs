//! What a boot with modules costs: a machine that loads from the store, against one that has the same
//! modules as a distribution installs them (below /lib/modules, by modprobe), both with Debian's
//! programs and units; alternating boots of the stock kernel, until zfs-mount.service is done.

mod report;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use lab::disk::{State, StateDisks, blank, usr};
use lab::published::publish;
use lab::root::Root;
use lab::tool::run;
use lab::vm::{Disk, VmSpec, boot};
use report::{Table, milliseconds};

/// Times of boots to zfs-mount.service.
#[derive(Parser)]
struct Cli {
    /// What `make install DESTDIR=` filled
    #[arg(long)]
    stage: PathBuf,
    /// Boots of each, one at least
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// /var on a disk of its own, which the loader has to wait for; else a directory of the root, as
    /// on Flatcar
    #[arg(long)]
    var_disk: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const SCRIPT: &str = "
probe health zpool list -H -o health tank
probe mounted systemctl show --value -p ActiveEnterTimestampMonotonic zfs-mount.service
probe multi-user systemctl show --value -p ActiveEnterTimestampMonotonic multi-user.target
";
/// The units of a machine.
const UNITS: [(&str, &str); 2] =
    [("mounted", "zfs-mount.service"), ("multi-user", "multi-user.target")];

/// A machine that is booted again and again, and what was measured.
struct Machine {
    name: &'static str,
    label: &'static str,
    usr: PathBuf,
    disks: StateDisks,
    times: [Vec<Duration>; 2],
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let stage = cli.stage.canonicalize().with_context(|| cli.stage.display().to_string())?;
    let root = lab::root::root()?;
    let work = lab::tmp::dir("bench-")?;
    let pool = work.path().join("pool.img");
    let mut machines = machines(&root, &stage, work.path(), &pool, cli.var_disk)?;
    for round in 0..usize::from(cli.rounds) {
        // Who is first in a round changes.
        for turn in 0..2 {
            measure(&root, &pool, &mut machines[(round + turn) % 2])?;
        }
        let [store, other] = [0, 1].map(|n| machines[n].times[0][round].as_secs_f64());
        eprintln!("round {}: zfs-mount.service after {store:.1} s and {other:.1} s", round + 1);
    }
    let mut table = Table::new(
        format!(
            "Boots of {} with a pool, since the kernel's start; /var {}",
            root.release,
            if cli.var_disk { "has its own disk" } else { "is in the root" }
        ),
        &["minimum ms", "median ms"],
    );
    for (which, (_, unit)) in UNITS.iter().enumerate() {
        for machine in &machines {
            let label = format!("{unit}: {}", machine.label);
            table.row(label, &milliseconds(&machine.times[which]));
        }
    }
    table.remark(format!("The machine is emulated (TCG); {} boots of each in turn.", cli.rounds));
    for (which, (_, unit)) in UNITS.iter().enumerate() {
        table.remark(within_rounds(unit, &machines[0].times[which], &machines[1].times[which]));
    }
    table.print(cli.json);
    Ok(())
}

/// How much longer the first takes than the second of the same round: an emulated machine is at times
/// half as fast as at others, for minutes, and the two of a round are neighbours.
fn within_rounds(unit: &str, first: &[Duration], second: &[Duration]) -> String {
    let pairs = first.iter().zip(second);
    let mut percent: Vec<f64> =
        pairs.map(|(a, b)| (a.as_secs_f64() / b.as_secs_f64() - 1.0) * 100.0).collect();
    percent.sort_by(f64::total_cmp);
    let at = |part: f64| percent[((percent.len() - 1) as f64 * part).round() as usize];
    format!(
        "{unit}, store against distribution in one round: {:+.1} % (median), {:+.1} to {:+.1} % (quartiles), {:+.1} to {:+.1} % (all).",
        at(0.5),
        at(0.25),
        at(0.75),
        at(0.0),
        at(1.0)
    )
}

fn machines(
    root: &Root,
    stage: &Path,
    work: &Path,
    pool: &Path,
    var_disk: bool,
) -> Result<[Machine; 2]> {
    let disks = |state: &State, dir: &Path| {
        if var_disk { state.disks(dir) } else { state.disks_without_var(dir) }
    };
    let own = State::fresh(root, &work.join("store"))?;
    publish(root, &own)?;
    own.write("/etc/zfs-prefix/config.toml", "boot.when-missing = \"never\"\n")?;
    // Each image has a name of its own: one replaces the other in the laboratory.
    let image = |name: &str, stage: &Path| -> Result<PathBuf> {
        let to = work.join(name);
        fs::hard_link(usr(root, Some(stage))?, &to)?;
        Ok(to)
    };
    let store = image("store.usr", stage)?;
    let other = State::fresh(root, &work.join("distribution"))?;
    let installed = image("distribution.usr", &installed(root, work)?)?;
    let cache = make_pool(root, &store, &disks(&own, &work.join("first"))?, pool)?;
    for state in [&own, &other] {
        state.write("/etc/zfs/zpool.cache", &cache)?;
    }
    let machine = |name, label, usr, state: &State| -> Result<Machine> {
        let disks = disks(state, &work.join(format!("{name}-disks")))?;
        Ok(Machine { name, label, usr, disks, times: [vec![], vec![]] })
    };
    Ok([
        machine("store", "zfs-load, from the store", store, &own)?,
        machine("distribution", "modprobe, from /lib/modules", installed, &other)?,
    ])
}

/// What a package with the modules adds to /usr.
fn installed(root: &Root, work: &Path) -> Result<PathBuf> {
    let stage = work.join("package");
    let all = stage.join("usr/lib/modules");
    fs::create_dir_all(&all)?;
    let dir = all.join(&root.release);
    run(Command::new("cp").arg("-a").arg(root.modules()).arg(&dir))?;
    fs::create_dir(dir.join("extra"))?;
    for name in ["spl.ko", "zfs.ko"] {
        fs::copy(lab::emerge::modules(root)?.join(name), dir.join("extra").join(name))?;
    }
    // depmod looks into lib/modules.
    std::os::unix::fs::symlink("usr/lib", stage.join("lib"))?;
    run(Command::new("depmod").arg("-b").arg(&stage).arg(&root.release))?;
    Ok(stage)
}

/// Makes the pool, and returns the cache file that names it.
fn make_pool(root: &Root, usr: &Path, disks: &StateDisks, pool: &Path) -> Result<Vec<u8>> {
    blank(pool, 512 << 20)?;
    let script = "probe create zpool create -O mountpoint=/tank tank /dev/disk/by-id/virtio-pool\n\
                  probe more sh -c 'for i in 1 2 3 4; do zfs create tank/$i || exit; done; sync'\n";
    let spec = VmSpec { script: script.into(), ..spec("pool", usr, disks, pool) };
    let boot = boot(root, &spec)?;
    for probe in ["create", "more"] {
        let probe = boot.probe(probe)?;
        ensure!(probe.status == 0, "{}: {}", probe.output, boot.log.display());
    }
    let cache = disks.root.with_extension("cache");
    let dump = format!("dump /etc/zfs/zpool.cache {}", cache.display());
    run(Command::new("debugfs").args(["-R", &dump]).arg(&disks.root))?;
    fs::read(&cache).with_context(|| cache.display().to_string())
}

/// What is written is kept only in the first boot.
fn spec(name: &str, usr: &Path, disks: &StateDisks, pool: &Path) -> VmSpec {
    let keep = name == "pool";
    VmSpec {
        name: format!("bench-boot-{name}"),
        cmdline: String::new(),
        usr: usr.to_owned(),
        state: disks.clone(),
        keep_state: keep,
        disks: vec![Disk { image: pool.to_owned(), serial: "pool".into(), keep }],
        script: SCRIPT.into(),
        timeout: Duration::from_secs(300),
        network: false,
        live: false,
    }
}

fn measure(root: &Root, pool: &Path, machine: &mut Machine) -> Result<()> {
    let boot = boot(root, &spec(machine.name, &machine.usr, &machine.disks, pool))?;
    let health = boot.probe("health")?.output;
    ensure!(health == "ONLINE", "{}: the pool is {health:?}: {}", machine.name, boot.log.display());
    for (times, (probe, unit)) in machine.times.iter_mut().zip(UNITS) {
        let since: u64 = boot.probe(probe)?.output.parse().with_context(|| unit.to_owned())?;
        ensure!(since > 0, "{}: {unit} is not active: {}", machine.name, boot.log.display());
        times.push(Duration::from_micros(since));
    }
    Ok(())
}
