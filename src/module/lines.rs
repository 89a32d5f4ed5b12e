//! The lines of modprobe.d(5) files, and the words of the kernel command line.

/// A line of a modprobe.d file: physical lines that a backslash joins are one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Where it begins, from 1.
    pub(super) number: usize,
    pub(super) text: String,
}

/// The lines of a modprobe.d file as kmod reads them. A backslash at the end of a line joins it
/// with the next one, even in a comment. Any other backslash is dropped, and the character after it
/// is literal.
pub(super) fn logical_lines(text: &str) -> Vec<Line> {
    let mut lines = vec![Line { number: 1, text: String::new() }];
    let mut number = 1;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let literal = match c {
            '\\' => match chars.next() {
                Some('\n') => {
                    number += 1;
                    continue;
                }
                None => continue,
                Some(next) => next,
            },
            '\n' => {
                number += 1;
                lines.push(Line { number, text: String::new() });
                continue;
            }
            c => c,
        };
        if let Some(line) = lines.last_mut() {
            line.text.push(literal);
        }
    }
    lines.retain(|l| !l.text.starts_with('#'));
    lines
}

/// The first word of `text`, and the rest.
pub(super) fn word(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start_matches([' ', '\t']);
    let end = text.find([' ', '\t']).unwrap_or(text.len());
    (end > 0).then(|| (&text[..end], &text[end..]))
}

/// The words of a kernel command line; white space inside double quotes does not end one.
pub(super) fn tokens(cmdline: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    cmdline
        .split(move |c: char| {
            quoted ^= c == '"';
            !quoted && (c.is_ascii_whitespace() || c == '\x0b')
        })
        .filter(|t| !t.is_empty())
}
