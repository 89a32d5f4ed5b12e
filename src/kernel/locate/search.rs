//! Searches the places for the image of one release.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::open;
use super::places::{self, Candidate};
use crate::exit::Exit;
use crate::fail;
use crate::host::{Host, Release};
use crate::kernel::Image;
use crate::kernel::image::{Seen, glance};

/// How many files are looked at. A machine has a handful of kernels.
const MAX_FILES: usize = 128;
/// How many images are unpacked because nothing else tells their release. Each takes seconds.
const MAX_UNPACKED: usize = 4;
/// How many files are named that were not taken.
const MAX_NAMED: usize = 12;

/// The image of kernel `release`: `configured` (kernel.image, its template filled in), or the first
/// that is of this very release, of
/// - /usr/lib/modules/RELEASE/vmlinuz, and the programs (`*.efi`) beside it
/// - /boot/vmlinuz-RELEASE
/// - /usr/boot/vmlinuz and /boot/flatcar/vmlinuz-{a,b}
/// - `*/RELEASE/linux`, where kernel-install(8) puts it; what the boot loader's entries name
///   (`loader/entries/*.conf`); `EFI/Linux/*.efi`: each below /boot, /efi and /boot/efi.
///
/// At the places that are named after the release, an image without a boot header (arm64) is taken
/// by its name: otherwise each boot would have to unpack it. At the others it is unpacked. Whoever
/// opens it sees its release ([`Image::is_for`]).
///
/// # Errors
/// [`Exit::NoKernelSource`]: no image of this release was found. The error names each place, and
/// what is wrong with the files there.
pub fn image(host: &Host, configured: Option<&Path>, release: &Release) -> Result<PathBuf> {
    let mut search = Search::new(release);
    if let Some(path) = configured {
        let path = host.path(path);
        return match search.check(&path, false) {
            Ok(()) => Ok(path),
            Err(error) => fail!(
                Exit::NoKernelSource,
                "kernel {release}: kernel.image is {}: {error:#}; set kernel.image to the image of this very release, or take it out of the configuration: then the image is searched for",
                path.display()
            ),
        };
    }
    let mut empty = Vec::new();
    for place in places::all(release) {
        let contents = place.contents(host, release);
        if contents.problems.is_empty() && !contents.candidates.iter().any(|one| one.path.exists())
        {
            empty.push(place.shown(release));
        }
        search.wrong.extend(contents.problems);
        if let Some(found) = contents.candidates.into_iter().find(|one| search.is_it(one)) {
            return Ok(found.path);
        }
    }
    fail!(
        Exit::NoKernelSource,
        "kernel {release}: no kernel image{}; there is none in {}; mount the boot partition that has it, or set kernel.image to it",
        search.reasons(),
        empty.join(", ")
    );
}

/// Whether this file is the image of kernel `release`.
pub(super) fn is_of(path: &Path, release: &Release) -> bool {
    Search::new(release).check(path, false).is_ok()
}

struct Search<'a> {
    release: &'a Release,
    /// How many files were there.
    files: usize,
    /// How many of them were unpacked.
    unpacked: usize,
    known: HashSet<PathBuf>,
    /// What is wrong with those files, and with places.
    wrong: Vec<String>,
}

impl Search<'_> {
    fn new(release: &Release) -> Search<'_> {
        let (known, wrong) = (HashSet::new(), Vec::new());
        Search { release, files: 0, unpacked: 0, known, wrong }
    }

    /// Whether the candidate is the image. If not, why not is noted.
    fn is_it(&mut self, candidate: &Candidate) -> bool {
        // An entry of the boot loader may name a file of another place.
        if !self.known.insert(candidate.path.clone()) {
            return false;
        }
        if self.files >= MAX_FILES {
            self.files += 1;
            return false;
        }
        match self.check(&candidate.path, candidate.named) {
            Ok(()) => return true,
            Err(error) if is_missing(&error) => return false,
            Err(error) => self.wrong.push(format!("{}: {error:#}", candidate.path.display())),
        }
        self.files += 1;
        false
    }

    /// Checks that the file is an image of the release. The error says what it is instead. A file
    /// that is `named` after the release is not unpacked for this check.
    fn check(&mut self, path: &Path, named: bool) -> Result<()> {
        let file = open(path)?;
        let (mut others, mut silent) = (Vec::new(), false);
        for seen in glance(&file)? {
            match seen {
                Seen::Is(found) if found == *self.release => return Ok(()),
                Seen::Is(found) => others.push(format!("is of kernel {found}")),
                Seen::Says(Some(found)) if found != *self.release => {
                    others.push(format!("is of kernel {found}, as .uname says"));
                }
                Seen::Says(_) => silent = true,
                Seen::Wrong(error) => others.push(format!("{error:#}")),
            }
        }
        if !silent {
            bail!(others.join(" and "));
        }
        if named {
            return Ok(());
        }
        if self.unpacked >= MAX_UNPACKED {
            bail!(
                "does not say its release, and {MAX_UNPACKED} others were unpacked to see theirs"
            );
        }
        self.unpacked += 1;
        let image = Image::read(&file, Some(self.release))?;
        image.release().context("an image that does not say its release")?;
        image.is_for(self.release)
    }

    /// What is wrong with what was found, for the message.
    fn reasons(&self) -> String {
        let mut reasons: String =
            self.wrong.iter().take(MAX_NAMED).map(|reason| format!("; {reason}")).collect();
        if self.wrong.len() > MAX_NAMED {
            reasons += &format!("; {} more are not of this kernel", self.wrong.len() - MAX_NAMED);
        }
        if self.files > MAX_FILES {
            reasons += &format!("; {} more were not looked at", self.files - MAX_FILES);
        }
        reasons
    }
}

fn is_missing(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|e| e.kind() == std::io::ErrorKind::NotFound)
}
