//! `zfs.userland`: whether OpenZFS's programs are built for the modules, or the system's are used.

use anyhow::Result;

use super::version::{HostZpool, Version, agree, of_host};
use crate::config::Userland;
use crate::exit::Exit;
use crate::fail;
use crate::host::Host;

/// What was configured, and what the system has.
#[derive(Clone, Debug)]
pub struct Choice {
    configured: Userland,
    host: Option<HostZpool>,
}

impl Choice {
    /// Looks at the system's own zpool.
    pub fn of(host: &Host, configured: Userland) -> Choice {
        Choice { configured, host: of_host(host) }
    }

    /// Everything that decides besides the version of the modules. It is an input of the key.
    pub fn identity(&self) -> String {
        match (self.configured, &self.host) {
            (Userland::Prefix, _) => "prefix".to_owned(),
            (configured, None) => format!("{}, the system has none", configured.name()),
            (configured, Some(zpool)) => {
                // Another package of the same version changes nothing.
                let version = zpool.version.as_deref().and_then(Version::parse);
                let version = version.map_or("of unknown version".to_owned(), |v| v.to_string());
                format!("{}, the system's is {version}", configured.name())
            }
        }
    }

    /// Whether the prefix is certain to build the programs, whatever the version of the modules.
    pub fn needs_prefix(&self) -> bool {
        match self.configured {
            Userland::Prefix => true,
            Userland::Auto => self.host.is_none(),
            Userland::Host => false,
        }
    }

    /// Whether the prefix builds the programs for modules of this version. None: the version is not
    /// known before the modules are compiled.
    ///
    /// # Errors
    /// [`Exit::Refused`]: the system's programs are wanted, but it has none, or those of another
    /// version.
    pub fn wanted(&self, modules: Option<&str>) -> Result<bool> {
        let version = self.host.as_ref().and_then(|zpool| zpool.version.as_deref());
        let agrees = match (version, modules) {
            (Some(programs), Some(modules)) => agree(programs, modules),
            // The loader checks this again.
            _ => true,
        };
        match (self.configured, &self.host) {
            (Userland::Prefix, _) | (Userland::Auto, None) => Ok(true),
            (Userland::Auto, Some(_)) => Ok(!agrees),
            (Userland::Host, Some(_)) if agrees => Ok(false),
            (Userland::Host, Some(zpool)) => fail!(
                Exit::Refused,
                "zfs.userland = \"host\", but {} is of version {}, and the modules would be of {}: set zfs.version to a version that agrees, or zfs.userland = \"auto\"",
                zpool.program.display(),
                version.unwrap_or_default(),
                modules.unwrap_or_default()
            ),
            (Userland::Host, None) => fail!(
                Exit::Refused,
                "zfs.userland = \"host\", but this system has no zpool: set it to \"auto\" or \"prefix\""
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_built_where_the_systems_do_not_fit_and_refused_where_they_have_to() {
        use Userland::{Auto, Host, Prefix};
        for (configured, version, modules, expected) in [
            (Auto, Some(Some("2.3.2-2~bpo12+2")), Some("2.3.2"), Ok(false)),
            (Auto, Some(Some("2.2.7-1")), Some("2.3.2"), Ok(true)),
            (Auto, Some(Some("2.2.7-1")), None, Ok(false)),
            (Auto, Some(None), Some("2.3.2"), Ok(false)),
            (Auto, None, Some("2.3.2"), Ok(true)),
            (Prefix, Some(Some("2.3.2-1")), Some("2.3.2"), Ok(true)),
            (Prefix, None, None, Ok(true)),
            (Host, Some(Some("2.3.2-1")), Some("2.3.2"), Ok(false)),
            (Host, Some(Some("2.2.7-1")), Some("2.3.2"), Err(["2.2.7-1", "2.3.2"])),
            (Host, None, Some("2.3.2"), Err(["no zpool", "host"])),
        ] {
            let version: Option<Option<&str>> = version;
            let zpool = |version: Option<&str>| HostZpool {
                program: "/usr/sbin/zpool".into(),
                version: version.map(str::to_owned),
            };
            let choice = Choice { configured, host: version.map(zpool) };
            let case = format!("{} and modules {modules:?}", choice.identity());
            match (choice.wanted(modules), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{case}"),
                (Err(error), Err(words)) => {
                    assert_eq!(crate::exit::of(&error), Exit::Refused, "{case}");
                    let said = error.to_string();
                    assert!(words.iter().all(|word| said.contains(word)), "{case}: {said}");
                }
                (found, _) => panic!("{case}: {found:?}"),
            }
            assert!(!choice.needs_prefix() || choice.wanted(None).unwrap(), "{case}");
        }
    }
}
