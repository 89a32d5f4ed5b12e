//! How many compiler jobs run at once.

use std::fs;
use std::path::Path;

use crate::config::Settings;
use crate::host::Host;

/// Memory that one job of an OpenZFS build may need, in KiB. cc1 takes some 300 MiB for its largest
/// files, and the rest of the machine needs memory too.
const PER_JOB_KIB: u64 = 768 * 1024;

/// The number that was `asked` for, otherwise that of the configuration, otherwise [`choose`]'s.
pub fn wanted(host: &Host, settings: &Settings, asked: Option<u32>) -> u32 {
    let wanted = asked.or(settings.build.jobs);
    wanted.unwrap_or_else(|| choose(&host.path("/proc/meminfo")))
}

/// One job for each core that this process may use, but no more than available memory allows, and
/// at least 1. `meminfo` is /proc/meminfo (proc(5)).
pub fn choose(meminfo: &Path) -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let text = fs::read_to_string(meminfo).unwrap_or_default();
    limit(u32::try_from(cores).unwrap_or(1), available(&text))
}

fn limit(cores: u32, available_kib: Option<u64>) -> u32 {
    let fit = available_kib.map_or(u64::from(cores), |kib| kib / PER_JOB_KIB);
    cores.min(u32::try_from(fit).unwrap_or(u32::MAX)).max(1)
}

fn available(meminfo: &str) -> Option<u64> {
    let value = meminfo.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    value.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_bounded_by_cores_and_by_memory_and_are_never_none() {
        let gib = |n: u64| Some(n * 1024 * 1024);
        for (case, cores, memory, want) in [
            ("plenty", 4, gib(64), 4),
            ("little memory", 16, gib(3), 4),
            ("almost none", 16, Some(1000), 1),
            ("unknown", 8, None, 8),
        ] {
            assert_eq!(limit(cores, memory), want, "{case}");
        }
        assert_eq!(available("MemTotal: 9 kB\nMemAvailable:    1234 kB\n"), Some(1234));
    }
}
