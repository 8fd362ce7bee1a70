//! The live page of a run: the element `<workflow-run>` and its stylesheet as constants, and the document around it.
//!
//! Any server can serve them; [`RunPage`] takes the paths at which it does. `docs/page.md` in the
//! repository describes the element.
//!
//! ```
//! use ssetarget::page::{ASSETS, RunPage, asset};
//!
//! let html = RunPage::new("order-1").snapshot().answers().html();
//! assert!(html.contains(r#"src="/order-1/sse""#));
//!
//! // Asked for with the hash in the document, an asset can be kept for ever: another one has another hash.
//! let script = asset("workflow-run.js").unwrap();
//! assert!(html.contains(&format!("/ssetarget/workflow-run.js?v={}", script.hash)));
//! assert_eq!(script.content_type, "text/javascript; charset=utf-8");
//! assert_eq!(ASSETS.len(), 2);
//! ```

#[cfg(any(test, feature = "http", feature = "cloudflare"))]
pub(crate) mod serve;

use std::fmt::Write as _;

/// The files of the page: one module, and one stylesheet, together less than 24 KiB after gzip.
pub const ASSETS: &[Asset] = &[
    Asset {
        name: "workflow-run.js",
        content_type: "text/javascript; charset=utf-8",
        hash: HASH,
        body: SCRIPT,
    },
    Asset {
        name: "workflow-run.css",
        content_type: "text/css; charset=utf-8",
        hash: HASH,
        body: STYLESHEET,
    },
];

/// The files of the table of all runs, `<workflow-runs>`: one module, and one stylesheet, together less than 10 KiB after
/// gzip. They need none of [`ASSETS`]. See `docs/runs.md` in the repository.
pub const RUNS_ASSETS: &[Asset] = &[
    Asset {
        name: "workflow-runs.js",
        content_type: "text/javascript; charset=utf-8",
        hash: RUNS_HASH,
        body: RUNS_SCRIPT,
    },
    Asset {
        name: "workflow-runs.css",
        content_type: "text/css; charset=utf-8",
        hash: RUNS_HASH,
        body: RUNS_STYLESHEET,
    },
];

/// A policy under which a [`RunPage`] works: everything from its own origin, nothing inline. It does not say which
/// pages may frame this one.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     base-uri 'none'; form-action 'none'";

/// A file of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Asset {
    /// The last part of its path.
    pub name: &'static str,
    /// Its `Content-Type`.
    pub content_type: &'static str,
    /// A hash of all the files, which refer to each other: 16 hexadecimal digits. Good as an `ETag` (in quotes), and
    /// as `?v=` of a URL whose answer never changes.
    pub hash: &'static str,
    /// Its content.
    pub body: &'static str,
}

/// Returns the file with this name, such as `workflow-run.js`.
#[must_use]
pub fn asset(name: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.name == name)
}

/// Returns the file of the table of all runs with this name, such as `workflow-runs.js`.
#[must_use]
pub fn runs_asset(name: &str) -> Option<&'static Asset> {
    RUNS_ASSETS.iter().find(|asset| asset.name == name)
}

/// The document of a run: the element alone, which fills the window. It has no script or style of its own, and
/// everything in it is escaped.
///
/// By default the paths begin at the root, the assets are at `/ssetarget/`, and the element reads the stream from its
/// beginning and shows no buttons.
#[derive(Clone, Debug)]
pub struct RunPage<'a> {
    id: &'a str,
    title: Option<&'a str>,
    prefix: &'a str,
    assets: &'a str,
    snapshot: bool,
    answers: bool,
    session: bool,
}

impl<'a> RunPage<'a> {
    /// Returns the page of the run with this id, which is percent-encoded here.
    #[must_use]
    pub fn new(id: &'a str) -> Self {
        Self {
            id,
            title: None,
            prefix: "",
            assets: "/ssetarget",
            snapshot: false,
            answers: false,
            session: false,
        }
    }

    /// Sets the title of the document before the run is known. Default: the id.
    #[must_use]
    pub fn title(mut self, title: &'a str) -> Self {
        self.title = Some(title);
        self
    }

    /// Sets the part of a run's paths before the id, without a slash at its end, such as `/runs`. Default: nothing.
    #[must_use]
    pub fn prefix(mut self, prefix: &'a str) -> Self {
        self.prefix = prefix;
        self
    }

    /// Sets the path under which the [`ASSETS`] are served, without a slash at its end. Default: `/ssetarget`.
    #[must_use]
    pub fn assets(mut self, path: &'a str) -> Self {
        self.assets = path;
        self
    }

    /// Makes the element begin with the snapshot at `<prefix>/<id>`, so that a long run is there at once.
    #[must_use]
    pub fn snapshot(mut self) -> Self {
        self.snapshot = true;
        self
    }

    /// Gives the element buttons and forms that answer waits, at `<prefix>/<id>/event`.
    #[must_use]
    pub fn answers(mut self) -> Self {
        self.answers = true;
        self
    }

    /// Makes the element take a token from the fragment, `#t=…`, and exchange it at `<prefix>/<id>/session`.
    #[must_use]
    pub fn session(mut self) -> Self {
        self.session = true;
        self
    }

    /// Returns the document.
    #[must_use]
    pub fn html(&self) -> String {
        let run = format!("{}/{}", self.prefix, percent_encoded(self.id));
        let (title, assets) = (escaped(self.title.unwrap_or(self.id)), escaped(self.assets));
        let mut attributes = format!(
            "src=\"{run}/sse\" label=\"{id}\" heading=\"1\" fills deep-link titled",
            run = escaped(&run),
            id = escaped(self.id)
        );
        for (switched_on, name, path) in [
            (self.snapshot, "snapshot", ""),
            (self.answers, "answer", "/event"),
            (self.session, "session", "/session"),
        ] {
            if switched_on {
                // Writing to a string cannot fail.
                let _ = write!(attributes, " {name}=\"{}{path}\"", escaped(&run));
            }
        }
        format!(
            "<!doctype html>
<html lang=\"en\">
<head>
<meta charset=\"utf-8\">
<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">
<meta name=\"color-scheme\" content=\"light dark\">
<meta name=\"referrer\" content=\"no-referrer\">
<title>{title}</title>
<link rel=\"stylesheet\" href=\"{assets}/workflow-run.css?v={HASH}\">
<script type=\"module\" src=\"{assets}/workflow-run.js?v={HASH}\"></script>
</head>
<body>
<main>
<noscript><p>This page needs JavaScript to follow the run.</p></noscript>
<workflow-run {attributes}></workflow-run>
</main>
</body>
</html>
"
        )
    }
}

// Made by scripts/page.mjs from the folder `element`, which has the readable source.
const SCRIPT: &str = include_str!("workflow-run.js");
const STYLESHEET: &str = include_str!("workflow-run.css");

const RUNS_SCRIPT: &str = include_str!("workflow-runs.js");
const RUNS_STYLESHEET: &str = include_str!("workflow-runs.css");

const HASH_BYTES: [u8; 16] = hash_of(SCRIPT, STYLESHEET);
const HASH: &str = as_text(&HASH_BYTES);
const RUNS_HASH_BYTES: [u8; 16] = hash_of(RUNS_SCRIPT, RUNS_STYLESHEET);
const RUNS_HASH: &str = as_text(&RUNS_HASH_BYTES);

const fn hash_of(script: &str, stylesheet: &str) -> [u8; 16] {
    hex(fnv1a(stylesheet, fnv1a(script, 0xcbf2_9ce4_8422_2325)))
}

const fn as_text(digits: &'static [u8; 16]) -> &'static str {
    match std::str::from_utf8(digits) {
        Ok(hash) => hash,
        Err(_) => "0",
    }
}

/// The hash FNV-1a, which is short enough to compute at compile time. It need not resist collisions made on purpose:
/// all files are ours.
const fn fnv1a(text: &str, mut hash: u64) -> u64 {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0100_0000_01b3);
        at += 1;
    }
    hash
}

const fn hex(number: u64) -> [u8; 16] {
    let mut digits = [0; 16];
    let mut at = 0;
    while at < 16 {
        digits[at] = b"0123456789abcdef"[(number >> (60 - 4 * at) & 15) as usize];
        at += 1;
    }
    digits
}

/// Escapes text for an attribute in double quotes, and for content.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // A parser would change these, and the attribute would no longer be the id.
            '\0' => escaped.push('\u{fffd}'),
            '\r' => escaped.push_str("&#13;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// Encodes everything but letters, digits and `-._~`, so that it is one part of a path, and never `.` or `..`.
fn percent_encoded(part: &str) -> String {
    let only_dots = matches!(part, "." | "..");
    let mut encoded = String::with_capacity(part.len());
    for byte in part.bytes() {
        let plain = byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'_' | b'~')
            || (byte == b'.' && !only_dots);
        if plain {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_lists_what_is_switched_on() {
        let html = RunPage::new("o-1").html();
        assert!(
            html.contains("<workflow-run src=\"/o-1/sse\" label=\"o-1\""),
            "{html}"
        );
        for absent in ["snapshot=", "answer=", "session="] {
            assert!(!html.contains(absent), "{absent}");
        }
        let page = RunPage::new("o-1")
            .prefix("/runs")
            .assets("/static")
            .snapshot()
            .answers()
            .session();
        let html = page.clone().title("An order").html();
        for there in [
            "src=\"/runs/o-1/sse\"",
            "snapshot=\"/runs/o-1\"",
            "answer=\"/runs/o-1/event\"",
            "session=\"/runs/o-1/session\"",
            "<title>An order</title>",
            "\"/static/workflow-run.css?v=",
        ] {
            assert!(html.contains(there), "{there}: {html}");
        }
        assert_eq!(
            page.html(),
            page.clone()
                .title("o-1")
                .title("An order")
                .html()
                .replace("An order", "o-1")
        );
    }

    #[test]
    fn nothing_gets_out_of_the_quotes() {
        let id = "\"><script>alert(1)</script>'&\0 ?#/../é";
        let html = RunPage::new(id)
            .title("</title><img src=x>")
            .snapshot()
            .html();
        assert_eq!(html.matches("<script").count(), 1, "{html}");
        assert!(!html.contains("<img"));
        assert!(!html.contains('\0'));
        let path = "/%22%3E%3Cscript%3Ealert%281%29%3C%2Fscript%3E%27%26%00%20%3F%23%2F..%2F%C3%A9";
        assert!(html.contains(&format!("src=\"{path}/sse\"")), "{html}");
        assert!(html.contains(
            "label=\"&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;&#39;&amp;\u{fffd} ?#/../é\""
        ));
        assert!(RunPage::new("..").html().contains("src=\"/%2E%2E/sse\""));
    }

    #[test]
    fn a_document_has_no_script_or_style_of_its_own() {
        let html = RunPage::new("o-1").snapshot().answers().session().html();
        for inline in [
            "<style",
            "style=",
            "javascript:",
            " on",
            "</script>\n<script",
        ] {
            assert!(!html.contains(inline), "{inline}: {html}");
        }
    }

    #[test]
    fn assets_are_found_by_name_and_share_a_hash() {
        assert_eq!(
            asset("workflow-run.css").map(|asset| asset.content_type),
            Some("text/css; charset=utf-8")
        );
        assert_eq!(asset("other.js"), None);
        for asset in ASSETS {
            assert_eq!(asset.hash, ASSETS[0].hash);
            assert_eq!(asset.hash.len(), 16);
            assert!(asset.hash.bytes().all(|digit| digit.is_ascii_hexdigit()));
            assert!(!asset.body.contains("</script"));
        }
        // From a published list of test vectors.
        assert_eq!(fnv1a("", 0xcbf2_9ce4_8422_2325), 0xcbf2_9ce4_8422_2325);
        assert_eq!(
            fnv1a("foobar", 0xcbf2_9ce4_8422_2325),
            0x8594_4171_f739_67e8
        );
    }
}
