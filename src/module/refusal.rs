//! Explains why the kernel refused a module. One message with an exit status combines the errno,
//! the kernel's own words and its policy (init_module(2); kernel/module/{main,signing,version}.c).

use std::fs;

use nix::errno::Errno;

use super::modprobe_d;
use crate::exit::{Exit, Failure};
use crate::host::Host;

/// The kernel's policy on modules.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Policy {
    /// The active mode in `/sys/kernel/security/lockdown`: `none`, `integrity`,
    /// `confidentiality`; `None` when it cannot be read.
    pub lockdown: Option<String>,
    /// `/sys/module/module/parameters/sig_enforce`.
    pub sig_enforce: bool,
    /// `/proc/sys/kernel/modules_disabled`.
    pub modules_disabled: bool,
    /// The modules of `module_blacklist=` on the kernel command line: [`forbidden`].
    pub module_blacklist: Option<String>,
}

impl Policy {
    /// This machine's policy now. A file may be unreadable: securityfs may not be mounted yet. Then
    /// that part of the policy is unknown.
    pub fn read(host: &Host) -> Policy {
        let read = |path: &str| fs::read_to_string(host.path(path)).unwrap_or_default();
        Policy {
            lockdown: Policy::active_lockdown(&read("/sys/kernel/security/lockdown")),
            sig_enforce: read("/sys/module/module/parameters/sig_enforce").trim() == "Y",
            modules_disabled: read("/proc/sys/kernel/modules_disabled").trim() == "1",
            module_blacklist: forbidden(host),
        }
    }

    /// The active word of `none [integrity] confidentiality`.
    pub fn active_lockdown(text: &str) -> Option<String> {
        let word = text.split_whitespace().find_map(|w| w.strip_prefix('[')?.strip_suffix(']'))?;
        Some(word.to_owned())
    }

    /// The setting that makes the kernel load only signed modules; `None` if there is none.
    pub fn demands_signatures(&self) -> Option<String> {
        match (&self.lockdown, self.sig_enforce) {
            (_, true) => Some("module.sig_enforce".to_owned()),
            (Some(mode), false) if self.locked_down() => Some(format!("lockdown={mode}")),
            _ => None,
        }
    }

    /// Why the kernel wants a signature.
    fn cause(&self) -> String {
        match self.lockdown.as_deref() {
            Some(mode) if mode != "none" => format!("lockdown is {mode}"),
            _ if self.sig_enforce => "module.sig_enforce is on".to_owned(),
            _ => "the kernel takes only modules that have one".to_owned(),
        }
    }

    /// Whether `module_blacklist=` names this module.
    fn forbids(&self, name: &str) -> bool {
        let names = self.module_blacklist.as_deref().unwrap_or_default();
        names.split(',').any(|forbidden| forbidden == name)
    }

    fn locked_down(&self) -> bool {
        self.lockdown.as_deref().is_some_and(|mode| mode != "none")
    }
}

/// The modules that `module_blacklist=` of the kernel command line forbids, with commas between
/// them: `/sys/module/kernel/parameters/module_blacklist`, or the command line if that cannot be
/// read.
pub fn forbidden(host: &Host) -> Option<String> {
    let file = host.path("/sys/module/kernel/parameters/module_blacklist");
    // The kernel shows a parameter that was not given as "(null)".
    let told = fs::read_to_string(file).map(|text| text.trim().to_owned());
    match told {
        Ok(names) if names == "(null)" || names.is_empty() => None,
        Ok(names) => Some(names),
        Err(_) => modprobe_d::forbidden(&host.kernel_cmdline()),
    }
}

/// The failure for module `name` in file `path`, which the kernel refused with `errno`. `log` has
/// what the kernel printed meanwhile; `None` if its log cannot be read. The kernel's own words come
/// first, and decide what is said of them. Only where they say nothing that is known here, errno
/// and policy do.
pub fn explain(
    name: &str,
    path: &str,
    errno: Errno,
    policy: &Policy,
    log: Option<&[String]>,
) -> Failure {
    let words = log.unwrap_or_default();
    let (exit, reason) =
        by_words(name, policy, words).unwrap_or_else(|| by_policy(name, errno, policy));
    let said = match (log, shown(words)) {
        (None, _) => "its log cannot be read; ".to_owned(),
        (_, text) if text.is_empty() => String::new(),
        (_, text) => format!("it says: {text}; "),
    };
    Failure::new(exit, format!("the kernel refused {path} ({errno}): {said}{reason}"))
}

/// The kernel's words on one line, not more than is needed to see what is wrong: of hundreds of
/// unknown symbols the first ones, and the last words.
fn shown(words: &[String]) -> String {
    const FIRST: usize = 4;
    const LAST: usize = 3;
    /// Characters of one line.
    const LONGEST: usize = 300;
    let line = |text: &String| text.chars().take(LONGEST).collect::<String>();
    let left_out = words.len().saturating_sub(FIRST + LAST);
    let (first, last) = words.split_at(words.len().min(FIRST));
    let mut lines: Vec<String> = first.iter().map(line).collect();
    if left_out > 0 {
        lines.push(format!("({left_out} more: journalctl -k)"));
    }
    lines.extend(last.iter().skip(left_out).map(line));
    lines.join(" / ")
}

const REBUILD: &str =
    "it was built against another kernel; build it anew: zfs-prefix build --force";
const OPTION: &str =
    "a module option is wrong: correct it in modprobe.d or on the kernel command line";
const FORBIDDEN: &str = "module_blacklist= on the kernel command line forbids it, and nothing here \
    can override that: take the module out of it, and reboot";

/// What the kernel's own words mean (kernel/module/{main,signing,version}.c, kernel/params.c,
/// security/{lockdown,loadpin}); `None` if there are none that are known here.
fn by_words(name: &str, policy: &Policy, words: &[String]) -> Option<(Exit, String)> {
    let line = |is: &dyn Fn(&str) -> bool| words.iter().map(String::as_str).find(|line| is(line));
    let prefix = format!("{name}: ");
    // Of this module. Other parts of the kernel print meanwhile, too.
    let says = |text: &str| line(&|line| line.starts_with(&prefix) && line.contains(text));
    if line(&|line| line == format!("Module {name} is blacklisted")).is_some() {
        return Some((Exit::Refused, FORBIDDEN.to_owned()));
    }
    let unsigned = |line: &str| {
        (line.starts_with("Loading of ") && line.ends_with(" is rejected"))
            || (line.starts_with("Lockdown: ") && line.contains("module loading"))
    };
    if line(&unsigned).is_some() {
        return Some((Exit::SignaturePolicy, signature(policy)));
    }
    if line(&|line| line.starts_with("LoadPin: ") && line.contains("denied")).is_some() {
        let denied =
            "LoadPin takes modules of one file system only; boot without it: loadpin.enforce=0";
        return Some((Exit::Refused, denied.to_owned()));
    }
    let reason = if let Some(line) = says("disagrees about version of symbol ") {
        let symbol = line.rsplit(' ').next().unwrap_or_default();
        format!("symbol {symbol} has another version here: {REBUILD}")
    } else if says("version magic").is_some() {
        format!("its version magic is not this kernel's: {REBUILD}")
    } else if let Some(line) = says("Unknown symbol ") {
        let symbol = line.split("Unknown symbol ").nth(1).unwrap_or_default();
        let symbol = symbol.split(' ').next().unwrap_or_default();
        format!("this kernel has no symbol {symbol}: {REBUILD}")
    } else if says("Unknown parameter").is_some() || says("invalid for parameter").is_some() {
        OPTION.to_owned()
    } else {
        return None;
    };
    Some((Exit::Refused, reason))
}

/// What errno and the kernel's policy say of a refusal without words.
fn by_policy(name: &str, errno: Errno, policy: &Policy) -> (Exit, String) {
    match errno {
        Errno::EPERM if policy.modules_disabled => (
            Exit::SignaturePolicy,
            "loading modules was switched off until the next boot (kernel.modules_disabled)".into(),
        ),
        Errno::EPERM if policy.forbids(name) => (Exit::Refused, FORBIDDEN.into()),
        Errno::EKEYREJECTED | Errno::ENOKEY | Errno::ENOPKG | Errno::EBADMSG => {
            (Exit::SignaturePolicy, signature(policy))
        }
        Errno::EPERM if policy.locked_down() || policy.sig_enforce => {
            (Exit::SignaturePolicy, signature(policy))
        }
        Errno::EPERM => (
            Exit::Other,
            "no right to load modules: CAP_SYS_MODULE is missing, or a security module denied it"
                .into(),
        ),
        Errno::EACCES => (
            Exit::Other,
            "a security module denied it; with SELinux see `ausearch -m avc` and restore the file's label (modules_object_t)"
                .into(),
        ),
        Errno::ENOMEM => (Exit::Other, "out of memory".into()),
        Errno::ENOEXEC | Errno::ENOENT => (Exit::Refused, REBUILD.to_owned()),
        _ => (Exit::Other, "loading it failed".into()),
    }
}

fn signature(policy: &Policy) -> String {
    let cause = policy.cause();
    format!(
        "it has no signature this kernel trusts, and {cause}; boot without lockdown (Secure Boot) and sig_enforce: zfs-prefix signs no modules"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_reason_and_status() {
        let none = Policy::default();
        let locked = Policy { lockdown: Some("integrity".into()), ..Policy::default() };
        let enforce = Policy { sig_enforce: true, ..Policy::default() };
        let off = Policy { modules_disabled: true, ..Policy::default() };
        let list = Policy { module_blacklist: Some("a,zfs".into()), ..Policy::default() };
        let sig = Exit::SignaturePolicy;
        for (case, errno, policy, line, exit, want) in [
            ("lockdown", Errno::EPERM, &locked, "", sig, "lockdown is integrity"),
            (
                "lockdown, securityfs not mounted",
                Errno::EPERM,
                &none,
                "Lockdown: zfs-load: unsigned module loading is restricted; see man kernel_lockdown.7",
                sig,
                "unsigned module loading is restricted",
            ),
            ("sig_enforce", Errno::EKEYREJECTED, &enforce, "", sig, "module.sig_enforce is on"),
            ("bad signature", Errno::EBADMSG, &none, "", sig, "signature"),
            ("disabled", Errno::EPERM, &off, "", sig, "kernel.modules_disabled"),
            ("no right", Errno::EPERM, &none, "", Exit::Other, "CAP_SYS_MODULE"),
            // Whatever the policy may be: the kernel's own word comes first.
            (
                "module_blacklist= under lockdown",
                Errno::EPERM,
                &locked,
                "Module zfs is blacklisted",
                Exit::Refused,
                "it says: Module zfs is blacklisted; module_blacklist= on the kernel command line",
            ),
            ("no words", Errno::EPERM, &list, "", Exit::Refused, "module_blacklist= on the kernel"),
            (
                "of another module",
                Errno::EPERM,
                &locked,
                "Module spl is blacklisted",
                sig,
                "it says: Module spl is blacklisted; it has no signature",
            ),
            (
                "LoadPin",
                Errno::EPERM,
                &enforce,
                "LoadPin: kernel-module denied obj=\"/var/zfs.ko\" pid=7",
                Exit::Refused,
                "loadpin.enforce=0",
            ),
            (
                "lockdown of something else",
                Errno::EPERM,
                &none,
                "Lockdown: systemd-logind: hibernation is restricted; see man kernel_lockdown.7",
                Exit::Other,
                "CAP_SYS_MODULE",
            ),
            (
                "words that nobody knows",
                Errno::ENOEXEC,
                &none,
                "Section .gnu.linkonce.this_module has a wrong size",
                Exit::Refused,
                "it says: Section .gnu.linkonce.this_module has a wrong size; it was built against",
            ),
            (
                "CRC",
                Errno::EINVAL,
                &none,
                "zfs: disagrees about version of symbol _printk",
                Exit::Refused,
                "symbol _printk has another version here",
            ),
            (
                "vermagic",
                Errno::ENOEXEC,
                &none,
                "zfs: version magic '6.2 SMP ' should be '6.1 SMP '",
                Exit::Refused,
                "version magic '6.2 SMP ' should be '6.1 SMP '",
            ),
            (
                "unknown symbol",
                Errno::ENOENT,
                &none,
                "zfs: Unknown symbol spl_init (err -2)",
                Exit::Refused,
                "no symbol spl_init:",
            ),
            ("no log", Errno::ENOEXEC, &none, "", Exit::Refused, "built against another kernel"),
            (
                "option",
                Errno::EINVAL,
                &none,
                "zfs: `x' invalid for parameter `zfs_arc_max'",
                Exit::Refused,
                "a module option is wrong",
            ),
            ("memory", Errno::ENOMEM, &none, "", Exit::Other, "out of memory"),
            (
                "other",
                Errno::EIO,
                &none,
                "ZFS: no SPL",
                Exit::Other,
                "it says: ZFS: no SPL; loading",
            ),
        ] {
            let log: Vec<String> =
                Some(line.to_owned()).filter(|l| !l.is_empty()).into_iter().collect();
            let f = explain("zfs", "/s/zfs.ko", errno, policy, Some(&log));
            assert_eq!(f.exit, exit, "{case}: {f}");
            assert!(f.message.contains(want), "{case}: {f}");
            let begin = format!("the kernel refused /s/zfs.ko ({errno}): ");
            assert!(f.message.starts_with(&begin), "{case}: {f}");
            assert_eq!(f.message.contains("it says: "), !line.is_empty(), "{case}: {f}");
        }
        let unread = explain("zfs", "/s/zfs.ko", Errno::EIO, &none, None);
        assert!(unread.message.contains("its log cannot be read; loading it failed"), "{unread}");
        let text = "none [integrity] confidentiality\n";
        assert_eq!(Policy::active_lockdown(text).as_deref(), Some("integrity"));
        assert_eq!(Policy::active_lockdown(""), None);
    }
    #[test]
    fn of_many_words_the_first_and_the_last_are_shown() {
        let words: Vec<String> =
            (0..100).map(|n| format!("zfs: Unknown symbol s{n} (err -2)")).collect();
        let text = shown(&words);
        assert!(
            text.starts_with("zfs: Unknown symbol s0 (err -2) / zfs: Unknown symbol s1 "),
            "{text}"
        );
        assert!(
            text.contains(" s3 (err -2) / (93 more: journalctl -k) / zfs: Unknown symbol s97 "),
            "{text}"
        );
        assert!(text.ends_with("s99 (err -2)"), "{text}");
        assert_eq!(shown(&words[..7]).matches(" / ").count(), 6);
        assert_eq!(shown(&["x".repeat(1000)]).len(), 300);
    }

    #[test]
    fn what_the_kernel_forbids_is_asked_of_the_kernel_and_of_its_command_line_after_that() {
        let root = tempfile::tempdir().unwrap();
        let mut host = Host::below(root.path(), "6.1.0");
        assert_eq!(forbidden(&host), None);
        host.cmdline = "quiet module_blacklist=a,zfs".into();
        assert_eq!(forbidden(&host).as_deref(), Some("a,zfs"));
        let file = host.path("/sys/module/kernel/parameters/module_blacklist");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        for (text, expected) in [("(null)\n", None), ("\n", None), ("spl\n", Some("spl"))] {
            fs::write(&file, text).unwrap();
            assert_eq!(forbidden(&host).as_deref(), expected, "{text:?}");
        }
    }
}
