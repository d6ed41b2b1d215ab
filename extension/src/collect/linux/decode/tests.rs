//! Records as the kernel writes them, made by hand; and bytes as nobody writes them.

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
    assert_eq!(exit(3 << 8), EventKind::Exit(Exit { code: 3, signal: 0 }));
    assert_eq!(exit(9), EventKind::Exit(Exit { code: 0, signal: 9 }));
    assert_eq!(exit(0x0b | 0x80), EventKind::Exit(Exit { code: 0, signal: 11 }), "core dumped");
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
    let wanted = Close { open_id: 1, bytes_read: 2, bytes_written: 3, seen: true, mapped: false };
    assert_eq!(close(abi::AQ_SEEN), wanted);
    assert_eq!(close(abi::AQ_MAPPED), Close { seen: false, mapped: true, ..wanted });
}

#[test]
fn a_connection_has_the_addresses_of_its_family() {
    let connection = |family: u8, state: u8, remote: [u8; 16]| {
        let mut record = header(abi::AQ_CONNECTION, 0);
        record.extend(1_u64.to_ne_bytes());
        record.extend(2_u64.to_ne_bytes());
        for word in [3_u32, 111, u32::MAX] {
            record.extend(word.to_ne_bytes());
        }
        record.extend(4000_u16.to_ne_bytes());
        record.extend(443_u16.to_ne_bytes());
        record.extend([state, family, 0, 0, 0, 0, 0, 0]);
        record.extend([0; 16]);
        record.extend(remote);
        decode(&record)
    };
    let remote = std::array::from_fn(|index| if index < 4 { [192, 0, 2, 1][index] } else { 0 });
    let EventKind::Connection(v4) = connection(2, 0, remote).unwrap().kind else { panic!() };
    assert_eq!((v4.remote.to_string().as_str(), v4.state, v4.error, v4.fd), ("192.0.2.1:443", None, 111, -1));
    let EventKind::Connection(v6) =
        connection(10, 7, "2001:db8::1".parse::<Ipv6Addr>().unwrap().octets()).unwrap().kind
    else {
        panic!()
    };
    assert_eq!((v6.remote.to_string().as_str(), v6.state), ("[2001:db8::1]:443", Some(TcpState::Close)));
    assert_eq!(connection(2, 12, remote), Err(DecodeError::Unknown("TCP state", 12)));
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
