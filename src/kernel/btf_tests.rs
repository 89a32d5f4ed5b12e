use super::*;

/// Puts a blob together word by word, in either byte order.
struct Blob {
    big: bool,
    types: Vec<u8>,
    layouts: Vec<u8>,
    strings: Vec<u8>,
}

impl Blob {
    fn new(big: bool) -> Blob {
        Blob { big, types: vec![], layouts: vec![], strings: vec![0] }
    }

    fn word(&self, word: u32) -> [u8; 4] {
        if self.big { word.to_be_bytes() } else { word.to_le_bytes() }
    }

    fn string(&mut self, text: &str) -> u32 {
        let at = self.strings.len().try_into().unwrap();
        self.strings.extend(text.bytes());
        self.strings.push(0);
        at
    }

    fn words(&mut self, words: &[u32]) {
        let bytes: Vec<u8> = words.iter().flat_map(|w| self.word(*w)).collect();
        self.types.extend(bytes);
    }

    /// A structure with members of these names and offset words.
    fn structure(&mut self, name: &str, size: u32, flag: bool, members: &[(&str, u32)]) {
        let count: u32 = members.len().try_into().unwrap();
        let name = self.string(name);
        self.words(&[name, KIND_STRUCT << 24 | u32::from(flag) << 31 | count, size]);
        for (member, offset) in members {
            let member = self.string(member);
            self.words(&[member, 1, *offset]);
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let len = |b: &[u8]| u32::try_from(b.len()).unwrap();
        let header: u32 = if self.layouts.is_empty() { 24 } else { 32 };
        let mut words = vec![header, 0, len(&self.types), len(&self.types), len(&self.strings)];
        if header > 24 {
            words.extend([len(&self.types) + len(&self.strings), len(&self.layouts)]);
        }
        let magic: u16 = 0xeb9f;
        let mut out = if self.big { magic.to_be_bytes() } else { magic.to_le_bytes() }.to_vec();
        out.extend([1, 0]);
        out.extend(words.iter().flat_map(|w| self.word(*w)));
        for part in [&self.types, &self.strings, &self.layouts] {
            out.extend(part);
        }
        out
    }
}

/// One type of each kind, and structures among them.
fn all_kinds(big: bool) -> Blob {
    let mut blob = Blob::new(big);
    let name = blob.string("x");
    for (kind, count, more) in [
        (1, 0, 1),
        (2, 0, 0),
        (3, 0, 3),
        (5, 2, 6),
        (6, 3, 6),
        (7, 0, 0),
        (8, 0, 0),
        (9, 0, 0),
        (10, 0, 0),
        (11, 0, 0),
        (12, 1, 0),
        (13, 2, 4),
        (14, 0, 1),
        (15, 2, 6),
        (16, 0, 0),
        (17, 0, 1),
        (18, 0, 0),
        (19, 2, 6),
    ] {
        // A FUNC has its linkage where other kinds have the number of elements.
        blob.words(&[name, kind << 24 | count, 8]);
        blob.words(&vec![0; more]);
        blob.structure("module", 512 + kind, false, &[("state", 0), ("list", 64)]);
    }
    blob
}

#[test]
fn structures_are_found_between_types_of_every_kind_in_both_byte_orders() {
    for big in [false, true] {
        let bytes = all_kinds(big).bytes();
        let btf = Btf::parse(&bytes).unwrap();
        assert_eq!((btf.len(), btf.is_empty()), (18, false), "big: {big}");
        let sizes = btf.sizes("module");
        assert_eq!((sizes.len(), sizes[0], sizes[17]), (18, 513, 531), "big: {big}");
        assert!(btf.sizes("x").is_empty() && btf.sizes("").is_empty());
        let members = btf.members("module").unwrap();
        assert_eq!(members[1], Member { name: "list", bit_offset: 64 });
        assert!(btf.members("x").is_err());
    }
}

#[test]
fn the_size_of_a_bit_field_is_no_part_of_its_offset() {
    let mut blob = Blob::new(false);
    blob.structure("f", 8, true, &[("a", 3 << 24 | 5), ("", 32)]);
    let bytes = blob.bytes();
    let members = Btf::parse(&bytes).unwrap().members("f").unwrap();
    let want = [Member { name: "a", bit_offset: 5 }, Member { name: "", bit_offset: 32 }];
    assert_eq!(members, want);
}

#[test]
fn a_kind_of_the_future_is_stepped_over_when_the_blob_says_how_long_it_is() {
    let mut blob = Blob::new(false);
    blob.words(&[0, 21 << 24 | 2, 0, 1, 2, 3, 4, 5]);
    blob.structure("file", 232, false, &[]);
    let bytes = blob.bytes();
    let error = format!("{:#}", Btf::parse(&bytes).unwrap_err());
    assert!(error.contains("type 1: unknown kind 21"), "{error}");
    blob.layouts = vec![0; 22 * 4];
    blob.layouts[21 * 4] = 4;
    blob.layouts[21 * 4 + 1] = 8;
    let bytes = blob.bytes();
    assert_eq!(Btf::parse(&bytes).unwrap().sizes("file"), [232]);
}

#[test]
fn hostile_headers_and_types_are_errors() {
    let good = all_kinds(false).bytes();
    let with = |at: usize, word: u32| {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
        bytes
    };
    for (case, bytes) in [
        ("empty", vec![]),
        ("magic", with(0, 0x0001_9feb)),
        ("version", with(0, 0x0002_eb9f)),
        ("short header", with(4, 23)),
        ("header beyond the end", with(4, u32::MAX)),
        ("types beyond the end", with(8, u32::MAX)),
        ("types too long", with(12, u32::MAX)),
        ("strings beyond the end", with(16, u32::MAX)),
        ("no strings", with(20, 0)),
        ("unknown kind", with(28, 31 << 24)),
        ("kind 0", with(28, 0)),
        ("too many elements", with(28, KIND_STRUCT << 24 | 0x00ff_ffff)),
        ("cut", good[..good.len() - 1].to_vec()),
    ] {
        assert!(Btf::parse(&bytes).is_err(), "{case}");
    }
}

#[test]
fn torn_and_flipped_blobs_never_panic() {
    let good = all_kinds(false).bytes();
    for cut in 0..good.len() {
        assert!(Btf::parse(&good[..cut]).is_err(), "cut at {cut}");
    }
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << bit;
            if let Ok(btf) = Btf::parse(&bytes) {
                // The change may hit an offset or a name. Both give an error, or other words.
                let _ = btf.members("module");
                assert!(btf.len() <= good.len() / TYPE, "byte {at} bit {bit}");
            }
        }
    }
}

#[test]
fn the_blob_with_struct_module_is_found_among_other_bytes() {
    for big in [false, true] {
        let mut blob = all_kinds(big);
        let mut without = Blob::new(big);
        without.structure("other", 8, false, &[]);
        let empty = without.bytes();
        blob.layouts = vec![0; 20 * 4];
        let bytes = blob.bytes();
        let kernel = [b"\x9f\xeb\x01\x00\xff\xff\xff\xff", &empty[..], &bytes, b"\x9f\xeb\x01\x00"];
        let found = find(&kernel.concat()).map(<[u8]>::to_vec);
        assert_eq!(found, Some(bytes), "big: {big}");
        assert_eq!(find(&empty), None);
        assert_eq!(find(b""), None);
    }
}
