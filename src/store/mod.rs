//! The store: published module trees, owned by root, never changed after publishing.

mod check;
mod digest;
mod failure;
mod key;
mod layout;
mod lock;
mod manifest;
mod publish;
mod refused;
pub(crate) mod trust;

pub use check::{check_directories, check_published, check_tree, entries};
pub use digest::{Digest, file_digest};
pub use failure::FailureRecord;
pub use key::Inputs;
pub use layout::Layout;
pub use lock::{Holder, Lock};
pub use manifest::{FileEntry, MANIFEST_VERSION, Manifest};
pub(crate) use publish::put_in_place;
pub use publish::{
    Staging, current_key, is_current, key_of_link, make_dirs, set_current, switch_link, sync_dir,
    write_atomic,
};

/// Now, in seconds since the epoch; 0 on a machine whose clock is before it.
pub fn unix_now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
