//! The options that several policies have.

use std::ops::RangeInclusive;

use crate::config::PluginOptions;
use crate::error::Result;

/// Checks `hashFunction`. polaris-go knows one function for all of its policies, and polaris-java has no such option.
pub(super) fn check_hash_function(options: &PluginOptions) -> Result<()> {
    options.one_of("hashFunction", &[("murmur3", ())]).map(|_| ())
}

/// Reads a count; `None` if it is not set.
pub(super) fn count(options: &PluginOptions, key: &str, range: RangeInclusive<u32>) -> Result<Option<u32>> {
    let count: Option<u32> = options.get(key)?;
    match count {
        Some(count) if !range.contains(&count) => {
            Err(options.invalid(key, format!("expected {} to {}, not {count}", range.start(), range.end())))
        }
        _ => Ok(count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn a_hash_function_that_nobody_has_is_refused_with_those_that_there_are() {
        assert!(check_hash_function(&PluginOptions::new().with("hashFunction", "murmur3")).is_ok());
        let error = check_hash_function(&PluginOptions::new().with("hashFunction", "md5")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains("hashFunction: expected one of murmur3"), "{error}");
    }

    #[test]
    fn a_count_out_of_range_is_refused_with_the_range() {
        let read = |text: &str| count(&PluginOptions::new().with("vnodeCount", text), "vnodeCount", 1..=9);
        assert_eq!(read("9").unwrap(), Some(9));
        for wrong in ["0", "10"] {
            let error = read(wrong).unwrap_err();
            assert!(error.to_string().contains("vnodeCount: expected 1 to 9"), "{error}");
        }
        assert_eq!(read("-1").unwrap_err().kind(), ErrorKind::InvalidConfig);
        assert_eq!(count(&PluginOptions::new(), "vnodeCount", 1..=9).unwrap(), None);
    }
}
