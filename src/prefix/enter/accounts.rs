//! User and group in the prefix: what passwd(5) and group(5) say there. The prefix's libc reads
//! these files only. On systems with an immutable /usr, half of the entries are elsewhere, where
//! only that system's own libc finds them. The owner may have no entry at all, but Portage needs
//! one.

use std::collections::HashSet;
use std::fs;

use serde::{Deserialize, Serialize};

use crate::process::User;

/// In order: the administrator's, Flatcar's (/usr/share/baselayout), Fedora's (nss-altfiles).
const PASSWD: [&str; 3] = ["/etc/passwd", "/usr/share/baselayout/passwd", "/usr/lib/passwd"];
const GROUP: [&str; 3] = ["/etc/group", "/usr/share/baselayout/group", "/usr/lib/group"];

/// Whom a program in the prefix runs as, by number and name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// User id.
    pub uid: u32,
    /// Group id; there are no supplementary groups.
    pub gid: u32,
    /// The user's name.
    pub user: String,
    /// The group's name.
    pub group: String,
}

/// The merged files of a namespace.
#[derive(Debug)]
pub(super) struct Files {
    /// For /etc/passwd.
    pub passwd: String,
    /// For /etc/group.
    pub group: String,
}

impl Account {
    /// The names of `user` as they will be in the prefix: those of the files, otherwise those that
    /// the host's NSS knows (LDAP, userdb), otherwise `u<uid>` and `g<gid>`.
    pub fn of(user: User) -> Account {
        let nss_user = || nix::unistd::User::from_uid(user.uid.into()).ok().flatten();
        let nss_group = || nix::unistd::Group::from_gid(user.gid.into()).ok().flatten();
        Account {
            uid: user.uid,
            gid: user.gid,
            user: name_of(&merged(&read(&PASSWD)), user.uid)
                .or_else(|| Some(nss_user()?.name))
                .unwrap_or_else(|| format!("u{}", user.uid)),
            group: name_of(&merged(&read(&GROUP)), user.gid)
                .or_else(|| Some(nss_group()?.name))
                .unwrap_or_else(|| format!("g{}", user.gid)),
        }
    }
}

impl Files {
    /// The host's files, with `account` added if they lack it.
    pub(super) fn of(account: &Account) -> Files {
        let Account { uid, gid, user, group } = account;
        let mut passwd = merged(&read(&PASSWD));
        if name_of(&passwd, *uid).is_none() {
            passwd.push_str(&format!("{user}:x:{uid}:{gid}::/:/bin/bash\n"));
        }
        let mut groups = merged(&read(&GROUP));
        if name_of(&groups, *gid).is_none() {
            groups.push_str(&format!("{group}:x:{gid}:\n"));
        }
        Files { passwd, group: groups }
    }
}

/// The texts of the files that exist. A file that cannot be read counts as absent: the namespace is
/// no worse off than the host.
fn read(paths: &[&str]) -> Vec<String> {
    let text = |path: &&str| Some(String::from_utf8_lossy(&fs::read(path).ok()?).into_owned());
    paths.iter().filter_map(text).collect()
}

/// All entries of `texts`. Of each name the first counts, as in nsswitch.conf(5) with several
/// sources. The `+` lines of NIS are left out, because there is no NIS.
fn merged(texts: &[String]) -> String {
    let mut names = HashSet::new();
    let mut all = String::new();
    for line in texts.iter().flat_map(|text| text.lines()) {
        let Some((name, _)) = line.split_once(':') else { continue };
        if !name.is_empty() && !name.starts_with(['+', '-', '#']) && names.insert(name) {
            all.push_str(line);
            all.push('\n');
        }
    }
    all
}

/// The first name with this number, the third field of both files.
fn name_of(text: &str, number: u32) -> Option<String> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(number)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_each_name_the_first_entry_is_taken_and_junk_is_left_out() {
        let etc = "root:x:0:0::/root:/bin/bash\n\ncore:x:500:500::/home/core:/bin/bash\n+::::::\n";
        let vendor = "root:*:0:0:other:/:/bin/false\nbin:x:1:1::/bin:\njunk\n# core:x:7:7\n";
        let all = merged(&[etc.to_owned(), vendor.to_owned()]);
        let want =
            "root:x:0:0::/root:/bin/bash\ncore:x:500:500::/home/core:/bin/bash\nbin:x:1:1::/bin:\n";
        assert_eq!(all, want);
        for (number, want) in [(0, Some("root")), (500, Some("core")), (1, Some("bin")), (7, None)]
        {
            assert_eq!(name_of(&all, number).as_deref(), want, "{number}");
        }
        assert_eq!(merged(&[]), "");
    }

    #[test]
    fn an_owner_without_an_entry_gets_one_and_a_known_one_no_second() {
        let unknown = Account::of(User { uid: 3_456_789, gid: 3_456_790 });
        assert_eq!((unknown.user.as_str(), unknown.group.as_str()), ("u3456789", "g3456790"));
        let files = Files::of(&unknown);
        assert!(files.passwd.ends_with("\nu3456789:x:3456789:3456790::/:/bin/bash\n"));
        assert!(files.group.ends_with("\ng3456790:x:3456790:\n"));
        let root = Account::of(User { uid: 0, gid: 0 });
        assert_eq!((root.user.as_str(), root.group.as_str()), ("root", "root"));
        let roots = Files::of(&root).passwd.lines().filter(|l| l.starts_with("root:")).count();
        assert_eq!(roots, 1);
    }
}
