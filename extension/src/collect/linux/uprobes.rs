//! Look-ups of names by the C library: each of its files that agents run with has its `getaddrinfo` watched.
//!
//! A library is found beside the dynamic loader, which the kernel maps before a program's first instruction; so this
//! holds for programs with a library of their own too. It is opened as the program sees it, and known by its inode:
//! a mount namespace that shares the file needs nothing more. The attachments end with the recorder, also where others
//! outlive it.
//!
//! What is watched keeps its mount busy. So in the machine's mount namespace only the file systems of the system itself
//! are looked at, for an agent may unmount any other; and in another namespace a library is let go of when no
//! process is there any more.

use std::collections::{HashMap, HashSet};
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use libbpf_rs::{Link, Object, UprobeOpts};

use crate::event::Exec;
use crate::inside::{Mounts, mount_ns_of, open_in, root_of, seen_from_here};

const FUNCTION: &str = "getaddrinfo";
const LIBRARY: &str = "libc.so.6";
/// The programs, and whether they run at the return.
const PROGRAMS: [(&str, bool); 2] = [("on_lookup", false), ("on_lookup_done", true)];
/// Files that are remembered, be they libraries or loaders without one: a process can make many.
const FILES: usize = 1024;
/// Programs that are remembered.
const PROGRAMS_MAX: usize = 4096;
/// Processes of a mount namespace that are remembered, to know whether one is there.
const THERE: usize = 64;

/// How often it is looked.
const RELEASE: Duration = Duration::from_secs(1);

/// Device and inode.
type FileId = (u64, u64);

/// A look-up that is not seen.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The library cannot be watched.
    #[error("{} of {}: {source}", FUNCTION, path.display())]
    Attach { path: PathBuf, source: libbpf_rs::Error },
    /// The kernel would harm those that are.
    #[error(
        "{FUNCTION} is not watched: on Linux {0} the return of a watched function is a system call that filters (seccomp) \
         of services and containers end their programs for; it is from Linux 6.14 on"
    )]
    Kernel(String),
}

/// What is attached.
pub(super) struct Lookups {
    mounts: Mounts,
    libraries: Vec<Library>,
    /// Loaders and libraries that were looked at.
    known: HashSet<FileId>,
    /// Programs that were looked at, by mount namespace and path: most are run again and again.
    programs: HashSet<(u32, String)>,
    /// Processes of the other mount namespaces that libraries were found in.
    there: HashMap<u32, Vec<u32>>,
    released: Option<Instant>,
}

/// A library that is watched.
struct Library {
    /// The mount namespace, when it is not the machine's.
    namespace: Option<u32>,
    /// The loader's file and its own.
    files: [FileId; 2],
    _links: Vec<Link>, // held: they detach on drop
}

impl Lookups {
    pub(super) fn new() -> Self {
        let (known, programs) = (HashSet::new(), HashSet::new());
        Self { mounts: Mounts::find(), libraries: Vec::new(), known, programs, there: HashMap::new(), released: None }
    }

    /// A program begins.
    pub(super) fn program(&mut self, object: &Object, pid: u32, exec: &Exec) -> Result<(), Error> {
        if let Some(there) = self.there.get_mut(&exec.mount_ns).filter(|there| there.len() < THERE) {
            there.push(pid);
        }
        let program = (exec.mount_ns, exec.path.clone());
        if self.programs.contains(&program) {
            return Ok(());
        }
        if self.programs.len() >= PROGRAMS_MAX {
            self.programs.clear();
        }
        if std::fs::exists(format!("/proc/{pid}/maps")).unwrap_or(false) {
            self.programs.insert(program);
        }
        self.follow(object, pid)
    }

    /// Attaches to the library of this process, unless that is done. A process without one, or that is gone, is none.
    pub(super) fn follow(&mut self, object: &Object, pid: u32) -> Result<(), Error> {
        if let Some(release) = harmful_release() {
            return Err(Error::Kernel(release));
        }
        let Some((loader, loader_id)) = self.loader_of(pid) else { return Ok(()) };
        let Some(path) = loader.parent().map(|folder| folder.join(LIBRARY)) else { return Ok(()) };
        self.remember(loader_id);
        let Ok(library) = open_below(pid, &path) else { return Ok(()) };
        let (Some(id), Some(namespace)) = (file_id(&library), mount_ns_of(pid)) else { return Ok(()) };
        let namespace = (namespace != self.mounts.machine()).then_some(namespace);
        if (namespace.is_none() && !is_systems(id, self.mounts)) || !self.remember(id) {
            return Ok(());
        }
        // By the descriptor: the name may be another file's by now.
        let opened = format!("/proc/self/fd/{}", library.as_raw_fd());
        let attach = |(name, retprobe)| {
            let program = object.progs_mut().find(|program| program.name() == name)?;
            let options = UprobeOpts { retprobe, func_name: Some(FUNCTION.to_owned()), ..UprobeOpts::default() };
            Some(program.attach_uprobe_with_opts(-1, &opened, 0, options))
        };
        match PROGRAMS.into_iter().filter_map(attach).collect() {
            Ok(links) => {
                self.libraries.push(Library { namespace, files: [loader_id, id], _links: links });
                if let Some(namespace) = namespace {
                    self.there.entry(namespace).or_default().push(pid);
                }
                Ok(())
            }
            Err(source) => Err(Error::Attach { path, source }),
        }
    }

    /// Lets go of what was found where no process is any more. To be called often: it looks once in a while.
    pub(super) fn release(&mut self) {
        if self.there.is_empty() || self.released.is_some_and(|then| then.elapsed() < RELEASE) {
            return;
        }
        self.released = Some(Instant::now());
        let Self { libraries, known, programs, there, .. } = self;
        there.retain(|namespace, pids| {
            pids.retain(|pid| mount_ns_of(*pid) == Some(*namespace));
            !pids.is_empty()
        });
        libraries.retain(|library| {
            let stays = library.namespace.is_none_or(|namespace| there.contains_key(&namespace));
            if !stays {
                known.retain(|file| !library.files.contains(file));
                programs.clear();
            }
            stays
        });
    }

    /// The dynamic loader of a process, unless it was looked at.
    fn loader_of(&self, pid: u32) -> Option<(PathBuf, FileId)> {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
        let path = maps.lines().find_map(loader_in)?;
        let id = file_id(&open_below(pid, path).ok()?)?;
        (!self.known.contains(&id)).then(|| (path.to_owned(), id))
    }

    fn remember(&mut self, file: FileId) -> bool {
        if self.known.len() >= FILES {
            return false;
        }
        self.known.insert(file)
    }
}

/// The kernel's release, when watching a library would harm whoever uses it. On `x86_64` the return is the system call
/// `uretprobe` since Linux 6.11; filters of before it do not know it, and until 6.14 they were asked.
fn harmful_release() -> Option<String> {
    if cfg!(not(target_arch = "x86_64")) {
        return None;
    }
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    is_harmful(&release).then(|| release.trim().to_owned())
}

fn is_harmful(release: &str) -> bool {
    let mut numbers = release.trim().split(['.', '-']).map(str::parse::<u32>);
    matches!((numbers.next(), numbers.next()), (Some(Ok(6)), Some(Ok(11..=13))))
}

fn file_id(file: &File) -> Option<FileId> {
    file.metadata().ok().filter(Metadata::is_file).map(|of| (of.dev(), of.ino()))
}

/// Whether the file is on a file system that nobody unmounts while the system runs.
fn is_systems((device, _): FileId, mounts: Mounts) -> bool {
    let way = mounts.way(mounts.machine(), 0);
    let at = |path: &str| std::fs::metadata(seen_from_here(Path::new(path), way));
    ["/", "/usr"].iter().any(|path| at(path).is_ok_and(|of| of.dev() == device))
}

/// The path of a dynamic loader in a line of `/proc/PID/maps`, such as `/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2`,
/// or, of older C libraries, `ld-2.31.so`.
fn loader_in(line: &str) -> Option<&Path> {
    let path = Path::new(line.get(line.find('/')?..)?);
    let name = path.file_name()?.to_str()?;
    (name.starts_with("ld-") && name.contains(".so")).then_some(path)
}

fn open_below(pid: u32, path: &Path) -> io::Result<File> {
    let root = File::open(root_of(pid))?;
    open_in(&root, path, libc::O_RDONLY | libc::O_NONBLOCK | libc::O_CLOEXEC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_kernel_is_used_that_harms_the_watched() {
        for release in ["6.11.0-9-generic", "6.12.5", "6.13-rc1", "6.11\n"] {
            assert!(is_harmful(release), "{release}");
        }
        for release in ["5.14.0-427.el9.x86_64", "6.1.0-18-amd64", "6.10.11", "6.14.0", "6.18.44-fc", "7.12", ""] {
            assert!(!is_harmful(release), "{release}");
        }
    }

    #[test]
    fn a_loader_is_told_by_its_name() {
        let line =
            |path: &str| format!("7f0000000000-7f0000001000 r--p 00000000 08:01 1234                       {path}");
        let loader = |path: &str| loader_in(&line(path)).map(Path::to_owned);
        for path in ["/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", "/lib/ld-2.31.so", "/nix/a b/ld-linux.so.2"] {
            assert_eq!(loader(path), Some(PathBuf::from(path)));
        }
        for other in ["/usr/lib/x86_64-linux-gnu/libc.so.6", "[heap]", "/bin/ld-it", ""] {
            assert_eq!(loader(other), None, "{other}");
        }
    }

    #[test]
    fn this_process_has_a_loader() {
        let own = Lookups::new().loader_of(std::process::id());
        assert!(own.is_some_and(|(path, _)| path.parent().unwrap().join(LIBRARY).exists()));
    }
}
