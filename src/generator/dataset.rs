//! One dataset of a list: which units are made of it, and what is wrong with it.
//!
//! Source: zfs-mount-generator(8), and the output of the generator of OpenZFS 2.3.2.

use std::fmt::Arguments;
use std::path::Path;

use super::mounts::Mounts;
use super::problems::Problems;
use super::zfs_list::{Column, Line, List, Place};
use crate::config::is_pool_name;
use crate::systemd::name;

/// What both units of a dataset wait for.
#[derive(Clone, Debug, Default)]
pub(super) struct Needs<'a> {
    pub(super) requires: Vec<&'a str>,
    /// The paths of RequiresMountsFor=, without links.
    pub(super) paths: Vec<String>,
}

/// When a file system is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pulled<'a> {
    /// With all others.
    ByLocalFs(Nofail),
    /// By whoever needs it.
    ByNobody,
    /// By units that want it, and units that require it.
    By(Vec<&'a str>, Vec<&'a str>),
}

/// `org.openzfs.systemd:nofail`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nofail {
    Unset,
    On,
    Off,
}

/// A file system that gets a mount unit, unless its mount point belongs to another one.
#[derive(Clone, Debug)]
pub(super) struct Mount<'a> {
    /// The simplified path: one `/` between two names, none at the end. It has no links, which
    /// systemd refuses.
    pub(super) point: String,
    /// The path as it is in the list, if that differs.
    pub(super) link: Option<String>,
    /// `canmount=noauto`
    pub(super) noauto: bool,
    pub(super) pulled: Pulled<'a>,
    pub(super) before: Vec<&'a str>,
    pub(super) after: Vec<&'a str>,
    /// Mount options, without those that are always there.
    pub(super) options: Vec<&'static str>,
}

/// A dataset of a list.
#[derive(Clone, Debug)]
pub(super) struct Dataset<'a> {
    pub(super) name: &'a str,
    /// File and line, for messages.
    pub(super) place: Place<'a>,
    /// The file.
    pub(super) list: &'a str,
    pub(super) needs: Needs<'a>,
    /// Its encryption root, and `keylocation`.
    pub(super) key: Option<(&'a str, &'a str)>,
    /// The path of a key that is a file, without links.
    pub(super) key_file: Option<String>,
    pub(super) mount: Option<Mount<'a>>,
}

/// The options of mount(8) for a property that is on, and for one that is off.
const OPTIONS: [(Column, &str, &str); 5] = [
    (Column::Devices, "dev", "nodev"),
    (Column::Exec, "exec", "noexec"),
    (Column::Readonly, "ro", "rw"),
    (Column::Setuid, "suid", "nosuid"),
    (Column::Nbmand, "mand", "nomand"),
];

/// A line, and where its faults are reported.
struct Reader<'a, 'p> {
    line: &'p Line<'a>,
    place: Place<'a>,
    mounts: &'p Mounts<'p>,
    problems: &'p mut Problems,
}

/// Reads line `number` of `list`; `None`: there is nothing in it that could be a unit.
pub(super) fn read<'a>(
    list: &'a List,
    number: usize,
    line: &Line<'a>,
    mounts: &Mounts<'_>,
    problems: &mut Problems,
) -> Option<Dataset<'a>> {
    let place = list.place(number);
    let mut reader = Reader { line, place, mounts, problems };
    if !is_dataset_name(line.name) {
        return reader.refuse(format_args!("no name of a dataset"));
    }
    if !line.is_whole() {
        return reader.refuse(format_args!(
            "columns are missing (`zfs list -H -o` of zfs-mount-generator(8))"
        ));
    }
    let key = reader.key();
    let mount = reader.mount();
    let is_root = key.is_some_and(|(root, _)| root == line.name);
    if mount.is_none() && !is_root {
        return None;
    }
    let needs = Needs {
        requires: reader.units(Column::Requires).unwrap_or_default(),
        paths: reader.paths(),
    };
    let file = key.and_then(|(_, location)| scheme(location)).filter(|(kind, _)| *kind == "file");
    let key_file = file.map(|(_, path)| reader.canonical(path));
    Some(Dataset { name: line.name, place, list: &list.name, needs, key, key_file, mount })
}

impl<'a> Reader<'a, '_> {
    fn say(&mut self, what: Arguments<'_>) {
        self.problems.add(format_args!("{}: {:?}: {what}", self.place, self.line.name));
    }

    fn refuse<T>(&mut self, what: Arguments<'_>) -> Option<T> {
        self.say(format_args!("{what}; left out"));
        None
    }

    fn key(&mut self) -> Option<(&'a str, &'a str)> {
        let root = self.line.get(Column::Encroot).filter(|root| *root != "none")?;
        if !is_dataset_name(root) {
            self.say(format_args!(
                "{root:?} is no name of an encryption root; no unit loads its key"
            ));
            return None;
        }
        if name::escape_path(root).len() + "zfs-load-key@.service".len() > name::LONGEST {
            self.say(format_args!(
                "the name of the unit that loads the key of {root:?} would be too long; that \
                 unit is left out"
            ));
            return None;
        }
        let location = self.line.get(Column::Keylocation).unwrap_or("none");
        let known = location == "prompt" || scheme(location).is_some();
        if root == self.line.name && !known {
            self.say(format_args!("keylocation={location} is unknown; asking for the key"));
        }
        Some((root, location))
    }

    fn mount(&mut self) -> Option<Mount<'a>> {
        if matches!(self.line.get(Column::Mountpoint), Some("legacy" | "none")) {
            return None;
        }
        let noauto = match self.line.get(Column::Canmount) {
            Some("on") => false,
            Some("noauto") => true,
            Some("off") => return None,
            other => return self.refuse(format_args!("canmount={}", other.unwrap_or("-"))),
        };
        match self.line.get(Column::Ignore) {
            None | Some("off") => {}
            Some("on") => return None,
            Some(other) => return self.refuse(format_args!("org.openzfs.systemd:ignore={other}")),
        }
        let (point, link) = self.point()?;
        let pulled = self.pulled(noauto);
        Some(Mount {
            point,
            link,
            noauto,
            pulled,
            before: self.units(Column::Before).unwrap_or_default(),
            after: self.units(Column::After).unwrap_or_default(),
            options: self.options(),
        })
    }

    /// The mount point without links, and also as it is in the list if that has links.
    fn point(&mut self) -> Option<(String, Option<String>)> {
        let point = self.line.get(Column::Mountpoint).unwrap_or("-");
        let names: Vec<&str> = point.split('/').filter(|c| !c.is_empty()).collect();
        if !point.starts_with('/') || names.iter().any(|name| matches!(*name, "." | "..")) {
            return self.refuse(format_args!("mountpoint={point} is no absolute path"));
        }
        let simple = format!("/{}", names.join("/"));
        let canonical = self.canonical(&simple);
        if !name::can_end_a_line(&canonical) {
            return self.refuse(format_args!("mountpoint={point:?} cannot be written into a unit"));
        }
        if name::escape_path(&canonical).len() + ".mount".len() > name::LONGEST {
            return self.refuse(format_args!("the name of its mount unit would be too long"));
        }
        let link = (canonical != simple).then_some(simple);
        Some((canonical, link))
    }

    /// `path` without links.
    fn canonical(&self, path: &str) -> String {
        let canonical = self.mounts.canonical(Path::new(path));
        // A link can lead to a path that cannot be written into a unit. Then the path stays as it
        // is.
        let canonical = canonical.to_str().filter(|text| !text.contains(char::is_control));
        canonical.unwrap_or(path).to_owned()
    }

    fn pulled(&mut self, noauto: bool) -> Pulled<'a> {
        let wanted = self.reverse(Column::WantedBy);
        let required = self.reverse(Column::RequiredBy);
        if wanted.is_some() || required.is_some() {
            return Pulled::By(wanted.unwrap_or_default(), required.unwrap_or_default());
        }
        let nofail = match self.line.get(Column::Nofail) {
            None => Nofail::Unset,
            Some("on") => Nofail::On,
            Some("off") => Nofail::Off,
            Some(other) => {
                self.say(format_args!("org.openzfs.systemd:nofail={other}; as if it were not set"));
                Nofail::Unset
            }
        };
        if noauto { Pulled::ByNobody } else { Pulled::ByLocalFs(nofail) }
    }

    /// Units that pull the mount unit in. `none` means nobody, not even local-fs.target.
    fn reverse(&mut self, column: Column) -> Option<Vec<&'a str>> {
        match self.line.get(column) {
            Some("none") => Some(Vec::new()),
            _ => self.units(column),
        }
    }

    /// The units in a property; `None` where it is not set.
    fn units(&mut self, column: Column) -> Option<Vec<&'a str>> {
        let words = self.line.get(column)?.split_ascii_whitespace();
        let (good, bad): (Vec<_>, Vec<_>) = words.partition(|word| name::is_unit(word));
        bad.iter()
            .for_each(|word| self.say(format_args!("{word:?} is no name of a unit; left out")));
        Some(good)
    }

    fn paths(&mut self) -> Vec<String> {
        let words = self.line.get(Column::RequiresMountsFor).unwrap_or_default();
        let words = words.split_ascii_whitespace();
        let (good, bad): (Vec<_>, Vec<_>) = words.partition(|word| word.starts_with('/'));
        bad.iter()
            .for_each(|word| self.say(format_args!("{word:?} is no absolute path; left out")));
        good.into_iter().map(|path| self.canonical(path)).collect()
    }

    fn options(&mut self) -> Vec<&'static str> {
        let mut options = Vec::new();
        match self.flag(Column::Atime) {
            Some(true) => {
                options.push("atime");
                let relative = self.flag(Column::Relatime);
                options.extend(relative.map(|on| if on { "relatime" } else { "strictatime" }));
            }
            Some(false) => options.push("noatime"),
            None => {}
        }
        for (column, on, off) in OPTIONS {
            options.extend(self.flag(column).map(|is_on| if is_on { on } else { off }));
        }
        options
    }

    fn flag(&mut self, column: Column) -> Option<bool> {
        match self.line.get(column)? {
            "on" => Some(true),
            "off" => Some(false),
            other => {
                self.say(format_args!(
                    "{}={other}; mounted without that option",
                    column.property()
                ));
                None
            }
        }
    }
}

/// The scheme of the URI `location`, and what follows the two slashes.
pub(super) fn scheme(location: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = location.split_once(':')?;
    Some((scheme, rest.strip_prefix("//")?))
}

/// Whether a key at `location` needs the network.
pub(super) fn is_on_the_network(location: &str) -> bool {
    scheme(location).is_some_and(|(scheme, _)| matches!(scheme, "http" | "https"))
}

/// A pool, and file systems in it (zfs(8)). The names of interrupted receives have a `%`. White
/// space at the end would not survive in a unit.
fn is_dataset_name(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"_-.: %".contains(&b);
    let mut components = name.split('/');
    components.next().is_some_and(is_pool_name)
        && components.all(|c| !matches!(c, "" | "." | "..") && c.bytes().all(fits))
        && name.len() <= name::LONGEST
        && name::can_end_a_line(name)
}

/// The name of the mount unit of a mount point.
pub(super) fn mount_unit(point: &str) -> String {
    format!("{}.mount", name::escape_path(point))
}

/// The name of the unit that loads the key of an encryption root.
pub(super) fn key_unit(root: &str) -> String {
    format!("zfs-load-key@{}.service", name::escape_path(root))
}
