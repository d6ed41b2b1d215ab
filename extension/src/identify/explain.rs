//! Why a process is an agent, or is none: each rule of a signature, and whether it holds.
//!
//! The verdict itself is [`Signature::score`]'s; what is told here is made of the same rules one by one.

use std::sync::Arc;

use super::catalogue::argv_text;
use super::interpreter;
use super::pattern::Pattern;
use super::signature::{NEEDED, SECOND, STRONG, STRONG_UNRESOLVED, Signature, WEAK, weight_of};
use super::{Ask, Match, ProcessFacts, file_name, is_interpreter, script_candidates, windows};

/// One signature held against one process.
#[derive(Debug)]
pub struct Trial {
    /// Which.
    pub signature: Arc<Signature>,
    /// Its rules, in the order of the documentation.
    pub rules: Vec<Rule>,
    /// What came of it, or why nothing did.
    pub verdict: Result<Match, String>,
}

/// A rule, and whether it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Key of the file.
    pub key: &'static str,
    /// As it is written.
    pub text: String,
    /// Whether it holds for this process.
    pub held: bool,
    /// What it counts for; none for what excludes.
    pub weight: Option<u32>,
    /// It can only add to another one.
    pub second: bool,
}

impl Signature {
    pub(super) fn rules_for(&self, facts: &ProcessFacts, ask: &dyn Ask) -> Vec<Rule> {
        let argv = argv_text(facts.argv);
        let name = file_name(facts.path);
        let runs_script = is_interpreter(facts.path) && self.may_be_run_by(facts.path);
        let module = if runs_script { interpreter::module(facts.argv) } else { None };
        let scripts: Vec<&str> = match facts.script {
            _ if !runs_script || module.is_some() => Vec::new(),
            Some(script) => vec![script],
            None => script_candidates(facts.argv).collect(),
        };
        let strong = if facts.script.is_some() { STRONG } else { STRONG_UNRESOLVED };
        let mut rules = Vec::new();
        let mut add = |key, text: &str, held, weight, second| {
            rules.push(Rule { key, text: text.to_owned(), held, weight, second });
        };
        let fits = |pattern: &Pattern, paths: &[&str]| paths.iter().any(|path| pattern.matches(path));
        for package in &self.packages {
            let as_executable = package.has(facts.path, true, ask).is_some();
            let as_script = scripts.iter().any(|path| package.has(path, facts.script.is_some(), ask).is_some());
            let weight = if as_script && !as_executable { strong } else { STRONG };
            add("packages", package.as_str(), as_executable || as_script, Some(weight), false);
        }
        for pattern in &self.exe {
            let weight = Some(weight_of(pattern, STRONG));
            add("exe_patterns", pattern.as_str(), fits(pattern, &[facts.path]), weight, false);
        }
        for pattern in &self.script {
            let weight = Some(weight_of(pattern, strong));
            add("script_patterns", pattern.as_str(), fits(pattern, &scripts), weight, false);
        }
        for text in &self.script_modules {
            add("script_modules", text, module == Some(text), Some(STRONG), false);
        }
        for text in &self.names {
            add("names", text, windows::is_named(facts.path, text), Some(WEAK), false);
        }
        // One of a list is enough, and counts once.
        let second = Some(SECOND);
        for regex in &self.argv {
            add("argv_patterns", regex.as_str(), regex.is_match(&argv), second, true);
        }
        for text in &self.env {
            add("env", text, ask.has_variable(text), second, true);
        }
        for text in &self.parents {
            add(
                "parent_hints",
                text,
                facts.parent_name.is_some_and(|name| windows::is_named_parent(facts.path, name, text)),
                second,
                true,
            );
        }
        for glob in &self.interpreters {
            let held = is_interpreter(facts.path) && glob.matches(name);
            add("interpreters", glob.as_str(), held, second, true);
        }
        for not in &self.not {
            let parts = [("argv0", &not.argv0), ("exe", &not.exe), ("script", &not.script)];
            let globs = parts.iter().filter_map(|(key, glob)| Some(format!("{key} {}", glob.as_ref()?.as_str())));
            let argv_part = not.argv.iter().map(|regex| format!("argv {}", regex.as_str()));
            let text = globs.chain(argv_part).collect::<Vec<_>>().join(" and ");
            add("not", &text, not.holds(facts, &argv), None, false);
        }
        rules
    }

    /// Why nothing came of it.
    pub(super) fn why_not(&self, rules: &[Rule]) -> String {
        if let Some(not) = rules.iter().find(|rule| rule.key == "not" && rule.held) {
            return format!("it is what `not` excludes: {}", not.text);
        }
        let first = rules.iter().filter(|rule| rule.held && !rule.second).filter_map(|rule| rule.weight).max();
        let Some(first) = first else {
            return "nothing in the process' path or script is the agent's: second facts alone are nothing".to_owned();
        };
        let mut seconds: Vec<&str> =
            rules.iter().filter(|rule| rule.held && rule.second).map(|rule| rule.key).collect();
        seconds.dedup();
        let sum = first + SECOND * u32::try_from(seconds.len()).unwrap_or_default();
        match &self.versions {
            Some(range) if sum >= NEEDED => format!("its version is not in the range {range}"),
            _ => format!("what holds counts for {sum}, and {NEEDED} are needed: a second fact is missing"),
        }
    }
}
