//! What can be learnt of a kernel without building one.

mod compiler;
mod image;
mod notes;
pub mod recover;
mod release;
mod symvers;
mod tree;

pub use compiler::compiler_mismatch;
pub use image::{Format, Image, build_id, running_build_id, vmlinux};
pub use notes::gnu_build_id;
pub use release::Release;
pub use symvers::{Export, Symvers};
pub use tree::Tree;
