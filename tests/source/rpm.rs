//! kernel-devel packages, made by rpmbuild and signed by rpmsign.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::world::World;
use lab::rpm::kernel_devel;
use lab::server::{Certificate, Manner, Server};
use lab::tool::run;

const RELEASE: &str = "6.12.4-200.fc41.x86_64";

/// kernel-devel of this release, with the files that make a build tree.
fn package(world: &World, release: &str) -> PathBuf {
    let top = world.share.join(format!("rpm-{release}"));
    let tree = top.join("tree");
    fs::create_dir_all(tree.join("include/config")).unwrap();
    fs::write(tree.join("Module.symvers"), "symvers\n").unwrap();
    fs::write(tree.join("include/config/auto.conf"), "CONFIG_X=y\n").unwrap();
    symlink(format!("../{release}/Module.symvers"), tree.join("link")).unwrap();
    kernel_devel(&tree, release, &top).unwrap()
}

fn sign(world: &World, name: &str, rpm: &Path) {
    run(Command::new("rpmsign")
        .args(["--define", &format!("_gpg_name {name}"), "--define"])
        .arg(format!("_gpg_path {}", world.home(name).display()))
        .args(["--define", "__gpg /usr/bin/gpg", "--addsign"])
        .arg(rpm))
    .unwrap();
}

#[test]
fn a_signed_kernel_devel_package_becomes_a_build_tree() {
    let world = World::new();
    let server = Server::start(Certificate::Good, &world.authority);
    let (good, _) = (world.key("good"), world.key("other"));
    let rpm = package(&world, RELEASE);
    let put = |rpm: &Path| {
        server.put(&format!("/kernel-devel-{RELEASE}.rpm"), fs::read(rpm).unwrap(), Manner::Well);
    };
    let url = server.url("/kernel-devel-${release}.rpm");
    world.configure(&format!("[kernel]\nsource = {url:?}\nsource-key = {good:?}"));
    let args = ["kernel", RELEASE];
    let refused = "its signature is refused: it is of no key in";
    put(&rpm);
    world.refuses("unsigned", &args, 15, refused);
    sign(&world, "other", &rpm);
    put(&rpm);
    world.refuses("another key", &args, 15, refused);
    sign(&world, "good", &rpm);
    let mut bytes = fs::read(&rpm).unwrap();
    let last = bytes.len() - 10;
    bytes[last] ^= 1;
    let flipped = world.share.join("flipped.rpm");
    fs::write(&flipped, bytes).unwrap();
    put(&flipped);
    world.refuses("flipped", &args, 15, refused);
    put(&rpm);
    let done = world.obtain(&args);
    assert_eq!(done.status, Some(0), "{}", done.said);
    let tree = Path::new(done.line("tree"));
    assert_eq!(fs::read_to_string(tree.join("link")).unwrap(), "symvers\n");
    assert!(tree.ends_with(format!("usr/src/kernels/{RELEASE}")), "{}", tree.display());
}

#[test]
fn a_package_of_another_kernel_and_patches_on_a_package_are_refused() {
    let world = World::new();
    let rpm = package(&world, "6.12.5-200.fc41.x86_64");
    world.configure(&format!("kernel.source = {rpm:?}"));
    let other = world.obtain(&["kernel", RELEASE]);
    assert_eq!(other.status, Some(10), "{}", other.said);
    assert!(other.said.contains("(found: 6.12.5-200.fc41.x86_64)"), "{}", other.said);
    world.configure(&format!("[kernel]\nsource = {rpm:?}\npatches = [\"/x.patch\"]"));
    let patched = world.obtain(&["kernel", RELEASE]);
    assert_eq!(patched.status, Some(10), "{}", patched.said);
    assert!(patched.said.contains("is a build tree, not a source"), "{}", patched.said);
}
