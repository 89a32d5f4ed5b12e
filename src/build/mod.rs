//! (being written)
pub mod command;
pub mod jobs;
pub mod processes;
pub mod progress;
