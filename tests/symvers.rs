//! Module.symvers recovered from what distributions ship, against the one that their own kernel
//! build wrote: stock kernels of four series and two machines, packed in every way there is.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

mod layouts;
pub mod pack;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use lab::kernel::{Kernel, kernel, modules};
use lab::tool::run;
use zfs_prefix::compress::Compression;
use zfs_prefix::kernel::{Format, Image, Symvers, recover};

/// A series with LZ4 and literal CRCs: the fastest to unpack.
fn cloud() -> Kernel {
    kernel("bookworm", "amd64", "linux-image-cloud-amd64").unwrap()
}

fn arm64() -> Kernel {
    kernel("trixie", "arm64", "linux-image-cloud-arm64").unwrap()
}

fn lines(text: &str) -> BTreeSet<&str> {
    text.lines().collect()
}

/// The lines of the kernel build's own table, all or only those of vmlinux.
fn truth(kernel: &Kernel, owner: impl Fn(&str) -> bool) -> String {
    let text = fs::read_to_string(&kernel.symvers).unwrap();
    let wanted = |line: &&str| owner(line.split('\t').nth(2).unwrap());
    text.lines().filter(wanted).map(|line| format!("{line}\n")).collect()
}

#[track_caller]
fn assert_same(found: &str, truth: &str, case: &str) {
    let (found, truth) = (lines(found), lines(truth));
    let wrong: Vec<_> = found.difference(&truth).take(3).collect();
    let missing: Vec<_> = truth.difference(&found).take(3).collect();
    assert!(found == truth && !truth.is_empty(), "{case}: too much {wrong:?}, missing {missing:?}");
}

/// Runs `zfs-prefix symvers`.
fn symvers(arguments: &[&Path]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_zfs-prefix"));
    command.arg("symvers").args(arguments).output().unwrap()
}

/// What it says when it ends with 12.
#[track_caller]
fn refused(arguments: &[&Path]) -> String {
    let output = symvers(arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(12), "{said}");
    assert!(output.stdout.is_empty(), "{said}");
    said
}

fn path(text: &str) -> &Path {
    Path::new(text)
}

#[test]
fn the_tables_of_stock_kernels_equal_those_that_their_own_builds_wrote() {
    let scratch = lab::tmp::scratch("symvers-");
    let out = scratch.path().join("Module.symvers");
    for (suite, arch, format, compression, says) in [
        ("bullseye", "amd64", Format::BzImage, Some(Compression::Lz4), "all agree"),
        ("bookworm", "amd64", Format::BzImage, Some(Compression::Lz4), "all agree"),
        ("trixie", "amd64", Format::BzImage, Some(Compression::Zstd), "all agree"),
        ("trixie", "arm64", Format::Arm64, None, "all agree"),
        // Without CONFIG_MODVERSIONS, and with the tables of Linux 7.1.
        ("forky", "amd64", Format::BzImage, Some(Compression::Zstd), "nothing to compare"),
    ] {
        let kernel = kernel(suite, arch, &format!("linux-image-cloud-{arch}")).unwrap();
        let case = &kernel.release;
        let Kernel { image, modules, .. } = &kernel;
        let arguments = [path("--image"), image, path("--modules"), modules];
        let output = symvers(&[&arguments[..], &[path("--check"), path("-o"), &out]].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains(says), "{case}: {said}");
        assert_same(&fs::read_to_string(&out).unwrap(), &truth(&kernel, |_| true), case);

        let image = Image::open(image).unwrap();
        assert_eq!((image.format(), image.compression()), (format, compression), "{case}");
        assert_eq!(image.release().as_ref(), Some(case));
        assert_eq!(image.build_salt().as_ref(), Some(case));
        assert!(image.build_id().is_some_and(|id| id.len() == 40), "{case}: {image:?}");
        assert!(image.banner().unwrap().contains("gcc"), "{case}");
        let own = truth(&kernel, |owner| owner == "vmlinux");
        assert_same(&image.symvers().unwrap().to_text(), &own, case);
    }
}

#[test]
fn what_is_read_of_a_kernel_is_what_binutils_read() {
    let scratch = lab::tmp::scratch("symvers-");
    let image = Image::open(&cloud().image).unwrap();
    let elf = scratch.path().join("vmlinux");
    fs::write(&elf, image.kernel()).unwrap();
    let notes = run(Command::new("readelf").arg("-n").arg(&elf)).unwrap();
    let id = notes.lines().find_map(|l| l.trim().strip_prefix("Build ID: ")).unwrap();
    assert_eq!(image.build_id().as_deref(), Some(id));
    let btf = scratch.path().join("btf");
    let only = format!("--dump-section=.BTF={}", btf.display());
    run(Command::new("objcopy").arg(only).arg(&elf).arg("/dev/null")).unwrap();
    assert_eq!(image.section(".BTF").unwrap(), fs::read(&btf).unwrap());
    assert!(image.section(".symtab_of_another").is_none());
    let bare = Image::open(&elf).unwrap();
    assert_eq!((bare.format(), bare.compression()), (Format::Vmlinux, None));
    assert_eq!((bare.release(), bare.build_id()), (image.release(), image.build_id()));
    assert!(bare.symvers().unwrap() == image.symvers().unwrap());
    // The same of a kernel without sections, where there is more than one build-id: the vDSO's.
    let raw = Image::open(&arm64().image).unwrap();
    let salt =
        raw.kernel().windows(16).filter(|w| w.starts_with(b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU"));
    assert!(salt.count() > 1 && raw.build_id().is_some());
}

#[test]
fn a_kernel_is_the_same_however_it_is_packed() {
    let image = Image::open(&cloud().image).unwrap();
    let shipped = fs::read(&cloud().image).unwrap();
    let (symvers, kernel) = (image.symvers().unwrap(), image.kernel());
    let arm64 = fs::read(arm64().image).unwrap();
    let arm64_symvers = Image::parse(&arm64).unwrap().symvers().unwrap();
    let same = |case: &str, bytes: &[u8], format, how: Compression, want: &Symvers| {
        let image = Image::parse(bytes).unwrap_or_else(|e| panic!("{case}: {e:#}"));
        assert_eq!((image.format(), image.compression()), (format, Some(how)), "{case}");
        let found = image.symvers().unwrap_or_else(|e| panic!("{case}: {e:#}"));
        assert!(found == *want, "{case}");
        assert!(image.release().is_some_and(|r| r.contains("-cloud-")), "{case}: {image:?}");
    };
    std::thread::scope(|scope| {
        for (how, command) in [
            (Compression::Gzip, &["gzip", "-n", "-1"][..]),
            (Compression::Xz, &["xz", "-0", "--check=crc32", "--x86", "--lzma2=dict=32MiB"]),
            (Compression::Zstd, &["zstd", "-q", "-3", "--long=27"]),
            (Compression::Lz4, &["lz4", "-q", "-l", "-1"]),
            (Compression::Bzip2, &["bzip2", "-1"]),
            (Compression::Lzma, &["xz", "-0", "--format=lzma"]),
        ] {
            let (shipped, symvers, same) = (&shipped, &symvers, &same);
            scope.spawn(move || {
                let packed = pack::with(command, kernel);
                let bzimage = pack::bzimage(shipped, &packed, how);
                same(&format!("bzImage, {how}"), &bzimage, Format::BzImage, how, symvers);
            });
        }
        for (how, command) in [
            (Compression::Gzip, &["gzip", "-n", "-1"][..]),
            (Compression::Zstd, &["zstd", "-q", "-1"]),
        ] {
            let (arm64, symvers, same) = (&arm64, &arm64_symvers, &same);
            scope.spawn(move || {
                let packed = pack::with(command, arm64);
                let zboot = pack::zboot(&packed, how);
                same(&format!("zboot, {how}"), &zboot, Format::Zboot, how, symvers);
                same(&format!("arm64 Image, {how}"), &packed, Format::Arm64, how, symvers);
            });
        }
    });
}

#[test]
fn every_layout_of_the_tables_is_read_in_kernels_and_in_modules() {
    use layouts::{Crcs, Layout};
    let scratch = lab::tmp::scratch("symvers-");
    for (name, relative, namespace, flags, crcs) in [
        ("now", true, true, true, Crcs::Literal),
        ("now, without CRCs", true, true, true, Crcs::None),
        ("now, addresses", false, true, true, Crcs::Literal),
        ("before 7.1", true, true, false, Crcs::Literal),
        ("before 7.1, addresses", false, true, false, Crcs::Literal),
        ("before 7.1, without CRCs", true, true, false, Crcs::None),
        ("before 5.19", true, true, false, Crcs::Symbols),
        ("before 5.19, addresses", false, true, false, Crcs::Symbols),
        ("before 5.4", true, false, false, Crcs::Symbols),
        ("before 5.4, addresses", false, false, false, Crcs::Symbols),
        ("before 4.19, without CRCs", false, false, false, Crcs::None),
    ] {
        let layout = Layout { relative, namespace, flags, crcs };
        let (module, vmlinux) = layout.make(scratch.path());
        let image = Image::parse(&vmlinux).unwrap();
        let table = image.symvers().unwrap_or_else(|e| panic!("{name}: {e:#}"));
        assert_eq!(table.to_text(), layout.text("vmlinux"), "{name}");
        let line = |e: &zfs_prefix::module::Export| {
            let (crc, gpl) = (e.crc.unwrap_or(0), if e.gpl_only { "_GPL" } else { "" });
            format!("{crc:#010x}\t{}\tt\tEXPORT_SYMBOL{gpl}\t{}\n", e.name, e.namespace)
        };
        let tables = zfs_prefix::module::read_tables(&module);
        let tables = tables.unwrap_or_else(|e| panic!("{name}, module: {e:#}"));
        let table: String = tables.exports.iter().map(line).collect();
        assert_eq!(table, layout.text("t"), "{name}, module");
    }
}

/// A directory of modules with some of `kernel`'s that export something.
fn some_modules(kernel: &Kernel, to: &Path) -> Vec<PathBuf> {
    let exporting: BTreeSet<String> = truth(kernel, |owner| owner != "vmlinux")
        .lines()
        .map(|line| format!("{}.ko", line.split('\t').nth(2).unwrap()))
        .collect();
    let mut copies = Vec::new();
    for name in exporting.iter().step_by(exporting.len() / 40) {
        let copy = to.join("kernel").join(name);
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(kernel.modules.join("kernel").join(name), &copy).unwrap();
        copies.push(copy);
    }
    copies
}

#[test]
fn modules_are_the_same_however_they_are_packed() {
    let kernel = cloud();
    let image = Image::open(&kernel.image).unwrap();
    let scratch = lab::tmp::scratch("symvers-");
    let copies = some_modules(&kernel, scratch.path());
    let plain = recover::symvers(&image, Some(scratch.path()), 1).unwrap();
    let owners: BTreeSet<&str> = plain.iter().map(|(_, e)| e.owner.as_str()).collect();
    assert_eq!(owners.len(), copies.len() + 1);
    let all = truth(&kernel, |owner| owners.contains(owner));
    assert_same(&plain.to_text(), &all, "plain");
    for (copy, command) in copies.iter().zip(
        [&["gzip", "-n"][..], &["xz", "--check=crc32", "--lzma2=dict=1MiB"], &["zstd", "-q"]]
            .into_iter()
            .cycle(),
    ) {
        let suffix = if command[0] == "zstd" { "zst" } else { &command[0][..2] };
        let packed = pack::with(command, &fs::read(copy).unwrap());
        fs::write(format!("{}.{suffix}", copy.display()), packed).unwrap();
        fs::remove_file(copy).unwrap();
    }
    for jobs in [1, 2, 100] {
        let packed = recover::symvers(&image, Some(scratch.path()), jobs).unwrap();
        assert!(packed == plain, "{jobs} jobs");
    }
    // Without the local symbols that a strip takes away.
    let bare = &modules(scratch.path()).unwrap()[0];
    let ko = copies[0].as_path();
    fs::write(ko, zfs_prefix::module::decompress(bare, fs::read(bare).unwrap()).unwrap()).unwrap();
    fs::remove_file(bare).unwrap();
    run(Command::new("objcopy").args(["--strip-unneeded"]).arg(ko)).unwrap();
    assert!(recover::symvers(&image, Some(scratch.path()), 2).unwrap() == plain);
}

#[test]
fn one_module_that_cannot_be_read_takes_only_its_own_exports_away() {
    let kernel = cloud();
    let image = Image::open(&kernel.image).unwrap();
    let scratch = lab::tmp::scratch("symvers-");
    let copies = some_modules(&kernel, scratch.path());
    let whole = recover::symvers(&image, Some(scratch.path()), 2).unwrap();
    let owner = |ko: &Path| {
        let below = ko.strip_prefix(scratch.path().join("kernel")).unwrap();
        below.with_extension("").to_str().unwrap().to_owned()
    };
    let (torn, dangling) = (&copies[1], scratch.path().join("kernel/none.ko"));
    fs::write(torn, &fs::read(torn).unwrap()[..100]).unwrap();
    std::os::unix::fs::symlink("nowhere", &dangling).unwrap();
    let read = recover::symvers_as_far_as_read(&image, scratch.path(), 2);
    let (table, skipped) = read.unwrap();
    let mut named: Vec<String> = skipped.iter().map(|error| format!("{error:#}")).collect();
    named.sort();
    assert_eq!(named.len(), 2, "{named:?}");
    for (path, error) in [torn, &dangling].into_iter().zip(&named) {
        assert!(error.starts_with(&format!("{}: ", path.display())), "{error}");
    }
    let rest = truth(&kernel, |of| {
        of != owner(torn) && whole.iter().any(|(_, export)| export.owner == of)
    });
    assert_same(&table.to_text(), &rest, "without the torn one");
    let strict = recover::symvers(&image, Some(scratch.path()), 2).unwrap_err();
    assert!(named.contains(&format!("{strict:#}")), "{strict:#}");
}

#[test]
fn a_flipped_crc_is_found_by_the_modules_and_nothing_is_written() {
    let kernel = cloud();
    let scratch = lab::tmp::scratch("symvers-");
    let (vmlinux, out) = (scratch.path().join("vmlinux"), scratch.path().join("out"));
    let mut bytes = Image::open(&kernel.image).unwrap().kernel().to_vec();
    let line = truth(&kernel, |o| o == "vmlinux");
    let line = line.lines().find(|l| l.contains("\t_printk\t")).unwrap();
    let crc = u32::from_str_radix(&line[2..10], 16).unwrap().to_le_bytes();
    let at: Vec<usize> =
        bytes.windows(4).enumerate().filter(|(_, w)| *w == crc).map(|(at, _)| at).collect();
    assert_eq!(at.len(), 1, "{line}");
    bytes[at[0]] ^= 1;
    fs::write(&vmlinux, &bytes).unwrap();
    fs::write(&out, "as before").unwrap();
    let from = [path("--image"), &vmlinux, path("--modules"), &kernel.modules];
    let said = refused(&[&from[..], &[path("--check"), path("-o"), &out]].concat());
    assert!(said.contains("1 differ") && said.contains("\n  _printk: 0x"), "{said}");
    assert_eq!(fs::read_to_string(&out).unwrap(), "as before");

    // Without --check it cannot be noticed.
    let found = symvers(&from);
    assert!(found.status.success());
    let truth = truth(&kernel, |_| true);
    let found = String::from_utf8(found.stdout).unwrap();
    assert_eq!(lines(&found).difference(&lines(&truth)).count(), 1);

    let table = Symvers::parse(&found.replace("\tkmalloc_caches\t", "\tgone\t")).unwrap();
    let report = recover::check(&table, &kernel.modules, Some(&kernel.release)).unwrap();
    let symbols: Vec<&str> = report.mismatches.iter().map(|m| m.symbol.as_str()).collect();
    assert_eq!(symbols, ["_printk", "kmalloc_caches"]);
    assert_eq!((report.modules > 1000, report.mismatches[1].exported), (true, None), "{report}");
}

#[test]
fn a_shipped_table_is_taken_unless_the_image_says_otherwise() {
    let kernel = cloud();
    let scratch = lab::tmp::scratch("symvers-");
    let truth = truth(&kernel, |_| true);
    let arguments = [path("--image"), &kernel.image, path("--modules"), scratch.path()];
    for (name, command) in
        [("symvers.gz", &["gzip"][..]), ("symvers.xz", &["xz"]), ("symvers.zst", &["zstd", "-q"])]
    {
        let file = scratch.path().join(name);
        fs::write(&file, pack::with(command, truth.as_bytes())).unwrap();
        let output = symvers(&arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(&format!("shipped in {}", file.display())), "{name}: {said}");
        assert_same(&String::from_utf8(output.stdout).unwrap(), &truth, name);
        fs::write(&file, pack::with(command, truth.replace("\t_printk\t", "\t_p\t").as_bytes()))
            .unwrap();
        let said = refused(&arguments);
        assert!(said.contains(name) && said.contains("_printk: missing"), "{name}: {said}");
        let whole = pack::with(command, truth.as_bytes());
        fs::write(&file, &whole[..whole.len() / 2]).unwrap();
        let said = refused(&arguments);
        assert!(said.contains(&format!("{}: damaged", file.display())), "{name}: {said}");
        fs::remove_file(&file).unwrap();
    }
}

#[test]
fn what_is_no_regular_file_is_written_in_place_and_never_replaced() {
    use std::os::unix::fs::FileTypeExt;
    let kernel = cloud();
    let truth = truth(&kernel, |owner| owner == "vmlinux");
    let scratch = lab::tmp::scratch("symvers-");
    let [null, link, file, dangling] =
        ["null", "link", "file", "dangling"].map(|name| scratch.path().join(name));
    run(Command::new("mknod").arg(&null).args(["c", "1", "3"])).unwrap();
    fs::write(&file, "longer than the table? ".repeat(100_000)).unwrap();
    std::os::unix::fs::symlink("file", &link).unwrap();
    std::os::unix::fs::symlink("nowhere", &dangling).unwrap();
    let from = |out: &Path| symvers(&[path("--image"), &kernel.image, path("-o"), out]);
    assert!(from(&null).status.success());
    assert!(fs::symlink_metadata(&null).unwrap().file_type().is_char_device());
    assert!(from(&link).status.success());
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_same(&fs::read_to_string(&file).unwrap(), &truth, "through a link");
    let stdout = from(path("/dev/stdout"));
    assert_same(&String::from_utf8(stdout.stdout).unwrap(), &truth, "/dev/stdout");
    for bad in [&dangling, &scratch.path().to_owned()] {
        let output = from(bad);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("{}: cannot be written", bad.display())), "{said}");
    }
    assert!(fs::symlink_metadata(&dangling).unwrap().is_symlink());
}

#[test]
fn a_check_without_a_file_prints_no_table_and_modules_of_another_kernel_fail_it() {
    let kernel = cloud();
    let scratch = lab::tmp::scratch("symvers-");
    run(Command::new("cp").arg("-rs").arg(kernel.modules.join("kernel")).arg(scratch.path()))
        .unwrap();
    let image = [path("--image"), &kernel.image, path("--modules"), scratch.path()];
    let check = [&image[..], &[path("--check")]].concat();
    let output = symvers(&check);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("all agree"), "{said}");
    assert!(output.stdout.is_empty());
    // A module without CRCs beside a table that has them.
    let one = scratch.path().join("kernel/net/openvswitch/openvswitch.ko");
    let bare = scratch.path().join("bare");
    run(Command::new("objcopy").arg("--remove-section=__versions").arg(&one).arg(&bare)).unwrap();
    fs::rename(&bare, &one).unwrap();
    let said = refused(&check);
    assert!(said.contains("1 of ") && said.contains("not of one kernel"), "{said}");
    // A table without CRCs for modules that have them.
    let table = truth(&kernel, |_| true);
    let bare: String = table.lines().map(|l| format!("0x00000000{}\n", &l[10..])).collect();
    let report = recover::check(&Symvers::parse(&bare).unwrap(), scratch.path(), None).unwrap();
    assert!(!report.is_sound() && !report.versions, "{report}");
    let other = recover::check(&Symvers::parse(&table).unwrap(), scratch.path(), Some("6.1.0"));
    assert!(format!("{:#}", other.unwrap_err()).contains("the image is 6.1.0"));
}

#[test]
fn what_cannot_be_recovered_is_named_with_its_file() {
    let kernel = cloud();
    let scratch = lab::tmp::scratch("symvers-");
    let other = scratch.path().join("other");
    some_modules(&kernel, &other);
    let foreign = other.join("kernel/foreign.ko.xz");
    let first = modules(&arm64().modules).unwrap();
    fs::copy(&first[0], &foreign).unwrap();
    let torn = scratch.path().join("torn");
    let copies = some_modules(&kernel, &torn);
    let bytes = fs::read(&copies[7]).unwrap();
    fs::write(&copies[7], &bytes[..bytes.len() / 2]).unwrap();
    let empty = scratch.path().join("empty");
    fs::create_dir_all(empty.join("kernel")).unwrap();
    let missing = scratch.path().join("missing");
    for (case, dir, name, message) in [
        ("another kernel", &other, foreign.as_path(), "a module for kernel 6.12."),
        ("torn", &torn, copies[7].as_path(), "ELF"),
        ("no modules", &empty, empty.as_path(), "no modules in it"),
        ("no directory", &missing, missing.as_path(), "No such file"),
    ] {
        let said = refused(&[path("--image"), &kernel.image, path("--modules"), dir]);
        assert!(said.contains(&name.display().to_string()), "{case}: {said}");
        assert!(said.contains(message), "{case}: {said}");
    }
    for (case, image, message) in [
        ("a module", copies[0].as_path(), "not the linked program a kernel is"),
        ("a program", path(env!("CARGO_BIN_EXE_zfs-prefix")), "no __ksymtab_strings"),
        ("a script", path("/usr/bin/ldd"), "no kernel image"),
        ("a directory", scratch.path(), "not a regular file"),
        ("nothing", &missing, "No such file"),
    ] {
        let said = refused(&[path("--image"), image]);
        assert!(said.contains(&format!("{}: ", image.display())), "{case}: {said}");
        assert!(said.contains(message), "{case}: {said}");
    }
}
