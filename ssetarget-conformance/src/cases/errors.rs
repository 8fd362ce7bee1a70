//! Refusals.

use super::{Case, Level, Need};
use crate::http::{Request, shown};
use crate::probe::{Answer, Outcome, Probe, Stream, check};

pub(super) const CASES: &[Case] = &[
    Case {
        id: "error-type",
        title: "a refusal is not text/event-stream",
        source: "WHATWG HTML 9.2.3; RFC 9110 15.5",
        level: Level::Should,
        needs: &[],
        body: error_type,
    },
    Case {
        id: "error-plain",
        title: "a refusal has no stack, no path and no name of a source file",
        source: "CWE-209",
        level: Level::Must,
        needs: &[],
        body: error_plain,
    },
    Case {
        id: "error-short",
        title: "a refusal has at most 4 KiB",
        source: "RFC 9110 15.5",
        level: Level::Should,
        needs: &[],
        body: error_short,
    },
    Case {
        id: "error-reflection",
        title: "a refusal does not give back markup of the request as markup",
        source: "CWE-79",
        level: Level::Must,
        needs: &[],
        body: error_reflection,
    },
    Case {
        id: "error-recovers",
        title: "refusals disturb no viewer",
        source: "RFC 9110 15.5",
        level: Level::Must,
        needs: &[Need::Append],
        body: error_recovers,
    },
    Case {
        id: "unknown",
        title: "an unknown stream is 404",
        source: "extension; RFC 9110 15.5.5",
        level: Level::Extension("unknown"),
        needs: &[Need::Own],
        body: unknown,
    },
    Case {
        id: "unknown-stays",
        title: "asking for a stream does not make it",
        source: "extension; RFC 9110 9.2.1",
        level: Level::Extension("unknown"),
        needs: &[Need::Own],
        body: unknown_stays,
    },
    Case {
        id: "unknown-head",
        title: "HEAD of an unknown stream is 404, too",
        source: "RFC 9110 9.3.2",
        level: Level::Extension("unknown"),
        needs: &[Need::Own],
        body: unknown_head,
    },
    Case {
        id: "unknown-position",
        title: "a position does not make an unknown stream known",
        source: "extension; RFC 9110 15.5.5",
        level: Level::Extension("unknown"),
        needs: &[Need::Own],
        body: unknown_position,
    },
];

/// Requests that most servers refuse, and the answers. Those that a server does not refuse are left out.
fn refusals(probe: &Probe) -> Outcome<Vec<Answer>> {
    let stream = probe.start()?;
    let broken = format!("{}=%00%ff%ZZ", probe.profile.query);
    let mut query = stream.get();
    query.target = stream.path_with(&broken);
    let mut put = Request::new("PUT", stream.path());
    put.body = Some(b"{\"a\": ".to_vec());
    let requests = [
        put,
        Request::new("BREW", stream.path()),
        stream.get_after(b"not/a position"),
        stream.get_after("日本語".as_bytes()),
        stream.get_after(&[b'9'; 4096]),
        query,
        Request::new("GET", format!("{}/%2e%2e%00", stream.path())),
        nobodys(probe).get(),
    ];
    let mut answers = Vec::new();
    for request in &requests {
        let answer = probe.ask(request)?;
        if answer.head.status >= 400 {
            answers.push(answer);
        }
    }
    Ok(answers)
}

fn nobodys(probe: &Probe) -> Stream<'_> {
    Stream {
        probe,
        id: format!("nobody-made-this-{}", std::process::id()),
    }
}

fn error_type(probe: &Probe) -> Outcome {
    for answer in refusals(probe)? {
        check(
            !answer.head.has("content-type", "text/event-stream"),
            "another type",
            || answer.shown(),
        )?;
    }
    Ok(())
}

fn error_plain(probe: &Probe) -> Outcome {
    const SIGNS: [&str; 12] = [
        "\n    at ",
        "Traceback",
        "panicked",
        "stack backtrace",
        ".rs:",
        ".js:",
        ".mjs:",
        ".ts:",
        ".py\"",
        "/node_modules/",
        "/src/",
        "file://",
    ];
    for answer in refusals(probe)? {
        let text = String::from_utf8_lossy(&answer.body);
        let sign = SIGNS.iter().find(|sign| text.contains(*sign));
        check(
            sign.is_none(),
            "a reason, and nothing of the server's insides",
            || answer.shown(),
        )?;
    }
    Ok(())
}

fn error_short(probe: &Probe) -> Outcome {
    for answer in refusals(probe)? {
        check(answer.body.len() <= 4096, "at most 4 KiB", || {
            format!("{} bytes: {}", answer.body.len(), answer.shown())
        })?;
    }
    Ok(())
}

fn error_reflection(probe: &Probe) -> Outcome {
    const MARKUP: &str = "<img src=x onerror=alert(1)>";
    let stream = probe.start()?;
    let mut query = stream.get();
    query.target = stream.path_with(&format!(
        "{}={}",
        probe.profile.query,
        crate::http::percent(MARKUP.as_bytes())
    ));
    let path = Request::new(
        "GET",
        format!(
            "{}/{}",
            stream.path(),
            crate::http::percent(MARKUP.as_bytes())
        ),
    );
    for request in [stream.get_after(MARKUP.as_bytes()), query, path] {
        let answer = probe.ask(&request)?;
        let content_type = answer
            .head
            .get("content-type")
            .unwrap_or_default()
            .to_ascii_lowercase();
        let is_markup = content_type.is_empty()
            || content_type.contains("html")
            || content_type.contains("xml");
        let has_it = answer
            .body
            .windows(MARKUP.len())
            .any(|window| window == MARKUP.as_bytes());
        check(
            answer.is_stream() || !(is_markup && has_it),
            "text, or nothing of the request",
            || answer.shown(),
        )?;
    }
    Ok(())
}

fn error_recovers(probe: &Probe) -> Outcome {
    let stream = probe.start()?;
    let mut viewer = stream.view(&stream.get())?;
    stream.append(1..=1)?;
    viewer.expect_marker(1)?;
    for position in [&b"not/a position"[..], b"-1", b"\xff", &[b'9'; 4096]] {
        probe.ask(&stream.get_after(position))?;
    }
    probe.ask(&Request::new("BREW", stream.path()))?;
    stream.append(2..=2)?;
    viewer.expect_marker(2)?;
    check(viewer.numbers(2) == [1, 2], "the events [1, 2]", || {
        viewer.shown()
    })
}

fn not_found(probe: &Probe, request: &Request) -> Outcome {
    let answer = probe.ask(request)?;
    check(answer.head.status == 404, "404", || {
        format!(
            "{} for {}",
            answer.shown(),
            shown(request.target.as_bytes())
        )
    })
}

fn unknown(probe: &Probe) -> Outcome {
    not_found(probe, &nobodys(probe).get())
}

fn unknown_stays(probe: &Probe) -> Outcome {
    let mut stream = nobodys(probe);
    stream.id.push_str("-stays");
    for _ in 0..3 {
        not_found(probe, &stream.get())?;
    }
    Ok(())
}

fn unknown_head(probe: &Probe) -> Outcome {
    let mut request = nobodys(probe).get();
    request.method = "HEAD".to_owned();
    not_found(probe, &request)
}

fn unknown_position(probe: &Probe) -> Outcome {
    not_found(probe, &nobodys(probe).get_after(b"1"))
}
