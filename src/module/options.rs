//! Module options: `options` lines of modprobe.d(5) and `MODULE.PARAMETER=VALUE` of the kernel
//! command line, which for a module that is loaded later is user space's business
//! (Documentation/admin-guide/kernel-parameters.rst).

use super::canonical_name;

/// Where modprobe.d(5) files live, the first of a name masks the others.
pub const DIRECTORIES: [&str; 5] = [
    "/etc/modprobe.d",
    "/run/modprobe.d",
    "/usr/local/lib/modprobe.d",
    "/usr/lib/modprobe.d",
    "/lib/modprobe.d",
];

/// Options of all modules, in the order they were given: of two values of one parameter the
/// kernel takes the last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options(Vec<(String, String)>);

impl Options {
    /// Adds the `options` lines of one modprobe.d file. Lines of other kinds are left out:
    /// aliases, install commands and blacklists mean nothing to a loader that is told what to
    /// load.
    pub fn add_file(&mut self, text: &str) {
        for line in logical_lines(text) {
            let Some((command, rest)) = word(&line) else { continue };
            if let ("options", Some((module, options))) = (command, word(rest))
                && !options.trim().is_empty()
            {
                self.0.push((canonical_name(module), options.trim().to_owned()));
            }
        }
    }

    /// Adds what the kernel command line says of modules. Quotes are the kernel's
    /// (`next_arg()`, lib/cmdline.c): `m.p="a b"` and `"m.p=a b"` both give `p` the value `a b`.
    /// What stands behind `--` is for PID 1.
    pub fn add_cmdline(&mut self, cmdline: &str) {
        for token in tokens(cmdline).take_while(|t| *t != "--") {
            let token = unquoted(token);
            let (key, value) = match token.split_once('=') {
                Some((key, value)) => (key, Some(unquoted(value))),
                None => (token, None),
            };
            let Some((module, parameter)) = key.split_once('.') else { continue };
            if module.is_empty() || parameter.is_empty() {
                continue;
            }
            let option = match value {
                None => parameter.to_owned(),
                Some(v) if v.contains(|c: char| c.is_ascii_whitespace()) => {
                    format!("{parameter}=\"{v}\"")
                }
                Some(v) => format!("{parameter}={v}"),
            };
            self.0.push((canonical_name(module), option));
        }
    }

    /// The options of `module` (a canonical name), as init_module(2) takes them.
    pub fn of(&self, module: &str) -> String {
        let mine: Vec<&str> =
            self.0.iter().filter(|(m, _)| m == module).map(|(_, o)| o.as_str()).collect();
        mine.join(" ")
    }
}

/// The lines of a modprobe.d file as kmod reads them: a backslash before the end of a line joins
/// it with the next, comments included; any other backslash is dropped and the character behind
/// it taken as it is.
fn logical_lines(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let literal = match c {
            '\\' => match chars.next() {
                Some('\n') | None => continue,
                Some(next) => next,
            },
            '\n' => {
                lines.push(String::new());
                continue;
            }
            c => c,
        };
        if let Some(line) = lines.last_mut() {
            line.push(literal);
        }
    }
    lines.retain(|l| !l.starts_with('#'));
    lines
}

/// The first word of `text` and what stands behind it.
fn word(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start_matches([' ', '\t']);
    let end = text.find([' ', '\t']).unwrap_or(text.len());
    (end > 0).then(|| (&text[..end], &text[end..]))
}

/// The words of a kernel command line; white space inside double quotes does not end one.
fn tokens(cmdline: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    cmdline
        .split(move |c: char| {
            quoted ^= c == '"';
            !quoted && c.is_ascii_whitespace()
        })
        .filter(|t| !t.is_empty())
}

fn unquoted(text: &str) -> &str {
    match text.strip_prefix('"') {
        Some(inner) => inner.strip_suffix('"').unwrap_or(inner),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_command_line_is_read_with_the_kernels_quotes() {
        for (case, line, want) in [
            ("plain", "quiet zfs.zfs_arc_max=5 ro", "zfs_arc_max=5"),
            ("another module", "spl.x=1 zfs.a=1", "a=1"),
            ("two, in order", "zfs.a=1 zfs.a=2", "a=1 a=2"),
            ("quoted value", r#"zfs.a="b c" d"#, r#"a="b c""#),
            ("quoted whole", r#""zfs.a=b c" d"#, r#"a="b c""#),
            ("needless quotes", r#"zfs.a="b""#, "a=b"),
            ("flag", "zfs.debug", "debug"),
            ("behind --", "a -- zfs.a=1", ""),
            ("a dot in the value only", "a=zfs.a=1", ""),
            ("nothing before the dot", ".a=1 zfs.=1 zfs.", ""),
            ("an open quote", r#"zfs.a="b c"#, r#"a="b c""#),
        ] {
            let mut options = Options::default();
            options.add_cmdline(line);
            assert_eq!(options.of("zfs"), want, "{case}");
        }
    }
}
