//! The index of runs on Workers: an object for each workflow, and one for each of its tags (feature `index`).
//!
//! `class` and `object` run in the index's object; `namespace` and `serve` in the Worker. `crate::runs` has the index
//! itself; `object/index.rs` sends the reports.

mod class;
mod namespace;
mod object;
mod serve;

pub use self::class::RunIndexObject;
pub use self::namespace::{InvalidTags, RunIndexNamespace};
pub use self::serve::{serve_runs, serve_runs_sse};

pub(super) use self::serve::{may_watch_list, serve_list_asking, serve_sse_asking};
