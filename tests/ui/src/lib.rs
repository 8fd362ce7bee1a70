//! Stands for a user's crate: with `--cfg ui_case` it is the file that `UI_CASE` names.

#[cfg(ui_case)]
include!(env!("UI_CASE"));
