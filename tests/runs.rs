//! Runs and lifetimes: instances that are restarted, terminated, deleted and created again, lifetimes that overlap,
//! and requests that come late. No fact appears in another run than its own, and none is acknowledged without being
//! stored.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use cloudflare_workflows::{Progress, Step, StepContext, StepError, WaitForEvent};
use futures_util::join;
use serde_json::Value;
use ssetarget::NewEvent;
use ssetarget::internals::{Announced, InstanceEnd, LogCommand, WorkflowLog, pack_facts};
use ssetarget::store::{EventStore, PageLimit, Sql};
use ssetarget::workflow::{
    BatchedDispatch, Dispatch, DispatchConfig, Fact, Flush, Opened, OpenedRun, Told,
    workflow_ended, workflow_started,
};
use support::engine::{
    Dispatcher, Engine, FakeLog, FakeRuntime, Trouble, World, WrappedStep, lifetime, now, wrapped,
};
use support::sql::{Database, Read};

/// Begins with a wait, so that a restart shows only after a minute.
async fn dry_goods<S: Step>(step: &S) -> Result<(), StepError> {
    step.sleep("dry", Duration::from_secs(60)).await?;
    step.run("price", async |_| Ok(7)).await?;
    step.run("ship", async |_| Ok(7)).await?;
    Ok(())
}

const DRY_GOODS: [&str; 8] = [
    "started order-1.workflow",
    "started dry-1.sleep",
    "completed dry-1.sleep",
    "started price-1",
    "completed price-1",
    "started ship-1",
    "completed ship-1",
    "completed order-1.workflow",
];

const BEGUN: [&str; 2] = ["started order-1.workflow", "started dry-1.sleep"];

#[tokio::test(start_paused = true)]
async fn an_instance_that_was_terminated_in_its_first_step_and_restarted_has_a_second_run() {
    let (engine, world): (Rc<Engine>, _) = (Rc::default(), World::new());
    killed_while_it_sleeps(&engine, &world).await;
    let terminated = world
        .log
        .settle(None, "order", &InstanceEnd::Terminated, &[], now());
    assert!(terminated.unwrap());
    engine.restart();
    assert!(run(&engine, &world).await.is_ok());
    let failed = "failed order-1.workflow: the instance was terminated";
    let wanted = [&BEGUN[..], &[failed, "restarted 2"], &DRY_GOODS].concat();
    assert_eq!(story(&world).await, wanted);
}

#[tokio::test(start_paused = true)]
async fn a_run_of_waits_that_is_restarted_is_another() {
    let (engine, world): (Rc<Engine>, _) = (Rc::default(), World::new());
    let once = [
        "started order-1.workflow",
        "started approval-1.waitForEvent",
        "completed approval-1.waitForEvent",
        "completed order-1.workflow",
    ];
    let mut wanted = Vec::new();
    for run in ["", "restarted 2", "restarted 3"] {
        let step = wrapped(&engine, &world, DispatchConfig::batched());
        let body = step.workflow(async |step| {
            let approval = step.wait_for_event::<()>("approval", WaitForEvent::new("ok"));
            approval.await.map(drop)
        });
        lifetime(&engine, body).await.unwrap().unwrap();
        wanted.extend(Some(run).filter(|run| !run.is_empty()));
        wanted.extend(once);
        assert_eq!(story(&world).await, wanted);
        engine.restart();
    }
}

/// The run may be replayed once more: the process died after the last event and before the engine stored the end.
#[tokio::test(start_paused = true)]
async fn a_run_that_has_ended_is_not_another_without_a_proof() {
    let (engine, world): (Rc<Engine>, _) = (Rc::default(), World::new());
    run(&engine, &world).await.unwrap();
    assert_eq!(story(&world).await, DRY_GOODS);
    world.calls.set(0);
    run(&engine, &world).await.unwrap();
    assert_eq!(
        (story(&world).await, world.calls.get()),
        (own(&DRY_GOODS), 1)
    );
    // Not even if it sends something new, as long as the engine has not answered it.
    let dispatch = dispatcher(&world);
    tokio::task::LocalSet::new()
        .run_until(async {
            dispatch.dispatch(Fact::Event(started()));
            dispatch.dispatch(Fact::Event(fact("new-1:started")));
            dispatch.flush(Flush::End).await;
            tokio::time::sleep(Duration::from_secs(60)).await;
        })
        .await;
    assert_eq!(story(&world).await, DRY_GOODS);
    assert_eq!(world.settles.get(), 0);
}

/// The new run opens the log before the platform's answer to the restart arrives.
#[tokio::test(start_paused = true)]
async fn a_restart_that_is_confirmed_late_loses_nothing() {
    for lateness in [1, 9, 30] {
        let (engine, world): (Rc<Engine>, _) = (Rc::default(), World::new());
        killed_while_it_sleeps(&engine, &world).await;
        let begun = world.log.begin_restart(now()).unwrap();
        engine.restart();
        let run = run(&engine, &world);
        let confirm = async {
            tokio::time::sleep(Duration::from_secs(lateness)).await;
            let stood = (begun.run, begun.generation);
            assert!(world.log.confirm_restart(stood, &started(), now()).unwrap());
        };
        let (result, ()) = join!(run, confirm);
        result.unwrap();
        let wanted = [&BEGUN[..], &["restarted 2"], &DRY_GOODS].concat();
        assert_eq!(story(&world).await, wanted, "{lateness}");
        // Lifetimes wait ten seconds at most; then the log opens without the confirmation.
        assert_eq!(world.log.state().unwrap().run, 2);
        assert_eq!(*world.warnings.borrow(), Vec::<String>::new());
    }
}

#[tokio::test(start_paused = true)]
async fn a_restart_that_the_new_run_has_noticed_itself_is_not_another() {
    let (engine, world): (Rc<Engine>, _) = (Rc::default(), World::new());
    run(&engine, &world).await.unwrap();
    let begun = world.log.begin_restart(now()).unwrap();
    engine.restart();
    let run = run(&engine, &world);
    let confirm = async {
        tokio::time::sleep(Duration::from_secs(40)).await;
        assert_eq!(world.log.state().unwrap().run, 2);
        let stood = (begun.run, begun.generation);
        assert!(!world.log.confirm_restart(stood, &started(), now()).unwrap());
    };
    join!(run, confirm).0.unwrap();
    let wanted = [&DRY_GOODS[..], &["restarted 2"], &DRY_GOODS].concat();
    assert_eq!(story(&world).await, wanted);
}

#[tokio::test(start_paused = true)]
async fn a_restart_that_the_platform_refuses_changes_nothing() {
    let (engine, world): (Rc<Engine>, _) = (Rc::default(), World::new());
    killed_while_it_sleeps(&engine, &world).await;
    world.log.begin_restart(now()).unwrap();
    let opened = world.log.open(None, now()).unwrap();
    assert_eq!(opened, Opened::Restarting);
    world.log.cancel_restart().unwrap();
    run(&engine, &world).await.unwrap();
    assert_eq!(story(&world).await, DRY_GOODS);
}

/// Requests of a dead process, and of one that does not know yet that it is dead.
#[tokio::test]
async fn facts_from_a_lifetime_that_is_over_are_stale() {
    let log = WorkflowLog::new(Database::in_memory());
    let append = async |generation, run, key: &str| {
        let told = log.append(generation, run, vec![fact(key)], now()).await;
        told.unwrap()
    };
    let first = opened(&log, None);
    assert_eq!(append(first.generation, 1, "a").await, Told::Stored(1));
    let second = opened(&log, None);
    assert!(second.generation > first.generation);
    // Until the second sends something, it may be a request that came late.
    assert_eq!(append(first.generation, 1, "b").await, Told::Stored(1));
    // It does not know the events in between, so it has to read again.
    assert_eq!(append(second.generation, 1, "c").await, Told::Stale);
    assert_eq!(append(first.generation, 1, "d").await, Told::Stale);
    let over = log.open(Some(first.generation), now()).unwrap();
    assert_eq!(over, Opened::Over);
    // So the object does not wait for its end: see `EventsObject::open`.
    assert!(!over.goes_on());
    let again = log.open(Some(second.generation), now()).unwrap();
    assert!(again.goes_on());
    let again = opened(&log, Some(second.generation));
    assert_eq!(again.facts, ["a", "b"]);
    assert_eq!(again.generation, second.generation);
    assert_eq!(append(second.generation, 1, "c").await, Told::Stored(1));
    // A late opening by a dead process takes nothing from the living one.
    opened(&log, None);
    assert_eq!(append(second.generation, 1, "d").await, Told::Stored(1));
    // A restart ends them all, and an earlier run cannot open the log any more.
    let begun = log.begin_restart(now()).unwrap();
    let stood = (begun.run, begun.generation);
    assert!(log.confirm_restart(stood, &started(), now()).unwrap());
    for run in [1, 2, 3] {
        assert_eq!(append(second.generation, run, "e").await, Told::Stale);
    }
    let third = opened(&log, None);
    assert_eq!((third.run, third.ended), (2, false));
    assert_eq!(append(third.generation, 1, "e").await, Told::Stale);
    assert_eq!(append(third.generation, 2, "e").await, Told::Stored(1));
    assert_eq!(
        keys(&log),
        [
            "1/a",
            "1/b",
            "1/c",
            "1/d",
            "2/e",
            "2/order-1.workflow:started",
            "run/0000000002"
        ]
    );
}

/// The object may leave memory at any time.
#[tokio::test]
async fn a_log_that_wakes_knows_the_lifetime_of_its_facts() {
    let database = Database::in_memory();
    let log = || WorkflowLog::new(database.clone());
    let append = async |generation, key: &str| {
        let told = log().append(generation, 1, vec![fact(key)], now()).await;
        told.unwrap()
    };
    let first = opened(&log(), None).generation;
    assert_eq!(append(first, "a").await, Told::Stored(1));
    // The opening sent nothing and is not stored; its number is not assigned again.
    tokio::time::sleep(Duration::from_millis(5)).await;
    let second = opened(&log(), None).generation;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let third = opened(&log(), None).generation;
    assert!(first < second && second < third, "{first} {second} {third}");
    assert_eq!(append(third, "b").await, Told::Stored(1));
    for over in [first, second] {
        assert_eq!(append(over, "c").await, Told::Stale);
        assert_eq!(log().open(Some(over), now()).unwrap(), Opened::Over);
    }
    // An opening from before the log woke is not newer than one after it, whatever its clock said.
    let ahead = now() + Duration::from_secs(60);
    let Opened::Run(ahead) = log().open(None, ahead).unwrap() else {
        panic!("nobody restarts it");
    };
    let woken = log();
    let fourth = opened(&woken, None).generation;
    assert!(third < fourth && fourth < ahead.generation);
    let append = async |generation, key: &str| {
        let told = woken.append(generation, 1, vec![fact(key)], now()).await;
        told.unwrap()
    };
    assert_eq!(append(ahead.generation, "c").await, Told::Stale);
    assert_eq!(
        woken.open(Some(ahead.generation), now()).unwrap(),
        Opened::Over
    );
    assert_eq!(append(fourth, "c").await, Told::Stored(1));
    // A restart is stored too.
    let begun = log().begin_restart(now()).unwrap();
    let stood = (begun.run, begun.generation);
    assert!(log().confirm_restart(stood, &started(), now()).unwrap());
    assert_eq!(log().open(Some(third), now()).unwrap(), Opened::Over);
    assert_eq!(opened(&log(), None).run, 2);
}

/// The object leaves memory while an instance is restarted, and wakes with a clock behind the earlier one: lifetimes
/// that have come since are of the new run, and can still append.
#[tokio::test]
async fn a_restart_is_confirmed_by_a_log_whose_clock_was_set_back() {
    for (tells_before, wakes_again) in [(true, true), (true, false), (false, false)] {
        let database = Database::in_memory();
        let log = || WorkflowLog::new(database.clone());
        let old = opened(&log(), None).generation;
        let ended = workflow_ended("order", Ok(()), now()).unwrap();
        let told = log().append(old, 1, vec![started(), ended], now()).await;
        assert_eq!(told.unwrap(), Told::Stored(2));
        let mut woken = log();
        let ahead = now() + Duration::from_secs(60);
        woken.open(None, ahead).unwrap();
        let begun = woken.begin_restart(ahead).unwrap();
        woken = log();
        let new = opened(&woken, None).generation;
        assert!(old < new && new < begun.generation);
        if tells_before {
            let told = woken.append(new, 2, vec![started()], now()).await;
            assert_eq!(told.unwrap(), Told::Stored(2));
        }
        if wakes_again {
            woken = log();
        }
        let stood = (begun.run, begun.generation);
        let confirmed = woken.confirm_restart(stood, &started(), now()).unwrap();
        assert_eq!(confirmed, !tells_before);
        assert_eq!(opened(&woken, Some(new)).run, 2);
        let told = woken.append(new, 2, vec![fact("a-1:started")], now()).await;
        assert_eq!(told.unwrap(), Told::Stored(1));
    }
}

/// A deleted log keeps its ids and run numbers, whoever begins the next run.
#[tokio::test]
async fn a_log_that_has_expired_goes_on_with_the_next_run() {
    let expired = async || {
        let log = WorkflowLog::new(Database::in_memory());
        let run = opened(&log, None);
        let ended = workflow_ended("order", Ok(()), now()).unwrap();
        let facts = vec![started(), ended];
        let told = log.append(run.generation, 1, facts, now()).await.unwrap();
        assert_eq!(told, Told::Stored(2));
        log.expire().unwrap();
        assert!(log.state().unwrap().empty);
        (log, run.generation)
    };
    let ids = async |log: &Log| -> Vec<u64> {
        events(log)
            .await
            .iter()
            .map(|event| event.id.get())
            .collect()
    };
    let begun = ["restarted", "started"];
    let (log, _) = expired().await;
    assert_eq!(
        log.announce(&started(), now()).unwrap(),
        Announced::New { stored: true }
    );
    assert_eq!(
        (types(&log).await, ids(&log).await),
        (own(&begun), vec![3, 4])
    );
    assert!(log.take_back().unwrap());
    assert!(log.state().unwrap().empty);
    log.announce(&started(), now()).unwrap();
    assert_eq!(ids(&log).await, [5, 6]);
    let run = opened(&log, None);
    assert_eq!(
        (run.run, run.facts),
        (3, own(&["order-1.workflow:started"]))
    );

    let (log, old) = expired().await;
    let stood = log.begin_restart(now()).unwrap();
    let stood = (stood.run, stood.generation);
    assert!(log.confirm_restart(stood, &started(), now()).unwrap());
    assert_eq!(
        (types(&log).await, ids(&log).await),
        (own(&begun), vec![3, 4])
    );
    assert_eq!(log.open(Some(old), now()).unwrap(), Opened::Over);

    // A run that is over cannot be ended again.
    let (log, old) = expired().await;
    assert!(
        !log.settle(None, "order", &InstanceEnd::Terminated, &[], now())
            .unwrap()
    );
    assert_eq!(log.tell(None, &[fact("late")]).unwrap(), Told::Stored(0));
    let late = log.append(old, 1, vec![fact("late")], now()).await;
    assert_eq!(late.unwrap(), Told::Stored(0));
    assert_eq!(opened(&log, None).run, 2);
}

/// A run with more events than its log keeps, replayed in further lifetimes.
#[tokio::test]
async fn a_log_that_keeps_the_newest_events_stores_no_fact_twice() {
    let database = Database::in_memory();
    let log = || WorkflowLog::with_max_events(database.clone(), 10);
    let facts: Vec<_> = (0..200).map(|n| fact(&format!("a-{n}:started"))).collect();
    let first = log();
    let run = opened(&first, None);
    for batch in facts.chunks(7) {
        let told = first.append(run.generation, 1, batch.to_vec(), now()).await;
        assert_eq!(told.unwrap(), Told::Stored(batch.len()));
    }
    for log in [first, log()] {
        let kept = events(&log).await;
        assert_eq!(kept.len(), 10);
        assert_eq!(kept[0].id.get(), 191);
        let again = opened(&log, None);
        assert_eq!((again.run, again.facts.len()), (1, 200));
        let told = log.append(again.generation, 1, facts.clone(), now()).await;
        assert_eq!(told.unwrap(), Told::Stored(0));
    }
    let log = log();
    let ended = log.settle(None, "order", &InstanceEnd::Completed, &[], now());
    assert!(ended.unwrap());
    assert_eq!(events(&log).await.len(), 10);
    // The rows of a whole log go with it.
    assert!(log.delete().unwrap());
    assert_eq!(keys(&log), ["run/0000000001"]);
}

/// A deleted log does not come back, even if the run goes on.
#[tokio::test(start_paused = true)]
async fn a_log_that_is_deleted_under_a_run_stays_deleted_until_the_next_run() {
    let (engine, world): (Rc<Engine>, _) = (Rc::default(), World::new());
    killed_while_it_sleeps(&engine, &world).await;
    assert!(world.log.delete().unwrap());
    assert!(world.log.is_deleted().unwrap());
    assert!(world.log.state().unwrap().empty);
    // A second delete finds nothing, and the mark stays.
    assert!(!world.log.delete().unwrap());
    run(&engine, &world).await.unwrap();
    assert_eq!(story(&world).await, Vec::<String>::new());
    assert!(world.log.is_deleted().unwrap());
    assert_eq!(*world.warnings.borrow(), Vec::<String>::new());

    // A restart begins a run that can be watched again, with new ids.
    let begun = world.log.begin_restart(now()).unwrap();
    assert_eq!(world.log.open(None, now()).unwrap(), Opened::Restarting);
    let stood = (begun.run, begun.generation);
    assert!(world.log.confirm_restart(stood, &started(), now()).unwrap());
    assert!(!world.log.is_deleted().unwrap());
    engine.restart();
    run(&engine, &world).await.unwrap();
    let wanted = [&["restarted 2"], &DRY_GOODS[..]].concat();
    assert_eq!(story(&world).await, wanted);
    assert_eq!(events(&world.log).await[0].id.get(), 3);
}

#[tokio::test]
async fn facts_of_a_deleted_run_are_never_stored() {
    let database = Database::in_memory();
    let log = || WorkflowLog::new(database.clone());
    assert!(!log().delete().unwrap());
    assert!(!log().is_deleted().unwrap());
    let first = log();
    let run = opened(&first, None);
    let begun = vec![started(), fact("a-1:started")];
    let told = first.append(run.generation, 1, begun, now()).await;
    assert_eq!(told.unwrap(), Told::Stored(2));
    assert!(first.delete().unwrap());
    // The object may leave memory in between.
    for log in [first, log()] {
        let late = vec![fact("a-1:completed")];
        let told = log.append(run.generation, 1, late, now()).await;
        assert_eq!(told.unwrap(), Told::Stored(0));
        assert_eq!(log.tell(None, &[fact("told")]).unwrap(), Told::Stored(0));
        let end = log.settle(None, "order", &InstanceEnd::Completed, &[], now());
        assert!(!end.unwrap());
        for generation in [None, Some(run.generation)] {
            assert_eq!(log.open(generation, now()).unwrap(), Opened::Over);
        }
        assert_eq!(events(&log).await, []);
        assert_eq!(keys(&log), ["run/0000000001-deleted"]);
    }
    // The platform refuses to create an instance of this id: nothing changes.
    let log = log();
    let announced = log.announce(&started(), now()).unwrap();
    assert_eq!(announced, Announced::New { stored: true });
    assert!(log.take_back().unwrap());
    assert!(log.is_deleted().unwrap());
    assert_eq!(log.open(None, now()).unwrap(), Opened::Over);
    // An instance that it creates is the next run.
    log.announce(&started(), now()).unwrap();
    assert_eq!(opened(&log, None).run, 3);
    // Any run may follow a log that has ended.
    let ended = workflow_ended("order", Ok(()), now()).unwrap();
    assert_eq!(log.tell(None, &[ended]).unwrap(), Told::Stored(1));
    assert!(log.delete().unwrap());
    assert!(!log.is_deleted().unwrap());
    assert_eq!(opened(&log, None).run, 4);
}

#[tokio::test(start_paused = true)]
async fn only_the_later_of_two_concurrent_lifetimes_appends() {
    let (engine, world): (Rc<Engine>, _) = (Rc::default(), World::new());
    let body = async |step: WrappedStep, times: u32| {
        for _ in 0..times {
            step.run("page", async |_| {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok(())
            })
            .await?;
        }
        Ok::<_, StepError>(())
    };
    let both = async {
        let first = wrapped(&engine, &world, DispatchConfig::batched());
        let late = first.clone();
        let first = first.workflow(async |step| body(step, 6).await);
        let second = async {
            tokio::time::sleep(Duration::from_millis(2_500)).await;
            let step = wrapped(&engine, &world, DispatchConfig::batched());
            step.workflow(async |step| body(step, 8).await).await
        };
        let (first, second) = join!(first, second);
        first.unwrap();
        second.unwrap();
        // The rest of its events is not worth waiting for.
        late.run("late", async |_| Ok(())).await.unwrap();
        let start = tokio::time::Instant::now();
        late.dispatch().flush(Flush::End).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
    };
    lifetime(&engine, both).await.unwrap();
    let mut wanted = own(&["started order-1.workflow"]);
    for page in 1..=8 {
        wanted.push(format!("started page-{page}"));
        wanted.push(format!("completed page-{page}"));
    }
    wanted.push("completed order-1.workflow".to_owned());
    assert_eq!(story(&world).await, wanted);
    assert_eq!(*world.warnings.borrow(), Vec::<String>::new());
}

/// A run is announced while one of its lifetimes is at work: the lifetime sends its events again, into the new run.
#[tokio::test(start_paused = true)]
async fn a_lifetime_goes_with_the_run() {
    let world = World::new();
    tokio::task::LocalSet::new()
        .run_until(async {
            let dispatch = dispatcher(&world);
            for key in ["a-1:started", "a-1:completed"] {
                dispatch.dispatch(Fact::Event(fact(key)));
                dispatch.flush(Flush::BeforeWait).await;
            }
            let started = workflow_started("order", now()).unwrap();
            assert!(world.log.confirm_restart((1, 0), &started, now()).unwrap());
            dispatch.dispatch(Fact::Event(fact("b-1:started")));
            dispatch.flush(Flush::BeforeWait).await;
        })
        .await;
    assert_eq!(
        keys(&world.log),
        [
            "1/a-1:completed",
            "1/a-1:started",
            "2/a-1:completed",
            "2/a-1:started",
            "2/b-1:started",
            "2/order-1.workflow:started",
            "run/0000000002",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn doubtful_facts_are_held_until_the_engine_proves_that_the_run_goes_on() {
    #[derive(Clone, Copy, PartialEq)]
    enum Then {
        Alive,
        Live,
        Over,
        End,
        Nothing,
    }
    for then in [
        Then::Alive,
        Then::Live,
        Then::Over,
        Then::End,
        Then::Nothing,
    ] {
        let world = World::new();
        tokio::task::LocalSet::new()
            .run_until(async {
                let dispatch = dispatcher(&world);
                dispatch.dispatch(Fact::Event(fact("a-1:started")));
                dispatch.dispatch(Fact::Doubt);
                dispatch.dispatch(Fact::Event(fact("a-1:completed")));
                dispatch.dispatch(Fact::Event(fact("b-1:started")));
                let start = tokio::time::Instant::now();
                dispatch.flush(Flush::BeforeWait).await;
                assert!(
                    start.elapsed() < Duration::from_millis(100),
                    "it waited for what is held"
                );
                assert_eq!(keys(&world.log), ["1/a-1:started"]);
                // Only an ended run is known to go on by this.
                tokio::time::sleep(Duration::from_secs(60)).await;
                assert_eq!(keys(&world.log), ["1/a-1:started"]);
                match then {
                    Then::Alive => dispatch.dispatch(Fact::Alive),
                    Then::Live => dispatch.dispatch(Fact::Live {
                        ends: vec!["b-1:completed".into()],
                    }),
                    Then::Over => dispatch.dispatch(Fact::Over),
                    Then::End | Then::Nothing => {}
                }
                if then != Then::Nothing {
                    let flush = if then == Then::End {
                        Flush::End
                    } else {
                        Flush::BeforeWait
                    };
                    dispatch.flush(flush).await;
                }
                let released = matches!(then, Then::Alive | Then::Live | Then::End);
                let all = ["1/a-1:completed", "1/a-1:started", "1/b-1:started"];
                assert_eq!(
                    keys(&world.log),
                    if released { &all[..] } else { &all[1..2] }
                );
                if then != Then::End {
                    dispatch.flush(Flush::End).await;
                }
                assert_eq!(world.log.state().unwrap().run, 1);
                assert_eq!(world.settles.get(), 1, "nobody knows how the run goes on");
            })
            .await;
    }
}

/// If a run had ended, held facts keep their order when the next run begins.
#[tokio::test(start_paused = true)]
async fn a_restart_sends_all_facts_again_in_order() {
    let world = World::new();
    let ended = workflow_ended("order", Ok(()), now()).unwrap();
    for event in [started(), fact("a-1:started"), fact("c-1:started"), ended] {
        world.log.tell(None, &[event]).unwrap();
    }
    tokio::task::LocalSet::new()
        .run_until(async {
            let dispatch = dispatcher(&world);
            for key in ["a-1:started", "b-1:started", "c-1:started"] {
                dispatch.dispatch(Fact::Event(fact(key)));
            }
            dispatch.flush(Flush::BeforeWait).await;
            assert_eq!(world.log.state().unwrap().run, 1);
            assert_eq!(
                world.calls.get(),
                1,
                "it only opens the log of a run that has ended"
            );
            dispatch.dispatch(Fact::Alive);
            dispatch.flush(Flush::BeforeWait).await;
        })
        .await;
    let second = types(&world.log).await.split_off(4);
    assert_eq!(
        second,
        ["restarted", "a-1:started", "b-1:started", "c-1:started"]
    );
}

/// A run is terminated while a lifetime is at work: the events that the lifetime still sends do not begin another
/// run.
#[tokio::test(start_paused = true)]
async fn a_run_that_is_ended_under_a_lifetime_stays_ended() {
    let world = World::new();
    tokio::task::LocalSet::new()
        .run_until(async {
            let dispatch = dispatcher(&world);
            dispatch.dispatch(Fact::Event(started()));
            dispatch.flush(Flush::BeforeWait).await;
            let terminated = world
                .log
                .settle(None, "order", &InstanceEnd::Terminated, &[], now());
            assert!(terminated.unwrap());
            for _ in 0..2 {
                dispatch.dispatch(Fact::Live {
                    ends: vec!["a-1:completed".into()],
                });
                dispatch.dispatch(Fact::Alive);
                dispatch.dispatch(Fact::Event(fact("a-1:started")));
                dispatch.flush(Flush::BeforeWait).await;
                // The same if it has to read again.
                world
                    .log
                    .open(Some(world.log.state().unwrap().generation), now())
                    .unwrap();
            }
        })
        .await;
    assert_eq!(
        keys(&world.log),
        ["1/order-1.workflow:failed", "1/order-1.workflow:started"]
    );
}

/// Others send events of the run before at that moment: these do not undo a restart.
#[tokio::test(start_paused = true)]
async fn a_restart_that_the_engine_has_proved_stays_one() {
    let old = ["a-1:started", "a-1:completed", "b-1:started"];
    let settle = |log: &Log| {
        let terminated = log.settle(None, "order", &InstanceEnd::Terminated, &[], now());
        assert!(terminated.unwrap());
    };
    let append = |log: &Log| {
        let told = log.tell(None, &[fact("from outside")]).unwrap();
        assert_eq!(told, Told::Stored(1));
    };
    for others in [&settle as &dyn Fn(&Log), &append] {
        let world = World::new();
        world.log.tell(None, &[started()]).unwrap();
        for key in old {
            world.log.tell(None, &[fact(key)]).unwrap();
        }
        tokio::task::LocalSet::new()
            .run_until(async {
                let dispatch = dispatcher(&world);
                dispatch.dispatch(Fact::Event(started()));
                dispatch.flush(Flush::BeforeWait).await;
                others(&world.log);
                dispatch.dispatch(Fact::Event(fact("a-1:started")));
                dispatch.dispatch(Fact::Live {
                    ends: vec!["a-1:completed".into()],
                });
                dispatch.dispatch(Fact::Event(fact("a-1:completed")));
                dispatch.dispatch(Fact::Event(workflow_ended("order", Ok(()), now()).unwrap()));
                dispatch.flush(Flush::End).await;
            })
            .await;
        let second = types(&world.log).await.split_off(5);
        let wanted = [
            "restarted",
            "started",
            "a-1:started",
            "a-1:completed",
            "completed",
        ];
        assert_eq!(second, wanted);
        assert_eq!(*world.warnings.borrow(), Vec::<String>::new());
    }
}

#[tokio::test(start_paused = true)]
async fn the_log_is_settled_only_if_a_lifetime_ends_without_the_runs_end() {
    let (engine, world): (Rc<Engine>, _) = (Rc::default(), World::new());
    engine.pause_in("price");
    assert!(run(&engine, &world).await.unwrap_err().is_suspended());
    assert_eq!(world.settles.get(), 1);
    let calls = world.calls.replace(0);
    assert!(calls <= 7, "{calls}");
    run(&engine, &world).await.unwrap();
    run(&engine, &world).await.unwrap();
    assert_eq!(world.settles.get(), 1);
    assert_eq!(story(&world).await, DRY_GOODS);
}

#[tokio::test]
async fn an_announcement_without_an_instance_leaves_nothing() {
    let log = WorkflowLog::new(Database::in_memory());
    for _ in 0..2 {
        assert_eq!(
            log.announce(&started(), now()).unwrap(),
            Announced::New { stored: true }
        );
        assert_eq!(
            log.announce(&started(), now()).unwrap(),
            Announced::New { stored: false }
        );
        assert_eq!(keys(&log), ["1/order-1.workflow:started"]);
        assert!(log.take_back().unwrap());
        let state = log.state().unwrap();
        assert!(state.empty && !state.announced, "{state:?}");
        assert!(!log.take_back().unwrap());
    }
    // A lifetime has opened it in between, and sends its beginning again.
    log.announce(&started(), now()).unwrap();
    let run = opened(&log, None);
    assert!(log.take_back().unwrap());
    let told = log
        .append(run.generation, 1, vec![fact("a-1:started")], now())
        .await;
    assert_eq!(told.unwrap(), Told::Stale);
    assert_eq!(
        opened(&log, Some(run.generation)).facts,
        Vec::<String>::new()
    );
    // From then on there is an instance.
    log.append(run.generation, 1, vec![started()], now())
        .await
        .unwrap();
    assert!(!log.take_back().unwrap());
    assert_eq!(keys(&log), ["1/order-1.workflow:started"]);
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_has_the_id_of_an_earlier_one_has_a_run_of_its_own() {
    for how_the_first_ended in ["killed", "complete"] {
        let (engine, world): (Rc<Engine>, _) = (Rc::default(), World::new());
        if how_the_first_ended == "killed" {
            killed_while_it_sleeps(&engine, &world).await;
        } else {
            run(&engine, &world).await.unwrap();
        }
        let first = story(&world).await;
        // The platform says that the instance exists: nothing happens.
        let Announced::Known(_) = world.log.announce(&started(), now()).unwrap() else {
            panic!("it has events");
        };
        world.log.cancel_restart().unwrap();
        assert_eq!(story(&world).await, first);
        // It was deleted, and can be created.
        let Announced::Known(stood) = world.log.announce(&started(), now()).unwrap() else {
            panic!("it has events");
        };
        engine.restart();
        let stood = (stood.run, stood.generation);
        assert!(world.log.confirm_restart(stood, &started(), now()).unwrap());
        let announced = [
            &first[..],
            &own(&["restarted 2", "started order-1.workflow"]),
        ]
        .concat();
        assert_eq!(story(&world).await, announced);
        run(&engine, &world).await.unwrap();
        let all = [&first[..], &own(&["restarted 2"]), &own(&DRY_GOODS)].concat();
        assert_eq!(story(&world).await, all);
    }
}

#[tokio::test]
async fn a_run_is_ended_as_the_platform_says_and_only_if_nothing_has_happened_since() {
    let told = async |end: InstanceEnd, between: fn(&Log)| {
        let log = WorkflowLog::new(Database::in_memory());
        let run = opened(&log, None);
        log.append(run.generation, 1, vec![started()], now())
            .await
            .unwrap();
        let state = log.stands(now()).unwrap();
        between(&log);
        let stood = Some((state.run, state.generation));
        let changed = log.settle(stood, "order", &end, &[], now()).unwrap();
        assert!(
            !log.settle(stood, "order", &end, &[], now()).unwrap(),
            "twice"
        );
        changed.then(|| data(&log))
    };
    let error = |data: Option<Value>| data.map(|data| data["error"].clone());
    let quiet: fn(&Log) = |_| {};
    assert_eq!(
        error(told(InstanceEnd::Completed, quiet).await),
        Some(Value::Null)
    );
    let failed = told(InstanceEnd::Failed(Some("no".into())), quiet).await;
    assert_eq!(error(failed), Some("no".into()));
    let failed = told(InstanceEnd::Failed(None), quiet).await;
    assert_eq!(error(failed), Some("the workflow failed".into()));
    let terminated = told(InstanceEnd::Terminated, quiet).await;
    assert_eq!(
        error(terminated),
        Some("the instance was terminated".into())
    );
    // It may have been created a moment ago.
    assert_eq!(told(InstanceEnd::Missing, quiet).await, None);
    // A lifetime, a restart, the run's own end.
    let between: [fn(&Log); 3] = [
        |log| drop(opened(log, None)),
        |log| {
            let stood = log.begin_restart(now()).unwrap();
            let stood = (stood.run, stood.generation);
            log.confirm_restart(stood, &started(), now()).unwrap();
        },
        |log| {
            let ended = workflow_ended("order", Ok(()), now()).unwrap();
            log.tell(None, &[ended]).unwrap();
        },
    ];
    for between in between {
        assert_eq!(told(InstanceEnd::Completed, between).await, None);
    }
}

/// That a lifetime has opened the log is in the object's memory only, until the lifetime appends something.
#[tokio::test(start_paused = true)]
async fn what_the_platform_said_before_the_object_failed_ends_no_run() {
    for fails in [false, true] {
        let database = Database::in_memory();
        let log = WorkflowLog::new(database.clone());
        let first = opened(&log, None).generation;
        append_now(&log, first, 1, &[started()]);
        // The platform says that the run is over.
        let state = log.stands(now()).unwrap();
        let stood = Some((state.run, state.generation));
        // The instance is restarted, nobody announces it, and the next lifetime opens the log.
        milliseconds(100).await;
        let second = opened(&log, None);
        let log = match fails {
            true => WorkflowLog::new(database),
            false => log,
        };
        milliseconds(10).await;
        let settle = |stood| {
            let end = InstanceEnd::Terminated;
            log.settle(stood, "order", &end, &[], now()).unwrap()
        };
        assert!(!settle(stood), "fails: {fails}");
        // Also where somebody else has asked since.
        let state = log.stands(now()).unwrap();
        assert!(!settle(stood), "asked again, fails: {fails}");
        append_now(&log, second.generation, 1, &[fact("a-1:started")]);
        // What the platform says now is true of this run.
        assert!(settle(Some((state.run, state.generation))));
    }
}

#[tokio::test]
async fn an_instance_that_the_platform_does_not_know_is_gone_after_half_a_minute() {
    // The time that the store uses for now.
    let now = SystemTime::now;
    let later = || now() + Duration::from_secs(31);
    let missing = |log: &Log, now| {
        log.settle(None, "order", &InstanceEnd::Missing, &[], now)
            .unwrap()
    };
    // It was never created.
    let log = WorkflowLog::new(Database::in_memory());
    log.announce(&started(), now()).unwrap();
    assert!(!missing(&log, now()));
    assert!(missing(&log, later()));
    assert!(log.state().unwrap().empty);
    assert!(!missing(&log, later()), "an empty log is not ended");
    // It was deleted.
    let run = opened(&log, None);
    log.append(
        run.generation,
        1,
        vec![started(), fact("a-1:started")],
        now(),
    )
    .await
    .unwrap();
    assert!(!missing(&log, now()));
    assert!(missing(&log, later()));
    assert_eq!(data(&log)["error"], "the instance does not exist any more");
}

/// The messages between a Worker and an object.
#[test]
fn commands_and_answers_are_json() {
    let log = WorkflowLog::new(Database::in_memory());
    let obey = |json: &str| {
        let command: LogCommand = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&command).unwrap(), json);
        let answer = log.obey(&command, now()).unwrap();
        let json = serde_json::to_string(&answer).unwrap();
        assert_eq!(
            serde_json::from_str::<ssetarget::internals::LogAnswer>(&json).unwrap(),
            answer
        );
        (answer.changed, answer.restarting)
    };
    let announce = r#"["announce",null,"order",1000,[],null,[]]"#;
    assert_eq!(obey(announce), (true, false));
    assert_eq!(obey(announce), (false, false));
    assert_eq!(obey(r#"["takeBack",null,"",0,[],null,[]]"#), (true, false));
    assert_eq!(obey(announce), (true, false));
    opened(&log, None);
    assert_eq!(obey(announce), (false, true));
    assert_eq!(
        obey(r#"["cancelRestart",null,"",0,[],null,[]]"#),
        (false, false)
    );
    assert_eq!(
        obey(r#"["beginRestart",null,"",0,[],null,[]]"#),
        (false, true)
    );
    let confirm = r#"["confirmRestart",[1,9000],"order",1000,[],null,[]]"#;
    assert_eq!(obey(confirm), (true, false));
    assert_eq!(obey(confirm), (false, false));
    let settle = r#"["failed",null,"order",0,[],"no",[]]"#;
    assert_eq!(obey(settle), (true, false));
    assert_eq!(obey(r#"["state",null,"",0,[],null,[]]"#), (false, false));
    let state = log.state().unwrap();
    assert_eq!((state.run, state.ended), (2, true));

    for json in [
        r#"["announce",null,"order",1000,["eu","big"],null,[]]"#,
        r#"["links",null,"",1,[],null,[]]"#,
        r#"["links",null,"",0,[],null,[]]"#,
        r#"["delete",null,"",0,[],null,[]]"#,
        r#"["completed",[1,9000],"order",0,[],null,[]]"#,
        r#"["failed",null,"order",0,[],null,[]]"#,
        r#"["terminated",null,"order",0,[],null,[]]"#,
        r#"["missing",null,"order",0,[],null,[]]"#,
    ] {
        let command: LogCommand = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&command).unwrap(), json);
    }
    for json in [
        r#"["erase",null,"",0,[],null,[]]"#,
        r#"["confirmRestart",null,"order",1000,[],null,[]]"#,
        r#"["state",null,"",0,[],null]"#,
    ] {
        assert!(serde_json::from_str::<LogCommand>(json).is_err(), "{json}");
    }
}

/// Known facts need no call, so an append does not show that the log is back.
#[tokio::test(start_paused = true)]
async fn a_log_that_is_back_is_waited_for() {
    let world = World::new();
    world.log.tell(None, &[started()]).unwrap();
    world.troubles.borrow_mut().push(Trouble::Refuse);
    tokio::task::LocalSet::new()
        .run_until(async {
            let dispatch = dispatcher(&world);
            dispatch.dispatch(Fact::Event(started()));
            dispatch.flush(Flush::BeforeWait).await;
            assert_eq!(world.warnings.borrow().len(), 1);
            tokio::time::sleep(Duration::from_secs(3600)).await;
            dispatch.dispatch(Fact::Event(fact("a-1:attempt_failed:1")));
            let at_most = Duration::from_secs(60);
            dispatch.flush(Flush::AttemptEnd { at_most }).await;
            assert_eq!(
                keys(&world.log),
                ["1/a-1:attempt_failed:1", "1/order-1.workflow:started"]
            );
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_reports_keeps_the_newest() {
    let (engine, world): (Rc<Engine>, _) = (Rc::default(), World::new());
    let burst = async |killed: bool| {
        let step = wrapped(&engine, &world, DispatchConfig::batched());
        let body = step.workflow(async |step| {
            let left = step.run("left", async move |attempt: StepContext| {
                for number in 1..=20_000 {
                    attempt.progress(Progress::percent(f64::from(number) / 200.0));
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
                if killed {
                    std::future::pending::<()>().await;
                }
                attempt.progress("the last");
                Ok(())
            });
            let right = step.run("right", async |attempt: StepContext| {
                attempt.progress("one");
                Ok(())
            });
            let (left, right) = join!(left, right);
            left.and(right)
        });
        lifetime(&engine, tokio::time::timeout(Duration::from_secs(5), body))
            .await
            .unwrap()
    };
    assert!(burst(true).await.is_err());
    let reports = async || {
        let all = types(&world.log).await;
        all.into_iter()
            .filter(|line| line.contains("progress"))
            .collect::<Vec<_>>()
    };
    let first = reports().await;
    assert_eq!(first.len(), 65);
    assert!(first.iter().any(|line| line.contains("100")), "{first:?}");
    // The killed attempt is made again: its reports are there, in order.
    burst(false).await.unwrap().unwrap();
    let second = reports().await;
    assert_eq!(second[..65], first);
    assert_eq!(second.len(), 66, "{:?}", &second[65..]);
    assert_eq!(*world.warnings.borrow(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_restarted_from_a_late_step_is_told_from_its_beginning() {
    let (engine, world): (Rc<Engine>, _) = (Rc::default(), World::new());
    let lifetime_of = async || {
        let step = wrapped(&engine, &world, DispatchConfig::batched());
        let body = step.workflow(async |step| {
            for _ in 0..3_000 {
                step.run("page", async |_| Ok(())).await?;
            }
            step.run("sum", async |_| Ok(())).await
        });
        lifetime(&engine, body).await.unwrap().unwrap();
    };
    lifetime_of().await;
    let first = story(&world).await;
    engine.forget("do/sum-1");
    lifetime_of().await;
    let all = story(&world).await;
    assert_eq!(all[first.len()], "restarted 2");
    assert_eq!(all[first.len() + 1..], first);
}

#[tokio::test(start_paused = true)]
async fn reports_beyond_the_limit_of_an_attempt_are_not_stored_and_a_warning_says_what_to_do() {
    let (engine, world): (Rc<Engine>, _) = (Rc::default(), World::new());
    let config = DispatchConfig::batched().max_reports(3);
    let step = wrapped(&engine, &world, config);
    let body = step.workflow(async |step| {
        step.run("loop", async move |attempt: StepContext| {
            for number in 1..=10 {
                attempt.progress(Progress::percent(f64::from(number)));
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Ok(())
        })
        .await
    });
    lifetime(&engine, body).await.unwrap().unwrap();
    let all = types(&world.log).await;
    let reports = all.iter().filter(|line| line.contains("progress"));
    assert_eq!(reports.count(), 3, "{all:?}");
    assert!(all.iter().any(|line| line.contains("completed")));
    let warnings = world.warnings.borrow();
    let told: Vec<_> = warnings
        .iter()
        .filter(|text| text.contains("3 times"))
        .collect();
    assert_eq!(told.len(), 1, "{warnings:?}");
    assert!(
        told[0].contains("loop-1") && told[0].contains("report less often"),
        "{told:?}"
    );
}

/// An instance with many reports is opened, and its log wakes, with little in memory.
#[tokio::test]
async fn many_reports_cost_little() {
    let database = Database::in_memory();
    let log = WorkflowLog::new(database.clone());
    let run = opened(&log, None);
    let reports = 120_000_u32;
    for first in (1..=reports).step_by(500) {
        let report = |number| fact(&format!("import-1:progress:1:{number}"));
        let batch = (first..first + 500).map(report).collect();
        let told = log.append(run.generation, 1, batch, now()).await;
        assert_eq!(told.unwrap(), Told::Stored(500));
    }
    for has_digest in [true, false] {
        if !has_digest {
            // As a log is that an earlier version of this crate has written.
            database.exec("DROP TABLE event_keys", &[]).unwrap();
        }
        let log = WorkflowLog::new(database.clone());
        database.take_statements();
        let opened = opened(&log, None);
        assert_eq!(opened.facts, [format!("import-1:progress:1:{reports}")]);
        let pages = database.take_statements().len();
        let at_once = "all keys were read at once";
        assert!(has_digest || pages > 10, "{at_once}: {pages}");
        let again = fact("import-1:progress:1:77");
        let told = log.append(opened.generation, 1, vec![again], now()).await;
        assert_eq!(told.unwrap(), Told::Stored(0));
    }
}

/// A lifetime that opens a log with 20,000 reports has little more read than one that opens a log with 20.
#[tokio::test]
async fn opening_a_long_log_reads_little_more_than_opening_a_short_one() {
    async fn read(reports: u32) -> Read {
        let database = Database::in_memory();
        let log = WorkflowLog::new(database.clone());
        let run = opened(&log, None);
        let mut facts: Vec<_> = (1..=5)
            .map(|n| fact(&format!("step-{n}:started")))
            .collect();
        facts.extend((1..=reports).map(|n| fact(&format!("import-1:progress:1:{n}"))));
        for batch in facts.chunks(10) {
            let told = log.append(run.generation, 1, batch.to_vec(), now()).await;
            assert_eq!(told.unwrap(), Told::Stored(batch.len()));
        }
        let log = WorkflowLog::new(database.clone());
        database.take_read();
        assert_eq!(opened(&log, None).facts.len(), 6);
        // The first append needs the keys, too.
        let told = log.tell(None, &[fact("import-1:progress:1:7")]);
        assert_eq!(told.unwrap(), Told::Stored(0));
        database.take_read()
    }
    let short = read(20).await;
    let (long, longer) = (read(20_000).await, read(80_000).await);
    // What has come since the keys were last put together is read from the events: fewer than 522 of them.
    for long in [long, longer] {
        let read = format!("{short:?}, {long:?}");
        assert!(long.rows < short.rows + 522, "{read}");
        assert!(long.bytes < short.bytes + 20_000, "{read}");
        assert!(long.steps < short.steps + 8_000, "{read}");
    }
}

/// The confirmation of a restart comes when the run that it is of has ended and expired: that is not begun again.
#[tokio::test(start_paused = true)]
async fn a_restart_that_is_confirmed_after_its_run_begins_nothing() {
    let log = WorkflowLog::new(Database::in_memory());
    let first = opened(&log, None).generation;
    log.append(first, 1, vec![started()], now()).await.unwrap();
    let stood = log.begin_restart(now()).unwrap();
    let stood = (stood.run, stood.generation);
    milliseconds(11_000).await;
    let second = opened(&log, None).generation;
    let ended = workflow_ended("order", Ok(()), now()).unwrap();
    let told = log.append(second, 2, vec![started(), ended], now()).await;
    assert_eq!(told.unwrap(), Told::Stored(3));
    log.expire().unwrap();
    assert!(!log.confirm_restart(stood, &started(), now()).unwrap());
    assert_eq!(events(&log).await, []);
    assert_eq!(opened(&log, None).run, 3);
}

// Two lifetimes at the same time.

/// What the lifetime that lives has told: it began later, and opened the log earlier.
async fn told_by_the_living(world: &World) -> u64 {
    let living = opened(&world.log, None).generation;
    let batch = ["order-1.workflow:started", "a-1:started", "a-1:completed"].map(fact);
    let told = world.log.append(living, 1, batch.to_vec(), now()).await;
    assert_eq!(told.unwrap(), Told::Stored(3));
    living
}

/// A dispatch of a lifetime that has run a step to its end and begun the next one, but not opened the log yet.
fn has_run_a_step(world: &Rc<World>) -> Dispatcher {
    let dispatch = dispatcher(world);
    let asked = dispatch.asked();
    dispatch.dispatch(Fact::Event(fact("order-1.workflow:started")));
    dispatch.dispatch(Fact::Event(fact("a-1:started")));
    dispatch.dispatch(Fact::Live {
        ends: vec!["a-1:completed".into()],
    });
    dispatch.answered(asked);
    dispatch.dispatch(Fact::Event(fact("a-1:completed")));
    dispatch.dispatch(Fact::Event(fact("b-1:started")));
    dispatch
}

async fn milliseconds(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

const OF_THE_LIVING: [&str; 3] = [
    "1/a-1:completed",
    "1/a-1:started",
    "1/order-1.workflow:started",
];

/// The engine of a lifetime is gone, and its first call to the log comes after those of the next one. It
/// ran what that one has told, which is no restart, and the log goes on listening to the other one.
#[tokio::test(start_paused = true)]
async fn a_lifetime_that_opens_the_log_late_takes_nothing_from_the_next_one() {
    let world = World::new();
    tokio::task::LocalSet::new()
        .run_until(async {
            let late = has_run_a_step(&world);
            milliseconds(5).await;
            let living = told_by_the_living(&world).await;
            let start = tokio::time::Instant::now();
            late.flush(Flush::BeforeWait).await;
            assert!(
                start.elapsed() < Duration::from_millis(100),
                "nothing is waited for"
            );
            // Its code goes on for a while.
            milliseconds(1_000).await;
            late.dispatch(Fact::Event(fact("b-1:completed")));
            late.flush(Flush::BeforeWait).await;
            assert_eq!(keys(&world.log), OF_THE_LIVING);
            let more = vec![fact("c-1:started")];
            let told = world.log.append(living, 1, more, now()).await;
            assert_eq!(told.unwrap(), Told::Stored(1));
            late.dispatch(Fact::Over);
            late.flush(Flush::End).await;
            assert_eq!(world.log.state().unwrap().run, 1);
            assert_eq!(keys(&world.log).len(), 4);
        })
        .await;
    assert_eq!(*world.warnings.borrow(), Vec::<String>::new());
}

/// The same calls in the same order, but the lifetime that opened the log last is the latest: its engine answers
/// what it was asked after the other one had begun. So the instance was restarted.
#[tokio::test(start_paused = true)]
async fn a_lifetime_that_opened_the_log_late_is_heard_when_its_engine_answers() {
    let world = World::new();
    tokio::task::LocalSet::new()
        .run_until(async {
            let late = has_run_a_step(&world);
            let early = late.asked();
            milliseconds(5).await;
            let other = told_by_the_living(&world).await;
            late.flush(Flush::BeforeWait).await;
            // Asked before the other one opened the log: no proof.
            late.answered(early);
            late.flush(Flush::BeforeWait).await;
            assert_eq!(keys(&world.log), OF_THE_LIVING);
            late.answered(late.asked());
            late.flush(Flush::BeforeWait).await;
            let of_the_second = keys(&world.log)
                .into_iter()
                .filter(|key| key.starts_with("2/"));
            assert_eq!(
                of_the_second.collect::<Vec<_>>(),
                [
                    "2/a-1:completed",
                    "2/a-1:started",
                    "2/b-1:started",
                    "2/order-1.workflow:started"
                ]
            );
            let told = world
                .log
                .append(other, 1, vec![fact("c-1:started")], now())
                .await;
            assert_eq!(told.unwrap(), Told::Stale);
        })
        .await;
}

/// A lifetime that has replayed and told nothing is not known to others. One of them may be older, and
/// has the log listen to it.
#[tokio::test(start_paused = true)]
async fn a_lifetime_that_was_displaced_before_it_was_heard_returns_with_a_proof() {
    let world = World::new();
    tokio::task::LocalSet::new()
        .run_until(async {
            let before = opened(&world.log, None).generation;
            let begun = vec![fact("a-1:started"), fact("a-1:completed")];
            world.log.append(before, 1, begun, now()).await.unwrap();
            milliseconds(1_000).await;
            let living = dispatcher(&world);
            living.dispatch(Fact::Event(fact("a-1:started")));
            living.flush(Flush::BeforeWait).await;
            let older = opened(&world.log, None).generation;
            let told = world
                .log
                .append(older, 1, vec![fact("b-1:started")], now())
                .await;
            assert_eq!(told.unwrap(), Told::Stored(1));
            let early = living.asked();
            living.dispatch(Fact::Event(fact("b-1:started")));
            living.dispatch(Fact::Event(fact("b-1:completed")));
            let start = tokio::time::Instant::now();
            living.flush(Flush::BeforeWait).await;
            assert!(
                start.elapsed() < Duration::from_millis(100),
                "nothing is waited for"
            );
            let held = ["1/a-1:completed", "1/a-1:started", "1/b-1:started"];
            assert_eq!(keys(&world.log), held);
            living.answered(early);
            living.flush(Flush::BeforeWait).await;
            assert_eq!(keys(&world.log), held);
            milliseconds(1).await;
            living.answered(living.asked());
            living.dispatch(Fact::Event(fact("c-1:started")));
            living.flush(Flush::BeforeWait).await;
            let all = ["1/b-1:completed", "1/c-1:started"];
            assert!(
                all.iter()
                    .all(|key| keys(&world.log).iter().any(|told| told == key))
            );
            let told = world
                .log
                .append(older, 1, vec![fact("d-1:started")], now())
                .await;
            assert_eq!(told.unwrap(), Told::Stale);
            assert_eq!(world.log.state().unwrap().run, 1);
        })
        .await;
    assert_eq!(*world.warnings.borrow(), Vec::<String>::new());
}

/// A run that is over before anything shows which lifetime is the latest: all of its steps were answered, so what
/// it tells is true, and nobody else may come to tell it.
#[tokio::test(start_paused = true)]
async fn a_contested_lifetime_tells_the_end_of_its_run() {
    for is_of_an_earlier_run in [false, true] {
        let world = World::new();
        tokio::task::LocalSet::new()
            .run_until(async {
                let late = dispatcher(&world);
                late.dispatch(Fact::Event(fact("a-1:started")));
                milliseconds(5).await;
                if is_of_an_earlier_run {
                    world.log.tell(None, &[started()]).unwrap();
                    let stood = world.log.begin_restart(now()).unwrap();
                    let stood = (stood.run, stood.generation);
                    milliseconds(1).await;
                    world.log.confirm_restart(stood, &started(), now()).unwrap();
                } else {
                    let other = opened(&world.log, None).generation;
                    let begun = vec![fact("a-1:started")];
                    world.log.append(other, 1, begun, now()).await.unwrap();
                }
                late.dispatch(Fact::Event(fact("a-1:completed")));
                let ended = workflow_ended("order", Ok(()), now()).unwrap();
                late.dispatch(Fact::Event(ended));
                late.flush(Flush::End).await;
                let state = world.log.state().unwrap();
                assert_eq!(state.ended, !is_of_an_earlier_run);
                let told = keys(&world.log);
                let told = told.iter().filter(|key| key.contains("a-1:")).count();
                assert_eq!(told, if is_of_an_earlier_run { 0 } else { 2 });
                // Then the platform is asked.
                assert_eq!(world.settles.get(), u32::from(is_of_an_earlier_run));
            })
            .await;
    }
}

/// A lifetime whose engine seems to be gone before it has opened the log: what the log has by then may be of the
/// next one, also where the log does not know that it was heard. So it is no proof of a restart.
#[tokio::test(start_paused = true)]
async fn what_a_lost_lifetime_finds_in_the_log_is_no_proof_of_a_restart() {
    for then in [None, Some(Fact::Over), Some(Fact::Alive)] {
        let world = World::new();
        tokio::task::LocalSet::new()
            .run_until(async {
                let lost = has_run_a_step(&world);
                lost.dispatch(Fact::Lost);
                world
                    .log
                    .tell(None, &[fact("a-1:started"), fact("a-1:completed")])
                    .unwrap();
                lost.flush(Flush::BeforeWait).await;
                let told = ["1/a-1:completed", "1/a-1:started"];
                assert_eq!(keys(&world.log), told);
                match then.clone() {
                    // It was no loss: its engine answers what it is asked after that.
                    Some(Fact::Alive) => {
                        lost.answered(lost.asked());
                        lost.dispatch(Fact::Alive);
                        lost.flush(Flush::BeforeWait).await;
                        assert_eq!(world.log.state().unwrap().run, 2);
                        assert!(keys(&world.log).contains(&"2/b-1:started".to_owned()));
                    }
                    then => {
                        then.into_iter().for_each(|over| lost.dispatch(over));
                        lost.flush(Flush::End).await;
                        assert_eq!(keys(&world.log), told);
                    }
                }
            })
            .await;
    }
}

/// The log says how long ago others opened it that it has heard, and when the run began.
#[tokio::test(start_paused = true)]
async fn a_lifetime_learns_when_others_opened_the_log() {
    let log = WorkflowLog::new(Database::in_memory());
    let ago = |run: &OpenedRun| {
        let rivals = run.rivals.unwrap();
        (rivals.opened, rivals.begun)
    };
    let first = opened(&log, None);
    milliseconds(7).await;
    // One that has told nothing is no rival.
    assert_eq!((first.rivals, opened(&log, None).rivals), (None, None));
    let told = log
        .append(first.generation, 1, vec![fact("a")], now())
        .await;
    assert_eq!(told.unwrap(), Told::Stored(1));
    assert_eq!(opened(&log, Some(first.generation)).rivals, None);
    let second = opened(&log, None);
    assert_eq!(ago(&second), (7, None));
    // Of one that the log has heard since, the second does not know whether it is older: it has to look again,
    // and ends nobody.
    let third = opened(&log, None);
    milliseconds(3).await;
    let told = log
        .append(second.generation, 1, vec![fact("b")], now())
        .await;
    assert_eq!(told.unwrap(), Told::Stored(1));
    let told = log
        .append(third.generation, 1, vec![fact("c")], now())
        .await;
    assert_eq!(told.unwrap(), Told::Stale);
    let told = log
        .append(second.generation, 1, vec![fact("c")], now())
        .await;
    assert_eq!(told.unwrap(), Told::Stored(1));
    assert_eq!(ago(&opened(&log, Some(third.generation))), (3, None));
    // A restart is one, too, from when it was asked for.
    let stood = log.begin_restart(now()).unwrap();
    milliseconds(4).await;
    let stood = (stood.run, stood.generation);
    assert!(log.confirm_restart(stood, &started(), now()).unwrap());
    assert_eq!(ago(&opened(&log, None)), (4, Some(4)));
}

// An object that fails: it knows only what is stored.

/// The next lifetime learns the same of what was done to an instance from an object that keeps its memory and from one
/// that fails after each call.
#[tokio::test(start_paused = true)]
async fn an_object_that_failed_knows_what_was_done_to_the_instance() {
    for fails in [false, true] {
        let database = Database::in_memory();
        let kept = WorkflowLog::new(database.clone());
        let log = |act: &dyn Fn(&Log)| match fails {
            true => act(&WorkflowLog::new(database.clone())),
            false => act(&kept),
        };
        let ago = async |milliseconds_later| {
            milliseconds(milliseconds_later).await;
            let learnt = Cell::new(None);
            log(&|log| learnt.set(opened(log, None).rivals));
            let rivals = learnt.take().unwrap();
            (rivals.opened, rivals.begun)
        };
        let first = Cell::new(0);
        log(&|log| first.set(opened(log, None).generation));
        log(&|log| append_now(log, first.get(), 1, &[started()]));
        milliseconds(100).await;
        // It is ended from outside: a lifetime that began in these 100 milliseconds knows nothing of that.
        log(&|log| {
            let end = InstanceEnd::Terminated;
            assert!(log.settle(None, "order", &end, &[], now()).unwrap());
        });
        assert_eq!(ago(3).await, (3, Some(3)), "ended, fails: {fails}");
        // A lifetime proves that the next run has begun.
        milliseconds(100).await;
        let second = Cell::new(0);
        log(&|log| second.set(opened(log, None).generation));
        log(&|log| append_now(log, second.get(), 2, &[started()]));
        assert_eq!(ago(5).await, (5, Some(5)), "begun, fails: {fails}");
        log(&|log| append_now(log, second.get(), 2, &[fact("a-1:started")]));
        assert_eq!(ago(1).await, (6, Some(6)), "goes on, fails: {fails}");
        // It is restarted. Until that is confirmed, lifetimes wait.
        milliseconds(100).await;
        let stood = Cell::new((0, 0));
        log(&|log| {
            let state = log.begin_restart(now()).unwrap();
            stood.set((state.run, state.generation));
        });
        log(&|log| assert_eq!(log.open(None, now()).unwrap(), Opened::Restarting));
        milliseconds(7).await;
        log(&|log| assert!(log.confirm_restart(stood.get(), &started(), now()).unwrap()));
        assert_eq!(ago(2).await, (9, Some(9)), "restarted, fails: {fails}");
        log(&|log| assert_eq!(opened(log, None).run, 3));
        // It is created anew after its log was deleted.
        log(&|log| assert!(log.delete().unwrap()));
        log(&|log| {
            let announced = log.announce(&started(), now()).unwrap();
            assert_eq!(announced, Announced::New { stored: true });
        });
        assert_eq!(ago(4).await, (4, Some(4)), "created, fails: {fails}");
        // A restart that the platform refuses.
        log(&|log| assert_eq!(log.begin_restart(now()).unwrap().run, 4));
        log(&|log| log.cancel_restart().unwrap());
        log(&|log| assert_eq!(opened(log, None).run, 4));
    }
}

/// What was done is stored with the event that tells it, or neither is.
#[tokio::test(start_paused = true)]
async fn what_was_done_is_stored_with_its_event_or_not_at_all() {
    for statement in 0..3 {
        let database = Database::in_memory();
        let log = || WorkflowLog::new(database.clone());
        let first = opened(&log(), None).generation;
        append_now(&log(), first, 1, &[started()]);
        milliseconds(100).await;
        let rivals = opened(&log(), None).rivals;
        let log_that_fails = log();
        log_that_fails.state().unwrap();
        database.fail_after(statement);
        let end = InstanceEnd::Terminated;
        let settled = log_that_fails.settle(None, "order", &end, &[], now());
        database.heal();
        assert!(settled.is_err(), "statement {statement}");
        for log in [log_that_fails, log()] {
            assert!(!log.state().unwrap().ended, "statement {statement}");
            assert_eq!(opened(&log, None).rivals, rivals, "statement {statement}");
        }
    }
}

/// A log whose lifetimes tell everything themselves has nothing more to store than its events.
#[tokio::test]
async fn only_what_is_done_to_an_instance_is_stored_beside_its_events() {
    let database = Database::in_memory();
    let log = WorkflowLog::new(database.clone());
    let has_row = || {
        let tables = "SELECT name FROM sqlite_master WHERE name = 'lifetimes'";
        !database.exec(tables, &[]).unwrap().is_empty()
    };
    // Of an instance that nobody knows, nothing is stored.
    log.begin_restart(now()).unwrap();
    log.cancel_restart().unwrap();
    let announced = log.announce(&started(), now()).unwrap();
    assert_eq!(announced, Announced::New { stored: true });
    let first = opened(&log, None).generation;
    append_now(&log, first, 1, &[started(), fact("a-1:started")]);
    let ended = workflow_ended("order", Ok(()), now()).unwrap();
    append_now(&log, first, 1, &[ended]);
    assert!(!has_row());
    let end = InstanceEnd::Terminated;
    assert!(!log.settle(None, "order", &end, &[], now()).unwrap());
    assert!(!has_row(), "it has ended already");
    log.begin_restart(now()).unwrap();
    assert!(has_row());
}

/// A restart is under way, and the clock is set back: lifetimes do not wait until it is where it was.
#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_restart_of_the_future() {
    let log = WorkflowLog::new(Database::in_memory());
    let first = opened(&log, None).generation;
    append_now(&log, first, 1, &[started()]);
    let later = |seconds| now() + Duration::from_secs(seconds);
    log.begin_restart(later(60)).unwrap();
    let waits = |seconds| log.open(None, later(seconds)).unwrap() == Opened::Restarting;
    assert!(waits(69) && waits(55) && !waits(71) && !waits(45));
}

// Helpers.

type Log = WorkflowLog<Database>;

fn started() -> NewEvent {
    workflow_started("order", now()).unwrap()
}

fn append_now(log: &Log, generation: u64, run: u32, batch: &[NewEvent]) {
    let told = log.append_packed(generation, run, &pack_facts(batch), now);
    assert!(matches!(told.unwrap(), Told::Stored(1..)));
}

/// A fact whose type is its key.
fn fact(key: &str) -> NewEvent {
    NewEvent::new(key, "{}").unwrap().with_key(key).unwrap()
}

fn opened(log: &Log, generation: Option<u64>) -> OpenedRun {
    match log.open(generation, now()).unwrap() {
        Opened::Run(run) => run,
        other => panic!("{other:?}"),
    }
}

fn dispatcher(world: &Rc<World>) -> Dispatcher {
    let log = FakeLog(Rc::clone(world));
    BatchedDispatch::new(
        log,
        FakeRuntime(Rc::clone(world)),
        DispatchConfig::batched(),
    )
}

async fn run(engine: &Rc<Engine>, world: &Rc<World>) -> Result<(), StepError> {
    engine.revive();
    let step = wrapped(engine, world, DispatchConfig::batched());
    let body = step.workflow(async |step| dry_goods(&step).await);
    lifetime(engine, body).await.unwrap()
}

async fn killed_while_it_sleeps(engine: &Rc<Engine>, world: &Rc<World>) {
    let step = wrapped(engine, world, DispatchConfig::batched());
    let body = step.workflow(async |step| dry_goods(&step).await);
    let body = tokio::time::timeout(Duration::from_secs(10), body);
    assert!(lifetime(engine, body).await.unwrap().is_err());
    assert_eq!(story(world).await, BEGUN);
}

fn own(lines: &[&str]) -> Vec<String> {
    lines.iter().map(|line| (*line).to_owned()).collect()
}

async fn events(log: &Log) -> Vec<ssetarget::StoredEvent> {
    let limit = PageLimit {
        events: 1_000_000,
        bytes: usize::MAX,
    };
    log.target().store().read(None, limit).await.unwrap().events
}

fn keys(log: &Log) -> Vec<String> {
    log.target().store().keys("").unwrap()
}

/// Types, with the percentage or message of reports.
async fn types(log: &Log) -> Vec<String> {
    let line = |event: ssetarget::StoredEvent| {
        let data: Value = serde_json::from_str(&event.data).unwrap();
        match event.event_type.as_str() {
            "progress" => format!(
                "progress {} {} {}",
                data["taskId"], data["percent"], data["message"]
            ),
            of => of.to_owned(),
        }
    };
    events(log).await.into_iter().map(line).collect()
}

/// The data of the last event.
fn data(log: &Log) -> Value {
    let last = futures_util::FutureExt::now_or_never(events(log))
        .unwrap()
        .pop();
    serde_json::from_str(&last.unwrap().data).unwrap()
}

async fn story(world: &World) -> Vec<String> {
    let line = |event: ssetarget::StoredEvent| {
        let data: Value = serde_json::from_str(&event.data).unwrap();
        match (data["taskId"].as_str(), data["error"].as_str()) {
            (None, _) => format!("{} {}", event.event_type, data["run"]),
            (Some(task), None) => format!("{} {task}", event.event_type),
            (Some(task), Some(error)) => format!("{} {task}: {error}", event.event_type),
        }
    };
    events(&world.log).await.into_iter().map(line).collect()
}

/// The log keeps an event of a webhook once by its key, whoever opens or has opened the log, in the order of arrival.
#[test]
fn events_from_outside_are_kept_once() {
    let log = Log::new(Database::in_memory());
    assert_eq!(
        log.tell(None, &[fact("notice/1")]).unwrap(),
        Told::Stored(1)
    );
    assert_eq!(
        log.tell(None, &[fact("notice/1")]).unwrap(),
        Told::Stored(0)
    );
    let Opened::Run(opened) = log.open(None, now()).unwrap() else {
        panic!("it is open");
    };
    assert_eq!(
        (opened.run, opened.facts.as_slice()),
        (1, &["notice/1".to_owned()][..])
    );
    let both = [fact("notice/1"), fact("notice/2")];
    assert_eq!(log.tell(None, &both).unwrap(), Told::Stored(1));
    // An event without a key could be there twice, so none of its batch is stored.
    let keyless = NewEvent::new("parcel", "{}").unwrap();
    assert!(log.tell(None, &[fact("notice/3"), keyless]).is_err());
    assert_eq!(
        log.tell(None, &[fact("notice/3")]).unwrap(),
        Told::Stored(1)
    );
    // It does not end the lifetime that has the log open.
    assert!(matches!(
        log.open(Some(opened.generation), now()).unwrap(),
        Opened::Run(_)
    ));
}
