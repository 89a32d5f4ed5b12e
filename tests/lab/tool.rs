//! Runs the real tools without standard input, and keeps their output. A failure names the command.

use std::io::Read;
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, Result, bail};

use super::times;

/// Runs `cmd` to its end, and returns its standard output. A status other than 0 is an error with
/// the last lines of both streams.
///
/// # Errors
/// The program is not there, or has failed.
pub fn run(cmd: &mut Command) -> Result<String> {
    let out = output(cmd)?;
    if !out.status.success() {
        let text = [out.stdout, out.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        bail!("{cmd:?}: {}\n{}", out.status, last_lines(&text, 30));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// [`run`] for a program and words.
///
/// # Errors
/// As [`run`].
pub fn run_words(words: &[&str]) -> Result<String> {
    let (program, args) = words.split_first().context("no program to run")?;
    run(Command::new(program).args(args))
}

/// Runs `cmd` to its end, whatever its status. Counts its processor time.
///
/// # Errors
/// The program is not there.
pub fn output(cmd: &mut Command) -> Result<Output> {
    cmd.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child =
        cmd.spawn().with_context(|| format!("starting {cmd:?} (is it installed? `make setup`)"))?;
    let (stdout, stderr) = streams(&mut child)?;
    times::ended(child.id());
    Ok(Output { status: child.wait()?, stdout, stderr })
}

/// Reads both streams to their end at the same time, so that neither blocks the child.
fn streams(child: &mut Child) -> Result<(Vec<u8>, Vec<u8>)> {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| -> Result<()> {
        let other = scope.spawn(|| stderr.map_or(Ok(0), |mut s| s.read_to_end(&mut err)));
        stdout.map_or(Ok(0), |mut s| s.read_to_end(&mut out))?;
        match other.join() {
            Ok(read) => Ok(read.map(drop)?),
            Err(_) => bail!("the reader of standard error has died"),
        }
    })?;
    Ok((out, err))
}

/// The last `n` lines of `text`.
#[must_use]
pub fn last_lines(text: &str, n: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(n)..].join("\n")
}
