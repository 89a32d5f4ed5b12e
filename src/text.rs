//! Text that people read.

/// Replaces control characters with `?`: the text may reach root's terminal.
pub(crate) fn printable(text: &str) -> String {
    text.replace(char::is_control, "?")
}
