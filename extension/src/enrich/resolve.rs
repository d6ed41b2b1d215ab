//! The path that a system call's name leads to.
//!
//! The kernel gives the directory that the name starts from. A bare name in it needs nothing more; a name with
//! directories in it is resolved while these are there, for one of them may be a symlink. The last component is never
//! followed here: that is what unlink, rename and the like act on.

use crate::event::CallPath;

/// Where a path comes from, the column `path_source`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The kernel's own path.
    Kernel,
    /// Directory names resolved after the call.
    Resolved,
    /// Joined by their text alone: the directories were gone, or lie in a mount namespace of their own.
    Lexical,
}

impl Source {
    /// As the column has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Resolved => "resolved",
            Self::Lexical => "lexical",
        }
    }
}

/// The path of a name. `real` gives a directory's real path, or `None` when it cannot tell.
pub fn resolve(path: &CallPath, real: impl Fn(&str) -> Option<String>) -> (String, Source) {
    if path.name.is_empty() {
        return (path.base.clone(), Source::Kernel);
    }
    let name = path.name.trim_end_matches('/');
    if !name.contains('/') && !matches!(name, "" | "." | "..") {
        return (join(&path.base, name), Source::Kernel);
    }
    let whole = join(&path.base, name.trim_start_matches('/'));
    let (directory, last) = whole.rsplit_once('/').unwrap_or(("", &whole));
    let directory = if directory.is_empty() { "/" } else { directory };
    let resolved = match last {
        "" | "." | ".." => real(&whole),
        _ => real(directory).map(|directory| join(&directory, last)),
    };
    match resolved {
        Some(path) => (path, Source::Resolved),
        None => (normalise(&whole), Source::Lexical),
    }
}

fn join(directory: &str, name: &str) -> String {
    format!("{}/{name}", directory.trim_end_matches('/'))
}

/// Removes `.` and `..` by their text.
fn normalise(path: &str) -> String {
    let mut components: Vec<&str> = Vec::new();
    for component in path.split('/') {
        match component {
            "" | "." => {}
            ".." => {
                components.pop();
            }
            name => components.push(name),
        }
    }
    format!("/{}", components.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(base: &str, name: &str) -> CallPath {
        CallPath { base: base.into(), name: name.into() }
    }

    #[test]
    fn a_bare_name_is_the_kernels() {
        let never = |_: &str| -> Option<String> { panic!("asked") };
        assert_eq!(resolve(&path("/a", "b"), never), ("/a/b".into(), Source::Kernel));
        assert_eq!(resolve(&path("/", "b/"), never), ("/b".into(), Source::Kernel));
        assert_eq!(resolve(&path("/a/b", ""), never), ("/a/b".into(), Source::Kernel));
    }

    #[test]
    fn directories_are_resolved_and_the_last_name_is_not() {
        let real = |directory: &str| (directory == "/a/link").then(|| "/real".to_owned());
        assert_eq!(resolve(&path("/a", "link/x"), real), ("/real/x".into(), Source::Resolved));
        assert_eq!(resolve(&path("/", "/a/link/x"), real), ("/real/x".into(), Source::Resolved));
        assert_eq!(resolve(&path("/a", "gone/../x"), real), ("/a/x".into(), Source::Lexical));
        assert_eq!(resolve(&path("/a/link", "."), |_| Some("/real".into())), ("/real".into(), Source::Resolved));
    }
}
