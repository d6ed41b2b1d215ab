//! Connections over UNIX sockets: their beginning is an event, their end is looked for.
//!
//! Endpoint Security tells of a connect to a UNIX socket, and of nothing that follows. libproc lists which sockets a process
//! has connected. What it lists no more has ended; the path may be written in another way there, so that the name of the
//! socket decides, and of several connections to one name the first ends first.

use std::collections::HashMap;

use crate::event::ProcessKey;

/// Connections that are held: beyond it their ends are not told, but with their process'.
const MOST: usize = 4_096;

#[derive(Debug)]
struct Connected {
    id: u64,
    name: String,
    since_ns: u64,
}

/// The connections whose end is awaited.
#[derive(Debug, Default)]
pub struct Peers {
    of: HashMap<ProcessKey, Vec<Connected>>,
    held: usize,
    next: u64,
}

/// Behind the last slash: `/var/run` is written `/private/var/run` by some.
fn name_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

impl Peers {
    /// A process connects to a socket; the number of the connection, `None` when there are too many to follow.
    pub fn connect(&mut self, process: ProcessKey, path: &str, now_ns: u64) -> Option<u64> {
        if self.held >= MOST {
            return None;
        }
        self.held += 1;
        let id = self.next;
        self.next += 1;
        let connected = Connected { id, name: name_of(path).to_owned(), since_ns: now_ns };
        self.of.entry(process).or_default().push(connected);
        Some(id)
    }

    /// Who has connections.
    pub fn processes(&self) -> impl Iterator<Item = ProcessKey> {
        self.of.keys().copied()
    }

    /// It was looked at (nanoseconds since boot) and had connections to these paths: those that have ended.
    pub fn look(&mut self, process: ProcessKey, paths: &[String], looked_ns: u64) -> Vec<u64> {
        let Some(connected) = self.of.get_mut(&process) else { return Vec::new() };
        let mut there: HashMap<&str, usize> = HashMap::new();
        for path in paths {
            *there.entry(name_of(path)).or_default() += 1;
        }
        // The last ones are there.
        let mut ended = Vec::new();
        for place in (0..connected.len()).rev() {
            let Some(one) = connected.get(place) else { continue };
            match there.get_mut(one.name.as_str()).filter(|count| **count > 0) {
                Some(count) => *count -= 1,
                // It may have been on its way: it is told before it is done.
                None if one.since_ns >= looked_ns => {}
                None => ended.push(connected.remove(place).id),
            }
        }
        self.held -= ended.len();
        if connected.is_empty() {
            self.of.remove(&process);
        }
        ended.reverse();
        ended
    }

    /// A process ended, and with it all of its connections.
    pub fn end(&mut self, process: ProcessKey) -> Vec<u64> {
        let ended = self.of.remove(&process).unwrap_or_default();
        self.held -= ended.len();
        ended.into_iter().map(|connected| connected.id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: ProcessKey = ProcessKey { pid: 7, start_ns: 1 };

    fn paths(paths: &[&str]) -> Vec<String> {
        paths.iter().map(|path| (*path).to_owned()).collect()
    }

    #[test]
    fn what_is_not_listed_any_more_has_ended() {
        let mut peers = Peers::default();
        let first = peers.connect(ONE, "/private/var/run/docker.sock", 10).unwrap();
        let second = peers.connect(ONE, "/private/var/run/docker.sock", 20).unwrap();
        let agent = peers.connect(ONE, "/private/tmp/agent", 30).unwrap();
        assert_eq!(peers.processes().collect::<Vec<_>>(), [ONE]);
        let all = ["/var/run/docker.sock", "/tmp/agent", "docker.sock"];
        assert!(peers.look(ONE, &paths(&all), 40).is_empty());
        assert_eq!(peers.look(ONE, &paths(&["/var/run/docker.sock", "/tmp/agent"]), 50), [first]);
        assert_eq!(peers.look(ONE, &paths(&["/elsewhere"]), 60), [second, agent]);
        assert_eq!((peers.held, peers.of.len()), (0, 0));
    }

    #[test]
    fn what_was_just_told_may_not_be_listed_yet() {
        let mut peers = Peers::default();
        let id = peers.connect(ONE, "/s", 10).unwrap();
        assert!(peers.look(ONE, &[], 10).is_empty());
        assert_eq!(peers.look(ONE, &[], 11), [id]);
    }

    #[test]
    fn an_end_ends_all_and_there_is_a_limit() {
        let mut peers = Peers::default();
        let ids: Vec<_> = (0..MOST).map_while(|_| peers.connect(ONE, "/s", 10)).collect();
        assert_eq!((ids.len(), peers.connect(ONE, "/s", 10)), (MOST, None));
        assert_eq!(peers.end(ONE), ids);
        assert!(peers.end(ONE).is_empty() && peers.connect(ONE, "/s", 10).is_some());
    }
}
