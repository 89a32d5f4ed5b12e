//! `.modinfo`: the NUL-terminated `key=value` strings that MODULE_INFO() makes
//! (include/linux/moduleparam.h), what modinfo(8) prints.

use anyhow::{Result, ensure};

/// The maximum size of a `.modinfo`. Modules with the most aliases have 200 KiB.
pub(super) const MAX_SECTION: u64 = 1 << 20;
/// The maximum number of entries. `=` and a NUL are an entry already, and it takes 24 times their
/// size in memory.
const MAX_ENTRIES: usize = 1 << 16;

/// The entries of a module's `.modinfo`, in the order of the file. Bytes that are not UTF-8 are
/// replaced. The values of the keys that are read here have no such bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info {
    entries: Vec<(String, String)>,
}

impl Info {
    /// Reads the contents of a `.modinfo` section. Like kmod, it skips strings without `=`: they
    /// are padding or unknown.
    ///
    /// # Errors
    /// The section is larger, or has more entries, than that of any module.
    pub fn parse(section: &[u8]) -> Result<Info> {
        let size = section.len() as u64;
        ensure!(size <= MAX_SECTION, ".modinfo: {size} bytes, more than any module has");
        let mut entries = Vec::new();
        for entry in section.split(|&b| b == 0) {
            let text = String::from_utf8_lossy(entry);
            let Some((key, value)) = text.split_once('=') else { continue };
            ensure!(entries.len() < MAX_ENTRIES, ".modinfo: more entries than any module has");
            entries.push((key.to_owned(), value.to_owned()));
        }
        Ok(Info { entries })
    }

    /// All entries.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// The first value of `key`: `name`, `version`, `license`, `vermagic`, `srcversion`, …
    pub fn get(&self, key: &str) -> Option<&str> {
        self.entries().find(|(k, _)| *k == key).map(|(_, v)| v)
    }

    /// Every value of a key that may stand more than once: `import_ns`, `softdep`, `alias`, …
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.entries().filter(move |(k, _)| *k == key).map(|(_, v)| v)
    }

    /// The modules of `depends=`, canonical names ([`super::canonical_name`]), in its order.
    pub fn depends(&self) -> Vec<String> {
        let list = self.get("depends").unwrap_or_default();
        list.split(',')
            .map(str::trim)
            .filter(|n| !n.is_empty())
            .map(super::canonical_name)
            .collect()
    }

    /// `name=`, canonical. `None` in modules of kernels before 4.13: their file gives the name
    /// ([`super::name_of_path`]).
    pub fn name(&self) -> Option<String> {
        self.get("name").map(super::canonical_name)
    }

    /// `vermagic=`, split.
    pub fn vermagic(&self) -> Option<Vermagic<'_>> {
        self.get("vermagic").map(Vermagic::split)
    }
}

/// A version magic: the first word is the kernel release, the rest are flags such as
/// `SMP preempt mod_unload modversions` (include/linux/vermagic.h). A kernel with
/// CONFIG_MODVERSIONS compares only the flags (same_magic(), kernel/module/version.c). Without
/// it, the kernel compares everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vermagic<'a> {
    /// The kernel release the module was built for.
    pub release: &'a str,
    /// The flags, unchanged, without white space at either end.
    pub flags: &'a str,
}

impl std::fmt::Display for Vermagic<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.release)?;
        if !self.flags.is_empty() {
            write!(f, " {}", self.flags)?;
        }
        Ok(())
    }
}

impl<'a> Vermagic<'a> {
    /// Splits `6.1.0-56-cloud-amd64 SMP preempt mod_unload modversions`.
    pub fn split(vermagic: &'a str) -> Vermagic<'a> {
        let (release, flags) = vermagic.split_once(' ').unwrap_or((vermagic, ""));
        Vermagic { release, flags: flags.trim() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modinfo_is_a_list_of_terminated_strings() {
        let i = Info::parse(
            b"\0\0name=zfs\0depends=spl,a-b, \0junk\0import_ns=A\0import_ns=B=C\0vermagic=6.1.0-56 SMP x \0v=\xff",
        )
        .unwrap();
        assert_eq!(i.get("name"), Some("zfs"));
        assert_eq!(i.depends(), ["spl", "a_b"]);
        assert_eq!(i.all("import_ns").collect::<Vec<_>>(), ["A", "B=C"]);
        assert_eq!(i.vermagic(), Some(Vermagic { release: "6.1.0-56", flags: "SMP x" }));
        assert_eq!(i.get("v"), Some("\u{fffd}"));
        assert_eq!(i.get("license"), None);
        assert!(Info::parse(b"").unwrap().depends().is_empty());
    }
}
