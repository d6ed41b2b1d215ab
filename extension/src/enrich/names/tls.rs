//! The name of the server in the first message of a TLS client (RFC 8446, 4.1.2; RFC 6066, 3).

use super::{Front, host};

const HANDSHAKE: usize = 22;
const CLIENT_HELLO: usize = 1;
const SERVER_NAME: usize = 0;
const HOST_NAME: usize = 0;

/// The name of the server, when the beginning of a connection, as far as it is there, has it.
#[must_use]
pub fn server_name(stream: &[u8]) -> Option<String> {
    hello_name(&handshake(stream))
}

/// The bytes of handshakes in the records at the beginning of a connection.
fn handshake(stream: &[u8]) -> Vec<u8> {
    let mut front = Front(stream);
    let mut message = Vec::new();
    while let (Some(HANDSHAKE), Some(3), Some(_), Some(length)) =
        (front.number(1), front.number(1), front.number(1), front.number(2))
    {
        message.extend(front.at_most(length));
    }
    message
}

/// The name in a `ClientHello`, which may be cut off behind it.
fn hello_name(message: &[u8]) -> Option<String> {
    let mut front = Front(message);
    if front.number(1)? != CLIENT_HELLO {
        return None;
    }
    let length = front.number(3)?;
    let mut hello = Front(front.at_most(length));
    hello.take(2 + 32)?; // version, random
    hello.counted(1)?; // session
    hello.counted(2)?; // cipher suites
    hello.counted(1)?; // compression
    let length = hello.number(2)?;
    let mut extensions = Front(hello.at_most(length));
    loop {
        let (kind, extension) = (extensions.number(2)?, extensions.counted(2)?);
        if kind == SERVER_NAME {
            let mut names = Front(Front(extension).counted(2)?);
            return (names.number(1)? == HOST_NAME).then(|| names.counted(2).and_then(host)).flatten();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counted(length: usize, bytes: &[u8]) -> Vec<u8> {
        let size = bytes.len().to_be_bytes();
        [&size[size.len() - length..], bytes].concat()
    }

    /// A message as a client makes it, with an extension of some size before and behind the name.
    fn message(name: &str, before: usize, behind: usize) -> Vec<u8> {
        let names = counted(2, &[&[0][..], &counted(2, name.as_bytes())].concat());
        let extension = |kind: u16, bytes: &[u8]| [&kind.to_be_bytes()[..], &counted(2, bytes)].concat();
        let extensions =
            [extension(21, &vec![0; before]), extension(0, &names), extension(51, &vec![7; behind])].concat();
        let body = [
            &[3, 3][..],
            &[9; 32],
            &counted(1, &[5; 32]),
            &counted(2, &[0x13, 1, 0x13, 2]),
            &counted(1, &[0]),
            &counted(2, &extensions),
        ];
        [&[1][..], &counted(3, &body.concat())].concat()
    }

    fn records(message: &[u8], size: usize) -> Vec<u8> {
        message.chunks(size).flat_map(|part| [&[22, 3, 1][..], &counted(2, part)].concat()).collect()
    }

    #[test]
    fn the_name_is_found_wherever_it_is_and_however_the_message_is_cut() {
        for (before, behind) in [(0, 0), (300, 1200), (1500, 0)] {
            let message = message("Api.Example.com", before, behind);
            for size in [1, 7, 100, 16384] {
                let whole = records(&message, size);
                assert_eq!(server_name(&whole).as_deref(), Some("api.example.com"), "{before} {behind} {size}");
            }
            let whole = records(&message, 16384);
            let first = (0..whole.len()).find(|length| server_name(&whole[..*length]).is_some()).unwrap();
            let at = whole.windows(15).position(|part| part == b"Api.Example.com").unwrap();
            assert_eq!(first, at + 15, "as soon as it is there");
        }
    }

    #[test]
    fn what_is_no_hello_has_no_name() {
        let whole = records(&message("example.com", 0, 0), 16384);
        for (place, byte) in [(0, 23), (1, 2), (5, 2)] {
            let mut other = whole.clone();
            other[place] = byte;
            assert_eq!(server_name(&other), None);
        }
        assert_eq!(server_name(&records(&message("192.0.2.1", 0, 0), 100)), None);
        assert_eq!(server_name(b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2048))]

        #[test]
        fn any_bytes_do(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = server_name(&bytes);
            let _ = hello_name(&bytes);
        }

        #[test]
        fn a_changed_hello_does(place in 0_usize..120, byte in any::<u8>(), length in 0_usize..200) {
            let mut whole = records(&message("example.com", 5, 5), 40);
            let place = place % whole.len();
            whole[place] = byte;
            whole.truncate(length);
            let _ = server_name(&whole);
        }
    }
}
