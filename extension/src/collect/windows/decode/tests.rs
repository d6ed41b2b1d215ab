//! Events as their manifests lay them out, made by hand; and bytes as nobody writes them.

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;

use super::*;

const ALL: [Provider; 5] = Provider::ALL;

fn header(provider: Provider, id: u16, version: u8, wide: bool) -> Header {
    Header { provider, id, version, pid: 7, time: 0, wide }
}

/// The fields of an event, one after the other.
#[derive(Clone)]
struct Event {
    wide: bool,
    bytes: Vec<u8>,
}

impl Event {
    fn new(wide: bool) -> Self {
        Self { wide, bytes: Vec::new() }
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend(bytes);
        self
    }

    fn u16(self, number: u16) -> Self {
        self.raw(&number.to_le_bytes())
    }

    fn u32(self, number: u32) -> Self {
        self.raw(&number.to_le_bytes())
    }

    fn u64(self, number: u64) -> Self {
        self.raw(&number.to_le_bytes())
    }

    fn pointer(self, number: u32) -> Self {
        if self.wide { self.u64(number.into()) } else { self.u32(number) }
    }

    fn text(self, text: &str) -> Self {
        let units: Vec<u8> = text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
        self.raw(&units)
    }

    /// S-1-16-8192, or the like.
    fn sid(self, numbers: &[u32]) -> Self {
        let count = u8::try_from(numbers.len()).unwrap();
        numbers.iter().fold(self.raw(&[1, count, 0, 0, 0, 0, 0, 16]), |event, number| event.u32(*number))
    }
}

/// Decodes, as it is and with more behind it, and finds each shorter one cut off, down to `least` bytes.
fn decoded(header: Header, event: &Event, least: usize) -> Record {
    let record = decode(&header, &event.bytes).unwrap();
    let longer = [&event.bytes[..], &[1, 2, 3]].concat();
    assert_eq!(decode(&header, &longer), Ok(record.clone()), "fields that are added");
    for length in 0..event.bytes.len() {
        let cut = decode(&header, &event.bytes[..length]);
        if length < least {
            assert_eq!(cut, Err(DecodeError::Short(header.provider, header.id)), "{length}");
        } else {
            assert_eq!(cut, Ok(record.clone()), "{length}: what follows is not read");
        }
    }
    record
}

/// The same, of an event all of which is read.
fn whole(header: Header, event: &Event) -> Record {
    decoded(header, event, event.bytes.len())
}

#[test]
fn the_start_of_a_process_in_each_version() {
    let start = |created| Record::Start(Start { pid: 8, created, parent: 4, image: r"\Device\a.exe".into() });
    for version in 0..=3 {
        let mut event = Event::new(true).u32(8);
        if version == 3 {
            event = event.u64(77);
        }
        event = event.u64(1 << 40).u32(4);
        event = match version {
            0 => event.u32(1),
            1 | 2 => event.u32(1).u32(1),
            _ => event.u64(78).u32(1).u32(1).u32(2).u32(1).sid(&[8192]),
        };
        event = event.text(r"\Device\a.exe");
        let read = event.bytes.len();
        if version >= 2 {
            event = event.u32(5).u32(6).text("package").text("app");
        }
        assert_eq!(decoded(header(Provider::Process, 1, version, true), &event, read), start(1 << 40), "{version}");
    }
}

#[test]
fn the_end_of_a_process_in_each_version() {
    for version in 0..=2 {
        let mut event = Event::new(true).u32(8);
        if version == 2 {
            event = event.u64(77);
        }
        event = event.u64(5).u64(6).u32(0xc000_0005);
        let read = event.bytes.len();
        event = event.u32(1).u32(100).u64(1).u64(2);
        if version >= 1 {
            event = event.u64(3).u32(4).u32(5).u32(6).u32(7).u32(8);
        }
        let stop = Record::Stop(Stop { pid: 8, created: 5, code: 0xc000_0005 });
        let event = event.raw(b"a.exe\0");
        assert_eq!(decoded(header(Provider::Process, 2, version, true), &event, read), stop, "{version}");
    }
}

#[test]
fn what_a_process_was_called_with_in_each_version() {
    for (version, wide) in [(2, true), (3, true), (4, true), (2, false), (3, false), (4, false)] {
        let begin = || {
            let mut event = Event::new(wide).pointer(0xffff_0000).u32(8).u32(4).u32(1).u32(259);
            if version >= 3 {
                event = event.pointer(0x1000);
            }
            if version == 4 { event.u32(0) } else { event }
        };
        let launch = |uid| Record::Launch(Launch { pid: 8, uid, command_line: "a.exe \"b c\"".into() });
        let rest = |event: Event| event.raw(b"a.exe\0").text("a.exe \"b c\"");
        let user = rest(begin().pointer(0xffff_1000).pointer(0).sid(&[21, 1, 2, 3, 1001]));
        assert_eq!(whole(header(Provider::Launch, 1, version, wide), &user), launch(Some(1001)), "{version} {wide}");
        let nobody = rest(begin().u32(0));
        assert_eq!(whole(header(Provider::Launch, 1, version, wide), &nobody), launch(None), "{version} {wide}");
    }
    for id in [2, 3, 4, 39] {
        assert_eq!(decode(&header(Provider::Launch, id, 4, true), &[]), Ok(Record::Nothing));
    }
}

/// The fields that all events of the network begin with.
fn packet(v6: bool, source: &str, destination: &str) -> Event {
    let (source, destination): (SocketAddr, SocketAddr) = (source.parse().unwrap(), destination.parse().unwrap());
    let address = |event: Event, end: &SocketAddr| match end.ip() {
        IpAddr::V4(address) => event.raw(&address.octets()),
        IpAddr::V6(address) => event.raw(&address.octets()),
    };
    assert_eq!(source.is_ipv6(), v6);
    let event = address(address(Event::new(true).u32(8).u32(100), &destination), &source);
    event.raw(&destination.port().to_be_bytes()).raw(&source.port().to_be_bytes())
}

#[test]
fn packets_of_each_kind() {
    for (id, packet_is, v6) in [
        (10, Packet::Sent, false),
        (11, Packet::Received, false),
        (12, Packet::Connected, false),
        (13, Packet::Disconnected, false),
        (15, Packet::Accepted, false),
        (26, Packet::Sent, true),
        (27, Packet::Received, true),
        (28, Packet::Connected, true),
        (29, Packet::Disconnected, true),
        (31, Packet::Accepted, true),
        (42, Packet::DatagramSent, false),
        (43, Packet::DatagramReceived, false),
        (58, Packet::DatagramSent, true),
        (59, Packet::DatagramReceived, true),
    ] {
        let (source, destination) =
            if v6 { ("[2001:db8::1]:50000", "[2001:db8::7]:443") } else { ("192.0.2.1:50000", "198.51.100.7:443") };
        let event = packet(v6, source, destination);
        let read = event.bytes.len();
        // seqnum and connid, and what stands before them.
        let event = match packet_is {
            Packet::Connected | Packet::Accepted => (0..4).fold(event, |event, _| event.u16(1)).u32(2).u16(3).u16(4),
            Packet::Sent => event.u32(1).u32(2),
            _ => event,
        };
        let event = event.u32(0).u32(0);
        let swapped = packet_is == Packet::DatagramReceived;
        let (local, remote) = if swapped { (destination, source) } else { (source, destination) };
        let ends = Endpoints { local: local.parse().unwrap(), remote: remote.parse().unwrap() };
        let wanted = Record::Network(NetworkRecord::Of { pid: 8, packet: packet_is, size: 100, ends });
        assert_eq!(decoded(header(Provider::Network, id, 0, true), &event, read), wanted, "{id}");
        assert!(Provider::Network.ids().contains(&id));
    }
    let failed = Event::new(true).u16(6).u16(2);
    let record = whole(header(Provider::Network, 17, 0, true), &failed);
    assert_eq!(record, Record::Network(NetworkRecord::Failed));
    assert_eq!(whole(header(Provider::Network, 17, 0, true), &Event::new(true).u16(6).u16(0)), Record::Nothing);
}

#[test]
fn whom_an_event_is_about_is_told_by_its_beginning() {
    let of = |provider, id, bytes: &[u8]| about(&header(provider, id, 0, false), bytes);
    assert_eq!(of(Provider::Network, 10, &[8, 0, 0, 0, 9]), Some(About::Process(8)));
    assert_eq!(of(Provider::Network, 10, &[8, 0, 0]), None);
    assert_eq!(of(Provider::Network, 17, &[]), Some(About::Anyone));
    assert_eq!(of(Provider::File, 12, &[]), Some(About::Process(7)));
    assert_eq!(of(Provider::File, 24, &[9, 0, 0, 0]), Some(About::Request(9)));
    assert_eq!(of(Provider::File, 24, &[9]), None);
    assert_eq!(of(Provider::Dns, 3008, &[]), Some(About::Process(7)));
    assert_eq!(of(Provider::Process, 1, &[]), Some(About::Anyone));
}

#[test]
fn what_is_asked_of_a_file_in_each_version() {
    const PATH: &str = r"\Device\HarddiskVolume3\a";
    for (version, wide) in [(0, true), (1, true), (0, false), (1, false)] {
        let header = |id| header(Provider::File, id, version, wide);
        let object = |event: Event| {
            let event = event.pointer(0x10);
            if version == 0 { event.pointer(99).pointer(0x20) } else { event.pointer(0x20) }
        };
        let thread = |event: Event| if version == 0 { event } else { event.u32(99) };
        let file = |act| Record::File(FileRecord { irp: 0x10, object: 0x20, act });

        let create = thread(object(Event::new(wide))).u32(0x0200_0060).u32(0x80).u32(7).text(PATH);
        let act = FileAct::Create { options: 0x0200_0060, path: PATH.into() };
        assert_eq!(whole(header(12), &create), file(act));
        assert_eq!(whole(header(30), &create), file(FileAct::CreateNew));

        let read = object(Event::new(wide)).bytes.len();
        let cleanup = thread(object(Event::new(wide)).pointer(0x30));
        assert_eq!(decoded(header(13), &cleanup, read), file(FileAct::Cleanup));
        assert_eq!(decoded(header(14), &cleanup, read), file(FileAct::Close));

        for (flags, paging) in [(0, false), (0x2, true), (0x43, true), (0x900, false)] {
            let event = thread(object(Event::new(wide).u64(4096)).pointer(0x30)).u32(512).u32(flags);
            let read = event.bytes.len();
            let event = if version == 0 { event } else { event.u32(0) };
            assert_eq!(decoded(header(15), &event, read), file(FileAct::Read { paging }));
            assert_eq!(decoded(header(16), &event, read), file(FileAct::Write { paging }));
        }

        let set = |class| thread(object(Event::new(wide)).pointer(0x30).pointer(0x40)).u32(class);
        assert_eq!(whole(header(17), &set(20)), file(FileAct::Set(InfoClass::EndOfFile)));
        assert_eq!(whole(header(17), &set(4)), file(FileAct::Set(InfoClass::Other)));
        assert_eq!(whole(header(26), &set(13).text(PATH)), file(FileAct::Delete(PATH.into())));
        assert_eq!(whole(header(27), &set(10).text(PATH)), file(FileAct::Rename(PATH.into())));
        assert_eq!(whole(header(28), &set(11).text(PATH)), file(FileAct::Link(PATH.into())));
        if version == 1 {
            assert_eq!(whole(header(31), &set(0)), file(FileAct::SetSecurity));
        }
    }
    for wide in [true, false] {
        let end = Event::new(wide).pointer(0x10).pointer(2).u32(0xc000_0034);
        let act = FileAct::End { information: 2, status: 0xc000_0034 };
        let record = whole(header(Provider::File, 24, 0, wide), &end);
        assert_eq!(record, Record::File(FileRecord { irp: 0x10, object: 0, act }));
    }
}

#[test]
fn a_name_that_was_looked_up() {
    let answer = |status: u32, results: &str| {
        let event = Event::new(true).text("a.example").u32(1).u64(1 << 40).u32(status).text(results);
        whole(header(Provider::Dns, 3008, 0, true), &event)
    };
    let addresses = ["192.0.2.1", "::ffff:192.0.2.2", "2001:db8::1"].map(|address| address.parse().unwrap()).to_vec();
    let lookup = Record::Lookup { host: "a.example".into(), addresses };
    assert_eq!(answer(0, "type:  5 b.example;192.0.2.1;::ffff:192.0.2.2; 2001:db8::1;"), lookup);
    assert_eq!(answer(0, "type:  5 b.example;"), Record::Nothing);
    assert_eq!(answer(9003, "192.0.2.1;"), Record::Nothing);
}

#[test]
fn what_is_not_known_is_not_guessed() {
    for (provider, id, version) in [
        (Provider::Process, 1, 4),
        (Provider::Process, 2, 3),
        (Provider::Process, 99, 0),
        (Provider::Launch, 1, 1),
        (Provider::Launch, 1, 5),
        (Provider::Network, 12, 1),
        (Provider::Network, 99, 0),
        (Provider::File, 12, 2),
        (Provider::File, 24, 1),
        (Provider::File, 31, 0),
        (Provider::File, 99, 0),
        (Provider::Dns, 3008, 1),
    ] {
        let found = decode(&header(provider, id, version, true), &[0; 256]);
        assert_eq!(found, Err(DecodeError::Unknown(provider, id, version)));
    }
    for (provider, id) in [
        (Provider::Process, 5),
        (Provider::Process, 15),
        (Provider::Network, 14),
        (Provider::Network, 49),
        (Provider::File, 10),
        (Provider::File, 22),
        (Provider::Dns, 3006),
    ] {
        assert_eq!(decode(&header(provider, id, 0, true), &[]), Ok(Record::Nothing), "known, and not wanted");
        assert!(!provider.ids().contains(&id));
    }
}

#[test]
fn providers_by_their_guids() {
    for provider in ALL {
        assert_eq!(Provider::of(provider.guid()), Some(provider));
    }
    assert_eq!(Provider::of(1), None);
    assert_eq!(Provider::File.guid(), 0xedd0_8927_9cc4_4e65_b970_c256_0fb5_c289);
}

#[test]
fn times_are_since_1970() {
    // 2009-07-25 23:00:00.1234567, from the documents of FILETIME's users.
    assert_eq!(since_1970(128_930_364_001_234_567), std::time::Duration::new(1_248_562_800, 123_456_700));
    assert_eq!(since_1970(0), std::time::Duration::ZERO);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8192))]

    /// Whatever bytes come: what they tell or an error, never a panic.
    #[test]
    fn any_bytes_are_an_event_or_an_error(
        provider in 0..ALL.len(), id in prop_oneof![0_u16..64, 3000_u16..3024], version in 0_u8..5, wide: bool,
        bytes in prop::collection::vec(any::<u8>(), 0..256),
    ) {
        let _ = decode(&header(ALL[provider], id, version, wide), &bytes);
    }

    /// Those that are read most, with bytes that may be right.
    #[test]
    fn any_bytes_of_wanted_events(provider in 0..ALL.len(), which in any::<prop::sample::Index>(), version in 0_u8..5, words in prop::collection::vec(0_u16..3, 0..96)) {
        let ids = ALL[provider].ids();
        let id = if ids.is_empty() { 1 } else { ids[which.index(ids.len())] };
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let _ = decode(&header(ALL[provider], id, version, true), &bytes);
    }
}
