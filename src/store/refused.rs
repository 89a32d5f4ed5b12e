//! The files by which a late import prevents the mounting of what it refused to mount.

use std::io::ErrorKind;

use anyhow::{Context, Result};

use super::{Layout, Lock};
use crate::exit::{self, Exit};

impl Layout {
    /// Removes [`Layout::mounts_refused`] and [`Layout::shares_refused`].
    ///
    /// # Errors
    /// One cannot be removed.
    pub fn forget_refused(&self) -> Result<()> {
        for mark in [self.mounts_refused(), self.shares_refused()] {
            match std::fs::remove_file(&mark) {
                Err(e) if e.kind() != ErrorKind::NotFound => {
                    return Err(e).with_context(|| mark.display().to_string());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes the files that an earlier boot left: `/run` survives a `systemctl soft-reboot`.
    /// While a late import runs, the files are its own and stay.
    ///
    /// # Errors
    /// As [`Layout::forget_refused`].
    pub fn forget_refused_before(&self) -> Result<()> {
        if [self.mounts_refused(), self.shares_refused()].iter().all(|mark| !mark.exists()) {
            return Ok(());
        }
        match Lock::late(self) {
            Ok(_lock) => self.forget_refused(),
            Err(e) if exit::of(&e) == Exit::Locked => Ok(()),
            Err(e) => Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_refused_is_forgotten_with_the_boot_but_not_under_a_late_import() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path());
        layout.forget_refused_before().unwrap();
        assert!(!layout.run().exists(), "nothing to forget, nothing made");
        let put = || {
            std::fs::create_dir_all(layout.run()).unwrap();
            for mark in [layout.mounts_refused(), layout.shares_refused()] {
                std::fs::write(mark, "").unwrap();
            }
        };
        let there = || (layout.mounts_refused().exists(), layout.shares_refused().exists());
        put();
        let at_work = Lock::late(&layout).unwrap();
        layout.forget_refused_before().unwrap();
        assert_eq!(there(), (true, true));
        drop(at_work);
        layout.forget_refused_before().unwrap();
        assert_eq!(there(), (false, false));
        layout.forget_refused().unwrap();
    }
}
