//! The results of steps, and how an engine stores them.

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

/// A type that a step may return: any type that serde can write and read, up to 1 MiB as JSON, or a
/// [`ByteStream`] for more.
///
/// The value owns its parts: return a `String`, not a `&str`.
///
/// It crosses into JavaScript and back as JSON. Maps are objects, whose keys may be integers and
/// booleans, too. `None`, `()` and a float that is infinite or not a number are `null`. A float without
/// decimals looks like an integer. An attempt fails without a retry, with an error that names the place,
/// if its result is larger than 1 MiB, has more than 127 nested arrays and objects, or has an integer
/// beyond 2^53 that no JavaScript number holds exactly.
///
/// An engine stores it with its [`OutputCodec`].
#[diagnostic::on_unimplemented(
    message = "a step cannot return a `{Self}`, since it cannot be stored",
    label = "this step's result is stored, and given back in later lifetimes of the run",
    note = "let `{Self}` derive `serde::Serialize` and `serde::Deserialize`, borrowing nothing",
    note = "for more than 1 MiB, return a `ByteStream`"
)]
pub trait StepOutput: Sized + 'static {
    /// Encodes the value with `codec`.
    ///
    /// # Errors
    /// When the value cannot be written.
    fn encode<C: OutputCodec>(self, codec: &C) -> Result<C::Stored, StepError>;

    /// Decodes a value that `codec` stored.
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

/// The way in which an engine stores the results of steps.
pub trait OutputCodec {
    /// The stored version of a result.
    type Stored;

    /// Encodes a value.
    ///
    /// # Errors
    /// [`NonRetryable`](crate::StepErrorKind::NonRetryable), when it cannot be written.
    fn encode<T: Serialize>(&self, value: &T) -> Result<Self::Stored, StepError>;

    /// Decodes a value.
    ///
    /// # Errors
    /// When the stored result is not a `T`.
    fn decode<T: DeserializeOwned>(&self, stored: Self::Stored) -> Result<T, StepError>;

    /// Encodes a stream, which is read to its end.
    ///
    /// # Errors
    /// When the engine cannot take it.
    fn encode_stream(&self, stream: ByteStream) -> Result<Self::Stored, StepError>;

    /// Decodes a stream.
    ///
    /// # Errors
    /// When the stored result is not a stream.
    fn decode_stream(&self, stored: Self::Stored) -> Result<ByteStream, StepError>;
}

/// A codec for engines in tests: stores values as JSON, and streams as they are.
///
/// It takes the values that the platform takes, and returns them as JavaScript would. It refuses the
/// rest with a [`NonRetryable`](crate::StepErrorKind::NonRetryable) error, as [`StepOutput`] says.
#[derive(Clone, Copy, Debug, Default)]
pub struct JsonCodec;

/// A result that [`JsonCodec`] stored.
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

/// A step's result that is a stream of bytes, for results above 1 MiB.
///
/// The engine reads the stream to its end and stores it before the step is complete. The step then
/// returns the stored bytes as another stream, cut into other chunks, in this lifetime and in later ones.
/// A chunk may have up to 16 MiB. A stream that fails ends the run as errored, which the platform
/// decides.
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
    /// Wraps a stream of chunks.
    pub fn new<B, E>(stream: impl Stream<Item = Result<B, E>> + 'static) -> Self
    where
        B: Into<Bytes>,
        E: Into<StepError>,
    {
        let stream = stream.map(|chunk| chunk.map(Into::into).map_err(Into::into));
        Self(stream.boxed_local())
    }

    /// Reads the stream to its end and returns all bytes.
    ///
    /// # Errors
    /// The first error of the stream.
    pub async fn read_all(self) -> Result<Vec<u8>, StepError> {
        self.try_fold(Vec::new(), async |mut all, chunk| {
            all.extend_from_slice(&chunk);
            Ok(all)
        })
        .await
    }
}

/// A stream of one chunk, which must not have more than 16 MiB.
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
