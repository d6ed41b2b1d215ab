//! What a process was started with, as it lies in its memory (`RTL_USER_PROCESS_PARAMETERS`).
//!
//! Windows documents the command line and the image's path of it
//! (<https://learn.microsoft.com/en-us/windows/win32/api/winternl/ns-winternl-rtl_user_process_parameters>); directory and environment are
//! where every 64-bit Windows has had them, and where debuggers and the crate sysinfo look for them (`ntrtl.h`).

use super::cursor::text;

/// Where the address of the parameters stands in the process' environment block (PEB).
pub const PARAMETERS: u64 = 0x20;
/// So much of the parameters is read.
pub const LENGTH: usize = 0x3f8;
/// More of a text or of an environment is not read.
pub const MOST: usize = 64 << 10;

const DIRECTORY: usize = 0x38;
const COMMAND_LINE: usize = 0x70;
const ENVIRONMENT: usize = 0x80;
const ENVIRONMENT_SIZE: usize = 0x3f0;

/// Bytes in a process' memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// Where.
    pub address: u64,
    /// How many.
    pub length: usize,
}

/// Where the texts are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Parameters {
    /// The working directory.
    pub directory: Place,
    /// The command line.
    pub command_line: Place,
    /// The environment.
    pub environment: Place,
}

impl Parameters {
    /// Of the bytes of the structure.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        // UNICODE_STRING: length in bytes, room, four bytes of nothing, address.
        let string = |at: usize| {
            let length = usize::from(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
            Some(Place { address: number(at + 8)?, length: length.min(MOST) })
        };
        let size = usize::try_from(number(ENVIRONMENT_SIZE)?).unwrap_or(MOST);
        let environment = Place { address: number(ENVIRONMENT)?, length: size.min(MOST) };
        Some(Self { directory: string(DIRECTORY)?, command_line: string(COMMAND_LINE)?, environment })
    }
}

/// Text of UTF-16, little end first.
#[must_use]
pub fn text_of(bytes: &[u8]) -> String {
    text(&units(bytes))
}

/// A directory's name without the backslash at its end, which the system adds.
#[must_use]
pub fn directory_of(bytes: &[u8]) -> String {
    let name = text_of(bytes);
    match name.strip_suffix('\\') {
        Some(short) if !short.ends_with([':', '\\']) => short.to_owned(),
        _ => name,
    }
}

/// Those of these variables that an environment has, as `NAME=VALUE`. Names of variables have no case.
#[must_use]
pub fn variables_of(bytes: &[u8], names: &[String]) -> Vec<String> {
    let units = units(bytes);
    let all = units.split(|unit| *unit == 0).take_while(|variable| !variable.is_empty()).map(text);
    let wanted = |variable: &String| {
        let Some((name, _)) = variable.split_once('=') else { return false };
        names.iter().any(|known| known.eq_ignore_ascii_case(name))
    };
    all.filter(wanted).collect()
}

fn units(bytes: &[u8]) -> Vec<u16> {
    let (pairs, _) = bytes.as_chunks::<2>();
    pairs.iter().map(|pair| u16::from_le_bytes(*pair)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wide(text: &str) -> Vec<u8> {
        text.encode_utf16().flat_map(u16::to_le_bytes).collect()
    }

    #[test]
    fn the_texts_are_found_where_they_are() {
        let mut bytes = vec![0; LENGTH];
        for (at, number) in [
            (0x38, 20_u64), // CurrentDirectory.DosPath.Length
            (0x40, 0x1000),
            (0x70, 0x1_0000_0000 + 8), // what is above the length says nothing
            (0x78, 0x2000),
            (0x80, 0x3000),
            (0x3f0, 1 << 40),
        ] {
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        let place = |address, length| Place { address, length };
        let found = Parameters::of(&bytes).unwrap();
        assert_eq!(found.directory, place(0x1000, 20));
        assert_eq!(found.command_line, place(0x2000, 8));
        assert_eq!(found.environment, place(0x3000, MOST));
        for length in 0..LENGTH {
            assert_eq!(Parameters::of(&bytes[..length]), None, "{length}");
        }
    }

    #[test]
    fn texts_of_the_process() {
        assert_eq!(directory_of(&wide(r"C:\a\b\")), r"C:\a\b");
        assert_eq!(directory_of(&wide(r"C:\")), r"C:\");
        assert_eq!(text_of(&[0x61, 0, 0x62]), "a", "half a character");
        let environment = wide("=C:=C:\\\0A_SESSION=1\0Path=x\0\0B=gone\0");
        let names = ["a_session", "B", "PATH"].map(str::to_owned);
        assert_eq!(variables_of(&environment, &names), ["A_SESSION=1", "Path=x"]);
        assert_eq!(variables_of(&[], &names), Vec::<String>::new());
    }
}
