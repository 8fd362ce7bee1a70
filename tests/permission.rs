//! Streams that end with the permission of their viewer, and secrets that never reach an event.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::borrow::Cow;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use cloudflare_workflows::{Progress, Retries, Step, StepConfig, StepContext, StepError};
use futures_util::StreamExt;
use http::Request;
use serde_json::json;
use ssetarget::access::Permission;
use ssetarget::http::Sse;
use ssetarget::store::{EventStore, PageLimit};
use ssetarget::task::{MAX_TEXT, Redact, RedactedField};
use ssetarget::tracer::{Tracer, TracerConfig};
use ssetarget::workflow::DispatchConfig;
use ssetarget::{MemoryEventStore, NewEvent, SseTarget, wire};
use support::engine::{Engine, World, lifetime, wrapped};

type Target = SseTarget<NewEvent, MemoryEventStore>;

async fn log() -> Target {
    let target: Target = SseTarget::new(MemoryEventStore::new());
    let event = NewEvent::new("a", "{}").unwrap();
    target.dispatch_encoded(vec![event]).await.unwrap();
    target
}

fn request(method: &str) -> Request<()> {
    let request = Request::builder().method(method).uri("/sse");
    request
        .header("accept", "text/event-stream")
        .body(())
        .unwrap()
}

#[tokio::test]
async fn a_stream_ends_at_the_end_of_its_permission_and_not_before() {
    let target = log().await;
    let until = SystemTime::now() + Duration::from_secs(2);
    let permission = Permission::granted_until(until);
    let response = Sse::new()
        .respond_permitted(&target, &request("GET"), permission)
        .await;
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    let mut text = String::new();
    while let Some(chunk) = body.next().await {
        text += std::str::from_utf8(&chunk.unwrap()).unwrap();
    }
    assert!(SystemTime::now() >= until);
    assert!(SystemTime::now() < until + Duration::from_secs(60));
    let expired = std::str::from_utf8(wire::EXPIRED).unwrap();
    assert_eq!(text, format!(":\nid: 1\nevent: a\ndata: {{}}\n\n{expired}"));

    // Events after the end of the permission are not sent, even if the viewer reads late.
    let until = SystemTime::now() + Duration::from_secs(2);
    let permission = Permission::granted_until(until);
    let response = Sse::new()
        .respond_permitted(&target, &request("GET"), permission)
        .await;
    let mut body = response.into_body();
    assert_eq!(body.next().await.unwrap().unwrap(), wire::HEARTBEAT);
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    assert_eq!(body.next().await.unwrap().unwrap(), wire::EXPIRED);
    assert!(body.next().await.is_none());
}

#[tokio::test]
async fn a_stream_ends_when_its_permission_is_revoked() {
    let target = log().await;
    let (revoke, revoked) = tokio::sync::oneshot::channel::<()>();
    let revoked = async move { drop(revoked.await) };
    let permission = Permission::granted_until(SystemTime::now() + Duration::from_secs(60));
    let response = Sse::new()
        .respond_while(&target, &request("GET"), permission, revoked)
        .await;
    let mut body = response.into_body();
    assert_eq!(body.next().await.unwrap().unwrap(), wire::HEARTBEAT);
    assert!(body.next().await.unwrap().unwrap().starts_with(b"id: 1\n"));
    revoke.send(()).unwrap();
    assert_eq!(body.next().await.unwrap().unwrap(), wire::EXPIRED);
    assert!(body.next().await.is_none());
}

#[tokio::test]
async fn a_request_without_a_permission_gets_one_refusal() {
    let target = log().await;
    let past = Permission::granted_until(SystemTime::now() - Duration::from_millis(1));
    let mut bodies = Vec::new();
    for (method, permission) in [
        ("GET", Permission::Refused),
        ("GET", past),
        ("HEAD", past),
        ("DELETE", Permission::Refused),
    ] {
        let response = Sse::new()
            .respond_permitted(&target, &request(method), permission)
            .await;
        assert_eq!(response.status(), 401, "{method}");
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
        let mut body = response.into_body();
        bodies.push(body.next().await.unwrap().unwrap());
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1);
    let granted = Sse::new()
        .respond_permitted(&target, &request("HEAD"), Permission::granted())
        .await;
    assert_eq!(granted.status(), 200);
}

/// Returns everything in the log as one string.
async fn all(store: &impl EventStore) -> String {
    let page = store.read(None, PageLimit::default()).await;
    let Ok(page) = page else {
        panic!("it can be read")
    };
    let data = page.events.iter().map(|event| &*event.data);
    data.collect::<Vec<_>>().join("\n")
}

const SECRET: &str = "hunter2hunter2";

#[tokio::test(start_paused = true)]
async fn a_workflow_s_secrets_are_in_no_event() {
    let (engine, world): (Rc<Engine>, _) = (Rc::default(), World::new());
    let config = DispatchConfig::batched().redact(Redact::SECRETS);
    let step = wrapped(&engine, &world, config);
    let body = step.workflow(async move |step| {
        let twice = StepConfig::new().retries(Retries::new(1, Duration::from_secs(1)));
        step.run_with("charge", twice, async |attempt: StepContext| {
            let message = format!("sent token={SECRET} to the bank");
            attempt.progress(
                Progress::percent(5.0)
                    .message(message)
                    .attribute("password", SECRET),
            );
            attempt.set_attribute("hosts", json!([{ "apiKey": SECRET }, "b"]));
            match attempt.attempt {
                1 => Err(StepError::new(format!(
                    "postgres://app:{SECRET}@db is away"
                ))),
                _ => Ok(()),
            }
        })
        .await?;
        step.run("fail", async |_| {
            // The secret lies where the text would be cut.
            let long = "x ".repeat(MAX_TEXT / 2 - 8);
            Err::<(), _>(StepError::new(format!("{long} password={SECRET}")))
        })
        .await
    });
    let result = lifetime(&engine, body).await;
    let error = result.unwrap().unwrap_err();
    // The workflow and the engine get the original error.
    assert!(error.message().contains(SECRET));
    let text = all(world.log.target().store()).await;
    assert!(!text.contains("hunter"), "{text}");
    for wanted in [
        "sent token=[redacted] to the bank",
        r#""password":"[redacted]""#,
        r#"{"apiKey":"[redacted]"},"b""#,
        "postgres://app:[redacted]@db is away",
        "x  password=[",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
}

#[tokio::test]
async fn a_span_s_secrets_are_in_no_event() {
    let target: Target = SseTarget::new(MemoryEventStore::new());
    const RULE: Redact = Redact::new(|field, text| match field {
        RedactedField::Attribute("email") => Cow::Borrowed("somebody"),
        field => Redact::SECRETS.apply(field, text),
    });
    let config = TracerConfig::new().redact(RULE);
    // The setting with a rule wins, in any order.
    let config = config.dispatch(DispatchConfig::immediate());
    let (tracer, sending) = Tracer::with_config(&target, config, tokio::time::sleep);
    tokio::spawn(sending);
    let result = tracer
        .with_root("import", async |import| {
            import.set_attribute("email", "never sent: it fails");
            import
                .with_span("login", async |span| {
                    span.progress(format!("Authorization: Bearer {SECRET}").as_str());
                    span.set_attribute("email", "a@example.com");
                    Ok::<_, String>(())
                })
                .await?;
            Err::<(), _>(format!("secret: {SECRET}"))
        })
        .await;
    assert!(result.unwrap_err().contains(SECRET));
    let text = all(target.store()).await;
    assert!(
        !text.contains("hunter") && !text.contains("example.com"),
        "{text}"
    );
    assert!(text.contains(r#""email":"somebody""#), "{text}");
    assert!(text.contains("Authorization: [redacted]") && text.contains("secret: [redacted]"));
}
