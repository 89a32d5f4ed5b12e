//! Follows a command as the builder follows a step: `follow MILLISECONDS COMMAND [ARGUMENT…]`. The
//! command may be idle for so long. Prints how it ended.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use zfs_prefix::process::{Cancel, Run, describe};

fn main() -> ExitCode {
    match follow() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn follow() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let idle = args.next().context("MILLISECONDS")?.parse()?;
    let command = args.next().context("COMMAND")?;
    let cancel = Cancel::default();
    // Adopts what the command leaves behind, as the builder does.
    cancel.on_signals(&[libc::SIGTERM])?;
    let run = Run::new(command).args(args).env("PATH", "/usr/bin:/bin");
    let ended = run.idle(Duration::from_millis(idle)).lines(&cancel, |_| ())?;
    println!("{}", if ended.stalled { "stalled".to_owned() } else { describe(ended.status) });
    Ok(())
}
