//! The kernel log from now on. Only there does the kernel say why it refused a module.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The maximum number of records to read. A kernel that logs all the time must not delay a boot.
const MOST: usize = 4096;

/// An open /dev/kmsg (Documentation/ABI/testing/dev-kmsg) that never blocks.
#[derive(Debug)]
pub struct Kmsg(File);

impl Kmsg {
    /// Opens the log behind its last record. `None` if the log cannot be read (no CAP_SYSLOG, no
    /// device): messages then lack the kernel's own words.
    pub fn at_end(path: &Path) -> Option<Kmsg> {
        let flags = libc::O_NONBLOCK | libc::O_CLOEXEC;
        let mut file = File::options().read(true).custom_flags(flags).open(path).ok()?;
        file.seek(SeekFrom::End(0)).ok()?;
        Some(Kmsg(file))
    }

    /// The messages since then, without their prefixes.
    pub fn messages(&mut self) -> Vec<String> {
        let mut messages = Vec::new();
        // read(2) returns one record. The buffer is larger than any (CONSOLE_EXT_LOG_MAX is 8 KiB).
        let mut record = [0; 16 * 1024];
        for _ in 0..MOST {
            match self.0.read(&mut record) {
                Ok(0) => break,
                Ok(n) => messages.extend(parse(&String::from_utf8_lossy(&record[..n]))),
                // The kernel overwrote records before they were read. The next read continues.
                Err(e) if e.raw_os_error() == Some(libc::EPIPE) => {}
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                // EAGAIN: there are no more records.
                Err(_) => break,
            }
        }
        messages
    }
}

/// The messages in `PRIORITY,SEQUENCE,TIME,FLAGS;MESSAGE` lines. Lines that begin with a space are
/// a record's dictionary, and are skipped.
fn parse(records: &str) -> impl Iterator<Item = String> {
    records
        .lines()
        .filter(|l| !l.starts_with(' '))
        .filter_map(|l| l.split_once(';'))
        .map(|(_, message)| message.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_its_message_without_prefix_and_dictionary() {
        let got: Vec<_> =
            parse("4,12,34,-;zfs: Unknown symbol a;b (err -2)\n SUBSYSTEM=x;y\n").collect();
        assert_eq!(got, ["zfs: Unknown symbol a;b (err -2)"]);
    }
}
