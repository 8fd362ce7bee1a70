//! Runs the program.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(dead_code, reason = "not every file of tests needs all of it")]

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};

/// How the program ended, and what it wrote.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The program with these arguments, in an environment that is the same everywhere.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ssetarget"));
    command.args(args).kill_on_drop(true);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for name in [
        "SSETARGET_TOKEN",
        "SSETARGET_PROGRESS",
        "NO_COLOR",
        "CLICOLOR_FORCE",
        "TERM",
        "LC_ALL",
        "LC_CTYPE",
        "HTTP_PROXY",
        "http_proxy",
        "ALL_PROXY",
        "all_proxy",
    ] {
        command.env_remove(name);
    }
    command
        .env("LANG", "C.UTF-8")
        .env("NO_PROXY", "127.0.0.1,localhost");
    command
}

pub(crate) async fn run(args: &[&str]) -> Ended {
    end(command(args)).await
}

/// Waits for its end, at most half a minute.
pub(crate) async fn end(mut command: Command) -> Ended {
    let output = tokio::time::timeout(Duration::from_secs(30), command.output());
    let output = output.await.expect("it should have ended").unwrap();
    Ended {
        code: output.status.code().expect("it should not be killed"),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Sends a signal to a process.
pub(crate) fn signal(child: &Child, name: &str) {
    let pid = child.id().unwrap().to_string();
    let sent = std::process::Command::new("kill")
        .args([&format!("-{name}"), &pid])
        .status();
    assert!(sent.unwrap().success());
}

/// Waits until there is something, at most ten seconds.
pub(crate) async fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..200 {
        if let Some(found) = look() {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("nothing came");
}

/// A new folder.
pub(crate) fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("ssetarget-cli-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// An event of a task, as on the wire.
pub(crate) fn task(id: u64, event_type: &str, name: &str, kind: &str, more: &str) -> String {
    let suffix = if kind == "do" {
        String::new()
    } else {
        format!(".{kind}")
    };
    format!(
        "id: {id}\nevent: {event_type}\ndata: {{\"taskId\":\"{name}-1{suffix}\",\"step\":\"{name}\",\"kind\":\"{kind}\",\"count\":1,\"timestamp\":\"2026-11-24T09:{:02}:{:02}.000Z\",\"parentId\":null{more}}}\n\n",
        id / 60 % 60,
        id % 60
    )
}
