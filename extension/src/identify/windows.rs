//! Paths of Windows, for rules that are written with `/`.
//!
//! A path that begins with a drive (`C:\`) or with `\\` is one of Windows, on whatever system it is looked at. Rules see it
//! in its plain form: `/` for `\`, small letters, as Windows tells no others apart, and without the ending that makes a
//! file a program: `C:\Tools\Claude.EXE` is `c:/tools/claude`. `\\server\share` is `\:/server/share`, so that the second
//! character of every plain path is `:`, which is all that has to be looked at to know one. Python's `Scripts\aider.exe` is
//! what `bin/aider` is elsewhere, and its launcher `py.exe` is `python`. A rule is then compared without case, and its own such ending is left out too. Rows keep
//! what the system said.

use std::borrow::Cow;

use super::{ARGUMENTS, ProcessFacts, file_name};

/// Endings of what can be started by its name.
const ENDINGS: [&str; 5] = [".exe", ".cmd", ".bat", ".com", ".ps1"];

/// What Python is called besides: its launchers, and what has no console.
const PYTHONS: [&str; 3] = ["py", "pythonw", "pyw"];

/// Whether a path is one of Windows.
pub(crate) fn is(path: &str) -> bool {
    match path.as_bytes() {
        [b'\\', b'\\', _, ..] => true,
        [drive, b':', b'\\' | b'/', ..] => drive.is_ascii_alphabetic(),
        _ => false,
    }
}

/// Whether a path is the plain form of one of Windows.
pub(crate) fn is_plain(path: &str) -> bool {
    path.as_bytes().get(1) == Some(&b':')
}

/// The plain form with the file's whole name; what is no path of Windows as it is.
pub(crate) fn with_ending(path: &str) -> Cow<'_, str> {
    if !is(path) {
        return Cow::Borrowed(path);
    }
    let slashes = slashed(path);
    // `\\?\C:\` and `\\.\C:\` are `C:\`, `\\?\UNC\server` is `\\server`.
    let bare = ["//?/unc/", "//./unc/"].iter().find_map(|begin| slashes.strip_prefix(begin));
    let whole = match bare.or_else(|| slashes.strip_prefix("//").filter(|rest| !rest.starts_with(['?', '.']))) {
        Some(server) => format!("\\:/{server}"),
        None => slashes.trim_start_matches(['/', '?', '.']).to_owned(),
    };
    // Scripts write `%~dp0\node_modules`, where the first part ends in `\` already.
    let mut plain = String::with_capacity(whole.len());
    for c in whole.chars() {
        if c != '/' || !plain.ends_with('/') {
            plain.push(c);
        }
    }
    Cow::Owned(plain)
}

/// The plain form; what is no path of Windows as it is.
pub(crate) fn plain(path: &str) -> Cow<'_, str> {
    match with_ending(path) {
        Cow::Owned(plain) => Cow::Owned(program(&plain)),
        same @ Cow::Borrowed(_) => same,
    }
}

fn slashed(path: &str) -> String {
    path.replace('\\', "/").to_lowercase()
}

/// A program without its ending, and as Python calls it elsewhere.
fn program(path: &str) -> String {
    let bare = without_ending(path);
    if bare.len() == path.len() {
        return bare.to_owned();
    }
    let (folder, name) = bare.rsplit_once('/').map_or((None, bare), |(folder, name)| (Some(folder), name));
    let name = if PYTHONS.contains(&name) { "python" } else { name };
    match folder.map(|folder| (folder, folder.strip_suffix("/scripts"))) {
        Some((_, Some(above))) => format!("{above}/bin/{name}"),
        Some((folder, None)) => format!("{folder}/{name}"),
        None => name.to_owned(),
    }
}

fn without_ending(name: &str) -> &str {
    ENDINGS.iter().find_map(|ending| name.strip_suffix(ending)).filter(|rest| !rest.is_empty()).unwrap_or(name)
}

/// What stands in a rule, a path or a name, as plain paths are compared with it.
pub(super) fn folded(rule: &str) -> String {
    program(&slashed(rule))
}

/// Whether a file has the name that a rule gives.
pub(super) fn is_named(path: &str, rule: &str) -> bool {
    let name = file_name(path);
    if is_plain(path) { folded(rule) == name } else { rule == name }
}

/// Whether the parent of a process has the name that a rule gives.
pub(super) fn is_named_parent(path: &str, name: &str, rule: &str) -> bool {
    if is_plain(path) { folded(rule) == name } else { rule == name }
}

/// Whether a plain path begins at a root that this system can be asked for.
pub(super) fn is_rooted(path: &str) -> bool {
    path.starts_with('/') || (is_plain(path) && !path.starts_with('\\'))
}

/// The facts of a process as the rules see them.
pub(super) struct Plain<'a> {
    path: Cow<'a, str>,
    exec_path: Cow<'a, str>,
    script: Option<Cow<'a, str>>,
    parent_name: Option<String>,
    argv: Vec<String>,
}

impl<'a> Plain<'a> {
    /// `None` when nothing of it is a path of Windows.
    pub(super) fn of(facts: &ProcessFacts<'a>) -> Option<Self> {
        let paths = [Some(facts.path), Some(facts.exec_path), facts.script];
        let mut all = paths.into_iter().flatten().chain(facts.argv.iter().take(ARGUMENTS).map(String::as_str));
        if !all.any(is) {
            return None;
        }
        let argument = |(place, text): (usize, &String)| match plain(text) {
            // Of the program a name may stand there, without its folder.
            Cow::Borrowed(name) if place == 0 && is(facts.path) => folded(name),
            text => text.into_owned(),
        };
        Some(Self {
            path: plain(facts.path),
            exec_path: plain(facts.exec_path),
            script: facts.script.map(plain),
            parent_name: facts.parent_name.map(folded),
            argv: facts.argv.iter().enumerate().map(argument).collect(),
        })
    }

    pub(super) fn facts(&self) -> ProcessFacts<'_> {
        ProcessFacts {
            path: &self.path,
            exec_path: &self.exec_path,
            argv: &self.argv,
            script: self.script.as_deref(),
            parent_name: self.parent_name.as_deref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_forms() {
        for (path, wanted) in [
            (r"C:\Tools\Claude.EXE", "c:/tools/claude"),
            ("d:/x/Run.Cmd", "d:/x/run"),
            (r"C:\npm\\node_modules\x\cli.js", "c:/npm/node_modules/x/cli.js"),
            (r"\\Server\Share\x.bat", r"\:/server/share/x"),
            (r"\\?\C:\x\y", "c:/x/y"),
            (r"\\?\UNC\server\share\y", r"\:/server/share/y"),
            (r"\\.\pipe\x", "pipe/x"),
            (r"C:\v\Scripts\aider.exe", "c:/v/bin/aider"),
            (r"C:\Windows\py.exe", "c:/windows/python"),
            (r"C:\p\scripts\build.js", "c:/p/scripts/build.js"),
            (r"C:\x\claude.exe.bak", "c:/x/claude.exe.bak"),
            (r"C:\x\.exe", "c:/x/"),
            (r"C:\", "c:/"),
            // Not of Windows.
            ("/home/U/a.exe", "/home/U/a.exe"),
            (r"a\B", r"a\B"),
            ("C:x", "C:x"),
            ("é:/X", "é:/X"),
            (r"\\", r"\\"),
            ("", ""),
        ] {
            assert_eq!(plain(path), wanted, "{path}");
            assert_eq!(plain(&plain(path)), plain(path), "once is enough: {path}");
        }
        assert_eq!(with_ending(r"C:\a\Scripts\B.exe"), "c:/a/scripts/b.exe");
    }

    proptest::proptest! {
        #[test]
        fn no_path_is_too_odd(path in r"([Cc\\/?.]:?|\\\\)?[\\/?.: éİC]{0,12}(UNC)?[\\/a.]{0,6}(\.exe)?") {
            let plain = plain(&path);
            proptest::prop_assert!(is(&path) || *plain == *path);
            let _ = (super::super::is_interpreter(&path), file_name(&path), folded(&path));
        }
    }
}
