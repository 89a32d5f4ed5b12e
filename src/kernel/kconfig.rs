//! A kernel's configuration: the text of `.config`, /proc/config.gz or /boot/config-RELEASE
//! (Documentation/kbuild/kconfig.rst; confdata.c of scripts/kconfig writes it).

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result, bail};

/// The largest configurations have half a MiB; a bound against hostile input.
pub const MAX_CONFIG: usize = 16 * 1024 * 1024;

/// A parsed configuration. It names symbols without `CONFIG_`, as Kconfig does. Queries accept the
/// prefix too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kconfig {
    options: BTreeMap<String, String>,
    version: Option<String>,
}

/// A symbol with different values in two configurations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The symbol, without `CONFIG_`.
    pub name: String,
    /// Its value before, as it stands in the file; `None` when it is not set.
    pub given: Option<String>,
    /// Its value after.
    pub prepared: Option<String>,
}

impl Kconfig {
    /// Parses the text of a configuration. If a symbol occurs twice, the last value counts, as in
    /// Kconfig.
    ///
    /// # Errors
    /// The text is larger than [`MAX_CONFIG`], is not UTF-8, has no symbol at all, or has a line
    /// that is neither an assignment nor a comment. The error names the number of that line.
    pub fn parse(bytes: &[u8]) -> Result<Kconfig> {
        if bytes.len() > MAX_CONFIG {
            bail!("kernel configuration: larger than {MAX_CONFIG} bytes");
        }
        let text = std::str::from_utf8(bytes).context("kernel configuration: not UTF-8 text")?;
        let mut config = Kconfig::default();
        for (index, line) in text.lines().enumerate() {
            config
                .line(line)
                .with_context(|| format!("kernel configuration: line {}", index + 1))?;
        }
        if config.options.is_empty() {
            bail!("kernel configuration: no CONFIG_ symbol in it");
        }
        Ok(config)
    }

    fn line(&mut self, line: &str) -> Result<()> {
        let line = line.trim_end();
        if let Some(comment) = line.strip_prefix('#') {
            let comment = comment.trim();
            if let Some(name) = comment.strip_suffix(" is not set").and_then(symbol) {
                self.options.insert(name.to_owned(), "n".to_owned());
            } else if self.version.is_none() {
                self.version = kernel_version(comment).map(str::to_owned);
            }
            return Ok(());
        }
        if line.is_empty() {
            return Ok(());
        }
        let shown = || line.chars().take(80).collect::<String>();
        let pair = line.split_once('=').and_then(|(name, value)| Some((symbol(name)?, value)));
        let (name, value) = pair.with_context(|| format!("{:?} is no option", shown()))?;
        if value.is_empty()
            || (value.starts_with('"') && (value.len() < 2 || !value.ends_with('"')))
        {
            bail!("{:?} has no value", shown());
        }
        self.options.insert(name.to_owned(), value.to_owned());
        Ok(())
    }

    /// The value of a symbol: `y`, `m`, `n` (also of one that "is not set"), a number, or a string
    /// without its quotes (escapes as they stand). `None` when the file does not mention it.
    pub fn get(&self, name: &str) -> Option<&str> {
        let value = self.raw(name)?;
        Some(value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value))
    }

    /// Whether the symbol is `y` or `m`.
    pub fn is_on(&self, name: &str) -> bool {
        matches!(self.raw(name), Some("y" | "m"))
    }

    /// The kernel's own version in the first comment ("Linux/x86 6.1.174 Kernel Configuration"):
    /// that of the source, which need not be the beginning of the release.
    pub fn kernel_version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// How many symbols are mentioned.
    pub fn len(&self) -> usize {
        self.options.len()
    }

    /// Never true: parsing refuses an empty configuration.
    pub fn is_empty(&self) -> bool {
        self.options.is_empty()
    }

    /// The symbols that are set, sorted, one a line, without those that `ignored` names. Two texts
    /// that configure the same kernel have the same canonical form.
    pub fn canonical(&self, ignored: impl Fn(&str) -> bool) -> String {
        let set = self.options.iter().filter(|(name, value)| *value != "n" && !ignored(name));
        set.map(|(name, value)| format!("{name}={value}\n")).collect()
    }

    fn raw(&self, name: &str) -> Option<&str> {
        self.options.get(name.strip_prefix("CONFIG_").unwrap_or(name)).map(String::as_str)
    }

    /// The value as it stands in the file; `None` if the symbol is not set or not mentioned. The
    /// file omits a symbol when a dependency is not met. To the kernel both cases are the same.
    fn set(&self, name: &str) -> Option<&str> {
        self.raw(name).filter(|value| *value != "n")
    }
}

/// The symbols that differ between `given` and `prepared`, sorted by name. A symbol that is not set
/// and one that is not mentioned are equal.
pub fn diff(given: &Kconfig, prepared: &Kconfig) -> Vec<Change> {
    let mut names: Vec<&String> = given.options.keys().chain(prepared.options.keys()).collect();
    names.sort();
    names.dedup();
    let changed = names.into_iter().filter(|name| given.set(name) != prepared.set(name));
    changed
        .map(|name| Change {
            name: name.clone(),
            given: given.set(name).map(str::to_owned),
            prepared: prepared.set(name).map(str::to_owned),
        })
        .collect()
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "not set".to_owned());
        write!(f, "CONFIG_{}: {} -> {}", self.name, shown(&self.given), shown(&self.prepared))
    }
}

/// The name of `CONFIG_NAME`.
fn symbol(word: &str) -> Option<&str> {
    let name = word.strip_prefix("CONFIG_")?;
    let letter = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (!name.is_empty() && name.bytes().all(letter)).then_some(name)
}

/// `6.1.174` of `Linux/x86 6.1.174 Kernel Configuration`.
fn kernel_version(comment: &str) -> Option<&str> {
    let words = comment.strip_prefix("Linux/")?.strip_suffix(" Kernel Configuration")?;
    words.split_once(' ').map(|(_, version)| version.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "#\n# Automatically generated file; DO NOT EDIT.\n\
        # Linux/x86 6.1.174 Kernel Configuration\n#\nCONFIG_CC_VERSION_TEXT=\"gcc \\\"12\\\"\"\n\
        CONFIG_SMP=y\nCONFIG_EXT4_FS=m\n# CONFIG_KVM is not set\nCONFIG_NR_CPUS=64\n\n\
        # end of General setup\nCONFIG_EMPTY=\"\"\n";

    fn parse(text: &str) -> Kconfig {
        Kconfig::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn values_are_read_as_kconfig_writes_them() {
        let config = parse(TEXT);
        for (name, value, on) in [
            ("SMP", Some("y"), true),
            ("CONFIG_SMP", Some("y"), true),
            ("EXT4_FS", Some("m"), true),
            ("KVM", Some("n"), false),
            ("NR_CPUS", Some("64"), false),
            ("CC_VERSION_TEXT", Some("gcc \\\"12\\\""), false),
            ("EMPTY", Some(""), false),
            ("ABSENT", None, false),
        ] {
            assert_eq!((config.get(name), config.is_on(name)), (value, on), "{name}");
        }
        assert_eq!(config.kernel_version(), Some("6.1.174"));
        assert_eq!(config.len(), 6);
        assert_eq!(parse("CONFIG_A=y\n# CONFIG_A is not set\n").get("A"), Some("n"));
    }

    #[test]
    fn two_texts_of_one_configuration_have_one_canonical_form() {
        let form = |text| parse(text).canonical(|name| name == "CC_VERSION_TEXT");
        let one = form(
            "# Linux/x86 6.1\nCONFIG_B=m\nCONFIG_A=y\n# CONFIG_C is not set\nCONFIG_CC_VERSION_TEXT=\"gcc 12\"\n",
        );
        assert_eq!(one, "A=y\nB=m\n");
        assert_eq!(one, form("CONFIG_A=y\nCONFIG_CC_VERSION_TEXT=\"gcc 13\"\nCONFIG_B=m\n"));
        assert_ne!(one, form("CONFIG_A=y\nCONFIG_B=y\n"));
    }

    #[test]
    fn a_symbol_that_is_not_set_differs_from_no_mention_in_nothing() {
        let prepared = parse(
            "CONFIG_SMP=y\nCONFIG_EXT4_FS=y\nCONFIG_NR_CPUS=64\nCONFIG_NEW=y\n\
             # CONFIG_OTHER is not set\nCONFIG_EMPTY=\"\"\nCONFIG_CC_VERSION_TEXT=\"gcc \\\"12\\\"\"\n",
        );
        let changes: Vec<String> =
            diff(&parse(TEXT), &prepared).iter().map(Change::to_string).collect();
        assert_eq!(changes, ["CONFIG_EXT4_FS: m -> y", "CONFIG_NEW: not set -> y"]);
        assert!(diff(&prepared, &prepared).is_empty());
    }

    #[test]
    fn what_is_no_configuration_is_an_error_that_names_the_line() {
        for (case, text, says) in [
            ("empty", "", "no CONFIG_ symbol"),
            ("comments", "# Linux/x86 6.1 Kernel Configuration\n", "no CONFIG_ symbol"),
            ("html", "CONFIG_A=y\n<html>\n", "line 2: \"<html>\" is no option"),
            ("shell", "CONFIG_A=y\nCONFIG_A B=y", "line 2"),
            ("no name", "CONFIG_=y", "line 1"),
            ("no value", "CONFIG_A=", "has no value"),
            ("open string", "CONFIG_A=\"", "has no value"),
        ] {
            let error = format!("{:#}", Kconfig::parse(text.as_bytes()).expect_err(case));
            assert!(error.contains(says), "{case}: {error}");
        }
        assert!(Kconfig::parse(b"CONFIG_A=\xff").is_err());
        assert!(Kconfig::parse(&vec![b'\n'; MAX_CONFIG + 1]).is_err());
    }
}
