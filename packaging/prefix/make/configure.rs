//! What Debian's maintainer scripts would have made, launchers for programs that have a path built
//! in, and the way into the prefix.

use std::fs;

use anyhow::{Context, Result};

use super::tool::run;
use super::tree::{TRIPLET, Tree};

/// Commands that are alternatives in Debian, or that somebody calls by another name.
const NAMES: &[(&str, &str)] = &[
    ("awk", "gawk"),
    ("cc", "gcc"),
    ("gtar", "tar"),
    ("lex", "flex"),
    ("sh", "dash"),
    ("which", "which.debianutils"),
    ("python", "python3"),
    ("yacc", "bison.yacc"),
];

/// Programs with data paths built in that an environment variable moves.
const LAUNCHED: &[(&str, &[(&str, &str)])] = &[
    ("bison", &[("BISON_PKGDATADIR", "usr/share/bison"), ("M4", "usr/bin/m4")]),
    ("flex", &[("M4", "usr/bin/m4")]),
    (
        "git",
        &[
            ("GIT_EXEC_PATH", "usr/lib/git-core"),
            ("GIT_TEMPLATE_DIR", "usr/share/git-core/templates"),
            ("GIT_SSL_CAINFO", "etc/ssl/certs/ca-certificates.crt"),
        ],
    ),
    (
        "openssl",
        &[
            ("OPENSSL_CONF", "usr/lib/ssl/openssl.cnf"),
            ("OPENSSL_MODULES", "usr/lib/x86_64-linux-gnu/ossl-modules"),
        ],
    ),
    ("pkgconf", &[("PKG_CONFIG_LIBDIR", "usr/lib/x86_64-linux-gnu/pkgconfig:usr/share/pkgconfig")]),
    (
        "perl",
        &[(
            "PERL5LIB",
            "usr/lib/x86_64-linux-gnu/perl/5.36:usr/share/perl/5.36:usr/lib/x86_64-linux-gnu/perl-base:usr/share/perl5",
        )],
    ),
];

/// The names a compiler is called by; ccache stands in for it under each.
const COMPILERS: [&str; 6] = [
    "gcc",
    "gcc-12",
    "cc",
    "x86_64-linux-gnu-gcc",
    "x86_64-linux-gnu-gcc-12",
    "x86_64-pc-linux-gnu-gcc",
];

/// Does it all. After `text::links`, before `text::files`.
///
/// # Errors
/// Something expected is not in the tree.
pub fn configure(tree: &Tree) -> Result<()> {
    for (name, program) in NAMES {
        anyhow::ensure!(tree.at("usr/bin").join(program).exists(), "no {program} in the tree");
        tree.link(program, &format!("usr/bin/{name}"))?;
    }
    // Gentoo's triplet, which its ebuilds call.
    for tool in ["gcc", "ld", "as", "ar", "nm", "strip", "objcopy", "objdump", "ranlib", "readelf"]
    {
        tree.link(tool, &format!("usr/bin/x86_64-pc-linux-gnu-{tool}"))?;
    }
    // As root it would rewrite the host's /etc/ld.so.cache.
    tree.link("../bin/true", "usr/sbin/ldconfig")?;
    tree.link("usr/share", "share")?;
    for compiler in COMPILERS {
        tree.link("../../../bin/ccache", &format!("usr/lib/ccache/bin/{compiler}"))?;
    }
    tree.link("perl", "usr/bin/perl5.36.0")?;
    for (program, variables) in LAUNCHED {
        launcher(tree, program, variables)?;
    }
    certificates(tree)?;
    let lines = "order of the linker's search, and of the loader's, were it not for DT_RPATH\n";
    tree.write("etc/ld.so.conf", &format!("# {lines}@EPREFIX@/usr/lib/{TRIPLET}\n"), 0o644)?;
    let ldd =
        "RTLDLIST=\"/lib/ld-linux.so.2 /lib64/ld-linux-x86-64.so.2 /libx32/ld-linux-x32.so.2\"";
    tree.edit("usr/bin/ldd", ldd, &format!("RTLDLIST=\"{}\"", tree.interpreter()))?;
    for (path, text, mode) in [
        ("startprefix", include_str!("files/startprefix"), 0o755),
        ("etc/prefix.bashrc", include_str!("files/prefix.bashrc"), 0o644),
        ("usr/libexec/prefix/fetch", include_str!("files/fetch"), 0o755),
        (
            "usr/lib/python3/dist-packages/sitecustomize.py",
            include_str!("files/sitecustomize.py"),
            0o644,
        ),
    ] {
        tree.write(path, text, mode)?;
    }
    Ok(())
}

/// Moves `usr/bin/<program>` aside and puts a script in its place that sets `variables` and runs
/// it. Values are paths of the prefix, several with colons.
fn launcher(tree: &Tree, program: &str, variables: &[(&str, &str)]) -> Result<()> {
    let aside = tree.at("usr/libexec/prefix").join(program);
    let name = tree.at("usr/bin").join(program);
    fs::create_dir_all(tree.at("usr/libexec/prefix"))?;
    let real = fs::canonicalize(&name).with_context(|| format!("no {program} in the tree"))?;
    fs::rename(&real, &aside)?;
    let mut script = "#!@EPREFIX@/bin/bash\n".to_owned();
    for (variable, value) in variables {
        let paths: Vec<String> = value.split(':').map(|p| format!("@EPREFIX@/{p}")).collect();
        script += &format!("export {variable}=\"${{{variable}:-{}}}\"\n", paths.join(":"));
    }
    script += &format!("exec @EPREFIX@/usr/libexec/prefix/{program} \"$@\"\n");
    tree.write(&format!("usr/bin/{program}"), &script, 0o755)
}

/// The bundle that update-ca-certificates would make, and openssl's directory.
fn certificates(tree: &Tree) -> Result<()> {
    let mut bundle = String::new();
    let from = tree.at("usr/share/ca-certificates");
    for file in tree.files(false)?.iter().filter(|f| f.starts_with(&from)) {
        bundle += &fs::read_to_string(file)?;
    }
    anyhow::ensure!(!bundle.is_empty(), "{}: no certificates", from.display());
    tree.write("etc/ssl/certs/ca-certificates.crt", &bundle, 0o644)?;
    tree.write("usr/lib/ssl/openssl.cnf", "openssl_conf = default\n[default]\n", 0o644)?;
    tree.link("../../../etc/ssl/certs", "usr/lib/ssl/certs")?;
    tree.link("../../../etc/ssl/certs/ca-certificates.crt", "usr/lib/ssl/cert.pem")
}

/// Compiles python's modules, so that starting it does not: by content, not by time. With the
/// tree's own python, before it is relocated.
///
/// # Errors
/// A module does not compile.
pub fn compile_python(tree: &Tree) -> Result<()> {
    for dir in ["usr/lib/python3.11", "usr/lib/python3", "usr/lib/portage"] {
        let mut python = tree.command("usr/bin/python3.11");
        python.env("PYTHONHASHSEED", "0").env("PYTHONDONTWRITEBYTECODE", "1");
        python.args(["-m", "compileall", "-q", "-f", "-j1"]);
        python.args(["--invalidation-mode", "unchecked-hash", "-d"]).arg(tree.there(dir));
        run(python.arg(tree.at(dir)))?;
    }
    Ok(())
}
