//! (being written)
pub mod command;
pub mod processes;
