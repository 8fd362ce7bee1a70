//! Rules that remove secrets from strings that viewers will see, before they are stored.

use std::borrow::Cow;
use std::fmt;

use serde_json::{Map, Value};

/// A string that a [`Redact`] rule looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RedactedField<'a> {
    /// The message of an error.
    Error,
    /// The message of a progress report.
    Message,
    /// A string or a number in the attributes, under this key, however deep. Elements of a list are under the
    /// list's key.
    Attribute(&'a str),
}

/// A rule for errors, messages and attributes. It is applied in the process that has the secret, before the text is
/// cut to its longest length, and so before it is stored or sent: no viewer, snapshot, trace or log has the text.
///
/// Names of steps are not changed: a task's id, by which the log recognises facts, is made of them. Put no
/// secrets into names. The platform's own log and dashboard are not changed either.
///
/// Set it with [`DispatchConfig::redact`](crate::workflow::DispatchConfig::redact) or
/// [`TracerConfig::redact`](crate::tracer::TracerConfig::redact).
///
/// ```
/// use std::borrow::Cow;
/// use ssetarget::task::{Redact, RedactedField};
///
/// const RULE: Redact = Redact::new(|field, text| match field {
///     RedactedField::Attribute("email") => Cow::Borrowed("[redacted]"),
///     // Obvious secrets too.
///     field => Redact::SECRETS.apply(field, text),
/// });
///
/// assert_eq!(RULE.apply(RedactedField::Attribute("email"), "a@example.com"), "[redacted]");
/// let error = RULE.apply(RedactedField::Error, "401 for postgres://app:hunter2@db/shop");
/// assert_eq!(error, "401 for postgres://app:[redacted]@db/shop");
/// ```
#[derive(Clone, Copy)]
pub struct Redact(Rule);

type Rule = for<'a> fn(RedactedField<'_>, &'a str) -> Cow<'a, str>;

/// The replacement of a secret.
const REDACTED: &str = "[redacted]";

impl Redact {
    /// Replaces obvious secrets by `[redacted]`:
    ///
    /// - the value after `password`, `secret`, `token`, `api_key`, `authorization`, `cookie` and the like, also at
    ///   the end of a longer name (`DB_PASSWORD`), and `=`, `:` or `=>`, in quotes or not; attributes with such a key;
    /// - credentials after `Bearer` and `Basic`; the password in a URL;
    /// - JSON web tokens, and keys with the well-known prefixes of GitHub, Stripe, Slack, AWS and OpenAI;
    /// - 32 or more hexadecimal digits, and 40 or more characters that look like base64; PEM blocks.
    ///
    /// It prefers to hide too much: a hash looks like a key, and is hidden. It cannot recognise a secret that looks
    /// like a word.
    pub const SECRETS: Self = Self(secrets);

    /// Returns a rule: a function that returns the string to be stored, the same string if there is nothing to hide.
    /// It is called for each string, so it should be quick, and it must give the same result for the same string. It
    /// captures nothing, so that configurations stay constants.
    #[must_use]
    pub const fn new(rule: for<'a> fn(RedactedField<'_>, &'a str) -> Cow<'a, str>) -> Self {
        Self(rule)
    }

    /// Applies the rule.
    pub fn apply<'a>(&self, field: RedactedField<'_>, text: &'a str) -> Cow<'a, str> {
        (self.0)(field, text)
    }

    /// Applies the rule to all strings and numbers in attributes.
    pub(crate) fn apply_to(self, attributes: &mut Map<String, Value>) {
        for (key, value) in attributes {
            self.apply_to_value(key, value);
        }
    }

    fn apply_to_value(self, key: &str, value: &mut Value) {
        let redacted = match &*value {
            Value::String(text) => self.changed(key, text),
            Value::Number(number) => self.changed(key, &number.to_string()),
            _ => None,
        };
        if let Some(redacted) = redacted {
            *value = redacted.into();
            return;
        }
        match value {
            Value::Array(values) => {
                for value in values {
                    self.apply_to_value(key, value);
                }
            }
            Value::Object(map) => self.apply_to(map),
            _ => {}
        }
    }

    fn changed(self, key: &str, text: &str) -> Option<String> {
        let redacted = self.apply(RedactedField::Attribute(key), text);
        (redacted != text).then(|| redacted.into_owned())
    }
}

impl PartialEq for Redact {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::fn_addr_eq(self.0, other.0)
    }
}

impl Eq for Redact {}

impl fmt::Debug for Redact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Redact(..)")
    }
}

fn secrets<'a>(field: RedactedField<'_>, text: &'a str) -> Cow<'a, str> {
    if let RedactedField::Attribute(key) = field
        && is_secret_name(key)
        && !text.is_empty()
    {
        return Cow::Borrowed(REDACTED);
    }
    let mut redacted = String::new();
    // Up to `copied` the text is copied or replaced; up to `at` it was looked at.
    let (mut copied, mut at) = (0, 0);
    while at < text.len() {
        let (word, secret) = look(text, at);
        if let Some((start, end)) = secret {
            redacted.push_str(&text[copied..start]);
            redacted.push_str(REDACTED);
            (copied, at) = (end, end);
        } else {
            at = word;
        }
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    redacted.push_str(&text[copied..]);
    Cow::Owned(redacted)
}

/// The words before a PEM block.
const PEM: &str = "-----BEGIN ";

/// Looks at the text from `at`, where a word or a separator begins. Returns where to go on, and the range of a
/// secret. The range is not empty, and all positions are between characters.
fn look(text: &str, at: usize) -> (usize, Option<(usize, usize)>) {
    let rest = &text[at..];
    if rest.starts_with(PEM) {
        let end = rest.find("-----END ").map_or(text.len(), |end| at + end);
        return (end, Some((at + PEM.len(), end)));
    }
    if let Some(url) = rest.strip_prefix("://") {
        return (
            at + 3,
            password(url).map(|(start, end)| (at + 3 + start, at + 3 + end)),
        );
    }
    let word = &rest[..rest.find(|c| !is_of_word(c)).unwrap_or(rest.len())];
    let Some(first) = rest.chars().next().filter(|_| word.is_empty()) else {
        let end = at + word.len();
        let secret = match () {
            () if looks_secret(word) => Some((at, end)),
            () if is_secret_name(word) => assigned(text, end),
            () if is_scheme(word) => credentials(text, end),
            () => None,
        };
        return (end, secret);
    };
    (at + first.len_utf8(), None)
}

fn is_of_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_-+/.~".contains(c)
}

/// Returns whether a name is that of a secret, by its end.
fn is_secret_name(name: &str) -> bool {
    const NAMES: [&str; 15] = [
        "password",
        "passwd",
        "passphrase",
        "pwd",
        "secret",
        "secrets",
        "token",
        "apikey",
        "accesskey",
        "privatekey",
        "secretkey",
        "authorization",
        "cookie",
        "credential",
        "credentials",
    ];
    // The longest, with room for what stands between the words.
    let mut end = [0; 20];
    let mut length = 0;
    for byte in name.bytes().rev() {
        if byte.is_ascii_alphanumeric() {
            if length == end.len() {
                break;
            }
            length += 1;
            end[20 - length] = byte.to_ascii_lowercase();
        }
    }
    let end = &end[20 - length..];
    NAMES.iter().any(|name| end.ends_with(name.as_bytes()))
}

fn is_scheme(word: &str) -> bool {
    word.eq_ignore_ascii_case("bearer") || word.eq_ignore_ascii_case("basic")
}

/// Returns the range of the value behind a name that ends at `at`, if it is given one.
fn assigned(text: &str, at: usize) -> Option<(usize, usize)> {
    // A name in quotes, perhaps within a string that has escaped them.
    let rest = text[at..].trim_start_matches(['"', '\'', '\\', ' ', ']']);
    let rest = match rest.strip_prefix("=>") {
        Some(rest) => rest,
        None => rest.strip_prefix([':', '='])?,
    };
    let value = rest.trim_start_matches([' ', '\t', '=']);
    let start = text.len() - value.len();
    let opening = value.trim_start_matches('\\');
    if let Some(quote) = opening.chars().next().filter(|c| "\"'`".contains(*c)) {
        let escapes = value.len() - opening.len();
        let inner = start + escapes + 1;
        let end = closing(&text[inner..], quote).map_or(text.len(), |end| inner + end);
        return (inner < end).then_some((inner, end));
    }
    let end = |from: usize| {
        let ends = |c: char| c.is_whitespace() || "&,;\"'`)}]<".contains(c);
        text[from..].find(ends).map_or(text.len(), |end| from + end)
    };
    let first = end(start);
    // `Authorization: Bearer abc`.
    let last = match is_scheme(&text[start..first]) {
        true => text[first..]
            .find(|c: char| !c.is_whitespace())
            .map_or(first, |skip| end(first + skip)),
        false => first,
    };
    (start < last).then_some((start, last))
}

/// Returns where a quoted text ends.
fn closing(text: &str, quote: char) -> Option<usize> {
    let mut is_escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if is_escaped && c != quote => is_escaped = false,
            '\\' => is_escaped = true,
            // An escaped quote ends a text whose quotes are all escaped, and is taken for the end of any other.
            c if c == quote => return Some(at - usize::from(is_escaped)),
            _ => {}
        }
    }
    None
}

/// Returns the range of the credentials behind `Bearer` or `Basic`, unless they look like words.
fn credentials(text: &str, at: usize) -> Option<(usize, usize)> {
    let rest = text[at..].trim_start_matches(' ');
    let start = text.len() - rest.len();
    let word = &rest[..rest.find(|c| !is_of_word(c)).unwrap_or(rest.len())];
    let is_word = |c: char| c.is_ascii_lowercase() || "-./".contains(c);
    let looks_random = word.len() >= 8 && !word.chars().skip(1).all(is_word);
    (start > at && looks_random).then_some((start, start + word.len()))
}

/// Returns the range of the password after `://`, or of the user's name if it stands there alone, as a key may.
fn password(url: &str) -> Option<(usize, usize)> {
    let end = url.find(|c: char| c.is_whitespace() || "/?#\"'<>".contains(c));
    let end = url[..end.unwrap_or(url.len())].rfind('@')?;
    let start = url[..end].find(':').map_or(0, |colon| colon + 1);
    (start < end).then_some((start, end))
}

/// Returns whether a word is a secret by its looks.
fn looks_secret(word: &str) -> bool {
    const PREFIXES: [&str; 14] = [
        "eyJ",
        "sk-",
        "sk_live_",
        "sk_test_",
        "rk_live_",
        "whsec_",
        "ghp_",
        "gho_",
        "ghs_",
        "github_pat_",
        "xoxb-",
        "xoxp-",
        "AKIA",
        "ASIA",
    ];
    if word.len() < 20 {
        return false;
    }
    let has = |is: fn(&u8) -> bool| word.as_bytes().iter().filter(|byte| is(byte)).count();
    let (digits, upper, lower) = (
        has(u8::is_ascii_digit),
        has(u8::is_ascii_uppercase),
        has(u8::is_ascii_lowercase),
    );
    if PREFIXES.iter().any(|prefix| word.starts_with(prefix)) && digits > 0 {
        return true;
    }
    // The parts of a longer word are judged by themselves: a path may contain a key.
    let mut parts = word.split(['.', '/', '-', '_', '~', '+']);
    if parts.any(|part| part.len() >= 32 && part.bytes().all(|byte| byte.is_ascii_hexdigit())) {
        return true;
    }
    // Of 40 random characters of base64 six are digits, and one or two are `/` or `+`. A path has more slashes.
    let slashes = has(|byte| b"/.".contains(byte));
    word.len() >= 40 && digits >= 3 && upper >= 6 && lower >= 6 && slashes * 12 <= word.len()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn redacted(text: &str) -> String {
        Redact::SECRETS
            .apply(RedactedField::Error, text)
            .into_owned()
    }

    #[test]
    fn obvious_secrets_are_hidden() {
        for (text, expected) in [
            ("password=hunter2", "password=[redacted]"),
            ("DB_PASSWORD=hunter2&x=1", "DB_PASSWORD=[redacted]&x=1"),
            ("Password: hunter2, next", "Password: [redacted], next"),
            ("password = hunter2", "password = [redacted]"),
            (
                r#"{"api_key":"a b","n":1}"#,
                r#"{"api_key":"[redacted]","n":1}"#,
            ),
            (
                r#"{\"apiKey\":\"abc\",\"n\":1}"#,
                r#"{\"apiKey\":\"[redacted]\",\"n\":1}"#,
            ),
            (
                "{'client-secret' => 'it''s'}",
                "{'client-secret' => '[redacted]''s'}",
            ),
            ("token=", "token="),
            ("?access_token=abc#top", "?access_token=[redacted]"),
            ("Authorization: Bearer abc", "Authorization: [redacted]"),
            (
                "sent bearer abc.def-123 to it",
                "sent bearer [redacted] to it",
            ),
            ("Basic dXNlcjpwYXNzd29yZA==", "Basic [redacted]=="),
            (
                "postgres://app:p@ss:w@db.host/x",
                "postgres://app:[redacted]@db.host/x",
            ),
            (
                "https://0123abc@sentry.example/1",
                "https://[redacted]@sentry.example/1",
            ),
            ("key 0123456789abcdef0123456789ABCDEF!", "key [redacted]!"),
            (
                "token eyJhbGciOiJIUzI1NiJ9.eyJhIjoxfQ.c2ln used",
                "token [redacted] used",
            ),
            ("sk_live_abcdefgh12345678", "[redacted]"),
            ("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY1a2b", "[redacted]"),
            (
                "-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----",
                "-----BEGIN [redacted]-----END PRIVATE KEY-----",
            ),
            ("-----BEGIN PRIVATE KEY-----\nMIIE", "-----BEGIN [redacted]"),
            ("é password: ключ!", "é password: [redacted]"),
            (
                "cookie: a=b; token=c; d",
                "cookie: [redacted]; token=[redacted]; d",
            ),
        ] {
            assert_eq!(redacted(text), expected, "{text}");
        }
    }

    #[test]
    fn other_texts_are_left_alone() {
        for text in [
            "",
            "the card was declined",
            "basic authentication is required, bearer tokens are too",
            "Execution timed out after 1000ms",
            "GET https://api.example.com/v1/orders?id=7&page=2 answered 503",
            "order 6f9619ff-8b86-d011-b42d-00cf4fc964ff is unknown",
            "at /srv/app/src/services/payment/gateway/stripe_client_v2.rs:17:3",
            "tokens were 17, passwords 3",
            "user@example.com wrote to ops@example.com",
            "é😀 ключ",
            "thisIsAVeryLongNameOfAFunctionWithoutAnyNumberInItAtAll",
        ] {
            assert!(
                matches!(Redact::SECRETS.apply(RedactedField::Message, text), Cow::Borrowed(same) if same == text),
                "{text}: {}",
                redacted(text)
            );
        }
    }

    #[test]
    fn attributes_are_looked_at_however_deep_they_are() {
        let mut attributes = json!({
            "order": 7,
            "pin": 1234,
            "db": { "password": "a", "hosts": ["b", "postgres://u:p@h"], "apiKey": 17, "token": null },
        });
        let rule = Redact::new(|field, text| match field {
            RedactedField::Attribute("pin") => Cow::Borrowed("****"),
            field => Redact::SECRETS.apply(field, text),
        });
        rule.apply_to(attributes.as_object_mut().unwrap());
        let expected = json!({
            "order": 7,
            "pin": "****",
            "db": { "password": "[redacted]", "hosts": ["b", "postgres://u:[redacted]@h"], "apiKey": "[redacted]", "token": null },
        });
        assert_eq!(attributes, expected);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_taken(text in "(?s).{0,200}", words in "[\\\\\"'=: a-z@/é-]{0,40}") {
            let text = format!("{text}{words}");
            // Cuts only between characters; otherwise it would panic.
            redacted(&redacted(&text));
        }

        #[test]
        fn a_password_is_hidden_wherever_it_stands(before in "[ -~é]{0,40}", secret in "[A-Za-z0-9]{12}", after in "[ -~é]{0,40}") {
            let before = before.replace(['"', '\'', '`', '\\'], " ");
            let text = format!("{before} password={secret} {after}");
            proptest::prop_assert!(!redacted(&text).contains(&secret), "{}", redacted(&text));
        }
    }

    #[test]
    fn a_long_text_takes_a_short_time() {
        for piece in [
            "password=",
            "\"",
            "://",
            "a",
            "://a@",
            "-----BEGIN ",
            "bearer ",
            "\\",
        ] {
            let text = piece.repeat(200_000 / piece.len());
            redacted(&text);
        }
    }
}
