//! Module options: `options` lines of modprobe.d(5) and `MODULE.PARAMETER=VALUE` of the kernel
//! command line. The kernel does not apply the latter to a module that is loaded later: user space
//! has to pass them (Documentation/admin-guide/kernel-parameters.rst).

use super::canonical_name;
use super::lines::{logical_lines, tokens, word};

/// The directories of modprobe.d(5) files. The first file of a name masks the others.
pub const DIRECTORIES: [&str; 5] = [
    "/etc/modprobe.d",
    "/run/modprobe.d",
    "/usr/local/lib/modprobe.d",
    "/usr/lib/modprobe.d",
    "/lib/modprobe.d",
];

/// Options of all modules, in their original order: the kernel takes the last of two values of one
/// parameter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options(Vec<(String, String)>);

impl Options {
    /// Adds the `options` lines of one modprobe.d file, and skips all others. What speaks against
    /// loading a module is in [`super::modprobe_d`]; an alias means nothing to a loader that is told
    /// what to load.
    pub fn add_file(&mut self, text: &str) {
        for line in logical_lines(text) {
            let Some((command, rest)) = word(&line.text) else { continue };
            if let ("options", Some((module, options))) = (command, word(rest))
                && !options.trim().is_empty()
            {
                self.0.push((canonical_name(module), options.trim().to_owned()));
            }
        }
    }

    /// Adds the module options of the kernel command line. Quotes stay where they are: the kernel
    /// parses module options and its command line in the same way (`next_arg()`, lib/cmdline.c).
    /// `m.p="a b"` and `"m.p=a b"` both give `p` the value `a b`. Words after `--` are for PID 1.
    pub fn add_cmdline(&mut self, cmdline: &str) {
        for token in tokens(cmdline) {
            let (quote, word) = token.split_at(usize::from(token.starts_with('"')));
            if word.strip_suffix(quote).unwrap_or(word) == "--" {
                break;
            }
            let Some((module, option)) = word.split_once('.') else { continue };
            if !module.is_empty() && !module.contains('=') && !is_nameless(option) {
                self.0.push((canonical_name(module), format!("{quote}{option}")));
            }
        }
    }

    /// The options of `module` (a canonical name), as init_module(2) takes them.
    pub fn of(&self, module: &str) -> String {
        let mine: Vec<&str> =
            self.0.iter().filter(|(m, _)| m == module).map(|(_, o)| o.as_str()).collect();
        mine.join(" ")
    }
}

/// Whether an option names no parameter. `--` is none either: it would end the options.
fn is_nameless(option: &str) -> bool {
    option.is_empty() || option.starts_with(['"', '=']) || option.trim_end_matches('"') == "--"
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
            ("quoted whole", r#""zfs.a=b c" d"#, r#""a=b c""#),
            ("quoted whole, a flag", r#""zfs.a" d"#, r#""a""#),
            ("needless quotes", r#"zfs.a="b""#, r#"a="b""#),
            ("quotes within a value", r#"zfs.a=b"c d"e f"#, r#"a=b"c d"e"#),
            ("flag", "zfs.debug", "debug"),
            ("behind --", "a -- zfs.a=1", ""),
            ("behind -- in quotes", r#"a "--" zfs.a=1"#, ""),
            ("a dot in the value only", "a=zfs.a=1", ""),
            ("nothing before the dot", ".a=1 zfs.=1 zfs. zfs.-- \"zfs.\"", ""),
            ("an open quote", r#"zfs.a="b c"#, r#"a="b c"#),
        ] {
            let mut options = Options::default();
            options.add_cmdline(line);
            assert_eq!(options.of("zfs"), want, "{case}");
        }
    }
}
