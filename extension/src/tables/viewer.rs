//! Who asks, and whose a row is.
//!
//! A recorder sees every user's agents and answers everybody on the machine, so each scan is made in somebody's name.

/// In whose name rows are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Viewer {
    /// Root, a member of the group `agentquery`, or whoever runs the recorder.
    All,
    /// A user, by uid: only what belongs to that uid.
    User(u32),
}

/// Whose a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Nobody's in particular: it tells of the recorder, not of a process.
    Anyone,
    /// A user's, by uid.
    User(i64),
    /// Not known whose.
    Unknown,
}

impl Viewer {
    /// Whether a row of that owner may be shown.
    #[must_use]
    pub fn sees(self, owner: Owner) -> bool {
        match (self, owner) {
            (Self::All, _) | (_, Owner::Anyone) => true,
            (Self::User(own), Owner::User(uid)) => i64::from(own) == uid,
            (Self::User(_), Owner::Unknown) => false,
        }
    }
}

impl From<Option<i64>> for Owner {
    fn from(uid: Option<i64>) -> Self {
        uid.map_or(Self::Unknown, Self::User)
    }
}
