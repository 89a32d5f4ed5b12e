//! A control group for each machine. systemd-nspawn puts a machine into `payload` below its own
//! group, so machines that one process starts would share it. Then the systemd of one machine could
//! remove the group of another machine's unit of the same name, or kill its processes (cgroups(7),
//! systemd-nspawn(1) `--keep-unit`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

const PREFIX: &str = "zfs-prefix-lab-";

/// Joins the groups before `--`, and executes the command after it.
const JOIN: &str = "while [ \"$1\" != -- ]; do echo $$ >\"$1/cgroup.procs\" || exit; shift; done; \
                    shift; exec \"$@\"";

/// The groups of one machine: one in each hierarchy that a systemd manages. Drop removes them.
pub struct Cgroup {
    dirs: Vec<PathBuf>,
}

impl Cgroup {
    /// # Errors
    /// This process is in no group, or cannot make one. It has to be root.
    pub fn new(machine: &str) -> Result<Cgroup> {
        let own = own_groups(
            &fs::read_to_string("/proc/self/mountinfo")?,
            &fs::read_to_string("/proc/self/cgroup")?,
        );
        ensure!(!own.is_empty(), "no cgroup2 and no name=systemd is mounted (/proc/self/cgroup)");
        let mut dirs = Vec::new();
        for own in own {
            sweep(&own)?;
            let dir = own.join(format!("{PREFIX}{}-{machine}", std::process::id()));
            remove(&dir)?;
            fs::create_dir(&dir).with_context(|| dir.display().to_string())?;
            dirs.push(dir);
        }
        Ok(Cgroup { dirs })
    }

    /// A command that starts `program` in these groups, under the PID of the command.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", JOIN, "sh"]).args(&self.dirs).args(["--", program]);
        command
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for dir in &self.dirs {
            // The last process of a killed machine may not be gone yet.
            let deadline = Instant::now() + Duration::from_secs(2);
            while remove(dir).is_err() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// This process's groups in the hierarchies of systemd.
fn own_groups(mountinfo: &str, cgroup: &str) -> Vec<PathBuf> {
    let own = |controllers: &str| {
        cgroup.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (has, path) = rest.split_once(':')?;
            (has == controllers).then(|| path.trim_start_matches('/'))
        })
    };
    let group = |line: &str| {
        let (place, of) = line.split_once(" - ")?;
        let place: Vec<&str> = place.split(' ').collect();
        let of: Vec<&str> = of.split(' ').collect();
        let controllers = match of[..] {
            ["cgroup2", ..] => "",
            ["cgroup", _, options] if options.split(',').any(|o| o == "name=systemd") => {
                "name=systemd"
            }
            _ => return None,
        };
        Some(Path::new(place.get(4)?).join(own(controllers)?))
    };
    mountinfo.lines().filter_map(group).collect()
}

/// Removes the groups that earlier processes have left behind.
fn sweep(own: &Path) -> Result<()> {
    for entry in fs::read_dir(own).with_context(|| own.display().to_string())? {
        let entry = entry?;
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            // A group that still has processes stays until the next call.
            let _ = remove(&entry.path());
        }
    }
    Ok(())
}

/// Removes a group and all groups below it. If there is none, that is fine.
fn remove(dir: &Path) -> std::io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_in_both_hierarchies_and_in_one() {
        let mountinfo = "\
            30 24 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n\
            31 30 0:27 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n\
            32 30 0:28 / /sys/fs/cgroup/systemd rw shared:10 - cgroup cgroup rw,xattr,name=systemd\n\
            33 30 0:29 / /sys/fs/cgroup/cpu rw shared:11 - cgroup cgroup rw,cpu\n";
        let cgroup = "2:cpu:/a\n1:name=systemd:/user.slice/b.scope\n0::/\n";
        let want = ["/sys/fs/cgroup/unified/", "/sys/fs/cgroup/systemd/user.slice/b.scope"];
        assert_eq!(own_groups(mountinfo, cgroup), want.map(PathBuf::from));
        let unified = "25 23 0:22 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
        let want = ["/sys/fs/cgroup/user.slice/b.scope"];
        assert_eq!(own_groups(unified, "0::/user.slice/b.scope\n"), want.map(PathBuf::from));
    }
}
