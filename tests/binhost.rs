//! Builds from binary packages under systemd, natively: the real package of the real OpenZFS, made
//! and signed by Portage; every way in which it may be wrong; and a binhost that has none. What
//! comes after (a boot that ends with the pool imported) is in tests/boot.rs.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

use std::process::Command;
use std::time::{Duration, Instant};

use lab::disk::State;
use lab::emerge::{DIR, Emerged, SIGNER, as_owner, emerged, put};
use lab::nspawn::Machine;
use lab::prefix::EPREFIX;
use lab::root::{Root, root};
use lab::server::Server;
use zfs_prefix::store::{Layout, check_tree, current_key};

const CONFIG: &str = "/etc/zfs-prefix/config.toml";
const KEY: &str = "/etc/zfs-prefix/binhost.asc";

/// A machine with the package, what it was made of, and nothing published.
struct Fleet {
    machine: Machine,
    state: State,
    root: Root,
    emerged: Emerged,
    _work: tempfile::TempDir,
}

impl Fleet {
    fn boot(name: &str) -> Fleet {
        let stage = lab::stage();
        let root = root().unwrap();
        let emerged = emerged(&root).unwrap();
        let work = lab::tmp::scratch("binhost-");
        let state = State::fresh(&root, &work.path().join("state")).unwrap();
        lab::prefix::install(&state).unwrap();
        put(&emerged, &state).unwrap();
        state.write(KEY, std::fs::read(&emerged.key).unwrap()).unwrap();
        let minute = Duration::from_secs(60);
        let machine = Machine::boot(name, &root, &state, Some(&stage), minute).unwrap();
        Fleet { machine, state, root, emerged, _work: work }
    }

    /// Runs a line in the machine; RELEASE, DIR and UNIT in it are replaced.
    fn check(&self, line: &str) -> String {
        self.machine.check(&self.filled(line)).unwrap().trim().to_owned()
    }

    fn filled(&self, line: &str) -> String {
        let unit = format!("zfs-build@{}.service", self.root.release);
        line.replace("RELEASE", &self.root.release).replace("DIR", DIR).replace("UNIT", &unit)
    }

    /// Makes `url` the binhost.
    fn configure(&self, url: &str) {
        self.state.write(CONFIG, format!("[portage]\nbinhost = \"{url}/${{release}}\"\n")).unwrap();
    }

    /// The builder's exit status after `systemctl start`, and its journal of that start.
    fn build(&self) -> (String, String) {
        let mark = self.check("journalctl -n 0 --show-cursor | sed -n 's/^-- cursor: //p'");
        // Quick failures one after the other are more starts than systemd allows (StartLimitBurst=).
        self.machine
            .exec(&self.filled("systemctl reset-failed UNIT; systemctl start UNIT"))
            .unwrap();
        let journal = format!("journalctl -o cat -t zfs-build -u UNIT --after-cursor='{mark}'");
        (self.check("systemctl show --value -p ExecMainStatus UNIT"), self.check(&journal))
    }

    /// Files and links in the store; a build that came as far as staging leaves empty directories.
    fn store(&self) -> String {
        self.check("cd /var/lib/zfs-prefix && find store current ! -type d -printf '%p %l\\n'")
    }
}

/// Name, how the package is made in DIR/p/NAME, and what the reason has to say. BINPKG is
/// guest/binpkg.sh; VDB and MODULES are in the merged tree that it makes packages of; OF_KMOD has sed
/// change the package of the modules only: DIR/binpkgs has that of the programs too.
const REFUSED: [(&str, &str, &[&str]); 11] = [
    ("unsigned", "BINPKG quickpkg DIR/p/unsigned", &["appears unsigned"]),
    (
        "stranger",
        "BINPKG key stranger && BINPKG quickpkg DIR/p/stranger stranger",
        &["unknown key", "No public key"],
    ),
    (
        "expired",
        // To its signer it is the year 2020; the key is trusted here, but that was then.
        "install -d -m 700 -o core DIR/expired && \
         echo 'faked-system-time 20200101T000000!' > DIR/expired/gpg.conf && \
         BINPKG key expired 1y && BINPKG quickpkg DIR/p/expired expired && \
         cat DIR/expired.asc >> KEYFILE",
        &["expired"],
    ),
    (
        "flipped",
        // The index agrees with it: only the signature does not.
        "cp -a DIR/binpkgs DIR/p/flipped && cd DIR/p/flipped && f=$(find . -name 'zfs-kmod-*.gpkg.tar') && \
         printf '\\377' | dd of=$f bs=1 seek=$(($(stat -c %s $f) / 2)) conv=notrunc status=none && \
         rm -f Packages.gz && sed -i -E \"OF_KMOD s/^MD5: .*/MD5: $(md5sum < $f | cut -d' ' -f1)/; \
         s/^SHA1: .*/SHA1: $(sha1sum < $f | cut -d' ' -f1)/ }\" Packages",
        &["BAD signature"],
    ),
    (
        "truncated",
        // The index agrees with this one too. What Portage then says is not made for people.
        "cp -a DIR/binpkgs DIR/p/truncated && cd DIR/p/truncated && f=$(find . -name 'zfs-kmod-*.gpkg.tar') && \
         truncate -s 100000 $f && \
         rm -f Packages.gz && sed -i -E \"OF_KMOD s/^SIZE: .*/SIZE: 100000/; s/^MD5: .*/MD5: $(md5sum < $f | cut -d' ' -f1)/; \
         s/^SHA1: .*/SHA1: $(sha1sum < $f | cut -d' ' -f1)/ }\" Packages",
        &["nothing is compiled in its place"],
    ),
    (
        "damaged",
        "cp -a DIR/binpkgs DIR/p/damaged && f=$(find DIR/p/damaged -name 'zfs-kmod-*.gpkg.tar') && \
         printf '\\377' | dd of=$f bs=1 seek=$(($(stat -c %s $f) / 2)) conv=notrunc status=none",
        &["Digest verification failed", "Expected:"],
    ),
    (
        "other-prefix",
        "echo /home/core/other > VDB/EPREFIX && BINPKG quickpkg DIR/p/other-prefix SIGNER; \
         echo HERE > VDB/EPREFIX",
        &["made in a prefix at another path"],
    ),
    (
        "other-kernel",
        "sed -i 's/vermagic=RELEASE /vermagic=OTHER /' MODULES/RELEASE/extra/zfs.ko && \
         BINPKG quickpkg DIR/p/other-kernel SIGNER; \
         sed -i 's/vermagic=OTHER /vermagic=RELEASE /' MODULES/RELEASE/extra/zfs.ko",
        &["zfs.ko: is for kernel \"OTHER\"", "do not fit kernel RELEASE"],
    ),
    (
        "other-release",
        "mv MODULES/RELEASE MODULES/OTHER && sed -i s,modules/RELEASE,modules/OTHER, VDB/CONTENTS && \
         BINPKG quickpkg DIR/p/other-release SIGNER; mv MODULES/OTHER MODULES/RELEASE; \
         sed -i s,modules/OTHER,modules/RELEASE, VDB/CONTENTS",
        &["no module for kernel RELEASE", "but some for OTHER"],
    ),
    (
        "other-inputs",
        "sed -i.kept -e '/^kernel-config /s/$/0/' -e '/^configure /s/$/ --enable-debug/' \
         MODULES/RELEASE/extra/zfs-kmod.inputs && BINPKG quickpkg DIR/p/other-inputs SIGNER",
        &["the kernel's .config, portage.extra-econf (\"--enable-debug\" there, \"\" here)"],
    ),
    (
        "no-inputs",
        ": > MODULES/RELEASE/extra/zfs-kmod.inputs && BINPKG quickpkg DIR/p/no-inputs SIGNER; \
         cd MODULES/RELEASE/extra && mv zfs-kmod.inputs.kept zfs-kmod.inputs",
        &["Module.symvers (not recorded)"],
    ),
];

/// [`REFUSED`] spelled out for a machine.
fn spelled(fleet: &Fleet, text: &str) -> String {
    let other = format!("9{}", &fleet.root.release[1..]);
    let packages = format!("DIR/root{EPREFIX}/var/db/pkg/sys-fs");
    let package = fleet.check(&format!("ls -d {packages}/zfs-kmod-*"));
    let text = text
        .replace("OF_KMOD", "/^CPV: sys-fs\\/zfs-kmod-/,/^$/ {")
        .replace("BINPKG", &as_owner(""))
        .replace("VDB", &package)
        .replace("MODULES", &format!("DIR/root{EPREFIX}/lib/modules"))
        .replace("KEYFILE", KEY)
        .replace("SIGNER", SIGNER)
        .replace("OTHER", &other)
        .replace("HERE", EPREFIX);
    fleet.filled(&text)
}

#[test]
fn a_package_that_is_not_what_it_should_be_is_refused_and_nothing_is_compiled_instead() {
    let fleet = Fleet::boot("binhost-refused");
    fleet.check("install -d -o core -g core DIR/p");
    for (case, make, reason) in REFUSED {
        fleet.check(&format!("set -e; {}", spelled(&fleet, make)));
        fleet.check(&format!("mkdir -p /srv/{case} && mv DIR/p/{case} /srv/{case}/RELEASE"));
        fleet.configure(&format!("/srv/{case}"));
        let (status, journal) = fleet.build();
        assert_eq!(status, "15", "{case}: {journal}");
        let last = journal.split("stage ").last().unwrap();
        for words in reason {
            let words = spelled(&fleet, words);
            assert!(last.contains(&words), "{case}: no {words:?} in the last error:\n{journal}");
        }
        assert!(!journal.contains("configure"), "{case}: compiled after all\n{journal}");
        assert_eq!(fleet.store(), "", "{case}: the store was touched");
    }
}

#[test]
fn a_signed_package_becomes_the_same_tree_as_a_compiled_one_from_disk_and_by_http() {
    let fleet = Fleet::boot("binhost-good");
    let release = fleet.root.release.parse().unwrap();
    let layout = Layout::new(fleet.state.dir());
    let served = lab::tmp::scratch("binhost-");
    let copy = |to: &str| {
        let mut cp = Command::new("cp");
        lab::tool::run(cp.arg("-a").arg(&fleet.emerged.packages).arg(to)).unwrap();
    };
    copy(&format!("{}/{release}", served.path().display()));
    fleet.check("mkdir -p /srv/good && cp -a DIR/binpkgs /srv/good/RELEASE");
    let server = Server::of(served.path());
    let mut keys = Vec::new();
    for (case, url) in [
        ("from disk", "/srv/good".to_owned()),
        ("by http", format!("http://127.0.0.1:{}", server.port)),
    ] {
        fleet.configure(&url);
        let (status, journal) = fleet.build();
        assert_eq!(status, "0", "{case}: {journal}");
        assert!(journal.contains("merged the binary package of sys-fs/zfs-kmod"), "{journal}");
        assert!(!journal.contains("configure"), "{case}: compiled\n{journal}");
        let key = current_key(&layout, &release).unwrap();
        let tree = layout.tree(&release, &key);
        let manifest = check_tree(&tree).unwrap();
        assert_eq!(manifest.recipe, "binary package", "{case}");
        for name in ["spl.ko", "zfs.ko"] {
            let published = tree.join(format!("lib/modules/{release}/extra/{name}"));
            let compiled = std::fs::read(fleet.emerged.modules.join(name)).unwrap();
            assert!(std::fs::read(published).unwrap() == compiled, "{case}: {name} has changed");
        }
        let dep = fleet
            .check("modprobe -d /var/lib/zfs-prefix/current/RELEASE -S RELEASE --show-depends zfs");
        assert!(dep.contains("/extra/spl.ko") && dep.contains("/extra/zfs.ko"), "{dep}");
        let extra = format!("cd /var/lib/zfs-prefix/store/RELEASE/{key} && ls lib/modules/*/extra");
        assert_eq!(fleet.check(&extra), "spl.ko\nzfs.ko", "{case}: what is no module is published");
        let foreign = fleet.check("find /var/lib/zfs-prefix ! -user root -o -perm /022 ! -type l");
        assert_eq!(foreign, "", "{case}: files that others own or may write to");
        keys.push(key);
        let (status, journal) = fleet.build();
        assert_eq!(status, "0", "{case}: {journal}");
        assert!(journal.contains("are published already"), "{case}: {journal}");
    }
    assert_ne!(keys[0], keys[1], "the binhost is a part of the key");
    let asked = server.asked();
    assert!(asked.iter().any(|asked| asked.path.ends_with(".gpkg.tar")), "{asked:?}");
}

#[test]
fn without_a_fitting_package_the_modules_are_compiled_and_the_journal_says_why() {
    let fleet = Fleet::boot("binhost-none");
    let empty = lab::tmp::scratch("binhost-");
    let server = Server::of(empty.path());
    // The index names a file that is not there.
    fleet.check("mkdir -p /srv/gone && cp -a DIR/binpkgs /srv/gone/RELEASE");
    fleet.check("find /srv/gone -name '*.gpkg.tar' -delete");
    // Made with another USE flag than the one wanted here.
    fleet.check("mkdir -p /srv/debug && cp -a DIR/binpkgs /srv/debug/RELEASE");
    fleet.check("rm -f /srv/debug/RELEASE/Packages.gz");
    fleet.check("sed -i -E 's/^(USE: .*)/\\1 debug/' /srv/debug/RELEASE/Packages");
    // The binhost lags behind: signed, good, and not what this machine's overlay has.
    fleet.check("mkdir -p /srv/older && cp -a DIR/binpkgs /srv/older/RELEASE");
    fleet.check("rm -f /srv/older/RELEASE/Packages.gz");
    fleet.check(
        "sed -i -E '/^(CPV|PATH):/s/(zfs-kmod-[0-9.]*)[0-9]/\\10/' /srv/older/RELEASE/Packages",
    );
    for (case, url, reason) in [
        ("refused connection", "http://127.0.0.1:1".to_owned(), "cannot be read (<urlopen error"),
        ("no index", format!("http://127.0.0.1:{}", server.port), "cannot be read (HTTP Error 404"),
        ("no directory", "/srv/none".to_owned(), "cannot be read ("),
        ("no file", "/srv/gone".to_owned(), "could not be fetched from file:///srv/gone"),
        ("another USE flag", "/srv/debug".to_owned(), "has none that fits (use flag"),
        ("an older version", "/srv/older".to_owned(), "has none that fits"),
    ] {
        fleet.configure(&url);
        let mark = fleet.check("journalctl -n 0 --show-cursor | sed -n 's/^-- cursor: //p'");
        let warning = format!(
            "journalctl -q -o cat -p warning -u UNIT --after-cursor='{mark}' -g 'no binary package:' | tail -n 1"
        );
        fleet.check("systemctl start --no-block UNIT");
        let begin = Instant::now();
        let status = || fleet.check("systemctl show --value -p StatusText UNIT");
        let compiles =
            || ["building sys-fs", "configuring"].iter().any(|s| status().starts_with(s));
        // What is said goes on to be done: seen once, for it takes long.
        let done = || match case {
            "refused connection" => compiles(),
            _ => !fleet.machine.exec(&fleet.filled(&warning)).unwrap().output.is_empty(),
        };
        while !done() {
            let state = fleet.check("systemctl show --value -p ActiveState UNIT");
            let journal = || fleet.check("journalctl -o cat -u UNIT -n 60");
            // Its job may be waiting for the unit that provisions the prefix.
            let waits = !fleet.check("systemctl show --value -p Job UNIT").is_empty();
            assert!(waits || state == "activating", "{case}: {state}: {}", journal());
            assert!(begin.elapsed() < Duration::from_secs(600), "{case}: {}", journal());
            std::thread::sleep(Duration::from_millis(300));
        }
        let warned = fleet.check(&warning);
        let said = warned.contains(reason) && warned.ends_with("compiling instead");
        assert!(said, "{case}: {warned}");
        fleet.check("systemctl stop UNIT");
        assert_eq!(fleet.store(), "", "{case}");
    }
}

#[test]
fn without_the_public_key_nothing_is_fetched_and_the_message_names_the_file() {
    let fleet = Fleet::boot("binhost-key");
    fleet.configure("/srv/none");
    for (case, prepare, words) in [
        (
            "not there",
            "mv FILE FILE.away",
            "the public key that its packages are signed with cannot be read",
        ),
        ("others can write", "mv FILE.away FILE; chmod g+w FILE", "regular file of root's"),
        ("the owner's", "chmod 644 FILE; chown core FILE", "regular file of root's"),
        ("no key", "chown root FILE; echo nothing > FILE", "no usable OpenPGP public key"),
        (
            "a secret key",
            "echo '-----BEGIN PGP PRIVATE KEY BLOCK-----' > FILE",
            "a secret key in it",
        ),
    ] {
        fleet.check(&prepare.replace("FILE", KEY));
        let (status, journal) = fleet.build();
        assert_eq!(status, "1", "{case}: {journal}");
        let last = journal.split("stage ").last().unwrap();
        assert!(last.contains(words) && last.contains(KEY), "{case}: {journal}");
        assert!(!journal.contains("--getbinpkg"), "{case}: fetched\n{journal}");
        assert_eq!(fleet.store(), "", "{case}");
    }
}
