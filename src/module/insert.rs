//! Inserts a module into the kernel, behind a trait: tests need no kernel that accepts the module.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module, init_module};

/// What the kernel gets.
#[derive(Clone, Copy, Debug)]
pub enum Image<'a> {
    /// An open plain file: finit_module(2), which lets the kernel's security modules see where
    /// the module comes from.
    File(&'a File),
    /// A module that was decompressed here: init_module(2).
    Bytes(&'a [u8]),
}

/// Inserts modules.
pub trait Insert {
    /// Inserts the module `name` (only for records) with these parameters.
    ///
    /// # Errors
    /// The errno of init_module(2).
    fn insert(&mut self, name: &str, image: Image<'_>, parameters: &CStr) -> Result<(), Errno>;
}

/// The running kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kernel;

impl Insert for Kernel {
    fn insert(&mut self, _name: &str, image: Image<'_>, parameters: &CStr) -> Result<(), Errno> {
        match image {
            Image::File(file) => finit_module(file, parameters, ModuleInitFlags::empty()),
            Image::Bytes(bytes) => init_module(bytes, parameters),
        }
    }
}

/// For tests: records what is inserted, and answers as configured.
#[derive(Debug, Default)]
pub struct Recorder {
    /// Name, parameters and whether it came as an open file, in order. Includes refused modules.
    pub inserted: Vec<(String, String, bool)>,
    /// The modules that the kernel refuses, each with the errno and the line in the kernel log.
    pub refuse: HashMap<String, (Errno, String)>,
    /// This module becomes live just before it is inserted, as if udev had been faster.
    pub meanwhile: Option<String>,
    /// MODULE_VERSION() of each module that becomes live, if it has one.
    pub version: Option<String>,
    /// An inserted module becomes `live` below this `/sys/module`.
    pub sys_module: PathBuf,
    /// Where the kernel's log lines go.
    pub kmsg: PathBuf,
}

impl Insert for Recorder {
    fn insert(&mut self, name: &str, image: Image<'_>, parameters: &CStr) -> Result<(), Errno> {
        let parameters = parameters.to_string_lossy().into_owned();
        let from_file = matches!(image, Image::File(_));
        self.inserted.push((name.to_owned(), parameters, from_file));
        if self.meanwhile.as_deref() == Some(name) {
            self.make_live(name).map_err(|_| Errno::EIO)?;
        }
        if let Some((errno, line)) = self.refuse.get(name) {
            let record = format!("3,1,1,-;{line}\n");
            let log = File::options().append(true).open(&self.kmsg);
            let written = log.and_then(|mut f| f.write_all(record.as_bytes()));
            return written.map_or(Err(Errno::EIO), |()| Err(*errno));
        }
        self.make_live(name).map_err(|_| Errno::EIO)
    }
}

impl Recorder {
    fn make_live(&self, name: &str) -> std::io::Result<()> {
        let dir = self.sys_module.join(name);
        std::fs::create_dir_all(&dir)?;
        if let Some(version) = &self.version {
            std::fs::write(dir.join("version"), format!("{version}\n"))?;
        }
        std::fs::write(dir.join("initstate"), "live\n")
    }
}
