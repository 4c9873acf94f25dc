//! Conditions on values: what routing, limiting and breaking ask of a label.
//!
//! A rule is read once and asked on every call, so a [`Matcher`] is compiled: lists are sorted, paths are cut, regular
//! expressions and ranges are parsed, and asking does not allocate. A condition that cannot be compiled makes its rule
//! invalid; one that compiles to nothing true (a range that is none) is in force, and has a [flaw](Matcher::flaw) to
//! report.
//!
//! What counts:
//!
//! * A rule's value of `*` or nothing is true for everything, an absent label included, whatever the kind. Any other
//!   condition needs the label to be there, negations too. A request's value of `*` is a text like any other, and so is a
//!   value that was looked up.
//! * EXACT, IN and their negations compare case-sensitively. IN splits at `,`, trims nothing, and counts empty texts.
//! * REGEX finds anywhere in the value; look-around and back-references work, within a bound of steps. Classes such as
//!   `\w` mean ASCII, as they do in polaris-go and polaris-java; `.` and `\p{…}` mean Unicode.
//! * RANGE is `a~b`, both ends included, in `i64`.
//! * In the values of methods and paths, `{x}` stands for a segment ([`crate::model::path_template`]).

mod ascii;
mod automaton;
mod condition;
mod kind;
mod pattern;
mod value;

#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod property_tests;

pub(crate) use self::condition::Condition;
#[cfg(test)]
pub(crate) use self::kind::InvalidMatcher;
pub(crate) use self::kind::{MatchKind, ValueSource};
pub(crate) use self::value::Matcher;
