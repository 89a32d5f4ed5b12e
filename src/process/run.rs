//! One child process: clean environment, own session, another user, output line by line to a sink.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

use super::descendants::{self, GRACE};
use super::follow::{Limits, Reading};
use super::{Beyond, Cancel, Ended, User, Wrapper, describe};
use crate::exit::{Exit, Failure};

/// One child at a time: what is left of it is found among the descendants of this process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
/// How many bytes [`Run::output`] collects. They take memory of this process, and the program may
/// be anybody's.
const OUTPUT: usize = 1 << 20;
/// How long a program may be idle in [`Run::output`]. It may be anybody's program, and the build
/// lock is held meanwhile.
const PATIENCE: Duration = Duration::from_secs(60);
/// So many times as long it may compute without a word there.
const BUSY: u32 = 10;
/// How many characters of a line a message repeats.
const REPEATED: usize = 500;

/// A command to run; its environment is exactly what is set here.
#[derive(Clone, Debug)]
pub struct Run {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    dir: PathBuf,
    user: Option<User>,
    wrapper: Option<Arc<dyn Wrapper>>,
    idle: Option<Duration>,
    total: Option<Duration>,
}

impl Run {
    /// Runs `program` in `/`, with an empty environment, as the caller's user.
    pub fn new(program: impl Into<PathBuf>) -> Run {
        Run {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            dir: PathBuf::from("/"),
            user: None,
            wrapper: None,
            idle: None,
            total: None,
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Run {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Run {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Sets a variable.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Run {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Runs in this directory.
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Run {
        self.dir = dir.into();
        self
    }

    /// Runs as this user; needs root.
    pub fn user(mut self, user: User) -> Run {
        self.user = Some(user);
        self
    }

    /// Has another program run it ([`Wrapper`]).
    pub fn wrapped(mut self, wrapper: Arc<dyn Wrapper>) -> Run {
        self.wrapper = Some(wrapper);
        self
    }

    /// Ends the command when for this long it has printed nothing and, with all that it started,
    /// used no processor time worth mentioning ([`super::cpu`]).
    pub fn idle(mut self, limit: Duration) -> Run {
        self.idle = Some(limit);
        self
    }

    /// Ends the command when it is not done after this long, whatever it prints.
    pub fn within(mut self, limit: Duration) -> Run {
        self.total = Some(limit);
        self
    }

    /// The program and its arguments, for messages.
    pub fn shown(&self) -> String {
        let mut line = self.program.display().to_string();
        for arg in &self.args {
            line.push(' ');
            line.push_str(&arg.to_string_lossy());
        }
        line
    }

    /// The command for std to start. The caller sets its standard streams. `terminal`: these
    /// streams are root's terminal.
    ///
    /// # Errors
    /// As [`Wrapper::command`].
    pub fn command(&self, terminal: bool) -> Result<Command> {
        let mut command = match &self.wrapper {
            Some(wrapper) => wrapper.command(&self.program, &self.args, &self.dir, terminal)?,
            None => {
                let mut command = Command::new(&self.program);
                command.args(&self.args).current_dir(&self.dir);
                command
            }
        };
        command.env_clear().envs(self.env.iter().map(|(k, v)| (k, v)));
        if let Some(user) = self.user {
            command.uid(user.uid).gid(user.gid);
        }
        Ok(command)
    }

    /// Runs the command to its end, giving each line of its output to `sink`.
    ///
    /// # Errors
    /// It could not be started or waited for. How it ended is not an error here.
    pub fn lines(&self, cancel: &Cancel, sink: impl FnMut(&str)) -> Result<Ended> {
        self.limited(cancel, None, None, sink)
    }

    fn limited(
        &self,
        cancel: &Cancel,
        silence: Option<Duration>,
        output: Option<usize>,
        mut sink: impl FnMut(&str),
    ) -> Result<Ended> {
        let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let (reader, writer) = std::io::pipe().context("pipe")?;
        let mut command = self.command(false)?;
        command.stdin(Stdio::null()).stdout(writer.try_clone().context("pipe")?).stderr(writer);
        descendants::detach(&mut command);
        let mut child =
            command.spawn().with_context(|| format!("{}: cannot be started", self.shown()))?;
        // Only the child has the writing ends of the pipe now, so that the end of the output is
        // seen.
        drop(command);
        let limits = Limits { idle: self.idle, silence, total: self.total, output };
        let ended = Reading::new(reader).follow(&mut child, cancel, limits, &mut sink);
        if ended.is_err() {
            descendants::end_descendants(GRACE);
            drop(child.try_wait());
        }
        let mut ended = ended?;
        ended.wrapper.clone_from(&self.wrapper);
        Ok(ended)
    }

    /// Runs the command and returns its output.
    ///
    /// # Errors
    /// It could not be run, did not exit with 0, or was ended. It is also ended when it prints more
    /// than 1 MiB, is idle for a minute (or for [`Run::idle`], if set), or says nothing for ten
    /// times as long although it computes. The message has its last lines.
    pub fn output(&self, cancel: &Cancel) -> Result<String> {
        self.clone().idle(self.idle.unwrap_or(PATIENCE)).collected(cancel)
    }

    fn collected(&self, cancel: &Cancel) -> Result<String> {
        let mut text = String::new();
        let silence = self.idle.map(|idle| idle.saturating_mul(BUSY));
        let ended = self.limited(cancel, silence, Some(OUTPUT), |line| {
            text.push_str(line);
            text.push('\n');
        })?;
        if let Some(failure) = ended.not_begun() {
            return Err(failure.into());
        }
        let stopped = self.stopped(&ended);
        if !ended.status.success() || stopped.is_some() {
            let why = stopped.unwrap_or_else(|| describe(ended.status));
            let short = |line: &String| line.chars().take(REPEATED).collect::<String>();
            let tail: Vec<_> = ended.tail.iter().rev().take(5).rev().map(short).collect();
            let message = format!("{}: {why}: {}", self.shown(), tail.join(" / "));
            return if no_space(&ended.tail) {
                Err(Failure::new(Exit::NoSpace, message).into())
            } else {
                Err(anyhow::anyhow!(message))
            };
        }
        Ok(text)
    }

    /// Why it was ended before its own end, in words.
    fn stopped(&self, ended: &Ended) -> Option<String> {
        let seconds = |limit: Option<Duration>| limit.map_or(0, |limit| limit.as_secs());
        match ended.beyond {
            Some(Beyond::Time) => Some(format!("ended: not done after {} s", seconds(self.total))),
            Some(Beyond::Output) => Some(format!("ended: it printed more than {OUTPUT} bytes")),
            Some(Beyond::Silence) => {
                Some(format!("ended: no output for {} s", seconds(self.idle) * u64::from(BUSY)))
            }
            None if ended.stalled => Some(format!("ended: {}", idle_for(self.idle))),
            None => ended.cancelled.then(|| "was stopped".to_owned()),
        }
    }
}

/// What an idle command is ended for, in words.
pub fn idle_for(limit: Option<Duration>) -> String {
    let seconds = limit.map_or(0, |limit| limit.as_secs());
    format!("no output for {seconds} s, and no processor time used")
}

/// Whether the output says that the disk is full. Whatever failed, that is why.
pub fn no_space(tail: &VecDeque<String>) -> bool {
    let says = |line: &String| {
        line.contains("No space left on device") || line.contains("Disk quota exceeded")
    };
    tail.iter().any(says)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    fn sh(script: &str) -> Run {
        Run::new("/bin/sh").arg("-c").arg(script).env("PATH", "/usr/bin:/bin")
    }

    #[test]
    fn output_arrives_line_by_line_with_exactly_the_environment_given() {
        let mut lines = Vec::new();
        let ended = sh("echo a; echo b >&2; printf c; env | sort; exit 7")
            .env("X", "1")
            .lines(&Cancel::default(), |l| lines.push(l.to_owned()))
            .unwrap();
        assert_eq!(ended.status.code(), Some(7));
        assert_eq!(lines[..2], ["a", "b"]);
        assert!(lines[2].starts_with('c'), "{lines:?}");
        let names: Vec<&str> =
            lines[2..].iter().filter_map(|l| l.trim_start_matches('c').split('=').next()).collect();
        assert_eq!(names, ["PATH", "PWD", "X"], "sh itself adds PWD, nothing else");
    }

    #[test]
    fn cancelling_ends_the_whole_tree_even_what_left_its_group_and_session() {
        let cancel = Cancel::default();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let script =
            format!("setsid sh -c 'echo $$ > {0}; echo up; sleep 1000' & wait", file.display());
        crate::process::descendants::adopt_orphans().unwrap();
        let ended =
            sh(&script).lines(&cancel, |_| cancel.0.store(true, Ordering::Relaxed)).unwrap();
        assert!(ended.cancelled);
        let pid = std::fs::read_to_string(&file).unwrap();
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
        let gone = stat.as_ref().map_or(true, |s| s.contains(") Z "));
        assert!(gone, "still there: {stat:?}");
    }

    #[test]
    fn a_failing_command_is_reported_with_its_status_and_last_lines() {
        let error = sh("echo why it failed; exit 3").output(&Cancel::default()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("exit status 3: why it failed"), "{text}");
        let error = Run::new("/no/such/program").output(&Cancel::default()).unwrap_err();
        assert!(format!("{error:#}").contains("/no/such/program: cannot be started"), "{error:#}");
    }

    #[test]
    fn a_command_that_goes_beyond_a_limit_is_ended_and_never_taken_for_done() {
        let second = Duration::from_secs(1);
        for (case, run, says) in [
            ("endless output", sh("yes"), "yes: ended: it printed more than 1048576 bytes: y / y"),
            ("an endless line", sh("exec cat /dev/zero"), "printed more than 1048576 bytes"),
            (
                "a line now and then",
                sh("while sleep 0.1; do echo x; done").idle(60 * second).within(second),
                "ended: not done after 1 s: ",
            ),
            (
                "silence, ended in good order",
                sh("trap 'exit 0' TERM; sleep 1000 & wait").idle(second),
                "ended: no output for 1 s",
            ),
        ] {
            let error = run.output(&Cancel::default()).expect_err(case).to_string();
            assert!(error.contains(says) && error.len() < 4000, "{case}: {error}");
        }
        let most = sh("head -c 1048575 /dev/zero | tr '\\0' x").output(&Cancel::default());
        assert_eq!(most.unwrap().replace('\n', "").len(), 1_048_575, "the limit itself is fine");
    }
}
