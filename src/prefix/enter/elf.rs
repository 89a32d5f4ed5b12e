//! How an executable is bound to its prefix: the ELF interpreter and the run path it names
//! (elf(5), ld.so(8)).

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use object::Endianness;
use object::elf::{DT_RPATH, DT_RUNPATH};
use object::read::ReadCache;
use object::read::elf::{ElfFile64, ProgramHeader};

/// What decides the libraries that a dynamic executable gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Binding {
    /// PT_INTERP.
    pub interpreter: PathBuf,
    /// DT_RPATH, which libraries inherit.
    pub rpath: Option<OsString>,
    /// DT_RUNPATH, which they do not.
    pub runpath: Option<OsString>,
}

/// The binding of the open file `file`; none when it is no 64-bit ELF file with an interpreter
/// (a script, a static program, a library).
///
/// # Errors
/// It is such a file, and damaged.
pub fn binding(file: File, path: &Path) -> Result<Option<Binding>> {
    let cache = ReadCache::new(file);
    let Ok(elf) = ElfFile64::<Endianness, _>::parse(&cache) else { return Ok(None) };
    let shown = || format!("{}", path.display());
    let endian = elf.endian();
    let mut interpreter = None;
    for header in elf.elf_program_headers() {
        if let Some(found) = header.interpreter(endian, &cache).with_context(shown)? {
            interpreter = Some(PathBuf::from(OsString::from_vec(found.to_vec())));
        }
    }
    let Some(interpreter) = interpreter else { return Ok(None) };
    let mut found = Binding { interpreter, ..Binding::default() };
    let dynamic = elf.elf_dynamic_table().with_context(shown)?;
    for entry in dynamic.iter() {
        let place = match entry.tag {
            DT_RPATH => &mut found.rpath,
            DT_RUNPATH => &mut found.runpath,
            _ => continue,
        };
        *place = Some(OsString::from_vec(dynamic.string(entry).with_context(shown)?.to_vec()));
    }
    Ok(Some(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_executable_names_its_interpreter_and_others_have_none() {
        let of = |path: &str| binding(File::open(path).unwrap(), Path::new(path)).unwrap();
        let own = std::env::current_exe().unwrap();
        let found = of(own.to_str().unwrap()).expect("this program is dynamic");
        assert!(found.interpreter.is_absolute() && found.interpreter.exists(), "{found:?}");
        assert_eq!(of("/etc/passwd"), None, "no ELF file");
        assert_eq!(of("/dev/null"), None, "an empty one");
    }
}
