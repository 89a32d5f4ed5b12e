//! The questions to zpool(8) and zfs(8). Each has a time limit: if the disks of a pool do not
//! answer, these programs may hang in the kernel, where nothing can end them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::hang;
use crate::host::Host;
use crate::process::{Beyond, Cancel, Run, describe};
use crate::userland::programs::{directories, program};

/// The longest answer, in bytes. No machine's answer is so long. The programs are root's, but
/// memory is finite.
const MOST: usize = 8 << 20;
const LIST_TIME: Duration = Duration::from_secs(15);
const STATUS_TIME: Duration = Duration::from_secs(15);
/// The scan reads the labels of all block devices.
const SCAN_TIME: Duration = Duration::from_secs(60);
/// `zfs list` looks at all datasets. If it has not finished by then, the check fails.
const KEYS_TIME: Duration = Duration::from_secs(60);

/// What a program answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its output and error output.
    pub text: String,
    /// Whether it exited with 0; otherwise how it ended, in words.
    pub ended: Result<(), String>,
}

/// An imported pool, as `zpool list` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// `ONLINE`, `DEGRADED`, `FAULTED`, `SUSPENDED`, …
    pub health: String,
    /// Imported with `readonly=on`.
    pub readonly: bool,
}

/// OpenZFS's programs on one machine. After one of them has hung, none is run again.
#[derive(Debug)]
pub struct Programs {
    host: Host,
    zpool: PathBuf,
    zfs: Option<PathBuf>,
    hung: Option<String>,
}

impl Programs {
    /// Those of `host`.
    ///
    /// # Errors
    /// There is no zpool. The text names the directories that were searched.
    pub fn of(host: &Host) -> Result<Programs, String> {
        let zpool = program(host, "zpool").ok_or_else(|| {
            format!("there is no zpool in {}", directories().collect::<Vec<_>>().join(", "))
        })?;
        Ok(Programs { host: host.clone(), zpool, zfs: program(host, "zfs"), hung: None })
    }

    /// The imported pools.
    ///
    /// # Errors
    /// Why they are not known.
    pub fn list(&mut self) -> Result<Vec<Listed>, String> {
        let args = ["list", "-H", "-p", "-o", "name,health,readonly"];
        Ok(listed(&self.good(run(&self.zpool, &args), LIST_TIME)?))
    }

    /// The text of `zpool status` about these pools.
    ///
    /// # Errors
    /// Why there is none.
    pub fn status(&mut self, pools: &[&str]) -> Result<String, String> {
        self.good(run(&self.zpool, &["status", "-P"]).args(pools), STATUS_TIME)
    }

    /// The text of `zpool import`: the pools that are on this machine's devices, not imported.
    ///
    /// # Errors
    /// Why there is none.
    pub fn importable(&mut self) -> Result<String, String> {
        let answer = self.ask(run(&self.zpool, &["import"]), SCAN_TIME)?;
        // Before OpenZFS 2.3, `zpool import` exits with 1 if it finds no pool.
        let found = answer.ended.is_ok() || answer.text.contains("no pools available to import");
        if found { Ok(answer.text) } else { Err(answer.failure("zpool import")) }
    }

    /// Passes each dataset of these pools to `sink`: name, encryptionroot, keystatus, keylocation,
    /// canmount, mountpoint, zoned. There may be very many.
    ///
    /// # Errors
    /// They could not be listed.
    pub fn keys(&mut self, pools: &[&str], sink: impl FnMut(&str)) -> Result<(), String> {
        let zfs = self.zfs.clone().ok_or_else(|| "there is no zfs beside zpool".to_owned())?;
        let columns = "name,encryptionroot,keystatus,keylocation,canmount,mountpoint,zoned";
        let args = ["list", "-H", "-p", "-r", "-t", "filesystem,volume", "-o", columns];
        let answer = self.stream(run(&zfs, &args).args(pools), KEYS_TIME, sink)?;
        answer.ended.clone().map_err(|_| answer.failure("zfs list"))
    }

    /// Imports a pool by its name, without mounting, never by force.
    ///
    /// # Errors
    /// It hung, or could not be run.
    pub fn import(&mut self, pool: &str, time: Duration) -> Result<Answer, String> {
        self.ask(run(&self.zpool, &["import", "-N", pool]), time)
    }

    fn good(&mut self, run: Run, time: Duration) -> Result<String, String> {
        let shown = run.shown();
        let answer = self.ask(run, time)?;
        if answer.ended.is_ok() { Ok(answer.text) } else { Err(answer.failure(&shown)) }
    }

    fn ask(&mut self, run: Run, time: Duration) -> Result<Answer, String> {
        let mut text = String::new();
        let shown = run.shown();
        let mut answer = self.stream(run, time, |line| {
            if text.len() <= MOST {
                text.push_str(line);
                text.push('\n');
            }
        })?;
        if text.len() > MOST {
            return Err(format!("{shown}: it printed more than {MOST} bytes"));
        }
        answer.text = text;
        Ok(answer)
    }

    /// Runs a program, and passes its lines to `sink`. The answer's text is the last lines.
    fn stream(
        &mut self,
        run: Run,
        time: Duration,
        sink: impl FnMut(&str),
    ) -> Result<Answer, String> {
        if let Some(hung) = &self.hung {
            return Err(format!("not asked, since {hung}"));
        }
        let shown = run.shown();
        let ended = match run.within(time).lines(&Cancel::default(), sink) {
            Ok(ended) if ended.beyond == Some(Beyond::Time) => {
                return self.hangs(format!("{shown} was not done after {} s", time.as_secs()));
            }
            Ok(ended) => ended,
            Err(error) if error.chain().any(|cause| cause.is::<std::io::Error>()) => {
                return self.gives_up(format!("{shown}: {error:#}"), Vec::new());
            }
            // It could not even be killed.
            Err(error) => return self.hangs(format!("{shown}: {error:#}")),
        };
        let text = ended.tail.iter().rev().take(8).rev().cloned().collect::<Vec<_>>().join("\n");
        let status = ended.status;
        Ok(Answer { text, ended: if status.success() { Ok(()) } else { Err(describe(status)) } })
    }

    /// Fails with `what`, and with what [`hang::findings`] sees behind it. Later questions repeat
    /// only `what`.
    fn hangs<T>(&mut self, what: String) -> Result<T, String> {
        let found = hang::findings(&self.host, hang::PAUSE);
        self.gives_up(what, found)
    }

    fn gives_up<T>(&mut self, what: String, found: Vec<String>) -> Result<T, String> {
        self.hung = Some(what.clone());
        Err([vec![what], found].concat().join("; "))
    }
}

impl Answer {
    /// Its last words on one line, and how it ended.
    pub fn failure(&self, shown: &str) -> String {
        let words: Vec<&str> = self.text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        let last = &words[words.len().saturating_sub(8)..];
        let how = self.ended.as_ref().err().map_or("exit status 0", String::as_str);
        format!("{shown}: {how}: {}", last.join(" / "))
    }
}

fn run(program: &Path, args: &[&str]) -> Run {
    // LC_ALL: this program searches the output for English words.
    let run = Run::new(program).env("LC_ALL", "C").env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    run.args(args)
}

/// Reads the lines that have three columns. Warnings may stand between them.
fn listed(text: &str) -> Vec<Listed> {
    let line = |line: &str| {
        let mut columns = line.split('\t');
        let (name, health, readonly) = (columns.next()?, columns.next()?, columns.next()?);
        let whole = columns.next().is_none() && !name.is_empty();
        let (name, health) = (name.to_owned(), health.to_owned());
        whole.then_some(Listed { name, health, readonly: readonly == "on" })
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{host, script, write};
    use super::*;

    #[test]
    fn the_list_is_read_line_by_line() {
        let text = "m\tONLINE\ton\nsome warning\na b\tDEGRADED\toff\n\tONLINE\toff\n";
        let found = listed(text);
        let [m, ab] = &found[..] else { panic!("{found:?}") };
        assert_eq!((&*m.name, &*m.health, m.readonly), ("m", "ONLINE", true));
        assert_eq!((&*ab.name, &*ab.health, ab.readonly), ("a b", "DEGRADED", false));
        assert!(listed("").is_empty());
    }

    #[test]
    fn what_a_program_says_when_it_fails_is_repeated_and_the_next_is_asked_all_the_same() {
        let (_root, host) = host();
        assert!(Programs::of(&host).unwrap_err().contains("no zpool in /run/zfs-prefix/active"));
        script(&host, "zpool", "echo 'cannot open /dev/zfs'; exit 1");
        let mut programs = Programs::of(&host).unwrap();
        for _ in 0..2 {
            let error = programs.list().unwrap_err();
            assert!(error.ends_with("exit status 1: cannot open /dev/zfs"), "{error}");
        }
        let error = programs.keys(&["tank"], |_| ()).unwrap_err();
        assert!(error.contains("no zfs beside"), "{error}");
        script(&host, "zpool", "echo 'no pools available to import'; exit 1");
        assert_eq!(programs.importable().unwrap(), "no pools available to import\n");
    }

    #[test]
    fn after_one_that_hangs_nothing_more_is_asked() {
        let (_root, host) = host();
        script(&host, "zpool", "echo one; exec sleep 1000");
        write(&host, "/sys/block/sdb/stat", "10 0 80 5 3 0 24 9 1 12 14");
        let mut programs = Programs::of(&host).unwrap();
        let error = programs.import("tank", Duration::from_millis(300)).unwrap_err();
        assert!(
            error.contains("import -N tank was not done after 0 s; sdb has requests"),
            "{error}"
        );
        let error = programs.list().unwrap_err();
        assert!(error.starts_with("not asked, since ") && error.ends_with("after 0 s"), "{error}");
    }
}
