//! A small reader of Rust text: enough to name every path that a file's code mentions, and no more.
//!
//! It works on tokens, so that comments, strings and character literals are never mistaken for code, and a nested
//! `use a::{b, c::{d, e}}` counts as the four paths that it is. What it cannot see are paths that a macro builds and
//! names that were imported under another name; the import itself is seen.

/// One word or punctuation mark of the code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
}

/// A path as it is written, one entry for each leaf of a grouped import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mention {
    pub(crate) segments: Vec<String>,
    pub(crate) line: usize,
    /// Inline modules around the mention, outermost first.
    pub(crate) inside: Vec<String>,
    /// Whether it stands in an item that is compiled for tests only.
    pub(crate) in_test: bool,
}

/// What one file's code says.
#[derive(Debug)]
pub(crate) struct Scanned {
    pub(crate) mentions: Vec<Mention>,
    /// Modules declared as `#[cfg(test)] mod name;`: their files are test code as a whole.
    pub(crate) test_files: Vec<String>,
    /// Lines that stand outside test-only items.
    pub(crate) lines: usize,
}

/// Words that end where a path from the outermost namespace, `::a::b`, may begin.
const KEYWORDS: &[&str] = &[
    "as", "break", "dyn", "else", "for", "if", "impl", "in", "let", "match", "move", "mut", "ref", "return", "use",
    "where", "while", "yield",
];

/// Reads one file.
pub(crate) fn scan(source: &str) -> Scanned {
    let tokens = tokens(source);
    let tests = test_items(&tokens);
    let in_test = |at: usize| tests.iter().any(|&(from, to)| (from..=to).contains(&at));
    let mut mentions = Vec::new();
    // One entry for each open brace: the name, if the brace opened an inline module.
    let mut braces: Vec<Option<String>> = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        match token.text.as_str() {
            "{" => braces.push(module_name_before(&tokens, at)),
            "}" => drop(braces.pop()),
            text if starts_word(text) => {
                let mut leaves = Vec::new();
                let after = read_path(&tokens, at, &[], &mut leaves);
                let inside: Vec<String> = braces.iter().flatten().cloned().collect();
                mentions.extend(leaves.into_iter().map(|(segments, line)| Mention {
                    segments,
                    line,
                    inside: inside.clone(),
                    in_test: in_test(at),
                }));
                at = after;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    Scanned { mentions, test_files: test_files(&tokens, &tests), lines: lines_outside(source, &tokens, &tests) }
}

/// Splits code into words and punctuation; `::` is one token, everything that is not code is left out.
pub(crate) fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    while let Some(&c) = chars.get(at) {
        let end = match literal_end(&chars, at) {
            Some(end) => end,
            None if starts_word_char(c) => {
                let raw = c == 'r' && chars.get(at + 1) == Some(&'#');
                let start = if raw { at + 2 } else { at };
                let end = end_while(&chars, start, |c| c.is_alphanumeric() || c == '_');
                found.push(Token { text: slice(&chars, start, end), line });
                end
            }
            None if c == ':' && chars.get(at + 1) == Some(&':') => {
                found.push(Token { text: "::".to_owned(), line });
                at + 2
            }
            None => {
                if !c.is_whitespace() {
                    found.push(Token { text: c.to_string(), line });
                }
                at + 1
            }
        };
        line += chars.get(at..end).unwrap_or_default().iter().filter(|c| **c == '\n').count();
        at = end;
    }
    found
}

/// Where the comment, string, character, lifetime or number that begins here ends; `None` where none begins.
fn literal_end(chars: &[char], at: usize) -> Option<usize> {
    let peek = |ahead: usize| chars.get(at + ahead).copied();
    match peek(0)? {
        '/' if peek(1) == Some('/') => Some(end_while(chars, at, |c| c != '\n')),
        '/' if peek(1) == Some('*') => Some(block_comment_end(chars, at)),
        '"' => Some(quoted_end(chars, at + 1, '"')),
        '\'' => Some(quote_end(chars, at)),
        'b' | 'c' | 'r' => prefixed_string_end(chars, at),
        c if c.is_ascii_digit() => Some(end_while(chars, at, |c| c.is_alphanumeric() || c == '_')),
        _ => None,
    }
}

/// Block comments nest.
fn block_comment_end(chars: &[char], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0_usize);
    while at < chars.len() {
        match (chars.get(at), chars.get(at + 1)) {
            (Some('/'), Some('*')) => (at, depth) = (at + 2, depth + 1),
            (Some('*'), Some('/')) => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// A character literal, or a lifetime, which has no closing quote.
fn quote_end(chars: &[char], at: usize) -> usize {
    match (chars.get(at + 1), chars.get(at + 2)) {
        (Some('\\'), _) => quoted_end(chars, at + 1, '\''),
        (_, Some('\'')) => at + 3,
        _ => end_while(chars, at + 1, |c| c.is_alphanumeric() || c == '_'),
    }
}

/// `b"…"`, `c"…"`, `b'…'`, `r"…"`, `r#"…"#`, `br#"…"#`: `None` where the letter only begins a word.
fn prefixed_string_end(chars: &[char], at: usize) -> Option<usize> {
    // The letter may also be the last one of a longer word; words are read whole, so that does not happen here.
    let letters = end_while(chars, at, |c| matches!(c, 'b' | 'c' | 'r'));
    let raw = chars.get(letters.checked_sub(1)?) == Some(&'r');
    let quote = end_while(chars, letters, |c| raw && c == '#');
    match chars.get(quote)? {
        '"' if letters - at > 2 => None,
        '"' if raw => {
            let hashes = quote - letters;
            (quote + 1..chars.len())
                .find(|&i| {
                    chars.get(i) == Some(&'"')
                        && chars.get(i + 1..=i + hashes).is_some_and(|after| after.iter().all(|c| *c == '#'))
                })
                .map(|i| i + 1 + hashes)
        }
        '"' => Some(quoted_end(chars, quote + 1, '"')),
        '\'' if !raw && letters - at == 1 && chars.get(at) == Some(&'b') => Some(quote_end(chars, quote)),
        _ => None,
    }
}

/// The place behind the closing quote; a backslash takes the next character with it.
fn quoted_end(chars: &[char], mut at: usize, quote: char) -> usize {
    while let Some(&c) = chars.get(at) {
        at += if c == '\\' { 2 } else { 1 };
        if c == quote {
            break;
        }
    }
    at.min(chars.len())
}

fn end_while(chars: &[char], start: usize, keep: impl Fn(char) -> bool) -> usize {
    (start..chars.len()).find(|&i| chars.get(i).is_some_and(|c| !keep(*c))).unwrap_or(chars.len())
}

fn slice(chars: &[char], from: usize, to: usize) -> String {
    chars.get(from..to).unwrap_or_default().iter().collect()
}

fn starts_word_char(c: char) -> bool {
    c.is_alphabetic() || c == '_'
}

fn starts_word(text: &str) -> bool {
    text.chars().next().is_some_and(starts_word_char)
}

fn text_at(tokens: &[Token], at: usize) -> &str {
    tokens.get(at).map_or("", |token| token.text.as_str())
}

/// Reads the path or import tree that begins at `at`, adds one leaf for each path in it, and returns the place behind.
fn read_path(tokens: &[Token], mut at: usize, before: &[String], leaves: &mut Vec<(Vec<String>, usize)>) -> usize {
    let mut path = before.to_vec();
    let line = tokens.get(at).map_or(0, |token| token.line);
    loop {
        match text_at(tokens, at) {
            "{" if !path.is_empty() => return read_group(tokens, at, &path, leaves),
            word if starts_word(word) || word == "*" => path.push(word.to_owned()),
            // A turbofish, or the end of the file: the path ends before it.
            _ => break,
        }
        let keyword = KEYWORDS.contains(&text_at(tokens, at));
        at += 1;
        if keyword || text_at(tokens, at) != "::" {
            break;
        }
        at += 1;
    }
    if path == ["crate"] && text_at(tokens, at) == "as" {
        // `use crate as x` hands the whole crate out, as `use crate::{self as x}` does.
        path.push("self".to_owned());
    }
    leaves.push((path, line));
    at
}

/// Reads `{a, b::c, d::{e, f}}` behind `before::`.
fn read_group(tokens: &[Token], open: usize, before: &[String], leaves: &mut Vec<(Vec<String>, usize)>) -> usize {
    let mut at = open + 1;
    while at < tokens.len() && text_at(tokens, at) != "}" {
        match text_at(tokens, at) {
            "as" => at += 2,
            word if starts_word(word) || word == "*" => at = read_path(tokens, at, before, leaves),
            _ => at += 1,
        }
    }
    at + 1
}

/// The name, where the brace at `open` is that of `mod name {`.
fn module_name_before(tokens: &[Token], open: usize) -> Option<String> {
    let keyword = open.checked_sub(2)?;
    (text_at(tokens, keyword) == "mod").then(|| text_at(tokens, keyword + 1).to_owned())
}

/// First and last token of every item under `#[cfg(test)]` or `#[cfg(all(test, …))]`.
fn test_items(tokens: &[Token]) -> Vec<(usize, usize)> {
    let mut found: Vec<(usize, usize)> = Vec::new();
    for at in 0..tokens.len() {
        let inside_last = found.last().is_some_and(|&(_, to)| at <= to);
        if !inside_last && is_test_attribute(tokens, at) {
            found.push((at, item_end(tokens, at)));
        }
    }
    found
}

fn is_test_attribute(tokens: &[Token], at: usize) -> bool {
    let starts = |words: &[&str]| words.iter().enumerate().all(|(i, word)| text_at(tokens, at + i) == *word);
    starts(&["#", "[", "cfg", "(", "test", ")"]) || starts(&["#", "[", "cfg", "(", "all", "(", "test", ","])
}

/// The last token of the item whose first attribute is at `at`: its `;`, or the brace that closes its body.
fn item_end(tokens: &[Token], mut at: usize) -> usize {
    while text_at(tokens, at) == "#" {
        at = closing(tokens, at + 1) + 1;
    }
    // These may close a brace before they end; `pub(crate) static X` needs the longest look ahead.
    let head: Vec<&str> = (at..at + 6).map(|i| text_at(tokens, i)).take_while(|t| !["{", ";"].contains(t)).collect();
    let ends_at_semicolon =
        ["use", "let", "const", "static"].iter().any(|word| head.contains(word)) && !head.contains(&"fn");
    while at < tokens.len() {
        match text_at(tokens, at) {
            ";" => return at,
            "{" if !ends_at_semicolon => return closing(tokens, at),
            // A field or an arm: the body around it ends first.
            "}" => return at.saturating_sub(1),
            "(" | "[" | "{" => at = closing(tokens, at),
            _ => {}
        }
        at += 1;
    }
    tokens.len().saturating_sub(1)
}

/// The token that closes the bracket at `open`.
fn closing(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0_usize;
    for at in open..tokens.len() {
        match text_at(tokens, at) {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len().saturating_sub(1)
}

fn test_files(tokens: &[Token], tests: &[(usize, usize)]) -> Vec<String> {
    tests
        .iter()
        .filter(|&&(_, to)| text_at(tokens, to) == ";" && to >= 2 && text_at(tokens, to - 2) == "mod")
        .map(|&(_, to)| text_at(tokens, to - 1).to_owned())
        .collect()
}

fn lines_outside(source: &str, tokens: &[Token], tests: &[(usize, usize)]) -> usize {
    let line = |at: usize| tokens.get(at).map_or(0, |token| token.line);
    let in_tests: usize = tests.iter().map(|&(from, to)| line(to) - line(from) + 1).sum();
    source.lines().count() - in_tests
}

#[cfg(test)]
mod tests {
    use super::{Mention, scan, tokens};

    fn paths(source: &str) -> Vec<String> {
        scan(source).mentions.iter().map(|mention| mention.segments.join("::")).collect()
    }

    fn mention<'a>(scanned: &'a super::Scanned, path: &str) -> &'a Mention {
        scanned.mentions.iter().find(|mention| mention.segments.join("::") == path).expect("the path is mentioned")
    }

    #[test]
    fn comments_and_literals_are_not_code() {
        let source = r##"
            //! crate::a::X
            /// crate::b::X
            /* crate::c /* crate::d */ crate::e */
            f("crate::f \" crate::g", r#"crate::h " crate::i"#, b"crate::j", br"crate::k\", c"crate::l", 'c', '\'', b'"');
        "##;
        assert_eq!(paths(source), ["f"]);
    }

    #[test]
    fn lifetimes_do_not_swallow_the_code_behind_them() {
        assert_eq!(paths("&'a crate::x::Y<'static>, 'z', crate::z"), ["crate::x::Y", "crate::z"]);
    }

    #[test]
    fn a_word_that_begins_like_a_string_prefix_stays_whole() {
        assert_eq!(paths("crate::b::cr::br(r#type, b, r)"), ["crate::b::cr::br", "type", "b", "r"]);
    }

    #[test]
    fn nested_imports_count_as_one_path_each() {
        let found = paths("use crate::{a, b::{self, c as d, e::*}, f::g};");
        assert_eq!(found, ["use", "crate::a", "crate::b::self", "crate::b::c", "crate::b::e::*", "crate::f::g"]);
    }

    #[test]
    fn a_path_split_over_lines_or_by_comments_is_one_path() {
        assert_eq!(paths("crate::\n  a /* here */ :: b"), ["crate::a::b"]);
    }

    #[test]
    fn a_path_from_the_outermost_namespace_does_not_join_the_keyword_before_it() {
        assert_eq!(paths("use ::a::b; x as ::c::D"), ["use", "a::b", "x", "as", "c::D"]);
    }

    #[test]
    fn a_turbofish_ends_the_path_and_its_types_count() {
        assert_eq!(paths("crate::a::f::<crate::b::X>()"), ["crate::a::f", "crate::b::X"]);
    }

    #[test]
    fn lines_are_counted_through_comments_and_strings() {
        let scanned = scan("/* 1\n2 */ \"3\n4\"\ncrate::x");
        assert_eq!(mention(&scanned, "crate::x").line, 4);
    }

    #[test]
    fn inline_modules_around_a_path_are_known() {
        let scanned = scan("mod outer { fn f() { if a {} } mod inner { use super::x; } } use self::y;");
        assert_eq!(mention(&scanned, "super::x").inside, ["outer", "inner"]);
        assert!(mention(&scanned, "self::y").inside.is_empty());
    }

    #[test]
    fn only_items_compiled_for_tests_count_as_tests() {
        let source = "fn a() { one(); }\n#[cfg(test)]\n#[allow(x)]\nmod tests {\n fn b() { two(); }\n}\nfn c() { three(); }\n\
                      #[cfg(test)]\nuse z::{four};\n#[cfg(not(test))] fn d() { five(); }";
        let scanned = scan(source);
        for (path, in_test) in [("one", false), ("two", true), ("three", false), ("z::four", true), ("five", false)] {
            assert_eq!(mention(&scanned, path).in_test, in_test, "{path}");
        }
        assert_eq!(scanned.lines, 3, "lines outside the two test items");
    }

    #[test]
    fn a_test_module_in_a_file_of_its_own_is_named() {
        assert_eq!(
            scan("#[cfg(test)]\nmod tests;\n#[cfg(test)] mod more { fn f() {} } mod real;").test_files,
            ["tests"]
        );
    }

    #[test]
    fn unfinished_text_ends_the_scan_without_a_panic() {
        for source in
            ["", "/* never closed", "\"open", "r#\"open", "use a::{b, c::", "#[cfg(test)]", "'", "crate::", "}}}"]
        {
            let _ = (tokens(source), scan(source));
        }
    }
}
