//! The bytes of an image file, in memory or on disk. On disk only the parts that matter are read: a
//! unified kernel image may hold hundreds of megabytes of initrd.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

use anyhow::{Context, Result, ensure};

/// Where the bytes are.
pub(super) enum Bytes<'a> {
    /// In memory.
    Memory(&'a [u8]),
    /// In a regular file.
    File(&'a File),
}

impl<'a> Bytes<'a> {
    /// How many there are.
    ///
    /// # Errors
    /// The file's metadata cannot be read.
    pub(super) fn len(&self) -> io::Result<u64> {
        match self {
            Bytes::Memory(bytes) => Ok(bytes.len() as u64),
            Bytes::File(file) => file.metadata().map(|meta| meta.len()),
        }
    }

    /// The bytes from `begin` on: at most `most`, fewer at the end of the file.
    ///
    /// # Errors
    /// The file cannot be read, or there is no memory for so many bytes.
    pub(super) fn head(&self, begin: u64, most: usize) -> Result<Cow<'a, [u8]>> {
        match self {
            Bytes::Memory(bytes) => {
                let begin = usize::try_from(begin).unwrap_or(usize::MAX).min(bytes.len());
                let end = begin.saturating_add(most).min(bytes.len());
                Ok(Cow::Borrowed(&bytes[begin..end]))
            }
            Bytes::File(file) => {
                let there = self.len()?.saturating_sub(begin).min(most as u64);
                let mut read = Vec::new();
                read.try_reserve_exact(usize::try_from(there)?)?;
                let mut file = *file;
                file.seek(SeekFrom::Start(begin))?;
                file.take(there).read_to_end(&mut read)?;
                Ok(Cow::Owned(read))
            }
        }
    }

    /// All bytes of `range`, which has at most `most`.
    ///
    /// # Errors
    /// There are fewer, `range` is longer than `most`, or the file cannot be read.
    pub(super) fn all_of(&self, range: &Range<u64>, most: usize) -> Result<Cow<'a, [u8]>> {
        let length = range.end.checked_sub(range.start).context("ends before it begins")?;
        let length = usize::try_from(length).ok().filter(|length| *length <= most);
        let length = length.with_context(|| format!("larger than {most} bytes"))?;
        // Looks first: a range that is a lie gets no memory.
        let there = self.len()?;
        ensure!(range.end <= there, "ends at {}, and the file has {there} bytes", range.end);
        let bytes = self.head(range.start, length)?;
        ensure!(bytes.len() == length, "cut short");
        Ok(bytes)
    }
}
