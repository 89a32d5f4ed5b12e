//! Module.symvers: which symbols a kernel exports, with their CRCs
//! (Documentation/kbuild/modules.rst, "Module Versioning").

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Write as _;

use anyhow::{Context, Result, bail};

use crate::module::{self, Budget, Export, symbol_name};

/// An exported symbol, and who exports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// `vmlinux`, or the module's path without suffix.
    pub owner: String,
    /// What it exports.
    pub export: Export,
}

/// A parsed Module.symvers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Symvers(HashMap<String, Exported>);

impl Symvers {
    /// Parses the text of a Module.symvers. Tabs separate the fields: CRC, name, owner, kind and
    /// (since 5.4) namespace. 5.4 and 5.5 had the namespace before the owner.
    ///
    /// # Errors
    /// A line has another shape (the error names its number), there is no line at all, or there are
    /// more names, or longer ones, than any kernel has.
    pub fn parse(text: &str) -> Result<Symvers> {
        let (mut exports, mut budget) = (HashMap::new(), Budget::new());
        for (index, line) in text.lines().enumerate() {
            let parsed = parse_line(line).and_then(|exported| {
                let Exported { owner, export } = &exported;
                budget.take(export.name.len() + owner.len() + export.namespace.len())?;
                Ok(exported)
            });
            let exported = parsed.with_context(|| format!("line {}", index + 1))?;
            exports.insert(exported.export.name.clone(), exported);
        }
        if exports.is_empty() {
            bail!("no symbols in it");
        }
        Ok(Symvers(exports))
    }

    /// The export of this name.
    pub fn get(&self, name: &str) -> Option<&Exported> {
        self.0.get(name)
    }

    /// How many symbols there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no symbol. A table that was parsed has some.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Every symbol with its export, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Exported)> {
        self.0.iter().map(|(name, exported)| (name.as_str(), exported))
    }

    /// Adds a symbol, and returns true. If the table has the symbol already, the old export stays
    /// and this returns false: modpost does the same with a symbol that is exported twice.
    pub fn insert(&mut self, mut exported: Exported) -> bool {
        // A kernel without CONFIG_MODVERSIONS writes 0.
        exported.export.crc = exported.export.crc.filter(|crc| *crc != 0);
        match self.0.entry(exported.export.name.clone()) {
            Entry::Occupied(_) => false,
            Entry::Vacant(place) => {
                place.insert(exported);
                true
            }
        }
    }

    /// The text of a Module.symvers, its lines as modpost writes them since Linux 5.6: `vmlinux`
    /// first, then by owner and name (modpost's own order is that of linking).
    pub fn to_text(&self) -> String {
        let mut all: Vec<&Exported> = self.0.values().collect();
        all.sort_by_key(|e| (e.owner != "vmlinux", &e.owner, &e.export.name));
        let mut text = String::with_capacity(all.len() * 80);
        for Exported { owner, export } in all {
            let Export { name, crc, gpl_only, namespace } = export;
            let kind = if *gpl_only { "EXPORT_SYMBOL_GPL" } else { "EXPORT_SYMBOL" };
            let crc = crc.unwrap_or(0);
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{crc:#010x}\t{name}\t{owner}\t{kind}\t{namespace}");
        }
        text
    }

    /// Whether this kernel was built with CONFIG_MODVERSIONS. Without it, every CRC is 0.
    pub fn has_versions(&self) -> bool {
        self.0.values().any(|e| e.export.crc.is_some())
    }
}

fn parse_line(line: &str) -> Result<Exported> {
    // Splits into one field more than is valid, and no further: a line may be nothing but tabs.
    let fields: Vec<&str> = line.splitn(6, '\t').collect();
    let shown = || line.chars().take(200).collect::<String>();
    let (owner, kind, namespace) = match fields[..] {
        [_, _, owner, kind] => (owner, kind, ""),
        [_, _, owner, kind, namespace] if kind.starts_with("EXPORT_") => (owner, kind, namespace),
        [_, _, namespace, owner, kind] => (owner, kind, namespace),
        [_, _, _, _, _, _] => bail!("more than 5 fields separated by tabs in {:?}", shown()),
        _ => bail!("{} fields in {:?}, expected 4 or 5 separated by tabs", fields.len(), shown()),
    };
    if !kind.starts_with("EXPORT_") {
        bail!("no EXPORT_… kind in {:?}", shown());
    }
    // The same checks as for the tables of kernels and modules: `to_text` and `parse` agree.
    let name = symbol_name(fields[1].as_bytes())?;
    let namespace = module::namespace(namespace.as_bytes())?;
    if owner.is_empty() || !owner.bytes().all(|b| b.is_ascii_graphic()) {
        bail!("not the name of a module: {owner:?}");
    }
    let hex = fields[0].strip_prefix("0x").unwrap_or(fields[0]);
    let crc = u32::from_str_radix(hex, 16).with_context(|| format!("CRC in {:?}", shown()))?;
    let export = Export {
        name: name.to_owned(),
        crc: (crc != 0).then_some(crc),
        gpl_only: kind.contains("_GPL"),
        namespace: namespace.to_owned(),
    };
    Ok(Exported { owner: owner.to_owned(), export })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_the_three_layouts_is_read() {
        let want = |namespace: &str| {
            let (name, crc) = ("f".into(), Some(0x1c3a_5e0b));
            let export = Export { name, crc, gpl_only: true, namespace: namespace.into() };
            Exported { owner: "drivers/dma-buf/dma-buf".into(), export }
        };
        for (case, line, namespace) in [
            ("before 5.4", "0x1c3a5e0b\tf\tdrivers/dma-buf/dma-buf\tEXPORT_SYMBOL_GPL", ""),
            ("5.4", "0x1c3a5e0b\tf\tNS\tdrivers/dma-buf/dma-buf\tEXPORT_SYMBOL_GPL", "NS"),
            ("now", "0x1c3a5e0b\tf\tdrivers/dma-buf/dma-buf\tEXPORT_SYMBOL_GPL\tNS", "NS"),
            ("now, none", "0x1c3a5e0b\tf\tdrivers/dma-buf/dma-buf\tEXPORT_SYMBOL_GPL\t", ""),
        ] {
            let table = Symvers::parse(line).unwrap_or_else(|e| panic!("{case}: {e:#}"));
            assert_eq!(table.get("f"), Some(&want(namespace)), "{case}");
            assert!(table.has_versions(), "{case}");
        }
    }

    #[test]
    fn what_is_written_is_read_again_and_the_first_of_two_exports_stays() {
        let text = "0x00000001\tz\tvmlinux\tEXPORT_SYMBOL\t\n\
                    0x1c3a5e0b\tf\tdrivers/a/a\tEXPORT_SYMBOL_GPL\tNS\n\
                    0x00000002\ta\tdrivers/b\tEXPORT_SYMBOL\tmodule:kvm-amd,kvm-intel\n";
        let mut table = Symvers::parse(text).unwrap();
        assert_eq!(table.to_text(), text);
        let mut named = |name: &str| {
            let mut exported = table.get("a").cloned().unwrap();
            exported.export.name = name.to_owned();
            table.insert(exported)
        };
        assert!(!named("z") && named("y"));
        assert_eq!((table.get("z").unwrap().export.crc, table.iter().count()), (Some(1), 4));
    }

    #[test]
    fn a_bad_line_is_named_by_its_number() {
        let good = "0x00000000\tf\tvmlinux\tEXPORT_SYMBOL\t";
        assert!(!Symvers::parse(good).unwrap().has_versions());
        for bad in [
            "f",
            "zz\tf\tvmlinux\tEXPORT_SYMBOL\t",
            "0x1\tf\tvmlinux\tno\t",
            "\t\t\t\t\t\t",
            "0x1\tf\0\tvmlinux\tEXPORT_SYMBOL\t",
            "0x1\t\tvmlinux\tEXPORT_SYMBOL\t",
            "0x1\tf\tdrivers a\tEXPORT_SYMBOL\t",
            "0x1\tf\tvmlinux\tEXPORT_SYMBOL\ta\rb",
        ] {
            let error = Symvers::parse(&format!("{good}\n{bad}")).unwrap_err();
            assert!(format!("{error:#}").starts_with("line 2: "), "{bad:?}: {error:#}");
        }
        assert!(Symvers::parse("").is_err());
    }
}
