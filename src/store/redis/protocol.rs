//! RESP3: commands to bytes, bytes to replies.

use std::io::{self, Read};

use redis::{Parser, Value};

use super::error::RedisError;

/// Returns the bytes of a command.
pub(super) fn pack(words: &[&[u8]]) -> Vec<u8> {
    pack_some(words, words.len())
}

/// Returns the bytes of a command of `all` words, of which `words` are the first.
pub(super) fn pack_some(words: &[&[u8]], all: usize) -> Vec<u8> {
    let mut command = format!("*{all}\r\n").into_bytes();
    for word in words {
        command.extend(pack_word(word));
    }
    command
}

/// Returns the bytes of one word of a command.
pub(super) fn pack_word(word: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", word.len()).as_bytes(), word, b"\r\n"].concat()
}

/// Takes bytes as they come and gives whole replies.
#[derive(Default)]
pub(super) struct Replies {
    parser: Parser,
}

impl Replies {
    /// Adds bytes, and hands each reply that they complete to `take`.
    ///
    /// # Errors
    /// When the bytes are no RESP: nothing more can be read from them.
    pub(super) fn feed(
        &mut self,
        bytes: &[u8],
        mut take: impl FnMut(Value) -> Result<(), RedisError>,
    ) -> Result<(), RedisError> {
        let mut chunk = Chunk {
            bytes,
            drained: false,
        };
        loop {
            match self.parser.parse_value(&mut chunk) {
                Ok(value) => take(value)?,
                // The parser keeps what it has of an incomplete reply when its reader would block. Bytes that are
                // no RESP are an error also where no more have come.
                Err(error) if chunk.drained && error.is_io_error() => return Ok(()),
                Err(error) => return Err(RedisError::unexpected(error.to_string())),
            }
        }
    }
}

/// Returns the replies of bytes that come in these chunks, `None` if they are no RESP, for tests.
#[doc(hidden)]
#[must_use]
pub fn resp_replies(chunks: &[&[u8]]) -> Option<Vec<Value>> {
    let mut replies = Replies::default();
    let mut all = Vec::new();
    for chunk in chunks {
        let fed = replies.feed(chunk, |value| {
            all.push(value);
            Ok(())
        });
        fed.ok()?;
    }
    Some(all)
}

/// A reader that would block where its bytes end.
struct Chunk<'a> {
    bytes: &'a [u8],
    drained: bool,
}

impl Read for Chunk<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.bytes.is_empty() && !buffer.is_empty() {
            self.drained = true;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.bytes.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replies(chunks: &[&[u8]]) -> Result<Vec<Value>, RedisError> {
        let mut replies = Replies::default();
        let mut all = Vec::new();
        for chunk in chunks {
            replies.feed(chunk, |value| {
                all.push(value);
                Ok(())
            })?;
        }
        Ok(all)
    }

    #[test]
    fn replies_are_the_same_however_their_bytes_come() {
        let bytes = [
            &b"+OK\r\n:7\r\n$-1\r\n_\r\n*0\r\n-OOM not now\r\n$4\r\na\r\nb\r\n"[..],
            b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$0\r\n\r\n*2\r\n*1\r\n:1\r\n%1\r\n+k\r\n#t\r\n",
            format!("${}\r\n{}\r\n", 70_000, "x".repeat(70_000)).as_bytes(),
        ]
        .concat();
        let whole = replies(&[&bytes]).unwrap();
        assert_eq!(whole.len(), 10);
        assert_eq!(whole[1], Value::Int(7));
        assert_eq!(whole[6], Value::BulkString(b"a\r\nb".to_vec()));
        for size in [1, 2, 3, 7, 1000, 65_536] {
            let chunks: Vec<_> = bytes.chunks(size).collect();
            assert_eq!(replies(&chunks).unwrap(), whole, "in chunks of {size}");
        }
        for end in 0..bytes.len().min(100) {
            let split = replies(&[&bytes[..end], &bytes[end..]]).unwrap();
            assert_eq!(split, whole, "split at {end}");
        }
    }

    #[test]
    fn bytes_that_are_not_resp_are_an_error() {
        for bytes in ["HTTP/1.1 400 Bad Request\r\n\r\n", ":one\r\n", "$x\r\n"] {
            assert!(replies(&[bytes.as_bytes()]).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_command_is_packed() {
        assert_eq!(
            pack(&[b"GET", b"a\r\nb", b""]),
            b"*3\r\n$3\r\nGET\r\n$4\r\na\r\nb\r\n$0\r\n\r\n"
        );
        let late = [pack_some(&[b"GET"], 2), pack_word(b"key")].concat();
        assert_eq!(late, pack(&[b"GET", b"key"]));
    }
}
