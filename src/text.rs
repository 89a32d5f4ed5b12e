//! Text that people read.

/// Without control characters: the text may reach root's terminal.
pub(crate) fn printable(text: &str) -> String {
    text.replace(char::is_control, "?")
}
