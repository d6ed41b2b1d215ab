//! Records as the kernel writes them, made by hand; and bytes as nobody writes them.

use std::net::Ipv6Addr;

use proptest::prelude::*;

use super::*;

/// All the fixed parts begin with this.
fn header(kind: u32, flags: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(u16::try_from(abi::AQ_VERSION).unwrap().to_ne_bytes());
    bytes.extend(u16::try_from(kind).unwrap().to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes()); // length: the ring's own is used
    bytes.extend(7_u64.to_ne_bytes());
    bytes.extend(1_u32.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(5_000_u64.to_ne_bytes());
    bytes.extend(4_000_u64.to_ne_bytes());
    for word in [100_u32, 101, 3, 9] {
        bytes.extend(word.to_ne_bytes());
    }
    assert_eq!(bytes.len(), size_of::<abi::aq_header>());
    bytes
}

/// A record with text: the fixed part, padded to where text begins, and the text.
fn with_text(mut fixed: Vec<u8>, text: &[u8]) -> Vec<u8> {
    fixed.resize(abi::AQ_TEXT as usize, 0);
    fixed.extend(text);
    fixed
}

fn kind(record: &[u8]) -> EventKind {
    decode(record).unwrap().kind
}

fn exec_record(argv: &[u8], flags: u32) -> Vec<u8> {
    let mut record = header(abi::AQ_EXEC, flags);
    record.extend(77_u64.to_ne_bytes());
    for word in [50_u32, 2, 1000, 1001, 4_026_531_832, u32::try_from(argv.len()).unwrap()] {
        record.extend(word.to_ne_bytes());
    }
    for length in [8_u16, 3, 5, 0] {
        record.extend(length.to_ne_bytes());
    }
    record.extend(*b"pts12\0\0\0\0\0\0\0\0\0\0\0");
    with_text(record, &[b"/bin/gitgit/home", argv].concat())
}

#[test]
fn the_header_says_who_and_when() {
    let event = decode(&with_text(header(abi::AQ_EXIT, 0), b"")).unwrap();
    assert_eq!((event.boot_ns, event.process), (5_000, ProcessKey { pid: 100, start_ns: 4_000 }));
    assert_eq!(event.mark, Mark { slot: 3, generation: 9 });
}

#[test]
fn an_exec_has_its_texts_in_order() {
    let EventKind::Exec(exec) = kind(&exec_record(b"git\0commit\0\0-m\xff\0", abi::AQ_CANDIDATE)) else { panic!() };
    assert_eq!((exec.path.as_str(), exec.exec_path.as_str(), exec.cwd.as_str()), ("/bin/git", "git", "/home"));
    assert_eq!(exec.argv, ["git", "commit", "", "-m\\xff"]);
    assert_eq!((exec.parent, exec.ns_pid, exec.uid, exec.gid, exec.cgroup_id), (50, 2, 1000, 1001, 77));
    assert_eq!(exec.tty, "pts/12");
    assert!(exec.candidate && !exec.truncated);
}

#[test]
fn an_argv_without_its_end_is_flagged() {
    let EventKind::Exec(exec) = kind(&exec_record(b"git\0comm", 0)) else { panic!() };
    assert_eq!(exec.argv, ["git", "comm"]);
    assert!(exec.truncated);
    let EventKind::Exec(exec) = kind(&exec_record(b"", 0)) else { panic!() };
    assert!(exec.argv.is_empty() && !exec.truncated);
}

#[test]
fn an_exit_is_a_code_or_a_signal() {
    let exit = |status: u32| {
        let mut record = header(abi::AQ_EXIT, 0);
        record.extend([status.to_ne_bytes(), [0; 4]].concat());
        kind(&record)
    };
    assert_eq!(exit(3 << 8), EventKind::Exit(Some(Exit { code: 3, signal: 0 })));
    assert_eq!(exit(9), EventKind::Exit(Some(Exit { code: 0, signal: 9 })));
    assert_eq!(exit(0x0b | 0x80), EventKind::Exit(Some(Exit { code: 0, signal: 11 })), "core dumped");
}

#[test]
fn an_open_that_is_not_tracked_says_so() {
    let open = |flags| {
        let mut record = header(abi::AQ_OPEN, flags);
        record.extend(42_u64.to_ne_bytes());
        for word in [abi::AQ_OPEN_CREATE, 0o100_644, 5, 1000, 2, 0] {
            record.extend(word.to_ne_bytes());
        }
        let EventKind::Open(open) = kind(&with_text(record, b"/a")) else { panic!() };
        open
    };
    let seen = open(0);
    assert_eq!((seen.open_id, seen.how, seen.path.as_str(), seen.fd), (42, OpenMode::Create, "/a", 5));
    assert!(seen.tracked && !open(abi::AQ_UNTRACKED).tracked && open(abi::AQ_TRUNCATED).truncated);
}

#[test]
fn a_rename_has_two_names_and_a_delete_has_one() {
    let change = |what: u32, flags: u32, lengths: [u16; 4], text: &[u8]| {
        let mut record = header(abi::AQ_CHANGE, flags);
        for word in [what, u32::MAX, 1000, 1] {
            record.extend(word.to_ne_bytes());
        }
        for length in lengths {
            record.extend(length.to_ne_bytes());
        }
        record.extend(9_u64.to_ne_bytes());
        let EventKind::Change(change) = kind(&with_text(record, text)) else { panic!() };
        change
    };
    let rename = change(abi::AQ_RENAME, 0, [2, 1, 2, 1], b"/ax/by");
    assert_eq!(rename.path, CallPath { base: "/a".into(), name: "x".into() });
    assert_eq!(rename.dest, Some(CallPath { base: "/b".into(), name: "y".into() }));
    let delete = change(abi::AQ_DELETE, abi::AQ_PENDING | abi::AQ_ROOTED, [2, 1, 0, 0], b"/ax");
    assert_eq!((delete.kind, delete.dest, delete.mode), (ChangeKind::Delete, None, None));
    assert_eq!((rename.request_id, delete.request_id), (None, Some(9)));
    assert!(delete.rooted && !rename.rooted);
    let opened = change(abi::AQ_OPENED + abi::AQ_OPEN_TRUNCATE, abi::AQ_PENDING, [2, 1, 0, 0], b"/ax");
    assert_eq!(opened.kind, ChangeKind::Open(OpenMode::Truncate));
}

#[test]
fn a_request_is_a_ring_or_a_result() {
    let request = |what: u32, result: i32| {
        let mut record = header(abi::AQ_REQUEST, 0);
        record.extend(9_u64.to_ne_bytes());
        record.extend(result.to_ne_bytes());
        record.extend(what.to_ne_bytes());
        record
    };
    let result = |result| kind(&request(abi::AQ_RESULT, result));
    assert_eq!(kind(&request(abi::AQ_RING, 0)), EventKind::Request(Request::Ring));
    assert_eq!(result(0), EventKind::Request(Request::Result { request_id: 9, done: true }));
    assert_eq!(result(-2), EventKind::Request(Request::Result { request_id: 9, done: false }));
    assert_eq!(decode(&request(7, 0)), Err(DecodeError::Unknown("request", 7)));
}

#[test]
fn a_close_says_how_it_is_known_and_whether_the_file_was_mapped() {
    let close = |flags| {
        let mut record = header(abi::AQ_CLOSE, flags);
        for number in [1_u64, 2, 3] {
            record.extend(number.to_ne_bytes());
        }
        let EventKind::Close(close) = kind(&record) else { panic!() };
        close
    };
    let wanted = Close { open_id: 1, bytes: Some((2, 3)), seen: true, mapped: Some(false) };
    assert_eq!(close(abi::AQ_SEEN), wanted);
    assert_eq!(close(abi::AQ_MAPPED), Close { seen: false, mapped: Some(true), ..wanted });
}

#[test]
fn a_connection_has_the_addresses_of_its_family() {
    let connection = |family: u8, state: u8, remote: [u8; 16]| {
        let mut record = header(abi::AQ_CONNECTION, 0);
        record.extend(1_u64.to_ne_bytes());
        for long in [2_u64, 30, 40] {
            record.extend(long.to_ne_bytes());
        }
        for word in [3_u32, 111, u32::MAX, 0] {
            record.extend(word.to_ne_bytes());
        }
        record.extend(4000_u16.to_ne_bytes());
        record.extend(443_u16.to_ne_bytes());
        record.extend([u8::from(state != 0), state, family, 6]);
        record.extend([0; 16]);
        record.extend(remote);
        decode(&record)
    };
    let remote = std::array::from_fn(|index| if index < 4 { [192, 0, 2, 1][index] } else { 0 });
    let EventKind::Connection(v4) = connection(2, 0, remote).unwrap().kind else { panic!() };
    assert_eq!((v4.remote.to_string().as_str(), v4.step, v4.error, v4.fd), ("192.0.2.1:443", Step::Connect, 111, -1));
    assert_eq!((v4.bytes, v4.transport), (Some((30, 40)), Transport::Tcp));
    let EventKind::Connection(v6) =
        connection(10, 7, "2001:db8::1".parse::<Ipv6Addr>().unwrap().octets()).unwrap().kind
    else {
        panic!()
    };
    assert_eq!((v6.remote.to_string().as_str(), v6.step), ("[2001:db8::1]:443", Step::State(TcpState::Close)));
    assert_eq!(connection(2, 12, remote), Err(DecodeError::Unknown("TCP state", 12)));
}

#[test]
fn a_unix_socket_has_its_name() {
    let connection = |name: &[u8], length: u32| {
        let mut record = header(abi::AQ_CONNECTION, 0);
        record.extend([0; 32]);
        for word in [3_u32, 2, 5, 77] {
            record.extend(word.to_ne_bytes());
        }
        record.extend([0, 0, 0, 0, 0, 0, 1, 0]);
        record.extend([0; 32]);
        record.extend(length.to_ne_bytes());
        record.extend(name);
        record.resize(256, 0);
        decode(&record).map(|event| event.kind)
    };
    let name = |bytes: &[u8], length: u32| {
        let EventKind::Connection(unix) = connection(bytes, length).unwrap() else { panic!() };
        assert_eq!((unix.transport, unix.remote_pid, unix.error, unix.fd), (Transport::Unix, 77, 2, 5));
        unix.path
    };
    assert_eq!(name(b"/run/a.sock\0rest", 16).as_deref(), Some("/run/a.sock"));
    assert_eq!(name(b"\0abstract", 9).as_deref(), Some("@abstract"));
    assert_eq!(name(&[b'x'; 108], 108), Some("x".repeat(108)));
    assert_eq!(name(b"", 0), None);
    assert!(matches!(connection(b"x", 109), Err(DecodeError::Short(_))));
}

#[test]
fn a_name_has_bytes_or_a_host_with_its_addresses() {
    let name = |what: u32, length: u32, addresses: u32, text: &[u8]| {
        let mut record = header(abi::AQ_NAME, 0);
        record.extend(77_u64.to_ne_bytes());
        for word in [what, 5, 6, 100, length, addresses] {
            record.extend(word.to_ne_bytes());
        }
        decode(&with_text(record, text)).map(|event| match event.kind {
            EventKind::Name(name) => *name,
            other => panic!("{other:?}"),
        })
    };
    let piece = Piece { socket_id: 77, offset: 100, bytes: b"abc".to_vec() };
    let heard = |what, text: &[u8]| name(what, 3, 0, text).unwrap().heard;
    assert_eq!(heard(abi::AQ_HELLO, b"abcd"), Heard::Hello(piece.clone()));
    assert_eq!(heard(abi::AQ_ANSWERS, b"abc"), Heard::Answers(piece));
    assert_eq!(heard(abi::AQ_ANSWER, b"abc"), Heard::Answer(b"abc".to_vec()));
    let mut text = b"a.example".to_vec();
    text.resize(abi::AQ_HOST_MAX as usize, 0);
    for address in ["::ffff:192.0.2.1", "2001:db8::1"] {
        text.extend(address.parse::<Ipv6Addr>().unwrap().octets());
    }
    let lookup = name(abi::AQ_LOOKUP, 9, 2, &text).unwrap();
    let addresses = ["192.0.2.1", "2001:db8::1"].map(|address| address.parse().unwrap()).to_vec();
    assert_eq!(lookup, Name { net_ns: 5, mount_ns: 6, heard: Heard::Lookup { host: "a.example".into(), addresses } });
    assert!(matches!(name(abi::AQ_LOOKUP, 9, 3, &text), Err(DecodeError::Short(_))), "more than there are");
    assert!(matches!(name(abi::AQ_LOOKUP, 257, 2, &text), Err(DecodeError::Short(_))));
    assert_eq!(name(9, 0, 0, b""), Err(DecodeError::Unknown("source of a name", 9)));
}

#[test]
fn a_record_of_another_version_or_kind_is_refused() {
    let mut other = header(abi::AQ_EXIT, 0);
    other[0] = 200;
    assert_eq!(decode(&other), Err(DecodeError::Version(200)));
    assert_eq!(decode(&header(99, 0)), Err(DecodeError::Unknown("kind", 99)));
    assert_eq!(kind_of(&header(99, 0)), None);
}

#[test]
fn a_cut_record_is_refused_at_every_length() {
    let whole = exec_record(b"git\0", 0);
    assert!(decode(&whole).is_ok());
    for length in 0..whole.len() {
        let cut = whole.get(..length).unwrap();
        assert!(matches!(decode(cut), Err(DecodeError::Short(_))), "{length}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// Whatever bytes come: an event or an error, never a panic.
    #[test]
    fn any_bytes_are_an_event_or_an_error(kind in 0..abi::AQ_KINDS + 1, flags in any::<u32>(), rest in prop::collection::vec(any::<u8>(), 0..512)) {
        let record = [header(kind, flags), rest].concat();
        let _ = decode(&record);
    }
}
