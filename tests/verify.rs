//! Verification before publishing, on the real modules: whatever the kernel would refuse at the
//! next boot is refused now.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

#[path = "lab/mod.rs"]
mod lab;

use std::fs;
use std::path::{Path, PathBuf};

use zfs_prefix::build::{Expected, verify};
use zfs_prefix::exit::{self, Exit};
use zfs_prefix::kernel::{Symvers, Tree};

/// The real modules and what the stock kernel's own headers say of it.
struct Real {
    modules: Vec<(PathBuf, Vec<u8>)>,
    release: String,
    symvers: String,
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
        Real { modules, release: root.release, symvers: tree.symvers_text }
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
    let lines = symvers.lines().filter_map(|line| match line.contains(&field) {
        true => change(line),
        false => Some(line.to_owned()),
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
    let other = format!("{vermagic} preempt_rt ");
    for (case, release, vermagic, symvers, message) in [
        ("CRC", release, None, &flipped, "imports __kmalloc with CRC"),
        ("missing", release, None, &gone, "imports __kmalloc, which kernel"),
        ("licence", release, None, &gpl, "to GPL-compatible modules only"),
        ("release", "6.1.0-57-cloud-amd64", None, &real.symvers, "is for kernel"),
        ("flags", release, Some(other.as_str()), &real.symvers, "the kernel's own modules have"),
    ] {
        let error = real.verify(release, vermagic, symvers).expect_err(case);
        assert!(error.contains(message), "{case}: {error}");
        assert!(error.contains("zfs.ko: ") || error.contains("spl.ko: "), "{case}: {error}");
    }
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
