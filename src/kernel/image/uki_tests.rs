//! Containers made by hand, where a field of a header matters. tests/uki.rs has real ones.

use std::io::Write;

use super::*;

/// A PE file with these sections: name, content, `VirtualSize`. Contents are padded to 512 bytes.
fn pe(sections: &[(&str, &[u8], usize)]) -> Vec<u8> {
    let word = |number: usize| u32::try_from(number).unwrap().to_le_bytes();
    let mut file = vec![0; 0x80];
    file[..2].copy_from_slice(b"MZ");
    file[0x3c..0x40].copy_from_slice(&word(0x80));
    file.extend(b"PE\0\0\x64\x86");
    file.extend(u16::try_from(sections.len()).unwrap().to_le_bytes());
    file.extend([0; 12]);
    // An optional header of 16 bytes, and Characteristics.
    file.extend([16, 0, 0, 0]);
    file.extend([0; 16]);
    let mut at = (file.len() + sections.len() * 40).next_multiple_of(512);
    for (name, content, size) in sections {
        let mut header = [0; 40];
        header[..name.len()].copy_from_slice(name.as_bytes());
        let raw = content.len().next_multiple_of(512);
        for (field, number) in [(8, *size), (12, at), (16, raw), (20, at)] {
            header[field..field + 4].copy_from_slice(&word(number));
        }
        file.extend(header);
        at += raw;
    }
    for (_, content, _) in sections {
        file.resize(file.len().next_multiple_of(512), 0);
        file.extend(*content);
    }
    file.resize(file.len().next_multiple_of(512), 0);
    file
}

/// One whose sections have their own sizes.
fn plain(sections: &[(&str, &[u8])]) -> Vec<u8> {
    pe(&sections.iter().map(|(name, text)| (*name, *text, text.len())).collect::<Vec<_>>())
}

fn banner(release: &str) -> String {
    format!("Linux version {release} (b@h) (gcc 13) #1 SMP\n\0")
}

fn arm64(release: &str) -> Vec<u8> {
    let mut kernel = vec![0; 64];
    kernel[0x38..0x3c].copy_from_slice(b"ARM\x64");
    kernel.extend(banner(release).bytes());
    kernel
}

/// A bzImage with the release in its boot header.
fn bzimage(release: &str) -> Vec<u8> {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&arm64(release)).unwrap();
    let payload = gz.finish().unwrap();
    let mut image = vec![0; 1024];
    image[0x1f1] = 1;
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    image[0x20e..0x210].copy_from_slice(&0x60_u16.to_le_bytes());
    image[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
    image[0x260..0x260 + release.len()].copy_from_slice(release.as_bytes());
    image.extend(payload);
    image
}

fn refused(case: &str, bytes: &[u8]) -> String {
    match Image::parse(bytes) {
        Ok(image) => panic!("{case}: {image:?}"),
        Err(error) => format!("{error:#}"),
    }
}

#[test]
fn every_kind_of_image_is_found_in_a_uki_without_its_padding() {
    let (x86, arm) = (bzimage("6.1.0-1"), arm64("6.1.0-1"));
    for (case, linux, size, format) in [
        ("bzImage", &x86[..], x86.len(), Format::BzImage),
        ("arm64", &arm, arm.len(), Format::Arm64),
        // ukify writes SizeOfImage of the kernel.
        ("more memory than bytes", &x86, x86.len() * 3, Format::BzImage),
        ("no VirtualSize", &arm, 0, Format::Arm64),
    ] {
        let names = [(".osrel", &b"ID=x"[..], 4), (".uname", b"6.1.0-1\n", 8)];
        let file = pe(&[&names[..], &[(".linux", linux, size)]].concat());
        let image = Image::parse(&file).unwrap_or_else(|e| panic!("{case}: {e:#}"));
        assert_eq!((image.format(), image.in_uki()), (format, true), "{case}");
        assert_eq!(image.release().as_deref(), Some("6.1.0-1"), "{case}");
        if format == Format::Arm64 && size > 0 {
            assert_eq!(image.kernel(), arm, "{case}");
        }
    }
    assert!(!Image::parse(&x86).unwrap().in_uki());
}

#[test]
fn of_several_profiles_the_default_or_the_asked_for_kernel_is_taken() {
    let (one, two, three) = (bzimage("6.1.1"), bzimage("6.1.2"), arm64("6.1.3"));
    let linux = |kernel| (".linux", kernel);
    let (one, two, three) = (linux(&one[..]), linux(&two[..]), linux(&three[..]));
    let uname = |release: &'static str| (".uname", release.as_bytes());
    let profile = (".profile", &b"ID=x"[..]);
    let dir = tempfile::tempdir().unwrap();
    for (case, sections, default, others) in [
        ("another command line", vec![one, profile, profile], "6.1.1", vec![]),
        (
            "a kernel of its own in @1",
            vec![one, uname("6.1.1"), profile, profile, two],
            "6.1.1",
            vec!["6.1.2"],
        ),
        (
            "the default is @0",
            vec![one, profile, two, uname("6.1.2"), profile],
            "6.1.2",
            vec!["6.1.1"],
        ),
        (
            "by .uname alone",
            vec![one, profile, profile, uname("6.1.3"), three],
            "6.1.1",
            vec!["6.1.3"],
        ),
        ("the name is in @0", vec![three, profile, uname("6.1.3")], "6.1.3", vec![]),
        ("a kernel twice", vec![one, two], "6.1.1", vec![]),
        ("no kernel before @1", vec![profile, profile, two], "6.1.2", vec![]),
    ] {
        let path = dir.path().join("x.efi");
        std::fs::write(&path, plain(&sections)).unwrap();
        let opened = |release: &str| {
            let release = release.parse().unwrap();
            Image::open_for(&path, Some(&release)).unwrap().release().unwrap()
        };
        assert_eq!(Image::open(&path).unwrap().release().as_deref(), Some(default), "{case}");
        assert_eq!(opened("6.9.9"), default, "{case}");
        for other in others.into_iter().chain([default]) {
            assert_eq!(opened(other), other, "{case}");
        }
    }
}

#[test]
fn a_uki_that_says_another_release_than_its_kernel_has_is_refused() {
    for linux in [bzimage("6.1.1"), arm64("6.1.1")] {
        let uki = |uname: &[u8]| plain(&[(".uname", uname), (".linux", &linux)]);
        let said = refused("another", &uki(b"6.1.2"));
        assert!(said.contains(".uname is 6.1.2, the kernel in it 6.1.1"), "{said}");
        for (case, uname) in [("right", &b"6.1.1\0\0"[..]), ("a text", b"my kernel"), ("", b"")] {
            assert_eq!(Image::parse(&uki(uname)).unwrap().release().unwrap(), "6.1.1", "{case}");
        }
    }
}

#[test]
fn what_is_no_uki_is_refused_with_what_it_is() {
    let uki = plain(&[(".linux", &bzimage("6.1.1"))]);
    let gzip = {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&uki).unwrap();
        gz.finish().unwrap()
    };
    let mut dos = vec![0; 0x40];
    dos[..2].copy_from_slice(b"MZ");
    for (case, bytes, says) in [
        ("an addon", plain(&[(".cmdline", b"quiet")]), "an EFI program without a section .linux"),
        ("no sections", plain(&[]), "an EFI program without a section .linux"),
        ("of DOS", dos, "no readable PE file: no PE header at 0x0"),
        ("cut", b"MZ".to_vec(), "no readable PE file: no DOS header"),
        ("a UKI in a UKI", plain(&[(".linux", &uki)]), ".linux of the UKI: an EFI program within"),
        ("a packed UKI", gzip, "an image within an image"),
        ("text", plain(&[(".linux", b"#!/bin/sh\n#")]), ".linux of the UKI: no kernel image"),
        ("nothing", plain(&[(".linux", b"")]), ".linux of the UKI: no kernel image"),
    ] {
        let said = refused(case, &bytes);
        assert!(said.contains(says), "{case}: {said}");
    }
}

#[test]
fn hostile_headers_are_errors_and_get_no_memory() {
    let kernel = bzimage("6.1.1");
    let good = plain(&[(".uname", b"6.1.1"), (".linux", &kernel), (".profile", b"ID=y")]);
    for cut in 0..good.len() - 1024 {
        refused(&format!("cut at {cut}"), &good[..cut]);
    }
    // Headers and section table. What is changed there may also be padding.
    for at in 0x3c..0x80 + 24 + 16 + 3 * 40 - 4 {
        for value in [0, 1, 0x7fff_ffff, u32::MAX] {
            let mut bytes = good.clone();
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            if let Ok(image) = Image::parse(&bytes) {
                assert_eq!(image.release().as_deref(), Some("6.1.1"), "{value:#x} at {at:#x}");
            }
        }
    }
    let field = |section: usize, field: usize| 0x80 + 24 + 16 + section * 40 + field;
    for (case, at, says) in [
        ("begin of .linux", field(1, 20), "section .linux of the UKI: ends at"),
        ("PE header", 0x3c, "PE header: ends at"),
    ] {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        let said = refused(case, &bytes);
        assert!(said.contains(says), "{case}: {said}");
    }
    let mut many = good.clone();
    many[0x86..0x88].copy_from_slice(&u16::MAX.to_le_bytes());
    assert!(refused("sections", &many).contains("the table of its 65535 sections"));
    // As many kernels as fit: each would have to be unpacked.
    let many = plain(&vec![(".profile", &b""[..]); 3000]);
    assert!(refused("profiles", &many).contains("without a section .linux"));
}
