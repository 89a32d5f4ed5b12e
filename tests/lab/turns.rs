//! Tests take turns at the processors. There are as many turns as processors. A test has a turn
//! from its first use of the laboratory to its end. So libtest may run any number of threads: a
//! test without a turn sleeps. A test that waits for another test's work gives its turn away
//! meanwhile ([`idle`]). So no test with a turn waits for one without.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use super::times;

/// The beginnings of the names of long tests. They begin first, so that all turns are in use to the
/// end.
const FIRST: [&str; 12] = [
    "build::emerge",
    "boot::nothing",
    "boot::modules_that_come_late",
    "build",
    "tree",
    "boot",
    "binhost",
    "late",
    "source",
    "verify",
    "symvers",
    "hostile",
];

#[derive(Debug)]
struct Turns {
    free: usize,
    waiting: BTreeSet<(usize, u64)>,
    arrived: u64,
}

static TURNS: OnceLock<Mutex<Turns>> = OnceLock::new();
static CHANGED: Condvar = Condvar::new();

thread_local! {
    /// The rank of the turn that this thread has.
    static HAS: Cell<Option<usize>> = const { Cell::new(None) };
}

fn turns() -> MutexGuard<'static, Turns> {
    let turns = TURNS.get_or_init(|| {
        let set = std::env::var("ZFS_PREFIX_TURNS").ok().and_then(|n| n.parse().ok());
        let cores = || std::thread::available_parallelism().map_or(2, usize::from);
        let free = set.filter(|n| *n > 0).unwrap_or_else(cores);
        Mutex::new(Turns { free, waiting: BTreeSet::new(), arrived: 0 })
    });
    turns.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until it is this thread's turn.
fn take(rank: usize) {
    let mut turns = turns();
    let place = (rank, turns.arrived);
    turns.arrived += 1;
    turns.waiting.insert(place);
    while turns.free == 0 || turns.waiting.first() != Some(&place) {
        turns = CHANGED.wait(turns).unwrap_or_else(PoisonError::into_inner);
    }
    turns.waiting.remove(&place);
    turns.free -= 1;
    HAS.set(Some(rank));
    // There may be a turn for the next one too.
    CHANGED.notify_all();
}

fn give() {
    turns().free += 1;
    HAS.set(None);
    CHANGED.notify_all();
}

/// A test's turn. Drop gives it back.
#[derive(Debug)]
pub(crate) struct Turn(());

impl Turn {
    /// Waits for the turn of the test of this name.
    pub(crate) fn take(name: &str) -> Turn {
        let rank = FIRST.iter().position(|first| name.starts_with(first));
        take(1 + rank.unwrap_or(FIRST.len()));
        Turn(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        give();
    }
}

/// Gives the turn away while `wait` runs. After that, this test comes before those that have not
/// begun yet.
pub(crate) fn idle<T>(wait: impl FnOnce() -> T) -> T {
    let Some(_) = HAS.get() else { return wait() };
    give();
    let result = wait();
    take(0);
    result
}

/// A value that is made once. The first test that needs it makes it. Others wait without a turn.
#[derive(Debug)]
pub struct Once<T> {
    value: OnceLock<T>,
    making: Alone,
}

impl<T> Once<T> {
    /// Not made yet.
    #[must_use]
    pub const fn new() -> Once<T> {
        Once { value: OnceLock::new(), making: Alone::new() }
    }

    /// The value. The first call makes it with `make`.
    pub fn get(&self, make: impl FnOnce() -> T) -> &T {
        times::test();
        if let Some(value) = self.value.get() {
            return value;
        }
        let _making = self.making.lock();
        self.value.get_or_init(make)
    }
}

impl<T> Default for Once<T> {
    fn default() -> Once<T> {
        Once::new()
    }
}

/// A lock for work that only one test does at a time. Others wait without a turn.
#[derive(Debug)]
pub struct Alone(Mutex<()>);

impl Alone {
    /// A lock that nobody holds.
    #[must_use]
    pub const fn new() -> Alone {
        Alone(Mutex::new(()))
    }

    /// Waits until nobody else holds the lock.
    pub fn lock(&self) -> MutexGuard<'_, ()> {
        times::test();
        times::idle(|| self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Default for Alone {
    fn default() -> Alone {
        Alone::new()
    }
}
