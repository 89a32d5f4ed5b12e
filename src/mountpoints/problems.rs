//! What is wrong with files that somebody else keeps, for the kernel log.

use std::fmt::Arguments;

/// At most this many are logged in full: the log of a boot has better uses than a thousand lines of
/// one file.
const MOST: usize = 20;

/// A bounded number of messages.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    lines: Vec<String>,
    always: Vec<String>,
    more: usize,
}

impl Problems {
    /// Adds one. Formats it only if it will be logged.
    pub(crate) fn add(&mut self, line: Arguments<'_>) {
        if self.lines.len() < MOST {
            self.lines.push(line.to_string());
        } else {
            self.more += 1;
        }
    }

    /// Adds one that stands for many.
    pub(crate) fn add_always(&mut self, line: Arguments<'_>) {
        self.always.push(line.to_string());
    }

    /// All lines. If some were left out, the last line says how many.
    pub(crate) fn into_lines(mut self) -> Vec<String> {
        if self.more > 0 {
            self.lines.push(format!("{} more of this kind", self.more));
        }
        self.lines.extend(self.always);
        self.lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_problems_are_a_few_lines_and_a_number() {
        let mut problems = Problems::default();
        (0..1000).for_each(|n| problems.add(format_args!("{n}")));
        let lines = problems.into_lines();
        assert_eq!(lines.len(), MOST + 1);
        assert_eq!(lines.last().unwrap(), "980 more of this kind");
    }
}
