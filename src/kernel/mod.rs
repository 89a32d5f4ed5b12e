//! What can be learnt of a kernel without building one.

pub mod btf;
mod compiler;
pub mod config;
pub mod facts;
pub mod guard;
mod image;
pub mod locate;
mod notes;
pub mod recover;
mod release;
mod supported;
mod symvers;
mod tree;

pub use btf::Btf;
pub use compiler::compiler_mismatch;
pub use config::Config;
pub use facts::Facts;
pub use image::{Format, Image, build_id, running_build_id};
pub use notes::gnu_build_id;
pub use release::Release;
pub use supported::supported;
pub use symvers::{Export, Symvers};
pub use tree::Tree;
