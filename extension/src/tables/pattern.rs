//! LIKE and GLOB, matched in time bounded by the product of the lengths, whatever the pattern.

/// A compiled pattern.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pattern {
    parts: Vec<Part>,
    fold: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Part {
    Any,
    One,
    Char(char),
}

/// A character without its case. Wider than SQLite's folding of ASCII, so that a match by either is one.
fn fold(c: char) -> char {
    c.to_lowercase().next().unwrap_or(c)
}

impl Pattern {
    /// Of LIKE, which ignores case. None where the engine's own reading is not plain: it stops at a NUL.
    pub(super) fn like(pattern: &str) -> Option<Self> {
        let part = |c| match c {
            '%' => Part::Any,
            '_' => Part::One,
            c => Part::Char(fold(c)),
        };
        (!pattern.contains('\0')).then(|| Self { parts: pattern.chars().map(part).collect(), fold: true })
    }

    /// Of GLOB. None for sets in brackets, too, which are left to the engine.
    pub(super) fn glob(pattern: &str) -> Option<Self> {
        let part = |c| match c {
            '*' => Part::Any,
            '?' => Part::One,
            c => Part::Char(c),
        };
        (!pattern.contains(['[', '\0'])).then(|| Self { parts: pattern.chars().map(part).collect(), fold: false })
    }

    /// Whether the text may match.
    pub(super) fn matches(&self, text: &str) -> bool {
        if text.contains('\0') {
            return true;
        }
        let mut text = text.chars();
        let mut part = 0;
        // Where to start again when a step fails: behind the last `%`, one character further on.
        let mut retry: Option<(usize, std::str::Chars<'_>)> = None;
        loop {
            let mut ahead = text.clone();
            let next = ahead.next();
            let stepped = match (self.parts.get(part), next) {
                (None, None) => return true,
                (Some(Part::Any), _) => {
                    part += 1;
                    retry = Some((part, text.clone()));
                    continue;
                }
                (Some(Part::One), Some(_)) => true,
                (Some(Part::Char(wanted)), Some(c)) => *wanted == if self.fold { fold(c) } else { c },
                _ => false,
            };
            if stepped {
                text = ahead;
                part += 1;
                continue;
            }
            let Some((again, rest)) = retry.as_mut() else { return false };
            if rest.next().is_none() {
                return false;
            }
            part = *again;
            text = rest.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Pattern;

    #[test]
    fn like_ignores_case_and_knows_its_wildcards() {
        for (pattern, text, expected) in [
            ("p%", "P3", true),
            ("%3", "p3", true),
            ("%a%b", "xaxbxb", true),
            ("%a%b", "xaxbx", false),
            ("_", "é", true),
            ("_", "", false),
            ("", "", true),
            ("", "a", false),
            ("%", "", true),
            ("%%", "a", true),
            ("É", "é", true),
        ] {
            assert_eq!(Pattern::like(pattern).unwrap().matches(text), expected, "{text} like {pattern}");
        }
    }

    #[test]
    fn glob_minds_case_and_leaves_brackets_alone() {
        assert!(Pattern::glob("a*?").unwrap().matches("abc"));
        assert!(!Pattern::glob("A*").unwrap().matches("abc"));
        assert_eq!(Pattern::glob("[a]*"), None);
    }

    #[test]
    fn many_wildcards_take_no_time() {
        let pattern = Pattern::like(&"%a".repeat(200)).unwrap();
        assert!(!pattern.matches(&"a".repeat(199)));
    }
}
