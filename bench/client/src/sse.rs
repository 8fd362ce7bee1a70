//! Events out of bytes: their ids, and the number that the driver put into their data.

/// Reads one stream as it comes, a line at a time.
#[derive(Default)]
pub(crate) struct Parser {
    /// The beginning of a line whose end has not come yet.
    rest: Vec<u8>,
    id: Option<u64>,
    /// The part of the data after its first `#`; none if there is no data yet.
    number: Option<u64>,
    run: Option<u64>,
    has_id: bool,
    has_data: bool,
}

/// An event that has come whole.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Received {
    /// None for those that are no part of the log, as the original's pings.
    pub(crate) id: Option<u64>,
    pub(crate) number: Option<u64>,
    /// The number of the log `log-<n>` that a merged stream says it comes from.
    pub(crate) run: Option<u64>,
    /// There was an id, if only one that is no number.
    pub(crate) has_id: bool,
}

/// What the data of an event of a merged stream begins with.
const RUN: &[u8] = br#"{"runId":"log-"#;

impl Parser {
    pub(crate) fn feed(&mut self, bytes: &[u8], mut received: impl FnMut(Received)) {
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', bytes) {
            let line = bytes.get(start..end).unwrap_or_default();
            start = end + 1;
            let event = if self.rest.is_empty() {
                self.line(line)
            } else {
                let mut whole = std::mem::take(&mut self.rest);
                whole.extend_from_slice(line);
                self.line(&whole)
            };
            if let Some(event) = event {
                received(event);
            }
        }
        let rest = bytes.get(start..).unwrap_or_default();
        self.rest.extend_from_slice(rest);
    }

    fn line(&mut self, line: &[u8]) -> Option<Received> {
        if let Some(data) = line.strip_prefix(b"data: ") {
            let at = memchr::memchr(b'#', data);
            self.number = at.and_then(|at| digits(data.get(at + 1..)?));
            self.run = data.strip_prefix(RUN).and_then(digits);
            self.has_data = true;
        } else if let Some(id) = line.strip_prefix(b"id: ") {
            self.id = digits(id);
            self.has_id = !id.is_empty();
        } else if line.is_empty() {
            let event = Received {
                id: self.id.take(),
                number: self.number.take(),
                run: self.run.take(),
                has_id: std::mem::take(&mut self.has_id),
            };
            return std::mem::take(&mut self.has_data).then_some(event);
        }
        None
    }
}

fn digits(text: &[u8]) -> Option<u64> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(None, |number, digit| {
        Some(number.unwrap_or(0) * 10 + u64::from(digit - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_of_a_merged_stream_says_its_run() {
        let mut events = Vec::new();
        let bytes = b"id: m1.2sq.7nk\ndata: {\"runId\":\"log-12\",\"taskId\":\"step #3-1\"}\n\n";
        Parser::default().feed(bytes, |event| events.push(event));
        let event = Received {
            id: None,
            number: Some(3),
            run: Some(12),
            has_id: true,
        };
        assert_eq!(events, [event]);
    }

    #[test]
    fn events_come_whole_however_they_are_cut() {
        let bytes = b": connected\n\nid: 7\nevent: a\ndata: {\"step\":\"x #12-1\"}\n\n:\nevent: ping\ndata: \n\nevent: b\ndata: #13\nid: 8\n\n: flush\n\n";
        for size in 1..bytes.len() {
            let mut parser = Parser::default();
            let mut events = Vec::new();
            for part in bytes.chunks(size) {
                parser.feed(part, |event| events.push((event.id, event.number)));
            }
            let expected = [(Some(7), Some(12)), (None, None), (Some(8), Some(13))];
            assert_eq!(events, expected, "in parts of {size}");
        }
    }
}
