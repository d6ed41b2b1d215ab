//! What outlives the recorder: its maps, the ring and the attached programs, pinned in a BPF file system.
//!
//! The programs go on while nobody records, and the next recorder reads what they told from the first record on that is
//! not durable. That works only for a recorder with the same programs, so they have a folder named after their contents;
//! another version begins anew. Without a word of a recorder for some minutes they fall silent (`SILENCE_NS` in
//! `bpf/maps.h`), and then too the next one begins anew.

use std::fs::{DirBuilder, File, ReadDir};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use libbpf_rs::{Link, MapCore, MapFlags, MapHandle, Object, OpenObject};

use super::abi;
use super::decode::read;
use super::ebpf::{OBJECT, PROCESS_PROGRAMS, attach};
use crate::collect::{DegradationReason, Place, boot_ns};
use crate::hash::fnv1a;
use crate::trust;

/// `BPF_FS_MAGIC` (`include/uapi/linux/magic.h`).
const BPF_FS: i64 = 0xcafe_4a11;

/// Less than the programs' patience: they must not fall silent while we take over.
const FRESH_NS: u64 = 540_000_000_000;

/// The map in which the recorder says that it is there.
const RECORDER: &str = "recorder";

/// The folder of this version.
#[derive(Debug)]
pub(super) struct Pins {
    folder: PathBuf,
    /// Whether it goes on with what a recorder before it left.
    resumes: bool,
    /// One reader of the ring, whatever else is configured.
    _lock: File,
}

/// Whether something can be pinned in this folder.
#[must_use]
pub fn can_hold(directory: &Path) -> bool {
    let Some(parent) = directory.parent() else { return false };
    let Ok(name) = std::ffi::CString::new(parent.as_os_str().as_encoded_bytes()) else { return false };
    // SAFETY: all zeroes are a valid statfs.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: a string that ends, and a valid statfs.
    let result = unsafe { libc::statfs(name.as_ptr(), &raw mut found) };
    result == 0 && found.f_type == BPF_FS
}

impl Pins {
    /// Makes the folder, and removes what is in it but for what can be gone on with, behind the place `durable`: the
    /// programs end.
    pub(super) fn open(root: &Path, durable: Place) -> io::Result<Self> {
        // It tells versions apart; nobody else can write there.
        let own = root.join(format!("{:016x}", fnv1a(OBJECT.iter().copied())));
        for folder in [root, &own] {
            match DirBuilder::new().mode(0o700).create(folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => trust::directory(folder).map_err(io::Error::other)?,
            }
        }
        let lock = File::open(root)?;
        lock.try_lock().map_err(|_| io::Error::other("in use by another recorder"))?;
        for other in std::fs::read_dir(root)?.flatten().map(|entry| entry.path()).filter(|path| *path != own) {
            remove(&other)?;
        }
        let mut pins = Self { folder: own, resumes: true, _lock: lock };
        if !pins.are_live(durable) {
            pins.resumes = false;
            clear(std::fs::read_dir(&pins.folder)?)?;
        }
        Ok(pins)
    }

    /// Whether it goes on with what a recorder before it left.
    pub(super) fn resumes(&self) -> bool {
        self.resumes
    }

    /// Whether the programs of a recorder before this one are all attached and did not fall silent, and the history goes
    /// as far as their ring.
    fn are_live(&self, durable: Place) -> bool {
        let said = || {
            let map = MapHandle::from_pinned_path(self.map(RECORDER)).ok()?;
            read::<abi::aq_recorder>(&map.lookup(&0_u32.to_ne_bytes(), MapFlags::ANY).ok()??).ok()
        };
        let goes_on = |said: abi::aq_recorder| {
            said.ring_ns == durable.series && boot_ns().saturating_sub(said.heard_ns) < FRESH_NS
        };
        PROCESS_PROGRAMS.iter().all(|name| self.link(name).exists()) && said().is_some_and(goes_on)
    }

    /// Has the maps taken from there, or put there.
    pub(super) fn take_maps(&self, open: &mut OpenObject) -> libbpf_rs::Result<()> {
        for mut map in open.maps_mut() {
            let name = map.name().to_string_lossy().into_owned();
            // The constants of the programs have such names; each loading has its own.
            if !name.contains('.') {
                map.set_pin_path(self.map(&name))?;
            }
        }
        Ok(())
    }

    /// The attachment of a program: the one that is there, or a new one.
    pub(super) fn attach(&self, object: &Object, name: &str) -> Result<Link, DegradationReason> {
        let path = self.link(name);
        let refused = |error: libbpf_rs::Error| DegradationReason::Refused(format!("{}: {error:#}", path.display()));
        if path.exists() {
            return Link::open(&path).map_err(refused);
        }
        let mut link = attach(object, name)?;
        link.pin(&path).map_err(refused)?;
        Ok(link)
    }

    /// Whether a program is attached.
    pub(super) fn is_attached(&self, name: &str) -> bool {
        self.link(name).exists()
    }

    /// Ends an attachment.
    pub(super) fn detach(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.link(name))
    }

    fn map(&self, name: &str) -> PathBuf {
        self.folder.join(format!("map_{name}"))
    }

    fn link(&self, name: &str) -> PathBuf {
        self.folder.join(format!("link_{name}"))
    }
}

/// Removes a folder with pins: what is attached through them ends.
///
/// # Errors
/// When it cannot be removed.
pub fn remove(folder: &Path) -> io::Result<()> {
    clear(std::fs::read_dir(folder)?)?;
    std::fs::remove_dir(folder)
}

fn clear(entries: ReadDir) -> io::Result<()> {
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    // Attachments first: a program must not run without its maps being found.
    paths.sort();
    for path in paths {
        if path.is_dir() { remove(&path)? } else { std::fs::remove_file(&path)? }
    }
    Ok(())
}
