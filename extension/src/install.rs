//! Puts the program where osquery and the system find it, and takes it away again.
//!
//! A package of the system brings the files itself, and has its scripts do the rest here: what osquery is told, the group
//! and the history's directory.
//!
//! What was made is written down in a manifest beside the program, as it is made. So `uninstall` takes away that and
//! nothing else, also after an installation that stopped half-way; what was there before, what an administrator has
//! changed since, and the history stay.

use std::fmt;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::hash::sha256;
use crate::osquery::GROUP;

/// The program and what belongs to it. osquery wants an extension to be root's, and so each directory above it.
const PROGRAM: &str = "usr/local/lib/agentquery";
/// The same of a package.
const PACKAGED: &str = "usr/lib/agentquery";
/// What was made, below it.
const MANIFEST: &str = "installed.json";
/// Directories of osquery and of Fleet's agent (fleetd), which are there when these are installed.
const OSQUERY: [&str; 2] = ["etc/osquery", "opt/orbit"];
/// The extensions that osqueryd loads, in such a directory: `--extensions_autoload`.
const LOADED: &str = "extensions.load";
/// What a recorder may have left: programs in the kernel, and a folder for its socket.
const LEFT: [&str; 2] = ["sys/fs/bpf/agentquery", "run/agentquery"];
const SERVICE: &str = include_str!("../../packaging/agentquery.service");
const CONFIG: &str = include_str!("../../packaging/config.yaml");

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

impl Options {
    fn program(&self) -> &'static str {
        if self.packaged { PACKAGED } else { PROGRAM }
    }

    fn manifest(&self) -> PathBuf {
        self.root.join(self.program()).join(MANIFEST)
    }
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
}

/// A step of an installation.
#[derive(Debug)]
enum Step {
    Directory(&'static str, u32),
    /// The program and its library: always the new ones.
    Copy(PathBuf, String),
    /// A second name, for the program does by its name what osquery or a user wants.
    SecondName(String, String),
    Link(&'static str, &'static str),
    /// A text: what an administrator has changed stays.
    Text(&'static str, &'static str),
    Line(String, String),
    Group(&'static str),
}

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path, mode) => write!(out, "make the directory /{path} (mode {mode:04o})"),
            Self::Copy(from, to) => write!(out, "copy {} to /{to} (mode 0755)", from.display()),
            Self::SecondName(of, name) => write!(out, "give /{of} a second name, /{name}"),
            Self::Link(path, to) => write!(out, "link /{path} to {to}"),
            Self::Text(path, _) => write!(out, "write /{path} (mode 0644)"),
            Self::Line(file, line) => write!(out, "add the line {line} to /{file}"),
            Self::Group(name) => write!(out, "create the group {name}, whose members see all rows"),
        }
    }
}

fn failed(what: impl fmt::Display) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Step { what: what.to_string(), source }
}

/// The library of DuckDB that this program runs with; none when it is compiled in.
fn library() -> io::Result<Option<PathBuf>> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let mut paths = maps.lines().filter_map(|line| line.get(line.find('/')?..)).map(PathBuf::from);
    Ok(paths.find(|path| path.file_name().is_some_and(|name| name == "libduckdb.so")))
}

/// Installs, and tells each step.
///
/// # Errors
/// When a step cannot be done. The steps before it are done and written down: `uninstall` takes them away.
pub fn install(options: &Options, tell: &mut dyn FnMut(&str)) -> Result<(), Error> {
    let (root, folder) = (&options.root, options.program());
    let program = std::env::current_exe().map_err(failed("find this program's own file"))?;
    let library = library().map_err(failed("find the library of DuckDB"))?;
    let mut steps = Vec::new();
    if options.packaged {
        steps.push(Step::Link("usr/bin/agentquery", "../lib/agentquery/agentquery"));
    } else {
        steps.extend([Step::Directory(PROGRAM, 0o755), Step::Copy(program, format!("{folder}/agentquery"))]);
        steps.extend(library.map(|from| Step::Copy(from, format!("{folder}/libduckdb.so"))));
        steps.extend([
            Step::Directory("usr/local/bin", 0o755),
            Step::Link("usr/local/bin/agentquery", "../lib/agentquery/agentquery"),
            Step::Directory("etc/agentquery", 0o755),
            Step::Text("etc/agentquery/config.yaml", CONFIG),
            Step::Directory("etc/systemd/system", 0o755),
            Step::Text("etc/systemd/system/agentquery.service", SERVICE),
        ]);
    }
    steps.extend([
        Step::SecondName(format!("{folder}/agentquery"), format!("{folder}/agentquery.ext")),
        Step::Group(GROUP),
        Step::Directory("etc/agentquery/signatures", 0o755),
        Step::Directory("var/lib/agentquery", 0o700),
    ]);
    let osquery: Vec<_> = OSQUERY.into_iter().filter(|directory| root.join(directory).is_dir()).collect();
    let line = |directory: &&str| Step::Line(format!("{directory}/{LOADED}"), format!("/{folder}/agentquery.ext"));
    steps.extend(osquery.iter().map(line));
    let mut manifest = Manifest::of(options)?.unwrap_or_default();
    for step in &steps {
        if options.dry_run {
            tell(&format!("would {step}"));
            continue;
        }
        tell(&step.to_string());
        for made in step.apply(root, &manifest)? {
            manifest.add(made);
        }
        manifest.write(options)?;
    }
    if osquery.is_empty() {
        tell("osquery is not installed here (no /etc/osquery): it was not told of the extension");
    } else {
        tell("osquery loads the extension when it is started again");
    }
    if !options.packaged {
        tell("to record without osquery: systemctl daemon-reload && systemctl enable --now agentquery");
    }
    Ok(())
}

/// Takes away what was installed, and tells each step.
///
/// # Errors
/// When there is nothing, or a step cannot be done: the manifest stays then, and it can be tried again.
pub fn uninstall(options: &Options, purge: bool, tell: &mut dyn FnMut(&str)) -> Result<(), Error> {
    let root = &options.root;
    let folder = options.program();
    let manifest = Manifest::of(options)?.ok_or_else(|| Error::NotInstalled(root.join(folder)))?;
    let say = |what: String, tell: &mut dyn FnMut(&str)| {
        tell(&if options.dry_run { format!("would {what}") } else { what });
    };
    let state = ["var/lib/agentquery", "etc/agentquery"].into_iter().filter(|_| purge);
    for whole in state.chain(LEFT).filter(|whole| root.join(whole).exists()) {
        let what = format!("remove /{whole} with all that is in it");
        say(what.clone(), tell);
        if !options.dry_run {
            fs::remove_dir_all(root.join(whole)).map_err(failed(what))?;
        }
    }
    // The directory of the manifest, and those above it, go last.
    let is_above = |made: &Made| matches!(made, Made::Directory(path) if Path::new(folder).starts_with(path));
    let (own, made): (Vec<_>, Vec<_>) = manifest.made.into_iter().rev().partition(is_above);
    for made in made {
        let Some(what) = made.undo_says(root) else { continue };
        say(what.clone(), tell);
        if !options.dry_run {
            made.undo(root, &what)?;
        }
    }
    if options.dry_run {
        return Ok(());
    }
    let manifest = options.manifest();
    fs::remove_file(&manifest).map_err(failed(format!("remove {}", manifest.display())))?;
    for made in own {
        if let Some(what) = made.undo_says(root) {
            made.undo(root, &what)?;
        }
    }
    Ok(())
}

impl Step {
    /// Does it; what was not there before is returned.
    fn apply(&self, root: &Path, manifest: &Manifest) -> Result<Vec<Made>, Error> {
        match self {
            Self::Directory(path, mode) => {
                let missing: Vec<_> =
                    Path::new(path).ancestors().take_while(|above| !root.join(above).exists()).collect();
                for above in missing.iter().rev() {
                    let mode = if above.as_os_str() == *path { *mode } else { 0o755 };
                    let done = DirBuilder::new().mode(mode).create(root.join(above));
                    done.and_then(|()| fs::set_permissions(root.join(above), Permissions::from_mode(mode)))
                        .map_err(failed(self))?;
                }
                Ok(missing.into_iter().rev().map(|above| Made::Directory(above.into())).collect())
            }
            Self::Copy(from, to) => {
                let bytes = fs::read(from).map_err(failed(self))?;
                write(&root.join(to), &bytes, 0o755).map_err(failed(self))?;
                Ok(vec![Made::File(to.into(), sha256(&bytes))])
            }
            Self::SecondName(of, name) => {
                let (of, to) = (root.join(of), root.join(name));
                let bytes = fs::read(&of).map_err(failed(self))?;
                remove(&to).map_err(failed(self))?;
                // Not every file system has second names.
                fs::hard_link(&of, &to).or_else(|_| write(&to, &bytes, 0o755)).map_err(failed(self))?;
                Ok(vec![Made::File(name.into(), sha256(&bytes))])
            }
            Self::Link(path, to) => {
                remove(&root.join(path)).map_err(failed(self))?;
                std::os::unix::fs::symlink(to, root.join(path)).map_err(failed(self))?;
                Ok(vec![Made::Link(path.into())])
            }
            Self::Text(path, text) => {
                let (file, hash) = (root.join(path), sha256(text.as_bytes()));
                let before = manifest.hash(Path::new(path));
                let there = if_there(fs::read(&file)).map_err(failed(self))?;
                if there.is_some_and(|there| before != Some(sha256(&there))) {
                    return Ok(Vec::new());
                }
                write(&file, text.as_bytes(), 0o644).map_err(failed(self))?;
                Ok(vec![Made::File(path.into(), hash)])
            }
            Self::Line(path, line) => {
                let file = root.join(path);
                let mut text = if_there(fs::read_to_string(&file)).map_err(failed(self))?.unwrap_or_default();
                if text.lines().any(|there| there.trim() == line) {
                    return Ok(Vec::new());
                }
                if !text.is_empty() && !text.ends_with('\n') {
                    text.push('\n');
                }
                text.push_str(line);
                text.push('\n');
                let mode = fs::metadata(&file).map_or(0o644, |there| there.mode() & 0o777);
                write(&file, text.as_bytes(), mode).map_err(failed(self))?;
                Ok(vec![Made::Line(path.into(), line.clone())])
            }
            Self::Group(name) => {
                let groups = fs::read_to_string(root.join("etc/group")).unwrap_or_default();
                if has_group(&groups, name) {
                    return Ok(Vec::new());
                }
                command(&self.to_string(), "groupadd", &["--system", name], root)?;
                Ok(vec![Made::Group((*name).to_owned())])
            }
        }
    }
}

impl Made {
    /// What taking it away is; none when there is nothing to do, or it is an administrator's by now.
    fn undo_says(&self, root: &Path) -> Option<String> {
        match self {
            Self::Directory(path) => {
                // Whether it is empty is known when what was made in it has gone.
                root.join(path).is_dir().then(|| format!("remove the directory /{}, if it is empty", path.display()))
            }
            Self::File(path, hash) => {
                let same = fs::read(root.join(path)).is_ok_and(|bytes| sha256(&bytes) == *hash);
                same.then(|| format!("remove /{}", path.display()))
            }
            Self::Link(path) => root.join(path).is_symlink().then(|| format!("remove /{}", path.display())),
            Self::Line(path, line) => {
                let there =
                    fs::read_to_string(root.join(path)).is_ok_and(|text| text.lines().any(|other| other == line));
                there.then(|| format!("remove the line {line} from /{}", path.display()))
            }
            Self::Group(name) => {
                let there = fs::read_to_string(root.join("etc/group")).is_ok_and(|groups| has_group(&groups, name));
                there.then(|| format!("remove the group {name}"))
            }
        }
    }

    fn undo(&self, root: &Path, what: &str) -> Result<(), Error> {
        match self {
            Self::Directory(path) => match fs::remove_dir(root.join(path)) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
                done => done,
            },
            Self::File(path, _) | Self::Link(path) => fs::remove_file(root.join(path)),
            Self::Line(path, line) => without_line(&root.join(path), line),
            Self::Group(name) => return command(what, "groupdel", &[name], root),
        }
        .map_err(failed(what))
    }
}

/// A file that holds nothing else goes.
fn without_line(file: &Path, line: &str) -> io::Result<()> {
    let text = fs::read_to_string(file)?;
    let rest: String = text.split_inclusive('\n').filter(|other| other.trim_end() != line).collect();
    if rest.is_empty() {
        return fs::remove_file(file);
    }
    write(file, rest.as_bytes(), fs::metadata(file)?.mode() & 0o777)
}

fn has_group(groups: &str, name: &str) -> bool {
    groups.lines().any(|line| line.split(':').next() == Some(name))
}

/// In one moment: a program that runs keeps the file that it has, and nobody reads half of one.
fn write(to: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let folder = to.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    file.persist(to).map_err(|error| error.error)?;
    File::open(folder)?.sync_all()
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

/// shadow's programs know of another root (`--prefix`, since 4.5).
fn command(what: &str, program: &str, arguments: &[&str], root: &Path) -> Result<(), Error> {
    let mut command = Command::new(program);
    if root != Path::new("/") {
        command.arg("--prefix").arg(root);
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
    fn of(options: &Options) -> Result<Option<Self>, Error> {
        let file = options.manifest();
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

    fn write(&mut self, options: &Options) -> Result<(), Error> {
        env!("CARGO_PKG_VERSION").clone_into(&mut self.version);
        let file = options.manifest();
        let text = serde_json::to_vec_pretty(self).map_err(|source| Error::Manifest { file: file.clone(), source })?;
        write(&file, &text, 0o644).map_err(failed(format!("write {}", file.display())))
    }
}
