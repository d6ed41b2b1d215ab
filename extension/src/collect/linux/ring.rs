//! Our own reader of the kernel's ring buffer.
//!
//! libbpf's reader gives the kernel its memory back after each callback. Ours reads ahead and gives it back when the
//! recorder says so, which is after what was read is durable: what was not, is read again. The layout is that of
//! `kernel/bpf/ringbuf.c`: a page with the consumer's position, a page with the producer's, the data twice in a row so
//! that no record is torn.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Set in a record's length while the kernel writes it, and when it was thrown away.
const BUSY: u32 = 1 << 31;
const DISCARDED: u32 = 1 << 30;
/// Length and page offset before each record.
const HEADER: u64 = 8;

/// The mapped ring, shared with those who only look.
#[derive(Debug)]
pub struct RingMap {
    consumer: NonNull<AtomicU64>,
    producer: NonNull<AtomicU64>,
    page: usize,
    size: u64,
    /// Where the reader is; the kernel's consumer position may lie behind.
    read: AtomicU64,
}

// SAFETY: the mapping is valid until drop, and all that is shared in it is read and written through atomics; record
// bytes are read only between the reader's and the producer's position, where the kernel no longer writes.
unsafe impl Send for RingMap {}
// SAFETY: as above.
unsafe impl Sync for RingMap {}

fn map(fd: RawFd, length: usize, protection: i32, offset: usize) -> io::Result<NonNull<u8>> {
    let offset = i64::try_from(offset).map_err(io::Error::other)?;
    // SAFETY: a fresh mapping at an address of the kernel's choice; it is owned by RingMap, which unmaps it.
    let address = unsafe { libc::mmap(ptr::null_mut(), length, protection, libc::MAP_SHARED, fd, offset) };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(address.cast()).ok_or_else(|| io::Error::other("mapped at 0"))
}

impl RingMap {
    fn new(fd: BorrowedFd<'_>, size: u32) -> io::Result<Self> {
        // SAFETY: sysconf has no preconditions.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).map_err(io::Error::other)?;
        let raw = fd.as_raw_fd();
        let consumer = map(raw, page, libc::PROT_READ | libc::PROT_WRITE, 0)?;
        let producer = map(raw, page + 2 * size as usize, libc::PROT_READ, page)?;
        let (consumer, producer) = (consumer.cast::<AtomicU64>(), producer.cast::<AtomicU64>());
        // SAFETY: mapped above, page aligned.
        let read = unsafe { consumer.as_ref() }.load(Ordering::Acquire);
        Ok(Self { consumer, producer, page, size: size.into(), read: AtomicU64::new(read) })
    }

    /// How far the kernel has written.
    #[must_use]
    pub fn produced(&self) -> u64 {
        // SAFETY: mapped while self lives, page aligned.
        unsafe { self.producer.as_ref() }.load(Ordering::Acquire)
    }

    /// The record at a position, and the position behind it; `None` when the kernel has not finished it.
    fn record(&self, at: u64, produced: u64) -> Option<(&[u8], bool, u64)> {
        if at >= produced {
            return None;
        }
        let offset = usize::try_from(at & (self.size - 1)).ok()?;
        // SAFETY: below twice the size, inside the mapping that follows the producer's page.
        let start = unsafe { self.producer.cast::<u8>().add(self.page + offset) };
        // SAFETY: records are aligned to eight bytes and begin with their length.
        let length = unsafe { start.cast::<AtomicU32>().as_ref() }.load(Ordering::Acquire);
        if length & BUSY != 0 {
            return None;
        }
        let bytes = length & !DISCARDED;
        let next = at + (u64::from(bytes) + HEADER).next_multiple_of(8);
        if next > produced {
            return None; // only for one who looks, when the reader and the kernel have passed it meanwhile
        }
        // SAFETY: the header is inside the mapping.
        let data = unsafe { start.add(8) };
        // SAFETY: the kernel has finished this record, it lies whole in the doubled data and is not written again
        // before the consumer's position passes it.
        let record = unsafe { std::slice::from_raw_parts(data.as_ptr(), bytes as usize) };
        Some((record, length & DISCARDED == 0, next))
    }

    /// Shows every record before that position of the kernel's that was not read yet, without reading it.
    ///
    /// The position is to be asked for before: what lies between is then never more than the ring holds.
    pub fn look(&self, produced: u64, mut show: impl FnMut(&[u8])) {
        let mut at = self.read.load(Ordering::Acquire);
        while let Some((record, valid, next)) = self.record(at, produced) {
            if valid {
                show(record);
            }
            at = next;
        }
    }
}

impl Drop for RingMap {
    fn drop(&mut self) {
        // SAFETY: mapped in new with this length; nothing borrows from it any more.
        unsafe { libc::munmap(self.consumer.as_ptr().cast(), self.page) };
        let length = self.page + 2 * usize::try_from(self.size).unwrap_or(0);
        // SAFETY: as above.
        unsafe { libc::munmap(self.producer.as_ptr().cast(), length) };
    }
}

/// The one reader.
#[derive(Debug)]
pub struct Ring {
    map: Arc<RingMap>,
    wakeups: OwnedFd,
}

/// Tells of the kernel's wakeups, each once: what was read and not given back yet keeps the ring readable, and a wait for
/// that would not wait.
fn wakeups(ring: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: no preconditions.
    let made = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    if made < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, and nobody else's.
    let epoll = unsafe { OwnedFd::from_raw_fd(made) };
    let mut event = libc::epoll_event { events: (libc::EPOLLIN | libc::EPOLLET).cast_unsigned(), u64: 0 };
    // SAFETY: both descriptors are open and the event is valid.
    let added = unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, ring.as_raw_fd(), &raw mut event) };
    if added < 0 { Err(io::Error::last_os_error()) } else { Ok(epoll) }
}

impl Ring {
    /// Maps the ring of this map, of `size` bytes. The map has to stay open as long as the ring.
    ///
    /// # Errors
    /// When it cannot be mapped.
    pub fn new(fd: BorrowedFd<'_>, size: u32) -> io::Result<Self> {
        Ok(Self { map: Arc::new(RingMap::new(fd, size)?), wakeups: wakeups(fd)? })
    }

    /// For those who only look.
    pub fn map(&self) -> Arc<RingMap> {
        Arc::clone(&self.map)
    }

    /// Sleeps until the kernel wakes us or the time is over; not at all when there is something to read.
    pub fn wait(&self, wait: Duration) {
        if self.position() < self.map.produced() {
            return;
        }
        let milliseconds = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        // SAFETY: room for one event. An interrupted or failed wait only means looking earlier.
        unsafe { libc::epoll_wait(self.wakeups.as_raw_fd(), &raw mut event, 1, milliseconds) };
    }

    /// How far it has read.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.map.read.load(Ordering::Relaxed)
    }

    /// Goes on reading from there, when that is still in the ring.
    pub fn go_to(&mut self, position: u64) {
        if (self.position()..=self.map.produced()).contains(&position) {
            self.map.read.store(position, Ordering::Release);
        }
    }

    /// Gives up to `most` records to `take`, in order.
    pub fn read(&mut self, most: usize, mut take: impl FnMut(&[u8])) -> usize {
        let produced = self.map.produced();
        let mut at = self.map.read.load(Ordering::Relaxed);
        let mut count = 0;
        while count < most {
            let Some((record, valid, next)) = self.map.record(at, produced) else { break };
            if valid {
                take(record);
            }
            at = next;
            count += 1;
        }
        self.map.read.store(at, Ordering::Release);
        count
    }

    /// Gives the kernel back what was read up to `durable`. The rest may be read again, by whoever comes after us; but
    /// never more than a quarter of the ring, for the kernel needs the room. Says up to where it was given back.
    pub fn commit(&mut self, durable: u64) -> u64 {
        let read = self.position();
        let least = read.min(self.map.produced().saturating_sub(self.map.size / 4));
        // SAFETY: mapped while self lives, page aligned; this is the only writer.
        let consumer = unsafe { self.map.consumer.as_ref() };
        let given = consumer.load(Ordering::Relaxed);
        let back = durable.min(read).max(least).max(given);
        consumer.store(back, Ordering::Release);
        back
    }
}
