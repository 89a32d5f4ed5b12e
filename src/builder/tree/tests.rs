//! Each guard is asked, and the cheapest first. Everything here is refused before anything runs in
//! the prefix, which has no programs.

use std::fs;
use std::os::unix::fs::chown;

use object::write::{Object, StandardSegment};
use object::{Architecture, BinaryFormat, Endianness, SectionKind};
use tempfile::TempDir;

use super::*;
use crate::builder::progress::Progress;
use crate::config::{Pinned, Place as At};
use crate::kernel::Image;
use crate::process::Cancel;

const RELEASE: &str = "6.1.0-56-x";
const CONFIG: &str = "# Linux/arm64 6.1.174 Kernel Configuration\nCONFIG_MODVERSIONS=y\n";
const ID: [u8; 20] = [0x5a; 20];
const EXPORTS: [(&str, u32); 2] = [("_printk", 0x11), ("kfree", 0x22)];
const GCC: &str = "gcc (Gentoo 14.3.1) 14.3.1";

/// A machine in a directory.
struct Machine {
    root: TempDir,
    host: Host,
    settings: Settings,
    release: Release,
}

impl Machine {
    /// With a configuration, an image, the source of `sublevel`, and a prefix with nothing in it.
    fn new(config: &str, image: &[u8], sublevel: u32) -> Machine {
        let root = tempfile::tempdir().unwrap();
        let release: Release = RELEASE.parse().unwrap();
        let host = Host::below(root.path(), "6.1.0-1");
        let mut settings = Settings::default();
        let source = root.path().join("linux");
        settings.kernel.image = Some("/vmlinuz".to_owned());
        let place = At::File(source.to_str().unwrap().to_owned());
        settings.kernel.source = Some(Pinned { place, sha256: None });
        let makefile = format!("VERSION = 6\nPATCHLEVEL = 1\nSUBLEVEL = {sublevel}\n");
        let machine = Machine { root, host, settings, release };
        machine.write(&format!("usr/lib/modules/{RELEASE}/config"), config.as_bytes());
        machine.write("vmlinuz", image);
        for (name, text) in [
            ("Makefile", &*makefile),
            ("Kconfig", ""),
            ("Kbuild", ""),
            ("scripts/Makefile.modpost", ""),
        ] {
            machine.write(&format!("linux/{name}"), text.as_bytes());
        }
        fs::create_dir(machine.root.path().join("prefix")).unwrap();
        chown(machine.root.path().join("prefix"), Some(2000), Some(2000)).unwrap();
        machine
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// Calls `work` with what prepares a tree on this machine.
    fn preparing<T>(&self, work: impl FnOnce(&mut Preparing) -> Result<T>) -> Result<T> {
        let layout = Layout::new(&self.host.root);
        let prefix = Prefix::open(&self.root.path().join("prefix")).unwrap();
        let dir = WorkDir::make(&layout, &self.release, prefix.user).unwrap();
        let build_id: String = ID.iter().map(|byte| format!("{byte:02x}")).collect();
        let found = Found::of(&self.host, &self.settings, &self.release);
        work(&mut Preparing {
            host: &self.host,
            release: &self.release,
            layout: &layout,
            prefix: &prefix,
            compiler: GCC,
            build_id: &build_id,
            found: &found,
            work: &dir,
            early: false,
            jobs: 1,
            steps: Steps { cancel: &Cancel::default(), progress: &mut Progress::new(false) },
        })
    }

    /// The status and message of making a tree.
    fn refused(&self, strategy: Strategy) -> (Exit, String) {
        let found = Found::of(&self.host, &self.settings, &self.release);
        let (host, settings, release) = (&self.host, &self.settings, &self.release);
        let look = Looking { host, settings, release, found: &found, identity: OnceCell::new() };
        let way = look.way(strategy).unwrap();
        let Way::Made(from) = &way else { panic!("{way:?}") };
        let error = self.preparing(|preparing| preparing.made(strategy, from)).unwrap_err();
        (crate::exit::of(&error), format!("{error:#}"))
    }
}

fn banner() -> String {
    format!("Linux version {RELEASE} (w@h) (gcc 13) #1 SMP\n\0")
}

/// An arm64 Image of [`RELEASE`] with this build-id, and with a configuration in it.
fn arm64(id: [u8; 20], config: Option<&str>) -> Vec<u8> {
    let mut image = vec![0; 64];
    image[0x38..0x3c].copy_from_slice(b"ARM\x64");
    image.extend(b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0");
    image.extend(id);
    image.extend(banner().bytes());
    if let Some(config) = config {
        let mut gzip = flate2::read::GzEncoder::new(config.as_bytes(), Default::default());
        image.extend(b"IKCFG_ST");
        std::io::copy(&mut gzip, &mut image).unwrap();
        image.extend(b"IKCFG_ED");
    }
    image
}

/// A linked kernel of [`RELEASE`] with these exports and no notes.
fn vmlinux(exports: &[(&str, u32)]) -> Vec<u8> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little);
    // The first string is empty: a namespace. All sections are at address 0.
    let (mut strings, mut table, mut crcs) = (vec![0], Vec::new(), Vec::new());
    for (name, crc) in exports {
        let at = i32::try_from(table.len()).unwrap();
        let name_at = i32::try_from(strings.len()).unwrap();
        for field in [1, name_at - (at + 4), -(at + 8)] {
            table.extend(i32::to_le_bytes(field));
        }
        strings.extend([name.as_bytes(), b"\0"].concat());
        crcs.extend(crc.to_le_bytes());
    }
    for (name, bytes) in [
        ("__ksymtab_strings", strings),
        ("__ksymtab", table),
        ("__kcrctab", crcs),
        (".rodata", banner().into_bytes()),
    ] {
        let segment = object.segment_name(StandardSegment::Data).to_vec();
        let section = object.add_section(segment, name.into(), SectionKind::ReadOnlyData);
        object.append_section_data(section, &bytes, 4);
    }
    let mut bytes = object.write().unwrap();
    // ET_EXEC.
    bytes[16] = 2;
    bytes
}

/// A tree with the Module.symvers that [`EXPORTS`] make.
fn tree(config: &str) -> Tree {
    let lines =
        EXPORTS.map(|(name, crc)| format!("{crc:#010x}\t{name}\tvmlinux\tEXPORT_SYMBOL\t\n"));
    let text = lines.concat();
    Tree {
        output: "/opt/tree".into(),
        source: "/opt/tree".into(),
        config: config.into(),
        symvers: crate::kernel::Symvers::parse(&text).unwrap(),
        symvers_text: text,
    }
}

#[test]
fn what_can_be_no_tree_from_source_is_refused_before_anything_is_run() {
    let (good, other) = (vmlinux(&EXPORTS), arm64([7; 20], None));
    let inside = arm64(ID, Some("CONFIG_MODVERSIONS=y\nCONFIG_HZ=100\n"));
    let with = |line: &str| format!("{CONFIG}{line}\n");
    let without_versions = CONFIG.replace("CONFIG_MODVERSIONS=y", "CONFIG_A=y");
    for (case, config, image, exit, says) in [
        ("random", with("CONFIG_RANDSTRUCT_FULL=y"), &good, Exit::Refused, "RANDSTRUCT_FULL=y"),
        ("clang", with("CONFIG_CC_IS_CLANG=y"), &good, Exit::Refused, "in a prefix of gcc"),
        ("build-id", with(""), &other, Exit::NoSymvers, "another build of this kernel"),
        ("IKCONFIG", with("CONFIG_HZ=250"), &inside, Exit::Refused, "CONFIG_HZ: 100 -> 250"),
        ("versions", without_versions, &good, Exit::NoSymvers, "says CONFIG_MODVERSIONS=n"),
        ("source", with(""), &good, Exit::NoKernelSource, "the source of Linux 6.1.170"),
    ] {
        let machine = Machine::new(&config, image, 170);
        let (found, said) = machine.refused(Strategy::Recovered);
        assert!(found == exit && said.contains(says), "{case}: {found:?} {said}");
    }
}

#[test]
fn a_shipped_tree_of_a_clang_or_with_other_exports_than_the_kernels_is_refused() {
    let machine = Machine::new(CONFIG, &arm64(ID, None), 174);
    let refused = |case: &str, result: Result<()>| {
        let error = result.expect_err(case);
        assert_eq!(crate::exit::of(&error), Exit::Refused, "{case}: {error:#}");
        format!("{error:#}")
    };
    let clang = tree("CONFIG_CC_IS_CLANG=y\nCONFIG_CC_VERSION_TEXT=\"clang version 17.0.6\"\n");
    let said = machine.preparing(|preparing| preparing.shipped(&clang).map(drop));
    let said = refused("clang", said);
    assert!(said.contains("clang version 17.0.6") && said.contains("in a prefix of gcc"), "{said}");

    let place = Place::default();
    let check = |exports: &[(&str, u32)]| {
        let image = Image::parse(&vmlinux(exports)).unwrap();
        machine.preparing(|preparing| preparing.check(&tree(CONFIG), &place, Some(&image)))
    };
    let said = refused("flipped", check(&[EXPORTS[0], ("kfree", 0x23)]));
    assert!(said.contains("/opt/tree/Module.symvers is not of the kernel"), "{said}");
    assert!(said.contains("kfree: CRC 0x00000022, shipped 0x00000023"), "{said}");
    // With its own exports it passes. Then the probe fails: the prefix has no programs.
    let error = format!("{:#}", check(&EXPORTS).unwrap_err());
    assert!(!error.contains("Module.symvers"), "{error}");
}
