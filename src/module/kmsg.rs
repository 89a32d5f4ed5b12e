//! What the kernel prints while it is asked to take a module. Only there does it say why it refused
//! one.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The maximum number of records to read. A kernel that logs all the time must not delay a boot.
const MOST: usize = 4096;
/// The caller of a record: a thread. A processor has `C` (Documentation/ABI/testing/dev-kmsg).
const CALLER: &str = "caller=T";

/// An open /dev/kmsg (Documentation/ABI/testing/dev-kmsg) that never blocks.
#[derive(Debug)]
pub struct Kmsg(File);

impl Kmsg {
    /// Opens the log behind its last record. `None` if the log cannot be read (no CAP_SYSLOG, no
    /// device): messages then lack the kernel's own words.
    pub fn at_end(path: &Path) -> Option<Kmsg> {
        let flags = libc::O_NONBLOCK | libc::O_CLOEXEC;
        let file = File::options().read(true).custom_flags(flags).open(path).ok()?;
        let mut kmsg = Kmsg(file);
        kmsg.skip().then_some(kmsg)
    }

    /// Goes behind the last record. Returns whether that succeeded.
    pub fn skip(&mut self) -> bool {
        self.0.seek(SeekFrom::End(0)).is_ok()
    }

    /// The messages of the kernel itself since then, without their prefixes. Where the kernel says
    /// who printed a record (CONFIG_PRINTK_CALLER), those of thread `own` and of the audit, if there
    /// are any.
    pub fn messages(&mut self, own: i32) -> Vec<String> {
        let mut records = Vec::new();
        // read(2) returns one record. The buffer is larger than any (CONSOLE_EXT_LOG_MAX is 8 KiB).
        let mut record = [0; 16 * 1024];
        for _ in 0..MOST {
            match self.0.read(&mut record) {
                Ok(0) => break,
                Ok(n) => records.extend(parse(&String::from_utf8_lossy(&record[..n]))),
                // The kernel overwrote records before they were read. The next read continues.
                Err(e) if e.raw_os_error() == Some(libc::EPIPE) => {}
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                // EAGAIN: there are no more records.
                Err(_) => break,
            }
        }
        let mine = |record: &Record| record.thread == Some(own);
        if records.iter().any(mine) {
            // The audit prints from a thread of its own.
            records.retain(|record| mine(record) || record.message.starts_with("audit: "));
        }
        records.into_iter().map(|record| record.message).collect()
    }
}

/// What the kernel printed.
#[derive(Debug, PartialEq, Eq)]
struct Record {
    /// The thread that printed it, if that is known.
    thread: Option<i32>,
    message: String,
}

/// The kernel's records in `PRIORITY,SEQUENCE,TIME,FLAGS[,caller=T1];MESSAGE` lines. Lines that
/// begin with a space are a record's dictionary, and are skipped. So is what programs have written
/// there: the kernel gives it another facility than 0, which are the bits above the lowest three.
fn parse(records: &str) -> impl Iterator<Item = Record> {
    let lines = records.lines().filter(|l| !l.starts_with(' '));
    lines.filter_map(|line| line.split_once(';')).filter_map(|(prefix, message)| {
        let mut fields = prefix.split(',');
        let priority: u32 = fields.next()?.parse().ok()?;
        let thread = fields.find_map(|field| field.strip_prefix(CALLER)?.parse().ok());
        (priority < 8).then(|| Record { thread, message: message.to_owned() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_record_is_its_message_without_prefix_and_dictionary_and_not_a_programs() {
        let got: Vec<_> = parse(
            "4,12,34,-;zfs: Unknown symbol a;b (err -2)\n SUBSYSTEM=x;y\n\
             12,13,35,-;systemd[1]: zfs: no\n3,14,36,-,caller=T77;Module zfs is blacklisted\njunk;x\n",
        )
        .map(|record| (record.thread, record.message))
        .collect();
        let want =
            [(None, "zfs: Unknown symbol a;b (err -2)"), (Some(77), "Module zfs is blacklisted")];
        assert_eq!(got, want.map(|(thread, message)| (thread, message.to_owned())));
    }

    #[test]
    fn of_records_with_callers_those_of_other_threads_are_left_out() {
        let log = tempfile::NamedTempFile::new().unwrap();
        writeln!(log.as_file(), "3,1,1,-,caller=T5;before").unwrap();
        let mut kmsg = Kmsg::at_end(log.path()).unwrap();
        let print = |text: &str| log.as_file().write_all(text.as_bytes()).unwrap();
        print(
            "3,2,1,-,caller=T5;Module zfs is blacklisted\n6,3,1,-,caller=T9;usb 1-1: new device\n",
        );
        print("5,4,1,-,caller=C0;e1000: link up\n5,5,1,-,caller=T8;audit: type=1400 denied\n");
        let mine = ["Module zfs is blacklisted", "audit: type=1400 denied"];
        assert_eq!(kmsg.messages(5), mine);
        print("3,6,1,-,caller=T5;more\n");
        assert!(kmsg.skip());
        print("3,7,1,-;nobody knows who\n");
        assert_eq!(kmsg.messages(5), ["nobody knows who"]);
    }
}
