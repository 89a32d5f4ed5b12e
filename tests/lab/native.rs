//! A machine for tests of the builder: native, with a prefix.

#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]
#![allow(clippy::missing_panics_doc, reason = "each of these is a part of a test")]

use std::path::Path;
use std::time::{Duration, Instant};

use zfs_prefix::store::{FailureRecord, Layout};

use super::disk::State;
use super::nspawn::{Machine, Ran};
use super::root::Root;

/// A machine of its own for one test.
pub struct Native {
    /// The running machine.
    pub machine: Machine,
    /// All files that it can write to.
    pub state: State,
    /// The release of the kernel whose image it has.
    pub release: String,
    _work: tempfile::TempDir,
}

impl Native {
    /// Boots a machine with the prefix in its place.
    pub fn boot(name: &str) -> Native {
        Native::prepared(name, |state| super::prefix::install(state).unwrap())
    }

    /// Boots a machine. `prepare` changes its files before that.
    pub fn prepared(name: &str, prepare: impl FnOnce(&State)) -> Native {
        Native::staged(name, &super::stage(), prepare)
    }

    /// [`Native::prepared`], but with the files of `stage` over the root image's /usr.
    pub fn staged(name: &str, stage: &Path, prepare: impl FnOnce(&State)) -> Native {
        let root: Root = super::root::root().unwrap();
        let work = super::tmp::scratch(name);
        let state = State::fresh(&root, &work.path().join("state")).unwrap();
        prepare(&state);
        let minute = Duration::from_secs(60);
        let machine = Machine::boot(name, &root, &state, Some(stage), minute).unwrap();
        Native { machine, state, release: root.release, _work: work }
    }

    /// Runs a line in the machine. UNIT in it stands for the builder's unit.
    pub fn exec(&self, line: &str) -> Ran {
        self.machine.exec(&line.replace("UNIT", &self.unit())).unwrap()
    }

    /// [`Native::exec`] of a line that has to succeed. Returns its output.
    pub fn check(&self, line: &str) -> String {
        self.machine.check(&line.replace("UNIT", &self.unit())).unwrap().trim().to_owned()
    }

    /// The unit that builds for the machine's kernel.
    pub fn unit(&self) -> String {
        format!("zfs-build@{}.service", self.release)
    }

    /// The layout of its store, as paths of this process.
    pub fn layout(&self) -> Layout {
        Layout::new(self.state.dir())
    }

    /// The record of the last failed build.
    pub fn failure(&self) -> Option<FailureRecord> {
        FailureRecord::read(&self.layout(), &self.release.parse().unwrap()).unwrap()
    }

    /// The builder's exit status after `systemctl start`, and its journal of that start.
    pub fn build(&self) -> (String, String) {
        let mark = self.check("journalctl -n 0 --show-cursor | sed -n 's/^-- cursor: //p'");
        self.exec("systemctl start UNIT");
        let journal = format!("journalctl -o cat -t zfs-build -u UNIT --after-cursor='{mark}'");
        (self.check("systemctl show --value -p ExecMainStatus UNIT"), self.check(&journal))
    }

    /// Starts a build and waits until its STATUS begins with `word`.
    pub fn start_until(&self, word: &str) {
        self.start_until_within(word, Duration::from_secs(900));
    }

    /// [`Native::start_until`] with another time limit.
    pub fn start_until_within(&self, word: &str, limit: Duration) {
        self.check("systemctl start --no-block UNIT");
        let begin = Instant::now();
        loop {
            let text = self.check("systemctl show --value -p StatusText UNIT");
            if text.starts_with(word) {
                return;
            }
            let state = self.check("systemctl show --value -p ActiveState UNIT");
            let log = || self.exec("journalctl -o cat -u UNIT -n 30").output;
            // The unit's job may still be waiting for the prefix.
            let waits = !self.check("systemctl show --value -p Job UNIT").is_empty();
            let alive = waits || state == "activating";
            assert!(alive, "the build ended before {word:?}: {state}\n{}", log());
            assert!(begin.elapsed() < limit, "no {word:?}: {text:?}\n{}", log());
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    /// Asserts that nothing was published and nothing is left over.
    pub fn assert_store_untouched(&self, case: &str) {
        let found = self
            .exec("find /var/lib/zfs-prefix/store /var/lib/zfs-prefix/current -type f -o -type l");
        let published: Vec<&str> =
            found.output.lines().filter(|l| !l.starts_with("find: ")).collect();
        assert!(published.is_empty(), "{case}: {published:?}");
    }

    /// Asserts that the prefix's owner has no process.
    pub fn assert_no_process_of_the_build(&self, case: &str) {
        let left = self.exec("ps -u core -o pid,args --no-headers");
        assert_eq!(left.output.trim(), "", "{case}: processes of the build are left");
    }
}
