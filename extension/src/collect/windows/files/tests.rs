//! Operations on files as the kernel tells them, one after the other.

use proptest::prelude::*;

use super::*;

const SECOND: u64 = 1_000_000_000;
const FILE_OPEN: u32 = 1;
const FILE_OPEN_IF: u32 = 3;

/// Files, and what they told.
#[derive(Default)]
struct Play {
    files: Files,
    now: u64,
    irp: u64,
    told: Vec<Told>,
}

impl Play {
    fn drives() -> Drives {
        Drives::new([("C:".to_owned(), r"\Device\HarddiskVolume1".to_owned())])
    }

    fn event(&mut self, irp: u64, object: u64, act: FileAct) {
        self.now += 1;
        self.files.take(FileRecord { irp, object, act }, 7, self.now, &Self::drives(), &mut self.told);
    }

    /// A request that ends at once.
    fn ask(&mut self, object: u64, act: FileAct, information: u64, status: u32) {
        self.irp += 1;
        self.event(self.irp, object, act);
        self.event(self.irp, 0, FileAct::End { information, status });
    }

    fn create(&mut self, object: u64, asked: u32, options: u32, name: &str, information: u64) {
        let path = format!(r"\Device\HarddiskVolume1\{name}");
        self.ask(object, FileAct::Create { options: asked << 24 | options, path }, information, 0);
    }

    fn read(&mut self, object: u64, bytes: u64) {
        self.ask(object, FileAct::Read { paging: false }, bytes, 0);
    }

    fn write(&mut self, object: u64, bytes: u64) {
        self.ask(object, FileAct::Write { paging: false }, bytes, 0);
    }

    fn change(&mut self, object: u64, act: FileAct) {
        self.ask(object, act, 0, 0);
    }

    fn end(&mut self, object: u64) {
        self.ask(object, FileAct::Cleanup, 0, 0);
        self.ask(object, FileAct::Close, 0, 0);
    }

    fn tick(&mut self, later: u64) {
        self.now += later;
        self.files.tick(self.now, &Self::drives(), &mut self.told);
    }

    /// What was told since the last time.
    fn told(&mut self) -> Vec<String> {
        let show = |told: Told| {
            assert_eq!(told.process, Who::Pid(7));
            match told.what {
                What::Act(EventKind::Open(open)) => {
                    assert!(open.tracked && open.fd == -1);
                    format!("{} {:?} {}", open.open_id, open.how, open.path)
                }
                What::Act(EventKind::Close(close)) => {
                    let unseen = if close.seen { "" } else { " unseen" };
                    let (read, written) = close.bytes.unwrap();
                    format!("{} close {read} {written}{unseen}", close.open_id)
                }
                What::Act(EventKind::Change(change)) => {
                    assert!(change.path.name.is_empty() && change.request_id.is_none());
                    let to = change.dest.map_or_else(String::new, |to| format!(" {}", to.base));
                    format!("{:?} {}{to}", change.kind, change.path.base)
                }
                other => panic!("{other:?}"),
            }
        };
        self.told.drain(..).map(show).collect()
    }
}

#[test]
fn an_open_is_told_as_what_it_did_to_the_file() {
    let mut play = Play::default();
    for (asked, information, how) in [
        (FILE_CREATE, FILE_CREATED, "Create"),
        (FILE_OPEN_IF, FILE_CREATED, "Create"),
        (FILE_OVERWRITE_IF, FILE_CREATED, "Create"),
        (FILE_OVERWRITE_IF, FILE_OVERWRITTEN, "Truncate"),
        (FILE_OVERWRITE, FILE_OVERWRITTEN, "Truncate"),
        (FILE_SUPERSEDE, 0, "Truncate"),
        (FILE_SUPERSEDE, FILE_CREATED, "Create"),
    ] {
        play.create(1, asked, 0x60, "a", information);
        play.write(1, 5);
        play.write(1, 6);
        play.end(1);
        let id = play.files.next_open - 1;
        assert_eq!(play.told(), [format!(r"{id} {how} C:\a"), format!("{id} close 0 11")], "{asked} {information}");
    }
}

#[test]
fn one_that_was_there_is_told_as_it_is_used() {
    let mut play = Play::default();
    play.create(1, FILE_OPEN, 0x60, "attributes", 1);
    play.end(1);
    assert_eq!(play.told(), [""; 0]);
    play.create(1, FILE_OPEN, 0x60, "read", 1);
    play.read(1, 10);
    play.ask(1, FileAct::Read { paging: false }, 0, 0xc000_0011); // its end
    assert_eq!(play.told(), [""; 0], "it may be written yet");
    play.end(1);
    assert_eq!(play.told(), [r"1 Read C:\read", "1 close 10 0"]);
    play.create(1, FILE_OPEN_IF, 0x60, "both", 1);
    play.read(1, 10);
    play.write(1, 20);
    play.end(1);
    assert_eq!(play.told(), [r"2 Write C:\both", "2 close 10 20"]);
    play.create(1, FILE_OPEN, 0x60, "empty", 1);
    play.ask(1, FileAct::Read { paging: false }, 0, 0xc000_0011);
    play.ask(1, FileAct::Write { paging: false }, 9, 0xc000_0022); // denied
    play.end(1);
    assert_eq!(play.told(), [r"3 Read C:\empty", "3 close 0 0"]);
}

#[test]
fn one_that_is_read_for_long_is_told_before_its_end() {
    let mut play = Play::default();
    play.create(1, FILE_OPEN, 0x60, "a", 1);
    play.read(1, 10);
    play.tick(SECOND / 2);
    assert_eq!(play.told(), [""; 0]);
    play.tick(SECOND);
    assert_eq!(play.told(), [r"1 Read C:\a"]);
    play.read(1, 5);
    assert_eq!(play.files.bytes(), HashMap::from([(1, (15, 0))]));
    play.write(1, 3);
    play.read(1, 2);
    assert_eq!(play.files.bytes(), HashMap::from([(2, (2, 3))]));
    play.end(1);
    assert_eq!(play.told(), ["1 close 15 0", r"2 Write C:\a", "2 close 2 3"]);
    assert_eq!(play.files.bytes(), HashMap::new());
}

#[test]
fn what_failed_was_not_done() {
    let mut play = Play::default();
    let path = r"\Device\HarddiskVolume1\a".to_owned();
    play.ask(1, FileAct::Create { options: FILE_CREATE << 24, path: path.clone() }, 0, 0xc000_0034);
    play.ask(1, FileAct::Create { options: FILE_CREATE << 24, path: path.clone() }, 0, STATUS_REPARSE);
    play.read(1, 5);
    for act in [FileAct::Delete(path.clone()), FileAct::Rename(path), FileAct::Set(InfoClass::EndOfFile)] {
        play.ask(1, act, 0, 0xc000_0022);
    }
    play.end(1);
    play.tick(10 * SECOND);
    assert_eq!(play.told(), [""; 0]);
    assert_eq!((play.files.open.len(), play.files.asked.len()), (0, 0));
}

#[test]
fn names_change() {
    let mut play = Play::default();
    let path = |name: &str| format!(r"\Device\HarddiskVolume1\{name}");
    play.create(1, FILE_OPEN, 0x60, "a", 1);
    play.read(1, 1);
    play.change(1, FileAct::Rename(path("b")));
    play.change(1, FileAct::Link(path("c")));
    play.change(1, FileAct::Set(InfoClass::EndOfFile));
    play.change(1, FileAct::Set(InfoClass::Other));
    play.change(1, FileAct::SetSecurity);
    play.change(1, FileAct::Delete(path("b")));
    play.change(1, FileAct::Delete(path("b")));
    play.end(1);
    assert_eq!(
        play.told(),
        [
            r"1 Read C:\a",
            r"Rename C:\a C:\b",
            r"Link C:\b C:\c",
            r"Truncate C:\b",
            r"Chmod C:\b",
            r"Delete C:\b",
            "1 close 1 0",
        ]
    );
    play.change(9, FileAct::Rename(path("d")));
    play.change(9, FileAct::SetSecurity);
    play.change(9, FileAct::Delete(path("e")));
    assert_eq!(play.told(), [r"Delete C:\e"]);
    assert_eq!(play.files.nameless, 1);
}

#[test]
fn directories_are_made_and_go() {
    let mut play = Play::default();
    play.create(1, FILE_CREATE, FILE_DIRECTORY_FILE, "d", FILE_CREATED);
    play.event(99, 1, FileAct::CreateNew);
    play.end(1);
    play.create(1, FILE_OPEN, FILE_DIRECTORY_FILE, "d", 1);
    play.read(1, 1);
    play.change(1, FileAct::Delete(r"\Device\HarddiskVolume1\d".to_owned()));
    play.end(1);
    play.create(1, FILE_OPEN_IF, FILE_DIRECTORY_FILE, "d", 1);
    play.end(1);
    assert_eq!(play.told(), [r"Mkdir C:\d", r"Rmdir C:\d"]);
}

#[test]
fn a_file_that_goes_with_its_last_handle_is_told_once() {
    let mut play = Play::default();
    play.create(1, FILE_CREATE, FILE_DELETE_ON_CLOSE, "t", FILE_CREATED);
    play.ask(1, FileAct::Cleanup, 0, 0);
    play.change(1, FileAct::Delete(r"\Device\HarddiskVolume1\t".to_owned()));
    play.ask(1, FileAct::Close, 0, 0);
    assert_eq!(play.told(), [r"1 Create C:\t", "1 close 0 0", r"Delete C:\t"]);
}

#[test]
fn a_new_file_may_be_said_to_be_new_before_and_after() {
    let mut play = Play::default();
    let create = |options: u32| FileAct::Create { options, path: r"\Device\HarddiskVolume1\a".to_owned() };
    play.event(50, 1, create(FILE_OPEN_IF << 24));
    play.event(50, 1, FileAct::CreateNew);
    play.event(50, 0, FileAct::End { information: 0, status: 0 });
    play.event(51, 2, create(FILE_OPEN_IF << 24));
    play.event(51, 0, FileAct::End { information: 0, status: 0 });
    play.event(51, 2, FileAct::CreateNew);
    play.event(51, 2, FileAct::CreateNew);
    assert_eq!(play.told(), [r"1 Create C:\a", r"2 Create C:\a"]);
}

#[test]
fn what_is_no_file_is_no_row() {
    let mut play = Play::default();
    let options = FILE_CREATE << 24;
    for (options, path) in [
        (options, r"\Device\NamedPipe\x"),
        (options, r"\Device\HarddiskVolume1"),
        (options | FILE_OPEN_BY_FILE_ID, r"\Device\HarddiskVolume1\id"),
    ] {
        play.ask(1, FileAct::Create { options, path: path.to_owned() }, FILE_CREATED, 0);
        play.read(1, 1);
        play.write(1, 1);
        play.ask(1, FileAct::Write { paging: true }, 1, 0);
        play.change(1, FileAct::SetSecurity);
        play.end(1);
    }
    assert_eq!(play.told(), [""; 0]);
}

#[test]
fn an_end_that_was_lost_is_found_when_the_place_is_used_again() {
    let mut play = Play::default();
    play.create(1, FILE_CREATE, 0, "a", FILE_CREATED);
    play.write(1, 4);
    play.create(1, FILE_CREATE, 0, "b", FILE_CREATED);
    assert_eq!(play.told(), [r"1 Create C:\a", "1 close 0 4 unseen", r"2 Create C:\b"]);
    play.event(70, 1, FileAct::Delete(r"\Device\HarddiskVolume1\b".to_owned()));
    assert!(play.files.awaits(70) && !play.files.awaits(71));
    play.tick(SECOND);
    assert_eq!(play.told(), [""; 0]);
    play.tick(2 * SECOND);
    assert_eq!(play.told(), [r"Delete C:\b"], "what it says is done, though its end was lost");
    assert!(!play.files.awaits(70));
}

#[test]
fn what_a_process_leaves_open_ends_with_it() {
    let mut play = Play::default();
    play.create(1, FILE_CREATE, 0, "a", FILE_CREATED);
    play.create(2, FILE_OPEN, 0, "b", 1);
    play.read(2, 3);
    play.told();
    let (mut told, now) = (Vec::new(), play.now);
    play.files.process_ended(8, now, &mut told);
    play.files.process_ended(7, 0, &mut told);
    assert!(told.is_empty(), "of another process, and of one that had the pid before");
    play.files.process_ended(7, now, &mut play.told);
    let mut told = play.told();
    told.sort();
    assert_eq!(told, ["1 close 0 0 unseen", r"2 Read C:\b", "2 close 3 0 unseen"]);
    play.end(1);
    assert_eq!(play.told(), [""; 0]);
}

#[test]
fn what_is_not_wanted_any_more_is_forgotten() {
    let mut play = Play::default();
    play.create(1, FILE_CREATE, 0, "a", FILE_CREATED);
    play.event(70, 1, FileAct::SetSecurity);
    play.told();
    play.files.keep(|pid| pid == 7);
    assert_eq!((play.files.open.len(), play.files.asked.len()), (1, 1));
    play.files.keep(|_| false);
    assert_eq!((play.files.open.len(), play.files.asked.len(), play.files.evicted()), (0, 0, 0));
    assert_eq!(play.told(), [""; 0]);
}

#[test]
fn a_flood_is_bounded_and_counted() {
    let mut play = Play::default();
    for object in 0..OPEN as u64 + 10 {
        play.create(object, FILE_OPEN, 0, "a", 1);
    }
    assert_eq!((play.files.open.len(), play.files.evicted()), (OPEN, 10));
    for irp in 0..ASKED as u64 + 5 {
        play.event(1 << 40 | irp, 20, FileAct::SetSecurity);
    }
    assert_eq!((play.files.asked.len(), play.files.evicted()), (ASKED, 15));
}

proptest! {
    /// Whatever comes in whatever order: each close is of an open that was told and did not end before, and no panic.
    #[test]
    fn opens_and_closes_are_pairs(events in prop::collection::vec((0_u64..4, 0_u64..3, 0_u8..14, 0_u32..8, any::<u16>()), 0..200)) {
        let mut play = Play::default();
        for (irp, object, kind, asked, number) in events {
            let path = format!(r"\Device\HarddiskVolume1\{}", number % 5);
            let act = match kind {
                0 | 1 => FileAct::Create { options: asked << 24 | u32::from(number), path },
                2 => FileAct::CreateNew,
                3 => FileAct::Cleanup,
                4 => FileAct::Close,
                5 => FileAct::Read { paging: false },
                6 => FileAct::Write { paging: number % 7 == 0 },
                7 => FileAct::Set(InfoClass::EndOfFile),
                8 => FileAct::Delete(path),
                9 => FileAct::Rename(path),
                10 => FileAct::SetSecurity,
                11 => { play.tick(u64::from(number) * 100_000); continue }
                _ => FileAct::End { information: u64::from(number % 4), status: if number % 5 == 0 { 0xc000_0001 } else { 0 } },
            };
            play.event(irp, object, act);
        }
        let mut open = std::collections::HashSet::new();
        for told in play.told {
            match told.what {
                What::Act(EventKind::Open(opened)) => prop_assert!(open.insert(opened.open_id)),
                What::Act(EventKind::Close(close)) => prop_assert!(open.remove(&close.open_id)),
                _ => {}
            }
        }
        prop_assert!(play.files.bytes().keys().all(|id| open.contains(id)));
    }
}
