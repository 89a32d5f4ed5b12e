//! The settings of a unit that make it need a path or another unit (systemd.unit(5),
//! systemd.exec(5)). A setting that a later line takes back counts all the same: then a mount unit
//! is skipped where it could have failed.

use crate::config::boolean;
use crate::systemd::name::unescape_path;

/// What a unit needs.
#[derive(Debug, Default)]
pub(super) struct Needs {
    /// Absolute paths.
    pub(super) paths: Vec<String>,
    /// Names of units.
    pub(super) requires: Vec<String>,
}

/// Settings with directories, and where those are.
const DIRECTORIES: [(&str, &str); 5] = [
    ("StateDirectory", "/var/lib"),
    ("CacheDirectory", "/var/cache"),
    ("LogsDirectory", "/var/log"),
    ("RuntimeDirectory", "/run"),
    ("ConfigurationDirectory", "/etc"),
];
/// Directories that specifiers stand for (systemd.unit(5), "Specifiers").
const SPECIFIERS: [(&str, &str); 8] = [
    ("%C", "/var/cache"),
    ("%E", "/etc"),
    ("%L", "/var/log"),
    ("%S", "/var/lib"),
    ("%T", "/tmp"),
    ("%V", "/var/tmp"),
    ("%h", "/root"),
    ("%t", "/run"),
];
/// Where timers keep their time stamps (systemd.timer(5), "Persistent=").
const TIMERS: &str = "/var/lib/systemd/timers";

impl Needs {
    /// Adds what `text` says, the file of a unit or a drop-in.
    pub(super) fn read(&mut self, text: &str) {
        let mut section = String::new();
        for line in lines(text) {
            let line = line.trim();
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                section = name.to_owned();
            } else if let Some((key, value)) = line.split_once('=') {
                self.setting(&section, key.trim_end(), value.trim_start());
            }
        }
    }

    fn setting(&mut self, section: &str, key: &str, value: &str) {
        if let Some((_, directory)) = DIRECTORIES.iter().find(|(name, _)| *name == key) {
            // Since systemd 253, links and flags may follow after a colon.
            let names = words(value).map(|word| word.split(':').next().unwrap_or(word));
            names.for_each(|name| self.path(&format!("{directory}/{name}")));
            return;
        }
        match (section, key) {
            ("Unit", "Requires" | "Requisite" | "BindsTo") => {
                self.requires.extend(words(value).map(str::to_owned));
            }
            ("Unit", "RequiresMountsFor") => words(value).for_each(|word| self.path(word)),
            // A directory with a dash may be missing.
            (_, "WorkingDirectory" | "RootDirectory" | "RootImage") => self.path(value),
            (_, "PrivateTmp" | "DynamicUser") if is_true(value) => {
                self.path("/tmp");
                self.path("/var/tmp");
            }
            ("Mount", "What" | "Where") | ("Automount", "Where") | ("Swap", "What") => {
                self.path(value);
            }
            ("Socket", key) if key.starts_with("Listen") => self.path(value),
            ("Path", key) if key.starts_with("Path") || key == "DirectoryNotEmpty" => {
                self.path(value);
            }
            ("Timer", "Persistent") if is_true(value) => self.path(TIMERS),
            _ => {}
        }
    }

    /// Adds `path` if it is absolute. Cuts it before a component whose value is not known here.
    fn path(&mut self, path: &str) {
        let path = path.trim_matches(|c: char| c == '"' || c == '\'' || c.is_whitespace());
        let known = SPECIFIERS.iter().find_map(|(specifier, directory)| {
            path.strip_prefix(specifier).map(|rest| format!("{directory}{rest}"))
        });
        let path = known.unwrap_or_else(|| path.to_owned()).replace("%%", "\0");
        let path = match path.find(['%', '\\']) {
            Some(at) => path[..at].rsplit_once('/').map_or("", |(above, _)| above),
            None => &path,
        };
        if path.starts_with('/') {
            self.paths.push(path.replace('\0', "%"));
        }
    }
}

/// The mount point of `unit`, if that is a mount unit.
pub(super) fn mount_point(unit: &str) -> Option<String> {
    unit.strip_suffix(".mount").map(unescape_path)
}

fn is_true(value: &str) -> bool {
    boolean(value.trim()) == Some(true)
}

/// The words of a list. Quotes are taken off where a word is used.
fn words(value: &str) -> impl Iterator<Item = &str> {
    value.split_ascii_whitespace()
}

/// The lines of `text` without comments. A line that ends in a backslash goes on in the next
/// (systemd.syntax(7)).
fn lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut begun = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with(['#', ';']) {
            continue;
        }
        match line.strip_suffix('\\') {
            Some(part) => begun = begun + part + " ",
            None => lines.push(std::mem::take(&mut begun) + line),
        }
    }
    lines.push(begun);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_of_systemd_that_needs_a_path_is_known() {
        for (text, expected) in [
            ("[Unit]\nRequiresMountsFor=/a \\\n# x\n  /b\n", &["/a", "/b"][..]),
            (
                "[Unit]\nRequiresMountsFor=%S/x /y/%i/z /100%% relative \"/q\"\n",
                &["/var/lib/x", "/y", "/100%", "/q"],
            ),
            ("[Service]\nPrivateTmp=yes\n", &["/tmp", "/var/tmp"]),
            ("[Service]\nPrivateTmp=no\nDynamicUser=off\n", &[]),
            ("[Service]\nDynamicUser=true\n", &["/tmp", "/var/tmp"]),
            ("[Service]\nStateDirectory = a b/c:d\n", &["/var/lib/a", "/var/lib/b/c"]),
            (
                "[Socket]\nLogsDirectory=x\nListenStream=/s\nListenStream=22\n",
                &["/var/log/x", "/s"],
            ),
            ("[Mount]\nWhat=tank/x\nWhere=/m\n", &["/m"]),
            ("[Path]\nPathExists=/p\nDirectoryNotEmpty=/d\nUnit=x.service\n", &["/p", "/d"]),
            ("[Timer]\nPersistent=true\n", &["/var/lib/systemd/timers"]),
            ("[Service]\nWorkingDirectory=/w\nWorkingDirectory=-/v\nWorkingDirectory=~\n", &["/w"]),
            ("[Service]\nRootImage=/images/x.raw\n", &["/images/x.raw"]),
            ("[Install]\nRequiresMountsFor=/x\n; y\n", &[]),
        ] {
            let mut needs = Needs::default();
            needs.read(text);
            assert_eq!(needs.paths, expected, "{text}");
        }
        let mut needs = Needs::default();
        needs.read("[Unit]\nRequires=a.service b.mount\nWants=c.service\nBindsTo=d.service\n");
        assert_eq!(needs.requires, ["a.service", "b.mount", "d.service"]);
        assert_eq!(mount_point("var-lib-a\\x2db.mount").as_deref(), Some("/var/lib/a-b"));
        assert_eq!(mount_point("-.mount").as_deref(), Some("/"));
    }
}
