//! The values of single keys: from TOML to what [`super::Settings`] holds.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::atom;
use super::choice::{Enabled, Recipe, Userland, WhenMissing};
use super::location::RELEASE;
use super::note::Bad;

pub(super) type Value<'a> = Spanned<DeValue<'a>>;

const DAY: u64 = 24 * 60 * 60;

pub(super) fn bad(value: &Value<'_>, expected: impl Into<String>) -> Bad {
    Bad { span: value.span(), message: expected.into() }
}

/// Parses a string value with `read`, which returns None for a value that it does not accept.
pub(super) fn text<T>(
    value: &Value<'_>,
    expected: &str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<T, Bad> {
    value.get_ref().as_str().and_then(read).ok_or_else(|| bad(value, expected))
}

/// Parses an array of strings, each with `read`. An error points at the element.
pub(super) fn list<T>(
    value: &Value<'_>,
    expected: &str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>, Bad> {
    let array = value.get_ref().as_array().ok_or_else(|| bad(value, format!("[{expected}, …]")))?;
    array.iter().map(|element| text(element, expected, &read)).collect()
}

/// The same where the strings stay what they are.
pub(super) fn strings(
    value: &Value<'_>,
    expected: &str,
    accept: impl Fn(&str) -> bool,
) -> Result<Vec<String>, Bad> {
    list(value, expected, |s| accept(s).then(|| s.to_owned()))
}

pub(super) fn boolean(value: &Value<'_>) -> Result<bool, Bad> {
    value.get_ref().as_bool().ok_or_else(|| bad(value, "true or false"))
}

pub(super) fn integer(value: &Value<'_>) -> Option<u64> {
    let integer = value.get_ref().as_integer()?;
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

pub(super) fn enabled(value: &Value<'_>) -> Result<Enabled, Bad> {
    match (value.get_ref().as_bool(), value.get_ref().as_str()) {
        (Some(true), _) => Ok(Enabled::Yes),
        (Some(false), _) => Ok(Enabled::No),
        (_, Some("auto")) => Ok(Enabled::Auto),
        _ => Err(bad(value, "true, false or \"auto\"")),
    }
}

pub(super) fn when_missing(value: &Value<'_>) -> Result<WhenMissing, Bad> {
    text(value, "\"late\", \"block\" or \"never\"", when_missing_word)
}

/// The three words of `boot.when-missing`, also on the kernel command line.
pub(super) fn when_missing_word(word: &str) -> Option<WhenMissing> {
    match word {
        "late" => Some(WhenMissing::Late),
        "block" => Some(WhenMissing::Block),
        "never" => Some(WhenMissing::Never),
        _ => None,
    }
}

pub(super) fn recipe(value: &Value<'_>) -> Result<Recipe, Bad> {
    text(value, "\"portage\" or \"make\"", |word| match word {
        "portage" => Some(Recipe::Portage),
        "make" => Some(Recipe::Make),
        _ => None,
    })
}

pub(super) fn userland(value: &Value<'_>) -> Result<Userland, Bad> {
    let words = [Userland::Auto, Userland::Prefix, Userland::Host];
    text(value, "\"auto\", \"prefix\" or \"host\"", |word| {
        words.into_iter().find(|userland| userland.name() == word)
    })
}

pub(super) fn jobs(value: &Value<'_>) -> Result<u32, Bad> {
    let jobs = integer(value).filter(|n| (1..=512).contains(n));
    let jobs = jobs.and_then(|n| u32::try_from(n).ok());
    jobs.ok_or_else(|| bad(value, "an integer from 1 to 512"))
}

pub(super) fn timeout(value: &Value<'_>) -> Result<Duration, Bad> {
    duration(value, DAY, "a time from 1s to 24h, as \"30min\"")
}

pub(super) fn backoff(value: &Value<'_>) -> Result<Duration, Bad> {
    duration(value, 30 * DAY, "a time from 1s to 720h, as \"30min\"")
}

pub(super) fn build_timeout(value: &Value<'_>) -> Result<Duration, Bad> {
    duration(value, 30 * DAY, "a time from 1s to 720h, as \"6h\"")
}

pub(super) fn duration(value: &Value<'_>, longest: u64, expected: &str) -> Result<Duration, Bad> {
    let seconds = integer(value).or_else(|| value.get_ref().as_str().and_then(seconds));
    let seconds = seconds.filter(|s| (1..=longest).contains(s));
    seconds.map(Duration::from_secs).ok_or_else(|| bad(value, expected))
}

/// Seconds in a time span: the units `s`, `min` and `h` of systemd.time(7), also several
/// (`1h 30min`); a number alone is seconds.
fn seconds(span: &str) -> Option<u64> {
    let mut rest = span.trim_ascii();
    if !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()) {
        return rest.parse().ok();
    }
    let mut total: Option<u64> = None;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        let after = after.trim_ascii_start();
        let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = after.split_at(letters);
        let factor = match unit {
            "s" => 1,
            "min" => 60,
            "h" => 60 * 60,
            _ => return None,
        };
        let part = number.parse::<u64>().ok()?.checked_mul(factor)?;
        total = Some(total.unwrap_or(0).checked_add(part)?);
        rest = after.trim_ascii_start();
    }
    total
}

pub(super) fn path(value: &Value<'_>) -> Result<PathBuf, Bad> {
    text(value, "an absolute path below / without \"..\" or control characters", normal_path)
}

pub(super) fn normal_path(path: &str) -> Option<PathBuf> {
    // The path is written into a unit file: a newline would begin a setting of its own.
    if !path.starts_with('/') || path.chars().any(char::is_control) {
        return None;
    }
    let mut normal = PathBuf::from("/");
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => normal.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    (normal.as_os_str() != "/").then_some(normal)
}

pub(super) fn template(value: &Value<'_>) -> Result<String, Bad> {
    let expected = "an absolute path without \"..\"; its only placeholder is ${release}";
    text(value, expected, |template| {
        let plain = !template.replace(RELEASE, "").contains('$');
        let path = normal_path(template).filter(|_| plain)?;
        path.into_os_string().into_string().ok()
    })
}

pub(super) fn binhost(value: &Value<'_>) -> Result<String, Bad> {
    let expected = "https://HOST/…, http://HOST/…, file:///… or an absolute path, with \
                    ${release} in it (a directory of packages for each kernel), without user \
                    and password";
    text(value, expected, binhost_url)
}

/// A path becomes a file URL. Portage splits the value at blanks, appends `/Packages`, and keeps
/// what it fetched in a directory named after it.
fn binhost_url(text: &str) -> Option<String> {
    let url = if text.starts_with('/') { format!("file://{text}") } else { text.to_owned() };
    let plain = url.replace(RELEASE, "");
    let harmless = |b: u8| b.is_ascii_alphanumeric() || b"-._~/:[]%+,=".contains(&b);
    let (scheme, rest) = url.split_once("://")?;
    let (host, path) = rest.split_at(rest.find('/')?);
    let host_fits = match scheme {
        "http" | "https" => !host.is_empty() && !host.contains('$'),
        "file" => host.is_empty(),
        _ => false,
    };
    let fits = host_fits && plain.bytes().all(harmless) && path.contains(RELEASE);
    let path = normal_path(path).filter(|_| fits)?.into_os_string().into_string().ok()?;
    Some(format!("{scheme}://{host}{path}"))
}

pub(super) fn atoms(value: &Value<'_>) -> Result<Vec<String>, Bad> {
    let expected = "a Portage atom, as \"sys-fs/zfs-kmod\" or \"=sys-fs/zfs-kmod-2.3.2\"";
    let atoms = strings(value, expected, atom::is_atom)?;
    if atoms.is_empty() { Err(bad(value, "at least one Portage atom")) } else { Ok(atoms) }
}

pub(super) fn version(value: &Value<'_>) -> Result<String, Bad> {
    let expected = "a version as Portage writes it, as \"2.3.2\" or \"2.4.0_rc1\"";
    text(value, expected, |s| atom::is_version(s).then(|| s.to_owned()))
}

pub(super) fn configure_arguments(value: &Value<'_>) -> Result<Vec<String>, Bad> {
    let expected = "\"--option\", \"--option=value\" or \"NAME=value\" of letters, digits and \
                    _./=:+,@%^- only (Portage passes it through a shell)";
    strings(value, expected, is_configure_argument)
}

/// econf puts EXTRA_ECONF through `eval`: whatever a shell could interpret is refused.
fn is_configure_argument(argument: &str) -> bool {
    let harmless = |b: u8| b.is_ascii_alphanumeric() || b"_./=:+,@%^-".contains(&b);
    let name = |n: &str| {
        n.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && n.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
    };
    let option = argument.len() > 2 && argument.starts_with("--");
    let assignment = argument.split_once('=').is_some_and(|(n, _)| name(n));
    argument.bytes().all(harmless) && (option || assignment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_spans_are_read_as_systemd_reads_them() {
        for (span, expected) in [
            ("90", Some(90)),
            ("30min", Some(1800)),
            ("1h 30min", Some(5400)),
            ("2h30min5s", Some(9005)),
            (" 10 s ", Some(10)),
            ("", None),
            ("min", None),
            ("1.5h", None),
            ("-1s", None),
            ("5 fortnights", None),
            ("1h 30", None),
            ("99999999999999999999h", None),
            ("18446744073709551615h", None),
        ] {
            assert_eq!(seconds(span), expected, "{span:?}");
        }
    }

    #[test]
    fn a_path_is_normalised_and_cannot_leave_its_line_or_climb() {
        for (path, expected) in [
            ("/home/core/gentoo", Some("/home/core/gentoo")),
            ("//home/./core/gentoo/", Some("/home/core/gentoo")),
            ("/a b/c", Some("/a b/c")),
            ("/", None),
            ("home", None),
            ("", None),
            ("/a/../b", None),
            ("/a\nExecStart=/bin/sh", None),
        ] {
            assert_eq!(normal_path(path), expected.map(PathBuf::from), "{path:?}");
        }
    }

    #[test]
    fn a_binhost_is_an_url_or_a_path_with_the_release_in_it() {
        for (given, expected) in [
            (
                "https://b.example:8443/zfs/${release}/",
                Some("https://b.example:8443/zfs/${release}"),
            ),
            ("http://[::1]/${release}", Some("http://[::1]/${release}")),
            ("file:///srv/zfs/${release}", Some("file:///srv/zfs/${release}")),
            ("/srv//zfs-${release}/x", Some("file:///srv/zfs-${release}/x")),
            ("https://b.example/zfs", None),
            ("https://${release}.example/zfs", None),
            ("https://${release}", None),
            ("file://host/${release}", None),
            ("ftp://b.example/${release}", None),
            ("https:///${release}", None),
            ("srv/${release}", None),
            ("https://user:password@b.example/${release}", None),
            ("https://b.example/${release} https://c.example/${release}", None),
            ("https://b.example/${release}?x", None),
            ("https://b.example/$(id)/${release}", None),
            ("/srv/../${release}", None),
        ] {
            assert_eq!(binhost_url(given).as_deref(), expected, "{given:?}");
        }
    }

    #[test]
    fn a_configure_argument_holds_nothing_a_shell_interprets() {
        for good in ["--enable-debug", "--with-linux=/usr/src/a@b", "CFLAGS=-O2", "_X=", "--a=b,c"]
        {
            assert!(is_configure_argument(good), "{good:?} was refused");
        }
        for bad in [
            "", "--", "-x", "x", "--a b", "--a;b", "--a$(b)", "--a`b`", "1X=2", "=x", "--a'b'",
            "--a\\b", "--a*", "--a~b", "A B=c", "--é", "--a\n",
        ] {
            assert!(!is_configure_argument(bad), "{bad:?} was taken");
        }
    }
}
