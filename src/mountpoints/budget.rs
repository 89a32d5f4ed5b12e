//! The time that mount points may take of a boot.

use std::time::{Duration, Instant};

/// For the units of datasets.
const UNITS: Duration = Duration::from_secs(2);
/// To find out which paths are on a pool.
const POINTS: Duration = Duration::from_secs(1);

/// A part of a boot's time. What is not done when it is used up is left out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    end: Instant,
}

impl Budget {
    /// The time for the units of all datasets, from now on.
    pub(crate) fn for_units() -> Budget {
        Budget::of(UNITS)
    }

    /// The time for all mount points, from now on.
    pub(super) fn for_points() -> Budget {
        Budget::of(POINTS)
    }

    pub(crate) fn of(time: Duration) -> Budget {
        Budget { end: Instant::now() + time }
    }

    /// Half of what is left.
    pub(crate) fn half(&self) -> Budget {
        Budget::of(self.end.saturating_duration_since(Instant::now()) / 2)
    }

    pub(crate) fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }
}
