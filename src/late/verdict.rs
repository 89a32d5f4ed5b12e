//! What came of a job.

use crate::systemd::manager::{JobResult, Unit};

/// What came of a job.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Started,
    Skipped(String),
    Failed(String),
}

/// `after`: the unit when the job was over. Conditions are not part of a job's result.
pub(super) fn verdict(result: &JobResult, after: &Unit) -> Verdict {
    let journal = format!("journalctl -eu '{}'", after.name);
    match result {
        JobResult::Skipped => Verdict::Skipped("see ".to_owned() + &journal),
        JobResult::Done if after.result == "exec-condition" => {
            Verdict::Skipped(format!("ExecCondition=, {journal}"))
        }
        JobResult::Done if !after.condition && !after.is_up() => {
            Verdict::Skipped(after.unmet.join(", "))
        }
        JobResult::Done if after.active == "failed" => Verdict::Failed(reason(after)),
        JobResult::Done => Verdict::Started,
        JobResult::Failed => Verdict::Failed(reason(after)),
        JobResult::Dependency => Verdict::Failed(format!(
            "something that it requires failed: systemctl list-dependencies '{}'",
            after.name
        )),
        JobResult::Assert => {
            Verdict::Failed(format!("an assertion (Assert…=) is not met; {journal}"))
        }
        JobResult::Timeout => Verdict::Failed(format!("its job timed out; {journal}")),
        JobResult::Canceled => {
            Verdict::Failed(format!("its job was cancelled or replaced; {journal}"))
        }
        JobResult::Other(word) => {
            Verdict::Failed(format!("its job ended with {word:?}; {journal}"))
        }
    }
}

/// The verdict if the job's result is not known because systemd was lost meanwhile. The state of
/// the unit decides, now that it has no job any more.
pub(super) fn without_result(after: &Unit) -> Verdict {
    match after.active.as_str() {
        "active" => Verdict::Started,
        "failed" => Verdict::Failed(reason(after)),
        _ if !after.condition => Verdict::Skipped(after.unmet.join(", ")),
        _ => Verdict::Failed(format!(
            "systemd was lost meanwhile, and it is not active now; journalctl -eu '{}'",
            after.name
        )),
    }
}

/// Whether a job that is done says only that the program was executed (systemd.service(5), Type=).
pub(super) fn is_only_executed(unit: &Unit) -> bool {
    unit.name.ends_with(".service") && matches!(unit.kind.as_str(), "simple" | "exec" | "idle")
}

/// Why a service that was executed a moment ago does not run, if so.
pub(super) fn gone_again(unit: &Unit) -> Option<String> {
    let journal = format!("journalctl -eu '{}'", unit.name);
    if unit.active == "failed" {
        return Some(reason(unit));
    }
    if unit.sub.contains("auto-restart") || unit.restarts > 0 {
        return Some(format!("it ends as soon as it is started, and is started again; {journal}"));
    }
    None
}

fn reason(unit: &Unit) -> String {
    let status = match (unit.result.as_str(), unit.status) {
        ("exit-code", Some(status)) => format!("exit status {status}"),
        ("exit-code", None) if unit.name.ends_with(".mount") => {
            "mount(8) or umount(8) failed".into()
        }
        ("", _) => "no result".to_owned(),
        (other, _) => other.to_owned(),
    };
    format!("failed, {status}; journalctl -eu '{}'", unit.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(active: &str, result: &str, condition: bool) -> Unit {
        Unit {
            name: "x.service".into(),
            active: active.into(),
            result: result.into(),
            condition,
            status: Some(20),
            unmet: vec!["ConditionPathExists=!/x".into()],
            ..Unit::default()
        }
    }

    fn said(verdict: Verdict) -> String {
        match verdict {
            Verdict::Started => "started".to_owned(),
            Verdict::Skipped(why) | Verdict::Failed(why) => why,
        }
    }

    #[test]
    fn a_job_is_judged_by_its_result_and_by_what_became_of_the_unit() {
        for (result, unit, want) in [
            (JobResult::Done, unit("active", "success", true), "started"),
            // A oneshot without RemainAfterExit=.
            (JobResult::Done, unit("inactive", "success", true), "started"),
            (JobResult::Done, unit("inactive", "success", false), "ConditionPathExists=!/x"),
            (JobResult::Done, unit("inactive", "exec-condition", true), "ExecCondition="),
            (JobResult::Skipped, unit("inactive", "success", true), "journalctl"),
            (JobResult::Done, unit("failed", "exit-code", true), "exit status 20"),
            (JobResult::Failed, unit("failed", "exit-code", true), "exit status 20"),
            (JobResult::Failed, unit("failed", "timeout", true), "failed, timeout"),
            (JobResult::Dependency, unit("inactive", "success", true), "it requires failed"),
            (JobResult::Assert, unit("inactive", "success", true), "assertion"),
            (JobResult::Timeout, unit("inactive", "success", true), "timed out"),
            (JobResult::Canceled, unit("inactive", "success", true), "cancelled"),
            (JobResult::Other("once".into()), unit("active", "success", true), "\"once\""),
        ] {
            let said = said(verdict(&result, &unit));
            assert!(said.contains(want), "{result:?} {unit:?}: {said}");
        }
    }

    #[test]
    fn of_a_mount_that_failed_no_exit_status_is_made_up() {
        let (name, status) = ("srv.mount".to_owned(), None);
        let mount = Unit { name, status, ..unit("failed", "exit-code", true) };
        let said = said(verdict(&JobResult::Failed, &mount));
        assert!(said.starts_with("failed, mount(8) or umount(8) failed; "), "{said}");
    }

    #[test]
    fn where_the_result_was_lost_only_what_is_active_was_started() {
        for (unit, want) in [
            (unit("active", "success", true), "started"),
            (unit("failed", "exit-code", true), "exit status 20"),
            (unit("inactive", "success", false), "ConditionPathExists=!/x"),
            // Done, or a job that failed by a dependency: who knows.
            (unit("inactive", "success", true), "systemd was lost"),
        ] {
            let said = said(without_result(&unit));
            assert!(said.contains(want), "{unit:?}: {said}");
        }
    }

    #[test]
    fn a_daemon_that_ends_at_once_was_not_started() {
        let service = |kind: &str, active: &str, sub: &str, restarts| Unit {
            kind: kind.into(),
            sub: sub.into(),
            restarts,
            ..unit(active, "exit-code", true)
        };
        for (unit, executed, want) in [
            (service("simple", "active", "running", 0), true, None),
            (service("exec", "failed", "failed", 0), true, Some("exit status 20")),
            (service("simple", "activating", "auto-restart", 0), true, Some("started again")),
            (service("idle", "activating", "auto-restart-queued", 1), true, Some("started again")),
            (service("simple", "active", "running", 3), true, Some("started again")),
            (service("simple", "inactive", "dead", 0), true, None),
            (service("notify", "active", "running", 0), false, None),
            (service("oneshot", "active", "exited", 0), false, None),
        ] {
            assert_eq!(is_only_executed(&unit), executed, "{unit:?}");
            let said = gone_again(&unit);
            assert_eq!(said.is_some(), want.is_some(), "{unit:?}: {said:?}");
            assert!(said.unwrap_or_default().contains(want.unwrap_or_default()), "{unit:?}");
        }
    }
}
