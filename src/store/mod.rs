//! The store: published module trees, owned by root, never changed after publishing.

mod digest;
mod layout;
mod manifest;

pub use digest::{Digest, file_digest};
pub use layout::Layout;
pub use manifest::{FileEntry, MANIFEST_VERSION, Manifest};
