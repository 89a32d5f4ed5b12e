//! Guards on compiled modules. They compare `struct module` with that of a shipped module, and
//! structures with the kernel's BTF.

use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};
use object::{Object, ObjectSection};

use crate::exit::{Exit, WithExit};
use crate::fail;
use crate::kernel::btf::Btf;
use crate::module::{Module, ThisModule};

/// The structures whose sizes the probe records. OpenZFS shares them with the kernel, and their
/// size depends on options. The headers of every kernel that OpenZFS builds for define each of them
/// completely, whatever the options.
pub const PROBE_STRUCTS: &[&str] = &[
    "module",
    "task_struct",
    "mm_struct",
    "vm_area_struct",
    "page",
    "inode",
    "dentry",
    "file",
    "super_block",
    "address_space",
    "kiocb",
    "iov_iter",
    "bio",
    "gendisk",
    "request_queue",
    "block_device",
    "backing_dev_info",
    "device",
    "kobject",
    "cred",
    "user_namespace",
    "mutex",
    "rw_semaphore",
    "wait_queue_head",
    "timer_list",
    "delayed_work",
    "percpu_counter",
    "shrinker",
    "ctl_table",
    "seq_file",
    "file_operations",
    "inode_operations",
    "super_operations",
    "address_space_operations",
    "xattr_handler",
];

/// What the probe has to include for [`PROBE_STRUCTS`].
const HEADERS: [&str; 20] = [
    "backing-dev.h",
    "bio.h",
    "blkdev.h",
    "cred.h",
    "device.h",
    "fs.h",
    "kobject.h",
    "mm.h",
    "module.h",
    "mutex.h",
    "percpu_counter.h",
    "rwsem.h",
    "sched.h",
    "seq_file.h",
    "shrinker.h",
    "sysctl.h",
    "uio.h",
    "user_namespace.h",
    "workqueue.h",
    "xattr.h",
];

/// The section that the sizes are in.
const SECTION: &str = ".zfs_prefix_sizes";

/// C source of a module that does nothing. A section of its own holds `sizeof` each of
/// [`PROBE_STRUCTS`], for [`probe_sizes`]. The kernel's build system has to compile it (`obj-m`),
/// like the real modules.
pub fn probe_source() -> String {
    let mut text = "/* Made by zfs-prefix: how large are structures for a module? */\n".to_owned();
    // Writing to a String cannot fail.
    for header in HEADERS {
        let _ = writeln!(text, "#include <linux/{header}>");
    }
    let _ = writeln!(
        text,
        "\nstatic const u64 sizes[] __attribute__((used, section(\"{SECTION}\"))) = {{"
    );
    for name in PROBE_STRUCTS {
        let _ = writeln!(text, "\tsizeof(struct {name}),");
    }
    text += "};\n\n\
        static int __init probe_init(void)\n{\n\treturn 0;\n}\n\n\
        static void __exit probe_exit(void)\n{\n}\n\n\
        module_init(probe_init);\nmodule_exit(probe_exit);\n\
        MODULE_DESCRIPTION(\"Sizes of structures\");\nMODULE_LICENSE(\"GPL\");\n";
    text
}

/// Reads the sizes back from the compiled probe (the .ko, or the .o before it).
///
/// # Errors
/// Not the object of [`probe_source`].
pub fn probe_sizes(ko: &[u8]) -> Result<Vec<(String, u64)>> {
    let object = object::File::parse(ko).context("probe module: not a readable ELF object")?;
    let section = object.section_by_name(SECTION);
    let section = section.with_context(|| format!("probe module: no section {SECTION}"))?;
    let data = section.data().context("probe module")?;
    ensure!(
        data.len() == PROBE_STRUCTS.len() * 8,
        "probe module: {} bytes in {SECTION}, expected {} sizes of 8",
        data.len(),
        PROBE_STRUCTS.len()
    );
    let little = object.is_little_endian();
    let sizes = PROBE_STRUCTS.iter().zip(data.chunks_exact(8)).map(|(name, bytes)| {
        let mut word = [0; 8];
        word.copy_from_slice(bytes);
        let size = if little { u64::from_le_bytes(word) } else { u64::from_be_bytes(word) };
        ((*name).to_owned(), size)
    });
    Ok(sizes.collect())
}

/// Compares `sizeof` of compiled structures with the kernel's BTF. It skips a structure that the
/// BTF does not have: the kernel may be built without the part that uses it. If the BTF has several
/// structures of one name, any of their sizes passes.
///
/// # Errors
/// [`Exit::Refused`]: sizes differ, or the BTF has none of the structures. The error names each
/// structure with both sizes.
pub fn structs(built: &[(String, u64)], btf: &Btf) -> Result<()> {
    let mut problems = Vec::new();
    let mut compared = 0;
    for (name, size) in built {
        let known = btf.sizes(name);
        compared += usize::from(!known.is_empty());
        if !known.is_empty() && !known.contains(size) {
            let known: Vec<String> = known.iter().map(u64::to_string).collect();
            problems.push(format!(
                "struct {name} has {size} bytes, in the kernel {}",
                known.join(" or ")
            ));
        }
    }
    if compared == 0 {
        fail!(
            Exit::Refused,
            "the kernel's BTF has none of the {} structures to compare: it is not this kernel's, or damaged",
            built.len()
        );
    }
    refuse(&problems, "the kernel's BTF")
}

/// Compares `struct module` of a built module with that of modules that came with the kernel: its
/// size, and the offsets of the pointers to init and exit, if both modules have them.
///
/// # Errors
/// [`Exit::Refused`]: they differ, and the error says where; or the built module has no
/// `.gnu.linkonce.this_module`.
pub fn this_module(built: &Module, shipped: ThisModule) -> Result<()> {
    refuse(&differences(of(built)?, shipped), "modules that came with the kernel")
}

fn of(built: &Module) -> Result<ThisModule> {
    let found = built.this_module();
    found.context("the built module has no .gnu.linkonce.this_module").exit(Exit::Refused)
}

/// Compares `struct module` of a built module with the kernel's BTF.
///
/// # Errors
/// As [`this_module`]; or the BTF has no readable `struct module`.
pub fn btf_module(built: &Module, btf: &Btf) -> Result<()> {
    let members = btf.members("module").exit(Exit::Refused)?;
    let offset =
        |name: &str| members.iter().find(|m| m.name == name).map(|m| u64::from(m.bit_offset / 8));
    let sizes = btf.sizes("module");
    let [size] = sizes[..] else {
        fail!(Exit::Refused, "the kernel's BTF has structs module of {sizes:?} bytes");
    };
    let kernel = ThisModule { size, init: offset("init"), exit: offset("exit") };
    refuse(&differences(of(built)?, kernel), "the kernel's BTF")
}

/// What differs between two views of `struct module`.
pub(crate) fn differences(built: ThisModule, kernel: ThisModule) -> Vec<String> {
    let fields = [
        ("has", "bytes", Some(built.size), Some(kernel.size)),
        ("has init at", "", built.init, kernel.init),
        ("has exit at", "", built.exit, kernel.exit),
    ];
    let differing = fields.into_iter().filter_map(|(has, unit, built, kernel)| {
        let (built, kernel) = (built?, kernel?);
        (built != kernel).then(|| {
            let text = format!("struct module {has} {built} {unit}");
            format!("{}, in the kernel {kernel}", text.trim_end())
        })
    });
    differing.collect()
}

fn refuse(problems: &[String], source: &str) -> Result<()> {
    if problems.is_empty() {
        return Ok(());
    }
    fail!(
        Exit::Refused,
        "structures are not laid out as in the kernel ({source}); the build tree has another configuration, compiler or patch level:\n  {}",
        problems.join("\n  ")
    );
}
