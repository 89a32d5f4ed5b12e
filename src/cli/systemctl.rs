//! Starts builds and loads through their units, with their limits and their journal. systemctl(1)
//! is the interface.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::exit::Exit;
use crate::host::{Host, Release};
use crate::load::Shipped;
use crate::systemd::name::escape;

/// What a build pulls in first.
const PROVISION: &str = "zfs-prefix-provision.service";

/// Starts the build of `release` (none: the running kernel) and waits, showing its progress.
/// Returns the builder's exit status.
///
/// # Errors
/// systemctl is not there, or the unit could not be started at all.
pub fn build(release: Option<&Release>) -> Result<u8> {
    let unit = match release {
        Some(release) => format!("zfs-build@{}.service", escape(release.as_str())),
        None => "zfs-build.service".to_owned(),
    };
    let mut start =
        Command::new("systemctl").args(["start", &unit]).spawn().context("systemctl")?;
    let mut said = String::new();
    let status = loop {
        if let Some(status) = start.try_wait().context("systemctl")? {
            break status;
        }
        // If there is no prefix, the build waits for one first.
        let doing = if show(PROVISION, "ActiveState")? == "activating" { PROVISION } else { &unit };
        let text = show(doing, "StatusText")?;
        if text != said && !text.is_empty() {
            eprintln!("{text}");
            said = text;
        }
        std::thread::sleep(Duration::from_millis(500));
    };
    if !status.success() {
        if show(PROVISION, "ActiveState")? == "failed" {
            failed(PROVISION)?;
        }
        return failed(&unit);
    }
    eprintln!("{}", show(&unit, "StatusText")?);
    Ok(Exit::Done.code())
}

/// Starts zfs-load.service. Returns its exit status, [`Exit::NothingPublished`] when it was
/// skipped.
///
/// # Errors
/// As [`build`].
pub fn load(host: &Host) -> Result<u8> {
    let loaded = || host.path("/sys/module/zfs").exists();
    let unit = "zfs-load.service";
    let started = Command::new("systemctl").args(["start", unit]).status().context("systemctl")?;
    if started.success() && loaded() {
        return Ok(Exit::Done.code());
    }
    if show(unit, "ActiveState")? == "active" {
        // Active from an earlier load: somebody has unloaded zfs since.
        let again = Command::new("systemctl").args(["restart", unit]).status();
        if again.context("systemctl")?.success() && loaded() {
            return Ok(Exit::Done.code());
        }
    }
    if show(unit, "Result")? == "exec-condition" && started.success() {
        eprintln!("{unit} was skipped; its reason: journalctl -eu {unit}");
        return Ok(Exit::NothingPublished.code());
    }
    if show(unit, "ActiveState")? == "active" {
        eprintln!("zfs is not loaded: {}", why_not(host, unit));
        return Ok(Exit::Other.code());
    }
    failed(unit)
}

/// Why a unit that ended well has loaded nothing, and what to do.
fn why_not(host: &Host, unit: &str) -> String {
    let shipped = crate::load::ships(host, &host.kernel_release).ok().and_then(|s| s.module);
    match shipped {
        Some(Shipped { path, indexed }) => {
            let first = if indexed { "" } else { "depmod -a && " };
            let path = path.display();
            format!(
                "the operating system ships {path}, which is left to modprobe: {first}modprobe zfs"
            )
        }
        None => format!("{unit} says why: journalctl -eu {unit}"),
    }
}

/// Says how it ended and where to look, and gives the exit status of the unit's program; never 0.
fn failed(unit: &str) -> Result<u8> {
    let (result, code) = (show(unit, "Result")?, show(unit, "ExecMainCode")?);
    let status = show(unit, "ExecMainStatus")?;
    eprintln!("{unit} failed ({}); its journal: journalctl -eu '{unit}'", how(&result));
    Ok(exit_status(&code, &status))
}

/// systemd's word for how a unit failed. A job that failed before the unit was tried leaves
/// `success`.
fn how(result: &str) -> &str {
    match result {
        "" | "success" => "it was not started; what it requires failed, or its job was cancelled",
        other => other,
    }
}

/// What to exit with, by ExecMainCode= and ExecMainStatus=. Unless the program exited (CLD_EXITED
/// of sigaction(2)), the latter is the number of a signal, and 9 or 15 would mean something else.
fn exit_status(code: &str, status: &str) -> u8 {
    let exited = code.parse() == Ok(libc::CLD_EXITED);
    let status = status.parse().ok().filter(|status| exited && *status != Exit::Done.code());
    status.unwrap_or(Exit::Other.code())
}

fn show(unit: &str, property: &str) -> Result<String> {
    let out = Command::new("systemctl")
        .args(["show", "--value", "-p", property, unit])
        .output()
        .context("systemctl")?;
    if !out.status.success() {
        bail!("systemctl show {unit}: {}", String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_signal_is_no_exit_status_and_a_failure_is_never_0() {
        for (case, code, status, want) in [
            ("exited", "1", "14", 14),
            ("killed", "2", "15", 1),
            ("killed, SIGKILL", "2", "9", 1),
            ("a core was dumped", "3", "11", 1),
            ("failed before its program ran", "0", "0", 1),
            ("exited with 0, and failed all the same", "1", "0", 1),
            ("not known", "", "", 1),
        ] {
            assert_eq!(exit_status(code, status), want, "{case}");
        }
        assert_eq!(how("timeout"), "timeout");
        assert!(how("success").contains("was not started"));
    }
}
