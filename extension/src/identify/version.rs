//! Which version of an agent runs.
//!
//! Nothing is read here: the path tells it, or says which file does, and who opens that file takes care whose it is.

use std::path::PathBuf;

use semver::VersionReq;
use serde::Deserialize;

use super::glob::Glob;
use super::pattern::Expression;
use super::{Ask, windows};

/// Where the version of an agent can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VersionSource {
    /// It stands in the path.
    Known(String),
    /// It is the `version` of this `package.json`.
    PackageJson(PathBuf),
    /// The signature does not say.
    Unknown,
}

/// One way to find the version.
#[derive(Debug)]
pub(super) struct VersionRule {
    /// Paths that it holds for.
    pub of: Option<Glob>,
    pub from: From,
}

#[derive(Debug)]
pub(super) enum From {
    /// The first group of an expression on the path.
    Path(Expression),
    /// A file, relative to the directory of the executable or script.
    PackageJson(Box<str>),
}

/// The first rule that holds for the path of the executable or script.
pub(super) fn find(rules: &[VersionRule], path: &str) -> VersionSource {
    rules
        .iter()
        .filter(|rule| rule.of.as_ref().is_none_or(|glob| glob.matches(path)))
        .find_map(|rule| match &rule.from {
            From::Path(regex) => Some(VersionSource::Known(regex.group(path)?.to_owned())),
            From::PackageJson(relative) => beside(path, relative).map(VersionSource::PackageJson),
        })
        .unwrap_or(VersionSource::Unknown)
}

/// A path relative to the directory of `path`, without `..`: what is real already needs no look at the disk.
fn beside(path: &str, relative: &str) -> Option<PathBuf> {
    if !windows::is_rooted(path) || relative.starts_with('/') {
        return None;
    }
    let mut to: Vec<&str> = path.split('/').collect();
    to.pop();
    for component in relative.split('/') {
        match component {
            "" | "." => {}
            ".." if to.len() > 1 => drop(to.pop()),
            ".." => return None,
            name => to.push(name),
        }
    }
    Some(to.join("/").into())
}

/// The `version` of a `package.json`; `None` when the text is not one or what it says is not a version.
pub(super) fn package_version(text: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Package {
        version: String,
    }
    let version = serde_json::from_str::<Package>(text).ok()?.version;
    let plausible = version.starts_with(|first: char| first.is_ascii_digit())
        && version.len() <= 64
        && version.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-+_".contains(&byte));
    plausible.then_some(version)
}

impl VersionSource {
    /// The version, read where it has to be.
    #[must_use]
    pub fn read(&self, ask: &dyn Ask) -> Option<String> {
        match self {
            Self::Known(version) => Some(version.clone()),
            Self::PackageJson(file) => package_version(&ask.text(file)?),
            Self::Unknown => None,
        }
    }
}

/// Whether a version is in a range; none when it has no number. Only the first three numbers count, so that a
/// pre-release is in the range of its release, and versions that are dates have an order too.
pub(super) fn is_in(range: &VersionReq, version: &str) -> Option<bool> {
    let mut numbers = [0; 3];
    let plain = version.strip_prefix('v').unwrap_or(version);
    let end = plain.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(plain.len());
    let digits = plain.get(..end)?;
    for (place, part) in digits.split('.').take(3).enumerate() {
        match (part.parse(), numbers.get_mut(place)) {
            (Ok(number), Some(slot)) => *slot = number,
            _ if place == 0 => return None,
            _ => break,
        }
    }
    let [major, minor, patch] = numbers;
    Some(range.matches(&semver::Version::new(major, minor, patch)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_beside_the_program() {
        let beside = |path, relative| beside(path, relative).map(|path| path.to_str().unwrap().to_owned());
        assert_eq!(beside("/a/b/bin/x", "../package.json").as_deref(), Some("/a/b/package.json"));
        assert_eq!(beside("/a/x", "./p/q.json").as_deref(), Some("/a/p/q.json"));
        assert_eq!(beside("/x", "../../p"), None, "not above the root");
        assert_eq!(beside("a/x", "p"), None);
        assert_eq!(beside("", "p"), None);
    }

    #[test]
    fn ranges() {
        let is_in = |range: &str, version: &str| is_in(&VersionReq::parse(range).unwrap(), version);
        assert_eq!(is_in(">=2.1.113", "2.1.113"), Some(true));
        assert_eq!(is_in(">=2.1.113", "2.1.112"), Some(false));
        assert_eq!(is_in(">=1.2, <2", "1.10.0-beta.3"), Some(true));
        assert_eq!(is_in(">=1.2, <2", "2"), Some(false));
        assert_eq!(is_in(">=2025.9", "2025.09.18-39624ef"), Some(true));
        assert_eq!(is_in("<1", "0.86.1.dev3"), Some(true));
        assert_eq!(is_in("*", "v3.1"), Some(true));
        for none in ["", "latest", "-1", ".5", "99999999999999999999999.1"] {
            assert_eq!(is_in("*", none), None, "{none}");
        }
    }

    #[test]
    fn version_of_a_package() {
        assert_eq!(package_version(r#"{"name":"x","version":"2.1.329","bin":{}}"#).as_deref(), Some("2.1.329"));
        assert_eq!(package_version(r#"{"version":"1.0.0-beta.1+x"}"#).as_deref(), Some("1.0.0-beta.1+x"));
        for not in [r#"{"version":3}"#, "{}", "", "[]", r#"{"version":"latest"}"#, r#"{"version":"1 <b>"}"#] {
            assert_eq!(package_version(not), None, "{not}");
        }
        assert_eq!(package_version(&format!(r#"{{"version":"1{}"}}"#, "0".repeat(100))), None);
    }
}
