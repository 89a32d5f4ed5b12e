//! One file's worth of configuration: every key optional, each value already validated.

use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::choice::{Enabled, Recipe, Strategy, Userland, WhenMissing};
use super::location::{Pinned, PublicKey, Source};
use super::note::{Bad, Problem};
use super::settings::{Boot, Build, Kernel, Pools, Portage, Prefix, Settings, Zfs};
use super::{origin, place, pool, units, value};

/// What one file or the command line says.
#[derive(Clone, Debug, Default)]
pub(super) struct Fragment {
    pub(super) enabled: Option<Enabled>,
    pub(super) when_missing: Option<WhenMissing>,
    timeout: Option<Duration>,
    restart_after_import: Option<Vec<String>>,
    require_pools_for: Option<Vec<String>>,
    build_dir: Option<String>,
    image: Option<String>,
    tree: Option<Vec<Strategy>>,
    kernel_config: Option<String>,
    kernel_source: Option<Pinned>,
    patches: Option<Vec<Pinned>>,
    kernel_key: Option<PathBuf>,
    kernel_unsigned: Option<bool>,
    prefix: Option<PathBuf>,
    prefix_source: Option<Source>,
    prefix_sha256: Option<String>,
    prefix_size: Option<u64>,
    prefix_key: Option<PublicKey>,
    allow_unsigned: Option<bool>,
    prefix_user: Option<String>,
    recipe: Option<Recipe>,
    jobs: Option<u32>,
    backoff: Option<Duration>,
    backoff_max: Option<Duration>,
    atoms: Option<Vec<String>>,
    extra_econf: Option<Vec<String>>,
    binhost: Option<String>,
    binhost_key: Option<PathBuf>,
    source: Option<Pinned>,
    zfs_key: Option<PathBuf>,
    version: Option<String>,
    linux_experimental: Option<bool>,
    configure: Option<Vec<String>>,
    userland: Option<Userland>,
    pools: Option<Vec<String>>,
    import_timeout: Option<Duration>,
}

type Value<'a> = Spanned<DeValue<'a>>;

/// A key, how its value gets into a fragment, and whether a fragment has it.
struct Key {
    name: &'static str,
    read: fn(&mut Fragment, &Value<'_>) -> Result<(), Bad>,
    is_set: fn(&Fragment) -> bool,
}

/// One row of [`KEYS`]: name, field, parser.
macro_rules! key {
    ($name:literal, $field:ident, $parse:path) => {
        Key {
            name: $name,
            read: |fragment, value| {
                fragment.$field = Some($parse(value)?);
                Ok(())
            },
            is_set: |fragment| fragment.$field.is_some(),
        }
    };
}

/// Every key there is.
const KEYS: &[Key] = &[
    key!("boot.enabled", enabled, value::enabled),
    key!("boot.when-missing", when_missing, value::when_missing),
    key!("boot.timeout", timeout, value::timeout),
    key!("boot.restart-after-import", restart_after_import, units::names),
    key!("boot.require-pools-for", require_pools_for, units::waiting),
    key!("kernel.build-dir", build_dir, value::template),
    key!("kernel.image", image, value::template),
    key!("kernel.tree", tree, place::strategies),
    key!("kernel.config", kernel_config, value::template),
    key!("kernel.source", kernel_source, place::kernel_source),
    key!("kernel.patches", patches, place::patches),
    key!("kernel.source-key", kernel_key, value::path),
    key!("kernel.allow-unsigned", kernel_unsigned, value::boolean),
    key!("prefix.path", prefix, value::path),
    key!("prefix.source", prefix_source, origin::source),
    key!("prefix.sha256", prefix_sha256, origin::sha256),
    key!("prefix.size", prefix_size, origin::size),
    key!("prefix.public-key", prefix_key, origin::public_key),
    key!("prefix.allow-unsigned", allow_unsigned, value::boolean),
    key!("prefix.user", prefix_user, origin::user),
    key!("build.recipe", recipe, value::recipe),
    key!("build.jobs", jobs, value::jobs),
    key!("build.backoff", backoff, value::backoff),
    key!("build.backoff-max", backoff_max, value::backoff),
    key!("portage.atoms", atoms, value::atoms),
    key!("portage.extra-econf", extra_econf, value::configure_arguments),
    key!("portage.binhost", binhost, value::binhost),
    key!("portage.binhost-key", binhost_key, value::path),
    key!("zfs.source", source, place::zfs_source),
    key!("zfs.source-key", zfs_key, value::path),
    key!("zfs.version", version, value::version),
    key!("zfs.linux-experimental", linux_experimental, value::boolean),
    key!("zfs.configure", configure, value::configure_arguments),
    key!("zfs.userland", userland, value::userland),
    key!("pools.expected", pools, pool::names),
    key!("pools.import-timeout", import_timeout, pool::import_timeout),
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
            // `boot = "never"` or `[[boot]]`: whoever wrote that meant something by it.
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
            if let Err(e) = (key.read)(&mut fragment, value) {
                let found: String = text[e.span.clone()].chars().take(60).collect();
                let message = format!("{}: found {found}, expected {}", key.name, e.message);
                bad.push(at(e.span.start, message));
            }
        }
    }
    if bad.is_empty() { Ok((fragment, unknown)) } else { Err(bad) }
}

impl Fragment {
    /// The keys this fragment has.
    pub(super) fn named(&self) -> Vec<&'static str> {
        KEYS.iter().filter(|key| (key.is_set)(self)).map(|key| key.name).collect()
    }

    /// Takes over what `later` says.
    pub(super) fn overlay(&mut self, later: Fragment) {
        fn take<T>(mine: &mut Option<T>, theirs: Option<T>) {
            if theirs.is_some() {
                *mine = theirs;
            }
        }
        take(&mut self.enabled, later.enabled);
        take(&mut self.when_missing, later.when_missing);
        take(&mut self.timeout, later.timeout);
        take(&mut self.restart_after_import, later.restart_after_import);
        take(&mut self.require_pools_for, later.require_pools_for);
        take(&mut self.build_dir, later.build_dir);
        take(&mut self.image, later.image);
        take(&mut self.tree, later.tree);
        take(&mut self.kernel_config, later.kernel_config);
        take(&mut self.kernel_source, later.kernel_source);
        take(&mut self.patches, later.patches);
        take(&mut self.kernel_key, later.kernel_key);
        take(&mut self.kernel_unsigned, later.kernel_unsigned);
        take(&mut self.prefix, later.prefix);
        take(&mut self.prefix_source, later.prefix_source);
        take(&mut self.prefix_sha256, later.prefix_sha256);
        take(&mut self.prefix_size, later.prefix_size);
        take(&mut self.prefix_key, later.prefix_key);
        take(&mut self.allow_unsigned, later.allow_unsigned);
        take(&mut self.prefix_user, later.prefix_user);
        take(&mut self.recipe, later.recipe);
        take(&mut self.jobs, later.jobs);
        take(&mut self.backoff, later.backoff);
        take(&mut self.backoff_max, later.backoff_max);
        take(&mut self.atoms, later.atoms);
        take(&mut self.extra_econf, later.extra_econf);
        take(&mut self.binhost, later.binhost);
        take(&mut self.binhost_key, later.binhost_key);
        take(&mut self.source, later.source);
        take(&mut self.zfs_key, later.zfs_key);
        take(&mut self.version, later.version);
        take(&mut self.linux_experimental, later.linux_experimental);
        take(&mut self.configure, later.configure);
        take(&mut self.userland, later.userland);
        take(&mut self.pools, later.pools);
        take(&mut self.import_timeout, later.import_timeout);
    }

    /// Fills the gaps with the defaults.
    pub(super) fn into_settings(self) -> Settings {
        let d = Settings::default();
        Settings {
            boot: Boot {
                enabled: self.enabled.unwrap_or(d.boot.enabled),
                when_missing: self.when_missing.unwrap_or(d.boot.when_missing),
                timeout: self.timeout.unwrap_or(d.boot.timeout),
                restart_after_import: self.restart_after_import.unwrap_or_default(),
                require_pools_for: self.require_pools_for.unwrap_or_default(),
            },
            kernel: Kernel {
                build_dir: self.build_dir,
                image: self.image,
                tree: self.tree.unwrap_or(d.kernel.tree),
                config: self.kernel_config,
                source: self.kernel_source,
                patches: self.patches.unwrap_or_default(),
                source_key: self.kernel_key,
                allow_unsigned: self.kernel_unsigned.unwrap_or(d.kernel.allow_unsigned),
            },
            prefix: Prefix {
                path: self.prefix.unwrap_or(d.prefix.path),
                source: self.prefix_source,
                sha256: self.prefix_sha256,
                size: self.prefix_size,
                public_key: self.prefix_key,
                allow_unsigned: self.allow_unsigned.unwrap_or(d.prefix.allow_unsigned),
                user: self.prefix_user,
            },
            build: Build {
                recipe: self.recipe.unwrap_or(d.build.recipe),
                jobs: self.jobs,
                backoff: self.backoff.unwrap_or(d.build.backoff),
                backoff_max: self.backoff_max.unwrap_or(d.build.backoff_max),
            },
            portage: Portage {
                atoms: self.atoms.unwrap_or(d.portage.atoms),
                extra_econf: self.extra_econf.unwrap_or_default(),
                binhost: self.binhost,
                binhost_key: self.binhost_key.unwrap_or(d.portage.binhost_key),
            },
            zfs: Zfs {
                source: self.source,
                source_key: self.zfs_key,
                version: self.version,
                linux_experimental: self.linux_experimental.unwrap_or(d.zfs.linux_experimental),
                configure: self.configure.unwrap_or_default(),
                userland: self.userland.unwrap_or_default(),
            },
            pools: Pools {
                expected: self.pools.unwrap_or_default(),
                import_timeout: self.import_timeout.unwrap_or(d.pools.import_timeout),
            },
        }
    }
}
