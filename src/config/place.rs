//! The values of the keys that say where sources are: `kernel.source`, `kernel.patches` and
//! `zfs.source`.

use super::choice::Strategy;
use super::location::{Pinned, Place, RELEASE, TARBALLS, VERSION};
use super::note::Bad;
use super::origin::parse_sha256;
use super::value::{Value, bad, list, normal_path, text};

/// What a key takes beside `https://` URLs and absolute paths of files.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Kernel,
    Patch,
    Zfs,
}

fn parse(given: &str, kind: Kind) -> Option<Pinned> {
    if let Some(rest) = given.strip_prefix("git+").filter(|_| kind == Kind::Kernel) {
        let (url, tag) = rest.split_once('#').unwrap_or((rest, "v${version}"));
        let good = url.strip_prefix("file://").is_some_and(|path| normal_path(path).is_some())
            || is_url(url);
        let place = Place::Git { url: url.to_owned(), tag: tag.to_owned() };
        return (good && is_tag(tag) && known(given)).then_some(Pinned { place, sha256: None });
    }
    let (place, sha256) = match given.split_once("#sha256=") {
        Some((place, digest)) => (place, Some(parse_sha256(digest).ok()?)),
        None => (given, None),
    };
    let place = match place.strip_prefix("file://").unwrap_or(place) {
        path if path.starts_with('/') => {
            Place::File(normal_path(path)?.into_os_string().into_string().ok()?)
        }
        url if is_url(url) && !url.contains('#') => Place::Https(url.to_owned()),
        _ => return None,
    };
    let named = match (&place, kind) {
        (Place::Https(url), Kind::Kernel | Kind::Zfs) => {
            let path = url.split('?').next().unwrap_or(url);
            TARBALLS.iter().any(|end| path.ends_with(end))
                || kind == Kind::Kernel && path.ends_with(".rpm")
        }
        _ => true,
    };
    let zfs_has_none = kind == Kind::Zfs && given.contains(RELEASE);
    (named && known(given) && !zfs_has_none).then_some(Pinned { place, sha256 })
}

/// `https://HOST/PATH`. The host has no placeholder. There is no password: it would be in the
/// journal.
fn is_url(url: &str) -> bool {
    let Some((host, path)) = url.strip_prefix("https://").and_then(|rest| rest.split_once('/'))
    else {
        return false;
    };
    let printable = url.bytes().all(|b| b.is_ascii_graphic());
    let host_is_good = !host.is_empty() && !host.contains(['@', '$', '?']);
    printable && host_is_good && !path.is_empty() && !path.starts_with('?')
}

/// Whether `tag` is a plain tag. This is stricter than git-check-ref-format(1): it refuses what a
/// program could take for something else.
fn is_tag(tag: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-+/${}".contains(&b);
    !tag.is_empty() && !tag.starts_with('-') && !tag.contains("..") && tag.bytes().all(plain)
}

/// Whether `template` has no other placeholders than `${release}` and `${version}`.
fn known(template: &str) -> bool {
    !template.replace(RELEASE, "").replace(VERSION, "").contains('$')
}

pub(super) fn kernel_source(value: &Value<'_>) -> Result<Pinned, Bad> {
    let expected = "git+https://HOST/PATH#TAG, an https:// URL of a .tar.gz, .tar.xz, .tar.zst or \
                    .rpm, or an absolute path; #sha256=HEX after a URL or path of a file pins its \
                    content; placeholders are ${release} and ${version}; no password";
    text(value, expected, |given| parse(given, Kind::Kernel))
}

pub(super) fn patches(value: &Value<'_>) -> Result<Vec<Pinned>, Bad> {
    let expected = "an https:// URL with #sha256=HEX after it, or an absolute path; placeholders \
                    are ${release} and ${version}";
    list(value, expected, |given| parse(given, Kind::Patch))
}

pub(super) fn zfs_source(value: &Value<'_>) -> Result<Pinned, Bad> {
    let expected = "an https:// URL of a .tar.gz, .tar.xz or .tar.zst, or an absolute path; \
                    #sha256=HEX after it pins its content; the placeholder is ${version}";
    text(value, expected, |given| parse(given, Kind::Zfs))
}

pub(super) fn strategies(value: &Value<'_>) -> Result<Vec<Strategy>, Bad> {
    use Strategy::{Full, Recovered, Shipped};
    let expected = "\"shipped\", \"recovered\" or \"full\"";
    let all = list(value, expected, |word| {
        [Shipped, Recovered, Full].into_iter().find(|strategy| strategy.name() == word)
    })?;
    let twice = all.iter().enumerate().any(|(at, strategy)| all[..at].contains(strategy));
    if all.is_empty() || twice {
        Err(bad(value, format!("a list of {expected}, none of them twice")))
    } else {
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "E3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_place_of_sources_is_a_repository_an_archive_or_a_path_for_each_key_its_own() {
        let pinned = format!("https://h.example/linux-${{version}}.tar.xz#sha256={HEX}");
        for (given, taken) in [
            ("git+https://h.example/linux.git", [true, false, false]),
            ("git+https://h.example/linux.git#v${version}-x", [true, false, false]),
            ("git+file:///srv/linux", [true, false, false]),
            ("git+https://h.example/linux.git#-x", [false; 3]),
            ("git+https://h.example/linux.git#a b", [false; 3]),
            ("git+ssh://h.example/linux.git", [false; 3]),
            ("git+http://h.example/linux.git", [false; 3]),
            ("https://h.example/v6.x/linux-${version}.tar.xz", [true, true, true]),
            ("https://h.example/kernel-devel-${release}.rpm", [true, true, false]),
            ("https://h.example/a.patch?token=x", [false, true, false]),
            ("https://h.example/linux.tar.xz?token=x", [true, true, true]),
            ("https://h.example/${release}.tar", [true, true, false]),
            ("https://${version}.example/x.tar.xz", [false; 3]),
            ("https://u:p@h.example/x.tar.xz", [false; 3]),
            ("https://h.example/x.tar.xz#part", [false; 3]),
            ("https://h.example/x.tar.xz#sha256=12", [false; 3]),
            ("https://h.example/$(id).tar.xz", [false; 3]),
            ("http://h.example/x.tar.xz", [false; 3]),
            ("/usr/src/linux-${version}", [true; 3]),
            ("file:///srv/zfs-${version}.tar.gz", [true; 3]),
            ("/usr/src/../x", [false; 3]),
            ("linux.tar.xz", [false; 3]),
            ("", [false; 3]),
            (&pinned, [true; 3]),
        ] {
            let found =
                [Kind::Kernel, Kind::Patch, Kind::Zfs].map(|kind| parse(given, kind).is_some());
            assert_eq!(found, taken, "{given:?} as kernel.source, kernel.patches, zfs.source");
        }
        let parsed = parse(&pinned, Kind::Kernel).unwrap();
        assert_eq!(parsed.sha256, Some(HEX.to_lowercase()));
    }

    #[test]
    fn release_and_version_are_put_in_and_a_query_is_not_shown() {
        let release = "6.6.74-flatcar".parse().unwrap();
        for (given, shown, remote) in [
            ("git+https://h/l.git", "git+https://h/l.git#v6.6.74", true),
            ("git+file:///srv/l#t-${release}", "git+file:///srv/l#t-6.6.74-flatcar", false),
            ("https://h/${version}.tar.xz?token=secret", "https://h/6.6.74.tar.xz?…", true),
            ("/src/${release}/${version}", "/src/6.6.74-flatcar/6.6.74", false),
        ] {
            let filled = parse(given, Kind::Kernel).unwrap().for_kernel(&release);
            assert_eq!(filled.to_string(), shown, "{given}");
            assert_eq!(filled.asks_network(), remote, "{given}");
        }
    }
}
