//! All integration tests, in one program: what they share is compiled and linked once, and one
//! schedule keeps the processors busy (`lab::turns`). README.md beside this file says what proves
//! what, and how to run a part.

mod audit;
mod binhost;
mod boot;
mod build;
mod docs;
mod enter;
mod generator;
mod hostile;
mod kernel;
mod laboratory;
mod late;
mod layers;
mod load;
mod manager;
mod module;
mod mounts;
mod openzfs_units;
mod prefix;
mod process;
mod provision;
mod source;
mod store;
mod symvers;
mod tree;
mod uki;
mod units;
mod userland;
mod verify;
