//! Reads what ld.so(8) reads of an ELF file: interpreter, run paths, needed libraries (elf(5)). It
//! reads only the headers and the dynamic section, so a compiler of 90 MB takes as long as `true`.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use object::elf::{self, FileHeader64};
use object::read::elf::{Dyn, FileHeader, ProgramHeader};
use object::{Endianness, ReadCache, ReadRef};

/// The machine that programs run on here. Files for other machines are not checked.
const MACHINE: elf::Machine =
    if cfg!(target_arch = "aarch64") { elf::EM_AARCH64 } else { elf::EM_X86_64 };
/// No dynamic section or interpreter name is larger. The bound is for hostile files.
const MAX_SEGMENT: u64 = 1 << 20;
/// The maximum number of entries of one kind in a dynamic section.
const MAX_ENTRIES: usize = 4096;

/// The use of an ELF file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A program with an interpreter.
    Program,
    /// A file that programs map: a shared object (even if it has an interpreter, as libc does), or
    /// the interpreter itself.
    Library,
    /// A program that needs no interpreter.
    Static,
    /// A relocatable object.
    Object,
    /// For another machine, or a core dump.
    Foreign,
}

/// The parts of an ELF file that decide what ld.so maps with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Elf {
    pub kind: Kind,
    /// PT_INTERP.
    pub interpreter: Option<PathBuf>,
    /// DT_RPATH, split at colons.
    pub rpath: Vec<PathBuf>,
    /// DT_RUNPATH, split at colons.
    pub runpath: Vec<PathBuf>,
    /// DT_NEEDED.
    pub needed: Vec<PathBuf>,
    /// DT_SONAME.
    pub soname: Option<PathBuf>,
    /// Other files that ld.so maps for it: DT_AUDIT, DT_DEPAUDIT, DT_AUXILIARY, DT_FILTER.
    pub besides: Vec<PathBuf>,
}

/// Tags whose strings name files for [`Elf::besides`].
const BESIDES: [elf::DynamicTag; 4] =
    [elf::DT_AUDIT, elf::DT_DEPAUDIT, elf::DT_AUXILIARY, elf::DT_FILTER];

impl Elf {
    /// A file of this kind that names nothing.
    pub(crate) fn bare(kind: Kind) -> Elf {
        Elf {
            kind,
            interpreter: None,
            rpath: vec![],
            runpath: vec![],
            needed: vec![],
            soname: None,
            besides: vec![],
        }
    }

    /// Reads `file` from its beginning; `None` if it is no ELF file.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub(crate) fn open(file: &File) -> Result<Option<Elf>> {
        let mut head = [0; 64];
        let read = file.read_at(&mut head, 0).context("reading")?;
        if head[..read].starts_with(b"\x7fELF") {
            Elf::read(&head[..read], file).map(Some)
        } else {
            Ok(None)
        }
    }

    /// Reads an ELF file that begins with `head`.
    ///
    /// # Errors
    /// Its headers contradict themselves or end too early.
    pub(crate) fn read(head: &[u8], file: &File) -> Result<Elf> {
        // e_ident: class and byte order (elf(5)). Both machines are 64-bit and little-endian.
        if head.get(4..6) != Some(&[2, 1]) {
            return Ok(Elf::bare(Kind::Foreign));
        }
        let data = ReadCache::new(file);
        let header = FileHeader64::<Endianness>::parse(&data).context("ELF header")?;
        let endian = header.endian().context("ELF header")?;
        match header.e_type(endian) {
            _ if header.e_machine(endian) != MACHINE => return Ok(Elf::bare(Kind::Foreign)),
            elf::ET_REL => return Ok(Elf::bare(Kind::Object)),
            elf::ET_EXEC | elf::ET_DYN => {}
            _ => return Ok(Elf::bare(Kind::Foreign)),
        }
        ensure!(header.e_phnum(endian) < 1024, "{} program headers", header.e_phnum(endian));
        let segments = Segments {
            headers: header.program_headers(endian, &data).context("program headers")?,
            endian,
            data: &data,
        };
        let mut found = Elf::bare(Kind::Static);
        found.interpreter = segments.interpreter()?;
        let position_independent = segments.dynamic(&mut found)?;
        found.kind = match (header.e_type(endian), &found.interpreter) {
            (elf::ET_EXEC, Some(_)) => Kind::Program,
            (elf::ET_EXEC, None) => Kind::Static,
            (_, Some(_)) if position_independent || found.soname.is_none() => Kind::Program,
            (_, None) if position_independent => Kind::Static,
            _ => Kind::Library,
        };
        Ok(found)
    }
}

struct Segments<'data> {
    headers: &'data [elf::ProgramHeader64<Endianness>],
    endian: Endianness,
    data: &'data ReadCache<&'data File>,
}

impl Segments<'_> {
    /// The segment of this kind. Two segments of one kind are an error: the kernel may take one and
    /// ld.so the other. No linker makes such a file.
    fn segment(&self, kind: elf::ProgramType) -> Result<Option<&elf::ProgramHeader64<Endianness>>> {
        let mut all = self.headers.iter().filter(|h| h.p_type(self.endian) == kind);
        let found = all.next();
        ensure!(all.next().is_none(), "two segments {kind:?}");
        if let Some(header) = found {
            let size = header.p_filesz(self.endian);
            ensure!(size <= MAX_SEGMENT, "a segment {kind:?} of {size} bytes");
        }
        Ok(found)
    }

    fn interpreter(&self) -> Result<Option<PathBuf>> {
        let Some(header) = self.segment(elf::PT_INTERP)? else { return Ok(None) };
        let bytes = header.interpreter(self.endian, self.data).context("PT_INTERP")?;
        Ok(bytes.map(path))
    }

    /// Reads the dynamic section. Returns whether DF_1_PIE is set.
    fn dynamic(&self, into: &mut Elf) -> Result<bool> {
        let Some(header) = self.segment(elf::PT_DYNAMIC)? else { return Ok(false) };
        let entries = header.dynamic(self.endian, self.data).context("PT_DYNAMIC")?;
        let entries: Vec<(elf::DynamicTag, u64)> = entries
            .unwrap_or_default()
            .iter()
            .map(|entry| (entry.d_tag(self.endian), entry.d_val(self.endian)))
            .take_while(|(tag, _)| *tag != elf::DT_NULL)
            .collect();
        let value = |wanted| entries.iter().find(|(tag, _)| *tag == wanted).map(|(_, v)| *v);
        // ld.so takes the last entry of a kind, `value` the first.
        for once in [elf::DT_STRTAB, elf::DT_SONAME, elf::DT_RPATH, elf::DT_RUNPATH] {
            let count = entries.iter().filter(|(tag, _)| *tag == once).count();
            ensure!(count < 2, "{once:?} stands {count} times in the dynamic section");
        }
        let flags = value(elf::DT_FLAGS_1).unwrap_or(0);
        let table = value(elf::DT_STRTAB);
        for &(tag, offset) in &entries {
            let besides = BESIDES.contains(&tag);
            let named = [elf::DT_NEEDED, elf::DT_SONAME, elf::DT_RPATH, elf::DT_RUNPATH];
            if !besides && !named.contains(&tag) {
                continue;
            }
            let text = self.string(table.context("no DT_STRTAB")?, offset)?;
            let split = || text.split(|byte| *byte == b':').map(path);
            ensure!(into.needed.len() < MAX_ENTRIES, "too many needed libraries");
            ensure!(into.besides.len() < MAX_ENTRIES, "too many filters");
            match tag {
                _ if besides => into.besides.push(path(text)),
                elf::DT_NEEDED => into.needed.push(path(text)),
                elf::DT_SONAME => into.soname = Some(path(text)),
                elf::DT_RPATH => into.rpath = split().collect(),
                _ => into.runpath = split().collect(),
            }
        }
        Ok(flags & 0x0800_0000 != 0)
    }

    /// The string at `offset` of the table at the address `table`.
    fn string(&self, table: u64, offset: u64) -> Result<&[u8]> {
        let address = table.checked_add(offset).context("DT_STRTAB")?;
        for header in self.headers.iter().filter(|h| h.p_type(self.endian) == elf::PT_LOAD) {
            let begin = header.p_vaddr(self.endian);
            let size = header.p_filesz(self.endian);
            if let Some(within) = address.checked_sub(begin).filter(|within| *within < size) {
                let file = header.p_offset(self.endian);
                let at = file.checked_add(within).context("DT_STRTAB")?;
                let end = file.checked_add(size).context("DT_STRTAB")?;
                let end = end.min(self.data.len().unwrap_or(0));
                let text = self.data.read_bytes_at_until(at..end, 0);
                return text.ok().context("a string of the dynamic section has no end");
            }
        }
        anyhow::bail!("DT_STRTAB is in no segment")
    }
}

fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn programs_libraries_and_the_interpreter_itself_are_told_apart() {
        let read = |path: &std::path::Path| {
            let mut file = File::open(path).unwrap();
            let mut head = [0; 64];
            file.read_exact(&mut head).unwrap();
            Elf::read(&head, &file).unwrap()
        };
        let own = read(&std::env::current_exe().unwrap());
        assert_eq!(own.kind, Kind::Program);
        let interpreter = own.interpreter.expect("tests are linked dynamically");
        let interpreter = read(&interpreter);
        assert_eq!(interpreter.kind, Kind::Library);
        assert!(interpreter.soname.is_some() && interpreter.needed.is_empty());
        assert!(own.needed.contains(&PathBuf::from("libc.so.6")), "{:?}", own.needed);
    }

    #[test]
    fn a_torn_or_lying_file_is_an_error_and_never_a_panic() {
        let whole = std::fs::read("/proc/self/exe").unwrap();
        let whole = &whole[..whole.len().min(1 << 16)];
        let read = |bytes: &[u8]| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(bytes).unwrap();
            Elf::read(&bytes[..bytes.len().min(64)], &file)
        };
        assert!(read(&whole[..80]).is_err());
        for at in 16..600 {
            for value in [0, 0x7f, 0xff] {
                let mut bytes = whole.to_vec();
                bytes[at] = value;
                drop(read(&bytes));
            }
        }
    }
}
