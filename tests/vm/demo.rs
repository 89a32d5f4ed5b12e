//! `make demo`: from a stock kernel without ZFS to an imported pool.

#[path = "../lab/mod.rs"]
mod lab;

use std::time::Duration;

use anyhow::{Result, ensure};
use lab::disk::{State, blank, usr};
use lab::nspawn::Machine;
use lab::vm::{Disk, VmSpec, boot};

fn main() -> Result<()> {
    let root = lab::root::root()?;
    let work = lab::dir().join("demo");
    let staged = std::env::args_os().nth(1).map(std::path::PathBuf::from);
    let state = State::fresh(&root, &work.join("state"))?;

    let machine =
        Machine::boot("demo-native", &root, &state, staged.as_deref(), Duration::from_secs(60))?;
    ensure!(machine.exec("touch /usr/x")?.status != 0, "/usr can be written to");
    machine.exec_live("systemctl --failed; findmnt /usr; journalctl -b -n 5")?;
    machine.power_off(Duration::from_secs(60))?;

    let pool = work.join("pool.img");
    blank(&pool, 512 << 20)?;
    let spec = VmSpec {
        name: "demo-vm".into(),
        cmdline: String::new(),
        usr: usr(&root, staged.as_deref())?,
        state: state.disks(&work)?,
        keep_state: true,
        disks: vec![Disk { image: pool, serial: "pool".into(), keep: true }],
        script:
            "probe kernel uname -r\nprobe failed systemctl --failed\nprobe mounts findmnt -t ext4"
                .into(),
        timeout: Duration::from_secs(300),
        live: true,
    };
    let first = boot(&root, &spec)?;
    ensure!(first.probe("kernel")?.output == root.release, "another kernel");
    println!("multi-user.target after {} s", first.uptime()?);
    Ok(())
}
