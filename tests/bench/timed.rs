//! Commands in a machine and the time they take.

#![allow(dead_code, reason = "each benchmark uses its part")]

use anyhow::{Context, Result};

use lab::nspawn::Machine;

/// How long something took, in seconds.
pub struct Times {
    /// Between start and end.
    pub wall: f64,
    /// Of all processes.
    pub cpu: f64,
    /// The last lines, after those of [`stages`].
    pub output: String,
}

impl Times {
    /// For a table.
    pub fn row(&self) -> [f64; 2] {
        [self.wall, self.cpu]
    }
}

/// Runs a command line in the machine; its status, and what bash's `time` says of it.
pub fn timed(machine: &Machine, line: &str) -> Result<(i32, Times)> {
    let ran = machine.exec(&format!(
        "exec 2>&1; TIMEFORMAT='@@time %R %U %S'; time {{ {line} ; }} > /var/bench.log 2>&1; \
         status=$?; sed -n {STAGES} /var/bench.log; tail -n 40 /var/bench.log; exit $status"
    ))?;
    let time = ran.output.lines().find_map(|l| l.strip_prefix("@@time "));
    let words = time.with_context(|| format!("no time of {line}:\n{}", ran.output))?.split(' ');
    let numbers: Vec<f64> = words.map(str::parse).collect::<Result<_, _>>()?;
    let [wall, user, system] = numbers[..] else { anyhow::bail!("{numbers:?}") };
    Ok((ran.status, Times { wall, cpu: user + system, output: ran.output }))
}

/// For sed: `@@stage NAME SECONDS` from the lines in which the builder tells it.
const STAGES: &str = r"'s/.*stage \([a-z]*\) done in \([0-9.]*\) s$/@@stage \1 \2/p'";

/// Name and seconds of the builder's stages.
pub fn stages(output: &str) -> Vec<(&str, f64)> {
    let words = output.lines().filter_map(|l| l.strip_prefix("@@stage ")?.split_once(' '));
    words.filter_map(|(name, seconds)| Some((name, seconds.parse().ok()?))).collect()
}
