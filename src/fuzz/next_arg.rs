//! Parses a command line as the kernel does: next_arg() of lib/cmdline.c and parse_args() of
//! kernel/params.c. This is independent of all other parsers here.

/// isspace() of lib/ctype.c.
const SPACE: [char; 6] = [' ', '\t', '\n', '\x0b', '\x0c', '\r'];

/// Parameter and value of each word, up to `--`.
pub(super) fn arguments(line: &str) -> Vec<(&str, Option<&str>)> {
    let mut found = Vec::new();
    let mut rest = line.trim_start_matches(SPACE);
    while !rest.is_empty() {
        let whole = rest.strip_prefix('"');
        rest = whole.unwrap_or(rest);
        let mut quoted = whole.is_some();
        let end = rest.find(|c| {
            let ends = SPACE.contains(&c) && !quoted;
            quoted ^= c == '"';
            ends
        });
        let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
        rest = after.trim_start_matches(SPACE);
        let unquoted = |text: &'_ str| text.len() - usize::from(text.ends_with('"'));
        // A word may begin with an equals sign.
        let equals = word.char_indices().find(|(at, c)| *at > 0 && *c == '=').map(|(at, _)| at);
        found.push(match equals {
            None => {
                let word = if whole.is_some() { &word[..unquoted(word)] } else { word };
                if word == "--" {
                    break;
                }
                (word, None)
            }
            Some(at) => match (&word[at + 1..], word[at + 1..].strip_prefix('"')) {
                (_, Some(value)) => (&word[..at], Some(&value[..unquoted(value)])),
                (value, None) if whole.is_some() => (&word[..at], Some(&value[..unquoted(value)])),
                (value, None) => (&word[..at], Some(value)),
            },
        });
    }
    found
}
