//! The platform as a client needs it.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use super::server::RedisServer;
use crate::sync::{MaybeSend, MaybeSync};

/// The platform as a client needs it: connections, timers, tasks and randomness. There is one for
/// tokio and one for Workers; write your own for another runtime, or for another way to the server.
pub trait RedisTransport: MaybeSend + MaybeSync + 'static {
    /// An open connection, TLS included. It is closed by dropping it.
    type Connection: AsyncRead + AsyncWrite + Unpin + MaybeSend + 'static;

    /// Opens a connection and sends nothing on it: the client does.
    ///
    /// # Errors When the connection cannot be opened.
    fn connect(
        &self,
        server: &RedisServer,
    ) -> impl Future<Output = io::Result<Self::Connection>> + MaybeSend;

    /// Resolves after `duration`.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + MaybeSend;

    /// Runs a task to its end, which comes when the client is dropped.
    ///
    /// # Errors When no runtime can run it.
    fn spawn(&self, task: impl Future<Output = ()> + MaybeSend + 'static) -> io::Result<()>;

    /// Returns a random number, which no other client has.
    fn random(&self) -> u64;
}
