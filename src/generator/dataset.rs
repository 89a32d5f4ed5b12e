//! One dataset of a list: which units are made of it, and what is wrong with it.
//!
//! Source: zfs-mount-generator(8), and the output of the generator of OpenZFS 2.3.2.

use std::fmt::Arguments;
use std::path::Path;
use std::rc::Rc;

use crate::config::is_pool_name;
use crate::mountpoints::Mounts;
use crate::mountpoints::list::{Column, Line, List, Place};
use crate::mountpoints::problems::Problems;
use crate::systemd::name;

/// What both units of a dataset wait for.
#[derive(Clone, Debug, Default)]
pub(super) struct Needs<'a> {
    pub(super) requires: Vec<&'a str>,
    /// The paths of RequiresMountsFor=, without links, as far as units can be named after them.
    pub(super) paths: Rc<[String]>,
}

/// The paths of the property that was read last, and its text. Datasets inherit properties, and a
/// property may have 8 KiB.
#[derive(Debug, Default)]
pub(super) struct Last<'a>(Option<(&'a str, Rc<[String]>)>);

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
    /// The path of a key that is a file, as in [`Needs`].
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

/// How much of a bad value is shown.
const SHOWN: usize = 80;
/// PATH_MAX: systemd ignores a path that is as long.
const PATH_MAX: usize = 4096;
/// Directories that have their file systems before any unit is started.
const SYSTEMS: [&str; 4] = ["/dev", "/proc", "/run", "/sys"];

/// Reads line `number` of `list`; `None`: there is nothing in it that could be a unit.
pub(super) fn read<'a>(
    list: &'a List,
    (number, line): (usize, &Line<'a>),
    mounts: &Mounts<'_>,
    last: &mut Last<'a>,
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
        paths: reader.paths(last),
    };
    let file = key.and_then(|(_, location)| scheme(location)).filter(|(kind, _)| *kind == "file");
    let key_file = file.map(|(_, path)| reader.needed(path));
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
        if canonical == "/" {
            // Boot environments. The root file system is there already.
            return None;
        }
        if SYSTEMS.contains(&canonical.as_str()) {
            return self.refuse(format_args!("mountpoint={point} belongs to the system"));
        }
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

    fn paths(&mut self, last: &mut Last<'a>) -> Rc<[String]> {
        let property = self.line.get(Column::RequiresMountsFor).unwrap_or_default();
        if let Some((_, paths)) = last.0.as_ref().filter(|(text, _)| *text == property) {
            return paths.clone();
        }
        let words = property.split_ascii_whitespace();
        let is_good = |word: &&str| word.starts_with('/') && word.len() < PATH_MAX;
        let (good, bad): (Vec<_>, Vec<_>) = words.partition(is_good);
        for word in bad {
            let what = if word.starts_with('/') {
                "is too long for a path"
            } else {
                "is no absolute path"
            };
            let word: String = word.chars().take(SHOWN).collect();
            self.say(format_args!("{word:?} {what}; left out"));
        }
        let paths: Rc<[String]> = good.into_iter().map(|path| self.needed(path)).collect();
        last.0 = Some((property, paths.clone()));
        paths
    }

    /// `path` without links, as far as there can be a mount unit of that name. What is below that
    /// cannot be a mount point for systemd.
    fn needed(&self, path: &str) -> String {
        let mut path = self.canonical(path);
        path.truncate(named_part(&path).len());
        path
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

/// The longest beginning of `path`, in whole components, that a mount unit can be named after.
fn named_part(path: &str) -> &str {
    let most = name::LONGEST - ".mount".len();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/:_.".contains(&b);
    // The first byte is not in the name.
    let (mut length, mut end) = (0, 0);
    for (at, byte) in path.bytes().enumerate().skip(1) {
        if byte == b'/' {
            end = at;
        }
        length += if plain(byte) { 1 } else { "\\x00".len() };
        if length > most {
            return &path[..end];
        }
    }
    path
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
    name::escape_path(point) + ".mount"
}

/// The name of the unit that loads the key of an encryption root.
pub(super) fn key_unit(root: &str) -> String {
    format!("zfs-load-key@{}.service", name::escape_path(root))
}
