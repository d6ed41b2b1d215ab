//! A signature, compiled: what it holds a process for, and how sure that is.
//!
//! Rules are facts of two kinds. A path that names a directory of the agent's own decides alone. A file name, or a path
//! that has only directories of everybody (`*/bin/aider`), does not: it needs a second fact, from the arguments, the
//! parent or the interpreter.

use regex::{Regex, RegexBuilder};
use serde_saphyr::{Location, Spanned};

use super::format::{Category, File, Not, SignatureError, Texts, Version};
use super::glob::Glob;
use super::version::{self, From, VersionRule, VersionSource};
use super::{ProcessFacts, Role, file_name, interpreter, is_interpreter, script_candidates};
use crate::value::Text;
use crate::yaml::{self, FileError};

/// A path in a directory of the agent's own, or `python -m` with its module.
const STRONG: u32 = 90;
/// The same for a script whose path could not be resolved and is taken as it stands in argv.
const STRONG_UNRESOLVED: u32 = 80;
/// A file name.
const WEAK: u32 = 30;
/// Each second fact.
const SECOND: u32 = 20;
/// What a match needs.
const NEEDED: u32 = 50;

/// Entries that a list of a signature may have.
const MAX_ENTRIES: usize = 256;
/// Bytes of a variable's name that the kernel compares.
const MAX_VARIABLE: usize = 47;
/// And by which it leaves most others behind.
const MIN_VARIABLE: usize = 4;
/// Variables that are in every environment.
const EVERYBODYS: &[&str] =
    &["HOME", "LANG", "LOGNAME", "PATH", "PWD", "SHELL", "SHLVL", "TERM", "TMPDIR", "USER", "DISPLAY", "EDITOR", "_"];
/// Memory of a compiled expression.
const MAX_REGEX: usize = 1 << 18;

/// What an agent is called, how it is told and what is normal for it.
#[derive(Debug)]
pub struct Signature {
    /// Its name in every row.
    pub name: Text,
    /// Its name for people.
    pub display_name: Text,
    /// Who makes it.
    pub vendor: Option<Text>,
    /// What kind of program it is.
    pub category: Category,
    /// Whether what its processes start belongs to it.
    pub child_process_tracking: bool,
    /// Variables that it sets in the environment of what it starts.
    pub child_env: Vec<String>,
    /// Hosts that it is expected to talk to, with all below them.
    pub expected_endpoints: Vec<String>,
    names: Vec<String>,
    exe: Vec<Glob>,
    script: Vec<Glob>,
    script_names: Vec<String>,
    script_modules: Vec<String>,
    interpreters: Vec<Glob>,
    argv: Vec<Regex>,
    parents: Vec<String>,
    not: Vec<Exclusion>,
    daemon: Vec<Regex>,
    version: Vec<VersionRule>,
}

#[derive(Debug)]
struct Exclusion {
    argv0: Option<Glob>,
    exe: Option<Glob>,
    script: Option<Glob>,
    argv: Option<Regex>,
}

/// How well a process fits.
pub(super) struct Score {
    pub confidence: u8,
    pub evidence: String,
    pub role: Role,
    pub version: VersionSource,
}

/// One fact: its weight, its rule for people, and the path that it is about.
struct Fact<'a> {
    weight: u32,
    evidence: String,
    subject: &'a str,
}

impl Signature {
    /// Compiles one file's text. `source` is how messages call it.
    pub(super) fn compile(source: &str, text: &str) -> Result<Self, SignatureError> {
        let File {
            name,
            display_name,
            vendor,
            category,
            detection,
            roles,
            version,
            child_process_tracking,
            child_env,
            network_endpoints,
        } = yaml::parse_file(source, text)?;
        let check = Check { source };
        let detection_at = detection.referenced;
        let detection = detection.value;
        let signature = Self {
            name: check.name(&name)?.into(),
            display_name: check.text("display_name", &display_name)?.into(),
            vendor: vendor.filter(|vendor| !vendor.is_empty()).map(Into::into),
            category,
            child_process_tracking,
            child_env: check.each("child_env", &child_env, Check::variable)?,
            expected_endpoints: check.each("expected", &network_endpoints.expected, Check::host)?,
            names: check.each("names", &detection.names, Check::file_name)?,
            exe: check.each("exe_patterns", &detection.exe_patterns, Check::path_glob)?,
            script: check.each("script_patterns", &detection.script_patterns, Check::path_glob)?,
            script_names: check.each("script_names", &detection.script_names, Check::file_name)?,
            script_modules: check.each("script_modules", &detection.script_modules, Check::file_name)?,
            interpreters: check.each("interpreters", &detection.interpreters, Check::glob)?,
            argv: check.each("argv_patterns", &detection.argv_patterns, Check::regex)?,
            parents: check.each("parent_hints", &detection.parent_hints, Check::file_name)?,
            not: check.all("not", &detection.not, Check::exclusion)?,
            daemon: check.each("daemon", &roles.daemon, Check::regex)?,
            version: check.all("version", &version, Check::version)?,
        };
        signature.check_detection(&check, detection_at)?;
        Ok(signature)
    }

    /// Rules that could never hold are a mistake, not a signature.
    fn check_detection(&self, check: &Check, at: Location) -> Result<(), SignatureError> {
        let second = !self.argv.is_empty() || !self.parents.is_empty();
        let decides = |globs: &[Glob], second: bool| globs.iter().any(|glob| second || glob.names_directory());
        let possible = decides(&self.exe, second)
            || decides(&self.script, second || !self.interpreters.is_empty())
            || !self.script_modules.is_empty()
            || (second && !self.names.is_empty());
        if possible {
            return Ok(());
        }
        Err(check.wrong(
            at,
            "detection: nothing here can decide: give exe_patterns or script_patterns with a directory of the agent's \
             own, or names together with argv_patterns or parent_hints",
        ))
    }

    /// Path components of which every match has at least one; `Err` with the pattern for which there is none.
    pub(super) fn literals(&self) -> (Vec<&str>, Vec<&str>) {
        let mut literals: Vec<&str> = Vec::new();
        let mut late = Vec::new();
        for glob in &self.exe {
            match glob.literal() {
                Some(literal) => literals.push(literal),
                None => late.push(glob.as_str()),
            }
        }
        for glob in &self.script {
            match glob.literal() {
                Some(literal) => literals.push(literal),
                None if self.script_names.is_empty() => late.push(glob.as_str()),
                None => {}
            }
        }
        literals.extend(self.names.iter().map(String::as_str));
        literals.extend(self.script_names.iter().map(String::as_str));
        literals.extend(self.script_modules.iter().map(String::as_str));
        (literals, late)
    }

    /// Scripts are started through links of another name, and none is given.
    pub(super) fn lacks_script_names(&self) -> bool {
        !self.script.is_empty() && self.script_names.is_empty()
    }

    /// How many rules there are.
    pub(super) fn rules(&self) -> usize {
        [self.names.len(), self.script_names.len(), self.script_modules.len(), self.parents.len()].iter().sum::<usize>()
            + [self.exe.len(), self.script.len(), self.interpreters.len()].iter().sum::<usize>()
            + [self.argv.len(), self.not.len()].iter().sum::<usize>()
    }

    /// Whether a host is one that this agent is expected to talk to; none when it says nothing of hosts.
    #[must_use]
    pub fn is_expected(&self, host: &str) -> Option<bool> {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let expected = || self.expected_endpoints.iter().any(|domain| is_at_or_below(&host, domain));
        (!self.expected_endpoints.is_empty()).then(expected)
    }

    /// Holds the rules against a process; `argv` is what [`argv_text`](super::catalogue) made of its arguments.
    pub(super) fn score(&self, facts: &ProcessFacts, argv: &str) -> Option<Score> {
        let script = is_interpreter(facts.path).then(|| self.script(facts)).flatten();
        let first = [self.executable(facts), script].into_iter().flatten().max_by_key(|fact| fact.weight)?;
        if self.not.iter().any(|not| not.holds(facts, argv)) {
            return None;
        }
        let mut confidence = first.weight;
        let mut evidence = first.evidence;
        let mut add = |what: &str, rule: &str| {
            confidence += SECOND;
            evidence.push_str("; ");
            evidence.push_str(what);
            evidence.push_str(rule);
        };
        if let Some(regex) = self.argv.iter().find(|regex| regex.is_match(argv)) {
            add("arguments match ", regex.as_str());
        }
        if let Some(parent) = facts.parent_name.filter(|name| self.parents.iter().any(|hint| hint == name)) {
            add("parent is ", parent);
        }
        if first.subject != facts.path
            && let Some(glob) = self.interpreters.iter().find(|glob| glob.matches(file_name(facts.path)))
        {
            add("run by ", glob.as_str());
        }
        if confidence < NEEDED {
            return None;
        }
        let daemon = self.daemon.iter().any(|regex| regex.is_match(argv));
        Some(Score {
            confidence: u8::try_from(confidence.min(100)).unwrap_or(100),
            evidence,
            role: if daemon { Role::Daemon } else { Role::Main },
            version: version::find(&self.version, first.subject),
        })
    }

    /// The best fact about the executable.
    fn executable<'a>(&self, facts: &ProcessFacts<'a>) -> Option<Fact<'a>> {
        let by_path = best(&self.exe, facts.path, STRONG).map(|(weight, glob)| Fact {
            weight,
            evidence: format!("executable matches {glob}"),
            subject: facts.path,
        });
        let by_name = || {
            let name = self.names.iter().find(|name| *name == file_name(facts.path))?;
            Some(Fact { weight: WEAK, evidence: format!("executable is named {name}"), subject: facts.path })
        };
        by_path.or_else(by_name)
    }

    /// The best fact about the script that an interpreter runs.
    fn script<'a>(&self, facts: &ProcessFacts<'a>) -> Option<Fact<'a>> {
        if !self.interpreters.is_empty() && !self.interpreters.iter().any(|glob| glob.matches(file_name(facts.path))) {
            return None;
        }
        if let Some(module) = interpreter::module(facts.argv) {
            let module = self.script_modules.iter().find(|name| *name == module)?;
            return Some(Fact { weight: STRONG, evidence: format!("runs the module {module}"), subject: "" });
        }
        let fact = |path: &'a str, strong| {
            let (weight, glob) = best(&self.script, path, strong)?;
            Some(Fact { weight, evidence: format!("script matches {glob}"), subject: path })
        };
        match facts.script {
            Some(path) => fact(path, STRONG),
            None => script_candidates(facts.argv).find_map(|path| fact(path, STRONG_UNRESOLVED)),
        }
    }
}

impl Exclusion {
    fn holds(&self, facts: &ProcessFacts, argv: &str) -> bool {
        let argv0 = facts.argv.first().map_or("", |name| file_name(name));
        self.argv0.as_ref().is_none_or(|glob| glob.matches(argv0))
            && self.exe.as_ref().is_none_or(|glob| glob.matches(facts.path))
            && self.script.as_ref().is_none_or(|glob| facts.script.is_some_and(|script| glob.matches(script)))
            && self.argv.as_ref().is_none_or(|regex| regex.is_match(argv))
    }
}

/// The pattern that fits and tells most.
fn best<'a>(globs: &'a [Glob], path: &str, strong: u32) -> Option<(u32, &'a str)> {
    globs
        .iter()
        .filter(|glob| glob.matches(path))
        .map(|glob| (if glob.names_directory() { strong } else { WEAK }, glob.as_str()))
        .max_by_key(|(weight, _)| *weight)
}

/// Whether a host is that one or one below it. Both in lower case.
#[must_use]
pub fn is_at_or_below(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain).is_some_and(|below| below.is_empty() || below.ends_with('.'))
}

/// Checks and compiles the texts of one file.
struct Check<'a> {
    source: &'a str,
}

impl Check<'_> {
    fn wrong(&self, at: Location, message: impl Into<String>) -> SignatureError {
        FileError::at(self.source, at, message).into()
    }

    /// Compiles a list.
    fn all<F, T>(
        &self,
        field: &str,
        entries: &[Spanned<F>],
        compile: impl Fn(&Self, &str, &Spanned<F>) -> Result<T, SignatureError>,
    ) -> Result<Vec<T>, SignatureError> {
        if let Some(entry) = entries.get(MAX_ENTRIES) {
            return Err(self.wrong(entry.referenced, format!("{field}: more than {MAX_ENTRIES} entries")));
        }
        entries.iter().map(|entry| compile(self, field, entry)).collect()
    }

    /// Compiles a list of texts.
    fn each<T>(
        &self,
        field: &str,
        entries: &Texts,
        compile: impl Fn(&Self, &str, &Spanned<String>) -> Result<T, SignatureError>,
    ) -> Result<Vec<T>, SignatureError> {
        self.all(field, entries, |check, field, entry| {
            check.text(field, entry)?;
            compile(check, field, entry)
        })
    }

    fn text<'t>(&self, field: &str, text: &'t Spanned<String>) -> Result<&'t str, SignatureError> {
        let Some(problem) = yaml::problem(&text.value) else { return Ok(&text.value) };
        Err(self.wrong(text.referenced, format!("{field}: {problem}")))
    }

    fn name<'t>(&self, name: &'t Spanned<String>) -> Result<&'t str, SignatureError> {
        let fits = |text: &str| {
            text.len() <= 64
                && text.starts_with(|first: char| first.is_ascii_lowercase())
                && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte))
        };
        if fits(&name.value) {
            return Ok(&name.value);
        }
        let message = "name: must be 1 to 64 of a-z, 0-9, - and _, and begin with a letter";
        Err(self.wrong(name.referenced, message))
    }

    fn file_name(&self, field: &str, text: &Spanned<String>) -> Result<String, SignatureError> {
        if text.value.contains(['/', '*']) {
            let message = format!("{field}: {:?} must be a whole file name, without / and *", text.value);
            return Err(self.wrong(text.referenced, message));
        }
        Ok(text.value.clone())
    }

    fn variable(&self, field: &str, text: &Spanned<String>) -> Result<String, SignatureError> {
        let name = text.value.as_str();
        let fits = (MIN_VARIABLE..=MAX_VARIABLE).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && !name.starts_with(|first: char| first.is_ascii_digit());
        if fits && !EVERYBODYS.contains(&name) {
            return Ok(name.to_owned());
        }
        let message = format!("{field}: {name:?} must be the name of a variable that only this agent sets");
        Err(self.wrong(text.referenced, message))
    }

    fn host(&self, field: &str, text: &Spanned<String>) -> Result<String, SignatureError> {
        Ok(yaml::host(self.source, field, text)?)
    }

    #[allow(clippy::unused_self, clippy::unnecessary_wraps, reason = "has the form of the other compilers")]
    fn glob(&self, _field: &str, text: &Spanned<String>) -> Result<Glob, SignatureError> {
        Ok(Glob::new(&text.value))
    }

    fn path_glob(&self, field: &str, text: &Spanned<String>) -> Result<Glob, SignatureError> {
        if !text.value.starts_with(['/', '*']) {
            let message = format!("{field}: {:?} must begin with / or *, for the whole path is compared", text.value);
            return Err(self.wrong(text.referenced, message));
        }
        Ok(Glob::new(&text.value))
    }

    fn regex(&self, field: &str, text: &Spanned<String>) -> Result<Regex, SignatureError> {
        RegexBuilder::new(&text.value).size_limit(MAX_REGEX).dfa_size_limit(MAX_REGEX).build().map_err(|error| {
            // The crate draws the place over several lines; the last one says what is wrong.
            let text_of = error.to_string();
            let what = text_of.lines().last().unwrap_or_default().trim_start_matches("error: ");
            self.wrong(text.referenced, format!("{field}: {:?} is not a regular expression: {what}", text.value))
        })
    }

    fn exclusion(&self, field: &str, not: &Spanned<Not>) -> Result<Exclusion, SignatureError> {
        let Not { argv0, exe, script, argv } = &not.value;
        if argv0.is_none() && exe.is_none() && script.is_none() && argv.is_none() {
            let message = format!("{field}: an empty entry would exclude everything");
            return Err(self.wrong(not.referenced, message));
        }
        let path = |path: &Option<Spanned<String>>| path.as_ref().map(|p| self.path_glob(field, p)).transpose();
        Ok(Exclusion {
            argv0: argv0.as_ref().map(|text| self.glob(field, text)).transpose()?,
            exe: path(exe)?,
            script: path(script)?,
            argv: argv.as_ref().map(|text| self.regex(field, text)).transpose()?,
        })
    }

    fn version(&self, field: &str, rule: &Spanned<Version>) -> Result<VersionRule, SignatureError> {
        let Version { of, path, package_json } = &rule.value;
        let from = match (path, package_json) {
            (Some(text), None) => {
                let regex = self.regex(field, text)?;
                if regex.captures_len() < 2 {
                    let message = format!("{field}: {:?} has no group (...) around the version", text.value);
                    return Err(self.wrong(text.referenced, message));
                }
                From::Path(regex)
            }
            (None, Some(text)) => {
                self.text(field, text)?;
                if text.value.starts_with('/') {
                    let message = format!("{field}: package_json must be relative to the executable or script");
                    return Err(self.wrong(text.referenced, message));
                }
                From::PackageJson(text.value.as_str().into())
            }
            _ => return Err(self.wrong(rule.referenced, format!("{field}: give one of path and package_json"))),
        };
        Ok(VersionRule { of: of.as_ref().map(|text| self.path_glob(field, text)).transpose()?, from })
    }
}
