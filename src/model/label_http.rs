//! Labels of HTTP requests, read where they stand.
//!
//! Only what is asked for is looked at, and it is copied only where it has to be decoded. A value that is no UTF-8 is
//! no label.

use std::borrow::Cow;

use http::HeaderMap;
use http::header::COOKIE;
use http::request::Parts;

use crate::model::label::{LabelKind, Labels};

/// Answers [`LabelKind::Header`]: the first header of a name. A value that is no UTF-8 is absent.
impl Labels for HeaderMap {
    fn get(&self, kind: LabelKind, key: &str) -> Option<Cow<'_, str>> {
        match kind {
            LabelKind::Header => str::from_utf8(Self::get(self, key)?.as_bytes()).ok().map(Cow::Borrowed),
            _ => None,
        }
    }
}

/// Answers [`LabelKind::Method`] with the verb, [`LabelKind::Path`] with the path as it came (nothing is decoded),
/// [`LabelKind::Header`] as a [`HeaderMap`] does, [`LabelKind::Query`] with the first parameter of a name, decoded as
/// forms are (`%20` and `+` are spaces), and [`LabelKind::Cookie`] with the first cookie of a name, as it came.
impl Labels for Parts {
    fn get(&self, kind: LabelKind, key: &str) -> Option<Cow<'_, str>> {
        match kind {
            LabelKind::Method => Some(Cow::Borrowed(self.method.as_str())),
            LabelKind::Path => Some(Cow::Borrowed(self.uri.path())),
            LabelKind::Header => Labels::get(&self.headers, kind, key),
            LabelKind::Query => query(self.uri.query()?, key),
            LabelKind::Cookie => cookie(&self.headers, key),
            _ => None,
        }
    }
}

fn query<'a>(query: &'a str, key: &str) -> Option<Cow<'a, str>> {
    form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == key).map(|(_, value)| value)
}

/// Pairs are cut apart as bytes, so that one cookie that is no text hides no other.
fn cookie<'a>(headers: &'a HeaderMap, key: &str) -> Option<Cow<'a, str>> {
    let pairs = headers.get_all(COOKIE).into_iter().flat_map(|header| header.as_bytes().split(|byte| *byte == b';'));
    let texts = pairs.filter_map(|pair| str::from_utf8(pair).ok());
    let mut named = texts.filter_map(|text| text.trim_ascii().split_once('='));
    named.find(|(name, _)| *name == key).map(|(_, value)| Cow::Borrowed(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderValue, Request};
    use proptest::prelude::*;

    fn parts(uri: &str, headers: &[(&str, &[u8])]) -> Parts {
        let mut request = Request::builder().method("PUT").uri(uri);
        for (name, value) in headers {
            request = request.header(*name, HeaderValue::from_bytes(value).unwrap());
        }
        request.body(()).unwrap().into_parts().0
    }

    fn get<'a>(labels: &'a impl Labels, kind: LabelKind, key: &str) -> Option<Cow<'a, str>> {
        labels.get(kind, key)
    }

    #[test]
    fn a_request_has_a_method_a_path_and_headers() {
        let parts = parts("http://host/a%20b?c=d", &[("X-Id", b"1"), ("x-id", b"2"), ("name", "名".as_bytes())]);
        assert_eq!(get(&parts, LabelKind::Method, "").as_deref(), Some("PUT"));
        assert_eq!(get(&parts, LabelKind::Path, "ignored").as_deref(), Some("/a%20b"));
        assert_eq!(get(&parts, LabelKind::Header, "x-ID").as_deref(), Some("1"));
        assert_eq!(get(&parts, LabelKind::Header, "name").as_deref(), Some("名"));
        for (kind, key) in [(LabelKind::Header, "no"), (LabelKind::CallerIp, ""), (LabelKind::Custom, "x-id")] {
            assert_eq!(get(&parts, kind, key), None, "{kind}");
        }
    }

    #[test]
    fn headers_alone_answer_for_headers_alone() {
        let headers = parts("/?q=1", &[("a", b"1"), ("cookie", b"c=1")]).headers;
        assert_eq!(get(&headers, LabelKind::Header, "A").as_deref(), Some("1"));
        for kind in [LabelKind::Method, LabelKind::Path, LabelKind::Query, LabelKind::Cookie, LabelKind::Custom] {
            assert_eq!(get(&headers, kind, "c"), None, "{kind}");
        }
    }

    #[test]
    fn what_is_no_text_is_no_label() {
        let parts = parts("/", &[("a", b"\xFF"), ("cookie", b"x=\xFF; y=1")]);
        assert_eq!(get(&parts, LabelKind::Header, "a"), None);
        assert_eq!(get(&parts, LabelKind::Cookie, "x"), None);
        assert_eq!(get(&parts, LabelKind::Cookie, "y").as_deref(), Some("1"));
    }

    #[test]
    fn a_parameter_is_decoded_and_the_first_of_a_name_counts() {
        let parts = parts("/?a=1+2%263&a=4&b&%63=%E4%B8%AD&=x", &[]);
        for (key, expected) in
            [("a", Some("1 2&3")), ("b", Some("")), ("c", Some("中")), ("", Some("x")), ("A", None), ("%63", None)]
        {
            assert_eq!(get(&parts, LabelKind::Query, key).as_deref(), expected, "{key}");
        }
        assert!(matches!(query("a=1", "a"), Some(Cow::Borrowed("1"))), "what needs no decoding is not copied");
    }

    #[test]
    fn cookies_are_read_from_every_cookie_header() {
        let parts = parts("/", &[("cookie", b"a=1; b=\"2\"; e="), ("cookie", b"a=3;  c = d=e ;f")]);
        for (key, expected) in
            [("a", Some("1")), ("b", Some("\"2\"")), ("e", Some("")), ("c ", Some(" d=e")), ("f", None), ("A", None)]
        {
            assert_eq!(get(&parts, LabelKind::Cookie, key).as_deref(), expected, "{key}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_asked_for_there_is_an_answer(
            key in "\\PC{0,8}|[\u{0}-\u{1f}]{0,3}",
            cookie in "[ -~]{0,12}",
            query in "[!-~&&[^#<>\"`{}]]{0,12}",
        ) {
            let parts = parts(&format!("/?{query}"), &[("cookie", cookie.as_bytes())]);
            for kind in [LabelKind::Header, LabelKind::Query, LabelKind::Cookie, LabelKind::Custom] {
                let _ = get(&parts, kind, &key);
                let _ = get(&parts.headers, kind, &key);
            }
        }
    }
}
