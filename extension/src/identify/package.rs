//! Whose package a file is part of. The directory of a package is hard to have by accident, and tells the version.
//!
//! - npm: the innermost `node_modules/NAME` around the file, but for what it has in a `vendor`.
//! - PyPI: the distribution that is installed beside the script (`bin/` of the environment, or a script in its
//!   `site-packages`) and lists it in its `RECORD`, as what pip, uv, pipx and poetry install does. The file says it, not
//!   its name: `bin/q` of one distribution is not `bin/q` of another.
//! - VSIX: `extensions/PUBLISHER.NAME-VERSION`, where editors like VS Code unpack them.

use std::path::Path;

use super::glob::is_generic;
use super::version::VersionSource;
use super::{Ask, file_name, is_interpreter, windows};

/// Where npm puts packages.
const MODULES: &str = "/node_modules/";

/// A package of one of the registries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Package {
    written: Box<str>,
    registry: Registry,
    /// As it is compared: of npm the end of its directory.
    name: Box<str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Registry {
    Npm,
    Pypi,
    Vsix,
}

impl Package {
    /// Reads `npm:NAME`, `pypi:NAME` or `vsix:PUBLISHER.NAME`; the error is for people.
    pub(super) fn new(written: &str) -> Result<Self, &'static str> {
        const FORM: &str = "must be npm:NAME, npm:@SCOPE/NAME, pypi:NAME or vsix:PUBLISHER.NAME";
        let (registry, name) = written.split_once(':').ok_or(FORM)?;
        let word = |word: &str| {
            !word.is_empty()
                && !word.starts_with('.')
                && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
        };
        let (registry, name) = match registry {
            "npm" => {
                let (scope, rest) = name.strip_prefix('@').and_then(|name| name.split_once('/')).unwrap_or(("s", name));
                (word(scope) && word(rest)).then(|| (Registry::Npm, format!("{MODULES}{name}"))).ok_or(FORM)?
            }
            "pypi" => word(name).then(|| (Registry::Pypi, normalised(name))).ok_or(FORM)?,
            "vsix" => {
                let whole = name.split_once('.').is_some_and(|(publisher, name)| word(publisher) && word(name));
                whole.then(|| (Registry::Vsix, name.to_ascii_lowercase())).ok_or(FORM)?
            }
            _ => return Err(FORM),
        };
        Ok(Self { written: written.into(), registry, name: name.into() })
    }

    pub(super) fn as_str(&self) -> &str {
        &self.written
    }

    /// Components that a path of it has. None when what it has is everybody's.
    pub(super) fn literals(&self) -> Vec<String> {
        match self.registry {
            Registry::Npm => {
                self.name.split('/').filter(|part| !part.is_empty() && !is_generic(part)).map(str::to_owned).collect()
            }
            // The environment that a tool has for itself is named so, and mostly the script.
            Registry::Pypi => {
                let underscored = self.name.replace('-', "_");
                let mut names = vec![self.name.to_string()];
                if *underscored != *self.name {
                    names.push(underscored);
                }
                names
            }
            // The package's own directory has its version in the name.
            Registry::Vsix => vec!["extensions".to_owned()],
        }
    }

    /// Whether a file is part of it, and where its version is. `real`: the path is a real one, so that what lies beside
    /// it can be asked for.
    pub(super) fn has(&self, file: &str, real: bool, ask: &dyn Ask) -> Option<VersionSource> {
        match self.registry {
            Registry::Npm => {
                let directory = npm_directory(file)?;
                // What others have made and it brings along: ripgrep, above all.
                if file.get(directory.len()..).is_some_and(|inside| inside.contains("/vendor/")) {
                    return None;
                }
                directory.ends_with(&*self.name).then(|| {
                    if windows::is_rooted(directory) {
                        VersionSource::PackageJson(format!("{directory}/package.json").into())
                    } else {
                        VersionSource::Unknown
                    }
                })
            }
            // Of an interpreter its script is asked for.
            Registry::Pypi if !real || is_interpreter(file) => None,
            Registry::Pypi => distribution(file, &self.name, ask).map(VersionSource::Known),
            Registry::Vsix => vsix_version(file, &self.name).map(VersionSource::Known),
        }
    }
}

/// The directory of the innermost package around a file.
fn npm_directory(file: &str) -> Option<&str> {
    let begin = file.rfind(MODULES)? + MODULES.len();
    let behind = file.get(begin..)?;
    let parts = if behind.starts_with('@') { 2 } else { 1 };
    let (end, _) = behind.match_indices('/').nth(parts - 1)?;
    file.get(..begin + end)
}

/// The version in the name of an extension's directory, when the file is in it.
fn vsix_version(file: &str, name: &str) -> Option<String> {
    let mut components = file.split('/');
    while let Some(component) = components.next() {
        if component != "extensions" {
            continue;
        }
        let directory = components.clone().next()?.to_ascii_lowercase();
        // The file itself is no directory.
        let inside = components.clone().nth(1).is_some();
        let version = directory.strip_prefix(name).and_then(|rest| rest.strip_prefix('-')).filter(|_| inside);
        if let Some(version) = version.filter(|version| version.starts_with(|first: char| first.is_ascii_digit())) {
            // `1.2.3-linux-x64`: built for one system.
            return Some(version.split('-').next().unwrap_or(version).to_owned());
        }
    }
    None
}

/// A name as PEP 503 compares it.
fn normalised(name: &str) -> String {
    let mut text = String::new();
    for c in name.chars() {
        if !matches!(c, '-' | '_' | '.') {
            text.push(c.to_ascii_lowercase());
        } else if !text.ends_with('-') {
            text.push('-');
        }
    }
    text
}

/// The version of a distribution that has installed this script.
fn distribution(script: &str, name: &str, ask: &dyn Ask) -> Option<String> {
    let of_windows = windows::is_plain(script);
    let places = site_packages(script, ask);
    places.iter().find_map(|site| {
        // As the record has it: relative to the directory, or whole.
        let inside = script.strip_prefix(site.as_str()).and_then(|rest| rest.strip_prefix('/'));
        let bin = if of_windows { "../../bin" } else { "../../../bin" };
        let listed = inside.map_or_else(|| format!("{bin}/{}", file_name(script)), str::to_owned);
        ask.names_in(Path::new(site)).iter().find_map(|entry| {
            let (distribution, version) = entry.strip_suffix(".dist-info")?.split_once('-')?;
            if normalised(distribution) != name {
                return None;
            }
            let record = ask.text(Path::new(&format!("{site}/{entry}/RECORD")))?;
            let is_it = |line: &str| {
                let path = line.strip_prefix('"').map_or_else(|| line.split(',').next(), |line| line.split('"').next());
                match path {
                    Some(path) if of_windows => windows::folded(path) == listed || windows::plain(path) == script,
                    path => path.is_some_and(|path| path == listed || path == script),
                }
            };
            record.lines().any(is_it).then(|| version.to_owned())
        })
    })
}

/// Directories of distributions that a script may belong to.
fn site_packages(script: &str, ask: &dyn Ask) -> Vec<String> {
    const NAMES: [&str; 2] = ["site-packages", "dist-packages"];
    let above = |path: &str| path.rsplit_once('/').map(|(above, _)| above.to_owned());
    let mut around = std::iter::successors(above(script), |path| above(path));
    if let Some(site) = around.find(|path| NAMES.contains(&file_name(path))) {
        return vec![site];
    }
    let bin = above(script).filter(|parent| file_name(parent) == "bin");
    let Some(prefix) = bin.and_then(|bin| above(&bin)) else { return Vec::new() };
    let lib = format!("{prefix}/lib");
    if windows::is_plain(script) {
        return vec![format!("{lib}/site-packages")];
    }
    let pythons = ask.names_in(Path::new(&lib)).into_iter();
    let pythons = pythons.filter(|name| name.starts_with("python") || name.starts_with("pypy"));
    pythons.flat_map(|python| NAMES.map(|name| format!("{lib}/{python}/{name}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identify::NothingToAsk;
    use std::collections::HashMap;

    /// Files by their paths.
    struct Disk(HashMap<&'static str, &'static str>);

    impl Ask for Disk {
        fn has_variable(&self, _name: &str) -> bool {
            false
        }

        fn names_in(&self, directory: &Path) -> Vec<String> {
            let below =
                |path: &&str| Path::new(path).strip_prefix(directory).ok()?.iter().next()?.to_str().map(str::to_owned);
            let mut names: Vec<String> = self.0.keys().filter_map(below).collect();
            names.sort();
            names.dedup();
            names
        }

        fn text(&self, file: &Path) -> Option<String> {
            self.0.get(file.to_str()?).map(|text| (*text).to_owned())
        }
    }

    #[test]
    fn npm_is_the_innermost_package() {
        let has = |package: &str, file: &str| Package::new(package).unwrap().has(file, true, &NothingToAsk).is_some();
        assert!(has("npm:@openai/codex", "/usr/lib/node_modules/@openai/codex/bin/codex.js"));
        assert!(has("npm:cline", "/u/.npm/_npx/1/node_modules/cline/dist/cli.mjs"));
        assert!(has("npm:cline", "/u/node_modules/.pnpm/cline@1.0/node_modules/cline/cli.js"));
        assert!(!has("npm:cline", "/u/node_modules/cline-tools/cli.js"));
        assert!(!has("npm:cline", "/u/node_modules/cline"), "the directory is no file in it");
        assert!(!has("npm:cline", "/u/node_modules/cline/node_modules/rg/bin/rg"));
        assert!(!has("npm:cline", "/u/node_modules/.bin/cline"));
        assert!(!has("npm:codex", "/u/node_modules/@openai/codex/bin/codex.js"));
        assert!(!has("npm:cline", "/home/u/cline/src/cli.js"), "a clone is not the package");
        let version = Package::new("npm:cline").unwrap().has("/n/node_modules/cline/a.js", true, &NothingToAsk);
        assert_eq!(version, Some(VersionSource::PackageJson("/n/node_modules/cline/package.json".into())));
    }

    #[test]
    fn vsix_is_a_directory_with_a_version() {
        let version =
            |file: &str| match Package::new("vsix:Anthropic.claude-code").unwrap().has(file, true, &NothingToAsk) {
                Some(VersionSource::Known(version)) => Some(version),
                _ => None,
            };
        let below = |rest: &str| version(&format!("/home/u/.vscode-server/extensions/{rest}"));
        assert_eq!(below("anthropic.claude-code-2.1.3/bin/x").as_deref(), Some("2.1.3"));
        assert_eq!(below("anthropic.claude-code-2.1.3-linux-x64/resources/bin/claude").as_deref(), Some("2.1.3"));
        assert_eq!(below("anthropic.claude-code-fork-2.1.3/x"), None);
        assert_eq!(below("anthropic.claude-code-2.1.3"), None);
        assert_eq!(below("a/anthropic.claude-code-2.1.3/x"), None);
        assert_eq!(version("/x/extensions/extensions/anthropic.claude-code-1.0.0/x").as_deref(), Some("1.0.0"));
    }

    #[test]
    fn pypi_is_what_the_record_lists() {
        let disk = Disk(HashMap::from([
            (
                "/v/lib/python3.12/site-packages/Aider_Chat-0.86.1.dist-info/RECORD",
                "aider/__init__.py,sha256=x,1\naider/cli.py,,\n../../../bin/aider,sha256=y,2\n",
            ),
            ("/v/lib/python3.12/site-packages/other-1.0.dist-info/RECORD", "../../../bin/other,,\n"),
            ("/v/lib/python3.12/site-packages/aider_chat_extra-2.dist-info/RECORD", "../../../bin/extra,,\n"),
            ("/d/lib/python3/dist-packages/aider_chat-1.dist-info/RECORD", "/d/bin/aider,,\n"),
        ]));
        let package = Package::new("pypi:aider.chat").unwrap();
        let version = |script: &str| match package.has(script, true, &disk) {
            Some(VersionSource::Known(version)) => Some(version),
            _ => None,
        };
        assert_eq!(version("/v/bin/aider").as_deref(), Some("0.86.1"));
        assert_eq!(version("/v/lib/python3.12/site-packages/aider/cli.py").as_deref(), Some("0.86.1"));
        assert_eq!(version("/d/bin/aider").as_deref(), Some("1"));
        for not in [
            "/v/bin/other",
            "/v/bin/extra",
            "/w/bin/aider",
            "/v/aider",
            "/v/lib/python3.12/site-packages/x.py",
            "aider",
            "",
        ] {
            assert_eq!(version(not), None, "{not}");
        }
        assert_eq!(package.has("/v/bin/aider", false, &disk), None, "a path that is not resolved");
    }

    #[test]
    fn only_packages_are_packages() {
        for wrong in [
            "codex",
            "npm:",
            "npm:@openai",
            "npm:a/b",
            "npm:@a/b/c",
            "npm:..",
            "pypi:a/b",
            "vsix:claude",
            "gem:x",
            "npm:a*",
        ] {
            assert!(Package::new(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Package::new("npm:@a/cli").unwrap().literals(), ["@a"]);
        assert_eq!(Package::new("npm:node").unwrap().literals(), [""; 0]);
        assert_eq!(Package::new("pypi:Aider_Chat").unwrap().literals(), ["aider-chat", "aider_chat"]);
    }
}
