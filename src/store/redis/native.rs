//! The transport over tokio.

use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::client::RedisClient;
use super::config::RedisConfig;
use super::error::RedisError;
use super::server::RedisServer;
use super::transport::RedisTransport;

impl RedisClient {
    /// Creates a client over tokio, with the defaults of [`RedisConfig`].
    ///
    /// The URL is `redis://[user[:password]@]host[:port][/database]`, or `rediss://` for TLS, which
    /// trusts the certificates that the system trusts; `SSL_CERT_FILE` and `SSL_CERT_DIR` name
    /// others.
    ///
    /// # Errors
    /// [`RedisErrorKind::Config`](crate::store::redis::RedisErrorKind::Config) for a URL of another form, and
    /// outside of a tokio runtime. Whether the server can be reached shows later.
    pub fn new(url: &str) -> Result<Self, RedisError> {
        Self::with_config(url, RedisConfig::new())
    }

    /// As [`new`](Self::new), with other settings.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_config(url: &str, config: RedisConfig) -> Result<Self, RedisError> {
        Self::over(TokioTransport, url, config)
    }
}

/// Tokio's sockets and timers, and rustls with the system's certificates.
#[derive(Debug)]
struct TokioTransport;

impl RedisTransport for TokioTransport {
    type Connection = TokioConnection;

    async fn connect(&self, server: &RedisServer) -> io::Result<TokioConnection> {
        let stream = TcpStream::connect((server.host(), server.port())).await?;
        // Commands are small, and a caller waits for each.
        stream.set_nodelay(true)?;
        if !server.is_tls() {
            return Ok(TokioConnection::Plain(stream));
        }
        let name = ServerName::try_from(server.host().to_owned()).map_err(io::Error::other)?;
        let stream = tls()?.connect(name, stream).await?;
        Ok(TokioConnection::Tls(Box::new(stream)))
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send {
        tokio::time::sleep(duration)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
        let runtime = tokio::runtime::Handle::try_current().map_err(io::Error::other)?;
        runtime.spawn(task);
        Ok(())
    }

    fn random(&self) -> u64 {
        // The standard library seeds it from the system's randomness.
        RandomState::new().build_hasher().finish()
    }
}

/// Loads the certificates for each connection: they are renewed, and connections are rare.
fn tls() -> io::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let first = found.errors.into_iter().next();
        let reason = first.map_or_else(|| "there are none".to_owned(), |error| error.to_string());
        return Err(io::Error::other(format!(
            "the system's certificates cannot be used: {reason}"
        )));
    }
    // Certificates that cannot be parsed are skipped, as in other clients.
    roots.add_parsable_certificates(found.certs);
    // The provider is named: the process may have no default one, or another crate's.
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

enum TokioConnection {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for TokioConnection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for TokioConnection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
