//! Whether this is a container, whose kernel is somebody else's. systemd has the same question in
//! detect_container() (src/basic/virt.c). Where the command line is, is another question:
//! [`super::Host::read_cmdline`], [`super::Host::kernel_cmdline`].

use std::path::Path;

/// What a container's manager writes, or PID 1 of the container. /run is empty at each boot, so
/// these are of this boot (systemd's CONTAINER_INTERFACE; podman-run(1)).
const MARKS: [&str; 3] =
    ["run/systemd/container", "run/host/container-manager", "run/.containerenv"];
/// Docker's own mark. An image that was made from a container still has it on a real machine.
const DOCKER: &str = ".dockerenv";
/// The namespace of processes that the kernel itself begins with: `PROC_PID_INIT_INO`
/// (include/linux/proc_ns.h), in the form of namespaces(7).
const FIRST: &str = "pid:[4026531836]";

/// Whether the machine below `root` is a container. Marks of this boot, or what PID 1 was told,
/// decide. `/.dockerenv` decides only where the processes have a namespace of their own.
pub(crate) fn detected(root: &Path) -> bool {
    MARKS.iter().any(|mark| root.join(mark).exists())
        || (root.join(DOCKER).exists() && has_own_processes(root))
        || told_to_init(root)
}

/// Whether PID 1 is not the one of the kernel. Where that is not known (no procfs), a file that
/// may be old proves nothing.
fn has_own_processes(root: &Path) -> bool {
    let namespace = std::fs::read_link(root.join("proc/self/ns/pid"));
    namespace.is_ok_and(|name| name != Path::new(FIRST))
}

/// Whether PID 1 has a `$container` that says something. It may be read by root with
/// CAP_SYS_PTRACE. systemd as PID 1 has written it into the first of [`MARKS`].
fn told_to_init(root: &Path) -> bool {
    if root.join("run/systemd/system").is_dir() {
        return false;
    }
    let told = |v: &[u8]| v.strip_prefix(b"container=").is_some_and(|value| !value.is_empty());
    std::fs::read(root.join("proc/1/environ")).is_ok_and(|all| all.split(|&b| b == 0).any(told))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_mark_that_an_image_may_have_kept_is_no_container_and_those_of_this_boot_are() {
        let write = |file: &'static str, text: &'static str| {
            move |root: &Path| {
                let path = root.join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
        };
        let processes = |name: &'static str| {
            move |root: &Path| {
                fs::create_dir_all(root.join("proc/self/ns")).unwrap();
                symlink(name, root.join("proc/self/ns/pid")).unwrap();
            }
        };
        let docker = write(".dockerenv", "");
        type Make = Box<dyn Fn(&Path)>;
        let cases: [(&str, Vec<Make>, bool); 9] = [
            ("a machine", vec![Box::new(processes(FIRST))], false),
            ("left behind", vec![Box::new(docker), Box::new(processes(FIRST))], false),
            ("left behind, no procfs", vec![Box::new(docker)], false),
            ("Docker", vec![Box::new(docker), Box::new(processes("pid:[4026532201]"))], true),
            ("nspawn", vec![Box::new(write("run/systemd/container", "systemd-nspawn\n"))], true),
            ("a manager", vec![Box::new(write("run/host/container-manager", "x"))], true),
            ("Podman", vec![Box::new(write("run/.containerenv", ""))], true),
            ("LXC", vec![Box::new(write("proc/1/environ", "A=b\0container=lxc\0"))], true),
            (
                "told that it is none",
                vec![Box::new(write("proc/1/environ", "container=\0"))],
                false,
            ),
        ];
        for (case, makes, expected) in cases {
            let root = tempfile::tempdir().unwrap();
            makes.iter().for_each(|make| make(root.path()));
            assert_eq!(detected(root.path()), expected, "{case}");
        }
    }
}
