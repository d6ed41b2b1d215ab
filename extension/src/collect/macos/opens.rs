//! Which close ends which open: Endpoint Security gives opens no number.
//!
//! A close is told for each descriptor that is closed, also by an exec and at the end of a process (`fp_close_and_unlock`,
//! `bsd/kern/kern_descrip.c` of XNU), and names the process and the file. So an open is looked for by both. It has as many
//! descriptors as it was duplicated, and ends with the last. What a child has inherited and closes is no end, and what it
//! has open still when its parent has closed is an end all the same.

use std::collections::HashMap;

use crate::event::ProcessKey;

/// Opens that are held: beyond it they are told, but no end of them.
const MOST: usize = 65_536;

/// Device and inode.
pub type FileId = (u64, u64);

#[derive(Debug)]
struct Opened {
    id: u64,
    file: FileId,
    writes: bool,
    descriptors: u32,
}

/// The opens whose end is awaited.
#[derive(Debug, Default)]
pub struct Opens {
    of: HashMap<ProcessKey, Vec<Opened>>,
    held: usize,
    next: u64,
}

impl Opens {
    /// A process opened a file. The number of the open, and whether its end will be told.
    pub fn open(&mut self, process: ProcessKey, file: FileId, writes: bool) -> (u64, bool) {
        let id = self.next;
        self.next += 1;
        let tracked = self.held < MOST;
        if tracked {
            self.held += 1;
            self.of.entry(process).or_default().push(Opened { id, file, writes, descriptors: 1 });
        }
        (id, tracked)
    }

    /// It duplicated a descriptor of that file: of its last open of it, as a shell does.
    pub fn dup(&mut self, process: ProcessKey, file: FileId) {
        let opened = self.of.get_mut(&process).and_then(|opens| opens.iter_mut().rfind(|opened| opened.file == file));
        if let Some(opened) = opened {
            opened.descriptors = opened.descriptors.saturating_add(1);
        }
    }

    /// It closed a descriptor of that file, through which something was written or not. The open that ended.
    pub fn close(&mut self, process: ProcessKey, file: FileId, modified: bool) -> Option<u64> {
        let opens = self.of.get_mut(&process)?;
        // Several opens of one file: the one that wrote is one for writing, and what is opened last is closed first.
        let fits = |opened: &Opened| opened.file == file && opened.writes == modified;
        let place = opens.iter().rposition(fits).or_else(|| opens.iter().rposition(|opened| opened.file == file))?;
        let opened = opens.get_mut(place)?;
        opened.descriptors -= 1;
        if opened.descriptors > 0 {
            return None;
        }
        let id = opens.remove(place).id;
        self.held -= 1;
        if opens.is_empty() {
            self.of.remove(&process);
        }
        Some(id)
    }

    /// It ended: its opens whose closes were lost.
    pub fn end(&mut self, process: ProcessKey) -> Vec<u64> {
        let left = self.of.remove(&process).unwrap_or_default();
        self.held -= left.len();
        left.into_iter().map(|opened| opened.id).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ONE: ProcessKey = ProcessKey { pid: 7, start_ns: 1 };
    const OTHER: ProcessKey = ProcessKey { pid: 8, start_ns: 2 };

    #[test]
    fn a_close_ends_the_open_of_its_process_and_file() {
        let mut opens = Opens::default();
        let (read, _) = opens.open(ONE, (1, 5), false);
        let (other, _) = opens.open(OTHER, (1, 5), false);
        assert_eq!(opens.close(ONE, (1, 6), false), None, "opened before we looked, or inherited");
        assert_eq!(opens.close(ONE, (1, 5), false), Some(read));
        assert_eq!(opens.close(ONE, (1, 5), false), None);
        assert_eq!(opens.close(OTHER, (1, 5), true), Some(other), "there is no other");
        assert_eq!((opens.held, opens.of.len()), (0, 0));
    }

    #[test]
    fn of_several_opens_the_one_that_wrote_is_known_and_else_the_last() {
        let mut opens = Opens::default();
        let [first, written, last] = [false, true, false].map(|writes| opens.open(ONE, (1, 5), writes).0);
        assert_eq!(opens.close(ONE, (1, 5), true), Some(written));
        assert_eq!(opens.close(ONE, (1, 5), false), Some(last));
        assert_eq!(opens.close(ONE, (1, 5), false), Some(first));
    }

    #[test]
    fn what_a_shell_redirects_ends_with_its_last_descriptor() {
        let mut opens = Opens::default();
        let (id, _) = opens.open(ONE, (1, 5), true);
        opens.dup(ONE, (1, 5));
        opens.dup(ONE, (1, 6));
        opens.dup(OTHER, (1, 5));
        assert_eq!(opens.close(ONE, (1, 5), false), None, "the descriptor that the open gave");
        assert_eq!(opens.close(ONE, (1, 5), true), Some(id), "the one that the program wrote to");
    }

    #[test]
    fn an_end_takes_what_is_left() {
        let mut opens = Opens::default();
        let ids = [opens.open(ONE, (1, 5), false).0, opens.open(ONE, (1, 6), true).0];
        let (other, _) = opens.open(OTHER, (1, 5), false);
        assert_eq!(opens.end(ONE), ids);
        assert!(opens.end(ONE).is_empty());
        assert_eq!(opens.close(OTHER, (1, 5), false), Some(other));
    }

    #[test]
    fn no_more_are_held_than_there_is_room_for() {
        let mut opens = Opens::default();
        for inode in 0..MOST as u64 {
            assert!(opens.open(ONE, (1, inode), false).1);
        }
        assert!(!opens.open(ONE, (2, 1), false).1);
        assert_eq!(opens.close(ONE, (2, 1), false), None);
        assert!(opens.close(ONE, (1, 1), false).is_some());
        assert!(opens.open(ONE, (2, 1), false).1, "there is room again");
    }

    proptest! {
        /// Whatever comes in whatever order: an open ends once at most, and what is held is what has not ended.
        #[test]
        fn an_open_ends_once(steps in proptest::collection::vec((0..5u8, 0..2u32, 0..3u64, any::<bool>()), 0..200)) {
            let mut opens = Opens::default();
            let mut open = std::collections::HashSet::new();
            for (step, pid, inode, flag) in steps {
                let process = ProcessKey { pid, start_ns: 0 };
                match step {
                    0 | 1 => prop_assert!(open.insert(opens.open(process, (0, inode), flag).0)),
                    2 => opens.dup(process, (0, inode)),
                    3 => {
                        if let Some(id) = opens.close(process, (0, inode), flag) {
                            prop_assert!(open.remove(&id));
                        }
                    }
                    _ => {
                        for id in opens.end(process) {
                            prop_assert!(open.remove(&id));
                        }
                    }
                }
                prop_assert_eq!(opens.held, open.len());
                prop_assert_eq!(opens.of.values().map(Vec::len).sum::<usize>(), open.len());
            }
        }
    }
}
