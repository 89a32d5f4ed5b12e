//! Machines that run natively: systemd as PID 1 in systemd-nspawn, with a read-only /usr. There
//! `uname -r` is the host's. So they are for unit graphs and for builds for a named kernel, and not
//! for loading.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::cgroup::Cgroup;
use super::disk::State;
use super::root::Root;
use super::times::{self, Timed};
use super::tool::{self, run};

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin";

/// A running machine. Drop kills it.
pub struct Machine {
    nspawn: Child,
    /// PID of the machine's init, as the host sees it.
    leader: u32,
    log: PathBuf,
    _timed: Timed,
    _cgroup: Cgroup,
}

/// The result of a command in the machine.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Its exit status; 128 + signal if a signal killed it.
    pub status: i32,
    /// Its output and error output.
    pub output: String,
}

impl Machine {
    /// Boots `state` with the /usr of `root` and `staged` (see [`super::disk::usr`]) and waits for
    /// multi-user.target. The console goes to `<lab>/logs/<name>.log`.
    pub fn boot(
        name: &str,
        root: &Root,
        state: &State,
        staged: Option<&Path>,
        timeout: Duration,
    ) -> Result<Machine> {
        Machine::boot_with(name, root, state, staged, &[], timeout)
    }

    /// [`Machine::boot`] with arguments for the machine's PID 1: a container's command line.
    ///
    /// # Errors
    /// As [`Machine::boot`].
    pub fn boot_with(
        name: &str,
        root: &Root,
        state: &State,
        staged: Option<&Path>,
        arguments: &[&str],
        timeout: Duration,
    ) -> Result<Machine> {
        let logs = super::dir().join("logs");
        fs::create_dir_all(&logs)?;
        let log = logs.join(format!("{name}.log"));
        let out = fs::File::create(&log)?;
        let usr = root.dir.join("usr");
        let cgroup = Cgroup::new(name)?;
        let nspawn = cgroup
            .command("setpriv")
            .args(["--pdeathsig", "KILL", "systemd-nspawn", "-q", "-b"])
            .args(["--register=no", "--keep-unit", "--console=pipe", "--link-journal=no"])
            .arg(format!("--machine={name}"))
            .arg("-D")
            .arg(state.dir())
            .arg(match staged {
                None => format!("--bind-ro={}:/usr", usr.display()),
                Some(s) => {
                    format!("--overlay-ro={}:{}:/usr", usr.display(), s.join("usr").display())
                }
            })
            .args(arguments)
            .env_remove("NOTIFY_SOCKET")
            // The real machines have the unified hierarchy, too.
            .env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1")
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .context("starting systemd-nspawn under setpriv (is it installed? `make setup`)")?;
        let timed = Timed::begin("machine", name);
        let mut machine = Machine { nspawn, leader: 0, log, _timed: timed, _cgroup: cgroup };
        machine.wait_up(Instant::now() + timeout)?;
        Ok(machine)
    }

    /// Runs a shell command line as the machine's root, with a clean environment, and waits for it.
    pub fn exec(&self, line: &str) -> Result<Ran> {
        let out = tool::output(&mut self.command(line))?;
        let output = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
        Ok(Ran { status: code(out.status), output })
    }

    /// Like [`Machine::exec`]; a status other than 0 is an error with the output.
    pub fn check(&self, line: &str) -> Result<String> {
        let ran = self.exec(line)?;
        if ran.status != 0 {
            bail!("in the machine: {line}: exit status {}\n{}", ran.status, ran.output);
        }
        Ok(ran.output)
    }

    /// Like [`Machine::exec`], but the output goes to this process's output at once. Returns the
    /// exit status.
    pub fn exec_live(&self, line: &str) -> Result<i32> {
        Ok(code(self.command(line).status().context("starting nsenter")?))
    }

    /// The host's path to `path` of the machine, while the machine runs.
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.leader))
    }

    /// The command that [`Machine::exec`] runs, for callers that want its pipes.
    pub fn command(&self, line: &str) -> Command {
        let mut c = Command::new("nsenter");
        c.args(["-t", &self.leader.to_string(), "-a", "--wdns=/"]);
        c.args(["/usr/bin/env", "-i", PATH, "HOME=/root", "LC_ALL=C.UTF-8"]);
        c.args(["SYSTEMD_COLORS=0", "SYSTEMD_PAGER="]);
        // `-a` enters the machine's cgroup namespace, too. systemd's limits apply to what systemd
        // has started, and not to this command.
        c.args(["/bin/bash", "-c", line]).stdin(Stdio::null());
        c
    }

    /// Powers the machine off and waits. After `timeout` it kills the machine, and that is an
    /// error.
    pub fn power_off(mut self, timeout: Duration) -> Result<()> {
        self.check("systemctl --no-block poweroff")?;
        let deadline = Instant::now() + timeout;
        while Instant::now() < deadline {
            if times::has_ended(self.nspawn.id()) {
                times::ended(self.nspawn.id());
                let status = self.nspawn.wait()?;
                return if status.success() {
                    Ok(())
                } else {
                    bail!("systemd-nspawn: {status}\n{}", self.console())
                };
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("not off after {timeout:?}; killed\n{}", self.console())
    }

    /// The end of the machine's console.
    pub fn console(&self) -> String {
        tool::last_lines(&fs::read_to_string(&self.log).unwrap_or_default(), 40)
    }

    fn wait_up(&mut self, deadline: Instant) -> Result<()> {
        while Instant::now() < deadline {
            if let Some(status) = self.nspawn.try_wait()? {
                bail!("systemd-nspawn ended: {status}\n{}", self.console());
            }
            match self.leader {
                0 => self.leader = init_below(self.nspawn.id()).unwrap_or(0),
                _ if self.exec("systemctl -q is-active multi-user.target")?.status == 0 => {
                    return Ok(());
                }
                _ => {}
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let jobs = self.exec("systemctl list-jobs --no-pager").map(|r| r.output);
        bail!("multi-user.target not reached; jobs: {jobs:?}\n{}", self.console())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Kill the machine's init: everything in its PID namespace dies with it. nspawn's death
        // does not always end init, and a build in the machine would go on. If init is gone
        // already, that is fine.
        if self.leader != 0 && self.nspawn.try_wait().is_ok_and(|ended| ended.is_none()) {
            let leader = nix::unistd::Pid::from_raw(self.leader.cast_signed());
            let _ = nix::sys::signal::kill(leader, nix::sys::signal::Signal::SIGKILL);
        }
        // Let nspawn reap init first: then nspawn's times include those of the machine.
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.leader != 0 && !times::has_ended(self.nspawn.id()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.nspawn.kill();
        times::ended(self.nspawn.id());
        let _ = self.nspawn.wait();
    }
}

/// The entries of the journal of a state that is not running, as `journalctl ARGS` prints them.
pub fn journal(state: &State, args: &[&str]) -> Result<String> {
    run(Command::new("journalctl").arg("-D").arg(state.path("/var/log/journal")).args(args))
}

fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// The process below `nspawn` that is PID 1 of its own PID namespace and already runs systemd.
fn init_below(nspawn: u32) -> Option<u32> {
    let mut look = vec![nspawn];
    while let Some(pid) = look.pop() {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        for child in children.split_whitespace().filter_map(|c| c.parse::<u32>().ok()) {
            let status = fs::read_to_string(format!("/proc/{child}/status")).ok()?;
            let namespaces = status.lines().find_map(|l| l.strip_prefix("NSpid:"))?;
            let pids: Vec<&str> = namespaces.split_whitespace().collect();
            let comm = fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
            if pids.len() > 1 && pids.last() == Some(&"1") && comm.trim() == "systemd" {
                return Some(child);
            }
            look.push(child);
        }
    }
    None
}
