use super::*;

#[test]
fn hostile_images_are_errors() {
    let mut image = vec![0; 0x300];
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    for (case, offset, length) in
        [("nothing", 0, 0), ("outside", 0x10_0000, 4), ("overflow", u32::MAX, u32::MAX)]
    {
        image[0x248..0x24c].copy_from_slice(&u32::to_le_bytes(offset));
        image[0x24c..0x250].copy_from_slice(&u32::to_le_bytes(length));
        let e = format!("{:#}", Image::parse(&image).unwrap_err());
        assert!(e.starts_with("x86 bzImage: its payload of "), "{case}: {e}");
    }
    for (case, bytes, message) in [
        ("empty", &b""[..], "no kernel image: neither"),
        ("text", b"#!/bin/sh\n", "first bytes [23, 21, 2f, 62, 69, 6e, 2f, 73]"),
        ("xz", &[0xfd, b'7', b'z', b'X', b'Z', 0, 1, 2], "unpacking the file: damaged xz data"),
        ("zboot", b"MZ\0\0zimg", "EFI zboot image: header cut short"),
        ("ELF", b"\x7fELF\x02\x01\x01", "not a readable ELF file"),
    ] {
        let e = format!("{:#}", Image::parse(bytes).unwrap_err());
        assert!(e.contains(message), "{case}: {e}");
    }
}

#[test]
fn a_compressed_image_in_a_compressed_image_is_refused() {
    use std::io::Write;
    let gzip = |bytes: &[u8]| {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(bytes).unwrap();
        gz.finish().unwrap()
    };
    let e = Image::parse(&gzip(&gzip(b"kernel"))).unwrap_err().to_string();
    assert_eq!(e, "an image within an image, or packed twice");
    let e = format!("{:#}", Image::parse(&gzip(b"kernel")).unwrap_err());
    assert!(e.starts_with("what was unpacked is no kernel: no kernel image"), "{e}");
}

fn arm64(text: &[u8]) -> Image {
    let mut bytes = vec![0; 64];
    bytes[0x38..0x3c].copy_from_slice(b"ARM\x64");
    bytes.extend(text);
    Image::parse(&bytes).unwrap()
}

#[test]
fn the_banner_is_told_from_the_format_strings_that_look_like_it() {
    let image = arm64(b"Linux version %s (%s)\n\0Linux version 6.6.74 by hand\n\0Linux version 6.6.74-flatcar (build@x) (gcc 13) #1 SMP PREEMPT\n\0");
    let banner = "Linux version 6.6.74-flatcar (build@x) (gcc 13) #1 SMP PREEMPT";
    assert_eq!(image.banner(), Some(banner));
    assert_eq!(image.release().as_deref(), Some("6.6.74-flatcar"));
    assert_eq!(arm64(b"Linux version 6.6.74 (never ends").banner(), None);
    assert_eq!(arm64(b"").release(), None);
}

#[test]
fn a_configuration_between_its_marks_is_unpacked_and_a_torn_one_is_an_error() {
    use std::io::Write;
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gz.write_all(b"CONFIG_ZFS=n\n").unwrap();
    let gz = gz.finish().unwrap();
    let marked = |gz: &[u8]| [b"IKCFG_ST is a mark, IKCFG_ST", gz, b"IKCFG_ED"].concat();
    let config = arm64(&marked(&gz)).ikconfig().unwrap();
    assert_eq!(config.as_deref(), Some(&b"CONFIG_ZFS=n\n"[..]));
    assert!(arm64(b"IKCFG_ST").ikconfig().unwrap().is_none());
    for cut in 2..gz.len() {
        assert!(arm64(&marked(&gz[..cut])).ikconfig().is_err(), "cut at {cut}");
    }
}

#[test]
fn of_two_banners_the_one_with_the_number_of_the_build_is_the_kernels() {
    let image =
        arm64(b"Linux version 6.1.0 (b) (gcc) # SMP\n\0Linux version 6.1.0 (b) (gcc) #1 SMP x\n\0");
    assert_eq!(image.banner(), Some("Linux version 6.1.0 (b) (gcc) #1 SMP x"));
    let image = arm64(b"Linux version 6.1.0 (b) (gcc) # SMP\n\0");
    assert_eq!(image.banner(), Some("Linux version 6.1.0 (b) (gcc) # SMP"));
}
