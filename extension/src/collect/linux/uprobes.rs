//! Look-ups of names by the C library: each of its files that agents run with has its `getaddrinfo` watched.
//!
//! A library is found beside the dynamic loader, which the kernel maps before a program's first instruction; so this
//! holds for programs with a library of their own too. It is opened as the program sees it, and known by its inode:
//! a mount namespace that shares the file needs nothing more. The attachments end with the recorder, also where others
//! outlive it.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use libbpf_rs::{Link, Object, UprobeOpts};

use crate::event::Exec;
use crate::inside::{open_in, root_of};

const FUNCTION: &str = "getaddrinfo";
const LIBRARY: &str = "libc.so.6";
/// The programs, and whether they run at the return.
const PROGRAMS: [(&str, bool); 2] = [("on_lookup", false), ("on_lookup_done", true)];
/// Files that are remembered, be they libraries or loaders without one: a process can make many.
const FILES: usize = 1024;
/// Programs that are remembered.
const PROGRAMS_MAX: usize = 4096;

/// A look-up that is not seen.
#[derive(Debug, thiserror::Error)]
#[error("{} of {}: {source}", FUNCTION, path.display())]
pub(super) struct Error {
    path: PathBuf,
    source: libbpf_rs::Error,
}

/// What is attached.
#[derive(Default)]
pub(super) struct Lookups {
    links: Vec<Link>,
    /// Loaders and libraries that were looked at, by device and inode.
    known: HashSet<(u64, u64)>,
    /// Programs that were looked at, by mount namespace and path: most are run again and again.
    programs: HashSet<(u32, String)>,
}

impl Lookups {
    /// A program begins.
    pub(super) fn program(&mut self, object: &Object, pid: u32, exec: &Exec) -> Result<(), Error> {
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
        let Some((loader, file)) = self.loader_of(pid) else { return Ok(()) };
        let Some(folder) = loader.parent() else { return Ok(()) };
        self.remember(file);
        let path = folder.join(LIBRARY);
        let Ok(library) = open_below(pid, &path) else { return Ok(()) };
        let Some(id) = library.metadata().ok().filter(std::fs::Metadata::is_file).map(|of| (of.dev(), of.ino())) else {
            return Ok(());
        };
        if !self.remember(id) {
            return Ok(());
        }
        // By the descriptor: the name may be another file's by now.
        let opened = format!("/proc/self/fd/{}", library.as_raw_fd());
        for (name, retprobe) in PROGRAMS {
            let Some(program) = object.progs_mut().find(|program| program.name() == name) else { continue };
            let options = UprobeOpts { retprobe, func_name: Some(FUNCTION.to_owned()), ..UprobeOpts::default() };
            match program.attach_uprobe_with_opts(-1, &opened, 0, options) {
                Ok(link) => self.links.push(link),
                Err(source) => return Err(Error { path, source }),
            }
        }
        Ok(())
    }

    /// The dynamic loader of a process, unless it was looked at.
    fn loader_of(&self, pid: u32) -> Option<(PathBuf, (u64, u64))> {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
        let path = maps.lines().find_map(loader_in)?;
        let metadata = open_below(pid, path).ok()?.metadata().ok()?;
        let file = (metadata.dev(), metadata.ino());
        (!self.known.contains(&file)).then(|| (path.to_owned(), file))
    }

    fn remember(&mut self, file: (u64, u64)) -> bool {
        if self.known.len() >= FILES {
            return false;
        }
        self.known.insert(file)
    }
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
        let own = Lookups::default().loader_of(std::process::id());
        assert!(own.is_some_and(|(path, _)| path.parent().unwrap().join(LIBRARY).exists()));
    }
}
