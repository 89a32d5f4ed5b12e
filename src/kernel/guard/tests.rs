use super::*;
use crate::exit;
use crate::host::{Host, Release};
use crate::kernel::locate;

fn parse(text: &str) -> Kconfig {
    Kconfig::parse(text.as_bytes()).unwrap()
}

fn refused<T: std::fmt::Debug>(case: &str, result: Result<T>) -> String {
    let error = result.expect_err(case);
    assert_eq!(exit::of(&error), Exit::Refused, "{case}: {error:#}");
    format!("{error:#}")
}

const GIVEN: &str = "CONFIG_CC_VERSION_TEXT=\"gcc-12 12.2.0\"\nCONFIG_CC_IS_GCC=y\n\
    CONFIG_GCC_VERSION=120200\nCONFIG_CC_HAS_SLS=y\nCONFIG_PAHOLE_VERSION=124\n\
    CONFIG_BUILD_SALT=\"\"\nCONFIG_DEBUG_INFO_BTF=y\nCONFIG_DEBUG_INFO_BTF_MODULES=y\n\
    CONFIG_GCC_PLUGINS=y\nCONFIG_HZ=250\n# CONFIG_PROVE_LOCKING is not set\n\
    CONFIG_SYSTEM_TRUSTED_KEYS=\"a.pem\"\nCONFIG_LOCALVERSION=\"-a\"\n";

#[test]
fn another_toolchain_may_change_its_probes_and_nothing_else() {
    let given = parse(GIVEN);
    let with = |changes: &[(&str, &str)]| {
        let edit = |text: String, (from, to): &(&str, &str)| {
            assert!(text.contains(from), "{from}");
            text.replace(from, to)
        };
        parse(&changes.iter().fold(GIVEN.to_owned(), edit))
    };
    let toolchain = with(&[
        ("gcc-12 12.2.0", "gcc (GCC) 14.3.1"),
        ("GCC_VERSION=120200", "GCC_VERSION=140301"),
        ("CONFIG_CC_HAS_SLS=y", "# CONFIG_CC_HAS_SLS is not set\nCONFIG_CC_HAS_COUNTED_BY=y"),
        ("PAHOLE_VERSION=124", "PAHOLE_VERSION=127"),
        ("BUILD_SALT=\"\"", "BUILD_SALT=\"6.1.0-56\""),
        ("a.pem", ""),
        ("# CONFIG_PROVE_LOCKING is not set\n", ""),
    ]);
    config(&given, &toolchain).unwrap();
    for (case, changes, says) in [
        (
            "no pahole",
            vec![
                ("PAHOLE_VERSION=124", "PAHOLE_VERSION=0"),
                ("CONFIG_DEBUG_INFO_BTF=y\nCONFIG_DEBUG_INFO_BTF_MODULES=y\n", ""),
            ],
            vec![
                "toolchain: 2 (structures",
                "CONFIG_DEBUG_INFO_BTF: y -> not set (pahole (dwarves) is missing",
                "CONFIG_DEBUG_INFO_BTF_MODULES: y -> not set",
            ],
        ),
        (
            "no plugin headers",
            vec![("CONFIG_GCC_PLUGINS=y", "# CONFIG_GCC_PLUGINS is not set")],
            vec!["CONFIG_GCC_PLUGINS: y -> not set (the headers of the compiler's plugins"],
        ),
        ("number", vec![("HZ=250", "HZ=100")], vec!["toolchain: 1 (", "CONFIG_HZ: 250 -> 100"]),
        (
            "brought",
            vec![("# CONFIG_PROVE_LOCKING is not set", "CONFIG_PROVE_LOCKING=y")],
            vec!["CONFIG_PROVE_LOCKING: not set -> y"],
        ),
        (
            "clang",
            vec![("CC_IS_GCC", "CC_IS_CLANG")],
            vec!["CONFIG_CC_IS_GCC: y -> not set", "another compiler"],
        ),
        ("string", vec![("\"-a\"", "\"\"")], vec!["CONFIG_LOCALVERSION: \"-a\" -> \"\""]),
    ] {
        let error = refused(case, config(&given, &with(&changes)));
        for words in says {
            assert!(error.contains(words), "{case}: {error}");
        }
        assert!(!error.contains("PAHOLE_VERSION"), "{case}: {error}");
    }
    config_but_for(&given, &with(&[("\"-a\"", "\"\"")]), &["LOCALVERSION"]).unwrap();
}

#[test]
fn of_many_differences_twenty_are_named_and_the_rest_counted() {
    let given: String = (100..150).map(|n| format!("CONFIG_X{n}=y\n")).collect();
    let error = refused("many", config(&parse(&given), &parse("CONFIG_A=y\n")));
    assert!(error.contains("toolchain: 51 (") && error.contains("and 31 more"), "{error}");
    assert!(error.contains("CONFIG_X118: y") && !error.contains("CONFIG_X119: y"), "{error}");
}

fn facts(text: &str) -> Facts {
    let release: Release = "6.12.4-x".parse().unwrap();
    let host = Host {
        root: "/nonexistent".into(),
        kernel_release: release.clone(),
        cmdline: String::new(),
        container: false,
        in_initrd: false,
    };
    let text = text.as_bytes().to_vec();
    let config = Kconfig::parse(&text).unwrap();
    let source = locate::Source::File("/boot/config".into());
    Facts::of_config(&host, &release, locate::Located { text, config, source })
}

#[test]
fn what_no_tree_from_source_can_be_is_refused_before_anything_is_compiled() {
    let gcc = "gcc (Gentoo 14.3.1) 14.3.1";
    let clang =
        "CONFIG_CC_IS_CLANG=y\nCONFIG_CC_VERSION_TEXT=\"Debian clang version 17.0.6 (1)\"\n";
    for (case, text, compiler, says) in [
        ("gcc", "CONFIG_CC_IS_GCC=y\nCONFIG_RANDSTRUCT_NONE=y\n", gcc, None),
        ("randstruct", "CONFIG_RANDSTRUCT_FULL=y\n", gcc, Some("CONFIG_RANDSTRUCT_FULL=y")),
        ("plugin", "CONFIG_GCC_PLUGIN_RANDSTRUCT=y\n", gcc, Some("kernel.build-dir")),
        ("clang by gcc", clang, gcc, Some("CONFIG_CC_IS_CLANG=y: built by \"Debian clang")),
        ("same clang", clang, "clang version 17.0.6", None),
        ("other clang", clang, "clang version 18.1.0", Some("that same clang")),
        ("LTO", "CONFIG_LTO_CLANG_THIN=y\n", gcc, Some("CONFIG_LTO_CLANG_THIN=y")),
        ("no line", "CONFIG_CFI_CLANG=y\n", "clang version 17.0.6", Some("CONFIG_CFI_CLANG")),
        ("empty", "CONFIG_CC_IS_CLANG=y\n", "", Some("The prefix has \"\"")),
        ("no cure", clang, gcc, Some("clang are not supported in a prefix of gcc")),
    ] {
        match (says, refusal(&facts(text), compiler)) {
            (None, result) => assert!(result.is_ok(), "{case}: {result:?}"),
            (Some(says), result) => {
                let error = refused(case, result);
                assert!(error.contains(says), "{case}: {error}");
            }
        }
    }
}

#[test]
fn the_probe_has_a_size_for_each_structure_and_nothing_else_is_taken_for_it() {
    let source = probe_source();
    for name in PROBE_STRUCTS {
        assert_eq!(source.matches(&format!("sizeof(struct {name}),")).count(), 1, "{name}");
    }
    for (case, bytes) in [("empty", &b""[..]), ("text", b"hello"), ("torn ELF", b"\x7fELF\x02\x01")]
    {
        assert!(probe_sizes(bytes).is_err(), "{case}");
    }
}
