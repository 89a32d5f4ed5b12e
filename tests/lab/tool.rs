//! Running the real tools: no standard input, output kept, a failure that says what was run.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Runs `cmd` to its end; its standard output. A status other than 0 is an error with the last
/// lines of both streams.
pub fn run(cmd: &mut Command) -> Result<String> {
    let name = format!("{cmd:?}");
    let out = cmd
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {name} (is it installed? `make setup`)"))?;
    if !out.status.success() {
        let text = [out.stdout, out.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        bail!("{name}: {}\n{}", out.status, last_lines(&text, 30));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// [`run`] for a program and words.
pub fn run_words(words: &[&str]) -> Result<String> {
    let (program, args) = words.split_first().context("no program to run")?;
    run(Command::new(program).args(args))
}

/// The last `n` lines of `text`.
pub fn last_lines(text: &str, n: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(n)..].join("\n")
}
