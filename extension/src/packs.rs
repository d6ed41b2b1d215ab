//! Packs of signatures: how a fleet gets new ones without a new program.
//!
//! A pack is a compressed archive with a manifest, and beside it who signed it (`minisign`). Nothing is ever fetched: a file
//! is given, and all of it is judged before a byte is written. The signature is over the whole archive, so that nothing
//! reads what nobody signed. Each pack has a directory of its own, which is a link that is turned in one step.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::{Component, Path, PathBuf};

use flate2::read::GzDecoder;
use minisign_verify::{PublicKey, Signature};
use serde::Deserialize;

use crate::enrich::Meaning;
use crate::hash::sha256;
use crate::identify::{Catalogue, RULES, is_signature_file};
use crate::trust::{self, TrustError};
use crate::yaml;

/// Where they are, below the state directory.
pub const DIRECTORY: &str = "packs";

/// Bytes of an archive.
const MAX_PACK: u64 = 16 << 20;
/// Bytes of what is in it, all together.
const MAX_UNPACKED: u64 = 64 << 20;
/// Bytes of a file of it, as of any file of signatures.
const MAX_FILE: u64 = 1 << 20;
/// Files of it.
const MAX_FILES: usize = 1000;
/// Bytes of a name.
const MAX_NAME: usize = 64;

/// Says what is in a pack. No file of signatures, by its ending.
const MANIFEST: &str = "manifest.json";

/// Why a pack is not installed. Nothing of it is, then.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A file could not be read.
    #[error(transparent)]
    Read(#[from] TrustError),
    /// A file or directory could not be written.
    #[error("{}: cannot be written: {source}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// No key.
    #[error("no key to check packs with: put the public key of whoever signs them into pack_keys of the configuration")]
    NoKey,
    /// Whoever signed it is not believed.
    #[error("{}: {why}", pack.display())]
    Unsigned {
        /// The pack.
        pack: PathBuf,
        /// Why.
        why: String,
    },
    /// What is in it.
    #[error("{}: {member}{}{why}", pack.display(), if member.is_empty() { "" } else { ": " })]
    Content {
        /// The pack.
        pack: PathBuf,
        /// The file in it, or empty.
        member: String,
        /// What is wrong with it.
        why: String,
    },
    /// A newer one is there.
    #[error("{name} {installed} is installed, which is newer than {offered}; install the older one with --force")]
    Downgrade {
        /// The pack's name.
        name: String,
        /// The version that is there.
        installed: String,
        /// The version that was given.
        offered: String,
    },
}

/// A pack that was installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// How many files it has.
    pub files: usize,
}

/// Numbers with dots between them, of which the first counts most.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version(Vec<u64>);

impl Version {
    fn parse(text: &str) -> Option<Self> {
        let number = |part: &str| {
            (part.len() <= 18 && part.bytes().all(|byte| byte.is_ascii_digit())).then(|| part.parse().ok())?
        };
        let mut numbers = text.split('.').map(number).collect::<Option<Vec<u64>>>().filter(|all| all.len() <= 8)?;
        // 1.2 and 1.2.0 are one.
        while numbers.len() > 1 && numbers.last() == Some(&0) {
            numbers.pop();
        }
        Some(Self(numbers))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    name: String,
    version: String,
    /// The hash of each file.
    files: BTreeMap<String, String>,
}

/// The directories of the packs that are installed, in the order of their names.
#[must_use]
pub fn installed(root: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    let is_hidden = |path: &Path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    let mut packs: Vec<_> =
        entries.map(|entry| entry.path()).filter(|path| !is_hidden(path) && path.is_dir()).collect();
    packs.sort_unstable();
    packs
}

/// Where signatures are read besides those that are compiled in: packs come before what is the administrator's own, which so
/// overrides them.
#[must_use]
pub fn with_own(root: Option<&Path>, own: &[PathBuf]) -> Vec<PathBuf> {
    [root.map(installed).unwrap_or_default(), own.to_vec()].concat()
}

/// Whether a text is a public key, as `minisign` prints it.
#[must_use]
pub fn is_key(text: &str) -> bool {
    PublicKey::from_base64(text).is_ok()
}

/// Installs a pack below `root` when one of `keys` signed it: over an older one, and with `force` over a newer one.
///
/// # Errors
/// What is wrong with the pack; then nothing was changed.
pub fn install(file: &Path, root: &Path, keys: &[String], force: bool) -> Result<Installed, PackError> {
    let bytes = trust::read_any(file, MAX_PACK)?;
    check_signature(file, &bytes, keys)?;
    let pack = Pack { file };
    let mut members = pack.unpack(&bytes)?;
    let text = members.remove(MANIFEST).ok_or_else(|| pack.wrong("", format!("has no {MANIFEST}")))?;
    let manifest = pack.manifest(&text)?;
    let offered = pack.check(&manifest, &members)?;
    let Manifest { name, version, .. } = manifest;
    let newer = |installed: &String| Version::parse(installed).is_some_and(|installed| installed > offered);
    if let Some(installed) = version_of(&root.join(&name)).filter(|installed| !force && newer(installed)) {
        return Err(PackError::Downgrade { name, installed, offered: version });
    }
    let files = members.len();
    members.insert(MANIFEST.to_owned(), text);
    put(root, &name, &members)?;
    Ok(Installed { name, version, files })
}

/// What is installed there.
fn version_of(directory: &Path) -> Option<String> {
    let text = trust::read_any(&directory.join(MANIFEST), MAX_FILE).ok()?;
    Some(serde_json::from_slice::<Manifest>(&text).ok()?.version)
}

fn check_signature(file: &Path, bytes: &[u8], keys: &[String]) -> Result<(), PackError> {
    if keys.is_empty() {
        return Err(PackError::NoKey);
    }
    let beside = with_ending(file.as_os_str(), ".minisig");
    let unsigned = |why: String| PackError::Unsigned { pack: file.into(), why };
    let text = String::from_utf8_lossy(&trust::read_any(&beside, MAX_FILE)?).into_owned();
    let signature = Signature::decode(&text)
        .map_err(|error| unsigned(format!("{} is no signature of minisign: {error}", beside.display())))?;
    let signed = keys
        .iter()
        .filter_map(|key| PublicKey::from_base64(key).ok())
        .any(|key| key.verify(bytes, &signature, true).is_ok());
    let why = "no key of pack_keys signed this file as it is; it is not installed";
    if signed { Ok(()) } else { Err(unsigned(why.to_owned())) }
}

type Members = BTreeMap<String, Vec<u8>>;

/// A pack while it is judged.
struct Pack<'a> {
    file: &'a Path,
}

impl Pack<'_> {
    fn wrong(&self, member: &str, why: impl Into<String>) -> PackError {
        PackError::Content { pack: self.file.into(), member: member.to_owned(), why: why.into() }
    }

    /// Its files, in memory. None but plain ones, side by side.
    fn unpack(&self, bytes: &[u8]) -> Result<Members, PackError> {
        let broken = |error: io::Error| self.wrong("", format!("is no tar.gz, or a broken one: {error}"));
        let mut archive = tar::Archive::new(GzDecoder::new(bytes).take(MAX_UNPACKED));
        let mut members = Members::new();
        for entry in archive.entries().map_err(broken)? {
            let entry = entry.map_err(broken)?;
            let path = entry.path().map_err(broken)?.into_owned();
            let shown = path.display().to_string().escape_debug().to_string();
            let kind = entry.header().entry_type();
            if kind.is_dir() && path.components().all(|component| component == Component::CurDir) {
                continue;
            }
            if !kind.is_file() {
                return Err(self.wrong(&shown, "is no plain file; a pack has no links, directories or devices"));
            }
            let name = plain_name(&path)
                .ok_or_else(|| self.wrong(&shown, "must be a plain name of letters, digits, '.', '-' and '_'"))?;
            let mut content = Vec::new();
            entry.take(MAX_FILE + 1).read_to_end(&mut content).map_err(broken)?;
            if content.len() as u64 > MAX_FILE {
                return Err(self.wrong(&shown, "is larger than 1 MiB"));
            }
            if members.insert(name, content).is_some() {
                return Err(self.wrong(&shown, "is in it twice"));
            }
            if members.len() > MAX_FILES {
                return Err(self.wrong("", format!("has more than {MAX_FILES} files")));
            }
        }
        Ok(members)
    }

    fn manifest(&self, text: &[u8]) -> Result<Manifest, PackError> {
        let manifest: Manifest =
            serde_json::from_slice(text).map_err(|error| self.wrong(MANIFEST, error.to_string()))?;
        match yaml::name_problem(&manifest.name) {
            Some(problem) => Err(self.wrong(MANIFEST, format!("name: {problem}"))),
            None => Ok(manifest),
        }
    }

    /// Whether all is there that the manifest says, nothing else is, and all of it would be loaded.
    fn check(&self, manifest: &Manifest, members: &Members) -> Result<Version, PackError> {
        let version = Version::parse(&manifest.version)
            .ok_or_else(|| self.wrong(MANIFEST, "version: must be numbers with dots between them, as in 2026.11.2"))?;
        if let Some(missing) = manifest.files.keys().find(|name| !members.contains_key(*name)) {
            return Err(self.wrong(missing, "is in the manifest, and not in the pack"));
        }
        if members.is_empty() {
            return Err(self.wrong("", "has no signatures"));
        }
        let mut agents = BTreeSet::new();
        for (name, content) in members {
            let Some(hash) = manifest.files.get(name) else {
                return Err(self.wrong(name, "is not in the manifest"));
            };
            if !hash.eq_ignore_ascii_case(&sha256(content)) {
                return Err(self.wrong(name, "is not the file that the manifest means: it has another SHA-256"));
            }
            let text = std::str::from_utf8(content).map_err(|_| self.wrong(name, "is not UTF-8"))?;
            let source = format!("{}: {name}", self.file.display());
            let said = |error: &dyn fmt::Display| {
                let message = error.to_string();
                self.wrong(name, message.strip_prefix(&source).unwrap_or(&message).trim_start_matches(':'))
            };
            if RULES.contains(&name.as_str()) {
                Meaning::check(name, &source, text).map_err(|error| said(&error))?;
            } else if is_signature_file(Path::new(name)) {
                let agent = Catalogue::name_in(&source, text).map_err(|error| said(&error))?;
                if !agents.insert(agent.clone()) {
                    return Err(self.wrong(name, format!("another file of the pack has the name {agent}, too")));
                }
            } else {
                return Err(self.wrong(name, "is no signature: those end in .yaml"));
            }
        }
        Ok(version)
    }
}

/// The name of a file that lies beside the manifest.
fn plain_name(path: &Path) -> Option<String> {
    let mut components = path.components().filter(|component| *component != Component::CurDir);
    let (Some(Component::Normal(name)), None) = (components.next(), components.next()) else { return None };
    let name = name.to_str()?;
    let plain = !name.starts_with('.')
        && name.len() <= MAX_NAME
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    plain.then(|| name.to_owned())
}

fn with_ending(name: &OsStr, ending: &str) -> PathBuf {
    let mut name = name.to_owned();
    name.push(ending);
    name.into()
}

/// Writes all of it beside what is there, and then takes it in its place at once.
fn put(root: &Path, name: &str, members: &Members) -> Result<(), PackError> {
    let failed = |path: &Path, source| PackError::Write { path: path.into(), source };
    make(root).map_err(|error| failed(root, error))?;
    let fresh = tempfile::Builder::new().prefix(&format!(".{name}-")).tempdir_in(root);
    let fresh = fresh.map_err(|error| failed(root, error))?;
    for (file, content) in members {
        let path = fresh.path().join(file);
        let write = || {
            let mut out = File::options().write(true).create_new(true).open(&path)?;
            out.write_all(content)?;
            out.sync_all()
        };
        write().map_err(|error| failed(&path, error))?;
    }
    let place = root.join(name);
    let before = std::fs::read_link(&place).ok();
    turn(&place, fresh.path()).map_err(|error| failed(&place, error))?;
    // It is in its place: no end of ours takes it away.
    let _ = fresh.keep();
    if let Some(before) = before.filter(|before| before.components().count() == 1) {
        let _ = std::fs::remove_dir_all(root.join(before));
    }
    Ok(())
}

/// The directory of packs, its owner's alone where it is not there yet.
fn make(root: &Path) -> io::Result<()> {
    crate::os::make_private(root)
}

/// Makes a link to a directory beside it, in place of the one that is there.
#[cfg(unix)]
fn turn(link: &Path, to: &Path) -> io::Result<()> {
    let (Some(name), Some(root)) = (to.file_name(), link.parent()) else {
        return Err(io::Error::other("has no name"));
    };
    File::open(to)?.sync_all()?;
    let new = root.join(with_ending(name, ".link"));
    std::os::unix::fs::symlink(name, &new)?;
    std::fs::rename(&new, link).inspect_err(|_| drop(std::fs::remove_file(&new)))?;
    File::open(root)?.sync_all()
}

/// Where links need rights that not everybody has: puts a directory in the place of the one that is there. Between the
/// two there is none for a moment, in which what was loaded before stays.
#[cfg(not(unix))]
fn turn(place: &Path, to: &Path) -> io::Result<()> {
    let (Some(name), Some(root)) = (to.file_name(), place.parent()) else {
        return Err(io::Error::other("has no name"));
    };
    let old = root.join(with_ending(name, ".old"));
    let was_there = match std::fs::rename(place, &old) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        done => done.map(|()| true)?,
    };
    if let Err(error) = std::fs::rename(to, place) {
        if was_there {
            std::fs::rename(&old, place)?;
        }
        return Err(error);
    }
    if was_there { std::fs::remove_dir_all(&old) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
