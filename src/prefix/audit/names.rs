//! Whether the owner has names on this host. CoreOS keeps most of its users and groups elsewhere
//! than in /etc, and a build sees those too.

use std::fs;
use std::path::Path;

use super::findings::Findings;
use super::report::Check;
use crate::host::Host;

/// Where passwd and group are besides /etc: Flatcar's baselayout, and nss-altfiles as in Fedora.
pub(crate) const FALLBACK: [&str; 2] = ["/usr/share/baselayout", "/usr/lib"];

/// Looks up the owner of the prefix.
pub(super) fn check(found: &mut Findings, host: &Host) {
    let top = Path::new("");
    let Some((uid, gid)) = found.tree.entries.get(top).map(|top| (top.uid, top.gid)) else {
        return;
    };
    for (database, what, id) in [("passwd", "user", uid), ("group", "group", gid)] {
        let name = |dir: &str| name_of(&host.path(dir).join(database), id);
        if name("/etc").is_some() {
            continue;
        }
        let text = match FALLBACK.iter().find_map(|dir| Some((dir, name(dir)?))) {
            Some((dir, name)) => format!(
                "{what} id {id} of its owner is {name:?} in {dir}/{database} and not in /etc/{database}; builds see both"
            ),
            None => format!(
                "{what} id {id} of its owner has no name in /etc/{database}, nor in {}; builds see an entry made for it",
                FALLBACK.map(|dir| format!("{dir}/{database}")).join(" or ")
            ),
        };
        found.note(Check::Names, top, text);
    }
}

/// The name of `id` in a file of the form of passwd(5) or group(5): the third field.
fn name_of(file: &Path, id: u32) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then(|| name.to_owned())
    })
}
