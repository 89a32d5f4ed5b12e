//! A tiny module that is compiled against a tree before anything large is. If the configuration
//! differs from the shipped kernel's in one structure, this module shows it. Recovered CRCs do not:
//! they are only copies.

use anyhow::{Context, Result};
use tracing::{info, warn};

use super::Preparing;
use super::from_source::Kernel;
use super::handover::Handover;
use crate::builder::Expected;
use crate::builder::compile::NO_DEBUG_INFO;
use crate::builder::output::reason_of;
use crate::exit::{Exit, WithExit};
use crate::fail;
use crate::kernel::{Btf, Image, Symvers, btf, guard};
use crate::module::Module;
use crate::prefix::enter::Place;
use crate::prefix::owned::read_plain;

impl Preparing<'_> {
    /// Compiles the probe in `place`. Compares it with modules that came with the kernel, and with
    /// the kernel's BTF. For a tree that was `made` here one of the two has to exist.
    pub(super) fn probe(
        &mut self,
        kernel: &Kernel,
        place: &Place,
        image: Option<&Image>,
        made: bool,
    ) -> Result<()> {
        let source = guard::probe_source();
        let files = [("probe.c", source.as_bytes()), ("Kbuild", b"obj-m := probe.o\n")];
        let handover = Handover::make(self.layout, self.release, &files)?;
        let dir = self.work.top.join("probe");
        let copy = r#"rm -rf -- "$1" && mkdir -- "$1" && cp -- "$2" "$3" "$1""#;
        let run = self.prefix.run("bash", place).args(["-c", copy, "bash"]).arg(&dir);
        let run = run.arg(handover.path("probe.c")).arg(handover.path("Kbuild"));
        run.output(self.steps.cancel)?;
        let run = kernel.make_module(self, place, &dir);
        // The probe exports nothing, so nothing computes CRCs from its debug information.
        let run = run.args(NO_DEBUG_INFO).arg("CONFIG_DEBUG_INFO_BTF_MODULES=");
        // With the strategy `full` there is no Module.symvers yet, and the probe imports nothing.
        let run = run.arg("KBUILD_MODPOST_WARN=1");
        self.steps.must(&run, reason_of).context("the tree cannot compile a module")?;
        let bytes = read_plain(&self.work.top, &dir.join("probe.ko"))?;
        let built = Module::parse(&bytes).context("probe.ko").exit(Exit::Refused)?;
        let shipped = Expected::of(self.host, self.release, &Symvers::default())?.this_module;
        match shipped {
            Some(shipped) => guard::this_module(&built, shipped)?,
            None => warn!("no module came with the kernel to compare struct module with"),
        }
        let running = self.running_btf();
        let btf = running.as_deref().or_else(|| image.and_then(btf::in_image));
        match btf {
            Some(btf) => {
                let btf = Btf::parse(btf).context("the kernel's BTF").exit(Exit::Refused)?;
                let sizes = guard::probe_sizes(&bytes).context("probe.ko").exit(Exit::Refused)?;
                guard::structs(&sizes, &btf)?;
                guard::btf_module(&built, &btf)?;
                info!("{} structures have the sizes that they have in the kernel", sizes.len());
            }
            None if made && shipped.is_none() => fail!(
                Exit::NoSymvers,
                "the tree cannot be compared with the kernel: no module that came with it is below {}, and there is no BTF: {}",
                self.found.modules.display(),
                self.found.no_image()
            ),
            None => info!("the kernel has no BTF to compare structures with"),
        }
        Ok(())
    }

    /// The BTF of the running kernel, if this build is for that kernel.
    fn running_btf(&self) -> Option<Vec<u8>> {
        let running = *self.release == self.host.kernel_release && !self.host.container;
        running.then(|| std::fs::read(self.host.path("/sys/kernel/btf/vmlinux")).ok()).flatten()
    }
}
