//! A kernel without an ELF header. objcopy makes an arm64 Image from vmlinux: only code and data,
//! and no table that says where anything is.

use std::ops::Range;

use object::Endianness;

use super::headers::ELF;
use crate::kernel::notes::notes;

/// No note of the kernel's is longer.
const MAX_NOTE: usize = 1024;
/// A kernel has fewer notes, and fewer ELF files in it. The bound limits the work: each note is
/// compared with each ELF file.
const MAX_MATCHES: usize = 1024;

/// The descriptor of the one note of this name and type. Notes within an ELF file in the kernel do
/// not count: the vDSO has a build-id and a salt, too. `None` if there is no such note, or if there
/// are several different ones.
pub(super) fn note<'a>(
    kernel: &'a [u8],
    endian: Endianness,
    name: &[u8],
    kind: u32,
) -> Option<&'a [u8]> {
    let mut needle = match endian {
        Endianness::Little => kind.to_le_bytes().to_vec(),
        Endianness::Big => kind.to_be_bytes().to_vec(),
    };
    needle.extend(name);
    needle.resize((needle.len() + 1).next_multiple_of(4), 0);
    let embedded = embedded_elf(kernel);
    let mut found = None;
    for at in memchr::memmem::find_iter(kernel, &needle).take(MAX_MATCHES) {
        let Some(begin) = at.checked_sub(8) else { continue };
        if embedded.iter().any(|range| range.contains(&begin)) {
            continue;
        }
        let end = kernel.len().min(begin + MAX_NOTE);
        let Some(note) = notes(&kernel[begin..end], endian).next() else { continue };
        if note.name != name || note.kind != kind {
            continue;
        }
        if found.is_some_and(|earlier| earlier != note.desc) {
            return None;
        }
        found = Some(note.desc);
    }
    found
}

/// The ranges of ELF files in the kernel. Each range ends after the section headers: linkers write
/// those last.
fn embedded_elf(kernel: &[u8]) -> Vec<Range<usize>> {
    let extent = |at: usize| -> Option<Range<usize>> {
        let header = kernel.get(at..at + 64)?;
        let little = header[5] == 1;
        let number = |bytes: &[u8]| {
            let digits = bytes.iter().map(|&b| u64::from(b));
            let fold = |value: u64, digit: u64| value << 8 | digit;
            if little { digits.rev().fold(0, fold) } else { digits.fold(0, fold) }
        };
        let (offset, size, count) = match header[4] {
            1 => (&header[32..36], &header[46..48], &header[48..50]),
            2 => (&header[40..48], &header[58..60], &header[60..62]),
            _ => return None,
        };
        let length = number(offset).checked_add(number(size) * number(count))?;
        let end = at.checked_add(usize::try_from(length).ok()?)?;
        (end <= kernel.len()).then_some(at..end)
    };
    memchr::memmem::find_iter(kernel, ELF).filter_map(extent).take(MAX_MATCHES).collect()
}
