//! The module parsers against kmod and binutils, over every module of a stock kernel.

#![allow(clippy::unwrap_used)] // helpers of tests too: their panics are failed tests

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lab::stock::{self, module, modules, run};
use zfs_prefix::module::options::Options;
use zfs_prefix::module::{Module, decompress, read_info};

fn parse(path: &Path) -> Module {
    let bytes = fs::read(path).unwrap();
    Module::parse(&bytes).unwrap_or_else(|e| panic!("{}: {e:#}", path.display()))
}

#[test]
fn modinfo_of_every_module_is_what_kmod_prints() {
    // What kmod computes from the signature, or puts together from several entries.
    let computed = ["sig_id", "signer", "sig_key", "sig_hashalgo", "signature"];
    let compared = |key: &str| !computed.contains(&key) && !key.starts_with("parm");
    for chunk in modules().chunks(100) {
        let text = run(Command::new("modinfo").arg("-0").args(chunk));
        let mut kmod: Vec<Vec<(String, String)>> = Vec::new();
        for entry in text.split('\0') {
            if entry.starts_with("filename:") {
                kmod.push(Vec::new());
            } else if let Some((key, value)) = entry.split_once('=')
                && compared(key)
            {
                kmod.last_mut().unwrap().push((key.to_owned(), value.to_owned()));
            }
        }
        assert_eq!(kmod.len(), chunk.len());
        for (path, mut want) in chunk.iter().zip(kmod) {
            let bytes = fs::read(path).unwrap();
            let info = read_info(&bytes).unwrap();
            let mut got: Vec<(String, String)> = info
                .entries()
                .filter(|(k, _)| compared(k))
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .collect();
            got.sort();
            want.sort();
            assert_eq!(got, want, "{}", path.display());
            let vermagic = info.vermagic().unwrap();
            assert_eq!(vermagic.release, stock::release(), "{}", path.display());
        }
    }
}

#[test]
fn versions_and_imports_of_every_module_are_what_kmod_and_nm_print() {
    let all = modules();
    let text = run(Command::new("nm").args(["-A", "--undefined-only"]).args(&all));
    let mut undefined: HashMap<&str, BTreeSet<&str>> = HashMap::new();
    for (path, rest) in text.lines().filter_map(|l| l.split_once(':')) {
        undefined.entry(path).or_default().extend(rest.trim().strip_prefix("U "));
    }
    for path in all {
        let parsed = parse(&path);
        let text = run(Command::new("modprobe").arg("--dump-modversions").arg(&path));
        let want: BTreeSet<(u32, &str)> = text
            .lines()
            .map(|l| l.split_once('\t').unwrap())
            .map(|(crc, name)| (u32::from_str_radix(&crc[2..], 16).unwrap(), name))
            .collect();
        let got: BTreeSet<(u32, &str)> =
            parsed.versions().iter().map(|v| (v.crc, v.name.as_str())).collect();
        assert_eq!(got, want, "{}", path.display());

        let want = undefined.remove(path.to_str().unwrap()).unwrap_or_default();
        let got: BTreeSet<&str> = parsed.imports().iter().map(|i| i.name.as_str()).collect();
        assert_eq!(got, want, "{}", path.display());
        assert!(parsed.imports().iter().all(|i| i.crc.is_some()), "{}", path.display());
    }
}

#[test]
fn exports_carry_the_crcs_that_the_importing_modules_were_built_against() {
    let parsed: Vec<(PathBuf, Module)> =
        modules().into_iter().map(|p| (p.clone(), parse(&p))).collect();
    let mut exported = HashMap::new();
    for (_, module) in &parsed {
        for export in module.exports() {
            exported.insert(export.name.as_str(), export);
        }
    }
    let mut compared = 0;
    for (path, module) in &parsed {
        for import in module.imports() {
            if let Some(export) = exported.get(import.name.as_str()) {
                assert_eq!(export.crc, import.crc, "{}: {}", path.display(), import.name);
                compared += 1;
            }
        }
    }
    assert!(compared > 1000, "only {compared} imports between modules");
    // EXPORT_SYMBOL and EXPORT_SYMBOL_GPL of lib/raid6.
    let raid6 = parse(&module("raid6_pq"));
    let gpl: BTreeMap<&str, bool> =
        raid6.exports().iter().map(|e| (e.name.as_str(), e.gpl_only)).collect();
    assert!(!gpl["raid6_gfmul"] && gpl["raid6_call"]);
    assert_eq!(gpl.len(), 10);
}

/// A copy of module `name`, changed by objcopy.
fn changed(dir: &Path, name: &str, arguments: &[String]) -> Module {
    let to = dir.join("changed.ko");
    run(Command::new("objcopy").args(arguments).arg(module(name)).arg(&to));
    parse(&to)
}

#[test]
fn the_extended_version_tables_of_linux_6_14_are_read() {
    let dir = lab::tmp::scratch("module-");
    let plain = parse(&module("xor"));
    let long_name = "a".repeat(100);
    let (mut crcs, mut names) = (Vec::new(), Vec::new());
    let mut want = plain.versions().to_vec();
    want[0].name = long_name;
    for v in &want {
        crcs.extend(v.crc.to_le_bytes());
        names.extend(v.name.as_bytes());
        names.push(0);
    }
    let section = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        format!("--add-section={name}={}", path.display())
    };
    let crcs = section("__version_ext_crcs", &crcs);
    let names = section("__version_ext_names", &names);
    let both = changed(dir.path(), "xor", &[crcs.clone(), names.clone()]);
    assert_eq!(both.versions(), want);
    let remove = "--remove-section=__versions".to_owned();
    let only = changed(dir.path(), "xor", &[remove, crcs.clone(), names]);
    assert_eq!(only.versions(), want);
    // One name too few.
    let torn = section("__version_ext_names", b"a\0b\0");
    run(Command::new("objcopy").args([crcs, torn]).arg(module("xor")).arg(dir.path().join("t.ko")));
    let e = Module::parse(&fs::read(dir.path().join("t.ko")).unwrap()).unwrap_err();
    assert!(format!("{e:#}").contains("fewer names"), "{e:#}");
}

#[test]
fn the_symbol_flags_of_linux_7_1_say_what_is_gpl_only() {
    let dir = lab::tmp::scratch("module-");
    // All GPL-only in a table of their own, as before 7.1.
    let before = parse(&module("libcrc32c"));
    let gpl = parse(&module("failover"));
    assert!(!before.exports().is_empty() && before.exports().iter().all(|e| !e.gpl_only));
    assert!(gpl.exports().len() > 1 && gpl.exports().iter().all(|e| e.gpl_only));
    // The same in one table with a flag for each: only the last in the table is GPL-only.
    let mut flags = vec![0; gpl.exports().len()];
    *flags.last_mut().unwrap() = 1;
    let path = dir.path().join("flags");
    fs::write(&path, &flags).unwrap();
    let merge = "--rename-section=__ksymtab_gpl=__ksymtab".to_owned();
    let add = format!("--add-section=__kflagstab={}", path.display());
    let after = changed(dir.path(), "failover", &[merge, add]);
    let found: Vec<&str> =
        after.exports().iter().filter(|e| e.gpl_only).map(|e| e.name.as_str()).collect();
    // The table is sorted by name.
    assert_eq!(found, [gpl.exports().last().unwrap().name.as_str()]);
}

#[test]
fn stripping_debug_information_changes_nothing_that_is_read() {
    let dir = lab::tmp::scratch("module-");
    let stripped = changed(dir.path(), "raid6_pq", &["--strip-debug".to_owned()]);
    assert_eq!(stripped, parse(&module("raid6_pq")));
}

#[test]
fn every_compression_of_kbuild_is_undone() {
    let dir = lab::tmp::scratch("module-");
    let plain = fs::read(module("raid6_pq")).unwrap();
    let file = dir.path().join("a.ko");
    fs::write(&file, &plain).unwrap();
    for (case, program, arguments) in [
        ("gzip", "gzip", &["-n"][..]),
        ("xz, as Kbuild", "xz", &["--check=crc32", "--lzma2=dict=1MiB"]),
        ("xz, CRC64", "xz", &["--check=crc64"]),
        ("xz, SHA-256", "xz", &["--check=sha256"]),
        ("xz, x86 filter", "xz", &["--check=crc32", "--x86", "--lzma2=dict=1MiB"]),
        ("zstd", "zstd", &["-q", "-19"]),
        ("zstd, level 22", "zstd", &["-q", "--ultra", "-22"]),
    ] {
        let output = Command::new(program).args(arguments).arg("-c").arg(&file).output();
        let packed = output.unwrap_or_else(|e| panic!("{program}: {e}")).stdout;
        assert!(packed.len() > 1000 && packed.len() < plain.len(), "{case}: {}", packed.len());
        let e = Module::parse(&packed).unwrap_err().to_string();
        assert!(e.starts_with("compressed with"), "{case}: {e}");
        let path = Path::new("/lib/a.ko");
        assert!(decompress(path, packed.clone()).unwrap() == plain, "{case}");
        let mut damaged = packed.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        let damaged = decompress(path, damaged);
        // zstd -c writes a checksum only when asked; then the change shows in the bytes.
        assert!(damaged.map_or(true, |d| program == "zstd" && d != plain), "{case}: flipped bit");
        let e = decompress(path, packed[..middle].to_vec()).unwrap_err();
        assert!(format!("{e:#}").starts_with("/lib/a.ko: damaged"), "{case}: {e:#}");
    }
}

#[test]
fn torn_and_damaged_modules_are_errors_or_modules_but_never_a_panic() {
    let bytes = fs::read(module("libcrc32c")).unwrap();
    assert!(Module::parse(&bytes).is_ok());
    for cut in (0..bytes.len()).step_by(7) {
        drop(Module::parse(&bytes[..cut]));
    }
    assert!(Module::parse(&bytes[..bytes.len() / 3]).is_err());
    let mut changed = bytes.clone();
    let (mut refused, mut state) = (0, 0x2545_f491_4f6c_dd1d_u64);
    for round in 0..20_000 {
        // xorshift64: the same changes in every run.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let length = u64::try_from(bytes.len()).unwrap();
        // Half of the changes in the ELF header and the section headers at the end.
        let at = match round % 4 {
            0 => state % 64,
            1 => length - 1 - state % 4096,
            _ => state % length,
        };
        let at = usize::try_from(at).unwrap();
        changed[at] = u8::try_from((state >> 32) & 0xff).unwrap();
        refused += u32::from(Module::parse(&changed).is_err());
        changed[at] = bytes[at];
    }
    assert!(refused > 100, "only {refused} damaged files were noticed");
}

#[test]
fn options_lines_are_read_as_kmod_reads_them() {
    let dir = lab::tmp::scratch("module-");
    let path = dir.path().join("t.conf");
    let text = concat!(
        "options t-1 x=1 \\\n y=2   z=\"q r\"  \n",
        "# a comment \\\noptions t2 hidden=1\n",
        "  options   t3  t=1\n",
        "options t4\n",
        "options\tt5\tv=1\n",
        "options t6 p=\"a\\ b\" w=a\\\\b\n",
        "  # options t7 e=1\n",
        "optionsx t8 z=1\n",
        "options t9 k=1 # not a comment\n",
        "install t10 options t10 a=1\n",
        "\n\\\noptions t11 a=1\n",
        "options t3 t=2\n",
        "options t12 last=1"
    );
    fs::write(&path, text).unwrap();
    let output = run(Command::new("modprobe").arg("-C").arg(&path).arg("-c"));
    let mut kmod: BTreeMap<String, String> = BTreeMap::new();
    for line in output.lines().filter_map(|l| l.strip_prefix("options t")) {
        let (module, options) = line.split_once(' ').unwrap();
        let all = kmod.entry(format!("t{module}")).or_default();
        *all = format!("{all} {}", options.trim()).trim().to_owned();
    }
    assert_eq!(kmod.len(), 7, "{kmod:?}");
    let mut ours = Options::default();
    ours.add_file(text);
    for name in (1..=12).map(|n| if n == 1 { "t_1".to_owned() } else { format!("t{n}") }) {
        let want = kmod.get(&name).map_or("", String::as_str);
        assert_eq!(ours.of(&name), want, "{name}");
    }
}

/// A module as a big-endian machine has it: one import, one export, each with a CRC.
fn big_endian(arch: object::Architecture, long: usize, crc_is_symbol: bool) -> Vec<u8> {
    use object::elf::{R_390_32, R_PPC_ADDR32};
    use object::write::{Object, Relocation, Symbol, SymbolSection};
    use object::{BinaryFormat, Endianness, RelocationFlags, SectionKind};
    use object::{SymbolFlags, SymbolKind, SymbolScope};
    let mut elf = Object::new(BinaryFormat::Elf, arch, Endianness::Big);
    let mut section = |name: &str, data: &[u8]| {
        let id = elf.add_section(Vec::new(), name.into(), SectionKind::ReadOnlyData);
        elf.append_section_data(id, data, 8);
        id
    };
    section(".modinfo", b"name=spl\0vermagic=6.1.0 SMP \0depends=\0");
    let mut record = vec![0; long - 4];
    record.extend(0xdead_beef_u32.to_be_bytes());
    record.extend(b"_printk");
    record.resize(64, 0);
    section("__versions", &record);
    let strings = section("__ksymtab_strings", b"\0spl_init\0NS\0");
    let ksymtab = section("__ksymtab_gpl", &[0; 12]);
    let literal = if crc_is_symbol { 0 } else { 0x1234_5678_u32 };
    let kcrctab = section("__kcrctab_gpl", &literal.to_be_bytes());
    let mut symbol = |name: &str, section, value| {
        elf.add_symbol(Symbol {
            name: name.into(),
            value,
            size: 0,
            kind: SymbolKind::Data,
            scope: SymbolScope::Dynamic,
            weak: false,
            section,
            flags: SymbolFlags::None,
        })
    };
    symbol("_printk", SymbolSection::Undefined, 0);
    let name = symbol("__kstrtab_spl_init", SymbolSection::Section(strings), 1);
    let crc = symbol("__crc_spl_init", SymbolSection::Absolute, 0x1234_5678);
    let mut relocate = |section, offset, symbol, addend| {
        let flags =
            RelocationFlags::Elf { r_type: if long == 8 { R_390_32 } else { R_PPC_ADDR32 } };
        elf.add_relocation(section, Relocation { offset, symbol, addend, flags }).unwrap();
    };
    relocate(ksymtab, 4, name, 0);
    relocate(ksymtab, 8, name, 9);
    if crc_is_symbol {
        relocate(kcrctab, 0, crc, 0);
    }
    elf.write().unwrap()
}

#[test]
fn modules_of_big_endian_and_32_bit_machines_are_read() {
    use object::Architecture::{PowerPc, S390x};
    for (case, arch, long, crc_is_symbol) in [
        ("64 bits", S390x, 8, false),
        ("32 bits", PowerPc, 4, false),
        ("32 bits, CRC as a symbol's value, as before Linux 5.19", PowerPc, 4, true),
    ] {
        let module = Module::parse(&big_endian(arch, long, crc_is_symbol)).unwrap();
        assert_eq!(module.vermagic().unwrap().to_string(), "6.1.0 SMP", "{case}");
        let import = module.imports().first().unwrap();
        assert_eq!((import.name.as_str(), import.crc), ("_printk", Some(0xdead_beef)), "{case}");
        let export = module.exports().first().unwrap();
        let names = (export.name.as_str(), export.namespace.as_str());
        assert_eq!(names, ("spl_init", "NS"), "{case}");
        assert_eq!((export.crc, export.gpl_only), (Some(0x1234_5678), true), "{case}");
    }
}
