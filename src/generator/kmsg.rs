//! The kernel log, which is all a generator has: syslog and the journal may not run yet.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Priorities of syslog(3).
#[derive(Clone, Copy, Debug)]
pub(super) enum Level {
    Error = 3,
    Warning = 4,
    Debug = 7,
}

/// A writer to /dev/kmsg, or to stderr where that cannot be opened.
pub(super) struct Kmsg {
    path: PathBuf,
    /// Opened at the first message: most boots have none above debug.
    file: Option<Option<File>>,
}

/// printk's limit for one record written to /dev/kmsg is 1024 bytes less its own prefix
/// (LOG_LINE_MAX, kernel/printk/printk.c); longer ones are refused with EINVAL.
const LONGEST: usize = 900;

impl Kmsg {
    pub(super) fn new(path: &Path) -> Kmsg {
        Kmsg { path: path.to_owned(), file: None }
    }

    /// Writes one record. A log that cannot be written to is no reason to fail a boot.
    pub(super) fn write(&mut self, level: Level, message: &str) {
        let record = record(level, std::process::id(), message);
        let path = &self.path;
        let file = self.file.get_or_insert_with(|| OpenOptions::new().append(true).open(path).ok());
        let written = file.as_mut().is_some_and(|f| f.write_all(record.as_bytes()).is_ok());
        if !written {
            let _ = std::io::stderr().write_all(record.as_bytes());
        }
    }
}

/// One line, cut at a character boundary; a newline or control character would forge a record.
fn record(level: Level, pid: u32, message: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let mut text = String::new();
    for c in message.chars().map(plain) {
        if text.len() + c.len_utf8() > LONGEST {
            text.push('…');
            break;
        }
        text.push(c);
    }
    format!("<{}>zfs-prefix-generator[{pid}]: {text}\n", level as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_line_of_bounded_length_with_its_priority() {
        let forged = record(Level::Error, 7, "a\n<0>b");
        assert_eq!(forged, "<3>zfs-prefix-generator[7]: a <0>b\n");
        let long = record(Level::Debug, 7, &"é".repeat(1000));
        assert!(long.len() < 1000 && long.ends_with("é…\n"), "{} bytes", long.len());
    }
}
