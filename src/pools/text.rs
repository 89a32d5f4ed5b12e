//! What `zpool status` and `zpool import` print: blocks of `key: value`, with a tree of devices.
//!
//! Text and not JSON: `zpool import` has none, and `zpool status -j` came with OpenZFS 2.3. The
//! words are those of show_import and status_callback in cmd/zpool/zpool_main.c (in the locale C).

/// One pool in the output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// `pool:`
    pub pool: String,
    /// `id:`, of `zpool import` only.
    pub id: Option<String>,
    /// `state:`
    pub state: String,
    /// `status:`, on one line; empty where there is nothing to say.
    pub status: String,
    /// `action:`, on one line.
    pub action: String,
    /// The leaves below `config:`, in their order.
    pub devices: Vec<Device>,
    /// What follows the pool's own state there, such as `corrupted data`.
    pub note: String,
}

/// A device of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// As zpool(8) shows it: a path, the last part of one, or a number where it knows no more.
    pub name: String,
    /// `ONLINE`, `UNAVAIL`, …
    pub state: String,
    /// What follows the state and the counters, such as `was /dev/sdb1`.
    pub note: String,
}

/// The states of vdevs and pools (zpool_state_to_name, lib/libzfs/libzfs_pool.c) and of spares.
const STATES: [&str; 10] = [
    "ONLINE",
    "DEGRADED",
    "FAULTED",
    "OFFLINE",
    "UNAVAIL",
    "REMOVED",
    "SUSPENDED",
    "SPLIT",
    "AVAIL",
    "INUSE",
];
/// The keys. Each begins a new value.
const KEYS: [&str; 15] = [
    "pool",
    "id",
    "state",
    "status",
    "action",
    "see",
    "scan",
    "scrub",
    "comment",
    "config",
    "errors",
    "remove",
    "checkpoint",
    "expand",
    "dedup",
];

/// The pools in `text`, in their order. Lines that zpool does not print are skipped.
pub fn parse(text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut key = "";
    let mut rows: Vec<Row> = Vec::new();
    for line in text.lines() {
        if let Some((found, value)) = keyed(line) {
            key = found;
            if key == "pool" {
                finish(&mut blocks, &mut rows);
                blocks.push(Block { pool: value.to_owned(), ..Block::default() });
            } else if let Some(block) = blocks.last_mut() {
                block.add(key, value);
            }
        } else if key == "config" {
            rows.extend(line.strip_prefix('\t').and_then(Row::of));
        } else if let Some(block) = blocks.last_mut()
            && !line.trim().is_empty()
        {
            block.add(key, line.trim());
        }
    }
    finish(&mut blocks, &mut rows);
    blocks
}

/// A line with one of [`KEYS`]; the lines of a value begin with a tab.
fn keyed(line: &str) -> Option<(&'static str, &str)> {
    let (key, value) = line.split_once(':').filter(|_| !line.starts_with('\t'))?;
    let key = KEYS.iter().find(|known| **known == key.trim())?;
    Some((key, value.trim()))
}

impl Block {
    fn add(&mut self, key: &str, value: &str) {
        let into = match key {
            "id" => self.id.get_or_insert_default(),
            "state" => &mut self.state,
            "status" => &mut self.status,
            "action" => &mut self.action,
            _ => return,
        };
        if !into.is_empty() && !value.is_empty() {
            into.push(' ');
        }
        into.push_str(value);
    }

    /// The devices that are not as they should be.
    pub fn bad_devices(&self) -> impl Iterator<Item = &Device> {
        self.devices.iter().filter(|d| !matches!(&*d.state, "ONLINE" | "AVAIL" | "INUSE"))
    }
}

/// A row of the tree.
struct Row {
    depth: usize,
    device: Device,
}

impl Row {
    /// `name  STATE  [counters]  [note]`, indented by two blanks for each level. A name may have
    /// blanks in it (that of a pool), a heading such as `logs` has no state.
    fn of(line: &str) -> Option<Row> {
        let depth = line.len() - line.trim_start_matches(' ').len();
        let words = line.split(' ').scan(0, |next, word| {
            let at = *next;
            *next += word.len() + 1;
            Some((at, word))
        });
        let column =
            |(at, word): &(usize, &str)| STATES.contains(word) && line[..*at].ends_with("  ");
        let (at, state) = words.into_iter().find(column)?;
        let after = line[at + state.len()..].trim();
        let counter = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit());
        let counters = after.split_whitespace().take_while(counter).count();
        let note = match counters {
            0 => after.to_owned(),
            _ => after.split_whitespace().skip(counters).collect::<Vec<_>>().join(" "),
        };
        let name = line[..at].trim().to_owned();
        Some(Row { depth, device: Device { name, state: state.to_owned(), note } })
    }
}

/// Gives the rows to the last block. The first row is the pool's own. Rows with nothing below them
/// are devices.
fn finish(blocks: &mut [Block], rows: &mut Vec<Row>) {
    let rows = std::mem::take(rows);
    let Some(block) = blocks.last_mut() else { return };
    let below = |n: usize| rows.get(n + 1).is_some_and(|next| next.depth > rows[n].depth);
    block.note = rows.first().map(|row| row.device.note.clone()).unwrap_or_default();
    let leaves = (1..rows.len()).filter(|n| !below(*n));
    block.devices = leaves.map(|n| rows[n].device.clone()).collect();
}
