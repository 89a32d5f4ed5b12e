//! Export tables in every layout that Linux has had, assembled and linked by the real binutils:
//! what no kernel of the archive has any more, or not yet.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use lab::tool::run;

/// How the tables are laid out.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Distances (CONFIG_HAVE_ARCH_PREL32_RELOCATIONS) or addresses.
    pub relative: bool,
    /// A namespace in each entry (Linux 5.4).
    pub namespace: bool,
    /// One table and flags (Linux 7.1), or two.
    pub flags: bool,
    /// CONFIG_MODVERSIONS.
    pub crcs: Crcs,
}

/// Where CRCs are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crcs {
    None,
    Literal,
    /// The values of symbols (before Linux 5.19).
    Symbols,
}

/// Name, CRC, GPL-only, namespace; sorted.
const EXPORTS: [(&str, u32, bool, &str); 3] = [
    ("alpha", 0x0000_00a1, false, ""),
    ("beta", 0xb2b2_b2b2, true, "module:kvm-amd,kvm-intel"),
    // Its name is the end of the one before: strings are merged.
    ("eta", 0xffff_ffff, false, ""),
];

impl Layout {
    /// What Module.symvers has of them.
    pub fn text(&self, owner: &str) -> String {
        let mut text = String::new();
        for (name, crc, gpl, space) in EXPORTS {
            let crc = if self.crcs == Crcs::None { 0 } else { crc };
            let gpl = if gpl { "_GPL" } else { "" };
            let space = if self.namespace { space } else { "" };
            writeln!(text, "{crc:#010x}\t{name}\t{owner}\tEXPORT_SYMBOL{gpl}\t{space}").unwrap();
        }
        text
    }

    fn source(&self) -> String {
        let mut source = "\t.section .modinfo,\"a\"\n\t.asciz \"vermagic=6.1.0 SMP \"\n".to_owned();
        for (index, (name, crc, gpl, space)) in EXPORTS.iter().enumerate() {
            let table = if *gpl && !self.flags { "_gpl" } else { "" };
            let field = |to: &str| {
                if self.relative {
                    format!("\t.long {to} - .\n")
                } else {
                    format!("\t.quad {to}\n")
                }
            };
            writeln!(source, "\t.text\n\t.globl {name}\n{name}: ret").unwrap();
            writeln!(source, "\t.section __ksymtab_strings,\"aMS\",@progbits,1").unwrap();
            writeln!(source, "n{index}: .asciz \"{name}\"\ns{index}: .asciz \"{space}\"").unwrap();
            writeln!(source, "\t.section __ksymtab{table},\"a\"").unwrap();
            source += &[field(name), field(&format!("n{index}"))].concat();
            if self.namespace {
                source += &field(&format!("s{index}"));
            }
            if self.flags {
                writeln!(source, "\t.section __kflagstab,\"a\"\n\t.byte {}", u8::from(*gpl))
                    .unwrap();
            }
            match self.crcs {
                Crcs::None => {}
                Crcs::Literal => {
                    writeln!(source, "\t.section __kcrctab{table},\"a\"\n\t.long {crc}").unwrap();
                }
                Crcs::Symbols => {
                    writeln!(source, "\t.globl __crc_{name}\n\t.set __crc_{name}, {crc}").unwrap();
                    writeln!(source, "\t.section __kcrctab{table},\"a\"\n\t.long __crc_{name}")
                        .unwrap();
                }
            }
        }
        source
    }

    /// An object as a module is one, and a program as vmlinux is one.
    pub fn make(&self, dir: &Path) -> (Vec<u8>, Vec<u8>) {
        let [source, object, module, vmlinux] =
            ["t.s", "t.o", "t.ko", "vmlinux"].map(|name| dir.join(name));
        fs::write(&source, self.source()).unwrap();
        run(Command::new("as").arg("-o").arg(&object).arg(&source)).unwrap();
        run(Command::new("ld").arg("-r").arg("-o").arg(&module).arg(&object)).unwrap();
        run(Command::new("ld").args(["-e", "alpha", "-o"]).arg(&vmlinux).arg(&object)).unwrap();
        (fs::read(&module).unwrap(), fs::read(&vmlinux).unwrap())
    }
}
