//! The entry points for `fuzz/`: one function for each parser of foreign bytes, behind the feature
//! `fuzzing`.
//!
//! An input may be anything. No parser may panic. Each function here panics if the parser's results
//! contradict each other. `fuzz/fuzz_targets` says how much memory a parser may have. Functions
//! that write files write below `$TMPDIR`. A NUL separates the files of an input that has several.
#![allow(clippy::unwrap_used, reason = "a fuzz target says by panicking what is wrong")]

mod machine;
mod next_arg;

use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use crate::compress::{Tail, unpack};
use crate::elf::Elf;
use crate::generator::Environment;
use crate::kernel::guard::{PROBE_STRUCTS, probe_sizes};
use crate::kernel::locate::entry;
use crate::kernel::{Btf, Exported, Image, Kconfig, Symvers, btf as blob};
use crate::module::options::Options;
use crate::module::{
    Module, canonical_name, decompress, modprobe_d, read_head, read_info, read_info_of_file,
    read_tables,
};
use crate::pools::{nvlist as list, text};
use crate::{config as configuration, generator, provision, userland};

/// A kernel's image: its release and notes, its configuration, its BTF and its export tables.
pub fn image(bytes: &[u8]) {
    let Ok(image) = Image::parse(bytes) else { return };
    let _ = (image.release(), image.banner(), image.build_id(), image.build_salt());
    if let Ok(Some(config)) = image.ikconfig() {
        kconfig(&config);
    }
    if let Some(found) = blob::in_image(&image) {
        btf(found);
    }
    if let Ok(symvers) = image.symvers() {
        read_again(&symvers);
    }
}

/// Asserts that the table is the same after it is written and read again.
fn read_again(symvers: &Symvers) {
    assert_eq!(Symvers::parse(&symvers.to_text()).unwrap(), *symvers);
}

/// A module, read in every possible way, and the probe of sizes.
pub fn module(bytes: &[u8]) {
    let (info, tables) = (read_info(bytes).ok(), read_tables(bytes).ok());
    let _ = probe_sizes(bytes);
    assert_eq!(read_info_of_file(&machine::file(bytes)).ok(), info);
    assert_eq!(read_head(bytes).ok().map(|head| head.info), info);
    let Ok(module) = Module::parse(bytes) else { return };
    let _ = (module.vermagic(), module.this_module(), module.info().depends());
    let tables = tables.unwrap();
    assert_eq!((Some(&tables.info), Some(module.info())), (info.as_ref(), info.as_ref()));
    assert_eq!((&tables.exports[..], &tables.versions[..]), (module.exports(), module.versions()));
    let mut symvers = Symvers::default();
    for export in tables.exports {
        symvers.insert(Exported { owner: "m".to_owned(), export });
    }
    if !symvers.is_empty() {
        read_again(&symvers);
    }
}

/// A blob of BTF, alone or somewhere in a kernel.
pub fn btf(bytes: &[u8]) {
    if let Ok(btf) = Btf::parse(bytes) {
        for name in PROBE_STRUCTS {
            let sizes = btf.sizes(name);
            assert!(
                sizes.is_sorted() && (btf.members(name).is_err() || !sizes.is_empty()),
                "{name}"
            );
        }
    }
    if let Some(found) = blob::find(bytes) {
        assert!(!Btf::parse(found).unwrap().sizes("module").is_empty());
    }
}

/// The configuration of a kernel.
pub fn kconfig(bytes: &[u8]) {
    let Ok(config) = Kconfig::parse(bytes) else { return };
    let form = config.canonical(|_| false);
    let text: String = form.lines().map(|line| format!("CONFIG_{line}\n")).collect();
    if !text.is_empty() {
        assert_eq!(Kconfig::parse(text.as_bytes()).unwrap().canonical(|_| false), form);
    }
}

/// An entry of a boot loader.
pub fn entry(bytes: &[u8]) {
    let entry = entry::parse(&String::from_utf8_lossy(bytes));
    assert!(entry.images.len() <= 8);
    let plain = |component| matches!(component, Component::Normal(_));
    assert!(entry.images.iter().all(|path| path.components().all(plain)), "{entry:?}");
}

/// A Module.symvers.
pub fn symvers(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(symvers) = Symvers::parse(text) else { return };
    read_again(&symvers);
}

/// An nvlist in either encoding, read as a zpool.cache and as any other nvlist.
pub fn nvlist(bytes: &[u8]) {
    let whole = list::pairs(bytes, &mut |_, _, _| Ok(()));
    let names = list::pool_names(bytes);
    let places = [whole.as_ref().err(), names.as_ref().err()];
    assert!(places.into_iter().flatten().all(|error| error.at <= bytes.len()));
    let names = names.unwrap_or_default();
    assert!(whole.is_ok() || names.is_empty());
    assert!(names.iter().all(|name| configuration::is_pool_name(name)), "{names:?}");
}

/// The output of `zpool status` and `zpool import`.
pub fn zpool(bytes: &[u8]) {
    let said = String::from_utf8_lossy(bytes);
    for block in text::parse(&said) {
        let devices = block.devices.iter().flat_map(|d| [&d.name, &d.state, &d.note]);
        let words = devices.chain([&block.pool, &block.state, &block.status, &block.note]);
        assert!(words.into_iter().all(|word| !word.contains('\n')), "{block:?}");
        assert!(block.devices.iter().all(|d| said.contains(&d.name)), "{block:?}");
    }
}

/// Compressed data, unpacked to at most one MiB.
pub fn compressed(bytes: &[u8]) {
    const MOST: usize = 1 << 20;
    let first = unpack(bytes, Tail::Ignored, MOST);
    let Ok(all) = unpack(bytes, Tail::Streams, MOST) else { return };
    assert!(all.len() <= MOST && all.starts_with(&first.unwrap()));
    assert_eq!(decompress(Path::new("m.ko"), bytes.to_vec()).unwrap(), all);
    if let Some(less) = all.len().checked_sub(1) {
        assert!(unpack(bytes, Tail::Streams, less).is_err());
    }
}

/// The archive of a prefix. It first gets the right checksums in its headers, and an end mark.
pub fn archive(bytes: &[u8]) {
    let machine = machine::with_a_tree();
    let archive = machine.write("archive", &machine::repaired(bytes));
    machine.check(|| {
        let eprefix = Path::new("/home/core/gentoo");
        let done = provision::unpack::unpack(&archive, &machine.tree, eprefix, "{}", |_| ());
        let error = done.err().map(|e| format!("{e:#}")).unwrap_or_default();
        // Under fuzz/apart all other directories are read-only.
        assert!(!error.contains("Read-only file system"), "{error}");
    });
}

/// The generator's output for the list of a pool's datasets, fstab, a configuration and a kernel
/// command line.
pub fn generator(bytes: &[u8]) {
    let mut parts = bytes.split(|&b| b == 0);
    let machine = machine::with_units();
    for path in ["etc/zfs/zfs-list.cache/tank", "etc/fstab", "etc/zfs-prefix/config.toml"] {
        machine.write(path, parts.next().unwrap_or_default());
    }
    let environment = Environment {
        root: Some(machine.root().into()),
        in_initrd: Some("0".into()),
        architecture: Some("x86-64".into()),
        proc_cmdline: Some(OsStr::from_bytes(parts.next().unwrap_or_default()).into()),
        ..Environment::default()
    };
    machine.check(|| {
        let directories = ["normal", "early", "late"].map(|d| machine.tree.join(d).into());
        let _ = generator::run(&environment, &directories);
        machine.units();
    });
}

/// A configuration file and a kernel command line.
pub fn config(bytes: &[u8]) {
    let parts = parts(bytes);
    let machine = machine::with_units();
    machine.write("etc/zfs-prefix/config.toml", parts[0].as_bytes());
    let loaded = configuration::load(&machine.host(&parts[1]));
    let settings = &loaded.settings;
    assert!(
        settings.build.backoff <= settings.build.backoff_max && settings.prefix.path.is_absolute()
    );
    assert!(settings.pools.expected.iter().all(|name| configuration::is_pool_name(name)));
    let lines = parts[0].split('\n').count();
    for note in &loaded.notes {
        assert!(note.line.is_none_or(|line| (1..=lines).contains(&line)), "{note}");
        // No setting comes from a file that is set aside.
        let mut decided =
            configuration::keys().filter(|key| loaded.origin(key) == Some(&note.file));
        assert!(note.severity == configuration::Severity::Warning || decided.next().is_none());
    }
}

/// The two text files of an input.
fn parts(bytes: &[u8]) -> [Cow<'_, str>; 2] {
    let mut parts = bytes.splitn(2, |&b| b == 0).map(String::from_utf8_lossy);
    [(); 2].map(|()| parts.next().unwrap_or_default())
}

/// A file of modprobe.d and a kernel command line. The module options of the latter have to be
/// those that the kernel itself would read.
pub fn modprobe(bytes: &[u8]) {
    let parts = parts(bytes);
    let lines = parts[0].split('\n').count();
    for rule in modprobe_d::rules(&parts[0]) {
        assert!((1..=lines).contains(&rule.line) && !rule.text.contains('\n'), "{rule:?}");
        let _ = rule.names("zfs");
    }
    let named = modprobe_d::blacklisted(&parts[1]);
    assert!(named.iter().all(|(name, word)| !name.is_empty() && word.contains('=')), "{named:?}");
    let _ = modprobe_d::forbidden(&parts[1]);
    let mut options = Options::default();
    options.add_file(&parts[0]);
    assert!(!options.of("zfs").contains('\n'));
    let mut options = Options::default();
    options.add_cmdline(&parts[1]);
    let of_zfs = |(name, value)| {
        let (module, parameter) = str::split_once(name, '.')?;
        let nameless = parameter.is_empty() || parameter.starts_with('"');
        let ours = canonical_name(module) == "zfs" && !nameless;
        Some((parameter, value)).filter(|option| ours && *option != ("--", None))
    };
    let expected: Vec<_> = next_arg::arguments(&parts[1]).into_iter().filter_map(of_zfs).collect();
    assert_eq!(next_arg::arguments(&options.of("zfs")), expected);
}

/// An ELF file: the parts that ld.so(8) reads, and the versions of symbols.
pub fn elf(bytes: &[u8]) {
    let _ = userland::symbols::Versions::read(bytes);
    let Ok(Some(elf)) = Elf::open(&machine::file(bytes)) else { return };
    let lists = [elf.rpath, elf.runpath, elf.needed, elf.besides].into_iter().flatten();
    let mut paths = lists.chain(elf.interpreter).chain(elf.soname);
    assert!(paths.all(|path| !path.as_os_str().as_bytes().contains(&0)));
}
