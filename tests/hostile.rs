//! The parsers of images, export tables and modules on bytes that somebody made to hurt: an error
//! or a table, never a panic, never more than 1 GiB of memory. The seeds are real kernels, cut to
//! the parts that are read, so that thousands of changes take seconds; all are the same in every
//! run.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

mod memory;

use std::fs;
use std::path::Path;
use std::process::Command;

use super::symvers::pack;
use lab::kernel::kernel;
use lab::tool::run;
use lab::uki::Maker;
use zfs_prefix::compress::{Tail, unpack};
use zfs_prefix::kernel::{Btf, Image, Kconfig, Symvers, guard};
use zfs_prefix::module::{Module, read_info_of_file, read_tables};

/// The most that a parser may have in memory at any time.
const GIB: usize = 1 << 30;

/// Everything that is read of an image; the table, if there is one.
fn read_all(bytes: &[u8]) -> Option<Symvers> {
    let image = Image::parse(bytes).ok()?;
    let _ = (image.release(), image.banner(), image.build_id(), image.build_salt());
    let _ = (image.ikconfig(), image.section(".BTF"));
    let symvers = image.symvers().ok()?;
    // What is written has to be read again, whatever names somebody made up.
    assert!(Symvers::parse(&symvers.to_text()).unwrap() == symvers);
    Some(symvers)
}

/// xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }
}

/// Calls `read` with `seed` cut short, with single bytes changed, and with words that are numbers
/// at the edge; how many of these `read` said were good.
fn torment(
    seed: &[u8],
    hot: &[std::ops::Range<usize>],
    rounds: usize,
    read: &dyn Fn(&[u8]) -> bool,
) -> usize {
    let mut good = 0;
    for cut in (0..60).map(|n| n * seed.len() / 60) {
        good += usize::from(read(&seed[..cut]));
    }
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut bytes = seed.to_vec();
    let edges = [0, 1, 7, 0x7fff_ffff, 0x8000_0000, 0xffff_fff0, u32::MAX];
    for round in 0..rounds {
        // Headers and tables more often than what is between them.
        let range = hot.get(round % (hot.len() + 1)).cloned().unwrap_or(0..seed.len());
        let at = range.start + random.below(range.len());
        let end = (at + if round % 3 == 0 { 4 } else { 1 }).min(bytes.len());
        let word = edges[random.below(edges.len())].to_le_bytes();
        for (place, new) in (at..end).zip(word) {
            bytes[place] = if round % 3 == 0 { new } else { bytes[place] ^ (1 << random.below(8)) };
        }
        good += usize::from(read(&bytes));
        bytes[at..end].copy_from_slice(&seed[at..end]);
    }
    good
}

/// A kernel with its export tables, notes and nothing else: 500 KB.
fn small_vmlinux(suite: &str) -> Vec<u8> {
    let scratch = lab::tmp::scratch("hostile-");
    let (whole, small) = (scratch.path().join("vmlinux"), scratch.path().join("small"));
    let image = Image::open(&kernel(suite, "amd64", "linux-image-cloud-amd64").unwrap().image);
    fs::write(&whole, image.unwrap().kernel()).unwrap();
    let mut objcopy = Command::new("objcopy");
    for section in [
        "__ksymtab",
        "__ksymtab_gpl",
        "__kcrctab",
        "__kcrctab_gpl",
        "__kflagstab",
        "__ksymtab_strings",
    ] {
        objcopy.arg("--only-section").arg(section);
    }
    run(objcopy.arg("--only-section=.notes").arg(&whole).arg(&small)).unwrap();
    fs::read(&small).unwrap()
}

#[test]
fn damaged_tables_of_an_elf_kernel_are_errors_or_tables() {
    for suite in ["bookworm", "forky"] {
        let seed = small_vmlinux(suite);
        let whole = read_all(&seed).unwrap();
        let length = seed.len();
        let (good, peak) = memory::peak(|| {
            torment(&seed, &[0..64, length - 2048..length], 120, &|b| read_all(b).is_some())
        });
        assert!(whole.len() > 9000 && (20..170).contains(&good), "{suite}: {good}");
        assert!(peak < GIB, "{suite}: {peak}");
    }
}

/// An arm64 Image with its export tables and a page on each side: 700 KB.
fn small_arm64() -> Vec<u8> {
    let path = kernel("trixie", "arm64", "linux-image-cloud-arm64").unwrap().image;
    let bytes = fs::read(path).unwrap();
    let at = |name: &[u8]| bytes.windows(name.len()).position(|w| w == name).unwrap();
    // Both names are strings of exports; the tables are before them, no further than this.
    let strings = at(b"\0xfrm_lookup\0").min(at(b"\0kthread_stop\0"));
    let begin = strings.saturating_sub(600 << 10) & !0xfff;
    [&bytes[..4096], &bytes[begin..(strings + (400 << 10)).min(bytes.len())]].concat()
}

#[test]
fn damaged_tables_of_a_kernel_without_sections_are_errors_or_tables() {
    let seed = small_arm64();
    let whole = read_all(&seed).unwrap();
    let (good, peak) = memory::peak(|| torment(&seed, &[], 60, &|b| read_all(b).is_some()));
    assert!(whole.len() > 9000 && good > 10, "{} {good}", whole.len());
    assert!(peak < GIB, "{peak}");
}

#[test]
fn an_image_that_looks_like_export_tables_everywhere_is_refused_in_time() {
    // Each word points to the same long name, so that each place could begin an entry.
    let mut bytes = vec![0_u8; 16 << 20];
    bytes[0x38..0x3c].copy_from_slice(b"ARM\x64");
    let end = bytes.len() - 8192;
    bytes[end..end + 4000].fill(b'a');
    for at in (64..end).step_by(4) {
        let distance = u32::try_from(end - at).unwrap();
        bytes[at..at + 4].copy_from_slice(&distance.to_le_bytes());
    }
    let (error, peak) = memory::peak(|| Image::parse(&bytes).unwrap().symvers().unwrap_err());
    assert!(format!("{error:#}").contains("looks like export tables"), "{error:#}");
    assert!(peak < 256 << 20, "{peak}");
}

#[test]
fn damaged_modules_are_errors_or_modules() {
    for (suite, arch) in [("bullseye", "amd64"), ("forky", "amd64"), ("trixie", "arm64")] {
        let modules = kernel(suite, arch, &format!("linux-image-cloud-{arch}")).unwrap().modules;
        let path = failover(&modules);
        let packed = fs::read(&path).unwrap();
        let seed = zfs_prefix::module::decompress(&path, packed).unwrap();
        assert!(!read_tables(&seed).unwrap().exports.is_empty(), "{}", path.display());
        let length = seed.len();
        let headers = length.saturating_sub(4096)..length;
        let (good, peak) = memory::peak(|| {
            torment(&seed, &[0..64, headers], 1500, &|bytes| {
                let _ = Module::parse(bytes);
                read_tables(bytes).is_ok()
            })
        });
        assert!((200..1550).contains(&good), "{suite}: {good}");
        assert!(peak < GIB, "{suite}: {peak}");
    }
}

fn failover(modules: &Path) -> std::path::PathBuf {
    let all = lab::kernel::modules(modules).unwrap();
    all.into_iter().find(|p| p.to_string_lossy().contains("/failover.ko")).unwrap()
}

#[test]
fn damaged_compressed_data_is_an_error_or_data() {
    let text: Vec<u8> = (0..60_000_u32).flat_map(|n| (n * n % 977).to_le_bytes()).collect();
    for command in [
        &["gzip"][..],
        &["xz", "--x86", "--lzma2=dict=1MiB"],
        &["xz", "--format=lzma"],
        &["zstd", "-q", "-19"],
        &["lz4", "-q", "-l"],
        &["bzip2"],
    ] {
        let seed = pack::with(command, &text);
        assert_eq!(unpack(&seed, Tail::Streams, 1 << 20).unwrap(), text, "{command:?}");
        for tail in [Tail::Streams, Tail::Ignored] {
            let (_, peak) = memory::peak(|| {
                torment(&seed, &[0..32, 0..seed.len()], 200, &|bytes| {
                    unpack(bytes, tail, 1 << 20).is_ok_and(|out| out.len() <= 1 << 20)
                })
            });
            assert!(peak < GIB, "{command:?}: {peak}");
        }
    }
}

#[test]
fn zstd_data_is_read_to_its_end_and_compared_with_its_checksum() {
    let text: Vec<u8> = (0..40_000_u32).flat_map(|n| (n * n % 977).to_le_bytes()).collect();
    let frame = pack::with(&["zstd", "-q", "--check"], &text);
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"any"].concat();
    let all = |bytes: &[u8]| unpack(bytes, Tail::Streams, 1 << 20);
    let twice = [&frame[..], &skippable, &frame, &skippable].concat();
    assert_eq!(all(&twice).unwrap(), [&text[..], &text].concat());
    assert_eq!(unpack(&twice, Tail::Ignored, 1 << 20).unwrap(), text);
    let mut flipped = frame.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let second = [&frame[..], &flipped].concat();
    let garbage = [&frame[..], b"garbage"].concat();
    let torn = [&frame[..], &skippable[..9]].concat();
    for (case, bytes, tail) in [
        ("checksum", &flipped, Tail::Streams),
        ("checksum of a payload", &flipped, Tail::Ignored),
        ("checksum of the second frame", &second, Tail::Streams),
        ("garbage", &garbage, Tail::Streams),
        ("torn frame to skip", &torn, Tail::Streams),
    ] {
        let error = unpack(bytes, tail, 1 << 20).expect_err(case);
        assert!(format!("{error:#}").starts_with("damaged zstd data: "), "{case}: {error:#}");
    }
    // A literal of the text that changed: nothing but the checksum shows it.
    let mut silent = 0;
    for at in 8..frame.len() - 4 {
        let mut bytes = frame.clone();
        bytes[at] ^= 1;
        silent += usize::from(all(&bytes).is_ok_and(|out| out != text));
    }
    assert_eq!(silent, 0);
}

#[test]
fn an_image_that_would_unpack_to_more_than_a_kernel_is_refused_within_a_gigabyte() {
    let zeros = vec![0_u8; 8 << 20];
    let block = pack::with(&["lz4", "-q", "-l"], &zeros);
    let lz4 = [&block[..4], &block[4..].repeat(80)].concat();
    let zeros = pack::zeros(&["zstd", "-q", "-1", "--long=27"], 520 << 20);
    for (case, bytes) in [("lz4", lz4), ("zstd", zeros)] {
        let (error, peak) = memory::peak(|| Image::parse(&bytes).unwrap_err());
        let message = format!("{error:#}");
        assert!(message.contains("decompresses to more than 536870912 bytes"), "{case}: {message}");
        assert!(peak < GIB, "{case}: {peak}");
    }
}

#[test]
fn dictionaries_and_windows_that_nobody_has_memory_for_are_refused_at_once() {
    let text = vec![b'x'; 100_000];
    let mut lzma = pack::with(&["xz", "--format=lzma"], &text);
    lzma[1..5].copy_from_slice(&[0, 0, 0xff, 0xff]);
    let xz = pack::with(&["xz", "--lzma2=dict=1GiB"], &text);
    // Window_Descriptor, RFC 8878 3.1.1.1.2: exponent 31 with the highest mantissa.
    let mut zstd = pack::with(&["zstd", "-q", "--no-content-size"], &text);
    assert_eq!(zstd[4] & 0x20, 0, "a window, no single segment");
    zstd[5] = 0xff;
    for (case, bytes) in [("lzma", lzma), ("xz", xz), ("zstd", zstd)] {
        let (result, peak) = memory::peak(|| unpack(&bytes, Tail::Ignored, 1 << 30));
        assert!(result.is_err(), "{case}");
        assert!(peak < 16 << 20, "{case}: {peak}");
    }
}

/// An ELF file of the assembler, linked as vmlinux is when `linked`.
fn assembled(source: &str, linked: bool) -> Vec<u8> {
    let scratch = lab::tmp::scratch("hostile-");
    let [text, object, program] = ["t.s", "t.o", "t"].map(|name| scratch.path().join(name));
    fs::write(&text, source).unwrap();
    run(Command::new("as").arg("-o").arg(&object).arg(&text)).unwrap();
    if !linked {
        return fs::read(&object).unwrap();
    }
    run(Command::new("ld").args(["-e", "0", "-o"]).arg(&program).arg(&object)).unwrap();
    fs::read(&program).unwrap()
}

/// So many exports, all of one name of `length` bytes.
fn aliases(count: usize, length: usize) -> String {
    format!(
        "\t.section .modinfo,\"a\"\n\t.asciz \"vermagic=6.1.0 SMP \"\n\
         \t.section __ksymtab_strings,\"a\"\nn: .fill {length},1,97\n\t.byte 0\n\
         \t.section __ksymtab,\"a\"\n\t.rept {count}\n\t.long 0, n - ., 0\n\t.endr\n"
    )
}

#[test]
fn entries_that_all_point_to_one_long_name_are_refused_before_memory_is_gone() {
    let small = assembled(&aliases(3, 4000), false);
    assert_eq!(read_tables(&small).unwrap().exports.len(), 3);
    let module = assembled(&aliases(300_000, 4000), false);
    let (error, peak) = memory::peak(|| read_tables(&module).unwrap_err());
    assert!(format!("{error:#}").contains("longer names than any kernel"), "{error:#}");
    assert!(peak < 256 << 20, "module: {peak}");
    let vmlinux = assembled(&aliases(300_000, 4000), true);
    let image = Image::parse(&vmlinux).unwrap();
    let (error, peak) = memory::peak(|| image.symvers().unwrap_err());
    assert!(format!("{error:#}").contains("longer names than any kernel"), "{error:#}");
    assert!(peak < 256 << 20, "vmlinux: {peak}");
    let long = format!("\t.data\n\t.globl {0}\n\t.quad {0}\n", "s".repeat(5000));
    let error = Module::parse(&assembled(&(aliases(1, 9) + &long), false)).unwrap_err();
    assert!(format!("{error:#}").contains("a name of 5000 bytes"), "{error:#}");
}

/// The configuration, if there is one.
fn ikconfig(bytes: &[u8]) -> bool {
    Image::parse(bytes).is_ok_and(|image| matches!(image.ikconfig(), Ok(Some(_))))
}

/// The boot stub of systemd with this kernel in it.
fn uki(linux: &[u8]) -> Vec<u8> {
    let dir = lab::files::scratch("uki-");
    let [file, out] = ["linux", "uki.efi"].map(|name| dir.path().join(name));
    fs::write(&file, linux).unwrap();
    Maker::get().unwrap().objcopy(&[(".linux", &file)], &out).unwrap();
    fs::read(&out).unwrap()
}

#[test]
fn damaged_headers_of_packed_images_and_a_damaged_ikconfig_are_errors_or_images() {
    let shipped = kernel("bookworm", "amd64", "linux-image-cloud-amd64").unwrap().image;
    let mut seed = small_vmlinux("bookworm");
    // CONFIG_IKCONFIG, as kernel/configs.c puts it into the data of a kernel.
    let config = pack::with(&["gzip"], b"CONFIG_MODVERSIONS=y\n");
    let begin = seed.len();
    seed.extend([&b"IKCFG_ST"[..], &config, b"IKCFG_ED"].concat());
    let whole = ikconfig(&seed);
    let hot = vec![begin..seed.len(); 4];
    let good = torment(&seed, &hot, 400, &ikconfig);
    assert!(whole && good < 400, "{good}");
    let packed = pack::with(&["gzip"], &seed);
    let how = zfs_prefix::compress::Compression::Gzip;
    let bzimage = pack::bzimage(&fs::read(shipped).unwrap(), &packed, how);
    let zboot = pack::zboot(&packed, how);
    let uki = uki(&bzimage);
    let at = u32::from_le_bytes(*uki[0x3c..].first_chunk().unwrap()) as usize;
    // Where the numbers are that say where the payload is: Documentation/arch/x86/boot.rst,
    // zboot-header.S, and the headers of a PE file.
    for (name, seed, hot) in [
        ("UKI", uki, [0x3c..0x40, at..at + 0x400]),
        ("bzImage", bzimage, [0x1f0..0x212, 0x248..0x250]),
        ("zboot", zboot, [0..8, 8..0x20]),
    ] {
        let (good, peak) = memory::peak(|| torment(&seed, &hot, 90, &|b| Image::parse(b).is_ok()));
        assert!(read_all(&seed).is_some() && good < 150, "{name}: {good}");
        assert!(peak < GIB, "{name}: {peak}");
    }
}

#[test]
fn a_modinfo_of_nothing_but_equal_signs_is_refused_before_memory_is_gone() {
    let modinfo = |entries: usize| {
        let one = "\t.section .modinfo,\"a\"\n\t.asciz \"vermagic=6.1.0 SMP \"\n";
        assembled(&format!("{one}\t.rept {entries}\n\t.asciz \"=\"\n\t.endr\n"), false)
    };
    assert!(Module::parse(&modinfo(1000)).unwrap().vermagic().is_some());
    // 16 MiB: read as it stands, each entry would have 48 bytes and two strings.
    for (entries, says) in [(100_000, "more entries than any"), (8 << 20, "bytes, more than any")] {
        let bytes = modinfo(entries);
        let (error, peak) = memory::peak(|| Module::parse(&bytes).unwrap_err());
        assert!(format!("{error:#}").contains(says), "{entries}: {error:#}");
        assert!(peak < 32 << 20, "{entries}: {peak}");
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), &bytes).unwrap();
        let read = || read_info_of_file(file.as_file()).unwrap_err();
        let (error, peak) = memory::peak(read);
        assert!(format!("{error:#}").contains(says), "{entries}, a file: {error:#}");
        assert!(peak < 32 << 20, "{entries}, a file: {peak}");
    }
}

#[test]
fn a_table_of_more_symbols_or_fields_than_any_kernels_is_refused_before_memory_is_gone() {
    let mut many = String::with_capacity(64 << 20);
    for n in 0_u32.. {
        let line = format!("0\t{n:x}\ta\tEXPORT_\n");
        if many.len() + line.len() > 64 << 20 {
            break;
        }
        many.push_str(&line);
    }
    let tabs = "\t".repeat(64 << 20);
    for (case, text, says) in
        [("symbols", many, "names than any kernel"), ("tabs", tabs, "more than 5 fields")]
    {
        let (error, peak) = memory::peak(|| Symvers::parse(&text).unwrap_err());
        let error = format!("{error:#}");
        assert!(error.contains(says) && error.len() < 1000, "{case}: {error:.200}");
        assert!(peak < 512 << 20, "{case}: {peak}");
    }
}

#[test]
fn damaged_btf_configurations_and_probes_are_errors_or_answers() {
    let path = kernel("bookworm", "amd64", "linux-image-cloud-amd64").unwrap();
    let whole = Image::open(&path.image).unwrap();
    let btf = whole.section(".BTF").unwrap();
    // Structures at its beginning.
    let (_, peak) = memory::peak(|| {
        torment(btf, &[0..24, 24..4096], 40, &|bytes| {
            let Ok(btf) = Btf::parse(bytes) else { return false };
            for name in guard::PROBE_STRUCTS {
                let _ = (btf.sizes(name), btf.members(name));
            }
            true
        })
    });
    assert!(peak < GIB, "BTF: {peak}");
    let module = fs::read(failover(&path.modules)).unwrap();
    let config = b"CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=\"c\"\nCONFIG_D=0x10\n".repeat(20);
    let (_, peak) = memory::peak(|| {
        torment(&module, &[0..64, 0..module.len()], 300, &|bytes| {
            guard::probe_sizes(bytes).is_ok()
        });
        torment(&config, &[], 300, &|bytes| Kconfig::parse(bytes).is_ok())
    });
    assert!(peak < GIB, "{peak}");
}

#[test]
fn a_million_structures_of_one_endless_name_are_refused_at_once() {
    let count = 500_000_usize;
    let mut bytes = vec![0x9f, 0xeb, 1, 0];
    let types = u32::try_from(count * 12).unwrap();
    let strings = vec![b'a'; 16 << 20];
    for word in [24, 0, types, types, u32::try_from(strings.len()).unwrap()] {
        bytes.extend(u32::to_le_bytes(word));
    }
    for _ in 0..count {
        for word in [1_u32, 4 << 24, 8] {
            bytes.extend(word.to_le_bytes());
        }
    }
    bytes.extend(strings);
    let (error, peak) = memory::peak(|| Btf::parse(&bytes).unwrap_err());
    assert!(format!("{error:#}").contains("without an end"), "{error:#}");
    assert!(peak < 64 << 20, "{peak}");
}

#[test]
fn a_table_without_crcs_beside_one_with_them_is_an_error() {
    let mixed = aliases(1, 9)
        + "\t.section __kcrctab,\"a\"\n\t.long 7\n\t.section __ksymtab_gpl,\"a\"\n\t.long 0, n - ., 0\n";
    let module = read_tables(&assembled(&mixed, false)).unwrap_err();
    let vmlinux = Image::parse(&assembled(&mixed, true)).unwrap().symvers().unwrap_err();
    for error in [module, vmlinux] {
        assert!(format!("{error:#}").contains("with CRCs, the other without"), "{error:#}");
    }
}
