//! The source of a viewer's stream. Runs in the Worker and in the object.

use futures_util::stream::LocalBoxStream;
use js_sys::Uint8Array;

/// Chunks for a viewer, or the reason why there are no more.
pub(super) type Chunks = LocalBoxStream<'static, Result<Uint8Array, String>>;

/// The reason why a stream is cut off: `None` if the viewer has left.
pub(super) type Cut = Option<String>;
