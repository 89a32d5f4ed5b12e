//! The lists that zfs-mount-generator(8) describes: `zfs list -H` of the datasets of a pool, kept
//! in /etc by zed(8) because the pools are not there when generators run.

use std::fmt::{Display, Formatter};
use std::io::Read;
use std::path::Path;

use super::problems::Problems;
use crate::config::is_pool_name;
use crate::host::Host;

/// Where they are, a file for each pool.
pub(super) const DIRECTORY: &str = "/etc/zfs/zfs-list.cache";

/// All lists together may have this many bytes. That is 40,000 datasets, parsed in a few
/// milliseconds. The limit is there because a generator holds up the whole boot.
const LARGEST: u64 = 8 << 20;

/// A column of a list, in the order of the man page ("Properties").
#[derive(Clone, Copy)]
pub(super) enum Column {
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
    pub(super) fn property(self) -> &'static str {
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

/// One dataset. A property that is not set is `-` in the file and `None` here.
#[derive(Debug)]
pub(super) struct Line<'a> {
    pub(super) name: &'a str,
    fields: Vec<&'a str>,
}

impl<'a> Line<'a> {
    /// Reads a line; it may lack columns, see [`Line::is_whole`].
    fn parse(text: &'a str) -> Line<'a> {
        let fields: Vec<&str> = text.split('\t').collect();
        Line { name: fields.get(Column::Name as usize).copied().unwrap_or_default(), fields }
    }

    pub(super) fn get(&self, column: Column) -> Option<&'a str> {
        let field = self.fields.get(column as usize).copied();
        field.filter(|value| !matches!(*value, "" | "-"))
    }

    /// Whether it has the columns without which nothing can be said about mounting.
    pub(super) fn is_whole(&self) -> bool {
        self.fields.len() >= LEAST
    }
}

/// The list of one pool.
#[derive(Debug)]
pub(super) struct List {
    /// Name of the file.
    pub(super) name: String,
    bytes: Vec<u8>,
}

impl List {
    /// Its lines, each with its number. The error says why a line cannot be used. Empty ones are
    /// left out: zed leaves one when a pool is exported.
    pub(super) fn lines(&self) -> impl Iterator<Item = (usize, Result<Line<'_>, &'static str>)> {
        let numbered = self.bytes.split(|&b| b == b'\n').enumerate();
        numbered.filter(|(_, bytes)| !bytes.is_empty()).map(|(at, bytes)| {
            let line = match std::str::from_utf8(bytes) {
                Err(_) => Err("is not UTF-8"),
                Ok(text) if text.chars().any(|c| c.is_control() && c != '\t') => {
                    Err("has a control character in it")
                }
                Ok(text) => Ok(Line::parse(text)),
            };
            (at + 1, line)
        })
    }

    /// A place in it, for messages.
    pub(super) fn place(&self, line: usize) -> Place<'_> {
        Place { list: &self.name, line }
    }
}

/// A line of a list. It is formatted only when somebody reads it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    list: &'a str,
    line: usize,
}

impl Display for Place<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{DIRECTORY}/{}:{}", self.list, self.line)
    }
}

/// Reads all lists, in the order of their names. Reports what cannot be read.
pub(super) fn read(host: &Host, problems: &mut Problems) -> Vec<List> {
    let entries = match std::fs::read_dir(host.path(DIRECTORY)) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(e) => {
            problems.add(format_args!("{DIRECTORY}: cannot be read: {e}"));
            return Vec::new();
        }
    };
    let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    names.sort_unstable();
    let mut left = LARGEST;
    let mut lists = Vec::new();
    for name in names.iter().map(|name| name.to_string_lossy()) {
        // A file that is being written, or was put aside.
        if name.starts_with('.') {
            continue;
        }
        if !is_pool_name(&name) {
            problems.add(format_args!("{DIRECTORY}/{name}: no name of a pool, not read"));
            continue;
        }
        match list(&host.path(DIRECTORY).join(&*name), left) {
            Ok(bytes) => {
                left -= bytes.len() as u64;
                lists.push(List { name: name.into_owned(), bytes });
            }
            Err(why) => problems.add(format_args!("{DIRECTORY}/{name}: not read: {why}")),
        }
    }
    lists
}

/// The content of the file at `path`, of at most `most` bytes.
fn list(path: &Path, most: u64) -> Result<Vec<u8>, String> {
    // A FIFO would hold up the boot for ever.
    let meta = std::fs::metadata(path).map_err(|e| e.to_string())?;
    if !meta.is_file() {
        return Err("it is no regular file".to_owned());
    }
    let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() as u64 > most {
        return Err(format!("the lists have more than {LARGEST} bytes with it"));
    }
    Ok(bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A list with this content.
    pub(in crate::generator) fn of(name: &str, text: &str) -> List {
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
        let host = crate::generator::tests::host(root.path());
        let mut problems = Problems::default();
        assert!(read(&host, &mut problems).is_empty());
        let directory = host.path(DIRECTORY);
        std::fs::create_dir_all(directory.join("dir")).unwrap();
        let most = usize::try_from(LARGEST).unwrap();
        let sizes = [("b", most - 1), ("c", 2), ("d", 1), (".hidden", 1), ("tank~", 1), ("1", 1)];
        for (name, bytes) in sizes {
            std::fs::write(directory.join(name), vec![b'x'; bytes]).unwrap();
        }
        let names: Vec<_> = read(&host, &mut problems).into_iter().map(|l| l.name).collect();
        assert_eq!(names, ["b", "d"]);
        let said = problems.into_lines();
        let about =
            ["/1: no name", "/c: not read: the lists have", "/dir: not read: it is no", "/tank~"];
        assert_eq!(said.len(), about.len(), "{said:?}");
        for (line, part) in said.iter().zip(about) {
            assert!(line.contains(part), "{part}: {line}");
        }
    }
}
