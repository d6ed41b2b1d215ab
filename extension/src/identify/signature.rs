//! A signature, compiled: what it holds a process for, and how sure that is.
//!
//! Rules are facts of two kinds. A path that names a directory of the agent's own, a package's above all, decides alone.
//! A file name, or a path that has only directories of everybody (`*/bin/aider`), does not: it needs a second fact, from
//! the arguments, the environment, the parent or the interpreter.

use semver::VersionReq;
use serde_saphyr::Location;

use super::catalogue::text_of;
use super::format::Category;
use super::glob::Glob;
use super::package::Package;
use super::pattern::{Expression, Pattern};
use super::version::{self, VersionRule, VersionSource};
use super::{Ask, ProcessFacts, Role, file_name, interpreter, is_interpreter, script_candidates, windows};
use crate::value::Text;

/// A path in a directory of the agent's own, or `python -m` with its module.
pub(super) const STRONG: u32 = 90;
/// The same for a script whose path could not be resolved and is taken as it stands in argv.
pub(super) const STRONG_UNRESOLVED: u32 = 80;
/// A file name.
pub(super) const WEAK: u32 = 30;
/// Each second fact.
pub(super) const SECOND: u32 = 20;
/// What a match needs.
pub(super) const NEEDED: u32 = 50;

/// Arguments that may be a flag for `unattended`.
const FLAGS: usize = 64;

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
    /// Path patterns of the files in which it keeps its sessions; `~` is the user's home, and `*/` any
    /// directory: that of a project.
    pub sessions: Vec<String>,
    /// Variables that it sets in the environment of what it starts.
    pub child_env: Vec<String>,
    /// Hosts that it is expected to talk to, with all below them.
    pub expected_endpoints: Vec<String>,
    /// Where its name stands in the file.
    pub(super) at: Location,
    pub(super) suspicious_if_not_in_list: bool,
    pub(super) names: Vec<String>,
    pub(super) exe: Vec<Pattern>,
    pub(super) script: Vec<Pattern>,
    pub(super) script_names: Vec<String>,
    pub(super) script_modules: Vec<String>,
    pub(super) interpreters: Vec<Glob>,
    pub(super) packages: Vec<Package>,
    pub(super) argv: Vec<Expression>,
    pub(super) env: Vec<String>,
    pub(super) parents: Vec<String>,
    pub(super) versions: Option<VersionReq>,
    pub(super) not: Vec<Exclusion>,
    pub(super) daemon: Vec<Expression>,
    pub(super) helper: Vec<Expression>,
    pub(super) unattended: Vec<Expression>,
    pub(super) version: Vec<VersionRule>,
    /// What was left out of the file, for it says nothing.
    pub(super) left_out: Vec<String>,
}

#[derive(Debug)]
pub(super) struct Exclusion {
    pub argv0: Option<Glob>,
    pub exe: Option<Glob>,
    pub script: Option<Glob>,
    pub argv: Option<Expression>,
}

/// How well a process fits.
pub(super) struct Score {
    pub confidence: u8,
    pub evidence: String,
    pub role: Role,
    pub version: VersionSource,
    pub unattended: bool,
}

/// One fact: its weight, its rule for people, and the path that it is about.
struct Fact<'a> {
    weight: u32,
    evidence: String,
    subject: &'a str,
    /// Where the fact itself tells the version.
    version: VersionSource,
}

impl Signature {
    /// What a path ends in that its names fit: the executable's, or an argument.
    pub(super) fn last_components(&self) -> impl Iterator<Item = &String> {
        [&self.names, &self.script_names, &self.script_modules].into_iter().flatten()
    }

    /// Path components of which every match has at least one, unless it ends in one of [`Signature::last_components`]; and
    /// the rules for which there is none.
    pub(super) fn literals(&self) -> (Vec<String>, Vec<&str>) {
        let mut literals: Vec<String> = Vec::new();
        let mut late = Vec::new();
        let mut add = |found: Option<Vec<&str>>| match found {
            Some(found) => {
                literals.extend(found.into_iter().map(str::to_owned));
                true
            }
            None => false,
        };
        for pattern in &self.exe {
            if !add(pattern.literals()) {
                late.push(pattern.as_str());
            }
        }
        for pattern in &self.script {
            if !add(pattern.literals()) && self.script_names.is_empty() {
                late.push(pattern.as_str());
            }
        }
        for package in &self.packages {
            let of_package = package.literals();
            if of_package.is_empty() {
                late.push(package.as_str());
            }
            literals.extend(of_package);
        }
        (literals, late)
    }

    /// Scripts are started through links of another name, and none is given.
    pub(super) fn lacks_script_names(&self) -> bool {
        !self.script.is_empty() && self.script_names.is_empty()
    }

    /// How many rules there are.
    pub(super) fn rules(&self) -> usize {
        [&self.names, &self.script_names, &self.script_modules, &self.parents, &self.env]
            .map(Vec::len)
            .iter()
            .sum::<usize>()
            + [self.exe.len(), self.script.len(), self.interpreters.len(), self.packages.len()].iter().sum::<usize>()
            + [self.argv.len(), self.not.len(), usize::from(self.versions.is_some())].iter().sum::<usize>()
    }

    /// Whether a host is one that this agent is expected to talk to; none when it says nothing of that host.
    #[must_use]
    pub fn is_expected(&self, host: &str) -> Option<bool> {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let expected = self.expected_endpoints.iter().any(|domain| is_at_or_below(&host, domain));
        (expected || self.judges_endpoints()).then_some(expected)
    }

    /// Whether a host that is not listed is unexpected.
    #[must_use]
    pub fn judges_endpoints(&self) -> bool {
        self.suspicious_if_not_in_list && !self.expected_endpoints.is_empty()
    }

    /// Holds the rules against a process; `argv` is what [`text_of`] made of its first arguments.
    pub(super) fn score(&self, facts: &ProcessFacts, argv: &str, ask: &dyn Ask) -> Option<Score> {
        let script = is_interpreter(facts.path).then(|| self.script(facts, ask)).flatten();
        let first = [self.executable(facts, ask), script].into_iter().flatten().max_by_key(|fact| fact.weight)?;
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
        if let Some(name) = self.env.iter().find(|name| ask.has_variable(name)) {
            add("environment has ", name);
        }
        if let Some(parent) = facts
            .parent_name
            .filter(|name| self.parents.iter().any(|hint| windows::is_named_parent(facts.path, name, hint)))
        {
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
        let mut version = match version::find(&self.version, first.subject) {
            VersionSource::Unknown => first.version,
            found => found,
        };
        if let Some(range) = &self.versions
            && let Some(read) = version.read(ask)
        {
            if version::is_in(range, &read) == Some(false) {
                return None;
            }
            evidence.push_str("; version is ");
            evidence.push_str(&read);
            version = VersionSource::Known(read);
        }
        let any = |expressions: &[Expression]| expressions.iter().any(|regex| regex.is_match(argv));
        let role = if any(&self.helper) {
            Role::Helper
        } else if any(&self.daemon) {
            Role::Daemon
        } else {
            Role::Main
        };
        Some(Score {
            confidence: u8::try_from(confidence.min(100)).unwrap_or(100),
            evidence,
            role,
            version,
            unattended: self.is_unattended(facts.argv),
        })
    }

    /// Whether a flag says that nobody is asked. It may stand behind a prompt, so that more arguments count here.
    fn is_unattended(&self, argv: &[String]) -> bool {
        if self.unattended.is_empty() {
            return false;
        }
        let all = text_of(argv, FLAGS);
        self.unattended.iter().any(|regex| regex.is_match(&all))
    }

    /// The best fact about the executable.
    fn executable<'a>(&self, facts: &ProcessFacts<'a>, ask: &dyn Ask) -> Option<Fact<'a>> {
        let subject = facts.path;
        let fact = |weight, evidence| Fact { weight, evidence, subject, version: VersionSource::Unknown };
        let by_path = best(&self.exe, subject, STRONG)
            .map(|(weight, pattern)| fact(weight, format!("executable matches {pattern}")));
        if by_path.as_ref().is_some_and(|fact| fact.weight == STRONG) {
            return by_path;
        }
        let by_package = || {
            let (package, version) =
                self.packages.iter().find_map(|package| Some((package, package.has(subject, true, ask)?)))?;
            let evidence = format!("executable is in {}", package.as_str());
            Some(Fact { weight: STRONG, evidence, subject, version })
        };
        let by_name = || {
            let name = self.names.iter().find(|name| windows::is_named(subject, name))?;
            Some(fact(WEAK, format!("executable is named {name}")))
        };
        by_package().or(by_path).or_else(by_name)
    }

    /// Whether scripts of that interpreter count.
    pub(super) fn may_be_run_by(&self, interpreter: &str) -> bool {
        self.interpreters.is_empty() || self.interpreters.iter().any(|glob| glob.matches(file_name(interpreter)))
    }

    /// The best fact about the script that an interpreter runs.
    fn script<'a>(&self, facts: &ProcessFacts<'a>, ask: &dyn Ask) -> Option<Fact<'a>> {
        if !self.may_be_run_by(facts.path) {
            return None;
        }
        if let Some(module) = interpreter::module(facts.argv) {
            let module = self.script_modules.iter().find(|name| *name == module)?;
            let evidence = format!("runs the module {module}");
            return Some(Fact { weight: STRONG, evidence, subject: "", version: VersionSource::Unknown });
        }
        let fact = |subject: &'a str, strong| {
            let by_path = best(&self.script, subject, strong).map(|(weight, pattern)| Fact {
                weight,
                evidence: format!("script matches {pattern}"),
                subject,
                version: VersionSource::Unknown,
            });
            if by_path.as_ref().is_some_and(|fact| fact.weight == strong) {
                return by_path;
            }
            let real = facts.script == Some(subject);
            let by_package = self.packages.iter().find_map(|package| Some((package, package.has(subject, real, ask)?)));
            by_package.map_or(by_path, |(package, version)| {
                Some(Fact { weight: strong, evidence: format!("script is in {}", package.as_str()), subject, version })
            })
        };
        match facts.script {
            Some(path) => fact(path, STRONG),
            None => script_candidates(facts.argv).find_map(|path| fact(path, STRONG_UNRESOLVED)),
        }
    }
}

impl Exclusion {
    pub(super) fn holds(&self, facts: &ProcessFacts, argv: &str) -> bool {
        let argv0 = facts.argv.first().map_or("", |name| file_name(name));
        self.argv0.as_ref().is_none_or(|glob| glob.matches(argv0))
            && self.exe.as_ref().is_none_or(|glob| glob.matches(facts.path))
            && self.script.as_ref().is_none_or(|glob| facts.script.is_some_and(|script| glob.matches(script)))
            && self.argv.as_ref().is_none_or(|regex| regex.is_match(argv))
    }
}

/// What a pattern that fits is worth.
pub(super) fn weight_of(pattern: &Pattern, strong: u32) -> u32 {
    if pattern.names_directory() { strong } else { WEAK }
}

/// The pattern that fits and tells most.
fn best<'a>(patterns: &'a [Pattern], path: &str, strong: u32) -> Option<(u32, &'a str)> {
    patterns
        .iter()
        .filter(|pattern| pattern.matches(path))
        .map(|pattern| (weight_of(pattern, strong), pattern.as_str()))
        .max_by_key(|(weight, _)| *weight)
}

/// Whether a host is that one or one below it. Both in lower case.
#[must_use]
pub fn is_at_or_below(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain).is_some_and(|below| below.is_empty() || below.ends_with('.'))
}
