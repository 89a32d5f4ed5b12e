//! One file's worth of configuration: every key optional, each value already validated.

use std::collections::BTreeMap;
use std::rc::Rc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::note::{Bad, Problem};
use super::settings::Settings;
use super::{origin, place, pool, units, value};

/// What one file or the command line sets: for each key, a function that puts its value into the
/// settings.
#[derive(Clone, Default)]
pub(super) struct Fragment(BTreeMap<&'static str, Put>);

type Put = Rc<dyn Fn(&mut Settings)>;
type Value<'a> = Spanned<DeValue<'a>>;

/// A key, and how its value is read.
struct Key {
    name: &'static str,
    read: fn(&Value<'_>) -> Result<Put, Bad>,
}

/// One row of [`KEYS`]: name, place in [`Settings`], parser.
macro_rules! key {
    ($name:literal, $section:ident.$field:ident, $parse:path) => {
        Key {
            name: $name,
            read: |value| {
                let value = $parse(value)?;
                Ok(Rc::new(move |settings| settings.$section.$field = value.clone().into()))
            },
        }
    };
}

/// Every key there is.
const KEYS: &[Key] = &[
    key!("boot.enabled", boot.enabled, value::enabled),
    key!("boot.when-missing", boot.when_missing, value::when_missing),
    key!("boot.timeout", boot.timeout, value::timeout),
    key!("boot.restart-after-import", boot.restart_after_import, units::names),
    key!("boot.require-pools-for", boot.require_pools_for, units::waiting),
    key!("kernel.build-dir", kernel.build_dir, value::template),
    key!("kernel.image", kernel.image, value::template),
    key!("kernel.tree", kernel.tree, place::strategies),
    key!("kernel.config", kernel.config, value::template),
    key!("kernel.source", kernel.source, place::kernel_source),
    key!("kernel.patches", kernel.patches, place::patches),
    key!("kernel.source-key", kernel.source_key, value::path),
    key!("kernel.allow-unsigned", kernel.allow_unsigned, value::boolean),
    key!("prefix.path", prefix.path, value::path),
    key!("prefix.source", prefix.source, origin::source),
    key!("prefix.sha256", prefix.sha256, origin::sha256),
    key!("prefix.size", prefix.size, origin::size),
    key!("prefix.public-key", prefix.public_key, origin::public_key),
    key!("prefix.allow-unsigned", prefix.allow_unsigned, value::boolean),
    key!("prefix.user", prefix.user, origin::user),
    key!("build.recipe", build.recipe, value::recipe),
    key!("build.jobs", build.jobs, value::jobs),
    key!("build.backoff", build.backoff, value::backoff),
    key!("build.backoff-max", build.backoff_max, value::backoff),
    key!("build.timeout", build.timeout, value::build_timeout),
    key!("portage.atoms", portage.atoms, value::atoms),
    key!("portage.extra-econf", portage.extra_econf, value::configure_arguments),
    key!("portage.binhost", portage.binhost, value::binhost),
    key!("portage.binhost-key", portage.binhost_key, value::path),
    key!("zfs.source", zfs.source, place::zfs_source),
    key!("zfs.source-key", zfs.source_key, value::path),
    key!("zfs.version", zfs.version, value::version),
    key!("zfs.linux-experimental", zfs.linux_experimental, value::boolean),
    key!("zfs.configure", zfs.configure, value::configure_arguments),
    key!("zfs.userland", zfs.userland, value::userland),
    key!("pools.expected", pools.expected, pool::names),
    key!("pools.import-timeout", pools.import_timeout, pool::import_timeout),
];

/// The names of all keys, as in `boot.when-missing`.
pub fn keys() -> impl Iterator<Item = &'static str> {
    KEYS.iter().map(|key| key.name)
}

/// Parses one file. `Ok` carries the unknown keys, `Err` everything that makes the file unusable.
pub(super) fn parse(text: &str) -> Result<(Fragment, Vec<Problem>), Vec<Problem>> {
    let document = DeTable::parse(text).map_err(|e| {
        let offset = e.span().map_or(0, |span| span.start);
        vec![Problem::at(text.as_bytes(), offset, e.message().replace('\n', ", "))]
    })?;
    let mut fragment = Fragment::default();
    let (mut unknown, mut bad) = (Vec::new(), Vec::new());
    let at = |offset, message| Problem::at(text.as_bytes(), offset, message);
    for (section, content) in document.get_ref() {
        let prefix = format!("{}.", section.get_ref());
        let known_section = KEYS.iter().any(|key| key.name.starts_with(&prefix));
        if !known_section {
            let message = format!("unknown key or section {:?}", section.get_ref());
            unknown.push(at(section.span().start, message));
            continue;
        }
        let Some(table) = content.get_ref().as_table() else {
            // `boot = "never"` or `[[boot]]`: the author wanted to set something, so this is an
            // error.
            let name = section.get_ref();
            bad.push(at(section.span().start, format!("{name}: expected a [{name}] table")));
            continue;
        };
        for (name, value) in table {
            let name_in_full = format!("{prefix}{}", name.get_ref());
            let Some(key) = KEYS.iter().find(|key| key.name == name_in_full) else {
                unknown.push(at(name.span().start, format!("unknown key {name_in_full:?}")));
                continue;
            };
            match (key.read)(value) {
                Ok(put) => drop(fragment.0.insert(key.name, put)),
                Err(e) => {
                    let found: String = text[e.span.clone()].chars().take(60).collect();
                    let message = format!("{}: found {found}, expected {}", key.name, e.message);
                    bad.push(at(e.span.start, message));
                }
            }
        }
    }
    if bad.is_empty() { Ok((fragment, unknown)) } else { Err(bad) }
}

impl Fragment {
    /// Sets `key`: `put` writes its value into the settings.
    ///
    /// # Panics
    /// There is no such key.
    pub(super) fn set(&mut self, key: &str, put: impl Fn(&mut Settings) + 'static) {
        let key = KEYS.iter().find(|known| known.name == key).expect("a key of KEYS");
        self.0.insert(key.name, Rc::new(put));
    }

    /// The keys this fragment has.
    pub(super) fn named(&self) -> impl Iterator<Item = &'static str> {
        self.0.keys().copied()
    }

    /// Takes over what `later` says.
    pub(super) fn overlay(&mut self, later: Fragment) {
        self.0.extend(later.0);
    }

    /// Fills the gaps with the defaults.
    pub(super) fn into_settings(self) -> Settings {
        let mut settings = Settings::default();
        self.0.values().for_each(|put| put(&mut settings));
        settings
    }
}
