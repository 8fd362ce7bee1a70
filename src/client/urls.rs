//! The URLs of a run, from any one of them.

use reqwest::Url;

use super::error::ClientError;
use crate::wire::POSITION;

/// The URLs of a run: its events, page, snapshot and answers.
#[derive(Clone)]
pub(super) struct RunUrls {
    /// `…/<id>/sse`, `…/<id>/instance/sse` or `…/sse?run=…`.
    pub(super) events: Url,
    /// `…/<id>`, or that of a merged stream without its position.
    pub(super) page: Url,
    /// `…/<id>/event`.
    pub(super) answer: Url,
    /// Whether it is the platform's own log, whose ids are not those of the snapshot, or a merged stream.
    pub(super) has_no_snapshot: bool,
    /// The token in `#t=`.
    pub(super) token: Option<String>,
    /// The run's id, decoded; of a merged stream the ids or the tag.
    pub(super) id: String,
}

impl RunUrls {
    pub(super) fn parse(text: &str) -> Result<Self, ClientError> {
        let invalid = |reason: &str| ClientError::InvalidUrl(reason.to_owned());
        let text = text.trim();
        let with_scheme;
        let text = if text.contains("://") {
            text
        } else {
            with_scheme = format!("{}://{text}", guessed_scheme(text));
            &with_scheme
        };
        let mut url =
            Url::parse(text).map_err(|error| ClientError::InvalidUrl(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(invalid("it has to begin with http:// or https://"));
        }
        let token = url.fragment().and_then(|fragment| {
            let mut pairs = form_urlencoded::parse(fragment.as_bytes());
            pairs
                .find(|(name, _)| name == "t")
                .map(|(_, value)| value.into_owned())
        });
        url.set_fragment(None);

        let path = url.path().trim_end_matches('/').to_owned();
        let (base, is_instance) = match path.strip_suffix("/sse") {
            Some(base) => match base.strip_suffix("/instance") {
                Some(base) => (base, true),
                None => (base, false),
            },
            None => (path.as_str(), false),
        };
        let names: Vec<String> = match base.len() == path.len() || is_instance {
            true => Vec::new(),
            false => merged(&url),
        };
        let is_merged = !names.is_empty();
        let id = base.rsplit('/').next().unwrap_or_default();
        if id.is_empty() && !is_merged {
            return Err(invalid("it names no run"));
        }
        let query = format!("id={}", id.replace('+', "%2B").replace('&', "%26"));
        let id = match is_merged {
            true => names.join(", "),
            false => form_urlencoded::parse(query.as_bytes())
                .next()
                .map_or_else(String::new, |(_, id)| id.into_owned()),
        };

        let at = |path: &str| {
            let mut url = url.clone();
            url.set_path(path);
            url
        };
        let events = match is_instance {
            true => at(&format!("{base}/instance/sse")),
            false => at(&format!("{base}/sse")),
        };
        let mut page = match is_merged {
            true => events.clone(),
            false => at(base),
        };
        retain_query(&mut page, |name| {
            name != "types" && !POSITION.contains(&name)
        });
        let mut answer = at(&format!("{base}/event"));
        answer.set_query(page.query());
        Ok(Self {
            events,
            page,
            answer,
            has_no_snapshot: is_instance || is_merged,
            token,
            id,
        })
    }

    /// Returns whether the URL itself says where the stream starts.
    pub(super) fn has_position(&self) -> bool {
        let mut pairs = self.events.query_pairs();
        pairs.any(|(name, _)| POSITION.contains(&&*name))
    }

    /// Makes the stream start elsewhere.
    pub(super) fn start(&mut self, name: &str, value: &str) {
        retain_query(&mut self.events, |name| !POSITION.contains(&name));
        self.events.query_pairs_mut().append_pair(name, value);
    }
}

/// Returns the runs, or the tag, that the query of a merged stream names.
fn merged(url: &Url) -> Vec<String> {
    let named = url.query_pairs();
    let named = named.filter(|(name, value)| matches!(&**name, "run" | "tag") && !value.is_empty());
    named.map(|(_, value)| value.into_owned()).collect()
}

/// Returns a URL for display: without a password, and without a token in its query.
pub(super) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    retain_query(&mut url, |name| name != "token");
    // Both calls fail only for URLs that cannot have these parts, and so have none.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.into()
}

fn guessed_scheme(text: &str) -> &'static str {
    let host = text.split(['/', '?', '#']).next().unwrap_or_default();
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    match name == "localhost" || name.starts_with("127.") || name == "::1" {
        true => "http",
        false => "https",
    }
}

fn retain_query(url: &mut Url, keeps: impl Fn(&str) -> bool) {
    let kept: Vec<(String, String)> = url
        .query_pairs()
        .filter(|(name, _)| keeps(name))
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect();
    url.set_query(None);
    if !kept.is_empty() {
        url.query_pairs_mut().extend_pairs(kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_url_of_a_run_leads_to_all_of_them() {
        for (text, events, page, answer) in [
            (
                "https://a.example/o-1",
                "https://a.example/o-1/sse",
                "https://a.example/o-1",
                "https://a.example/o-1/event",
            ),
            (
                "https://a.example/o-1/",
                "https://a.example/o-1/sse",
                "https://a.example/o-1",
                "https://a.example/o-1/event",
            ),
            (
                "https://a.example/x/o-1/sse",
                "https://a.example/x/o-1/sse",
                "https://a.example/x/o-1",
                "https://a.example/x/o-1/event",
            ),
            (
                "http://a.example/o-1/instance/sse?types=step_started&from=latest&k=1",
                "http://a.example/o-1/instance/sse?types=step_started&from=latest&k=1",
                "http://a.example/o-1?k=1",
                "http://a.example/o-1/event?k=1",
            ),
            (
                "localhost:8787/o-1",
                "http://localhost:8787/o-1/sse",
                "http://localhost:8787/o-1",
                "http://localhost:8787/o-1/event",
            ),
            (
                "a.example/o-1",
                "https://a.example/o-1/sse",
                "https://a.example/o-1",
                "https://a.example/o-1/event",
            ),
        ] {
            let urls = RunUrls::parse(text).unwrap();
            let all = [&urls.events, &urls.page, &urls.answer].map(Url::as_str);
            assert_eq!(all, [events, page, answer], "{text}");
        }
    }

    #[test]
    fn a_fragment_has_the_token_and_is_not_sent() {
        let urls = RunUrls::parse("https://a.example/o%201#task=a&t=ab.c-d_e").unwrap();
        assert_eq!(urls.token.as_deref(), Some("ab.c-d_e"));
        assert_eq!(urls.id, "o 1");
        assert_eq!(urls.events.as_str(), "https://a.example/o%201/sse");
        assert_eq!(
            RunUrls::parse("https://a.example/o#t2=a").unwrap().token,
            None
        );
    }

    #[test]
    fn a_merged_stream_names_its_runs() {
        for (text, id, page) in [
            (
                "https://a.example/sse?run=o-1&run=o%202&from=latest",
                "o-1, o 2",
                "https://a.example/sse?run=o-1&run=o+2",
            ),
            (
                "https://a.example/jobs/sse?tag=red&k=1",
                "red",
                "https://a.example/jobs/sse?tag=red&k=1",
            ),
        ] {
            let urls = RunUrls::parse(text).unwrap();
            assert_eq!(urls.events.as_str(), text);
            assert_eq!((urls.id.as_str(), urls.page.as_str()), (id, page));
            assert!(urls.has_no_snapshot);
        }
        let one = RunUrls::parse("https://a.example/o-1?run=2").unwrap();
        assert_eq!((one.id.as_str(), one.has_no_snapshot), ("o-1", false));
    }

    #[test]
    fn urls_without_a_run_are_refused() {
        for text in [
            "",
            "https://",
            "https://a.example",
            "https://a.example/sse",
            "https://a.example/sse?run=",
            "ftp://a.example/o",
            "https://a.example/instance/sse/x y:\u{0}/",
        ] {
            let parsed = RunUrls::parse(text).map(|urls| urls.events.to_string());
            assert!(
                matches!(parsed, Err(ClientError::InvalidUrl(_))) || text.contains('\0'),
                "{text}"
            );
        }
    }

    #[test]
    fn a_start_replaces_that_of_the_url() {
        // Each way of the wire to say where a stream starts: what is left would take precedence on the server.
        for position in ["from=latest", "since=1", "lastEventId=7", "last_event_id=7"] {
            let mut urls = RunUrls::parse(&format!("https://a.example/o?{position}&k=1")).unwrap();
            assert!(urls.has_position(), "{position}");
            assert_eq!(urls.page.as_str(), "https://a.example/o?k=1");
            urls.start("from", "beginning");
            let url = urls.events.as_str();
            assert_eq!(url, "https://a.example/o/sse?k=1&from=beginning");
        }
        let mut urls = RunUrls::parse("https://a.example/o?from=latest&k=1").unwrap();
        assert!(urls.has_position());
        urls.start("since", "2026-11-24T09:00:00Z");
        assert_eq!(
            urls.events.as_str(),
            "https://a.example/o/sse?k=1&since=2026-11-24T09%3A00%3A00Z"
        );
    }

    #[test]
    fn passwords_are_not_shown() {
        let urls = RunUrls::parse("https://me:secret@a.example/o").unwrap();
        assert_eq!(shown(&urls.page), "https://a.example/o");
        let urls = RunUrls::parse("https://a.example/o?token=secret&k=1").unwrap();
        assert_eq!(shown(&urls.page), "https://a.example/o?k=1");
        assert_eq!(urls.events.query(), Some("token=secret&k=1"), "it is sent");
    }
}
