//! Misuse does not compile, and the compiler's message says what to do.
//!
//! `TRYBUILD=overwrite cargo test -p ssetarget-ui` writes the current messages.

#![cfg(not(target_family = "wasm"))]

use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

use serde_json::Value;

#[test]
fn steps() {
    trybuild::TestCases::new().compile_fail("steps/*.rs");
}

/// Cases that compile only for Workers: trybuild checks for its own target, and cannot be told
/// another.
#[test]
fn workers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let entries = fs::read_dir(root.join("workers")).unwrap();
    let mut cases: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    cases.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    cases.sort();
    assert!(!cases.is_empty());

    let mut failures = String::new();
    for case in cases {
        let said = compile(&case);
        let expected = case.with_extension("stderr");
        if env::var("TRYBUILD").is_ok_and(|what| what == "overwrite") {
            fs::write(&expected, &said).unwrap();
        }
        let should = fs::read_to_string(&expected).unwrap_or_default();
        if said.trim().is_empty() || said != should {
            let name = case.file_name().unwrap().display();
            writeln!(
                failures,
                "{name}: the compiler should say\n{should}and says\n{said}"
            )
            .unwrap();
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

/// Returns the part of the compiler's message about a file that does not change with this crate's
/// sources.
fn compile(case: &Path) -> String {
    let output = Command::new(env!("CARGO"))
        .args([
            "rustc",
            "--quiet",
            "--profile",
            "check",
            "--lib",
            "--message-format",
            "json",
        ])
        .args([
            "--package",
            "ssetarget-ui",
            "--target",
            "wasm32-unknown-unknown",
        ])
        .args(["--", "--cfg", "ui_case"])
        .env("UI_CASE", case)
        .output()
        .unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let messages = stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut said: Vec<String> = messages
        .filter(|message| message["reason"] == "compiler-message")
        .filter(|message| message["target"]["name"] == "ssetarget_ui")
        .filter_map(|message| show(&message["message"], case))
        .collect();
    // The message is the same for every place in a macro.
    said.dedup();
    let said = said.concat();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        !said.is_empty() || !output.status.success(),
        "{case:?} compiles"
    );
    assert!(!said.is_empty(), "{case:?} was not compiled: {stderr}");
    said
}

fn show(diagnostic: &Value, case: &Path) -> Option<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let message = text(&diagnostic["message"]);
    if message.starts_with("aborting due to") || diagnostic["level"] == "failure-note" {
        return None;
    }
    let code = diagnostic["code"]["code"].as_str();
    let code = code.map(|code| format!("[{code}]")).unwrap_or_default();
    let mut shown = format!("{}{code}: {message}\n", text(&diagnostic["level"]));
    for span in diagnostic["spans"].as_array()? {
        if let Some(line) = line_in(span, case) {
            writeln!(shown, "  line {line}: {}", text(&span["label"])).ok()?;
        }
    }
    for child in diagnostic["children"].as_array()? {
        // Other notes point into sources that change, or list types of other crates.
        let message = text(&child["message"]);
        if child["spans"].as_array()?.is_empty() && !message.contains("the following other types") {
            writeln!(shown, "  {}: {message}", text(&child["level"])).ok()?;
        }
    }
    shown.push('\n');
    Some(shown)
}

/// Returns the line of a span, or that of the call of the macro around it.
fn line_in(span: &Value, case: &Path) -> Option<u64> {
    let file = Path::new(span["file_name"].as_str()?);
    if file.file_name() == case.file_name() {
        return span["line_start"].as_u64();
    }
    line_in(span["expansion"].get("span")?, case)
}
