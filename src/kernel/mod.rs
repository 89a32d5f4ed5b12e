//! What can be learnt of a kernel without building one.

mod release;

pub use release::Release;
