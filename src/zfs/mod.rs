//! OpenZFS's own programs, as far as they are asked or run here.

pub mod programs;
