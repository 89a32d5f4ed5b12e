//! Keeps every try of a build from fetching a wrong archive again. The same inputs are not tried
//! for `build.backoff`, like those of a failed build. The record is
//! `/var/lib/zfs-prefix/failures/prefix.json`. Only the unit obeys it. A person who runs the
//! command gets a try.

use std::fs;
use std::os::unix::fs::MetadataExt;

use anyhow::Result;
use tracing::warn;

use super::blames_archive;
use crate::config::{Settings, Source};
use crate::exit::{self, Exit};
use crate::fail;
use crate::host::Release;
use crate::store::{Digest, FailureRecord, Layout, unix_now};

/// The record has this name in place of a kernel release. No kernel has this name.
const NAME: &str = "prefix";

/// The pause of one set of inputs.
#[derive(Debug)]
pub(super) struct Pause<'a> {
    layout: &'a Layout,
    settings: &'a Settings,
    name: Release,
    key: String,
}

impl<'a> Pause<'a> {
    /// The pause for this configuration, and for the archive itself if it is a file.
    pub(super) fn of(
        layout: &'a Layout,
        settings: &'a Settings,
        source: &Source,
    ) -> Result<Pause<'a>> {
        let file = match source {
            Source::Https(_) => None,
            Source::File(path) => fs::metadata(path).ok().map(|m| (m.len(), m.mtime(), m.ino())),
        };
        let inputs = format!("{:?} {} {file:?}", settings.prefix, source.full());
        let key = Digest::of(inputs.as_bytes()).as_str()[..16].to_owned();
        Ok(Pause { layout, settings, name: NAME.parse()?, key })
    }

    /// # Errors
    /// [`Exit::BackingOff`]: these inputs failed a while ago.
    pub(super) fn check(&self) -> Result<()> {
        let now = unix_now();
        match self.read().filter(|record| record.holds(&self.key, now)) {
            None => Ok(()),
            Some(record) => fail!(
                Exit::BackingOff,
                "the archive of the prefix was refused {} times; next try in {} s, or now: zfs-prefix prefix provision. The reason was: {}",
                record.attempts,
                record.next_try - now,
                record.reason
            ),
        }
    }

    /// Records a failure that the archive caused.
    pub(super) fn failed(&self, error: &anyhow::Error) {
        if !blames_archive(error) {
            return;
        }
        let (exit, text) = (exit::of(error), format!("{error:#}"));
        let build = &self.settings.build;
        let record = FailureRecord::new(&self.name, &self.key, "provision", exit, text);
        let record = record.following(self.read().as_ref(), build.backoff, build.backoff_max);
        if let Err(error) = record.write(self.layout) {
            warn!("the failure record cannot be written: {error:#}");
        }
    }

    /// Removes the record.
    pub(super) fn over(&self) {
        FailureRecord::clear(self.layout, &self.name).unwrap_or_else(|e| warn!("{e:#}"));
    }

    fn read(&self) -> Option<FailureRecord> {
        FailureRecord::read(self.layout, &self.name).unwrap_or_else(|error| {
            warn!("the failure record cannot be read and is ignored: {error:#}");
            None
        })
    }
}
