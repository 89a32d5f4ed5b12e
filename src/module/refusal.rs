//! Explains why the kernel refused a module. One message with an exit status combines the errno,
//! the kernel's own words and its policy (init_module(2); kernel/module/{main,signing,version}.c).

use std::fs;

use nix::errno::Errno;

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

    fn locked_down(&self) -> bool {
        self.lockdown.as_deref().is_some_and(|mode| mode != "none")
    }
}

/// The failure for module `name` in file `path`, which the kernel refused with `errno`. `log` has
/// the kernel's messages from that time.
pub fn explain(name: &str, path: &str, errno: Errno, policy: &Policy, log: &[String]) -> Failure {
    let prefix = format!("{name}: ");
    let words: Vec<&str> = log
        .iter()
        .map(String::as_str)
        .filter(|l| {
            l.starts_with(&prefix) || l.starts_with("Lockdown: ") || l.starts_with("Loading of ")
        })
        .collect();
    let (exit, reason) = reason(errno, policy, &words);
    let said = match words.as_slice() {
        [] => String::new(),
        words => format!("; the kernel says: {}", words.join(" / ")),
    };
    Failure::new(exit, format!("the kernel refused {path}: {reason} ({errno}){said}"))
}

fn reason(errno: Errno, policy: &Policy, words: &[&str]) -> (Exit, String) {
    let says = |text: &str| words.iter().find(|w| w.contains(text));
    let unsigned = says("Lockdown: ").is_some() || says("Loading of ").is_some();
    match errno {
        Errno::EPERM if policy.modules_disabled => (
            Exit::SignaturePolicy,
            "loading modules was switched off until the next boot (kernel.modules_disabled)".into(),
        ),
        Errno::EKEYREJECTED | Errno::ENOKEY | Errno::ENOPKG | Errno::EBADMSG => {
            (Exit::SignaturePolicy, signature(policy))
        }
        Errno::EPERM if unsigned || policy.locked_down() || policy.sig_enforce => {
            (Exit::SignaturePolicy, signature(policy))
        }
        Errno::EPERM => (Exit::Other, "no right to load modules (CAP_SYS_MODULE)".into()),
        Errno::EACCES => (
            Exit::Other,
            "a security module denied it; with SELinux see `ausearch -m avc` and restore the file's label (modules_object_t)"
                .into(),
        ),
        Errno::ENOMEM => (Exit::Other, "out of memory".into()),
        _ => mismatch(errno, &says),
    }
}

fn mismatch<'a>(errno: Errno, says: &dyn Fn(&str) -> Option<&'a &'a str>) -> (Exit, String) {
    let rebuild = "it was built against another kernel; build it anew: zfs-prefix build --force";
    let reason = if let Some(line) = says("disagrees about version of symbol ") {
        format!("symbol {} has another version here: {rebuild}", last_word(line))
    } else if says("version magic").is_some() {
        format!("its version magic is not this kernel's: {rebuild}")
    } else if let Some(line) = says("Unknown symbol ") {
        let symbol = line.split("Unknown symbol ").nth(1).unwrap_or_default();
        let symbol = symbol.split(' ').next().unwrap_or_default();
        format!("this kernel has no symbol {symbol}: {rebuild}")
    } else if says("Unknown parameter").is_some() || says("invalid for parameter").is_some() {
        "a module option is wrong: correct it in modprobe.d or on the kernel command line".into()
    } else if matches!(errno, Errno::ENOEXEC | Errno::ENOENT) {
        rebuild.to_owned()
    } else {
        return (Exit::Other, "loading it failed".into());
    };
    (Exit::Refused, reason)
}

fn signature(policy: &Policy) -> String {
    let cause = match (policy.lockdown.as_deref(), policy.sig_enforce) {
        (Some(mode), _) if mode != "none" => format!("lockdown is {mode}"),
        (_, true) => "module.sig_enforce is on".to_owned(),
        _ => "the kernel's signature policy".to_owned(),
    };
    format!(
        "it has no signature this kernel trusts, and {cause}; boot without lockdown (Secure Boot) and sig_enforce: zfs-prefix signs no modules"
    )
}

fn last_word(line: &str) -> &str {
    line.rsplit(' ').next().unwrap_or_default()
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
            ("other", Errno::EIO, &none, "usb: unrelated", Exit::Other, "failed (EIO"),
        ] {
            let f = explain("zfs", "/s/zfs.ko", errno, policy, &[line.to_owned()]);
            assert_eq!(f.exit, exit, "{case}: {f}");
            assert!(f.message.contains(want), "{case}: {f}");
            assert!(f.message.starts_with("the kernel refused /s/zfs.ko: "), "{case}: {f}");
            assert!(!f.message.contains("unrelated"), "{case}: {f}");
        }
        let text = "none [integrity] confidentiality\n";
        assert_eq!(Policy::active_lockdown(text).as_deref(), Some("integrity"));
        assert_eq!(Policy::active_lockdown(""), None);
    }
}
