//! Regular expressions of rules: compiled once, bounded in size and in steps.
//!
//! Rules come from consoles, whose languages all know look-around and back-references, so the engine has to back-track
//! where they are used; without them it is linear. The bound on steps keeps an unlucky expression from stopping callers:
//! beyond it the condition is false, and the expression remembers that it gave up.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use fancy_regex::{Regex, RegexBuilder};

use super::ascii::ascii_classes;
use super::automaton::Automaton;
use super::kind::{InvalidMatcher, excerpt};

/// How often a search may step back.
const STEPS: usize = 10_000;
/// The same in a long value, each of whose steps may read all of it.
const STEPS_IN_LONG: usize = 500;
/// Bytes from which on a value is long.
const LONG: usize = 4 * 1024;
/// Bytes of each automaton of an expression; also what it may cache while it searches.
const SIZE: usize = 1 << 20;
/// Instructions of the back-tracking machine: many automata or much repetition make many.
const INSTRUCTIONS: usize = 50_000;

#[derive(Debug)]
pub(super) struct Pattern {
    regex: Regex,
    /// The fast way, if there is one; made for the first search.
    automaton: OnceLock<Option<Automaton>>,
    /// The same with fewer steps, built when the first long value comes.
    for_long: OnceLock<Option<Regex>>,
    gave_up: AtomicBool,
}

impl Pattern {
    pub(super) fn new(pattern: &str) -> Result<Self, InvalidMatcher> {
        let regex = build(&ascii_classes(pattern), STEPS).map_err(|problem| {
            let (pattern, problem) = (excerpt(pattern), excerpt(&problem.to_string()));
            InvalidMatcher::Regex { pattern, problem }
        })?;
        let (automaton, for_long) = (OnceLock::new(), OnceLock::new());
        Ok(Self { regex, automaton, for_long, gave_up: AtomicBool::new(false) })
    }

    pub(super) fn is_match(&self, value: &str) -> bool {
        let automaton = self.automaton.get_or_init(|| Automaton::of(self.regex.as_str()));
        if let Some(found) = automaton.as_ref().and_then(|automaton| automaton.is_match(value)) {
            return found;
        }
        let found = self.regex_for(value).map(|regex| regex.is_match(value));
        if let Some(Ok(found)) = found {
            return found;
        }
        self.gave_up.store(true, Ordering::Relaxed);
        false
    }

    pub(super) fn gave_up(&self) -> bool {
        self.gave_up.load(Ordering::Relaxed)
    }

    fn regex_for(&self, value: &str) -> Option<&Regex> {
        if value.len() <= LONG {
            return Some(&self.regex);
        }
        self.for_long.get_or_init(|| build(self.regex.as_str(), STEPS_IN_LONG).ok()).as_ref()
    }
}

fn build(pattern: &str, steps: usize) -> Result<Regex, fancy_regex::Error> {
    RegexBuilder::new(pattern)
        .backtrack_limit(steps)
        .delegate_size_limit(SIZE)
        .delegate_dfa_size_limit(SIZE)
        .delegate_dfa_skip_cache_capacity_check(false)
        .max_prog_size(INSTRUCTIONS)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::new(text).unwrap()
    }

    /// What it says, and whether it gave up saying so.
    fn search(text: &str, value: &str) -> (bool, bool) {
        let pattern = pattern(text);
        (pattern.is_match(value), pattern.gave_up())
    }

    #[test]
    fn without_look_around_a_search_is_linear_and_never_gives_up() {
        let unlucky = format!("{}b", "a".repeat(40));
        for text in ["(a+)+$", "(a|aa)+$", "^(([a-z])+.)+[A-Z]([a-z])+$"] {
            assert_eq!(search(text, &unlucky), (false, false), "{text}");
        }
        assert_eq!(search("(a+)+$", &"a".repeat(100_000)), (true, false));
    }

    #[test]
    fn a_search_that_steps_back_too_often_is_false_and_says_so() {
        let unlucky = format!("{}b", "a".repeat(40));
        for text in [
            r"^(a|aa)+\1c",
            "^(?:(?=a)a|aa)+$",
            "^(?:(?=(?:(?=a)a|aa)+)a|aa)+$",
            r"^(?:a(?<=a)|aa)+c",
            "^(?:(?!c)a|aa)*$",
        ] {
            assert_eq!(search(text, &unlucky), (false, true), "{text}");
        }
        let shared = pattern("^(?:(?=a)a|aa)+$");
        assert!(shared.is_match("aaa") && !shared.gave_up(), "within the bound it is itself");
        assert!(!shared.is_match(&unlucky) && shared.gave_up());
        assert!(shared.is_match("aaa") && shared.gave_up(), "and it remembers");
    }

    #[test]
    fn a_long_value_has_fewer_steps_and_linear_searches_do_not_mind() {
        let long = "a".repeat(20_000);
        assert_eq!(search("^(?!b).*$", &long), (true, false));
        assert_eq!(search("b", &long), (false, false));
        assert_eq!(search("(?=.*b)a", &long), (false, true));
        assert_eq!(search("(?<=a)b", &"a".repeat(LONG)), (false, false), "a step a byte is within the bound");
    }

    #[test]
    fn what_is_too_big_to_compile_is_invalid() {
        let many = (0..20_000).map(|n| format!("user{n}")).collect::<Vec<_>>().join("|");
        for text in [
            "((a{1000}){1000}){1000}".to_owned(),
            r"(?<=\p{L}{99,100})x".to_owned(),
            r"\p{L}".repeat(2_000),
            format!("{}a{}", "(".repeat(5_000), ")".repeat(5_000)),
            "(?=a)b".repeat(20_000),
            format!("(?:(?=x)x|{many})"),
        ] {
            let problem = Pattern::new(&text).unwrap_err().to_string();
            assert!(problem.starts_with("REGEX `") && problem.len() < 700, "{problem}");
        }
    }

    #[test]
    fn what_consoles_accept_compiles_and_finds() {
        for (text, value, expected) in [
            (r"^\/api\/v\d+\/", "/api/v1/x", true),
            (r"^[\w-\.]+@([\w-]+\.)+[\w-]{2,4}$", "a.b-c@d.org", true),
            (r"(?<=^user-)\d+(?=@)", "user-17@x", true),
            (r"^(?!admin|root$).+", "admin2", false),
            (r"(\w)\1", "hello", true),
            (r"(?<quote>['x]).*\k<quote>", "'a'", true),
            (r"(?P<n>a)b", "ab", true),
            ("a++b", "aab", true),
            ("(?>a+)ab", "aaab", false),
            ("(?i)GRAY", "gray", true),
            (r"^\u4e2d\x{6587}$", "中文", true),
            (r"^\p{Han}{2}$", "中文", true),
            ("^.$", "😀", true),
            ("^a$", "a\n", false),
        ] {
            assert_eq!(search(text, value), (expected, false), "{text} {value}");
        }
        for text in ["[", "(", "a)", "*a", r"\", "(?<n", "[z-a]", r"\1", "(?<=a"] {
            assert!(Pattern::new(text).is_err(), "{text}");
        }
    }
}
