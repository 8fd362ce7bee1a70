//! An index of runs: a list of all runs, kept up to date by the runs' own logs.
//!
//! `entry` folds a log to what a list shows of a run; `report` decides when a log tells the index, and what is still to
//! be told; `index` is the index itself, over SQLite: a table with the latest of each run, and a log of changes, which
//! viewers follow like any other; `members` decides which runs are in one stream of those of a tag. Pure: the objects that do it on Workers are in `cloudflare`.

mod entry;
mod index;
#[cfg_attr(not(feature = "index"), allow(dead_code))]
mod members;
mod report;

#[cfg_attr(not(feature = "index"), allow(unused_imports))]
pub use self::entry::{RunEntry, RunFold};
#[cfg_attr(not(feature = "index"), allow(unused_imports))]
pub use self::index::{InvalidList, ListFilter, RunIndex};
#[cfg_attr(not(feature = "index"), allow(unused_imports))]
pub use self::members::{Joins, Listed, Members, TagCursor};
#[cfg(feature = "index")]
pub(crate) use self::report::{MAX_TAGS, is_tag};
#[cfg_attr(not(feature = "index"), allow(unused_imports))]
pub use self::report::{Reporter, RunReport, Stands};
