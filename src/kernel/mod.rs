//! What can be learnt of a kernel without building one.

mod release;
mod symvers;
mod tree;

pub use release::Release;
pub use symvers::{Export, Symvers};
pub use tree::Tree;
