//! The build tree that the system ships, or that a kernel-devel package has. Its helper programs
//! were linked for another C library, so they are bound to the prefix. If that library is newer
//! than the prefix's, they still cannot run. Then they are compiled again in a copy of the tree.

use std::path::Path;

use anyhow::{Context, Result};
use tracing::info;

use super::from_source::Kernel;
use super::handover::Handover;
use super::{Prepared, Preparing};
use crate::builder::output::reason_of;
use crate::exit::{Exit, WithExit};
use crate::fail;
use crate::kernel::{Image, Kconfig, Tree, guard};
use crate::prefix::enter::Place;
use crate::prefix::owned::read_plain;

/// What `make modules_prepare` needs beside the headers. Packages that support it have these files.
const FOR_PREPARE: [&str; 3] = ["Kbuild", "kernel/bounds.c", "scripts/mod/modpost.c"];
/// At most this many programs are named.
const NAMED: usize = 3;

impl Preparing<'_> {
    /// Returns the tree as it is, or a copy of it with helper programs that were compiled here.
    pub(super) fn shipped(&mut self, tree: &Tree) -> Result<Prepared> {
        self.compiles(tree)?;
        let place = self.prefix.place(&self.work.top, tree, self.steps.cancel)?;
        let broken = self.broken(&place)?;
        if broken.is_empty() {
            let image = self.found.open(self.build_id)?;
            self.check(tree, &place, image.as_ref())?;
            return Ok(Prepared { tree: tree.clone(), place, made_in: None });
        }
        let named = broken.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
        if let Some(missing) = FOR_PREPARE.iter().find(|name| !tree.source.join(name).exists()) {
            fail!(
                Exit::PrefixIncomplete,
                "{}: its programs cannot run in the prefix ({named}), and cannot be compiled anew because it has no {missing}; a prefix with a newer C library could run them",
                tree.output.display()
            );
        }
        info!("the tree's own programs cannot run in the prefix and are compiled anew: {named}");
        self.copied(tree)
    }

    /// Checks that the prefix's compiler fits this kernel, before anything is run. Without this
    /// check a tree of clang would fail only at the first module, with an option that gcc does not
    /// know.
    fn compiles(&self, tree: &Tree) -> Result<()> {
        let config = Kconfig::parse(&tree.config)
            .with_context(|| format!("{}/.config", tree.output.display()))
            .exit(Exit::NoKernelSource)?;
        guard::compiler(self.release, &config, tree.compiler().as_deref(), self.compiler)
    }

    /// Checks that the tree is complete, and that it is from the kernel that is built for: one
    /// release can have several builds.
    pub(super) fn check(
        &mut self,
        tree: &Tree,
        place: &Place,
        image: Option<&Image>,
    ) -> Result<()> {
        if let Some(image) = image {
            let exports = image.symvers().exit(Exit::NoSymvers)?;
            let table = format!("{}/Module.symvers", tree.output.display());
            guard::exports(&table, &tree.symvers, &exports)?;
        }
        let kernel = Kernel { source: tree.source.clone(), output: tree.output.clone() };
        self.probe(&kernel, place, image, false)
    }

    /// Which of the tree's programs cannot run, and why. The dynamic loader (ld.so(8),
    /// LD_TRACE_LOADED_OBJECTS) names the library, or the version of one, that the prefix lacks.
    fn broken(&self, place: &Place) -> Result<Vec<String>> {
        let script = r#"for program; do
            if ! said=$(LD_TRACE_LOADED_OBJECTS=1 "$program" 2>&1) || [[ $said == *"not found"* ]]; then
                why=${said%%not found*}
                # The copies are numbered: 3-modpost.
                name=${program##*/}
                printf '%s\n' "${name#*-}: ${why##*$'\n'}not found"
            fi
        done"#;
        let programs = place.programs.iter().map(|program| &program.by);
        let run = self.prefix.run("bash", place).args(["-c", script, "bash"]).args(programs);
        let said = run.output(self.steps.cancel).context("trying the tree's programs")?;
        Ok(said.lines().map(str::to_owned).collect())
    }

    fn copied(&mut self, tree: &Tree) -> Result<Prepared> {
        let copy = self.work.top.join("kernel");
        let source = if tree.source == tree.output { copy.clone() } else { tree.source.clone() };
        let kernel = Kernel { source, output: copy };
        let place = Place { kernel: vec![tree.output.clone()], ..kernel.place(&self.work.top) };
        let script =
            r#"cp -R --preserve=links,mode,timestamps -T -- "$1" "$2" && chmod -R u+w -- "$2""#;
        let run = self.prefix.run("bash", &place).args(["-c", script, "bash"]);
        self.steps.must(&run.arg(&tree.output).arg(&kernel.output), reason_of)?;
        let place = kernel.place(&self.work.top);
        let run = kernel.make(self, &place).arg("modules_prepare");
        self.steps.must(&run, reason_of).context("compiling the tree's programs anew")?;
        self.check_copy(tree, &kernel.output)?;
        let files = [("symvers", tree.symvers_text.as_bytes())];
        let handover = Handover::make(self.layout, self.release, &files)?;
        self.settle(&kernel, Some(&handover))?;
        drop(handover);
        let image = self.found.open(self.build_id)?;
        let tree =
            Tree { output: kernel.output.clone(), source: kernel.source.clone(), ..tree.clone() };
        self.check(&tree, &place, image.as_ref())?;
        Ok(Prepared { tree, place, made_in: Some(self.work.top.clone()) })
    }

    /// Checks that `make modules_prepare` has not changed the configuration.
    fn check_copy(&self, tree: &Tree, copy: &Path) -> Result<()> {
        let parse = |bytes: &[u8]| Kconfig::parse(bytes).exit(Exit::NoKernelSource);
        let prepared = read_plain(&self.work.top, &copy.join(".config"))?;
        guard::config(&parse(&tree.config)?, &parse(&prepared)?)
    }
}
