//! Paths that systemd itself needs. If a mount unit fails, every unit that needs its mount point
//! fails with it. That must not happen to the targets of the boot, to the journal, or to a login.
//!
//! Source: systemd.unit(5), "RequiresMountsFor=" and "Implicit Dependencies"; systemd.exec(5).

mod index;
mod settings;

use crate::mountpoints::fstab::Entry;
pub(super) use index::Index;
use settings::Needs;

/// The units without which a boot is lost. Units that they require count, too.
const VITAL: &[&str] = &[
    // The boot.
    "local-fs.target",
    "sysinit.target",
    "basic.target",
    "multi-user.target",
    "graphical.target",
    "default.target",
    "systemd-udevd.service",
    // The journal.
    "systemd-journald.service",
    "systemd-journald.socket",
    "systemd-journal-flush.service",
    // A login.
    "dbus.socket",
    "dbus.service",
    "dbus-broker.service",
    "systemd-logind.service",
    "systemd-user-sessions.service",
    "user@.service",
    "user-runtime-dir@.service",
    "getty.target",
    "getty@.service",
    "serial-getty@.service",
    "console-getty.service",
    "container-getty@.service",
    "autovt@.service",
    "display-manager.service",
    "systemd-userdbd.service",
    "systemd-userdbd.socket",
    // A login from elsewhere.
    "ssh.service",
    "ssh@.service",
    "ssh.socket",
    "sshd.service",
    "sshd@.service",
    "sshd.socket",
    "sshd-keygen.service",
    "sshd-keygen@.service",
    "sshd-keygen.target",
    "dropbear.service",
    "systemd-networkd.service",
    "systemd-networkd.socket",
    "systemd-resolved.service",
    "NetworkManager.service",
    "wpa_supplicant.service",
    "iwd.service",
    "networking.service",
    "dhcpcd.service",
    "sssd.service",
    // Names the pool that its directories are on. If it could not start, nobody would.
    "zfs-build.service",
    "zfs-build@.service",
    "zfs-prefix-provision.service",
];

/// At most this many units are read.
const MOST: usize = 400;

/// The paths that vital units need, and the mount points that local-fs.target requires. They may
/// have links in them, and be there twice.
pub(super) fn paths(index: &Index<'_>, fstab: &[Entry]) -> Vec<String> {
    let mut paths = Vec::new();
    for entry in fstab.iter().filter(|entry| entry.required) {
        paths.push(entry.point.clone());
        // What is mounted from a file or a directory waits for that.
        if entry.what.starts_with('/') {
            paths.push(entry.what.clone());
        }
    }
    let mut next: Vec<String> = VITAL.iter().map(ToString::to_string).collect();
    let mut seen: Vec<String> = Vec::new();
    while let Some(unit) = next.pop() {
        if seen.len() == MOST || seen.contains(&unit) {
            continue;
        }
        let mut needs = Needs::default();
        index.texts(&unit).iter().for_each(|text| needs.read(text));
        paths.extend(needs.paths);
        next.extend(needs.requires);
        next.extend(index.required_by_link(&unit));
        paths.extend(settings::mount_point(&unit));
        seen.push(unit);
    }
    paths
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;
    use crate::host::Host;
    use crate::host::files::Files;

    /// The paths on the machine below `root`.
    fn of(root: &Path, fstab: &[Entry]) -> Vec<String> {
        let host = Host::below(root, "6.1.0");
        let mut paths = paths(&Index::read(Files::before_var(&host)), fstab);
        paths.sort();
        paths.dedup();
        paths
    }

    const USR: &str = "usr/lib/systemd/system";
    const ETC: &str = "etc/systemd/system";

    #[test]
    fn what_a_vital_unit_says_and_what_it_requires_count_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in [
            (format!("{USR}/basic.target"), "[Unit]\nRequiresMountsFor=/var /var/tmp\n"),
            (format!("{USR}/systemd-logind.service"), "[Service]\nStateDirectory=systemd/linger"),
            (format!("{USR}/tftp.service"), "[Unit]\nRequiresMountsFor=/srv/tftp\n"),
            // By name, by link, by drop-in: all that is required, however far away.
            (format!("{USR}/a.service"), "[Unit]\nRequires=b.service\n[Service]\nPrivateTmp=1\n"),
            (format!("{USR}/b.service"), "[Service]\nCacheDirectory=b b/c\n"),
            (format!("{ETC}/sshd.service.d/x.conf"), "[Unit]\nBindsTo=a.service c.mount\n"),
            (format!("{ETC}/basic.target.requires/d.service"), "[Service]\nRootDirectory=/d\n"),
            (format!("{ETC}/d.service"), "[Service]\nRootDirectory=/d\n"),
            (format!("{ETC}/service.d/all.conf"), "[Service]\nLogsDirectory=all\n"),
            (format!("{ETC}/systemd-.service.d/all.conf"), "[Unit]\nRequiresMountsFor=/dash\n"),
            (format!("{ETC}/getty@tty1.service.d/x.conf"), "[Service]\nWorkingDirectory=/tty\n"),
            (format!("{USR}/other@.service"), "[Service]\nStateDirectory=other\n"),
            ("run/systemd/system/dbus.socket".to_owned(), "[Socket]\nListenStream=/bus/socket\n"),
        ] {
            Host::below(root.path(), "6.1.0").put(&path, text);
        }
        // Masked, and an alias.
        Host::below(root.path(), "6.1.0")
            .put(&format!("{USR}/sssd.service"), "[Service]\nStateDirectory=sss\n");
        symlink("/dev/null", root.path().join(ETC).join("sssd.service")).unwrap();
        Host::below(root.path(), "6.1.0")
            .put(&format!("{USR}/my.target"), "[Unit]\nRequiresMountsFor=/alias\n");
        Host::below(root.path(), "6.1.0")
            .put(&format!("{ETC}/my.target.d/x.conf"), "[Unit]\nRequiresMountsFor=/more\n");
        symlink("/usr/lib/systemd/system/my.target", root.path().join(ETC).join("default.target"))
            .unwrap();
        let found = of(root.path(), &[]);
        let expected = [
            "/alias",
            "/bus/socket",
            "/c",
            "/d",
            "/dash",
            "/more",
            "/tmp",
            "/tty",
            "/var",
            "/var/cache/b",
            "/var/cache/b/c",
            "/var/lib/systemd/linger",
            "/var/log/all",
            "/var/tmp",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn what_fstab_mounts_at_boot_needs_what_is_above_it() {
        let root = tempfile::tempdir().unwrap();
        let entry = |what: &str, point: &str, required| Entry {
            what: what.to_owned(),
            point: point.to_owned(),
            zfs: false,
            noauto: false,
            required,
        };
        let fstab = [entry("/srv/a", "/a/b", true), entry("/dev/vdb", "/x/y", false)];
        assert_eq!(of(root.path(), &fstab), ["/a/b", "/srv/a"]);
    }

    #[test]
    fn units_that_require_each_other_are_read_once() {
        let root = tempfile::tempdir().unwrap();
        Host::below(root.path(), "6.1.0")
            .put(&format!("{USR}/basic.target"), "[Unit]\nRequires=sysinit.target\n");
        let text = "[Unit]\nRequires=basic.target sysinit.target\nRequiresMountsFor=/x\n";
        Host::below(root.path(), "6.1.0").put(&format!("{USR}/sysinit.target"), text);
        assert_eq!(of(root.path(), &[]), ["/x"]);
    }
}
