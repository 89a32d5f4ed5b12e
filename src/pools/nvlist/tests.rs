//! Files of the real OpenZFS 2.3.2 (tests/pools), whole, cut short, and changed.

use super::*;

/// zpool.cache with tank alone; with tank, m, s and e. Both in the encoding of the machine.
const ONE: &[u8] = include_bytes!("../../../tests/pools/zpool.cache-one");
const FOUR: &[u8] = include_bytes!("../../../tests/pools/zpool.cache-four");
/// The list in the label of tank's disk: XDR.
const LABEL: &[u8] = include_bytes!("../../../tests/pools/label-nvlist");

fn names(bytes: &[u8]) -> Result<Vec<String>, Malformed> {
    let mut names = Vec::new();
    pairs(bytes, &mut |_, name, _| {
        names.push(String::from_utf8_lossy(name).into_owned());
        Ok(())
    })?;
    Ok(names)
}

#[test]
fn the_pools_of_real_cache_files_are_found() {
    assert_eq!(pool_names(ONE).unwrap(), ["tank"]);
    assert_eq!(pool_names(FOUR).unwrap(), ["e", "m", "s", "tank"]);
}

#[test]
fn a_list_in_xdr_is_read_as_well_but_that_of_a_label_names_no_pools() {
    let found = names(LABEL).unwrap();
    for name in ["version", "name", "pool_guid", "hostname", "vdev_tree", "features_for_read"] {
        assert!(found.iter().any(|n| n == name), "no {name} in {found:?}");
    }
    assert!(pool_names(LABEL).unwrap_err().what.contains("not the entry of a pool"));
    // The same as the list of a pool: what is outside of it is 4 + 8 bytes at either end.
    let list = &LABEL[4..];
    let size = u32::try_from(8 + 8 + 8 + list.len()).unwrap();
    let head = [0, 1, size, 1, 4, u32::from_be_bytes(*b"tank"), NVLIST, 1].map(u32::to_be_bytes);
    let bytes = [&LABEL[..4], &head.concat()[..], list, &[0; 8]].concat();
    assert_eq!(pool_names(&bytes).unwrap(), ["tank"]);
}

#[test]
fn what_is_cut_short_anywhere_is_malformed() {
    for (name, bytes) in [("one", ONE), ("four", FOUR), ("label", LABEL)] {
        for length in 0..bytes.len() {
            let found = names(&bytes[..length]);
            let error = found.expect_err(&format!("{name}: its first {length} bytes were taken"));
            assert!(error.at <= length, "{name}: {error} of {length} bytes");
        }
    }
}

#[test]
fn a_changed_byte_is_an_error_or_a_pool_by_another_name_and_never_a_panic() {
    for whole in [ONE, FOUR, LABEL] {
        let (mut refused, mut taken) = (0, 0);
        for at in 0..whole.len() {
            for bits in [1, 4, 0x20, 0x80, 0xff] {
                let mut bytes = whole.to_vec();
                bytes[at] ^= bits;
                let names = pool_names(&bytes).unwrap_or_default();
                assert!(names.iter().all(|name| is_pool_name(name)), "{names:?}");
                match self::names(&bytes) {
                    Ok(_) => taken += 1,
                    Err(_) => refused += 1,
                }
            }
        }
        // Values carry no checksum: many changes cannot be seen.
        assert!(refused > whole.len() && taken > whole.len(), "{refused} refused, {taken} taken");
    }
}

#[test]
fn lists_without_end_and_sizes_without_measure_are_errors() {
    let xdr = |words: &[u32]| {
        let words: Vec<u8> = words.iter().flat_map(|w| w.to_be_bytes()).collect();
        [&[XDR, 1, 0, 0][..], &words].concat()
    };
    let native = |words: &[u32]| {
        let words: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
        [&[NATIVE, ORDER, 0, 0][..], &words].concat()
    };
    let (be, ne) = (u32::from_be_bytes(*b"a\0\0\0"), u32::from_ne_bytes(*b"a\0\0\0"));
    let two = u32::from_ne_bytes([2u16.to_ne_bytes(), [0; 2]].concat().try_into().unwrap());
    let deep = |list: &[u32], words: &[u32]| [list, &words.repeat(10_000)].concat();
    let in_xdr = |size, kind, count| xdr(&[0, 1, size, 1, 1, be, kind, count]);
    let in_native = |size, name, count, kind| native(&[0, 1, size, name, count, kind, ne, 0]);
    let list = [0; 6];
    for (case, bytes, what) in [
        ("nothing", vec![], "it ends in the middle"),
        ("text", b"#!/bin/sh\n".to_vec(), "no nvlist"),
        ("zeros", vec![0; 100], "an nvlist of another byte order"),
        ("a version", native(&[1, 1, 0]), "unknown version"),
        ("xdr: long", in_xdr(u32::MAX, NVLIST, 1), "a pair beyond the end"),
        ("xdr: wide", in_xdr(24, NVLIST, u32::MAX), "a length beyond the end"),
        ("xdr: a number", in_xdr(24, 8, 1), "this is not the entry of a pool"),
        ("xdr: deep", xdr(&deep(&[], &[0, 1, 99, 1, 1, be, NVLIST, 1])), "without end"),
        ("native: long", in_native(!7, two, 1, NVLIST), "a size that cannot be"),
        ("native: short", in_native(8, two, 1, NVLIST), "a size that cannot be"),
        ("native: no list", in_native(24, two, 1, NVLIST), "a value that is not of its type"),
        ("native: a number", in_native(24, two, 1, 8), "this is not the entry of a pool"),
        ("native: no name", in_native(24, 0, 1, NVLIST), "a pair without a name"),
        (
            "native: deep",
            native(&deep(&[0, 1], &[&[48, two, 1, NVLIST, ne, 0][..], &list].concat())),
            "lists within lists without end",
        ),
        (
            "native: wide",
            native(&[&[0, 1, 48, two, u32::MAX, NVLIST, ne, 0][..], &list].concat()),
            "a value that is not of its type",
        ),
    ] {
        let error = pool_names(&bytes).expect_err(case).to_string();
        assert!(error.contains(what), "{case}: {error}");
    }
    assert_eq!(pool_names(&xdr(&[0, 1, 0, 0])).unwrap(), [""; 0]);
    assert_eq!(pool_names(&native(&[0, 1, 0])).unwrap(), [""; 0]);
}
