//! Boot loader entries: `loader/entries/*.conf` (UAPI.1, "Boot Loader Specification", type 1).

use std::path::{Component, Path, PathBuf};

/// At most so many images of one entry are looked at. An entry boots one.
const MAX_IMAGES: usize = 8;

/// What an entry says of its kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    /// `version`: mostly the kernel release. It is a text for people, and proves nothing.
    pub(crate) version: Option<String>,
    /// `linux`, `uki` and `efi`: paths below the root of the file system that the entry is on.
    pub(crate) images: Vec<PathBuf>,
}

/// Reads an entry. Each line has a key, blanks and a value. Other keys are left out, and so are
/// paths that lead out of the file system.
pub(crate) fn parse(text: &str) -> Entry {
    let mut entry = Entry::default();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        let Some((key, value)) = line.split_once([' ', '\t']) else { continue };
        let value = value.trim();
        match key {
            "version" => entry.version = Some(value.to_owned()),
            "linux" | "uki" | "efi" if entry.images.len() < MAX_IMAGES => {
                entry.images.extend(below_root(value));
            }
            _ => {}
        }
    }
    entry
}

/// The path without the `/` before it. Firmware writes `\` for `/`.
fn below_root(path: &str) -> Option<PathBuf> {
    if path.chars().any(char::is_control) {
        return None;
    }
    let path = path.replace('\\', "/");
    let mut below = PathBuf::new();
    for component in Path::new(&path).components() {
        match component {
            Component::Normal(name) => below.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    (below != Path::new("")).then_some(below)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_name_a_kernel_are_read_and_paths_that_lead_out_are_not() {
        let entry = |version: Option<&str>, images: &[&str]| Entry {
            version: version.map(str::to_owned),
            images: images.iter().map(PathBuf::from).collect(),
        };
        for (case, text, want) in [
            (
                "kernel-install",
                "# Boot Loader Specification type#1 entry\n\
                 title      Debian GNU/Linux 13 (trixie)\n\
                 version    6.12.9+deb13-amd64\n\
                 machine-id 6a9857a393724b7a981ebb5b8495b9ea\n\
                 options    root=UUID=x linux=/no\n\
                 linux      /6a98/6.12.9+deb13-amd64/linux\n\
                 initrd     /6a98/6.12.9+deb13-amd64/initrd.img\n",
                entry(Some("6.12.9+deb13-amd64"), &["6a98/6.12.9+deb13-amd64/linux"]),
            ),
            ("a UKI", "uki /EFI/Linux/a b.efi\r\n", entry(None, &["EFI/Linux/a b.efi"])),
            ("tabs", "efi\t\t\\EFI\\Linux\\x.efi", entry(None, &["EFI/Linux/x.efi"])),
            ("without a root", "  linux x//./y\nversion\t1", entry(Some("1"), &["x/y"])),
            ("comments", "#linux /a\n # linux /b\n", Entry::default()),
            (
                "out",
                "linux /../etc/x\nuki ..\nefi /\nlinux\nlinux \nuki /a\u{1}b",
                Entry::default(),
            ),
            ("other keys", "linuxefi /a\nuki-url http://x/y\nLinux /a", Entry::default()),
        ] {
            assert_eq!(parse(text), want, "{case}");
        }
        assert_eq!(parse(&"linux /a\n".repeat(1000)).images.len(), MAX_IMAGES);
    }
}
