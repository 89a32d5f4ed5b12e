//! The environment of a program in the prefix: exactly this, and nothing of the caller's. So
//! LD_LIBRARY_PATH and similar variables never get in. They would come before the prefix's own run
//! paths.

use std::ffi::OsString;
use std::path::Path;

/// Where programs are looked for below EPREFIX, in this order.
const PROGRAMS: [&str; 4] = ["usr/bin", "bin", "usr/sbin", "sbin"];

/// PATH inside: the prefix and nothing else.
pub fn search_path(prefix: &Path) -> OsString {
    let mut path = OsString::new();
    for dir in PROGRAMS {
        if !path.is_empty() {
            path.push(":");
        }
        path.push(prefix.join(dir));
    }
    path
}

/// Every variable and its value. `home` is HOME and TMPDIR, `user` the owner's name.
pub fn environment(prefix: &Path, home: &Path, user: &str) -> Vec<(&'static str, OsString)> {
    let bash = prefix.join("bin/bash");
    vec![
        ("PATH", search_path(prefix)),
        ("EPREFIX", prefix.into()),
        ("HOME", home.into()),
        ("TMPDIR", home.into()),
        ("USER", user.into()),
        ("LOGNAME", user.into()),
        ("SHELL", bash.clone().into()),
        // configure scripts run themselves again with this shell, and make runs its recipes with
        // it.
        ("CONFIG_SHELL", bash.into()),
        ("LC_ALL", "C".into()),
        ("TERM", "dumb".into()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_names_the_prefix_and_nothing_of_the_host() {
        let all = environment(Path::new("/opt/e"), Path::new("/w"), "core");
        let line = |(name, value): &(&str, OsString)| format!("{name}={}", value.display());
        let all: Vec<String> = all.iter().map(line).collect();
        assert_eq!(
            all,
            [
                "PATH=/opt/e/usr/bin:/opt/e/bin:/opt/e/usr/sbin:/opt/e/sbin",
                "EPREFIX=/opt/e",
                "HOME=/w",
                "TMPDIR=/w",
                "USER=core",
                "LOGNAME=core",
                "SHELL=/opt/e/bin/bash",
                "CONFIG_SHELL=/opt/e/bin/bash",
                "LC_ALL=C",
                "TERM=dumb",
            ]
        );
    }
}
