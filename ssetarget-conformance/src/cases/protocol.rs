//! HTTP: methods, versions, connections, caches, proxies, other origins.

use std::time::{Duration, Instant};

use super::{Case, Level, Need};
use crate::http::{Connection, Framing, Head, Request, Trouble};
use crate::probe::{Answer, Outcome, Probe, Stream, Verdict, Viewer, check, fail, read_answer};

pub(super) const CASES: &[Case] = &[
    Case {
        id: "head",
        title: "HEAD has the status and the content type of GET",
        source: "RFC 9110 9.1, 9.3.2",
        level: Level::Must,
        needs: &[],
        body: head,
    },
    Case {
        id: "head-empty",
        title: "an answer to HEAD has no body",
        source: "RFC 9110 9.3.2",
        level: Level::Must,
        needs: &[],
        body: head_empty,
    },
    Case {
        id: "options",
        title: "OPTIONS gets an answer that ends and is not a stream",
        source: "RFC 9110 9.3.7",
        level: Level::Should,
        needs: &[],
        body: options,
    },
    Case {
        id: "method-put",
        title: "PUT gets no stream, and causes no server error",
        source: "RFC 9110 15.5.6",
        level: Level::Should,
        needs: &[],
        body: method_put,
    },
    Case {
        id: "method-delete",
        title: "DELETE gets no stream, and causes no server error",
        source: "RFC 9110 15.5.6",
        level: Level::Should,
        needs: &[Need::Own],
        body: method_delete,
    },
    Case {
        id: "method-unknown",
        title: "an unknown method gets no stream, and 405 or 501",
        source: "RFC 9110 9.1",
        level: Level::Should,
        needs: &[],
        body: method_unknown,
    },
    Case {
        id: "method-allow",
        title: "405 lists the permitted methods in `Allow`",
        source: "RFC 9110 15.5.6",
        level: Level::Must,
        needs: &[],
        body: method_allow,
    },
    Case {
        id: "http-1-0",
        title: "an answer to HTTP/1.0 is not chunked",
        source: "RFC 9112 6.1",
        level: Level::Must,
        needs: &[],
        body: http_1_0,
    },
    Case {
        id: "http-1-0-stream",
        title: "a client of HTTP/1.0 gets its events",
        source: "RFC 9112 6.3",
        level: Level::Should,
        needs: &[],
        body: http_1_0_stream,
    },
    Case {
        id: "framing",
        title: "a stream of HTTP/1.1 is chunked, or ends with the connection",
        source: "RFC 9112 6.3",
        level: Level::Must,
        needs: &[],
        body: framing,
    },
    Case {
        id: "content-length",
        title: "a stream that is open has no length",
        source: "RFC 9112 6.2",
        level: Level::Must,
        needs: &[],
        body: content_length,
    },
    Case {
        id: "keep-alive",
        title: "after a complete answer the connection goes on, or the server said that it closes",
        source: "RFC 9112 9.3, 9.6",
        level: Level::Must,
        needs: &[],
        body: keep_alive,
    },
    Case {
        id: "slow-request",
        title: "a request that comes byte by byte is answered",
        source: "RFC 9112 2.2",
        level: Level::Must,
        needs: &[],
        body: slow_request,
    },
    Case {
        id: "get-body",
        title: "a body of GET causes no server error",
        source: "RFC 9110 9.3.1",
        level: Level::Should,
        needs: &[],
        body: get_body,
    },
    Case {
        id: "range",
        title: "`Range` gets the whole stream, not a part",
        source: "RFC 9110 14.2",
        level: Level::Should,
        needs: &[],
        body: range,
    },
    Case {
        id: "upgrade",
        title: "an offer to change the protocol may be left alone",
        source: "RFC 9110 7.8",
        level: Level::Should,
        needs: &[],
        body: upgrade,
    },
    Case {
        id: "accept-any",
        title: "`Accept: */*` gets the stream",
        source: "RFC 9110 12.5.1",
        level: Level::Should,
        needs: &[],
        body: accept_any,
    },
    Case {
        id: "accept-none",
        title: "a request without `Accept` gets the stream",
        source: "RFC 9110 12.5.1",
        level: Level::Should,
        needs: &[],
        body: accept_none,
    },
    Case {
        id: "accept-list",
        title: "`Accept` with a list and weights gets the stream",
        source: "RFC 9110 12.5.1",
        level: Level::Should,
        needs: &[],
        body: accept_list,
    },
    Case {
        id: "accept-other",
        title: "`Accept` of another type causes no server error",
        source: "RFC 9110 15.5.7",
        level: Level::Should,
        needs: &[],
        body: accept_other,
    },
    Case {
        id: "coding-none",
        title: "a request for no coding gets none",
        source: "RFC 9110 12.5.3",
        level: Level::Should,
        needs: &[],
        body: coding_none,
    },
    Case {
        id: "coding-identity",
        title: "a request that accepts only `identity` gets no coding",
        source: "RFC 9110 12.5.3",
        level: Level::Should,
        needs: &[],
        body: coding_identity,
    },
    Case {
        id: "coding-prompt",
        title: "a stream that is compressed is not held back",
        source: "WHATWG HTML 9.2.7",
        level: Level::Should,
        needs: &[Need::Append],
        body: coding_prompt,
    },
    Case {
        id: "cache-control",
        title: "caches keep no stream",
        source: "RFC 9111 5.2.2",
        level: Level::Should,
        needs: &[],
        body: cache_control,
    },
    Case {
        id: "no-validators",
        title: "a stream that goes on has no entity tag and no date of change",
        source: "RFC 9110 8.8",
        level: Level::Should,
        needs: &[],
        body: no_validators,
    },
    Case {
        id: "no-transform",
        title: "`cache-control: no-transform` keeps proxies from compressing",
        source: "extension; RFC 9111 5.2.2.6",
        level: Level::Extension("proxies"),
        needs: &[],
        body: no_transform,
    },
    Case {
        id: "x-accel-buffering",
        title: "`x-accel-buffering: no` keeps nginx from buffering",
        source: "extension",
        level: Level::Extension("proxies"),
        needs: &[],
        body: x_accel_buffering,
    },
    Case {
        id: "nosniff",
        title: "`x-content-type-options: nosniff` on refusals",
        source: "extension; Fetch 3.6",
        level: Level::Extension("nosniff"),
        needs: &[],
        body: nosniff,
    },
    Case {
        id: "cors-reflection",
        title: "no origin is reflected together with credentials",
        source: "Fetch 3.3.5",
        level: Level::Must,
        needs: &[],
        body: cors_reflection,
    },
    Case {
        id: "cors-vary",
        title: "an answer that names an origin varies with it",
        source: "Fetch 3.3.6; RFC 9110 12.5.5",
        level: Level::Should,
        needs: &[],
        body: cors_vary,
    },
    Case {
        id: "cors-listed",
        title: "a page of the listed origin may read",
        source: "extension; Fetch 3.3",
        level: Level::Extension("cors"),
        needs: &[],
        body: cors_listed,
    },
    Case {
        id: "cors-strange",
        title: "a page of another origin may not read",
        source: "extension; Fetch 3.3",
        level: Level::Extension("cors"),
        needs: &[],
        body: cors_strange,
    },
    Case {
        id: "cors-preflight",
        title: "a client that sends `Last-Event-ID` by script may",
        source: "extension; Fetch 3.3.2",
        level: Level::Extension("cors"),
        needs: &[],
        body: cors_preflight,
    },
];

/// A stream with an event, and the head of the answer to a viewer of it.
fn head_of(probe: &Probe, with: impl Fn(Request) -> Request) -> Outcome<Head> {
    let stream = probe.start()?;
    let mut viewer = stream.view(&with(stream.get()))?;
    stream.append(1..=1)?;
    viewer.head()
}

fn ask(probe: &Probe, method: &str) -> Outcome<Answer> {
    let stream = probe.start()?;
    let mut request = Request::new(method, stream.path());
    if method != "OPTIONS" {
        request.body = Some(Vec::new());
    }
    probe.ask(&request)
}

fn head(probe: &Probe) -> Outcome {
    let stream = probe.start()?;
    stream.append(1..=1)?;
    let mut request = stream.get();
    request.method = "HEAD".to_owned();
    let answer = probe.ask(&request)?;
    let is_like = answer.head.status == 200 && answer.head.has("content-type", "text/event-stream");
    check(is_like, "200, text/event-stream", || answer.shown())
}

fn head_empty(probe: &Probe) -> Outcome {
    let stream = probe.start()?;
    stream.append(1..=1)?;
    let mut request = stream.get();
    request.method = "HEAD".to_owned();
    let mut connection = connect(probe)?;
    send(&mut connection, probe, &request)?;
    let until = Instant::now() + probe.patience;
    connection
        .head(until)
        .map_err(|trouble| no_answer(&trouble))?;
    // Bytes that come now are a body, which there must not be.
    let next = connection.head(Instant::now() + probe.quiet());
    check(
        matches!(next, Err(Trouble::Late | Trouble::Cut)),
        "nothing after the head",
        || match next {
            Err(trouble) => trouble.to_string(),
            Ok(head) => format!("another answer, {}", head.status),
        },
    )?;
    check(!connection.has_more(), "nothing after the head", || {
        "a body".to_owned()
    })
}

fn options(probe: &Probe) -> Outcome {
    let answer = ask(probe, "OPTIONS")?;
    let is_fine = answer.head.status < 500 && !answer.is_stream() && answer.end.is_some();
    check(is_fine, "an answer below 500 that ends", || answer.shown())
}

fn no_stream(probe: &Probe, method: &str) -> Outcome {
    let answer = ask(probe, method)?;
    let status = answer.head.status;
    check(
        (400..500).contains(&status) || status == 501,
        "405, or another refusal",
        || answer.shown(),
    )
}

fn method_put(probe: &Probe) -> Outcome {
    no_stream(probe, "PUT")
}

fn method_delete(probe: &Probe) -> Outcome {
    no_stream(probe, "DELETE")
}

fn method_unknown(probe: &Probe) -> Outcome {
    no_stream(probe, "BREW")
}

fn method_allow(probe: &Probe) -> Outcome {
    let mut is_405 = false;
    for method in ["PUT", "PATCH"] {
        let answer = ask(probe, method)?;
        if answer.head.status == 405 {
            is_405 = true;
            let allow = answer.head.get("allow");
            check(answer.head.has("allow", "GET"), "allow: GET, …", || {
                format!("allow: {}", allow.unwrap_or_default())
            })?;
        }
    }
    if is_405 {
        Ok(())
    } else {
        Err(Verdict::Skipped("it never says 405".to_owned()))
    }
}

fn old(mut request: Request) -> Request {
    request.version = "1.0";
    request
}

fn http_1_0(probe: &Probe) -> Outcome {
    let head = head_of(probe, old)?;
    let coding = head.get("transfer-encoding");
    check(coding.is_none(), "no transfer coding", || {
        coding.unwrap_or_default()
    })
}

fn http_1_0_stream(probe: &Probe) -> Outcome {
    let stream = probe.start()?;
    let mut viewer = stream.view(&old(stream.get()))?;
    stream.append(1..=2)?;
    viewer.expect_events(2).map(drop)
}

fn framing(probe: &Probe) -> Outcome {
    let stream = probe.start()?;
    let mut viewer = stream.view(&stream.get())?;
    stream.append(1..=1)?;
    viewer.head()?;
    let framing = viewer.framing();
    check(
        matches!(framing, Some(Framing::Chunked | Framing::UntilClose)),
        "chunks, or until the connection closes",
        || format!("{framing:?}"),
    )?;
    viewer.expect_events(1)?;
    match viewer.trouble() {
        Some(trouble) => fail("chunks", trouble.to_string()),
        None => Ok(()),
    }
}

fn content_length(probe: &Probe) -> Outcome {
    let length = head_of(probe, |get| get)?.get("content-length");
    check(length.is_none(), "no length", || length.unwrap_or_default())
}

fn connect(probe: &Probe) -> Outcome<Connection> {
    Connection::open(&probe.host, probe.patience).map_err(|trouble| no_answer(&trouble))
}

fn send(connection: &mut Connection, probe: &Probe, request: &Request) -> Outcome {
    let sent = connection.send(&probe.with_headers(request));
    sent.map_err(|trouble| no_answer(&trouble))
}

fn no_answer(trouble: &Trouble) -> Verdict {
    Verdict::Failed {
        expected: "an answer".to_owned(),
        got: trouble.to_string(),
    }
}

fn keep_alive(probe: &Probe) -> Outcome {
    let stream = probe.start()?;
    stream.append(1..=1)?;
    let mut connection = connect(probe)?;
    for method in ["PUT", "BREW", "HEAD", "OPTIONS"] {
        let request = Request::new(method, stream.path());
        send(&mut connection, probe, &request)?;
        let until = Instant::now() + probe.patience;
        let answer = read_answer(&mut connection, until, probe.quiet()).map_err(|trouble| {
            Verdict::Failed {
                expected: format!("an answer to {method} on a connection that was to stay"),
                got: trouble.to_string(),
            }
        })?;
        if answer.head.has("connection", "close")
            || answer.end.is_none()
            || answer.framing == Some(Framing::UntilClose)
        {
            connection = connect(probe)?;
        }
    }
    Ok(())
}

fn slow_request(probe: &Probe) -> Outcome {
    let stream = probe.start()?;
    let mut connection = connect(probe)?;
    let request = probe.with_headers(&stream.get());
    connection
        .dribble(&request)
        .map_err(|trouble| no_answer(&trouble))?;
    let mut viewer = Viewer::over(probe, connection);
    // A server without a log may lose an event that is sent before the answer has begun.
    viewer.read_for(probe.patience / 4);
    stream.append(1..=1)?;
    viewer.expect_events(1).map(drop)
}

fn still_a_stream(probe: &Probe, with: impl Fn(Request) -> Request) -> Outcome {
    let head = head_of(probe, with)?;
    let content_type = head.get("content-type").unwrap_or_default();
    let is_stream = head.status == 200 && head.has("content-type", "text/event-stream");
    check(is_stream, "200, text/event-stream", || {
        format!("{}, {content_type}", head.status)
    })
}

fn get_body(probe: &Probe) -> Outcome {
    let head = head_of(probe, |mut get| {
        get.body = Some(b"a body".to_vec());
        get
    })?;
    check(
        head.status < 500,
        "a stream, or a refusal below 500",
        || head.status.to_string(),
    )
}

fn range(probe: &Probe) -> Outcome {
    still_a_stream(probe, |get| get.header("Range", "bytes=0-9"))
}

fn upgrade(probe: &Probe) -> Outcome {
    still_a_stream(probe, |get| {
        get.header("Connection", "Upgrade")
            .header("Upgrade", "carrier-pigeon/1")
    })
}

fn plain(stream: &Stream<'_>) -> Request {
    Request::new("GET", stream.path())
}

fn accepts(probe: &Probe, accept: Option<&str>) -> Outcome<Head> {
    let stream = probe.start()?;
    let request = plain(&stream);
    let request = match accept {
        Some(accept) => request.header("Accept", accept),
        None => request,
    };
    let mut viewer = stream.view(&request)?;
    stream.append(1..=1)?;
    viewer.head()
}

fn accepted(head: &Head) -> Outcome {
    let is_stream = head.status == 200 && head.has("content-type", "text/event-stream");
    check(is_stream, "200, text/event-stream", || {
        head.status.to_string()
    })
}

fn accept_any(probe: &Probe) -> Outcome {
    accepted(&accepts(probe, Some("*/*"))?)
}

fn accept_none(probe: &Probe) -> Outcome {
    accepted(&accepts(probe, None)?)
}

fn accept_list(probe: &Probe) -> Outcome {
    accepted(&accepts(
        probe,
        Some("text/html;q=0.5, TEXT/Event-Stream;q=0.9, */*;q=0.1"),
    )?)
}

fn accept_other(probe: &Probe) -> Outcome {
    let head = accepts(probe, Some("image/png"))?;
    check(head.status < 500, "a stream, or 406", || {
        head.status.to_string()
    })
}

fn no_coding(head: &Head) -> Outcome {
    let coding = head
        .get("content-encoding")
        .filter(|coding| !coding.eq_ignore_ascii_case("identity"));
    check(coding.is_none(), "no coding", || coding.unwrap_or_default())
}

fn coding_none(probe: &Probe) -> Outcome {
    no_coding(&head_of(probe, |get| get)?)
}

fn coding_identity(probe: &Probe) -> Outcome {
    no_coding(&head_of(probe, |get| {
        get.header("Accept-Encoding", "identity")
    })?)
}

fn coding_prompt(probe: &Probe) -> Outcome {
    let stream = probe.start()?;
    let mut viewer = stream.view(&stream.get().header("Accept-Encoding", "gzip, br"))?;
    stream.append(1..=1)?;
    viewer.read_for(probe.quiet() * 2);
    let before = viewer.body.len();
    stream.append(2..=2)?;
    viewer.read_for(Duration::from_secs(1));
    check(
        viewer.body.len() > before,
        "bytes within a second of an event",
        || "none".to_owned(),
    )
}

fn cache_control(probe: &Probe) -> Outcome {
    let head = head_of(probe, |get| get)?;
    let is_kept = ["no-store", "no-cache"]
        .iter()
        .all(|word| !head.has("cache-control", word));
    check(!is_kept, "cache-control: no-store or no-cache", || {
        head.get("cache-control")
            .unwrap_or_else(|| "none".to_owned())
    })
}

fn no_validators(probe: &Probe) -> Outcome {
    let head = head_of(probe, |get| get)?;
    for name in ["etag", "last-modified"] {
        let value = head.get(name);
        check(value.is_none(), format!("no {name}"), || {
            value.clone().unwrap_or_default()
        })?;
    }
    Ok(())
}

fn no_transform(probe: &Probe) -> Outcome {
    let head = head_of(probe, |get| get)?;
    check(
        head.has("cache-control", "no-transform"),
        "cache-control: no-transform",
        || {
            head.get("cache-control")
                .unwrap_or_else(|| "none".to_owned())
        },
    )
}

fn x_accel_buffering(probe: &Probe) -> Outcome {
    let head = head_of(probe, |get| get)?;
    check(
        head.has("x-accel-buffering", "no"),
        "x-accel-buffering: no",
        || {
            head.get("x-accel-buffering")
                .unwrap_or_else(|| "none".to_owned())
        },
    )
}

fn nosniff(probe: &Probe) -> Outcome {
    let answer = ask(probe, "PUT")?;
    check(
        answer.head.has("x-content-type-options", "nosniff"),
        "x-content-type-options: nosniff",
        || answer.shown(),
    )
}

const STRANGER: &str = "https://stranger.example";

fn cors_reflection(probe: &Probe) -> Outcome {
    let head = head_of(probe, |get| get.header("Origin", STRANGER))?;
    let origin = head.get("access-control-allow-origin").unwrap_or_default();
    let with_credentials = head.has("access-control-allow-credentials", "true");
    check(
        !(with_credentials && (origin == STRANGER || origin == "*")),
        "no credentials for any origin",
        || format!("access-control-allow-origin: {origin} with credentials"),
    )
}

fn cors_vary(probe: &Probe) -> Outcome {
    let origin = probe
        .profile
        .origin
        .clone()
        .unwrap_or_else(|| STRANGER.to_owned());
    let head = head_of(probe, |get| get.header("Origin", &origin))?;
    let named = head
        .get("access-control-allow-origin")
        .is_some_and(|allowed| allowed != "*");
    check(!named || head.has("vary", "origin"), "vary: origin", || {
        head.get("vary").unwrap_or_else(|| "none".to_owned())
    })
}

fn origin(probe: &Probe) -> Outcome<String> {
    match &probe.profile.origin {
        Some(origin) => Ok(origin.clone()),
        None => Err(Verdict::Skipped("the profile has no `origin`".to_owned())),
    }
}

fn cors_listed(probe: &Probe) -> Outcome {
    let origin = origin(probe)?;
    let head = head_of(probe, |get| get.header("Origin", &origin))?;
    let allowed = head.get("access-control-allow-origin").unwrap_or_default();
    check(
        allowed == origin || allowed == "*",
        format!("access-control-allow-origin: {origin}"),
        || allowed.clone(),
    )
}

fn cors_strange(probe: &Probe) -> Outcome {
    let head = head_of(probe, |get| get.header("Origin", STRANGER))?;
    let allowed = head.get("access-control-allow-origin");
    check(
        allowed.as_deref() != Some(STRANGER) && allowed.as_deref() != Some("*"),
        "no such header",
        || allowed.unwrap_or_default(),
    )
}

fn cors_preflight(probe: &Probe) -> Outcome {
    let origin = origin(probe)?;
    let stream = probe.start()?;
    let request = Request::new("OPTIONS", stream.path())
        .header("Origin", &origin)
        .header("Access-Control-Request-Method", "GET")
        .header("Access-Control-Request-Headers", "last-event-id");
    let answer = probe.ask(&request)?;
    let is_fine = (200..300).contains(&answer.head.status)
        && answer.head.get("access-control-allow-origin").as_deref() == Some(&*origin)
        && (answer
            .head
            .has("access-control-allow-headers", "last-event-id")
            || answer.head.has("access-control-allow-headers", "*"));
    check(
        is_fine,
        "2xx that allows the origin and last-event-id",
        || format!("{}, {:?}", answer.head.status, answer.head.headers),
    )
}
