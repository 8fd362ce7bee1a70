//! `http::RunRoutes` over real sockets, through axum and through bare hyper: paths, ids, and the
//! hook.
#![cfg(feature = "axum")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod support;

use std::convert::Infallible;
use std::future::ready;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::routing::{get as on_get, post};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use ssetarget::access::{Access, AccessRequest, Action, Permission};
use ssetarget::http::{RunRoutes, Sse};
use ssetarget::{Cors, MemoryEventStore, NewEvent, Refusal, SseTarget};
use support::http::{Piece, get, request};
use tokio::net::TcpListener;

type Target = SseTarget<NewEvent, MemoryEventStore>;

/// The ids that the lookup got.
type Asked = Arc<Mutex<Vec<String>>>;

const UNKNOWN: Refusal = Refusal::NotFound("there is no such log");

/// One log, which has ended after an event. All of these ids find it.
const IDS: [&str; 4] = ["log", "a b/c", "ü", "%2F"];

async fn lookup(
    asked: Asked,
) -> impl Fn(String) -> std::future::Ready<Result<Target, Refusal>> + Clone + Send + Sync + 'static
{
    let target = Target::new(MemoryEventStore::new());
    let event = NewEvent::new("note", "1").unwrap().terminal();
    target.dispatch_encoded(vec![event]).await.unwrap();
    move |id: String| {
        let is_known = IDS.contains(&id.as_str());
        asked.lock().unwrap().push(id);
        ready(if is_known {
            Ok(target.clone())
        } else {
            Err(UNKNOWN)
        })
    }
}

/// The same routes through axum's router and through hyper, which answers `None` with a `404` of
/// its own.
macro_rules! servers {
    ($routes:expr) => {{
        let routes = $routes;
        [axum_server(routes.clone().into_router()).await, {
            hyper_server(move |request| {
                let routes = routes.clone();
                async move {
                    match routes.serve(&request).await {
                        Some(response) => response.map(Body::new),
                        None => {
                            let mut none = hyper::Response::new(Body::from("not mine"));
                            *none.status_mut() = hyper::StatusCode::IM_A_TEAPOT;
                            none
                        }
                    }
                }
            })
            .await
        }]
    }};
}

#[tokio::test]
async fn ids_are_decoded_and_other_paths_are_left_alone() {
    let asked = Asked::default();
    for prefix in ["", "/logs", "/v1/logs"] {
        let routes = RunRoutes::new(lookup(asked.clone()).await).prefix(prefix);
        let servers = servers!(routes);
        for server in servers {
            for path in ["log", "a%20b%2Fc", "%C3%BC", "%252F"] {
                let response = get(server, &format!("{prefix}/{path}/sse"), &[]).await;
                assert_eq!(response.status, 200, "{path}");
                let (events, end) = response.events().rest().await;
                assert_eq!((events.len(), end), (1, Piece::End));
            }
            // An id that is not UTF-8 names no log, so the lookup is not called.
            asked.lock().unwrap().clear();
            for path in ["%FF", "%C3"] {
                let response = get(server, &format!("{prefix}/{path}/sse"), &[]).await;
                assert_eq!(response.status, 404, "{path}");
            }
            assert!(asked.lock().unwrap().is_empty());
            // An id that is not percent-encoded.
            let response = get(server, &format!("{prefix}/%zz/sse"), &[]).await;
            assert_eq!(response.status, 404);
            assert_eq!(*asked.lock().unwrap(), ["%zz"]);
        }
        let [axum, hyper] = servers;
        for path in [
            "/",
            "/log",
            "/log/",
            "/log/sse/",
            "/log/SSE",
            "/log/x/sse",
            "//sse",
            "/sse",
        ] {
            let path = format!("{prefix}{path}");
            for (server, status) in [(axum, 404), (hyper, 418)] {
                assert_eq!(get(server, &path, &[]).await.status, status, "{path}");
            }
        }
        if !prefix.is_empty() {
            let outside = get(hyper, "/log/sse", &[]).await;
            assert_eq!(outside.status, 418);
        }
    }
}

#[tokio::test]
async fn every_method_has_an_answer_that_does_not_depend_on_the_id() {
    let asked = Asked::default();
    let routes = RunRoutes::new(lookup(asked.clone()).await);
    for server in servers!(routes) {
        asked.lock().unwrap().clear();
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PURGE"] {
            let known = request(server, method, "/log/sse", &[]).await;
            let unknown = request(server, method, "/unknown/sse", &[]).await;
            assert_eq!(
                (known.status, known.header("allow")),
                (405, Some("GET, HEAD"))
            );
            assert_eq!(known.headers(), unknown.headers());
            assert_eq!(known.bytes().await, unknown.bytes().await);
        }
        for id in ["log", "unknown"] {
            let bad = get(server, &format!("/{id}/sse"), &[("Last-Event-ID", "x")]).await;
            assert_eq!(bad.status, 400);
        }
        assert!(asked.lock().unwrap().is_empty(), "nothing was looked up");
        let head = request(server, "HEAD", "/log/sse", &[("Connection", "close")]).await;
        assert_eq!(head.status, 200);
        let unknown = request(server, "HEAD", "/unknown/sse", &[("Connection", "close")]).await;
        assert_eq!(unknown.status, 404);
    }
}

/// Permits a log to viewers that have its key, as a bearer token, a cookie or a parameter, after a
/// moment.
fn hook() -> impl Access<Decision: Send> + Clone + Send + Sync + 'static {
    |request: &AccessRequest<'_>| {
        assert_eq!(request.action, Action::Watch);
        let key = request
            .bearer()
            .or(request.cookie("key"))
            .map(str::to_owned);
        let key = key.or(request.query_value("key"));
        let id = request.id.to_owned();
        async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            match key.as_deref().and_then(|key| key.strip_prefix("key of ")) {
                Some(of) if of == id => Permission::granted(),
                Some("past") => Permission::granted_until(SystemTime::UNIX_EPOCH),
                Some("broken") => Permission::Unknown,
                _ => Permission::Refused,
            }
        }
    }
}

#[tokio::test]
async fn refused_requests_get_the_same_bytes_and_no_lookup() {
    let asked = Asked::default();
    let routes = RunRoutes::new(lookup(asked.clone()).await).access(hook());
    for server in servers!(routes) {
        asked.lock().unwrap().clear();
        let mut answers = Vec::new();
        for path in [
            "/log/sse",
            "/unknown/sse",
            "/%FF/sse",
            "/a%20b%2Fc/sse",
            "/log/sse?from=x",
        ] {
            for headers in [
                vec![],
                vec![("Authorization", "Bearer key of another")],
                vec![("Authorization", "Bearer key of past")],
                vec![("Authorization", "Bearer")],
                vec![("Authorization", "Basic key of log")],
                vec![("Cookie", "key=key of another")],
                vec![("Last-Event-ID", "x")],
                vec![("Accept", "text/event-stream")],
            ] {
                let response = get(server, path, &headers).await;
                assert_eq!(response.status, 401, "{path} {headers:?}");
                assert_eq!(response.header("www-authenticate"), Some("Bearer"));
                assert_eq!(response.header("cache-control"), Some("no-store"));
                assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
                assert_eq!(response.header("referrer-policy"), Some("no-referrer"));
                answers.push((response.headers(), response.text().await));
                let head = request(server, "HEAD", path, &headers).await;
                assert_eq!(head.status, 401);
            }
        }
        answers.dedup();
        assert_eq!(answers.len(), 1, "{answers:?}");
        assert!(asked.lock().unwrap().is_empty(), "nothing was looked up");

        // Viewers with permission learn which logs exist.
        for (path, status) in [("/log/sse", 200), ("/unknown/sse", 404)] {
            let id = path.split('/').nth(1).unwrap();
            let bearer = format!("bearer key of {id}");
            let cookie = format!("a=b; key=key of {id}");
            let query = format!("{path}?key=key+of+{id}");
            let by_bearer = get(server, path, &[("Authorization", &bearer)]).await;
            let by_cookie = get(server, path, &[("Cookie", &cookie)]).await;
            let by_cookies = get(server, path, &[("Cookie", "a=b"), ("Cookie", &cookie)]).await;
            let by_query = get(server, &query, &[]).await;
            for response in [by_bearer, by_cookie, by_cookies, by_query] {
                assert_eq!(response.status, status, "{path}");
            }
        }
        let headers = [
            ("Authorization", "Bearer key of log"),
            ("Last-Event-ID", "x"),
        ];
        assert_eq!(get(server, "/log/sse", &headers).await.status, 400);

        // If the hook cannot decide, EventSources come back.
        let unknown = [("Authorization", "Bearer key of broken")];
        assert_eq!(get(server, "/log/sse", &unknown).await.status, 503);
        let source = [unknown[0], ("Accept", "text/event-stream")];
        let mut held = get(server, "/log/sse", &source).await;
        assert_eq!(
            (held.status, held.piece().await),
            (200, Piece::Bytes(b":\n".to_vec()))
        );
    }
}

#[tokio::test]
async fn a_stream_ends_when_its_permission_does() {
    let target = Target::new(MemoryEventStore::new());
    let first = NewEvent::new("note", "1").unwrap();
    target.dispatch_encoded(vec![first]).await.unwrap();
    let found = target.clone();
    let hook = |_: &AccessRequest<'_>| {
        let until = SystemTime::now() + Duration::from_secs(2);
        ready(Permission::granted_until(until))
    };
    let routes = RunRoutes::new(move |_| ready(Ok::<_, Refusal>(found.clone()))).access(hook);
    for server in servers!(routes) {
        let (events, end) = get(server, "/log/sse", &[]).await.events().rest().await;
        let types: Vec<_> = events.iter().map(|event| &*event.event_type).collect();
        assert_eq!((types, end), (vec!["note", "expired"], Piece::End));
        assert_eq!(events[1].data, r#"{"renew":true}"#);
        // The event has no id of its own: the client comes back with that of the last event.
        assert_eq!(events[1].id, "1");
    }
}

#[tokio::test]
async fn one_log_may_have_a_hook_too() {
    let target = Target::new(MemoryEventStore::new());
    let event = NewEvent::new("note", "1").unwrap().terminal();
    target.dispatch_encoded(vec![event]).await.unwrap();
    let server = hyper_server(move |request| {
        let (target, hook) = (target.clone(), hook());
        async move {
            Sse::new()
                .serve(&request, "log", &target, &hook)
                .await
                .map(Body::new)
        }
    })
    .await;
    assert_eq!(get(server, "/any", &[]).await.status, 401);
    let granted = get(server, "/any", &[("Authorization", "Bearer key of log")]).await;
    assert_eq!(granted.status, 200);
}

#[tokio::test]
async fn cors_is_on_every_answer_and_a_preflight_needs_no_permission() {
    const APP: &str = "https://app.example.com";
    let asked = Asked::default();
    let cors = Cors::new([APP]).unwrap().credentials();
    let routes = RunRoutes::new(lookup(asked).await)
        .access(hook())
        .cors(cors);
    let permission = ("Cookie", "key=key of log");
    for server in servers!(routes) {
        for (origin, reads) in [(APP, true), ("https://evil.example", false)] {
            for (method, path, more, status) in [
                ("GET", "/log/sse", permission, 200),
                ("GET", "/log/sse", ("Last-Event-ID", "1"), 401),
                ("HEAD", "/log/sse", permission, 200),
                ("DELETE", "/log/sse", permission, 405),
                ("OPTIONS", "/log/sse", permission, 405),
                (
                    "OPTIONS",
                    "/log/sse",
                    ("Access-Control-Request-Method", "GET"),
                    204,
                ),
                (
                    "OPTIONS",
                    "/no/sse",
                    ("Access-Control-Request-Method", "GET"),
                    204,
                ),
            ] {
                let headers = [("Origin", origin), more, ("Connection", "close")];
                let response = request(server, method, path, &headers).await;
                assert_eq!(response.status, status, "{method} {path}");
                let allowed = response.header("access-control-allow-origin");
                assert_eq!(allowed, reads.then_some(APP), "{method} {path}");
                let credentials = response.header("access-control-allow-credentials");
                assert_eq!(credentials, reads.then_some("true"));
                assert_eq!(response.header("vary"), Some("origin"));
            }
        }
    }
}

#[tokio::test]
async fn the_router_goes_with_other_routes_of_the_same_paths() {
    let asked = Asked::default();
    let runs = RunRoutes::new(lookup(asked).await);
    let app = Router::new()
        .route("/", on_get(async || "start"))
        .route("/{id}", post(async || "dispatched"))
        .route("/{id}/sse", post(async || "mine"))
        .merge(runs.clone().into_router())
        .nest("/nested", runs.prefix("/deep").into_router());
    let server = axum_server(app).await;
    for (method, path, status) in [
        ("GET", "/", 200),
        ("POST", "/log", 200),
        ("GET", "/log/sse", 200),
        ("POST", "/log/sse", 200),
        ("DELETE", "/log/sse", 405),
        ("GET", "/nested/deep/log/sse", 200),
        ("GET", "/nested/deep/unknown/sse", 404),
    ] {
        let response = request(server, method, path, &[("Content-Length", "0")]).await;
        assert_eq!(response.status, status, "{method} {path}");
    }
}

#[tokio::test]
async fn a_run_has_a_page_its_files_and_a_snapshot() {
    const HTML: (&str, &str) = ("Accept", "text/html,*/*;q=0.8");
    let asked = Asked::default();
    let routes = RunRoutes::new(lookup(asked).await).prefix("/logs");
    let bare = routes.clone();
    let routes = routes
        .page_framed_by(["https://app.example.com"])
        .unwrap()
        .snapshots();
    for server in servers!(routes) {
        let page = get(server, "/logs/log", &[HTML]).await;
        assert_eq!(page.status, 200);
        assert_eq!(
            page.header("content-type"),
            Some("text/html; charset=utf-8")
        );
        assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
        assert_eq!(page.header("vary"), Some("accept"));
        let policy = page.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self'"));
        assert!(
            policy.ends_with("frame-ancestors https://app.example.com"),
            "{policy}"
        );
        let page = page.text().await;
        for part in [
            "src=\"/logs/log/sse\"",
            "snapshot=\"/logs/log\"",
            "\"/logs/ssetarget/workflow-run.js?v=",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
        assert!(!page.contains("session="), "{page}");

        for (accept, content_type) in [
            ("application/json", "application/json"),
            ("*/*", "application/json"),
        ] {
            let snapshot = get(server, "/logs/log", &[("Accept", accept)]).await;
            assert_eq!(snapshot.header("content-type"), Some(content_type));
            assert_eq!(snapshot.header("vary"), Some("accept"));
            assert!(snapshot.text().await.contains("\"cursor\":1"));
        }
        assert_eq!(get(server, "/logs/unknown", &[HTML]).await.status, 404);
        assert_eq!(get(server, "/logs/unknown", &[]).await.status, 404);
        for method in ["POST", "DELETE"] {
            assert_eq!(
                request(server, method, "/logs/log", &[HTML]).await.status,
                405
            );
        }

        let script = get(server, "/logs/ssetarget/workflow-run.js", &[]).await;
        assert_eq!(script.status, 200);
        assert_eq!(script.header("cache-control"), Some("no-cache"));
        assert_eq!(script.header("x-content-type-options"), Some("nosniff"));
        let etag = script.header("etag").unwrap().to_owned();
        let known = [("If-None-Match", etag.as_str())];
        let path = "/logs/ssetarget/workflow-run.js";
        assert_eq!(get(server, path, &known).await.status, 304);
        let nothing = get(server, "/logs/ssetarget/nothing.js", &[]).await;
        assert!([404, 418].contains(&nothing.status));
        // This name is also the id of a run.
        assert_eq!(get(server, "/logs/ssetarget/sse", &[]).await.status, 404);
    }
    let [axum, hyper] = servers!(bare);
    for (server, status) in [(axum, 404), (hyper, 418)] {
        assert_eq!(get(server, "/logs/log", &[HTML]).await.status, status);
        let script = get(server, "/logs/ssetarget/workflow-run.js", &[]).await;
        assert_eq!(script.status, status);
    }
}

#[cfg(feature = "links")]
#[tokio::test]
async fn a_link_leads_over_the_page_and_a_session_to_the_events() {
    use ssetarget::access::{CapabilityLinks, LinkGrant, LinkKeys};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const HTML: (&str, &str) = ("Accept", "text/html");
    let keys = LinkKeys::parse("k1:bmV3IG5ldyBuZXcgbmV3IG5ldyBuZXcgbmV3IG5ldyE=").unwrap();
    let links = CapabilityLinks::new(keys, "logs");
    let token = links.token(&LinkGrant::run("log"));
    let asked = Asked::default();
    let routes = RunRoutes::new(lookup(asked.clone()).await)
        .page()
        .snapshots()
        .links(links);
    let server = axum_server(routes.into_router()).await;

    // Without permission the page is the same for all, and there is nothing else.
    let known = get(server, "/log", &[HTML]).await;
    let unknown = get(server, "/nil", &[HTML]).await;
    assert_eq!(
        (known.status, known.header("cache-control")),
        (200, Some("no-store"))
    );
    assert_eq!(known.headers(), unknown.headers());
    let known = known.text().await;
    assert!(known.contains("session=\"/log/session\""), "{known}");
    assert_eq!(
        known.replace("log", "nil"),
        unknown.text().await.replace("log", "nil")
    );
    for path in ["/log", "/log/sse", "/nil/sse"] {
        assert_eq!(get(server, path, &[]).await.status, 401, "{path}");
    }
    assert!(asked.lock().unwrap().is_empty(), "nothing was looked up");

    let post = async |path: &str, body: &str| {
        let mut connection = tokio::net::TcpStream::connect(server).await.unwrap();
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        connection.read_to_string(&mut response).await.unwrap();
        response
    };
    let session = post("/log/session", &token).await;
    assert!(session.starts_with("HTTP/1.1 200"), "{session}");
    let cookie = session
        .split("set-cookie: ")
        .nth(1)
        .unwrap()
        .split(';')
        .next()
        .unwrap();
    assert!(session.contains("Path=/log;"), "{session}");
    for (path, body) in [
        ("/nil/session", token.as_str()),
        ("/log/session", "x"),
        ("/log/session", ""),
    ] {
        let refused = post(path, body).await;
        assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
        assert!(!refused.contains("set-cookie"), "{refused}");
    }
    assert!(
        post("/log/session", &"x".repeat(100_000))
            .await
            .starts_with("HTTP/1.1 401")
    );
    assert_eq!(get(server, "/log/session", &[]).await.status, 405);

    let permission = [("Cookie", cookie), ("Connection", "close")];
    assert_eq!(get(server, "/log/sse", &permission).await.status, 200);
    let snapshot = get(server, "/log", &permission).await;
    assert!(
        snapshot
            .header("cache-control")
            .unwrap()
            .contains("private")
    );
    assert_eq!(get(server, "/nil/sse", &permission).await.status, 401);
}

async fn axum_server(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, app).await });
    address
}

async fn hyper_server<F>(
    respond: impl Fn(hyper::Request<hyper::body::Incoming>) -> F + Clone + Send + 'static,
) -> SocketAddr
where
    F: Future<Output = hyper::Response<Body>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (connection, _) = listener.accept().await.unwrap();
            let respond = respond.clone();
            let service = service_fn(move |request| {
                let response = respond(request);
                async move { Ok::<_, Infallible>(response.await) }
            });
            let http = hyper::server::conn::http1::Builder::new();
            tokio::spawn(http.serve_connection(TokioIo::new(connection), service));
        }
    });
    address
}
