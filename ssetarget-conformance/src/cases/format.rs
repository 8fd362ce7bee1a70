//! The format: the bytes on the wire are as WHATWG HTML, section 9.2.5, says.

use std::time::Duration;

use super::{Case, Level, Need};
use crate::http::shown;
use crate::probe::{Outcome, Probe, check, fail, has};
use crate::transcript::{Event, Transcript};

pub(super) const CASES: &[Case] = &[
    Case {
        id: "status",
        title: "a stream has status 200",
        source: "WHATWG HTML 9.2.3",
        level: Level::Must,
        needs: &[],
        body: status,
    },
    Case {
        id: "content-type",
        title: "a stream is text/event-stream",
        source: "WHATWG HTML 9.2.3",
        level: Level::Must,
        needs: &[],
        body: content_type,
    },
    Case {
        id: "charset",
        title: "a charset, where there is one, is utf-8",
        source: "WHATWG HTML 17.7",
        level: Level::Must,
        needs: &[],
        body: charset,
    },
    Case {
        id: "utf-8",
        title: "a stream is UTF-8",
        source: "WHATWG HTML 9.2.5",
        level: Level::Must,
        needs: &[],
        body: utf8,
    },
    Case {
        id: "bom",
        title: "a stream does not begin with a byte order mark",
        source: "WHATWG HTML 9.2.5",
        level: Level::Should,
        needs: &[],
        body: bom,
    },
    Case {
        id: "bom-inside",
        title: "no later line begins with a byte order mark",
        source: "WHATWG HTML 9.2.5",
        level: Level::Must,
        needs: &[],
        body: bom_inside,
    },
    Case {
        id: "line-ends",
        title: "all lines end alike, and not with CR alone",
        source: "WHATWG HTML 9.2.5",
        level: Level::Should,
        needs: &[],
        body: line_ends,
    },
    Case {
        id: "field-names",
        title: "fields have names that clients know",
        source: "WHATWG HTML 9.2.6",
        level: Level::Should,
        needs: &[],
        body: field_names,
    },
    Case {
        id: "event-complete",
        title: "an event is complete when it comes, and does not wait for the next",
        source: "WHATWG HTML 9.2.6",
        level: Level::Must,
        needs: &[Need::Append],
        body: event_complete,
    },
    Case {
        id: "hollow-blocks",
        title: "no block is without data, but for one with an id",
        source: "WHATWG HTML 9.2.6",
        level: Level::Should,
        needs: &[],
        body: hollow_blocks,
    },
    Case {
        id: "id-nul",
        title: "no id has a NUL",
        source: "WHATWG HTML 9.2.6",
        level: Level::Must,
        needs: &[],
        body: id_nul,
    },
    Case {
        id: "id-header",
        title: "ids can be sent in a header: printable ASCII, at most 1,024 bytes",
        source: "WHATWG HTML 9.2.4; RFC 9110 5.5",
        level: Level::Should,
        needs: &[],
        body: id_header,
    },
    Case {
        id: "id-present",
        title: "every event has an id of its own",
        source: "WHATWG HTML 9.2.4",
        level: Level::Should,
        needs: &[],
        body: id_present,
    },
    Case {
        id: "id-unique",
        title: "no two events of a stream have the same id",
        source: "WHATWG HTML 9.2.4",
        level: Level::Must,
        needs: &[],
        body: id_unique,
    },
    Case {
        id: "retry-digits",
        title: "`retry:` has digits only",
        source: "WHATWG HTML 9.2.6",
        level: Level::Must,
        needs: &[],
        body: retry_digits,
    },
    Case {
        id: "retry-sane",
        title: "`retry:` is from 100 ms to 10 minutes",
        source: "WHATWG HTML 9.2.3",
        level: Level::Should,
        needs: &[],
        body: retry_sane,
    },
    Case {
        id: "order",
        title: "events come in order, each once",
        source: "WHATWG HTML 9.2.6",
        level: Level::Must,
        needs: &[Need::Append],
        body: order,
    },
    Case {
        id: "type",
        title: "the type is the one that was given",
        source: "WHATWG HTML 9.2.6",
        level: Level::Must,
        needs: &[Need::Type, Need::Echo],
        body: event_type,
    },
    Case {
        id: "type-line-end",
        title: "a line end in a type makes no field",
        source: "WHATWG HTML 9.2.5",
        level: Level::Must,
        needs: &[Need::Type, Need::Echo],
        body: type_line_end,
    },
    Case {
        id: "data-lf",
        title: "data keeps its line feeds",
        source: "WHATWG HTML 9.2.6",
        level: Level::Must,
        needs: &[Need::Echo],
        body: data_lf,
    },
    Case {
        id: "data-blank-lines",
        title: "a blank line in data does not end the event",
        source: "WHATWG HTML 9.2.6",
        level: Level::Must,
        needs: &[Need::Echo],
        body: data_blank_lines,
    },
    Case {
        id: "data-trailing-lf",
        title: "data keeps a line feed at its end",
        source: "WHATWG HTML 9.2.6",
        level: Level::Should,
        needs: &[Need::Echo],
        body: data_trailing_lf,
    },
    Case {
        id: "data-cr",
        title: "CR in data makes no field and loses no text",
        source: "WHATWG HTML 9.2.5",
        level: Level::Must,
        needs: &[Need::Echo],
        body: data_cr,
    },
    Case {
        id: "data-crlf",
        title: "CR LF in data makes no field and loses no text",
        source: "WHATWG HTML 9.2.5",
        level: Level::Must,
        needs: &[Need::Echo],
        body: data_crlf,
    },
    Case {
        id: "data-space",
        title: "data keeps a space at its beginning",
        source: "WHATWG HTML 9.2.6",
        level: Level::Must,
        needs: &[Need::Echo],
        body: data_space,
    },
    Case {
        id: "data-colon",
        title: "data may begin with a colon",
        source: "WHATWG HTML 9.2.6",
        level: Level::Must,
        needs: &[Need::Echo],
        body: data_colon,
    },
    Case {
        id: "data-empty",
        title: "an event may have empty data, or is refused",
        source: "WHATWG HTML 9.2.6",
        level: Level::Should,
        needs: &[Need::Echo],
        body: data_empty,
    },
    Case {
        id: "data-bom",
        title: "data may begin with a byte order mark",
        source: "WHATWG HTML 9.2.5",
        level: Level::Must,
        needs: &[Need::Echo],
        body: data_bom,
    },
    Case {
        id: "data-controls",
        title: "data keeps other controls, or is refused",
        source: "WHATWG HTML 9.2.5",
        level: Level::Should,
        needs: &[Need::Echo],
        body: data_controls,
    },
    Case {
        id: "data-separators",
        title: "U+0085, U+2028 and U+2029 end no line",
        source: "WHATWG HTML 9.2.5",
        level: Level::Must,
        needs: &[Need::Echo],
        body: data_separators,
    },
    Case {
        id: "data-utf-8",
        title: "characters of 2 to 4 bytes survive wherever a chunk ends",
        source: "WHATWG HTML 9.2.5; RFC 3629 3",
        level: Level::Must,
        needs: &[Need::Echo],
        body: data_utf8,
    },
    Case {
        id: "data-long",
        title: "an event of 256 KiB comes whole, or is refused",
        source: "WHATWG HTML 9.2.6",
        level: Level::Should,
        needs: &[Need::Echo],
        body: data_long,
    },
];

/// The transcript that a viewer gets of a stream with a few events.
fn seen(probe: &Probe) -> Outcome<Transcript> {
    let stream = probe.start()?;
    let mut viewer = stream.viewed(3)?;
    viewer.read_for(probe.quiet());
    Ok(viewer.transcript())
}

fn status(probe: &Probe) -> Outcome {
    let stream = probe.start()?;
    let mut viewer = stream.view(&stream.get())?;
    stream.append(1..=1)?;
    let head = viewer.head()?;
    check(head.status == 200, "status 200", || head.status.to_string())
}

fn content_type(probe: &Probe) -> Outcome {
    let stream = probe.start()?;
    let mut viewer = stream.view(&stream.get())?;
    stream.append(1..=1)?;
    let value = viewer.head()?.get("content-type").unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim();
    check(
        essence.eq_ignore_ascii_case("text/event-stream"),
        "text/event-stream",
        || shown(value.as_bytes()),
    )
}

fn charset(probe: &Probe) -> Outcome {
    let stream = probe.start()?;
    let mut viewer = stream.view(&stream.get())?;
    stream.append(1..=1)?;
    let value = viewer.head()?.get("content-type").unwrap_or_default();
    let mut parameters = value
        .split(';')
        .skip(1)
        .filter_map(|part| part.split_once('='));
    let charset = parameters.find(|(name, _)| name.trim().eq_ignore_ascii_case("charset"));
    let Some((_, charset)) = charset else {
        return Ok(());
    };
    let is_utf8 = charset
        .trim()
        .trim_matches('"')
        .eq_ignore_ascii_case("utf-8");
    check(is_utf8, "charset=utf-8, or none", || {
        shown(value.as_bytes())
    })
}

fn utf8(probe: &Probe) -> Outcome {
    let stream = probe.start()?;
    let viewer = stream.viewed(3)?;
    // The last character may not be complete yet.
    let bytes = &viewer.body;
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_some() => fail(
            "UTF-8",
            shown(&bytes[error.valid_up_to().saturating_sub(40)..]),
        ),
        _ => Ok(()),
    }
}

fn bom(probe: &Probe) -> Outcome {
    check(!seen(probe)?.has_bom, "no byte order mark", || {
        "one at the beginning".to_owned()
    })
}

fn bom_inside(probe: &Probe) -> Outcome {
    let boms = seen(probe)?.inner_boms;
    check(
        boms == 0,
        "no byte order mark at the beginning of a line",
        || format!("{boms} of them"),
    )
}

fn line_ends(probe: &Probe) -> Outcome {
    use crate::transcript::LineEnd::{Cr, CrLf, Lf};
    let ends = seen(probe)?.line_ends;
    check(
        matches!(ends[..], [Lf] | [CrLf]),
        "LF, or CR LF, at the end of all lines",
        || {
            let names = ends.iter().map(|end| match end {
                Lf => "LF",
                Cr => "CR",
                CrLf => "CR LF",
            });
            names.collect::<Vec<_>>().join(" and ")
        },
    )
}

fn field_names(probe: &Probe) -> Outcome {
    const KNOWN: [&[u8]; 4] = [b"data", b"event", b"id", b"retry"];
    let all = seen(probe)?;
    let mut fields = all.blocks.iter().flat_map(|block| &block.fields);
    match fields.find(|(name, _)| !KNOWN.contains(&&name[..])) {
        Some((name, _)) => fail("data, event, id and retry only", shown(name)),
        None => Ok(()),
    }
}

fn event_complete(probe: &Probe) -> Outcome {
    let stream = probe.start()?;
    let mut viewer = stream.view(&stream.get())?;
    for n in 1..=3 {
        stream.append(n..=n)?;
        viewer.expect_marker(n)?;
    }
    Ok(())
}

fn hollow_blocks(probe: &Probe) -> Outcome {
    let all = seen(probe)?;
    let has = |block: &crate::transcript::Block, name: &[u8]| {
        block.fields.iter().any(|(key, _)| key == name)
    };
    let hollow = all
        .blocks
        .iter()
        .find(|block| block.is_complete && !has(block, b"data") && !has(block, b"id"));
    match hollow {
        Some(block) => fail(
            "no blank line without data before it: some clients make an empty message of it",
            format!(
                "a blank line after {} comments and {}",
                block.comments,
                shown(&block.raw)
            ),
        ),
        None => Ok(()),
    }
}

fn id_nul(probe: &Probe) -> Outcome {
    match seen(probe)?.ids.iter().find(|id| id.contains(&0)) {
        Some(id) => fail("ids without NUL, which clients would ignore", shown(id)),
        None => Ok(()),
    }
}

fn id_header(probe: &Probe) -> Outcome {
    let all = seen(probe)?;
    let is_fine = |id: &[u8]| {
        let inside = id.iter().all(|byte| (b' '..=b'~').contains(byte));
        inside && id.len() <= 1024 && id.first() != Some(&b' ') && id.last() != Some(&b' ')
    };
    match all.ids.iter().find(|id| !is_fine(id)) {
        Some(id) => fail(
            "ids of printable ASCII, not longer than 1,024 bytes",
            shown(id),
        ),
        None => Ok(()),
    }
}

fn id_present(probe: &Probe) -> Outcome {
    let all = seen(probe)?;
    match all
        .events
        .iter()
        .find(|event| event.id.as_ref().is_none_or(Vec::is_empty))
    {
        Some(event) => fail("an id in every event, to come back with", shown(&event.raw)),
        None => Ok(()),
    }
}

fn id_unique(probe: &Probe) -> Outcome {
    let all = seen(probe)?;
    let ids: Vec<&[u8]> = all
        .events
        .iter()
        .filter_map(|event| event.id.as_deref())
        .collect();
    let twice = ids
        .iter()
        .enumerate()
        .find(|(at, id)| ids[..*at].contains(id));
    match twice {
        Some((_, id)) => fail("another id for each event", format!("{} twice", shown(id))),
        None => Ok(()),
    }
}

fn retry_digits(probe: &Probe) -> Outcome {
    let all = seen(probe)?;
    let is_number = |value: &Vec<u8>| !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    match all.retries.iter().find(|value| !is_number(value)) {
        Some(value) => fail("digits", shown(value)),
        None => Ok(()),
    }
}

fn retry_sane(probe: &Probe) -> Outcome {
    let all = seen(probe)?;
    let number = |value: &Vec<u8>| {
        std::str::from_utf8(value)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    let strange = all
        .retries
        .iter()
        .find(|value| number(value).is_some_and(|time| !(100..=600_000).contains(&time)));
    match strange {
        Some(value) => fail("from 100 to 600000", shown(value)),
        None => Ok(()),
    }
}

fn order(probe: &Probe) -> Outcome {
    const COUNT: u32 = 9;
    let stream = probe.start()?;
    let mut viewer = stream.viewed(COUNT)?;
    viewer.read_for(probe.quiet());
    let numbers = viewer.numbers(COUNT);
    let expected: Vec<u32> = (1..=COUNT).collect();
    check(
        numbers == expected,
        format!("the events {expected:?}"),
        || format!("{numbers:?}"),
    )
}

/// Appends data between two known events. Returns the events in between, or `None` if the server refuses the data.
fn echo(probe: &Probe, text: &[u8], event_type: &str) -> Outcome<Option<Vec<Event>>> {
    let stream = probe.start()?;
    let mut viewer = stream.view(&stream.get())?;
    stream.append(1..=1)?;
    viewer.expect_marker(1)?;
    let before = viewer.events().len();
    let status = stream.append_text(text, event_type)?;
    stream.append(2..=2)?;
    viewer.expect_marker(2)?;
    let events = viewer.events();
    let marker = probe.profile.marker_of(2);
    let between = events[before..]
        .iter()
        .take_while(|event| !has(event, &marker));
    let between: Vec<Event> = between.cloned().collect();
    match status {
        200..400 => Ok(Some(between)),
        400..500 => check(between.is_empty(), "nothing of the refused append", || {
            shown(&between[0].raw)
        })
        .map(|()| None),
        _ => fail(
            "an event that is taken, or refused with 4xx",
            format!("status {status}"),
        ),
    }
}

/// One event with this data.
fn echoes(probe: &Probe, text: &str) -> Outcome {
    match echo(probe, text.as_bytes(), "message")? {
        Some(events) => one(&events, &[text]),
        None => fail(
            format!("an event with the data {}", shown(text.as_bytes())),
            "a refusal",
        ),
    }
}

/// One event with this data, or none if it is refused.
fn echoes_or_refuses(probe: &Probe, text: &str) -> Outcome {
    match echo(probe, text.as_bytes(), "message")? {
        Some(events) => one(&events, &[text]),
        None => Ok(()),
    }
}

fn one(events: &[Event], texts: &[&str]) -> Outcome {
    let is_one =
        matches!(events, [event] if texts.iter().any(|text| event.data == text.as_bytes()));
    check(
        is_one,
        format!("one event with the data {}", shown(texts[0].as_bytes())),
        || match events {
            [] => "no event".to_owned(),
            [event] => format!("the data {}", shown(&event.data)),
            more => format!(
                "{} events, the first with the data {}",
                more.len(),
                shown(&more[0].data)
            ),
        },
    )
}

fn event_type(probe: &Probe) -> Outcome {
    let events = echo(probe, b"typed", "step.done")?.unwrap_or_default();
    one(&events, &["typed"])?;
    let came = &events[0].event_type;
    check(came == b"step.done", "the type step.done", || shown(came))
}

fn type_line_end(probe: &Probe) -> Outcome {
    for event_type in [
        "a\ndata: injected",
        "a\rid: 999999",
        "a\r\n\r\ndata: injected",
    ] {
        let events = echo(probe, b"typed", event_type)?.unwrap_or_default();
        let injected = events
            .iter()
            .find(|event| event.data != b"typed" || event.id.as_deref() == Some(b"999999"));
        if let Some(event) = injected {
            return fail("a refusal, or a type without a line end", shown(&event.raw));
        }
        check(events.len() <= 1, "one event at most", || {
            format!("{} events", events.len())
        })?;
    }
    Ok(())
}

fn data_lf(probe: &Probe) -> Outcome {
    echoes(probe, "first\nsecond\nid: 999999\nthird")
}

fn data_blank_lines(probe: &Probe) -> Outcome {
    echoes(probe, "first\n\n\nevent: injected\n\nlast")
}

fn data_trailing_lf(probe: &Probe) -> Outcome {
    echoes(probe, "text\n")
}

/// A CR cannot be sent: it comes as a line feed, or not at all. The standard does not say whether CR LF is one line
/// end or two.
fn without_cr(probe: &Probe, text: &str) -> Outcome {
    let once = text.replace("\r\n", "\n").replace('\r', "\n");
    match echo(probe, text.as_bytes(), "message")? {
        None => Ok(()),
        Some(events) => {
            let came = events
                .first()
                .map(|event| String::from_utf8_lossy(&event.data).into_owned());
            let lines = |text: &str| -> Vec<String> {
                let lines = text.split('\n').filter(|line| !line.is_empty());
                lines.map(str::to_owned).collect()
            };
            match came {
                Some(came) if events.len() == 1 && lines(&came) == lines(&once) => Ok(()),
                _ => one(&events, &[&once]),
            }
        }
    }
}

fn data_cr(probe: &Probe) -> Outcome {
    without_cr(probe, "first\rid: 999999\rdata: second\r\rlast")
}

fn data_crlf(probe: &Probe) -> Outcome {
    without_cr(probe, "first\r\nid: 999999\r\n\r\nlast")
}

fn data_space(probe: &Probe) -> Outcome {
    echoes(probe, "  two spaces")
}

fn data_colon(probe: &Probe) -> Outcome {
    echoes(probe, ": no comment\n:")
}

fn data_empty(probe: &Probe) -> Outcome {
    echoes_or_refuses(probe, "")
}

fn data_bom(probe: &Probe) -> Outcome {
    echoes(probe, "\u{feff}marked\n\u{feff}again")
}

fn data_controls(probe: &Probe) -> Outcome {
    echoes_or_refuses(probe, "a\0b\u{1}c\u{b}d\u{c}e\u{1b}f\u{7f}g\th")
}

fn data_separators(probe: &Probe) -> Outcome {
    echoes(probe, "a\u{85}b\u{2028}c\u{2029}d")
}

fn data_utf8(probe: &Probe) -> Outcome {
    // 11 bytes: no common factor with the sizes of buffers.
    echoes(probe, &"é€𝄞xy".repeat(6_007))
}

fn data_long(probe: &Probe) -> Outcome {
    let text = "0123456789abcdef".repeat(16 * 1024);
    let probe = Probe {
        host: probe.host.clone(),
        profile: probe.profile.clone(),
        patience: probe.patience.max(Duration::from_secs(3)),
    };
    echoes_or_refuses(&probe, &text)
}
