//! All signatures, and the way from a process to the one that fits.

use std::collections::{BTreeSet, HashMap};
use std::fs::DirEntry;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::format::SignatureError;
use super::signature::{Score, Signature};
use super::{ARGUMENTS, Match, ProcessFacts, builtin, is_interpreter, window};
use crate::record::rows::SignatureRow;
use crate::trust::{self, TrustError};
use crate::value::Text;
use crate::yaml;

/// Files that are read of one directory.
const MAX_FILES: usize = 1000;

/// Files beside the signatures that hold rules, and no agent.
pub const RULES: [&str; 2] = ["endpoints.yaml", "files.yaml"];

/// Characters of an argument that count.
const MAX_ARGUMENT: usize = 512;

/// The signatures that hold now.
#[derive(Debug, Default)]
pub struct Catalogue {
    entries: Vec<Entry>,
    refused: Vec<Refused>,
    /// Which entries have a literal.
    by_literal: HashMap<Box<str>, Vec<usize>>,
    /// Entries that no literal points to: they are tried for every process.
    late: Vec<usize>,
}

#[derive(Debug)]
struct Entry {
    signature: Arc<Signature>,
    source: String,
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
            catalogue.add((*name).to_owned(), source, compiled);
        }
        for dir in dirs {
            catalogue.add_directory(dir, before);
        }
        catalogue.index();
        catalogue
    }

    /// The name of the agent that this text is a signature of.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn check(source: &str, text: &str) -> Result<Text, SignatureError> {
        Signature::compile(source, text).map(|signature| signature.name)
    }

    fn add_directory(&mut self, dir: &Path, before: &Self) {
        let files = match signature_files(dir) {
            Ok(files) => files,
            Err(error) => {
                for entry in before.entries.iter().filter(|entry| Path::new(&entry.source).parent() == Some(dir)) {
                    self.keep(entry, error.to_string());
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
                (Err(error), Some(last)) => self.keep(last, error.to_string()),
                (compiled, _) => self.add(name_of(file), source, compiled),
            }
        }
        if files.len() > MAX_FILES {
            self.refuse(dir, SignatureError::TooMany { dir: dir.into(), limit: MAX_FILES });
        }
    }

    fn refuse(&mut self, path: &Path, error: SignatureError) {
        self.add(name_of(path), path.display().to_string(), Err(error));
    }

    fn keep(&mut self, last: &Entry, broken: String) {
        let signature = last.signature.clone();
        self.put(Entry { signature, source: last.source.clone(), replaces: None, broken: Some(broken) });
    }

    fn add(&mut self, name: String, source: String, compiled: Result<Signature, SignatureError>) {
        let signature = match compiled {
            Ok(signature) => Arc::new(signature),
            Err(error) => return self.refused.push(Refused { name, source, error }),
        };
        self.put(Entry { signature, source, replaces: None, broken: None });
    }

    fn put(&mut self, new: Entry) {
        match self.entries.iter_mut().find(|entry| entry.signature.name == new.signature.name) {
            Some(entry) => {
                let replaces = Some(std::mem::take(&mut entry.source));
                *entry = Entry { replaces, ..new };
            }
            None => self.entries.push(new),
        }
    }

    fn index(&mut self) {
        self.entries.sort_by(|a, b| a.signature.name.cmp(&b.signature.name));
        for (index, entry) in self.entries.iter().enumerate() {
            let (literals, late) = entry.signature.literals();
            for literal in literals.into_iter().collect::<BTreeSet<_>>() {
                self.by_literal.entry(literal.into()).or_default().push(index);
            }
            if !late.is_empty() {
                self.late.push(index);
            }
        }
    }

    /// Which agent a process is; `None` for all others.
    #[must_use]
    pub fn identify(&self, facts: &ProcessFacts) -> Option<Match> {
        let mut candidates = BTreeSet::<usize>::new();
        let mut look_up = |path: &str| {
            for indices in window(path).filter_map(|component| self.by_literal.get(component)) {
                candidates.extend(indices);
            }
        };
        look_up(facts.path);
        if is_interpreter(facts.path) {
            facts.argv.iter().take(ARGUMENTS).skip(1).for_each(|argument| look_up(argument));
        }
        candidates.extend(&self.late);
        if candidates.is_empty() {
            return None;
        }
        let argv = argv_text(facts.argv);
        let (signature, score) = candidates
            .into_iter()
            .filter_map(|index| self.entries.get(index))
            .filter_map(|entry| Some((&entry.signature, entry.signature.score(facts, &argv)?)))
            // The first of equals, in the order of names: the same answer every time.
            .reduce(|best, other| if other.1.confidence > best.1.confidence { other } else { best })?;
        let Score { confidence, evidence, role, version } = score;
        Some(Match { signature: signature.clone(), confidence, evidence, role, version })
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

    /// The path components of which every process has at least one that an early signature recognises: whole, and among
    /// the last [`super::WINDOW`] of the executable's path or, for an interpreter, of `argv[1..=3]`.
    #[must_use]
    pub fn literals(&self) -> Vec<String> {
        let mut literals: Vec<String> = self.by_literal.keys().map(ToString::to_string).collect();
        literals.sort_unstable();
        literals
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

/// The first arguments as `argv_patterns` sees them: joined by one space, white space inside an argument as `_`, so that
/// the words of a prompt do not look like arguments.
fn argv_text(argv: &[String]) -> String {
    let mut text = String::new();
    for (index, argument) in argv.iter().take(ARGUMENTS).enumerate() {
        if index > 0 {
            text.push(' ');
        }
        text.extend(argument.chars().take(MAX_ARGUMENT).map(|c| if c.is_whitespace() { '_' } else { c }));
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
    let is_rules = |path: &PathBuf| path.file_name().is_some_and(|name| RULES.iter().any(|rules| name == *rules));
    let is_signature = |path: &PathBuf| {
        path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") && !is_rules(path)
    };
    let entries: Result<Vec<DirEntry>, _> = std::fs::read_dir(dir).map_err(read)?.collect();
    let mut files: Vec<PathBuf> =
        entries.map_err(read)?.into_iter().map(|entry| entry.path()).filter(is_signature).collect();
    files.sort_unstable();
    Ok(files)
}

fn name_of(path: &Path) -> String {
    path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
