//! Viewers: several of them, slow ones, silence, and the end.

use std::time::{Duration, Instant};

use super::{Case, Level, Need};
use crate::http::{BodyEnd, Connection, Framing, shown};
use crate::probe::{Outcome, Probe, Stream, Verdict, Viewer, check, fail, has, read_answer};
use crate::transcript::{Event, Transcript};

pub(super) const CASES: &[Case] = &[
    Case {
        id: "viewers-same",
        title: "viewers of a stream get the same bytes of each event",
        source: "WHATWG HTML 9.2.6",
        level: Level::Should,
        needs: &[Need::Append],
        body: viewers_same,
    },
    Case {
        id: "viewers-apart",
        title: "a stream has no events of another",
        source: "WHATWG HTML 9.2.3",
        level: Level::Must,
        needs: &[Need::Append, Need::Own],
        body: viewers_apart,
    },
    Case {
        id: "viewers-late",
        title: "a viewer who comes later gets the bytes that the others got",
        source: "extension",
        level: Level::Extension("replay"),
        needs: &[Need::Append],
        body: viewers_late,
    },
    Case {
        id: "viewers-vanish",
        title: "viewers who vanish disturb no other",
        source: "RFC 9112 9.5",
        level: Level::Must,
        needs: &[Need::Append],
        body: viewers_vanish,
    },
    Case {
        id: "slow-others",
        title: "a viewer who does not read delays no other",
        source: "RFC 9112 9.5",
        level: Level::Must,
        needs: &[Need::Append],
        body: slow_others,
    },
    Case {
        id: "slow-itself",
        title: "a viewer who did not read for a while has no gap in what it gets",
        source: "WHATWG HTML 9.2.3",
        level: Level::Should,
        needs: &[Need::Append, Need::Echo],
        body: slow_itself,
    },
    Case {
        id: "prompt",
        title: "an event comes within a second",
        source: "WHATWG HTML 9.2.7",
        level: Level::Should,
        needs: &[Need::Append],
        body: prompt,
    },
    Case {
        id: "head-prompt",
        title: "the head of a stream does not wait for the first event",
        source: "WHATWG HTML 9.2.3",
        level: Level::Should,
        needs: &[],
        body: head_prompt,
    },
    Case {
        id: "first-byte",
        title: "a stream begins with bytes at once, so that proxies pass on its head",
        source: "extension; WHATWG HTML 9.2.7",
        level: Level::Extension("first-byte"),
        needs: &[],
        body: first_byte,
    },
    Case {
        id: "heartbeat",
        title: "silence is broken by bytes in time",
        source: "WHATWG HTML 9.2.7",
        level: Level::Should,
        needs: &[],
        body: heartbeat,
    },
    Case {
        id: "heartbeat-comment",
        title: "heartbeats are not events and change no id",
        source: "WHATWG HTML 9.2.7",
        level: Level::Should,
        needs: &[],
        body: heartbeat_comment,
    },
    Case {
        id: "heartbeat-blank",
        title: "no blank line follows a heartbeat: some clients make an empty message of it",
        source: "WHATWG HTML 9.2.6",
        level: Level::Should,
        needs: &[],
        body: heartbeat_blank,
    },
    Case {
        id: "end-closes",
        title: "a stream that has ended is closed",
        source: "extension; WHATWG HTML 9.2.3",
        level: Level::Extension("end"),
        needs: &[Need::End],
        body: end_closes,
    },
    Case {
        id: "end-complete",
        title: "the last event of a stream is complete",
        source: "WHATWG HTML 9.2.6",
        level: Level::Must,
        needs: &[Need::End],
        body: end_complete,
    },
    Case {
        id: "end-framing",
        title: "a stream that has ended ends as its framing says, and is not cut",
        source: "RFC 9112 7.1, 8",
        level: Level::Must,
        needs: &[Need::End],
        body: end_framing,
    },
    Case {
        id: "end-204",
        title: "a client that comes back after the end gets 204, and stops",
        source: "extension; WHATWG HTML 9.2.3",
        level: Level::Extension("end"),
        needs: &[Need::End],
        body: end_204,
    },
    Case {
        id: "end-204-empty",
        title: "204 has no body, and no length",
        source: "RFC 9110 15.3.5, 8.6",
        level: Level::Extension("end"),
        needs: &[Need::End],
        body: end_204_empty,
    },
    Case {
        id: "end-204-cache",
        title: "204 may not be stored by caches as it is",
        source: "RFC 9111 4.2.2; RFC 9110 15.3.5",
        level: Level::Extension("end"),
        needs: &[Need::End],
        body: end_204_cache,
    },
    Case {
        id: "end-rest",
        title: "a client that comes back from before the end gets the rest, and then the end",
        source: "extension; WHATWG HTML 9.2.4",
        level: Level::Extension("end"),
        needs: &[Need::End],
        body: end_rest,
    },
    Case {
        id: "end-replay",
        title: "a client that first comes after the end gets everything, and then the end",
        source: "extension",
        level: Level::Extension("end"),
        needs: &[Need::End],
        body: end_replay,
    },
    Case {
        id: "end-connection",
        title: "after 204 the connection goes on, or the server said that it closes",
        source: "RFC 9112 9.3, 9.6",
        level: Level::Extension("end"),
        needs: &[Need::End],
        body: end_connection,
    },
];

fn raw_of(events: &[Event], probe: &Probe, most: u32) -> Vec<Vec<u8>> {
    let markers: Vec<String> = (1..=most).map(|n| probe.profile.marker_of(n)).collect();
    let ours = events
        .iter()
        .filter(|event| markers.iter().any(|marker| has(event, marker)));
    ours.map(|event| event.raw.clone()).collect()
}

fn viewers_same(probe: &Probe) -> Outcome {
    const COUNT: u32 = 5;
    let stream = probe.start()?;
    let mut viewers = (0..4)
        .map(|_| stream.view(&stream.get()))
        .collect::<Outcome<Vec<_>>>()?;
    stream.append(1..=COUNT)?;
    let mut seen: Vec<Vec<Vec<u8>>> = Vec::new();
    for viewer in &mut viewers {
        viewer.expect_marker(COUNT)?;
        seen.push(raw_of(&viewer.events(), probe, COUNT));
    }
    match seen.iter().find(|other| **other != seen[0]) {
        Some(other) => fail(shown(&seen[0].concat()), shown(&other.concat())),
        None => Ok(()),
    }
}

fn viewers_apart(probe: &Probe) -> Outcome {
    let (one, other) = (probe.start()?, probe.start()?);
    let mut viewer = one.view(&one.get())?;
    let mut others = other.view(&other.get())?;
    one.append(1..=2)?;
    viewer.expect_marker(2)?;
    others.read_for(probe.quiet());
    let numbers = others.numbers(2);
    check(numbers.is_empty(), "no event of another stream", || {
        others.shown()
    })
}

fn viewers_late(probe: &Probe) -> Outcome {
    const COUNT: u32 = 5;
    let stream = probe.start()?;
    let first = stream.viewed(COUNT)?;
    let mut late = stream.view(&stream.get())?;
    late.expect_marker(COUNT)?;
    let expected = raw_of(&first.events(), probe, COUNT).concat();
    let got = raw_of(&late.events(), probe, COUNT).concat();
    check(expected == got, shown(&expected), || shown(&got))
}

fn viewers_vanish(probe: &Probe) -> Outcome {
    let stream = probe.start()?;
    let mut stays = stream.view(&stream.get())?;
    for _ in 0..20 {
        // Some have the beginning of their answer, some do not.
        drop(Viewer::open(probe, &stream.get())?);
    }
    let leavers = (0..5)
        .map(|_| stream.view(&stream.get()))
        .collect::<Outcome<Vec<_>>>()?;
    stream.append(1..=1)?;
    drop(leavers);
    stream.append(2..=4)?;
    stays.expect_marker(4)?;
    let numbers = stays.numbers(4);
    check(numbers == [1, 2, 3, 4], "the events [1, 2, 3, 4]", || {
        format!("{numbers:?}")
    })
}

/// More bytes than the buffers of the two systems hold.
fn flood(stream: &Stream<'_>) -> Outcome<usize> {
    const COUNT: usize = 80;
    let text = "flood ".repeat(16 * 1024);
    for _ in 0..COUNT {
        let status = stream.append_text(text.as_bytes(), "message")?;
        check(
            (200..400).contains(&status),
            "an event of 96 KiB that is taken",
            || format!("status {status}"),
        )?;
    }
    Ok(COUNT)
}

fn slow_others(probe: &Probe) -> Outcome {
    let stream = probe.start()?;
    let slow = stream.view(&stream.get())?;
    let mut other = stream.view(&stream.get())?;
    if probe.profile.echo {
        flood(&stream)?;
    } else {
        stream.append(2..=200)?;
    }
    let before = Instant::now();
    stream.append(1..=1)?;
    let late = Duration::from_secs(10) + probe.patience;
    let marker = probe.profile.marker_of(1);
    let came = other.read_until(late, |all| {
        all.events.iter().any(|event| has(event, &marker))
    });
    check(
        came,
        "the event after the others, while one viewer does not read",
        || {
            format!(
                "{} events within {:?}",
                other.events().len(),
                before.elapsed()
            )
        },
    )?;
    drop(slow);
    Ok(())
}

fn slow_itself(probe: &Probe) -> Outcome {
    let stream = probe.start()?;
    let mut slow = stream.view(&stream.get())?;
    stream.append(1..=1)?;
    let count = flood(&stream)? + 2;
    stream.append(2..=2)?;
    // The viewer has read nothing so far.
    let late = Duration::from_secs(10) + probe.patience;
    let ours = |events: &[Event]| {
        let first = probe.profile.marker_of(1);
        events
            .iter()
            .skip_while(|event| !has(event, &first))
            .cloned()
            .collect::<Vec<_>>()
    };
    slow.read_until(late, |all| ours(&all.events).len() >= count);
    let mut got = ours(&slow.events());
    if got.len() < count {
        // The viewer was cut off, and comes back.
        let Some(last) = got.last().and_then(|event| event.id.clone()) else {
            return fail(
                format!("{count} events, or ids to come back with"),
                slow.shown(),
            );
        };
        let mut again = stream.view(&stream.get_after(&last))?;
        let missing = count - got.len();
        again.read_until(late, |all| all.events.len() >= missing);
        got.extend(again.events());
    }
    let last = probe.profile.marker_of(2);
    let is_whole = got.len() == count && got.last().is_some_and(|event| has(event, &last));
    check(is_whole, format!("{count} events, each once"), || {
        format!("{} events", got.len())
    })
}

fn prompt(probe: &Probe) -> Outcome {
    let stream = probe.start()?;
    let mut viewer = stream.view(&stream.get())?;
    stream.append(1..=1)?;
    viewer.expect_marker(1)?;
    stream.append(2..=2)?;
    let before = Instant::now();
    viewer.expect_marker(2)?;
    let time = before.elapsed();
    check(
        time < Duration::from_secs(1),
        "an event within a second",
        || format!("{time:?}"),
    )
}

fn head_prompt(probe: &Probe) -> Outcome {
    let stream = probe.start()?;
    let before = Instant::now();
    let mut viewer = Viewer::open(probe, &stream.get())?;
    viewer.head()?;
    let time = before.elapsed();
    check(time < Duration::from_secs(2), "a head within 2 s", || {
        format!("{time:?}")
    })
}

/// A viewer that has everything, of a stream that is silent from now on.
fn silent(probe: &Probe) -> Outcome<(Stream<'_>, Viewer<'_>)> {
    let stream = probe.start()?;
    let viewer = stream.viewed(2)?;
    Ok((stream, viewer))
}

fn first_byte(probe: &Probe) -> Outcome {
    let (stream, mut viewer) = silent(probe)?;
    viewer.read_for(probe.quiet());
    let last = viewer.events().into_iter().rev().find_map(|event| event.id);
    let request = match last {
        Some(id) => stream.get_after(&id),
        None => stream.get(),
    };
    let mut viewer = Viewer::open(probe, &request)?;
    viewer.read_for(Duration::from_secs(1));
    check(
        !viewer.body.is_empty(),
        "a byte of the body within a second",
        || viewer.shown(),
    )
}

/// The bytes of a silence, once there are any.
fn silence(probe: &Probe) -> Outcome<(Transcript, Transcript)> {
    let (_stream, mut viewer) = silent(probe)?;
    // Servers whose streams begin on their own are not silent yet.
    let longest = probe.profile.heartbeat() * 2 + probe.patience;
    let until = Instant::now() + longest;
    let mut before = viewer.transcript();
    while Instant::now() < until {
        let length = viewer.body.len();
        let comments = before.comments.len();
        viewer.read_until(Duration::from_millis(250), |all| {
            all.comments.len() > comments
        });
        if viewer.end().is_some() {
            return fail("a stream that stays open", viewer.shown());
        }
        let now = viewer.transcript();
        // Nobody appends here, so an event is a heartbeat, too, unless the stream has events of its own.
        if now.events.len() > before.events.len() && probe.profile.append.is_none() {
            before = now;
        } else if viewer.body.len() > length {
            viewer.read_for(Duration::from_millis(100));
            return Ok((before, viewer.transcript()));
        }
    }
    fail(format!("bytes within {longest:?} of silence"), "none")
}

fn heartbeat(probe: &Probe) -> Outcome {
    silence(probe).map(drop)
}

fn heartbeat_comment(probe: &Probe) -> Outcome {
    let (before, after) = silence(probe)?;
    check(after.ids == before.ids, "no id", || {
        shown(after.ids.last().map_or(&[], |id| id))
    })?;
    let new = after.events.get(before.events.len());
    match new {
        Some(event) => fail("a comment", shown(&event.raw)),
        None => check(
            after.comments.len() > before.comments.len(),
            "a comment",
            || "none".to_owned(),
        ),
    }
}

fn heartbeat_blank(probe: &Probe) -> Outcome {
    let (before, after) = silence(probe)?;
    let hollow = |all: &Transcript| {
        let blocks = all.blocks.iter();
        blocks
            .filter(|block| block.is_complete && block.fields.is_empty())
            .count()
    };
    check(
        hollow(&after) == hollow(&before),
        "a comment, and no blank line",
        || "a blank line with no event before it".to_owned(),
    )
}

/// A stream that has ended, and everything that a viewer got of it.
fn ended(probe: &Probe) -> Outcome<(Stream<'_>, Viewer<'_>)> {
    let stream = probe.start()?;
    let mut viewer = stream.viewed(2)?;
    let longest = probe.patience.max(Duration::from_secs(2)) * 2;
    if let Some(marker) = &probe.profile.end_after {
        let may_end = viewer.read_until(longest, |all| {
            all.events.iter().any(|event| has(event, marker))
        });
        check(
            may_end,
            format!("an event with {}", shown(marker.as_bytes())),
            || viewer.shown(),
        )?;
    }
    stream.end()?;
    let until = Instant::now() + longest;
    while viewer.end().is_none() && viewer.trouble().is_none() && Instant::now() < until {
        viewer.read_for(Duration::from_millis(200));
    }
    Ok((stream, viewer))
}

fn last_id(viewer: &Viewer<'_>) -> Outcome<Vec<u8>> {
    match viewer.events().into_iter().rev().find_map(|event| event.id) {
        Some(id) => Ok(id),
        None => fail("events with ids", viewer.shown()),
    }
}

fn end_closes(probe: &Probe) -> Outcome {
    let (_, viewer) = ended(probe)?;
    check(viewer.end().is_some(), "a stream that is closed", || {
        viewer.shown()
    })
}

fn end_complete(probe: &Probe) -> Outcome {
    let (_, viewer) = ended(probe)?;
    let all = viewer.transcript();
    let is_complete = all.rest.is_empty()
        && all
            .blocks
            .last()
            .is_none_or(|block| block.is_complete || block.fields.is_empty());
    check(is_complete, "a blank line after the last event", || {
        shown(&viewer.body[viewer.body.len().saturating_sub(80)..])
    })
}

fn end_framing(probe: &Probe) -> Outcome {
    let (_, viewer) = ended(probe)?;
    match viewer.end() {
        None => Err(Verdict::Skipped("the stream stays open".to_owned())),
        Some(end) => check(
            end == BodyEnd::Whole && viewer.trouble().is_none(),
            "the last chunk, or its like",
            || format!("the end of the connection: {}", viewer.shown()),
        ),
    }
}

fn after_end(probe: &Probe) -> Outcome<(Stream<'_>, crate::probe::Answer)> {
    let (stream, viewer) = ended(probe)?;
    let answer = probe.ask(&stream.get_after(&last_id(&viewer)?))?;
    check(answer.head.status == 204, "204", || answer.shown())?;
    Ok((stream, answer))
}

fn end_204(probe: &Probe) -> Outcome {
    after_end(probe).map(drop)
}

fn end_204_empty(probe: &Probe) -> Outcome {
    let (_, answer) = after_end(probe)?;
    for name in ["content-length", "transfer-encoding"] {
        let value = answer.head.get(name);
        check(value.is_none(), format!("no {name}"), || {
            value.clone().unwrap_or_default()
        })?;
    }
    Ok(())
}

fn end_204_cache(probe: &Probe) -> Outcome {
    let (_, answer) = after_end(probe)?;
    let is_fresh = ["no-store", "no-cache"]
        .iter()
        .any(|word| answer.head.has("cache-control", word));
    check(is_fresh, "cache-control: no-store or no-cache", || {
        answer
            .head
            .get("cache-control")
            .unwrap_or_else(|| "none".to_owned())
    })
}

fn until_end(
    probe: &Probe,
    stream: &Stream<'_>,
    request: &crate::http::Request,
    expected: &[Event],
) -> Outcome {
    let mut viewer = stream.view(request)?;
    viewer.read_for(probe.patience);
    check(
        viewer.end() == Some(BodyEnd::Whole),
        "a stream that is closed",
        || viewer.shown(),
    )?;
    let got: Vec<Vec<u8>> = viewer.events().into_iter().map(|event| event.raw).collect();
    let expected: Vec<Vec<u8>> = expected.iter().map(|event| event.raw.clone()).collect();
    check(got == expected, shown(&expected.concat()), || {
        viewer.shown()
    })
}

fn end_rest(probe: &Probe) -> Outcome {
    let (stream, viewer) = ended(probe)?;
    let events = viewer.events();
    let Some(id) = events[0].id.clone() else {
        return fail("events with ids", viewer.shown());
    };
    until_end(probe, &stream, &stream.get_after(&id), &events[1..])
}

fn end_replay(probe: &Probe) -> Outcome {
    let (stream, viewer) = ended(probe)?;
    until_end(probe, &stream, &stream.get(), &viewer.events())
}

fn end_connection(probe: &Probe) -> Outcome {
    let (stream, viewer) = ended(probe)?;
    let request = probe.with_headers(&stream.get_after(&last_id(&viewer)?));
    let trouble = |trouble: crate::http::Trouble| Verdict::Failed {
        expected: "a second answer on the connection".to_owned(),
        got: trouble.to_string(),
    };
    let mut connection = Connection::open(&probe.host, probe.patience).map_err(trouble)?;
    for _ in 0..2 {
        connection.send(&request).map_err(trouble)?;
        let until = Instant::now() + probe.patience;
        let answer = read_answer(&mut connection, until, probe.quiet()).map_err(trouble)?;
        check(answer.head.status == 204, "204", || answer.shown())?;
        check(answer.framing == Some(Framing::Empty), "no body", || {
            answer.shown()
        })?;
        if answer.head.has("connection", "close") {
            return Ok(());
        }
    }
    Ok(())
}
