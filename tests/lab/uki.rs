//! Unified kernel images: systemd's boot stub with a kernel in it, put together by systemd's ukify,
//! or by objcopy as it was done before there was ukify.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::apt::{self, Apt};
use super::cache::artifact;
use super::kernel::Kernel;
use super::tool::run;

/// How objcopy and ukify align sections.
const ALIGN: u64 = 0x1000;

/// The programs and stubs of a systemd that knows profiles (257).
#[derive(Clone, Debug)]
pub struct Maker {
    dir: PathBuf,
}

impl Maker {
    /// # Errors
    /// The archive does not have the packages.
    pub fn get() -> Result<Maker> {
        let wanted = [
            ("amd64", "systemd-boot-efi"),
            ("arm64", "systemd-boot-efi"),
            ("amd64", "systemd-ukify"),
            ("amd64", "python3-pefile"),
        ];
        let mut debs = Vec::new();
        for (arch, package) in wanted {
            let apt = Apt::open_for(apt::ROOT, arch)?;
            debs.push(apt.deb(&format!("{package}={}", apt.version(package)?))?);
        }
        let names: Vec<&[u8]> = debs.iter().map(|deb| deb.as_os_str().as_encoded_bytes()).collect();
        let dir = artifact("ukify", &names, |dir| {
            fs::create_dir(dir)?;
            debs.iter().try_for_each(|deb| {
                run(Command::new("dpkg-deb").arg("-x").arg(deb).arg(dir)).map(drop)
            })
        })?;
        Ok(Maker { dir })
    }

    /// The boot stub; `arch` as UEFI names it: x64, aa64.
    #[must_use]
    pub fn stub(&self, arch: &str) -> PathBuf {
        self.dir.join(format!("usr/lib/systemd/boot/efi/linux{arch}.efi.stub"))
    }

    /// `ukify build` with these arguments. Without `--linux=`, or with `--profile=` and nothing to
    /// join, it makes a part of a UKI.
    ///
    /// # Errors
    /// It failed.
    pub fn ukify(&self, arch: &str, args: &[impl AsRef<OsStr>], output: &Path) -> Result<()> {
        let has = |option: &str| {
            args.iter().any(|arg| arg.as_ref().to_str().is_some_and(|arg| arg.starts_with(option)))
        };
        let whole = has("--linux=") && (has("--join-profile=") || !has("--profile="));
        let stub = self.stub(arch);
        let part = stub.with_file_name(format!("addon{arch}.efi.stub"));
        let mut command = Command::new("python3");
        command.env("PYTHONPATH", self.dir.join("usr/lib/python3/dist-packages"));
        command.arg(self.dir.join("usr/bin/ukify")).args(["build", "--efi-arch", arch]);
        command.arg("--stub").arg(if whole { stub } else { part }).arg("--output").arg(output);
        run(command.args(args)).map(drop)
    }

    /// The UKI of an amd64 kernel, as distributions make it. Never write to it.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn of(&self, kernel: &Kernel) -> Result<PathBuf> {
        let inputs = [&self.dir, &kernel.image].map(|path| path.as_os_str().as_encoded_bytes());
        artifact(&format!("uki-{}", kernel.release), &inputs, |path| {
            let initrd = super::tmp::dir("initrd-")?;
            let file = initrd.path().join("initrd");
            fs::write(&file, vec![0; 3 << 20])?;
            let args = [
                format!("--linux={}", kernel.image.display()),
                format!("--initrd={}", file.display()),
                format!("--uname={}", kernel.release),
                "--cmdline=quiet".to_owned(),
                "--os-release=ID=debian\n".to_owned(),
            ];
            self.ukify("x64", &args, path)
        })
    }

    /// The stub of x64 with these sections: name and file with the content.
    ///
    /// # Errors
    /// objcopy failed.
    pub fn objcopy(&self, sections: &[(&str, &Path)], output: &Path) -> Result<()> {
        let stub = self.stub("x64");
        let mut command = Command::new("objcopy");
        let mut address = end(&run(Command::new("objdump").arg("-h").arg(&stub))?)?;
        for (name, file) in sections {
            address = address.next_multiple_of(ALIGN);
            command.arg("--add-section").arg(format!("{name}={}", file.display()));
            command.arg("--change-section-vma").arg(format!("{name}={address:#x}"));
            address += fs::metadata(file)?.len();
        }
        run(command.arg(stub).arg(output)).map(drop)
    }
}

/// Where the last section ends, by `objdump -h`: index, name, size, address.
fn end(headers: &str) -> Result<u64> {
    let section = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.first()?.parse::<u32>().ok()?;
        let number = |word: Option<&&str>| u64::from_str_radix(word?, 16).ok();
        Some(number(words.get(2))? + number(words.get(3))?)
    };
    headers.lines().filter_map(section).max().context("objdump lists no sections")
}
