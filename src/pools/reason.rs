//! Why a pool is not as it has to be, and what to do, in words.

use super::text::Block;
use super::{By, CacheFile, State};

/// A reason, and the way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reason {
    pub(super) why: String,
    pub(super) what_to_do: String,
}

fn reason(why: impl Into<String>, what_to_do: impl Into<String>) -> Reason {
    Reason { why: why.into(), what_to_do: what_to_do.into() }
}

/// The advice before a program that did not answer is run again: it may hang, too.
const KERNEL_LOG: &str = "see the kernel log for a disk or a pool that hangs: journalctl -k";

pub(super) fn no_module() -> Reason {
    reason(
        "the ZFS kernel module is not loaded",
        "see why, and whether to build it first: zfs-prefix status; then load it and import: zfs-prefix load --import",
    )
}

pub(super) fn no_answer(why: String) -> Reason {
    reason(why, KERNEL_LOG)
}

impl Reason {
    /// The text of [`no_answer`], if there is no pool to report it for.
    pub(super) fn imported_unknown(self) -> String {
        let Reason { why, what_to_do } = self;
        format!("the imported pools are not known: {why}. To do: {what_to_do}")
    }
}

/// For a pool that is healthy as far as it is known.
pub(super) fn keys_unknown(name: &str, why: &str) -> Reason {
    let name = quoted(name);
    reason(
        format!("whether its keys are loaded is not known: {why}"),
        format!(
            "see the kernel log for a disk that hangs: journalctl -k; then: zfs get -r keystatus {name}"
        ),
    )
}

pub(super) fn read_only(name: &str) -> Reason {
    let name = quoted(name);
    reason(
        "it is imported read-only",
        format!("if it may be written to: zpool export {name} && zpool import {name}"),
    )
}

/// For a pool that is imported, from `zpool status`.
pub(super) fn impaired(name: &str, state: State, blocks: &Result<Vec<Block>, String>) -> Reason {
    let command = format!("zpool status {}", quoted(name));
    let block = match blocks {
        Ok(blocks) => blocks.iter().find(|block| block.pool == name),
        Err(why) => {
            return reason(
                format!("why is not known: {why}"),
                format!("{KERNEL_LOG}; then: {command}"),
            );
        }
    };
    let Some(block) = block else { return reason("zpool status does not say why", command) };
    let devices = devices(block);
    let why = match (block.status.is_empty(), devices.is_empty()) {
        (true, true) => format!("zpool status says {}", block.state),
        (true, false) => devices,
        (false, true) => block.status.clone(),
        (false, false) => format!("{devices}: {}", block.status),
    };
    match state {
        State::Suspended => {
            reason(why, format!("bring its devices back, then: zpool clear {}", quoted(name)))
        }
        _ if block.action.is_empty() => reason(why, command),
        _ => reason(why, format!("{} ({command})", block.action)),
    }
}

/// For a pool that is not imported, from `zpool import`.
pub(super) fn absent(
    name: &str,
    by: By,
    scanned: &Result<Vec<Block>, String>,
    cache: &CacheFile,
) -> Reason {
    let import = format!("zpool import {}", quoted(name));
    let blocks: Vec<&Block> = match scanned {
        Ok(blocks) => blocks.iter().filter(|block| block.pool == name).collect(),
        Err(why) => {
            let why = format!("it is not imported, and why is not known: {why}");
            return reason(
                why,
                format!("{KERNEL_LOG}; then look for it: zpool import; then: {import}"),
            );
        }
    };
    match blocks[..] {
        [] => nowhere(name, by),
        [block] => present(block, &import, cache),
        _ => {
            let id = |b: &&Block| format!("{} ({})", b.id.as_deref().unwrap_or("?"), b.state);
            let ids: Vec<String> = blocks.iter().map(id).collect();
            let why = format!("there are {} pools of that name: {}", ids.len(), ids.join(", "));
            reason(why, "import the right one by its number: zpool import NUMBER")
        }
    }
}

fn nowhere(name: &str, by: By) -> Reason {
    let gone = match by {
        By::Configuration => "take it out of pools.expected".to_owned(),
        By::MountList => format!("remove its file in {}", super::expected::LISTS),
        By::Missing => format!("zfs-prefix pools --forget {}", quoted(name)),
        // An import of another pool since then would have removed it from that file.
        By::CacheFile => {
            format!("rm {}; zfs-prefix pools --forget {}", super::cache_file::CACHE, quoted(name))
        }
    };
    reason(
        "no device of this machine has a pool of that name",
        format!("attach its devices and import it: zpool import; if it is gone for good: {gone}"),
    )
}

/// A pool that zpool sees on the devices.
fn present(block: &Block, import: &str, cache: &CacheFile) -> Reason {
    let says = |words: &str| block.status.contains(words);
    let devices = devices(block);
    let force = import.replacen("import", "import -f", 1);
    // show_import of zpool_main.c; the order is that of what has to be done first.
    if says("currently imported by another system") || says("multihost property on") {
        return reason(&block.status, &block.action);
    }
    if says("not supported on this system") {
        let newer = "an OpenZFS that supports them (zfs.version in zfs-prefix.toml(5)), then: ";
        let what = if says("read-only mode") {
            format!("{newer}{import}; or {}", import.replacen("import", "import -o readonly=on", 1))
        } else {
            format!("{newer}{import}")
        };
        return reason(&block.status, what);
    }
    let usable = matches!(&*block.state, "ONLINE" | "DEGRADED");
    let state = match (usable, &*devices) {
        (true, "") => String::new(),
        (_, "") => format!("{} ({})", block.state, or(&block.note, &block.status)),
        _ => format!("{}, devices missing or unusable: {devices}", block.state),
    };
    if says("last accessed by another system") {
        let and = if state.is_empty() { String::new() } else { format!("; it is {state}") };
        let why =
            format!("it was last used by another host (its hostid is not this machine's){and}");
        return reason(why, format!("if no other host uses it: {force}"));
    }
    if usable {
        let well = or(&state, &block.state);
        return reason(
            format!("it is there, {well}, and not imported; {}", cache.describe()),
            import,
        );
    }
    if !devices.is_empty() {
        reason(format!("it is {state}"), format!("attach them, then: {import}"))
    } else {
        reason(format!("it is {state}"), format!("{} ({import})", block.action))
    }
}

fn or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() { otherwise } else { text }
}

/// The devices that are not well, each with its state.
fn devices(block: &Block) -> String {
    let one = |device: &super::text::Device| {
        if device.note.is_empty() {
            format!("{} {}", device.name, device.state)
        } else {
            format!("{} {} ({})", device.name, device.state, device.note)
        }
    };
    block.bad_devices().map(one).collect::<Vec<_>>().join(", ")
}

/// A name, quoted for a shell.
pub(super) fn quoted(name: &str) -> String {
    if name.contains(' ') { format!("'{name}'") } else { name.to_owned() }
}
