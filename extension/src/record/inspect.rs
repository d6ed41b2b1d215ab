//! What has to be read from the machine about a process that may be an agent, at the moment when it starts.

use std::cell::OnceCell;
use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

pub(super) use crate::collect::linux::procfs::TICK_NS;
#[cfg(any(all(test, unix), target_os = "linux"))]
use crate::collect::linux::procfs::{Proc, Stat};
#[cfg(any(all(test, unix), target_os = "linux"))]
use crate::event::escape;
use crate::event::{Exec, ProcessKey};
use crate::identify::{Ask, VersionSource, file_name, script_candidates, windows};
use crate::inside::{Mounts, mount_ns_of, seen_from_here};
#[cfg(target_os = "linux")]
use crate::inside::{open_in, open_root_of, real_below, root_of};
use crate::value::Text;

/// A `package.json` is small.
const PACKAGE_BYTES: u64 = 1 << 20;

/// Programs of editors, which run scripts as node does for whoever sets [`AS_NODE`], as their extensions do.
pub const EDITORS: &[&str] = &[
    "antigravity",
    "code",
    "code-insiders",
    "code-oss",
    "codium",
    "codium-insiders",
    "cursor",
    "electron",
    "kiro",
    "positron",
    "trae",
    "void",
    "vscodium",
    "windsurf",
    "windsurf-next",
];

/// A variable of Electron's.
pub(super) const AS_NODE: &str = "ELECTRON_RUN_AS_NODE";

/// What the program that runs extensions is called on macOS, behind the editor's name: `Code Helper (Plugin)`.
const HELPER: &str = " Helper (Plugin)";

/// Whether a program is one of [`EDITORS`].
pub(super) fn is_editor(path: &str) -> bool {
    let path = windows::plain(path);
    let name = file_name(&path);
    EDITORS.contains(&name) || path.contains(".app/Contents/") && (name == "Electron" || name.ends_with(HELPER))
}

/// The real path of the script that an interpreter runs.
pub(super) fn script(pid: u32, exec: &Exec, mounts: Mounts) -> Option<String> {
    let way = mounts.way(exec.mount_ns, pid);
    let real = |argument: &str| {
        let path = Path::new(&exec.cwd).join(argument);
        // In another mount namespace symlinks are left as they are.
        let path = if mounts.has(exec.mount_ns) { real_path(&path, way)? } else { path };
        seen_from_here(&path, way).is_file().then(|| path.to_string_lossy().into_owned())
    };
    // After `#!` the kernel has put the script, as it was passed to exec, behind the interpreter and its option.
    let after_shebang = exec.argv.iter().take(4).skip(1).any(|argument| *argument == exec.exec_path);
    let passed = after_shebang.then_some(exec.exec_path.as_str());
    passed.into_iter().chain(script_candidates(&exec.argv)).find_map(real)
}

/// Names of a directory that are looked at.
const NAMES_MOST: usize = 10_000;

/// What signatures ask for of a process that has started a program, read when it is asked for; files with its user's
/// rights.
pub(super) struct Asked<'a> {
    pid: u32,
    exec: &'a Exec,
    /// See [`Mounts::way`].
    inside: Option<u32>,
    /// Names alone: values are never kept.
    variables: OnceCell<Vec<String>>,
}

impl<'a> Asked<'a> {
    pub(super) fn of(pid: u32, exec: &'a Exec, mounts: Mounts) -> Self {
        Self { pid, exec, inside: mounts.way(exec.mount_ns, pid), variables: OnceCell::new() }
    }
}

impl Ask for Asked<'_> {
    fn has_variable(&self, name: &str) -> bool {
        self.variables.get_or_init(|| names_of_variables(self.pid)).iter().any(|variable| variable == name)
    }

    fn names_in(&self, directory: &Path) -> Vec<String> {
        names_as(directory, self.inside, self.exec.uid, self.exec.gid).unwrap_or_default()
    }

    fn text(&self, file: &Path) -> Option<String> {
        read_as(file, self.inside, self.exec.uid, self.exec.gid)
    }
}

/// The names in a process' environment.
#[cfg(not(target_os = "linux"))]
fn names_of_variables(pid: u32) -> Vec<String> {
    crate::collect::sysinfo::names_of_variables(pid)
}

/// The names in a process' environment.
#[cfg(target_os = "linux")]
fn names_of_variables(pid: u32) -> Vec<String> {
    let name = |variable: &[u8]| {
        let end = variable.iter().position(|byte| *byte == b'=')?;
        String::from_utf8(variable.get(..end)?.to_vec()).ok()
    };
    Proc::default().environment(pid).split(|byte| *byte == 0).filter_map(name).collect()
}

/// The version of an agent.
pub(super) fn version(source: &VersionSource, pid: u32, exec: &Exec, mounts: Mounts) -> Option<Text> {
    source.read(&Asked::of(pid, exec, mounts)).map(Text::from)
}

/// Whoever has the right to read what all may read.
const NOBODY: u32 = 65534;

/// How many processes are asked for what one of them sees.
const ASKED_MOST: usize = 16;

/// The file of names of hosts in a mount namespace, as the first of these processes, with their users, that lives there
/// sees it.
pub(super) fn hosts(
    mut processes: impl Iterator<Item = (u32, Option<u32>)>,
    mount_ns: u32,
    mounts: Mounts,
) -> Option<String> {
    let read = |inside, uid: Option<u32>| read_as(Path::new("/etc/hosts"), inside, uid.unwrap_or(NOBODY), NOBODY);
    if mounts.has(mount_ns) {
        let (pid, uid) = processes.next()?;
        return read(mounts.way(mount_ns, pid), uid);
    }
    processes.take(ASKED_MOST).find_map(|(pid, uid)| {
        let file = read(Some(pid), uid);
        // After it was read: it was of this namespace, whoever has the pid now.
        file.filter(|_| mount_ns_of(pid) == Some(mount_ns))
    })
}

/// What can be asked of the machine about any process, also when it is too late for what the collector tells.
pub(super) trait Machine {
    /// `None` when there is no such process.
    fn standing(&self, pid: u32) -> Option<Standing>;
    /// What it runs, as far as that can be read.
    fn program(&self, pid: u32) -> Program;
    /// Those of these variables that its program began with, as `NAME=VALUE`.
    fn variables(&self, process: ProcessKey, names: &[String]) -> Vec<String>;
    /// The inodes of all sockets that some process has; `None` where that is not known.
    fn sockets(&self) -> Option<HashSet<u64>>;
}

/// Where a process stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    pub parent: u32,
    /// In ticks of ten milliseconds since boot.
    pub start_ticks: u64,
    /// It has ended and only waits for its parent to ask.
    pub ended: bool,
}

impl Standing {
    /// Whether it is this process and not another one of its pid.
    pub(super) fn is(&self, process: ProcessKey) -> bool {
        (process.start_ns / TICK_NS).abs_diff(self.start_ticks) <= 1
    }
}

/// What a process runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Program {
    pub path: Option<String>,
    pub argv: Vec<String>,
    pub cwd: Option<String>,
}

/// This machine.
pub(super) fn machine() -> Box<dyn Machine> {
    #[cfg(target_os = "linux")]
    return Box::new(Procfs);
    #[cfg(not(target_os = "linux"))]
    Box::new(Sysinfo)
}

/// A system of which sysinfo tells.
#[cfg(not(target_os = "linux"))]
struct Sysinfo;

#[cfg(not(target_os = "linux"))]
impl Machine for Sysinfo {
    fn standing(&self, pid: u32) -> Option<Standing> {
        let glance = crate::collect::sysinfo::glance(pid)?;
        let start_ticks = glance.process.start_ns / TICK_NS;
        Some(Standing { parent: glance.parent, start_ticks, ended: glance.ended })
    }

    fn program(&self, pid: u32) -> Program {
        crate::collect::sysinfo::program(pid).map_or_else(Program::default, |exec| Program {
            path: (!exec.path.is_empty()).then_some(exec.path),
            argv: exec.argv,
            cwd: (!exec.cwd.is_empty()).then_some(exec.cwd),
        })
    }

    fn variables(&self, process: ProcessKey, names: &[String]) -> Vec<String> {
        crate::collect::sysinfo::variables(process, names)
    }

    fn sockets(&self) -> Option<HashSet<u64>> {
        None
    }
}

/// /proc of Linux.
#[cfg(any(all(test, unix), target_os = "linux"))]
pub(super) struct Procfs;

#[cfg(any(all(test, unix), target_os = "linux"))]
impl Machine for Procfs {
    fn standing(&self, pid: u32) -> Option<Standing> {
        let Stat { parent, start_ticks, ended, .. } = Proc::default().stat(pid)?;
        Some(Standing { parent, start_ticks, ended })
    }

    fn program(&self, pid: u32) -> Program {
        let link = |name: &str| {
            let path = std::fs::read_link(format!("/proc/{pid}/{name}")).ok()?;
            Some(escape(path.as_os_str().as_encoded_bytes()))
        };
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let arguments = arguments.strip_suffix(&[0]).unwrap_or(&arguments);
        let argv =
            if arguments.is_empty() { Vec::new() } else { arguments.split(|byte| *byte == 0).map(escape).collect() };
        Program { path: link("exe"), argv, cwd: link("cwd") }
    }

    fn sockets(&self) -> Option<HashSet<u64>> {
        let proc = Proc::default();
        let pids = proc.pids().ok()?.into_iter();
        // Who has ended meanwhile has none.
        Some(pids.flat_map(|pid| proc.sockets(pid).unwrap_or_default()).map(|(_, inode)| inode).collect())
    }

    fn variables(&self, process: ProcessKey, names: &[String]) -> Vec<String> {
        let variables = Proc::default().variables(process.pid, names);
        // After it was read: it was this process and no other one of its pid.
        if !self.standing(process.pid).is_some_and(|standing| standing.is(process)) {
            return Vec::new();
        }
        variables
    }
}

/// The program of a process, such as the shell or editor that an agent was started from.
pub(super) fn program_of(pid: u32) -> Option<Text> {
    #[cfg(target_os = "linux")]
    let path = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    #[cfg(not(target_os = "linux"))]
    let path = PathBuf::from(crate::collect::sysinfo::program(pid)?.path);
    Some(path.file_name()?.to_string_lossy().as_ref().into())
}

/// Reads a user's file with that user's rights, so that the recorder's own reach no further: a link in a home must not
/// make it read what the user cannot. `inside`: the path is as this process sees it, and no link leads out of there.
fn read_as(path: &Path, inside: Option<u32>, uid: u32, gid: u32) -> Option<String> {
    text_of(open_as(path, inside, uid, gid)?)
}

#[cfg(target_os = "linux")]
fn open_as(path: &Path, inside: Option<u32>, uid: u32, gid: u32) -> Option<File> {
    use std::os::unix::fs::OpenOptionsExt;

    const FLAGS: i32 = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    if let Some(pid) = inside {
        let root = open_root_of(pid)?;
        let _rights = FileSystemUser::become_user(uid, gid);
        open_in(&root, path, FLAGS).ok()
    } else {
        let _rights = FileSystemUser::become_user(uid, gid);
        File::options().read(true).custom_flags(FLAGS).open(path).ok()
    }
}

#[cfg(target_os = "macos")]
fn open_as(path: &Path, inside: Option<u32>, uid: u32, gid: u32) -> Option<File> {
    use std::os::unix::fs::OpenOptionsExt;

    let _rights = FileSystemUser::become_user(uid, gid).filter(|_| inside.is_none())?;
    File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path).ok()
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
fn open_as(path: &Path, inside: Option<u32>, _uid: u32, _gid: u32) -> Option<File> {
    if inside.is_some() { None } else { File::open(path).ok() }
}

/// The names in a directory, as [`read_as`] reads a file.
fn names_as(path: &Path, inside: Option<u32>, uid: u32, gid: u32) -> Option<Vec<String>> {
    #[cfg(target_os = "linux")]
    let entries = {
        use std::os::fd::AsRawFd;

        // Opened with the user's rights; listed with ours, for /proc/self is ours.
        let directory = open_as(path, inside, uid, gid)?;
        std::fs::read_dir(format!("/proc/self/fd/{}", directory.as_raw_fd())).ok()?
    };
    #[cfg(target_os = "macos")]
    let (entries, _rights) = {
        let rights = FileSystemUser::become_user(uid, gid).filter(|_| inside.is_none())?;
        (std::fs::read_dir(path).ok()?, rights)
    };
    #[cfg(not(any(target_os = "linux", target_os = "macos")))]
    let entries = {
        let _ = (inside, uid, gid);
        std::fs::read_dir(path).ok()?
    };
    Some(entries.take(NAMES_MOST).filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
}

/// The real path of a file of our own mount namespace or the machine's.
pub(super) fn real_path(path: &Path, way: Option<u32>) -> Option<PathBuf> {
    match way {
        #[cfg(target_os = "linux")]
        Some(pid) => real_below(&open_root_of(pid)?, path),
        _ => std::fs::canonicalize(path).ok(),
    }
}

/// The real path of what a process calls so, who has a mount namespace or a root directory of its own; as all paths are,
/// from the root of that namespace. `None` when the process has ended.
#[cfg(target_os = "linux")]
pub(super) fn real_inside(process: ProcessKey, mount_ns: u32, path: &str) -> Option<PathBuf> {
    let root = open_root_of(process.pid)?;
    // What links hold begins at its root, which the kernel's path of it is beyond.
    let path = Path::new(path).strip_prefix(std::fs::read_link(root_of(process.pid)).ok()?).ok()?;
    let namespace = mount_ns_of(process.pid)?;
    // After all of it was asked for: it was this process and no other one of its pid.
    if namespace != mount_ns || !Procfs.standing(process.pid)?.is(process) {
        return None;
    }
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    real_below(&root, path)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn real_inside(_process: ProcessKey, _mount_ns: u32, _path: &str) -> Option<PathBuf> {
    None
}

fn text_of(file: File) -> Option<String> {
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    file.take(PACKAGE_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}

/// This thread's file-system identity is another user's until drop (`setfsuid(2)`, which is per thread).
#[cfg(target_os = "linux")]
struct FileSystemUser {
    uid: u32,
    gid: u32,
}

#[cfg(target_os = "linux")]
impl FileSystemUser {
    fn become_user(uid: u32, gid: u32) -> Self {
        // SAFETY: changes this thread's credentials for file access only; the group goes first, while it still may.
        let group = unsafe { libc::setfsgid(gid) };
        // SAFETY: as above.
        let user = unsafe { libc::setfsuid(uid) };
        Self { uid: user.cast_unsigned(), gid: group.cast_unsigned() }
    }
}

#[cfg(target_os = "linux")]
impl Drop for FileSystemUser {
    fn drop(&mut self) {
        // SAFETY: gives this thread back what it had; the user first, who may then change the group.
        unsafe { libc::setfsuid(self.uid) };
        // SAFETY: as above.
        unsafe { libc::setfsgid(self.gid) };
    }
}

#[cfg(target_os = "macos")]
unsafe extern "C" {
    /// The whole identity of this thread, which is what macOS has in place of `setfsuid` (`pthread.h` of Libc; `settid` in
    /// `bsd/kern/kern_prot.c` of XNU).
    fn pthread_setugid_np(uid: libc::uid_t, gid: libc::gid_t) -> libc::c_int;
}

/// This thread is another user's until drop. Who is not root has no rights to give up.
#[cfg(target_os = "macos")]
struct FileSystemUser {
    changed: bool,
}

#[cfg(target_os = "macos")]
impl FileSystemUser {
    /// `None` when root's rights cannot be given up: then nothing is to be read.
    fn become_user(uid: u32, gid: u32) -> Option<Self> {
        // SAFETY: geteuid has no preconditions.
        if unsafe { libc::geteuid() } != 0 || uid == 0 {
            return Some(Self { changed: false });
        }
        // SAFETY: changes this thread's identity only.
        let changed = unsafe { pthread_setugid_np(uid, gid) } == 0;
        changed.then_some(Self { changed })
    }
}

#[cfg(target_os = "macos")]
impl Drop for FileSystemUser {
    fn drop(&mut self) {
        /// `KAUTH_UID_NONE` and `KAUTH_GID_NONE` (`sys/kauth.h`): that of the process again.
        const NONE: u32 = u32::MAX - 100;
        if self.changed {
            // SAFETY: gives this thread back what its process has.
            unsafe { pthread_setugid_np(NONE, NONE) };
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    /// The files of mount namespace 1: by our own paths, as the machine's, and as another one's.
    const WAYS: [fn() -> Mounts; 3] = [|| Mounts::new(1, 1), || Mounts::new(2, 1), || Mounts::new(2, 2)];

    #[test]
    fn editors_by_the_names_of_their_programs() {
        let frameworks = "/Applications/Cursor.app/Contents/Frameworks";
        let helper =
            |kind: &str| format!("{frameworks}/Cursor Helper ({kind}).app/Contents/MacOS/Cursor Helper ({kind})");
        assert!(is_editor("/usr/share/code/code") && is_editor(&helper("Plugin")));
        assert!(is_editor("/Applications/Visual Studio Code.app/Contents/MacOS/Electron"));
        assert!(!is_editor(&helper("Renderer")) && !is_editor("/home/u/Electron") && !is_editor("/x/Helper (Plugin)"));
    }

    #[test]
    fn a_process_is_told_from_another_of_its_pid() {
        let alive = Standing { parent: 5, start_ticks: 12345, ended: false };
        assert!(alive.is(ProcessKey { pid: 7, start_ns: 123_456_789_012 }));
        assert!(!alive.is(ProcessKey { pid: 7, start_ns: 123_480_000_000 }));
        let own = Procfs.standing(std::process::id()).unwrap();
        assert!(!own.ended);
        assert_eq!(Procfs.program(std::process::id()).argv, std::env::args().collect::<Vec<_>>());
    }

    #[test]
    fn what_is_asked_is_read_with_the_users_rights() {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};

        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), "text").unwrap();
        let metadata = std::fs::metadata(folder.path()).unwrap();
        let exec = Exec { uid: metadata.uid(), gid: metadata.gid(), mount_ns: 1, ..Exec::default() };
        for mounts in WAYS {
            let asked = Asked::of(std::process::id(), &exec, mounts());
            assert_eq!(asked.names_in(folder.path()), ["file"]);
            assert_eq!(asked.text(&folder.path().join("file")).as_deref(), Some("text"));
            assert!(asked.has_variable("PATH"));
            assert!(!asked.has_variable("PAT"));
        }
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        if metadata.uid() == 0 {
            let other = Exec { uid: NOBODY, gid: NOBODY, ..exec };
            let asked = Asked::of(std::process::id(), &other, Mounts::new(1, 1));
            assert_eq!(asked.names_in(folder.path()), [""; 0]);
            assert_eq!(asked.text(&folder.path().join("file")), None);
        }
        assert_eq!(names_of_variables(u32::MAX), [""; 0]);
    }

    #[test]
    fn a_version_is_not_read_through_a_link_or_from_what_is_no_file() {
        use std::os::unix::fs::MetadataExt;

        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("package.json"), folder.path().join("link.json"));
        std::fs::write(&file, r#"{"version": "1.2.3"}"#).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let version_at = |path: &Path, mounts: Mounts| {
            let metadata = std::fs::metadata(folder.path()).unwrap();
            let exec = Exec { uid: metadata.uid(), gid: metadata.gid(), mount_ns: 1, ..Exec::default() };
            version(&VersionSource::PackageJson(path.into()), std::process::id(), &exec, mounts)
        };
        for mounts in WAYS {
            assert_eq!(version_at(&file, mounts()).as_deref(), Some("1.2.3"));
            assert_eq!(version_at(&link, mounts()), None);
            assert_eq!(version_at(folder.path(), mounts()), None);
        }
    }

    #[test]
    fn a_name_leads_to_the_same_file_by_each_way() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        std::fs::write(folder.join("file"), "").unwrap();
        std::os::unix::fs::symlink(folder.join("file"), folder.join("link")).unwrap();
        for way in [None, Some(std::process::id())] {
            assert_eq!(real_path(&folder.join("link"), way), Some(folder.join("file")), "{way:?}");
            assert_eq!(real_path(&folder.join("nothing"), way), None);
            assert!(seen_from_here(&folder.join("file"), way).is_file());
        }
        let exec = Exec {
            mount_ns: 1,
            cwd: folder.to_string_lossy().into(),
            argv: ["node", "link"].map(str::to_owned).into(),
            ..Exec::default()
        };
        let script = |mounts| script(std::process::id(), &exec, mounts);
        let (real, link) = (folder.join("file"), folder.join("link"));
        assert_eq!(script(Mounts::new(1, 1)).as_deref(), real.to_str());
        assert_eq!(script(Mounts::new(2, 2)).as_deref(), link.to_str());
        assert_eq!(script(Mounts::new(2, 1)).as_deref(), real.to_str());
    }
}
