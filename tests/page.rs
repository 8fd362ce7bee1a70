//! The page folds a stream as `RunView` does: this test and tests/e2e/page-model.test.mjs compare
//! both with the same file. `SSETARGET_BLESS=1` writes the results of `RunView` to that file.

use serde_json::Value;
use ssetarget::workflow::RunView;
use ssetarget::{EventId, StoredEvent};
use std::time::SystemTime;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/page/folds.json");

#[test]
fn the_page_and_the_view_make_the_same_of_the_same_events() {
    let mut runs: Vec<Value> =
        serde_json::from_str(&std::fs::read_to_string(FILE).unwrap()).unwrap();
    assert!(runs.len() >= 8);
    let bless = std::env::var_os("SSETARGET_BLESS").is_some();
    for run in &mut runs {
        let mut view = RunView::new();
        for (index, event) in run["events"].as_array().unwrap().iter().enumerate() {
            let stored = StoredEvent {
                id: EventId::new(index as u64 + 1).unwrap(),
                event_type: event[0].as_str().unwrap().to_owned(),
                data: event[1].to_string(),
                timestamp: SystemTime::UNIX_EPOCH,
            };
            view.apply(&stored).unwrap();
        }
        let view = serde_json::to_value(&view).unwrap();
        if bless {
            run["view"] = view;
        } else {
            assert_eq!(run["view"], view, "{}", run["name"]);
        }
    }
    if bless {
        std::fs::write(FILE, serde_json::to_string(&runs).unwrap() + "\n").unwrap();
    }
}
