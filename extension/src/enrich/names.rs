//! Names of hosts, from what goes over the wire and from files: pure parsers, for which any bytes will do.
//!
//! By hand and not by crates: what is wanted is one field of a message that may be cut off anywhere, and their parsers
//! want whole messages.

pub mod dns;
pub mod hosts;
pub mod tls;

/// The longest name, without the dot at its end (RFC 1035, 2.3.4).
const LONGEST: usize = 253;

/// A name of a host in the form in which names are compared; `None` for what is none, as an address.
#[must_use]
pub fn host(bytes: &[u8]) -> Option<String> {
    let bytes = bytes.strip_suffix(b".").unwrap_or(bytes);
    let is_part = |part: &[u8]| {
        !part.is_empty()
            && part.len() < 64
            && part.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    if bytes.len() > LONGEST || !bytes.split(|byte| *byte == b'.').all(is_part) {
        return None;
    }
    let name = String::from_utf8(bytes.to_ascii_lowercase()).ok()?;
    // An address of IPv4, also one that is written in the ways of inet_aton: no name ends in a number.
    let last = name.rsplit('.').next()?;
    (!last.bytes().all(|byte| byte.is_ascii_digit()) && !last.starts_with("0x")).then_some(name)
}

/// Bytes that are read from their front.
#[derive(Clone, Copy)]
struct Front<'a>(&'a [u8]);

impl<'a> Front<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// A number in network order.
    fn number(&mut self, length: usize) -> Option<usize> {
        Some(self.take(length)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// As many of so many bytes as there are.
    fn at_most(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// What has its length before it.
    fn counted(&mut self, length: usize) -> Option<&'a [u8]> {
        let length = self.number(length)?;
        self.take(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_told_from_an_address_and_from_nonsense() {
        let name = |text: &str| host(text.as_bytes());
        assert_eq!(name("API.Example.com.").as_deref(), Some("api.example.com"));
        assert_eq!(name("localhost").as_deref(), Some("localhost"));
        assert_eq!(name("_x.a-b.2com").as_deref(), Some("_x.a-b.2com"));
        for none in ["", ".", "a..b", "192.0.2.1", "0x7f000001", "2130706433", "2001:db8::1", "a b", "a/b", "bü"] {
            assert_eq!(name(none), None, "{none}");
        }
        assert_eq!(name(&"a.".repeat(127)).map(|name| name.len()), Some(253));
        assert_eq!(name(&"a.".repeat(128)), None);
        assert_eq!(name(&"a".repeat(64)), None);
    }
}
