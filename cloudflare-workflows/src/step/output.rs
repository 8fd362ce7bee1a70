//! What a step returns, and how an engine stores it.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::Stream;
use futures_util::stream::{self, LocalBoxStream, StreamExt, TryStreamExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::StepError;
use crate::border;

/// What a step may return: any type that serde can write and read, up to 1 MiB as JSON, or a
/// [`ByteStream`] for more.
///
/// It owns what it has: a step that finds text returns a `String`, not a `&str`.
///
/// It crosses into JavaScript and back as JSON: maps are objects (their keys may be integers and
/// booleans, too), `None`, `()` and a float that is infinite or not a number are `null`, a float
/// without decimals looks like an integer. An attempt fails without a retry, with an error that names
/// the place, if its result is larger than 1 MiB, has more than 127 arrays and objects inside one
/// another, or an integer beyond 2^53 that no JavaScript number holds exactly.
///
/// Engines turn it into what they store by an [`OutputCodec`] of theirs.
#[diagnostic::on_unimplemented(
    message = "a step cannot return a `{Self}`, since it cannot be stored",
    label = "this step's result is stored, and given back in later lifetimes of the run",
    note = "let `{Self}` derive `serde::Serialize` and `serde::Deserialize`, borrowing nothing",
    note = "for more than 1 MiB, return a `ByteStream`"
)]
pub trait StepOutput: Sized + 'static {
    /// To what `codec` stores.
    ///
    /// # Errors
    /// When it cannot be written.
    fn encode<C: OutputCodec>(self, codec: &C) -> Result<C::Stored, StepError>;

    /// From what `codec` stored.
    ///
    /// # Errors
    /// When something else was stored.
    fn decode<C: OutputCodec>(codec: &C, stored: C::Stored) -> Result<Self, StepError>;
}

impl<T: Serialize + DeserializeOwned + 'static> StepOutput for T {
    fn encode<C: OutputCodec>(self, codec: &C) -> Result<C::Stored, StepError> {
        codec.encode(&self)
    }

    fn decode<C: OutputCodec>(codec: &C, stored: C::Stored) -> Result<Self, StepError> {
        codec.decode(stored)
    }
}

impl StepOutput for ByteStream {
    fn encode<C: OutputCodec>(self, codec: &C) -> Result<C::Stored, StepError> {
        codec.encode_stream(self)
    }

    fn decode<C: OutputCodec>(codec: &C, stored: C::Stored) -> Result<Self, StepError> {
        codec.decode_stream(stored)
    }
}

/// How an engine stores what steps return.
pub trait OutputCodec {
    /// What it stores.
    type Stored;

    /// A value.
    ///
    /// # Errors
    /// [`NonRetryable`](crate::StepErrorKind::NonRetryable), when it cannot be written.
    fn encode<T: Serialize>(&self, value: &T) -> Result<Self::Stored, StepError>;

    /// A value that was stored.
    ///
    /// # Errors
    /// When it is not a `T`.
    fn decode<T: DeserializeOwned>(&self, stored: Self::Stored) -> Result<T, StepError>;

    /// A stream, which is read to its end.
    ///
    /// # Errors
    /// When the engine cannot take it.
    fn encode_stream(&self, stream: ByteStream) -> Result<Self::Stored, StepError>;

    /// A stream that was stored.
    ///
    /// # Errors
    /// When what was stored is not a stream.
    fn decode_stream(&self, stored: Self::Stored) -> Result<ByteStream, StepError>;
}

/// Stores JSON, and streams as they are: for engines in tests.
///
/// Takes what the platform takes, and gives it back as JavaScript would. Refuses the rest with a
/// [`NonRetryable`](crate::StepErrorKind::NonRetryable) error, as [`StepOutput`] says.
#[derive(Clone, Copy, Debug, Default)]
pub struct JsonCodec;

/// What [`JsonCodec`] stores.
#[derive(Debug)]
pub enum JsonOutput {
    /// A value.
    Value(Value),
    /// A stream, which the engine has to read before the step is complete.
    Stream(ByteStream),
}

impl OutputCodec for JsonCodec {
    type Stored = JsonOutput;

    fn encode<T: Serialize>(&self, value: &T) -> Result<JsonOutput, StepError> {
        let value = border::write_value(value);
        let value = value.map_err(|error| error.into_step_error(border::RESULT))?;
        Ok(JsonOutput::Value(value))
    }

    fn decode<T: DeserializeOwned>(&self, stored: JsonOutput) -> Result<T, StepError> {
        match stored {
            JsonOutput::Value(value) => {
                border::read_value(&value).map_err(border::CannotCross::into_decode_error)
            }
            JsonOutput::Stream(_) => Err(StepError::new("a stream was stored, not a value")),
        }
    }

    fn encode_stream(&self, stream: ByteStream) -> Result<JsonOutput, StepError> {
        Ok(JsonOutput::Stream(stream))
    }

    fn decode_stream(&self, stored: JsonOutput) -> Result<ByteStream, StepError> {
        match stored {
            JsonOutput::Stream(stream) => Ok(stream),
            JsonOutput::Value(_) => Err(StepError::new("a value was stored, not a stream")),
        }
    }
}

/// A step's result that is a stream of bytes, for what is larger than 1 MiB.
///
/// The engine reads it to its end and stores it before the step is complete. Whoever runs the step
/// gets the stored bytes as another stream, cut into other chunks, in this lifetime as in later
/// ones. A chunk may have up to 16 MiB. A stream that fails ends the run as errored; so the
/// platform decides.
///
/// ```
/// use futures_util::TryStreamExt;
/// use cloudflare_workflows::{ByteStream, Step, StepError};
///
/// async fn export(step: &impl Step) -> Result<usize, StepError> {
///     let file = step
///         .run("export", async |_| {
///             let rows = (1..=1_000_000).map(|n| Ok::<_, StepError>(format!("row {n}\n")));
///             Ok(ByteStream::new(futures_util::stream::iter(rows)))
///         })
///         .await?;
///     file.try_fold(0, async |size, chunk| Ok(size + chunk.len())).await
/// }
/// ```
pub struct ByteStream(LocalBoxStream<'static, Result<Bytes, StepError>>);

impl ByteStream {
    /// From a stream of chunks.
    pub fn new<B, E>(stream: impl Stream<Item = Result<B, E>> + 'static) -> Self
    where
        B: Into<Bytes>,
        E: Into<StepError>,
    {
        let stream = stream.map(|chunk| chunk.map(Into::into).map_err(Into::into));
        Self(stream.boxed_local())
    }

    /// Reads it to its end.
    ///
    /// # Errors
    /// The stream's.
    pub async fn read_all(self) -> Result<Vec<u8>, StepError> {
        self.try_fold(Vec::new(), async |mut all, chunk| {
            all.extend_from_slice(&chunk);
            Ok(all)
        })
        .await
    }
}

/// One chunk, which must not have more than 16 MiB.
impl<B: Into<Bytes>> From<B> for ByteStream {
    fn from(bytes: B) -> Self {
        let chunk = Ok(bytes.into());
        Self(stream::once(std::future::ready(chunk)).boxed_local())
    }
}

impl Stream for ByteStream {
    type Item = Result<Bytes, StepError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(context)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl fmt::Debug for ByteStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByteStream").finish_non_exhaustive()
    }
}
