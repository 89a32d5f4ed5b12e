//! The key: one digest over everything that decides what a build yields.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

/// The named inputs of a build, and their key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inputs(BTreeMap<String, String>);

impl Inputs {
    /// No inputs yet.
    pub fn new() -> Inputs {
        Inputs::default()
    }

    /// Adds the input `name`; a name is given once.
    pub fn add(&mut self, name: &str, value: impl Into<String>) {
        let old = self.0.insert(name.to_owned(), value.into());
        debug_assert!(old.is_none(), "input {name} given twice");
    }

    /// Name by name, as they are put into the manifest.
    pub fn map(&self) -> &BTreeMap<String, String> {
        &self.0
    }

    /// The key: the first 32 hexadecimal digits of the SHA-256 over `name NUL length NUL value` of
    /// each input, in order of the names. 128 bits name a directory. Nobody gains by a collision,
    /// since whoever can choose inputs can publish.
    pub fn key(&self) -> String {
        let mut hash = Sha256::new();
        for (name, value) in &self.0 {
            hash.update(name.as_bytes());
            hash.update(format!("\0{}\0", value.len()));
            hash.update(value.as_bytes());
        }
        let mut hex = String::with_capacity(64);
        for byte in hash.finalize() {
            hex.push_str(&format!("{byte:02x}"));
        }
        hex.truncate(32);
        hex
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(pairs: &[(&str, &str)]) -> Inputs {
        let mut i = Inputs::new();
        pairs.iter().for_each(|(n, v)| i.add(n, *v));
        i
    }

    #[test]
    fn the_key_depends_on_every_input_and_on_nothing_else() {
        let base = inputs(&[("kernel", "6.1"), ("zfs", "2.3.2")]);
        assert_eq!(base.key(), inputs(&[("zfs", "2.3.2"), ("kernel", "6.1")]).key());
        assert_eq!(base.key().len(), 32);
        for (case, other) in [
            ("changed value", inputs(&[("kernel", "6.2"), ("zfs", "2.3.2")])),
            ("input less", inputs(&[("kernel", "6.1")])),
            ("shifted border", inputs(&[("kernel", "6.1zfs"), ("", "2.3.2")])),
            ("changed name", inputs(&[("kernel", "6.1"), ("zfs2", "2.3.2")])),
        ] {
            assert_ne!(base.key(), other.key(), "{case}");
        }
    }
}
