//! Module files that are made up: an ELF object with a `.modinfo`, and nothing in it.

use object::write::{Object, StandardSegment};
use object::{Architecture, BinaryFormat, Endianness, SectionKind};

/// `uname -r`.
pub fn running() -> String {
    let uname = nix::sys::utsname::uname().unwrap();
    uname.release().to_str().unwrap().to_owned()
}

/// The version magic of a module for kernel `release`.
pub fn vermagic(release: &str) -> String {
    format!("{release} SMP preempt mod_unload modversions ")
}

/// A module with this version magic, which depends on these (with commas between them).
pub fn module(vermagic: &str, depends: &str) -> Vec<u8> {
    let machine =
        if cfg!(target_arch = "aarch64") { Architecture::Aarch64 } else { Architecture::X86_64 };
    module_for(machine, vermagic, depends)
}

/// A module for another machine than this one.
pub fn foreign(vermagic: &str) -> Vec<u8> {
    module_for(Architecture::Riscv64, vermagic, "")
}

fn module_for(machine: Architecture, vermagic: &str, depends: &str) -> Vec<u8> {
    let mut object = Object::new(BinaryFormat::Elf, machine, Endianness::Little);
    let segment = object.segment_name(StandardSegment::Data).to_vec();
    let section = object.add_section(segment, ".modinfo".into(), SectionKind::ReadOnlyData);
    let info = format!("license=CDDL\0depends={depends}\0vermagic={vermagic}\0");
    object.append_section_data(section, info.as_bytes(), 1);
    object.write().unwrap()
}
