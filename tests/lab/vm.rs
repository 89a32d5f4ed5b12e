//! Virtual machines: the stock cloud kernel in QEMU (TCG: KVM is not everywhere). Each boot has a
//! time limit. A log file has its serial console.

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
use super::times::{self, Timed};

/// A processor without AVX. QEMU emulates vector instructions one by one, and OpenZFS tries each of
/// its checksum implementations when it is loaded. That takes a fifth of a boot.
const CPU: &str = "Nehalem";

/// A disk of the machine.
#[derive(Clone, Debug)]
pub struct Disk {
    /// Its raw image.
    pub image: PathBuf,
    /// Its serial number: `/dev/disk/by-id/virtio-<serial>` in the machine.
    pub serial: String,
    /// Whether writes go to the image. Otherwise they are lost at the end.
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
    /// After this time the machine is killed, and that is an error.
    pub timeout: Duration,
    /// Whether it has a network card. The machine may configure itself as 10.0.2.15. Its 10.0.2.2
    /// is the loopback of this machine.
    pub network: bool,
    /// Show the console on standard output, with seconds since power-on.
    pub live: bool,
}

/// The results of a boot.
#[derive(Debug)]
pub struct Boot {
    /// The output of the script, on a port of its own.
    pub said: String,
    /// The file with this output and the serial console, each line with seconds since power-on.
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
        find_probe(&self.said, name)
            .with_context(|| format!("no finished probe {name:?}. {}", tail(&self.log)))
    }

    /// Seconds from the kernel's start to the script's start, that is, to multi-user.target.
    pub fn uptime(&self) -> Result<f64> {
        let value = self.said.lines().find_map(|l| l.strip_prefix("@@uptime "));
        Ok(value
            .with_context(|| format!("multi-user.target not reached. {}", tail(&self.log)))?
            .parse()?)
    }
}

fn find_probe(said: &str, name: &str) -> Option<Probe> {
    let (_, rest) = said.split_once(&format!("@@begin {name}\n"))?;
    let (output, rest) = rest.split_once(&format!("@@end {name} "))?;
    let status = rest.lines().next()?.trim().parse().ok()?;
    Some(Probe { status, output: output.trim_end().to_owned() })
}

/// How long to wait for [`START`]. On a busy machine an emulated kernel hangs before its first
/// process once in some dozens of boots. Then no code of ours has run, and no disk has changed.
const STARTS_WITHIN: Duration = Duration::from_secs(90);
/// The initrd's first words.
const START: &str = "initrd: started";

/// Boots the machine and waits until it is off.
///
/// # Errors
/// The machine is not off in time, or its kernel does not start in any attempt.
pub fn boot(root: &Root, spec: &VmSpec) -> Result<Boot> {
    let logs = super::dir().join("logs");
    fs::create_dir_all(&logs)?;
    let log = logs.join(format!("{}.log", spec.name));
    for attempt in 1..=3 {
        match boot_once(root, spec, &log)? {
            (said, End::Off) => return Ok(Boot { said, log }),
            (_, End::Late) => {
                bail!("{}: not off after {:?}; killed. {}", spec.name, spec.timeout, tail(&log))
            }
            (_, End::NotStarted) => {
                eprintln!("lab: {}: attempt {attempt}: the kernel hangs", spec.name);
            }
        }
    }
    bail!("{}: the kernel did not start three times. {}", spec.name, tail(&log))
}

/// How a boot ended.
enum End {
    Off,
    Late,
    NotStarted,
}

fn boot_once(root: &Root, spec: &VmSpec, log: &Path) -> Result<(String, End)> {
    let script = script_disk(&spec.script)?;
    let (output, port) = std::io::pipe()?;
    let mut command = command(root, spec, script.path())?;
    let mut qemu =
        Killed(command.stdin(port).spawn().context(
            "starting qemu-system-x86_64 under setpriv (is it installed? `make setup`)",
        )?);
    let _timed = Timed::begin("boot", &spec.name);
    // The command holds the script's port open. Only QEMU may hold it, so that the port closes when
    // QEMU ends.
    drop(command);
    let (send, lines) = mpsc::channel();
    let console = qemu.0.stdout.take().context("qemu has no standard output")?;
    read(Port::Console, console, send.clone());
    read(Port::Script, output, send);
    let followed = follow(&lines, log, spec)?;
    if let End::Off = followed.1 {
        times::ended(qemu.0.id());
        let status = qemu.0.wait()?;
        if !status.success() {
            bail!("{}: qemu: {status}. {}", spec.name, tail(log));
        }
    }
    Ok(followed)
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_else(|e| e.to_string());
    format!("Console in {}:\n{}", log.display(), super::tool::last_lines(&text, 40))
}

fn command(root: &Root, spec: &VmSpec, script: &Path) -> Result<Command> {
    // If the test is killed, its machine dies too.
    let mut c = Command::new("setpriv");
    c.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
    c.args(["-accel", "tcg,thread=multi", "-cpu", CPU, "-smp", "2", "-m", "2048", "-M", "q35"]);
    c.args(["-nographic", "-nodefaults", "-no-reboot"]);
    // The console, and after it the script's own port. So kernel messages and password prompts
    // cannot come between the script's lines, and a process that releases the console as its
    // terminal does not hang up the script's port.
    c.args(["-serial", "file:/dev/stdout", "-serial", "file:/dev/stdin"]);
    c.arg("-kernel").arg(root.vmlinuz()).arg("-initrd").arg(initrd(root)?);
    // Status lines of systemd would fill most of the log. Mitigations are emulated too, and the
    // emulated processor has none of the faults.
    c.arg("-append").arg(format!(
        "console=ttyS0 quiet panic=-1 systemd.show_status=false mitigations=off {}",
        spec.cmdline
    ));
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
    // A shell reads its script while it runs. `exit` stops it before the padding.
    text += "exit\n";
    while text.len() % 4096 != 0 {
        text.push('\n');
    }
    let mut file = tempfile::NamedTempFile::new_in(super::place())?;
    file.write_all(text.as_bytes())?;
    Ok(file)
}

/// Where a line comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Port {
    Console,
    Script,
}

/// Sends the lines of a port until it is closed.
fn read(port: Port, bytes: impl Read + Send + 'static, send: mpsc::Sender<(Port, String)>) {
    std::thread::spawn(move || {
        let mut bytes = BufReader::new(bytes);
        let mut line = Vec::new();
        while bytes.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            let text = String::from_utf8_lossy(&line).replace(['\r', '\n'], "");
            if send.send((port, text)).is_err() {
                return;
            }
            line.clear();
        }
    });
}

/// Writes both ports to the log until they are closed or time is up. Returns the script's output.
fn follow(
    lines: &mpsc::Receiver<(Port, String)>,
    log: &Path,
    spec: &VmSpec,
) -> Result<(String, End)> {
    let mut file = fs::File::create(log).with_context(|| log.display().to_string())?;
    let (start, mut said, mut started) = (Instant::now(), String::new(), false);
    loop {
        let limit = if started { spec.timeout } else { STARTS_WITHIN };
        match lines.recv_timeout(limit.saturating_sub(start.elapsed())) {
            Ok((port, line)) => {
                started |= line.contains(START);
                let stamped = format!("{:7.2} {line}", start.elapsed().as_secs_f64());
                writeln!(file, "{stamped}")?;
                if spec.live {
                    println!("[{}] {stamped}", spec.name);
                }
                if port == Port::Script {
                    said += &line;
                    said.push('\n');
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => return Ok((said, End::Off)),
            Err(mpsc::RecvTimeoutError::Timeout) if started => return Ok((said, End::Late)),
            Err(mpsc::RecvTimeoutError::Timeout) => return Ok((said, End::NotStarted)),
        }
    }
}

/// A child that does not outlive its owner.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // If the child is gone already, that is fine.
        let _ = self.0.kill();
        times::ended(self.0.id());
        let _ = self.0.wait();
    }
}
