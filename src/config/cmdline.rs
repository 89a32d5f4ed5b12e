//! The kernel command line: `zfs_prefix=` and `zfs_prefix.when_missing=`.

use super::choice::Enabled;
use super::fragment::Fragment;
use super::note::Problem;
use super::value::when_missing_word;

/// Returns the settings of the command line, and one problem for each bad word. If a parameter
/// occurs several times, the last valid one wins.
pub(super) fn parse(cmdline: &str) -> (Fragment, Vec<Problem>) {
    let mut fragment = Fragment::default();
    let mut problems = Vec::new();
    for word in words(cmdline) {
        let (key, value) = match word.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (word.as_str(), None),
        };
        // The kernel treats `-` and `_` in parameter names as the same (kernel-parameters.rst).
        match key.replace('-', "_").as_str() {
            "zfs_prefix" => match value.map_or(Some(true), boolean) {
                Some(yes) => {
                    let enabled = if yes { Enabled::Yes } else { Enabled::No };
                    fragment.set("boot.enabled", move |settings| settings.boot.enabled = enabled);
                }
                None => problems.push(complaint(&word, "0 or 1")),
            },
            "zfs_prefix.when_missing" => match value.and_then(when_missing_word) {
                Some(value) => fragment
                    .set("boot.when-missing", move |settings| settings.boot.when_missing = value),
                None => problems.push(complaint(&word, "late, block or never")),
            },
            name if name.starts_with("zfs_prefix.") => {
                problems.push(Problem::whole(format!("unknown parameter {word:?}")));
            }
            _ => {}
        }
    }
    (fragment, problems)
}

fn complaint(word: &str, expected: &str) -> Problem {
    Problem::whole(format!("found {word:?}, expected {expected}"))
}

/// The words systemd's parse_boolean takes.
pub(crate) fn boolean(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "yes" | "y" | "true" | "t" | "on" => Some(true),
        "0" | "no" | "n" | "false" | "f" | "off" => Some(false),
        _ => None,
    }
}

/// Splits at white space outside quotes and drops the quotes. An unclosed quote extends to the end
/// of the line. Both kinds of quotes count, as in systemd (the kernel itself knows only `"`).
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        if quote == Some(c) {
            quote = None;
        } else if quote.is_none() && (c == '"' || c == '\'') {
            quote = Some(c);
            word.get_or_insert_default();
        } else if quote.is_none() && c.is_whitespace() {
            words.extend(word.take());
        } else {
            word.get_or_insert_default().push(c);
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::super::choice::WhenMissing;
    use super::*;

    #[test]
    fn words_are_split_as_the_kernel_and_systemd_split_them() {
        for (line, expected) in [
            ("", &[][..]),
            ("  a  b\tc\n", &["a", "b", "c"]),
            ("dyndbg=\"file x +p\" quiet", &["dyndbg=file x +p", "quiet"]),
            ("\"a=b c\" 'd e'", &["a=b c", "d e"]),
            ("a=\"it's\" b", &["a=it's", "b"]),
            ("a=\"open end", &["a=open end"]),
        ] {
            assert_eq!(words(line), expected, "{line:?}");
        }
    }

    #[test]
    fn the_last_good_word_wins_and_a_bad_one_is_named() {
        use Enabled::{No, Yes};
        use WhenMissing::{Block, Late, Never};
        for (line, enabled, when_missing, complaints) in [
            ("quiet root=/dev/vda", None, None, 0),
            ("zfs_prefix=0", Some(No), None, 0),
            ("zfs_prefix=0 zfs_prefix=1", Some(Yes), None, 0),
            ("zfs-prefix=off", Some(No), None, 0),
            ("zfs_prefix", Some(Yes), None, 0),
            ("zfs_prefix=True zfs_prefix=maybe", Some(Yes), None, 1),
            ("zfs_prefix.when_missing=block", None, Some(Block), 0),
            ("zfs-prefix.when-missing=never", None, Some(Never), 0),
            ("zfs_prefix.when_missing=\"late\"", None, Some(Late), 0),
            ("zfs_prefix.when_missing", None, None, 1),
            ("zfs_prefix.when_missing=LATE", None, None, 1),
            ("zfs_prefix.whenmissing=late", None, None, 1),
            ("x=\" zfs_prefix=0 \"", None, None, 0),
            ("zfs_prefix_other=0 zfs.zfs_arc_max=1", None, None, 0),
        ] {
            let (fragment, problems) = parse(line);
            let named: Vec<_> = fragment.named().collect();
            let boot = fragment.into_settings().boot;
            let has = |key| named.contains(&key);
            assert_eq!(has("boot.enabled").then_some(boot.enabled), enabled, "{line:?}");
            let found = has("boot.when-missing").then_some(boot.when_missing);
            assert_eq!(found, when_missing, "{line:?}");
            assert_eq!(problems.len(), complaints, "{line:?}: {problems:?}");
        }
    }
}
