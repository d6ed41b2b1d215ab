//! From a file as it is written to a signature that can be held against processes.
//!
//! Whatever could silently do nothing is a mistake here: a rule that can never hold, an empty entry, a name that is a
//! pattern. What says nothing though catalogues have it, such as `bash` as a hint, is left out and told.

use semver::VersionReq;
use serde_saphyr::{Location, Spanned};

use super::format::{Detection, File, Not, Patterns, SignatureError, Texts, Version, Written};
use super::glob::Glob;
use super::is_interpreter;
use super::package::Package;
use super::pattern::{Expression, Pattern, plain_texts};
use super::signature::{Exclusion, Signature};
use super::version::{From, VersionRule};
use super::windows;
use crate::yaml::{self, FileError};

/// Entries that a list of a signature may have.
const MAX_ENTRIES: usize = 256;

/// Bytes of the name of a variable that is a marker: so many the kernel compares, and by the first ones it leaves most others
/// behind.
const MIN_MARKER: usize = 4;
const MAX_MARKER: usize = 47;

/// Variables that are in every environment.
#[rustfmt::skip]
const EVERYBODYS: &[&str] = &[
    "DISPLAY", "EDITOR", "HOME", "LANG", "LOGNAME", "PATH", "SHELL", "SHLVL", "TERM", "TMPDIR", "USER",
];

/// Characters of an expression that a message shows.
const SHOWN: usize = 80;

/// Parents of every program: they say nothing.
#[rustfmt::skip]
const SHELLS: &[&str] = &[
    "ash", "bash", "cmd.exe", "csh", "dash", "fish", "init", "ksh", "login", "nu", "powershell", "powershell.exe", "pwsh",
    "sh", "sshd", "sudo", "systemd", "tcsh", "tmux", "zsh",
];

impl Signature {
    /// Compiles one file's text. `source` is how messages call it.
    pub(super) fn compile(source: &str, text: &str) -> Result<Self, SignatureError> {
        let File {
            name,
            display_name,
            _icon,
            vendor,
            category,
            detection,
            process_patterns,
            command_patterns,
            exe_path_patterns,
            parent_hints,
            roles,
            version,
            sessions,
            child_env,
            unattended,
            child_process_tracking,
            network_endpoints,
        } = yaml::parse_file(source, text)?;
        let check = Check { source };
        let flat = Flat { process_patterns, command_patterns, exe_path_patterns, parent_hints };
        let (at, detection) = match detection {
            Some(detection) => {
                check.no_flat(&flat)?;
                (detection.referenced, detection.value)
            }
            None => (name.referenced, check.detection_of(flat)?),
        };
        let mut left_out = Vec::new();
        let names = check.each("names", &detection.names, Check::name_of_file)?;
        let parents = check.each("parent_hints", &detection.parent_hints, Check::file_name)?;
        let display_name = match &display_name {
            Some(display_name) => check.text("display_name", display_name)?,
            None => check.name(&name)?,
        };
        let signature = Self {
            at: name.referenced,
            name: check.name(&name)?.into(),
            display_name: display_name.into(),
            vendor: vendor.filter(|vendor| !vendor.is_empty()).map(Into::into),
            category,
            child_process_tracking,
            sessions: check.each("sessions", &sessions, Check::session)?,
            child_env: check.each("child_env", &child_env, Check::marker)?,
            expected_endpoints: check.each("expected", &network_endpoints.expected, Check::host)?,
            suspicious_if_not_in_list: network_endpoints.suspicious_if_not_in_list,
            names: without(names, "names", is_interpreter, "an interpreter", &mut left_out),
            exe: check.all("exe_patterns", &detection.exe_patterns, Check::pattern)?,
            script: check.all("script_patterns", &detection.script_patterns, Check::pattern)?,
            script_names: check.each("script_names", &detection.script_names, Check::file_name)?,
            script_modules: check.each("script_modules", &detection.script_modules, Check::file_name)?,
            interpreters: check.each("interpreters", &detection.interpreters, Check::glob)?,
            packages: check.each("packages", &detection.packages, Check::package)?,
            argv: check.all("argv_patterns", &detection.argv_patterns, Check::expression)?,
            env: check.each("env", &detection.env, Check::variable)?,
            parents: without(
                parents,
                "parent_hints",
                |name| is_interpreter(name) || SHELLS.contains(&name),
                "a parent of every program",
                &mut left_out,
            ),
            versions: detection.versions.as_ref().map(|range| check.range(range)).transpose()?,
            not: check.all("not", &detection.not, Check::exclusion)?,
            daemon: check.all("roles.daemon", &roles.daemon, Check::expression)?,
            helper: check.all("roles.helper", &roles.helper, Check::expression)?,
            unattended: check.all("unattended", &unattended, Check::expression)?,
            version: check.all("version", &version, Check::version)?,
            left_out,
        };
        signature.check_detection(&check, at)?;
        Ok(signature)
    }

    /// Rules that could never hold are a mistake, not a signature.
    fn check_detection(&self, check: &Check, at: Location) -> Result<(), SignatureError> {
        let second = !self.argv.is_empty() || !self.parents.is_empty() || !self.env.is_empty();
        let decides =
            |patterns: &[Pattern], second: bool| patterns.iter().any(|pattern| second || pattern.names_directory());
        let possible = decides(&self.exe, second)
            || decides(&self.script, second || !self.interpreters.is_empty())
            || !self.script_modules.is_empty()
            || !self.packages.is_empty()
            || (second && !self.names.is_empty());
        if possible {
            return Ok(());
        }
        let mut message =
            "detection: nothing here can decide: give packages, or exe_patterns or script_patterns with a \
                           directory of the agent's own, or names together with argv_patterns, env or parent_hints"
                .to_owned();
        if !self.left_out.is_empty() {
            message = format!("{message} ({})", self.left_out.join("; "));
        }
        Err(check.wrong(at, message))
    }
}

/// Leaves out what says nothing, and tells it.
fn without(
    names: Vec<String>,
    field: &str,
    says_nothing: impl Fn(&str) -> bool,
    because: &str,
    left_out: &mut Vec<String>,
) -> Vec<String> {
    let (left, kept): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| says_nothing(name));
    left_out.extend(left.iter().map(|name| format!("{field}: {name} is left out: {because}")));
    kept
}

/// The keys of the flat shape.
struct Flat {
    process_patterns: Texts,
    command_patterns: Patterns,
    exe_path_patterns: Texts,
    parent_hints: Texts,
}

/// Checks and compiles the texts of one file.
struct Check<'a> {
    source: &'a str,
}

impl Check<'_> {
    fn wrong(&self, at: Location, message: impl Into<String>) -> SignatureError {
        FileError::at(self.source, at, message).into()
    }

    /// The flat shape stands in place of `detection`, not beside it.
    fn no_flat(&self, flat: &Flat) -> Result<(), SignatureError> {
        let texts = [
            ("process_patterns", &flat.process_patterns),
            ("exe_path_patterns", &flat.exe_path_patterns),
            ("parent_hints", &flat.parent_hints),
        ];
        let first = texts.iter().find_map(|(key, list)| Some((*key, list.first()?.referenced)));
        let command = flat.command_patterns.first().map(|entry| ("command_patterns", entry.referenced));
        match first.or(command) {
            Some((key, at)) => Err(self.wrong(at, format!("{key}: there is detection already; put it in there"))),
            None => Ok(()),
        }
    }

    /// The flat shape as the full one says it.
    fn detection_of(&self, flat: Flat) -> Result<Detection, SignatureError> {
        let mut names = Vec::new();
        for text in &flat.process_patterns {
            self.text("process_patterns", text)?;
            names.extend(self.names_of(text)?);
        }
        let regex = |text: Spanned<String>| Spanned::new(Written::Regex(text.value), text.referenced, text.defined);
        Ok(Detection {
            names,
            exe_patterns: flat.exe_path_patterns.into_iter().map(regex).collect(),
            argv_patterns: flat.command_patterns,
            parent_hints: flat.parent_hints,
            ..Detection::default()
        })
    }

    /// The names that an expression on names stands for. A name is whole: `claude` is not `claude-desktop`.
    fn names_of(&self, text: &Spanned<String>) -> Result<Texts, SignatureError> {
        let wrong = |what: &str| self.wrong(text.referenced, format!("process_patterns: {:?} {what}", text.value));
        // A name as it is, such as `Own Helper (GPU)`.
        let is_name = text.value.chars().all(|c| c.is_alphanumeric() || "-_. ()".contains(c));
        if is_name {
            return Ok(vec![text.clone()]);
        }
        let names = plain_texts(&text.value).map_err(|what| wrong(&format!("is not a regular expression: {what}")))?;
        let names = names.ok_or_else(|| {
            wrong("stands for more names than can be listed; give the names, or detection with exe_patterns")
        })?;
        Ok(names.into_iter().map(|name| Spanned::new(name, text.referenced, text.defined)).collect())
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
        self.not_odd(field, &text.value, text.referenced)?;
        Ok(&text.value)
    }

    fn not_odd(&self, field: &str, text: &str, at: Location) -> Result<(), SignatureError> {
        match yaml::problem(text) {
            Some(problem) => Err(self.wrong(at, format!("{field}: {problem}"))),
            None => Ok(()),
        }
    }

    fn name<'t>(&self, name: &'t Spanned<String>) -> Result<&'t str, SignatureError> {
        match yaml::name_problem(&name.value) {
            Some(problem) => Err(self.wrong(name.referenced, format!("name: {problem}"))),
            None => Ok(&name.value),
        }
    }

    fn file_name(&self, field: &str, text: &Spanned<String>) -> Result<String, SignatureError> {
        if text.value.contains(['/', '*']) {
            let message = format!("{field}: {:?} must be a whole file name, without / and *", text.value);
            return Err(self.wrong(text.referenced, message));
        }
        Ok(text.value.clone())
    }

    /// A file name, which may be anchored as catalogues of expressions have it.
    fn name_of_file(&self, field: &str, text: &Spanned<String>) -> Result<String, SignatureError> {
        let name = self.file_name(field, text)?;
        let plain = name.strip_prefix('^').and_then(|name| name.strip_suffix('$'));
        Ok(plain.filter(|plain| !plain.is_empty()).map_or(name.clone(), |plain| plain.replace("\\.", ".")))
    }

    fn host(&self, field: &str, text: &Spanned<String>) -> Result<String, SignatureError> {
        let all_below = text.value.strip_prefix("*.").unwrap_or(&text.value);
        let host = Spanned::new(all_below.to_owned(), text.referenced, text.defined);
        Ok(yaml::host(self.source, field, &host)?)
    }

    #[allow(clippy::unused_self, clippy::unnecessary_wraps, reason = "has the form of the other compilers")]
    fn glob(&self, _field: &str, text: &Spanned<String>) -> Result<Glob, SignatureError> {
        Ok(Glob::new(&text.value))
    }

    fn path(&self, field: &str, text: &str, at: Location) -> Result<(), SignatureError> {
        if text.starts_with(['/', '*']) || (windows::is(text) && !text.contains('\\')) {
            return Ok(());
        }
        let message =
            format!("{field}: {text:?} must begin with / or * (or a drive: C:/), for the whole path is compared");
        Err(self.wrong(at, message))
    }

    fn path_glob(&self, field: &str, text: &Spanned<String>) -> Result<Glob, SignatureError> {
        self.path(field, &text.value, text.referenced)?;
        Ok(Glob::new(&text.value))
    }

    fn pattern(&self, field: &str, written: &Spanned<Written>) -> Result<Pattern, SignatureError> {
        let at = written.referenced;
        match &written.value {
            Written::Plain(glob) => {
                self.not_odd(field, glob, at)?;
                self.path(field, glob, at)?;
                Ok(Pattern::glob(glob))
            }
            Written::Regex(regex) => {
                self.not_odd(field, regex, at)?;
                Pattern::regex(regex).map_err(|what| self.no_regex(field, regex, at, &what))
            }
        }
    }

    fn no_regex(&self, field: &str, text: &str, at: Location, what: &str) -> SignatureError {
        let short: String = text.chars().take(SHOWN).collect();
        let dots = if short.len() < text.len() { "..." } else { "" };
        self.wrong(at, format!("{field}: {short:?}{dots} is not a regular expression: {what}"))
    }

    fn regex(&self, field: &str, text: &str, at: Location) -> Result<Expression, SignatureError> {
        self.not_odd(field, text, at)?;
        Expression::new(text).map_err(|what| self.no_regex(field, text, at, &what))
    }

    fn expression(&self, field: &str, written: &Spanned<Written>) -> Result<Expression, SignatureError> {
        let (Written::Plain(text) | Written::Regex(text)) = &written.value;
        self.regex(field, text, written.referenced)
    }

    fn package(&self, field: &str, text: &Spanned<String>) -> Result<Package, SignatureError> {
        Package::new(&text.value)
            .map_err(|what| self.wrong(text.referenced, format!("{field}: {:?} {what}", text.value)))
    }

    fn variable(&self, field: &str, text: &Spanned<String>) -> Result<String, SignatureError> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if text.value.bytes().all(fits) {
            return Ok(text.value.clone());
        }
        let message = format!("{field}: {:?} must be the name of a variable; values are not looked at", text.value);
        Err(self.wrong(text.referenced, message))
    }

    fn marker(&self, field: &str, text: &Spanned<String>) -> Result<String, SignatureError> {
        let name = self.variable(field, text)?;
        if (MIN_MARKER..=MAX_MARKER).contains(&name.len()) && !EVERYBODYS.contains(&&*name) {
            return Ok(name);
        }
        let message = format!(
            "{field}: {name:?} must be a variable that only this agent sets, of {MIN_MARKER} to {MAX_MARKER} characters"
        );
        Err(self.wrong(text.referenced, message))
    }

    fn session(&self, field: &str, text: &Spanned<String>) -> Result<String, SignatureError> {
        if ["/", "~/", "*/"].iter().any(|begin| text.value.starts_with(begin)) {
            return Ok(text.value.clone());
        }
        let message = format!("{field}: {:?} must begin with /, ~/ or */", text.value);
        Err(self.wrong(text.referenced, message))
    }

    fn range(&self, range: &Spanned<String>) -> Result<VersionReq, SignatureError> {
        let text = self.text("versions", range)?;
        VersionReq::parse(text).map_err(|what| {
            let message = format!("versions: {text:?} is no range of versions, such as \">=1.2, <2\": {what}");
            self.wrong(range.referenced, message)
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
            argv: argv.as_ref().map(|text| self.regex(field, &text.value, text.referenced)).transpose()?,
        })
    }

    fn version(&self, field: &str, rule: &Spanned<Version>) -> Result<VersionRule, SignatureError> {
        let Version { of, path, package_json } = &rule.value;
        let from = match (path, package_json) {
            (Some(text), None) => {
                self.not_odd(field, &text.value, text.referenced)?;
                let regex = Expression::with_groups(&text.value)
                    .map_err(|what| self.no_regex(field, &text.value, text.referenced, &what))?;
                if !regex.has_group() {
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
