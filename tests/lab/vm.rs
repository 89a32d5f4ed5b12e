//! Virtual machines: the stock cloud kernel in QEMU (TCG: KVM is not everywhere), bounded in time,
//! its serial console in a log file.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::disk::StateDisks;
use super::initrd::initrd;
use super::root::Root;

/// A disk of the machine.
#[derive(Clone, Debug)]
pub struct Disk {
    /// Its raw image.
    pub image: PathBuf,
    /// Its serial number: `/dev/disk/by-id/virtio-<serial>` in the machine.
    pub serial: String,
    /// Whether writes go to the image; otherwise they are forgotten at the end.
    pub keep: bool,
}

/// One boot.
#[derive(Clone, Debug)]
pub struct VmSpec {
    /// Names the log: `<lab>/logs/<name>.log`.
    pub name: String,
    /// Added to the kernel command line.
    pub cmdline: String,
    /// /usr.
    pub usr: PathBuf,
    /// Everything else, as [`super::disk::State::disks`] makes it.
    pub state: StateDisks,
    /// Whether /, /etc and /var keep what is written in this boot.
    pub keep_state: bool,
    /// More disks: pools.
    pub disks: Vec<Disk>,
    /// Shell script to run after multi-user.target; `probe NAME COMMAND…` marks output for
    /// [`Boot::probe`]. The machine powers off when it ends.
    pub script: String,
    /// Killed, and an error, after this long.
    pub timeout: Duration,
    /// Whether it has a network card: the machine is 10.0.2.15 if it says so, and 10.0.2.2 is the
    /// loopback of this one.
    pub network: bool,
    /// Show the console on standard output, with seconds since power-on.
    pub live: bool,
}

/// What a boot left behind.
#[derive(Debug)]
pub struct Boot {
    /// The serial console, and between its lines what the script says.
    pub console: String,
    /// The file it is in, each line with seconds since power-on.
    pub log: PathBuf,
}

/// A command that ran in the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Its exit status.
    pub status: i32,
    /// Its output and error output.
    pub output: String,
}

impl Boot {
    /// The result of the script's `probe name …`.
    pub fn probe(&self, name: &str) -> Result<Probe> {
        find_probe(&self.console, name)
            .with_context(|| format!("no finished probe {name:?} on the console. {}", tail(self)))
    }

    /// Seconds from the kernel's start to the script's, that is to multi-user.target.
    pub fn uptime(&self) -> Result<f64> {
        let value = self.console.lines().find_map(|l| l.strip_prefix("@@uptime "));
        Ok(value
            .with_context(|| format!("multi-user.target not reached. {}", tail(self)))?
            .parse()?)
    }
}

fn find_probe(console: &str, name: &str) -> Option<Probe> {
    let (_, rest) = console.split_once(&format!("@@begin {name}\n"))?;
    let (output, rest) = rest.split_once(&format!("@@end {name} "))?;
    let status = rest.lines().next()?.trim().parse().ok()?;
    Some(Probe { status, output: output.trim_end().to_owned() })
}

/// Boots the machine and waits until it is off.
pub fn boot(root: &Root, spec: &VmSpec) -> Result<Boot> {
    let logs = super::dir().join("logs");
    fs::create_dir_all(&logs)?;
    let log = logs.join(format!("{}.log", spec.name));
    let script = script_disk(&spec.script)?;
    let (output, port) = std::io::pipe()?;
    let mut command = command(root, spec, script.path())?;
    let mut qemu =
        Killed(command.stdin(port).spawn().context(
            "starting qemu-system-x86_64 under setpriv (is it installed? `make setup`)",
        )?);
    // It holds a port that has to be QEMU's only, to be closed with it.
    drop(command);
    let (send, lines) = mpsc::channel();
    read(qemu.0.stdout.take().context("qemu has no standard output")?, send.clone());
    read(output, send);
    let (console, ended) = follow(&lines, &log, spec)?;
    let boot = Boot { console, log };
    if !ended {
        bail!("{}: not off after {:?}; killed. {}", spec.name, spec.timeout, tail(&boot));
    }
    let status = qemu.0.wait()?;
    if !status.success() {
        bail!("{}: qemu: {status}. {}", spec.name, tail(&boot));
    }
    Ok(boot)
}

fn tail(boot: &Boot) -> String {
    let lines = super::tool::last_lines(&boot.console, 40);
    format!("Console in {}:\n{lines}", boot.log.display())
}

fn command(root: &Root, spec: &VmSpec, script: &Path) -> Result<Command> {
    // A test that is killed takes its machine along.
    let mut c = Command::new("setpriv");
    c.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
    c.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048", "-M", "q35"]);
    c.args(["-nographic", "-nodefaults", "-no-reboot"]);
    // The console, and after it the script's own port: kernel messages and prompts for passwords
    // cannot come between its lines, and who gives up the console as its terminal hangs up on nobody.
    c.args(["-serial", "file:/dev/stdout", "-serial", "file:/dev/stdin"]);
    c.arg("-kernel").arg(root.vmlinuz()).arg("-initrd").arg(initrd(root)?);
    // Status lines of systemd would stand in the middle of a probe's output.
    c.arg("-append")
        .arg(format!("console=ttyS0 quiet panic=-1 systemd.show_status=false {}", spec.cmdline));
    let disk = |image: &Path, serial: &str, keep| Disk {
        image: image.to_owned(),
        serial: serial.to_owned(),
        keep,
    };
    let mut disks = vec![
        disk(&spec.state.root, "root", spec.keep_state),
        disk(&spec.usr, "usr", false),
        disk(&spec.state.var, "var", spec.keep_state),
        disk(script, "script", false),
    ];
    disks.extend(spec.disks.iter().cloned());
    for (n, d) in disks.iter().enumerate() {
        let snapshot = if d.keep { "off" } else { "on" };
        c.arg("-drive").arg(format!(
            "if=none,id=d{n},file={},format=raw,cache=unsafe,discard=unmap,snapshot={snapshot}",
            d.image.display()
        ));
        c.arg("-device").arg(format!("virtio-blk-pci,drive=d{n},serial={}", d.serial));
    }
    if spec.network {
        c.args(["-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0,romfile="]);
    }
    c.stdout(Stdio::piped()).stderr(Stdio::inherit());
    Ok(c)
}

/// The script as a disk: text, filled up with newlines to whole sectors.
fn script_disk(script: &str) -> Result<tempfile::NamedTempFile> {
    let mut text = format!("{}\n{script}\n", include_str!("guest/prelude.sh"));
    // A shell reads on while it runs: `exit` keeps it from the padding.
    text += "exit\n";
    while text.len() % 4096 != 0 {
        text.push('\n');
    }
    let mut file = tempfile::NamedTempFile::new_in(super::dir())?;
    file.write_all(text.as_bytes())?;
    Ok(file)
}

/// Sends the lines of a port until it is closed.
fn read(port: impl Read + Send + 'static, send: mpsc::Sender<String>) {
    std::thread::spawn(move || {
        let mut port = BufReader::new(port);
        let mut line = Vec::new();
        while port.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            let text = String::from_utf8_lossy(&line).replace(['\r', '\n'], "");
            if send.send(text).is_err() {
                return;
            }
            line.clear();
        }
    });
}

/// Both ports until they are closed (true) or time is up (false).
fn follow(lines: &mpsc::Receiver<String>, log: &Path, spec: &VmSpec) -> Result<(String, bool)> {
    let mut file = fs::File::create(log).with_context(|| log.display().to_string())?;
    let (start, mut console) = (Instant::now(), String::new());
    loop {
        let left = spec.timeout.saturating_sub(start.elapsed());
        match lines.recv_timeout(left) {
            Ok(line) => {
                let stamped = format!("{:7.2} {line}", start.elapsed().as_secs_f64());
                writeln!(file, "{stamped}")?;
                if spec.live {
                    println!("[{}] {stamped}", spec.name);
                }
                console += &line;
                console.push('\n');
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => return Ok((console, true)),
            Err(mpsc::RecvTimeoutError::Timeout) => return Ok((console, false)),
        }
    }
}

/// A child that does not outlive its owner.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Gone already is fine.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
