//! Entering the prefix, for real: `zfs-prefix prefix shell` as root, in the root image, which is of
//! another Debian than the prefix and has no compiler. Each case in a private mount namespace of
//! its own, so that nothing of the machine is changed.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

mod scene;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use scene::{E, SHELL, Scene};

#[test]
fn nothing_of_the_host_can_be_executed_or_mapped() {
    let scene = Scene::new();
    // access(2) says no for a file on a noexec mount.
    let executable = scene.inside("", r#"for f in {,/usr}/{bin,sbin,lib}/*; do [ -f "$f" ] && [ -x "$f" ] && readlink -f "$f"; done | sort -u"#);
    let covered = scene.run("readlink -f /bin/sh /bin/bash /usr/bin/env | sort -u").output;
    assert_eq!(executable, covered.trim_end(), "beside the prefix's own shells and env");
    let same = scene.inside(
        "",
        &format!("for f in bash env; do cmp /usr/bin/$f {E}/usr/bin/$f && echo $f; done"),
    );
    assert_eq!(same, "bash\nenv");

    let status = |line: &str| {
        let ran = scene.run(&format!("{SHELL} -- {line}"));
        (ran.status, ran.errors)
    };
    let (code, errors) = status("/usr/bin/ls");
    assert_eq!(code, 11, "{errors}");
    assert!(errors.contains("/usr/bin/ls may not be executed: ") && errors.contains(E), "{errors}");
    let (code, errors) = status("bash -c /usr/bin/ls");
    assert_eq!(code, 126, "{errors}");
    assert!(errors.contains("/usr/bin/ls: Permission denied"), "{errors}");
    let (code, errors) = status(&format!("{E}/lib64/ld-linux-x86-64.so.2 /usr/bin/ls"));
    assert_eq!(code, 127, "{errors}");
    assert!(errors.contains("failed to map segment"), "{errors}");
    let load = "python3 -c 'import ctypes; ctypes.CDLL(\"/usr/lib/x86_64-linux-gnu/libc.so.6\")'";
    let (code, errors) = status(load);
    assert_eq!(code, 1, "{errors}");
    assert!(errors.contains("failed to map segment"), "{errors}");
    let (code, errors) = status("frobnicate");
    assert_eq!(code, 11, "{errors}");
    assert!(
        errors.contains("frobnicate: it, or the interpreter it names, is not in the prefix"),
        "{errors}"
    );
}

#[test]
fn nothing_outside_the_prefix_can_be_written_and_tmp_is_private() {
    let scene = Scene::new().before("echo secret > /tmp/of-the-host; mkdir -p /srv/open; chmod 777 /srv/open; chown -R core /srv/open");
    let writable = scene.inside(
        "",
        &format!(
            "find / \\( -path /proc -o -path {E} -o -path \"$HOME\" -o -path /tmp -o -path /var/tmp -o -path /dev \\) -prune -o ! -type l -writable -print 2>/dev/null; echo end"
        ),
    );
    assert_eq!(writable, "end");
    let script = format!(
        "{SHELL} -- bash -c 'ls -A /tmp /var/tmp /dev/shm; echo here > /tmp/inside; echo here > {E}/inside; cat /tmp/inside $HOME/none 2>&1'; ls /tmp; cat {E}/inside; ls -A /var/cache/zfs-prefix/shell; echo end"
    );
    let ran = scene.run(&script);
    assert!(!ran.output.contains("secret"), "{ran:?}");
    let lines: Vec<&str> = ran.output.lines().filter(|l| !l.is_empty()).collect();
    assert_eq!(lines[..3], ["/dev/shm:", "/tmp:", "/var/tmp:"], "all empty: {ran:?}");
    assert!(lines[4].ends_with("/none: No such file or directory"), "{ran:?}");
    assert_eq!((lines[3], &lines[5..]), ("here", &["of-the-host", "here", "end"][..]), "{ran:?}");
}

#[test]
fn the_sockets_of_services_are_hidden_and_name_servers_are_not() {
    let before = "mkdir -p /run/user /run/resolve; echo nameserver 192.0.2.7 > /run/resolve/stub.conf; ln -sf ../run/resolve/stub.conf /etc/resolv.conf; ln -s /run /var/run2";
    let scene = Scene::new().before(before);
    let look =
        "find /run /var/run2/ -mindepth 1 -type f; cat /etc/resolv.conf 2>/dev/null; echo end";
    let found = "/run/resolve/stub.conf\n/var/run2/resolve/stub.conf\nnameserver 192.0.2.7\nend";
    assert_eq!(scene.inside("", look), found);
    assert_eq!(scene.inside("--no-network", look), "end");
    let ran = scene.run(&format!("{SHELL} -- touch /run/x"));
    assert!(ran.errors.contains("/run/x': Permission denied"), "{ran:?}");
    let outside = std::fs::read_link("/proc/self/ns/ipc").unwrap();
    let inside =
        scene.inside("", "readlink /proc/self/ns/ipc; ls -A /dev/mqueue 2>/dev/null; true");
    assert!(inside.starts_with("ipc:") && !inside.contains('\n'), "{inside}");
    assert_ne!(PathBuf::from(inside), outside);
}

#[test]
fn a_file_system_that_is_unmounted_outside_is_gone_while_a_shell_runs() {
    // A loop device with autoclear is free as soon as nobody has its file system mounted any more.
    let after = "mkdir -p '/srv/a disk' /run/media && truncate -s 8M /image && mkfs.ext4 -q /image && mount -o loop /image '/srv/a disk' && mount -t tmpfs stick /run/media";
    let scene = Scene::new().after(after);
    let script = format!(
        r#"device=$(findmnt -no SOURCE '/srv/a disk')
        mkfifo /go
        {SHELL} -- bash -c 'echo up; cat /proc/self/mountinfo; read -r line' < <(cat /go) > /said &
        until grep -q ^up /said; do sleep 0.05; done
        umount '/srv/a disk' && umount /run/media || exit
        image=/sys/block/${{device#/dev/}}/loop/backing_file
        for i in {{1..100}}; do [ -e "$image" ] || break; sleep 0.1; done
        echo "[$(cat "$image" 2>/dev/null)]"
        echo > /go; wait $!; echo $?
        grep -E 'disk|media|mqueue' /said"#
    );
    let ran = scene.run(&script);
    assert_eq!(ran.output, "[]\n0\n", "{ran:?}");
}

#[test]
fn the_owner_has_no_privilege_no_network_unless_asked_and_nothing_of_the_callers() {
    let scene = Scene::new();
    let status = scene.inside(
        "",
        "grep -E '^(Cap|NoNewPrivs|Groups|SigBlk)' /proc/self/status; umask; ls /proc/self/fd",
    );
    let lines: Vec<String> =
        status.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(
        lines,
        [
            "Groups:",
            "SigBlk: 0000000000000000",
            "CapInh: 0000000000000000",
            "CapPrm: 0000000000000000",
            "CapEff: 0000000000000000",
            "CapBnd: 0000000000000000",
            "CapAmb: 0000000000000000",
            "NoNewPrivs: 1",
            "0022",
            "0",
            "1",
            "2",
            "3",
        ]
    );
    let ran =
        scene.run(&format!("trap '' HUP PIPE; {SHELL} -- sed -n s/SigIgn://p /proc/self/status"));
    let ignored = u64::from_str_radix(ran.output.trim(), 16).unwrap();
    // Above 31 are the real-time signals, two of which belong to the C library.
    assert_eq!(ignored & 0x7fff_ffff, 0, "{ran:?}");
    assert_eq!(scene.inside("", "id"), "uid=500(core) gid=500(core) groups=500(core)");
    // bash adds PWD, SHLVL and _.
    let names = scene.inside("", "env | cut -d= -f1 | sort | xargs");
    assert_eq!(
        names,
        "CONFIG_SHELL EPREFIX HOME LC_ALL LOGNAME PATH PWD SHELL SHLVL TERM TMPDIR USER _"
    );
    let path = ["usr/bin", "bin", "usr/sbin", "sbin"].map(|dir| format!("{E}/{dir}")).join(":");
    assert_eq!(scene.inside("", "echo $PATH"), path);
    let devices = "tail -n +3 /proc/net/dev | cut -d: -f1; tail -n +2 /proc/net/route";
    assert_eq!(scene.inside("--no-network", devices).trim(), "lo", "no device, no route");
    let here = std::fs::read_link("/proc/self/ns/net").unwrap();
    let net = |options: &str| PathBuf::from(scene.inside(options, "readlink /proc/self/ns/net"));
    assert_eq!((net("") == here, net("--no-network") == here), (true, false));
    let typed = "python3 -c 'import fcntl, termios; fcntl.ioctl(0, termios.TIOCSTI, b\"x\")'";
    let ran = scene.run(&format!("{SHELL} -- {typed}"));
    assert!(ran.errors.contains("Operation not permitted"), "not into root's terminal: {ran:?}");
}

#[test]
#[allow(unsafe_code, reason = "no library here knows keyrings(7)")]
fn what_roots_session_keyring_holds_stays_behind() {
    let (kind, name, secret) = (c"user", c"of-root", c"secret");
    // SAFETY: keyctl(2) and add_key(2) read C strings that outlive the calls. The keyring is this
    // thread's, and so that of the processes it starts.
    let id = unsafe {
        let session = libc::KEY_SPEC_SESSION_KEYRING;
        libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, 0_usize);
        libc::syscall(libc::SYS_add_key, kind.as_ptr(), name.as_ptr(), secret.as_ptr(), 6, session)
    };
    assert!(id > 0, "{}", std::io::Error::last_os_error());
    // KEYCTL_READ of the key, and KEYCTL_SEARCH of the session keyring for it.
    let script = format!(
        r#"python3 -c '
import ctypes
call = ctypes.CDLL(None, use_errno=True).syscall
print(call({0}, 11, {id}, ctypes.create_string_buffer(9), 9), ctypes.get_errno())
print(call({0}, 10, -3, b"user", b"of-root", 0), ctypes.get_errno())'"#,
        libc::SYS_keyctl
    );
    let scene = Scene::new();
    let (no_access, no_key) = (libc::EACCES, libc::ENOKEY);
    assert_eq!(scene.inside("", &script), format!("-1 {no_access}\n-1 {no_key}"));
}

#[test]
fn user_and_group_have_names_wherever_the_host_keeps_them() {
    let forget = "sed -i /^core:/d /etc/passwd /etc/group";
    let flatcar = "; mkdir -p /usr/share/baselayout; echo flat:x:500:500::/home/core:/bin/bash > /usr/share/baselayout/passwd; echo flat:x:500: > /usr/share/baselayout/group";
    let fedora = "; echo fed:x:500:500::/home/core:/bin/bash > /usr/lib/passwd; echo fed:x:500: > /usr/lib/group";
    for (case, script, name) in [
        ("in /etc", "true".to_owned(), "core core"),
        ("Flatcar", format!("{forget}{flatcar}"), "flat flat"),
        ("Fedora", format!("{forget}{fedora}"), "fed fed"),
        ("nowhere", forget.to_owned(), "u500 g500"),
    ] {
        let scene = Scene::new().before(&script);
        assert_eq!(scene.inside("", "echo $(id -un; id -gn)"), name, "{case}");
        assert_eq!(scene.inside("", "echo $USER"), name.split(' ').next().unwrap(), "{case}");
        let portage = "import pwd, os; print(pwd.getpwuid(os.getuid()).pw_name)";
        let python = scene.inside("", &format!("python3 -c '{portage}'"));
        assert_eq!(python, name.split(' ').next().unwrap(), "{case}");
    }
}

#[test]
fn the_prefix_is_entered_through_a_symlinked_home_and_on_mounts_of_its_own() {
    let scene = Scene::new().before("mv /home /var/home; ln -s var/home /home");
    assert_eq!(
        scene.inside("", "gcc -dumpversion; touch $EPREFIX/x; stat -c %U $EPREFIX/x"),
        "12\ncore"
    );
    let scene = Scene::new().after(&format!("mount -t tmpfs -o mode=777,size=1m own {E}/var/tmp"));
    assert_eq!(
        scene.inside("", "touch $EPREFIX/var/tmp/x; df --output=source $EPREFIX/var/tmp | tail -1"),
        "own"
    );
}

#[test]
fn a_module_is_built_with_the_helper_programs_of_the_shipped_tree() {
    let scene = Scene::new();
    let release = scene.release.clone();
    let script = r#"
        printf '#include <linux/module.h>\nMODULE_LICENSE("GPL");\nint f(void);\nint f(void){return 1;}\nEXPORT_SYMBOL(f);\n' > hello.c
        echo 'obj-m := hello.o' > Makefile
        make -C "$KV_OUT_DIR" M="$PWD" modules >&2 || exit
        modinfo -F vermagic hello.ko
        for program in scripts/basic/fixdep tools/objtool/objtool; do
            readelf -lW "$(readlink -f "$KV_OUT_DIR/$program")" | grep -o 'interpreter: .*'
        done
        echo "$KERNEL_DIR""#;
    let said = scene.inside(&format!("--no-network --kernel-release {release}"), script);
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with(&format!("{release} ")), "{said}");
    let interpreter = format!("interpreter: {E}/lib64/ld-linux-x86-64.so.2]");
    assert_eq!(lines[1..3], [&interpreter, &interpreter], "{said}");
    assert!(lines[3].ends_with("-common"), "{said}");

    let without = Scene::new().after(&format!("rm {E}/usr/bin/patchelf"));
    let ran = without.run(&format!("{SHELL} --kernel-release {release} -- true"));
    assert_eq!(ran.status, 11, "{ran:?}");
    assert!(ran.errors.contains("fixdep") && ran.errors.contains("dev-util/patchelf"), "{ran:?}");
}

#[test]
fn what_makes_entering_impossible_is_named_with_its_status_and_cure() {
    let e = E;
    for (case, after, line, status, message) in [
        (
            "bash leads out",
            format!("ln -sf /usr/bin/ls {e}/usr/bin/bash"),
            "true",
            11,
            "bin/bash is not a program inside the prefix",
        ),
        ("noexec", format!("mount -o remount,bind,noexec {e}"), "true", 1, "mounted noexec"),
        ("another user's", format!("chown 501:501 {e}"), "true", 11, "belongs to uid 501"),
        ("root's", format!("chown 0:0 {e}"), "true", 11, "belongs to"),
        ("no such kernel", String::new(), "--kernel-release 9.9.9 -- true", 10, "no build tree"),
        ("no CAP_SYS_ADMIN", String::new(), "UNABLE", 1, "CAP_SYS_ADMIN is needed"),
        ("no root", String::new(), "AS CORE", 1, "run this as root"),
        ("no /etc/group", "rm /etc/group".to_owned(), "true", 1, "touch /etc/group"),
        (
            "a published kernel",
            format!(
                "mkdir -p {e}/lib/modules; ln -s /var/lib/zfs-prefix/store/R/K/lib/modules/R {e}/lib/modules/$(uname -r)"
            ),
            "true",
            0,
            "is a link to the published modules",
        ),
    ] {
        let scene = Scene::new().after(&after);
        let ran = scene.run(&match line {
            "true" => format!("{SHELL} -- true"),
            "UNABLE" => format!("setpriv --bounding-set=-sys_admin {SHELL} -- true"),
            "AS CORE" => {
                format!("setpriv --reuid=core --regid=core --clear-groups {SHELL} -- true")
            }
            options => format!("{SHELL} {options}"),
        });
        assert_eq!(ran.status, status, "{case}: {ran:?}");
        assert!(ran.errors.contains(message), "{case}: {ran:?}");
    }
}

#[test]
fn the_exit_status_is_the_commands_and_input_reaches_it() {
    let scene = Scene::new();
    for (line, status) in
        [("exit 7", 7), ("exit 0", 0), ("kill -9 $$", 137), ("kill -TERM $$", 143)]
    {
        let ran = scene.run(&format!("{SHELL} -- bash -c '{line}'"));
        assert_eq!(ran.status, status, "{line}: {ran:?}");
    }
    let ran = scene.run(&format!("echo 'echo $((6*7)) $0; exit 3' | {SHELL}"));
    assert_eq!(
        (ran.status, ran.output.trim()),
        (3, "42 bash"),
        "a script on standard input: {ran:?}"
    );
}

/// Starts a shell with processes that try to stay, and waits until they are there; theirs PIDs.
fn with_stayers(scene: &Scene, end: &str) -> (Child, Vec<u32>) {
    let script = format!(
        "(trap \"\" TERM HUP; setsid sleep 1000 & echo $!); sleep 1000 & echo $!; echo up; {end}"
    );
    let mut child = scene
        .command(&format!("exec {SHELL} -- bash -c '{script}'"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let pids = lines.take_while(|line| line != "up").map(|pid| pid.parse().unwrap()).collect();
    (child, pids)
}

fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn what_a_shell_started_ends_with_it_however_it_ends() {
    let scene = Scene::new();
    for (case, end, signal) in
        [("by itself", "exit 5", None), ("asked to stop", "wait", Some("TERM"))]
    {
        let (mut child, pids) = with_stayers(&scene, end);
        assert_eq!(pids.len(), 2, "{case}");
        if let Some(signal) = signal {
            let kill = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status();
            assert!(kill.unwrap().success());
        }
        let status = child.wait().unwrap();
        assert_eq!(signal.is_none(), status.code() == Some(5), "{case}: {status}");
        assert_eq!(pids.iter().filter(|pid| alive(**pid)).count(), 0, "{case}");
    }
    // Killed: the kernel ends the command; what left its session is the service manager's.
    let mut child = scene
        .command(&format!("exec {SHELL} -- bash -c 'echo $$; exec sleep 1000'"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pid = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut pid).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let pid = pid.trim().parse().unwrap();
    let begin = Instant::now();
    while alive(pid) {
        assert!(begin.elapsed() < Duration::from_secs(60), "process {pid} outlived the shell");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
#[ignore = "compiles OpenZFS once more: make check-all"]
fn the_page_of_shell_of_2014_merges_into_the_prefix_and_ccache_serves_the_second_time() {
    let scene = Scene::new();
    let release = &scene.release;
    let emerge = r#"
        export CCACHE_DIR=$EPREFIX/var/cache/ccache
        merge() {
            env FEATURES=ccache EXTRA_ECONF="--with-linux=$KERNEL_DIR --with-linux-obj=$KV_OUT_DIR" \
                KV_OUT_DIR="$KV_OUT_DIR" emerge -1v sys-fs/zfs-kmod >&2 || exit
        }
        merge
        ls "$EPREFIX"/lib/modules/*/extra
        modinfo -F vermagic "$EPREFIX"/lib/modules/*/extra/zfs.ko
        ccache -z >&2
        merge
        ccache --print-stats"#;
    let said = scene.inside(&format!("--kernel-release {release}"), emerge);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..3], ["spl.ko", "zfs-kmod.inputs", "zfs.ko"], "{said}");
    assert!(lines[3].starts_with(&format!("{release} ")), "{said}");
    let count = |name: &str| -> u32 {
        let found = lines.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix('\t'));
        found.unwrap_or_else(|| panic!("{name}: {said}")).parse().unwrap()
    };
    let hits = count("direct_cache_hit") + count("preprocessed_cache_hit");
    assert!(hits > 300 && hits > 10 * count("cache_miss"), "{said}");
}
