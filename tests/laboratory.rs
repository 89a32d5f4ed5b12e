//! The laboratory itself: kernels, roots and releases of OpenZFS by name, for the tests of more than
//! one of each.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

use std::process::Command;
use std::time::Duration;

use lab::disk::{State, usr};
use lab::kernel::kernel;
use lab::vm::{VmSpec, boot};

/// Suites of roots and of kernels: a kernel without parts and in parts, modules that are not
/// compressed and such that are, systemd 252 to the newest.
const MACHINES: [(&str, &str); 4] = [
    ("bookworm", "bookworm"),
    ("trixie", "trixie"),
    ("trixie", "trixie-backports"),
    ("sid", "sid"),
];

#[test]
#[ignore = "kernels and roots that no other test uses yet: make check-all"]
fn kernels_and_roots_of_every_suite_boot() {
    for (root, suite) in MACHINES {
        let kernel = kernel(suite, "amd64", "linux-image-cloud-amd64").unwrap();
        let release = &kernel.release;
        let root = lab::root::of(root, &kernel).unwrap();
        let work = lab::tmp::scratch("kernels-");
        let state = State::fresh(&root, &work.path().join("state")).unwrap();
        let spec = VmSpec {
            name: format!("kernel-{suite}"),
            cmdline: String::new(),
            usr: usr(&root, None).unwrap(),
            state: state.disks(work.path()).unwrap(),
            keep_state: false,
            disks: vec![],
            script: "probe release uname -r\nprobe target systemctl is-active multi-user.target\n"
                .into(),
            timeout: Duration::from_secs(300),
            network: false,
            live: false,
        };
        let boot = boot(&root, &spec).unwrap();
        assert_eq!(boot.probe("release").unwrap().output, *release, "{suite}");
        assert_eq!(boot.probe("target").unwrap().output, "active", "{suite}");
    }
}

#[test]
#[ignore = "releases of OpenZFS that no other test uses yet: make check-all"]
fn releases_of_openzfs_are_had_by_their_series() {
    for series in ["2.1", "2.3.2", "2.3", "2.4"] {
        let lab::openzfs::Release { version, tarball } = lab::openzfs::release(series).unwrap();
        assert!(version.starts_with(series), "{series}: {version}");
        for file in ["META", "configure", "module/Kbuild.in"] {
            let mut tar = Command::new("tar");
            tar.arg("-xOf").arg(&tarball).arg(format!("zfs-{version}/{file}"));
            let text = lab::tool::run(&mut tar).unwrap();
            assert!(
                file != "META" || text.contains(&format!("Version:       {version}")),
                "{text}"
            );
        }
    }
}
