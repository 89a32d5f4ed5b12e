//! Logging for the programs that may use tracing: native journal entries under systemd, plain
//! lines on stderr otherwise. Also the MESSAGE_IDs of the journal catalog.

use std::path::Path;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// The MESSAGE_ID of each result that an operator may want to look up. The texts are in
/// `units/zfs-prefix.catalog`.
pub mod id {
    /// Modules were inserted.
    pub const LOADED: &str = "6c3a0cf5e2a04a3f8d7b7c1f3a5e0b01";
    /// Nothing is published for the running kernel.
    pub const NOTHING_PUBLISHED: &str = "6c3a0cf5e2a04a3f8d7b7c1f3a5e0b02";
    /// The modules could not be inserted.
    pub const LOAD_FAILED: &str = "6c3a0cf5e2a04a3f8d7b7c1f3a5e0b03";
    /// The operating system ships its own zfs.ko.
    pub const STAND_ASIDE: &str = "6c3a0cf5e2a04a3f8d7b7c1f3a5e0b04";
    /// A file with the name of a module that is not for this kernel.
    pub const NOT_COUNTED: &str = "6c3a0cf5e2a04a3f8d7b7c1f3a5e0b05";
    /// modprobe.d(5) or the kernel command line holds the module back.
    pub const HELD_BACK: &str = "6c3a0cf5e2a04a3f8d7b7c1f3a5e0b06";
    /// A build stage was finished.
    pub const STAGE_DONE: &str = "6c3a0cf5e2a04a3f8d7b7c1f3a5e0b10";
    /// A tree was published.
    pub const PUBLISHED: &str = "6c3a0cf5e2a04a3f8d7b7c1f3a5e0b11";
    /// A build failed.
    pub const BUILD_FAILED: &str = "6c3a0cf5e2a04a3f8d7b7c1f3a5e0b12";
    /// A build was not tried: backing off.
    pub const BACKING_OFF: &str = "6c3a0cf5e2a04a3f8d7b7c1f3a5e0b13";
    /// A line of build output.
    pub const BUILD_OUTPUT: &str = "6c3a0cf5e2a04a3f8d7b7c1f3a5e0b14";
    /// A published tree is damaged.
    pub const TREE_DAMAGED: &str = "6c3a0cf5e2a04a3f8d7b7c1f3a5e0b15";
    /// A prefix was provisioned.
    pub const PROVISIONED: &str = "6c3a0cf5e2a04a3f8d7b7c1f3a5e0b30";
    /// A prefix could not be provisioned.
    pub const PROVISION_FAILED: &str = "6c3a0cf5e2a04a3f8d7b7c1f3a5e0b31";
    /// A step of the late way ended well, or there was nothing to do.
    pub const LATE_STEP: &str = "6c3a0cf5e2a04a3f8d7b7c1f3a5e0b50";
    /// A step of the late way failed.
    pub const LATE_STEP_FAILED: &str = "6c3a0cf5e2a04a3f8d7b7c1f3a5e0b51";
    /// A dataset was not mounted over what somebody had written.
    pub const MOUNT_REFUSED: &str = "6c3a0cf5e2a04a3f8d7b7c1f3a5e0b52";
    /// The late way is at its end, and all is well.
    pub const LATE_DONE: &str = "6c3a0cf5e2a04a3f8d7b7c1f3a5e0b53";
    /// The late way is at its end, and something failed.
    pub const LATE_INCOMPLETE: &str = "6c3a0cf5e2a04a3f8d7b7c1f3a5e0b54";
    /// An expected pool is not imported.
    pub const POOL_ABSENT: &str = "6c3a0cf5e2a04a3f8d7b7c1f3a5e0b60";
    /// An expected pool is degraded, faulted, suspended or read-only.
    pub const POOL_IMPAIRED: &str = "6c3a0cf5e2a04a3f8d7b7c1f3a5e0b61";
    /// An expected pool has encrypted datasets whose key is not loaded.
    pub const POOL_LOCKED: &str = "6c3a0cf5e2a04a3f8d7b7c1f3a5e0b62";
    /// How an expected pool is could not be found out.
    pub const POOL_UNKNOWN: &str = "6c3a0cf5e2a04a3f8d7b7c1f3a5e0b63";
    /// Which pools are expected is not known, or which are imported.
    pub const POOLS_NOT_KNOWN: &str = "6c3a0cf5e2a04a3f8d7b7c1f3a5e0b64";
    /// The expected pools are as they have to be, or none is expected.
    pub const POOLS_SOUND: &str = "6c3a0cf5e2a04a3f8d7b7c1f3a5e0b65";
    /// A pool was imported by its name.
    pub const POOL_IMPORTED: &str = "6c3a0cf5e2a04a3f8d7b7c1f3a5e0b66";
    /// A pool could not be imported by its name.
    pub const POOL_NOT_IMPORTED: &str = "6c3a0cf5e2a04a3f8d7b7c1f3a5e0b67";
    /// A configuration file was set aside, or a key is unknown.
    pub const CONFIG: &str = "6c3a0cf5e2a04a3f8d7b7c1f3a5e0b20";
}

/// Sets up tracing for this process: to journald when `journal` (see [`stderr_is_journal`]) and
/// its socket answers, otherwise to stderr. `identifier` becomes SYSLOG_IDENTIFIER.
pub fn init(identifier: &str, journal: bool) {
    if journal && let Ok(layer) = tracing_journald::layer() {
        let layer = layer.with_field_prefix(None).with_syslog_identifier(identifier.to_owned());
        // journald looks up the unit of the process that sends a message. If the program ends right
        // after its message, the process may be gone, and `journalctl -u` would not show the
        // message. So each message names its unit.
        let cgroup = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let unit = unit_of(&cgroup).map(|unit| ("OBJECT_SYSTEMD_UNIT", unit));
        let layer = layer
            .with_custom_fields(unit.into_iter().chain([("ZFS_PREFIX_VERSION", crate::VERSION)]));
        tracing_subscriber::registry().with(ours()).with(layer).init();
        return;
    }
    let plain = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false)
        .fmt_fields(MessageOnly)
        .with_ansi(false);
    tracing_subscriber::registry()
        .with(tracing_subscriber::filter::LevelFilter::INFO)
        .with(ours())
        .with(plain)
        .init();
}

/// Drops the log messages of zbus, which do not help an operator. Our code reports the errors of
/// zbus that matter.
fn ours() -> tracing_subscriber::filter::Targets {
    use tracing_subscriber::filter::LevelFilter;
    tracing_subscriber::filter::Targets::new()
        .with_default(LevelFilter::TRACE)
        .with_target("zbus", LevelFilter::OFF)
}

/// The service that systemd started, from `/proc/PID/cgroup` (cgroups(7)): version 2, or the
/// hierarchy of systemd in version 1.
pub(crate) fn unit_of(cgroup: &str) -> Option<&str> {
    let path =
        cgroup.lines().find_map(|line| match line.split_once(':')?.1.split_once(':')? {
            ("" | "name=systemd", path) => path.rsplit('/').find(|p| p.ends_with(".service")),
            _ => None,
        })?;
    (path.len() > ".service".len()).then_some(path)
}

/// Prints only the message: the fields are for the journal.
struct MessageOnly;

impl<'w> tracing_subscriber::fmt::FormatFields<'w> for MessageOnly {
    fn format_fields<R: tracing_subscriber::field::RecordFields>(
        &self,
        mut writer: tracing_subscriber::fmt::format::Writer<'w>,
        fields: R,
    ) -> std::fmt::Result {
        struct Visit<'a, 'w>(&'a mut tracing_subscriber::fmt::format::Writer<'w>);
        impl tracing::field::Visit for Visit<'_, '_> {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                if field.name() == "message" {
                    let _ = write!(self.0, "{value:?}");
                }
            }
        }
        fields.record(&mut Visit(&mut writer));
        Ok(())
    }
}

/// Whether stderr is connected to the journal: `$JOURNAL_STREAM` (its value in `journal_stream`)
/// names the device and inode of file descriptor 2 (systemd.exec(5)).
pub fn stderr_is_journal(journal_stream: Option<&str>, stderr: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let Some((dev, ino)) = journal_stream.and_then(|s| s.split_once(':')) else { return false };
    std::fs::metadata(stderr)
        .is_ok_and(|m| dev.parse() == Ok(m.dev()) && ino.parse() == Ok(m.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_is_the_innermost_service_of_the_control_group() {
        for (cgroup, want) in [
            ("0::/system.slice/zfs-load.service\n", Some("zfs-load.service")),
            ("0::/a.slice/zfs-build@6.1.0-56.service\n", Some("zfs-build@6.1.0-56.service")),
            ("0::/system.slice/zfs-build.service/child\n", Some("zfs-build.service")),
            ("2:cpu:/x.service\n1:name=systemd:/y.service\n", Some("y.service")),
            ("0::/user.slice/session-1.scope\n", None),
            ("0::/.service\n", None),
            ("junk\n", None),
            ("", None),
        ] {
            assert_eq!(unit_of(cgroup), want, "{cgroup:?}");
        }
    }
}
