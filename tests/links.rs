//! Capability links: what a token permits. Every invalid token is refused in the same way.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::time::{Duration, SystemTime};

use base64ct::{Base64UrlUnpadded, Encoding};
use hmac::{Hmac, KeyInit, Mac};
use proptest::prelude::*;
use serde_json::{Value, json};
use sha2::Sha256;
use ssetarget::Refusal;
use ssetarget::access::{
    Access, AccessRequest, Action, CapabilityLinks, LinkGenerations, LinkGrant, LinkKeys,
    MAX_LIFETIME, MAX_TOKEN, Permission,
};

const KEY: &[u8] = b"an old key of forty bytes, in base64 54 ";
const NEW_KEY: &[u8] = b"a new key of more than thirty-two bytes.";
const NOW: u64 = 1_795_000_000;

fn encode(bytes: impl AsRef<[u8]>) -> String {
    Base64UrlUnpadded::encode_string(bytes.as_ref())
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn keys(pairs: &[(&str, &[u8])]) -> LinkKeys {
    let pairs = pairs
        .iter()
        .map(|(id, key)| format!("{id}:{}", encode(key)));
    LinkKeys::parse(&pairs.collect::<Vec<_>>().join(",")).unwrap()
}

fn links() -> CapabilityLinks {
    CapabilityLinks::new(keys(&[("k1", KEY)]), "order").clock(|| at(NOW))
}

/// Signs any claims, as another program may.
fn jws(header: &str, claims: &str, key: &[u8]) -> String {
    let signed = format!("{}.{}", encode(header), encode(claims));
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(signed.as_bytes());
    format!("{signed}.{}", encode(mac.finalize().into_bytes()))
}

const HEADER: &str = r#"{"alg":"HS256","typ":"JWT","kid":"k1"}"#;

fn claims() -> Value {
    json!({ "aud": "order", "sub": "o-1", "scope": "watch", "exp": NOW + 60, "iat": NOW })
}

/// Signs the claims of [`claims`] with some of them changed, or removed by null.
fn token(changed: Value) -> String {
    let mut all = claims();
    for (name, value) in changed.as_object().unwrap() {
        match value {
            Value::Null => drop(all.as_object_mut().unwrap().remove(name)),
            value => all[name] = value.clone(),
        }
    }
    jws(HEADER, &all.to_string(), KEY)
}

fn check(links: &CapabilityLinks, id: &str, action: Action, token: &str) -> Permission {
    let mut request = AccessRequest::new(id, action);
    let header = format!("Bearer {token}");
    request.authorization = Some(&header);
    let permission = links.check(&request);
    assert_eq!(
        futures_executor::block_on(links.decide(&request)),
        permission
    );
    permission
}

fn watches(token: &str) -> bool {
    check(&links(), "o-1", Action::Watch, token) != Permission::Refused
}

#[test]
fn minted_tokens_are_verified() {
    let links = links();
    let grant = LinkGrant::run("o-1").may(Action::Answer).generation(3);
    let url = links.url("https://host.example/o-1", &grant);
    let token = url.strip_prefix("https://host.example/o-1#t=").unwrap();
    let allowed = check(&links, "o-1", Action::Watch, token);
    let Permission::Granted { until, generation } = allowed else {
        panic!("{allowed:?}")
    };
    assert_eq!((until, generation), (Some(at(NOW + 3600)), Some(3)));
    assert_eq!(check(&links, "o-1", Action::Answer, token), allowed);
    assert_eq!(
        check(&links, "o-1", Action::Delete, token),
        Permission::Refused
    );
    assert_eq!(
        check(&links, "o-2", Action::Watch, token),
        Permission::Refused
    );
    let only = links.token(&LinkGrant::run("o-1").only(Action::Delete));
    assert_eq!(
        check(&links, "o-1", Action::Watch, &only),
        Permission::Refused
    );
    assert_ne!(
        check(&links, "o-1", Action::Delete, &only),
        Permission::Refused
    );
}

/// Tokens made with `crypto.createHmac` of Node.js: see docs/access.md.
#[test]
fn a_token_of_another_implementation_is_verified() {
    let token = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6ImsxIn0.eyJhdWQiOiJvcmRlciIsInN1YiI6Im8tMSIsInNjb3BlIjoid2F0Y2ggYW5zd2VyIiwiZXhwIjoxNzk1MDAwMDYwfQ.x8jqD7B5bU8_uQYtmRK0WpY5mdhQ1oQRDRebkZ8WiUY";
    assert!(watches(token));
}

#[test]
fn a_token_is_tampered_with_at_each_position() {
    let token = token(json!({}));
    assert!(watches(&token));
    for position in 0..token.len() {
        for other in [
            b'A', b'Q', b'g', b'w', b'9', b'-', b'_', b'.', b'=', b'+', b'/', b' ', 0,
        ] {
            let mut bytes = token.clone().into_bytes();
            if bytes[position] == other {
                continue;
            }
            bytes[position] = other;
            let tampered = String::from_utf8(bytes).unwrap();
            assert!(!watches(&tampered), "{position}: {tampered}");
        }
        assert!(!watches(&token[..position]));
        let shorter = format!("{}{}", &token[..position], &token[position + 1..]);
        assert!(!watches(&shorter), "without {position}");
        for more in ["A", "=", "."] {
            let longer = format!("{}{more}{}", &token[..position], &token[position..]);
            assert!(!watches(&longer), "{more} at {position}");
        }
    }
    for more in ["=", ".", "A", "\0"] {
        assert!(!watches(&format!("{token}{more}")));
    }
    assert!(
        watches(&format!(" {token} ")),
        "white space around it is the header's"
    );
}

#[test]
fn a_header_is_as_expected_or_refused() {
    let claims = claims().to_string();
    let verified = |header: &str| watches(&jws(header, &claims, KEY));
    for header in [
        HEADER,
        r#"{"kid":"k1","alg":"HS256"}"#,
        "{ \"typ\": \"JWT\",\n \"kid\": \"k1\", \"alg\": \"HS256\" }",
    ] {
        assert!(verified(header), "{header}");
    }
    for header in [
        r#"{"alg":"none","typ":"JWT","kid":"k1"}"#,
        r#"{"alg":"None","kid":"k1"}"#,
        r#"{"alg":"RS256","kid":"k1"}"#,
        r#"{"alg":"HS512","kid":"k1"}"#,
        r#"{"alg":"hs256","kid":"k1"}"#,
        r#"{"alg":["HS256"],"kid":"k1"}"#,
        r#"{"alg":"HS256","typ":"at+jwt","kid":"k1"}"#,
        r#"{"alg":"HS256","kid":"k2"}"#,
        r#"{"alg":"HS256","kid":""}"#,
        r#"{"alg":"HS256","kid":1}"#,
        r#"{"alg":"HS256"}"#,
        r#"{"kid":"k1"}"#,
        r#"{"alg":"HS256","kid":"k1","crit":["exp"]}"#,
        r#"{"alg":"HS256","kid":"k1","jwk":{}}"#,
        r#"{"alg":"HS256","kid":"k1","b64":false}"#,
        r#"["HS256","k1"]"#,
        "",
        "{}",
        "null",
    ] {
        assert!(!verified(header), "{header}");
    }
    // The unsigned form.
    let unsigned = format!("{}.{}.", encode(r#"{"alg":"none"}"#), encode(&claims));
    assert!(!watches(&unsigned));
    assert!(!watches(unsigned.trim_end_matches('.')));
    let empty = jws(HEADER, &claims, KEY);
    assert!(!watches(&empty[..=empty.rfind('.').unwrap()]));
}

#[test]
fn a_token_is_good_up_to_the_second_before_it_expires() {
    for (changed, is_good) in [
        (json!({ "exp": NOW + 1 }), true),
        (json!({ "exp": NOW }), false),
        (json!({ "exp": NOW - 1 }), false),
        (json!({ "exp": 0 }), false),
        (json!({ "exp": -1 }), false),
        (json!({ "exp": null }), false),
        (json!({ "exp": "1795000060" }), false),
        (json!({ "exp": [NOW + 60] }), false),
        (json!({ "exp": true }), false),
        // Some libraries write fractions.
        (json!({ "exp": (NOW + 60) as f64 + 0.5 }), true),
        (json!({ "exp": NOW as f64 + 0.5 }), false),
        (json!({ "exp": 1e300 }), false),
        (json!({ "exp": u64::MAX }), false),
        (json!({ "exp": NOW + MAX_LIFETIME.as_secs() }), true),
        (json!({ "exp": NOW + MAX_LIFETIME.as_secs() + 60 }), true),
        (json!({ "exp": NOW + MAX_LIFETIME.as_secs() + 61 }), false),
        (json!({ "iat": NOW + 60 }), true),
        (json!({ "iat": NOW + 61 }), false),
        (json!({ "iat": null }), true),
        (json!({ "iat": "now" }), false),
        (json!({ "nbf": NOW + 61 }), false),
        (json!({ "nbf": NOW }), true),
    ] {
        assert_eq!(watches(&token(changed.clone())), is_good, "{changed}");
    }
    let long = LinkGrant::run("o-1").expires_in(Duration::from_secs(u64::MAX));
    assert!(watches(&links().token(&long)));
    let none = LinkGrant::run("o-1").expires_in(Duration::from_millis(999));
    assert!(!watches(&links().token(&none)));
}

#[test]
fn a_token_is_for_its_workflow_and_its_run() {
    for (changed, is_good) in [
        (json!({ "aud": "refund" }), false),
        (json!({ "aud": "Order" }), false),
        (json!({ "aud": "" }), false),
        (json!({ "aud": null }), false),
        (json!({ "aud": 1 }), false),
        (json!({ "aud": ["refund", "order"] }), true),
        (json!({ "aud": ["refund"] }), false),
        (json!({ "aud": [] }), false),
        (json!({ "sub": "o-2" }), false),
        (json!({ "sub": "o-1 " }), false),
        (json!({ "sub": "O-1" }), false),
        (json!({ "sub": "" }), false),
        (json!({ "sub": ["o-1"] }), false),
        (json!({ "sub": null }), false),
        (json!({ "sub": "*" }), true),
        (json!({ "sub": "o-*" }), false),
        (json!({ "sub": "run:o-1" }), true),
        (json!({ "sub": "tag:o-1" }), false),
        (json!({ "gen": 4 }), true),
        (json!({ "gen": -1 }), false),
        (json!({ "gen": "4" }), false),
        (json!({ "gen": 1.5 }), false),
        (json!({ "iss": "somebody", "jti": "x" }), true),
    ] {
        assert_eq!(watches(&token(changed.clone())), is_good, "{changed}");
    }
    let of = |workflow| {
        let token = token(json!({}));
        let header = format!("Bearer {token}");
        let mut request = AccessRequest::new("o-1", Action::Watch);
        request.authorization = Some(&header);
        request.workflow = workflow;
        links().check(&request) != Permission::Refused
    };
    assert_eq!(
        [None, Some("order"), Some("refund")].map(of),
        [true, true, false]
    );
}

/// Ids that look like another form of a subject: outside of Workflows a log may have any name.
#[test]
fn a_link_to_a_run_is_to_that_run_whatever_it_is_called() {
    let links = links().tags(|_, _| true);
    for id in ["*", "tag:a", "run:a", "run:*", "", "é/ü", "a:b"] {
        let token = links.token(&LinkGrant::run(id));
        assert_ne!(
            check(&links, id, Action::Watch, &token),
            Permission::Refused,
            "{id}"
        );
        for other in ["o-1", "a", "*a", "tag:b", "run:b", "tag:run:a"] {
            let permission = check(&links, other, Action::Watch, &token);
            assert_eq!(permission, Permission::Refused, "{id} {other}");
        }
    }
}

#[test]
fn a_scope_has_every_form_that_libraries_write() {
    for (scope, allowed) in [
        (json!("watch"), &[Action::Watch][..]),
        (json!("watch answer"), &[Action::Watch, Action::Answer]),
        (
            json!("delete answer watch"),
            &[Action::Watch, Action::Answer, Action::Delete],
        ),
        (json!("  watch  openid "), &[Action::Watch]),
        (json!(["watch", "delete"]), &[Action::Watch, Action::Delete]),
        (json!(["watch", 1, null]), &[Action::Watch]),
        (json!(["watch answer"]), &[]),
        (json!("watch,answer"), &[]),
        (json!("Watch"), &[]),
        (json!("watc watchh"), &[]),
        (json!(""), &[]),
        (json!([]), &[]),
        (json!(true), &[]),
        (json!(1), &[]),
        (json!({ "watch": true }), &[]),
        (json!(null), &[]),
    ] {
        let token = token(json!({ "scope": scope }));
        for action in [Action::Watch, Action::Answer, Action::Delete] {
            let is_allowed = check(&links(), "o-1", action, &token) != Permission::Refused;
            assert_eq!(is_allowed, allowed.contains(&action), "{scope} {action:?}");
        }
        let session = links().session("o-1", "/o-1", &token);
        assert_eq!(session.is_ok(), !allowed.is_empty(), "{scope}");
    }
}

#[test]
fn a_tag_is_for_the_runs_that_have_it() {
    let tagged = links().tags(|id, tag| id.split_once("--").is_some_and(|(of, _)| of == tag));
    let token = tagged.token(&LinkGrant::tag("customer-7").may(Action::Answer));
    for (id, is_good) in [
        ("customer-7--o-1", true),
        ("customer-7--", true),
        ("customer-70--o-1", false),
        ("customer-7", false),
        ("tag:customer-7", false),
    ] {
        for action in [Action::Watch, Action::Answer] {
            let permission = check(&tagged, id, action, &token);
            assert_eq!(permission != Permission::Refused, is_good, "{id}");
        }
    }
    // Without a function for tags no run has a tag.
    assert_eq!(
        check(&links(), "customer-7--o-1", Action::Watch, &token),
        Permission::Refused
    );
    let fleet = tagged.token(&LinkGrant::all_runs());
    assert_ne!(
        check(&tagged, "any", Action::Watch, &fleet),
        Permission::Refused
    );
}

#[test]
fn a_key_is_replaced_while_links_are_out() {
    let with = |pairs| CapabilityLinks::new(keys(pairs), "order").clock(|| at(NOW));
    let old = with(&[("k1", KEY)]);
    let both = with(&[("k2", NEW_KEY), ("k1", KEY)]);
    let new = with(&[("k2", NEW_KEY)]);
    let verifies = |links: &CapabilityLinks, token: &str| {
        check(links, "o-1", Action::Watch, token) != Permission::Refused
    };
    let grant = LinkGrant::run("o-1");
    let (by_old, by_both) = (old.token(&grant), both.token(&grant));
    assert!(verifies(&old, &by_old) && verifies(&both, &by_old) && !verifies(&new, &by_old));
    assert!(!verifies(&old, &by_both) && verifies(&both, &by_both) && verifies(&new, &by_both));
    // Another key under the same id.
    assert!(!verifies(&with(&[("k1", NEW_KEY)]), &by_old));
    // The right key under another id.
    assert!(!verifies(
        &both,
        &jws(&HEADER.replace("k1", "k2"), &claims().to_string(), KEY)
    ));
}

#[test]
fn keys_that_cannot_be_used_are_refused_without_showing_them() {
    let good = encode(KEY);
    let padded = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    for list in [
        format!("k1:{good}"),
        format!(" k2:{padded} ,\n k1:{good} ,"),
        format!("k.1-a_B:{good}"),
        format!("k1:{}", "+/".repeat(32)),
        format!("k1:{}", "-_".repeat(32)),
    ] {
        assert!(LinkKeys::parse(&list).is_ok(), "{list}");
    }
    for (list, says) in [
        (String::new(), "there is no key"),
        (" , ".to_owned(), "there is no key"),
        (good.clone(), "key 1 for links has no id"),
        (format!("k1:{good},{good}"), "key 2 for links has no id"),
        (format!(":{good}"), "the id of key 1"),
        (format!("k 1:{good}"), "the id of key 1"),
        (format!("{}:{good}", "k".repeat(65)), "the id of key 1"),
        (
            format!("k1:{good},k1:{padded}"),
            "key 2 for links has the id of one before",
        ),
        ("k1:äöü".to_owned(), "is not base64"),
        (format!("k1:{good}!"), "is not base64"),
        ("k1:".to_owned(), "has 0 bytes, and needs at least 32"),
        (
            format!("k1:{}", encode([7; 31])),
            "has 31 bytes, and needs at least 32",
        ),
    ] {
        let error = LinkKeys::parse(&list).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
        assert!(
            error.contains("openssl rand -base64 32") && !error.contains(&good),
            "{error}"
        );
    }
    let shown = format!("{:?}", links());
    assert!(shown.contains("k1") && !shown.contains(&good), "{shown}");
}

#[test]
fn a_bearer_comes_before_a_cookie_and_that_before_a_query() {
    let (good, bad) = (token(json!({})), token(json!({ "sub": "o-2" })));
    let name = "__Secure-ssetarget";
    let bearer = |token: &str| Some(format!("Bearer {token}"));
    let cookie = |token: &str| Some(format!("a=b; {name}={token}; c=d"));
    let query = |token: &str| Some(format!("from=latest&token={token}"));
    let ask = |links: &CapabilityLinks,
               authorization: Option<String>,
               cookies: Option<String>,
               query: Option<String>| {
        let mut request = AccessRequest::new("o-1", Action::Watch);
        request.authorization = authorization.as_deref();
        request.cookies = cookies.as_deref();
        request.query = query.as_deref();
        links.check(&request) != Permission::Refused
    };
    let (closed, open) = (links(), links().query_tokens());
    assert!(!ask(&closed, None, None, None));
    assert!(ask(&closed, bearer(&good), None, None));
    assert!(ask(&closed, None, cookie(&good), None));
    assert!(!ask(&closed, None, None, query(&good)), "it is off");
    assert!(ask(&open, None, None, query(&good)));
    // If there is a bearer token, it alone decides; the cookie is not tried.
    assert!(!ask(&closed, bearer(&bad), cookie(&good), None));
    assert!(ask(&closed, bearer(&good), cookie(&bad), None));
    assert!(!ask(&open, bearer(&bad), None, query(&good)));
    assert!(!ask(&open, Some("Bearer".to_owned()), cookie(&good), None));
    assert!(ask(&closed, Some(format!("bEARER   {good}")), None, None));
    // A different scheme is not for this library.
    assert!(ask(
        &closed,
        Some("Basic YTpi".to_owned()),
        cookie(&good),
        None
    ));
    // A repeated header comes joined.
    assert!(!ask(
        &closed,
        Some(format!("Bearer {good}, Bearer {good}")),
        cookie(&good),
        None
    ));
    // A token in a query is accepted for two minutes at most.
    for (left, is_taken) in [(120, true), (121, false)] {
        let token = token(json!({ "exp": NOW + left }));
        assert_eq!(ask(&open, None, None, query(&token)), is_taken, "{left}");
        assert!(ask(&open, None, cookie(&token), None));
    }
    // Cookies.
    for (header, is_good) in [
        (format!("{name}={good}"), true),
        (format!("{name} = {good}"), true),
        (format!(";;{name}={good};"), true),
        (format!("{name}={bad}; {name}={good}"), true),
        (format!("{name}=x; {name}=y; {name}=z; {name}={good}"), true),
        (
            format!("{name}=x; {name}=y; {name}=z; {name}=; {name}={good}"),
            false,
        ),
        (format!("__secure-ssetarget={good}"), false),
        (format!("x{name}={good}"), false),
        (format!("{name}=\"{good}\""), false),
        (format!("{name}={good}x"), false),
        (name.to_owned(), false),
        (String::new(), false),
    ] {
        assert_eq!(
            ask(&closed, None, Some(header.clone()), None),
            is_good,
            "{header}"
        );
    }
}

#[test]
fn a_session_is_a_cookie_for_the_run() {
    let token = token(json!({}));
    let session = links()
        .session("o-1", "/runs/o-1", &format!("{token}\r\n"))
        .unwrap();
    assert_eq!(
        session.cookie,
        format!(
            "__Secure-ssetarget={token}; Path=/runs/o-1; Max-Age=60; HttpOnly; Secure; SameSite=Lax"
        )
    );
    assert_eq!(session.body(), r#"{"expiresIn":60}"#);
    assert!(!format!("{session:?}").contains(&token));
    for (id, body) in [("o-2", token.as_str()), ("o-1", ""), ("o-1", "x.y.z")] {
        assert_eq!(links().session(id, "/o-1", body), Err(Refusal::NotAllowed));
    }
    // There is no session for a list of runs: docs/access.md says so.
    let tag = links().token(&LinkGrant::tag("red"));
    assert_eq!(
        links().session("runs", "/runs", &tag),
        Err(Refusal::NotAllowed)
    );
    let hostile = links()
        .session(
            "o-1",
            "/a; Domain=evil.example\r\nSet-Cookie: b=c,é%2F\u{7f}",
            &token,
        )
        .unwrap();
    let path = "/a%3B%20Domain=evil.example%0D%0ASet-Cookie:%20b=c%2C%C3%A9%2F%7F";
    assert!(
        hostile
            .cookie
            .contains(&format!("; Path={path}; Max-Age=60;")),
        "{}",
        hostile.cookie
    );
}

#[test]
fn revoked_links_of_a_run_are_refused_and_others_are_not() {
    let generations = LinkGenerations::new();
    let links = links().generations(&generations);
    let watches =
        |id: &str, token: &str| check(&links, id, Action::Watch, token) != Permission::Refused;
    let (old, fleet) = (token(json!({})), token(json!({ "sub": "*" })));
    let revoked = generations.revoked("o-1", 0);
    assert!(watches("o-1", &old) && watches("o-1", &fleet));
    assert_eq!(generations.revoke("o-1"), 1);
    futures_executor::block_on(revoked);
    assert!(!watches("o-1", &old) && !watches("o-1", &fleet) && watches("o-2", &fleet));
    let new = links.token(&LinkGrant::run("o-1").generation(1));
    assert!(watches("o-1", &new));
    // Another process goes on from the stored generation, and never goes lower.
    generations.restore("o-1", 3);
    generations.restore("o-1", 2);
    assert_eq!([generations.of("o-1"), generations.of("o-2")], [3, 0]);
    assert!(!watches("o-1", &new));
    assert!(links.session("o-1", "/o-1", &new).is_err());
}

#[test]
fn garbage_is_refused_whatever_its_size() {
    for size in [0, 1, 100, MAX_TOKEN, MAX_TOKEN + 1, 100_000] {
        for piece in ["a", ".", "a.", "=", "é", "[", "eyJ", "\u{0}"] {
            let garbage = piece.repeat(size / piece.len());
            assert!(!watches(&garbage));
            assert_eq!(
                links().session("o-1", "/o-1", &garbage),
                Err(Refusal::NotAllowed)
            );
            let mut request = AccessRequest::new("o-1", Action::Watch);
            let garbage = format!("__Secure-ssetarget={garbage}; {garbage}");
            request.cookies = Some(&garbage);
            request.query = Some(&garbage);
            assert_eq!(links().query_tokens().check(&request), Permission::Refused);
        }
    }
    // A token that is too long is refused even if it is valid.
    let long = token(json!({ "more": "x".repeat(MAX_TOKEN) }));
    assert!(!watches(&long));
    let fits = token(json!({ "more": "x".repeat(2_800) }));
    assert!(fits.len() <= MAX_TOKEN && watches(&fits));
    // No session is given for a token whose cookie browsers would drop: name and value have 4,096 bytes at most.
    let mut sessions = 0;
    for size in 2_800..3_000 {
        let token = token(json!({ "more": "x".repeat(size) }));
        if let Ok(session) = links().session("o-1", "/o-1", &token) {
            let (name, rest) = session.cookie.split_once('=').unwrap();
            let value = rest.split(';').next().unwrap();
            let bytes = name.len() + value.len();
            assert!(bytes <= 4_096, "{bytes}");
            sessions += 1;
        }
        assert_eq!(watches(&token), token.len() <= MAX_TOKEN);
    }
    assert!((1..200).contains(&sessions), "{sessions}");
    // Deep JSON with the right signature.
    for claims in ["[".repeat(2_000), "{\"a\":".repeat(500), "1".repeat(2_900)] {
        assert!(!watches(&jws(HEADER, &claims, KEY)));
    }
}

proptest! {
    #[test]
    fn any_other_bytes_are_refused(text in "(?s).{0,300}", header in "[ -~]{0,80}", claims in "[ -~]{0,80}") {
        prop_assert!(!watches(&text));
        prop_assert!(!watches(&jws(&header, &claims, KEY)));
        prop_assert!(!watches(&jws(HEADER, &claims, KEY)));
        prop_assert!(!watches(&jws(HEADER, &claims_text(), NEW_KEY)));
    }

    #[test]
    fn a_minted_token_is_valid_for_its_run_alone(id in "[ -~é]{0,100}", other in "[ -~é]{0,100}", seconds in 1u64..2_000_000) {
        let links = links();
        let grant = LinkGrant::run(&id).expires_in(Duration::from_secs(seconds));
        let token = links.token(&grant);
        prop_assert!(check(&links, &id, Action::Watch, &token) != Permission::Refused);
        prop_assert_eq!(check(&links, &other, Action::Watch, &token) != Permission::Refused, id == other);
    }
}

fn claims_text() -> String {
    claims().to_string()
}

#[test]
fn a_link_to_a_tag_is_good_for_the_list_of_that_tag_alone() {
    let keys = LinkKeys::parse("k1:bmV3IG5ldyBuZXcgbmV3IG5ldyBuZXcgbmV3IG5ldyE=").unwrap();
    let links = CapabilityLinks::new(keys, "order");
    let token = format!("Bearer {}", links.token(&LinkGrant::tag("red")));
    for (id, is_granted) in [
        ("tag:red", true),
        ("tag:blue", false),
        ("red", false),
        ("*", false),
        ("tag:", false),
    ] {
        let mut request = AccessRequest::new(id, Action::Watch);
        request.is_list = true;
        request.authorization = Some(&token);
        let granted = links.check(&request) != Permission::Refused;
        assert_eq!(granted, is_granted, "{id}");
    }
    let all = format!("Bearer {}", links.token(&LinkGrant::all_runs()));
    for id in ["*", "tag:red"] {
        let mut request = AccessRequest::new(id, Action::Watch);
        request.is_list = true;
        request.authorization = Some(&all);
        assert_ne!(links.check(&request), Permission::Refused, "{id}");
    }
    // A link to a run does not permit a list, whatever the run's id is.
    for id in ["o-1", "*", "tag:red"] {
        let run = format!("Bearer {}", links.token(&LinkGrant::run(id)));
        for list in ["*", "tag:red", "tag:o-1"] {
            let mut request = AccessRequest::new(list, Action::Watch);
            request.is_list = true;
            request.authorization = Some(&run);
            assert_eq!(links.check(&request), Permission::Refused, "{id} {list}");
        }
    }
}
