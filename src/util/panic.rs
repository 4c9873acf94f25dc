//! Work of others, whose panic is an error of that work and never more.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Does `work`; of a panic, what it said.
///
/// Whatever the work left half done when it panicked must be its own.
#[inline]
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let said = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        said.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::caught;

    #[test]
    fn a_panic_is_told_and_goes_no_further() {
        assert_eq!(caught(|| 1), Ok(1));
        assert_eq!(caught(|| panic!("of {}", "words")), Err::<(), _>("of words".to_owned()));
        assert_eq!(caught(|| std::panic::panic_any(7)), Err::<(), _>("no message".to_owned()));
    }
}
