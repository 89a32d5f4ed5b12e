//! Encrypted datasets whose key is not loaded.

use std::collections::BTreeMap;

use serde::Serialize;

use super::ask::Programs;
use super::{Pool, State, reason};

/// An encryption root without its key (zfs-load-key(8)).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Locked {
    /// The encryption root.
    pub dataset: String,
    /// Its `keylocation`: `prompt`, or a URL.
    pub key_location: String,
    /// Whether a volume, or a file system that somebody mounts here, needs the key.
    pub wanted: bool,
}

impl Locked {
    /// Whether the boot should have loaded the key. A key that a person types is not missing until
    /// somebody has been asked for it.
    pub fn matters(&self) -> bool {
        self.wanted && self.key_location != "prompt"
    }
}

/// Fills in `locked` for each of `pools` that can be asked.
pub(super) fn look(pools: &mut [Pool], programs: &mut Programs) {
    // A suspended pool does not answer.
    let answers = [State::Online, State::Degraded, State::ReadOnly];
    let asked = |pool: &&mut Pool| answers.contains(&pool.state);
    let names: Vec<String> = pools.iter_mut().filter(asked).map(|pool| pool.name.clone()).collect();
    if names.is_empty() {
        return;
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut roots = Roots::default();
    if let Err(why) = programs.keys(&names, |line| roots.line(line)) {
        // A pool that is not healthy keeps its worse reason.
        for pool in pools.iter_mut().filter(asked).filter(|pool| pool.reason.is_none()) {
            *pool = pool.clone().because(reason::keys_unknown(&pool.name, &why));
        }
        return;
    }
    for pool in pools.iter_mut().filter(asked) {
        let locked = roots.of(&pool.name);
        say(pool, &locked);
        pool.locked = Some(locked);
    }
}

/// Sets the reason, unless the pool has a worse one.
fn say(pool: &mut Pool, locked: &[Locked]) {
    let missing: Vec<&Locked> = locked.iter().filter(|l| l.wanted).collect();
    if missing.is_empty() || pool.reason.is_some() {
        return;
    }
    let one = |l: &&Locked| format!("{} (key: {})", l.dataset, l.key_location);
    let names: Vec<String> = missing.iter().map(one).collect();
    let load = |l: &&Locked| format!("zfs load-key {}", reason::quoted(&l.dataset));
    let commands: Vec<String> = missing.iter().map(load).collect();
    pool.reason = Some(format!("encrypted, and the key is not loaded: {}", names.join(", ")));
    pool.what_to_do = Some(format!("{}; then: zfs mount -a", commands.join("; ")));
}

/// Encryption roots by name: where their key is, and whether it is wanted.
#[derive(Debug, Default)]
struct Roots(BTreeMap<String, (String, bool)>);

impl Roots {
    /// A line of `zfs list`: name, encryptionroot, keystatus, keylocation, canmount, mountpoint,
    /// zoned; the last three are `-` for a volume. A root comes before what inherits from it.
    fn line(&mut self, line: &str) {
        let columns: Vec<&str> = line.split('\t').collect();
        let [name, root, "unavailable", location, canmount, point, zoned] = columns[..] else {
            return;
        };
        let entry = self.0.entry(root.to_owned()).or_default();
        if name == root {
            location.clone_into(&mut entry.0);
        }
        // Nobody mounts a dataset here that exists only for those below it, or for a container
        // (zfs_is_mountable of libzfs). Whoever asks for a `legacy` one mounts it, and needs its
        // key.
        entry.1 |= !matches!(canmount, "off" | "noauto") && point != "none" && zoned != "on";
    }

    fn of(&self, pool: &str) -> Vec<Locked> {
        let in_pool = |root: &str| root.split('/').next() == Some(pool);
        let locked = |(root, (location, wanted)): (&String, &(String, bool))| Locked {
            dataset: root.clone(),
            key_location: location.clone(),
            wanted: *wanted,
        };
        self.0.iter().filter(|(root, _)| in_pool(root)).map(locked).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_wanted_by_what_is_mounted_by_itself_and_by_volumes() {
        let mut roots = Roots::default();
        for line in include_str!("../../tests/pools/zfs-2.3.2/keys.txt").lines() {
            roots.line(line);
        }
        roots.line("cannot open 'x': I/O error");
        assert_eq!(roots.of("tank"), []);
        let found = roots.of("e");
        let shown: Vec<_> =
            found.iter().map(|l| (&*l.dataset, &*l.key_location, l.wanted, l.matters())).collect();
        let file = "file:///root/key";
        assert_eq!(
            shown,
            [
                ("e/asked", "prompt", true, false),
                ("e/none", file, false, false),
                ("e/off", file, false, false),
                ("e/secret", file, true, true),
                ("e/zone", file, false, false),
            ]
        );
    }

    #[test]
    fn the_commands_that_unlock_are_named() {
        let locked = |dataset: &str, location: &str| Locked {
            dataset: dataset.to_owned(),
            key_location: location.to_owned(),
            wanted: true,
        };
        let mut pool = Pool::new("e", None, State::Online);
        let both = [locked("e/a b", "prompt"), locked("e/secret", "file:///root/key")];
        pool.locked = Some(both[..1].to_vec());
        assert!(pool.sound(), "nobody was asked yet");
        pool.locked = Some(both.to_vec());
        assert!(!pool.sound());
        say(&mut pool, &both);
        let reason = "encrypted, and the key is not loaded: e/a b (key: prompt), e/secret (key: \
                      file:///root/key)";
        assert_eq!(pool.reason.as_deref(), Some(reason));
        let todo = "zfs load-key 'e/a b'; zfs load-key e/secret; then: zfs mount -a";
        assert_eq!(pool.what_to_do.as_deref(), Some(todo));
    }
}
