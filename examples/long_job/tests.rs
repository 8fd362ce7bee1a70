#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use futures_util::StreamExt;
use ssetarget::Event;
use std::future::ready;
use tokio::runtime::Runtime;

#[test]
fn a_job_that_was_killed_runs_again_and_each_fact_is_there_once() {
    let name = format!("ssetarget-long-job-{}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    let open = || Jobs::open(folder.clone(), Duration::from_millis(2));

    let killed = Runtime::new().unwrap();
    killed.block_on(async {
        let jobs = open().await.unwrap();
        let id = jobs.start().unwrap();
        assert_eq!(id, "film-1");
        let log = jobs.logs()[&id].clone();
        let events = log.events(Cursor::Beginning).await.unwrap();
        let events = events.map(|event| event.unwrap().event);
        let progress = events.filter(|event| ready(event.event_type() == "progress"));
        std::pin::pin!(progress).next().await.unwrap();
    });
    drop(killed); // with all of its tasks, wherever they are

    Runtime::new().unwrap().block_on(async {
        let jobs = open().await.unwrap();
        let log = jobs.logs()["film-1"].clone();
        let events = log.events(Cursor::Beginning).await.unwrap();
        let events = events.map(|event| event.unwrap().event);
        let ends = events.filter(|event| ready(event.event_type() == "completed"));
        let ends: Vec<String> = ends.map(|event| event.step).collect().await;
        let all = ["read the film", "2160p", "1080p", "480p", "transcode"];
        assert_eq!(ends, all);
    });
    std::fs::remove_dir_all(folder).unwrap();
}
