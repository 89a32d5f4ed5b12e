//! ELF notes of a kernel: `/sys/kernel/notes`, or a `.notes` section of an image.

use std::fmt::Write as _;

use object::Endianness;

/// `NT_GNU_BUILD_ID` (elf.h), of owner `GNU`.
pub(super) const GNU_BUILD_ID: u32 = 3;
/// `LINUX_ELFNOTE_BUILD_SALT` (include/linux/build-salt.h), of owner `Linux`.
pub(super) const BUILD_SALT: u32 = 0x100;

/// One note: `Elf_Nhdr` and what it announces (elf(5), "Notes (Nhdr)").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note<'a> {
    /// The owner, without its terminating NUL: `GNU`, `Linux`, `Xen`.
    pub name: &'a [u8],
    /// The type; its meaning is the owner's.
    pub kind: u32,
    /// The descriptor's bytes.
    pub desc: &'a [u8],
}

/// The notes in `bytes`, up to the first that does not fit. Name and descriptor are padded to
/// four bytes each, in both ELF classes, as Linux writes them.
pub fn notes(bytes: &[u8], endian: Endianness) -> impl Iterator<Item = Note<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (note, tail) = next(rest, endian)?;
        rest = tail;
        Some(note)
    })
}

fn next(bytes: &[u8], endian: Endianness) -> Option<(Note<'_>, &[u8])> {
    let word = |i: usize| -> Option<u32> {
        let b = bytes.get(i * 4..i * 4 + 4)?.try_into().ok()?;
        Some(match endian {
            Endianness::Little => u32::from_le_bytes(b),
            Endianness::Big => u32::from_be_bytes(b),
        })
    };
    let (name_len, desc_len) = (usize::try_from(word(0)?).ok()?, usize::try_from(word(1)?).ok()?);
    let kind = word(2)?;
    let desc_at = 12usize.checked_add(name_len.checked_next_multiple_of(4)?)?;
    let name = bytes.get(12..12usize.checked_add(name_len)?)?;
    let desc = bytes.get(desc_at..desc_at.checked_add(desc_len)?)?;
    let end = desc_at.checked_add(desc_len.checked_next_multiple_of(4)?)?;
    let name = name.strip_suffix(b"\0").unwrap_or(name);
    // The padding of the last descriptor may be missing.
    Some((Note { name, kind, desc }, bytes.get(end..).unwrap_or_default()))
}

/// The GNU build-id among the notes in `bytes`, lower-case hexadecimal, as `readelf -n` and
/// `file` print it. It tries both byte orders: only one of them gives a note named `GNU`.
pub fn gnu_build_id(bytes: &[u8]) -> Option<String> {
    let orders = [Endianness::Little, Endianness::Big];
    let desc = orders.iter().find_map(|&endian| {
        notes(bytes, endian).find(|n| n.name == b"GNU" && n.kind == GNU_BUILD_ID).map(|n| n.desc)
    })?;
    let hex = hexadecimal(desc);
    (!hex.is_empty()).then_some(hex)
}

/// Lower-case hexadecimal, as `readelf -n` prints a build-id.
pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    let mut hex = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(name: &[u8], kind: u32, desc: &[u8]) -> Vec<u8> {
        let len = |b: &[u8]| u32::try_from(b.len()).unwrap();
        let mut out = Vec::new();
        for word in [len(name), len(desc), kind] {
            out.extend(word.to_le_bytes());
        }
        for part in [name, desc] {
            out.extend(part);
            out.resize(out.len().next_multiple_of(4), 0);
        }
        out
    }

    #[test]
    fn the_build_id_is_found_behind_other_notes() {
        let mut bytes = note(b"Xen\0", 3, b"\x01\x02");
        bytes.extend(note(b"GNU\0", 1, b"abi"));
        bytes.extend(note(b"GNU\0", 3, &[0x0a, 0xbc, 0xff]));
        assert_eq!(gnu_build_id(&bytes).as_deref(), Some("0abcff"));
        let unpadded = &bytes[..bytes.len() - 1];
        assert_eq!(gnu_build_id(unpadded).as_deref(), Some("0abcff"));
    }

    #[test]
    fn torn_notes_end_the_list_without_a_panic() {
        let bytes = note(b"GNU\0", 3, &[1, 2, 3, 4]);
        for cut in 0..bytes.len() {
            assert_eq!(gnu_build_id(&bytes[..cut]), None, "cut at {cut}");
        }
        assert!(notes(&[0xff; 64], Endianness::Little).next().is_none());
    }

    #[test]
    fn the_running_kernel_has_a_build_id() {
        let id = gnu_build_id(&std::fs::read("/sys/kernel/notes").unwrap()).unwrap();
        assert!(id.len() >= 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    }
}
