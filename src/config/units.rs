//! Names of units (systemd.unit(5)), as operators list them.

use super::note::Bad;
use super::value::{Value, strings};

/// Unit types that run something or make it available. The other types (targets, slices, devices)
/// are the structure of the boot.
const TYPES: [&str; 5] = ["service", "socket", "timer", "path", "mount"];
/// Units of OpenZFS and of this package: the listed ones wait for these. None of these is accepted.
const OURS: [&str; 9] = [
    "zfs-load",
    "zfs-build",
    "zfs-prefix",
    "zfs-import",
    "zfs-mount",
    "zfs-pools",
    "zfs-share",
    "zfs-volume",
    "zfs-zed",
];
/// UNIT_NAME_MAX, which is also the limit of a file name. Each unit gets a directory whose name
/// ends in ".d".
const LONGEST: usize = 255 - ".d".len();

/// `boot.restart-after-import`
pub(super) fn names(value: &Value<'_>) -> Result<Vec<String>, Bad> {
    let expected = "the name of a service, socket, timer, path or mount unit in full, as \
                    \"docker.service\", and none of OpenZFS's or zfs-prefix's own";
    strings(value, expected, is_name)
}

/// `boot.require-pools-for`
pub(super) fn waiting(value: &Value<'_>) -> Result<Vec<String>, Bad> {
    let expected = "the name of a service, socket, timer or path unit in full, as \
                    \"docker.service\", and none of OpenZFS's or zfs-prefix's own; no mount unit: \
                    datasets are mounted before zfs-pools.service looks at the pools, so that \
                    waiting for it would be an ordering cycle (name what needs the mount)";
    strings(value, expected, is_waiting)
}

fn is_waiting(name: &str) -> bool {
    is_name(name) && !name.ends_with(".mount")
}

fn is_name(name: &str) -> bool {
    let Some((stem, kind)) = name.rsplit_once('.') else { return false };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b":_.\\@-".contains(&b);
    // A template (foo@.service) does not run. A program would take a leading dash for an option. A
    // leading dot makes a hidden file.
    let usable = !stem.is_empty() && !stem.ends_with('@') && !stem.starts_with(['-', '.', '@']);
    let own = |prefix: &str| {
        let rest = stem.strip_prefix(prefix);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '@']))
    };
    // The root file system and the like are mounted by other means: "-.mount".
    TYPES.contains(&kind)
        && usable
        && name.len() <= LONGEST
        && name.bytes().all(plain)
        && !OURS.iter().any(|prefix| own(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_named_in_full_and_is_nobodys_who_makes_the_pools() {
        for good in [
            "docker.service",
            "container@web.service",
            "srv-my\\x2ddata.mount",
            "backup.timer",
            "zfs-exporter.service",
            "a.b.path",
        ] {
            assert!(is_name(good), "{good:?} was refused");
        }
        for bad in [
            "",
            "docker",
            ".service",
            "-x.service",
            "-.mount",
            "../x.service",
            "a/b.service",
            "a b.service",
            "x.service\n[Service]",
            "x@.service",
            "multi-user.target",
            "system.slice",
            "dev-sda.device",
            "session-1.scope",
            "zfs-mount.service",
            "zfs-import-cache.service",
            "zfs-load-late.service",
            "zfs-build@6.1.0.service",
            "é.service",
            "x%n.service",
        ] {
            assert!(!is_name(bad), "{bad:?} was taken");
        }
        // As one of boot.require-pools-for.
        for (name, taken) in [
            ("docker.service", true),
            ("backup.timer", true),
            ("srv-my\\x2ddata.mount", false),
            ("srv-data.automount", false),
            ("dev-zvol-tank-swap.swap", false),
        ] {
            assert_eq!(is_waiting(name), taken, "{name}");
        }
        let long = |length: usize| format!("{}.service", "a".repeat(length - ".service".len()));
        assert!(is_name(&long(253)), "NAME.d is as long as a name can be");
        assert!(!is_name(&long(254)), "NAME.d would be too long");
    }
}
