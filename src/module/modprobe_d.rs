//! What modprobe.d(5) and the kernel command line say against loading a module: `blacklist`,
//! `install`, `alias … off`, `modprobe.blacklist=` and the kernel's own `module_blacklist=`. Read as
//! kmod reads it (libkmod-config.c, libkmod-module.c).

use super::canonical_name;
use super::lines::{Line, logical_lines, tokens, word};

/// No line is shown longer, in characters.
const SHOWN: usize = 120;

/// What a line says against loading a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The line of the file where it begins, from 1.
    pub line: usize,
    /// The line, with single blanks between its words; cut off if it is long.
    pub text: String,
    /// What it means.
    pub kind: Kind,
    /// A canonical name; for [`Kind::Idle`] and [`Kind::Helper`] a pattern.
    module: String,
}

/// What a [`Rule`] means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `blacklist NAME`, or `alias NAME off` as it was written before there was that.
    Blacklist,
    /// `install NAME COMMAND`, where the command does nothing: the module is not to be loaded.
    Idle,
    /// `install NAME COMMAND` with any other command.
    Helper,
}

impl Rule {
    /// Whether it is about `module` (a canonical name).
    pub fn names(&self, module: &str) -> bool {
        match self.kind {
            Kind::Blacklist => self.module == module,
            Kind::Idle | Kind::Helper => matches(self.module.as_bytes(), module.as_bytes()),
        }
    }
}

/// The rules of one modprobe.d file. `softdep`, `options`, `remove` and the rest are none, nor is a
/// line that kmod would not take.
pub fn rules(text: &str) -> Vec<Rule> {
    logical_lines(text).iter().filter_map(rule).collect()
}

fn rule(line: &Line) -> Option<Rule> {
    let (command, rest) = word(&line.text)?;
    let (module, rest) = word(rest)?;
    let (kind, module) = match command {
        "blacklist" => (Kind::Blacklist, canonical_name(module)),
        "alias" if word(rest)?.0 == "off" => (Kind::Blacklist, canonical_name(module)),
        "install" if rest.trim().is_empty() => return None,
        "install" if is_idle(rest) => (Kind::Idle, canonical_pattern(module)),
        "install" => (Kind::Helper, canonical_pattern(module)),
        _ => return None,
    };
    let text = line.text.split_whitespace().collect::<Vec<_>>().join(" ");
    Some(Rule { line: line.number, text: text.chars().take(SHOWN).collect(), kind, module })
}

/// Whether a command line of sh(1) is `true` or `false` and nothing else, with whatever path and
/// arguments.
fn is_idle(command: &str) -> bool {
    let mut words = command.split_whitespace().take_while(|word| !word.starts_with('#'));
    let Some(program) = words.next() else { return true };
    let program = program.trim_matches(['"', '\'']);
    let name = program.rsplit('/').next().unwrap_or(program);
    // `2>&1` joins no second command.
    let joins =
        |word: &str| word.replace(">&", "").replace("&>", "").contains([';', '|', '&', '`', '(']);
    (matches!(name, "true" | "false") || matches!(program, ":" | "exit")) && !words.any(joins)
}

/// The modules that `modprobe.blacklist=` of the kernel command line names, each with its word.
pub fn blacklisted(cmdline: &str) -> Vec<(String, String)> {
    let words = parameters(cmdline).filter(|(key, _)| key == "modprobe.blacklist");
    let names = words.flat_map(|(key, value)| {
        let names: Vec<String> = value.split(',').map(canonical_name).collect();
        names.into_iter().map(move |name| (name, format!("{key}={value}")))
    });
    names.filter(|(name, _)| !name.is_empty()).collect()
}

/// The value of the kernel's own `module_blacklist=`: names with commas between them. The kernel
/// takes the last one.
pub fn forbidden(cmdline: &str) -> Option<String> {
    // In names of parameters `-` and `_` are the same (kernel-parameters.rst).
    let words = parameters(cmdline).filter(|(key, _)| key.replace('-', "_") == "module_blacklist");
    words.last().map(|(_, value)| value)
}

/// The words `KEY=VALUE` of a kernel command line, without their quotes. Those after `--` are for
/// PID 1.
fn parameters(cmdline: &str) -> impl Iterator<Item = (String, String)> {
    let words = tokens(cmdline).map(|token| token.replace('"', ""));
    words.take_while(|word| word != "--").filter_map(|word| {
        let (key, value) = word.split_once('=')?;
        Some((key.to_owned(), value.to_owned()))
    })
}

/// As [`canonical_name`], but for what is in brackets.
fn canonical_pattern(pattern: &str) -> String {
    let mut inside = false;
    let canonical = pattern.chars().map(|c| {
        inside = (inside || c == '[') && c != ']';
        if c == '-' && !inside { '_' } else { c }
    });
    canonical.collect()
}

/// Whether `name` fits `pattern`, as in fnmatch(3) without flags. Time: at most the product of
/// their lengths.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut read) = (0, 0);
    // Where the last star is, and what it has taken so far.
    let mut star: Option<(usize, usize)> = None;
    while read < name.len() {
        let next = match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, read));
                at += 1;
                continue;
            }
            Some(b'?') => Some(1),
            Some(b'[') => match set(&pattern[at..], name[read]) {
                Some((true, length)) => Some(length),
                Some((false, _)) => None,
                // Without an end it is no set.
                None => (name[read] == b'[').then_some(1),
            },
            Some(c) => (*c == name[read]).then_some(1),
            None => None,
        };
        match (next, star) {
            (Some(length), _) => (at, read) = (at + length, read + 1),
            (None, Some((place, taken))) => {
                star = Some((place, taken + 1));
                (at, read) = (place + 1, taken + 1);
            }
            (None, None) => return false,
        }
    }
    pattern[at..].iter().all(|&c| c == b'*')
}

/// Whether `c` is in the set that `pattern` begins with, and the length of the set.
fn set(pattern: &[u8], c: u8) -> Option<(bool, usize)> {
    let negated = matches!(pattern.get(1), Some(b'!' | b'^'));
    let first = if negated { 2 } else { 1 };
    // A bracket that comes first is a member.
    let end = first + 1 + pattern.get(first + 1..)?.iter().position(|&c| c == b']')?;
    let mut members = &pattern[first..end];
    let mut found = false;
    while let [from, rest @ ..] = members {
        let (to, rest) = match rest {
            [b'-', to, rest @ ..] => (to, rest),
            _ => (from, rest),
        };
        found |= (*from..=*to).contains(&c);
        members = rest;
    }
    Some((found != negated, end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, module: &str) -> Option<(usize, Kind)> {
        let rules = rules(text);
        rules.iter().find(|rule| rule.names(module)).map(|rule| (rule.line, rule.kind))
    }

    #[test]
    fn a_line_against_a_module_is_found_with_its_number_and_meaning() {
        use Kind::{Blacklist, Helper, Idle};
        for (text, module, expected) in [
            ("blacklist zfs", "zfs", Some((1, Blacklist))),
            ("# x\n\n\tblacklist\t zfs # why\n", "zfs", Some((3, Blacklist))),
            ("blacklist zfs\n", "zfs_x", None),
            ("blacklist zf*\n", "zfs", None),
            ("#blacklist zfs\nblacklist spl", "zfs", None),
            ("# \\\nblacklist zfs", "zfs", None),
            ("options zfs \\\n  a=1\nblacklist \\\n  zfs\n", "zfs", Some((3, Blacklist))),
            ("blacklist crct10dif-common", "crct10dif_common", Some((1, Blacklist))),
            ("blacklist", "zfs", None),
            ("softdep zfs pre: spl\noptions zfs a=1\nremove zfs /bin/true", "zfs", None),
            ("alias zfs off", "zfs", Some((1, Blacklist))),
            ("alias zfs other\nalias zfs", "zfs", None),
            ("install zfs", "zfs", None),
            ("install zfs /bin/false", "zfs", Some((1, Idle))),
            ("install zfs /bin/true #comment", "zfs", Some((1, Idle))),
            ("install zfs # nothing", "zfs", Some((1, Idle))),
            ("install z* /usr/bin/false -x >/dev/null 2>&1", "zfs", Some((1, Idle))),
            ("install z[a-f]s false", "zfs", Some((1, Idle))),
            ("install z-* \"/bin/true\"", "z_x", Some((1, Idle))),
            ("install zfs :", "zfs", Some((1, Idle))),
            ("install zfs exit 1", "zfs", Some((1, Idle))),
            ("install zfs /bin/true; modprobe -i zfs", "zfs", Some((1, Helper))),
            ("install zfs /bin/true && modprobe -i zfs", "zfs", Some((1, Helper))),
            ("install zfs /sbin/modprobe -i zfs", "zfs", Some((1, Helper))),
            ("install zfs /usr/bin/falsetto", "zfs", Some((1, Helper))),
            ("install spl /bin/false", "zfs", None),
        ] {
            assert_eq!(of(text, module), expected, "{text:?} {module}");
        }
        let long = rules(&format!("install zfs  /bin/false\t{}", "x".repeat(1000)));
        assert!(long[0].text.starts_with("install zfs /bin/false xx"), "{long:?}");
        assert_eq!(long[0].text.len(), SHOWN);
    }

    #[test]
    fn patterns_are_those_of_fnmatch() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("z*s", "zfs", true),
            ("z*s", "zfsx", false),
            ("*f*f*", "zffs", true),
            ("?fs", "zfs", true),
            ("?", "", false),
            ("[xz]fs", "zfs", true),
            ("[!xz]fs", "zfs", false),
            ("[^a]fs", "zfs", true),
            ("[]z]fs", "zfs", true),
            ("[a-z]*", "zfs", true),
            ("[z", "[z", true),
            ("[z", "z", false),
            ("zfs", "zf", false),
            ("zf", "zfs", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
        let stars = "*a".repeat(1000);
        assert!(!matches(stars.as_bytes(), "a".repeat(999).as_bytes()));
    }

    #[test]
    fn the_kernel_command_line_has_a_list_for_modprobe_and_one_for_the_kernel() {
        let names = |line: &str| -> Vec<String> {
            blacklisted(line).into_iter().map(|(name, _)| name).collect()
        };
        for (line, expected) in [
            ("quiet modprobe.blacklist=zfs,a-b ro", &["zfs", "a_b"][..]),
            ("modprobe.blacklist=a modprobe.blacklist=\"b,c\"", &["a", "b", "c"]),
            ("\"modprobe.blacklist=zfs\"", &["zfs"]),
            ("modprobe.blacklist= modprobe.blacklist", &[]),
            ("module_blacklist=zfs x.modprobe.blacklist=zfs", &[]),
            ("a -- modprobe.blacklist=zfs", &[]),
        ] {
            assert_eq!(names(line), expected, "{line}");
        }
        let word = blacklisted("modprobe.blacklist=zfs,spl")[1].1.clone();
        assert_eq!(word, "modprobe.blacklist=zfs,spl");
        for (line, expected) in [
            ("module_blacklist=a module-blacklist=zfs,spl", Some("zfs,spl")),
            ("module_blacklist=\"zfs\"", Some("zfs")),
            ("modprobe.blacklist=zfs module_blacklist", None),
            ("-- module_blacklist=zfs", None),
        ] {
            assert_eq!(forbidden(line).as_deref(), expected, "{line}");
        }
    }
}
