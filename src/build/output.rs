//! Reading build output for the reason of a failure.

use std::collections::VecDeque;

use crate::exit::Exit;

/// How many lines are repeated in the error message.
const REPEATED: usize = 8;

/// What marks a line that says why a build failed (gcc, make, ld, configure, Portage).
const MARKS: [&str; 9] = [
    "error:",
    "*** ",
    "fatal:",
    "undefined reference",
    "No space left on device",
    "Disk quota exceeded",
    "Killed",
    "command not found",
    "ERROR: ",
];

/// The last lines that look like the reason; the very last lines where none does.
pub fn failing_lines(tail: &VecDeque<String>) -> Vec<&str> {
    let marked = |line: &&str| MARKS.iter().any(|m| line.contains(m));
    let lines = || tail.iter().map(|l| l.trim()).filter(|l| !l.is_empty());
    let mut found: Vec<&str> = lines().filter(marked).collect();
    if found.is_empty() {
        found = lines().collect();
    }
    found.dedup();
    found.split_off(found.len().saturating_sub(REPEATED))
}

/// The exit status that the output asks for, and what to say about it.
pub fn reason_of(tail: &VecDeque<String>) -> (Exit, &'static str) {
    let has = |what: &str| tail.iter().any(|line| line.contains(what));
    if has("No space left on device") || has("Disk quota exceeded") {
        return (Exit::NoSpace, " (no space left: free some below /var/cache/zfs-prefix)");
    }
    // config/kernel.m4 of OpenZFS, against Linux-Maximum of its META.
    if has("maximum supported kernel version") || has("minimum supported kernel version") {
        let hint = " (this OpenZFS does not support this kernel: another zfs.version, or \
                    --enable-linux-experimental in portage.extra-econf)";
        return (Exit::KernelUnsupported, hint);
    }
    (Exit::BuildFailed, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(lines: &[&str]) -> VecDeque<String> {
        lines.iter().map(|l| (*l).to_owned()).collect()
    }

    #[test]
    fn the_reason_is_found_among_the_noise() {
        let output = tail(&[
            "  CC [M]  arc.o",
            "arc.c:10:1: error: unknown type name 'foo'",
            "make[1]: *** [arc.o] Error 1",
            "  CC [M]  dbuf.o",
            "",
        ]);
        let want = ["arc.c:10:1: error: unknown type name 'foo'", "make[1]: *** [arc.o] Error 1"];
        assert_eq!(failing_lines(&output), want);
        assert_eq!(reason_of(&output).0, Exit::BuildFailed);
        assert_eq!(failing_lines(&tail(&["a", "b"])), ["a", "b"], "no mark: the last lines");
    }

    #[test]
    fn a_full_disk_and_an_unsupported_kernel_have_their_own_status() {
        for (line, want) in [
            ("cc1: error writing to /tmp/x.s: No space left on device", Exit::NoSpace),
            ("*** The maximum supported kernel version is 6.14.", Exit::KernelUnsupported),
        ] {
            assert_eq!(reason_of(&tail(&[line, "x"])).0, want, "{line}");
        }
    }
}
