//! Reads the output of strace(1).

use std::path::Path;

/// The lines with a path below /var, of the machine below `root` or of this machine. Paths below
/// `root` and `own` do not count as this machine's: the laboratory or the clone may be below /var.
#[must_use]
pub fn below_var(trace: &str, root: &Path, own: &[&Path]) -> Vec<String> {
    let of = |path: &Path| format!("\"{}", path.display());
    let places = [of(&root.join("var")), of(root)];
    let own: Vec<String> = own.iter().map(|path| of(path)).collect();
    let below = |line: &str| {
        let mut line = line.replace(&places[0], "\"/var").replace(&places[1], "\"ROOT");
        for path in &own {
            line = line.replace(path, "\"OWN");
        }
        line.contains("\"/var")
    };
    trace.lines().filter(|line| below(line)).map(str::to_owned).collect()
}
