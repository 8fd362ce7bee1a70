//! The address of a Redis server, and the user to log in as.

use std::fmt;

use redis::{ConnectionAddr, IntoConnectionInfo};

use super::error::{RedisError, RedisErrorKind};
use super::protocol::pack;

/// The address of a Redis server, to which a
/// [`RedisTransport`](crate::store::redis::RedisTransport) connects.
#[derive(Clone)]
pub struct RedisServer {
    host: String,
    port: u16,
    is_tls: bool,
    username: Option<String>,
    password: Option<String>,
    database: i64,
}

impl RedisServer {
    /// Parses `redis://[user[:password]@]host[:port][/database]`, or `rediss://` for TLS.
    ///
    /// # Errors [`RedisErrorKind::Config`]. Its message does not have the URL, which may contain a
    /// password.
    pub fn parse(url: &str) -> Result<Self, RedisError> {
        let invalid = || {
            let form = "the URL must be redis://[user[:password]@]host[:port][/database], or rediss:// for TLS";
            RedisError::new(RedisErrorKind::Config, form)
        };
        // Without I/O the crate knows nothing of TLS.
        let (is_tls, url) = match url.split_once("://") {
            Some(("rediss", rest)) => (true, format!("redis://{rest}")),
            Some(("redis", _)) => (false, url.to_owned()),
            _ => return Err(invalid()),
        };
        let info = url.into_connection_info().map_err(|_| invalid())?;
        let ConnectionAddr::Tcp(host, port) = info.addr() else {
            return Err(invalid());
        };
        let settings = info.redis_settings();
        Ok(Self {
            host: host.clone(),
            port: *port,
            is_tls,
            username: settings.username().map(str::to_owned),
            password: settings.password().map(str::to_owned),
            database: settings.db(),
        })
    }

    /// Returns the host: a name or an address, an IPv6 one without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the port. Default: 6379.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns whether to use TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// Returns the first commands of a connection. Each answer is awaited, and none may be an
    /// error.
    pub(super) fn greeting(&self) -> Vec<Vec<u8>> {
        let mut hello: Vec<&[u8]> = vec![b"HELLO", b"3"];
        if let Some(password) = &self.password {
            let username = self.username.as_deref().unwrap_or("default");
            hello.extend([&b"AUTH"[..], username.as_bytes(), password.as_bytes()]);
        }
        hello.extend([&b"SETNAME"[..], b"ssetarget"]);
        let mut greeting = vec![pack(&hello)];
        if self.database != 0 {
            greeting.push(pack(&[b"SELECT", self.database.to_string().as_bytes()]));
        }
        // The server refuses it while it loads its data, as it would refuse every other command.
        greeting.push(pack(&[b"PING"]));
        greeting
    }
}

/// Leaves out the password.
impl fmt::Debug for RedisServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisServer")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("is_tls", &self.is_tls)
            .field("username", &self.username)
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_where_and_who() {
        let server = RedisServer::parse("redis://localhost").unwrap();
        assert_eq!(
            (server.host(), server.port(), server.is_tls()),
            ("localhost", 6379, false)
        );
        let hello = String::from_utf8(server.greeting().concat()).unwrap();
        assert!(
            !hello.contains("AUTH") && !hello.contains("SELECT"),
            "{hello}"
        );

        let server = RedisServer::parse("rediss://ann:p%40ss@[::1]:7000/3").unwrap();
        assert_eq!(
            (server.host(), server.port(), server.is_tls()),
            ("::1", 7000, true)
        );
        let hello = String::from_utf8(server.greeting().concat()).unwrap();
        assert!(
            hello.contains("AUTH\r\n$3\r\nann\r\n$4\r\np@ss\r\n"),
            "{hello}"
        );
        assert!(hello.contains("SELECT\r\n$1\r\n3\r\n"), "{hello}");

        let server = RedisServer::parse("redis://:secret@localhost").unwrap();
        let hello = String::from_utf8(server.greeting().concat()).unwrap();
        assert!(hello.contains("default\r\n$6\r\nsecret"), "{hello}");
        assert!(!format!("{server:?}").contains("secret"));
    }

    #[test]
    fn a_url_that_cannot_be_used_is_not_repeated() {
        for bad in [
            "",
            "localhost",
            "http://:secret@a",
            "redis://:secret@",
            "redis://:secret@a/b",
            "unix:///secret",
        ] {
            let error = RedisServer::parse(bad).unwrap_err();
            assert_eq!(error.kind(), RedisErrorKind::Config, "{bad}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
