//! What is wrong with files that somebody else keeps, for the kernel log.

/// So many are said in full: the log of a boot has better uses than a thousand lines of one file.
const MOST: usize = 20;

/// A bounded number of messages.
#[derive(Debug, Default)]
pub(super) struct Problems {
    lines: Vec<String>,
    more: usize,
}

impl Problems {
    pub(super) fn add(&mut self, line: String) {
        match self.lines.len() < MOST {
            true => self.lines.push(line),
            false => self.more += 1,
        }
    }

    /// All of them, the last one says how many were left out.
    pub(super) fn into_lines(mut self) -> Vec<String> {
        if self.more > 0 {
            self.lines.push(format!("{} more of this kind", self.more));
        }
        self.lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_problems_are_a_few_lines_and_a_number() {
        let mut problems = Problems::default();
        (0..1000).for_each(|n| problems.add(n.to_string()));
        let lines = problems.into_lines();
        assert_eq!(lines.len(), MOST + 1);
        assert_eq!(lines.last().unwrap(), "980 more of this kind");
    }
}
