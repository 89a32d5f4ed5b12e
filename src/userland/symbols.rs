//! Versions of symbols (Linux Standard Base, "Symbol Versioning"): whether the published libraries
//! define the versions that programs and libraries ask for. Otherwise ld.so(8) refuses to start a
//! program, and nobody would see that before a pool is missed.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use object::Endianness;
use object::elf::{FileHeader64, VER_FLG_WEAK};
use object::read::elf::FileHeader;

use super::LIBRARIES;

/// The most bytes of names in one file, with the size of each record added: real libraries have
/// some thousand. Records may overlap, and all of them may have the same long name.
const EFFORT: usize = 1 << 20;
/// A record of either table (Elfxx_Verneed, Elfxx_Vernaux; those of definitions are as large).
const RECORD: usize = 16;

/// What one file asks for, and what it has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Versions {
    /// Library and version, as `libc.so.6` and `GLIBC_2.38`.
    needs: BTreeSet<(String, String)>,
    /// Versions that it defines. A library without versions has none, and fits everybody.
    defines: BTreeSet<String>,
}

impl Versions {
    /// Reads an ELF file of 64 bits.
    ///
    /// # Errors
    /// Its sections contradict themselves, or have more or longer names than any library.
    pub(crate) fn read(bytes: &[u8]) -> Result<Versions> {
        Versions::parse(bytes).context("versions of symbols")
    }

    fn parse(bytes: &[u8]) -> Result<Versions> {
        let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
        let mut left = EFFORT;
        let mut take = |bytes: usize| -> Result<()> {
            let rest = left.checked_sub(RECORD + bytes);
            left = rest.context("more or longer names than any library has")?;
            Ok(())
        };
        let header = FileHeader64::<Endianness>::parse(bytes)?;
        let endian = header.endian()?;
        let sections = header.sections(endian, bytes)?;
        let mut versions = Versions::default();
        if let Some((mut definitions, link)) = sections.gnu_verdef(endian, bytes)? {
            let strings = sections.strings(endian, bytes, link)?;
            while let Some((_, mut names)) = definitions.next()? {
                // The first is its own; others are those that it builds on.
                let Some(name) = names.next()? else { continue };
                let name = name.name(endian, strings)?;
                take(name.len())?;
                versions.defines.insert(text(name));
            }
        }
        if let Some((mut needs, link)) = sections.gnu_verneed(endian, bytes)? {
            let strings = sections.strings(endian, bytes, link)?;
            while let Some((need, mut names)) = needs.next()? {
                let library = need.file(endian, strings)?;
                take(library.len())?;
                while let Some(name) = names.next()? {
                    let version = name.name(endian, strings)?;
                    take(library.len() + version.len())?;
                    if name.vna_flags.get(endian) & VER_FLG_WEAK != VER_FLG_WEAK {
                        versions.needs.insert((text(library), text(version)));
                    }
                }
            }
        }
        Ok(versions)
    }

    /// The versions that it needs and that `all` published files do not have, in words.
    pub(super) fn missing(&self, all: &BTreeMap<PathBuf, Versions>) -> Vec<String> {
        let lacks = |(library, version): &&(String, String)| {
            let path = Path::new(LIBRARIES).join(OsStr::from_bytes(library.as_bytes()));
            // A library that is not there is reported already.
            let found = all.get(&path).filter(|found| !found.defines.is_empty());
            found.is_some_and(|found| !found.defines.contains(version))
        };
        let missing = self.needs.iter().filter(lacks);
        missing
            .map(|(library, version)| {
                format!("needs {version} of {library}, which the published one does not have: it was made with another C library than this prefix's, or another release of that library")
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path) -> Versions {
        Versions::read(&std::fs::read(path).unwrap()).unwrap()
    }

    #[test]
    fn what_this_machines_programs_need_its_libraries_have_and_a_newer_version_is_missed() {
        let own = read(&std::env::current_exe().unwrap());
        assert!(own.needs.iter().any(|(library, _)| library == "libc.so.6"), "{own:?}");
        let libraries = ["libc.so.6", "libm.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2"];
        let mut all = BTreeMap::new();
        for name in libraries {
            let places = ["/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu"];
            let mut places = places.iter().map(|dir| Path::new(dir).join(name));
            if let Some(path) = places.find(|path| path.exists()) {
                all.insert(Path::new(LIBRARIES).join(name), read(&path));
            }
        }
        assert!(all[Path::new("lib/libc.so.6")].defines.len() > 10);
        assert_eq!(own.missing(&all), [""; 0]);
        let mut newer = own.clone();
        newer.needs.insert(("libc.so.6".into(), "GLIBC_9.99".into()));
        let missing = newer.missing(&all);
        assert_eq!(missing.len(), 1, "{missing:?}");
        assert!(missing[0].starts_with("needs GLIBC_9.99 of libc.so.6"), "{missing:?}");
        // Without versions it takes whoever comes.
        all.insert("lib/libc.so.6".into(), Versions::default());
        assert_eq!(newer.missing(&all), [""; 0]);
    }

    #[test]
    fn records_that_overlap_and_one_long_name_for_all_of_them_are_refused_at_once() {
        // Two files of 50 KB: minutes with the same record, as much memory as there is records times names.
        for (case, bytes) in [
            ("records", &include_bytes!("../../fuzz/found/elf/version-records-that-overlap")[..]),
            ("names", include_bytes!("../../fuzz/found/elf/versions-of-one-long-name")),
        ] {
            let error = format!("{:#}", Versions::read(bytes).expect_err(case));
            assert!(error.contains("more or longer names than any library"), "{case}: {error}");
        }
    }

    #[test]
    fn a_damaged_table_is_an_error_or_another_table_and_never_a_panic() {
        let whole = std::fs::read("/lib/x86_64-linux-gnu/libm.so.6").unwrap();
        assert!(Versions::read(&whole[..100]).is_err());
        for at in (0..whole.len()).step_by(whole.len() / 997) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0xff;
            drop(Versions::read(&bytes));
        }
    }
}
