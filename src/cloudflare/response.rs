//! Events as a streaming response. Runs in the Worker and in the object.

use std::cell::OnceCell;
use std::fmt;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use cloudflare_workflows::__private::{Held, Timer, sleep};
use futures_core::Stream;
use futures_util::future::{Either, LocalBoxFuture, pending, select};
use futures_util::{FutureExt, StreamExt};
use js_sys::Uint8Array;
use wasm_bindgen::prelude::*;
use worker::{Response, ResponseBuilder, web_sys};

use super::callback::CallbackValue;
use super::chunks::{Chunks, Cut};
use super::cutoff::Cutoff;
use super::js;
use super::leaving::Leaving;
use super::permit::Permit;
use super::pump::{self, Pumped, Sink};
use crate::delivery::{Subscription, body, frame_body};
use crate::store::{EventStore, FrameStore};
use crate::wire;

/// Returns a response with a subscription's events: `200` and their stream, or `204` if it [has
/// ended](Subscription::has_ended), which makes an `EventSource` stop.
///
/// Use it in an object of your own that has a log: see [`ObjectSql`](crate::cloudflare::ObjectSql). The bytes go
/// through the runtime's own `IdentityTransformStream`, whose writes wait until the object's earlier writes to
/// storage are durable, so that no viewer sees an event that could still be lost. They stop when the viewer is gone.
/// An error of the store cuts the stream off, so that the client comes back for the rest.
///
/// # Errors
/// When the runtime refuses the stream or a header.
pub fn sse_response<S: EventStore + 'static>(
    subscription: Subscription<S>,
) -> worker::Result<Response> {
    let has_ended = subscription.has_ended();
    let timer = Timer::new();
    let chunks = body(subscription, move |duration| timer.sleep(duration));
    Ok(respond(has_ended, boxed(in_javascript(chunks)), gone())?.into())
}

/// Returns a response as [`sse_response`] does, whose bytes go from the store to the viewer without
/// passing through WebAssembly's memory. Use it with an [`SqliteEventStore`](crate::store::SqliteEventStore)
/// over an [`ObjectSql`](crate::cloudflare::ObjectSql).
///
/// # Errors
/// As [`sse_response`].
pub fn sse_frame_response<S: FrameStore<Bytes = Uint8Array> + 'static>(
    subscription: Subscription<S>,
) -> worker::Result<Response> {
    let has_ended = subscription.has_ended();
    let timer = Timer::new();
    let chunks = frame_body(subscription, move |duration| timer.sleep(duration));
    Ok(respond(has_ended, boxed(chunks), gone())?.into())
}

/// Returns a future that resolves when the object of a stream that begins now is gone, with the reason.
fn gone() -> impl Future<Output = Cut> {
    // The object is not of this crate's classes, and has none that its streams could share.
    let cutoff = Rc::<Cutoff>::default();
    cutoff
        .of_stream()
        .map(|because| Some(because.reason().to_owned()))
}

/// A viewer's place. It is kept while the viewer is there.
pub(super) trait Watching: 'static {
    /// Returns the timer of heartbeats.
    fn timer(&self) -> Timer;

    /// Returns a future that resolves when the stream is to be cut off, with the reason.
    fn cut(&self) -> LocalBoxFuture<'static, &'static str>;

    /// Is notified of each chunk, or of an error that cuts the stream off.
    fn sent(&self, chunk: Result<&Uint8Array, ()>);
}

/// Returns a response as [`sse_frame_response`] does, until the viewer is `leaving`, the permit is over, or its place
/// requests a cut.
pub(super) fn sse_frame_response_while<S: FrameStore<Bytes = Uint8Array> + 'static>(
    subscription: Subscription<S>,
    leaving: Leaving,
    permit: Permit,
    visit: impl Watching,
) -> worker::Result<web_sys::Response> {
    let has_ended = subscription.has_ended();
    let (timer, cut) = (visit.timer(), visit.cut());
    let chunks = frame_body(subscription, move |duration| timer.sleep(duration));
    let chunks = chunks.inspect(move |chunk| visit.sent(chunk.as_ref().map_err(|_| ())));
    let cut = permit.cut(async move {
        match select(leaving, cut).await {
            Either::Left(_) => None,
            Either::Right((reason, _)) => Some(reason.to_owned()),
        }
    });
    respond(has_ended, permit.bound(boxed(chunks)), cut)
}

/// Gives the chunks of all stores one type, so that the code that writes them is compiled once.
fn boxed<E: fmt::Display + 'static>(
    chunks: impl Stream<Item = Result<Uint8Array, E>> + 'static,
) -> Chunks {
    let chunks = chunks.map(|chunk| chunk.map_err(|error| error.to_string()));
    chunks.boxed_local()
}

fn respond(
    has_ended: bool,
    chunks: Chunks,
    cut: impl Future<Output = Cut> + 'static,
) -> worker::Result<web_sys::Response> {
    if has_ended {
        return Ok(ended()?.into());
    }
    let (response, pump) = stream(chunks, cut)?;
    wasm_bindgen_futures::spawn_local(pump);
    Ok(response)
}

/// Copies chunks from Rust's memory to JavaScript's.
pub(super) fn in_javascript<E>(
    chunks: impl Stream<Item = Result<Bytes, E>>,
) -> impl Stream<Item = Result<Uint8Array, E>> {
    chunks.map(|chunk| chunk.map(|chunk| Uint8Array::from(&*chunk)))
}

/// Returns a `204`, which makes an `EventSource` stop.
pub(super) fn ended() -> worker::Result<Response> {
    let mut response = ResponseBuilder::new().with_status(204);
    for (name, value) in wire::END_HEADERS {
        response = response.with_header(name, value)?;
    }
    Ok(response.empty())
}

/// Returns the answer to `HEAD`: the status and headers of a stream, without a body.
pub(super) fn left_out() -> worker::Result<Response> {
    Ok(streaming()?.empty())
}

/// Returns a `200` whose stream has a heartbeat and is cut off after this time: see
/// [`Refusal::hold`](crate::refusal::Refusal::hold).
pub(super) fn hold(time: Duration) -> worker::Result<Response> {
    let (response, viewer) = open()?;
    let held = async move {
        let heartbeat = Uint8Array::from(wire::HEARTBEAT);
        if viewer.begin(&heartbeat) && viewer.taken().await {
            sleep(time).await;
            viewer.cut("the events cannot be reached").await;
        }
        Ok(JsValue::UNDEFINED)
    };
    js::wait_until(&js::promise(held))?;
    Ok(response.into())
}

/// Returns the response with these chunks as its body, which the object of `cutoff` writes.
#[cfg(any(feature = "durable-streams", feature = "otlp"))]
pub(super) fn stream_as<E: fmt::Display + 'static>(
    response: ResponseBuilder,
    chunks: impl Stream<Item = Result<Uint8Array, E>> + 'static,
    cutoff: &Rc<Cutoff>,
) -> worker::Result<Response> {
    let stream = js::IdentityTransformStream::new()?;
    let writer = StreamWriter::new(stream.writable().get_writer()?)?;
    let chunks = boxed(chunks);
    cutoff.spawn(async move { pump(chunks, &writer).await });
    Ok(response.stream(stream.readable()))
}

/// Returns a `200` with these chunks, which this Worker's own request writes, until the permit is over. A viewer
/// that leaves is noticed at the next chunk or heartbeat.
pub(super) fn stream_here<E: fmt::Display + 'static>(
    chunks: impl Stream<Item = Result<Uint8Array, E>> + 'static,
    permit: &Permit,
) -> worker::Result<Response> {
    stream_here_until(chunks, permit, pending())
}

/// Returns a response as [`stream_here`] does, which ends when the permit is over, and is cut off when `cut`
/// resolves, even in the middle of a chunk.
pub(super) fn stream_here_until<E: fmt::Display + 'static>(
    chunks: impl Stream<Item = Result<Uint8Array, E>> + 'static,
    permit: &Permit,
    cut: impl Future<Output = Cut> + 'static,
) -> worker::Result<Response> {
    let (response, pump) = stream(permit.bound(boxed(chunks)), permit.cut(cut))?;
    js::wait_until(&js::promise(async move {
        pump.await;
        Ok(JsValue::UNDEFINED)
    }))?;
    Ok(response.into())
}

/// Returns a `200`, and the future that writes these chunks while the viewer takes them and until `cut` resolves.
fn stream(
    chunks: Chunks,
    cut: impl Future<Output = Cut> + 'static,
) -> worker::Result<(web_sys::Response, impl Future<Output = ()>)> {
    let (response, viewer) = open()?;
    // Boxed, so that this has one type, too.
    let cut: LocalBoxFuture<'static, Cut> = Box::pin(cut);
    Ok((response, pump_until(chunks, viewer, cut)))
}

async fn pump_until(chunks: Chunks, viewer: StreamWriter, cut: LocalBoxFuture<'static, Cut>) {
    let pumped = Box::pin(pump(chunks, &viewer));
    // The cut comes first: nothing is written any more once it is due.
    let reason = match select(cut, pumped).await {
        Either::Right(_) => return,
        // This drops the write that was under way.
        Either::Left((reason, _)) => reason,
    };
    let reason = reason.unwrap_or_else(|| "the viewer has left".to_owned());
    viewer.cut(&reason).await;
}

/// Returns a response and the writer of its stream.
#[inline(never)]
fn open() -> worker::Result<(web_sys::Response, StreamWriter)> {
    thread_local! {
        /// The response whose status and headers all others have: the runtime copies them from it.
        static MODEL: OnceCell<web_sys::Response> = const { OnceCell::new() };
    }
    let opened = MODEL.with(|model| -> worker::Result<_> {
        if model.get().is_none() {
            // It has none, so it takes this one.
            let _ = model.set(left_out()?.into());
        }
        let model = model.get().ok_or("there is no model of a response")?;
        Ok(js::open_stream(model)?)
    })?;
    let writer = StreamWriter::new(opened.get(1).unchecked_into())?;
    Ok((opened.get(0).unchecked_into(), writer))
}

fn streaming() -> worker::Result<ResponseBuilder> {
    let mut response = ResponseBuilder::new();
    for (name, value) in wire::HEADERS {
        response = response.with_header(name, value)?;
    }
    Ok(response)
}

/// Writes chunks, and ends the stream as they end.
async fn pump(chunks: Chunks, viewer: &StreamWriter) {
    match pump::pump(chunks, viewer).await {
        Pumped::Left => {}
        Pumped::Failed(error) => {
            worker::console_error!("ssetarget: a viewer's stream is cut off: {error}");
            viewer.cut("the event log failed").await;
        }
        Pumped::Ended => drop(viewer.writer.close().await),
    }
}

/// Writes to a viewer's stream, with one callback for all writes.
struct StreamWriter {
    writer: js::Writer,
    taken: Rc<CallbackValue<bool>>,
    done: Closure<dyn FnMut(bool)>,
    /// Ends the stream when this WebAssembly instance dies.
    _held: Held,
}

impl StreamWriter {
    fn new(writer: js::Writer) -> Result<Self, JsValue> {
        let held = Held::writer(&writer)?;
        let taken = Rc::new(CallbackValue::default());
        let done = {
            let taken = Rc::clone(&taken);
            move |value| taken.deliver(value)
        };
        Ok(Self {
            writer,
            taken,
            done: Closure::wrap_assert_unwind_safe(Box::new(done) as Box<dyn FnMut(bool)>),
            _held: held,
        })
    }

    /// Cuts the stream off: not a clean end, so that the client comes back for the rest.
    async fn cut(&self, reason: &str) {
        // Fails for a viewer that is gone, whose stream needs no cut.
        let _ = self.writer.abort(&JsValue::from_str(reason)).await;
    }
}

impl Sink<Uint8Array> for StreamWriter {
    fn begin(&self, chunk: &Uint8Array) -> bool {
        js::write_chunk(&self.writer, chunk, &self.done).is_ok()
    }

    async fn taken(&self) -> bool {
        self.taken.take().await
    }
}
