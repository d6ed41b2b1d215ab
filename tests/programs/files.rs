//! Operations on files as a program in Rust does them: by the standard library, and by a library for `io_uring`. Its lines
//! are those of `files.c`.

use std::ffi::CString;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};

use io_uring::{IoUring, opcode, squeue, types};

/// Does it in the working directory; what it did.
pub fn run(way: &str) -> String {
    let mut said = String::new();
    match way {
        "calls" => calls(&mut said),
        "uring" => uring(&mut said),
        other => panic!("no way {other}"),
    }
    said
}

fn row(said: &mut String, operation: &str, path: &str, dest: &str) {
    writeln!(said, "{operation}|{path}|{dest}|||").unwrap();
}

fn closed(said: &mut String, path: &str, read: usize, written: usize, mapped: &str) {
    writeln!(said, "close|{path}||{read}|{written}|{mapped}").unwrap();
}

fn calls(said: &mut String) {
    fs::write("made", "0123456789").unwrap();
    row(said, "create", "made", "");
    closed(said, "made", 0, 10, "0");
    assert_eq!(fs::read("made").unwrap().len(), 10);
    row(said, "open_read", "made", "");
    closed(said, "made", 10, 0, "");
    let mut file = OpenOptions::new().read(true).append(true).open("made").unwrap();
    row(said, "open_write", "made", "");
    file.write_all(b"abc").unwrap();
    assert_eq!(file.write_vectored(&[std::io::IoSlice::new(b"d"), std::io::IoSlice::new(b"ef")]).unwrap(), 3);
    file.read_exact_at(&mut [0; 5], 0).unwrap();
    file.read_exact(&mut [0; 0]).unwrap();
    file.set_len(7).unwrap();
    row(said, "truncate", "made", "");
    drop(file);
    closed(said, "made", 5, 6, "0");
    File::create("made").unwrap();
    row(said, "truncate", "made", "");
    closed(said, "made", 0, 0, "0");
    fs::create_dir_all("a/b").unwrap();
    row(said, "mkdir", "a", "");
    row(said, "mkdir", "a/b", "");
    fs::rename("made", "a/b/moved").unwrap();
    row(said, "rename", "made", "a/b/moved");
    fs::hard_link("a/b/moved", "linked").unwrap();
    row(said, "link", "a/b/moved", "linked");
    symlink("linked", "soft").unwrap();
    row(said, "symlink", "=linked", "soft");
    fs::set_permissions("soft", fs::Permissions::from_mode(0o600)).unwrap();
    row(said, "chmod", "linked", "");
    fs::remove_file("a/b/moved").unwrap();
    row(said, "delete", "a/b/moved", "");
    fs::remove_dir("a/b").unwrap();
    row(said, "rmdir", "a/b", "");
}

/// A ring, with a request at a time.
struct Ring(IoUring);

impl Ring {
    fn ask(&mut self, request: &squeue::Entry) -> i32 {
        // SAFETY: what a request points to is there until it has its result, for which we wait.
        unsafe { self.0.submission().push(request).unwrap() };
        self.0.submit_and_wait(1).unwrap();
        let result = self.0.completion().next().unwrap().result();
        assert!(result >= 0, "{}", std::io::Error::from_raw_os_error(-result));
        result
    }
}

fn uring(said: &mut String) {
    let mut ring = Ring(IoUring::new(4).unwrap());
    let here = types::Fd(libc::AT_FDCWD);
    let name = |name: &str| CString::new(name).unwrap();
    let (made, moved, linked, soft, d) = (name("made"), name("d/moved"), name("linked"), name("soft"), name("d"));

    let flags = libc::O_CREAT | libc::O_RDWR;
    let fd = types::Fd(ring.ask(&opcode::OpenAt::new(here, made.as_ptr()).flags(flags).mode(0o600).build()));
    row(said, "create", "made", "");
    let mut buffer = *b"0123456789";
    ring.ask(&opcode::Write::new(fd, buffer.as_ptr(), 10).offset(0).build());
    ring.ask(&opcode::Read::new(fd, buffer.as_mut_ptr(), 4).offset(3).build());
    let parts = [libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: 6 }];
    ring.ask(&opcode::Writev::new(fd, parts.as_ptr(), 1).offset(0).build());
    ring.ask(&opcode::Readv::new(fd, parts.as_ptr(), 1).offset(0).build());
    ring.ask(&opcode::Close::new(fd).build());
    closed(said, "made", 10, 16, "0");

    // One that only the ring has.
    ring.0.submitter().register_files_sparse(2).unwrap();
    let slot = types::DestinationSlot::try_from_slot_target(1).unwrap();
    let how = types::OpenHow::new().flags(libc::O_WRONLY.unsigned_abs().into());
    ring.ask(&opcode::OpenAt2::new(here, made.as_ptr(), &raw const how).file_index(Some(slot)).build());
    row(said, "open_write", "made", "");
    ring.ask(&opcode::Write::new(types::Fixed(1), buffer.as_ptr(), 3).offset(0).build());
    ring.ask(&opcode::Close::new(types::Fixed(1)).build());
    closed(said, "made", 0, 3, "0");

    ring.ask(&opcode::MkDirAt::new(here, d.as_ptr()).mode(0o700).build());
    row(said, "mkdir", "d", "");
    ring.ask(&opcode::RenameAt::new(here, made.as_ptr(), here, moved.as_ptr()).build());
    row(said, "rename", "made", "d/moved");
    ring.ask(&opcode::LinkAt::new(here, moved.as_ptr(), here, linked.as_ptr()).build());
    row(said, "link", "d/moved", "linked");
    ring.ask(&opcode::SymlinkAt::new(here, linked.as_ptr(), soft.as_ptr()).build());
    row(said, "symlink", "=linked", "soft");
    ring.ask(&opcode::UnlinkAt::new(here, moved.as_ptr()).build());
    row(said, "delete", "d/moved", "");
    ring.ask(&opcode::UnlinkAt::new(here, d.as_ptr()).flags(libc::AT_REMOVEDIR).build());
    row(said, "rmdir", "d", "");
}
