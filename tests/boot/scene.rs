//! What all scenarios share: a published tree, a pool with a file in it, and the questions that
//! every boot is asked.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use lab::disk::{State, StateDisks, blank, usr};
use lab::published::{Published, publish};
use lab::root::{Root, root};
use lab::tool::run;
use lab::turns::Once;
use lab::vm::{Boot, Disk, VmSpec, boot};

/// What was written into the pool.
pub const FILE: &str = "written once";
/// Where OpenZFS lists the pools to import.
pub const CACHE: &str = "/etc/zfs/zpool.cache";
/// What is in /etc/key where a pool is made.
pub const KEY: [u8; 32] = [7; 32];
/// Nothing is built in a virtual machine where that is not the scenario: it takes over an hour.
pub const NEVER: &str = "zfs_prefix.when_missing=never";

/// Everything below the store's two directories: kinds, modes, owners, names, link targets and
/// contents. Not the directories themselves: tmpfiles.d makes them at boot.
const DIGEST: &str = "{ cd /var/lib/zfs-prefix && \
    find store current -mindepth 1 -printf '%y %m %U %G %p %l\\n' | LC_ALL=C sort && \
    find store current -type f -print0 | LC_ALL=C sort -z | xargs -0r b2sum; } 2>/dev/null | b2sum";

/// multi-user.target does not wait for zfs-pools.service.
const QUESTIONS: &str = r#"
for _ in $(seq 300); do systemctl list-jobs --no-legend zfs-pools.service | grep -q . || break; sleep .2; done
probe targets systemctl is-active sysinit.target local-fs.target basic.target multi-user.target
probe cycles journalctl -b -q -o cat -g 'ordering cycle'
probe load systemctl show zfs-load.service -p ActiveState,Result,ExecMainStatus,ExecCondition
probe said journalctl -b -q -o json -t zfs-load -u zfs-load.service
probe failed systemctl --failed --plain --no-legend --full
probe modules sed -nE 's/^(zfs|spl) .*/\1/p' /proc/modules
probe active readlink /run/zfs-prefix/active
"#;
/// What may hang where the kernel does not answer for one of the pools.
const POOL_QUESTIONS: &str = "
probe pool zpool list -H -o name,health
probe file cat /tank/file
";

/// What all tests share and none changes.
pub struct Shared {
    pub root: Root,
    pub tree: Published,
    state: State,
    usr: PathBuf,
    pool: PathBuf,
    _work: tempfile::TempDir,
}

/// The shared part, and a place for one test's own files.
pub struct Scene {
    shared: &'static Shared,
    work: tempfile::TempDir,
}

impl Deref for Scene {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        self.shared
    }
}

impl Scene {
    /// Makes the shared part, the first time.
    pub fn get() -> Scene {
        static SHARED: Once<Result<Shared, String>> = Once::new();
        match SHARED.get(|| Shared::make().map_err(|e| format!("{e:#}"))) {
            Ok(shared) => Scene { shared, work: lab::tmp::scratch("boot-") },
            Err(error) => panic!("the scene could not be made: {error}"),
        }
    }
}

impl Shared {
    fn make() -> Result<Shared> {
        let root = root()?;
        let work = lab::tmp::dir("boot-shared-")?;
        let usr = usr(&root, Some(&lab::stage().canonicalize()?))?;
        let state = State::fresh(&root, &work.path().join("published"))?;
        let tree = publish(&root, &state)?;
        let pool = Pool::make(&root, "pool", "")?;
        state.write(CACHE, &pool.cache)?;
        Ok(Shared { root, tree, state, usr, pool: pool.image, _work: work })
    }

    fn spec(&self, name: &str, disks: &StateDisks, cmdline: &str, script: String) -> VmSpec {
        spec(name, &self.usr, disks, &self.pool, cmdline, script)
    }
}

fn spec(
    name: &str,
    usr: &Path,
    disks: &StateDisks,
    pool: &Path,
    cmdline: &str,
    script: String,
) -> VmSpec {
    VmSpec {
        name: format!("boot-{name}"),
        cmdline: cmdline.into(),
        usr: usr.to_owned(),
        state: disks.clone(),
        keep_state: false,
        disks: vec![Disk { image: pool.to_owned(), serial: "pool".into(), keep: false }],
        script,
        // Ten times what a quiet machine takes: others may work on this one.
        timeout: Duration::from_secs(900),
        network: false,
        live: false,
    }
}

/// A pool `tank` that OpenZFS's own modules and programs have made, with nothing of ours: kept.
pub struct Pool {
    /// The disk.
    pub image: PathBuf,
    /// The cache file that names it.
    pub cache: Vec<u8>,
    made: Boot,
}

impl Pool {
    /// With [`FILE`] in it, and what `more` does; its probes have to succeed.
    pub fn make(root: &Root, name: &str, more: &str) -> Result<Pool> {
        let modules = lab::emerge::modules(root)?;
        let script = format!(
            "set -e; insmod /opt/spl.ko; insmod /opt/zfs.ko; set +e; systemctl start zfs-zed\n\
             probe create zpool create -O mountpoint=/tank tank /dev/disk/by-id/virtio-pool\n\
             probe write sh -c 'echo {FILE} > /tank/file'\n{more}\nzpool sync; sync\n"
        );
        let inputs = [root.dir.as_os_str(), modules.as_os_str()].map(|p| p.as_encoded_bytes());
        let inputs = [inputs[0], inputs[1], script.as_bytes()];
        let dir = lab::cache::artifact(name, &inputs, |to| {
            fs::create_dir(to)?;
            Pool::boot(root, name, &modules, script.clone(), to)
        })?;
        let (said, log) = (fs::read_to_string(dir.join("said"))?, PathBuf::new());
        let cache = fs::read(dir.join("zpool.cache"))?;
        Ok(Pool { image: dir.join("pool.img"), cache, made: Boot { said, log } })
    }

    fn boot(root: &Root, name: &str, modules: &Path, script: String, to: &Path) -> Result<()> {
        let work = lab::tmp::dir("pool-")?;
        let state = State::fresh(root, &work.path().join("state"))?;
        for module in ["spl.ko", "zfs.ko"] {
            state.write(&format!("/opt/{module}"), fs::read(modules.join(module))?)?;
        }
        state.write("/etc/key", KEY)?;
        let image = to.join("pool.img");
        blank(&image, 512 << 20)?;
        let disks = state.disks(work.path())?;
        let spec = keep(spec(name, &usr(root, None)?, &disks, &image, "", script));
        let boot = boot(root, &spec)?;
        let failed = boot.said.lines().find(|l| l.starts_with("@@end ") && !l.ends_with(" 0"));
        ensure!(failed.is_none(), "{failed:?}: {}", boot.log.display());
        boot.probe("write")?;
        let cache = to.join("zpool.cache");
        let dump = format!("dump {CACHE} {}", cache.display());
        run(Command::new("debugfs").args(["-R", &dump]).arg(&disks.root))?;
        ensure!(fs::metadata(&cache).is_ok_and(|m| m.len() > 0), "no zpool.cache after the boot");
        Ok(fs::write(to.join("said"), boot.said)?)
    }

    /// The output of a probe of `more`.
    pub fn output(&self, probe: &str) -> String {
        self.made.probe(probe).unwrap().output
    }
}

impl Scene {
    /// A state with the tree published and the pool known, for a scenario to change.
    pub fn state(&self) -> State {
        self.state.copy(&self.work.path().join("state")).unwrap()
    }

    /// The same with nothing published, and with a prefix.
    pub fn state_without_tree(&self) -> State {
        let state = self.state();
        fs::remove_dir_all(state.path("/var/lib/zfs-prefix")).unwrap();
        lab::prefix::install(&state).unwrap();
        state
    }

    /// Boots `state`, of which a copy is used; nothing that the boot writes is kept.
    pub fn boot(&self, name: &str, state: &State, cmdline: &str, script: &str) -> Seen {
        let disks = state.disks(&self.work.path().join("disks")).unwrap();
        self.run(&self.spec(name, &disks, cmdline, questions(script)), state)
    }

    /// A boot with more disks, of the images that [`State::disks`] made; `kept`: the next boot
    /// finds what this one writes.
    pub fn boot_with(&self, boot: &With<'_>) -> Seen {
        self.boot_asking(boot, questions(boot.script))
    }

    /// The same where a pool hangs in the kernel: nobody is asked who may hang with it.
    pub fn boot_hanging(&self, boot: &With<'_>) -> Seen {
        self.boot_asking(boot, without_pools(boot.script))
    }

    fn boot_asking(&self, boot: &With<'_>, script: String) -> Seen {
        let mut spec = self.spec(boot.name, boot.own, boot.cmdline, script);
        spec.disks.extend_from_slice(boot.disks);
        spec.keep_state = boot.kept;
        spec.disks.iter_mut().skip(1).for_each(|d| d.keep = boot.kept);
        self.run(&spec, boot.state)
    }

    /// The images of `state`, for [`Scene::boot_with`].
    pub fn disks(&self, state: &State) -> StateDisks {
        state.disks(&self.work.path().join("disks")).unwrap()
    }

    /// Boots `state` as often as there are scripts; what a boot writes is there in the next one.
    pub fn boots(&self, name: &str, state: &State, cmdline: &str, scripts: &[&str]) -> Vec<Seen> {
        let disks = state.disks(&self.work.path().join("disks")).unwrap();
        let pool = self.work.path().join("pool-copy.img");
        run(Command::new("cp").arg("--sparse=always").arg(&self.pool).arg(&pool)).unwrap();
        let boot = |(n, script): (usize, &&str)| {
            let name = format!("{name}-{}", n + 1);
            let mut spec = keep(self.spec(&name, &disks, cmdline, questions(script)));
            spec.disks[0].image.clone_from(&pool);
            self.run(&spec, state)
        };
        scripts.iter().enumerate().map(boot).collect()
    }

    /// Boots `state` with another pool; nothing that the boot writes is kept.
    pub fn boot_pool(&self, name: &str, pool: &Pool, state: &State, script: &str) -> Seen {
        let disks = state.disks(&self.work.path().join("disks")).unwrap();
        let mut spec = self.spec(name, &disks, NEVER, questions(script));
        spec.disks[0].image.clone_from(&pool.image);
        self.run(&spec, state)
    }

    /// Boots `state` with other files in /usr; nothing that the boot writes is kept.
    pub fn boot_usr(&self, name: &str, usr: &Path, state: &State) -> Seen {
        let disks = state.disks(&self.work.path().join("disks")).unwrap();
        let mut spec = self.spec(name, &disks, NEVER, questions(""));
        spec.usr = usr.to_owned();
        self.run(&spec, state)
    }

    /// Boots another system with this scene's kernel and the pool in `image`; what the boot writes is
    /// there in the next one, also in the store.
    pub fn boot_other(
        &self,
        name: &str,
        usr: &Path,
        own: &StateDisks,
        image: &Path,
        script: &str,
    ) -> Seen {
        let mut spec = keep(self.spec(name, own, "", questions(script)));
        spec.disks[0].image = image.to_owned();
        spec.usr = usr.to_owned();
        (spec.network, spec.timeout) = (true, Duration::from_secs(1800));
        let boot = boot(&self.root, &spec).unwrap();
        let digest = boot.probe("store").unwrap().output;
        let seen = Seen { boot, digest };
        seen.reached();
        seen
    }

    /// An image of /usr with other files than the scene's.
    pub fn usr(&self, root: &Root, staged: &Path) -> PathBuf {
        usr(root, Some(staged)).unwrap()
    }

    /// For another system's files.
    pub fn work(&self) -> &Path {
        self.work.path()
    }

    fn run(&self, spec: &VmSpec, state: &State) -> Seen {
        let local = DIGEST.replace("/var/lib", &state.path("/var/lib").display().to_string());
        let digest = run(Command::new("sh").arg("-c").arg(local)).unwrap();
        let seen = Seen { boot: boot(&self.root, spec).unwrap(), digest: digest.trim().to_owned() };
        seen.reached();
        seen
    }
}

fn keep(mut spec: VmSpec) -> VmSpec {
    spec.keep_state = true;
    spec.disks.iter_mut().for_each(|d| d.keep = true);
    spec
}

fn questions(script: &str) -> String {
    without_pools(&format!("{POOL_QUESTIONS}{script}"))
}

fn without_pools(script: &str) -> String {
    format!("{QUESTIONS}probe store sh -c {DIGEST:?}\n{script}")
}

/// One boot of [`Scene::boot_with`].
pub struct With<'a> {
    pub name: &'a str,
    pub state: &'a State,
    pub own: &'a StateDisks,
    pub disks: &'a [Disk],
    pub cmdline: &'a str,
    pub script: &'a str,
    pub kept: bool,
}

/// What a boot showed.
pub struct Seen {
    boot: Boot,
    /// The store's digest before it.
    digest: String,
}

impl Seen {
    /// The output of a probe that has to be there.
    pub fn output(&self, probe: &str) -> String {
        self.boot.probe(probe).unwrap().output
    }

    /// The exit status of a probe.
    pub fn status(&self, probe: &str) -> i32 {
        self.boot.probe(probe).unwrap().status
    }

    /// `systemctl show` of a probe.
    pub fn properties(&self, probe: &str) -> BTreeMap<String, String> {
        let text = self.output(probe);
        let pairs = text.lines().filter_map(|l| l.split_once('='));
        pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    /// The journal entries of a probe with `-o json`.
    pub fn journal(&self, probe: &str) -> Vec<Value> {
        self.output(probe).lines().map(|l| serde_json::from_str(l).expect(l)).collect()
    }

    /// The names of the failed units, without the boot's own test script.
    pub fn failed(&self) -> Vec<String> {
        let text = self.output("failed");
        text.lines().filter_map(|l| l.split_whitespace().next()).map(str::to_owned).collect()
    }

    /// Whatever the scenario: the whole boot came up, and systemd broke no ordering cycle.
    fn reached(&self) {
        let log = self.boot.log.display();
        assert_eq!(self.output("targets"), "active\n".repeat(4).trim_end(), "{log}");
        assert_eq!(self.output("cycles"), "", "{log}");
        assert_eq!(self.output("store"), self.digest, "the store has changed: {log}");
    }

    /// The pool is there as it was left.
    pub fn imported(&self) {
        let log = self.boot.log.display();
        assert_eq!(self.output("pool"), "tank\tONLINE", "{log}");
        assert_eq!(self.output("file"), FILE, "{log}");
        assert_eq!(self.output("modules").lines().count(), 2, "{log}");
    }

    /// Nothing of the tree went into the kernel, and no pool was touched.
    pub fn nothing_loaded(&self) {
        assert_eq!(self.output("modules"), "", "modules in the kernel");
        assert_ne!(self.status("active"), 0, "/run/zfs-prefix/active is there");
        assert_ne!(self.status("pool"), 0, "zpool list: {}", self.output("pool"));
        assert_ne!(self.status("file"), 0, "the file is there");
    }

    /// The one entry of zfs-load in the journal of its unit: its message. It carries this
    /// MESSAGE_ID and kernel.
    pub fn said(&self, message_id: &str, release: &str) -> String {
        let said = self.journal("said");
        assert_eq!(said.len(), 1, "zfs-load said {said:#?}");
        assert_eq!(said[0]["MESSAGE_ID"], message_id, "{said:#?}");
        assert_eq!(said[0]["ZFS_PREFIX_KERNEL"], release, "{said:#?}");
        said[0]["MESSAGE"].as_str().expect("MESSAGE is text").to_owned()
    }

    /// zfs-load.service failed with this exit status, and the one that misses the pool, and no
    /// other; nothing was loaded. Its message.
    pub fn refused(&self, exit: u8, release: &str) -> String {
        let load = self.properties("load");
        assert_eq!(load["ActiveState"], "failed", "{load:?}");
        assert_eq!(load["ExecMainStatus"], exit.to_string(), "{load:?}");
        assert_eq!(self.failed(), ["zfs-load.service", "zfs-pools.service"]);
        self.nothing_loaded();
        self.said(zfs_prefix::log::id::LOAD_FAILED, release)
    }

    /// zfs-load.service was skipped: inactive, exit status 3 of its condition; no unit failed but
    /// the one that misses the pool. Its message.
    pub fn skipped(&self, release: &str) -> String {
        let load = self.properties("load");
        assert_eq!(load["ActiveState"], "inactive", "{load:?}");
        assert_eq!(load["Result"], "exec-condition", "{load:?}");
        assert!(load["ExecCondition"].contains("status=3"), "{load:?}");
        assert_eq!(self.failed(), ["zfs-pools.service"]);
        self.nothing_loaded();
        self.said(zfs_prefix::log::id::NOTHING_PUBLISHED, release)
    }
}

/// All of `needles` are in `text`.
pub fn contains_all(text: &str, needles: &[&str]) {
    for needle in needles {
        assert!(text.contains(needle), "no {needle:?} in: {text}");
    }
}

/// `path` as a machine shows it.
pub fn shown(path: &Path) -> String {
    path.display().to_string()
}
