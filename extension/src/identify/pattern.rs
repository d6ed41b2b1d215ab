//! What a path or a command line is held against: a glob, or a regular expression.
//!
//! The kernel and the index look for whole path components, so an expression is of use early only when some component
//! stands in it as plain text. [`shapes`] turns an expression into globs of which every match fits one; what is known of
//! globs then holds for it too. It may say less than the expression, never more.

use std::sync::OnceLock;

use regex::{Regex, RegexBuilder};
use regex_syntax::ast::parse::Parser as AstParser;
use regex_syntax::hir::{Class, Hir, HirKind, Look};

use super::glob::Glob;
use super::windows;

/// Memory of a compiled expression.
const MAX_REGEX: usize = 1 << 18;

/// Up to this estimate an expression is compiled when it is first used: a thousand signatures load in a moment, and
/// most are never asked. Far below the limit, for it is an estimate.
const SURELY_SMALL: usize = MAX_REGEX / 4;

/// Globs that an expression may stand for.
const MAX_SHAPES: usize = 64;

/// Letters of a class that are told apart, as in `[Cc]`.
const MAX_CLASS: usize = 4;

/// A regular expression: right when it was read, compiled when it is used.
#[derive(Debug)]
pub(super) struct Expression {
    text: Box<str>,
    groups: usize,
    compiled: OnceLock<Option<Regex>>,
    /// For paths of Windows: without case.
    folded: OnceLock<Option<Regex>>,
}

impl Expression {
    /// Reads an expression; the error is for people, in one line.
    pub(super) fn new(text: &str) -> Result<Self, String> {
        if !is_simple(text) {
            return Self::parse(text).map(|(expression, _)| expression);
        }
        // All that can be wrong with it is its form, which takes half the time of the rest.
        AstParser::new().parse(text).map_err(|error| last_line(&error.to_string()))?;
        Ok(Self { text: text.into(), groups: 0, compiled: OnceLock::new(), folded: OnceLock::new() })
    }

    /// The same of one whose groups are asked for.
    pub(super) fn with_groups(text: &str) -> Result<Self, String> {
        Self::parse(text).map(|(expression, _)| expression)
    }

    fn parse(text: &str) -> Result<(Self, Hir), String> {
        let hir = regex_syntax::parse(text).map_err(|error| last_line(&error.to_string()))?;
        let compiled = OnceLock::new();
        if weight(&hir) > SURELY_SMALL {
            let regex = compile(text).map_err(|error| last_line(&error.to_string()))?;
            let _ = compiled.set(Some(regex));
        }
        let groups = hir.properties().explicit_captures_len();
        Ok((Self { text: text.into(), groups, compiled, folded: OnceLock::new() }, hir))
    }

    fn regex(&self) -> Option<&Regex> {
        self.compiled.get_or_init(|| compile(&self.text).ok()).as_ref()
    }

    pub(super) fn is_match(&self, text: &str) -> bool {
        self.regex().is_some_and(|regex| regex.is_match(text))
    }

    /// What a path is held against.
    fn regex_for(&self, path: &str) -> Option<&Regex> {
        if !windows::is_plain(path) {
            return self.regex();
        }
        self.folded.get_or_init(|| compile(&format!("(?i:{})", self.text)).ok()).as_ref()
    }

    /// Whether a path fits; one of a program of Windows with its ending or without.
    fn fits(&self, path: &str) -> bool {
        let Some(regex) = self.regex_for(path) else { return false };
        regex.is_match(path) || (windows::is_plain(path) && regex.is_match(&format!("{path}.exe")))
    }

    /// The first group of the first match in a path.
    pub(super) fn group<'t>(&self, path: &'t str) -> Option<&'t str> {
        Some(self.regex_for(path)?.captures(path)?.get(1)?.as_str())
    }

    pub(super) fn has_group(&self) -> bool {
        self.groups > 0
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }
}

/// The crates draw the place over several lines; the last one says what is wrong.
fn last_line(error: &str) -> String {
    error.lines().last().unwrap_or_default().trim_start_matches("error: ").trim_end_matches('.').to_owned()
}

/// Whether an expression has nothing that can be large or unknown: no counted repetition, no class but small ones, no
/// flags.
fn is_simple(text: &str) -> bool {
    let known = !["{", "(?", r"\w", r"\W", r"\d", r"\D", r"\p", r"\P", r"\b", r"\B", r"\x", r"\u", r"\U", "&&"]
        .iter()
        .any(|part| text.contains(part));
    let classes = text.bytes().filter(|byte| b"\\[.".contains(byte)).count();
    known && text.is_ascii() && 64 * text.len() + 4096 * classes <= SURELY_SMALL
}

fn compile(text: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(text).size_limit(MAX_REGEX).dfa_size_limit(MAX_REGEX).build()
}

/// Bytes that an expression may take when it is compiled; rather too many.
fn weight(hir: &Hir) -> usize {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => 64,
        HirKind::Literal(literal) => 64 * literal.0.len(),
        // A range of characters is some ranges of bytes, one after the other.
        HirKind::Class(Class::Unicode(class)) => 256 * (1 + class.ranges().len()),
        HirKind::Class(Class::Bytes(class)) => 64 * (1 + class.ranges().len()),
        HirKind::Repetition(repetition) => {
            let times = repetition.max.unwrap_or(repetition.min).max(1) as usize;
            times.saturating_mul(weight(&repetition.sub).saturating_add(64))
        }
        HirKind::Capture(capture) => weight(&capture.sub).saturating_add(128),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => {
            parts.iter().fold(64, |sum: usize, part| sum.saturating_add(weight(part)))
        }
    }
}

/// What a path is held against.
#[derive(Debug)]
pub(super) struct Pattern {
    form: Form,
    names_directory: bool,
}

#[derive(Debug)]
enum Form {
    Glob(Glob),
    Regex {
        expression: Expression,
        /// Every match fits one of these.
        shapes: Vec<Glob>,
    },
}

impl Pattern {
    pub(super) fn glob(text: &str) -> Self {
        let glob = Glob::new(text);
        Self { names_directory: glob.names_directory(), form: Form::Glob(glob) }
    }

    pub(super) fn regex(text: &str) -> Result<Self, String> {
        let (expression, hir) = Expression::parse(text)?;
        let shapes: Vec<Glob> = shapes(&hir).iter().map(|shape| Glob::new(&glob_of(shape))).collect();
        let names_directory = shapes.iter().all(Glob::names_directory);
        Ok(Self { form: Form::Regex { expression, shapes }, names_directory })
    }

    pub(super) fn matches(&self, path: &str) -> bool {
        match &self.form {
            Form::Glob(glob) => glob.matches(path),
            Form::Regex { expression, .. } => expression.fits(path),
        }
    }

    /// Components of which every match has one whole; none when there are no such.
    pub(super) fn literals(&self) -> Option<Vec<&str>> {
        match &self.form {
            Form::Glob(glob) => glob.literal().map(|literal| vec![literal]),
            Form::Regex { shapes, .. } => shapes.iter().map(Glob::literal).collect(),
        }
    }

    /// Whether every match names a directory that is not every program's.
    pub(super) fn names_directory(&self) -> bool {
        self.names_directory
    }

    /// As it was written.
    pub(super) fn as_str(&self) -> &str {
        match &self.form {
            Form::Glob(glob) => glob.as_str(),
            Form::Regex { expression, .. } => expression.as_str(),
        }
    }
}

/// The texts that a whole text may be to match an expression; none when they cannot be listed.
pub(super) fn plain_texts(expression: &str) -> Result<Option<Vec<String>>, String> {
    let (_, hir) = Expression::parse(expression)?;
    let plain = |shape: &Vec<Piece>| {
        let inner = shape.iter().filter(|piece| !matches!(piece, Piece::Start | Piece::End));
        inner.map(|piece| if let Piece::Text(c) = piece { Some(*c) } else { None }).collect::<Option<String>>()
    };
    Ok(shapes(&hir).iter().map(plain).collect())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    Text(char),
    /// Any run of characters.
    Any,
    /// Of the whole text.
    Start,
    End,
}

/// Sequences of which every match fits one.
fn shapes(hir: &Hir) -> Vec<Vec<Piece>> {
    let any = || vec![vec![Piece::Any]];
    match hir.kind() {
        HirKind::Look(Look::Start) => vec![vec![Piece::Start]],
        HirKind::Look(Look::End) => vec![vec![Piece::End]],
        // Without another condition more fits, which is right too.
        HirKind::Empty | HirKind::Look(_) => vec![Vec::new()],
        HirKind::Literal(literal) => match std::str::from_utf8(&literal.0) {
            Ok(text) => vec![text.chars().map(Piece::Text).collect()],
            Err(_) => any(),
        },
        HirKind::Class(class) => of_class(class).unwrap_or_else(any),
        HirKind::Repetition(repetition) if (repetition.min, repetition.max) == (0, Some(1)) => {
            let mut all = shapes(&repetition.sub);
            all.push(Vec::new());
            bounded(all)
        }
        HirKind::Repetition(_) => any(),
        HirKind::Capture(capture) => shapes(&capture.sub),
        HirKind::Alternation(parts) => bounded(parts.iter().flat_map(shapes).collect()),
        HirKind::Concat(parts) => parts.iter().fold(vec![Vec::new()], |before, part| {
            let behind = shapes(part);
            if before.len() * behind.len() > MAX_SHAPES {
                // What came before still stands; what follows is anything.
                return before.into_iter().map(|shape| [shape, vec![Piece::Any]].concat()).collect();
            }
            before.iter().flat_map(|first| behind.iter().map(move |second| [&first[..], second].concat())).collect()
        }),
    }
}

fn bounded(shapes: Vec<Vec<Piece>>) -> Vec<Vec<Piece>> {
    if shapes.len() > MAX_SHAPES { vec![vec![Piece::Any]] } else { shapes }
}

/// Each character of a small class. `[/\\]`, as expressions for all systems have it, is a separator.
fn of_class(class: &Class) -> Option<Vec<Vec<Piece>>> {
    let Class::Unicode(class) = class else { return None };
    let size: usize = class.ranges().iter().map(regex_syntax::hir::ClassUnicodeRange::len).sum();
    if size > MAX_CLASS {
        return None;
    }
    let letters: Vec<char> = class.ranges().iter().flat_map(|range| range.start()..=range.end()).collect();
    if letters == ['/', '\\'] {
        return Some(vec![vec![Piece::Text('/')]]);
    }
    Some(letters.into_iter().map(|letter| vec![Piece::Text(letter)]).collect())
}

fn glob_of(shape: &[Piece]) -> String {
    let mut text = String::new();
    let mut push = |c: char| {
        if c != '*' || !text.ends_with('*') {
            text.push(c);
        }
    };
    if shape.first() != Some(&Piece::Start) {
        push('*');
    }
    for piece in shape {
        match piece {
            Piece::Text(c) => push(*c),
            Piece::Any => push('*'),
            Piece::Start | Piece::End => {}
        }
    }
    if shape.last() != Some(&Piece::End) {
        push('*');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn globs(regex: &str) -> Vec<String> {
        match Pattern::regex(regex).unwrap().form {
            Form::Regex { shapes, .. } => shapes.iter().map(|glob| glob.as_str().to_owned()).collect(),
            Form::Glob(_) => unreachable!(),
        }
    }

    #[test]
    fn an_expression_is_as_early_as_its_plain_components() {
        assert_eq!(globs(r"^/opt/own/bin/x$"), ["/opt/own/bin/x"]);
        assert_eq!(globs(r"/own-agent/.*\.js$"), ["*/own-agent/*.js"]);
        assert_eq!(globs(r"(^|/)claude(\.exe)?$"), ["claude.exe", "claude", "*/claude.exe", "*/claude"]);
        assert_eq!(globs(r"[/\\]\.cursor[/\\][^/]+$"), ["*/.cursor/*"]);
        assert_eq!(globs(r"^[Ww]indsurf$"), ["Windsurf", "windsurf"]);
        assert_eq!(globs("claude"), ["*claude*"]);
        let literals = |regex: &str| {
            let pattern = Pattern::regex(regex).unwrap();
            pattern.literals().map(|literals| literals.into_iter().map(str::to_owned).collect::<Vec<_>>())
        };
        assert_eq!(literals(r"/(own|other)-agent/bin/[a-z]+$"), Some(vec!["own-agent".into(), "other-agent".into()]));
        assert_eq!(literals(r".*/\.local/share/claude/versions/[0-9.]+$"), Some(vec!["claude".into()]));
        for late in
            ["claude", r"Cursor.*\.app", "(?i)/claude-code/", r"/own-[a-z]+/", "/bin/|/own/", "/usr/bin/node$", ""]
        {
            assert_eq!(literals(late), None, "{late}");
        }
        assert!(Pattern::regex(r"/own-agent/bin/x$").unwrap().names_directory());
        assert!(!Pattern::regex(r"/own-agent/x|bin/x").unwrap().names_directory());
        assert!(!Pattern::regex(r"own-agent$").unwrap().names_directory());
    }

    #[test]
    fn names_that_can_be_listed() {
        assert_eq!(plain_texts("aider").unwrap(), Some(vec!["aider".into()]));
        assert_eq!(plain_texts("^[Ww]ind(surf)?$").unwrap().unwrap().len(), 4);
        assert_eq!(plain_texts("claude.*").unwrap(), None);
        assert!(plain_texts("a(").is_err());
    }

    #[test]
    fn what_is_too_large_is_known_when_it_is_read() {
        for large in ["(a{999}){999}", r"(\w{20}){20}", r"(?:(?:\pL{50}){50}){50}"] {
            assert!(Expression::new(large).unwrap_err().contains("size limit"), "{large}");
        }
        assert!(Expression::new("a(").unwrap_err().contains("unclosed group"));
        assert!(Expression::new(&"(".repeat(10_000)).is_err());
    }

    #[test]
    fn no_expression_takes_more_than_linear_time() {
        let text = format!("{}!", "a".repeat(30_000));
        let begun = std::time::Instant::now();
        for evil in ["(a+)+$", "(a|a)*$", "(a|aa)+$", "^(([a-z])+.)+[A-Z]([a-z])+$", "(.*a){20}$"] {
            let _ = Expression::new(evil).unwrap().is_match(&text);
        }
        // Elsewhere each of them would not end at all.
        assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
    }

    proptest! {
        #[test]
        fn what_matches_fits_a_shape(regex in "[ab/.^$|?*()\\[\\]\\\\]{0,12}", text in "[ab/\\\\]{0,10}") {
            // A path of Linux has no `\` where expressions for all systems have a separator.
            prop_assume!(!text.contains('\\'));
            if let Ok(pattern) = Pattern::regex(&regex) {
                let Form::Regex { shapes, .. } = &pattern.form else { unreachable!() };
                if pattern.matches(&text) {
                    prop_assert!(shapes.iter().any(|glob| glob.matches(&text)), "{regex} {text} {shapes:?}");
                }
            }
        }

        #[test]
        fn what_is_taken_for_small_compiles(
            parts in proptest::collection::vec(
                proptest::sample::select(vec!["a", r"\w", r"\pL", r"\S", r"\.", "[^/]", "[a-z", "]", "^", "*?", "{1,9}", "{3}", "+", "(", ")", "|", ".", r"\b"]), 0..14),
        ) {
            let regex = parts.concat();
            if let Ok(expression) = Expression::new(&regex) {
                prop_assert!(expression.regex().is_some(), "{regex}");
            }
        }
    }
}
