//! The answer to a request that is not served, in the protocol that it was made in.

use std::fmt::Write;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use crate::engine::quota::outcome::QuotaError;

const RULE: HeaderName = HeaderName::from_static("x-polaris-rate-limit-rule");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
/// Clients take no more than a few KiB of headers.
const LONGEST_HEADER: usize = 4096;

const RESOURCE_EXHAUSTED: u16 = 8;
const UNAVAILABLE: u16 = 14;

/// What is answered instead of the service, to a request with these headers.
pub(super) fn refusal(why: &QuotaError, request: &HeaderMap) -> Response<Bytes> {
    let (status, code, text) = match why {
        QuotaError::Limited(limited) => {
            let text = limited.custom_response().map(str::to_owned);
            let text = text.unwrap_or_else(|| format!("limited by rule {:?}", limited.rule()));
            (StatusCode::TOO_MANY_REQUESTS, RESOURCE_EXHAUSTED, text)
        }
        // The kind alone: what else the error says, as addresses, is not for callers.
        QuotaError::Failed(error) => {
            (StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE, format!("the quota is not known: {}", error.kind()))
        }
    };
    let retry_after = why.retry_after().filter(|after| !after.is_zero());
    let mut response = match grpc(request) {
        Some(kind) => trailers_only(kind, code, &text, retry_after),
        None => plain(status, text, retry_after),
    };
    if let QuotaError::Limited(limited) = why
        && let Some(rule) = encode(limited.rule())
    {
        response.headers_mut().insert(RULE, rule);
    }
    response
}

fn plain(status: StatusCode, text: String, retry_after: Option<Duration>) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if let Some(after) = retry_after {
        let begun = u64::from(after.subsec_nanos() > 0);
        headers.insert(RETRY_AFTER, after.as_secs().saturating_add(begun).into());
    }
    response
}

/// The content type to answer a gRPC call with; none of a request that is no such call.
fn grpc(request: &HeaderMap) -> Option<HeaderValue> {
    let kind = request.get(CONTENT_TYPE).filter(|kind| kind.as_bytes().starts_with(b"application/grpc"))?;
    // gRPC-Web, which a layer further out may not have translated, knows its answers by their type.
    let web = kind.as_bytes().starts_with(b"application/grpc-web");
    Some(if web { kind.clone() } else { HeaderValue::from_static("application/grpc") })
}

fn trailers_only(kind: HeaderValue, code: u16, text: &str, retry_after: Option<Duration>) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, kind);
    headers.insert(GRPC_STATUS, code.into());
    headers.extend(encode(text).map(|text| (GRPC_MESSAGE, text)));
    if let Some(after) = retry_after {
        let millis = after.as_nanos().div_ceil(1_000_000);
        // An `i32` on the other side.
        headers.insert(GRPC_PUSHBACK, i32::try_from(millis).unwrap_or(i32::MAX).into());
    }
    response
}

/// A text as visible ASCII: all else, and `%`, is percent-encoded, and what would be too long is cut off. None of nothing.
fn encode(text: &str) -> Option<HeaderValue> {
    let mut encoded = String::with_capacity(text.len().min(LONGEST_HEADER));
    for letter in text.chars() {
        let whole = encoded.len();
        if letter.is_ascii_graphic() && letter != '%' {
            encoded.push(letter);
        } else {
            let mut bytes = [0; 4];
            for byte in letter.encode_utf8(&mut bytes).bytes() {
                // A string takes everything.
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
        if encoded.len() > LONGEST_HEADER {
            encoded.truncate(whole);
            break;
        }
    }
    HeaderValue::try_from(encoded).ok().filter(|value| !value.is_empty())
}
