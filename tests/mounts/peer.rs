//! The real zfs-mount-generator of the laboratory's root, in a chroot that is an overlay over it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// In a mount namespace of its own: `$1` the root, `$2` what is put over it, `$3` an empty directory, `$4` a
/// command for the shell in it.
const INSIDE: &str = "set -eu; mount -t tmpfs tmpfs \"$3\"; cd \"$3\"; mkdir up work root; cp -a \"$2/.\" up; \
    mount -t overlay overlay -o \"lowerdir=$1,upperdir=$3/up,workdir=$3/work\" root; \
    mount --bind \"$2/out\" root/out; chroot root /bin/sh -c \"$4\"";

/// zfs(8) and systemd-ask-password(1) that write down how they are called; `$STATE` is what zfs says, and it
/// fails `$FAILURES` times in doing something.
const RECORDER: &str = r#"#!/bin/sh
case $0 in
*ask-password) echo "ask $1" >> /out/calls; echo secret; exit ;;
esac
# Read first: whoever writes into the pipe comes before.
given=
[ "$1" = get ] || given=$(cat)
echo "zfs $*${given:+ given $given}" >> /out/calls
[ "$1" != get ] || { [ "$STATE" ] || exit 1; echo "$STATE"; exit; }
failed=$(grep -c failing /out/calls)
[ "$failed" -ge "$FAILURES" ] || { echo failing >> /out/calls; exit 1; }
"#;

/// The peer.
pub struct Peer {
    root: PathBuf,
}

impl Peer {
    pub fn new() -> Peer {
        let root = lab::root::root().unwrap().dir;
        let program = "usr/lib/systemd/system-generators/zfs-mount-generator";
        assert!(root.join(program).exists(), "the laboratory's root has no zfs-mount-generator");
        Peer { root }
    }

    /// Runs `line` in the root with the files `over` in it; what is in /out afterwards.
    fn inside(&self, over: &[(&str, &str)], line: &str) -> BTreeMap<String, String> {
        let work = lab::files::scratch("peer-");
        let (files, empty) = (work.path().join("files"), work.path().join("empty"));
        for directory in [&files.join("out"), &empty] {
            fs::create_dir_all(directory).unwrap();
        }
        for (path, text) in over {
            let path = files.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            let executable = text.starts_with("#!");
            let mode = if executable { 0o755 } else { 0o644 };
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        }
        let output = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", INSIDE, "sh"])
            .args([&self.root, &files, &empty])
            .arg(line)
            .output()
            .unwrap();
        assert!(output.status.success(), "{line}: {output:?}");
        tree(&files.join("out"))
    }

    /// What the real generator writes for these lists. It has no module to ask, and says so; bad lines make
    /// it fail with 1, and the others are written.
    pub fn run(&self, lists: &[(&str, String)]) -> BTreeMap<String, String> {
        let paths: Vec<_> =
            lists.iter().map(|(name, _)| format!("etc/zfs/zfs-list.cache/{name}")).collect();
        let texts = lists.iter().map(|(_, text)| text.as_str());
        let over: Vec<(&str, &str)> = paths.iter().map(String::as_str).zip(texts).collect();
        let generator =
            "/usr/lib/systemd/system-generators/zfs-mount-generator /out /out /out || [ $? -eq 1 ]";
        self.inside(&over, generator)
    }

    /// What a command of a unit does where zfs is a recorder: calls and exit status.
    pub fn did(&self, command: &str, state: &str, failures: u32) -> String {
        let recorders = [("usr/sbin/zfs", RECORDER), ("usr/bin/systemd-ask-password", RECORDER)];
        // As systemd reads it; the rest is quoted as for a shell.
        let command = command.replace("$$", "$").replace("%%", "%");
        let line = format!(
            "export STATE={state} FAILURES={failures}; : > /out/calls; status=0; \
             {command} < /dev/null > /dev/null 2>&1 || status=$?; echo \"exit $status\" >> /out/calls"
        );
        self.inside(&recorders, &line).remove("calls").unwrap()
    }
}

/// Files and links below `directory`, each with its text or where it leads to.
pub fn tree(directory: &Path) -> BTreeMap<String, String> {
    fn walk(top: &Path, directory: &Path, tree: &mut BTreeMap<String, String>) {
        for name in lab::files::entries(directory) {
            let path = directory.join(name);
            let relative = path.strip_prefix(top).unwrap().to_str().unwrap().to_owned();
            let meta = fs::symlink_metadata(&path).unwrap();
            if meta.is_dir() {
                walk(top, &path, tree);
            } else if meta.is_symlink() {
                tree.insert(relative, fs::read_link(&path).unwrap().display().to_string());
            } else {
                tree.insert(relative, fs::read_to_string(&path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(directory, directory, &mut found);
    found
}

/// The words of a list (systemd.syntax(7), "Quoting"): what is in quotes is one.
pub fn words(value: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for c in value.chars() {
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), _) if open == c => quote = None,
            (None, ' ') => words.push(String::new()),
            (_, c) => words.last_mut().unwrap().push(c),
        }
    }
    assert_eq!(quote, None, "{value}");
    words.retain(|word| !word.is_empty());
    words
}
