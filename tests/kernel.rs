//! What is learnt of a kernel, and the guards against a tree that is not its own, on Debian's stock
//! kernel and its official headers.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

use lab::kernel::Kernel;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use zfs_prefix::exit::{self, Exit};
use zfs_prefix::host::{Host, Release};
use zfs_prefix::kernel::facts::{Facts, Wanted};
use zfs_prefix::kernel::{Btf, Image, Kconfig, btf, guard, locate};
use zfs_prefix::module::Module;

/// The kernel's packages, unpacked: image, modules, headers.
struct Stock {
    kernel: Kernel,
    root: PathBuf,
    release: Release,
}

impl Stock {
    fn get() -> Stock {
        let kernel = lab::kernel::stock().unwrap();
        Stock { root: kernel.dir.clone(), release: kernel.release.parse().unwrap(), kernel }
    }

    fn image(&self) -> PathBuf {
        self.kernel.image.clone()
    }

    fn opened(&self) -> Image {
        Image::open(&self.image()).unwrap()
    }

    /// The section `.BTF` of the kernel.
    fn btf(&self) -> Vec<u8> {
        self.opened().section(".BTF").unwrap().to_vec()
    }

    fn config(&self) -> Vec<u8> {
        fs::read(&self.kernel.config).unwrap()
    }

    /// The output directory of the headers.
    fn headers(&self) -> PathBuf {
        self.kernel.headers.clone()
    }

    fn module(&self, name: &str) -> Module {
        Module::parse(&fs::read(self.kernel.module(name).unwrap()).unwrap()).unwrap()
    }
}

/// The probe, compiled as a module against the official headers; `edit` changes what
/// `include/generated/autoconf.h` says.
fn probe(stock: &Stock, edit: impl Fn(&str) -> Option<String>) -> Vec<u8> {
    let dir = lab::files::scratch("probe-");
    let (output, module) = (dir.path().join("o"), dir.path().join("m"));
    // The links in it go to the programs beside the headers.
    let copied = Command::new("cp").arg("-rL").args([&stock.headers(), &output]).output().unwrap();
    assert!(copied.status.success(), "{copied:?}");
    let autoconf = output.join("include/generated/autoconf.h");
    let text = fs::read_to_string(&autoconf).unwrap();
    let lines: Vec<String> = text.lines().filter_map(edit).collect();
    fs::write(&autoconf, lines.join("\n") + "\n").unwrap();
    fs::create_dir(&module).unwrap();
    fs::write(module.join("probe.c"), guard::probe_source()).unwrap();
    fs::write(module.join("Makefile"), "obj-m := probe.o\n").unwrap();
    let common = fs::read_dir(stock.root.join("usr/src")).unwrap().map(|e| e.unwrap().path());
    let common = common.into_iter().find(|p| p.to_str().unwrap().ends_with("-common")).unwrap();
    let made = Command::new("make")
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .args(["-C".as_ref(), common.as_os_str()])
        .args([
            format!("O={}", output.display()),
            format!("M={}", module.display()),
            "CC=gcc-12".to_owned(),
            format!("KERNELRELEASE={}", stock.release),
            "modules".to_owned(),
        ])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    fs::read(module.join("probe.ko")).unwrap()
}

fn refused(case: &str, result: anyhow::Result<()>) -> String {
    let error = result.expect_err(case);
    assert_eq!(exit::of(&error), Exit::Refused, "{case}: {error:#}");
    format!("{error:#}")
}

#[test]
fn a_module_compiled_against_the_official_headers_passes_every_guard() {
    let stock = Stock::get();
    let ko = probe(&stock, |line| Some(line.to_owned()));
    let bytes = stock.btf();
    let btf = Btf::parse(&bytes).unwrap();
    let sizes = guard::probe_sizes(&ko).unwrap();
    assert_eq!(sizes.len(), guard::PROBE_STRUCTS.len());
    for (name, size) in &sizes {
        assert_eq!(btf.sizes(name), [*size], "struct {name}");
    }
    guard::structs(&sizes, &btf).unwrap();
    let built = Module::parse(&ko).unwrap();
    guard::this_module(&built, stock.module("fuse").this_module().unwrap()).unwrap();
    guard::btf_module(&built, &btf).unwrap();
    // blowfish_common has neither init nor exit: its size is compared all the same.
    guard::this_module(&built, stock.module("blowfish_common").this_module().unwrap()).unwrap();
}

#[test]
fn a_module_compiled_without_an_option_of_the_kernel_is_refused_by_name_of_the_structure() {
    let stock = Stock::get();
    // What olddefconfig does when something that an option depends on is missing. (Debian's 6.1 has
    // the members for BTF in any configuration.)
    let ko = probe(&stock, |line| (!line.contains("CONFIG_BPF_EVENTS ")).then(|| line.to_owned()));
    let bytes = stock.btf();
    let btf = Btf::parse(&bytes).unwrap();
    let built = Module::parse(&ko).unwrap();
    let fuse = stock.module("fuse");
    let (ours, kernels) = (built.this_module().unwrap(), fuse.this_module().unwrap());
    assert_eq!(ours.init, kernels.init);
    assert_ne!(ours.exit, kernels.exit, "the option moves a member of struct module");
    for (case, result) in [
        ("shipped", guard::this_module(&built, fuse.this_module().unwrap())),
        ("BTF", guard::btf_module(&built, &btf)),
    ] {
        let error = refused(case, result);
        assert!(error.contains("struct module has exit at"), "{case}: {error}");
    }
    // Vermagic says nothing of it.
    assert_eq!(built.vermagic(), fuse.vermagic());

    let smaller =
        probe(&stock, |line| (!line.contains("CONFIG_CGROUP_WRITEBACK ")).then(|| line.to_owned()));
    let error = refused("sizes", guard::structs(&guard::probe_sizes(&smaller).unwrap(), &btf));
    assert!(error.contains("struct inode has ") && error.contains("in the kernel "), "{error}");
}

#[test]
fn sizes_of_another_kernel_or_of_none_are_refused() {
    let bytes = Stock::get().btf();
    let btf = Btf::parse(&bytes).unwrap();
    let size = btf.sizes("inode")[0];
    for (case, name, size, says) in [
        (
            "larger",
            "inode",
            size + 8,
            format!("struct inode has {} bytes, in the kernel {size}", size + 8),
        ),
        ("unknown", "no_such_struct", 8, "BTF has none of the 1 structures".to_owned()),
    ] {
        let error = refused(case, guard::structs(&[(name.to_owned(), size)], &btf));
        assert!(error.contains(&says), "{case}: {error}");
    }
    let both = [("inode".to_owned(), size), ("no_such_struct".to_owned(), 8)];
    guard::structs(&both, &btf).unwrap();
}

#[test]
fn the_btf_of_a_kernel_without_sections_is_found_by_what_it_is() {
    let image = Stock::get().opened();
    let section = image.section(".BTF").unwrap();
    let found = btf::find(image.kernel()).unwrap();
    assert!(std::ptr::eq(found, section), "{} of {} bytes", found.len(), section.len());
    assert_eq!(btf::find(&section[1..]), None);
    assert_eq!(btf::find(&section[..section.len() - 1]), None);
}

#[test]
fn damage_to_a_real_btf_is_an_error_or_another_answer_but_never_a_panic() {
    let good = Stock::get().btf();
    let btf = Btf::parse(&good).unwrap();
    let sizes: BTreeMap<_, _> = guard::PROBE_STRUCTS.iter().map(|n| (n, btf.sizes(n))).collect();
    assert!(sizes.values().all(|s| s.len() == 1), "{sizes:?}");
    for cut in [0, 1, 23, 24, 100, good.len() / 2, good.len() - 1] {
        assert!(Btf::parse(&good[..cut]).is_err(), "cut at {cut}");
    }
    // A fixed sequence: the same bytes in each run.
    let mut state = 1_u64;
    for round in 0..30 {
        let mut bytes = good.clone();
        for _ in 0..=round {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = usize::try_from(state >> 20).unwrap() % bytes.len();
            bytes[at] ^= 1 << (state >> 60 & 7);
        }
        if let Ok(btf) = Btf::parse(&bytes) {
            for name in guard::PROBE_STRUCTS {
                let _ = (btf.sizes(name), btf.members(name));
            }
        }
    }
}

#[test]
fn the_configuration_as_shipped_and_as_prepared_by_debian_is_the_same_kernel() {
    let stock = Stock::get();
    let given = Kconfig::parse(&stock.config()).unwrap();
    let text = fs::read_to_string(stock.headers().join(".config")).unwrap();
    let prepared = Kconfig::parse(text.as_bytes()).unwrap();
    guard::config(&given, &prepared).unwrap();
    let changes = zfs_prefix::kernel::kconfig::diff(&given, &prepared);
    assert!(changes.iter().any(|c| c.name == "BUILD_SALT"), "{changes:?}");
    let without = text.replace("CONFIG_DEBUG_INFO_BTF_MODULES=y\n", "");
    assert_ne!(without, text);
    let error = refused("BTF", guard::config(&given, &Kconfig::parse(without.as_bytes()).unwrap()));
    assert!(error.contains("CONFIG_DEBUG_INFO_BTF_MODULES: y -> not set (pahole"), "{error}");
}

/// A machine that runs a kernel with the release of none of the files below it.
fn host(root: &Path) -> Host {
    Host {
        root: root.to_owned(),
        kernel_release: "5.4.0-running".parse().unwrap(),
        cmdline: String::new(),
        container: false,
        in_initrd: false,
    }
}

#[test]
fn an_image_is_taken_only_when_it_says_the_release_it_is_wanted_for() {
    let stock = Stock::get();
    let release = &stock.release;
    let dir = lab::files::scratch("locate-");
    let host = host(dir.path());
    let other: Release = "6.1.0-99-cloud-amd64".parse().unwrap();
    let error = locate::image(&host, None, release).unwrap_err();
    assert_eq!(exit::of(&error), Exit::NoKernelSource);
    let text = format!("{error:#}");
    assert!(text.contains("/boot/flatcar/vmlinuz-b, "), "{text}");
    assert!(text.contains("set kernel.image to it"), "{text}");
    let places = [
        "boot/flatcar/vmlinuz-b".to_owned(),
        "usr/boot/vmlinuz".to_owned(),
        format!("boot/vmlinuz-{release}"),
        format!("usr/lib/modules/{release}/vmlinuz"),
    ];
    for place in places {
        let path = dir.path().join(place);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(stock.image(), &path).unwrap();
        assert_eq!(locate::image(&host, None, release).unwrap(), path);
    }
    // Left there by another kernel's update.
    let stale = dir.path().join(format!("boot/vmlinuz-{other}"));
    symlink(stock.image(), &stale).unwrap();
    let error = format!("{:#}", locate::image(&host, None, &other).unwrap_err());
    assert!(error.contains(&format!("{}: is of kernel {release}", stale.display())), "{error}");
    // Its build-id is that of an image of its own release, too.
    let error = zfs_prefix::kernel::build_id(&host, Some(Path::new(&stock.image())), &other);
    assert!(error.is_err());
    let id = zfs_prefix::kernel::build_id(&host, None, release).unwrap();
    assert_eq!(Some(id), stock.opened().build_id());
    // Without a boot header the name is enough, and what is behind it is not unpacked.
    let named: Release = "6.1.0-98-arm64".parse().unwrap();
    let arm64 = dir.path().join(format!("boot/vmlinuz-{named}"));
    let mut bytes = vec![0; 4096];
    bytes[0x38..0x3c].copy_from_slice(b"ARM\x64");
    fs::write(&arm64, &bytes).unwrap();
    assert_eq!(locate::image(&host, None, &named).unwrap(), arm64);
    let configured = format!("/boot/vmlinuz-{named}");
    let error = locate::image(&host, Some(Path::new(&configured)), &named).unwrap_err();
    assert!(format!("{error:#}").contains("does not say its release"), "{error:#}");
    let group = std::os::unix::fs::PermissionsExt::from_mode(0o664);
    fs::set_permissions(&arm64, group).unwrap();
    let error = format!("{:#}", locate::image(&host, None, &named).unwrap_err());
    assert!(error.contains("writable by nobody else"), "{error}");
    let torn = dir.path().join("torn");
    fs::write(&torn, &fs::read(stock.image()).unwrap()[..0x208]).unwrap();
    for (case, path) in [("torn", "/torn"), ("missing", "/none"), ("directory", "/boot")] {
        let error = locate::image(&host, Some(Path::new(path)), release).expect_err(case);
        assert_eq!(exit::of(&error), Exit::NoKernelSource, "{case}: {error:#}");
    }
}

#[test]
fn the_configuration_is_the_running_kernels_own_or_the_images_before_a_file() {
    let stock = Stock::get();
    let release = &stock.release;
    let dir = lab::files::scratch("config-");
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    let gz = |text: &str| {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut gz, text.as_bytes()).unwrap();
        gz.finish().unwrap()
    };
    let mut host = host(dir.path());
    let from = |host: &Host, image: Option<&Image>| {
        let located = locate::config(host, None, release, image).unwrap();
        (located.config.get("FROM").unwrap().to_owned(), located.source.to_string())
    };
    let error = locate::config(&host, None, release, Some(&stock.opened())).unwrap_err();
    assert_eq!(exit::of(&error), Exit::NoKernelSource);
    assert!(format!("{error:#}").contains("set kernel.config"), "{error:#}");

    // Nameless: only where the image beside it is this kernel's.
    write("usr/boot/config", b"CONFIG_FROM=\"usr-boot\"\n");
    assert!(locate::config(&host, None, release, None).is_err());
    symlink(stock.image(), dir.path().join("usr/boot/vmlinuz")).unwrap();
    assert_eq!(from(&host, None).0, "usr-boot");
    write(&format!("boot/config-{release}"), b"CONFIG_FROM=\"boot\"\n");
    assert_eq!(from(&host, None).0, "boot");
    write(&format!("usr/lib/modules/{release}/config"), b"CONFIG_FROM=\"modules\"\n");
    assert_eq!(from(&host, None).0, "modules");
    // Debian's have none: the smallest arm64 Image with one.
    let embedded = [b"IKCFG_ST", &gz("CONFIG_FROM=\"image\"\n")[..], b"IKCFG_ED\0more"].concat();
    let arm64 = |kernel: &[u8]| {
        let mut bytes = vec![0; 4096];
        bytes[0x38..0x3c].copy_from_slice(b"ARM\x64");
        bytes.extend(kernel);
        Image::parse(&bytes).unwrap()
    };
    let image = arm64(&embedded);
    let want = ("image".to_owned(), "IKCONFIG in the image".to_owned());
    assert_eq!(from(&host, Some(&image)), want);
    write("proc/config.gz", &gz("CONFIG_FROM=\"proc\"\n"));
    assert_eq!(from(&host, Some(&image)), want, "another kernel is running");
    host.kernel_release = release.clone();
    assert_eq!(from(&host, Some(&image)), ("proc".into(), "/proc/config.gz".into()));
    host.container = true;
    assert_eq!(from(&host, Some(&image)), want, "the kernel is somebody else's");

    let torn = arm64(&embedded[..embedded.len() - 20]);
    assert!(locate::config(&host, None, release, Some(&torn)).is_err());
    write("mine", b"CONFIG_FROM=\"configured\"\n");
    let located = locate::config(&host, Some(Path::new("/mine")), release, Some(&image)).unwrap();
    assert_eq!(located.config.get("FROM"), Some("configured"));
    let mine = dir.path().join("mine");
    std::os::unix::fs::chown(&mine, Some(1000), None).unwrap();
    let error = locate::config(&host, Some(Path::new("/mine")), release, None).unwrap_err();
    assert!(format!("{error:#}").contains("belongs to uid 1000"), "{error:#}");
}

#[test]
fn of_the_running_kernel_the_policy_and_the_build_id_are_those_of_now() {
    let stock = Stock::get();
    let dir = lab::files::scratch("running-");
    symlink(stock.root.join("boot"), dir.path().join("boot")).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    let image = stock.opened();
    let mut notes = image.section(".notes").unwrap().to_vec();
    write("sys/kernel/notes", &notes);
    write("sys/kernel/security/lockdown", b"none [integrity] confidentiality\n");
    write("sys/module/module/parameters/sig_enforce", b"Y\n");
    let mut host = host(dir.path());
    let wanted = || Wanted { release: Some(stock.release.clone()), image: None, config: &|_| None };
    let other = Facts::gather(&host, &wanted()).unwrap();
    assert_eq!((other.running, other.policy), (false, None));
    host.kernel_release = stock.release.clone();
    let facts = Facts::gather(&host, &wanted()).unwrap();
    assert_eq!((facts.running, &facts.build_id), (true, &image.build_id()));
    assert!(facts.notes.is_empty(), "{:?}", facts.notes);
    let policy = facts.policy.unwrap();
    assert_eq!((policy.lockdown.as_deref(), policy.sig_enforce), (Some("integrity"), true));

    // The image was replaced by another build of the same release, and not booted yet.
    let id = image.build_id().unwrap();
    let first = u8::from_str_radix(&id[..2], 16).unwrap();
    let begin = notes.windows(4).position(|w| w == b"GNU\0").unwrap() + 4;
    assert_eq!(notes[begin], first, "the build-id is the first of them");
    notes[begin] ^= 1;
    write("sys/kernel/notes", &notes);
    let facts = Facts::gather(&host, &wanted()).unwrap();
    assert!(facts.notes[0].contains("is not the running kernel"), "{:?}", facts.notes);
    assert_eq!(facts.build_id.unwrap()[2..], id[2..]);
}

fn facts(root: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_zfs-prefix"))
        .env_clear()
        .env("ZFS_PREFIX_ROOT", root)
        .args(["kernel", "facts"])
        .args(args)
        .output()
        .unwrap()
}

#[test]
fn kernel_facts_of_the_stock_kernel_are_what_other_tools_say_of_it() {
    let stock = Stock::get();
    let release = stock.release.as_str();
    let dir = lab::files::scratch("facts-");
    fs::create_dir(dir.path().join("proc")).unwrap();
    fs::write(dir.path().join("proc/cmdline"), "quiet\n").unwrap();
    symlink(stock.root.join("boot"), dir.path().join("boot")).unwrap();
    let output = facts(dir.path(), &["--release", release, "--json"]);
    assert!(output.status.success(), "{output:?}");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let kernel = lab::files::scratch("vmlinux-");
    let path = kernel.path().join("vmlinux");
    fs::write(&path, stock.opened().kernel()).unwrap();
    let notes = lab::tool::run(Command::new("readelf").arg("-n").arg(&path)).unwrap();
    let id = notes.lines().find_map(|l| l.trim().strip_prefix("Build ID: ")).unwrap();
    let btf = stock.btf();
    let config = Kconfig::parse(&stock.config()).unwrap();
    let packed = ["gzip", "xz", "zstd", "lz4"]
        .into_iter()
        .find(|how| config.is_on(&format!("KERNEL_{}", how.to_uppercase())));
    for (key, want) in [
        ("release", release.into()),
        ("running", false.into()),
        ("format", "bzimage".into()),
        ("compression", packed.into()),
        ("build_id", id.into()),
        ("build_salt", release.into()),
        ("modversions", true.into()),
        ("module_sig_force", false.into()),
        ("randstruct", "none".into()),
        ("cfi", false.into()),
        ("btf", true.into()),
        ("module_compression", "none".into()),
        ("btf_structs", Btf::parse(&btf).unwrap().len().into()),
        ("notes", serde_json::json!([])),
    ] {
        assert_eq!(json[key], want, "{key}");
    }
    assert!(json["compiler"].as_str().unwrap().starts_with("gcc-12 (Debian"), "{json}");
    let config = format!("boot/config-{release}");
    assert!(json["config"].as_str().unwrap().ends_with(&config), "{json}");

    let image = format!("/boot/vmlinuz-{release}");
    let text = facts(dir.path(), &["--image", &image]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains(&format!("Build-id:           {id}\n")), "{text}");
    assert!(
        text.contains("Signatures:         sha256, not demanded but under lockdown\n"),
        "{text}"
    );

    let missing = facts(dir.path(), &["--release", "6.1.0-99"]);
    assert_eq!(missing.status.code(), Some(Exit::NoKernelSource.code().into()));
    let said = String::from_utf8(missing.stderr).unwrap();
    assert!(said.contains("set kernel.image") && said.contains("set kernel.config"), "{said}");

    let etc = dir.path().join("etc/zfs-prefix");
    fs::create_dir_all(&etc).unwrap();
    fs::write(etc.join("config.toml"), "kernel.config = \"/given/${release}\"\n").unwrap();
    let given = dir.path().join("given");
    fs::create_dir_all(&given).unwrap();
    fs::write(given.join(release), "CONFIG_MODULE_SIG_FORCE=y\n").unwrap();
    let output = facts(dir.path(), &["--image", &image, "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["module_sig_force"], true, "the configured one: {json}");
}
