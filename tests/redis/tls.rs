//! Over TLS, with a certificate that is made for the test.

use std::path::Path;
use std::process::Command;

use ssetarget::store::redis::{RedisClient, RedisErrorKind, RedisEventStore};
use ssetarget::{Appended, EventStore, NewEvent};

use crate::harness::tests;
use crate::server::{Server, find, free_port};

/// The URL of the server, for the part of a test that runs in another environment.
pub(crate) const URL: &str = "SSETARGET_TEST_REDIS_TLS";

tests! {
    async fn over_tls_with_a_certificate_of_an_authority_that_is_trusted() {
        if find("openssl").is_none() {
            println!("SKIPPED: a test of TLS, for there is no `openssl` on the PATH.");
            return;
        }
        let plain = Server::with(&["--appendonly no"]);
        make_certificates(&plain.folder);
        let port = free_port();
        for (name, value) in [
            ("tls-cert-file", "server.pem"),
            ("tls-key-file", "server.key"),
            ("tls-ca-cert-file", "ca.pem"),
            ("tls-auth-clients", "no"),
            ("tls-port", &port.to_string()),
        ] {
            let answer = plain.say(&["CONFIG", "SET", name, value]);
            assert_eq!(answer, "+OK", "{name} {value}");
        }
        let url = format!("rediss://localhost:{port}");

        // The system does not trust the certificate.
        let client = RedisClient::new(&url).unwrap();
        let store = RedisEventStore::new(&client, "log");
        let error = store.append(vec![event()]).await.unwrap_err();
        assert_eq!(error.kind(), RedisErrorKind::Unreachable, "{error:?}");

        // A process with the setting trusts it, for the host of the certificate.
        for (url, is_trusted) in [(url, true), (format!("rediss://127.0.0.1:{port}"), false)] {
            let status = Command::new(std::env::current_exe().unwrap())
                .env("SSL_CERT_FILE", plain.folder.join("ca.pem"))
                .env(URL, &url)
                .status()
                .unwrap();
            assert_eq!(status.success(), is_trusted, "{url}");
        }
    }
}

/// The part that runs in a process of its own. Returns whether it works.
pub(crate) async fn append(url: &str) -> bool {
    let client = RedisClient::new(url).unwrap();
    let store = RedisEventStore::new(&client, "log");
    match store.append(vec![event()]).await {
        Ok(outcomes) => matches!(outcomes[..], [Appended::Stored(_)]),
        Err(_) => false,
    }
}

fn event() -> NewEvent {
    // More than fits into one record.
    NewEvent::new("event", "x".repeat(100_000)).unwrap()
}

fn make_certificates(folder: &Path) {
    let openssl = |arguments: &str| {
        let output = Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(folder)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!(
        "req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=ca -days 2"
    ));
    openssl(&format!(
        "req {key} -keyout server.key -out server.csr -subj /CN=localhost"
    ));
    std::fs::write(folder.join("names"), "subjectAltName=DNS:localhost\n").unwrap();
    openssl(
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 2 -extfile names",
    );
}
