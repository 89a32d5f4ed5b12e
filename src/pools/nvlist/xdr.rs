//! The encoding XDR (RFC 4506): big-endian, everything padded to four bytes ("XDR encoding
//! functions" of nvpair.c).

use super::{
    BYTE_ARRAY, DEEPEST, Malformed, NVLIST, NVLIST_ARRAY, Reader, STRING, STRING_ARRAY, Visit,
};

/// nvl_version, nvl_nvflag, pairs, and two zeros.
pub(super) fn list(
    reader: &mut Reader<'_>,
    depth: usize,
    visit: &mut Visit<'_>,
) -> Result<(), Malformed> {
    if depth > DEEPEST {
        return reader.bad("lists within lists without end");
    }
    reader.version(u32::from_be_bytes)?;
    loop {
        let begin = reader.at;
        let (encoded, decoded) = (word(reader)? as usize, word(reader)?);
        if encoded == 0 && decoded == 0 {
            return Ok(());
        }
        let end = begin.checked_add(encoded).filter(|end| *end <= reader.bytes.len());
        let Some(end) = end else { return reader.bad("a pair beyond the end") };
        let name = string(reader)?;
        let kind = word(reader)?;
        visit(begin, name, kind)?;
        values(reader, kind, depth)?;
        if reader.at != end {
            return reader.bad("a pair has another length than it says");
        }
    }
}

/// The values of a pair, as nvs_xdr_nvp_op writes them.
fn values(reader: &mut Reader<'_>, kind: u32, depth: usize) -> Result<(), Malformed> {
    let count = length(reader)?;
    let single = match kind {
        // BYTE, INT16, UINT16, INT32, UINT32, BOOLEAN_VALUE, INT8, UINT8
        2..=6 | 21..=23 => 4,
        // INT64, UINT64, HRTIME, DOUBLE
        7 | 8 | 18 | 27 => 8,
        _ => 0,
    };
    match kind {
        // BOOLEAN, which has no value, and empty arrays.
        1..=27 if count == 0 => Ok(()),
        _ if single > 0 && count == 1 => reader.take(single).map(drop),
        STRING | STRING_ARRAY => (0..count).try_for_each(|_| string(reader).map(drop)),
        BYTE_ARRAY => opaque(reader, count).map(drop),
        // The arrays of 64 bits, then all others; these have their length once more.
        15 | 16 => array(reader, count, 8),
        11..=14 | 24..=26 => array(reader, count, 4),
        NVLIST | NVLIST_ARRAY => {
            (0..count).try_for_each(|_| list(reader, depth + 1, &mut |_, _, _| Ok(())))
        }
        _ => reader.bad("a value of an unknown type"),
    }
}

fn array(reader: &mut Reader<'_>, count: usize, size: usize) -> Result<(), Malformed> {
    if length(reader)? == count {
        reader.take(count * size).map(drop)
    } else {
        reader.bad("an array with two lengths")
    }
}

fn word(reader: &mut Reader<'_>) -> Result<u32, Malformed> {
    reader.word(u32::from_be_bytes)
}

/// A length or count: never more than there are bytes left.
fn length(reader: &mut Reader<'_>) -> Result<usize, Malformed> {
    let length = word(reader)? as usize;
    if length <= reader.left() { Ok(length) } else { reader.bad("a length beyond the end") }
}

/// Bytes of that length, and the padding after them.
fn opaque<'a>(reader: &mut Reader<'a>, length: usize) -> Result<&'a [u8], Malformed> {
    let bytes = reader.take(length)?;
    reader.take(length.next_multiple_of(4) - length)?;
    Ok(bytes)
}

fn string<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], Malformed> {
    let length = length(reader)?;
    opaque(reader, length)
}
