use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use super::*;

/// A machine whose configuration files are those given; a text of `->X` makes a symlink to X.
fn machine(files: &[(&str, &str)], cmdline: &str) -> (tempfile::TempDir, Host) {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = root.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match text.strip_prefix("->") {
            Some(target) => symlink(target, path).unwrap(),
            None => fs::write(path, text).unwrap(),
        }
    }
    let host = Host {
        root: root.path().to_owned(),
        kernel_release: "6.1.0-56-cloud-amd64".parse().unwrap(),
        cmdline: cmdline.to_owned(),
        container: false,
        in_initrd: false,
    };
    (root, host)
}

fn loaded(files: &[(&str, &str)], cmdline: &str) -> Loaded {
    let (_root, host) = machine(files, cmdline);
    load(&host)
}

fn lines(loaded: &Loaded) -> Vec<String> {
    loaded.notes.iter().map(Note::to_string).collect()
}

#[test]
fn without_files_the_defaults_hold() {
    let loaded = loaded(&[], "quiet");
    assert_eq!(loaded.settings, Settings::default());
    assert!(loaded.notes.is_empty());
    assert_eq!(loaded.origin("boot.enabled"), None);
}

#[test]
fn the_first_main_file_found_is_the_only_one_and_drop_ins_follow_by_name() {
    let main = "/zfs-prefix/config.toml";
    let l = loaded(
        &[
            (&format!("/usr/lib{main}"), "build.jobs = 1\nprefix.path = \"/usr-lib\""),
            (&format!("/run{main}"), "build.jobs = 2\nzfs.version = \"2.3.2\""),
            ("/etc/zfs-prefix/config.d/10-a.toml", "build.jobs = 3\nboot.timeout = \"10s\""),
            ("/usr/lib/zfs-prefix/config.d/20-b.toml", "[build]\njobs = 4"),
            ("/usr/lib/zfs-prefix/config.d/10-a.toml", "boot.when-missing = \"never\""),
            ("/usr/local/lib/zfs-prefix/config.d/15-c.toml", "build.jobs = 9"),
            ("/etc/zfs-prefix/config.d/ignored.conf", "build.jobs = 10"),
            ("/etc/zfs-prefix/config.d/.99-hidden.toml", "build.jobs = 11"),
        ],
        "",
    );
    assert_eq!(lines(&l), [""; 0]);
    assert_eq!(l.settings.build.jobs, Some(4), "the last name wins, whatever its directory");
    assert_eq!(l.settings.prefix.path, Path::new("/home/core/gentoo"), "/run hides /usr/lib");
    assert_eq!(l.settings.zfs.version.as_deref(), Some("2.3.2"));
    assert_eq!(l.settings.boot.timeout, Duration::from_secs(10), "/etc's 10-a.toml counts");
    assert_eq!(l.settings.boot.when_missing, WhenMissing::Late, "/usr/lib's 10-a.toml does not");
    let decided = l.origin("build.jobs");
    assert_eq!(decided, Some(Path::new("/usr/lib/zfs-prefix/config.d/20-b.toml")));
}

#[test]
fn an_empty_file_or_a_link_to_dev_null_masks_the_same_name_below() {
    for mask in ["", "->/dev/null"] {
        let l = loaded(
            &[
                ("/etc/zfs-prefix/config.toml", mask),
                ("/usr/lib/zfs-prefix/config.toml", "build.jobs = 1"),
                ("/run/zfs-prefix/config.d/10-a.toml", mask),
                ("/usr/lib/zfs-prefix/config.d/10-a.toml", "boot.enabled = false"),
            ],
            "",
        );
        assert_eq!(l.settings, Settings::default(), "mask {mask:?}");
        assert!(l.notes.is_empty(), "mask {mask:?}: {:?}", l.notes);
    }
}

#[test]
fn an_unknown_key_costs_itself_only_and_is_named_with_line_and_column() {
    let text = "# é\n[boot]\nwhen_missing = \"never\"\ntimeout = 60\n[bot]\nx = 1\n";
    let l = loaded(&[("/etc/zfs-prefix/config.toml", text)], "");
    assert_eq!(l.settings.boot.timeout, Duration::from_secs(60));
    assert_eq!(
        lines(&l),
        [
            "/etc/zfs-prefix/config.toml:3:1: unknown key \"boot.when_missing\"; ignored",
            "/etc/zfs-prefix/config.toml:5:2: unknown key or section \"bot\"; ignored",
        ]
    );
    assert!(l.notes.iter().all(|n| n.severity == Severity::Warning));
}

#[test]
fn a_bad_file_is_set_aside_as_a_whole_and_the_rest_holds() {
    let bad = "/etc/zfs-prefix/config.d/50-bad.toml";
    for (text, message) in [
        ("build.jobs = 7\n[boot\n", "2:6: unclosed table, expected `]`"),
        ("build.jobs = 7\nbuild.jobs = 8\n", "2:7: duplicate key"),
        ("build.jobs = 7\n[[boot]]\nenabled = false\n", "2:3: boot: expected a [boot] table"),
        ("build.jobs = 7\nboot = \"never\"\n", "2:1: boot: expected a [boot] table"),
        (
            "build.jobs = 7\nboot.timeout = \"soon\"\n",
            "2:16: boot.timeout: found \"soon\", expected a time from 1s to 24h, as \"30min\"",
        ),
        (
            "build.jobs = 7\nbuild.timeout = 0\n",
            "2:17: build.timeout: found 0, expected a time from 1s to 720h, as \"6h\"",
        ),
        (
            "build.jobs = 0x201\n",
            "1:14: build.jobs: found 0x201, expected an integer from 1 to 512",
        ),
        (
            "build.jobs = 7\n[portage]\natoms = [\"sys-fs/zfs-kmod\", \"--ask\"]\n",
            "3:29: portage.atoms: found \"--ask\", expected a Portage atom, as \
             \"sys-fs/zfs-kmod\" or \"=sys-fs/zfs-kmod-2.3.2\"",
        ),
        (
            "build.jobs = 7\nkernel.image = \"/boot/$release\"",
            "2:16: kernel.image: found \"/boot/$release\", expected an absolute path without \
             \"..\"; its only placeholder is ${release}",
        ),
    ] {
        let l = loaded(
            &[("/etc/zfs-prefix/config.toml", "boot.timeout = \"5min\"\n"), (bad, text)],
            "",
        );
        let expected = format!("{bad}:{message}; the whole file is set aside");
        assert_eq!(lines(&l), [expected], "{text:?}");
        assert_eq!(l.notes[0].severity, Severity::Error, "{text:?}");
        assert_eq!(l.settings.build.jobs, None, "{text:?}");
        assert_eq!(l.settings.boot.timeout, Duration::from_secs(300), "{text:?}");
    }
}

#[test]
fn every_bad_value_of_a_file_is_named_at_once() {
    let text = "boot.enabled = 1\nboot.when-missing = \"x\"\nportage.atoms = []\n\
                prefix.path = \"gentoo\"\nbuild.recipe = \"dkms\"\nzfs.version = \"2.4-rc1\"\n\
                zfs.configure = [\"a b\"]\nbuild.backoff = 0\nzfs.source = 1\n\
                prefix.source = \"http://example.com/p.tar\"\nprefix.sha256 = \"1\"\n\
                prefix.size = 0\nprefix.public-key = \"RW\"\nprefix.allow-unsigned = 1\n\
                prefix.user = \"root\"\nkernel.tree = [\"full\", \"full\"]\nkernel.config = \"/$x\"\n\
                kernel.source = \"http://x/y.tar\"\nkernel.patches = [\"x\"]\n\
                kernel.source-key = \"x\"\nkernel.allow-unsigned = 1\nzfs.source-key = 1\n\
                zfs.linux-experimental = \"x\"\nzfs.userland = \"none\"\n";
    let l = loaded(&[("/etc/zfs-prefix/config.toml", text)], "");
    let named: Vec<_> = l.notes.iter().filter_map(|n| n.line).collect();
    let mut sorted = named.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (1..=24).collect::<Vec<_>>(), "{:?}", lines(&l));
}

#[test]
fn a_file_that_is_none_is_named_and_does_not_hold_the_rest() {
    let (root, host) = machine(&[("/etc/zfs-prefix/config.toml", "build.jobs = 7")], "");
    let dir = root.path().join("etc/zfs-prefix/config.d");
    fs::create_dir_all(dir.join("1-directory.toml")).unwrap();
    fs::write(dir.join("2-latin1.toml"), b"build.jobs = 8\n# caf\xe9\n").unwrap();
    fs::write(dir.join("3-huge.toml"), "#".repeat((1 << 20) + 1)).unwrap();
    symlink("/nowhere/at/all", dir.join("4-dangling.toml")).unwrap();
    nix::unistd::mkfifo(&dir.join("5-fifo.toml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    symlink("6-loop.toml", dir.join("6-loop.toml")).unwrap();
    fs::create_dir_all(root.path().join("run/zfs-prefix")).unwrap();
    fs::write(root.path().join("run/zfs-prefix/config.d"), "").unwrap();
    let l = load(&host);
    assert_eq!(l.settings.build.jobs, Some(7));
    let aside = "the whole file is set aside";
    let d = "/etc/zfs-prefix/config.d";
    assert_eq!(
        lines(&l),
        [
            format!(
                "/run/zfs-prefix/config.d: cannot list this directory: \
                 Not a directory (os error 20); {aside}"
            ),
            format!("{d}/1-directory.toml: not a regular file; {aside}"),
            format!("{d}/2-latin1.toml:2:6: not UTF-8; {aside}"),
            format!("{d}/3-huge.toml: larger than 1048576 bytes; {aside}"),
            format!("{d}/4-dangling.toml: a symlink to nothing; {aside}"),
            format!("{d}/5-fifo.toml: not a regular file; {aside}"),
            format!(
                "{d}/6-loop.toml: cannot open this file: \
                 Too many levels of symbolic links (os error 40); {aside}"
            ),
        ]
    );
}

#[test]
fn the_command_line_beats_the_files_and_says_so() {
    let files =
        [("/etc/zfs-prefix/config.toml", "[boot]\nenabled = true\nwhen-missing = \"late\"")];
    let l = loaded(&files, "zfs_prefix=0 zfs_prefix.when_missing=block zfs_prefix=perhaps");
    assert_eq!(l.settings.boot.enabled, Enabled::No);
    assert_eq!(l.settings.boot.when_missing, WhenMissing::Block);
    assert_eq!(l.origin("boot.enabled"), Some(Path::new(CMDLINE)));
    assert_eq!(
        lines(&l),
        ["/proc/cmdline: found \"zfs_prefix=perhaps\", expected 0 or 1; ignored"]
    );
}

#[test]
fn a_container_is_left_alone_unless_told_otherwise() {
    let (_root, mut host) = machine(&[], "");
    host.container = true;
    for (enabled, active) in [(Enabled::Auto, false), (Enabled::Yes, true), (Enabled::No, false)] {
        let mut settings = Settings::default();
        settings.boot.enabled = enabled;
        assert_eq!(settings.active(&host).is_ok(), active, "{enabled:?}");
    }
}

#[test]
fn a_backoff_longer_than_its_maximum_holds_for_both() {
    let l = loaded(&[("/etc/zfs-prefix/config.toml", "build.backoff = \"48h\"")], "");
    assert_eq!(l.settings.build.backoff_max, Duration::from_secs(48 * 3600));
    assert_eq!(l.notes.len(), 1);
}

#[test]
fn the_release_is_put_in_wherever_the_template_names_it() {
    let release = "6.12.4-flatcar".parse().unwrap();
    for (template, expected) in [
        ("/usr/lib/modules/${release}/build", "/usr/lib/modules/6.12.4-flatcar/build"),
        ("/a/${release}/${release}", "/a/6.12.4-flatcar/6.12.4-flatcar"),
        ("/boot/vmlinuz", "/boot/vmlinuz"),
    ] {
        assert_eq!(expand_release(template, &release), Path::new(expected), "{template}");
    }
}

/// The example with its settings switched on: lines of the form `#key = …` and `#[section]`.
/// Prose has a blank after its `#`.
fn uncommented(example: &str) -> String {
    let live = |line: &str| line.strip_prefix('#').unwrap_or(line).to_owned();
    example.lines().filter(|l| !l.starts_with("# ")).map(live).collect::<Vec<_>>().join("\n")
}

const EXAMPLE: &str = include_str!("../../packaging/config.toml.example");

#[test]
fn the_example_sets_nothing_as_shipped() {
    assert!(EXAMPLE.lines().all(|l| l.is_empty() || l.starts_with('#')));
}

#[test]
fn the_uncommented_example_names_every_key_and_shows_the_defaults() {
    let path = "/etc/zfs-prefix/config.toml";
    let mut l = loaded(&[(path, &uncommented(EXAMPLE))], "");
    assert_eq!(lines(&l), [""; 0]);
    for key in keys() {
        assert!(l.origin(key).is_some(), "{key} is not in the example");
    }
    // The keys without a default show an example; the text above each of them says so.
    let kernel = &mut l.settings.kernel;
    *kernel = Kernel { tree: kernel.tree.clone(), ..Kernel::default() };
    l.settings.build.jobs = None;
    let prefix = &mut l.settings.prefix;
    *prefix = Prefix { path: prefix.path.clone(), ..Prefix::default() };
    l.settings.portage.binhost = None;
    l.settings.zfs.source = None;
    l.settings.zfs.source_key = None;
    l.settings.zfs.version = None;
    assert_eq!(l.settings, Settings::default());
}

#[test]
fn the_man_page_names_every_key() {
    let page = include_str!("../../packaging/man/zfs-prefix.toml.5").replace("\\-", "-");
    for key in keys() {
        let (section, name) = key.split_once('.').unwrap();
        assert!(page.contains(&format!(".SS [{section}]")), "no section {section}");
        assert!(page.contains(&format!(".BR {name} ")), "{key} is not in the man page");
    }
}

/// Fedora CoreOS: there is nothing in /var yet when a generator runs at boot, and something at a reload.
#[test]
fn a_usr_local_in_var_is_read_by_all_but_those_that_may_not_look_there() {
    let root = tempfile::tempdir().unwrap();
    let host = |root: &Path| Host::below(root, "6.1.0");
    let host = host(root.path());
    let write = |path: &str, text: &str| {
        let path = host.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("/etc/zfs-prefix/config.toml", "build.jobs = 3");
    write("/var/usrlocal/lib/zfs-prefix/config.d/x.toml", "boot.when-missing = \"never\"");
    std::fs::create_dir_all(host.path("/usr")).unwrap();
    std::os::unix::fs::symlink("../var/usrlocal", host.path("/usr/local")).unwrap();
    assert_eq!(load(&host).settings.boot.when_missing, WhenMissing::Never);
    let (loaded, in_var) = load_before_var(&host);
    assert_eq!(loaded.settings.boot.when_missing, WhenMissing::Late);
    assert_eq!(loaded.settings.build.jobs, Some(3));
    assert_eq!(in_var, [Path::new("/var/usrlocal/lib/zfs-prefix")]);
    std::fs::remove_file(host.path("/usr/local")).unwrap();
    write("/usr/local/lib/zfs-prefix/config.d/x.toml", "boot.when-missing = \"never\"");
    let (loaded, in_var) = load_before_var(&host);
    assert_eq!((loaded.settings.boot.when_missing, in_var), (WhenMissing::Never, vec![]));
    // Any other link leads there just as well, of a directory or of a file; it masks all the same.
    write("/var/etc/config.toml", "build.jobs = 5");
    write("/var/etc/x.toml", "boot.when-missing = \"block\"");
    for (link, expected) in [
        ("/etc/zfs-prefix", (WhenMissing::Never, None)),
        ("/etc/zfs-prefix/config.toml", (WhenMissing::Never, None)),
        ("/etc/zfs-prefix/config.d", (WhenMissing::Never, Some(3))),
        ("/etc/zfs-prefix/config.d/x.toml", (WhenMissing::Late, Some(3))),
    ] {
        let _ = std::fs::remove_file(host.path("/etc/zfs-prefix"));
        let _ = std::fs::remove_dir_all(host.path("/etc/zfs-prefix"));
        write("/etc/zfs-prefix/config.toml", "build.jobs = 3");
        let at = host.path(link);
        std::fs::create_dir_all(at.parent().unwrap()).unwrap();
        let _ = std::fs::remove_file(&at);
        let _ = std::fs::remove_dir_all(&at);
        let name = link.rsplit('/').next().unwrap();
        let target = Path::new("/var/etc").join(if name.ends_with(".toml") { name } else { "" });
        std::os::unix::fs::symlink(&target, &at).unwrap();
        let (loaded, in_var) = load_before_var(&host);
        let settings = &loaded.settings;
        assert_eq!((settings.boot.when_missing, settings.build.jobs), expected, "{link}");
        assert!(in_var.len() == 1 && in_var[0].starts_with("/var/etc"), "{link}: {in_var:?}");
    }
}
