//! The values of `[pools]`.

use std::time::Duration;

use super::note::Bad;
use super::value::{Value, bad, duration, list};

const HOUR: u64 = 60 * 60;
/// The longest name: ZFS_MAX_DATASET_NAME_LEN with room for `/$ORIGIN@$ORIGIN` (pool_namecheck of
/// OpenZFS, module/zcommon/zfs_namecheck.c).
const LONGEST: usize = 239;

/// Whether a pool may have this name (zpool-create(8)): it begins with a letter and goes on with
/// letters, digits, `_`, `-`, `.`, `:` and blanks.
pub fn is_pool_name(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"_-.: ".contains(&b);
    name.len() <= LONGEST
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(fits)
        && !matches!(name, "mirror" | "raidz" | "draid")
}

/// Names that zpool(8) neither creates nor imports.
fn is_reserved(name: &str) -> bool {
    name == "log" || ["mirror", "raidz", "draid", "spare"].iter().any(|word| name.starts_with(word))
}

pub(super) fn names(value: &Value<'_>) -> Result<Vec<String>, Bad> {
    let expected = "the name of a pool, as \"tank\": a letter, then letters, digits, _-.: and \
                    blanks; not log, nor what begins with mirror, raidz, draid or spare";
    let good = |name: &str| is_pool_name(name) && !name.ends_with(' ') && !is_reserved(name);
    let names = list(value, expected, |name| good(name).then(|| name.to_owned()))?;
    match names.iter().enumerate().find(|(n, name)| names[..*n].contains(name)) {
        Some((_, twice)) => Err(bad(value, format!("each pool once, and not {twice:?} twice"))),
        None => Ok(names),
    }
}

pub(super) fn import_timeout(value: &Value<'_>) -> Result<Duration, Bad> {
    duration(value, HOUR, "a time from 1s to 1h, as \"10min\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_has_the_names_that_zpool_lets_it_have() {
        let longest = "a".repeat(LONGEST);
        for good in ["tank", "T1", "a b", "rpool-2_x.y:z", "logs", &longest] {
            assert!(is_pool_name(good) && !is_reserved(good), "{good:?} was refused");
        }
        let longer = format!("{longest}a");
        for bad in ["", "1tank", "-f", "_x", "tank/data", "a@b", "a%", "é", "a\nb", "mirror"] {
            assert!(!is_pool_name(bad), "{bad:?} was taken");
        }
        assert!(!is_pool_name(&longer));
        for reserved in ["log", "mirror-1", "raidz2", "draid1", "spares"] {
            assert!(is_reserved(reserved), "{reserved:?} was taken");
        }
    }
}
