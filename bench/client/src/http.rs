//! The little of HTTP/1.1 that the client needs: the head of a response, and a body that is
//! chunked, sized or until the end.

use crate::Result;

/// Reads one response as it comes.
pub(crate) struct Response {
    state: State,
    line: Vec<u8>,
    status: u16,
}

enum State {
    Head,
    /// The line with the length of the next chunk.
    ChunkSize,
    Chunk(usize),
    /// The line end after a chunk.
    ChunkEnd,
    Sized(usize),
    UntilEnd,
    Done,
}

impl Response {
    pub(crate) fn new() -> Self {
        Self {
            state: State::Head,
            line: Vec::new(),
            status: 0,
        }
    }

    /// 0 before the head has come.
    pub(crate) fn status(&self) -> u16 {
        self.status
    }

    pub(crate) fn is_complete(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Takes received bytes and passes on those of the body.
    pub(crate) fn feed(&mut self, mut input: &[u8], mut body: impl FnMut(&[u8])) -> Result<()> {
        while !input.is_empty() {
            match self.state {
                State::Head => {
                    let Some(rest) = self.until(input, b"\r\n\r\n") else {
                        return Ok(());
                    };
                    input = rest;
                    self.state = self.read_head()?;
                }
                State::ChunkSize => {
                    let Some(rest) = self.until(input, b"\r\n") else {
                        return Ok(());
                    };
                    input = rest;
                    let text = std::str::from_utf8(&self.line)?.trim();
                    let size = usize::from_str_radix(text, 16)?;
                    self.line.clear();
                    // There are no trailers, so the line end after the last chunk is the end.
                    self.state = if size == 0 {
                        State::Done
                    } else {
                        State::Chunk(size)
                    };
                }
                State::Chunk(size) | State::Sized(size) => {
                    let (part, rest) = input.split_at(size.min(input.len()));
                    body(part);
                    input = rest;
                    let left = size - part.len();
                    self.state = match (&self.state, left) {
                        (State::Chunk(_), 0) => State::ChunkEnd,
                        (State::Chunk(_), left) => State::Chunk(left),
                        (_, 0) => State::Done,
                        (_, left) => State::Sized(left),
                    };
                }
                State::ChunkEnd => {
                    let Some(rest) = self.until(input, b"\r\n") else {
                        return Ok(());
                    };
                    input = rest;
                    self.line.clear();
                    self.state = State::ChunkSize;
                }
                State::UntilEnd => {
                    body(input);
                    input = &[];
                }
                State::Done => return Ok(()),
            }
        }
        Ok(())
    }

    /// Collects input in `line` up to `end`, and returns the rest.
    fn until<'a>(&mut self, input: &'a [u8], end: &[u8]) -> Option<&'a [u8]> {
        for (index, byte) in input.iter().enumerate() {
            self.line.push(*byte);
            if self.line.ends_with(end) {
                return input.get(index + 1..);
            }
        }
        None
    }

    fn read_head(&mut self) -> Result<State> {
        let head = String::from_utf8(std::mem::take(&mut self.line))?.to_lowercase();
        let status = head.split(' ').nth(1).unwrap_or_default();
        self.status = status.parse()?;
        let header = |name: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(": "));
            lines
                .find(|(found, _)| *found == name)
                .map(|(_, value)| value)
        };
        if header("transfer-encoding") == Some("chunked") {
            return Ok(State::ChunkSize);
        }
        Ok(match header("content-length") {
            Some("0") => State::Done,
            Some(length) => State::Sized(length.parse()?),
            None if self.status == 204 => State::Done,
            None => State::UntilEnd,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunked_body_comes_whole_however_it_is_cut() {
        let bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1a\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\n\r\n";
        for size in 1..bytes.len() {
            let mut response = Response::new();
            let mut body = Vec::new();
            for part in bytes.chunks(size) {
                let taken = response.feed(part, |part| body.extend_from_slice(part));
                taken.unwrap();
            }
            assert_eq!(body, b"helloabcdefghijklmnopqrstuvwxyz");
            assert_eq!(response.status(), 200);
            assert!(response.is_complete());
        }
    }

    #[test]
    fn a_sized_body_ends() {
        let mut response = Response::new();
        let mut body = Vec::new();
        let bytes = b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno\n";
        let taken = response.feed(bytes, |part| body.extend_from_slice(part));
        taken.unwrap();
        assert_eq!((response.status(), body.as_slice()), (404, &b"no\n"[..]));
        assert!(response.is_complete());
    }
}
