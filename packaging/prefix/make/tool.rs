//! Running tools: no standard input, output kept, a failure that says what was run.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Runs `cmd` to its end; its standard output.
///
/// # Errors
/// It cannot be started, or failed: the message has its last lines.
pub fn output(cmd: &mut Command) -> Result<String> {
    let name = format!("{cmd:?}");
    let out = cmd.stdin(Stdio::null()).output().with_context(|| format!("starting {name}"))?;
    if !out.status.success() {
        let text = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(30)..].join("\n");
        bail!("{name}: {}\n{last}", out.status);
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// [`output`] of a command whose output nobody needs.
///
/// # Errors
/// As [`output`].
pub fn run(cmd: &mut Command) -> Result<()> {
    output(cmd).map(drop)
}
