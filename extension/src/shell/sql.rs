//! SQL as far as a shell must understand it: what its words are, and whether a statement has ended.

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A name, a keyword or a number.
    Word,
    /// A name in quotes or brackets.
    Name,
    /// A text.
    Text,
    /// A comment.
    Comment,
    /// Any other character.
    Symbol,
}

/// A part of a statement. White space is none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token<'a> {
    pub(super) kind: Kind,
    pub(super) text: &'a str,
    /// Where it begins, in bytes.
    pub(super) start: usize,
    /// Whether its own end is there; always, but for what is quoted.
    pub(super) closed: bool,
}

impl Token<'_> {
    pub(super) fn end(&self) -> usize {
        self.start + self.text.len()
    }

    /// The name that it stands for, without its quotes.
    pub(super) fn name(&self) -> &str {
        match self.kind {
            Kind::Name => self.text.trim_matches(['"', '`', '[', ']']),
            _ => self.text,
        }
    }

    pub(super) fn is(&self, text: &str) -> bool {
        self.text.eq_ignore_ascii_case(text)
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$' || !c.is_ascii()
}

/// The tokens of the text, in order.
pub(super) fn tokens(sql: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut start = 0;
    while let Some(rest) = sql.get(start..)
        && let Some(first) = rest.chars().next()
    {
        if first.is_whitespace() {
            start += first.len_utf8();
            continue;
        }
        let until = |from: usize, end: &str| {
            rest.get(from..).and_then(|body| body.find(end)).map(|found| from + found + end.len())
        };
        let (kind, length) = match first {
            '\'' => (Kind::Text, until(1, "'")),
            '"' => (Kind::Name, until(1, "\"")),
            '`' => (Kind::Name, until(1, "`")),
            '[' => (Kind::Name, until(1, "]")),
            '-' if rest.starts_with("--") => (Kind::Comment, Some(rest.find('\n').unwrap_or(rest.len()))),
            '/' if rest.starts_with("/*") => (Kind::Comment, until(2, "*/")),
            c if is_word(c) => (Kind::Word, Some(rest.find(|c| !is_word(c)).unwrap_or(rest.len()))),
            c => (Kind::Symbol, Some(c.len_utf8())),
        };
        let text = rest.get(..length.unwrap_or(rest.len())).unwrap_or(rest);
        tokens.push(Token { kind, text, start, closed: length.is_some() });
        start += text.len();
    }
    tokens
}

/// Whether the text ends in a `;` that is not inside a text, a name or a comment.
pub(super) fn is_complete(sql: &str) -> bool {
    let tokens = tokens(sql);
    let last = tokens.iter().rfind(|token| token.kind != Kind::Comment);
    tokens.iter().all(|token| token.closed) && last.is_some_and(|token| token.is(";"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_statement_ends() {
        for (sql, complete) in [
            ("select 1;", true),
            ("select 1; -- done", true),
            ("select 1; /* done */ ", true),
            ("select ';", false),
            ("select ';'", false),
            ("select [;]", false),
            ("select 1 -- ;", false),
            ("select 1 /* ;", false),
            ("select 'it''s';", true),
            ("select 1; select 2", false),
            (";'", false),
            ("é;", true),
            ("", false),
        ] {
            assert_eq!(is_complete(sql), complete, "{sql}");
        }
    }

    proptest::proptest! {
        #[test]
        fn tokens_are_parts_of_the_text(sql in "[-a-zé'\"/*\\[\\];\n .]{0,40}") {
            let mut end = 0;
            for token in tokens(&sql) {
                proptest::prop_assert!(token.start >= end && !token.text.is_empty());
                proptest::prop_assert_eq!(&sql[token.start..token.end()], token.text);
                end = token.end();
            }
        }
    }
}
