//! What can be learnt about a kernel without building it.

pub mod btf;
mod compiler;
pub mod facts;
pub mod guard;
mod image;
pub mod kconfig;
pub mod locate;
mod notes;
pub mod recover;
mod supported;
mod symvers;
mod tree;

pub use btf::Btf;
pub use compiler::compiler_mismatch;
pub use facts::Facts;
pub use image::{Format, Image, build_id, running_build_id};
pub use kconfig::Kconfig;
pub use notes::gnu_build_id;
pub use supported::supported;
pub use symvers::{Exported, Symvers};
pub use tree::Tree;
