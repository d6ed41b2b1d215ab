//! Files: Microsoft-Windows-Kernel-File
//! (<https://github.com/repnz/etw-providers-docs/blob/master/Manifests-Win10-18990/Microsoft-Windows-Kernel-File.xml>).
//!
//! What the fields mean is said of the system's own events, which have the same
//! (<https://learn.microsoft.com/en-us/windows/win32/etw/fileio>): an operation is told when it begins, and its end by its IRP
//! (<https://learn.microsoft.com/en-us/windows/win32/etw/fileio-opend>). That the name in a rename's event is the new one is taken from
//! who was told so (<https://github.com/DataDog/datadog-agent/blob/main/pkg/security/probe/probe_windows.go>).

use super::{Header, Record};
use crate::collect::windows::cursor::{Cursor, Short};

/// An event of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRecord {
    /// The request, until it has ended.
    pub irp: u64,
    /// The open file, until its last reference has gone; 0 in the end of a request.
    pub object: u64,
    /// What is asked for.
    pub act: FileAct,
}

/// What was asked of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileAct {
    /// To be opened, or made.
    Create {
        /// The low 24 bits are options, the high eight say what is to be if there is such a file, or is none
        /// (<https://learn.microsoft.com/en-us/windows/win32/api/winternl/nf-winternl-ntcreatefile>).
        options: u32,
        /// The file's name, as the kernel has it.
        path: String,
    },
    /// It is a new file that is made.
    CreateNew,
    /// The last handle to it was closed.
    Cleanup,
    /// The last reference to it has gone.
    Close,
    /// To be read.
    Read {
        /// By the memory manager, for whoever maps the file or for the cache.
        paging: bool,
    },
    /// To be written.
    Write {
        /// As above.
        paging: bool,
    },
    /// Something of it to be changed.
    Set(InfoClass),
    /// Who may do what with it, to be changed.
    SetSecurity,
    /// To be deleted; the name that it has.
    Delete(String),
    /// To be renamed; the name that it gets.
    Rename(String),
    /// To have one more name, this one.
    Link(String),
    /// A request has ended.
    End {
        /// What the file system says besides: bytes that were read or written, or what an open did.
        information: u64,
        /// `NTSTATUS`: the highest bit says that it failed.
        status: u32,
    },
}

/// What of a file is set (`FILE_INFORMATION_CLASS`,
/// <https://learn.microsoft.com/en-us/windows-hardware/drivers/ddi/wdm/ne-wdm-_file_information_class>).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InfoClass {
    /// Where it ends.
    EndOfFile,
    /// Anything else.
    Other,
}

/// `IRP_PAGING_IO` and `IRP_SYNCHRONOUS_PAGING_IO` of `wdm.h`.
const PAGING: u32 = 0x02 | 0x40;
/// `FileEndOfFileInformation`.
const END_OF_FILE: u32 = 20;

pub(super) fn decode(header: &Header, mut cursor: Cursor<'_>) -> Result<Option<Record>, Short> {
    // Until version 1 the thread stands in front of the file, with the size of an address, and then elsewhere, with four
    // bytes.
    let first = match (header.id, header.version) {
        (24, 0) => {
            let irp = cursor.pointer()?;
            let information = cursor.pointer()?;
            let act = FileAct::End { information, status: cursor.u32()? };
            return Ok(Some(Record::File(FileRecord { irp, object: 0, act })));
        }
        (12..=17 | 26..=28 | 30, 0) => true,
        (12..=17 | 26..=28 | 30 | 31, 1) => false,
        // Names of what is open (10, 11), SetDelete, Rename, DirEnum, Flush, QueryInformation, FSCTL, DirNotify, Rename29,
        // QuerySecurity, SetEA, QueryEA.
        (10 | 11 | 18..=23 | 25 | 29 | 32..=34, _) => return Ok(Some(Record::Nothing)),
        _ => return Ok(None),
    };
    if matches!(header.id, 15 | 16) {
        cursor.skip(8)?; // ByteOffset
    }
    let irp = cursor.pointer()?;
    if first {
        cursor.pointer()?; // ThreadId
    }
    let object = cursor.pointer()?;
    let thread = |cursor: &mut Cursor<'_>| if first { Ok(()) } else { cursor.skip(4) };
    let act = match header.id {
        12 | 30 => {
            thread(&mut cursor)?;
            let options = cursor.u32()?;
            cursor.skip(8)?; // CreateAttributes, ShareAccess
            let path = cursor.wide_text()?;
            if header.id == 12 { FileAct::Create { options, path } } else { FileAct::CreateNew }
        }
        13 => FileAct::Cleanup,
        14 => FileAct::Close,
        15 | 16 => {
            cursor.pointer()?; // FileKey
            thread(&mut cursor)?;
            cursor.skip(4)?; // IOSize
            let paging = cursor.u32()? & PAGING != 0;
            if header.id == 15 { FileAct::Read { paging } } else { FileAct::Write { paging } }
        }
        _ => {
            cursor.pointer()?; // FileKey
            cursor.pointer()?; // ExtraInformation
            thread(&mut cursor)?;
            let class = cursor.u32()?;
            match header.id {
                17 if class == END_OF_FILE => FileAct::Set(InfoClass::EndOfFile),
                17 => FileAct::Set(InfoClass::Other),
                26 => FileAct::Delete(cursor.wide_text()?),
                27 => FileAct::Rename(cursor.wide_text()?),
                28 => FileAct::Link(cursor.wide_text()?),
                _ => FileAct::SetSecurity,
            }
        }
    };
    Ok(Some(Record::File(FileRecord { irp, object, act })))
}
