//! Imports the expected pools by their names. A machine needs this if no cache file names its
//! pools: it was set up anew, or the file was lost.

use std::time::{Duration, Instant};

use super::ask::Programs;
use super::{loaded, reason};
use crate::config::Settings;
use crate::host::Host;

/// The result for one pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Imported {
    /// It was imported before.
    Before,
    /// It was imported now.
    Now,
    /// It was not imported. The text says why.
    Not(String),
}

/// Imports each pool of `pools.expected` that is not imported yet, one after the other, without
/// mounting, and never by force. All imports together may take `pools.import-timeout`.
///
/// zpool itself chooses the devices to look at, as for zfs-import-scan.service: `-d` would take
/// every file in a directory for a device, and leave out what is not in it.
///
/// # Errors
/// No pool could be imported at all. The text says why.
pub fn by_name(host: &Host, settings: &Settings) -> Result<Vec<(String, Imported)>, String> {
    let names = &settings.pools.expected;
    if names.is_empty() {
        return Ok(Vec::new());
    }
    if !loaded(host) {
        return Err(reason::no_module().why);
    }
    let begun = Instant::now();
    let left = || settings.pools.import_timeout.saturating_sub(begun.elapsed());
    let mut programs = Programs::of(host)?;
    let listed = programs.list()?;
    let import = |name: &String| {
        if listed.iter().any(|pool| pool.name == *name) {
            return (name.clone(), Imported::Before);
        }
        let outcome = match left() {
            Duration::ZERO => Imported::Not("not tried: pools.import-timeout is over".to_owned()),
            left => one(&mut programs, name, left),
        };
        (name.clone(), outcome)
    };
    Ok(names.iter().map(import).collect())
}

fn one(programs: &mut Programs, name: &str, time: Duration) -> Imported {
    match programs.import(name, time) {
        Ok(answer) if answer.ended.is_ok() => Imported::Now,
        Ok(answer) => Imported::Not(answer.failure("zpool import")),
        Err(why) => Imported::Not(why),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{host, script};
    use super::*;
    use std::fs;

    #[test]
    fn one_that_hangs_is_said_and_holds_up_nothing_and_force_is_never_used() {
        let (_root, host) = host();
        let mut settings = Settings::default();
        assert_eq!(by_name(&host, &settings), Ok(vec![]));
        settings.pools.expected =
            ["there", "new", "other", "slow", "last"].map(str::to_owned).to_vec();
        settings.pools.import_timeout = Duration::from_secs(2);
        assert!(by_name(&host, &settings).unwrap_err().contains("module is not loaded"));
        fs::create_dir_all(host.path("/sys/module/zfs")).unwrap();
        let log = host.path("/log");
        script(
            &host,
            "zpool",
            &format!(
                "echo \"$@\" >> '{}'; case \"$*\" in list*) printf 'there\\tONLINE\\toff\\n' ;; \
                 *new) ;; *slow) exec sleep 1000 ;; \
                 *) cat '{}'; exit 1 ;; esac",
                log.display(),
                concat!(
                    env!("CARGO_MANIFEST_DIR"),
                    "/tests/pools/zfs-2.3.2/attempt-other-host.txt"
                ),
            ),
        );
        let outcome = by_name(&host, &settings).unwrap();
        let [there, new, other, slow, last] = &outcome[..] else { panic!("{outcome:?}") };
        assert_eq!((&there.1, &new.1), (&Imported::Before, &Imported::Now));
        for ((name, outcome), words) in [
            (
                other,
                "previously in use from another system. / Last accessed by lab (hostid=78563412)",
            ),
            (slow, "import -N slow was not done after"),
            (last, "not tried"),
        ] {
            let Imported::Not(why) = outcome else { panic!("{name}: {outcome:?}") };
            assert!(why.contains(words), "{name}: {why}");
        }
        let run = fs::read_to_string(log).unwrap();
        assert_eq!(run.lines().nth(1), Some("import -N new"));
        assert!(!run.contains("-f"), "{run}");
    }
}
