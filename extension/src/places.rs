//! Where things are when nothing else is said: by the habits of each system.

use std::path::{Path, PathBuf};

use crate::os;

/// The name of what is ours in the folders of others.
const NAME: &str = "agentquery";

/// The socket's name, as osquery calls its own.
const SOCKET: &str = "agentquery.em";

/// Folders of the machine's recorder.
struct Machine {
    /// The configuration, and signatures.
    settings: PathBuf,
    state: PathBuf,
}

#[cfg(target_os = "linux")]
fn machine() -> Machine {
    Machine { settings: Path::new("/etc").join(NAME), state: Path::new("/var/lib").join(NAME) }
}

/// What is not of the system itself has a folder in the library; nobody but root may write there.
#[cfg(target_os = "macos")]
fn machine() -> Machine {
    let folder = Path::new("/Library/Application Support").join(NAME);
    Machine { state: folder.join("state"), settings: folder }
}

#[cfg(not(any(target_os = "linux", target_os = "macos", windows)))]
fn machine() -> Machine {
    Machine { settings: Path::new("/usr/local/etc").join(NAME), state: Path::new("/var/db").join(NAME) }
}

#[cfg(windows)]
fn machine() -> Machine {
    let folder = os::program_data().unwrap_or_else(|| r"C:\ProgramData".into()).join(NAME);
    Machine { state: folder.clone(), settings: folder }
}

/// The configuration.
#[must_use]
pub fn config() -> PathBuf {
    machine().settings.join("config.yaml")
}

/// Signatures of one's own.
#[must_use]
pub fn signatures() -> PathBuf {
    machine().settings.join("signatures")
}

/// What the machine's recorder keeps.
#[must_use]
pub fn state() -> PathBuf {
    machine().state
}

/// What a user who is no administrator keeps; none for one who is. Without a home it is the machine's, which is refused
/// with a word on `--state-dir`.
#[must_use]
pub fn state_of_user() -> Option<PathBuf> {
    (!os::is_administrator()).then(|| own_folder(|_| true).map_or_else(state, |folder| folder.join(NAME)))
}

#[cfg(unix)]
fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// Where programs keep what is this user's (<https://specifications.freedesktop.org/basedir/latest/>), in a home that is good
/// for it.
#[cfg(unix)]
pub(crate) fn own_folder(good: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    let usual = if cfg!(target_os = "macos") { "Library/Application Support" } else { ".local/state" };
    variable("XDG_STATE_HOME").or_else(|| Some(variable("HOME").filter(|home| good(home))?.join(usual)))
}

/// Where programs keep what is this user's. The system says where that is, so that it is nobody else's.
#[cfg(windows)]
pub(crate) fn own_folder(_good: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    os::local_app_data()
}

/// Where the machine's recorder answers. The directory is everybody's to enter: what each gets to see is decided for each.
#[cfg(target_os = "linux")]
#[must_use]
pub fn socket() -> PathBuf {
    Path::new("/run").join(NAME).join(SOCKET)
}

/// Where the machine's recorder answers.
#[cfg(all(unix, not(target_os = "linux")))]
#[must_use]
pub fn socket() -> PathBuf {
    Path::new("/var/run").join(NAME).join(SOCKET)
}

/// Where the machine's recorder answers.
#[cfg(windows)]
#[must_use]
pub fn socket() -> PathBuf {
    Path::new(r"\\.\pipe").join(SOCKET)
}

/// Where a recorder answers that keeps its state in a folder of its own.
#[cfg(unix)]
#[must_use]
pub fn socket_of(folder: &Path) -> PathBuf {
    folder.join(SOCKET)
}

/// Where a recorder answers that keeps its state in a folder of its own. Names of pipes are the whole machine's.
#[cfg(windows)]
#[must_use]
pub fn socket_of(folder: &Path) -> PathBuf {
    let folder = folder.to_string_lossy().to_lowercase().replace('/', r"\");
    let number = crate::hash::fnv1a(folder.bytes());
    Path::new(r"\\.\pipe").join(format!("{NAME}.{number:016x}.em"))
}

/// The socket of osquery's manager.
#[must_use]
pub fn osquery_socket() -> &'static Path {
    Path::new(if cfg!(windows) { r"\\.\pipe\osquery.em" } else { "/var/osquery/osquery.em" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_named_in_full() {
        for place in [config(), signatures(), state(), socket(), socket_of(&state())] {
            assert!(place.is_absolute(), "{}", place.display());
        }
        assert_ne!(socket(), socket_of(&state()));
        assert_ne!(socket_of(Path::new("/a")), socket_of(Path::new("/b")));
        assert_eq!(state_of_user().is_none(), os::is_administrator());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn places_of_linux() {
        let places = [config(), signatures(), state(), socket()].map(|place| place.display().to_string());
        let expected = [
            "/etc/agentquery/config.yaml",
            "/etc/agentquery/signatures",
            "/var/lib/agentquery",
            "/run/agentquery/agentquery.em",
        ];
        assert_eq!(places, expected);
    }
}
