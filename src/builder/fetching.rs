//! The stage `fetch`: a binary package, or sources.

use anyhow::Result;
use tracing::info;

use super::Build;
use super::attempt::{Fetched, Material, files};
use super::binhost::Binhost;
use super::binpkg::Package;
use super::job::Tarball;
use super::packages::{self, EXPERIMENTAL};
use super::plan::Plan;
use super::recipe::Recipe;
use super::workdir::WorkDir;
use crate::fetch::network;
use crate::kernel::supported;
use crate::prefix::enter::Place;
use crate::source::{Obtain, ZfsSource};

impl Build<'_> {
    /// Fetches a binary package. If there is none, fetches sources. A build that the boot waits for
    /// has no network, but the sources or a binhost may be on its disks.
    pub(super) fn fetch<'p>(&mut self, plan: &'p Plan, work: WorkDir) -> Result<Fetched<'p>> {
        match &plan.recipe {
            Recipe::Make { source, .. } => {
                let tarball = self.tarball(plan, source)?;
                let wanted = plan.userland.wanted(tarball.version.as_deref())?;
                let programs = wanted.then(|| packages::PROGRAMS.to_owned());
                let material = Material::Tarball(tarball.path.clone());
                Ok(Fetched { plan, work, tarball: Some(tarball), material, programs })
            }
            Recipe::Portage { source, binhost, .. } => {
                let tarball =
                    source.as_ref().map(|source| self.tarball(plan, source)).transpose()?;
                let mut fetched =
                    Fetched { plan, work, tarball, material: Material::Ebuild, programs: None };
                let place = self.place_to_fetch(&fetched);
                if let Some(binhost) = binhost
                    && let Some(package) = self.ask(binhost, &fetched, &place)?
                {
                    fetched.programs.clone_from(&package.programs);
                    fetched.material = Material::Package(package);
                    return Ok(fetched);
                }
                self.fetch_sources(&mut fetched, &place)?;
                Ok(fetched)
            }
        }
    }

    fn place_to_fetch(&self, fetched: &Fetched) -> Place {
        let readable = files(fetched.plan, fetched.tarball.as_ref());
        let network = !self.options.early;
        Place { work: Some(fetched.work.top.clone()), readable, network, ..Place::default() }
    }

    /// Asks a binhost for a package that fits.
    fn ask(
        &mut self,
        binhost: &Binhost,
        fetched: &Fetched,
        place: &Place,
    ) -> Result<Option<Package>> {
        let remote = self.settings.portage.asks_network();
        if remote && !place.network {
            info!("{} is not asked: there is no network this early", binhost.url);
            return Ok(None);
        }
        if remote {
            network::wait_for_network(&self.cancel);
        }
        let userland = &fetched.plan.userland;
        self.job(fetched, None, place.clone()).fetch_package(binhost, userland)
    }

    /// Fetches what emerge needs to compile the modules, and the programs that fit them.
    fn fetch_sources(&mut self, fetched: &mut Fetched, place: &Place) -> Result<()> {
        self.job(fetched, None, place.clone()).fetch()?;
        let userland = &fetched.plan.userland;
        let mut exact = None;
        let mut version = self.version_of_sources(fetched, place)?;
        if version.is_none() {
            let atoms = exact.insert(self.job(fetched, None, place.clone()).exact_atoms()?);
            version = packages::version_of_modules(atoms).map(str::to_owned);
        }
        if !userland.wanted(version.as_deref())? {
            return Ok(());
        }
        let atoms = match exact {
            Some(atoms) => atoms,
            None => self.job(fetched, None, place.clone()).exact_atoms()?,
        };
        fetched.programs = packages::wanted(userland, &atoms)?;
        self.job(fetched, None, place.clone()).fetch()
    }

    /// The version of the sources, if they say it.
    fn version_of_sources(&mut self, fetched: &Fetched, place: &Place) -> Result<Option<String>> {
        // The tarball of zfs.source was read already.
        if let Some(tarball) = &fetched.tarball {
            return Ok(tarball.version.clone());
        }
        let Some(tarball) = self.job(fetched, None, place.clone()).distfile()? else {
            return Ok(None);
        };
        match crate::source::meta(&fetched.plan.prefix, &tarball, &self.cancel) {
            Ok(meta) => {
                self.check_supported(fetched.plan, &meta)?;
                Ok(packages::version_of(&meta))
            }
            // Perhaps this is not our ebuild. configure checks the same.
            Err(error) => {
                info!("whether this kernel is supported is not known yet: {error:#}");
                Ok(None)
            }
        }
    }

    /// Fetches the OpenZFS tarball of `zfs.source`. If it does not support this kernel, it is
    /// refused before anything is compiled.
    fn tarball(&mut self, plan: &Plan, source: &ZfsSource) -> Result<Tarball> {
        let progress = &mut self.progress;
        let mut with = Obtain {
            layout: &self.layout,
            prefix: &plan.prefix,
            network: !self.options.early,
            cancel: &self.cancel,
            report: &mut |text| progress.stage(text),
        };
        let path = source.obtain(&mut with)?;
        let repository = match plan.recipe {
            Recipe::Portage { .. } => Some(source.repository(&path, &mut with)?),
            Recipe::Make { .. } => None,
        };
        let meta = crate::source::meta(&plan.prefix, &path, &self.cancel)?;
        self.check_supported(plan, &meta)?;
        let version = packages::version_of(&meta);
        Ok(Tarball { path, repository, version })
    }

    fn check_supported(&self, plan: &Plan, meta: &str) -> Result<()> {
        let experimental = plan.recipe.configure().iter().any(|a| a == EXPERIMENTAL);
        supported(meta, &self.release, experimental)
    }
}
