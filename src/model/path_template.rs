//! Paths in rules: `/orders/{id}`, where `{id}` stands for one segment.
//!
//! A path is cut at every `/`, and all of its segments count, the text before the first `/` included. One `/` at the end
//! is ignored, so that `/a` and `/a/` are one path; `/` is a path of one empty segment, and nothing but `/` matches it.
//! The empty text is no path. Only a rule that begins with `/` or contains a `{` is a path; anything else (the name of an
//! RPC method, mostly) is compared as it is.
//!
//! Rules may list thousands of paths. Those without a template are a few spellings each, to be looked up as texts;
//! templates become one tree, walked segment by segment, so that a look-up touches only what agrees with it so far.

use std::collections::BTreeMap;
use std::sync::Arc;

/// What a template may have, so that walking down the tree needs no more stack than it is known to have.
pub(crate) const MAX_SEGMENTS: usize = 256;

/// What a rule's text for a path stands for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed<'a> {
    /// True for these texts, and no others.
    Spellings(Vec<Arc<str>>),
    /// Its segments, of which one at least is a template.
    Template(Vec<&'a str>),
}

/// Templates, as a tree of their segments.
#[derive(Debug, Default)]
pub(crate) struct PathTemplates {
    literal: BTreeMap<Box<str>, PathTemplates>,
    any: Option<Box<PathTemplates>>,
    /// Whether a template ends here.
    ends: bool,
}

/// Reads what a rule says of a path.
pub(crate) fn parse(rule: &str) -> Parsed<'_> {
    if !rule.starts_with('/') && !rule.contains('{') {
        return Parsed::Spellings(vec![rule.into()]);
    }
    let path = trim(rule);
    if path.split('/').any(is_template) {
        return Parsed::Template(path.split('/').collect());
    }
    let mut spellings = vec![format!("{path}/").into()];
    // A path that is empty or ends in `/` once one was taken away would lose another, or be none.
    if !path.is_empty() && !path.ends_with('/') {
        spellings.push(path.into());
    }
    Parsed::Spellings(spellings)
}

fn trim(path: &str) -> &str {
    path.strip_suffix('/').unwrap_or(path)
}

/// Exactly `{name}`; `{a}{b}` and `a{b}` are plain text.
fn is_template(segment: &str) -> bool {
    let name = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    name.is_some_and(|name| !name.contains(['{', '}']))
}

// === impl PathTemplates ===

impl PathTemplates {
    /// Adds a template by its segments.
    pub(crate) fn insert(&mut self, segments: &[&str]) {
        let mut at = self;
        for segment in segments {
            at = if is_template(segment) {
                at.any.get_or_insert_default()
            } else {
                at.literal.entry((*segment).into()).or_default()
            };
        }
        at.ends = true;
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.literal.is_empty() && self.any.is_none()
    }

    /// Whether one of the templates matches.
    pub(crate) fn matches(&self, path: &str) -> bool {
        !path.is_empty() && self.walk(Some(trim(path)))
    }

    /// As deep as the longest template, which [`MAX_SEGMENTS`] bounds.
    fn walk(&self, rest: Option<&str>) -> bool {
        let Some(rest) = rest else { return self.ends };
        let (segment, rest) = match rest.split_once('/') {
            Some((segment, rest)) => (segment, Some(rest)),
            None => (rest, None),
        };
        self.literal.get(segment).is_some_and(|next| next.walk(rest))
            || self.any.as_deref().is_some_and(|next| next.walk(rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(rules: &[&str], path: &str) -> bool {
        let mut templates = PathTemplates::default();
        let mut spelled = false;
        for rule in rules {
            match parse(rule) {
                Parsed::Template(segments) => templates.insert(&segments),
                Parsed::Spellings(texts) => spelled |= texts.iter().any(|text| &**text == path),
            }
        }
        spelled || templates.matches(path)
    }

    /// Both sides cut into segments and compared one by one.
    fn naive(rule: &str, path: &str) -> bool {
        if !(rule.starts_with('/') || rule.contains('{')) {
            return rule == path;
        }
        let cut = |text: &str| -> Vec<String> {
            let mut segments: Vec<String> = text.split('/').map(str::to_owned).collect();
            if segments.len() > 1 && segments.last().is_some_and(String::is_empty) {
                segments.pop();
            }
            segments
        };
        let placeholder = |segment: &str| {
            let inner = segment.len().checked_sub(2).and_then(|_| segment.get(1..segment.len() - 1));
            segment.starts_with('{') && segment.ends_with('}') && inner.is_some_and(|s| !s.contains(['{', '}']))
        };
        let (rule, actual) = (cut(rule), cut(path));
        !path.is_empty()
            && rule.len() == actual.len()
            && rule.iter().zip(&actual).all(|(r, a)| placeholder(r) || r == a)
    }

    #[test]
    fn a_template_stands_for_one_segment() {
        for (rule, path, expected) in [
            ("/echo/{id}", "/echo/1", true),
            ("/echo/{id}", "/echo/1/", true),
            ("/echo/{id}", "/echo/{id}", true),
            ("/echo/{id}", "/echo", false),
            ("/echo/{id}", "/echo/", false),
            ("/echo/{id}", "/echo/1/2", false),
            ("/echo/{id}", "echo/1", false),
            ("/a/{x}/c", "/a//c", true),
            ("/{x}/{y}", "/1/2", true),
            ("pkg.Service/{method}", "pkg.Service/Get", true),
            ("pkg.Service/{method}", "other/Get", false),
            ("{method}", "Get", true),
            ("{method}", "pkg/Get", false),
            ("/{}", "/1", true),
        ] {
            assert_eq!(matches(&[rule], path), expected, "{rule} {path}");
            assert_eq!(naive(rule, path), expected, "{rule} {path}");
        }
    }

    #[test]
    fn what_is_not_exactly_a_template_is_text() {
        for rule in ["/a{x}", "/{x}b", "/{x}-{y}", "/{x}{y}", "/{{x}}", "/{", "/}{", "/{x}-GET"] {
            assert!(matches!(parse(rule), Parsed::Spellings(_)), "{rule}");
            assert!(matches(&[rule], rule) && !matches(&[rule], "/ab"), "{rule}");
        }
    }

    #[test]
    fn one_slash_at_the_end_is_ignored_and_the_root_is_the_root() {
        for (rule, path, expected) in [
            ("/", "/", true),
            ("/", "", false),
            ("/", "//", false),
            ("//", "//", true),
            ("//", "/", false),
            ("/a", "/a/", true),
            ("/a/", "/a", true),
            ("/a", "/a//", false),
            ("/a//", "/a/", false),
            ("/{x}", "/a//", false),
            ("a", "a/", false),
            ("a/", "a", false),
            ("a{", "a{/", true),
            ("", "", true),
            ("/{x}", "", false),
            ("{x}", "", false),
        ] {
            assert_eq!(matches(&[rule], path), expected, "{rule} {path}");
            assert_eq!(naive(rule, path), expected, "{rule} {path}");
        }
    }

    #[test]
    fn a_literal_that_leads_nowhere_does_not_hide_a_template() {
        let rules = ["/a/b/{x}/d", "/{p}/b/c/{q}"];
        assert!(matches(&rules, "/a/b/c/d") && matches(&rules, "/a/b/c/x") && matches(&rules, "/x/b/c/d"));
        assert!(!matches(&rules, "/a/b/x/x") && !matches(&rules, "/a/b/c"));
    }

    #[test]
    fn many_templates_and_long_paths_are_walked_without_harm() {
        let rules: Vec<String> = (0..10_000).map(|n| format!("/svc-{n}/{{id}}/items")).collect();
        let mut templates = PathTemplates::default();
        for rule in &rules {
            let Parsed::Template(segments) = parse(rule) else { panic!("{rule}") };
            templates.insert(&segments);
        }
        assert!(templates.matches("/svc-9999/x/items") && !templates.matches("/svc-10000/x/items"));
        assert!(!templates.matches(&"/a".repeat(1_000_000)));
    }

    proptest! {
        #[test]
        fn a_tree_of_templates_agrees_with_comparing_one_by_one(
            rules in proptest::collection::vec("(/|a|b|\\{x\\}|\\{|\\}|/a|/\\{y\\}|/b){0,6}", 1..6),
            path in "(/|a|b|\\{x\\}|/a|/b|/ab){0,7}",
        ) {
            let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
            let expected = rules.iter().any(|rule| naive(rule, &path));
            prop_assert_eq!(matches(&rules, &path), expected, "{:?} {}", rules, path);
        }
    }
}
