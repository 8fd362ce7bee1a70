//! A parsed stream, with everything that a parser of events would forgive or drop.

/// A line end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineEnd {
    /// LF.
    Lf,
    /// CR.
    Cr,
    /// Both.
    CrLf,
}

/// The lines between two blank lines.
#[derive(Clone, Debug, Default)]
pub struct Block {
    /// Its lines except comments, with their ends.
    pub raw: Vec<u8>,
    /// Names and values.
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
    /// The number of its comments.
    pub comments: usize,
    /// A blank line ended it.
    pub is_complete: bool,
}

/// An event that a client would dispatch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its own id.
    pub id: Option<Vec<u8>>,
    /// `message` if there is none.
    pub event_type: Vec<u8>,
    /// Lines of data, with an LF between two.
    pub data: Vec<u8>,
    /// Its lines except comments.
    pub raw: Vec<u8>,
}

/// All bytes of a stream, taken apart by the rules of WHATWG HTML, section 9.2.6.
#[derive(Clone, Debug, Default)]
pub struct Transcript {
    /// It begins with a byte order mark.
    pub has_bom: bool,
    /// Lines after the first that begin with one.
    pub inner_boms: usize,
    /// The kinds of line ends in it.
    pub line_ends: Vec<LineEnd>,
    /// The blocks; the last may not be complete.
    pub blocks: Vec<Block>,
    /// The events that a client would dispatch.
    pub events: Vec<Event>,
    /// The values of all `retry:`.
    pub retries: Vec<Vec<u8>>,
    /// The values of all `id:`.
    pub ids: Vec<Vec<u8>>,
    /// Comments, without their colon.
    pub comments: Vec<Vec<u8>>,
    /// Bytes of an unfinished line.
    pub rest: Vec<u8>,
}

impl Transcript {
    /// Takes a stream apart.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        const BOM: &[u8] = "\u{feff}".as_bytes();
        let mut all = Self::default();
        let mut block = Block::default();
        let mut rest = bytes;
        if let Some(after) = rest.strip_prefix(BOM) {
            all.has_bom = true;
            rest = after;
        }
        let mut is_first = true;
        while let Some(at) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            let (line_end, length) = match rest[at..] {
                [b'\r', b'\n', ..] => (LineEnd::CrLf, 2),
                [b'\r', ..] => (LineEnd::Cr, 1),
                _ => (LineEnd::Lf, 1),
            };
            let (line, whole) = (&rest[..at], &rest[..at + length]);
            rest = &rest[at + length..];
            if !all.line_ends.contains(&line_end) {
                all.line_ends.push(line_end);
            }
            if !is_first && line.starts_with(BOM) {
                all.inner_boms += 1;
            }
            is_first = false;
            if line.is_empty() {
                block.is_complete = true;
                all.finish(std::mem::take(&mut block));
            } else if line[0] == b':' {
                block.comments += 1;
                all.comments.push(line[1..].to_vec());
            } else {
                block.raw.extend_from_slice(whole);
                let colon = line.iter().position(|&byte| byte == b':');
                let (name, value) = match colon {
                    Some(colon) => (&line[..colon], &line[colon + 1..]),
                    None => (line, &line[..0]),
                };
                let value = value.strip_prefix(b" ").unwrap_or(value);
                match name {
                    b"retry" => all.retries.push(value.to_vec()),
                    b"id" => all.ids.push(value.to_vec()),
                    _ => {}
                }
                block.fields.push((name.to_vec(), value.to_vec()));
            }
        }
        all.rest = rest.to_vec();
        if block.comments > 0 || !block.fields.is_empty() {
            all.blocks.push(block);
        }
        all
    }

    fn finish(&mut self, block: Block) {
        let values = |name: &[u8]| {
            let name = name.to_vec();
            let fields = block.fields.iter();
            fields
                .filter(move |(key, _)| *key == name)
                .map(|(_, value)| value.clone())
        };
        let data: Vec<Vec<u8>> = values(b"data").collect();
        if !data.is_empty() {
            let event_type = values(b"event").next_back().filter(|name| !name.is_empty());
            self.events.push(Event {
                id: values(b"id").rfind(|id| !id.contains(&0)),
                event_type: event_type.unwrap_or_else(|| b"message".to_vec()),
                data: data.join(&b"\n"[..]),
                raw: block.raw.clone(),
            });
        }
        self.blocks.push(block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transcript_has_dispatched_and_dropped_parts() {
        let all = Transcript::of(b"\xef\xbb\xbf: hi\n\nid: 1\ndata: a\ndata: b\r\n\r\nretry: x\nid: 2\0\revent: t\rdata\r\rdata: cut");
        assert!(all.has_bom);
        assert_eq!(all.line_ends, [LineEnd::Lf, LineEnd::CrLf, LineEnd::Cr]);
        let seen: Vec<_> = all
            .events
            .iter()
            .map(|e| (e.id.as_deref(), &e.event_type[..], &e.data[..]))
            .collect();
        type Seen<'a> = (Option<&'a [u8]>, &'a [u8], &'a [u8]);
        let expected: [Seen<'_>; 2] = [(Some(b"1"), b"message", b"a\nb"), (None, b"t", b"")];
        assert_eq!(seen, expected);
        assert_eq!(all.retries, [b"x"]);
        assert_eq!(all.ids, [&b"1"[..], b"2\0"]);
        assert_eq!(all.rest, b"data: cut");
        assert_eq!(all.blocks[0].comments, 1);
    }
}
