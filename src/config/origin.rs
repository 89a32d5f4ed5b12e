//! The values of the keys that say where a prefix comes from.

use super::location::{PublicKey, Source};
use super::note::Bad;
use super::value::{Value, bad, integer, normal_path, text};

/// Reads `prefix.source`, also as an argument of `zfs-prefix prefix provision`.
///
/// # Errors
/// What was expected instead.
pub fn parse_source(text: &str) -> Result<Source, &'static str> {
    const EXPECTED: &str = "an https:// URL of an archive, or the absolute path of one";
    if text.starts_with("http://") {
        return Err("https://: what comes over http:// can be replaced on its way");
    }
    if let Some(rest) = text.strip_prefix("https://") {
        let printable = text.bytes().all(|b| b.is_ascii_graphic());
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        // A password would be in the journal and in .zfs-prefix.json.
        let host_is_good = !host.is_empty() && !host.contains('@');
        let named =
            path.split(['?', '#']).next().is_some_and(|p| !p.is_empty() && !p.ends_with('/'));
        return if printable && host_is_good && named {
            Ok(Source::Https(text.to_owned()))
        } else {
            Err(EXPECTED)
        };
    }
    let path = text.strip_prefix("file://").unwrap_or(text);
    normal_path(path).map(Source::File).ok_or(EXPECTED)
}

/// Reads a SHA-256 digest: 64 hexadecimal digits, returned in lower case.
///
/// # Errors
/// What was expected instead.
pub fn parse_sha256(text: &str) -> Result<String, &'static str> {
    if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("a SHA-256 digest: 64 hexadecimal digits")
    }
}

fn with<T>(value: &Value<'_>, read: fn(&str) -> Result<T, &'static str>) -> Result<T, Bad> {
    let text = value.get_ref().as_str().ok_or_else(|| bad(value, "a string"))?;
    read(text).map_err(|expected| bad(value, expected))
}

pub(super) fn source(value: &Value<'_>) -> Result<Source, Bad> {
    with(value, parse_source)
}

pub(super) fn sha256(value: &Value<'_>) -> Result<String, Bad> {
    with(value, parse_sha256)
}

pub(super) fn size(value: &Value<'_>) -> Result<u64, Bad> {
    integer(value).filter(|n| *n > 0).ok_or_else(|| bad(value, "a number of bytes"))
}

/// A key of minisign(1) in Base64 is 42 bytes: algorithm "Ed", key id, key.
pub(super) fn public_key(value: &Value<'_>) -> Result<PublicKey, Bad> {
    let expected = "a public key of minisign (56 characters, the first ones RW), or the absolute \
                    path of a file with one";
    text(value, expected, |text| {
        let base64 = |b: u8| b.is_ascii_alphanumeric() || b"+/=".contains(&b);
        if text.len() == 56 && text.starts_with("RW") && text.bytes().all(base64) {
            Some(PublicKey::Text(text.to_owned()))
        } else {
            normal_path(text).map(PublicKey::File)
        }
    })
}

pub(super) fn user(value: &Value<'_>) -> Result<String, Bad> {
    let name = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    text(value, "the name or number of a user, not root", |text| {
        let good = !text.is_empty() && text.bytes().all(name) && !text.starts_with('-');
        (good && text != "root" && text != "0").then(|| text.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_an_https_url_with_a_file_name_or_an_absolute_path() {
        for (text, good) in [
            ("https://example.com/prefix.tar.zst", true),
            ("https://example.com:8443/a/b?token=x", true),
            ("/srv/prefix.tar", true),
            ("file:///srv/prefix.tar", true),
            ("http://example.com/prefix.tar.zst", false),
            ("https://example.com", false),
            ("https://example.com/", false),
            ("https:///prefix.tar", false),
            ("https://user:secret@example.com/prefix.tar", false),
            ("https://example.com/a b", false),
            ("ftp://example.com/a", false),
            ("prefix.tar", false),
            ("/srv/../etc/x", false),
            ("", false),
        ] {
            assert_eq!(parse_source(text).is_ok(), good, "{text:?}");
        }
        for (text, shown) in [
            ("https://example.com/p.tar?token=secret#x", "https://example.com/p.tar?…"),
            ("https://example.com/p.tar#x", "https://example.com/p.tar"),
            ("/srv/p?x.tar", "/srv/p?x.tar"),
        ] {
            assert_eq!(parse_source(text).unwrap().to_string(), shown, "{text}");
        }
        let refused = parse_source("http://example.com/x").unwrap_err();
        assert!(refused.contains("can be replaced on its way"), "{refused}");
    }

    #[test]
    fn a_digest_has_64_hexadecimal_digits_of_either_case() {
        assert_eq!(parse_sha256(&"Ab".repeat(32)).unwrap(), "ab".repeat(32));
        for bad in ["".to_owned(), "a".repeat(63), "g".repeat(64), format!("{} ", "a".repeat(63))] {
            assert!(parse_sha256(&bad).is_err(), "{bad:?}");
        }
    }
}
