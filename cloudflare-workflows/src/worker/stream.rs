//! Streams of bytes between Rust and JavaScript.

use std::rc::Rc;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use js_sys::Uint8Array;
use wasm_bindgen::prelude::*;
use worker::web_sys;

use super::convert::{property, step_error, throw};
use super::js::{self, IdentityTransformStream, Reader, Writer};
use super::life::Held;
use crate::step::error::StepError;
use crate::step::output::ByteStream;
use crate::step::panic::catch_panic;

/// Converts a stream to a `ReadableStream`, and reads it no faster than the other side does.
pub(super) fn to_js(mut stream: ByteStream) -> Result<JsValue, JsValue> {
    let transform = IdentityTransformStream::new()?;
    let writer = transform.writable().get_writer()?;
    let held = Held::writer(&writer)?;
    wasm_bindgen_futures::spawn_local(async move {
        let _held = held;
        // An error of the writer means that the reader is gone, so it is dropped.
        let _ = match catch_panic(pump(&mut stream, &writer)).await {
            Ok(()) => writer.close().await,
            Err(error) => writer.abort(&throw(error)).await,
        };
    });
    Ok(transform.readable().into())
}

async fn pump(stream: &mut ByteStream, writer: &Writer) -> Result<(), StepError> {
    while let Some(chunk) = stream.next().await {
        let chunk = chunk?;
        if !chunk.is_empty() {
            let written = writer.write(&Uint8Array::from(&chunk[..])).await;
            written.map_err(step_error)?;
        }
    }
    Ok(())
}

/// Converts a `ReadableStream`, which is cancelled if it is dropped before its end. Returns `None` for any
/// other value.
pub(super) fn from_js(value: &JsValue) -> Option<Result<ByteStream, StepError>> {
    let stream = value.dyn_ref::<web_sys::ReadableStream>()?;
    let stream: &js::ReadableStream = stream.unchecked_ref();
    Some(stream.get_reader().map_err(step_error).map(read))
}

fn read(reader: Reader) -> ByteStream {
    let unread = Unread(Rc::new(reader));
    ByteStream::new(stream::try_unfold(Some(unread), async |unread| {
        let Some(unread) = unread else {
            return Ok(None);
        };
        let read = unread.0.read().await.map_err(step_error)?;
        if property(&read, "done").is_truthy() {
            return Ok(None);
        }
        let chunk: Uint8Array = property(&read, "value").unchecked_into();
        Ok::<_, StepError>(Some((Bytes::from(chunk.to_vec()), Some(unread))))
    }))
}

/// A reader that cancels its stream when it is dropped.
struct Unread(Rc<Reader>);

impl Drop for Unread {
    fn drop(&mut self) {
        let reader = Rc::clone(&self.0);
        wasm_bindgen_futures::spawn_local(async move {
            // Fails for a stream that has failed, whose error was returned already.
            let _ = reader.cancel().await;
        });
    }
}
