//! `\d`, `\s` and `\w` as polaris-go and polaris-java mean them: ASCII.
//!
//! The engine's own are Unicode's, and it cannot be told otherwise without losing `.` and `\p{…}`; so they are written
//! out before it reads the expression.

use std::borrow::Cow;

/// The expression with its classes written out as `[[:word:]]`, or `[:word:]` within a class.
///
/// One that has comments of its own is left alone, since anything may stand in them.
pub(super) fn ascii_classes(pattern: &str) -> Cow<'_, str> {
    let mut rest = pattern.char_indices();
    let mut out = String::new();
    let mut copied = 0;
    // How deep in classes, and whether a `]` would be the first of one, which makes it a text.
    let (mut depth, mut first) = (0_usize, false);
    while let Some((at, c)) = rest.next() {
        let opening = std::mem::take(&mut first);
        match c {
            '\\' => {
                let Some(class) = rest.next().and_then(|(_, c)| named(c)) else { continue };
                if out.is_empty() && has_comments(pattern) {
                    return Cow::Borrowed(pattern);
                }
                out.push_str(pattern.get(copied..at).unwrap_or_default());
                copied = rest.offset();
                let (open, close) = if depth == 0 { ("[", "]") } else { ("", "") };
                out.extend([open, class, close]);
                // Behind a class it is no range: `[\w-.]`.
                if depth > 0 && rest.as_str().starts_with('-') {
                    out.push('\\');
                }
            }
            '[' if depth > 0 && skip_posix(&mut rest) => {}
            '[' => {
                depth += 1;
                first = true;
            }
            '^' if opening => first = true,
            ']' if depth > 0 && !opening => depth -= 1,
            _ => {}
        }
    }
    if copied == 0 {
        return Cow::Borrowed(pattern);
    }
    out.push_str(pattern.get(copied..).unwrap_or_default());
    Cow::Owned(out)
}

fn named(escape: char) -> Option<&'static str> {
    Some(match escape {
        'd' => "[:digit:]",
        'D' => "[:^digit:]",
        's' => "[:space:]",
        'S' => "[:^space:]",
        'w' => "[:word:]",
        'W' => "[:^word:]",
        _ => return None,
    })
}

/// Moves behind a `[:name:]` whose `[` was read.
fn skip_posix(rest: &mut std::str::CharIndices<'_>) -> bool {
    let name = rest.as_str().strip_prefix(':').and_then(|name| name.split_once(":]")).map(|(name, _)| name);
    let Some(name) = name.filter(|name| name.chars().all(|c| c == '^' || c.is_ascii_lowercase())) else {
        return false;
    };
    rest.by_ref().take(name.len() + 3).for_each(drop);
    true
}

/// Whether a `(?#` or the flag `x` may begin a comment.
fn has_comments(pattern: &str) -> bool {
    pattern.split("(?").skip(1).any(|group| {
        let flags = group.split(|c: char| !c.is_ascii_alphabetic() && c != '-').next().unwrap_or_default();
        group.starts_with('#') || flags.contains('x')
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use fancy_regex::Regex;
    use proptest::prelude::*;

    #[test]
    fn classes_are_written_out_and_nothing_else_changes() {
        for (pattern, expected) in [
            ("^a.*$", "^a.*$"),
            (r"\d+", "[[:digit:]]+"),
            (r"^\W\S\D$", "^[[:^word:]][[:^space:]][[:^digit:]]$"),
            (r"[\d.]", "[[:digit:].]"),
            (r"[^\s]\w", "[^[:space:]][[:word:]]"),
            (r"[]\w]", "[][:word:]]"),
            (r"[^]\w]", "[^][:word:]]"),
            (r"[a\]\w]\w", r"[a\][:word:]][[:word:]]"),
            (r"[[:alpha:]\d]\d", "[[:alpha:][:digit:]][[:digit:]]"),
            (r"[a[\w]]\w", "[a[[:word:]]][[:word:]]"),
            (r"[\w-.]", r"[[:word:]\-.]"),
            (r"\w-.", "[[:word:]]-."),
            (r"\\w\[\w\]", r"\\w\[[[:word:]]\]"),
            (r"é\w中", "é[[:word:]]中"),
            (r"(?#\w[)\w", r"(?#\w[)\w"),
            (r"(?x) \w # it's [", r"(?x) \w # it's ["),
            (r"(?i)\w", "(?i)[[:word:]]"),
            (r"(?<x>\w)", "(?<x>[[:word:]])"),
            (r"\", r"\"),
            (r"[", "["),
        ] {
            assert_eq!(ascii_classes(pattern), expected, "{pattern}");
        }
    }

    #[test]
    fn classes_mean_ascii_and_the_rest_means_unicode() {
        for (pattern, value, expected) in [
            (r"^\w+$", "中文", false),
            (r"^\W+$", "中文", true),
            (r"^[\W]+$", "中文", true),
            (r"^[^\w]+$", "中文", true),
            (r"\d", "٣", false),
            (r"\s", "\u{3000}", false),
            (r"^.\p{L}$", "中文", true),
            (r"^[\w.-]+$", "a-b.c_1", true),
        ] {
            let regex = Regex::new(&ascii_classes(pattern)).unwrap();
            assert_eq!(regex.is_match(value).unwrap(), expected, "{pattern} {value}");
        }
    }

    proptest! {
        #[test]
        fn in_ascii_the_expression_means_what_it_meant(
            pattern in r"(\\[dswDSW]|a|\[|\]|\[\^|\(|\)|\\\]|\\\\|\||-|\^|1|\[:alpha:\]|_|\.|\*){0,8}",
            values in proptest::collection::vec("[a1_ \\[\\]^\\\\-]{0,5}", 8),
        ) {
            if let Ok(before) = Regex::new(&pattern) {
                let after = Regex::new(&ascii_classes(&pattern)).unwrap();
                for value in &values {
                    let same = before.is_match(value).unwrap() == after.is_match(value).unwrap();
                    prop_assert!(same, "{} {} {:?}", pattern, ascii_classes(&pattern), value);
                }
            }
        }
    }
}
