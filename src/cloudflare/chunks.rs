//! What a viewer's stream is written from. Runs in the Worker and in the object.

use futures_util::stream::LocalBoxStream;
use js_sys::Uint8Array;

/// Chunks for a viewer, or why there are no more.
pub(super) type Chunks = LocalBoxStream<'static, Result<Uint8Array, String>>;

/// Why a stream is cut off: `None` where the viewer has left.
pub(super) type Cut = Option<String>;
