//! Module.symvers: which symbols a kernel exports, with their CRCs
//! (Documentation/kbuild/modules.rst, "Module Versioning").

use std::collections::HashMap;

use anyhow::{Context, Result, bail};

/// One exported symbol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// CRC over the symbol's type; 0 in a kernel without CONFIG_MODVERSIONS.
    pub crc: u32,
    /// `vmlinux`, or the module's path without suffix.
    pub owner: String,
    /// Only modules under a GPL-compatible licence may use it (EXPORT_SYMBOL_GPL).
    pub gpl_only: bool,
    /// The symbol namespace, or empty.
    pub namespace: String,
}

/// A parsed Module.symvers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Symvers(HashMap<String, Export>);

impl Symvers {
    /// Parses the text of a Module.symvers. Fields are separated by tabs: CRC, name, owner, kind
    /// and (since 5.4) namespace; 5.4 and 5.5 had the namespace before the owner.
    ///
    /// # Errors
    /// A line of another shape, named by its number; or no line at all.
    pub fn parse(text: &str) -> Result<Symvers> {
        let mut exports = HashMap::new();
        for (index, line) in text.lines().enumerate() {
            let (name, export) = parse_line(line).with_context(|| format!("line {}", index + 1))?;
            exports.insert(name.to_owned(), export);
        }
        if exports.is_empty() {
            bail!("no symbols in it");
        }
        Ok(Symvers(exports))
    }

    /// The export of this name.
    pub fn get(&self, name: &str) -> Option<&Export> {
        self.0.get(name)
    }

    /// How many symbols there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Never true: parsing refuses an empty table.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this kernel was built with CONFIG_MODVERSIONS: without, every CRC is 0.
    pub fn has_versions(&self) -> bool {
        self.0.values().any(|e| e.crc != 0)
    }
}

fn parse_line(line: &str) -> Result<(&str, Export)> {
    let fields: Vec<&str> = line.split('\t').collect();
    let (owner, kind, namespace) = match fields[..] {
        [_, _, owner, kind] => (owner, kind, ""),
        [_, _, owner, kind, namespace] if kind.starts_with("EXPORT_") => (owner, kind, namespace),
        [_, _, namespace, owner, kind] => (owner, kind, namespace),
        _ => bail!("{} fields in {line:?}, expected 4 or 5 separated by tabs", fields.len()),
    };
    if !kind.starts_with("EXPORT_") {
        bail!("no EXPORT_… kind in {line:?}");
    }
    let hex = fields[0].strip_prefix("0x").unwrap_or(fields[0]);
    let crc = u32::from_str_radix(hex, 16).with_context(|| format!("CRC {:?}", fields[0]))?;
    let export = Export {
        crc,
        owner: owner.to_owned(),
        gpl_only: kind.contains("_GPL"),
        namespace: namespace.to_owned(),
    };
    Ok((fields[1], export))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_the_three_layouts_is_read() {
        let want = |namespace: &str| Export {
            crc: 0x1c3a_5e0b,
            owner: "drivers/dma-buf/dma-buf".into(),
            gpl_only: true,
            namespace: namespace.into(),
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
    fn a_bad_line_is_named_by_its_number() {
        let good = "0x00000000\tf\tvmlinux\tEXPORT_SYMBOL\t";
        assert!(!Symvers::parse(good).unwrap().has_versions());
        for bad in ["f", "zz\tf\tvmlinux\tEXPORT_SYMBOL\t", "0x1\tf\tvmlinux\tno\t", "\t\t\t\t\t\t"]
        {
            let error = Symvers::parse(&format!("{good}\n{bad}")).unwrap_err();
            assert!(format!("{error:#}").starts_with("line 2: "), "{bad:?}: {error:#}");
        }
        assert!(Symvers::parse("").is_err());
    }
}
