//! Bytes under the protocol: buffered, one write a message, and no message larger than allowed.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use thrift::TConfiguration;
use thrift::protocol::{TBinaryInputProtocol, TBinaryOutputProtocol};

use super::socket::Stream;

/// Bytes of a reply in one write: all but large results.
const PIECE: usize = 128 << 10;

/// What a peer may send in one message.
#[derive(Debug, Clone, Copy)]
pub(super) struct MessageLimits {
    /// Bytes in all, and in a single text.
    pub(super) bytes: usize,
    /// Elements of a list or map.
    pub(super) elements: usize,
    /// Time for the whole of it, and for taking a whole reply: a peer that sends a byte now and then is no better than
    /// one that sends nothing. The stream's own timeouts come on top.
    pub(super) time: Duration,
}

pub(super) type Input = TBinaryInputProtocol<Incoming<Stream>>;
pub(super) type Output = TBinaryOutputProtocol<Outgoing<Stream>>;

/// The two directions of a connection.
pub(super) fn protocols(stream: &Stream, limits: MessageLimits) -> thrift::Result<(Input, Output)> {
    let config = TConfiguration::builder()
        .max_message_size(Some(limits.bytes))
        .max_frame_size(None)
        .max_string_size(Some(limits.bytes))
        .max_container_size(Some(limits.elements))
        .build()?;
    let incoming = Incoming::new(stream.try_clone()?, limits);
    let outgoing = Outgoing { waiting: incoming.waiting(), ..Outgoing::new(stream.try_clone()?, limits.time) };
    let input = TBinaryInputProtocol::with_config(incoming, true, config);
    Ok((input, TBinaryOutputProtocol::new(outgoing, true)))
}

/// Reads messages, each within its limits.
pub(super) struct Incoming<R: Read> {
    inner: BufReader<R>,
    limits: MessageLimits,
    left: usize,
    began: Instant,
    broken: bool,
    waiting: Arc<AtomicBool>,
}

impl<R: Read> Incoming<R> {
    pub(super) fn new(inner: R, limits: MessageLimits) -> Self {
        Self {
            inner: BufReader::new(inner),
            limits,
            left: limits.bytes,
            began: Instant::now(),
            broken: false,
            waiting: Arc::new(AtomicBool::new(true)),
        }
    }

    /// Whether it is the peer's turn, to send or to take what is sent: to be looked at from elsewhere.
    pub(super) fn waiting(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.waiting)
    }

    fn wait_for_peer<T>(&mut self, read: impl FnOnce(&mut BufReader<R>) -> T) -> T {
        self.waiting.store(true, Ordering::SeqCst);
        let result = read(&mut self.inner);
        self.waiting.store(false, Ordering::SeqCst);
        result
    }

    /// Waits for the first byte of a message; false when there will be none. A stream that failed inside a message
    /// is not in step any more and gives none.
    pub(super) fn next_message(&mut self) -> io::Result<bool> {
        self.left = self.limits.bytes;
        if self.broken {
            return Ok(false);
        }
        let more = self.wait_for_peer(|inner| inner.fill_buf().map(|bytes| !bytes.is_empty()));
        self.began = Instant::now();
        more
    }
}

impl<R: Read> Read for Incoming<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let allowed = buffer.len().min(self.left);
        let result = if allowed == 0 && !buffer.is_empty() {
            Err(io::Error::new(io::ErrorKind::InvalidData, "the message is too large"))
        } else if self.began.elapsed() > self.limits.time {
            Err(io::Error::new(io::ErrorKind::TimedOut, "the message takes too long"))
        } else {
            buffer.get_mut(..allowed).map_or(Ok(0), |part| self.wait_for_peer(|inner| inner.read(part)))
        };
        match &result {
            Ok(0) if !buffer.is_empty() => self.broken = true,
            Ok(read) => self.left -= read,
            Err(_) => self.broken = true,
        }
        result
    }
}

/// Collects a message and writes it at once: an unbuffered transport makes a system call of every number.
pub(super) struct Outgoing<W> {
    out: W,
    time: Duration,
    message: Vec<u8>,
    waiting: Arc<AtomicBool>,
}

impl<W> Outgoing<W> {
    pub(super) fn new(out: W, time: Duration) -> Self {
        Self { out, time, message: Vec::new(), waiting: Arc::default() }
    }
}

impl<W: Write> Write for Outgoing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.message.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        // Taken, so that a large result's memory is not kept for the life of the connection.
        let message = std::mem::take(&mut self.message);
        let began = Instant::now();
        self.waiting.store(true, Ordering::SeqCst);
        // In pieces, so that the clock is looked at between them.
        for piece in message.chunks(PIECE) {
            if began.elapsed() > self.time {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the reply is taken too slowly"));
            }
            self.out.write_all(piece)?;
        }
        self.waiting.store(false, Ordering::SeqCst);
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thrift::protocol::TInputProtocol as _;

    fn limits(bytes: usize) -> MessageLimits {
        MessageLimits { bytes, elements: 10, time: Duration::from_secs(60) }
    }

    #[test]
    fn a_message_ends_at_its_limit_and_with_it_the_stream() {
        let mut incoming = Incoming::new(&[7_u8; 100][..], limits(10));
        assert!(incoming.next_message().unwrap());
        incoming.read_exact(&mut [0; 10]).unwrap();
        assert!(incoming.next_message().unwrap());
        assert!(incoming.read_exact(&mut [0; 11]).is_err());
        assert!(!incoming.next_message().unwrap());
    }

    #[test]
    fn a_message_that_trickles_ends_at_its_time() {
        struct Trickle;
        impl Read for Trickle {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                std::thread::sleep(Duration::from_millis(1));
                buffer[0] = 7;
                Ok(1)
            }
        }
        let mut incoming =
            Incoming::new(Trickle, MessageLimits { time: Duration::from_millis(50), ..limits(1_000_000) });
        assert!(incoming.next_message().unwrap());
        let error = incoming.read_exact(&mut vec![0; 1_000_000]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(!incoming.next_message().unwrap());
    }

    #[test]
    fn claimed_sizes_are_not_believed() {
        // A strict header, then a name of 2 GB.
        let bytes = [0x80, 1, 0, 1, 0x7f, 0xff, 0xff, 0xff, b'p'];
        let config = TConfiguration::builder().max_string_size(Some(1000)).build().unwrap();
        let mut input = TBinaryInputProtocol::with_config(Incoming::new(&bytes[..], limits(1000)), true, config);
        assert!(input.read_message_begin().is_err());
    }

    #[test]
    fn a_message_is_one_write() {
        struct Count(usize);
        impl Write for Count {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 += 1;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut outgoing = Outgoing::new(Count(0), Duration::from_secs(60));
        for _ in 0..1000 {
            outgoing.write_all(&[0; 100]).unwrap();
        }
        outgoing.flush().unwrap();
        assert_eq!(outgoing.out.0, 1);
    }
}
