//! Reading build output for the reason of a failure.

use std::collections::VecDeque;

use crate::exit::Exit;
use crate::process::no_space;

/// How many lines are repeated in the error message.
const REPEATED: usize = 8;

/// A line with one of these says why a build failed (gcc, make, ld, configure, Portage).
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

/// The last lines that look like the reason. If none does, the last lines of the output.
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
    if no_space(tail) {
        return (Exit::NoSpace, " (no space left: free some below /var/cache/zfs-prefix)");
    }
    // config/kernel.m4 of OpenZFS, against Linux-Maximum of its META.
    if has("maximum supported kernel version") || has("minimum supported kernel version") {
        let hint = " (this OpenZFS does not support this kernel: another zfs.version, or \
                    zfs.linux-experimental = true)";
        return (Exit::KernelUnsupported, hint);
    }
    if tail.iter().any(|line| not_exported(line.trim())) {
        let hint = " (modpost: the kernel does not export what these modules import, or the build \
                    tree's Module.symvers lacks it)";
        return (Exit::NoSymvers, hint);
    }
    // Look near the end only: configure scripts try such calls too and go on without them.
    if tail.iter().rev().take(50).any(|line| refused_outside(line)) {
        let hint = " (the build called a program of the host, which cannot run in the prefix; \
                    zfs-prefix prefix audit names what the prefix lacks)";
        return (Exit::BuildFailed, hint);
    }
    (Exit::BuildFailed, "")
}

/// Whether modpost complains about an import that is in no Module.symvers (scripts/mod/modpost.c).
/// Before Linux 5.6 the line does not name modpost. With KBUILD_MODPOST_WARN modpost only warns.
fn not_exported(line: &str) -> bool {
    line.starts_with("ERROR: ") && line.ends_with(" undefined!") && line.contains(".ko]")
}

/// Whether a shell or make could not run a program of the host: outside the prefix all is noexec.
fn refused_outside(line: &str) -> bool {
    let host = ["/usr/", "/bin/", "/sbin/"];
    line.ends_with(": Permission denied")
        && line
            .split([' ', ':'])
            .any(|word| word.contains("bin/") && host.iter().any(|prefix| word.starts_with(prefix)))
}

/// As [`reason_of`], for the step that fetches.
pub fn fetch_reason_of(tail: &VecDeque<String>) -> (Exit, &'static str) {
    let has = |what: &str| tail.iter().any(|line| line.contains(what));
    let known = reason_of(tail);
    if known.0 == Exit::NoSpace {
        return known;
    }
    // Portage's messages (portage.package.ebuild.fetch).
    if has("has fetch restriction turned on") {
        let hint = " (Portage cannot fetch this file: put it into the prefix's \
                    var/cache/distfiles, or provision the prefix again)";
        return (Exit::PrefixIncomplete, hint);
    }
    if has("Couldn't download") || has("Fetch failed") || has("unable to resolve host") {
        let hint = " (no network, or the server does not have it: see the lines above in the \
                    journal; GENTOO_MIRRORS is in the prefix's etc/portage/make.conf)";
        return (Exit::Network, hint);
    }
    known
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

    #[test]
    fn what_the_kernel_does_not_export_is_told_from_what_does_not_compile() {
        for (line, want) in [
            (r#"ERROR: modpost: "kmem_x" [/w/module/zfs.ko] undefined!"#, Exit::NoSymvers),
            (r#"ERROR: "kmem_x" [/w/module/zfs.ko] undefined!"#, Exit::NoSymvers),
            (r#"WARNING: modpost: "kmem_x" [/w/zfs.ko] undefined!"#, Exit::BuildFailed),
            ("ERROR: modpost: missing MODULE_LICENSE() in /w/zfs.o", Exit::BuildFailed),
            ("ld: /w/zpool.o: undefined reference to `x'", Exit::BuildFailed),
        ] {
            let lines = tail(&[line, "make[1]: *** [Module.symvers] Error 1"]);
            assert_eq!(reason_of(&lines).0, want, "{line}");
            assert!(failing_lines(&lines).contains(&line) || !line.contains("ERROR"), "{line}");
        }
    }

    #[test]
    fn what_could_not_be_fetched_is_told_from_what_the_prefix_should_have_brought() {
        for (line, want) in [
            ("!!! Couldn't download 'zfs.tar.gz'. Aborting.", Exit::Network),
            ("wget: unable to resolve host address 'example'", Exit::Network),
            ("!!! sys-fs/zfs-kmod-2.3.2 has fetch restriction turned on.", Exit::PrefixIncomplete),
            ("wget: cannot write: No space left on device", Exit::NoSpace),
            ("emerge: there are no ebuilds to satisfy \"a/b\".", Exit::BuildFailed),
        ] {
            assert_eq!(fetch_reason_of(&tail(&[line, "x"])).0, want, "{line}");
        }
    }

    #[test]
    fn a_call_of_the_hosts_programs_is_explained() {
        for (line, want) in [
            ("/bin/sh: 1: /usr/bin/gcc: Permission denied", true),
            ("make: /usr/bin/perl: Permission denied", true),
            ("./configure: line 9: /work/conftest: Permission denied", false),
            ("/home/core/gentoo/usr/bin/gcc: Permission denied", false),
            ("/usr/bin/gcc: No such file or directory", false),
        ] {
            assert_eq!(refused_outside(line), want, "{line}");
            assert_eq!(!reason_of(&tail(&[line])).1.is_empty(), want, "{line}");
        }
    }
}
