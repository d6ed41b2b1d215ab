//! Bytes under the protocol: buffered, one write a message, and no message larger than allowed.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;

use thrift::TConfiguration;
use thrift::protocol::{TBinaryInputProtocol, TBinaryOutputProtocol};

/// What a peer may send in one message.
#[derive(Debug, Clone, Copy)]
pub(super) struct MessageLimits {
    /// Bytes in all, and in a single text.
    pub(super) bytes: usize,
    /// Elements of a list or map.
    pub(super) elements: usize,
}

pub(super) type Input = TBinaryInputProtocol<Incoming<UnixStream>>;
pub(super) type Output = TBinaryOutputProtocol<Outgoing<UnixStream>>;

/// The two directions of a connection.
pub(super) fn protocols(stream: &UnixStream, limits: MessageLimits) -> thrift::Result<(Input, Output)> {
    let config = TConfiguration::builder()
        .max_message_size(Some(limits.bytes))
        .max_frame_size(None)
        .max_string_size(Some(limits.bytes))
        .max_container_size(Some(limits.elements))
        .build()?;
    let input = TBinaryInputProtocol::with_config(Incoming::new(stream.try_clone()?, limits.bytes), true, config);
    Ok((input, TBinaryOutputProtocol::new(Outgoing::new(stream.try_clone()?), true)))
}

/// Reads messages, each of at most so many bytes.
pub(super) struct Incoming<R: Read> {
    inner: BufReader<R>,
    limit: usize,
    left: usize,
    broken: bool,
}

impl<R: Read> Incoming<R> {
    pub(super) fn new(inner: R, limit: usize) -> Self {
        Self { inner: BufReader::new(inner), limit, left: limit, broken: false }
    }

    /// Waits for the first byte of a message; false when there will be none. A stream that failed inside a message
    /// is not in step any more and gives none.
    pub(super) fn next_message(&mut self) -> io::Result<bool> {
        self.left = self.limit;
        Ok(!self.broken && !self.inner.fill_buf()?.is_empty())
    }
}

impl<R: Read> Read for Incoming<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let allowed = buffer.len().min(self.left);
        let result = if allowed == 0 && !buffer.is_empty() {
            Err(io::Error::new(io::ErrorKind::InvalidData, "the message is too large"))
        } else {
            buffer.get_mut(..allowed).map_or(Ok(0), |part| self.inner.read(part))
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
    message: Vec<u8>,
}

impl<W> Outgoing<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, message: Vec::new() }
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
        self.out.write_all(&message)?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thrift::protocol::TInputProtocol as _;

    #[test]
    fn a_message_ends_at_its_limit_and_with_it_the_stream() {
        let mut incoming = Incoming::new(&[7_u8; 100][..], 10);
        assert!(incoming.next_message().unwrap());
        incoming.read_exact(&mut [0; 10]).unwrap();
        assert!(incoming.next_message().unwrap());
        assert!(incoming.read_exact(&mut [0; 11]).is_err());
        assert!(!incoming.next_message().unwrap());
    }

    #[test]
    fn claimed_sizes_are_not_believed() {
        // A strict header, then a name of 2 GB.
        let bytes = [0x80, 1, 0, 1, 0x7f, 0xff, 0xff, 0xff, b'p'];
        let config = TConfiguration::builder().max_string_size(Some(1000)).build().unwrap();
        let mut input = TBinaryInputProtocol::with_config(Incoming::new(&bytes[..], 1000), true, config);
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
        let mut outgoing = Outgoing::new(Count(0));
        for _ in 0..1000 {
            outgoing.write_all(&[0; 100]).unwrap();
        }
        outgoing.flush().unwrap();
        assert_eq!(outgoing.out.0, 1);
    }
}
