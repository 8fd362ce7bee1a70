//! A Worker and an object, or two objects, whose versions of this crate differ by one, as while a deploy is under way or is taken back: what
//! one cannot read of the other is refused with an error that says so, and nothing is lost, stored twice or half done.
#![cfg(not(shuttle))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod support;

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use cloudflare_workflows::Runtime;
use ssetarget::internals::{
    Hop, InstanceEnd, InvalidBatch, ListFilter, LogAnswer, LogCommand, Part, Reported, RunIndex,
    RunReport, WorkflowLog, WorkflowLogError, from_parts, pack_facts, read_estimate, read_json,
    take_report, to_parts, unpack,
};
use ssetarget::store::{EventStore, Frames, Page, PageLimit};
use ssetarget::workflow::{
    BatchedDispatch, Dispatch, DispatchConfig, Fact, FactLog, Flush, Opened, OpenedRun, Told,
};
use ssetarget::{EventId, NewEvent};
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
    let told = answer.state.generation;
    assert_eq!(json, format!("[1,{told},4,{newest}]"));
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

// Reports of runs to their index, and its answers.

/// A report as today's version writes it, with everything that it can have, and with as little as possible.
const REPORT: &str = r#"{"id":"o-1","version":8,"began":5,"expires":9,"entry":{"id":"o-1","workflow":"order","tags":["a"],"run":2,"state":"completed","from":3,"cursor":8,"started":"1970-01-01T00:00:01.000Z","ended":"1970-01-01T00:00:02.000Z","task":"pack","percent":5.0,"error":"no"},"took":{"pack-1":7},"asks":true}"#;
const REMOVAL: &str = r#"{"id":"o-1","version":9,"began":5,"expires":null,"entry":null}"#;

#[test]
fn reports_are_in_the_words_of_today_and_others_change_nothing() {
    for json in [REPORT, REMOVAL] {
        let report: RunReport = read_json("the report", json).unwrap();
        assert_eq!(serde_json::to_string(&report).unwrap(), json);
    }
    let index = RunIndex::new(Database::in_memory());
    let list = || {
        let filter = ListFilter::parse(None).unwrap();
        index.list(&filter, SystemTime::UNIX_EPOCH).unwrap()
    };
    let take = |json: &str| take_report(&index, json, now());
    let empty = list();
    for other in [
        // A state that this version does not know.
        REPORT.replace("completed", "archived"),
        // A field of another shape, and one that is no longer there.
        REPORT.replace("\"version\":8", "\"version\":[8,1]"),
        REPORT.replace("\"version\":8,", ""),
        REPORT.replace("\"run\":2", "\"run\":\"2\""),
        "[8]".to_owned(),
        String::new(),
    ] {
        let error = take(&other).unwrap_err();
        assert!(error.contains(REASON), "{other}: {error}");
        assert!(error.starts_with("the report of a run"), "{error}");
        assert_eq!(list(), empty, "{other} changed something");
    }
    // The report comes again until the index can read it, and is then the first that it has.
    assert!(matches!(take(REPORT).unwrap(), Reported::Estimate(_)));
    assert!(list().contains(r#""id":"o-1""#));
    assert_eq!(take(REMOVAL).unwrap(), Reported::Taken(true));
    assert_eq!(take(REMOVAL).unwrap(), Reported::Taken(false));
    assert!(!list().contains(r#""id":"o-1""#));
}

#[test]
fn what_a_later_version_adds_to_a_report_or_an_estimate_is_left_out() {
    let index = RunIndex::new(Database::in_memory());
    let more = REPORT
        .replace("\"run\":2", "\"run\":2,\"region\":\"weur\"")
        .replace("\"asks\":true", "\"asks\":true,\"costs\":[1]");
    assert_ne!(more, REPORT);
    let taken = take_report(&index, &more, now()).unwrap();
    assert!(matches!(taken, Reported::Estimate(_)));
    let estimate = r#"{"run":{"runs":5,"medianMs":3,"lowMs":2,"highMs":4},"tasks":{"pack-1":{"runs":5,"medianMs":3,"lowMs":2,"highMs":4}}}"#;
    let known = read_estimate(Some(estimate)).unwrap().unwrap();
    assert_eq!(serde_json::to_string(&known).unwrap(), estimate);
    let more = estimate.replace("\"tasks\":", "\"costs\":1,\"tasks\":");
    assert_eq!(read_estimate(Some(&more)).unwrap().unwrap(), known);
    assert_eq!(read_estimate(None).unwrap(), None);
    let error = read_estimate(Some(r#"{"run":3}"#)).unwrap_err();
    assert!(error.contains(REASON), "{error}");
}

// A viewer's way through a tree of relays.

/// A hop as today's version writes it.
const HOP: &str = r#"{"binding":"EVENTS","root":"order/o-1","fan_out":{"viewers_per_object":500,"relays_per_object":64,"max_relays":256},"place":65,"ask":{"Full":66},"follower":0}"#;

#[test]
fn a_hop_is_in_the_words_of_today() {
    let hop = Hop::from_text(HOP).unwrap();
    assert_eq!(hop.to_text().unwrap(), HOP);
    assert_eq!(hop.object_name(), "order/o-1~65");
    let parent = hop.parent().unwrap();
    assert_eq!(parent.object_name(), "order/o-1~1");
    assert_eq!(parent.follower, hop.place);
    // What a later version adds is left out, and what an earlier one did not have has its default.
    for other in [
        HOP.replace("\"place\"", "\"region\":\"weur\",\"place\""),
        HOP.replace(",\"max_relays\":256", ""),
    ] {
        assert_ne!(other, HOP);
        assert_eq!(Hop::from_text(&other).unwrap(), hop);
    }
}

#[test]
fn the_root_serves_a_viewer_whose_hop_it_cannot_read_and_a_relay_refuses_it() {
    for other in [
        HOP.replace(r#"{"Full":66}"#, r#""IfNear""#),
        HOP.replace("\"place\":65", "\"place\":[1,1]"),
        HOP.replace("\"root\":\"order/o-1\",", ""),
        String::new(),
    ] {
        let error = Hop::from_text(&other).unwrap_err();
        assert!(error.contains(REASON), "{other}: {error}");
        let read = |object| Hop::of_viewer(Some(&other), object);
        assert_eq!(read(Some("order/o-1")), Ok(None), "{other}");
        assert!(read(Some("order/o-1~65")).unwrap_err().contains(REASON));
        // An object that does not know its name may be a relay.
        assert!(read(None).is_err());
    }
    assert_eq!(Hop::of_viewer(None, Some("order/o-1~65")), Ok(None));
    let hop = Hop::of_viewer(Some(HOP), Some("order/o-1~65")).unwrap();
    assert_eq!(hop, Some(Hop::from_text(HOP).unwrap()));
}

/// A page is a few values in a fixed order.
#[test]
fn a_page_is_in_the_order_of_today() {
    use Part::{Bytes, Flag, Number};
    let frames = Frames {
        bytes: "id: 7\n\n",
        last: id(7),
    };
    let page = Page {
        events: Some(frames),
        oldest: Some(id(2)),
        head: Some(id(9)),
        trimmed: Some(id(1)),
        closed: true,
    };
    let parts = to_parts(&page, 3);
    let ends = [
        Number(2.0),
        Number(9.0),
        Number(1.0),
        Flag(true),
        Number(3.0),
    ];
    assert_eq!(
        parts,
        [&ends[..], &[Number(7.0), Bytes("id: 7\n\n")]].concat()
    );
    assert_eq!(from_parts(parts.clone()), Ok((page.clone(), 3)));
    let empty: Page<Option<Frames<&str>>> = Page {
        events: None,
        oldest: None,
        head: None,
        trimmed: None,
        closed: false,
    };
    let zero = || Number(0.0);
    let none = [zero(), zero(), zero(), Flag(false), zero()];
    assert_eq!(to_parts(&empty, 0), none);
    assert_eq!(from_parts(none), Ok((empty, 0)));
    // What a later version adds behind the events is left out.
    let more = [parts.clone(), vec![Part::Other, Number(1.0)]].concat();
    assert_eq!(from_parts(more), Ok((page, 3)));

    // Anything else is no page, and above all not an empty one: viewers would be told that the log ends there.
    for (at, name) in ["oldest", "head", "trimmed", "closed", "links"]
        .iter()
        .enumerate()
    {
        for other in [
            Part::Other,
            Number(-1.0),
            Number(0.5),
            Number(1e300),
            Number(f64::NAN),
            Bytes("7"),
            if at == 3 { Number(1.0) } else { Flag(true) },
        ] {
            let mut parts = parts.clone();
            parts[at] = other;
            let error = from_parts(parts).unwrap_err();
            assert!(error.contains(REASON) && error.contains(name), "{error}");
        }
        // Too little of it.
        let error = from_parts(parts[..at].to_vec()).unwrap_err();
        assert!(error.contains(REASON) && error.contains(name), "{error}");
    }
    for events in [
        vec![Number(7.0)],
        vec![Number(0.0), Bytes("id: 7\n\n")],
        vec![Bytes("id: 7\n\n"), Number(7.0)],
        vec![Number(7.0), Part::Other],
    ] {
        let error = from_parts([&ends[..], &events].concat()).unwrap_err();
        assert!(error.contains(REASON), "{error}");
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

fn id(number: u64) -> EventId {
    EventId::new(number).unwrap()
}

fn fact(event_type: &str, data: &str, key: &str) -> NewEvent {
    let event = NewEvent::new(event_type, data).unwrap();
    event.with_key(key).unwrap()
}
