//! Secrets in command lines and URLs, masked before a row exists.
//!
//! Three things give a secret away: the form of the token itself (`ghp_...`), the name before it (`API_KEY=...`,
//! `--password ...`, `Authorization: ...`), and for a few programs their own way to take one (`mysql -p...`,
//! `curl -u user:...`; see the module `command`). The secret becomes `****`; what tells its kind stays: `sk-ant-****`.
//! When in doubt a secret of a known name is masked, but a word is never masked for merely looking random: hashes, ids
//! and file names are what command lines are made of.
//!
//! The expressions have no backtracking and are each run once, so that the cost grows with the line and not more.

mod command;
mod pattern;

use std::borrow::Cow;
use std::ops::Range;

use pattern::Patterns;

/// What stands in a secret's place.
pub const MASK: &str = "****";

/// Finds and masks secrets. Compiled once and shared.
#[derive(Debug, Default)]
pub struct Masker {
    patterns: Patterns,
}

impl Masker {
    /// Compiles the patterns.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A command line, as a shell reads it, or a URL, with its secrets masked.
    #[must_use]
    pub fn mask<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut secrets = self.patterns.find(text);
        command::in_line(text, &mut |secret| secrets.push(secret));
        apply(text, secrets)
    }

    /// The arguments of a process with their secrets masked. Better than [`Self::mask`] on the joined line, for where
    /// an argument ends is known: a password may have spaces.
    #[must_use]
    pub fn mask_argv(&self, argv: &[String]) -> Vec<String> {
        let mut secrets: Vec<Vec<Range<usize>>> = argv.iter().map(|argument| self.patterns.find(argument)).collect();
        let words = argv.iter().map(String::as_str);
        command::in_words(words, 0, &mut |index, secret| {
            if let Some(secrets) = secrets.get_mut(index) {
                secrets.push(secret);
            }
        });
        let mut script = false;
        for (argument, secrets) in argv.iter().zip(&mut secrets) {
            // The text of `sh -c` has a command behind the assignment; any other argument is all value.
            if !std::mem::replace(&mut script, argument.ends_with('c') && argument.starts_with('-')) {
                secrets.extend(self.patterns.whole_assignment(argument));
            }
        }
        argv.iter().zip(secrets).map(|(argument, secrets)| apply(argument, secrets).into_owned()).collect()
    }
}

/// A reference to a secret is not one: `$API_KEY`, `${TOKEN}`, `$(pass show x)`.
fn is_reference(value: &str) -> bool {
    let Some(name) = value.trim_matches(['"', '\'', '\\']).strip_prefix('$') else { return false };
    let is_name = |name: &str| {
        name.starts_with(|first: char| first.is_ascii_uppercase() || first == '_')
            && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
    };
    name.starts_with('(') || name.starts_with('{') || is_name(name)
}

/// Puts [`MASK`] in place of each secret. Ranges may overlap and lie in any order.
fn apply(text: &str, mut secrets: Vec<Range<usize>>) -> Cow<'_, str> {
    secrets.retain(|secret| !secret.is_empty() && text.get(secret.clone()).is_some_and(|value| !is_reference(value)));
    if secrets.is_empty() {
        return Cow::Borrowed(text);
    }
    secrets.sort_unstable_by_key(|secret| secret.start);
    let mut masked = String::with_capacity(text.len());
    let mut done = 0;
    let mut open: Option<Range<usize>> = None;
    for secret in secrets {
        match &mut open {
            Some(open) if secret.start <= open.end => open.end = open.end.max(secret.end),
            _ => {
                if let Some(ended) = open.replace(secret) {
                    put(&mut masked, text, &mut done, &ended);
                }
            }
        }
    }
    if let Some(ended) = open {
        put(&mut masked, text, &mut done, &ended);
    }
    masked.push_str(text.get(done..).unwrap_or_default());
    Cow::Owned(masked)
}

fn put(masked: &mut String, text: &str, done: &mut usize, secret: &Range<usize>) {
    masked.push_str(text.get(*done..secret.start).unwrap_or_default());
    masked.push_str(MASK);
    *done = secret.end;
}

#[cfg(test)]
mod tests;
