//! Package names, versions and dependency atoms of the Package Manager Specification, EAPI 8
//! (chapters "Names and Versions" and "Dependencies").

/// Whether `atom` names packages to emerge: `[operator]category/name[-version][:slot][::repo]`.
/// Blockers, USE dependencies and slot operators have no meaning there and are refused.
pub(super) fn is_atom(atom: &str) -> bool {
    let operator = ["<=", ">=", "<", ">", "=", "~"].into_iter().find(|op| atom.starts_with(op));
    let rest = &atom[operator.map_or(0, str::len)..];
    let (rest, repository) = split_suffix(rest, "::");
    let (rest, slot) = split_suffix(rest, ":");
    let Some((category, package)) = rest.split_once('/') else { return false };
    let package_is_good = match operator {
        None => is_package(package),
        Some(operator) => is_versioned(package, operator),
    };
    is_name(category, b"+_.-")
        && package_is_good
        && slot.is_none_or(is_slot)
        && repository.is_none_or(is_repository)
}

fn split_suffix<'a>(s: &'a str, separator: &str) -> (&'a str, Option<&'a str>) {
    s.split_once(separator).map_or((s, None), |(head, tail)| (head, Some(tail)))
}

/// Letters, digits, `_` and the characters in `more`. The first character is a letter, a digit or
/// `_`.
fn is_name(name: &str, more: &[u8]) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    name.bytes().next().is_some_and(word) && name.bytes().all(|b| word(b) || more.contains(&b))
}

fn is_slot(slot: &str) -> bool {
    let (slot, sub) = split_suffix(slot, "/");
    is_name(slot, b"+_.-") && sub.is_none_or(|sub| is_name(sub, b"+_.-"))
}

fn is_repository(name: &str) -> bool {
    is_package(name)
}

/// A name must not end in a hyphen followed by something that could be a version.
fn is_package(name: &str) -> bool {
    let ends_like_a_version = name.match_indices('-').any(|(at, _)| is_version(&name[at + 1..]));
    is_name(name, b"+_-") && !ends_like_a_version
}

fn is_versioned(package: &str, operator: &str) -> bool {
    let package = match operator {
        "=" => package.strip_suffix('*').unwrap_or(package),
        _ => package,
    };
    let hyphens = package.match_indices('-').map(|(at, _)| at);
    let mut splits = hyphens.map(|at| (&package[..at], &package[at + 1..]));
    splits.any(|(name, version)| {
        let revision_is_good = operator != "~" || !version.contains("-r");
        is_package(name) && is_version(version) && revision_is_good
    })
}

/// Whether `version` is a valid version: numbers with dots, a letter, suffixes, a revision
/// (`2.3.0_rc1-r2`).
pub(super) fn is_version(version: &str) -> bool {
    let (version, revision) = split_suffix(version, "-");
    let revision_is_good = revision.is_none_or(|r| r.strip_prefix('r').is_some_and(is_number));
    let mut parts = version.split('_');
    let numbers = parts.next().unwrap_or_default();
    let numbers = numbers.strip_suffix(|c: char| c.is_ascii_lowercase()).unwrap_or(numbers);
    revision_is_good && numbers.split('.').all(is_number) && parts.all(is_suffix)
}

fn is_number(s: &str) -> bool {
    !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit())
}

fn is_suffix(s: &str) -> bool {
    let number = s.trim_start_matches(|c: char| c.is_ascii_lowercase());
    let word = &s[..s.len() - number.len()];
    matches!(word, "alpha" | "beta" | "pre" | "rc" | "p")
        && (number.is_empty() || is_number(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn atoms_are_those_of_the_package_manager_specification() {
        for good in [
            "sys-fs/zfs-kmod",
            "=sys-fs/zfs-kmod-2.3.2",
            "=sys-fs/zfs-kmod-2.3*",
            ">=sys-fs/zfs-kmod-2.3.0_rc1-r2",
            "~sys-fs/zfs-kmod-2.3.2",
            "sys-fs/zfs-kmod:0/2.3",
            "sys-fs/zfs-kmod:0::coreos",
            "sys-fs/zfs-kmod::coreos",
            "x11-libs/gtk+",
            "=a/b-x1-1a_p",
        ] {
            assert!(is_atom(good), "{good:?} was refused");
        }
        for bad in [
            "",
            "zfs-kmod",
            "-sys-fs/zfs-kmod",
            "--ask",
            "/zfs-kmod",
            "sys-fs/",
            "sys-fs/zfs-kmod-2.3.2",
            "=a/b-1-1",
            "=sys-fs/zfs-kmod",
            "~sys-fs/zfs-kmod-2.3.2-r1",
            ">sys-fs/zfs-kmod-2*",
            "sys-fs/zfs-kmod:",
            "sys-fs/zfs-kmod:=",
            "sys-fs/zfs-kmod::",
            "sys-fs/zfs-kmod::-x",
            "!sys-fs/zfs-kmod",
            "sys-fs/zfs-kmod[debug]",
            "sys-fs/zfs kmod",
            "sys-fs/a/b",
            "sys-fs/é",
            "@world",
        ] {
            assert!(!is_atom(bad), "{bad:?} was taken");
        }
    }

    #[test]
    fn versions_are_portages_and_not_upstreams() {
        for good in ["2.3.2", "2", "2.3a", "2.4.0_rc1", "1_alpha_p2-r10", "9999"] {
            assert!(is_version(good), "{good:?} was refused");
        }
        for bad in ["", "2.", ".2", "2.4.0-rc1", "2.4.0_foo", "2-r", "v2", "2.3.2 ", "2-r1-r2"] {
            assert!(!is_version(bad), "{bad:?} was taken");
        }
    }
}
