//! Answers requests for the page and its files: statuses, headers and bodies, the same on every server.

use std::borrow::Cow;

use super::{Asset, CONTENT_SECURITY_POLICY, RunPage, asset};
use crate::cors::{InvalidCors, is_origin};

/// A response, not yet of a particular server.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, Cow<'static, str>)>,
    pub(crate) body: Cow<'static, str>,
}

/// The pages that may show the page of a run in a frame, as `frame-ancestors` has them.
#[derive(Clone, Debug)]
pub(crate) struct FramedBy(String);

impl Default for FramedBy {
    fn default() -> Self {
        Self("'none'".to_owned())
    }
}

impl FramedBy {
    /// Takes origins as [`Cors::new`](crate::cors::Cors::new) takes them, and `'self'`.
    pub(crate) fn new(
        origins: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<Self, InvalidCors> {
        let mut list: Vec<String> = Vec::new();
        for origin in origins {
            let origin = origin.as_ref();
            if origin != "'self'" && !is_origin(origin) {
                return Err(InvalidCors::Origin(origin.to_owned()));
            }
            list.push(origin.to_owned());
        }
        Ok(match list.is_empty() {
            true => Self::default(),
            false => Self(list.join(" ")),
        })
    }
}

/// Returns whether this is the name of one of the page's files.
pub(crate) fn is_asset(name: &str) -> bool {
    asset(name).is_some()
}

/// Returns the answer to a request for a file of the page. With `?v=` and the file's hash it may be kept for ever.
pub(crate) fn serve_asset(
    name: &str,
    query: Option<&str>,
    if_none_match: Option<&str>,
) -> Option<Served> {
    Some(serve_file(asset(name)?, query, if_none_match))
}

/// Returns the answer to a request for this file.
pub(crate) fn serve_file(
    asset: &'static Asset,
    query: Option<&str>,
    if_none_match: Option<&str>,
) -> Served {
    let etag = format!("\"{}\"", asset.hash);
    let mut pairs = query.unwrap_or_default().split('&');
    let is_fixed = pairs.any(|pair| pair.strip_prefix("v=") == Some(asset.hash));
    let mut tags = if_none_match.unwrap_or_default().split(',');
    let is_known = tags.any(|tag| {
        let tag = tag.trim();
        tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag
    });
    let cache = match is_fixed {
        true => "public, max-age=31536000, immutable",
        false => "no-cache",
    };
    let mut headers = guards();
    headers.push(("cache-control", cache.into()));
    headers.push(("etag", etag.into()));
    // A page of another origin that embeds it as a module needs its permission in one of these forms.
    headers.push(("cross-origin-resource-policy", "cross-origin".into()));
    headers.push(("access-control-allow-origin", "*".into()));
    headers.push(("content-security-policy", "default-src 'none'".into()));
    if is_known {
        return Served {
            status: 304,
            headers,
            body: "".into(),
        };
    }
    headers.push(("content-type", asset.content_type.into()));
    Served {
        status: 200,
        headers,
        body: asset.body.into(),
    }
}

/// Returns the page of a run. `is_found` says whether there is such a run: so does the page. `is_private` forbids
/// caches to keep it.
pub(crate) fn serve_page(
    page: &RunPage<'_>,
    framed_by: &FramedBy,
    is_found: bool,
    is_private: bool,
) -> Served {
    let policy = format!("{CONTENT_SECURITY_POLICY}; frame-ancestors {}", framed_by.0);
    let cache = if is_private { "no-store" } else { "no-cache" };
    let mut headers = guards();
    headers.push(("content-type", "text/html; charset=utf-8".into()));
    headers.push(("content-security-policy", policy.into()));
    headers.push(("cache-control", cache.into()));
    // A program gets the snapshot at the same path.
    headers.push(("vary", "accept".into()));
    Served {
        status: if is_found { 200 } else { 404 },
        headers,
        body: page.html().into(),
    }
}

fn guards() -> Vec<(&'static str, Cow<'static, str>)> {
    vec![
        ("referrer-policy", "no-referrer".into()),
        ("x-content-type-options", "nosniff".into()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::ASSETS;

    fn header<'a>(served: &'a Served, name: &str) -> Option<&'a str> {
        let mut headers = served.headers.iter();
        headers.find_map(|(key, value)| (*key == name).then_some(&**value))
    }

    #[test]
    fn a_file_is_kept_for_ever_by_its_hash_and_else_asked_for_again() {
        let file = ASSETS[0];
        let (fixed, etag) = (format!("v={}", file.hash), format!("\"{}\"", file.hash));
        for (query, cache) in [
            (Some(fixed.as_str()), "public, max-age=31536000, immutable"),
            (Some("v=other"), "no-cache"),
            (Some("v="), "no-cache"),
            (None, "no-cache"),
        ] {
            let served = serve_asset(file.name, query, None).unwrap();
            assert_eq!(served.status, 200);
            assert_eq!(header(&served, "cache-control"), Some(cache));
            assert_eq!(header(&served, "content-type"), Some(file.content_type));
            assert_eq!(header(&served, "x-content-type-options"), Some("nosniff"));
            assert_eq!(served.body, file.body);
        }
        for (tag, status) in [
            (etag.clone(), 304),
            (format!("W/{etag}"), 304),
            (format!("\"a\", {etag}"), 304),
            ("*".to_owned(), 304),
            ("\"other\"".to_owned(), 200),
            (file.hash.to_owned(), 200),
        ] {
            let served = serve_asset(file.name, None, Some(&tag)).unwrap();
            assert_eq!(served.status, status, "{tag}");
            assert_eq!(served.body.is_empty(), status == 304);
        }
        assert!(serve_asset("../Cargo.toml", None, None).is_none());
    }

    #[test]
    fn a_page_says_who_may_frame_it() {
        let page = RunPage::new("o-1");
        let policy = |framed_by: &FramedBy| {
            let served = serve_page(&page, framed_by, true, false);
            header(&served, "content-security-policy")
                .unwrap()
                .to_owned()
        };
        assert!(policy(&FramedBy::default()).ends_with("; frame-ancestors 'none'"));
        let some = FramedBy::new(["'self'", "https://app.example.com"]).unwrap();
        assert!(policy(&some).ends_with("; frame-ancestors 'self' https://app.example.com"));
        assert!(policy(&FramedBy::new([""; 0]).unwrap()).ends_with("'none'"));
        for bad in ["*", "https:", "https://a.example; script-src *", "'none'"] {
            assert!(FramedBy::new([bad]).is_err(), "{bad}");
        }
        let unknown = serve_page(&page, &some, false, true);
        assert_eq!(
            (unknown.status, header(&unknown, "cache-control")),
            (404, Some("no-store"))
        );
        assert_eq!(header(&unknown, "referrer-policy"), Some("no-referrer"));
    }
}
