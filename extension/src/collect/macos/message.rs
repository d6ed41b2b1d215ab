//! What is copied out of a message of Endpoint Security, for it is gone when its handler returns.
//!
//! The fields are those of [`es_message_t`](https://developer.apple.com/documentation/endpointsecurity/es_message_t) and of
//! the structure of each event; text is bytes still, for a path may hold anything but a zero.

use std::time::Duration;

/// The kinds of events that are asked for, in the order of [`Kind::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // as Apple calls them: ES_EVENT_TYPE_NOTIFY_EXEC and so on
pub enum Kind {
    Fork,
    Exec,
    Exit,
    Open,
    Close,
    Dup,
    Create,
    Unlink,
    Rename,
    Link,
    Clone,
    SetMode,
    SetOwner,
    Truncate,
    UipcConnect,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Fork,
        Self::Exec,
        Self::Exit,
        Self::Open,
        Self::Close,
        Self::Dup,
        Self::Create,
        Self::Unlink,
        Self::Rename,
        Self::Link,
        Self::Clone,
        Self::SetMode,
        Self::SetOwner,
        Self::Truncate,
        Self::UipcConnect,
    ];

    /// Its name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fork => "fork",
            Self::Exec => "exec",
            Self::Exit => "exit",
            Self::Open => "open",
            Self::Close => "close",
            Self::Dup => "dup",
            Self::Create => "create",
            Self::Unlink => "unlink",
            Self::Rename => "rename",
            Self::Link => "link",
            Self::Clone => "clone",
            Self::SetMode => "setmode",
            Self::SetOwner => "setowner",
            Self::Truncate => "truncate",
            Self::UipcConnect => "uipc_connect",
        }
    }

    /// It begins, changes or ends a process: wanted of every process of the machine.
    #[must_use]
    pub fn is_of_life(self) -> bool {
        matches!(self, Self::Fork | Self::Exec | Self::Exit)
    }
}

/// A message.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Since 1970 (`time`).
    pub time: Duration,
    /// Who did it (`process`).
    pub process: Process,
    /// What was done.
    pub event: Event,
}

/// A process: [`es_process_t`](https://developer.apple.com/documentation/endpointsecurity/es_process_t).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Process {
    /// Of its audit token.
    pub pid: u32,
    /// Parent's pid (`ppid`).
    pub parent: u32,
    /// When it began, since 1970 (`start_time`): of messages of version 3 and later.
    pub start: Option<Duration>,
    /// Real user, of its audit token.
    pub uid: u32,
    /// Real group, of its audit token.
    pub gid: u32,
}

/// A file: [`es_file_t`](https://developer.apple.com/documentation/endpointsecurity/es_file_t).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct File {
    /// Its path.
    pub path: Vec<u8>,
    /// The path was cut off (`path_truncated`).
    pub truncated: bool,
    /// Device (`stat.st_dev`).
    pub device: u64,
    /// Inode (`stat.st_ino`).
    pub inode: u64,
    /// `stat.st_mode`.
    pub mode: u32,
}

/// Where something goes: `es_destination_type_t`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// `ES_DESTINATION_TYPE_EXISTING_FILE`: what is there, or was and is replaced.
    Existing(File),
    /// `ES_DESTINATION_TYPE_NEW_PATH`: a name in a directory.
    New(Name),
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// The directory.
    pub directory: File,
    /// The name in it.
    pub name: Vec<u8>,
}

/// What a process begins to run: [`es_event_exec_t`](https://developer.apple.com/documentation/endpointsecurity/es_event_exec_t).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Exec {
    /// The process as it is afterwards (`target`): pid and start stay, user and group may not.
    pub target: Process,
    /// The program (`target.executable`).
    pub program: File,
    /// Controlling terminal (`target.tty`): of messages of version 2 and later.
    pub tty: Option<Vec<u8>>,
    /// The script, where one was executed and not passed to its interpreter: of messages of version 2 and later.
    pub script: Option<File>,
    /// Working directory: of messages of version 3 and later.
    pub cwd: Option<File>,
    /// The path as passed to `execve` or `posix_spawn`, or the interpreter in a script's first line (`dyld_exec_path`): of
    /// messages of version 7 and later.
    pub passed: Option<Vec<u8>>,
    /// Arguments (`es_exec_arg`), as far as they are kept.
    pub arguments: Vec<Vec<u8>>,
    /// Some were not kept.
    pub truncated: bool,
    /// Variables that agents set for what they start (`es_exec_env`).
    pub markers: Vec<Vec<u8>>,
}

/// What was done.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A process began: [`es_event_fork_t`](https://developer.apple.com/documentation/endpointsecurity/es_event_fork_t).
    Fork(Process),
    /// A process replaced its program.
    Exec(Box<Exec>),
    /// A process ended, with the status of `wait(2)`:
    /// [`es_event_exit_t`](https://developer.apple.com/documentation/endpointsecurity/es_event_exit_t).
    Exit(i32),
    /// A file was opened: [`es_event_open_t`](https://developer.apple.com/documentation/endpointsecurity/es_event_open_t).
    Open {
        /// The kernel's flags (`fflag`), which are not those of `open(2)`.
        flags: i32,
        /// The file.
        file: File,
    },
    /// A descriptor was closed: [`es_event_close_t`](https://developer.apple.com/documentation/endpointsecurity/es_event_close_t).
    Close {
        /// Something was written by this open of it.
        modified: bool,
        /// The file.
        file: File,
    },
    /// A descriptor was duplicated: [`es_event_dup_t`](https://developer.apple.com/documentation/endpointsecurity/es_event_dup_t).
    Dup(File),
    /// Something was made: [`es_event_create_t`](https://developer.apple.com/documentation/endpointsecurity/es_event_create_t).
    Create(Destination),
    /// A name was removed: [`es_event_unlink_t`](https://developer.apple.com/documentation/endpointsecurity/es_event_unlink_t).
    Unlink(File),
    /// A file was renamed: [`es_event_rename_t`](https://developer.apple.com/documentation/endpointsecurity/es_event_rename_t).
    Rename {
        /// What.
        source: File,
        /// To what.
        destination: Destination,
    },
    /// A file got another name: [`es_event_link_t`](https://developer.apple.com/documentation/endpointsecurity/es_event_link_t).
    Link {
        /// Which.
        source: File,
        /// The new name.
        target: Name,
    },
    /// A file was copied without copying its blocks:
    /// [`es_event_clone_t`](https://developer.apple.com/documentation/endpointsecurity/es_event_clone_t).
    Clone {
        /// Which.
        source: File,
        /// The copy.
        target: Name,
    },
    /// Permissions were changed: [`es_event_setmode_t`](https://developer.apple.com/documentation/endpointsecurity/es_event_setmode_t).
    SetMode {
        /// The new ones.
        mode: u32,
        /// Of what.
        target: File,
    },
    /// The owner was changed: [`es_event_setowner_t`](https://developer.apple.com/documentation/endpointsecurity/es_event_setowner_t).
    SetOwner(File),
    /// A file was cut off: [`es_event_truncate_t`](https://developer.apple.com/documentation/endpointsecurity/es_event_truncate_t).
    Truncate(File),
    /// A UNIX socket is being connected:
    /// [`es_event_uipc_connect_t`](https://developer.apple.com/documentation/endpointsecurity/es_event_uipc_connect_t).
    UipcConnect {
        /// The file that the peer is bound to.
        file: File,
        /// `PF_UNIX`.
        domain: i32,
        /// `SOCK_STREAM` or `SOCK_DGRAM`.
        socket_type: i32,
        /// 0.
        protocol: i32,
    },
}

impl Event {
    /// Which kind it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Fork(_) => Kind::Fork,
            Self::Exec(_) => Kind::Exec,
            Self::Exit(_) => Kind::Exit,
            Self::Open { .. } => Kind::Open,
            Self::Close { .. } => Kind::Close,
            Self::Dup(_) => Kind::Dup,
            Self::Create(_) => Kind::Create,
            Self::Unlink(_) => Kind::Unlink,
            Self::Rename { .. } => Kind::Rename,
            Self::Link { .. } => Kind::Link,
            Self::Clone { .. } => Kind::Clone,
            Self::SetMode { .. } => Kind::SetMode,
            Self::SetOwner(_) => Kind::SetOwner,
            Self::Truncate(_) => Kind::Truncate,
            Self::UipcConnect { .. } => Kind::UipcConnect,
        }
    }
}

/// Arguments, of as many bytes as are kept with a zero behind each; true when that is not all.
pub fn bounded<'a>(arguments: impl Iterator<Item = &'a [u8]>, most: usize) -> (Vec<Vec<u8>>, bool) {
    let mut kept = Vec::new();
    let mut left = most;
    for argument in arguments {
        let Some(room) = left.checked_sub(1).filter(|room| *room > 0 || argument.is_empty()) else {
            return (kept, true);
        };
        let part = argument.get(..room).unwrap_or(argument);
        kept.push(part.to_vec());
        if part.len() < argument.len() {
            return (kept, true);
        }
        left = room - part.len();
    }
    (kept, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_kept_up_to_a_size() {
        let of = |arguments: &[&'static str], most| {
            let (kept, truncated) = bounded(arguments.iter().map(|argument| argument.as_bytes()), most);
            let kept: Vec<_> = kept.into_iter().map(|argument| String::from_utf8(argument).unwrap()).collect();
            (kept.join("|"), truncated)
        };
        assert_eq!(of(&["node", "a"], 100), ("node|a".into(), false));
        assert_eq!(of(&["node", "a"], 7), ("node|a".into(), false));
        assert_eq!(of(&["node", "abc"], 8), ("node|ab".into(), true));
        assert_eq!(of(&["node", "", "x"], 6), ("node|".into(), true));
        assert_eq!(of(&["node", "a"], 5), ("node".into(), true));
        assert_eq!(of(&[], 5), (String::new(), false));
    }

    #[test]
    fn each_kind_has_a_place_and_a_name_of_its_own() {
        for (place, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, place);
            assert_eq!(Kind::ALL.iter().filter(|other| other.name() == kind.name()).count(), 1);
        }
    }
}
