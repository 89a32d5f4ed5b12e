//! Finds the export tables in a kernel without section headers, such as an arm64 Image, by their
//! shape.
//! - Distances in the file are distances in memory, so PREL32 fields can be followed.
//! - Entries are sorted by name (`SORT()` in include/asm-generic/vmlinux.lds.h). Where the order
//!   breaks, the table ends.
//! - CRCs, flags and strings follow the tables. Only alignment leaves gaps between them, so the sum
//!   of their lengths proves what was found.

use std::ops::Range;

use anyhow::{Result, bail, ensure};
use object::Endianness;

use super::table::{Licence, Part, Table, Tables, string};

/// A table has at least so many entries. Sixteen names are not in order by chance.
const FEWEST: usize = 16;
/// Bytes of an entry (PREL32 with a namespace).
const ENTRY: usize = 12;
/// Strings are at most so far from the tables: both are in one part of the read-only data.
const NEAR: usize = 64 << 20;
/// How many bytes of names the scan reads: a few times the names of a real kernel. Without a bound,
/// hostile bytes could make the scan read each name thousands of times.
const EFFORT: usize = 256 << 20;

/// Finds the tables.
///
/// # Errors
/// There are no tables, more than one set of them, or tables whose lengths do not add up.
pub(super) fn find(kernel: &[u8], endian: Endianness) -> Result<Tables<'_>> {
    let runs = Scan { kernel, endian, effort: EFFORT }.runs()?;
    let mut found = Vec::new();
    for group in runs.chunk_by(|a, b| b.entries.start - a.entries.end <= 4) {
        found.extend(complete(kernel, group));
    }
    let strings = Part { bytes: kernel, address: 0 };
    match found.len() {
        1 => Ok(Tables { tables: found.remove(0), strings, endian }),
        0 if runs.is_empty() => bail!("no export tables in it: a kernel without CONFIG_MODULES?"),
        0 => {
            let places: Vec<String> =
                runs.iter().take(4).map(|r| format!("{:#x?}", r.entries)).collect();
            bail!(
                "export tables at {}, but CRCs or flags between them and their strings do not add up",
                places.join(", ")
            )
        }
        several => bail!("{several} sets of export tables in it"),
    }
}

/// Entries in order.
#[derive(Debug)]
struct Run {
    entries: Range<usize>,
    /// Where the first of the strings is that they point to.
    lowest: usize,
}

impl Run {
    fn count(&self) -> usize {
        self.entries.len() / ENTRY
    }
}

struct Scan<'a> {
    kernel: &'a [u8],
    endian: Endianness,
    effort: usize,
}

impl<'a> Scan<'a> {
    fn runs(&mut self) -> Result<Vec<Run>> {
        let mut runs = Vec::new();
        let mut at = 0;
        while at + ENTRY <= self.kernel.len() {
            match self.run(at) {
                Some(run) if run.count() >= FEWEST => {
                    at = run.entries.end;
                    runs.push(run);
                }
                _ => at += 4,
            }
            ensure!(self.effort > 0, "too much in it that looks like export tables and is not");
        }
        Ok(runs)
    }

    /// The entries in order that begin at `begin`.
    fn run(&mut self, begin: usize) -> Option<Run> {
        let (mut last, mut lowest) = self.entry(begin)?;
        let mut end = begin + ENTRY;
        while let Some((name, low)) = self.entry(end).filter(|(name, _)| *name > last) {
            (last, lowest) = (name, lowest.min(low));
            end += ENTRY;
        }
        Some(Run { entries: begin..end, lowest })
    }

    /// Name and lowest string of the entry at `at`; `None` if that is no entry.
    fn entry(&mut self, at: usize) -> Option<(&'a [u8], usize)> {
        let name_at = self.target(at + 4).filter(|to| *to != at + 4)?;
        // This check rejects nearly everything that is no entry.
        self.kernel.get(name_at).filter(|b| b.is_ascii_alphabetic() || **b == b'_')?;
        let name = string(&self.kernel[name_at..])?;
        self.effort = self.effort.saturating_sub(name.len());
        if !name.iter().all(u8::is_ascii_graphic) {
            return None;
        }
        let space_at = self.target(at + 8)?;
        if space_at == at + 8 {
            // No namespace: the field is 0.
            return Some((name, name_at));
        }
        let space = string(&self.kernel[space_at..])?;
        self.effort = self.effort.saturating_sub(space.len());
        let printable = space.iter().all(|b| b.is_ascii_graphic() || *b == b' ');
        printable.then_some((name, name_at.min(space_at)))
    }

    /// Where the field at `at` points to: itself, or a place behind it and not far away.
    fn target(&self, at: usize) -> Option<usize> {
        let word = *self.kernel.get(at..)?.first_chunk()?;
        let distance = match self.endian {
            Endianness::Little => i32::from_le_bytes(word),
            Endianness::Big => i32::from_be_bytes(word),
        };
        let distance = usize::try_from(distance).ok().filter(|d| *d < NEAR)?;
        Some(at + distance).filter(|to| *to < self.kernel.len())
    }
}

/// The tables with their CRCs and flags, if nothing else is between the tables and their strings.
fn complete<'a>(kernel: &'a [u8], group: &[Run]) -> Option<Vec<Table<'a>>> {
    let strings = group.iter().map(|run| run.lowest).min()?;
    for with_crcs in [true, false] {
        for align in [4, 8] {
            let tables = lay_out(kernel, group, with_crcs, align);
            if let Some((tables, end)) = tables
                && end == strings
            {
                return Some(tables);
            }
        }
    }
    None
}

/// The tables of the one or two runs of `group`, and where they end, for tables of this alignment.
fn lay_out<'a>(
    kernel: &'a [u8],
    group: &[Run],
    with_crcs: bool,
    align: usize,
) -> Option<(Vec<Table<'a>>, usize)> {
    let mut end = group.last()?.entries.end;
    let mut tables = Vec::new();
    for (index, run) in group.iter().enumerate() {
        let mut crcs = &[][..];
        if with_crcs {
            let begin = end.next_multiple_of(align);
            end = begin + run.count() * 4;
            crcs = kernel.get(begin..end)?;
        }
        let entries = kernel.get(run.entries.clone())?;
        tables.push(Table {
            entries: Part { bytes: entries, address: run.entries.start as u64 },
            crcs,
            licence: Licence::Table { gpl_only: index == 1 },
        });
    }
    match group.len() {
        // Linux 7.1 has one table, with flags.
        1 => {
            let begin = end;
            end += group[0].count();
            tables[0].licence = Licence::Flags(kernel.get(begin..end)?);
        }
        2 => {}
        _ => return None,
    }
    Some((tables, end))
}
