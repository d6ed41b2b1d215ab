//! The bytes of ETW's events, turned into what they tell.
//!
//! Pure, and by hand: the layouts are those of the providers' manifests, by id and version. A system that decodes for us
//! (TDH) would have to be asked on the machine itself, and could not be tested elsewhere. An id or version that is not known is
//! counted and not guessed; fields that a later system adds at the end of a known version change nothing.
//!
//! The manifests are in the system's libraries; they are published in
//! <https://github.com/repnz/etw-providers-docs> and <https://github.com/jdu2600/Windows10EtwEvents>.

mod dns;
mod file;
mod network;
mod process;
#[cfg(test)]
mod tests;

pub use file::{FileAct, FileRecord, InfoClass};
pub use network::{Endpoints, NetworkRecord, Packet};
pub use process::{Launch, Start, Stop};

use super::cursor::{Cursor, Short};

/// Who writes events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Provider {
    /// Microsoft-Windows-Kernel-Process.
    Process,
    /// The system's own events of processes, which have the command line
    /// (<https://learn.microsoft.com/en-us/windows/win32/etw/process>).
    Launch,
    /// Microsoft-Windows-Kernel-Network.
    Network,
    /// Microsoft-Windows-Kernel-File.
    File,
    /// Microsoft-Windows-DNS-Client.
    Dns,
}

impl Provider {
    const ALL: [Self; 5] = [Self::Process, Self::Launch, Self::Network, Self::File, Self::Dns];

    /// Its GUID.
    #[must_use]
    pub const fn guid(self) -> u128 {
        match self {
            Self::Process => 0x22fb_2cd6_0e7b_422b_a0c7_2fad_1fd0_e716,
            Self::Launch => 0x3d6f_a8d0_fe05_11d0_9dda_00c0_4fd7_ba7c,
            Self::Network => 0x7dd4_2a49_5329_4832_8dfd_43d9_7915_3a88,
            Self::File => 0xedd0_8927_9cc4_4e65_b970_c256_0fb5_c289,
            Self::Dns => 0x1c95_126e_7eea_49a9_a3fe_a378_b03d_db4d,
        }
    }

    /// The provider of that GUID.
    #[must_use]
    pub fn of(guid: u128) -> Option<Self> {
        Self::ALL.into_iter().find(|provider| provider.guid() == guid)
    }

    /// The keywords that are wanted of it (`mask` in the manifest).
    #[must_use]
    pub const fn keywords(self) -> u64 {
        match self {
            // WINEVENT_KEYWORD_PROCESS
            Self::Process => 0x10,
            // KERNEL_NETWORK_KEYWORD_IPV4 and _IPV6
            Self::Network => 0x10 | 0x20,
            // FILEIO, OP_END, CREATE, READ, WRITE, DELETE_PATH, RENAME_SETLINK_PATH, CREATE_NEW_FILE
            Self::File => 0x20 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800 | 0x1000,
            // It has none but those of channels: all.
            Self::Launch | Self::Dns => 0,
        }
    }

    /// The events that are wanted of it.
    #[must_use]
    pub const fn ids(self) -> &'static [u16] {
        match self {
            Self::Process => &[1, 2],
            Self::Launch => &[],
            Self::Network => &[10, 11, 12, 13, 15, 17, 26, 27, 28, 29, 31, 42, 43, 58, 59],
            Self::File => &[12, 13, 14, 15, 16, 17, 24, 26, 27, 28, 30, 31],
            Self::Dns => &[3008],
        }
    }
}

/// What stands in an event's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Who wrote it.
    pub provider: Provider,
    /// Which event; of the system's own events their type (opcode).
    pub id: u16,
    /// Of its layout.
    pub version: u8,
    /// The process in which it was written.
    pub pid: u32,
    /// When: 100 nanoseconds since 1601.
    pub time: u64,
    /// Its addresses have eight bytes, not four (`EVENT_HEADER_FLAG_32_BIT_HEADER`,
    /// <https://learn.microsoft.com/en-us/windows/win32/api/evntcons/ns-evntcons-event_header>).
    pub wide: bool,
}

/// What an event tells.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// A process began.
    Start(Start),
    /// A process ended.
    Stop(Stop),
    /// A process began, with what it was called with.
    Launch(Launch),
    /// Of a file.
    File(FileRecord),
    /// Of a connection.
    Network(NetworkRecord),
    /// A name was looked up.
    Lookup {
        /// The name.
        host: String,
        /// Its addresses.
        addresses: Vec<std::net::IpAddr>,
    },
    /// One that is known, and tells nothing that is wanted.
    Nothing,
}

/// An event that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It ends before what it announces.
    #[error("event {1} of {0:?} is cut off")]
    Short(Provider, u16),
    /// No layout of it is known.
    #[error("event {1} of {0:?} has the unknown version {2}")]
    Unknown(Provider, u16, u8),
}

/// The time since 1970 of one that counts 100 nanoseconds since 1601 (`FILETIME`,
/// <https://learn.microsoft.com/en-us/windows/win32/api/minwinbase/ns-minwinbase-filetime>).
#[must_use]
pub fn since_1970(filetime: u64) -> std::time::Duration {
    const BETWEEN: u64 = 116_444_736_000_000_000;
    let ticks = filetime.saturating_sub(BETWEEN);
    std::time::Duration::new(ticks / 10_000_000, u32::try_from(ticks % 10_000_000).unwrap_or(0) * 100)
}

/// Whom an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// A process.
    Process(u32),
    /// Whoever made that request.
    Request(u64),
    /// Nobody that could be told without reading all of it.
    Anyone,
}

/// Whom an event is about, by as little as possible of it: most are of processes about which no more is wanted. None of one
/// that is cut off.
#[must_use]
pub fn about(header: &Header, bytes: &[u8]) -> Option<About> {
    let mut cursor = Cursor::new(bytes, header.wide);
    match (header.provider, header.id) {
        (Provider::Process | Provider::Launch, _) | (Provider::Network, 17) => Some(About::Anyone),
        // What is written in a process need not be about it.
        (Provider::Network, _) => cursor.u32().ok().map(About::Process),
        (Provider::File, 24) => cursor.pointer().ok().map(About::Request),
        (Provider::File | Provider::Dns, _) => Some(About::Process(header.pid)),
    }
}

/// What an event tells.
///
/// # Errors
/// When its bytes are not what its id and version announce, or those are not known.
pub fn decode(header: &Header, bytes: &[u8]) -> Result<Record, DecodeError> {
    let cursor = Cursor::new(bytes, header.wide);
    let decoded = match header.provider {
        Provider::Process => process::decode(header, cursor),
        Provider::Launch => process::launch(header, cursor),
        Provider::Network => network::decode(header, cursor),
        Provider::File => file::decode(header, cursor),
        Provider::Dns => dns::decode(header, cursor),
    };
    match decoded {
        Ok(Some(record)) => Ok(record),
        Ok(None) => Err(DecodeError::Unknown(header.provider, header.id, header.version)),
        Err(Short) => Err(DecodeError::Short(header.provider, header.id)),
    }
}
