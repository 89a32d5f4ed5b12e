//! Kernel build trees for a machine without any: made from the kernel's source, under systemd, with
//! the real prefix; guards against a tree that is not the shipped kernel's.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use lab::native::Native;
use lab::openzfs::{self, Release};
use lab::prefix::EPREFIX;
use lab::rpm::kernel_devel;
use lab::tool::run;

const CONFIG: &str = "/etc/zfs-prefix/config.d/20-tree.toml";

fn machine(name: &str) -> Native {
    Native::prepared(name, |state| {
        lab::prefix::install(state).unwrap();
        lab::source::offer(state).unwrap();
    })
}

trait Configured {
    fn configure(&self, text: &str);
    fn tree(&self) -> PathBuf;
}

impl Configured for Native {
    fn configure(&self, text: &str) {
        self.state.write(CONFIG, text).unwrap();
    }

    /// The tree that the running build made, as this process sees it.
    fn tree(&self) -> PathBuf {
        self.state.path(&format!("/var/cache/zfs-prefix/build/{}/kernel", self.release))
    }
}

/// The shipped configuration with one option changed, and what makes a machine use it.
fn changed_config(lab: &Native, from: &str, to: &str) -> String {
    let config = format!("/usr/lib/modules/{}/config", lab.release);
    lab.check(&format!(
        "grep -qx '{from}' {config} && sed 's/^{from}$/{to}/' {config} > /etc/config"
    ));
    "[kernel]\ntree = [\"recovered\"]\nconfig = \"/etc/config\"\n".to_owned()
}

#[test]
fn a_tree_that_is_not_the_shipped_kernels_is_refused_by_the_name_of_what_differs() {
    let lab = machine("tree-guards");
    // The way of which nothing warns: without pahole, kconfig drops an option that has a member in
    // struct module, and release, vermagic and CRCs all stay what they were.
    lab.configure("[kernel]\ntree = [\"recovered\"]\n");
    lab.check(&format!("mv {EPREFIX}/usr/bin/pahole /var/tmp/"));
    let (status, journal) = lab.build();
    assert_eq!(status, "15", "{journal}");
    assert!(journal.contains("DEBUG_INFO_BTF"), "{journal}");
    assert!(!journal.contains("modules_prepare"), "compiled all the same: {journal}");
    lab.check(&format!("mv /var/tmp/pahole {EPREFIX}/usr/bin/"));
    lab.assert_store_untouched("no pahole");

    // A configuration of another kernel, complete in itself: only the structures tell.
    let config = changed_config(&lab, "# CONFIG_SCHED_CORE is not set", "CONFIG_SCHED_CORE=y");
    lab.configure(&config);
    let (status, journal) = lab.build();
    assert_eq!(status, "15", "{journal}");
    assert!(journal.contains("struct task_struct"), "{journal}");
    assert_eq!(lab.failure().expect("a failure record").stage, "kernel");
    lab.assert_store_untouched("another configuration");
    lab.assert_no_process_of_the_build("another configuration");
    assert_eq!(lab.check("find /var/cache/zfs-prefix -name '*.given'"), "", "what root had given");

    // The shape of CoreOS's and Flatcar's: an initramfs is built in, which nobody else has.
    let config = format!("/usr/lib/modules/{}/config", lab.release);
    lab.check(&format!(
        "sed 's/^CONFIG_INITRAMFS_SOURCE=.*/CONFIG_INITRAMFS_SOURCE=\"bootengine.cpio\"/' {config} > /etc/config && \
         printf 'CONFIG_INITRAMFS_%s\\n' ROOT_UID=0 ROOT_GID=0 COMPRESSION_GZIP=y >> /etc/config"
    ));
    lab.start_until("configuring");
    lab.check("systemctl stop UNIT");
}

#[test]
fn every_strategy_that_is_not_taken_says_why() {
    let lab = machine("tree-reasons");
    lab.configure("[kernel]\nsource = \"/srv/none.tar.xz\"\n");
    let (status, journal) = lab.build();
    assert_eq!(status, "10", "{journal}");
    for reason in ["shipped: ", "no build tree in", "recovered: ", "full: ", "/srv/none.tar.xz"] {
        assert!(journal.contains(reason), "{reason:?} is missing:\n{journal}");
    }
    lab.assert_store_untouched("no source");

    // Where nobody answers; whether there is a network is known only when it was waited for.
    let online = || lab.exec("systemctl is-active network-online.target").output;
    assert_eq!(online().trim(), "inactive", "nothing was to be fetched from it");
    lab.configure(
        "[kernel]\ntree = [\"recovered\"]\nallow-unsigned = true\n\
         source = \"git+https://127.0.0.1:9/linux.git#v6.1\"\n",
    );
    let (status, journal) = lab.build();
    assert_ne!(status, "0", "{journal}");
    assert_eq!(online().trim(), "active", "{journal}");
}

/// A copy of the shipped headers, with the programs that theirs are links to.
const COPIED: &str = "cp -a $(readlink -f /usr/lib/modules/*/build) /opt/tree && cd /opt/tree && \
    rm scripts tools && cp -aL /usr/lib/linux-kbuild-*/scripts /usr/lib/linux-kbuild-*/tools .";
/// One symbol of a tree's Module.symvers gets another CRC.
const FLIP: &str = "sed -i '/\\t_printk\\t/s/^0x......../0x12345678/' /opt/tree/Module.symvers && \
    grep -c '^0x12345678' /opt/tree/Module.symvers";

#[test]
#[ignore = "makes more build trees: make check-all"]
fn a_shipped_tree_of_another_build_of_the_kernel_is_not_taken_by_the_symbol_that_differs() {
    let lab = machine("tree-flipped");
    lab.check(COPIED);
    assert_eq!(lab.check(FLIP), "1");
    lab.configure("[kernel]\nbuild-dir = \"/opt/tree\"\ntree = [\"shipped\"]\n");
    let (status, journal) = lab.build();
    assert_eq!(status, "15", "{journal}");
    assert!(
        journal.contains("kernel.tree: not \"shipped\": /opt/tree/Module.symvers"),
        "{journal}"
    );
    assert!(journal.contains("_printk: CRC 0x12345678, shipped 0x"), "{journal}");
    lab.assert_store_untouched("another build's headers");
}

#[test]
#[ignore = "makes more build trees: make check-all"]
fn a_shell_for_a_kernel_without_headers_has_the_tree_that_a_build_makes() {
    let lab = machine("tree-shell");
    lab.configure("[kernel]\ntree = [\"recovered\"]\n");
    let keep = format!("{EPREFIX}/var/tmp/kept");
    lab.check(&format!(
        "zfs-prefix prefix shell --no-network --kernel-release {} -- bash -c \
         'mkdir -p {keep} && cd $KV_OUT_DIR && cp .config Module.symvers {keep} && \
         test -f $KERNEL_DIR/include/linux/module.h && case $PWD in $HOME/*) ;; *) exit 9;; esac'",
        lab.release
    ));
    assert_eq!(lab.check("ls -A /var/cache/zfs-prefix/shell"), "", "it goes with the shell");
    let root = lab::root::root().unwrap();
    let kept = |name: &str| lab::source::lines(&lab.state.path(&format!("{keep}/{name}"))).unwrap();
    assert_eq!(kept("Module.symvers"), lab::source::official_symvers(&root).unwrap());
    // The lock is free again, and what is compared of a binary package is the same.
    lab.start_until("configuring");
    for name in [".config", "Module.symvers"] {
        let built = fs::read(lab.tree().join(name)).unwrap();
        let shells = fs::read(lab.state.path(&format!("{keep}/{name}"))).unwrap();
        assert!(built == shells, "{name} is another one in the shell");
    }
    lab.check("systemctl stop UNIT");
}

#[test]
fn a_kernel_that_this_openzfs_does_not_support_ends_with_13_before_anything_is_compiled() {
    let lab = Native::boot("tree-unsupported");
    let kernel = lab::kernel::kernel("trixie", "amd64", "linux-image-cloud-amd64").unwrap();
    let release = &kernel.release;
    let headers = kernel.symvers.parent().unwrap();
    run(Command::new("cp").arg("-a").arg(headers).arg(lab.state.path("/opt/tree"))).unwrap();
    run(Command::new("chown").args(["-R", "root:root"]).arg(lab.state.path("/opt/tree"))).unwrap();
    fs::copy(&kernel.image, lab.state.path("/opt/vmlinuz")).unwrap();
    let Release { tarball, version } = openzfs::release("2.1").unwrap();
    fs::copy(&tarball, lab.state.path("/opt/zfs.tar.gz")).unwrap();
    let build = |experimental: bool| {
        lab.configure(&format!(
            "[kernel]\nbuild-dir = \"/opt/tree\"\nimage = \"/opt/vmlinuz\"\ntree = [\"shipped\"]\n\
             [zfs]\nversion = \"{version}\"\nsource = \"/opt/zfs.tar.gz\"\nlinux-experimental = {experimental}\n"
        ));
        lab.exec(&format!("/usr/lib/zfs-prefix/zfs-build --force --kernel-release {release}"))
    };
    let refused = build(false);
    assert_eq!(refused.status, 13, "{}", refused.output);
    for said in [release.as_str(), version.as_str(), "6.2", "zfs.linux-experimental"] {
        assert!(refused.output.contains(said), "{said:?} is missing:\n{}", refused.output);
    }
    assert!(!refused.output.contains("stage kernel"), "{}", refused.output);
    lab.assert_store_untouched("not supported");
    let tried = build(true);
    assert_ne!(tried.status, 13, "{}", tried.output);
    assert!(tried.output.contains("stage kernel"), "the option overrides it: {}", tried.output);
}

/// A program of the headers of a newer Debian: linked for a C library that the prefix is older than.
fn newer_modpost() -> PathBuf {
    let kernel = lab::kernel::kernel("trixie", "amd64", "linux-image-cloud-amd64").unwrap();
    let mut find = Command::new("find");
    find.arg(kernel.dir.join("usr/lib")).args(["-name", "modpost.real-lsb-64"]);
    run(&mut find).unwrap().trim().into()
}

#[test]
fn a_shipped_tree_whose_programs_cannot_run_and_have_no_source_is_not_taken() {
    let lab = machine("tree-programs");
    lab.check(COPIED);
    fs::copy(newer_modpost(), lab.state.path("/opt/tree/scripts/mod/modpost.real-lsb-64")).unwrap();
    lab.configure("[kernel]\nbuild-dir = \"/opt/tree\"\ntree = [\"shipped\"]\n");
    let (status, journal) = lab.build();
    assert_eq!(status, "11", "{journal}");
    assert!(journal.contains("/opt/tree: its programs cannot run in the prefix"), "{journal}");
    assert!(journal.contains("modpost.real-lsb-64: ") && journal.contains("GLIBC_"), "{journal}");
    lab.assert_store_untouched("programs of a newer C library");
}

/// The files of a kernel's source that modules are compiled against, and those that its helper
/// programs are made of: about what distributions package.
const DEVEL: &str = "{ find . arch/x86 -maxdepth 1 -name 'Makefile*' -o -maxdepth 1 -name 'Kbuild*'; \
    find include scripts tools arch/x86/include arch/x86/entry/syscalls arch/x86/tools -type f -o -type l; \
    find . -name 'Kconfig*'; find kernel arch/x86/kernel -name '*bounds.c' -o -name 'asm-offsets*.c'; \
    echo kernel/time/timeconst.bc; find arch/x86 -name '*.h' -not -path '*/include/*'; \
    find security/selinux/include arch/x86/lib -name '*.h' -o -name 'in*.c'; }";

#[test]
#[ignore = "makes more build trees: make check-all"]
fn a_kernel_devel_package_is_a_shipped_tree_and_programs_that_cannot_run_are_compiled_anew() {
    let lab = machine("tree-devel");
    lab.start_until("configuring");
    lab.check("systemctl stop UNIT");
    let output = format!("/var/cache/zfs-prefix/build/{}/kernel", lab.release);
    lab.check(&format!(
        "mkdir /opt/tree && cd $(readlink -f {output}/source) && {DEVEL} | sort -u > /var/tmp/devel && \
         tar -cf - -T /var/tmp/devel | tar -xf - -C /opt/tree && \
         cd {output} && rm source Makefile && cp -a . /opt/tree && chown -R root:root /opt/tree"
    ));
    let tree = lab.state.path("/opt/tree");
    let rpm = kernel_devel(&tree, &lab.release, &lab.state.path("/var/tmp/rpm")).unwrap();
    fs::rename(rpm, lab.state.path(&format!("/srv/kernel-devel-{}.rpm", lab.release))).unwrap();
    lab.configure(
        "[kernel]\ntree = [\"shipped\"]\nsource = \"/srv/kernel-devel-${release}.rpm\"\n",
    );
    let until_configured = || {
        lab.start_until("configuring");
        let journal = lab.check("journalctl -o cat -u UNIT");
        lab.check("systemctl stop UNIT");
        journal
    };
    let packaged = until_configured();
    assert!(packaged.contains("kernel.tree: \"shipped\": "), "{packaged}");
    assert!(!packaged.contains("are compiled anew"), "they can run: {packaged}");

    // Another build's: what is compiled against is looked at, not what root knows better.
    lab.check("cp /opt/tree/Module.symvers /var/tmp/symvers");
    assert_eq!(lab.check(FLIP), "1");
    let rpm = kernel_devel(&tree, &lab.release, &lab.state.path("/var/tmp/flipped")).unwrap();
    fs::rename(rpm, lab.state.path(&format!("/srv/kernel-devel-{}.rpm", lab.release))).unwrap();
    let (status, journal) = lab.build();
    assert_eq!(status, "15", "{journal}");
    let said = "the Module.symvers of /srv/kernel-devel-";
    assert!(journal.contains(said) && journal.contains("_printk: CRC 0x12345678"), "{journal}");
    lab.check("cp /var/tmp/symvers /opt/tree/Module.symvers");

    fs::copy(newer_modpost(), tree.join("scripts/mod/modpost")).unwrap();
    lab.configure("[kernel]\nbuild-dir = \"/opt/tree\"\ntree = [\"shipped\"]\n");
    let anew = until_configured();
    assert!(anew.contains("are compiled anew: modpost: "), "{anew}");
}

/// What an earlier run has compiled need not be compiled again, however that one ended.
struct Compiled {
    kept: PathBuf,
    used: PathBuf,
}

impl Compiled {
    fn of(lab: &Native) -> Compiled {
        let used = lab.state.path(&format!("{EPREFIX}/var/cache/ccache"));
        let kept = lab::dir().join("ccache");
        if kept.exists() {
            run(Command::new("cp").args(["-a", "-T"]).arg(&kept).arg(&used)).unwrap();
        }
        Compiled { kept, used }
    }
}

impl Drop for Compiled {
    fn drop(&mut self) {
        let kept = run(Command::new("cp").args(["-a", "-T"]).arg(&self.used).arg(&self.kept));
        kept.map(drop).unwrap_or_else(|e| eprintln!("{e:#}"));
    }
}

#[test]
#[ignore = "builds a whole kernel: make check-all"]
fn the_full_strategy_yields_the_module_symvers_that_is_recovered_from_the_image() {
    let lab = machine("tree-full");
    lab.configure("[kernel]\ntree = [\"full\"]\n");
    let compiled = Compiled::of(&lab);
    lab.start_until_within("configuring", Duration::from_secs(4 * 3600));
    drop(compiled);
    let built = lab::source::lines(&lab.tree().join("Module.symvers")).unwrap();
    for list in ["modules.order", "modules.builtin"] {
        assert!(lab.tree().join(list).exists(), "{list}");
    }
    lab.check("systemctl stop UNIT");
    let root = lab::root::root().unwrap();
    assert_eq!(built.len(), lab::source::official_symvers(&root).unwrap().len());
    let differs: Vec<_> = built
        .iter()
        .zip(&lab::source::official_symvers(&root).unwrap())
        .filter(|(ours, theirs)| ours != theirs)
        .map(|(ours, theirs)| format!("{ours} / {theirs}"))
        .collect();
    assert_eq!(differs, [""; 0], "against the official headers");
}
