//! Bytes from outside, of any kind. cargo-fuzz tries them for hours; this test tries them for seconds, with bytes
//! made of significant pieces, and with the corpora of cargo-fuzz.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod bodies;

use std::fs;
use std::path::Path;

use proptest::prelude::*;

/// The pieces of the formats.
const PIECES: [&[u8]; 48] = [
    b"\n", b"\r", b"\r\n", b"\n\n", b"\0", b":", b" ", b"id: 7", b"data: a", b"event: x", b"retry: 9", b"\xef\xbb\xbf", b"\xff", b"\xe2\x82", b"\x01", b"\x02",
    b"started ", b"completed ", b"failed ", b"progress ", b"attempt_failed ", b"restarted ", b"{}", b"[[[[", b"null", b"-1", b"9007199254740991", b"9007199254740992",
    br#"{"taskId":"a-1","step":"a","kind":"do","count":1,"timestamp":"2026-11-23T14:37:54.907Z","parentId":"w"}"#,
    br#"{"taskId":"w","step":"w","kind":"workflow","count":1,"timestamp":"2026-11-23T14:37:54.907Z","parentId":null}"#,
    br#"{"taskId":"b","step":"b","kind":"do","count":0,"timestamp":"2026-11-23T14:37:54.907Z","parentId":"b","attempt":4294967295,"error":"x"}"#,
    br#"{"run":4294967295}"#,
    b"+OK\r\n", b"$-1\r\n", b"$3\r\nabc\r\n", b"*2\r\n", b"%1\r\n", b">3\r\n", b"_\r\n", b"#t\r\n",
    b"m1", b".00000001", b"a", b"lastEventId=", b"&", b"since=2026-11-24T09:00:00Z", b"Bearer ", b"\x02\x01\0\0\0",
];

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => prop::sample::select(&PIECES[..]).prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(any::<u8>(), 0..40),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_bytes_are_read_or_refused(bytes in bytes()) {
        for (_, body) in bodies::BODIES {
            body(&bytes);
        }
    }
}

#[test]
fn the_corpora_of_the_fuzz_targets_are_read_or_refused() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, body) in bodies::BODIES {
        let files =
            fs::read_dir(corpora.join(name)).unwrap_or_else(|reason| panic!("{name}: {reason}"));
        let mut count = 0;
        for file in files {
            body(&fs::read(file.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count > 0, "{name} has no corpus");
    }
}
