//! The processes of the machine, by whom they were started, and the marks of their trees, where no kernel gives marks.
//!
//! A program that may be an agent's gets a provisional mark, for what it does until the engine has decided about it. One
//! that is confirmed goes on to all that descends from it; the others are forgotten.

use std::collections::{HashMap, HashSet};

use super::boot_ns;
use super::polling::system::{Program, System};
use crate::event::{Event, EventKind, Exit, Mark, ProcessKey};

/// Of a process in no tree.
pub const NO_MARK: Mark = Mark { slot: u32::MAX, generation: 0 };

/// A process, and what its collector knows of it besides.
#[derive(Debug, Clone, Copy)]
pub struct Node<T> {
    /// Which it is.
    pub key: ProcessKey,
    /// Parent's pid.
    pub parent: u32,
    /// Of its tree; one that is neither confirmed nor provisional says nothing.
    pub mark: Mark,
    /// Real user id, or its parent's where it is not known yet.
    pub uid: u32,
    /// It has ended.
    pub ended: bool,
    /// Ours, or started by us.
    pub muted: bool,
    /// What else is known.
    pub more: T,
}

/// A process of a tree.
#[derive(Debug, Clone, Copy)]
pub struct Member {
    /// Which it is.
    pub key: ProcessKey,
    /// Parent's pid.
    pub parent: u32,
    /// Of its tree.
    pub mark: Mark,
    /// Real user id.
    pub uid: u32,
    /// Its parent is one of a tree too.
    pub below: bool,
}

/// All processes that are known.
#[derive(Debug)]
pub struct Descent<T> {
    nodes: HashMap<u32, Node<T>>,
    confirmed: HashSet<Mark>,
    provisional: HashSet<Mark>,
    next_slot: u32,
}

impl<T> Default for Descent<T> {
    fn default() -> Self {
        Self { nodes: HashMap::new(), confirmed: HashSet::new(), provisional: HashSet::new(), next_slot: 0 }
    }
}

impl<T: Copy> Descent<T> {
    /// Whether nothing is known yet.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Their pids.
    pub fn pids(&self) -> impl Iterator<Item = u32> {
        self.nodes.keys().copied()
    }

    /// The process of that pid.
    pub fn get(&self, pid: u32) -> Option<&Node<T>> {
        self.nodes.get(&pid)
    }

    /// And to change it.
    pub fn get_mut(&mut self, pid: u32) -> Option<&mut Node<T>> {
        self.nodes.get_mut(&pid)
    }

    /// Knows it from now on, in the place of another one of its pid.
    pub fn insert(&mut self, node: Node<T>) {
        self.nodes.insert(node.key.pid, node);
    }

    /// Knows it no more.
    pub fn remove(&mut self, pid: u32) -> Option<Node<T>> {
        self.nodes.remove(&pid)
    }

    /// A process that began, of which its parent tells what is not known otherwise, in no tree yet; and its parent.
    pub fn child(&self, key: ProcessKey, parent: u32, more: T) -> (Node<T>, Option<Node<T>>) {
        // A pid that was used anew meanwhile is nobody's parent.
        let above = self.get(parent).filter(|above| above.key.start_ns <= key.start_ns).copied();
        let muted = key.pid == std::process::id() || above.is_some_and(|above| above.muted);
        let uid = above.map_or(0, |above| above.uid);
        (Node { key, parent, mark: NO_MARK, uid, ended: false, muted, more }, above)
    }

    /// Whether what is of this mark is to be told.
    pub fn is_marked(&self, mark: Mark) -> bool {
        self.is_confirmed(mark) || self.provisional.contains(&mark)
    }

    /// Whether it is an agent's.
    pub fn is_confirmed(&self, mark: Mark) -> bool {
        self.confirmed.contains(&mark)
    }

    /// The mark that another program in this process gets: that of its tree, or one until it is known what it is.
    pub fn mark_of_program(&mut self, node: &Node<T>) -> Mark {
        if self.is_marked(node.mark) { node.mark } else { self.provisional_mark() }
    }

    /// A mark until it is known what a program is.
    pub fn provisional_mark(&mut self) -> Mark {
        let mark = self.fresh_mark();
        self.provisional.insert(mark);
        mark
    }

    fn fresh_mark(&mut self) -> Mark {
        let mark = Mark { slot: self.next_slot, generation: 0 };
        // After four thousand million programs they are used anew.
        self.next_slot = self.next_slot.checked_add(1).filter(|slot| *slot != NO_MARK.slot).unwrap_or(0);
        mark
    }

    /// All that was told is decided: what is provisional still is nobody's.
    pub fn decided(&mut self) {
        self.provisional.clear();
    }

    /// See [`super::Collector::confirm`].
    pub fn confirm(&mut self, mark: Mark) -> bool {
        if self.provisional.remove(&mark) {
            self.confirmed.insert(mark);
        }
        self.is_confirmed(mark)
    }

    /// See [`super::Collector::release`].
    pub fn release(&mut self, mark: Mark) {
        self.provisional.remove(&mark);
        self.confirmed.remove(&mark);
    }

    /// Puts a process and all that descends from it under a new mark.
    pub fn mark_below(&mut self, root: u32) -> Option<Mark> {
        self.get(root).filter(|node| !node.muted && !node.ended)?;
        let mark = self.fresh_mark();
        let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
        for node in self.nodes.values() {
            children.entry(node.parent).or_default().push(node.key.pid);
        }
        let mut waiting = vec![root];
        let mut seen = HashSet::new();
        while let Some(pid) = waiting.pop() {
            if !seen.insert(pid) {
                continue; // what is known was not of one moment: a loop in it must not hold us
            }
            if let Some(node) = self.nodes.get_mut(&pid).filter(|node| !node.muted) {
                node.mark = mark;
                waiting.extend(children.remove(&pid).unwrap_or_default());
            }
        }
        self.confirmed.insert(mark);
        Some(mark)
    }

    /// The processes of the trees, the eldest first.
    pub fn members(&self) -> Vec<Member> {
        let is_member = |node: &&Node<T>| !node.ended && self.is_confirmed(node.mark);
        let mut members: Vec<_> = self.nodes.values().filter(is_member).copied().collect();
        members.sort_unstable_by_key(|node| (node.key.start_ns, node.key.pid));
        let below = |parent: u32| self.get(parent).is_some_and(|parent| self.is_confirmed(parent.mark));
        let member = |Node { key, parent, mark, uid, .. }| Member { key, parent, mark, uid, below: below(parent) };
        members.into_iter().map(member).collect()
    }

    /// The programs that run, of those processes that are wanted, as if each had begun when it was looked at.
    pub fn programs(&mut self, system: &mut impl System, wanted: impl Fn(&Self, &Node<T>) -> bool) -> Vec<Event> {
        let is_wanted = |node: &&Node<T>| !node.muted && !node.ended && wanted(self, node);
        let wanted: Vec<Node<T>> = self.nodes.values().filter(is_wanted).copied().collect();
        let mut events = Vec::new();
        for node in wanted {
            // Their environment is asked for where that is needed.
            let Program::Is(exec) = system.program(node.key, &[]) else { continue };
            if let Some(node) = self.get_mut(node.key.pid) {
                node.uid = exec.uid;
            }
            events.push(Event { boot_ns: boot_ns(), process: node.key, mark: node.mark, kind: EventKind::Exec(exec) });
        }
        events
    }

    /// The end of a process, if it is one that is told of.
    pub fn exit_of(&self, node: &Node<T>, exit: Option<Exit>, now_ns: u64) -> Option<Event> {
        let told = !node.ended && self.is_marked(node.mark);
        told.then_some(Event { boot_ns: now_ns, process: node.key, mark: node.mark, kind: EventKind::Exit(exit) })
    }
}
