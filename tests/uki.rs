//! Kernel images where systems put them: unified kernel images, made by systemd's ukify and by
//! objcopy of Debian's stock kernels, and the places of boot loaders.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::symvers::pack;
use lab::kernel::{Kernel, kernel};
use lab::turns::Once;
use lab::uki::Maker;
use tempfile::TempDir;
use zfs_prefix::compress::Compression;
use zfs_prefix::exit::{self, Exit};
use zfs_prefix::host::{Host, Release};
use zfs_prefix::kernel::{Format, Image, build_id, locate};

/// What the tests share.
#[derive(Clone)]
struct Shared {
    /// The kernel that is looked for, and another one.
    ours: Kernel,
    other: Kernel,
    maker: Maker,
}

/// That, and a directory for files of one test.
struct Kernels {
    ours: Kernel,
    release: Release,
    other: Kernel,
    maker: Maker,
    dir: TempDir,
}

impl Kernels {
    fn get() -> Kernels {
        static SHARED: Once<Shared> = Once::new();
        let shared = SHARED.get(|| Shared {
            ours: lab::kernel::stock().unwrap(),
            other: kernel("trixie", "amd64", "linux-image-cloud-amd64").unwrap(),
            maker: Maker::get().unwrap(),
        });
        let Shared { ours, other, maker } = shared.clone();
        let release = ours.release.parse().unwrap();
        Kernels { ours, release, other, maker, dir: lab::files::scratch("uki-") }
    }

    /// The UKI of the kernel that is looked for.
    fn own(&self) -> PathBuf {
        self.maker.of(&self.ours).unwrap()
    }

    /// A UKI of the other kernel that says it has the one that is looked for.
    fn liar(&self) -> PathBuf {
        let path = self.dir.path().join("liar.efi");
        let linux = format!("--linux={}", self.other.image.display());
        let uname = format!("--uname={}", self.release);
        self.maker.ukify("x64", &[linux, uname], &path).unwrap();
        path
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

/// A machine in a directory, which runs a kernel that has no file here.
struct Machine {
    dir: TempDir,
    host: Host,
}

impl Machine {
    fn new() -> Machine {
        let dir = lab::files::scratch("machine-");
        let host = Host {
            root: dir.path().to_owned(),
            kernel_release: "5.4.0-running".parse().unwrap(),
            cmdline: String::new(),
            container: false,
            in_initrd: false,
        };
        let machine = Machine { dir, host };
        machine.write("proc/cmdline", "quiet\n");
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// The file `image` is also there, under this name.
    fn put(&self, image: &Path, name: &str) {
        symlink(image, self.path(name)).unwrap();
    }

    fn found(&self, release: &Release) -> Result<PathBuf, String> {
        locate::image(&self.host, None, release).map_err(|error| {
            assert_eq!(exit::of(&error), Exit::NoKernelSource, "{error:#}");
            format!("{error:#}")
        })
    }

    fn run(&self, program: &str, args: &[&str]) -> Output {
        let mut command = Command::new(program);
        command.env_clear().env("ZFS_PREFIX_ROOT", self.dir.path()).args(args).output().unwrap()
    }

    fn zfs_prefix(&self, args: &[&str]) -> Output {
        self.run(env!("CARGO_BIN_EXE_zfs-prefix"), args)
    }

    /// What `kernel facts` says.
    fn facts(&self, args: &[&str]) -> serde_json::Value {
        let output = self.zfs_prefix(&[&["kernel", "facts", "--json"], args].concat());
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_kernel_whose_only_image_is_a_uki_is_known_by_it_in_every_way() {
    let kernels = Kernels::get();
    let (release, uki) = (kernels.release.as_str(), kernels.own());
    let machine = Machine::new();
    let place = format!("usr/lib/modules/{release}/{release}.efi");
    machine.put(&uki, &place);
    lab::files::copy(
        &kernels.ours.config,
        &machine.path(&format!("usr/lib/modules/{release}/config")),
    );
    let truth = Image::open(&kernels.ours.image).unwrap();

    // zfs-build: it knows the kernel, and what is missing is the prefix.
    machine.write("etc/zfs-prefix/config.toml", "prefix.path = \"/no/such/prefix\"\n");
    let build = machine.run(env!("CARGO_BIN_EXE_zfs-build"), &["--kernel-release", release]);
    let said = String::from_utf8_lossy(&build.stderr);
    assert_eq!(build.status.code(), Some(11), "{said}");
    assert!(said.contains("no prefix at /no/such/prefix"), "{said}");
    assert_eq!(build_id(&machine.host, None, &kernels.release).ok(), truth.build_id());

    // Found, named on the command line, and named in the configuration.
    let configured = "kernel.image = \"/usr/lib/modules/${release}/${release}.efi\"\n";
    let path = machine.path(&place);
    for (case, config, args) in [
        ("found", "", vec!["--release", release]),
        (
            "named",
            "",
            vec!["--image", shown(&path).strip_prefix(shown(machine.dir.path())).unwrap()],
        ),
        ("configured", configured, vec!["--release", release]),
    ] {
        machine.write("etc/zfs-prefix/config.toml", config);
        let facts = machine.facts(&args);
        for (key, want) in [
            ("release", release.into()),
            ("image", shown(&path).into()),
            ("uki", true.into()),
            ("format", "bzimage".into()),
            ("build_id", truth.build_id().into()),
            ("build_salt", release.into()),
            ("notes", serde_json::json!([])),
        ] {
            assert_eq!(facts[key], want, "{case}: {key}");
        }
        assert!(facts["btf_structs"].as_u64().unwrap() > 1000, "{case}: {facts}");
    }
    let text = machine.zfs_prefix(&["kernel", "facts", "--release", release]).stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("x86 bzImage, ") && text.contains(", in a UKI\n"), "{text}");

    // The table of what it exports.
    let table = |image: &Path| machine.zfs_prefix(&["symvers", "--image", shown(image)]);
    let (ours, theirs) = (table(&uki), table(&kernels.ours.image));
    assert!(ours.status.success() && !ours.stdout.is_empty(), "{ours:?}");
    assert_eq!(ours.stdout, theirs.stdout);
    let said = String::from_utf8(ours.stderr).unwrap();
    assert!(said.contains(&format!("in a UKI, kernel {release})")), "{said}");
}

#[test]
fn an_image_is_found_wherever_systems_put_it() {
    let kernels = Kernels::get();
    let (release, uki) = (kernels.release.as_str(), kernels.own());
    let token = "6a9857a393724b7a981ebb5b8495b9ea";
    let boots = ["boot", "efi", "boot/efi"];
    let mut places: Vec<(String, Option<(String, String)>)> = Vec::new();
    for name in
        ["vmlinuz", &format!("{release}.efi"), "vmlinuz.efi", "linux.EFI", "vmlinuz-virt.efi"]
    {
        places.push((format!("usr/lib/modules/{release}/{name}"), None));
    }
    for boot in boots {
        for name in [format!("{token}-{release}.efi"), "linux+3-0.efi".to_owned()] {
            places.push((format!("{boot}/EFI/Linux/{name}"), None));
        }
        places.push((format!("{boot}/{token}/{release}/linux"), None));
        let entry = format!("{boot}/loader/entries/{token}-{release}.conf");
        for (line, image) in [
            ("linux /elsewhere/image", "elsewhere/image"),
            ("uki EFI/elsewhere/a b.efi", "EFI/elsewhere/a b.efi"),
            ("efi \\EFI\\elsewhere\\linux.efi", "EFI/elsewhere/linux.efi"),
        ] {
            let text = format!("title x\nversion {release}\n{line}\noptions quiet\n");
            places.push((format!("{boot}/{image}"), Some((entry.clone(), text))));
        }
    }
    // /boot is a directory of the root file system.
    let text = "linux /boot/image\n".to_owned();
    places.push(("boot/image".to_owned(), Some(("boot/loader/entries/1.conf".to_owned(), text))));
    for image in [&uki, &kernels.ours.image] {
        for (place, entry) in &places {
            let machine = Machine::new();
            machine.found(&kernels.release).unwrap_err();
            machine.put(image, place);
            if let Some((name, text)) = entry {
                machine.found(&kernels.release).expect_err("nothing names it");
                machine.write(name, text);
            }
            assert_eq!(machine.found(&kernels.release), Ok(machine.path(place)), "{place}");
        }
    }
}

#[test]
fn an_image_of_another_kernel_is_taken_nowhere_whatever_its_name_is() {
    let kernels = Kernels::get();
    let (release, other) = (kernels.release.as_str(), kernels.other.release.as_str());
    let (theirs, liar) = (kernels.maker.of(&kernels.other).unwrap(), kernels.liar());
    let torn = kernels.file("torn.efi", &fs::read(&theirs).unwrap()[..5 << 20]);
    let machine = Machine::new();
    let empty = machine.found(&kernels.release).unwrap_err();
    let boots = ["/boot", "/efi", "/boot/efi"];
    let mut all: Vec<String> =
        ["vmlinuz", "*.efi"].map(|n| format!("/usr/lib/modules/{release}/{n}")).into();
    all.extend(["/usr/boot/vmlinuz", "/boot/flatcar/vmlinuz-a"].map(str::to_owned));
    for boot in boots {
        all.extend(["EFI/Linux/*.efi", "loader/entries/*.conf"].map(|n| format!("{boot}/{n}")));
        all.push(format!("{boot}/*/{release}/linux"));
    }
    for place in &all {
        assert!(empty.contains(place.as_str()), "{place} in {empty}");
    }
    assert!(empty.contains("mount the boot partition that has it, or set kernel.image"), "{empty}");

    machine.put(&theirs, &format!("usr/lib/modules/{release}/{release}.efi"));
    machine.put(&liar, &format!("usr/lib/modules/{release}/vmlinuz.efi"));
    machine.put(&theirs, &format!("usr/lib/modules/{release}/vmlinuz"));
    machine.put(&kernels.other.image, &format!("boot/token/{release}/linux"));
    machine.put(&torn, &format!("efi/EFI/Linux/{release}.efi"));
    machine.put(&liar, "boot/efi/liar.efi");
    let entry = format!("version {release}\nuki /liar.efi\nlinux /gone\n");
    machine.write("boot/efi/loader/entries/x.conf", &entry);
    machine.put(&kernels.maker.stub("x64"), &format!("boot/EFI/Linux/{release}.efi"));
    machine.write(&format!("efi/EFI/Linux/{release}-text.efi"), "#!/bin/sh\n");
    let said = machine.found(&kernels.release).unwrap_err();
    let root = shown(machine.dir.path());
    for part in [
        format!("{root}/usr/lib/modules/{release}/{release}.efi: is of kernel {other}"),
        format!(
            "vmlinuz.efi: a UKI that contradicts itself: .uname is {release}, the kernel in it {other}"
        ),
        format!("{root}/usr/lib/modules/{release}/vmlinuz: is of kernel {other}"),
        format!("{root}/boot/token/{release}/linux: is of kernel {other}"),
        format!("{root}/boot/efi/liar.efi: a UKI that contradicts itself"),
        format!("{root}/boot/efi/loader/entries/x.conf: names /gone, which is not there"),
        format!("{root}/boot/EFI/Linux/{release}.efi: an EFI program without a section .linux"),
        format!("{root}/efi/EFI/Linux/{release}-text.efi: no kernel image: neither x86 bzImage"),
        format!("there is none in /boot/vmlinuz-{release}, /usr/boot/vmlinuz"),
    ] {
        assert!(said.contains(&part), "{part} in {said}");
    }
    let facts = machine.zfs_prefix(&["kernel", "facts", "--release", release]);
    assert_eq!(facts.status.code(), Some(10), "{facts:?}");
    let named = machine.zfs_prefix(&["kernel", "facts", "--image", "/boot/efi/liar.efi"]);
    assert_eq!(named.status.code(), Some(10), "{named:?}");
    assert!(String::from_utf8_lossy(&named.stderr).contains("contradicts itself"), "{named:?}");

    // Configured: it does not help to be told to configure it.
    let configured =
        locate::image(&machine.host, Some(Path::new("/boot/efi/liar.efi")), &kernels.release);
    let configured = format!("{:#}", configured.unwrap_err());
    assert!(
        configured.contains("kernel.image is ") && configured.contains("contradicts itself"),
        "{configured}"
    );
    assert!(configured.contains("take it out of the configuration"), "{configured}");

    // The right one is found behind all of them.
    machine.put(&kernels.own(), "boot/efi/EFI/Linux/zzz.efi");
    assert_eq!(machine.found(&kernels.release), Ok(machine.path("boot/efi/EFI/Linux/zzz.efi")));
}

/// An arm64 Image with nothing in it but a release.
fn tiny(release: &str) -> Vec<u8> {
    let mut kernel = vec![0; 64];
    kernel[0x38..0x3c].copy_from_slice(b"ARM\x64");
    kernel.extend(format!("Linux version {release} (b@h) (gcc 14) #1 SMP\n\0").bytes());
    kernel
}

#[test]
fn a_crowd_of_other_kernels_costs_no_more_than_a_look_and_hides_the_right_one_only_without_a_name()
{
    let kernels = Kernels::get();
    let release = kernels.release.as_str();
    let machine = Machine::new();
    let uki = |uname: &str, kernel: &[u8], name: &str| {
        let kernel = kernels.file("tiny", kernel);
        let args = [format!("--linux={}", kernel.display()), format!("--uname={uname}")];
        let path = kernels.dir.path().join(name);
        kernels.maker.ukify("aa64", &args, &path).unwrap();
        path
    };
    // What these say has to be proven by unpacking.
    let silent = uki("no release", &tiny("6.9.9-silent"), "silent.efi");
    for n in 0..200 {
        machine.put(&silent, &format!("boot/EFI/Linux/{n:03}.efi"));
    }
    let said = machine.found(&kernels.release).unwrap_err();
    assert!(said.contains("000.efi: is of kernel 6.9.9-silent"), "{said}");
    assert!(
        said.contains("004.efi: does not say its release, and 4 others were unpacked"),
        "{said}"
    );
    assert!(said.contains("116 more are not of this kernel; 72 more were not looked at"), "{said}");
    assert!(said.len() < 5000, "{said}");
    // An .uname is a hint, and no proof.
    let hint = uki(release, &tiny(release), &format!("{release}.efi"));
    machine.put(&hint, &format!("boot/EFI/Linux/x-{release}.efi"));
    let place = machine.path(&format!("boot/EFI/Linux/x-{release}.efi"));
    assert_eq!(machine.found(&kernels.release).as_ref(), Ok(&place));
    fs::remove_file(&place).unwrap();
    machine.put(
        &uki(release, &tiny("6.9.9-lie"), "lie.efi"),
        &format!("boot/EFI/Linux/x-{release}.efi"),
    );
    let said = machine.found(&kernels.release).unwrap_err();
    assert!(said.contains(&format!(".uname is {release}, the kernel in it 6.9.9-lie")), "{said}");
}

#[test]
fn every_kind_of_kernel_is_read_out_of_a_uki_by_ukify_and_by_objcopy() {
    let kernels = Kernels::get();
    let maker = &kernels.maker;
    let truth = Image::open(&kernels.ours.image).unwrap();
    let symvers = truth.symvers().unwrap();
    let vmlinux = kernels.file("vmlinux", truth.kernel());
    let uname = kernels.file("uname", kernels.release.as_str().as_bytes());
    let osrel = kernels.file("osrel", b"ID=debian\n");
    for (case, linux, format) in
        [("bzImage", &kernels.ours.image, Format::BzImage), ("vmlinux", &vmlinux, Format::Vmlinux)]
    {
        let out = kernels.dir.path().join("objcopy.efi");
        let sections: [(&str, &Path); 3] =
            [(".osrel", &osrel), (".uname", &uname), (".linux", linux)];
        maker.objcopy(&sections, &out).unwrap();
        let image = Image::open(&out).unwrap_or_else(|e| panic!("{case}: {e:#}"));
        assert_eq!((image.format(), image.in_uki()), (format, true), "{case}");
        assert!(image.symvers().unwrap() == symvers, "{case}");
        assert_eq!(image.build_id(), truth.build_id(), "{case}");
        // objcopy pads the file. What is cut off there is not the kernel's.
        let bytes = fs::read(&out).unwrap();
        assert!(Image::parse(&bytes).unwrap().kernel() == truth.kernel(), "{case}");
    }

    let arm = kernel("trixie", "arm64", "linux-image-cloud-arm64").unwrap();
    let alone = Image::open(&arm.image).unwrap();
    let symvers = alone.symvers().unwrap();
    let out = kernels.dir.path().join("arm64.efi");
    let assert_read = |format: Format| {
        let image = Image::open(&out).unwrap_or_else(|e| panic!("{format}: {e:#}"));
        assert_eq!((image.format(), image.in_uki()), (format, true), "{format}");
        assert_eq!(image.release().as_deref(), Some(&*arm.release), "{format}");
        assert!(image.symvers().unwrap() == symvers, "{format}");
    };
    let plain = kernels.file("Image", alone.kernel());
    let args = [format!("--linux={}", plain.display()), format!("--uname={}", arm.release)];
    maker.ukify("aa64", &args, &out).unwrap();
    assert_read(Format::Arm64);
    // This ukify unpacks a zboot image. Others do not, and Debian's objcopy knows no arm64 program.
    let packed = pack::with(&["gzip"], alone.kernel());
    let zboot = kernels.file("zboot", &pack::zboot(&packed, Compression::Gzip));
    let uname = kernels.file("uname", arm.release.as_bytes());
    maker.objcopy(&[(".uname", &uname), (".linux", &zboot)], &out).unwrap();
    assert_read(Format::Zboot);
}

#[test]
fn of_a_uki_with_profiles_the_kernel_that_is_asked_for_is_taken() {
    let kernels = Kernels::get();
    let (ours, other) = (&kernels.ours, &kernels.other);
    let path = |name: &str| kernels.dir.path().join(name);
    let linux = |kernel: &Kernel| format!("--linux={}", kernel.image.display());
    let uname = |kernel: &Kernel| format!("--uname={}", kernel.release);
    let profile = |id: &str| format!("--profile=ID={id}\n");
    // One with another command line, and one with a kernel of its own.
    let quiet = [profile("quiet"), "--cmdline=quiet".to_owned()];
    kernels.maker.ukify("x64", &quiet, &path("quiet.efi")).unwrap();
    let older = [profile("older"), linux(ours), uname(ours)];
    kernels.maker.ukify("x64", &older, &path("older.efi")).unwrap();
    let join = |name: &str| format!("--join-profile={}", path(name).display());
    let all = [linux(other), uname(other), profile("main"), join("quiet.efi"), join("older.efi")];
    kernels.maker.ukify("x64", &all, &path("all.efi")).unwrap();

    let sections = lab::tool::run(Command::new("objdump").arg("-h").arg(path("all.efi"))).unwrap();
    assert_eq!(sections.matches(" .profile ").count(), 3, "{sections}");
    assert_eq!(sections.matches(" .linux ").count(), 2, "{sections}");
    let image = Image::open(&path("all.efi")).unwrap();
    assert_eq!(image.release().as_deref(), Some(&*other.release), "what boots by default");
    for kernel in [ours, other] {
        let release: Release = kernel.release.parse().unwrap();
        let machine = Machine::new();
        machine.put(&path("all.efi"), "efi/EFI/Linux/all.efi");
        assert_eq!(machine.found(&release), Ok(machine.path("efi/EFI/Linux/all.efi")));
        let truth = Image::open(&kernel.image).unwrap();
        assert_eq!(build_id(&machine.host, None, &release).ok(), truth.build_id());
        let facts = machine.facts(&["--release", release.as_str()]);
        assert_eq!(facts["build_id"], truth.build_id().unwrap(), "{facts}");
    }
    let machine = Machine::new();
    machine.put(&path("all.efi"), "efi/EFI/Linux/all.efi");
    let said = machine.found(&"6.0.0-third".parse().unwrap()).unwrap_err();
    let both = format!("is of kernel {} and is of kernel {}", other.release, ours.release);
    assert!(said.contains(&both), "{said}");
}
