//! The lists that zfs-mount-generator(8) describes: `zfs list -H` of the datasets of a pool, kept
//! in /etc by zed(8) because the pools are not there when generators run.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::{Display, Formatter};
use std::io::ErrorKind;
use std::path::Path;

use super::problems::Problems;
use crate::config::is_pool_name;
use crate::host::files::Files;

/// Where they are, a file for each pool.
pub(crate) const DIRECTORY: &str = "/etc/zfs/zfs-list.cache";

/// All lists together may have this many bytes. That is 80,000 datasets. The limit is there because
/// a generator holds up the whole boot.
const LARGEST: u64 = 16 << 20;
/// So many lists are read, one for each pool.
const MOST: usize = 1000;

/// A column of a list, in the order of the man page ("Properties").
#[derive(Clone, Copy)]
pub(crate) enum Column {
    Name,
    Mountpoint,
    Canmount,
    Atime,
    Relatime,
    Devices,
    Exec,
    Readonly,
    Setuid,
    Nbmand,
    Encroot,
    Keylocation,
    Requires,
    RequiresMountsFor,
    Before,
    After,
    WantedBy,
    RequiredBy,
    Nofail,
    Ignore,
}

impl Column {
    /// The native property that is in it, if that is a mount option.
    pub(crate) fn property(self) -> &'static str {
        match self {
            Column::Atime => "atime",
            Column::Relatime => "relatime",
            Column::Devices => "devices",
            Column::Exec => "exec",
            Column::Readonly => "readonly",
            Column::Setuid => "setuid",
            Column::Nbmand => "nbmand",
            _ => "another property",
        }
    }
}

/// Columns that each list has had; later releases added the others.
const LEAST: usize = Column::Nbmand as usize + 1;
/// All that are known.
const ALL: usize = Column::Ignore as usize + 1;

/// One dataset. A property that is not set is `-` in the file and `None` here.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    pub(crate) name: &'a str,
    fields: Vec<&'a str>,
}

impl<'a> Line<'a> {
    /// Reads a line; it may lack columns, see [`Line::is_whole`].
    fn parse(text: &'a str) -> Line<'a> {
        let mut fields = Vec::with_capacity(ALL);
        fields.extend(text.split('\t'));
        Line { name: fields.get(Column::Name as usize).copied().unwrap_or_default(), fields }
    }

    pub(crate) fn get(&self, column: Column) -> Option<&'a str> {
        let field = self.fields.get(column as usize).copied();
        field.filter(|value| !matches!(*value, "" | "-"))
    }

    /// Whether it has the columns without which nothing can be said about mounting.
    pub(crate) fn is_whole(&self) -> bool {
        self.fields.len() >= LEAST
    }
}

/// The list of one pool.
#[derive(Debug)]
pub(crate) struct List {
    /// Name of the file.
    pub(crate) name: String,
    bytes: Vec<u8>,
}

impl List {
    /// Its lines, each with its number. The error says why a line cannot be used. Empty ones are
    /// left out: zed leaves one when a pool is exported.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, Result<Line<'_>, &'static str>)> {
        let numbered = self.bytes.split(|&b| b == b'\n').enumerate();
        numbered.filter(|(_, bytes)| !bytes.is_empty()).map(|(at, bytes)| {
            let line = match std::str::from_utf8(bytes) {
                Err(_) => Err("is not UTF-8"),
                Ok(text) if has_controls(text) => Err("has a control character in it"),
                Ok(text) => Ok(Line::parse(text)),
            };
            (at + 1, line)
        })
    }

    /// The name of each dataset, its mount point, and its `canmount`. Nothing else is looked at.
    pub(super) fn points(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.bytes.split(|&b| b == b'\n').filter_map(|line| {
            let mut fields = line.splitn(4, |&b| b == b'\t').map(std::str::from_utf8);
            let mut next = || fields.next()?.ok();
            Some((next()?, next()?, next()?))
        })
    }

    /// A place in it, for messages.
    pub(crate) fn place(&self, line: usize) -> Place<'_> {
        Place { list: &self.name, line }
    }
}

/// Whether `text` has a control character that is no tab.
fn has_controls(text: &str) -> bool {
    let ascii = text.bytes().any(|b| b.is_ascii_control() && b != b'\t');
    // The others begin with this byte.
    ascii
        || (text.as_bytes().contains(&0xc2)
            && text.chars().any(|c| !c.is_ascii() && c.is_control()))
}

/// A line of a list. It is formatted only when somebody reads it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    list: &'a str,
    line: usize,
}

impl Display for Place<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{DIRECTORY}/{}:{}", self.list, self.line)
    }
}

/// Reads all lists, in the order of their names. Reports what cannot be read, and returns it as the
/// second value: then nobody knows which mount points there are.
pub(super) fn read(files: Files<'_>, problems: &mut Problems) -> (Vec<List>, Option<String>) {
    let mut lists = Vec::new();
    let mut unread = Unread { problems, first: None };
    if let Some(path) = files.later(Path::new(DIRECTORY)) {
        let path = path.display();
        unread.add(format!("{DIRECTORY}: not read: it leads to {path}, which is mounted later"));
    }
    let names = match files.names(Path::new(DIRECTORY)) {
        Ok(names) => names,
        Err(e) if e.kind() == ErrorKind::NotFound => Vec::new(),
        Err(e) => {
            unread.add(format!("{DIRECTORY}: cannot be read: {e}"));
            Vec::new()
        }
    };
    if names.len() > MOST {
        unread.add(format!("{DIRECTORY}: has more than {MOST} files; the rest is not read"));
    }
    let mut left = LARGEST;
    for name in sorted(names).into_keys().take(MOST) {
        // A file that is being written, or was put aside.
        if name.starts_with('.') {
            continue;
        }
        if !is_pool_name(&name) {
            let problem = format_args!("{DIRECTORY}/{name}: no name of a pool, not read");
            unread.problems.add(problem);
            continue;
        }
        match list(files, &name, left) {
            Ok(bytes) => {
                left -= bytes.len() as u64;
                lists.push(List { name, bytes });
            }
            Err(why) => unread.add(format!("{DIRECTORY}/{name}: not read: {why}")),
        }
    }
    (lists, unread.first)
}

/// The names in their order. The values say nothing: the generator has code for maps of this type
/// already, and none that sorts.
fn sorted(names: Vec<OsString>) -> BTreeMap<String, Vec<usize>> {
    let mut sorted: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for name in names {
        sorted.entry(name.to_string_lossy().into_owned()).or_default();
    }
    sorted
}

/// What was not read.
struct Unread<'p> {
    problems: &'p mut Problems,
    first: Option<String>,
}

impl Unread<'_> {
    fn add(&mut self, what: String) {
        self.problems.add(format_args!("{what}"));
        self.first.get_or_insert(what);
    }
}

/// The content of the list of the pool `name`, of at most `most` bytes.
fn list(files: Files<'_>, name: &str, most: u64) -> Result<Vec<u8>, String> {
    let path = Path::new(DIRECTORY).join(name);
    if let Some(path) = files.later(&path) {
        return Err(format!("it leads to {}, which is mounted later", path.display()));
    }
    files.read(&path, most).map_err(|e| match e.kind() {
        ErrorKind::FileTooLarge => format!("the lists have more than {LARGEST} bytes with it"),
        _ => e.to_string(),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::host::Host;

    /// A list with this content.
    pub(crate) fn of(name: &str, text: &str) -> List {
        List { name: name.to_owned(), bytes: text.as_bytes().to_vec() }
    }

    #[test]
    fn a_line_that_cannot_be_read_does_not_take_the_others_with_it() {
        let mut list = of("tank", "tank\t/tank\ton\n\nx\ty\r\nb\t-\t\n");
        list.bytes.extend(b"\xff\t/x\non");
        let read: Vec<_> = list.lines().collect();
        let numbers: Vec<usize> = read.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, [1, 3, 4, 5, 6]);
        let line = read[0].1.as_ref().unwrap();
        assert_eq!((line.name, line.get(Column::Mountpoint)), ("tank", Some("/tank")));
        assert_eq!((line.get(Column::Atime), line.is_whole()), (None, false));
        assert!(read[1].1.as_ref().unwrap_err().contains("control"));
        let line = read[2].1.as_ref().unwrap();
        assert_eq!((line.get(Column::Mountpoint), line.get(Column::Canmount)), (None, None));
        assert!(read[3].1.as_ref().unwrap_err().contains("UTF-8"));
        assert_eq!(list.place(3).to_string(), "/etc/zfs/zfs-list.cache/tank:3");
    }

    #[test]
    fn lists_are_bounded_together_and_only_files_with_the_name_of_a_pool_are_read() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::below(root.path(), "6.1.0");
        let mut problems = Problems::default();
        let (lists, unread) = read(Files::before_var(&host), &mut problems);
        assert!(lists.is_empty() && unread.is_none());
        let directory = host.path(DIRECTORY);
        std::fs::create_dir_all(directory.join("dir")).unwrap();
        let most = usize::try_from(LARGEST).unwrap();
        let sizes = [("b", most - 1), ("c", 2), ("d", 1), (".hidden", 1), ("tank~", 1), ("1", 1)];
        for (name, bytes) in sizes {
            std::fs::write(directory.join(name), vec![b'x'; bytes]).unwrap();
        }
        let (lists, unread) = read(Files::before_var(&host), &mut problems);
        let names: Vec<_> = lists.into_iter().map(|l| l.name).collect();
        assert_eq!(names, ["b", "d"]);
        assert!(unread.unwrap().contains("/c: not read"), "the first");
        let said = problems.into_lines();
        let about =
            ["/1: no name", "/c: not read: the lists have", "/dir: not read: it is no", "/tank~"];
        assert_eq!(said.len(), about.len(), "{said:?}");
        for (line, part) in said.iter().zip(about) {
            assert!(line.contains(part), "{part}: {line}");
        }
    }
}
