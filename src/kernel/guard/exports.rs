//! Are these the exports of the shipped kernel?

use std::fmt::Write as _;

use anyhow::Result;

use crate::exit::Exit;
use crate::fail;
use crate::kernel::Symvers;

/// How many differences are named.
const NAMED: usize = 10;

/// Compares a table of exports with those of the shipped kernel. The table has to have each symbol
/// of the kernel, with the same CRC, licence and namespace. It may have more symbols: they are of
/// modules that were not shipped. The message begins with `what`, the name of the table.
///
/// # Errors
/// [`Exit::Refused`]: the table is of another kernel. The error names the first ten symbols that
/// differ.
pub fn exports(what: &str, table: &Symvers, shipped: &Symvers) -> Result<()> {
    let mut differences: Vec<String> = shipped
        .iter()
        .filter_map(|(name, theirs)| {
            let theirs = &theirs.export;
            let differs = match table.get(name).map(|ours| &ours.export) {
                None => "missing".to_owned(),
                Some(ours) if ours.crc != theirs.crc => {
                    let [ours, theirs] = [ours, theirs].map(|export| export.crc.unwrap_or(0));
                    format!("CRC {ours:#010x}, shipped {theirs:#010x}")
                }
                Some(ours) if ours.gpl_only != theirs.gpl_only => "another licence".to_owned(),
                Some(ours) if ours.namespace != theirs.namespace => {
                    format!("namespace {:?}, shipped {:?}", ours.namespace, theirs.namespace)
                }
                Some(_) => return None,
            };
            Some(format!("{name}: {differs}"))
        })
        .collect();
    if differences.is_empty() {
        return Ok(());
    }
    differences.sort();
    let mut text = differences.iter().take(NAMED).cloned().collect::<Vec<_>>().join("\n  ");
    if differences.len() > NAMED {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n  and {} more", differences.len() - NAMED);
    }
    fail!(Exit::Refused, "{what} is not of the kernel that is shipped:\n  {text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_with_another_symbol_crc_licence_or_namespace_is_refused_by_name() {
        let shipped = "0x00000001\ta\tvmlinux\tEXPORT_SYMBOL\t\n0x00000002\tb\tvmlinux\tEXPORT_SYMBOL_GPL\tN\n";
        let parse = |text: &str| Symvers::parse(text).unwrap();
        exports("it", &parse(shipped), &parse(shipped)).unwrap();
        let more = format!("{shipped}0x00000003\tc\tdrivers/c\tEXPORT_SYMBOL\t\n");
        exports("it", &parse(&more), &parse(shipped)).unwrap();
        for (case, from, to, named) in [
            ("CRC", "0x00000001", "0x00000009", "a: CRC 0x00000009, shipped 0x00000001"),
            ("gone", "\ta\t", "\tz\t", "a: missing"),
            ("licence", "_GPL", "", "b: another licence"),
            ("namespace", "\tN", "\tM", "b: namespace \"M\", shipped \"N\""),
        ] {
            let error =
                exports("it", &parse(&shipped.replace(from, to)), &parse(shipped)).unwrap_err();
            assert_eq!(crate::exit::of(&error), Exit::Refused, "{case}");
            assert!(error.to_string().contains(named), "{case}: {error}");
        }
    }
}
