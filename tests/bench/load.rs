//! What loading costs: `zfs-load` against `modprobe -d` of the same published tree, alternating in
//! one virtual machine; and natively the loader's own time, everything but finit_module(2).

mod report;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use lab::disk::{State, usr};
use lab::published::publish;
use lab::root::Root;
use lab::vm::{VmSpec, boot};
use report::{Table, milliseconds};
use zfs_prefix::exit::Exit;
use zfs_prefix::host::Release;
use zfs_prefix::store::{Inputs, Layout, MANIFEST_VERSION, Manifest, Staging, entries, unix_now};

/// Times of loading ZFS.
#[derive(Parser)]
struct Cli {
    /// What `make install DESTDIR=` filled
    #[arg(long)]
    stage: PathBuf,
    /// Loads with each program in the virtual machine
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Native runs of the loader
    #[arg(long, default_value_t = 40)]
    runs: usize,
    /// Only the native runs
    #[arg(long)]
    native: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let stage = cli.stage.canonicalize().with_context(|| cli.stage.display().to_string())?;
    let root = lab::root::root()?;
    let title = format!("Loading ZFS for {}", root.release);
    let mut table = Table::new(title, &["minimum ms", "median ms"]);
    native(&cli, &stage, &root, &mut table)?;
    if !cli.native {
        virtual_machine(&cli, &stage, &root, &mut table)?;
    }
    table.print(cli.json);
    Ok(())
}

/// Both programs read the tree from memory and insert the same modules.
const SCRIPT: &str = r#"
tree=$(readlink -f "/var/lib/zfs-prefix/current/$(uname -r)")
cat "$tree"/lib/modules/*/extra/*.ko > /dev/null
timed() {
	local name=$1 begin=$EPOCHREALTIME end status
	shift
	"$@"
	status=$?
	end=$EPOCHREALTIME
	printf '\n@@time %s %s %s\n' "$name" $((${end/./} - ${begin/./})) $status
}
unload() { rmmod zfs && rmmod spl; }
loader() {
	timed check /usr/lib/zfs-prefix/zfs-load --check
	timed zfs-load /usr/lib/zfs-prefix/zfs-load
	unload
}
modprobe_() {
	timed modprobe modprobe -d "$tree" zfs
	unload
}
"#;

fn virtual_machine(cli: &Cli, stage: &Path, root: &Root, table: &mut Table) -> Result<()> {
    let work = lab::tmp::dir("bench-")?;
    let state = State::fresh(root, &work.path().join("state"))?;
    publish(root, &state)?;
    // Who is first in a round changes: neither always meets what the other left.
    let loads = ["loader; modprobe_\n", "modprobe_; loader\n"];
    let loads: String = (0..cli.rounds).map(|round| loads[round % 2]).collect();
    let spec = VmSpec {
        name: "bench-load".into(),
        cmdline: "zfs_prefix=0".into(),
        usr: usr(root, Some(stage))?,
        state: state.disks(work.path())?,
        keep_state: false,
        disks: vec![],
        script: format!("{SCRIPT}{loads}"),
        timeout: Duration::from_secs(120 + 60 * cli.rounds as u64),
        network: false,
        live: false,
    };
    let boot = boot(root, &spec)?;
    for (name, label) in [
        ("check", "in the VM: zfs-load --check"),
        ("zfs-load", "in the VM: zfs-load"),
        ("modprobe", "in the VM: modprobe -d TREE zfs"),
    ] {
        let times = times(&boot.said, name).with_context(|| boot.log.display().to_string())?;
        ensure!(
            times.len() == cli.rounds,
            "{} times of {name}: {}",
            times.len(),
            boot.log.display()
        );
        table.row(label, &milliseconds(&times));
    }
    table.remark(format!("The VM is emulated (TCG); {} rounds.", cli.rounds));
    Ok(())
}

/// The times of the lines `@@time NAME MICROSECONDS STATUS`; any status but 0 is an error.
fn times(said: &str, name: &str) -> Result<Vec<Duration>> {
    let mut times = vec![];
    for line in said.lines().filter_map(|l| l.strip_prefix("@@time ")) {
        let words: Vec<&str> = line.split(' ').collect();
        let [who, microseconds, status] = words[..] else { anyhow::bail!("{line:?}") };
        if who == name {
            ensure!(status == "0", "{name} ended with {status}");
            times.push(Duration::from_micros(microseconds.parse()?));
        }
    }
    Ok(times)
}

/// The program itself up to and with the first finit_module(2), which this machine's kernel
/// refuses at once: the module is for another one. All files have been checked by then.
fn native(cli: &Cli, stage: &Path, root: &Root, table: &mut Table) -> Result<()> {
    let scratch = lab::tmp::dir("bench-")?;
    machine(root, scratch.path())?;
    let program = stage.join("usr/lib/zfs-prefix/zfs-load");
    let mut measured = vec![];
    for arguments in [&["--check"][..], &[]] {
        let mut times = vec![];
        // The first run brings everything into memory.
        for run in 0..=cli.runs {
            let mut command = Command::new(&program);
            command.args(arguments).env_clear().env("ZFS_PREFIX_ROOT", scratch.path());
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
            let begin = Instant::now();
            let output = command.output().context("zfs-load")?;
            let time = begin.elapsed();
            refused_by_the_kernel(arguments, output.status.code(), &output.stderr)?;
            if run > 0 {
                times.push(time);
            }
        }
        measured.push(times);
    }
    table.row("natively: zfs-load --check", &milliseconds(&measured[0]));
    table.row("natively: zfs-load, own time", &milliseconds(&measured[1]));
    table.remark(format!(
        "Own time: {} runs up to the finit_module(2) of spl, which this machine's kernel refuses.",
        cli.runs
    ));
    Ok(())
}

/// An early refusal by the loader itself would make a fine time.
fn refused_by_the_kernel(arguments: &[&str], code: Option<i32>, stderr: &[u8]) -> Result<()> {
    let said = String::from_utf8_lossy(stderr);
    if !arguments.is_empty() {
        ensure!(code == Some(0), "zfs-load --check: {code:?}: {said}");
        return Ok(());
    }
    let expected = [Exit::Refused, Exit::SignaturePolicy, Exit::Other];
    let by_kernel = said.contains("spl.ko") && said.contains("kernel");
    let code = code.and_then(|c| u8::try_from(c).ok());
    ensure!(
        expected.iter().any(|e| Some(e.code()) == code) && by_kernel,
        "zfs-load was not refused by the kernel: {code:?}: {said}"
    );
    Ok(())
}

/// A root directory in which the lab's modules are published for the kernel that runs here.
fn machine(root: &Root, at: &Path) -> Result<()> {
    const BUILD_ID: [u8; 20] = [0x5a; 20];
    let release = Release::running()?;
    // Elf_Nhdr: sizes of name and descriptor, NT_GNU_BUILD_ID; the name; the descriptor (elf(5)).
    let mut note = [4_u32, 20, 3].map(u32::to_ne_bytes).concat();
    note.extend(b"GNU\0");
    note.extend(BUILD_ID);
    for (path, content) in [("sys/kernel/notes", note), ("proc/cmdline", b"quiet\n".to_vec())] {
        let path = at.join(path);
        fs::create_dir_all(path.parent().context("no parent")?)?;
        fs::write(path, content)?;
    }
    let layout = Layout::new(at);
    let staging = Staging::new(&layout, &release)?;
    let extra = Path::new("lib/modules").join(release.as_str()).join("extra");
    let modules = lab::emerge::modules(root)?;
    for name in ["spl.ko", "zfs.ko"] {
        let bytes = for_release(fs::read(modules.join(name))?, &root.release, release.as_str())?;
        staging.create(&extra.join(name))?.write_all(&bytes)?;
    }
    let mut inputs = Inputs::new();
    inputs.add("made-by", "the benchmark");
    let manifest = Manifest {
        version: MANIFEST_VERSION,
        kernel_release: release,
        kernel_build_id: BUILD_ID.iter().map(|byte| format!("{byte:02x}")).collect(),
        vermagic: String::new(),
        key: inputs.key(),
        zfs_version: "unknown".into(),
        userland_version: None,
        built_by: None,
        recipe: "portage".into(),
        created: unix_now(),
        inputs: inputs.map().clone(),
        files: entries(staging.dir())?,
    };
    staging.publish(&manifest).map(drop)
}

/// The module with another release in its vermagic, blanks behind it: right for the loader, wrong
/// for every kernel.
fn for_release(mut module: Vec<u8>, old: &str, new: &str) -> Result<Vec<u8>> {
    let (from, width) = (format!("\0vermagic={old} "), old.len());
    ensure!(new.len() <= width, "this machine's kernel release {new} is longer than {old}");
    let to = format!("\0vermagic={new:width$} ");
    let at = module.windows(from.len()).position(|w| w == from.as_bytes());
    let at = at.context("the module has no vermagic of its kernel")?;
    module[at..at + to.len()].copy_from_slice(to.as_bytes());
    Ok(module)
}
