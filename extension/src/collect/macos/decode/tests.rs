//! Messages of the documented structures, one for each kind of event and for sequences of them.

use proptest::prelude::*;

use super::*;
use crate::collect::macos::message::Kind;

const PID: u32 = 70;
/// When the process of [`actor`] began, and when all messages are of.
const START: Duration = Duration::from_micros(1_700_000_000_123_456);
const NOW: Duration = Duration::from_nanos(1_700_000_009_000_000_123);

fn at(unix: Duration) -> u64 {
    u64::try_from(unix.as_nanos()).unwrap() - 1_600_000_000_000_000_000
}

fn decoder() -> Decoder {
    Decoder::new(at, |path| path.ends_with("link").then(|| "to/this".to_owned()))
}

fn actor() -> Process {
    Process { pid: PID, parent: 1, start: Some(START), uid: 501, gid: 20 }
}

fn key() -> ProcessKey {
    ProcessKey { pid: PID, start_ns: at(START) }
}

fn file(path: &str, inode: u64) -> File {
    File { path: path.into(), truncated: false, device: 1, inode, mode: S_IFREG | 0o644 }
}

fn of_type(path: &str, file_type: u32) -> File {
    File { mode: file_type | 0o755, ..file(path, 9) }
}

fn name(directory: &str, name: &str) -> Name {
    Name { directory: of_type(directory, S_IFDIR), name: name.into() }
}

fn feed(decoder: &mut Decoder, event: Event) -> Vec<Told> {
    let mut told = Vec::new();
    assert!(decoder.decode(&Message { time: NOW, process: actor(), event }, &mut told));
    for one in &told {
        assert_eq!((one.boot_ns, one.process), (at(NOW), Who::Key(key())), "{one:?}");
    }
    told
}

fn one(event: Event) -> What {
    only(feed(&mut decoder(), event))
}

fn only(told: Vec<Told>) -> What {
    let [told] = <[Told; 1]>::try_from(told).expect("one thing is told");
    told.what
}

fn changes(told: Vec<Told>) -> Vec<Change> {
    let change = |told: Told| match told.what {
        What::Act(EventKind::Change(change)) => change,
        other => panic!("no change: {other:?}"),
    };
    told.into_iter().map(change).collect()
}

fn one_change(event: Event) -> Change {
    let [change] = <[Change; 1]>::try_from(changes(feed(&mut decoder(), event))).unwrap();
    assert_eq!((change.uid, change.mount_ns, change.followed), (501, 0, false));
    change
}

fn opened(what: What) -> Open {
    match what {
        What::Act(EventKind::Open(open)) => open,
        other => panic!("no open: {other:?}"),
    }
}

fn closed(what: &What) -> Close {
    match what {
        What::Act(EventKind::Close(close)) => *close,
        other => panic!("no close: {other:?}"),
    }
}

fn connected(what: What) -> Connection {
    match what {
        What::Act(EventKind::Connection(connection)) => connection,
        other => panic!("no connection: {other:?}"),
    }
}

fn program() -> Exec {
    Exec {
        target: Process { parent: 33, uid: 0, gid: 0, ..actor() },
        program: file("/opt/homebrew/Cellar/node/22.1.0/bin/node", 4),
        tty: Some(b"/dev/ttys003".to_vec()),
        script: None,
        cwd: Some(of_type("/Users/ann/p", S_IFDIR)),
        passed: Some(b"/opt/homebrew/bin/node".to_vec()),
        arguments: vec![b"node".to_vec(), b"/opt/homebrew/bin/claude".to_vec(), b"-p".to_vec(), b"\xff".to_vec()],
        truncated: false,
        markers: vec![b"CLAUDECODE=1".to_vec()],
    }
}

fn run(exec: Exec) -> event::Exec {
    match one(Event::Exec(Box::new(exec))) {
        What::Program(exec) => *exec,
        other => panic!("no program: {other:?}"),
    }
}

#[test]
fn exec_tells_the_program_that_runs_from_then_on() {
    let told = run(program());
    let expected = event::Exec {
        parent: 33,
        ns_pid: PID,
        uid: 0,
        gid: 0,
        tty: "ttys003".into(),
        path: "/opt/homebrew/Cellar/node/22.1.0/bin/node".into(),
        exec_path: "/opt/homebrew/bin/node".into(),
        cwd: "/Users/ann/p".into(),
        argv: ["node", "/opt/homebrew/bin/claude", "-p", "\\xff"].map(str::to_owned).into(),
        markers: vec!["CLAUDECODE=1".into()],
        candidate: true,
        truncated: false,
        ..event::Exec::default()
    };
    assert_eq!(told, expected);
}

#[test]
fn exec_of_a_script_is_by_the_path_that_was_passed() {
    let passed = |script: &str, arguments: &[&str]| {
        let arguments = arguments.iter().map(|argument| argument.as_bytes().to_vec()).collect();
        run(Exec { script: Some(file(script, 5)), passed: Some(b"/bin/sh".to_vec()), arguments, ..program() }).exec_path
    };
    let cli = "/opt/homebrew/lib/node_modules/@anthropic-ai/claude-code/cli.js";
    // A link, as npm makes them; the file itself; by a relative path; with options of the interpreter; not to be found.
    assert_eq!(passed(cli, &["env", "node", "/opt/homebrew/bin/claude", "x"]), "/opt/homebrew/bin/claude");
    assert_eq!(passed("/a/b.sh", &["/bin/sh", "/a/b.sh", "/c/b.sh"]), "/a/b.sh");
    assert_eq!(passed("/a/b.sh", &["/bin/sh", "-e", "b.sh"]), "b.sh");
    assert_eq!(passed("/a/b.sh", &["/bin/sh", "-/x", "./link"]), "./link");
    assert_eq!(passed("/a/b.sh", &["/bin/sh"]), "/a/b.sh");
}

#[test]
fn exec_of_old_messages_has_less() {
    let old = Exec { tty: None, cwd: None, passed: None, script: None, ..program() };
    let told = run(old);
    assert_eq!((told.tty.as_str(), told.cwd.as_str(), told.exec_path.as_str()), ("", "", ""));
    let cut = |exec: Exec| run(exec).truncated;
    assert!(cut(Exec { truncated: true, ..program() }));
    assert!(cut(Exec { program: File { truncated: true, ..file("/x", 1) }, ..program() }));
    assert!(cut(Exec { cwd: Some(File { truncated: true, ..file("/x", 1) }), ..program() }));
}

#[test]
fn fork_begins_the_child() {
    let start = START + Duration::from_micros(7);
    let child = Process { pid: 71, parent: PID, start: Some(start), uid: 501, gid: 20 };
    let mut told = Vec::new();
    let message = Message { time: NOW, process: actor(), event: Event::Fork(child) };
    assert!(decoder().decode(&message, &mut told));
    let process = Who::Key(ProcessKey { pid: 71, start_ns: at(start) });
    assert_eq!(told, [Told { boot_ns: at(NOW), process, what: What::Begin { parent: PID, program: None } }]);
}

#[test]
fn exit_tells_code_or_signal() {
    for (status, code, signal) in [(0, 0, 0), (0x0100, 1, 0), (0xff00, 255, 0), (9, 0, 9), (0x8b, 0, 11)] {
        assert_eq!(one(Event::Exit(status)), What::End(Some(Exit { code, signal })), "{status:#x}");
    }
}

#[test]
fn open_says_how_by_the_flags_of_the_kernel() {
    let how = |flags| opened(one(Event::Open { flags, file: file("/f", 3) })).how;
    assert_eq!(how(FREAD), OpenMode::Read);
    assert_eq!(how(FREAD | FWRITE), OpenMode::Write);
    assert_eq!(how(FWRITE | 0x8), OpenMode::Write, "O_APPEND");
    assert_eq!(how(FWRITE | O_TRUNC), OpenMode::Truncate);
    assert_eq!(how(FWRITE | O_CREAT | O_TRUNC), OpenMode::Create);
    assert_eq!(how(FREAD | 0x0100_0000), OpenMode::Read, "O_CLOEXEC");
    let open =
        opened(one(Event::Open { flags: FREAD, file: File { truncated: true, ..file("/Users/ann/\u{e9}", 3) } }));
    assert_eq!((open.path.as_str(), open.mode, open.uid), ("/Users/ann/\u{e9}", 0o10_0644, 501));
    assert!(open.truncated && open.tracked);
}

#[test]
fn what_is_neither_read_nor_written_is_no_open() {
    let nothing = |flags, file| feed(&mut decoder(), Event::Open { flags, file }).is_empty();
    assert!(nothing(FREAD, of_type("/Users", S_IFDIR)));
    assert!(nothing(FREAD | O_EVTONLY, file("/f", 3)));
    assert!(nothing(0, file("/f", 3)));
}

#[test]
fn close_ends_the_open_of_its_file() {
    let mut decoder = decoder();
    let open = opened(only(feed(&mut decoder, Event::Open { flags: FWRITE, file: file("/f", 3) })));
    let close = |decoder: &mut Decoder, inode| feed(decoder, Event::Close { modified: true, file: file("/f", inode) });
    assert_eq!(close(&mut decoder, 4), []);
    let end = closed(&only(close(&mut decoder, 3)));
    assert_eq!(end, Close { open_id: open.open_id, bytes: None, seen: true, mapped: None });
    assert_eq!(close(&mut decoder, 3), []);
}

#[test]
fn dup_keeps_an_open_open() {
    let mut decoder = decoder();
    feed(&mut decoder, Event::Open { flags: FWRITE, file: file("/f", 3) });
    assert_eq!(feed(&mut decoder, Event::Dup(file("/f", 3))), []);
    assert_eq!(feed(&mut decoder, Event::Close { modified: false, file: file("/f", 3) }), []);
    assert_eq!(feed(&mut decoder, Event::Close { modified: true, file: file("/f", 3) }).len(), 1);
}

#[test]
fn create_and_the_open_that_did_it_are_one() {
    let mut decoder = decoder();
    let made = Event::Create(Destination::Existing(file("/f", 3)));
    assert_eq!(feed(&mut decoder, made), []);
    // As it is where the flag is not left in.
    let open = opened(only(feed(&mut decoder, Event::Open { flags: FWRITE, file: file("/f", 3) })));
    assert_eq!(open.how, OpenMode::Create);
    let again = opened(only(feed(&mut decoder, Event::Open { flags: FWRITE, file: file("/f", 3) })));
    assert_eq!(again.how, OpenMode::Write);
    let mut told = Vec::new();
    decoder.settle(u64::MAX, &mut told);
    assert_eq!(told, []);
}

#[test]
fn create_without_an_open_is_told_later() {
    let mut decoder = decoder();
    feed(&mut decoder, Event::Create(Destination::Existing(file("/f", 3))));
    let mut told = Vec::new();
    decoder.settle(at(NOW) + OPENED_AFTER_NS - 1, &mut told);
    assert_eq!(told, []);
    decoder.settle(at(NOW) + OPENED_AFTER_NS, &mut told);
    assert_eq!(told[0].boot_ns, at(NOW), "when it was made");
    let [change] = <[Change; 1]>::try_from(changes(told)).unwrap();
    assert_eq!((change.kind, change.path.base.as_str()), (ChangeKind::Mknod, "/f"));
    // Made anew, or at its maker's end: at once.
    feed(&mut decoder, Event::Create(Destination::Existing(file("/f", 3))));
    assert_eq!(changes(feed(&mut decoder, Event::Create(Destination::Existing(file("/g", 3)))))[0].path.base, "/f");
    let told = feed(&mut decoder, Event::Exit(0));
    assert!(matches!(&told[..], [Told { what: What::Act(_), .. }, Told { what: What::End(_), .. }]), "{told:?}");
}

#[test]
fn create_of_what_is_no_file_is_told_at_once() {
    let made = |file| one_change(Event::Create(Destination::Existing(file)));
    let directory = made(of_type("/d", S_IFDIR));
    assert_eq!((directory.kind, directory.path.base.as_str()), (ChangeKind::Mkdir, "/d"));
    assert_eq!(directory.mode, Some(0o755));
    let pipe = made(of_type("/pipe", 0o01_0000));
    assert_eq!((pipe.kind, pipe.mode), (ChangeKind::Mknod, None));
    let link = made(of_type("/d/link", S_IFLNK));
    assert_eq!((link.kind, link.path.name.as_str()), (ChangeKind::Symlink, "to/this"));
    assert_eq!(link.dest.unwrap().base, "/d/link");
    assert_eq!(made(of_type("/d/gone", S_IFLNK)).path.name, "", "it is not known what it held");
}

#[test]
fn create_that_was_refused_is_nothing() {
    assert_eq!(feed(&mut decoder(), Event::Create(Destination::New(name("/d", "f")))), []);
}

#[test]
fn unlink_removes_a_file_or_a_directory() {
    let gone = one_change(Event::Unlink(file("/private/tmp/f", 3)));
    assert_eq!((gone.kind, gone.path), (ChangeKind::Delete, whole("/private/tmp/f".into())));
    assert_eq!(one_change(Event::Unlink(of_type("/d", S_IFDIR))).kind, ChangeKind::Rmdir);
}

#[test]
fn rename_goes_to_a_file_or_to_a_name() {
    let renamed = |destination| one_change(Event::Rename { source: file("/a", 3), destination });
    let over = renamed(Destination::Existing(file("/b", 4)));
    assert_eq!((over.kind, over.path, over.dest), (ChangeKind::Rename, whole("/a".into()), Some(whole("/b".into()))));
    assert_eq!(renamed(Destination::New(name("/d", "c"))).dest, Some(whole("/d/c".into())));
    assert_eq!(renamed(Destination::New(name("/", "c"))).dest, Some(whole("/c".into())));
    let cut = Name { directory: File { truncated: true, ..of_type("/d", S_IFDIR) }, name: b"\xffx".to_vec() };
    let hostile = renamed(Destination::New(cut));
    assert_eq!((hostile.dest.unwrap().base.as_str(), hostile.truncated), ("/d/\\xffx", true));
}

#[test]
fn link_gives_another_name() {
    let link = one_change(Event::Link { source: file("/a", 3), target: name("/d", "b") });
    assert_eq!((link.kind, link.path, link.dest), (ChangeKind::Link, whole("/a".into()), Some(whole("/d/b".into()))));
}

#[test]
fn clone_reads_one_file_and_makes_another() {
    let mut decoder = decoder();
    // Should the system tell of the new file as well, it is not told twice.
    feed(&mut decoder, Event::Create(Destination::Existing(file("/d/b", 6))));
    let told = changes(feed(&mut decoder, Event::Clone { source: file("/a", 3), target: name("/d", "b") }));
    let told: Vec<_> = told.iter().map(|change| (change.kind, change.path.base.as_str())).collect();
    assert_eq!(told, [(ChangeKind::Open(OpenMode::Read), "/a"), (ChangeKind::Mknod, "/d/b")]);
    assert!(decoder.made.is_empty());
}

#[test]
fn permissions_owner_and_length() {
    let mode = one_change(Event::SetMode { mode: 0o10_4755, target: file("/a", 3) });
    assert_eq!((mode.kind, mode.mode), (ChangeKind::Chmod, Some(0o4755)));
    assert_eq!(one_change(Event::SetOwner(file("/a", 3))).kind, ChangeKind::Chown);
    assert_eq!(one_change(Event::Truncate(file("/a", 3))).kind, ChangeKind::Truncate);
}

fn connect(path: &str, domain: i32) -> Event {
    Event::UipcConnect { file: file(path, 3), domain, socket_type: 1, protocol: 0 }
}

#[test]
fn uipc_connect_begins_a_connection_that_is_looked_for() {
    let mut decoder = decoder();
    let began = connected(only(feed(&mut decoder, connect("/private/var/run/docker.sock", PF_LOCAL))));
    assert_eq!((began.transport, began.step, began.connected), (Transport::Unix, Step::Connect, true));
    assert_eq!((began.path.as_deref(), began.error), (Some("/private/var/run/docker.sock"), 0));
    assert_eq!(decoder.connected(), [key()]);
    let look = |decoder: &mut Decoder, paths: &[String]| {
        let mut told = Vec::new();
        decoder.looked(key(), paths, at(NOW) + 1, &mut told);
        told
    };
    assert_eq!(look(&mut decoder, &["/var/run/docker.sock".to_owned()]), []);
    let ended = connected(only(look(&mut decoder, &[])));
    assert_eq!((ended.socket_id, ended.step), (began.socket_id, Step::End));
    assert_eq!(decoder.connected(), []);
    assert_eq!(feed(&mut decoder, connect("/x", 2)), [], "not of this family");
}

#[test]
fn all_that_is_open_ends_with_its_process() {
    let mut decoder = decoder();
    feed(&mut decoder, Event::Open { flags: FREAD, file: file("/f", 3) });
    feed(&mut decoder, connect("/s", PF_LOCAL));
    let told = feed(&mut decoder, Event::Exit(0x0200));
    let [close, end, exit] = <[Told; 3]>::try_from(told).unwrap();
    assert!(!closed(&close.what).seen);
    assert_eq!(connected(end.what).step, Step::End);
    assert_eq!(exit.what, What::End(Some(Exit { code: 2, signal: 0 })));
    assert_eq!(feed(&mut decoder, Event::Exit(0)).len(), 1);
}

#[test]
fn a_message_without_the_start_of_its_process_is_of_no_use() {
    let unused = |process: Process, event| {
        let mut told = Vec::new();
        let used = decoder().decode(&Message { time: NOW, process, event }, &mut told);
        assert!(used || told.is_empty());
        !used
    };
    let old = Process { start: None, ..actor() };
    assert!(unused(old, Event::Exit(0)));
    assert!(unused(actor(), Event::Fork(old)));
    assert!(unused(actor(), Event::Exec(Box::new(Exec { target: old, ..program() }))));
}

fn any_file() -> impl Strategy<Value = File> {
    let bytes = proptest::collection::vec(1..=255u8, 0..8);
    (bytes, any::<bool>(), 0..4u64, any::<u16>()).prop_map(|(path, truncated, inode, mode)| File {
        path,
        truncated,
        device: 1,
        inode,
        mode: mode.into(),
    })
}

fn any_name() -> impl Strategy<Value = Name> {
    (any_file(), proptest::collection::vec(1..=255u8, 0..8)).prop_map(|(directory, name)| Name { directory, name })
}

fn any_destination() -> impl Strategy<Value = Destination> {
    prop_oneof![any_file().prop_map(Destination::Existing), any_name().prop_map(Destination::New)]
}

fn any_event() -> impl Strategy<Value = Event> {
    let process = (0..4u32, proptest::option::of(0..3u64)).prop_map(|(pid, start)| Process {
        pid,
        start: start.map(|start| START + Duration::from_secs(start)),
        ..actor()
    });
    let arguments = proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..6), 0..6);
    let exec = (process.clone(), any_file(), proptest::option::of(any_file()), arguments).prop_map(
        |(target, program, script, arguments)| Exec { target, program, script, arguments, ..Exec::default() },
    );
    prop_oneof![
        process.prop_map(Event::Fork),
        exec.prop_map(|exec| Event::Exec(Box::new(exec))),
        any::<i32>().prop_map(Event::Exit),
        (any::<i32>(), any_file()).prop_map(|(flags, file)| Event::Open { flags, file }),
        (any::<bool>(), any_file()).prop_map(|(modified, file)| Event::Close { modified, file }),
        any_file().prop_map(Event::Dup),
        any_destination().prop_map(Event::Create),
        any_file().prop_map(Event::Unlink),
        (any_file(), any_destination()).prop_map(|(source, destination)| Event::Rename { source, destination }),
        (any_file(), any_name()).prop_map(|(source, target)| Event::Link { source, target }),
        (any_file(), any_name()).prop_map(|(source, target)| Event::Clone { source, target }),
        (any::<u32>(), any_file()).prop_map(|(mode, target)| Event::SetMode { mode, target }),
        any_file().prop_map(Event::SetOwner),
        any_file().prop_map(Event::Truncate),
        (0..3i32, any_file()).prop_map(|(domain, file)| Event::UipcConnect {
            file,
            domain,
            socket_type: 1,
            protocol: 0
        }),
    ]
}

proptest! {
    /// Whatever comes: nothing panics, each open that is tracked ends once, and the end of a process is the last of it.
    #[test]
    fn any_messages_decode(events in proptest::collection::vec(any_event(), 0..60)) {
        let mut decoder = decoder();
        let mut open = std::collections::HashSet::new();
        for event in events {
            let kind = event.kind();
            let mut told = Vec::new();
            decoder.decode(&Message { time: NOW, process: actor(), event }, &mut told);
            for (place, one) in told.iter().enumerate() {
                match &one.what {
                    What::Act(EventKind::Open(opened)) => prop_assert!(open.insert(opened.open_id)),
                    What::Act(EventKind::Close(close)) => prop_assert!(open.remove(&close.open_id)),
                    What::End(_) => prop_assert!(kind == Kind::Exit && place + 1 == told.len()),
                    _ => {}
                }
            }
            if kind == Kind::Exit {
                prop_assert!(open.is_empty() && decoder.connected().is_empty() && decoder.made.is_empty());
            }
        }
    }
}
