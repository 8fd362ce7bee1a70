//! Follows a stream with a client for Rust, and prints each event as a line of JSON.
//!
//! `ssetarget-clients eventsource-client|sseer URL [--set]`. With `--set` it does what docs/clients.md says.

use std::error::Error;
use std::time::Duration;

use eventsource_client::{Client, ClientBuilder, ReconnectOptions, SSE};
use futures_util::StreamExt;
use launchdarkly_sdk_transport::HyperTransport;
use sseer::EventSource;
use sseer::reqwest::StreamEvent;
use sseer::retry::Constant;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_set = arguments.iter().any(|argument| argument == "--set");
    match arguments.first().map(String::as_str) {
        Some("eventsource-client") => with_eventsource_client(&arguments[1], is_set).await,
        Some("sseer") => with_sseer(&arguments[1], is_set).await,
        _ => Err("usage: ssetarget-clients eventsource-client|sseer URL [--set]".into()),
    }
}

fn tell(id: Option<&str>, event_type: &str, data: &str) {
    println!("{}", serde_json::json!({ "id": id, "type": event_type, "data": data }));
}

async fn with_eventsource_client(url: &str, is_set: bool) -> Result<(), Box<dyn Error>> {
    let reconnect = ReconnectOptions::reconnect(true)
        .delay(Duration::from_millis(10))
        .delay_max(Duration::from_millis(100))
        .build();
    let client = ClientBuilder::for_url(url)?
        .reconnect(reconnect)
        .build_with_transport(HyperTransport::builder().build_http()?);
    let mut events = client.stream();
    while let Some(event) = events.next().await {
        match event {
            Ok(SSE::Event(event)) => tell(event.id.as_deref(), &event.event_type, &event.data),
            Ok(SSE::Connected(connection)) if is_set && connection.response().status() == 204 => break,
            // The client reconnects by itself.
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

async fn with_sseer(url: &str, is_set: bool) -> Result<(), Box<dyn Error>> {
    let retry = Constant::new(Duration::from_millis(10), None);
    let request = reqwest::Client::new().get(url);
    let mut events = EventSource::new_with_retry(request, retry)?;
    let mut is_empty = true;
    while let Some(event) = events.next().await {
        match event {
            Ok(StreamEvent::Event(event)) => {
                is_empty = false;
                tell(Some(&event.id), &event.event, &event.data);
            }
            Ok(StreamEvent::Open) => is_empty = true,
            // The client does not show the status.
            Err(error) if is_set && is_empty && error.is_stream_ended() => break,
            Err(_) => {}
        }
    }
    Ok(())
}
