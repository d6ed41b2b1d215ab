//! A command line, taken apart as `CommandLineToArgvW` does
//! (<https://learn.microsoft.com/en-us/windows/win32/api/shellapi/nf-shellapi-commandlinetoargvw>).

/// The arguments, the program's name first.
#[must_use]
pub fn split(line: &str) -> Vec<String> {
    let line = line.trim_start_matches([' ', '\t']);
    if line.is_empty() {
        return Vec::new();
    }
    // In the name backslashes mean themselves.
    let (name, mut rest) = match line.strip_prefix('"') {
        Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
        None => line.split_at(line.find([' ', '\t']).unwrap_or(line.len())),
    };
    let mut arguments = vec![name.to_owned()];
    loop {
        rest = rest.trim_start_matches([' ', '\t']);
        if rest.is_empty() {
            return arguments;
        }
        let (argument, after) = one(rest);
        arguments.push(argument);
        rest = after;
    }
}

/// The first argument, and what follows it. Before a quotation mark two backslashes are one, and an odd one makes the mark
/// mean itself; within quotation two marks are one.
fn one(text: &str) -> (String, &str) {
    let mut argument = String::new();
    let mut quoted = false;
    let mut backslashes = 0;
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => backslashes += 1,
            '"' => {
                argument.extend(std::iter::repeat_n('\\', backslashes / 2));
                if backslashes % 2 == 1 || (quoted && characters.next_if(|(_, next)| *next == '"').is_some()) {
                    argument.push('"');
                } else {
                    quoted = !quoted;
                }
                backslashes = 0;
            }
            _ => {
                argument.extend(std::iter::repeat_n('\\', std::mem::take(&mut backslashes)));
                if matches!(character, ' ' | '\t') && !quoted {
                    return (argument, text.get(at..).unwrap_or_default());
                }
                argument.push(character);
            }
        }
    }
    argument.extend(std::iter::repeat_n('\\', backslashes));
    (argument, "")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quotation_and_backslashes() {
        for (line, arguments) in [
            ("", &[][..]),
            ("  \t", &[]),
            ("node", &["node"]),
            (
                r#""C:\Program Files\nodejs\node.exe" "C:\a b\cli.js" -p hi"#,
                &[r"C:\Program Files\nodejs\node.exe", r"C:\a b\cli.js", "-p", "hi"],
            ),
            (r#""C:\dir\"rest arg"#, &[r"C:\dir\", "rest", "arg"]),
            // Those of <https://learn.microsoft.com/en-us/cpp/c-language/parsing-c-command-line-arguments>.
            (r#"x "a b c" d e"#, &["x", "a b c", "d", "e"]),
            (r#"x "ab\"c" "\\" d"#, &["x", r#"ab"c"#, r"\", "d"]),
            (r#"x a\\\b d"e f"g h"#, &["x", r"a\\\b", "de fg", "h"]),
            (r#"x a\\\"b c d"#, &["x", r#"a\"b"#, "c", "d"]),
            (r#"x a\\\\"b c" d e"#, &["x", r"a\\b c", "d", "e"]),
            (r#"x a"b"" c d"#, &["x", r#"ab" c d"#]),
            (r#"x "" y"#, &["x", "", "y"]),
            (r"x  a\  b", &["x", r"a\", "b"]),
            (r#"x "open"#, &["x", "open"]),
        ] {
            assert_eq!(split(line), arguments, "{line}");
        }
    }

    proptest! {
        #[test]
        fn quoted_arguments_come_back(arguments in prop::collection::vec("[a-z \t\\\\\"é]{0,6}", 0..5)) {
            // The way back, as programs write it (`ArgvQuote`).
            let mut line = "x.exe".to_owned();
            for argument in &arguments {
                line.push_str(" \"");
                let mut backslashes = 0;
                for character in argument.chars() {
                    match character {
                        '\\' => backslashes += 1,
                        '"' => line.extend(std::iter::repeat_n('\\', 2 * std::mem::take(&mut backslashes) + 1)),
                        _ => line.extend(std::iter::repeat_n('\\', std::mem::take(&mut backslashes))),
                    }
                    if character != '\\' {
                        line.push(character);
                    }
                }
                line.extend(std::iter::repeat_n('\\', 2 * backslashes));
                line.push('"');
            }
            let found = split(&line);
            prop_assert_eq!(&found[1..], &arguments[..]);
        }

        #[test]
        fn any_text_is_arguments(line in ".*") {
            let _ = split(&line);
        }
    }
}
