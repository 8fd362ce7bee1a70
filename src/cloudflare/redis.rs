//! Redis over the sockets of Workers. Runs in the Worker, or in an object of your own.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use cloudflare_workflows::__private::sleep;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use worker::{SecureTransport, Socket};

use crate::store::redis::{RedisClient, RedisConfig, RedisError, RedisServer, RedisTransport};

impl RedisClient {
    /// Returns a client over a socket of this Worker, with the defaults of [`RedisConfig`].
    ///
    /// The URL is `redis://[user[:password]@]host[:port][/database]`, or `rediss://` for TLS. Keep
    /// it in a secret.
    ///
    /// **In a Worker make one for each request**: its socket belongs to the request that opens it,
    /// and other requests cannot use it. So a viewer's stream is one connection. A Durable Object
    /// may keep one client for all of its requests and viewers.
    ///
    /// A request may open only so many connections. So an outage of Redis cuts its viewers off
    /// after [`RedisConfig::viewer_patience`], and they come back with a new request.
    ///
    /// # Errors
    /// [`RedisErrorKind::Config`](crate::store::redis::RedisErrorKind::Config) for a URL of another
    /// form. The server is not reached before the first command.
    pub fn new(url: &str) -> Result<Self, RedisError> {
        Self::with_config(url, RedisConfig::new())
    }

    /// Returns a client as [`new`](Self::new) does, with other settings.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_config(url: &str, config: RedisConfig) -> Result<Self, RedisError> {
        Self::over(WorkersTransport, url, config)
    }
}

struct WorkersTransport;

impl RedisTransport for WorkersTransport {
    type Connection = WorkersConnection;

    async fn connect(&self, server: &RedisServer) -> io::Result<WorkersConnection> {
        let transport = match server.is_tls() {
            true => SecureTransport::On,
            false => SecureTransport::Off,
        };
        let socket = Socket::builder()
            .secure_transport(transport)
            .connect(server.host(), server.port());
        let connection = WorkersConnection(Some(socket.map_err(to_io)?));
        if let Some(socket) = &connection.0 {
            socket.opened().await.map_err(to_io)?;
        }
        Ok(connection)
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> {
        sleep(duration)
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) -> io::Result<()> {
        wasm_bindgen_futures::spawn_local(task);
        Ok(())
    }

    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a whole number below 2^53"
    )]
    fn random(&self) -> u64 {
        (js_sys::Math::random() * 9_007_199_254_740_992.0) as u64
    }
}

fn to_io(error: worker::Error) -> io::Error {
    io::Error::other(error.to_string())
}

/// A socket, `None` once it is closed.
struct WorkersConnection(Option<Socket>);

impl WorkersConnection {
    fn socket(&mut self) -> io::Result<Pin<&mut Socket>> {
        let closed = || io::Error::from(io::ErrorKind::NotConnected);
        self.0.as_mut().map(Pin::new).ok_or_else(closed)
    }
}

impl AsyncRead for WorkersConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.socket()?.poll_read(context, buffer)
    }
}

impl AsyncWrite for WorkersConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.socket()?.poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket()?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket()?.poll_shutdown(context)
    }
}

/// Closes the socket. One that is only dropped stays open while its request or object lives.
impl Drop for WorkersConnection {
    fn drop(&mut self) {
        if let Some(mut socket) = self.0.take() {
            wasm_bindgen_futures::spawn_local(async move {
                // Closing fails if the socket is closed, or broken, already.
                let _ = socket.close().await;
            });
        }
    }
}
