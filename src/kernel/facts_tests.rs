use super::*;

fn built(text: &str) -> Built {
    Built::of(&Kconfig::parse(text.as_bytes()).unwrap())
}

#[test]
fn each_series_spelling_of_the_same_fact_is_read() {
    for (case, text, get, want) in [
        ("before 5.19", "CONFIG_GCC_PLUGIN_RANDSTRUCT=y", 0, "full"),
        (
            "before 5.19, cache lines",
            "CONFIG_GCC_PLUGIN_RANDSTRUCT=y\nCONFIG_GCC_PLUGIN_RANDSTRUCT_PERFORMANCE=y",
            0,
            "performance",
        ),
        ("since 5.19", "CONFIG_RANDSTRUCT_FULL=y\nCONFIG_RANDSTRUCT=y", 0, "full"),
        (
            "since 5.19, cache lines",
            "CONFIG_RANDSTRUCT_PERFORMANCE=y\nCONFIG_RANDSTRUCT=y",
            0,
            "performance",
        ),
        ("off", "CONFIG_RANDSTRUCT_NONE=y\n# CONFIG_RANDSTRUCT_FULL is not set", 0, "none"),
        ("thin", "CONFIG_LTO=y\nCONFIG_LTO_CLANG=y\nCONFIG_LTO_CLANG_THIN=y", 1, "thin"),
        ("full", "CONFIG_LTO_CLANG=y\nCONFIG_LTO_CLANG_FULL=y", 1, "full"),
        ("no LTO", "CONFIG_LTO_NONE=y", 1, "none"),
        ("before 5.13", "CONFIG_MODULE_COMPRESS=y\nCONFIG_MODULE_COMPRESS_XZ=y", 2, "xz"),
        (
            "5.13",
            "# CONFIG_MODULE_COMPRESS_NONE is not set\nCONFIG_MODULE_COMPRESS_ZSTD=y",
            2,
            "zstd",
        ),
        ("none", "CONFIG_MODULE_COMPRESS_NONE=y", 2, "none"),
    ] {
        let built = built(text);
        let found = [built.randstruct, built.lto, built.module_compression];
        assert_eq!(found[get], want, "{case}");
    }
    assert!(built("CONFIG_CFI=y").cfi && built("CONFIG_CFI_CLANG=y").cfi);
}

#[test]
fn the_build_salt_is_the_note_of_the_owner_linux() {
    let mut bytes = Vec::new();
    for (name, kind, text) in
        [("GNU", 3, "id__"), ("Linux", 0x101, "lto_"), ("Linux", 0x100, "6.1.0-56\0")]
    {
        let len = |n: usize| u32::try_from(n).unwrap();
        for word in [len(name.len() + 1), len(text.len()), kind] {
            bytes.extend(word.to_le_bytes());
        }
        for part in [format!("{name}\0"), text.to_owned()] {
            bytes.extend(part.bytes());
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
    }
    assert_eq!(build_salt(&bytes).as_deref(), Some("6.1.0-56"));
    assert_eq!(build_salt(&bytes[..40]), None);
}

#[test]
fn the_compiler_is_in_the_banner_too() {
    let gcc = "gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0";
    let ld = "GNU ld (GNU Binutils for Debian) 2.40";
    let banner =
        format!("Linux version 6.1.0-56-cloud-amd64 (who@where) ({gcc}, {ld}) #1 SMP (x) #2");
    assert_eq!(compiler(&banner), Some(gcc));
    let clang = "Linux version 6.6.1 (w@h) (Debian clang version 17.0.6 (1), LLD 17.0.6) #1 SMP";
    assert_eq!(compiler(clang), Some("Debian clang version 17.0.6 (1)"));
    assert_eq!(
        compiler("Linux version 5.4.0 (w@h) (gcc version 9.3.0) #1"),
        Some("gcc version 9.3.0")
    );
    assert_eq!(compiler("Linux version 5.4.0"), None);
}

#[test]
fn an_image_that_only_has_the_kernels_name_is_not_taken_for_it() {
    let root = tempfile::tempdir().unwrap();
    let host = Host::below(root.path(), "6.1.0");
    fs::create_dir(root.path().join("boot")).unwrap();
    fs::write(root.path().join("config"), "CONFIG_MODULES=y\n").unwrap();
    let gather = |banner: &str| {
        let mut image = vec![0; 64];
        image[0x38..0x3c].copy_from_slice(b"ARM\x64");
        image.extend(banner.as_bytes());
        fs::write(root.path().join("boot/vmlinuz-6.6.74-x"), image).unwrap();
        let release = Some("6.6.74-x".parse().unwrap());
        let config = |_: &Release| Some(PathBuf::from("/config"));
        let facts = Facts::gather(&host, &Wanted { release, image: None, config: &config });
        let facts = facts.unwrap();
        (facts.image, facts.notes.join("\n"))
    };
    let (taken, said) = gather("Linux version 6.6.75-x (w@h) (gcc 13) #1 SMP\n\0");
    assert!(said.contains("boot/vmlinuz-6.6.74-x is of kernel 6.6.75-x"), "{said}");
    assert_eq!(taken, None, "its build-id and compiler are those of another kernel");
    let own = gather("Linux version 6.6.74-x (w@h) (gcc 13) #1 SMP\n\0");
    assert!(own.0.is_some() && own.1.is_empty(), "{own:?}");
    let (taken, said) = gather("no banner");
    assert!(taken.is_some() && said.contains("does not say its release"), "{said}");
}
