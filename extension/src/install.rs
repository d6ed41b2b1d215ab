//! Puts the program where osquery and the system find it, and takes it away again.
//!
//! A package of the system brings the files itself, and has its scripts do the rest here: what osquery is told, the group
//! and the history's directory.
//!
//! What was made is written down in a manifest beside the program, as it is made. So `uninstall` takes away that and
//! nothing else, also after an installation that stopped half-way; what was there before, what an administrator has
//! changed since, and the history stay.
//!
//! Which steps there are, on each system, is said by `plan`; here they are done and undone.

mod plan;
#[cfg(windows)]
mod service;

use std::fmt;
use std::fs::{self, DirBuilder, Metadata};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::hash::sha256;
use plan::{Places, Step, System};

/// What was made, beside the program.
const MANIFEST: &str = "installed.json";
/// The extensions that osqueryd loads, in a directory of osquery: `--extensions_autoload`.
const LOADED: &str = "extensions.load";

/// Why it stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A step failed.
    #[error("cannot {what}: {source}")]
    Step {
        /// What was to be done.
        what: String,
        /// Why it was not.
        source: io::Error,
    },
    /// Another program failed.
    #[error("cannot {what}: {said}")]
    Command {
        /// What was to be done.
        what: String,
        /// What the other program wrote.
        said: String,
    },
    /// There is nothing to take away.
    #[error("{0}: agentquery was not installed by `agentquery install`")]
    NotInstalled(PathBuf),
    /// The manifest is not ours, or damaged.
    #[error("{file}: {source}; nothing was taken away", file = file.display())]
    Manifest {
        /// The manifest.
        file: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// What to do, and where.
#[derive(Debug)]
pub struct Options {
    /// Directory that is taken for /.
    pub root: PathBuf,
    /// Only say what would be done.
    pub dry_run: bool,
    /// The files are a package's.
    pub packaged: bool,
}

/// An installation on a system.
struct Installation<'a> {
    options: &'a Options,
    system: System,
    places: Places,
    root: PathBuf,
}

impl<'a> Installation<'a> {
    fn new(options: &'a Options, system: System) -> Self {
        // What is / elsewhere is the drive of Windows.
        let is_whole = options.root.as_os_str() == "/";
        let root = if is_whole { Path::new(&system_root()).into() } else { options.root.clone() };
        Self { options, system, places: system.places(options.packaged), root }
    }

    /// The machine's own: what is no file is there, and nowhere else.
    fn is_the_machines(&self) -> bool {
        self.system == System::HERE && self.root.parent().is_none()
    }

    fn manifest(&self) -> PathBuf {
        self.root.join(self.places.program).join(MANIFEST)
    }
}

fn system_root() -> String {
    if cfg!(windows) { System::HERE.shown("") } else { "/".to_owned() }
}

/// Something that an installation makes. Paths are below the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Made {
    Directory(PathBuf),
    /// With the SHA-256 of what was written, to tell whether somebody has changed it.
    File(PathBuf, String),
    Link(PathBuf),
    /// A line of a file that is others' too.
    Line(PathBuf, String),
    Group(String),
    Service(String),
}

fn failed(what: impl fmt::Display) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Step { what: what.to_string(), source }
}

/// The library of DuckDB that this program runs with; none when it is compiled in.
#[cfg(target_os = "linux")]
fn library(_program: &Path, name: &str) -> io::Result<Option<PathBuf>> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let mut paths = maps.lines().filter_map(|line| line.get(line.find('/')?..)).map(PathBuf::from);
    Ok(paths.find(|path| path.file_name().is_some_and(|file| file == name)))
}

/// The library of DuckDB that lies beside this program; none when it is compiled in.
#[cfg(not(target_os = "linux"))]
#[allow(clippy::unnecessary_wraps)] // reading what is mapped can fail
fn library(program: &Path, name: &str) -> io::Result<Option<PathBuf>> {
    Ok(Some(program.with_file_name(name)).filter(|library| library.is_file()))
}

/// Installs, and tells each step.
///
/// # Errors
/// When a step cannot be done. The steps before it are done and written down: `uninstall` takes them away.
pub fn install(options: &Options, tell: &mut dyn FnMut(&str)) -> Result<(), Error> {
    Installation::new(options, System::HERE).install(tell)
}

/// Takes away what was installed, and tells each step.
///
/// # Errors
/// When there is nothing, or a step cannot be done: the manifest stays then, and it can be tried again.
pub fn uninstall(options: &Options, purge: bool, tell: &mut dyn FnMut(&str)) -> Result<(), Error> {
    Installation::new(options, System::HERE).uninstall(purge, tell)
}

impl Installation<'_> {
    fn install(&self, tell: &mut dyn FnMut(&str)) -> Result<(), Error> {
        let Self { options, system, places, root } = self;
        let program = std::env::current_exe().map_err(failed("find this program's own file"))?;
        let library = library(&program, places.library).map_err(failed("find the library of DuckDB"))?;
        let osquery: Vec<_> = places.osquery.into_iter().filter(|directory| root.join(directory).is_dir()).collect();
        let mut manifest = Manifest::of(self)?.unwrap_or_default();
        for step in plan::plan(*system, options.packaged, program, library, &osquery) {
            let says = step.says(*system);
            if options.dry_run {
                tell(&format!("would {says}"));
                continue;
            }
            if step.is_the_machines(*system) && !self.is_the_machines() {
                tell(&format!("left to be done on the machine itself: {says}"));
                continue;
            }
            tell(&says);
            for made in self.apply(&step, &manifest)? {
                manifest.add(made);
            }
            manifest.write(self)?;
        }
        if osquery.is_empty() {
            let [usual, _] = places.osquery;
            let usual = system.shown(usual);
            tell(&format!("osquery is not installed here (no {usual}): it was not told of the extension"));
        } else {
            tell("osquery loads the extension when it is started again");
        }
        if !options.packaged {
            tell(&format!("to record without osquery: {}", system.start()));
        }
        Ok(())
    }

    fn uninstall(&self, purge: bool, tell: &mut dyn FnMut(&str)) -> Result<(), Error> {
        let Self { options, system, places, root } = self;
        let manifest = Manifest::of(self)?.ok_or_else(|| Error::NotInstalled(root.join(places.program)))?;
        let say = |what: &str, tell: &mut dyn FnMut(&str)| {
            tell(&if options.dry_run { format!("would {what}") } else { what.to_owned() });
        };
        // A service has the files open.
        let (services, made): (Vec<_>, Vec<_>) =
            manifest.made.into_iter().rev().partition(|made| matches!(made, Made::Service(_)));
        for service in services {
            self.undo(&service, &mut |what| say(what, tell))?;
        }
        let mut whole: Vec<_> = [places.state, places.settings].into_iter().filter(|_| purge).collect();
        whole.dedup();
        for whole in whole.into_iter().chain(places.left.iter().copied()).filter(|whole| root.join(whole).exists()) {
            let what = format!("remove {} with all that is in it", system.shown(whole));
            say(&what, tell);
            if !options.dry_run {
                fs::remove_dir_all(root.join(whole)).map_err(failed(what))?;
            }
        }
        // The directory of the manifest, and those above it, go last.
        let is_above =
            |made: &Made| matches!(made, Made::Directory(path) if Path::new(places.program).starts_with(path));
        let (own, made): (Vec<_>, Vec<_>) = made.into_iter().partition(is_above);
        for made in made {
            self.undo(&made, &mut |what| say(what, tell))?;
        }
        if options.dry_run {
            return Ok(());
        }
        let manifest = self.manifest();
        fs::remove_file(&manifest).map_err(failed(format!("remove {}", manifest.display())))?;
        own.iter().try_for_each(|made| self.undo(made, &mut |_| {}))
    }

    /// Does it; what was not there before is returned.
    fn apply(&self, step: &Step, manifest: &Manifest) -> Result<Vec<Made>, Error> {
        let root = &self.root;
        let says = || step.says(self.system);
        match step {
            Step::Directory(path, mode) => {
                let missing: Vec<_> =
                    Path::new(path).ancestors().take_while(|above| !root.join(above).exists()).collect();
                for above in missing.iter().rev() {
                    let mode = if above.as_os_str() == *path { *mode } else { 0o755 };
                    make_directory(&root.join(above), mode).map_err(failed(says()))?;
                }
                Ok(missing.into_iter().rev().map(|above| Made::Directory(above.into())).collect())
            }
            Step::Copy(from, to) => {
                let bytes = fs::read(from).map_err(failed(says()))?;
                write(&root.join(to), &bytes, 0o755).map_err(failed(says()))?;
                Ok(vec![Made::File(to.into(), sha256(&bytes))])
            }
            Step::SecondName(of, name) => {
                let (of, to) = (root.join(of), root.join(name));
                let bytes = fs::read(&of).map_err(failed(says()))?;
                remove(&to).map_err(failed(says()))?;
                // Not every file system has second names.
                fs::hard_link(&of, &to).or_else(|_| write(&to, &bytes, 0o755)).map_err(failed(says()))?;
                Ok(vec![Made::File(name.into(), sha256(&bytes))])
            }
            Step::Link(path, to) => {
                remove(&root.join(path)).map_err(failed(says()))?;
                link(to, &root.join(path)).map_err(failed(says()))?;
                Ok(vec![Made::Link(path.into())])
            }
            Step::Text(path, text) => {
                let (file, hash) = (root.join(path), sha256(text.as_bytes()));
                let before = manifest.hash(Path::new(path));
                let there = if_there(fs::read(&file)).map_err(failed(says()))?;
                if there.is_some_and(|there| before != Some(sha256(&there))) {
                    return Ok(Vec::new());
                }
                write(&file, text.as_bytes(), 0o644).map_err(failed(says()))?;
                Ok(vec![Made::File(path.into(), hash)])
            }
            Step::Line(path, line) => {
                let file = root.join(path);
                let mut text = if_there(fs::read_to_string(&file)).map_err(failed(says()))?.unwrap_or_default();
                if text.lines().any(|there| there.trim() == line) {
                    return Ok(Vec::new());
                }
                if !text.is_empty() && !text.ends_with('\n') {
                    text.push('\n');
                }
                text.push_str(line);
                text.push('\n');
                let mode = fs::metadata(&file).map_or(0o644, |there| mode_of(&there));
                write(&file, text.as_bytes(), mode).map_err(failed(says()))?;
                Ok(vec![Made::Line(path.into(), line.clone())])
            }
            Step::Group(name) => {
                if self.has_group(name) {
                    return Ok(Vec::new());
                }
                let [_, create, _] = self.system.group_commands(name);
                self.of_a_group(&says(), &create)?;
                Ok(vec![Made::Group((*name).to_owned())])
            }
            Step::Protect(path, readers) => {
                let shown = self.system.shown(path);
                plan::protecting(&shown, *readers).iter().try_for_each(|words| command(&says(), words, None))?;
                Ok(Vec::new())
            }
            Step::Service(service) => {
                let is_new = create_service(service).map_err(failed(says()))?;
                Ok(if is_new { vec![Made::Service(service.name.to_owned())] } else { Vec::new() })
            }
        }
    }

    fn has_group(&self, name: &str) -> bool {
        match self.system {
            System::Linux => {
                fs::read_to_string(self.root.join("etc/group")).is_ok_and(|groups| has_group(&groups, name))
            }
            System::MacOs => {
                let [read, ..] = self.system.group_commands(name);
                self.is_the_machines() && command("", &read, None).is_ok()
            }
            System::Windows => false,
        }
    }

    /// shadow's programs know of another root (`--prefix`, since 4.5).
    fn of_a_group(&self, what: &str, words: &[String]) -> Result<(), Error> {
        command(what, words, (self.root != Path::new("/")).then_some(&self.root))
    }

    /// What taking it away is; none when there is nothing to do, or it is an administrator's by now.
    fn undo_says(&self, made: &Made) -> Option<String> {
        let root = &self.root;
        let shown = |path: &Path| self.system.shown(&path.to_string_lossy());
        match made {
            Made::Directory(path) => {
                // Whether it is empty is known when what was made in it has gone.
                root.join(path).is_dir().then(|| format!("remove the directory {}, if it is empty", shown(path)))
            }
            Made::File(path, hash) => {
                let same = fs::read(root.join(path)).is_ok_and(|bytes| sha256(&bytes) == *hash);
                same.then(|| format!("remove {}", shown(path)))
            }
            Made::Link(path) => root.join(path).is_symlink().then(|| format!("remove {}", shown(path))),
            Made::Line(path, line) => {
                let there =
                    fs::read_to_string(root.join(path)).is_ok_and(|text| text.lines().any(|other| other == line));
                there.then(|| format!("remove the line {line} from {}", shown(path)))
            }
            Made::Group(name) => self.has_group(name).then(|| format!("remove the group {name}")),
            Made::Service(name) => {
                (self.is_the_machines() && has_service(name)).then(|| format!("stop and remove the service {name}"))
            }
        }
    }

    fn undo(&self, made: &Made, say: &mut dyn FnMut(&str)) -> Result<(), Error> {
        let Some(what) = self.undo_says(made) else { return Ok(()) };
        say(&what);
        if self.options.dry_run {
            return Ok(());
        }
        let root = &self.root;
        match made {
            Made::Directory(path) => match fs::remove_dir(root.join(path)) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
                done => done,
            },
            Made::File(path, _) | Made::Link(path) => fs::remove_file(root.join(path)),
            Made::Line(path, line) => without_line(&root.join(path), line),
            Made::Group(name) => {
                let [_, _, delete] = self.system.group_commands(name);
                return self.of_a_group(&what, &delete);
            }
            Made::Service(name) => delete_service(name),
        }
        .map_err(failed(what))
    }
}

#[cfg(windows)]
use service::{create as create_service, delete as delete_service, exists as has_service};

#[cfg(not(windows))]
fn create_service(_: &plan::Service) -> io::Result<bool> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(windows))]
fn delete_service(_: &str) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(windows))]
fn has_service(_: &str) -> bool {
    false
}

#[cfg(unix)]
fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
    DirBuilder::new().mode(mode).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

#[cfg(not(unix))]
fn make_directory(path: &Path, _mode: u32) -> io::Result<()> {
    DirBuilder::new().create(path)
}

#[cfg(unix)]
fn link(to: &str, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(to, path)
}

#[cfg(not(unix))]
fn link(_to: &str, _path: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(unix)]
fn mode_of(file: &Metadata) -> u32 {
    std::os::unix::fs::MetadataExt::mode(file) & 0o777
}

#[cfg(not(unix))]
fn mode_of(_file: &Metadata) -> u32 {
    0
}

/// A file that holds nothing else goes.
fn without_line(file: &Path, line: &str) -> io::Result<()> {
    let text = fs::read_to_string(file)?;
    let rest: String = text.split_inclusive('\n').filter(|other| other.trim_end() != line).collect();
    if rest.is_empty() {
        return fs::remove_file(file);
    }
    write(file, rest.as_bytes(), mode_of(&fs::metadata(file)?))
}

fn has_group(groups: &str, name: &str) -> bool {
    groups.lines().any(|line| line.split(':').next() == Some(name))
}

/// In one moment: a program that runs keeps the file that it has, and nobody reads half of one.
fn write(to: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let folder = to.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    set_mode(file.as_file(), mode)?;
    file.as_file().sync_all()?;
    file.persist(to).map_err(|error| error.error)?;
    keep_name(folder)
}

#[cfg(unix)]
fn set_mode(file: &fs::File, mode: u32) -> io::Result<()> {
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))
}

/// What is made has the rights of its directory.
#[cfg(not(unix))]
#[allow(clippy::unnecessary_wraps)] // setting a mode can fail
fn set_mode(_file: &fs::File, _mode: u32) -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
fn keep_name(folder: &Path) -> io::Result<()> {
    fs::File::open(folder)?.sync_all()
}

/// A directory is no file there.
#[cfg(not(unix))]
#[allow(clippy::unnecessary_wraps)] // a directory's names can fail to be kept
fn keep_name(_folder: &Path) -> io::Result<()> {
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    if_there(fs::remove_file(path)).map(drop)
}

/// What was done with a file; none when there is no such file.
fn if_there<T>(done: io::Result<T>) -> io::Result<Option<T>> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        done => done.map(Some),
    }
}

fn command(what: &str, words: &[String], prefix: Option<&PathBuf>) -> Result<(), Error> {
    let Some((program, arguments)) = words.split_first() else { return Ok(()) };
    let mut command = Command::new(program);
    if let Some(prefix) = prefix {
        command.arg("--prefix").arg(prefix);
    }
    let output = command.args(arguments).output().map_err(failed(format!("{what} by {program}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Command { what: what.to_owned(), said })
}

/// What was made, in the order in which it was.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Manifest {
    version: String,
    made: Vec<Made>,
}

impl Manifest {
    fn of(installation: &Installation) -> Result<Option<Self>, Error> {
        let file = installation.manifest();
        let text = if_there(fs::read_to_string(&file)).map_err(failed(format!("read {}", file.display())))?;
        text.map(|text| serde_json::from_str(&text)).transpose().map_err(|source| Error::Manifest { file, source })
    }

    /// The hash of a file that was written.
    fn hash(&self, path: &Path) -> Option<String> {
        self.made.iter().find_map(|made| match made {
            Made::File(file, hash) if file == path => Some(hash.clone()),
            _ => None,
        })
    }

    /// A file that was written anew has one entry, at its old place.
    fn add(&mut self, made: Made) {
        let same = |other: &Made| match (other, &made) {
            (Made::File(a, _), Made::File(b, _)) => a == b,
            (a, b) => a == b,
        };
        match self.made.iter_mut().find(|other| same(other)) {
            Some(other) => *other = made,
            None => self.made.push(made),
        }
    }

    fn write(&mut self, installation: &Installation) -> Result<(), Error> {
        env!("CARGO_PKG_VERSION").clone_into(&mut self.version);
        let file = installation.manifest();
        let text = serde_json::to_vec_pretty(self).map_err(|source| Error::Manifest { file: file.clone(), source })?;
        write(&file, &text, 0o644).map_err(failed(format!("write {}", file.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every file below a folder, with `/`, and what stands in it.
    fn files(root: &Path) -> Vec<(String, Vec<u8>)> {
        let mut found = Vec::new();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
                    found.push((name, fs::read(path).unwrap_or_default()));
                }
            }
        }
        found.sort();
        found
    }

    /// As far as files go every system's installation can be made below a folder of any; groups, rights and services are
    /// the machine's, and left out.
    fn round_trip(system: System) {
        let root = tempfile::tempdir().unwrap();
        let places = system.places(false);
        let [osquery, _] = places.osquery;
        fs::create_dir_all(root.path().join(osquery)).unwrap();
        let list = format!("{osquery}/{LOADED}");
        fs::write(root.path().join(&list), "another\n").unwrap();
        let before = files(root.path());
        let run = |dry_run: bool, purge: Option<bool>| {
            let options = Options { root: root.path().into(), dry_run, packaged: false };
            let installation = Installation::new(&options, system);
            let mut told = Vec::new();
            let mut tell = |step: &str| told.push(step.to_owned());
            match purge {
                None => installation.install(&mut tell),
                Some(purge) => installation.uninstall(purge, &mut tell),
            }
            .unwrap();
            told
        };
        assert!(run(true, None).iter().filter(|step| step.starts_with("would ")).count() > 7);
        assert_eq!(files(root.path()), before);

        let told = run(false, None);
        let left = told.iter().filter(|step| step.starts_with("left to be done")).count();
        assert_eq!(left, if system == System::Windows { 3 } else { 1 }, "{told:?}");
        let there = files(root.path());
        let named = |name: &str| there.iter().any(|(file, _)| file == name);
        let name = if system == System::Windows { "agentquery.ext.exe" } else { "agentquery.ext" };
        let extension = format!("{}/{name}", places.program);
        assert!(named(&extension) && named(&format!("{}/config.yaml", places.settings)), "{there:?}");
        let lines = fs::read_to_string(root.path().join(&list)).unwrap();
        assert_eq!(lines, format!("another\n{}\n", system.shown(&extension)));
        fs::write(root.path().join(places.settings).join("config.yaml"), "retention_days: 3\n").unwrap();
        run(false, None);
        let again = fs::read(root.path().join(places.settings).join("config.yaml")).unwrap();
        assert_eq!(again, b"retention_days: 3\n", "what an administrator changed stays");

        run(true, Some(true));
        assert!(root.path().join(&extension).exists());
        run(false, Some(true));
        assert_eq!(files(root.path()), before);
        assert!(!root.path().join(places.program).exists() && !root.path().join(places.settings).exists());
    }

    #[test]
    fn macos_below_a_folder() {
        // Links are none of Windows.
        if cfg!(unix) {
            round_trip(System::MacOs);
        }
    }

    #[test]
    fn windows_below_a_folder() {
        round_trip(System::Windows);
    }
}
