//! The order in which modules are inserted: depth first along `depends=`, each module once.

use anyhow::Result;

use crate::exit::Exit;
use crate::fail;

/// Where a module was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found<T> {
    /// In the kernel already, built in or loaded.
    Present,
    /// A file to insert, and the modules it depends on (canonical names).
    File(T, Vec<String>),
    /// It was not found. The text says where the search looked.
    Absent(String),
}

/// The modules to insert for `root`. Dependencies come before the modules that need them, and
/// `root` comes last. Empty if `root` is present already.
///
/// # Errors
/// Errors of `find`. [`Exit::Refused`]: a module depends on itself, or was not found; then the
/// error says which module wants it and where the search looked.
pub fn order<T>(
    root: &str,
    mut find: impl FnMut(&str) -> Result<Found<T>>,
) -> Result<Vec<(String, T)>> {
    let mut walk = Walk { find: &mut find, done: Vec::new(), order: Vec::new() };
    walk.visit(root, &mut Vec::new())?;
    Ok(walk.order)
}

struct Walk<'f, T, F: FnMut(&str) -> Result<Found<T>>> {
    find: &'f mut F,
    done: Vec<String>,
    order: Vec<(String, T)>,
}

impl<T, F: FnMut(&str) -> Result<Found<T>>> Walk<'_, T, F> {
    fn visit(&mut self, name: &str, path: &mut Vec<String>) -> Result<()> {
        if path.iter().any(|p| p == name) {
            path.push(name.to_owned());
            fail!(Exit::Refused, "modules depend on each other in a circle: {}", path.join(" -> "));
        }
        if self.done.iter().any(|d| d == name) {
            return Ok(());
        }
        match (self.find)(name)? {
            Found::Present => {}
            Found::Absent(looked) => match path.as_slice() {
                [] => fail!(Exit::Refused, "there is no module {name} {looked}"),
                wanted => fail!(
                    Exit::Refused,
                    "module {name}, which {} depends on, is neither loaded nor built in, and there is none {looked}",
                    wanted.join(" -> ")
                ),
            },
            Found::File(file, depends) => {
                path.push(name.to_owned());
                for dependency in &depends {
                    self.visit(dependency, path)?;
                }
                path.pop();
                self.order.push((name.to_owned(), file));
            }
        }
        self.done.push(name.to_owned());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit;

    fn names(graph: &[(&str, &[&str])], root: &str) -> Result<Vec<String>> {
        let found = order(root, |name| {
            Ok(match graph.iter().find(|(n, _)| *n == name) {
                Some((_, ["present"])) => Found::Present,
                Some((_, deps)) => Found::File((), deps.iter().map(|d| (*d).to_owned()).collect()),
                None => Found::Absent("in /x".to_owned()),
            })
        });
        Ok(found?.into_iter().map(|(name, ())| name).collect())
    }

    #[test]
    fn dependencies_come_first_and_once() {
        let graph: &[(&str, &[&str])] = &[
            ("zfs", &["spl", "icp"]),
            ("icp", &["spl", "zlib"]),
            ("spl", &[]),
            ("zlib", &["present"]),
        ];
        assert_eq!(names(graph, "zfs").unwrap(), ["spl", "icp", "zfs"]);
        assert!(names(graph, "zlib").unwrap().is_empty());
    }

    #[test]
    fn a_circle_and_a_missing_module_are_named() {
        for (case, graph, want) in [
            (
                "circle",
                &[("a", &["b"][..]), ("b", &["c"]), ("c", &["b"])][..],
                "modules depend on each other in a circle: a -> b -> c -> b",
            ),
            (
                "missing",
                &[("a", &["b"]), ("b", &["x"])],
                "module x, which a -> b depends on, is neither loaded nor built in, and there is none in /x",
            ),
            ("no root", &[], "there is no module a in /x"),
        ] {
            let e = names(graph, "a").unwrap_err();
            assert_eq!(e.to_string(), want, "{case}");
            assert_eq!(exit::of(&e), Exit::Refused, "{case}");
        }
    }
}
