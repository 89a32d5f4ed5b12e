//! Names of units and values of settings, so that systemd reads back what was meant.

use std::fmt::Write;

/// UNIT_NAME_MAX, and the longest name of a file.
pub(crate) const LONGEST: usize = 255;

/// Types of units (systemd.unit(5)).
const TYPES: [&str; 11] = [
    "service",
    "socket",
    "device",
    "mount",
    "automount",
    "swap",
    "target",
    "path",
    "timer",
    "slice",
    "scope",
];

/// `path` as part of a name (systemd.unit(5), "String Escaping for Inclusion in Unit Names"; the
/// same as `systemd-escape --path`): there is no `/` in it, and no leading dot.
pub(crate) fn escape_path(path: &str) -> String {
    let mut name = String::with_capacity(path.len() + ".mount".len());
    let mut after_slash = false;
    for byte in path.bytes() {
        if byte == b'/' {
            after_slash = true;
            continue;
        }
        if std::mem::take(&mut after_slash) && !name.is_empty() {
            name.push('-');
        }
        match byte {
            b'.' if name.is_empty() => name.push_str("\\x2e"),
            b if b.is_ascii_alphanumeric() || b":_.".contains(&b) => name.push(char::from(b)),
            // A String takes whatever is written into it.
            b => drop(write!(name, "\\x{b:02x}")),
        }
    }
    if name.is_empty() { "-".to_owned() } else { name }
}

/// Whether `name` is the full name of a unit. The name of its directory of links has to fit, too.
pub(crate) fn is_unit(name: &str) -> bool {
    let Some((stem, kind)) = name.rsplit_once('.') else { return false };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b":_.\\@-".contains(&b);
    !stem.is_empty()
        && !stem.starts_with('@')
        && TYPES.contains(&kind)
        && name.bytes().all(plain)
        && name.len() + ".requires".len() <= LONGEST
}

/// `text` with its specifiers escaped (systemd.unit(5), "Specifiers").
pub(crate) fn without_specifiers(text: &str) -> String {
    text.replace('%', "%%")
}

/// One word of a list (systemd.syntax(7), "Quoting").
pub(crate) fn quoted(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-+@%:,".contains(&b);
    if word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Whether a line can end in `text`: systemd drops white space there, and a backslash joins the
/// next line (systemd.syntax(7)).
pub(crate) fn can_end_a_line(text: &str) -> bool {
    !text.ends_with(|c: char| c == '\\' || c.is_whitespace())
}

/// A release as a unit's instance name: what a unit name may not hold becomes `\xNN`, dashes stay
/// (systemd.unit(5), "String Escaping for Inclusion in Unit Names"; [`unescape`] takes both).
pub(crate) fn escape(release: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b":_.-".contains(&b);
    release
        .bytes()
        .map(|b| if plain(b) { char::from(b).to_string() } else { format!("\\x{b:02x}") })
        .collect()
}

/// The release of an instance name: every `\xNN` decoded, so that both a name as people type it
/// and one made by systemd-escape(1) are understood.
pub(crate) fn unescape(instance: &str) -> String {
    let mut out = Vec::new();
    let mut rest = instance;
    while let Some((head, tail)) = rest.split_once("\\x") {
        out.extend(head.bytes());
        match tail.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &tail[2..];
            }
            None => {
                out.extend(b"\\x");
                rest = tail;
            }
        }
    }
    out.extend(rest.bytes());
    String::from_utf8_lossy(&out).into_owned()
}

/// The path that [`escape_path`] made a name of.
pub(crate) fn unescape_path(name: &str) -> String {
    if name == "-" { "/".to_owned() } else { format!("/{}", unescape(&name.replace('-', "/"))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{Cancel, Run};

    #[test]
    fn a_path_is_written_into_a_unit_so_that_systemd_reads_it_back() {
        for (path, expected) in [
            ("/home/core/gentoo", "/home/core/gentoo"),
            ("/100%/x", "/100%%/x"),
            ("/a b", "\"/a b\""),
            ("/a\"b\\c", "\"/a\\\"b\\\\c\""),
            ("/é'", "\"/é'\""),
        ] {
            assert_eq!(quoted(&without_specifiers(path)), expected);
        }
    }

    #[test]
    fn a_path_is_escaped_as_systemd_escape_does_it() {
        for path in [
            "/",
            "/tank",
            "//tank//a/",
            "/.x/.y",
            "/a-b_c:d.e",
            "/é ñ",
            "/a\\b\"c'd%e$f@g+h~i",
            "tank/x-y",
        ] {
            // Run's tests end every child that Run does not know.
            let escape = Run::new("/usr/bin/systemd-escape").args(["--path", "--", path]);
            // It warns of a path that is not absolute, before the answer.
            let theirs = escape.output(&Cancel::default()).expect("systemd-escape");
            assert_eq!(Some(&*escape_path(path)), theirs.lines().last(), "{path}");
            let simple = path.split('/').filter(|name| !name.is_empty()).collect::<Vec<_>>();
            let back = unescape_path(&escape_path(path));
            assert_eq!(back, format!("/{}", simple.join("/")), "{path}");
        }
        assert!(!escape_path("/../../etc/passwd").contains('/'));
    }

    #[test]
    fn what_could_lead_out_of_the_output_directory_is_no_unit() {
        for good in
            ["a.service", "local-fs.target", "-.mount", "a@b.service", "a@.service", "x\\x2d.mount"]
        {
            assert!(is_unit(good), "{good}");
        }
        let long = format!("{}.service", "x".repeat(240));
        for bad in [
            "",
            ".service",
            "a",
            "a.",
            "a.b",
            "../a.service",
            "a/b.service",
            "..",
            "@a.service",
            "a%i.service",
            "é.service",
            "a b.service",
            &long,
        ] {
            assert!(!is_unit(bad), "{bad}");
        }
    }

    #[test]
    fn a_release_survives_the_way_through_a_unit_name() {
        for release in ["6.1.0-56-cloud-amd64", "6.1.0+", "6.12.4-flatcar~1"] {
            let escaped = escape(release);
            assert!(!escaped.contains(['+', '~', '/']), "{escaped}");
            assert_eq!(unescape(&escaped), release);
        }
        assert_eq!(unescape("6.1.0\\x2d56\\x2b"), "6.1.0-56+", "as systemd-escape writes it");
        assert_eq!(unescape("a\\xzz"), "a\\xzz");
    }
}
