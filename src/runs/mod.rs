//! An index of runs: a list of all runs, kept up to date by the runs' own logs.
//!
//! `entry` folds a log into the entry of a list; `report` decides when a log reports to the index, and what is still
//! to be reported; `index` is the index itself, over SQLite: a table with the latest of each run, and a log of
//! changes, which viewers follow like any other. Pure: `cloudflare` has the objects that run it on Workers.

mod entry;
mod index;
mod report;

#[cfg_attr(not(feature = "index"), allow(unused_imports))]
pub use self::entry::{RunEntry, RunFold};
#[cfg_attr(not(feature = "index"), allow(unused_imports))]
pub use self::index::{InvalidList, ListFilter, RunIndex, Typical};
#[cfg(feature = "index")]
pub(crate) use self::report::{MAX_TAGS, is_tag};
#[cfg_attr(not(feature = "index"), allow(unused_imports))]
pub use self::report::{Reporter, RunReport, Stands};
