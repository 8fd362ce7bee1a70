//! The paths of a run: `<prefix>/<id>` and what follows. The same in Workers and on any other server.

/// A path, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunPath<'a> {
    /// The id as the path has it, percent-encoded. Never empty.
    pub(crate) encoded_id: &'a str,
    /// The rest of the path after the id: empty, or from its slash on, like `/sse`.
    pub(crate) tail: &'a str,
}

impl<'a> RunPath<'a> {
    /// Takes a URL's path apart. Returns `None` where it does not begin with the prefix and an id.
    pub(crate) fn parse(prefix: &str, path: &'a str) -> Option<Self> {
        let rest = path.strip_prefix(prefix)?.strip_prefix('/')?;
        let (encoded_id, tail) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        (!encoded_id.is_empty()).then_some(Self { encoded_id, tail })
    }
}

/// Returns a prefix as [`RunPath::parse`] takes it: empty, or with a slash at its beginning and none at its end.
pub(crate) fn prefix(text: &str) -> String {
    match text.trim_matches('/') {
        "" => String::new(),
        text => format!("/{text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_a_prefix_an_id_and_a_tail() {
        for (prefix, path, parsed) in [
            ("", "/a/sse", Some(("a", "/sse"))),
            ("", "/a", Some(("a", ""))),
            ("", "/a/", Some(("a", "/"))),
            ("", "/a/instance/sse", Some(("a", "/instance/sse"))),
            ("", "/a%2Fb%20c/sse", Some(("a%2Fb%20c", "/sse"))),
            ("", "/", None),
            ("", "//sse", None),
            ("", "", None),
            ("/orders", "/orders/a/sse", Some(("a", "/sse"))),
            ("/orders", "/orders/a", Some(("a", ""))),
            ("/orders", "/orders", None),
            ("/orders", "/orders/", None),
            ("/orders", "/orders2/a/sse", None),
            ("/orders", "/ordersa/sse", None),
            ("/orders", "/a/sse", None),
            ("/v1/orders", "/v1/orders/a/sse", Some(("a", "/sse"))),
        ] {
            let got = RunPath::parse(prefix, path).map(|path| (path.encoded_id, path.tail));
            assert_eq!(got, parsed, "{prefix} {path}");
        }
    }

    #[test]
    fn a_prefix_may_be_written_with_and_without_slashes() {
        for (text, written) in [
            ("", ""),
            ("/", ""),
            ("orders", "/orders"),
            ("/orders", "/orders"),
            ("/orders/", "/orders"),
            ("v1/orders", "/v1/orders"),
        ] {
            assert_eq!(prefix(text), written);
        }
    }
}
