//! Reading an event's bytes one field after the other, never further than they go.

use std::fmt::Write as _;

/// An event that ends before what it announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Short;

/// The fields of an event that were not read yet. ETW packs them without gaps, little end first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
    /// Bytes of an address in the memory of whoever wrote the event.
    pointer: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8], wide: bool) -> Self {
        Self { rest: bytes, pointer: if wide { 8 } else { 4 } }
    }

    pub(super) fn bytes(&mut self, length: usize) -> Result<&'a [u8], Short> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Short)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        self.bytes(N)?.try_into().map_err(|_| Short)
    }

    pub(super) fn skip(&mut self, length: usize) -> Result<(), Short> {
        self.bytes(length).map(drop)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Short> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Short> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Short> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn pointer(&mut self) -> Result<u64, Short> {
        if self.pointer == 8 { self.u64() } else { self.u32().map(u64::from) }
    }

    /// Text of two bytes a character that NUL ends.
    pub(super) fn wide_text(&mut self) -> Result<String, Short> {
        let mut units = Vec::new();
        loop {
            match self.u16()? {
                0 => return Ok(text(&units)),
                unit => units.push(unit),
            }
        }
    }

    /// Text of one byte a character that NUL ends.
    pub(super) fn skip_narrow_text(&mut self) -> Result<(), Short> {
        let length = self.rest.iter().position(|byte| *byte == 0).ok_or(Short)?;
        self.skip(length + 1)
    }

    /// A security identifier: its bytes, which say how many there are
    /// (<https://learn.microsoft.com/en-us/openspecs/windows_protocols/ms-dtyp/f992ad60-0fe4-4b87-9fed-beb478836861>).
    pub(super) fn sid(&mut self) -> Result<Sid, Short> {
        let [_revision, count] = self.array()?;
        self.skip(6)?;
        let mut last = None;
        for _ in 0..count {
            last = Some(self.u32()?);
        }
        Ok(Sid { last })
    }
}

/// Whom a security identifier is of, as far as rows tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sid {
    last: Option<u32>,
}

impl Sid {
    /// Its last number, which osquery has as `uid`.
    #[must_use]
    pub fn uid(self) -> Option<u32> {
        self.last
    }

    /// Of bytes that begin with one.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Option<Self> {
        Cursor::new(bytes, true).sid().ok()
    }
}

/// Text of UTF-16. Half of a pair is no character: its bytes are told, as [`crate::event::escape`] does of what is no UTF-8.
pub(super) fn text(units: &[u16]) -> String {
    let mut text = String::with_capacity(units.len());
    for character in char::decode_utf16(units.iter().copied()) {
        match character {
            Ok(character) => text.push(character),
            Err(half) => {
                // As WTF-8 has it, and with it Rust's names of files.
                let half = u32::from(half.unpaired_surrogate());
                for byte in [0xe0 | (half >> 12), 0x80 | ((half >> 6) & 0x3f), 0x80 | (half & 0x3f)] {
                    let _ = write!(text, "\\x{byte:02x}");
                }
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_until_they_end() {
        let mut cursor = Cursor::new(&[1, 0, 2, 0, 0, 0, 3, 0, 0, 0, 9], false);
        assert_eq!((cursor.u16(), cursor.u32(), cursor.pointer()), (Ok(1), Ok(2), Ok(3)));
        assert_eq!((cursor.u16(), cursor.bytes(1), cursor.bytes(1)), (Err(Short), Ok(&[9][..]), Err(Short)));
        assert_eq!(Cursor::new(&[1, 0, 0, 0, 0, 0, 0, 1], true).pointer(), Ok(0x0100_0000_0000_0001));
    }

    #[test]
    fn text_ends_with_nul_and_half_a_pair_is_escaped() {
        let bytes: Vec<u8> = "aé😀\0x".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let mut cursor = Cursor::new(&bytes, true);
        assert_eq!(cursor.wide_text().as_deref(), Ok("aé😀"));
        assert_eq!(cursor.wide_text(), Err(Short), "no NUL");
        assert_eq!(text(&[0x61, 0xd800, 0x62]), "a\\xed\\xa0\\x80b");
        let mut narrow = Cursor::new(b"cmd.exe\0rest", true);
        assert_eq!((narrow.skip_narrow_text(), narrow.bytes(4)), (Ok(()), Ok(&b"rest"[..])));
        assert_eq!(narrow.skip_narrow_text(), Err(Short));
    }

    #[test]
    fn the_last_number_of_a_sid_is_the_user() {
        // S-1-5-21-1-2-3-1001
        let mut bytes = vec![1, 5, 0, 0, 0, 0, 0, 5];
        bytes.extend([21_u32, 1, 2, 3, 1001].map(u32::to_le_bytes).concat());
        assert_eq!(Sid::of(&bytes).and_then(Sid::uid), Some(1001));
        assert_eq!(Sid::of(&[1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0]).and_then(Sid::uid), Some(18), "SYSTEM");
        assert_eq!(Sid::of(&[1, 0, 0, 0, 0, 0, 0, 5]), Some(Sid { last: None }));
        for length in 0..bytes.len() {
            assert_eq!(Sid::of(bytes.get(..length).unwrap()), None, "{length}");
        }
    }
}
