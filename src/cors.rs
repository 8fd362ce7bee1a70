//! CORS: which pages of other origins may read the events. All servers give the same answer.
//!
//! Does not depend on an HTTP library: a request is its method and two headers, an answer is a list
//! of headers.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// CORS for `EventSource`s on pages of these origins, and, with [`credentials`](Self::credentials), for those that
/// send cookies.
///
/// Its behaviour, with the sections of the [Fetch standard](https://fetch.spec.whatwg.org/) that
/// require it:
///
/// - An origin on the list gets itself in `Access-Control-Allow-Origin`, and where credentials are allowed
///   `Access-Control-Allow-Credentials: true`. It never gets `*`, which a browser rejects for a
///   request with credentials ("CORS protocol and credentials", "CORS check"). Any other origin
///   gets no such header.
/// - Every response has `Vary: Origin`, also those to other origins, so that no cache serves one
///   site's response to another ("CORS protocol and HTTP caches").
/// - Refusals have the CORS headers too, so that a page can read the status, the reason and
///   `Retry-After`.
/// - Preflights are answered with `204`: `GET`, with `Last-Event-ID`, `Cache-Control`, `Content-Type` or
///   `Authorization`. They come from clients other than the browser's own `EventSource`, because of
///   the headers that these set. A browser keeps the answer for an hour ("CORS-preflight fetch").
///   An `OPTIONS` that is not a preflight goes to the handler.
///
/// CORS does not prevent *sending* a request: the handler must refuse everyone who may not see the
/// events.
///
/// Clones are cheap and equal. Where to use it: `Sse::cors` for hyper and its like (feature
/// `http`), a layer or `Sse::cors` for axum (feature `axum`), `RunRoutes::cors` and `Cors::wrap` for
/// Workers (feature `cloudflare`), and [`answer`](Self::answer) for any other server.
///
/// ```
/// use ssetarget::Cors;
///
/// let cors = Cors::new(["https://app.example.com"])?.credentials();
/// let answer = cors.answer("GET", Some("https://app.example.com"), None);
/// assert!(!answer.is_preflight());
/// assert!(answer.headers().any(|header| header == ("access-control-allow-credentials", "true")));
/// # Ok::<(), ssetarget::InvalidCors>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    origins: Arc<[String]>,
    credentials: bool,
    methods: Arc<str>,
    headers: Arc<str>,
    exposed: Arc<str>,
    max_age: Arc<str>,
}

impl Cors {
    /// Lets pages of these origins read, with the defaults of the methods below. An empty list
    /// admits no origin.
    ///
    /// # Errors
    /// [`InvalidCors`] for a string that no browser sends as an `Origin`, and for `*` and `null`.
    pub fn new(origins: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Self, InvalidCors> {
        let origins = origins.into_iter().map(|origin| {
            let origin = origin.as_ref();
            match is_origin(origin) {
                true => Ok(origin.to_owned()),
                false => Err(InvalidCors::Origin(origin.to_owned())),
            }
        });
        Ok(Self {
            origins: origins.collect::<Result<_, _>>()?,
            credentials: false,
            methods: "GET".into(),
            headers: "last-event-id,cache-control,content-type,authorization".into(),
            exposed: "retry-after".into(),
            max_age: "3600".into(),
        })
    }

    /// Lets these pages send cookies with their requests and read the answers: an `EventSource` with
    /// `withCredentials`, `fetch` with `credentials: "include"`. Needed if a cookie identifies the viewer. Such a
    /// page can do what its visitor may do: list origins that you trust as you trust your own. Default: a browser
    /// keeps the answer to a request with credentials from the page.
    #[must_use]
    pub fn credentials(mut self) -> Self {
        self.credentials = true;
        self
    }

    /// Adds methods that pages may use, for other routes under the same CORS. A browser allows
    /// `GET`, `HEAD` and `POST` by itself. Default: `GET`.
    ///
    /// # Errors
    /// [`InvalidCors`] for a string that is not a method's name.
    pub fn allow_methods(
        mut self,
        methods: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<Self, InvalidCors> {
        self.methods = longer(&self.methods, methods)?;
        Ok(self)
    }

    /// Adds headers that pages may send. Default: `Last-Event-ID`, `Cache-Control`, `Content-Type` and
    /// `Authorization`.
    ///
    /// # Errors
    /// [`InvalidCors`] for a string that is not a header's name.
    pub fn allow_headers(
        mut self,
        names: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<Self, InvalidCors> {
        self.headers = longer(&self.headers, names)?;
        Ok(self)
    }

    /// Adds headers of responses that pages may read. Default: `Retry-After`, and those that a
    /// browser shows anyway, such as `Content-Type`.
    ///
    /// # Errors
    /// [`InvalidCors`] for a string that is not a header's name.
    pub fn expose_headers(
        mut self,
        names: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<Self, InvalidCors> {
        self.exposed = longer(&self.exposed, names)?;
        Ok(self)
    }

    /// Sets how long a browser may keep the answer to a preflight, in whole seconds. Default: an
    /// hour.
    #[must_use]
    pub fn max_age(mut self, duration: Duration) -> Self {
        self.max_age = duration.as_secs().to_string().into();
        self
    }

    /// Returns whether pages of this origin may read.
    #[cfg(feature = "cloudflare")]
    pub(crate) fn lists(&self, origin: &str) -> bool {
        self.origins.iter().any(|each| each == origin)
    }

    /// Returns the headers for the response to a request with this method, this `Origin` and this
    /// `Access-Control-Request-Method`. Join the values of a repeated header by commas; such an
    /// origin is on no list.
    #[must_use]
    pub fn answer(
        &self,
        method: &str,
        origin: Option<&str>,
        requested_method: Option<&str>,
    ) -> CorsAnswer {
        let is_preflight = method == "OPTIONS" && origin.is_some() && requested_method.is_some();
        let mut headers = vec![("vary", "origin".into())];
        // Origins are compared byte by byte (Fetch, "CORS check").
        let allowed = self
            .origins
            .iter()
            .find(|each| Some(each.as_str()) == origin);
        if let Some(origin) = allowed {
            headers.push(("access-control-allow-origin", origin.as_str().into()));
            if self.credentials {
                headers.push(("access-control-allow-credentials", "true".into()));
            }
            if is_preflight {
                headers.push(("access-control-allow-methods", Arc::clone(&self.methods)));
                headers.push(("access-control-allow-headers", Arc::clone(&self.headers)));
                headers.push(("access-control-max-age", Arc::clone(&self.max_age)));
            } else {
                headers.push(("access-control-expose-headers", Arc::clone(&self.exposed)));
            }
        }
        CorsAnswer {
            is_preflight,
            headers,
        }
    }
}

/// The answer of [`Cors`] to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorsAnswer {
    is_preflight: bool,
    headers: Vec<(&'static str, Arc<str>)>,
}

impl CorsAnswer {
    /// Returns whether the request is a preflight. Then answer it with `204` and these headers; the
    /// handler is not called. Otherwise the headers belong to the handler's response, whatever its
    /// status is.
    #[must_use]
    pub fn is_preflight(&self) -> bool {
        self.is_preflight
    }

    /// Returns headers for the response, with names in lower case. Add `vary` to the response's own
    /// `vary`; the others replace the response's own.
    pub fn headers(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.headers.iter().map(|(name, value)| (*name, &**value))
    }
}

/// Returns a list of names with more of them appended, separated by commas.
fn longer(
    list: &str,
    names: impl IntoIterator<Item = impl AsRef<str>>,
) -> Result<Arc<str>, InvalidCors> {
    // A token: RFC 9110, section 5.6.2.
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let mut list = list.to_owned();
    for name in names {
        let name = name.as_ref();
        // A browser takes `*` for all names, or for a name, depending on credentials.
        if name.is_empty() || name == "*" || !name.bytes().all(is_token) {
            return Err(InvalidCors::Name(name.to_owned()));
        }
        list.push(',');
        list.push_str(name);
    }
    Ok(list.into())
}

/// Returns whether this is how browsers write an origin: scheme, host, and the port if it is not
/// the default one, in lower case.
pub(crate) fn is_origin(text: &str) -> bool {
    let Some((scheme, authority)) = text.split_once("://") else {
        return false;
    };
    let is_scheme =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte);
    if !scheme.starts_with(|first: char| first.is_ascii_lowercase())
        || !scheme.bytes().all(is_scheme)
    {
        return false;
    }
    // An IPv6 address has colons of its own, in brackets.
    let (host, port) = match authority.rfind(']') {
        Some(end) => authority.split_at(end + 1),
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let is_name =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
    let is_address = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b':' | b'.');
    let is_host = match host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        Some(address) => address.contains(':') && address.bytes().all(is_address),
        None => !host.is_empty() && host.bytes().all(is_name),
    };
    let default_port = match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    };
    let is_port = match port.strip_prefix(':') {
        None => port.is_empty(),
        Some(digits) => digits
            .parse::<u16>()
            .is_ok_and(|port| port.to_string() == digits && Some(port) != default_port),
    };
    is_host && is_port
}

/// The error for a string that [`Cors`] cannot be made of.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidCors {
    /// The string is not an origin.
    Origin(String),
    /// The string is not the name of a method or of a header.
    Name(String),
}

impl fmt::Display for InvalidCors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Origin(text) => write!(
                f,
                "\"{}\" is not an origin: write it as browsers do, like https://app.example.com or \
                 http://localhost:8080, in lower case, with the port only where it is not the \
                 default one, and without a slash at the end",
                text.escape_debug()
            ),
            Self::Name(text) => write!(
                f,
                "\"{}\" is not the name of a method or of a header",
                text.escape_debug()
            ),
        }
    }
}

impl std::error::Error for InvalidCors {}

#[cfg(test)]
mod tests {
    use super::*;

    const APP: &str = "https://app.example.com";
    const LOCAL: &str = "http://localhost:8080";

    fn headers(answer: &CorsAnswer) -> Vec<String> {
        answer
            .headers()
            .map(|(name, value)| format!("{name}: {value}"))
            .collect()
    }

    #[test]
    fn an_origin_on_the_list_may_read_with_credentials() {
        let cors = Cors::new([APP, LOCAL]).unwrap().credentials();
        for origin in [APP, LOCAL] {
            let answer = cors.answer("GET", Some(origin), None);
            assert!(!answer.is_preflight());
            assert_eq!(
                headers(&answer),
                [
                    "vary: origin",
                    &format!("access-control-allow-origin: {origin}"),
                    "access-control-allow-credentials: true",
                    "access-control-expose-headers: retry-after",
                ]
            );
            let preflight = cors.answer("OPTIONS", Some(origin), Some("GET"));
            assert!(preflight.is_preflight());
            assert_eq!(
                headers(&preflight),
                [
                    "vary: origin",
                    &format!("access-control-allow-origin: {origin}"),
                    "access-control-allow-credentials: true",
                    "access-control-allow-methods: GET",
                    "access-control-allow-headers: last-event-id,cache-control,content-type,authorization",
                    "access-control-max-age: 3600",
                ]
            );
        }
    }

    #[test]
    fn credentials_have_to_be_allowed() {
        let cors = Cors::new([APP]).unwrap();
        let has = |cors: &Cors, method, asks| {
            let answer = cors.answer(method, Some(APP), asks);
            headers(&answer)
                .iter()
                .any(|header| header.contains("credentials"))
        };
        for (method, asks) in [("GET", None), ("OPTIONS", Some("GET"))] {
            assert!(!has(&cors, method, asks));
            assert!(has(&cors.clone().credentials(), method, asks));
        }
    }

    #[test]
    fn other_origins_get_only_vary() {
        let cors = Cors::new([APP]).unwrap().credentials();
        let nobody = Cors::new([""; 0]).unwrap();
        for origin in [
            None,
            Some(""),
            Some("*"),
            Some("null"),
            Some("http://app.example.com"),
            Some("https://app.example.com:8443"),
            Some("https://app.example.com.evil.example"),
            Some("https://app.example.com, https://app.example.com"),
            Some("HTTPS://APP.EXAMPLE.COM"),
            Some(LOCAL),
        ] {
            for (method, asks) in [("GET", None), ("HEAD", None), ("OPTIONS", Some("GET"))] {
                let answer = cors.answer(method, origin, asks);
                assert_eq!(headers(&answer), ["vary: origin"], "{origin:?}");
                assert_eq!(
                    answer.is_preflight(),
                    method == "OPTIONS" && origin.is_some()
                );
            }
        }
        assert_eq!(
            headers(&nobody.answer("GET", Some(APP), None)),
            ["vary: origin"]
        );
    }

    #[test]
    fn only_a_preflight_is_one() {
        let cors = Cors::new([APP]).unwrap();
        for (method, origin, asks, is_preflight) in [
            ("OPTIONS", Some(APP), Some("GET"), true),
            ("OPTIONS", Some(APP), None, false),
            ("OPTIONS", None, Some("GET"), false),
            ("GET", Some(APP), Some("GET"), false),
            ("POST", Some(APP), Some("GET"), false),
        ] {
            let answer = cors.answer(method, origin, asks);
            assert_eq!(answer.is_preflight(), is_preflight, "{method} {origin:?}");
        }
    }

    #[test]
    fn methods_and_headers_can_be_added() {
        let cors = Cors::new([APP])
            .and_then(|cors| cors.allow_methods(["DELETE"]))
            .and_then(|cors| cors.allow_headers(["x-token"]))
            .and_then(|cors| cors.expose_headers(["x-request-id", "allow"]))
            .unwrap()
            .max_age(Duration::from_secs(60));
        let preflight = headers(&cors.answer("OPTIONS", Some(APP), Some("DELETE")));
        assert_eq!(preflight[2], "access-control-allow-methods: GET,DELETE");
        assert!(preflight[3].ends_with(",authorization,x-token"));
        assert_eq!(preflight[4], "access-control-max-age: 60");
        let get = headers(&cors.answer("GET", Some(APP), None));
        assert_eq!(
            get[2],
            "access-control-expose-headers: retry-after,x-request-id,allow"
        );
        for bad in ["", "*", "a b", "a,b", "a\r\nb: c", "é"] {
            let error = cors.clone().allow_headers([bad]).unwrap_err();
            assert!(error.to_string().contains("is not the name"), "{error}");
        }
    }

    #[test]
    fn only_the_form_of_browsers_is_an_origin() {
        for good in [
            APP,
            LOCAL,
            "http://127.0.0.1:1",
            "http://[::1]:8080",
            "https://[2001:db8::1]",
            "http://app.example.com:443",
            "https://xn--bcher-kva.example",
            "chrome-extension://abcdefghijklmnop",
            "capacitor://localhost",
        ] {
            assert!(Cors::new([good]).is_ok(), "{good}");
        }
        for bad in [
            "*",
            "null",
            "",
            "://",
            "https://",
            "://app.example.com",
            "1http://app.example.com",
            "app.example.com",
            "https://app.example.com/",
            "https://app.example.com/path",
            "https://app.example.com?q",
            "https://App.example.com",
            "HTTPS://app.example.com",
            "https://app.example.com:443",
            "http://app.example.com:80",
            "https://app.example.com:",
            "https://app.example.com:08443",
            "https://app.example.com:65536",
            "https://app.example.com:x",
            "https://user@app.example.com",
            "https://*.example.com",
            "https://[]",
            "https://[::1",
            "https://[::1]x",
            "https://bücher.example",
            "https://a.example\r\nx: y",
            " https://app.example.com",
        ] {
            let error = Cors::new([bad]).unwrap_err();
            assert!(error.to_string().contains("is not an origin"), "{bad:?}");
        }
    }
}
