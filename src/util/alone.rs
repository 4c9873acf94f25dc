//! What threads write, apart from what others read.

/// Lies alone on its lines of the cache, so that who writes it does not take from others what lies beside it. Two lines,
/// because processors fetch them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Alone<T>(pub(crate) T);
