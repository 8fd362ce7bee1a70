use cloudflare_workflows::testing::FakeInstance;
use futures_executor::block_on;

use super::{File, Imported, import};

#[test]
fn a_file_is_imported_in_chunks_and_one_that_fails_is_repeated_alone() {
    let instance = FakeInstance::new();
    let run = instance.run(async |step| import(&step, File { rows: 1_000 }).await);
    let expected = Imported {
        imported: 996,
        skipped: 4,
    };
    assert_eq!(block_on(run).unwrap(), expected);
    let steps = instance.steps();
    assert_eq!(steps.len(), 11);
    let repeated: Vec<&str> = steps
        .iter()
        .filter(|step| step.attempts > 1)
        .map(|step| step.name.as_str())
        .collect();
    assert_eq!(repeated, ["rows 201 to 300"]);
}

#[test]
fn an_empty_file_fails_without_a_retry() {
    let instance = FakeInstance::new();
    let run = instance.run(async |step| import(&step, File { rows: 0 }).await);
    let error = block_on(run).unwrap_err().to_string();
    assert!(error.contains("the file has 0 rows"), "{error}");
    assert_eq!(instance.steps()[0].attempts, 1);
}
