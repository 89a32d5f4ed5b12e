//! The prefix's recipe (packaging/prefix): what it makes of this machine's packages, twice, and
//! somewhere else.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

use std::fs;
use std::path::Path;
use std::process::Command;

use lab::prefix::make::{self, tree::Tree};
use lab::prefix::{EPREFIX, archive, digest, parts, tree};
use lab::tool::run;

#[test]
fn the_same_packages_give_the_same_tree() {
    let work = lab::tmp::scratch("prefix-");
    let again =
        make::make(&parts().unwrap(), Path::new(EPREFIX), &work.path().join("tree")).unwrap();
    assert_eq!(again.digest, digest().unwrap(), "diff -r {}", tree().unwrap().display());
}

#[test]
fn the_manifest_says_what_the_archive_is_and_of_which_packages() {
    let dir = archive().unwrap();
    let files: Vec<_> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).collect();
    let with = |end: &str| files.iter().find(|f| f.to_string_lossy().ends_with(end)).unwrap();
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(with(".json")).unwrap()).unwrap();
    let file = with(".tar.zst");
    let name = file.file_name().unwrap().to_string_lossy();
    assert_eq!(manifest["eprefix"], EPREFIX);
    assert_eq!(manifest["digest"], digest().unwrap());
    assert_eq!(manifest["archive"]["name"], *name);
    assert_eq!(manifest["archive"]["size"], fs::metadata(file).unwrap().len());
    let sum = run(Command::new("sha256sum").arg(file)).unwrap();
    assert_eq!(manifest["archive"]["sha256"], sum.split(' ').next().unwrap());
    let packages = manifest["packages"].as_array().unwrap();
    let has = |name: &str| packages.iter().any(|p| p.as_str().unwrap().starts_with(name));
    assert!(has("gcc-12 12.") && has("libc6 2.36-"), "{packages:?}");
    // Owners and times are not this machine's.
    let list =
        run(Command::new("tar").args(["--zstd", "--numeric-owner", "-tvf"]).arg(file)).unwrap();
    let foreign: Vec<&str> = list.lines().filter(|l| !l.contains(" 0/0 ")).collect();
    assert_eq!(foreign, [""; 0]);
    let setid = list.lines().find(|l| l[..10].contains(['s', 'S', 't', 'T']));
    assert_eq!(setid, None);
}

/// Runs `line` in `tree` where it is meant to be, as somebody who is not root, with only the
/// variables that a login might leave.
fn inside(tree: &Path, eprefix: &str, line: &str) -> String {
    let work = lab::tmp::scratch("prefix-");
    let script = "mkdir -p \"$2\" && mount --bind \"$1\" \"$2\" && exec env -i HOME=/tmp \
        LD_LIBRARY_PATH=/usr/lib/x86_64-linux-gnu PYTHONPATH=/nowhere \
        setpriv --reuid=65534 --regid=65534 --clear-groups \"$2/startprefix\" sh -c \"$3\"";
    // A directory to mount it over has to be there: on a tmpfs of the namespace's own.
    let top = format!("/{}", eprefix.split('/').nth(1).unwrap());
    let mount = format!("mkdir -p {top} && mount -t tmpfs none {top} && {script}");
    let keep = work.path().join("tree");
    fs::create_dir(&keep).unwrap();
    // The tree may lie below what the tmpfs hides.
    let first = format!("mount --bind \"$1\" /mnt && set -- /mnt \"$2\" \"$3\" && {mount}");
    run(Command::new("unshare")
        .args(["-m", "sh", "-ec", &first, "sh"])
        .arg(tree)
        .args([eprefix, line]))
    .unwrap()
}

const PROGRAM: &str = "#include <stdio.h>\\n#include <libelf.h>\\nint main(void) { char b[512]; \
    FILE *f = fopen(\\\"/proc/self/maps\\\", \\\"r\\\"); elf_version(EV_CURRENT); \
    while (fgets(b, sizeof b, f)) fputs(b, stdout); return 0; }\\n";

fn assert_compiles(tree: &Path, eprefix: &str) {
    let compile = format!(
        "cd $(mktemp -d) && printf \"{PROGRAM}\" > a.c && gcc -o a a.c -lelf && ./a && \
         readelf -d a | grep -c RPATH"
    );
    let maps = inside(tree, eprefix, &compile);
    for library in ["libelf", "libc.so.6", "ld-linux-x86-64.so.2"] {
        let line = maps.lines().find(|l| l.contains(library)).unwrap_or_else(|| panic!("{maps}"));
        assert!(line.contains(eprefix), "{line}");
    }
    for (line, want) in [
        (
            "echo $PATH $PYTHONPATH $LD_LIBRARY_PATH",
            format!("{eprefix}/usr/bin:{eprefix}/bin:{eprefix}/usr/sbin:{eprefix}/sbin"),
        ),
        ("perl -MPOSIX -MFile::Temp -e 'print grep m{^/usr|^/etc}, @INC'", String::new()),
        ("python3 -c 'import portage, ssl; print(portage.const.EPREFIX)'", eprefix.to_owned()),
        ("portageq envvar DISTDIR", format!("{eprefix}/var/cache/distfiles")),
        (
            "printf '%%%%\\n.|\\\\n ;\\n' | flex -t | grep -c yylex > /dev/null && echo ok",
            "ok".into(),
        ),
        ("pkgconf --variable=prefix libelf", format!("{eprefix}/usr")),
        ("echo ok | sed s/ok/fine/ | gawk '{ print $1 }' | xz | xz -d", "fine".into()),
    ] {
        assert_eq!(inside(tree, eprefix, line).trim(), want, "{line}");
    }
}

#[test]
fn its_programs_use_its_own_libraries_and_data_whatever_the_caller_has_set() {
    assert_compiles(&tree().unwrap(), EPREFIX);
}

#[test]
#[ignore = "makes another prefix, for a longer path: make check-all"]
fn a_prefix_works_at_any_path() {
    let eprefix = "/opt/a/rather/long/way/to/a/prefix";
    let work = lab::tmp::scratch("prefix-");
    let tree = Tree { dir: work.path().join("tree"), eprefix: eprefix.into() };
    make::make(&parts().unwrap(), Path::new(eprefix), &tree.dir).unwrap();
    assert_compiles(&tree.dir, eprefix);
}
