//! A reader of event streams that follows WHATWG HTML, section 9.2.6, exactly, and fails at
//! anything that the standard tolerates but this crate must not send. Shares no code with the
//! crate.

/// Reads a stream in any pieces.
#[derive(Debug, Default)]
pub(crate) struct SseReader {
    bytes: Vec<u8>,
    /// The number of bytes that were read.
    read: usize,
    data: String,
    event_type: String,
    /// The standard's "last event ID buffer": the next event sets the client's last id to it.
    id_buffer: String,
    last_event_id: String,
    pending: bool,
    /// The stream has begun: with an event, or with an id for one that starts at the tail.
    has_begun: bool,
    /// Heartbeats so far.
    pub(crate) comments: usize,
}

/// An event as a page's listener gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) id: String,
    pub(crate) event_type: String,
    pub(crate) data: String,
}

impl SseReader {
    /// A reader on a new connection of a client with this last id.
    pub(crate) fn resumed(last_event_id: &str) -> Self {
        Self {
            id_buffer: last_event_id.to_owned(),
            last_event_id: last_event_id.to_owned(),
            ..Self::default()
        }
    }

    /// The id that a client sends when it comes back.
    pub(crate) fn last_event_id(&self) -> &str {
        &self.last_event_id
    }

    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Vec<Message> {
        assert!(
            !(self.bytes.is_empty() && bytes.starts_with("\u{feff}".as_bytes())),
            "a BOM"
        );
        assert!(!bytes.contains(&b'\r'), "line ends are LF alone");
        self.bytes.extend_from_slice(bytes);
        let mut messages = Vec::new();
        while let Some(length) = self.bytes[self.read..].iter().position(|b| *b == b'\n') {
            let line = self.bytes[self.read..self.read + length].to_vec();
            self.read += length + 1;
            let line = String::from_utf8(line).unwrap();
            messages.extend(self.line(&line));
        }
        messages
    }

    /// Asserts that no bytes are left over.
    pub(crate) fn assert_at_rest(&self) {
        assert_eq!(self.read, self.bytes.len(), "an unfinished line");
        assert!(!self.pending, "an unfinished event");
    }

    fn line(&mut self, line: &str) -> Option<Message> {
        if line.is_empty() {
            assert!(
                std::mem::take(&mut self.pending),
                "a blank line that ends no event makes some clients fire an empty one"
            );
            return self.dispatch();
        }
        let (field, value) = match line.split_once(':') {
            Some(("", _)) => {
                assert!(!self.pending, "a comment inside an event");
                self.comments += 1;
                return None;
            }
            Some((field, value)) => (field, value.strip_prefix(' ').unwrap_or(value)),
            None => (line, ""),
        };
        self.pending = true;
        match field {
            "event" => value.clone_into(&mut self.event_type),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" => {
                assert!(!value.contains('\0'), "clients ignore an id with a NUL");
                value.clone_into(&mut self.id_buffer);
            }
            "retry" => assert!(value.bytes().all(|b| b.is_ascii_digit()), "retry: {value}"),
            _ => panic!("a field that no client knows: {line:?}"),
        }
        None
    }

    fn dispatch(&mut self) -> Option<Message> {
        self.last_event_id.clone_from(&self.id_buffer);
        let mut data = std::mem::take(&mut self.data);
        let event_type = std::mem::take(&mut self.event_type);
        let has_begun = std::mem::replace(&mut self.has_begun, true);
        if data.is_empty() && event_type.is_empty() && !has_begun {
            return None;
        }
        assert!(!data.is_empty(), "clients ignore an event without data");
        data.pop();
        Some(Message {
            id: self.last_event_id.clone(),
            event_type: if event_type.is_empty() {
                "message".to_owned()
            } else {
                event_type
            },
            data,
        })
    }
}

/// Returns the text as a client sees it: the format has only one line end.
pub(crate) fn normalised(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}
