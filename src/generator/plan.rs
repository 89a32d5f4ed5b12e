//! What a boot with these settings needs: a list of links and drop-ins, decided without writing.

use std::path::{Path, PathBuf};

use anyhow::bail;

use super::installed;
use super::output::{Entry, Precedence, What};
use crate::config::{Loaded, Settings, Userland, WhenMissing};
use crate::host::Host;
use crate::host::files::Files;
use crate::mountpoints::{Mounts, OnPool};
use crate::systemd::name::{quoted, without_specifiers};

/// Where the static units may be, first choice first.
pub(super) const UNIT_DIRECTORIES: [&str; 2] = ["/usr/lib/systemd/system", "/etc/systemd/system"];

/// The units of OpenZFS that have to find the module loaded. The order between them and the
/// loader is in zfs-load.service; here each of them only pulls it in.
const CONSUMERS: [&str; 6] = [
    "zfs-import-cache.service",
    "zfs-import-scan.service",
    "zfs-import.target",
    "zfs-mount.service",
    "zfs-zed.service",
    "zfs-volume-wait.service",
];

/// Those of OpenZFS that import.
const IMPORTS: [&str; 2] = ["zfs-import-cache.service", "zfs-import-scan.service"];

const LOAD: &str = "zfs-load.service";
const BUILD: &str = "zfs-build.service";
const EARLY: &str = "zfs-build-early.service";
const POOLS: &str = "zfs-pools.service";
const EXPECTED: &str = "zfs-import-expected.service";
const STORE: &str = "/var/lib/zfs-prefix";
const CACHE: &str = "/var/cache/zfs-prefix";
/// Exists when the module is loaded.
const MODULE: &str = "/sys/module/zfs";
const MASKABLE: &str = "zfs-load.service.d/10-var.conf";
const MODPROBE: &str = "zfs-load-module.service.d/50-zfs-prefix.conf";
/// Units of OpenZFS, and the drop-ins that make them run the programs that fit the modules.
const OWN_PROGRAMS: [(&str, &str); 6] = [
    ("zfs-import-cache.service", "zfs-import-cache.service.d/51-zfs-prefix-programs.conf"),
    ("zfs-import-scan.service", "zfs-import-scan.service.d/51-zfs-prefix-programs.conf"),
    ("zfs-mount.service", "zfs-mount.service.d/51-zfs-prefix-programs.conf"),
    ("zfs-volume-wait.service", "zfs-volume-wait.service.d/51-zfs-prefix-programs.conf"),
    ("zfs-share.service", "zfs-share.service.d/51-zfs-prefix-programs.conf"),
    ("zfs-zed.service", "zfs-zed.service.d/51-zfs-prefix-programs.conf"),
];
/// Old Flatcar has a read-only /usr and takes the package in /opt.
const DROP_IN_DIRECTORIES: [&str; 2] = ["/usr/lib/zfs-prefix/dropins", "/opt/zfs-prefix/dropins"];

/// What to write. In this order an incomplete write is harmless: drop-ins come before the links
/// that put their units into the boot.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) entries: Vec<Entry>,
    /// Drop-ins of other people's units. If one cannot be written, everything else still is.
    pub(super) operators: Vec<Entry>,
    pub(super) warnings: Vec<String>,
    /// Static files that should be there and are not.
    pub(super) missing: Vec<&'static str>,
    pub(super) summary: String,
}

impl Plan {
    fn add(&mut self, precedence: Precedence, path: impl Into<PathBuf>, what: What) {
        self.entries.push(Entry { precedence, path: path.into(), what });
    }

    fn want(&mut self, by: &str, unit: &str, directory: &str) {
        let target = Path::new(directory).join(unit);
        self.add(Precedence::Normal, format!("{by}.wants/{unit}"), What::Link(target));
    }
}

/// Decides.
///
/// # Errors
/// zfs-load.service is not installed: then nothing may be written.
pub(super) fn plan(host: &Host, loaded: &Loaded, mounts: &Mounts<'_>) -> anyhow::Result<Plan> {
    let mut plan = Plan::default();
    let Some(load_directory) = directory_of(host, LOAD) else {
        bail!("no {LOAD} in {}: install zfs-prefix again", UNIT_DIRECTORIES.join(" or "));
    };
    let settings = &loaded.settings;
    if let Some(why) = mounts.on_pool(Path::new(STORE)) {
        mask_var(host, why, mounts, &mut plan);
    }
    match present(host, &DROP_IN_DIRECTORIES, MODPROBE) {
        Some(directory) => {
            let target = Path::new(directory).join(MODPROBE);
            plan.add(Precedence::Normal, MODPROBE, What::Link(target));
        }
        None => plan.missing.push(MODPROBE),
    }
    programs(host, settings, &mut plan);
    bound_imports(loaded, &mut plan);
    if !settings.boot.require_pools_for.is_empty() {
        require_pools(host, loaded, &mut plan);
    }
    let when_missing = when_missing(host, loaded, mounts, &mut plan);
    if when_missing != WhenMissing::Never {
        // Also with "block": a no-op after a good early build, a second chance after a bad one.
        match directory_of(host, BUILD) {
            Some(directory) => plan.want("multi-user.target", BUILD, directory),
            None => plan.missing.push(BUILD),
        }
    }
    expected_pools(host, settings, load_directory, &mut plan);
    for consumer in CONSUMERS {
        plan.want(consumer, LOAD, load_directory);
    }
    plan.summary = format!("{LOAD} before the pool import; {}", intention(when_missing));
    Ok(plan)
}

/// What becomes of `boot.when-missing` if something that a build needs is on a pool: the pool is
/// not there yet.
fn when_missing(host: &Host, loaded: &Loaded, mounts: &Mounts<'_>, plan: &mut Plan) -> WhenMissing {
    let on_pool = |paths: &[&Path]| -> Option<String> {
        let mut doubt = None;
        let mut there = Vec::new();
        for path in paths {
            let shown = path.display();
            match mounts.on_pool(path) {
                Some(OnPool::Dataset(dataset)) => {
                    there.push(format!("{shown} (dataset {dataset})"))
                }
                Some(OnPool::Unread(why)) => {
                    doubt = Some(why);
                    there.push(format!("perhaps {shown}"));
                }
                None => {}
            }
        }
        let doubt = doubt.map(|why| format!(" ({why})")).unwrap_or_default();
        (!there.is_empty()).then(|| there.join(", ") + &doubt)
    };
    let needed = [Path::new(STORE), Path::new(CACHE), &loaded.settings.prefix.path];
    let mut when_missing = loaded.settings.boot.when_missing;
    if when_missing == WhenMissing::Block {
        match on_pool(&needed) {
            None => early_build(host, loaded, mounts, plan),
            Some(paths) => {
                plan.warnings.push(format!(
                    "boot.when-missing = \"block\" cannot be had: on a pool itself: {paths}; \
                     \"late\" instead"
                ));
                when_missing = WhenMissing::Late;
            }
        }
    }
    // If the initrd loaded the module, there is nothing to build. After an import, everything is
    // there.
    if when_missing == WhenMissing::Late && !Files::before_var(host).exists(Path::new(MODULE)) {
        plan.warnings.extend(on_pool(&needed).map(|paths| {
            format!(
                "on a pool itself: {paths}. Where there are no modules for the kernel that is not \
                 there either, and none can be built: keep it off the pools, or have the initrd \
                 load the modules"
            )
        }));
    }
    when_missing
}

/// Makes the system's own units of OpenZFS run the programs that were published with the modules,
/// if there are any. They were published because the system's programs are of another version.
fn programs(host: &Host, settings: &Settings, plan: &mut Plan) {
    let own = || installed::own_program(host, "zpool").is_some();
    if settings.zfs.userland == Userland::Host || !own() {
        return;
    }
    for (unit, drop_in) in OWN_PROGRAMS {
        if directory_of(host, unit).is_none() {
            continue;
        }
        match present(host, &DROP_IN_DIRECTORIES, drop_in) {
            Some(directory) => {
                let target = Path::new(directory).join(drop_in);
                plan.add(Precedence::Normal, drop_in, What::Link(target));
            }
            None => plan.missing.push(drop_in),
        }
    }
}

/// The check of every boot, and the import of what is expected by name.
fn expected_pools(host: &Host, settings: &Settings, load_directory: &str, plan: &mut Plan) {
    match directory_of(host, POOLS) {
        Some(directory) => plan.want("multi-user.target", POOLS, directory),
        None => plan.missing.push(POOLS),
    }
    if settings.pools.expected.is_empty() {
        return;
    }
    match directory_of(host, EXPECTED) {
        Some(directory) => {
            plan.want(EXPECTED, LOAD, load_directory);
            plan.want("zfs-import.target", EXPECTED, directory);
        }
        None => plan.missing.push(EXPECTED),
    }
}

fn intention(when_missing: WhenMissing) -> &'static str {
    match when_missing {
        WhenMissing::Late => "missing modules are built after the boot",
        WhenMissing::Block => "missing modules are built before it",
        WhenMissing::Never => "missing modules are not built",
    }
}

/// Removes the dependency on /var from zfs-load.service: with /var on a pool, it would wait for
/// itself. If that is only possible, what fstab mounts there from elsewhere is still waited for.
fn mask_var(host: &Host, why: OnPool<'_>, mounts: &Mounts<'_>, plan: &mut Plan) {
    // A mask has to precede what it masks, and only the early directory precedes /etc. But if a
    // file in /etc overrides ours in /usr, that is the operator's decision.
    let files = Files::before_var(host);
    let in_usr = files.exists(&Path::new(UNIT_DIRECTORIES[0]).join(MASKABLE));
    let in_etc = files.exists(&Path::new(UNIT_DIRECTORIES[1]).join(MASKABLE));
    let precedence = if in_etc && !in_usr { Precedence::Early } else { Precedence::Normal };
    let other_disk_above = match why {
        OnPool::Dataset(_) => None,
        OnPool::Unread(_) => mounts.other_disk_above(Path::new(STORE)),
    };
    let what = match other_disk_above {
        None => What::Link(PathBuf::from("/dev/null")),
        Some(point) => What::File(format!(
            "# Automatically generated by zfs-prefix-generator\n\
             [Unit]\n\
             # Not all lists of datasets are read: what is below may be on a pool.\n\
             RequiresMountsFor={}\n",
            quoted(&unit_path(&point))
        )),
    };
    plan.add(precedence, MASKABLE, what);
}

fn early_build(host: &Host, loaded: &Loaded, mounts: &Mounts<'_>, plan: &mut Plan) {
    let Some(directory) = directory_of(host, EARLY) else {
        plan.missing.push(EARLY);
        return;
    };
    let source = loaded.origin("boot.when-missing");
    // Without links, as its mount unit is named.
    let prefix = mounts.canonical(&loaded.settings.prefix.path);
    let text = drop_in(&loaded.settings, &prefix, source);
    plan.entries.push(Entry::drop_in(EARLY, text));
    plan.want(LOAD, EARLY, directory);
}

/// Limits the time of imports, whoever owns their units: OpenZFS's own have no limit, and the boot
/// waits for them. The drop-ins have no SourcePath=, as in [`require_pools`].
fn bound_imports(loaded: &Loaded, plan: &mut Plan) {
    let source = match loaded.origin("pools.import-timeout") {
        Some(file) => format!(" in\n# {}", file.display()),
        None => ", by default".to_owned(),
    };
    let text = format!(
        "# Automatically generated by zfs-prefix-generator from pools.import-timeout{source}\n\
         [Service]\n\
         TimeoutStartSec={}s\n\
         # What hangs in the kernel cannot be killed; systemd waits this long four times.\n\
         TimeoutStopSec=10s\n",
        loaded.settings.pools.import_timeout.as_secs()
    );
    plan.entries.extend(IMPORTS.iter().map(|unit| Entry::drop_in(unit, text.clone())));
}

/// Makes the units of boot.require-pools-for wait for their pools. The drop-ins have no
/// SourcePath=: systemctl takes that for the source of the whole unit, and these units are somebody
/// else's.
fn require_pools(host: &Host, loaded: &Loaded, plan: &mut Plan) {
    if directory_of(host, POOLS).is_none() {
        // A unit that requires one that does not exist does not start at all.
        plan.missing.push(POOLS);
        return;
    }
    let source = loaded.origin("boot.require-pools-for").unwrap_or(Path::new("")).display();
    let text = format!(
        "# Automatically generated by zfs-prefix-generator from boot.require-pools-for in\n\
         # {source}\n\
         [Unit]\n\
         # Fails where an expected pool is not there, early or after a late build.\n\
         Requires={POOLS}\n\
         After={POOLS}\n"
    );
    let units = loaded.settings.boot.require_pools_for.iter();
    plan.operators.extend(units.map(|unit| Entry::drop_in(unit, text.clone())));
}

fn drop_in(settings: &Settings, prefix: &Path, source: Option<&Path>) -> String {
    let source = source.map(|s| format!("SourcePath={}\n", unit_path(s))).unwrap_or_default();
    format!(
        "# Automatically generated by zfs-prefix-generator\n\
         \n\
         [Unit]\n\
         {source}\
         # The prefix may be on a file system of its own.\n\
         RequiresMountsFor={}\n\
         \n\
         [Service]\n\
         # boot.timeout\n\
         TimeoutStartSec={}s\n",
        quoted(&unit_path(prefix)),
        settings.boot.timeout.as_secs(),
    )
}

fn unit_path(path: &Path) -> String {
    without_specifiers(&path.to_string_lossy())
}

fn directory_of(host: &Host, unit: &str) -> Option<&'static str> {
    present(host, &UNIT_DIRECTORIES, unit)
}

fn present(host: &Host, directories: &[&'static str], name: &str) -> Option<&'static str> {
    let files = Files::before_var(host);
    directories.iter().copied().find(|d| files.exists(&Path::new(d).join(name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mountpoints::Announced;
    use crate::mountpoints::problems::Problems;

    fn planned(host: &Host, loaded: &Loaded) -> Plan {
        let announced = Announced::read(Files::before_var(host), &mut Problems::default());
        plan(host, loaded, &Mounts::of(Files::before_var(host), &announced)).unwrap()
    }

    #[test]
    fn no_unit_is_made_to_require_one_that_is_not_installed() {
        let root = tempfile::tempdir().unwrap();
        let host = crate::generator::tests::host(root.path());
        let units = host.path(UNIT_DIRECTORIES[0]);
        std::fs::create_dir_all(&units).unwrap();
        std::fs::write(units.join(LOAD), "").unwrap();
        let mut loaded = Loaded::default();
        loaded.settings.boot.require_pools_for = vec!["docker.service".to_owned()];
        let drop_ins = |plan: &Plan| -> Vec<PathBuf> {
            let paths = plan.operators.iter().map(|e| e.path.clone());
            paths.filter(|path| path.starts_with("docker.service.d")).collect()
        };
        let without = planned(&host, &loaded);
        assert!(without.missing.contains(&POOLS), "{:?}", without.missing);
        assert_eq!(drop_ins(&without), [""; 0].map(PathBuf::from));
        std::fs::write(units.join(POOLS), "").unwrap();
        let with = planned(&host, &loaded);
        assert!(!with.missing.contains(&POOLS), "{:?}", with.missing);
        assert_eq!(drop_ins(&with), [Path::new("docker.service.d/50-zfs-prefix.conf")]);
    }

    #[test]
    fn a_build_that_waits_for_its_own_pool_is_warned_about_unless_the_module_is_there() {
        for (point, when, block, late, early) in [
            ("/var/cache", WhenMissing::Late, false, true, false),
            ("/var/cache", WhenMissing::Block, true, true, false),
            ("/var/cache", WhenMissing::Never, false, false, false),
            ("/var", WhenMissing::Late, false, true, false),
            ("/home", WhenMissing::Late, false, true, false),
            ("/home", WhenMissing::Block, true, true, false),
            ("/srv", WhenMissing::Late, false, false, false),
            ("/srv", WhenMissing::Block, false, false, true),
        ] {
            let root = tempfile::tempdir().unwrap();
            let host = crate::generator::tests::host(root.path());
            for unit in [LOAD, BUILD, EARLY] {
                let path = host.path(UNIT_DIRECTORIES[0]).join(unit);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, "").unwrap();
            }
            std::fs::create_dir(host.path("/etc")).unwrap();
            let fstab = format!("tank/x {point} zfs defaults 0 0\n");
            std::fs::write(host.path("/etc/fstab"), fstab).unwrap();
            let mut loaded = Loaded::default();
            loaded.settings.boot.when_missing = when;
            let case = format!("{point} {when:?}");
            let said = |part: &str, plan: &Plan| plan.warnings.iter().any(|w| w.contains(part));
            let plan = planned(&host, &loaded);
            assert_eq!(said("cannot be had", &plan), block, "{case}: {:?}", plan.warnings);
            assert_eq!(said("none can be built", &plan), late, "{case}: {:?}", plan.warnings);
            let wired = plan.entries.iter().any(|e| e.path.ends_with(EARLY));
            assert_eq!(wired, early, "{case}: {:?}", plan.entries);
            std::fs::create_dir_all(host.path(MODULE)).unwrap();
            let plan = planned(&host, &loaded);
            assert!(!said("none can be built", &plan), "{case}: {:?}", plan.warnings);
        }
    }
}
