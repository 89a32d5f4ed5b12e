//! What will be built, and from which inputs. Everything that decides the result is known before
//! anything is compiled.

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::packages::PROGRAMS;
use super::recipe::Recipe;
use super::tree::{self, Candidates};
use crate::config::{Settings, Userland, expand_release};
use crate::exit::{self, Exit, Failure, WithExit};
use crate::host::{Host, Release};
use crate::kernel::build_id;
use crate::prefix::Prefix;
use crate::prefix::origin::archive_of;
use crate::process::{Cancel, Run};
use crate::store::{Digest, Inputs};
use crate::userland::choice::Choice;

/// Raise this when a recipe does something else and its other inputs do not show it.
const RECIPE_VERSION: &str = "6";

/// A build, planned.
#[derive(Debug)]
pub struct Plan {
    /// GNU build-id of that kernel.
    pub build_id: String,
    /// The ways to get its build tree. The inputs of a build, and its key, depend on the way.
    pub trees: Candidates,
    /// The prefix it is built in.
    pub prefix: Prefix,
    /// The prefix's compiler, as it names itself.
    pub compiler: String,
    /// How the modules are made.
    pub recipe: Recipe,
    /// Whose programs will be used with the modules.
    pub userland: Choice,
}

impl Plan {
    /// Looks at the machine and makes the plan. Changes nothing.
    ///
    /// # Errors
    /// Something is missing: the kernel's tree, image or symvers, or the prefix. Each has its
    /// status.
    pub fn make(
        host: &Host,
        settings: &Settings,
        release: &Release,
        exe: &Path,
        cancel: &Cancel,
    ) -> Result<Plan> {
        let build_id = kernel_build_id(host, settings, release)?;
        let prefix = Prefix::open(&settings.prefix.path)?;
        let compiler = prefix.compiler(cancel)?;
        let mut inputs = Inputs::new();
        inputs.add("kernel-release", release.as_str());
        inputs.add("kernel-build-id", &*build_id);
        inputs.add("compiler", &*compiler);
        inputs.add("recipe-version", RECIPE_VERSION);
        let userland = Choice::of(host, settings.zfs.userland);
        inputs.add("userland", userland.identity());
        // Programs are published with libraries of the prefix. Another prefix may have fixed ones.
        if settings.zfs.userland != Userland::Host
            && let Some(archive) = archive_of(&prefix.path)
        {
            inputs.add("prefix", archive);
        }
        let recipe = Recipe::of(host, settings, release)?;
        recipe_inputs(&recipe, &userland, &prefix, exe, cancel, &mut inputs)?;
        if let Some(binhost) = recipe.binhost() {
            inputs.add("binhost", &*binhost.url);
            inputs.add("binhost-key", binhost.key_digest.as_str());
        }
        let trees = Candidates::of(host, settings, release, &inputs)?;
        Ok(Plan { build_id, trees, prefix, compiler, recipe, userland })
    }

    /// Stands for this plan in a failure record. Other inputs get another key and are tried at
    /// once; one more strategy in the configuration is enough.
    pub fn key(&self) -> String {
        match &self.trees.possible[..] {
            [only] => only.key.clone(),
            several => {
                let keys: Vec<&str> = several.iter().map(|c| c.key.as_str()).collect();
                Digest::of(keys.join(" ").as_bytes()).as_str()[..32].to_owned()
            }
        }
    }
}

/// The build-id of kernel `release`. If the kernel has neither image nor tree, the error names
/// both.
///
/// # Errors
/// As [`build_id`].
pub(super) fn kernel_build_id(
    host: &Host,
    settings: &Settings,
    release: &Release,
) -> Result<String> {
    let image = settings.kernel.image.as_ref().map(|t| expand_release(t, release));
    build_id(host, image.as_deref(), release).map_err(|error| {
        match tree::why_none(host, settings, release) {
            Some(why) => Failure::new(exit::of(&error), format!("{error:#}\n{why}")).into(),
            None => error,
        }
    })
}

fn recipe_inputs(
    recipe: &Recipe,
    userland: &Choice,
    prefix: &Prefix,
    exe: &Path,
    cancel: &Cancel,
    inputs: &mut Inputs,
) -> Result<()> {
    let digest = |args: &[&str]| digest_as_owner(prefix, exe, args, cancel);
    match recipe {
        Recipe::Portage { atoms, .. } => {
            inputs.add("recipe", "portage");
            let eprefix = prefix.path.to_string_lossy();
            let mut args = vec!["--packages", &eprefix];
            args.extend(atoms.iter().map(String::as_str));
            args.extend(userland.needs_prefix().then_some(PROGRAMS));
            inputs.add("packages", digest(&args)?);
            inputs.add("atoms", atoms.join(" "));
        }
        Recipe::Make { .. } => inputs.add("recipe", "make"),
    }
    inputs.add("configure", recipe.configure().join(" "));
    match recipe.source().map(|source| (source, source.path())) {
        Some((_, Some(path))) => {
            inputs.add("zfs-source", digest(&["--digest", &path.to_string_lossy()])?);
        }
        Some((source, None)) => inputs.add("zfs-source", source.identity()),
        None => {}
    }
    Ok(())
}

/// The digest of files that belong to the prefix's owner. They are read with the owner's rights:
/// this program runs itself as that user (`zfs-build --digest PATH…`, `zfs-build --packages …`).
fn digest_as_owner(prefix: &Prefix, exe: &Path, args: &[&str], cancel: &Cancel) -> Result<String> {
    let out = Run::new(exe)
        .args(args)
        .user(prefix.user)
        .output(cancel)
        .context("reading the recipe")
        .exit(Exit::PrefixIncomplete)?;
    Ok(out.trim().to_owned())
}

/// The digest of files and directories: names below each path, and contents. Follows links.
///
/// # Errors
/// Something cannot be read.
pub fn digest_paths(paths: &[PathBuf]) -> Result<Digest> {
    fn add(path: &Path, name: &Path, depth: usize, all: &mut Vec<u8>) -> Result<()> {
        let shown = || format!("{}", path.display());
        anyhow::ensure!(depth < 32, "{}: links in a circle?", path.display());
        if path.is_dir() {
            let mut names: Vec<_> = std::fs::read_dir(path)
                .and_then(|d| d.map(|e| e.map(|e| e.file_name())).collect())
                .with_context(shown)?;
            names.sort();
            for entry in names {
                add(&path.join(&entry), &name.join(&entry), depth + 1, all)?;
            }
            return Ok(());
        }
        // Do not wait for a FIFO. Do not read a device: it may have no end.
        let open = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        let file = open.with_context(shown)?;
        let regular = file.metadata().with_context(shown)?.is_file();
        anyhow::ensure!(regular, "{}: neither a file nor a directory", path.display());
        let (digest, _) = crate::store::file_digest(file).with_context(shown)?;
        all.extend_from_slice(name.as_os_str().as_bytes());
        all.push(0);
        all.extend_from_slice(digest.as_str().as_bytes());
        Ok(())
    }
    let mut all = Vec::new();
    for path in paths {
        add(path, Path::new(path.file_name().unwrap_or_default()), 0, &mut all)?;
    }
    Ok(Digest::of(&all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_sees_names_contents_and_what_links_point_to() {
        let dir = tempfile::tempdir().unwrap();
        let d = dir.path().join("d");
        std::fs::create_dir(&d).unwrap();
        std::fs::write(d.join("a"), "1").unwrap();
        let seen = || digest_paths(std::slice::from_ref(&d)).unwrap();
        let mut all = vec![seen()];
        std::fs::write(d.join("a"), "2").unwrap();
        all.push(seen());
        std::fs::rename(d.join("a"), d.join("b")).unwrap();
        all.push(seen());
        std::fs::write(dir.path().join("outside"), "3").unwrap();
        std::os::unix::fs::symlink("../outside", d.join("link")).unwrap();
        all.push(seen());
        std::fs::write(dir.path().join("outside"), "4").unwrap();
        all.push(seen());
        for i in 1..all.len() {
            assert!(!all[..i].contains(&all[i]), "change {i} was not seen");
        }
        assert!(digest_paths(&[dir.path().join("none")]).is_err());
        nix::unistd::mkfifo(&d.join("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        let special = [d.clone(), "/dev/zero".into()];
        for path in special {
            let error = digest_paths(std::slice::from_ref(&path)).unwrap_err().to_string();
            assert!(error.contains("neither a file nor a directory"), "{path:?}: {error}");
        }
    }
}
