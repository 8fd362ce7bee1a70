//! A Worker and an object whose versions of this crate differ by one, as while a deploy is under way or is taken back: what
//! one cannot read of the other is refused with an error that says so, and nothing is lost, stored twice or half done.
#![cfg(not(shuttle))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod support;

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use cloudflare_workflows::Runtime;
use ssetarget::NewEvent;
use ssetarget::internals::{
    InstanceEnd, InvalidBatch, LogAnswer, LogCommand, WorkflowLog, WorkflowLogError, pack_facts,
    read_json, unpack,
};
use ssetarget::store::{EventStore, PageLimit};
use ssetarget::workflow::{
    BatchedDispatch, Dispatch, DispatchConfig, Fact, FactLog, Flush, Opened, OpenedRun, Told,
};
use support::sql::Database;

/// What every error of this kind says.
const REASON: &str = "different versions";

// Batches of facts.

/// The format of batches, byte by byte. A change of it needs a number of its own: the first byte.
#[test]
fn a_batch_is_as_its_number_says() {
    let batch = [
        fact("t", "{}", "k"),
        NewEvent::new("é", "").unwrap().terminal(),
    ];
    #[rustfmt::skip]
    let expected = [
        2, // the version
        2, 0, 0, 0,
        1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1,
        2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2,
        b't', b'{', b'}', b'k', 0xC3, 0xA9,
    ];
    assert_eq!(pack_facts(&batch), expected);
}

#[test]
fn a_batch_of_the_version_before_or_after_changes_nothing() {
    let log = WorkflowLog::new(Database::in_memory());
    let run = opened(&log);
    let facts = [
        fact("started", "1", "a"),
        fact("completed", "2", "b").terminal(),
    ];
    let batch = pack_facts(&facts);
    let append = |batch: &[u8]| log.append_packed(run.generation, run.run, batch, now);
    for version in [batch[0] - 1, batch[0] + 1] {
        let mut other = batch.clone();
        other[0] = version;
        // Also where the rest of it is of another shape.
        for other in [other, vec![version, 1, 2, 3], vec![version]] {
            assert_eq!(unpack(&other), Err(InvalidBatch::Version(version)));
            let error = append(&other).unwrap_err();
            assert!(matches!(error, WorkflowLogError::Batch(_)));
            let error = std::error::Error::source(&error)
                .map_or_else(|| error.to_string(), ToString::to_string);
            assert!(error.contains(REASON), "{error}");
            assert!(error.contains(&format!("version {version}")), "{error}");
            assert!(log.tell_packed(&other).is_err());
            assert!(log.state().unwrap().empty, "something was stored");
        }
    }
    // The same Worker finds the new object.
    assert_eq!(append(&batch).unwrap(), Told::Stored(2));
    assert_eq!(append(&batch).unwrap(), Told::Stored(0));
}

#[test]
fn facts_wait_until_worker_and_object_are_of_one_version_again() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        // The object gets older, newer, and then the same.
        for versions in [vec![1, 1, 1], vec![3, 3], vec![1, 3, 1, 3]] {
            let log = Rc::new(WorkflowLog::new(Database::in_memory()));
            let refusals = Rc::new(Cell::new(0));
            let skewed = Skewed {
                log: Rc::clone(&log),
                versions,
                refusals: Rc::clone(&refusals),
            };
            let expected = u32::try_from(skewed.versions.len()).unwrap();
            let dispatch = BatchedDispatch::new(skewed, Paused, DispatchConfig::immediate());
            for number in 1..=5 {
                let key = format!("fact {number}");
                let event = fact("note", &number.to_string(), &key);
                dispatch.dispatch(Fact::Event(event));
                dispatch.flush(Flush::BeforeWait).await;
            }
            let end = fact("completed", "6", "workflow:completed").terminal();
            dispatch.dispatch(Fact::Event(end));
            dispatch.flush(Flush::End).await;
            assert_eq!(refusals.get(), expected);
            let store = log.target().store();
            let page = store.read(None, PageLimit::default()).await.unwrap();
            let data: Vec<_> = page
                .events
                .iter()
                .map(|event| event.data.as_str())
                .collect();
            assert_eq!(data, ["1", "2", "3", "4", "5", "6"]);
            assert!(page.closed);
        }
    });
}

/// An object of these versions, one after another, and then of ours.
struct Skewed {
    log: Rc<WorkflowLog<Database>>,
    versions: Vec<u8>,
    refusals: Rc<Cell<u32>>,
}

impl FactLog for Skewed {
    type Error = String;

    async fn open(&self, generation: Option<u64>) -> Result<Opened, String> {
        Ok(self.log.open(generation, now()).unwrap())
    }

    async fn append(&self, generation: u64, run: u32, batch: &[NewEvent]) -> Result<Told, String> {
        let mut batch = pack_facts(batch);
        let refused = self.refusals.get();
        if let Some(version) = self.versions.get(refused as usize) {
            batch[0] = *version;
        }
        let told = self.log.append_packed(generation, run, &batch, now);
        told.map_err(|error| {
            self.refusals.set(refused + 1);
            error.to_string()
        })
    }
}

struct Paused;

impl Runtime for Paused {
    fn now(&self) -> SystemTime {
        now()
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + 'static {
        tokio::time::sleep(duration)
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        tokio::task::spawn_local(task);
    }

    fn warn(&self, _message: &str) {}
}

// Commands to the log, and their answers.

/// What a Worker of today's version sends, in the words of today. A command that changes must still be read in these words,
/// and an object of today must read the changed one, or refuse it: add to this list, and take nothing away.
fn commands() -> Vec<(&'static str, LogCommand)> {
    let workflow = || "order".to_owned();
    vec![
        (r#"["state",null,"",0,[],null,[]]"#, LogCommand::State),
        (
            r#"["announce",null,"order",5,[],null,[]]"#,
            LogCommand::Announce {
                workflow: workflow(),
                time: 5,
                tags: Vec::new(),
            },
        ),
        (
            r#"["announce",null,"order",5,["a"],null,[]]"#,
            LogCommand::Announce {
                workflow: workflow(),
                time: 5,
                tags: vec!["a".to_owned()],
            },
        ),
        (r#"["takeBack",null,"",0,[],null,[]]"#, LogCommand::TakeBack),
        (
            r#"["beginRestart",null,"",0,[],null,[]]"#,
            LogCommand::BeginRestart,
        ),
        (
            r#"["confirmRestart",[1,7],"order",5,[],null,[]]"#,
            LogCommand::ConfirmRestart {
                stood: (1, 7),
                workflow: workflow(),
                time: 5,
            },
        ),
        (
            r#"["cancelRestart",null,"",0,[],null,[]]"#,
            LogCommand::CancelRestart,
        ),
        (
            r#"["links",null,"",1,[],null,[]]"#,
            LogCommand::Links { revoke: true },
        ),
        (r#"["delete",null,"",0,[],null,[]]"#, LogCommand::Delete),
        (
            r#"["completed",[1,7],"order",0,[],null,[]]"#,
            settle(Some((1, 7)), InstanceEnd::Completed),
        ),
        (
            r#"["failed",null,"order",0,[],"no",[]]"#,
            settle(None, InstanceEnd::Failed(Some("no".to_owned()))),
        ),
        (
            r#"["terminated",null,"order",0,[],null,[]]"#,
            settle(None, InstanceEnd::Terminated),
        ),
        (
            r#"["missing",null,"order",0,[],null,[]]"#,
            settle(None, InstanceEnd::Missing),
        ),
    ]
}

fn settle(stood: Option<(u32, u64)>, end: InstanceEnd) -> LogCommand {
    LogCommand::Settle {
        stood,
        workflow: "order".to_owned(),
        end,
        platform: Vec::new(),
    }
}

#[test]
fn commands_are_written_and_read_in_the_words_of_today() {
    for (json, command) in commands() {
        assert_eq!(serde_json::to_string(&command).unwrap(), json);
        assert_eq!(
            read_json::<LogCommand>("the command", json).unwrap(),
            command
        );
    }
    // The list has every command.
    for (_, command) in commands() {
        match command {
            LogCommand::State
            | LogCommand::Announce { .. }
            | LogCommand::TakeBack
            | LogCommand::BeginRestart
            | LogCommand::ConfirmRestart { .. }
            | LogCommand::CancelRestart
            | LogCommand::Links { .. }
            | LogCommand::Delete
            | LogCommand::Settle { .. } => {}
        }
    }
}

#[test]
fn a_command_of_another_version_is_refused() {
    for json in [
        // One that this version does not know.
        r#"["archive",null,"",0,[],null,[]]"#,
        // One that says more, or less, than this version can hear: it is not obeyed in part.
        r#"["announce",null,"order",5,[],null,[],"weur"]"#,
        r#"["announce",null,"order",5,[],null]"#,
        r#"["confirmRestart",null,"order",5,[],null,[]]"#,
        // The words of the version before, by name.
        r#"{"announce":{"workflow":"order","time":5}}"#,
        r#""state""#,
        "",
    ] {
        let error = read_json::<LogCommand>("the command", json).unwrap_err();
        assert!(error.contains(REASON), "{json}: {error}");
        assert!(error.starts_with("the command cannot be read"), "{error}");
    }
}

#[test]
fn answers_are_in_the_words_of_today_and_others_are_refused() {
    let log = WorkflowLog::new(Database::in_memory());
    let (_, announce) = commands().swap_remove(1);
    log.obey(&announce, now()).unwrap();
    let answer = log.obey(&LogCommand::State, now()).unwrap();
    let json = serde_json::to_string(&answer).unwrap();
    let newest = json.trim_end_matches(']').rsplit(',').next().unwrap();
    assert_eq!(json, format!("[1,0,4,{newest}]"));
    assert!(answer.state.announced && newest.len() == 13, "{json}");
    assert_eq!(read_json::<LogAnswer>("the answer", &json).unwrap(), answer);
    for other in [
        "[1,0,4]".to_owned(),
        format!("[1,0,4,{newest},7]"),
        r#"{"state":{"run":1},"changed":false,"restarting":false}"#.to_owned(),
        String::new(),
    ] {
        let error = read_json::<LogAnswer>("the answer", &other).unwrap_err();
        assert!(error.contains(REASON), "{other}: {error}");
    }
}

// Tools.

fn opened(log: &WorkflowLog<Database>) -> OpenedRun {
    match log.open(None, now()).unwrap() {
        Opened::Run(run) => run,
        other => panic!("the log must open, and not be {other:?}"),
    }
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn fact(event_type: &str, data: &str, key: &str) -> NewEvent {
    let event = NewEvent::new(event_type, data).unwrap();
    event.with_key(key).unwrap()
}
