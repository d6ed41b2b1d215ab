//! Text that a terminal may show.
//!
//! File names and command lines are made by whoever likes: an escape sequence in one must not reach a terminal.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Control characters, and those that turn the direction of what follows or take no place.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// The text with what is hidden written out.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hidden) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            '\t' => shown.push_str("\\t"),
            c if c.is_ascii() && is_hidden(c) => {
                let _ = write!(shown, "\\x{:02x}", u32::from(c));
            }
            c if is_hidden(c) => {
                let _ = write!(shown, "\\u{{{:x}}}", u32::from(c));
            }
            c => shown.push(c),
        }
    }
    shown.into()
}

#[cfg(test)]
mod tests {
    use super::visible;

    #[test]
    fn nothing_hidden_stays() {
        assert_eq!(visible("a\u{1b}[2J\n\u{9b}31m\u{202e}ü"), "a\\x1b[2J\\n\\u{9b}31m\\u{202e}ü");
        assert_eq!(visible("plain é"), "plain é");
    }
}
