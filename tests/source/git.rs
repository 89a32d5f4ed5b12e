//! Kernel sources from a git repository.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::world::World;
use lab::server::{Certificate, Server};
use lab::tool::run;

/// git in the repository `dir`, as somebody with a key.
fn git(world: &World, dir: &Path, args: &[&str]) {
    let mut git = Command::new("git");
    git.arg("-C").arg(dir).env("GNUPGHOME", world.home("good"));
    for (key, value) in
        [("user.name", "good"), ("user.email", "good@example.com"), ("user.signingKey", "good")]
    {
        git.arg("-c").arg(format!("{key}={value}"));
    }
    run(git.args(["-c", "safe.directory=*"]).args(args)).unwrap();
}

/// A repository of a kernel with tags: v6.1 signed, v6.2 not, and history before them.
fn repository(world: &World) -> PathBuf {
    let dir = world.small();
    git(world, &dir, &["init", "--quiet"]);
    for (tag, how) in [("v6.0", "-a"), ("v6.1", "-s"), ("v6.2", "-a")] {
        fs::write(dir.join("COPYING"), tag).unwrap();
        git(world, &dir, &["add", "--all"]);
        git(world, &dir, &["commit", "--quiet", "-m", tag]);
        git(world, &dir, &["tag", how, "-m", tag, tag]);
    }
    dir
}

#[test]
fn one_signed_tag_of_a_repository_becomes_a_tree_without_git_in_it() {
    let world = World::new();
    let (good, other) = (world.key("good"), world.key("other"));
    let dir = repository(&world);
    let source = format!("git+file://{}", dir.display());
    world.configure(&format!("[kernel]\nsource = {source:?}\n"));
    let local = world.obtain(&["kernel", "6.1.0-56-cloud-amd64"]);
    assert_eq!(local.status, Some(0), "{}", local.said);
    let tree = Path::new(local.line("source"));
    assert_eq!(fs::read_to_string(tree.join("COPYING")).unwrap(), "v6.1", "the tag of the version");
    assert!(!tree.join(".git").exists());
    let again = world.obtain(&["kernel", "6.1.0-56-cloud-amd64", "--offline"]);
    assert_eq!((again.status, &again.out), (Some(0), &local.out), "{}", again.said);
    assert!(!again.said.contains("cloning"), "{}", again.said);

    let world2 = World::new();
    let key = |key: &Path| {
        world2.configure(&format!("[kernel]\nsource = {source:?}\nsource-key = {key:?}\n"));
    };
    key(&other);
    let refused = "its signature is refused: it is of no key in";
    world2.refuses("another key", &["kernel", "6.1.0"], 15, refused);
    key(&good);
    let unsigned = "its signature is refused: it has none";
    world2.refuses("not signed", &["kernel", "6.2.0"], 15, unsigned);
    world2.refuses("no such tag", &["kernel", "6.7.1"], 10, "tag v6.7.1: cannot be cloned");
    let signed = world2.obtain(&["kernel", "6.1.0"]);
    assert_eq!(signed.status, Some(0), "{}", signed.said);
}

#[test]
fn a_signature_counts_for_the_tags_own_commit_and_under_its_own_name_only() {
    let world = World::new();
    let good = world.key("good");
    let dir = repository(&world);
    // Something else in a branch that is called like the signed tag.
    git(&world, &dir, &["checkout", "--quiet", "-b", "v6.1"]);
    fs::write(dir.join("COPYING"), "evil").unwrap();
    git(&world, &dir, &["commit", "--quiet", "--all", "-m", "evil"]);
    let source = format!("git+file://{}", dir.display());
    world.configure(&format!("[kernel]\nsource = {source:?}\nsource-key = {good:?}\n"));
    let done = world.obtain(&["kernel", "6.1.0"]);
    assert_eq!(done.status, Some(0), "{}", done.said);
    let copying = Path::new(done.line("source")).join("COPYING");
    assert_eq!(fs::read_to_string(copying).unwrap(), "v6.1", "the branch is not the tag");

    // The genuine object of an older tag, as a newer one.
    git(&world, &dir, &["update-ref", "refs/tags/v6.4", "refs/tags/v6.1"]);
    let renamed = World::new();
    renamed.configure(&format!("[kernel]\nsource = {source:?}\nsource-key = {good:?}\n"));
    renamed.refuses("renamed", &["kernel", "6.4.0"], 15, "what was signed is the tag \"v6.1\"");
}

#[test]
fn keys_that_were_revoked_are_refused_wherever_the_signature_is_and_the_source_too() {
    let world = World::new();
    let good = world.key("good");
    let dir = repository(&world);
    let tar = world.archive("linux-6.1.tar", "--no-auto-compress");
    let archive = world.archive("linux-6.1.tar.xz", "--xz");
    let signature = world.share.join("linux-6.1.tar.sign");
    let sources = [archive.display().to_string(), format!("git+file://{}", dir.display())];
    let configure = |source: &str| {
        world.configure(&format!("[kernel]\nsource = {source:?}\nsource-key = {good:?}\n"));
    };
    let args = ["kernel", "6.1.0"];
    configure(&sources[0]);
    world.refuses("unsigned", &args, 15, "has no signature beside it, and kernel.source-key");
    fs::write(&signature, world.sign("good", &fs::read(tar).unwrap())).unwrap();
    configure(dir.to_str().unwrap());
    world.refuses("a directory", &args, 15, "a directory has no signature");
    for source in &sources {
        configure(source);
        let done = world.obtain(&args);
        assert_eq!(done.status, Some(0), "{source}: {}", done.said);
    }
    world.revoke("good");
    for source in &sources {
        configure(source);
        let ran = world.obtain(&args);
        assert_eq!(ran.status, Some(15), "{source}: {}", ran.said);
        assert!(ran.said.contains("its key was revoked"), "{source}: {}", ran.said);
    }
}

#[test]
fn a_tag_on_this_machine_that_was_moved_is_another_source() {
    let world = World::new();
    world.key("good");
    let dir = repository(&world);
    world.configure(&format!("kernel.source = \"git+file://{}\"\n", dir.display()));
    let args = ["kernel", "6.1.0"];
    let first = world.obtain(&args);
    assert_eq!(first.status, Some(0), "{}", first.said);
    git(&world, &dir, &["pack-refs", "--all"]);
    let packed = world.obtain(&args);
    assert_eq!((packed.status, &packed.out), (Some(0), &first.out), "{}", packed.said);
    git(&world, &dir, &["tag", "-f", "-a", "-m", "moved", "v6.1", "v6.2^{commit}"]);
    let moved = world.obtain(&args);
    assert_eq!(moved.status, Some(0), "{}", moved.said);
    assert_ne!(moved.line("identity"), first.line("identity"));
    let copying = Path::new(moved.line("source")).join("COPYING");
    assert_eq!(fs::read_to_string(copying).unwrap(), "v6.2");
}

#[test]
fn a_signed_tag_is_cloned_from_an_https_server_once_without_its_history() {
    let world = World::new();
    let server = Server::start(Certificate::Good, &world.authority);
    let good = world.key("good");
    server.serve_git(repository(&world).parent().unwrap());
    let source = format!("{}#v6.1", server.url("/git/linux-6.1"));
    world.configure(&format!("[kernel]\nsource = \"git+{source}\"\nsource-key = {good:?}\n"));
    let args = ["kernel", "6.1.0-56-cloud-amd64"];
    let done = world.obtain(&args);
    assert_eq!(done.status, Some(0), "{}", done.said);
    let tree = Path::new(done.line("source"));
    assert_eq!(fs::read_to_string(tree.join("COPYING")).unwrap(), "v6.1");
    assert!(!server.asked().is_empty());
    let again = world.obtain(&[&args[..], &["--offline"]].concat());
    assert_eq!((again.status, &again.out), (Some(0), &done.out), "{}", again.said);
    assert_eq!(server.asked(), [], "nothing is cloned twice");
    // As somebody without the authority's certificate.
    let world = World::new();
    fs::write(&world.authority, "").unwrap();
    world.configure(&format!("[kernel]\nsource = \"git+{source}\"\nallow-unsigned = true\n"));
    world.refuses("no authority", &args, 19, "certificate");
}

#[test]
fn a_repository_on_the_network_needs_one_and_a_proof() {
    let world = World::new();
    let source = "git+https://localhost:1/linux.git";
    world.configure(&format!("kernel.source = {source:?}"));
    world.refuses("no proof", &["kernel", "6.1.0"], 15, "set kernel.source-key to the OpenPGP");
    world.configure(&format!("[kernel]\nsource = {source:?}\nallow-unsigned = true"));
    world.refuses("offline", &["kernel", "6.1.0", "--offline"], 19, "no network this early");
    world.refuses("nobody there", &["kernel", "6.1.0"], 19, "cannot be cloned");
}
