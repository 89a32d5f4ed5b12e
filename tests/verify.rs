//! Verification before publishing, on the real modules: whatever the kernel would refuse at the
//! next boot is refused now.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

use std::fs;
use std::path::{Path, PathBuf};

use object::{Object, ObjectSection};
use zfs_prefix::builder::{Expected, verify};
use zfs_prefix::exit::{self, Exit};
use zfs_prefix::kernel::{Symvers, Tree};
use zfs_prefix::module::{Module, ThisModule};

/// The real modules and what the stock kernel's own headers say of it.
struct Real {
    modules: Vec<(PathBuf, Vec<u8>)>,
    release: String,
    symvers: String,
    this_module: Option<ThisModule>,
}

impl Real {
    fn load() -> Real {
        let root = lab::root::root().unwrap();
        let dir = lab::emerge::modules(&root).unwrap();
        let read = |name: &str| (PathBuf::from(name), fs::read(dir.join(name)).unwrap());
        // `build` is an absolute link, right only inside the root.
        let headers = root.dir.join(format!("usr/src/linux-headers-{}", root.release));
        let tree = Tree::open(&headers, &root.release.parse().unwrap()).unwrap();
        let modules = vec![read("spl.ko"), read("zfs.ko")];
        let fuse =
            root.dir.join(format!("usr/lib/modules/{}/kernel/fs/fuse/fuse.ko", root.release));
        let fuse = Module::parse(&fs::read(fuse).unwrap()).unwrap();
        let this_module = fuse.this_module();
        assert!(this_module.is_some_and(|m| m.init.is_some() && m.exit.is_some()));
        Real { modules, release: root.release, symvers: tree.symvers_text, this_module }
    }

    fn verify(
        &self,
        release: &str,
        vermagic: Option<&str>,
        symvers: &str,
    ) -> Result<String, String> {
        let symvers = Symvers::parse(symvers).unwrap();
        let expected = Expected {
            release: release.parse().unwrap(),
            vermagic: vermagic.map(str::to_owned),
            this_module: self.this_module,
            symvers: &symvers,
        };
        let files: Vec<(&Path, &[u8])> =
            self.modules.iter().map(|(p, b)| (p.as_path(), b.as_slice())).collect();
        match verify(&files, &expected) {
            Ok(verified) => Ok(verified.vermagic),
            Err(error) => {
                assert_eq!(exit::of(&error), Exit::Refused, "{error:#}");
                Err(format!("{error:#}"))
            }
        }
    }
}

/// The Module.symvers with the line of `symbol` changed.
fn with(symvers: &str, symbol: &str, change: impl Fn(&str) -> Option<String>) -> String {
    let field = format!("\t{symbol}\t");
    assert!(symvers.contains(&field), "{symbol} is exported");
    let lines = symvers.lines().filter_map(|line| {
        if line.contains(&field) { change(line) } else { Some(line.to_owned()) }
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn real_modules_pass_against_their_kernel_and_every_single_fault_is_refused_by_name() {
    let real = Real::load();
    let release = real.release.as_str();
    let vermagic = real.verify(release, None, &real.symvers).unwrap();
    assert!(vermagic.starts_with(&format!("{release} ")), "{vermagic}");
    real.verify(release, Some(&vermagic), &real.symvers).unwrap();

    let flipped = with(&real.symvers, "__kmalloc", |line| {
        let (crc, rest) = line.split_once('\t').unwrap();
        let crc = u32::from_str_radix(&crc[2..], 16).unwrap() ^ 1;
        Some(format!("{crc:#010x}\t{rest}"))
    });
    let gone = with(&real.symvers, "__kmalloc", |_| None);
    let gpl = with(&real.symvers, "__kmalloc", |line| {
        Some(line.replace("EXPORT_SYMBOL", "EXPORT_SYMBOL_GPL"))
    });
    let namespace = |namespace: &str| {
        with(&real.symvers, "__kmalloc", |line| Some(format!("{}\t{namespace}", line.trim_end())))
    };
    let (named, listed) = (namespace("CRYPTO_INTERNAL"), namespace("module:zfs,spl"));
    let other = format!("{vermagic} preempt_rt ");
    let other_release = format!("9{}", &release[1..]);
    for (case, release, vermagic, symvers, message) in [
        ("CRC", release, None, &flipped, "imports __kmalloc with CRC"),
        ("missing", release, None, &gone, "imports __kmalloc, which kernel"),
        ("licence", release, None, &gpl, "to GPL-compatible modules only"),
        (
            "namespace",
            release,
            None,
            &named,
            "in the namespace \"CRYPTO_INTERNAL\": this module does not",
        ),
        ("in-tree modules", release, None, &listed, "\"module:zfs,spl\": this module is none of"),
        ("release", &other_release, None, &real.symvers, "is for kernel"),
        ("flags", release, Some(other.as_str()), &real.symvers, "the kernel's own modules have"),
    ] {
        let error = real.verify(release, vermagic, symvers).expect_err(case);
        assert!(error.contains(message), "{case}: {error}");
        assert!(error.contains("zfs.ko: ") || error.contains("spl.ko: "), "{case}: {error}");
    }
}

/// Replaces bytes of zfs.ko.
fn patch(real: &mut Real, at: usize, bytes: &[u8]) {
    real.modules[1].1[at..at + bytes.len()].copy_from_slice(bytes);
}

#[test]
fn a_symbol_of_a_namespace_is_for_modules_that_import_it() {
    let mut real = Real::load();
    let (release, symvers) = (real.release.clone(), real.symvers.clone());
    let named = with(&symvers, "__kmalloc", |line| Some(format!("{}\tABCDEFG", line.trim_end())));
    let error = real.verify(&release, None, &named).unwrap_err();
    assert!(error.contains("zfs.ko: imports __kmalloc, which vmlinux exports in"), "{error}");
    // As long as an entry of .modinfo that it has, and does not need.
    let old = b"\0alias=devname:zfs\0";
    let at = real.modules[1].1.windows(old.len()).position(|w| w == old).unwrap();
    patch(&mut real, at, b"\0import_ns=ABCDEFG\0");
    let error = real.verify(&release, None, &named).unwrap_err();
    assert!(error.contains("spl.ko: ") && !error.contains("zfs.ko: "), "{error}");
    real.verify(&release, None, &symvers).unwrap();
    patch(&mut real, at, b"\0import_ns=module:\0");
    let error = real.verify(&release, None, &symvers).unwrap_err();
    assert!(error.contains("zfs.ko: imports the namespace \"module:\" by name"), "{error}");
}

#[test]
fn modules_compiled_for_another_layout_of_struct_module_are_refused() {
    let mut real = Real::load();
    let (release, symvers) = (real.release.clone(), real.symvers.clone());
    let ours = real.this_module.unwrap();
    for (case, shipped, says) in [
        ("init", ThisModule { init: ours.init.map(|o| o + 8), ..ours }, "init"),
        ("exit", ThisModule { exit: ours.exit.map(|o| o - 8), ..ours }, "exit"),
    ] {
        real.this_module = Some(shipped);
        let error = real.verify(&release, None, &symvers).expect_err(case);
        assert!(error.contains(&format!("zfs.ko: struct module has {says} at")), "{case}: {error}");
    }
    real.this_module = Some(ours);
    let (at, size) = this_module_header(&real.modules[1].1);
    assert_eq!(size, ours.size);
    patch(&mut real, at, &(size + 64).to_le_bytes());
    let error = real.verify(&release, None, &symvers).unwrap_err();
    let says = format!("zfs.ko: struct module has {} bytes, in the kernel {size}", size + 64);
    assert!(error.contains(&says) && !error.contains("spl.ko: "), "{error}");
}

/// Where the size of `.gnu.linkonce.this_module` is in an ELF file (`sh_size` of elf(5)), and what
/// it is.
fn this_module_header(elf: &[u8]) -> (usize, u64) {
    let file = object::File::parse(elf).unwrap();
    let section = file.section_by_name(".gnu.linkonce.this_module").unwrap();
    let word = |at: usize| u64::from_le_bytes(elf[at..at + 8].try_into().unwrap());
    let headers = usize::try_from(word(0x28)).unwrap();
    let at = headers + section.index().0 * 64 + 0x20;
    (at, word(at))
}

#[test]
fn a_lone_or_torn_module_is_refused() {
    let mut real = Real::load();
    let (release, symvers) = (real.release.clone(), real.symvers.clone());
    let spl = real.modules.remove(0);
    let error = real.verify(&release, None, &symvers).unwrap_err();
    let symbol = "zfs.ko: imports __cv_broadcast, which kernel";
    assert!(error.contains(symbol), "zfs without spl: {error}");
    let zfs = std::mem::replace(&mut real.modules, vec![spl]).remove(0);
    let error = real.verify(&release, None, &symvers).unwrap_err();
    assert!(error.contains("no zfs.ko"), "{error}");
    real.modules.push((zfs.0, zfs.1[..zfs.1.len() / 2].to_vec()));
    let error = real.verify(&release, None, &symvers).unwrap_err();
    assert!(error.contains("zfs.ko"), "{error}");
}
