//! Positions: where a stream goes on.

use super::{Case, Level, Need};
use crate::http::{BodyEnd, Request, percent, shown};
use crate::probe::{Answer, Outcome, Probe, Stream, check, fail};
use crate::transcript::Event;

pub(super) const CASES: &[Case] = &[
    Case {
        id: "resume-header",
        title: "a stream goes on after `Last-Event-ID`",
        source: "WHATWG HTML 9.2.4",
        level: Level::Should,
        needs: &[],
        body: resume_header,
    },
    Case {
        id: "resume-each",
        title: "from every position nothing is missing, and nothing comes twice",
        source: "WHATWG HTML 9.2.4",
        level: Level::Should,
        needs: &[Need::Append],
        body: resume_each,
    },
    Case {
        id: "resume-bytes",
        title: "an event that is sent again has the same bytes",
        source: "WHATWG HTML 9.2.4",
        level: Level::Should,
        needs: &[],
        body: resume_bytes,
    },
    Case {
        id: "resume-head",
        title: "after the newest event only new events come",
        source: "WHATWG HTML 9.2.4",
        level: Level::Should,
        needs: &[Need::Append],
        body: resume_head,
    },
    Case {
        id: "resume-absent",
        title: "events appended while a viewer was away are not lost",
        source: "WHATWG HTML 9.2.3, 9.2.4",
        level: Level::Should,
        needs: &[Need::Append],
        body: resume_absent,
    },
    Case {
        id: "resume-stays",
        title: "ids go on after a resumption, and are not used again",
        source: "WHATWG HTML 9.2.4",
        level: Level::Should,
        needs: &[Need::Append],
        body: resume_stays,
    },
    Case {
        id: "header-case",
        title: "the header's name may be in any case",
        source: "RFC 9110 5.1",
        level: Level::Should,
        needs: &[],
        body: header_case,
    },
    Case {
        id: "header-empty",
        title: "an empty `Last-Event-ID` is as none",
        source: "WHATWG HTML 9.2.3; RFC 9110 5.5",
        level: Level::Should,
        needs: &[],
        body: header_empty,
    },
    Case {
        id: "position-unknown",
        title: "an id that was never given out does not stall a viewer",
        source: "WHATWG HTML 9.2.4",
        level: Level::Should,
        needs: &[],
        body: position_unknown,
    },
    Case {
        id: "position-malformed",
        title: "a malformed position causes no server error",
        source: "RFC 9110 15.5.1",
        level: Level::Must,
        needs: &[],
        body: position_malformed,
    },
    Case {
        id: "position-utf-8",
        title: "a position of bytes beyond ASCII causes no server error",
        source: "WHATWG HTML 9.2.3",
        level: Level::Must,
        needs: &[],
        body: position_utf8,
    },
    Case {
        id: "position-large",
        title: "a number beyond 64 bits causes no server error",
        source: "RFC 9110 15.5.1",
        level: Level::Must,
        needs: &[],
        body: position_large,
    },
    Case {
        id: "position-negative",
        title: "a negative number causes no server error",
        source: "RFC 9110 15.5.1",
        level: Level::Must,
        needs: &[],
        body: position_negative,
    },
    Case {
        id: "position-long",
        title: "a position of 4 KiB causes no server error",
        source: "RFC 9110 15.5.1; RFC 6585 5",
        level: Level::Must,
        needs: &[],
        body: position_long,
    },
    Case {
        id: "position-twice",
        title: "two positions cause no server error",
        source: "RFC 9110 5.3",
        level: Level::Must,
        needs: &[],
        body: position_twice,
    },
    Case {
        id: "position-query-broken",
        title: "a query with a broken escape causes no server error",
        source: "RFC 3986 2.1",
        level: Level::Must,
        needs: &[],
        body: position_query_broken,
    },
    Case {
        id: "replay",
        title: "a viewer without a position gets earlier events",
        source: "extension",
        level: Level::Extension("replay"),
        needs: &[Need::Append],
        body: replay,
    },
    Case {
        id: "query",
        title: "a stream goes on after the id in the query",
        source: "extension",
        level: Level::Extension("query"),
        needs: &[],
        body: query,
    },
    Case {
        id: "query-header",
        title: "the header counts before the query, which an EventSource keeps",
        source: "extension; WHATWG HTML 9.2.3",
        level: Level::Extension("query"),
        needs: &[],
        body: query_header,
    },
    Case {
        id: "latest",
        title: "a stream that starts at the tail has all new events and no old ones",
        source: "extension",
        level: Level::Extension("latest"),
        needs: &[Need::Append],
        body: latest,
    },
    Case {
        id: "latest-position",
        title: "a stream that starts at the tail tells its position before the first event",
        source: "extension; WHATWG HTML 9.2.6",
        level: Level::Extension("latest"),
        needs: &[Need::Append],
        body: latest_position,
    },
    Case {
        id: "reset",
        title: "an event reports an unknown position, and the kept events follow",
        source: "extension",
        level: Level::Extension("reset"),
        needs: &[],
        body: reset,
    },
    Case {
        id: "reset-id",
        title: "the event that reports it takes no id of the log",
        source: "extension; WHATWG HTML 9.2.6",
        level: Level::Extension("reset"),
        needs: &[],
        body: reset_id,
    },
    Case {
        id: "malformed-400",
        title: "a malformed position is 400, at which clients stop",
        source: "extension; RFC 9110 15.5.1",
        level: Level::Extension("strict"),
        needs: &[],
        body: malformed_400,
    },
    Case {
        id: "malformed-query-400",
        title: "a malformed position in the query is 400",
        source: "extension; RFC 9110 15.5.1",
        level: Level::Extension("strict"),
        needs: &[],
        body: malformed_query_400,
    },
    Case {
        id: "twice-400",
        title: "two positions in headers are 400",
        source: "extension; RFC 9110 5.3",
        level: Level::Extension("strict"),
        needs: &[],
        body: twice_400,
    },
];

const COUNT: u32 = 4;

/// A stream with events that were seen live.
fn told(probe: &Probe) -> Outcome<(Stream<'_>, Vec<Event>)> {
    let stream = probe.start()?;
    let viewer = stream.viewed(COUNT)?;
    let events = viewer.events();
    match events
        .iter()
        .any(|event| event.id.as_ref().is_none_or(Vec::is_empty))
    {
        true => fail("events with ids, to come back with", "events without"),
        false => Ok((stream, events)),
    }
}

fn id(event: &Event) -> &[u8] {
    event.id.as_deref().unwrap_or_default()
}

fn ids(events: &[Event]) -> String {
    let ids: Vec<String> = events.iter().map(|event| shown(id(event))).collect();
    format!("the ids {}", ids.join(", "))
}

/// A request gets exactly these events, and perhaps more after them.
fn gets(
    probe: &Probe,
    stream: &Stream<'_>,
    request: &Request,
    expected: &[Event],
) -> Outcome<Vec<Event>> {
    let mut viewer = stream.view(request)?;
    viewer.read_until(probe.patience, |all| all.events.len() >= expected.len());
    if expected.is_empty() {
        viewer.read_for(probe.quiet());
    }
    let events = viewer.events();
    let same = |(one, other): (&Event, &Event)| id(one) == id(other) && one.data == other.data;
    let is_so = events.len() >= expected.len() && events.iter().zip(expected).all(same);
    check(is_so, ids(expected), || match events.is_empty() {
        true => viewer.shown(),
        false => ids(&events),
    })?;
    Ok(events)
}

fn resume_header(probe: &Probe) -> Outcome {
    let (stream, events) = told(probe)?;
    gets(
        probe,
        &stream,
        &stream.get_after(id(&events[1])),
        &events[2..],
    )?;
    Ok(())
}

fn resume_each(probe: &Probe) -> Outcome {
    let (stream, events) = told(probe)?;
    for at in 0..events.len() {
        let after = stream.get_after(id(&events[at]));
        let came = gets(probe, &stream, &after, &events[at + 1..])?;
        let rest = events.len() - at - 1;
        check(came.len() == rest, format!("{rest} events"), || {
            format!("{} events", came.len())
        })?;
    }
    Ok(())
}

fn resume_bytes(probe: &Probe) -> Outcome {
    let (stream, events) = told(probe)?;
    let came = gets(
        probe,
        &stream,
        &stream.get_after(id(&events[0])),
        &events[1..],
    )?;
    match events[1..]
        .iter()
        .zip(&came)
        .find(|(one, other)| one.raw != other.raw)
    {
        Some((one, other)) => fail(shown(&one.raw), shown(&other.raw)),
        None => Ok(()),
    }
}

fn resume_head(probe: &Probe) -> Outcome {
    let (stream, events) = told(probe)?;
    let last = events.last().map(id).unwrap_or_default();
    let mut viewer = stream.view(&stream.get_after(last))?;
    viewer.read_for(probe.quiet());
    check(viewer.events().is_empty(), "nothing old", || viewer.shown())?;
    stream.append(COUNT + 1..=COUNT + 1)?;
    viewer.expect_marker(COUNT + 1)
}

fn resume_absent(probe: &Probe) -> Outcome {
    let (stream, events) = told(probe)?;
    // The viewer's connection is gone.
    stream.append(COUNT + 1..=COUNT + 3)?;
    let last = events.last().map(id).unwrap_or_default();
    let mut viewer = stream.view(&stream.get_after(last))?;
    viewer.read_until(probe.patience, |all| all.events.len() >= 3);
    let numbers = viewer.numbers(COUNT + 3);
    let expected: Vec<u32> = (COUNT + 1..=COUNT + 3).collect();
    check(
        numbers == expected,
        format!("the events {expected:?}"),
        || format!("{numbers:?}: {}", viewer.shown()),
    )
}

fn resume_stays(probe: &Probe) -> Outcome {
    let (stream, events) = told(probe)?;
    let last = events.last().map(id).unwrap_or_default();
    let mut viewer = stream.view(&stream.get_after(last))?;
    stream.append(COUNT + 1..=COUNT + 1)?;
    viewer.expect_marker(COUNT + 1)?;
    let new = viewer.events();
    let again = new
        .iter()
        .find(|event| events.iter().any(|old| id(old) == id(event)));
    check(again.is_none(), "a new id", || {
        again.map(|event| shown(&event.raw)).unwrap_or_default()
    })
}

fn header_case(probe: &Probe) -> Outcome {
    let (stream, events) = told(probe)?;
    let request = stream.get().header("LAST-EVENT-id", id(&events[1]));
    gets(probe, &stream, &request, &events[2..])?;
    Ok(())
}

fn header_empty(probe: &Probe) -> Outcome {
    let stream = probe.start()?;
    let mut viewer = stream.view(&stream.get_after(b""))?;
    stream.append(1..=1)?;
    viewer.expect_events(1)?;
    Ok(())
}

fn position_unknown(probe: &Probe) -> Outcome {
    let stream = probe.start()?;
    drop(stream.viewed(2)?);
    let position = probe.profile.unknown_position.as_bytes();
    let mut viewer = stream.view(&stream.get_after(position))?;
    let head = viewer.head()?;
    if head.status != 200 {
        return check(
            (400..500).contains(&head.status),
            "a stream, or a refusal",
            || viewer.shown(),
        );
    }
    // Either the stream begins again, or it goes on with new events.
    stream.append(3..=3)?;
    viewer.expect_events(1)?;
    Ok(())
}

/// A fault of the client's request is not a server error, and the server says so.
fn no_server_error(probe: &Probe, request: &Request) -> Outcome<Answer> {
    let answer = probe.ask(request)?;
    check(
        answer.head.status < 500,
        "a stream, or a refusal below 500",
        || answer.shown(),
    )?;
    let is_cut = answer.is_stream() && answer.end == Some(BodyEnd::Cut);
    check(!is_cut, "a stream that is not cut at once", || {
        answer.shown()
    })?;
    Ok(answer)
}

fn with_position(probe: &Probe, position: &[u8]) -> Outcome {
    let stream = probe.start()?;
    stream.append(1..=1)?;
    no_server_error(probe, &stream.get_after(position))?;
    Ok(())
}

fn position_malformed(probe: &Probe) -> Outcome {
    with_position(probe, probe.profile.malformed_position.as_bytes())
}

fn position_utf8(probe: &Probe) -> Outcome {
    with_position(probe, "日本語-é".as_bytes())
}

fn position_large(probe: &Probe) -> Outcome {
    with_position(probe, b"184467440737095516160")
}

fn position_negative(probe: &Probe) -> Outcome {
    with_position(probe, b"-1")
}

fn position_long(probe: &Probe) -> Outcome {
    with_position(probe, &[b'7'; 4096])
}

fn position_twice(probe: &Probe) -> Outcome {
    let stream = probe.start()?;
    stream.append(1..=1)?;
    no_server_error(probe, &stream.get_after(b"1").header("Last-Event-ID", "2"))?;
    Ok(())
}

fn position_query_broken(probe: &Probe) -> Outcome {
    let stream = probe.start()?;
    stream.append(1..=1)?;
    let mut request = stream.get();
    request.target = stream.path_with(&format!("{}=%ZZ%", probe.profile.query));
    no_server_error(probe, &request)?;
    Ok(())
}

fn replay(probe: &Probe) -> Outcome {
    let (stream, events) = told(probe)?;
    gets(probe, &stream, &stream.get(), &events)?;
    Ok(())
}

fn query(probe: &Probe) -> Outcome {
    let (stream, events) = told(probe)?;
    let mut request = stream.get();
    request.target = stream.path_with(&format!(
        "{}={}",
        probe.profile.query,
        percent(id(&events[1]))
    ));
    gets(probe, &stream, &request, &events[2..])?;
    Ok(())
}

fn query_header(probe: &Probe) -> Outcome {
    let (stream, events) = told(probe)?;
    let mut request = stream.get_after(id(&events[2]));
    request.target = stream.path_with(&format!(
        "{}={}",
        probe.profile.query,
        percent(id(&events[0]))
    ));
    gets(probe, &stream, &request, &events[3..])?;
    Ok(())
}

fn latest_request(probe: &Probe, stream: &Stream<'_>) -> Request {
    let mut request = stream.get();
    request.target = stream.path_with(&probe.profile.latest);
    request
}

fn latest(probe: &Probe) -> Outcome {
    let (stream, _) = told(probe)?;
    let mut viewer = stream.view(&latest_request(probe, &stream))?;
    viewer.read_for(probe.quiet());
    check(viewer.events().is_empty(), "nothing old", || viewer.shown())?;
    stream.append(COUNT + 1..=COUNT + 1)?;
    viewer.expect_marker(COUNT + 1)
}

fn latest_position(probe: &Probe) -> Outcome {
    let (stream, events) = told(probe)?;
    let mut viewer = stream.view(&latest_request(probe, &stream))?;
    let last = events.last().map(id).unwrap_or_default().to_vec();
    let told = viewer.read_until(probe.patience, |all| all.ids.last() == Some(&last));
    check(
        told,
        format!("the id {} without an event", shown(&last)),
        || viewer.shown(),
    )
}

fn reset(probe: &Probe) -> Outcome {
    let (stream, events) = told(probe)?;
    let position = probe.profile.unknown_position.as_bytes();
    let mut viewer = stream.view(&stream.get_after(position))?;
    viewer.read_until(probe.patience, |all| all.events.len() > events.len());
    let came = viewer.events();
    let is_told = came
        .first()
        .is_some_and(|event| event.event_type == probe.profile.reset.as_bytes());
    check(
        is_told,
        format!("an event of the type {}", probe.profile.reset),
        || viewer.shown(),
    )?;
    let follows = came.len() > events.len()
        && came[1..]
            .iter()
            .zip(&events)
            .all(|(one, other)| id(one) == id(other));
    check(follows, ids(&events), || ids(&came))
}

fn reset_id(probe: &Probe) -> Outcome {
    let (stream, _) = told(probe)?;
    let position = probe.profile.unknown_position.as_bytes();
    let mut viewer = stream.view(&stream.get_after(position))?;
    let events = viewer.expect_events(1)?;
    check(events[0].id.is_none(), "no id", || shown(&events[0].raw))
}

fn refused(probe: &Probe, request: &Request) -> Outcome {
    let answer = probe.ask(request)?;
    check(answer.head.status == 400, "400", || answer.shown())
}

fn malformed_400(probe: &Probe) -> Outcome {
    let stream = probe.start()?;
    stream.append(1..=1)?;
    refused(
        probe,
        &stream.get_after(probe.profile.malformed_position.as_bytes()),
    )
}

fn malformed_query_400(probe: &Probe) -> Outcome {
    let stream = probe.start()?;
    stream.append(1..=1)?;
    let mut request = stream.get();
    let position = percent(probe.profile.malformed_position.as_bytes());
    request.target = stream.path_with(&format!("{}={position}", probe.profile.query));
    refused(probe, &request)
}

fn twice_400(probe: &Probe) -> Outcome {
    let stream = probe.start()?;
    stream.append(1..=1)?;
    refused(probe, &stream.get_after(b"1").header("Last-Event-ID", "2"))
}
