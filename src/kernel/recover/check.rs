//! Compares the CRCs that modules were built against with a table.

use std::collections::HashMap;
use std::fmt;

use serde::Serialize;

use super::Symvers;
use crate::module::Version;

/// How many differences are printed.
const SHOWN: usize = 20;

/// The CRCs that modules were built against. Nearly always all modules want the same CRC of a
/// symbol, so the modules are counted, not kept one by one.
#[derive(Debug, Default)]
pub(super) struct Versions {
    wanted: HashMap<String, Vec<Wanted>>,
    modules: usize,
    without: usize,
}

/// A CRC that is wanted of a symbol.
#[derive(Debug)]
struct Wanted {
    crc: u32,
    modules: usize,
    /// The module that sorts first.
    first: String,
}

impl Versions {
    /// Adds what a module wants.
    pub(super) fn add(&mut self, owner: &str, versions: Vec<Version>) {
        self.modules += 1;
        self.without += usize::from(versions.is_empty());
        for Version { name, crc } in versions {
            self.want(name, crc, 1, owner);
        }
    }

    /// Adds what was counted elsewhere.
    pub(super) fn merge(&mut self, other: Versions) {
        self.modules += other.modules;
        self.without += other.without;
        for (name, all) in other.wanted {
            for Wanted { crc, modules, first } in all {
                self.want(name.clone(), crc, modules, &first);
            }
        }
    }

    fn want(&mut self, name: String, crc: u32, modules: usize, first: &str) {
        let all = self.wanted.entry(name).or_default();
        match all.iter_mut().find(|wanted| wanted.crc == crc) {
            Some(wanted) => {
                wanted.modules += modules;
                if first < wanted.first.as_str() {
                    first.clone_into(&mut wanted.first);
                }
            }
            None => all.push(Wanted { crc, modules, first: first.to_owned() }),
        }
    }

    pub(super) fn compare(&self, symvers: &Symvers) -> CheckReport {
        let mut report = CheckReport {
            modules: self.modules,
            without_versions: self.without,
            versions: symvers.has_versions(),
            compared: 0,
            mismatches: Vec::new(),
        };
        for (symbol, all) in &self.wanted {
            let exported = symvers.get(symbol).map(|exported| exported.export.crc.unwrap_or(0));
            for wanted in all {
                report.compared += wanted.modules;
                if exported != Some(wanted.crc) {
                    report.mismatches.push(Mismatch {
                        symbol: symbol.clone(),
                        wanted: wanted.crc,
                        exported,
                        modules: wanted.modules,
                        first: wanted.first.clone(),
                    });
                }
            }
        }
        report.mismatches.sort_by(|a, b| (&a.symbol, a.wanted).cmp(&(&b.symbol, b.wanted)));
        report
    }
}

/// How a table compares with the modules of its kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// How many modules were read.
    pub modules: usize,
    /// How many of them have no CRCs to compare. In a kernel without CONFIG_MODVERSIONS, all.
    pub without_versions: usize,
    /// Whether the table has CRCs.
    pub versions: bool,
    /// How many CRCs were compared.
    pub compared: usize,
    /// The CRCs that differ, by symbol.
    pub mismatches: Vec<Mismatch>,
}

/// A CRC that modules were built against and the table does not have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mismatch {
    /// The symbol.
    pub symbol: String,
    /// What the modules were built against.
    pub wanted: u32,
    /// What the table has, if it has the symbol.
    pub exported: Option<u32>,
    /// How many modules want that CRC.
    pub modules: usize,
    /// The first of them, by name.
    pub first: String,
}

impl CheckReport {
    /// Whether nothing differs. With CONFIG_MODVERSIONS every module has CRCs, and so has the
    /// table. Without it none of them has: then there is nothing to compare, and nothing differs
    /// ([`CheckReport::compared`] is 0).
    pub fn is_sound(&self) -> bool {
        self.mismatches.is_empty() && !self.is_mixed()
    }

    /// Whether some of table and modules have CRCs and others have none: they are of two kernels.
    fn is_mixed(&self) -> bool {
        self.without_versions != if self.versions { 0 } else { self.modules }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mismatch { symbol, wanted, modules, first, .. } = self;
        write!(f, "{symbol}: {wanted:#010x} in {first}")?;
        if *modules > 1 {
            write!(f, " and {} more", modules - 1)?;
        }
        match self.exported {
            Some(crc) => write!(f, ", {crc:#010x} in the table"),
            None => write!(f, ", not in the table"),
        }
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CheckReport { modules, without_versions, versions, compared, mismatches } = self;
        if self.is_mixed() {
            let table = if *versions { "has CRCs" } else { "has none" };
            write!(
                f,
                "{without_versions} of {modules} modules have no CRCs, but the table {table}: not of one kernel; "
            )?;
        } else if *compared == 0 {
            return write!(f, "{modules} modules have no CRCs: nothing to compare");
        }
        let differ = mismatches.len();
        write!(f, "{compared} CRCs of {modules} modules compared: ")?;
        match differ {
            0 => return write!(f, "all agree"),
            _ => write!(f, "{differ} differ")?,
        }
        for mismatch in mismatches.iter().take(SHOWN) {
            write!(f, "\n  {mismatch}")?;
        }
        match differ.saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more"),
        }
    }
}
