//! Durations as both official SDKs write them: `500ms`, `1s`, `1m30s`, `1.5s`, `2h`, and a bare number of milliseconds.
//!
//! Used as `#[serde(with = "duration")]`, so that fields stay plain [`Duration`]s. What is written back is Go's form
//! (`1m30s`), which all three SDKs read.

use std::fmt::Write as _;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize as _, Deserializer, Serializer};

use super::scalar::Scalar;

/// Longer than any sensible setting, and short enough that adding it to a clock reading cannot overflow.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A text that is no duration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration: write 500ms, 1s, 1m30s or 2h (at most 87600h), or a whole number of milliseconds")]
pub(crate) struct InvalidDuration(String);

/// Reads one duration.
pub(crate) fn parse(text: &str) -> Result<Duration, InvalidDuration> {
    let trimmed = text.trim();
    let parsed = match trimmed.parse::<u64>() {
        Ok(millis) => Some(Duration::from_millis(millis)),
        Err(_) => humantime::parse_duration(trimmed).ok(),
    };
    // Only a prefix of what was written: a value that stands under the wrong key may be long, or a secret.
    parsed.filter(|d| *d <= LONGEST).ok_or_else(|| InvalidDuration(trimmed.chars().take(16).collect()))
}

/// Writes one duration so that [`parse`], polaris-go and polaris-java read it.
pub(crate) fn format(duration: Duration) -> String {
    let (secs, nanos) = (duration.as_secs(), duration.subsec_nanos());
    let mut text = String::new();
    let whole = [(secs / 3600, "h"), (secs / 60 % 60, "m"), (secs % 60, "s")];
    let parts = [(nanos / 1_000_000, "ms"), (nanos / 1_000 % 1_000, "us"), (nanos % 1_000, "ns")];
    for (count, unit) in whole.into_iter().chain(parts.map(|(count, unit)| (count.into(), unit))) {
        if count > 0 {
            // Writing to a String cannot fail.
            let _ = write!(text, "{count}{unit}");
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*duration))
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    parse(&Scalar::deserialize(deserializer)?.0).map_err(D::Error::custom)
}

/// The same for a duration that may be left out.
pub(super) mod optional {
    use super::{Duration, Serializer};
    use serde::Deserializer;

    #[expect(clippy::ref_option, reason = "the signature that serde's `with` calls")]
    pub(in crate::config) fn serialize<S: Serializer>(
        value: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(duration) => super::serialize(duration, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        super::deserialize(deserializer).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_form_of_both_peers_is_read() {
        for (text, millis) in [
            ("500ms", 500),
            ("1s", 1_000),
            ("1m30s", 90_000),
            ("1m0s", 60_000),
            ("24h0m0s", 86_400_000),
            ("1.5s", 1_500),
            ("2h", 7_200_000),
            ("2000", 2_000),
            ("0", 0),
            (" 5s ", 5_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_and_named() {
        for text in
            ["", "soon", "-1s", "-5", "1.5", "1 parsec", "99999999999999999999", "100000h", "18446744073709551615"]
        {
            let error = parse(text).unwrap_err().to_string();
            let named: String = text.chars().take(16).collect();
            assert!(error.starts_with(&format!("{named:?} is not a duration")), "{error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(secs in 0..LONGEST.as_secs(), nanos in 0..1_000_000_000_u32) {
            let duration = Duration::new(secs, nanos);
            prop_assert_eq!(parse(&format(duration)), Ok(duration));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,40}") {
            let _ = parse(&text);
        }
    }
}
