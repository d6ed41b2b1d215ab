//! Answers of the DNS: which addresses a name has (RFC 1035, 4).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Front, LONGEST, host};

const HEADER: usize = 12;
const IN: usize = 1;
const A: usize = 1;
const CNAME: usize = 5;
const AAAA: usize = 28;
/// Of an answer; those of a large one are some dozen.
const RECORDS: usize = 256;

/// What an answer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The name that was asked for.
    pub host: String,
    /// The addresses that it has, by whatever further names.
    pub addresses: Vec<IpAddr>,
}

/// The addresses in an answer, which may be cut off; `None` when there are none.
#[must_use]
pub fn answer(message: &[u8]) -> Option<Answer> {
    let mut front = Front(message);
    front.take(2)?; // id
    let flags = front.number(2)?;
    // A response to a query, without an error.
    if flags & 0xf80f != 0x8000 || front.number(2)? != 1 {
        return None;
    }
    let records = front.number(2)?.min(RECORDS);
    let mut at = HEADER;
    let host = name(message, &mut at)?;
    at += 4;
    let mut names = vec![host];
    let mut addresses = Vec::new();
    for _ in 0..records {
        let Some(record) = Record::read(message, &mut at) else { break }; // cut off
        if record.class != IN || !record.owner.is_some_and(|owner| names.contains(&owner)) {
            continue;
        }
        let mut data = record.data;
        match record.kind {
            A => addresses.extend(address::<4>(message, data).map(Ipv4Addr::from).map(IpAddr::V4)),
            AAAA => addresses.extend(address::<16>(message, data).map(Ipv6Addr::from).map(IpAddr::V6)),
            CNAME => names.extend(name(message, &mut data.0)),
            _ => {}
        }
    }
    let host = names.swap_remove(0);
    (!addresses.is_empty()).then_some(Answer { host, addresses })
}

fn address<const N: usize>(message: &[u8], (at, length): (usize, usize)) -> Option<[u8; N]> {
    message.get(at..at + length)?.try_into().ok()
}

struct Record {
    /// `None` when it is no name of a host.
    owner: Option<String>,
    kind: usize,
    class: usize,
    /// Where the data is, and how long.
    data: (usize, usize),
}

impl Record {
    fn read(message: &[u8], at: &mut usize) -> Option<Self> {
        let (owner, behind) = name_at(message, *at)?;
        let mut front = Front(message.get(behind..)?);
        let (kind, class) = (front.number(2)?, front.number(2)?);
        front.take(4)?; // how long it may be kept
        let length = front.number(2)?;
        let data = (behind + 10, length);
        *at = behind + 10 + length;
        Some(Self { owner: host(&owner), kind, class, data })
    }
}

/// The name of a host that is at that place, which moves behind it.
fn name(message: &[u8], at: &mut usize) -> Option<String> {
    let (name, behind) = name_at(message, *at)?;
    *at = behind;
    host(&name)
}

/// A name with its dots, and the place behind it. One may end in another, before it: 4.1.4.
fn name_at(message: &[u8], at: usize) -> Option<(Vec<u8>, usize)> {
    let mut name = Vec::new();
    let (mut at, mut behind, mut before) = (at, None, at);
    loop {
        let mut front = Front(message.get(at..)?);
        match front.number(1)? {
            0 => return Some((name, behind.unwrap_or(at + 1))),
            length @ 1..64 => {
                let part = front.take(length)?;
                if name.len() + part.len() > LONGEST || part.contains(&b'.') {
                    return None;
                }
                if !name.is_empty() {
                    name.push(b'.');
                }
                name.extend(part);
                at += 1 + length;
            }
            high @ 192..256 => {
                let to = (high & 63) << 8 | front.number(1)?;
                behind.get_or_insert(at + 2);
                // Only ever backwards: it ends.
                if to >= before {
                    return None;
                }
                (at, before) = (to, to);
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(name: &str) -> Vec<u8> {
        let part = |part: &str| [&[u8::try_from(part.len()).unwrap()][..], part.as_bytes()].concat();
        name.split('.').flat_map(part).chain([0]).collect()
    }

    fn record(owner: &[u8], kind: u8, data: &[u8]) -> Vec<u8> {
        let length = u16::try_from(data.len()).unwrap().to_be_bytes();
        [owner, &[0, kind, 0, 1, 0, 0, 0, 60], &length, data].concat()
    }

    fn message(question: &str, records: &[Vec<u8>]) -> Vec<u8> {
        let count = u16::try_from(records.len()).unwrap().to_be_bytes();
        let head = [&[1, 2, 0x81, 0x80, 0, 1][..], &count, &[0, 0, 0, 1]].concat();
        [head, written(question), vec![0, 1, 0, 1], records.concat()].concat()
    }

    #[test]
    fn the_name_asked_for_has_the_addresses_of_its_further_names() {
        let question = [0xc0, 12];
        let further = written("edge.cdn.example");
        let records = [
            record(&question, 5, &further),
            record(&further, 1, &[192, 0, 2, 1]),
            record(&further, 1, &[192, 0, 2, 2]),
            record(&written("Edge.CDN.example"), 28, &[0x20; 16]),
            record(&written("other.example"), 1, &[192, 0, 2, 3]),
            record(&further, 16, b"\x05hello"),
            record(&further, 1, &[1, 2, 3]),
        ];
        let whole = message("API.example", &records);
        let got = answer(&whole).unwrap();
        let addresses: Vec<String> = got.addresses.iter().map(IpAddr::to_string).collect();
        assert_eq!(got.host, "api.example");
        assert_eq!(addresses, ["192.0.2.1", "192.0.2.2", "2020:2020:2020:2020:2020:2020:2020:2020"]);
        let cut = answer(&whole[..whole.len() - 100]).unwrap();
        assert_eq!(cut.addresses.len(), 2, "what there is of one that is cut off");
    }

    #[test]
    fn what_answers_nothing_tells_nothing() {
        let good = message("a.example", &[record(&[0xc0, 12], 1, &[192, 0, 2, 1])]);
        assert!(answer(&good).is_some());
        for (place, byte) in [(2, 0x01), (3, 0x83), (5, 2), (7, 0), (12, 0xc0)] {
            let mut other = good.clone();
            other[place] = byte;
            assert_eq!(answer(&other), None, "{place}");
        }
        assert_eq!(answer(&message("a.example", &[record(&[0xc0, 12], 16, b"text")])), None);
        // Names that lead to themselves.
        assert_eq!(answer(&message("a.example", &[record(&[0xc0, 27], 1, &[192, 0, 2, 1])])), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2048))]

        #[test]
        fn any_bytes_do(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = answer(&bytes);
            let _ = answer(&[&[1, 2, 0x81, 0x80, 0, 1, 0, 9, 0, 0, 0, 0][..], &bytes].concat());
        }

        #[test]
        fn a_changed_answer_does(place in 0_usize..80, byte in any::<u8>(), length in 0_usize..100) {
            let records = [record(&[0xc0, 12], 5, &written("b.example")), record(&written("b.example"), 1, &[1, 2, 3, 4])];
            let mut whole = message("a.example", &records);
            let place = place % whole.len();
            whole[place] = byte;
            whole.truncate(length);
            let _ = answer(&whole);
        }
    }
}
