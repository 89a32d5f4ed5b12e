//! A tiny module compiled against a tree that was made here, before anything large is: a
//! configuration that differs from the shipped kernel's in one structure shows in it, while recovered
//! CRCs are only copies and notice nothing.

use anyhow::{Context, Result};
use tracing::{info, warn};

use super::Preparing;
use super::given::Given;
use super::made::Kernel;
use crate::build::Expected;
use crate::build::harvest::read_plain;
use crate::build::output::reason_of;
use crate::build::recipe::NO_DEBUG_INFO;
use crate::exit::{Exit, WithExit};
use crate::kernel::{Btf, Image, Symvers, btf, guard};
use crate::module::Module;

impl Preparing<'_> {
    /// Compiles the probe and compares it with modules that came with the kernel and with the image's
    /// BTF, as far as there are such.
    pub(super) fn probe(&mut self, kernel: &Kernel, image: Option<&Image>) -> Result<()> {
        let source = guard::probe_source();
        let files = [("probe.c", source.as_bytes()), ("Kbuild", b"obj-m := probe.o\n")];
        let given = Given::make(self.layout, self.release, &files)?;
        let dir = self.work.top.join("probe");
        let place = kernel.place(&self.work.top);
        let copy = r#"rm -rf -- "$1" && mkdir -- "$1" && cp -- "$2" "$3" "$1""#;
        let run = self.prefix.run("bash", &place).args(["-c", copy, "bash"]).arg(&dir);
        let run = run.arg(given.path("probe.c")).arg(given.path("Kbuild"));
        run.output(self.steps.cancel)?;
        let run = kernel.make(self, &place).arg(format!("M={}", dir.display()));
        let run = run.args(NO_DEBUG_INFO).args(["CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"]);
        // With the strategy `full` there is no Module.symvers yet, and the probe imports nothing.
        let run = run.arg("KBUILD_MODPOST_WARN=1");
        self.steps.must(&run, reason_of).context("the tree cannot compile a module")?;
        let bytes = read_plain(&self.work.top, &dir.join("probe.ko"))?;
        let built = Module::parse(&bytes).context("probe.ko").exit(Exit::Refused)?;
        match Expected::of(self.host, self.release, &Symvers::default())?.this_module {
            Some(shipped) => guard::this_module(&built, shipped)?,
            None => warn!("no module came with the kernel to compare struct module with"),
        }
        match image.and_then(btf::in_image) {
            Some(btf) => {
                let btf = Btf::parse(btf).context("the image's .BTF").exit(Exit::Refused)?;
                let sizes = guard::probe_sizes(&bytes).context("probe.ko").exit(Exit::Refused)?;
                guard::structs(&sizes, &btf)?;
                guard::btf_module(&built, &btf)?;
                info!("{} structures have the sizes that they have in the kernel", sizes.len());
            }
            None => info!("the kernel's image has no BTF to compare structures with"),
        }
        Ok(())
    }
}
