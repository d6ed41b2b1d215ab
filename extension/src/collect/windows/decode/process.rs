//! Processes: Microsoft-Windows-Kernel-Process, and the system's own events.
//!
//! The first has the exact start and the image's whole path, but no arguments and no user; the second has arguments and user, but of
//! the image's path its last part and no start (`CommandLine` and `UserSID` in
//! <https://learn.microsoft.com/en-us/windows/win32/etw/process-typegroup1>).

use super::{Header, Record};
use crate::collect::windows::cursor::{Cursor, Short};

/// A process that began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// Its pid.
    pub pid: u32,
    /// When, as the system keeps it for the process: 100 nanoseconds since 1601.
    pub created: u64,
    /// Of whoever it counts as a child of.
    pub parent: u32,
    /// The image, as the kernel names it.
    pub image: String,
}

/// A process that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// Its pid.
    pub pid: u32,
    /// When it had begun.
    pub created: u64,
    /// How.
    pub code: u32,
}

/// A process that began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// Its pid.
    pub pid: u32,
    /// The user that it runs as.
    pub uid: Option<u32>,
    /// All that it was called with.
    pub command_line: String,
}

/// `ProcessStartArgs`, `_V1` to `_V2`, `ProcessRundownArgs_V1`, `ProcessStopArgs`, `_V1` and `_V2` of
/// <https://github.com/repnz/etw-providers-docs/blob/master/Manifests-Win10-18990/Microsoft-Windows-Kernel-Process.xml>.
pub(super) fn decode(header: &Header, mut cursor: Cursor<'_>) -> Result<Option<Record>, Short> {
    let record = match (header.id, header.version) {
        (1, version @ 0..=3) => {
            let pid = cursor.u32()?;
            if version == 3 {
                cursor.skip(8)?; // ProcessSequenceNumber
            }
            let created = cursor.u64()?;
            let parent = cursor.u32()?;
            match version {
                0 => cursor.skip(4)?,     // SessionID
                1 | 2 => cursor.skip(8)?, // SessionID, Flags
                _ => {
                    // ParentProcessSequenceNumber, SessionID, Flags, ProcessTokenElevationType, ProcessTokenIsElevated
                    cursor.skip(8 + 4 * 4)?;
                    cursor.sid()?; // MandatoryLabel
                }
            }
            Record::Start(Start { pid, created, parent, image: cursor.wide_text()? })
        }
        (2, version @ 0..=2) => {
            let pid = cursor.u32()?;
            if version == 2 {
                cursor.skip(8)?; // ProcessSequenceNumber
            }
            let created = cursor.u64()?;
            cursor.skip(8)?; // ExitTime
            Record::Stop(Stop { pid, created, code: cursor.u32()? })
        }
        // Threads, images and the like, should the session not keep them out; ProcessRundown (15).
        (3..=26, _) => Record::Nothing,
        _ => return Ok(None),
    };
    Ok(Some(record))
}

/// `Process_V2_TypeGroup1` (version 2), `Process_TypeGroup1` (3) and the one that has flags (4) of
/// <https://learn.microsoft.com/en-us/windows/win32/etw/process>. `UniqueProcessKey` and `DirectoryTableBase` are addresses. A SID
/// in such an event stands behind a `TOKEN_USER`, of two addresses, or is a null of four bytes
/// (<https://learn.microsoft.com/en-us/windows/win32/etw/retrieving-event-data-using-mof>).
pub(super) fn launch(header: &Header, mut cursor: Cursor<'_>) -> Result<Option<Record>, Short> {
    match (header.id, header.version) {
        (1, version @ 2..=4) => {
            cursor.pointer()?; // UniqueProcessKey
            let pid = cursor.u32()?;
            cursor.skip(4 * 3)?; // ParentId, SessionId, ExitStatus
            if version >= 3 {
                cursor.pointer()?; // DirectoryTableBase
            }
            if version == 4 {
                cursor.skip(4)?; // Flags
            }
            let mut peeked = cursor;
            let uid = if peeked.u32()? == 0 {
                cursor.skip(4)?;
                None
            } else {
                cursor.pointer()?;
                cursor.pointer()?;
                cursor.sid()?.uid()
            };
            cursor.skip_narrow_text()?; // ImageFileName
            Ok(Some(Record::Launch(Launch { pid, uid, command_line: cursor.wide_text()? })))
        }
        // Of what runs when the session begins or ends (3, 4), ends (2), or is held by others (39); of threads, images and the like,
        // which have the same types.
        (0 | 2..=255, _) => Ok(Some(Record::Nothing)),
        _ => Ok(None),
    }
}
