//! `make demo`: from a stock kernel without ZFS to an imported pool, before your eyes.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::disk::{State, blank, usr};
use lab::nspawn::Machine;
use lab::root::Root;
use lab::vm::{Boot, Disk, VmSpec, boot};

const CREATE: &str = "
export PATH=$PATH:/usr/local/bin
probe create zpool create -O mountpoint=/tank tank /dev/disk/by-id/virtio-pool
probe write sh -c 'echo written by the first boot > /tank/file && sync'
";
const LOOK: &str = "
probe build systemctl start zfs-build.service
probe journal journalctl -b --no-hostname -o short-monotonic -u zfs-load -u zfs-import-cache -u zfs-mount -u zfs-build
probe status zfs-prefix status
export PATH=$PATH:/usr/local/bin
probe version zfs version
probe health zpool list -H -o name,health tank
probe file cat /tank/file
probe failed systemctl --failed --plain --no-legend
";

fn main() -> Result<()> {
    let begin = Instant::now();
    let staged: PathBuf = std::env::args_os().nth(1).context("usage: demo STAGE")?.into();
    let staged = staged.canonicalize().with_context(|| staged.display().to_string())?;
    say(
        "1. A Debian 13 root image: read-only /usr, user core, the stock cloud kernel, nothing of ZFS (no module, no zpool, no unit), no compiler, make, perl or python, and no kernel build tree; a prefix made of Debian 12's packages, signed; and the kernel's source (two to four minutes when they are not cached)",
    );
    let root = lab::without::openzfs(&lab::root::root()?)?;
    let work = lab::dir().join("demo");
    let stage = work.join("stage");
    lab::cache::remove(&stage)?;
    std::fs::create_dir_all(&work)?;
    lab::without::stage_with_units(&staged, &stage)?;
    let state = State::fresh(&root, &work.join("state"))?;
    lab::prefix::offer(&state)?;
    lab::source::offer(&state)?;
    build(&root, &state, &stage)?;

    say("3. The stock kernel in QEMU (no KVM needed): generator, zfs-load, a new pool");
    let pool = work.join("pool.img");
    blank(&pool, 512 << 20)?;
    let mut spec = VmSpec {
        name: "demo-1".into(),
        cmdline: String::new(),
        usr: usr(&root, Some(&stage))?,
        state: state.disks(&work)?,
        keep_state: true,
        disks: vec![Disk { image: pool, serial: "pool".into(), keep: true }],
        script: format!("{CREATE}{LOOK}"),
        timeout: Duration::from_secs(300),
        network: false,
        live: true,
    };
    prove(&boot(&root, &spec)?, &root)?;
    for (step, name) in [(4, "demo-2"), (5, "demo-3")] {
        say(&format!("{step}. Booted again, nobody logs in: is the pool there?"));
        (spec.name, spec.script) = (name.into(), LOOK.into());
        let boot = boot(&root, &spec)?;
        prove(&boot, &root)?;
        println!("multi-user.target {} s after the kernel's start", boot.uptime()?);
    }
    say(&format!(
        "PROVEN in {} s: stock kernel {} without headers, modules and programs of OpenZFS built by emerge as user core in a prefix of another Debian, published, loaded before import, pool ONLINE with its file in three boots",
        begin.elapsed().as_secs(),
        root.release
    ));
    Ok(())
}

fn build(root: &Root, state: &State, staged: &Path) -> Result<()> {
    say(
        "2. That image booted with systemd in nspawn: the prefix's archive is checked, unpacked and audited; then systemctl start zfs-build@RELEASE: Module.symvers is recovered from the kernel image, the kernel's source prepared, and a real emerge of modules and programs runs as user core (six to ten minutes)",
    );
    let machine = Machine::boot("demo-native", root, state, Some(staged), Duration::from_secs(60))?;
    ensure!(machine.exec("touch /usr/x")?.status != 0, "/usr can be written to");
    ensure!(machine.exec("! command -v zpool zfs")?.status == 0, "the image has a zpool");
    // As whoever builds the image does.
    machine.check(lab::without::PRESET)?;
    let release = &root.release;
    ensure!(
        machine.exec("! command -v gcc make perl python3")?.status == 0,
        "the image has a toolchain"
    );
    let provisioned = machine.exec_live("zfs-prefix prefix provision && zfs-prefix prefix info")?;
    ensure!(provisioned == 0, "prefix provision ended with {provisioned}");
    let facts = machine.exec_live(&format!("zfs-prefix kernel facts --release {release}"))?;
    ensure!(facts == 0, "kernel facts ended with {facts}");
    // It starts zfs-build@RELEASE.service, and shows that unit's STATUS as it changes.
    let status = machine.exec_live(&format!("zfs-prefix build --kernel-release {release}"))?;
    machine.exec_live(&format!(
        "journalctl --no-hostname -o short -u 'zfs-build@*' -g 'stage|kernel.tree|published|failed'; zfs-prefix list; ls -l /home/core/gentoo/lib/modules {}",
        "/var/lib/zfs-prefix/current/"
    ))?;
    ensure!(status == 0, "zfs-build@{release} ended with {status}");
    // May be deleted at any time; the virtual machine's /var has no room for a kernel's source.
    machine.check("rm -rf /var/cache/zfs-prefix/sources")?;
    machine.power_off(Duration::from_secs(60))
}

fn prove(boot: &Boot, root: &Root) -> Result<()> {
    let health = boot.probe("health")?;
    ensure!(health.output == "tank\tONLINE", "pool: {}", health.output);
    ensure!(boot.probe("file")?.output == "written by the first boot", "the file is not readable");
    let failed = boot.probe("failed")?;
    ensure!(failed.output.is_empty(), "failed units: {}", failed.output);
    // The builder sees the running kernel here and saw its image there: the same key.
    let build = boot.probe("build")?;
    let journal = boot.probe("journal")?.output;
    let known = journal.contains("are published already");
    ensure!(build.status == 0 && known, "the builder does not know its own tree:\n{journal}");
    let status = boot.probe("status")?.output;
    let version = boot.probe("version")?.output;
    let said: Vec<&str> = version.lines().filter_map(|line| line.strip_prefix("zfs-")).collect();
    let agree = matches!(said[..], [program, module] if module == format!("kmod-{program}"));
    ensure!(agree, "programs and module are not of one version:\n{version}");
    let tree = format!("/var/lib/zfs-prefix/store/{}/", root.release);
    ensure!(status.contains(&tree), "not loaded from the store:\n{status}");
    Ok(())
}

fn say(text: &str) {
    println!("\n==> {text}");
}
