//! All signatures, and the way from a process to the one that fits.

use std::collections::{BTreeSet, HashMap};
use std::fs::DirEntry;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::explain::Trial;
use super::format::SignatureError;
use super::signature::{Score, Signature};
use super::{ARGUMENTS, Ask, Match, NothingToAsk, ProcessFacts, builtin, is_interpreter, window, windows};
use crate::record::rows::SignatureRow;
use crate::trust::{self, TrustError};
use crate::value::Text;
use crate::yaml::{self, FileError};

/// Files that are read of one directory.
const MAX_FILES: usize = 1000;

/// Files beside the signatures that hold rules, and no agent.
pub const RULES: [&str; 2] = ["endpoints.yaml", "files.yaml"];

/// Characters of an argument that count.
const MAX_ARGUMENT: usize = 512;

/// Which entries have a word.
type Index = HashMap<Box<str>, Vec<usize>>;

/// The signatures that hold now.
#[derive(Debug, Default)]
pub struct Catalogue {
    /// In the order of names.
    entries: Vec<Entry>,
    refused: Vec<Refused>,
    /// Where each name is, while files are read.
    by_name: HashMap<Box<str>, usize>,
    /// Which entries have a literal.
    by_literal: Index,
    /// Which entries have it as the name that a path ends in.
    by_last: Index,
    /// Both for paths of Windows, made when the first one is looked at.
    of_windows: OnceLock<[Index; 2]>,
    /// Entries that no literal points to: they are tried for every process.
    late: Vec<usize>,
}

/// What came of reading a file.
#[derive(Debug)]
pub struct Checked {
    /// The file.
    pub file: String,
    /// What it says of the agent, or what is wrong with it.
    pub result: Result<SignatureRow, SignatureError>,
}

#[derive(Debug)]
struct Entry {
    signature: Arc<Signature>,
    source: String,
    /// Which directory it is from; 0 for those that are compiled in.
    origin: usize,
    replaces: Option<String>,
    /// What is wrong with the file by now: this is its last good version.
    broken: Option<String>,
}

#[derive(Debug)]
struct Refused {
    name: String,
    source: String,
    error: SignatureError,
}

impl Catalogue {
    /// The signatures that are compiled in.
    #[must_use]
    pub fn builtin() -> Self {
        Self::load(&[])
    }

    /// The signatures that are compiled in and those of the directories, which replace earlier ones of the same name.
    /// A directory that is not there has none; a bad file is refused, and the others still count.
    #[must_use]
    pub fn load(dirs: &[PathBuf]) -> Self {
        Self::load_after(dirs, &Self::default())
    }

    /// The same, when others were loaded before: of a file that is bad by now the last good version is kept.
    #[must_use]
    pub fn load_after(dirs: &[PathBuf], before: &Self) -> Self {
        let mut catalogue = Self::default();
        for (name, text) in builtin::FILES {
            let source = format!("builtin:{name}");
            let compiled = Signature::compile(&source, text);
            catalogue.add((*name).to_owned(), source, compiled, 0);
        }
        for (index, dir) in dirs.iter().enumerate() {
            catalogue.add_directory(dir, index + 1, before);
        }
        catalogue.index();
        catalogue
    }

    /// Reads files as a directory of signatures would be read, whoever may have written them, and tells of each.
    #[must_use]
    pub fn check(files: &[PathBuf]) -> Vec<Checked> {
        let mut catalogue = Self::default();
        for file in files {
            let source = file.display().to_string();
            let text = yaml::read_any(file).map_err(SignatureError::from);
            catalogue.add(source.clone(), source.clone(), text.and_then(|text| Signature::compile(&source, &text)), 1);
        }
        let refused = catalogue.refused.into_iter().map(|refused| (refused.source, Err(refused.error)));
        let loaded = catalogue.entries.into_iter().map(|entry| {
            let row = entry.row();
            (entry.source, Ok(row))
        });
        let mut checked: Vec<Checked> = refused.chain(loaded).map(|(file, result)| Checked { file, result }).collect();
        checked.sort_by_key(|checked| files.iter().position(|file| file.display().to_string() == checked.file));
        checked
    }

    /// The name of the agent that this text is a signature of.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn name_in(source: &str, text: &str) -> Result<Text, SignatureError> {
        Signature::compile(source, text).map(|signature| signature.name)
    }

    fn add_directory(&mut self, dir: &Path, origin: usize, before: &Self) {
        let files = match signature_files(dir) {
            Ok(files) => files,
            Err(error) => {
                for entry in before.entries.iter().filter(|entry| Path::new(&entry.source).parent() == Some(dir)) {
                    self.keep(entry, error.to_string(), origin);
                }
                return self.refuse(dir, error);
            }
        };
        for file in files.iter().take(MAX_FILES) {
            let source = file.display().to_string();
            let text = yaml::read(file).map_err(SignatureError::from);
            let compiled = text.and_then(|text| Signature::compile(&source, &text));
            let last = before.entries.iter().find(|entry| entry.source == source);
            match (compiled, last) {
                (Err(error), Some(last)) => self.keep(last, error.to_string(), origin),
                (compiled, _) => self.add(name_of(file), source, compiled, origin),
            }
        }
        if files.len() > MAX_FILES {
            self.refuse(dir, SignatureError::TooMany { dir: dir.into(), limit: MAX_FILES });
        }
    }

    fn refuse(&mut self, path: &Path, error: SignatureError) {
        self.add(name_of(path), path.display().to_string(), Err(error), 0);
    }

    fn keep(&mut self, last: &Entry, broken: String, origin: usize) {
        let (signature, source) = (last.signature.clone(), last.source.clone());
        self.put(
            name_of(Path::new(&last.source)),
            Entry { signature, source, origin, replaces: None, broken: Some(broken) },
        );
    }

    fn add(&mut self, name: String, source: String, compiled: Result<Signature, SignatureError>, origin: usize) {
        let signature = match compiled {
            Ok(signature) => Arc::new(signature),
            Err(error) => return self.refused.push(Refused { name, source, error }),
        };
        self.put(name, Entry { signature, source, origin, replaces: None, broken: None });
    }

    fn put(&mut self, name: String, new: Entry) {
        let Some(index) = self.by_name.get(&*new.signature.name).copied() else {
            self.by_name.insert((*new.signature.name).into(), self.entries.len());
            return self.entries.push(new);
        };
        let Some(entry) = self.entries.get_mut(index) else { return };
        if entry.origin == new.origin {
            // Which of the two is meant nobody can know: the first one stays, so that it is the same at every start.
            let error = twice(&new.signature, &new.source, &entry.source);
            return self.refused.push(Refused { name, source: new.source, error });
        }
        let replaces = Some(std::mem::take(&mut entry.source));
        *entry = Entry { replaces, ..new };
    }

    fn index(&mut self) {
        self.by_name = HashMap::new();
        self.entries.sort_by(|a, b| a.signature.name.cmp(&b.signature.name));
        for (index, entry) in self.entries.iter().enumerate() {
            let (literals, late) = entry.signature.literals();
            for literal in literals.into_iter().collect::<BTreeSet<_>>() {
                self.by_literal.entry(literal.into()).or_default().push(index);
            }
            for name in entry.signature.last_components().collect::<BTreeSet<_>>() {
                self.by_last.entry(name.as_str().into()).or_default().push(index);
            }
            if !late.is_empty() {
                self.late.push(index);
            }
        }
    }

    /// Which agent a process is, by its facts alone; `None` for all others.
    #[must_use]
    pub fn identify(&self, facts: &ProcessFacts) -> Option<Match> {
        self.identify_asking(facts, &NothingToAsk)
    }

    /// Which agent a process is; `None` for all others. What a signature wants to know beyond the facts is asked for.
    #[must_use]
    pub fn identify_asking(&self, facts: &ProcessFacts, ask: &dyn Ask) -> Option<Match> {
        match windows::Plain::of(facts) {
            Some(plain) => self.identify_plain(&plain.facts(), ask),
            None => self.identify_plain(facts, ask),
        }
    }

    fn identify_plain(&self, facts: &ProcessFacts, ask: &dyn Ask) -> Option<Match> {
        let candidates = self.candidates(facts);
        if candidates.is_empty() {
            return None;
        }
        let argv = argv_text(facts.argv);
        let (signature, score) = candidates
            .into_iter()
            .filter_map(|index| self.entries.get(index))
            .filter_map(|entry| Some((&entry.signature, entry.signature.score(facts, &argv, ask)?)))
            // The first of equals, in the order of names: the same answer every time.
            .reduce(|best, other| if other.1.confidence > best.1.confidence { other } else { best })?;
        Some(matched(signature, score))
    }

    /// Entries that a process may fit.
    fn candidates(&self, facts: &ProcessFacts) -> BTreeSet<usize> {
        let mut candidates = BTreeSet::<usize>::new();
        for path in looked_up(facts) {
            let (by_literal, by_last) = self.index_for(path);
            for (place, component) in window(path).enumerate() {
                candidates.extend(by_literal.get(component).into_iter().flatten());
                if place == 0 {
                    candidates.extend(by_last.get(component).into_iter().flatten());
                }
            }
        }
        candidates.extend(&self.late);
        candidates
    }

    fn index_for(&self, path: &str) -> (&Index, &Index) {
        if !windows::is_plain(path) {
            return (&self.by_literal, &self.by_last);
        }
        let [by_literal, by_last] = self.of_windows.get_or_init(|| {
            [&self.by_literal, &self.by_last].map(|index| {
                let mut folded = Index::new();
                for (word, entries) in index {
                    // A directory's name is whole, a program's without its ending.
                    for word in BTreeSet::from([word.to_lowercase(), windows::folded(word)]) {
                        folded.entry(word.into()).or_default().extend(entries);
                    }
                }
                folded
            })
        });
        (by_literal, by_last)
    }

    /// Holds all signatures that a process may fit against it, or the named one, and tells what came of it.
    #[must_use]
    pub fn explain(&self, facts: &ProcessFacts, ask: &dyn Ask, named: Option<&str>) -> Vec<Trial> {
        match windows::Plain::of(facts) {
            Some(plain) => self.explain_plain(&plain.facts(), ask, named),
            None => self.explain_plain(facts, ask, named),
        }
    }

    fn explain_plain(&self, facts: &ProcessFacts, ask: &dyn Ask, named: Option<&str>) -> Vec<Trial> {
        let argv = argv_text(facts.argv);
        let candidates = self.candidates(facts);
        let entries = self.entries.iter().enumerate().filter(|(index, entry)| match named {
            Some(name) => *entry.signature.name == *name,
            None => candidates.contains(index),
        });
        let mut trials: Vec<Trial> = entries
            .map(|(index, entry)| {
                let signature = &entry.signature;
                let rules = signature.rules_for(facts, ask);
                let verdict = match signature.score(facts, &argv, ask) {
                    Some(_) if !candidates.contains(&index) => Err("no component of the path is one by which it is                                                                     looked for, so that the kernel does not tell of it"
                        .to_owned()),
                    Some(score) => Ok(matched(signature, score)),
                    None => Err(signature.why_not(&rules)),
                };
                Trial { signature: Arc::clone(signature), rules, verdict }
            })
            .collect();
        // The best first; of equals the first by name, as `identify` has it.
        trials.sort_by_key(|trial| std::cmp::Reverse(trial.verdict.as_ref().map_or(0, |found| found.confidence)));
        trials
    }

    /// What signatures are looked up by: the last components of the path, and of the first arguments of an interpreter.
    #[must_use]
    pub fn components<'a>(facts: &ProcessFacts<'a>) -> Vec<&'a str> {
        looked_up(facts).flat_map(window).collect()
    }

    /// The signatures that hold.
    pub fn signatures(&self) -> impl Iterator<Item = &Arc<Signature>> {
        self.entries.iter().map(|entry| &entry.signature)
    }

    /// The signature of that name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Arc<Signature>> {
        let place = self.entries.binary_search_by(|entry| (*entry.signature.name).cmp(name)).ok()?;
        self.entries.get(place).map(|entry| &entry.signature)
    }

    /// What was read: a row a signature, and a row a file that was refused.
    #[must_use]
    pub fn rows(&self) -> Vec<SignatureRow> {
        let refused = self.refused.iter().map(|refused| SignatureRow {
            agent: refused.name.as_str().into(),
            display_name: refused.name.as_str().into(),
            source: refused.source.as_str().into(),
            status: "refused",
            message: Some(refused.error.to_string().into()),
            ..SignatureRow::default()
        });
        self.entries.iter().map(Entry::row).chain(refused).collect()
    }

    /// The path components of which every process has at least one that an early signature recognises, or one of
    /// [`Catalogue::names`]: whole, and among the last [`super::WINDOW`] of the executable's path or, for an interpreter, of
    /// `argv[1..=3]`.
    #[must_use]
    pub fn literals(&self) -> Vec<String> {
        sorted(&self.by_literal)
    }

    /// The same of what counts as the last component alone: names are those of users and directories as well.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        sorted(&self.by_last)
    }

    /// Variables that agents set in the environment of what they start.
    #[must_use]
    pub fn markers(&self) -> Vec<String> {
        let all: BTreeSet<&String> = self.signatures().flat_map(|signature| &signature.child_env).collect();
        all.into_iter().cloned().collect()
    }

    /// Whether some signature has no such component, so that every exec must be looked at in user space.
    #[must_use]
    pub fn needs_every_exec(&self) -> bool {
        !self.late.is_empty()
    }
}

impl Entry {
    fn row(&self) -> SignatureRow {
        let signature = &*self.signature;
        let late = signature.literals().1;
        let mut remarks: Vec<_> =
            self.broken.iter().map(|broken| format!("its last good version holds: {broken}")).collect();
        if let Some(replaces) = &self.replaces {
            remarks.push(format!("replaces {replaces}"));
        }
        remarks.extend(signature.left_out.iter().cloned());
        for pattern in &late {
            remarks.push(format!("recognised late: {pattern} has no whole path component that is the agent's own"));
        }
        if signature.lacks_script_names() && late.is_empty() {
            remarks.push("script_names is empty: not recognised when started through a link".to_owned());
        }
        SignatureRow {
            agent: signature.name.clone(),
            display_name: signature.display_name.clone(),
            vendor: signature.vendor.clone(),
            category: Some(signature.category.as_str().into()),
            source: self.source.as_str().into(),
            status: if self.broken.is_some() { "kept" } else { "loaded" },
            message: (!remarks.is_empty()).then(|| remarks.join("; ").into()),
            early: late.is_empty(),
            rules: i64::try_from(signature.rules()).unwrap_or(i64::MAX),
        }
    }
}

fn matched(signature: &Arc<Signature>, score: Score) -> Match {
    let Score { confidence, evidence, role, version, unattended } = score;
    Match { signature: Arc::clone(signature), confidence, evidence, role, version, unattended }
}

fn looked_up<'a>(facts: &ProcessFacts<'a>) -> impl Iterator<Item = &'a str> {
    let arguments = if is_interpreter(facts.path) { facts.argv } else { &[] };
    // What Windows runs is told with the whole path of its script, or none.
    let script = facts.script.filter(|script| windows::is_plain(script));
    std::iter::once(facts.path).chain(arguments.iter().take(ARGUMENTS).skip(1).map(String::as_str)).chain(script)
}

fn sorted(index: &Index) -> Vec<String> {
    let mut words: Vec<String> = index.keys().map(ToString::to_string).collect();
    words.sort_unstable();
    words
}

fn twice(signature: &Signature, source: &str, first: &str) -> SignatureError {
    let message = format!("name: {} is the name in {first} too; give one of them another name", signature.name);
    FileError::at(source, signature.at, message).into()
}

/// The first arguments as `argv_patterns` sees them.
pub(super) fn argv_text(argv: &[String]) -> String {
    text_of(argv, ARGUMENTS)
}

/// Arguments as expressions see them: joined by one space, white space inside an argument as `_`, so that the words of a
/// prompt do not look like arguments.
pub(super) fn text_of(argv: &[String], most: usize) -> String {
    let mut text = String::new();
    for (index, argument) in argv.iter().take(most).enumerate() {
        if index > 0 {
            text.push(' ');
        }
        if argument.len() <= MAX_ARGUMENT && !argument.contains(char::is_whitespace) {
            text.push_str(argument);
        } else {
            text.extend(argument.chars().take(MAX_ARGUMENT).map(|c| if c.is_whitespace() { '_' } else { c }));
        }
    }
    text
}

/// The signature files of a directory, in the order of their names.
fn signature_files(dir: &Path) -> Result<Vec<PathBuf>, SignatureError> {
    let read = |source| TrustError::Read { file: dir.into(), source };
    if !dir.try_exists().map_err(read)? {
        return Ok(Vec::new());
    }
    trust::directory(dir)?;
    Ok(files_in(dir).map_err(read)?)
}

/// The files of a directory that are signatures by their names, in the order of these.
///
/// # Errors
/// When it cannot be read.
pub fn files_in(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries: Vec<DirEntry> = std::fs::read_dir(dir)?.collect::<Result<_, _>>()?;
    let mut files: Vec<PathBuf> = entries.iter().map(DirEntry::path).filter(|path| is_signature_file(path)).collect();
    files.sort_unstable();
    Ok(files)
}

/// Whether a file is a signature, by its name.
pub(crate) fn is_signature_file(path: &Path) -> bool {
    let is_rules = path.file_name().is_some_and(|name| RULES.iter().any(|rules| name == *rules));
    path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") && !is_rules
}

fn name_of(path: &Path) -> String {
    path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
