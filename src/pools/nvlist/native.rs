//! The encoding of the machine: structures as they are in memory, each pair aligned to eight bytes
//! ("Native encoding functions" of nvpair.c). The pairs of a nested list follow the pair that holds
//! it.

use super::{DEEPEST, Malformed, NVLIST, NVLIST_ARRAY, Reader, STRING, STRING_ARRAY, Visit};

/// sizeof (nvpair_t) without the name: nvp_size, nvp_name_sz and nvp_reserve (two bytes each),
/// nvp_value_elem, nvp_type.
const HEAD: usize = 16;
/// sizeof (nvlist_t)
const LIST: usize = 24;

/// nvl_version, nvl_nvflag and the pairs.
pub(super) fn list(reader: &mut Reader<'_>, visit: &mut Visit<'_>) -> Result<(), Malformed> {
    reader.version(u32::from_ne_bytes)?;
    pairs(reader, 0, visit)
}

/// Reads pairs until one has the size 0.
fn pairs(reader: &mut Reader<'_>, depth: usize, visit: &mut Visit<'_>) -> Result<(), Malformed> {
    if depth > DEEPEST {
        return reader.bad("lists within lists without end");
    }
    loop {
        let begin = reader.at;
        let size = word(reader)? as usize;
        if size == 0 {
            return Ok(());
        }
        let (name_size, count, kind) = (word(reader)?, word(reader)? as usize, word(reader)?);
        // Two numbers of 16 bits; which half is the name's depends on the byte order.
        let name_size = u16::from_ne_bytes(first_half(name_size)) as usize;
        let values_at = (HEAD + name_size).next_multiple_of(8);
        if size < values_at || !size.is_multiple_of(8) || size - HEAD > reader.left() {
            return reader.bad("a pair with a size that cannot be");
        }
        let rest = reader.take(size - HEAD)?;
        let name = terminated(&rest[..name_size.min(rest.len())]);
        let Some(name) = name.filter(|name| name.len() + 1 == name_size) else {
            return reader.bad("a pair without a name");
        };
        visit(begin, name, kind)?;
        let values = &rest[values_at - HEAD..];
        if !fits(kind, count, values) {
            return reader.bad("a value that is not of its type");
        }
        if kind == NVLIST || kind == NVLIST_ARRAY {
            (0..count).try_for_each(|_| pairs(reader, depth + 1, &mut |_, _, _| Ok(())))?;
        }
    }
}

/// Whether `count` values of this type can be in these bytes (i_get_value_size,
/// i_validate_type_nelem).
fn fits(kind: u32, count: usize, values: &[u8]) -> bool {
    let (scalar, element) = match kind {
        // BOOLEAN
        1 => return count == 0,
        // BYTE, INT8, UINT8; INT16, UINT16; INT32, UINT32, BOOLEAN_VALUE
        2 | 22 | 23 => (true, 1),
        3 | 4 => (true, 2),
        5 | 6 | 21 => (true, 4),
        // INT64, UINT64, HRTIME, DOUBLE
        7 | 8 | 18 | 27 => (true, 8),
        STRING => return count == 1 && terminated(values).is_some(),
        // The arrays of these: BYTE, INT8, UINT8; 16 bits; 32 bits and BOOLEAN; 64 bits
        10 | 25 | 26 => (false, 1),
        11 | 12 => (false, 2),
        13 | 14 | 24 => (false, 4),
        15 | 16 => (false, 8),
        // A pointer, and the string with its end.
        STRING_ARRAY => (false, 8 + 1),
        NVLIST => (true, LIST),
        NVLIST_ARRAY => (false, 8 + LIST),
        _ => return false,
    };
    let enough = count.checked_mul(element).is_some_and(|size| size <= values.len());
    enough && (!scalar || count == 1)
}

/// The bytes before the first NUL.
fn terminated(bytes: &[u8]) -> Option<&[u8]> {
    bytes.iter().position(|b| *b == 0).map(|end| &bytes[..end])
}

fn word(reader: &mut Reader<'_>) -> Result<u32, Malformed> {
    reader.word(u32::from_ne_bytes)
}

fn first_half(word: u32) -> [u8; 2] {
    let bytes = word.to_ne_bytes();
    [bytes[0], bytes[1]]
}
