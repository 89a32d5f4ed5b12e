//! BTF, the kernel's description of its own types: section `.BTF` of an image, or
//! /sys/kernel/btf/vmlinux (Documentation/bpf/btf.rst, include/uapi/linux/btf.h).

use anyhow::{Context, Result, bail, ensure};
use object::Endianness;

use super::Image;

/// The largest kernels have some ten MiB; a bound against hostile input.
const MAX_BYTES: usize = 128 * 1024 * 1024;
/// `BTF_MAX_TYPE`: the kernel takes no more.
const MAX_TYPES: usize = 0x000f_ffff;
/// `struct btf_header` without the layout that Linux 7.x appended.
const HEADER: usize = 24;
/// `KSYM_NAME_LEN` is 512, and no name in the kernel is longer.
const MAX_NAME: usize = 512;
/// How many places that look like the beginning of a blob are tried, in each byte order. Real
/// kernels have a handful of them.
const MAX_CANDIDATES: usize = 256;
/// `struct btf_type`.
const TYPE: usize = 12;
const KIND_STRUCT: u32 = 4;

/// The BTF in a kernel's image. In an ELF kernel it is section `.BTF`. In a kernel without sections
/// (arm64 Image) it is the blob that describes `struct module`. `None` if the kernel has no BTF.
pub fn in_image(image: &Image) -> Option<&[u8]> {
    image.section(".BTF").or_else(|| find(image.kernel()))
}

/// The first BTF blob in the kernel's bytes that parses and describes `struct module`.
pub fn find(kernel: &[u8]) -> Option<&[u8]> {
    // Magic number, version, no flags; in either byte order.
    let magics = [[0x9f, 0xeb, 1, 0], [0xeb, 0x9f, 1, 0]];
    let places = magics
        .iter()
        .flat_map(|magic| memchr::memmem::find_iter(kernel, magic).take(MAX_CANDIDATES));
    places.map(|at| &kernel[at..]).find_map(|bytes| {
        let blob = bytes.get(..length(bytes)?)?;
        let btf = Btf::parse(blob).ok()?;
        (!btf.sizes("module").is_empty()).then_some(blob)
    })
}

/// The length of the blob at the beginning of `bytes`, from its header to the end of its last part.
fn length(bytes: &[u8]) -> Option<usize> {
    let order = if bytes[0] == 0x9f { Endianness::Little } else { Endianness::Big };
    let word = |at: usize| usize::try_from(u32_at(bytes, at, order)?).ok();
    let header = word(4)?;
    let mut parts = vec![8, 16];
    if header >= HEADER + 8 {
        parts.push(HEADER);
    }
    let ends = parts.into_iter().map(|at| word(at)?.checked_add(word(at + 4)?));
    let end = ends.collect::<Option<Vec<_>>>()?.into_iter().max()?;
    header.checked_add(end)
}

/// The structures of one BTF blob.
#[derive(Debug)]
pub struct Btf<'data> {
    types: &'data [u8],
    strings: &'data [u8],
    order: Endianness,
    /// Sorted by name. A name may occur more than once: two source files of the kernel may define
    /// different structures of one name.
    structs: Vec<(&'data str, Struct)>,
}

#[derive(Clone, Copy, Debug)]
struct Struct {
    size: u32,
    /// Where its first `struct btf_member` is in `types`.
    members: usize,
    count: usize,
    /// Offsets have a bit-field's size in their upper eight bits (`kind_flag`).
    bitfields: bool,
}

/// A member of a structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member<'data> {
    /// Its name; empty for an anonymous union or structure.
    pub name: &'data str,
    /// Where it begins, in bits from the structure's beginning.
    pub bit_offset: u32,
}

/// How many bytes follow each `struct btf_type` of one kind: once, and for each of its `vlen`
/// elements.
#[derive(Clone, Copy, Debug)]
struct Layout {
    once: usize,
    each: usize,
}

/// Bytes after the types of the kinds 1 (INT) to 19 (ENUM64).
const KINDS: [Layout; 20] = {
    const fn layout(once: usize, each: usize) -> Layout {
        Layout { once, each }
    }
    let none = layout(0, 0);
    let mut kinds = [none; 20];
    kinds[1] = layout(4, 0); // INT
    kinds[3] = layout(12, 0); // ARRAY
    kinds[4] = layout(0, 12); // STRUCT
    kinds[5] = layout(0, 12); // UNION
    kinds[6] = layout(0, 8); // ENUM
    kinds[13] = layout(0, 8); // FUNC_PROTO
    kinds[14] = layout(4, 0); // VAR
    kinds[15] = layout(0, 12); // DATASEC
    kinds[17] = layout(4, 0); // DECL_TAG
    kinds[19] = layout(0, 12); // ENUM64
    kinds
};

impl<'data> Btf<'data> {
    /// Reads a blob of either byte order.
    ///
    /// # Errors
    /// The blob is not BTF of version 1, has sections or types that end outside of it, or has more
    /// types than the kernel accepts. Or it has a kind of type that is neither known here nor
    /// described by its own layout section.
    pub fn parse(bytes: &'data [u8]) -> Result<Btf<'data>> {
        Btf::read(bytes).context("BTF")
    }

    fn read(bytes: &'data [u8]) -> Result<Btf<'data>> {
        ensure!(bytes.len() <= MAX_BYTES, "larger than {MAX_BYTES} bytes");
        let order = match bytes {
            [0x9f, 0xeb, ..] => Endianness::Little,
            [0xeb, 0x9f, ..] => Endianness::Big,
            _ => bail!("no magic number, begins with {:02x?}", bytes.get(..2).unwrap_or(bytes)),
        };
        let word = |at: usize| u32_at(bytes, at, order).context("header cut short");
        ensure!(bytes.get(2) == Some(&1), "version {:?}, known is 1", bytes.get(2));
        let header = usize::try_from(word(4)?)?;
        ensure!(header >= HEADER, "header of {header} bytes");
        let section = |field: usize, what: &str| -> Result<&'data [u8]> {
            let begin = header.checked_add(usize::try_from(word(field)?)?);
            let length = usize::try_from(word(field + 4)?)?;
            let range = begin.and_then(|begin| Some(begin..begin.checked_add(length)?));
            range.and_then(|r| bytes.get(r)).with_context(|| format!("{what} outside of the data"))
        };
        let (types, strings) = (section(8, "types")?, section(16, "strings")?);
        let layouts = if header >= HEADER + 8 { section(HEADER, "layouts")? } else { &[] };
        let mut btf = Btf { types, strings, order, structs: Vec::new() };
        btf.index(layouts)?;
        Ok(btf)
    }

    /// Walks over all types once and keeps the structures that have a name.
    fn index(&mut self, layouts: &[u8]) -> Result<()> {
        let mut at = 0;
        for number in 1.. {
            if at == self.types.len() {
                break;
            }
            ensure!(number <= MAX_TYPES, "more than {MAX_TYPES} types");
            let here = || format!("type {number}");
            let [name, info, size] = self.type_at(at).with_context(here)?;
            let kind = (info >> 24) & 0x7f;
            // `vlen` has 16 bits, and 24 since Linux 7.1. Older kernels leave the other bits zero.
            let count = usize::try_from(info & 0x00ff_ffff)?;
            let layout = layout(kind, layouts, self.order).with_context(here)?;
            let members = at + TYPE;
            let length = count.checked_mul(layout.each).and_then(|n| n.checked_add(layout.once));
            let end = length.and_then(|length| members.checked_add(length));
            let end = end.filter(|end| *end <= self.types.len());
            at = end.with_context(|| format!("type {number} outside of the types"))?;
            if kind == KIND_STRUCT && name != 0 {
                let name = self.name(name).with_context(here)?;
                let bitfields = info >> 31 == 1;
                self.structs.push((name, Struct { size, members, count, bitfields }));
            }
        }
        self.structs.sort_by_key(|(name, _)| *name);
        Ok(())
    }

    fn type_at(&self, at: usize) -> Result<[u32; 3]> {
        let word = |n: usize| u32_at(self.types, at + 4 * n, self.order).context("cut short");
        Ok([word(0)?, word(1)?, word(2)?])
    }

    fn name(&self, offset: u32) -> Result<&'data str> {
        let bytes = self.strings.get(usize::try_from(offset)?..).context("name outside")?;
        // The search is bounded: a million types could all have the same long name.
        let bytes = &bytes[..bytes.len().min(MAX_NAME + 1)];
        let end = memchr::memchr(0, bytes).context("name without an end, or a very long one")?;
        std::str::from_utf8(&bytes[..end]).context("name that is not UTF-8")
    }

    fn named(&self, name: &str) -> &[(&'data str, Struct)] {
        let begin = self.structs.partition_point(|(n, _)| *n < name);
        let length = self.structs[begin..].partition_point(|(n, _)| *n == name);
        &self.structs[begin..begin + length]
    }

    /// How many named structures there are.
    pub fn len(&self) -> usize {
        self.structs.len()
    }

    /// Whether there is no named structure.
    pub fn is_empty(&self) -> bool {
        self.structs.is_empty()
    }

    /// `sizeof(struct NAME)` in bytes, for every structure of that name: ascending, each size once.
    /// Empty if there is no such structure.
    pub fn sizes(&self, name: &str) -> Vec<u64> {
        let mut sizes: Vec<u64> = self.named(name).iter().map(|(_, s)| s.size.into()).collect();
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }

    /// The members of the first structure of that name, in the order of their declaration.
    ///
    /// # Errors
    /// No such structure, or a member's name is outside of the strings.
    pub fn members(&self, name: &str) -> Result<Vec<Member<'data>>> {
        let found = self.named(name).first();
        let (_, s) = found.with_context(|| format!("BTF: no struct {name}"))?;
        (0..s.count)
            .map(|n| {
                let [member, _, offset] = self.type_at(s.members + n * TYPE)?;
                let mask = if s.bitfields { 0x00ff_ffff } else { u32::MAX };
                Ok(Member { name: self.name(member)?, bit_offset: offset & mask })
            })
            .collect::<Result<_>>()
            .with_context(|| format!("BTF: struct {name}"))
    }
}

/// The length of the types of `kind`: known here, or else told by the blob (`struct btf_layout`).
fn layout(kind: u32, layouts: &[u8], order: Endianness) -> Result<Layout> {
    let index = usize::try_from(kind)?;
    if let Some(known) = KINDS.get(index).filter(|_| kind != 0) {
        return Ok(*known);
    }
    let told = u32_at(layouts, index * 4, order).filter(|_| kind != 0);
    told.with_context(|| format!("unknown kind {kind}"))?;
    let [once, each] = [layouts[index * 4], layouts[index * 4 + 1]];
    Ok(Layout { once: once.into(), each: each.into() })
}

fn u32_at(bytes: &[u8], at: usize, order: Endianness) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
    Some(match order {
        Endianness::Little => u32::from_le_bytes(bytes),
        Endianness::Big => u32::from_be_bytes(bytes),
    })
}

#[cfg(test)]
#[path = "btf_tests.rs"]
mod tests;
