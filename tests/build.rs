//! The builder under systemd, natively: real Portage, real OpenZFS, the stock kernel's headers,
//! /usr read-only. What comes after a build (loading) is in tests/boot.rs.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

mod good;
mod timeout;
mod trace;

use std::time::Duration;

use good::{assert_as_against_the_official_headers, assert_loads_in_the_stock_kernel};
use lab::native::Native;
use lab::prefix::EPREFIX;
use zfs_prefix::store::{check_tree, current_key};

#[test]
fn a_stopped_or_killed_build_leaves_no_process_and_no_trace_in_the_store() {
    let lab = Native::boot("build-killed");
    let drop_in = "/etc/systemd/system/zfs-build@.service.d/50-late.conf";
    lab.state.write(drop_in, "[Unit]\nOnSuccess=zfs-load-late.service\n").unwrap();
    lab.check("systemctl daemon-reload");
    lab.start_until("configuring");
    assert_ne!(lab.exec("ps -u core -o pid --no-headers").output.trim(), "", "it does run as core");
    lab.check("systemctl stop UNIT");
    // "timeout" would mean that systemd had to kill what the builder did not end.
    assert_ne!(lab.check("systemctl show --value -p Result UNIT"), "timeout");
    lab.assert_no_process_of_the_build("stopped");
    lab.assert_store_untouched("stopped");
    assert_eq!(lab.failure(), None, "being stopped is no failure of the inputs");
    let journal = lab.check("journalctl -o cat -u UNIT");
    assert!(
        journal.contains("the build was stopped by a signal; nothing was published"),
        "{journal}"
    );

    assert_eq!(lab.check("systemctl show --value -p ActiveState UNIT"), "inactive", "not failed");
    // To systemd that is a success, and OnSuccess= fires.
    let late = lab.check("journalctl --sync && journalctl -o cat -u zfs-load-late");
    assert!(!late.contains("Starting "), "nothing is loaded or imported: {late}");
    let timer = format!("zfs-build-retry@{}.timer", lab.release);
    assert_ne!(lab.exec(&format!("systemctl is-active '{timer}'")).output.trim(), "active");

    lab.start_until("configuring");
    lab.check("systemctl kill --kill-whom=main -s KILL UNIT");
    lab.exec("while systemctl -q is-active UNIT || [ $(systemctl show --value -p ActiveState UNIT) = deactivating ]; do sleep 0.2; done");
    assert_eq!(lab.check("systemctl show --value -p Result UNIT"), "signal");
    lab.assert_no_process_of_the_build("killed");
    lab.assert_store_untouched("killed");
    assert_eq!(lab.failure(), None);
    // Neither lock nor leftovers hold the next build back.
    lab.start_until("configuring");
    lab.check("systemctl stop UNIT");
}

#[test]
fn a_full_disk_ends_the_build_with_17_then_it_backs_off_until_the_inputs_change() {
    let lab = Native::boot("build-full-disk");
    lab.check(
        "mkdir -p /var/cache/zfs-prefix && mount -t tmpfs -o size=40M full /var/cache/zfs-prefix",
    );
    let (status, journal) = lab.build();
    assert_eq!(status, "17", "{journal}");
    assert!(journal.contains("no space left: free some below /var/cache/zfs-prefix"), "{journal}");
    lab.assert_store_untouched("full disk");
    lab.assert_no_process_of_the_build("full disk");
    assert_eq!(lab.check("ls -A /var/cache/zfs-prefix/build"), "", "the full disk was cleared");
    let record = lab.failure().expect("a failure record");
    assert_eq!((record.stage.as_str(), record.attempts), ("build", 1));
    assert_eq!(record.exit.code(), 17);
    let timer = format!("zfs-build-retry@{}.timer", lab.release);
    assert_eq!(
        lab.check(&format!("systemctl is-active '{timer}'")),
        "active",
        "tried again by itself"
    );

    let (status, journal) = lab.build();
    assert_eq!(status, "21", "{journal}");
    assert!(journal.contains("next try in") && journal.contains("--force"), "{journal}");
    assert_eq!(lab.failure(), Some(record), "backing off is no new failure");

    let forced = lab.exec(&format!("zfs-prefix build --force --kernel-release {}", lab.release));
    assert_eq!(forced.status, 17, "{}", forced.output);

    lab.state
        .write(
            "/etc/zfs-prefix/config.d/50-debug.toml",
            "[portage]\nextra-econf = [\"--enable-debug\"]\n",
        )
        .unwrap();
    let (status, journal) = lab.build();
    assert_eq!(status, "17", "changed inputs are tried at once: {journal}");
}

#[test]
fn emerge_in_the_prefix_builds_as_its_owner_and_the_result_is_published_by_root() {
    // No prefix yet: the first build has its signed archive unpacked, audited and put in place. And
    // no build tree: Module.symvers is recovered from the kernel that the image ships.
    let lab = Native::prepared("build-publish", |state| {
        lab::prefix::offer(state).unwrap();
        lab::source::offer(state).unwrap();
    });
    lab.state.write("/etc/zfs-prefix/config.d/50-bad.toml", "[build]\njobs = \"many\"\n").unwrap();
    let drop_in = "/etc/systemd/system/zfs-build@.service.d/50-strace.conf";
    lab.state.write(drop_in, trace::drop_in("execve")).unwrap();
    lab.check("systemctl daemon-reload");
    lab.start_until("compiling");
    assert_provisioned(&lab);
    // There is one most of the time, not all of it.
    let cc1 = lab.check("until ps -o user= -C cc1 | sort -u | grep .; do sleep 0.2; done");
    assert_eq!(cc1, "core", "the compiler's user");
    let second =
        lab.exec(&format!("/usr/lib/zfs-prefix/zfs-build --kernel-release {}", lab.release));
    assert_eq!(second.status, 18, "{}", second.output);
    assert!(second.output.contains("another build is running"), "{}", second.output);
    assert_eq!(
        lab.exec("systemctl start UNIT").status,
        0,
        "{}",
        lab.exec("journalctl -o cat -n 60 -u UNIT").output
    );

    lab.check(&format!("rm {drop_in}; systemctl daemon-reload"));
    assert_runs_the_prefixs_programs(&traced(&lab));
    let release = lab.release.parse().unwrap();
    let key = current_key(&lab.layout(), &release).expect("current points into the store");
    let tree = lab.layout().tree(&release, &key);
    let manifest = check_tree(&tree).unwrap();
    assert_eq!(
        (manifest.zfs_version.split('-').next(), manifest.recipe.as_str()),
        (Some(lab::root::ZFS), "portage")
    );
    let version = format!("zfs-prefix {}", zfs_prefix::VERSION);
    assert_eq!(manifest.built_by.as_deref(), Some(&*version));
    assert!(manifest.vermagic.starts_with(&format!("{release} ")), "{}", manifest.vermagic);
    let foreign = lab.check("find /var/lib/zfs-prefix ! -user root -o -perm /022 ! -type l");
    assert_eq!(foreign, "", "files that others own or may write to");
    let dep = lab.check(&format!(
        "modprobe -d /var/lib/zfs-prefix/current/{release} -S {release} --show-depends zfs"
    ));
    assert!(dep.contains("/extra/spl.ko") && dep.contains("/extra/zfs.ko"), "{dep}");
    let link = format!("/home/core/gentoo/lib/modules/{release}");
    assert_eq!(
        lab.check(&format!("stat -c %U {link}; readlink -f {link}/extra/zfs.ko")),
        format!(
            "core\n/var/lib/zfs-prefix/store/{release}/{key}/lib/modules/{release}/extra/zfs.ko"
        )
    );
    assert_eq!(
        lab.exec("ls /var/cache/zfs-prefix/build").output.trim(),
        "",
        "no build directory is left"
    );
    assert_journal(&lab, &key);

    assert_as_against_the_official_headers(&tree.join("lib/modules").join(&lab.release));

    let (status, journal) = lab.build();
    assert_eq!(status, "0", "{journal}");
    assert!(journal.contains("are published already") && !journal.contains("emerge"), "{journal}");
    assert_loads_in_the_stock_kernel(&lab);
    assert_damage_is_seen(
        &lab,
        &format!("/var/lib/zfs-prefix/current/{release}/lib/modules/{release}/extra/spl.ko"),
    );
}

fn assert_provisioned(lab: &Native) {
    let unit = "zfs-prefix-provision.service";
    let journal = lab.check(&format!("journalctl -o cat -u {unit}"));
    assert_eq!(lab.check(&format!("systemctl show --value -p Result {unit}")), "success");
    assert!(journal.contains("provisioned"), "{journal}");
    assert_eq!(lab.check("ls -A /home/core | grep gentoo"), "gentoo", "and nothing beside it");
    let foreign = lab.check(&format!("find {EPREFIX} ! -user core"));
    assert_eq!(foreign, "", "not core's");
}

/// What strace wrote of the build.
fn traced(lab: &Native) -> trace::Trace {
    let text = std::fs::read(lab.state.path(trace::FILE)).unwrap();
    let own = ["/usr/lib/zfs-prefix/zfs-build", "/proc/self/exe", "/usr/sbin/depmod"];
    trace::read(&String::from_utf8_lossy(&text), EPREFIX, &own)
}

fn assert_runs_the_prefixs_programs(trace: &trace::Trace) {
    let runs = |end: &str| -> usize {
        trace.programs.iter().filter(|(p, _)| p.ends_with(end)).map(|(_, n)| n).sum()
    };
    for (program, least) in [("/cc1", 300), ("/as", 300), ("/ld", 2), ("/make", 10), ("/bash", 10)]
    {
        assert!(runs(program) >= least, "{program}: {:#?}", trace.programs);
    }
    // Made here from the kernel's source, by the prefix's compiler.
    for program in ["/fixdep", "/modpost", "/objtool"] {
        assert!(runs(program) > 0, "{program}: {:#?}", trace.programs);
    }
}

/// The root image has another C library than the prefix: neither it nor anything else of the
/// host's /usr/lib came into a process of the build.
#[test]
#[ignore = "compiles OpenZFS once more: make check-all"]
fn no_file_of_the_host_is_mapped_to_be_executed_by_any_process_of_a_build() {
    let lab = Native::prepared("build-mapped", |state| {
        lab::prefix::install(state).unwrap();
        lab::source::offer(state).unwrap();
    });
    let drop_in = "/etc/systemd/system/zfs-build@.service.d/50-strace.conf";
    lab.state.write(drop_in, trace::drop_in("execve,mmap")).unwrap();
    lab.check("systemctl daemon-reload");
    let (status, journal) = lab.build();
    assert_eq!(status, "0", "{journal}");
    let trace = traced(&lab);
    assert_eq!(trace.foreign, [""; 0]);
    assert_runs_the_prefixs_programs(&trace);
}

fn assert_journal(lab: &Native, key: &str) {
    let stages =
        lab.check("journalctl -o json -u UNIT MESSAGE_ID=6c3a0cf5e2a04a3f8d7b7c1f3a5e0b10");
    let entries: Vec<serde_json::Value> =
        stages.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let names: Vec<_> = entries.iter().map(|e| e["ZFS_PREFIX_STAGE"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        ["plan", "fetch", "kernel", "build", "harvest", "depmod", "verify", "publish"]
    );
    for entry in &entries[1..] {
        assert_eq!(entry["ZFS_PREFIX_KERNEL"], lab.release.as_str(), "{entry}");
        // Before a tree is chosen, the key is that of the whole plan.
        let chosen = !["fetch", "kernel"].contains(&entry["ZFS_PREFIX_STAGE"].as_str().unwrap());
        assert_eq!(entry["ZFS_PREFIX_KEY"] == key, chosen, "{entry}");
        let usec: u64 = entry["ZFS_PREFIX_DURATION_USEC"].as_str().unwrap().parse().unwrap();
        assert!(usec > 0, "{entry}");
    }
    let version = zfs_prefix::VERSION;
    assert!(entries.iter().all(|entry| entry["ZFS_PREFIX_VERSION"] == version), "{version}");
    let journal = lab.check("journalctl -o cat -u UNIT");
    let bad = "/etc/zfs-prefix/config.d/50-bad.toml:2:8: ";
    assert!(journal.contains(bad), "the bad file is named with line and column\n{journal}");
    assert!(journal.contains("CC [M]"), "build output is in the journal");
}

fn assert_damage_is_seen(lab: &Native, module: &str) {
    let noticed = |lab: &Native, case: &str| {
        let since = lab.check("journalctl -n 0 --show-cursor | sed -n 's/^-- cursor: //p'");
        lab.start_until("building");
        let journal = lab.check(&format!("journalctl -o cat -u UNIT --after-cursor='{since}'"));
        assert!(journal.contains("is damaged and will be built again"), "{case}: {journal}");
        lab.check("systemctl stop UNIT");
    };
    lab.check(&format!("chmod g+w {module}"));
    noticed(lab, "what the loader refuses, the builder does not call published");
    lab.check(&format!("chmod g-w {module}"));
    lab.check(&format!("printf X | dd of={module} bs=1 seek=4096 conv=notrunc status=none"));
    let list = lab.exec("zfs-prefix list");
    assert_eq!(list.status, 15, "{}", list.output);
    assert!(list.output.contains("spl.ko: is not what was published"), "{}", list.output);
    noticed(lab, "a flipped byte");
}

#[test]
fn a_failed_configure_ends_with_14_and_its_reason_is_in_the_last_error() {
    let lab = Native::boot("build-failed");
    let config = "[portage]\nextra-econf = [\"--with-linux-obj=/nonexistent\"]\n";
    lab.state.write("/etc/zfs-prefix/config.toml", config).unwrap();
    let (status, journal) = lab.build();
    assert_eq!(status, "14", "{journal}");
    let reason = &lab.failure().expect("a failure record").reason;
    assert!(reason.contains("exit status 1; the failing lines:"), "{reason}");
    assert!(reason.contains("configure: error:"), "{reason}");
    let last = journal.split("stage build: ").last().unwrap();
    assert!(last.contains("configure: error:"), "repeated in the last error: {journal}");
    lab.assert_store_untouched("failed configure");
    let shown = lab.exec("zfs-prefix status").output;
    assert!(shown.contains("published: nothing"), "{shown}");
}

#[test]
fn what_is_missing_has_its_exit_status_and_the_message_says_what_to_do() {
    let lab = Native::boot("build-missing");
    let build = "/usr/lib/zfs-prefix/zfs-build";
    let release = lab.release.clone();
    for (case, command, status, message) in [
        ("no tree", format!("{build} --kernel-release 9.9.9"), 10, "no build tree in"),
        ("no such option", format!("{build} --frobnicate"), 2, "--frobnicate"),
        ("no release", format!("{build} --kernel-release ../etc"), 2, "is not a kernel release"),
        ("status", "zfs-prefix status".to_owned(), 3, "published: nothing"),
    ] {
        let ran = lab.exec(&command);
        assert_eq!(ran.status, status, "{case}: {}", ran.output);
        assert!(ran.output.contains(message), "{case}: {}", ran.output);
    }
    let config = "/etc/zfs-prefix/config.toml";
    for (case, text, status, message) in [
        ("no prefix", "[prefix]\npath = \"/home/nobody\"\n", 11, "no prefix at /home/nobody"),
        ("root's prefix", "[prefix]\npath = \"/var\"\n", 11, "belongs to root"),
        ("no image", "[kernel]\nimage = \"/none-${release}\"\n", 10, "kernel.image is /none-"),
        ("make without source", "[build]\nrecipe = \"make\"\n", 1, "needs zfs.source"),
    ] {
        lab.state.write(config, text).unwrap();
        let ran = lab.exec(&format!("{build} --kernel-release {release}"));
        assert_eq!(ran.status, status, "{case}: {}", ran.output);
        assert!(ran.output.contains(message), "{case}: {}", ran.output);
        lab.assert_store_untouched(case);
    }
}

#[test]
fn sources_that_cannot_be_had_end_the_stage_fetch_with_19_or_11() {
    let lab = Native::boot("build-fetch");
    let prefix = "/home/core/gentoo";
    lab.check(&format!("rm {prefix}/var/cache/distfiles/zfs-linux_*"));
    let (status, journal) = lab.build();
    assert_eq!(status, "11", "the ebuild says that the prefix brings them: {journal}");
    assert!(journal.contains("stage fetch: ") && journal.contains("provision"), "{journal}");
    // Nobody listens there. What Portage remembers of the ebuild goes too: it looks at whole seconds.
    let ebuilds = format!("{prefix}/var/db/repos/zfs-prefix/sys-fs/zfs-kmod/*.ebuild");
    lab.check(&format!(
        "sed -i -e '/^RESTRICT=/s/fetch //' -e '/^SRC_URI=/s,\"zfs,\"https://localhost:1/zfs,' {ebuilds}
         rm -rf {prefix}/var/cache/edb/dep/*"
    ));
    let (status, journal) = lab.build();
    assert_eq!(status, "19", "{journal}");
    assert!(journal.contains("Couldn't download 'zfs-linux_"), "{journal}");
    assert_eq!(lab.failure().expect("a failure record").stage, "fetch");
    lab.assert_store_untouched("nothing fetched");
}

#[test]
#[ignore = "compiles OpenZFS once more: make check-all"]
fn the_make_recipe_publishes_the_same_modules_as_emerge() {
    let lab = Native::boot("build-make");
    let distfile = lab.check("ls /home/core/gentoo/var/cache/distfiles/zfs-linux_*.orig.tar.gz");
    let text = format!("[build]\nrecipe = \"make\"\n[zfs]\nsource = \"{distfile}\"\n");
    lab.state.write("/etc/zfs-prefix/config.toml", text).unwrap();
    let (status, journal) = lab.build();
    assert_eq!(status, "0", "{journal}");
    let release = lab.release.parse().unwrap();
    let key = current_key(&lab.layout(), &release).unwrap();
    let manifest = check_tree(&lab.layout().tree(&release, &key)).unwrap();
    assert_eq!(manifest.recipe, "make");
    let tree = lab.layout().tree(&release, &key);
    assert_as_against_the_official_headers(&tree.join("lib/modules").join(&lab.release));
}

#[test]
fn a_machine_without_a_prefix_is_given_one_before_its_first_build() {
    let lab = Native::boot("build-provision");
    lab.check(&format!("rm -rf {EPREFIX}"));
    let failed = || {
        let units = lab.check("systemctl list-units --failed --plain --no-legend");
        let first = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
        units
            .lines()
            .map(first)
            .filter(|unit| unit.starts_with("zfs-") && !unit.starts_with("zfs-load-module"))
            .collect::<Vec<_>>()
    };
    let provision = "zfs-prefix-provision.service";
    let (status, journal) = lab.build();
    assert_eq!(status, "11", "{journal}");
    assert!(journal.contains("set prefix.source, and one is provisioned"), "{journal}");
    assert_eq!(failed(), [lab.unit()], "nothing configured: one failed unit that says what to do");

    let made = lab::prefix::archive().unwrap();
    let names = std::fs::read_dir(&made).unwrap().map(|e| e.unwrap().file_name());
    let names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    let archive = names.iter().find(|name| name.ends_with(".tar.zst")).unwrap();
    for name in &names {
        let to = lab.state.path(&format!("/var/tmp/{name}"));
        std::fs::copy(made.join(name), to).unwrap();
    }
    let config = |sha256: &str| {
        let text = format!(
            "[prefix]\nsource = \"/var/tmp/{archive}\"\nallow-unsigned = true\nsha256 = \"{sha256}\"\n"
        );
        lab.state.write("/etc/zfs-prefix/config.toml", &text).unwrap();
    };
    config(&"0".repeat(64));
    let shown = lab.exec(&format!("zfs-prefix build --kernel-release {}", lab.release));
    assert_eq!(shown.status, 11, "{}", shown.output);
    assert!(shown.output.contains(provision), "where to look: {}", shown.output);
    let journal = lab.check(&format!("journalctl -o cat -u {provision}"));
    assert!(journal.contains("its SHA-256 is"), "{journal}");
    let result = format!("systemctl show --value -p ExecMainStatus {provision}");
    assert_eq!(lab.check(&result), "15", "{journal}");
    assert_eq!(lab.check("ls -A /home/core | grep gentoo || true"), "", "nothing is left");
    let timer = format!("zfs-build-retry@{}.timer", lab.release);
    assert_eq!(lab.check(&format!("systemctl is-active '{timer}'")), "active");

    config(lab.check(&format!("sha256sum /var/tmp/{archive}")).split(' ').next().unwrap());
    lab.check("systemctl reset-failed && systemctl start --no-block UNIT");
    while lab.exec(&format!("test -e {EPREFIX}/.zfs-prefix.json")).status != 0 {
        let failed = lab.exec(&format!("systemctl is-failed {provision}")).status == 0;
        assert!(!failed, "{}", lab.check(&format!("journalctl -o cat -n 20 -u {provision}")));
        std::thread::sleep(Duration::from_millis(300));
    }
    // The build that waited for it goes on by itself.
    while lab.check("systemctl show --value -p ActiveState UNIT") == "inactive" {
        std::thread::sleep(Duration::from_millis(100));
    }
    lab.start_until("configuring");
    lab.check("systemctl stop UNIT");
    let journal = lab.check(&format!("journalctl -o cat -u {provision}"));
    assert!(journal.contains(&format!("provisioned {EPREFIX} from /var/tmp/")), "{journal}");
    assert_eq!(lab.check(&format!("find {EPREFIX} ! -user core | wc -l")), "0");
    let mark = lab.check(&format!("cat {EPREFIX}/.zfs-prefix.json"));
    let mark: serde_json::Value = serde_json::from_str(&mark).unwrap();
    assert_eq!(mark["digest"].as_str(), Some(&*lab::prefix::digest().unwrap()), "{mark}");
    let left = "ls -A /home/core /var/cache/zfs-prefix/download | grep -E 'gentoo|prefix-'";
    assert_eq!(lab.check(left), "gentoo");
    let network = lab.exec("systemctl is-active network-online.target").output;
    assert_eq!(network.trim(), "inactive", "nothing was to be fetched from it");
}
