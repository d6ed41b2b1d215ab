//! Asking IP Helper for its tables, and the system for the letters of its drives.

use std::ptr;
use std::time::{Duration, Instant};

use windows_sys::Win32::NetworkManagement::IpHelper::{
    GetExtendedTcpTable, GetExtendedUdpTable, TCP_TABLE_OWNER_PID_ALL, UDP_TABLE_OWNER_PID,
};
use windows_sys::Win32::Networking::WinSock::{AF_INET, AF_INET6};
use windows_sys::Win32::Storage::FileSystem::{GetLogicalDrives, QueryDosDeviceW};

use super::cursor::text;
use super::paths::Drives;
use super::tables::{Owned, Table, rows};

/// Questions that follow one another this soon are of one look, and get one answer.
const ONE_LOOK: Duration = Duration::from_millis(200);
/// A table grows while it is asked for.
const TRIES: usize = 4;

/// The sockets of the machine.
#[derive(Debug, Default)]
pub struct Tables {
    read: Option<(Instant, Vec<Owned>)>,
}

impl Tables {
    /// All of them, as they were a moment ago.
    pub fn now(&mut self) -> &[Owned] {
        if self.read.as_ref().is_none_or(|(read, _)| read.elapsed() > ONE_LOOK) {
            self.read = Some((Instant::now(), owned()));
        }
        self.read.as_ref().map(|(_, owned)| owned.as_slice()).unwrap_or_default()
    }
}

/// The sockets of the machine, with their processes.
#[must_use]
pub fn owned() -> Vec<Owned> {
    Table::ALL.into_iter().flat_map(|table| rows(table, &bytes_of(table).unwrap_or_default())).collect()
}

fn bytes_of(table: Table) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for _ in 0..TRIES {
        let mut length = u32::try_from(bytes.len()).ok()?;
        let into: *mut u8 = if bytes.is_empty() { ptr::null_mut() } else { bytes.as_mut_ptr() };
        let family = u32::from(if matches!(table, Table::Tcp4 | Table::Udp4) { AF_INET } else { AF_INET6 });
        let status = match table {
            Table::Tcp4 | Table::Tcp6 => {
                // SAFETY: there are `length` bytes at `into`, or none and a length of 0.
                unsafe { GetExtendedTcpTable(into.cast(), &raw mut length, 0, family, TCP_TABLE_OWNER_PID_ALL, 0) }
            }
            Table::Udp4 | Table::Udp6 => {
                // SAFETY: as above.
                unsafe { GetExtendedUdpTable(into.cast(), &raw mut length, 0, family, UDP_TABLE_OWNER_PID, 0) }
            }
        };
        if status == 0 {
            return Some(bytes);
        }
        // Room for what comes meanwhile.
        bytes = vec![0; usize::try_from(length).ok()?.saturating_add(4096)];
    }
    None
}

/// Which letters the drives have.
#[must_use]
pub fn drives() -> Drives {
    // SAFETY: it has no arguments.
    let letters = unsafe { GetLogicalDrives() };
    let drives = ('A'..='Z').enumerate().filter(|(bit, _)| letters & (1 << bit) != 0).filter_map(|(_, letter)| {
        let name = format!("{letter}:");
        Some((device_of(&name)?, name))
    });
    Drives::new(drives.map(|(device, name)| (name, device)))
}

fn device_of(drive: &str) -> Option<String> {
    let name: Vec<u16> = drive.encode_utf16().chain([0]).collect();
    let mut device = [0_u16; 512];
    // SAFETY: the name ends with NUL, and there is room for as many units as is said.
    let length = unsafe { QueryDosDeviceW(name.as_ptr(), device.as_mut_ptr(), 512) };
    let known = device.get(..usize::try_from(length).ok()?)?;
    // The first of perhaps several names, each of which NUL ends: the one that holds.
    let first = known.split(|unit| *unit == 0).next().filter(|first| !first.is_empty())?;
    Some(text(first))
}
