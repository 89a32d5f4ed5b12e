//! When a step of a build counts as hanging: real processes, which print nothing.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use lab::cgroup::Cgroup;

/// How long a step may be idle, in milliseconds.
const IDLE: &str = "1000";
/// Computes without end.
const COMPUTE: &str = "while :; do :; done";
/// Waits for much longer than it may.
const WAIT: &str = "sleep 60";

/// What follows a step. It has to be there before anything computes: while it is made, other tests
/// have their turns.
fn follow() -> PathBuf {
    lab::program("follow")
}

/// How the step `script` ends, if `follow` follows it in `group`, or in this process's.
fn ended(follow: &Path, script: &str, group: Option<&Cgroup>) -> String {
    let mut command = match group {
        Some(group) => group.command(follow.to_str().unwrap()),
        None => Command::new(follow),
    };
    let output = command.args([IDLE, "/bin/sh", "-c", script]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Other people's processes.
struct Others(Vec<Child>);

impl Others {
    fn that_compute(count: usize, group: Option<&Cgroup>) -> Others {
        let one = || {
            let mut command = group.map_or_else(|| Command::new("sh"), |group| group.command("sh"));
            command.args(["-c", COMPUTE]).stdout(Stdio::null()).spawn().unwrap()
        };
        Others((0..count).map(|_| one()).collect())
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Takes a few seconds of a processor, and prints nothing.
const WORK: &str = "i=0; while [ $i -lt 2000000 ]; do i=$((i+1)); done";

#[test]
fn a_silent_step_that_computes_ends_well_beside_six_processes_that_compute() {
    let follow = follow();
    let _others = Others::that_compute(6, None);
    assert_eq!(ended(&follow, &format!("{WORK}; exit 7"), None), "exit status 7");
}

#[test]
fn whatever_processes_a_step_starts_what_they_compute_is_its_own() {
    let (follow, group) = (follow(), Cgroup::new("computes").unwrap());
    for (case, script) in [
        ("a child of a child", format!("( ( {WORK} ); true ); true")),
        (
            "children that come and go",
            "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); /bin/true; done".to_owned(),
        ),
        ("one that nobody waits for", format!("(setsid sh -c '{COMPUTE}' &); sleep 3")),
    ] {
        for (place, group) in [("in a group of its own", Some(&group)), ("with others", None)] {
            assert_eq!(ended(&follow, &script, group), "exit status 0", "{case}, {place}");
        }
    }
}

#[test]
fn a_step_that_only_waits_is_ended_whatever_others_compute() {
    let (follow, group) = (follow(), Cgroup::new("waits").unwrap());
    assert_eq!(ended(&follow, WAIT, None), "stalled", "nobody else");
    assert_eq!(ended(&follow, WAIT, Some(&group)), "stalled", "in a group of its own");
    {
        let _others = Others::that_compute(2, None);
        assert_eq!(ended(&follow, WAIT, None), "stalled", "others beside it");
        assert_eq!(ended(&follow, WAIT, Some(&group)), "stalled", "others in another group");
    }
    let _others = Others::that_compute(2, Some(&group));
    assert_eq!(ended(&follow, WAIT, Some(&group)), "stalled", "others in its group");
}
