//! The fast way for plain expressions: a finished automaton, which a search walks byte by byte.
//!
//! The general engine finds a match in any expression, and for that borrows scratch space from a pool at each search, which
//! takes longer than to look at the few bytes of a label. Most expressions of rules are plain: they have an automaton
//! without scratch space. Only such are taken as mean the same to every engine; anything else is left to the general one.

use regex_automata::Input;
use regex_automata::dfa::Automaton as _;
use regex_automata::dfa::StartKind;
use regex_automata::dfa::dense::{self, DFA};

/// Bytes of an automaton; one that would be larger is not made.
const SIZE: usize = 64 * 1024;
/// Bytes that making it may take.
const SCRATCH: usize = 512 * 1024;
/// Longer expressions are rarely small automata, and it takes long to find out.
const LENGTH: usize = 200;

/// A finished automaton.
#[derive(Debug)]
pub(super) struct Automaton(DFA<Vec<u32>>);

impl Automaton {
    /// The automaton of `pattern`, if it is a plain and small one.
    pub(super) fn of(pattern: &str) -> Option<Self> {
        if pattern.len() > LENGTH || !is_plain(pattern) {
            return None;
        }
        let config = dense::Config::new()
            .start_kind(StartKind::Unanchored)
            .dfa_size_limit(Some(SIZE))
            .determinize_size_limit(Some(SCRATCH));
        dense::Builder::new().configure(config).build(pattern).ok().map(Self)
    }

    /// Whether it is found in `value`; none if the automaton cannot tell.
    pub(super) fn is_match(&self, value: &str) -> Option<bool> {
        self.0.try_search_fwd(&Input::new(value).earliest(true)).ok().map(|found| found.is_some())
    }
}

/// Whether all of it means the same to every engine: letters, digits, anchors, dots, groups, alternatives, classes, and
/// repetition. No flags, no look-around, no counts, and of escapes only those of punctuation.
fn is_plain(pattern: &str) -> bool {
    let mut before = ' ';
    let mut letters = pattern.chars();
    while let Some(letter) = letters.next() {
        let plain = match letter {
            '\\' => letters.next().is_some_and(|escaped| matches!(escaped, '.' | '-' | '/' | '_')),
            // `(?` begins a flag or a look, `*?` and the like are lazy, which is the same for "is there a match".
            '?' => before != '(',
            '^' | '$' | '.' | '*' | '+' | '(' | ')' | '|' | '[' | ']' => true,
            _ => letter.is_ascii_alphanumeric() || "_-/:@%=,;~ ".contains(letter),
        };
        // `[[` and `[]` mean something else to each engine.
        if !plain || (before == '[' && matches!(letter, '[' | ']')) {
            return false;
        }
        before = letter;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_finds_what_the_general_engine_finds(pattern in "[ab.^$*+?()|\\[\\]c-]{0,8}", value in "[abc\n]{0,8}") {
            if let (Some(automaton), Ok(general)) = (Automaton::of(&pattern), fancy_regex::Regex::new(&pattern)) {
                prop_assert_eq!(automaton.is_match(&value), Some(general.is_match(&value).unwrap()), "{}", pattern);
            }
        }
    }

    #[test]
    fn only_plain_expressions_have_one() {
        for plain in ["^u-[0-3][0-9]*$", "canary|gray", "v1\\.2.*", "a+?b", ""] {
            assert!(Automaton::of(plain).is_some(), "{plain}");
        }
        for other in ["(?i)a", "a(?=b)", "(a)\\1", "\\d+", "a{2,3}", "[[:alpha:]]", "ä", "\\bx", "a&&b"] {
            assert!(Automaton::of(other).is_none(), "{other}");
        }
        let large = format!("{}x", "[ab].?".repeat(30));
        assert!(Automaton::of(&large).is_none(), "it would be too large");
    }
}
