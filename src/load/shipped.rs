//! Whether the operating system ships a module: the one check, for the loader, the builder,
//! provisioning and `zfs-prefix status`. A file's name says nothing: weak-modules(8) leaves links to
//! modules of earlier kernels.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::state::{self, State};
use super::system::System;
use crate::compress::{Compression, Tail, unpack_into};
use crate::host::links::End;
use crate::module::{Head, read_head, read_head_of_file};

/// No packed module is larger.
const MAX_PACKED: u64 = 64 << 20;
/// No module is larger unpacked. With the window below, this is the memory that a file may take.
const MAX_MODULE: usize = 128 << 20;
/// Dictionaries and windows: that of xz's highest level. Kbuild's own have 2 MiB.
const MAX_WINDOW: usize = 64 << 20;
/// No more files of one name are looked at, and no deeper dependencies.
const MOST: usize = 16;
/// A module of the kernel's own that is no larger than this can be read cheaply, even if it is
/// compressed.
const SMALL: u64 = 64 << 10;

/// What the operating system has under the name of a module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ships {
    /// Its module for this kernel.
    pub module: Option<Shipped>,
    /// Files that are none, though they have its name.
    pub others: Vec<NotCounted>,
}

/// A module that the operating system ships for a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Shipped {
    /// The file.
    pub path: PathBuf,
    /// Whether modprobe(8) will find it: it is in modules.dep.
    pub indexed: bool,
}

/// A file that is not counted as a module of the operating system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct NotCounted {
    /// The file.
    pub path: PathBuf,
    /// Its version magic; null if it has none, or none that can be read.
    pub vermagic: Option<String>,
    /// Why it does not count.
    pub why: String,
}

impl fmt::Display for NotCounted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.path.display(), self.why)
    }
}

/// Why a file does not count, and its version magic.
type Why = (Option<String>, String);

impl System<'_> {
    /// What the operating system has for `name`. A file counts if, at the end of all links and
    /// decompressed, it is a module for this kernel and this machine. So have to be the files of the
    /// modules that it depends on, as far as the system has some.
    ///
    /// # Errors
    /// A module directory cannot be read.
    pub(super) fn ships(&self, name: &str) -> Result<Ships> {
        let mut ships = Ships::default();
        for (path, indexed) in self.candidates(name)? {
            let judged =
                self.judge(&path).and_then(|head| self.depends(&head, &mut vec![name.to_owned()]));
            let path = self.host.path(&path);
            match judged {
                Ok(()) => {
                    ships.module = Some(Shipped { path, indexed });
                    break;
                }
                Err((vermagic, why)) => ships.others.push(NotCounted { path, vermagic, why }),
            }
        }
        Ok(ships)
    }

    /// The files with the name of this module, those of modules.dep first, and whether they are in
    /// it.
    fn candidates(&self, name: &str) -> Result<Vec<(PathBuf, bool)>> {
        let mut found: Vec<(PathBuf, bool)> =
            self.indexed(name).into_iter().map(|path| (path, true)).collect();
        for path in self.out_of_tree(name)? {
            if !found.iter().any(|(known, _)| *known == path) {
                found.push((path, false));
            }
        }
        found.truncate(MOST);
        Ok(found)
    }

    /// The head of a module file that is for this kernel.
    fn judge(&self, path: &Path) -> Result<Head, Why> {
        let (leads, file, metadata) = self.opened(path).map_err(|why| (None, why))?;
        let head = read(file, metadata.len(), MAX_PACKED)
            .map_err(|e| (None, format!("{leads}cannot be read as a module: {e:#}")))?;
        let Some(vermagic) = head.info.vermagic() else {
            return Err((None, format!("{leads}has no version magic")));
        };
        let said = vermagic.to_string();
        let no = |why: String| Err((Some(said.clone()), format!("{leads}{why}")));
        if vermagic.release != self.release.as_str() {
            return no(format!(
                "is for another kernel: its version magic is {said:?}, this kernel is {}",
                self.release
            ));
        }
        if !head.native {
            return no(format!("is for another kind of machine (version magic {said:?})"));
        }
        match self.own_vermagic() {
            Some(own) if *own != said => no(format!(
                "is for another build of this kernel: its version magic is {said:?}, that of the kernel's own modules {own:?}"
            )),
            _ => Ok(head),
        }
    }

    /// The file at the end of all links, and how to say that it is another than `path`.
    fn opened(&self, path: &Path) -> Result<(String, File, Metadata), String> {
        let way = self.end_of(path);
        let end = self.host.path(&way.path);
        let leads = if way.path == *path {
            String::new()
        } else {
            format!("leads to {}, which ", end.display())
        };
        match way.end {
            End::Here(metadata) if metadata.is_file() => match File::open(end) {
                Ok(file) => Ok((leads, file, metadata)),
                Err(e) => Err(format!("{leads}cannot be read: {e}")),
            },
            End::Here(_) => Err(format!("{leads}is no regular file")),
            End::Nothing | End::Later => Err(format!("{leads}does not exist")),
        }
    }

    /// Looks at the files of what a module depends on. A dependency that is in the kernel, or of
    /// which the system has no file, does not matter here. `seen` are the modules on the way.
    fn depends(&self, head: &Head, seen: &mut Vec<String>) -> Result<(), Why> {
        let vermagic = || head.info.vermagic().map(|v| v.to_string());
        for name in head.info.depends() {
            if seen.contains(&name) || seen.len() > MOST || self.is_in_kernel(&name) {
                continue;
            }
            let files = self.candidates(&name).map_err(|e| (vermagic(), format!("{e:#}")))?;
            seen.push(name.clone());
            let mut last = None;
            for (path, _) in files {
                let judged = self.judge(&path).and_then(|head| self.depends(&head, seen));
                let path = self.host.path(&path);
                last = judged.err().map(|(_, why)| format!("{} {why}", path.display()));
                if last.is_none() {
                    break;
                }
            }
            if let Some(why) = last {
                return Err((vermagic(), format!("depends on {name}, but {why}")));
            }
        }
        Ok(())
    }

    fn is_in_kernel(&self, name: &str) -> bool {
        self.release == self.host.kernel_release && state::of(self.host, name) != State::Absent
    }

    /// The version magic of a module that came with the kernel, if one can be read cheaply.
    fn own_vermagic(&self) -> Option<&String> {
        let found = self.vermagic.get_or_init(|| {
            self.own().take(MOST).find_map(|path| {
                let (_, file, metadata) = self.opened(&path).ok()?;
                let head = read(file, metadata.len(), SMALL).ok()?;
                let vermagic = head.info.vermagic()?;
                (vermagic.release == self.release.as_str()).then(|| vermagic.to_string())
            })
        });
        found.as_ref()
    }
}

/// Reads the head of a module file of this size; if it is compressed, only up to `most` bytes.
fn read(mut file: File, size: u64, most: u64) -> Result<Head> {
    let mut magic = [0; 6];
    let n = file.read(&mut magic)?;
    if Compression::of(&magic[..n]).is_none() {
        return read_head_of_file(&file);
    }
    ensure!(size <= most, "{size} bytes: no packed module is so large");
    file.rewind()?;
    let (mut packed, mut plain) = (Vec::new(), Vec::new());
    file.take(most).read_to_end(&mut packed).context("reading")?;
    unpack_into(&mut plain, &packed, Tail::Streams, MAX_MODULE, MAX_WINDOW)?;
    drop(packed);
    read_head(&plain)
}
