//! The modules that come with a kernel: their exports, and the CRCs that they were built against.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Error, Result, anyhow, bail, ensure};

use super::check::Versions;
use super::{Exported, Symvers};
use crate::compress::{Compression, Tail, unpack_into};
use crate::module::{Export, SUFFIXES, read_tables};

/// No module that comes with a kernel is larger unpacked; the largest have 30 MiB. Each thread has
/// one module in memory, packed and unpacked, and the decoder's window: 256 MiB, 1 GiB for all.
const MAX_MODULE: usize = 128 << 20;
/// No packed module is larger.
const MAX_PACKED: usize = 64 << 20;
/// Dictionaries and windows: that of xz's highest level. Kbuild's own have 2 MiB.
const MAX_WINDOW: usize = 64 << 20;
/// The maximum number of threads. It bounds the memory, too.
const MAX_JOBS: usize = 4;
/// No kernel has more module files: distributions have 5,000.
const MAX_FILES: usize = 100_000;
/// The maximum depth of directories; kernels have eight levels.
const MAX_DEPTH: usize = 32;

/// What was read from all modules.
pub(super) struct Found {
    /// Owner and exports, by owner; only modules that export something.
    exports: Vec<(String, Vec<Export>)>,
    pub(super) versions: Versions,
    /// Why some modules were not read; each error names its file. Empty if `strict`.
    pub(super) skipped: Vec<Error>,
}

/// How modules are read.
#[derive(Clone, Copy)]
pub(super) struct How<'a> {
    /// All modules have to be for this release, if it is known.
    pub(super) release: Option<&'a str>,
    /// Threads.
    pub(super) jobs: usize,
    /// Keep the CRCs that they were built against.
    pub(super) versions: bool,
    /// A module that cannot be read is an error. Otherwise it is skipped.
    pub(super) strict: bool,
}

impl Found {
    /// Puts the exports into the table, and returns the versions.
    pub(super) fn add_to(self, symvers: &mut Symvers) -> Versions {
        for (owner, exports) in self.exports {
            for export in exports {
                symvers.insert(Exported { owner: owner.clone(), export });
            }
        }
        self.versions
    }
}

/// A module file.
struct Shipped {
    path: PathBuf,
    /// Its path below `kernel/` without suffix: the owner in Module.symvers.
    owner: String,
    size: u64,
}

/// Reads every module below `dir`/kernel.
pub(super) fn read(dir: &Path, how: How<'_>) -> Result<Found> {
    let (files, mut skipped) = files(&dir.join("kernel"))?;
    if how.strict && !skipped.is_empty() {
        return Err(skipped.swap_remove(0));
    }
    // The largest modules first, so that no thread begins a large one at the end.
    let mut order: Vec<usize> = (0..files.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(files[index].size));
    let work = Work {
        files: &files,
        order: &order,
        next: AtomicUsize::new(0),
        failed: AtomicBool::new(false),
        how,
    };
    let jobs = how.jobs.clamp(1, MAX_JOBS).min(files.len().max(1));
    let results: Vec<Result<Part>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (1..jobs).map(|_| scope.spawn(|| work.run())).collect();
        let mut results = vec![work.run()];
        let joined = threads.into_iter().map(|thread| match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        results.extend(joined);
        results
    });
    let mut found = Found { exports: Vec::new(), versions: Versions::default(), skipped };
    for part in results {
        let part = part?;
        found.skipped.extend(part.skipped);
        found.exports.extend(part.exports);
        found.versions.merge(part.versions);
    }
    found.exports.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

/// What one thread has read.
#[derive(Default)]
struct Part {
    exports: Vec<(String, Vec<Export>)>,
    versions: Versions,
    skipped: Vec<Error>,
}

struct Work<'a> {
    files: &'a [Shipped],
    order: &'a [usize],
    next: AtomicUsize,
    failed: AtomicBool,
    how: How<'a>,
}

impl Work<'_> {
    fn run(&self) -> Result<Part> {
        let mut part = Part::default();
        let (mut file, mut plain) = (Vec::new(), Vec::new());
        while !self.failed.load(Ordering::Relaxed) {
            let Some(&index) = self.order.get(self.next.fetch_add(1, Ordering::Relaxed)) else {
                break;
            };
            let module = &self.files[index];
            let Err(error) = self.module(module, &mut file, &mut plain, &mut part) else {
                continue;
            };
            let error = error.context(format!("{}", module.path.display()));
            if self.how.strict {
                self.failed.store(true, Ordering::Relaxed);
                return Err(error);
            }
            part.skipped.push(error);
        }
        Ok(part)
    }

    fn module(
        &self,
        module: &Shipped,
        file: &mut Vec<u8>,
        plain: &mut Vec<u8>,
        part: &mut Part,
    ) -> Result<()> {
        for buffer in [&mut *file, &mut *plain] {
            buffer.clear();
            // One large module must not keep both buffers large.
            buffer.shrink_to(MAX_PACKED);
        }
        File::open(&module.path)?.take(MAX_MODULE as u64 + 1).read_to_end(file)?;
        ensure!(file.len() <= MAX_MODULE, "larger than any module of a kernel");
        let bytes = match Compression::of(file) {
            Some(_) => {
                ensure!(file.len() <= MAX_PACKED, "larger than any packed module of a kernel");
                unpack_into(plain, file, Tail::Streams, MAX_MODULE, MAX_WINDOW)?;
                &plain[..]
            }
            None => &file[..],
        };
        let tables = read_tables(bytes)?;
        let vermagic = tables.info.vermagic().context("no vermagic: not a kernel module")?;
        if let Some(release) = self.how.release
            && vermagic.release != release
        {
            bail!("a module for kernel {}; the image is {release}", vermagic.release);
        }
        if self.how.versions {
            part.versions.add(&module.owner, tables.versions);
        }
        if !tables.exports.is_empty() {
            part.exports.push((module.owner.clone(), tables.exports));
        }
        Ok(())
    }
}

/// The module files below `dir`, by owner, and an error for each file that only looks like one.
fn files(dir: &Path) -> Result<(Vec<Shipped>, Vec<Error>)> {
    let (mut files, mut skipped) = (Vec::new(), Vec::new());
    walk(dir, "", 0, &mut files, &mut skipped)?;
    ensure!(!files.is_empty() || !skipped.is_empty(), "{}: no modules in it", dir.display());
    files.sort_by(|a, b| (&a.owner, &a.path).cmp(&(&b.owner, &b.path)));
    Ok((files, skipped))
}

/// Does not follow links to directories: no kernel installs any, and they could form a loop.
fn walk(
    dir: &Path,
    prefix: &str,
    depth: usize,
    files: &mut Vec<Shipped>,
    skipped: &mut Vec<Error>,
) -> Result<()> {
    let shown = || format!("{}", dir.display());
    ensure!(depth < MAX_DEPTH, "{}: directories {MAX_DEPTH} deep", dir.display());
    for entry in fs::read_dir(dir).with_context(shown)? {
        let entry = entry.with_context(shown)?;
        let path = entry.path();
        let name = entry.file_name();
        let kind = entry.file_type().with_context(|| format!("{}", path.display()))?;
        let name = name.to_str().filter(|n| n.bytes().all(|b| b.is_ascii_graphic()));
        let stem = name.and_then(|n| SUFFIXES.iter().find_map(|s| n.strip_suffix(s)));
        match (kind.is_dir(), name, stem) {
            (true, Some(name), _) => {
                walk(&path, &format!("{prefix}{name}/"), depth + 1, files, skipped)?;
            }
            (true, None, _) => {
                skipped.push(anyhow!("{}: not a name a kernel gives", path.display()));
            }
            (false, _, Some(stem)) => {
                let many = files.len() + skipped.len();
                ensure!(many < MAX_FILES, "{}: too many modules", dir.display());
                match size(&path) {
                    Ok(size) => {
                        files.push(Shipped { path, owner: format!("{prefix}{stem}"), size });
                    }
                    Err(error) => skipped.push(error.context(format!("{}", path.display()))),
                }
            }
            (false, _, None) => {}
        }
    }
    Ok(())
}

fn size(path: &Path) -> Result<u64> {
    let meta = fs::metadata(path)?;
    ensure!(meta.is_file(), "not a regular file");
    Ok(meta.len())
}
