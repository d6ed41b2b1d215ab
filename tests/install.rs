//! Installing and uninstalling, below a directory that is taken for the root.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)] // a test fails by panicking

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use support::{AGENTQUERY, skipped};

/// A machine's directory, as far as an installation looks at it.
struct Root(tempfile::TempDir);

impl Root {
    fn new() -> Self {
        let root = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(root.path("etc/osquery")).unwrap();
        for (file, text) in [("group", "root:x:0:\n"), ("gshadow", "root:*::\n"), ("login.defs", "SYS_GID_MAX 999\n")] {
            fs::write(root.path("etc").join(file), text).unwrap();
        }
        root
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    fn try_to(&self, arguments: &[&str]) -> Output {
        Command::new(AGENTQUERY).args(arguments).arg("--root").arg(self.0.path()).output().unwrap()
    }

    /// Runs a command, which must succeed; what it wrote.
    fn run(&self, arguments: &[&str]) -> String {
        let output = self.try_to(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Every file and directory, with its mode and what it holds.
    fn all(&self) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
        fn walk(folder: &Path, found: &mut BTreeMap<PathBuf, (u32, Vec<u8>)>) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let metadata = path.symlink_metadata().unwrap();
                let bytes = if metadata.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
                found.insert(path.clone(), (metadata.mode(), bytes));
                if metadata.is_dir() {
                    walk(&path, found);
                }
            }
        }
        let mut found = BTreeMap::new();
        walk(self.0.path(), &mut found);
        // shadow's backups, and its locks
        found.retain(|path, _| !path.to_string_lossy().ends_with('-'));
        found
    }
}

fn can_install(test: &str) -> bool {
    // SAFETY: geteuid has no preconditions.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        skipped(test, "installing needs root");
    }
    root
}

#[test]
fn what_is_installed_works_and_goes_without_a_trace() {
    if !can_install("what_is_installed_works_and_goes_without_a_trace") {
        return;
    }
    let root = Root::new();
    fs::write(root.path("etc/osquery/extensions.load"), "/opt/another.ext").unwrap();
    for folder in ["opt/orbit", "sys/fs/bpf", "run"] {
        fs::create_dir_all(root.path(folder)).unwrap();
    }
    let before = root.all();

    let said = root.run(&["install", "--dry-run"]);
    assert!(said.lines().filter(|line| line.starts_with("would ")).count() > 8, "{said}");
    assert_eq!(root.all(), before);

    let said = root.run(&["install"]);
    assert!(said.contains("create the group agentquery"), "{said}");
    assert!(root.read("etc/group").contains("agentquery:"));
    let extension = "usr/local/lib/agentquery/agentquery.ext";
    assert_eq!(root.read("etc/osquery/extensions.load"), format!("/opt/another.ext\n/{extension}\n"));
    // Fleet's agent has a list of its own.
    assert_eq!(root.read("opt/orbit/extensions.load"), format!("/{extension}\n"));
    for (path, mode) in [(extension, 0o755), ("usr/local/lib/agentquery", 0o755), ("var/lib/agentquery", 0o700)] {
        let there = root.path(path).metadata().unwrap();
        assert_eq!((there.permissions().mode() & 0o7777, there.uid()), (mode, 0), "{path}");
    }
    // By either name, with the library that lies beside it.
    for name in ["usr/local/bin/agentquery", extension] {
        let output = Command::new(root.path(name)).arg("--version").env_remove("LD_LIBRARY_PATH").output().unwrap();
        let version = String::from_utf8(output.stdout).unwrap();
        assert!(version.contains(env!("CARGO_PKG_VERSION")), "{name}: {version}");
    }
    let config = ["config", "check", "--config"];
    let output = Command::new(AGENTQUERY).args(config).arg(root.path("etc/agentquery/config.yaml")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    // Again, as an update does: the same, and no second line.
    let installed = root.all();
    root.run(&["install"]);
    assert_eq!(root.all(), installed);

    let said = root.run(&["uninstall", "--dry-run"]);
    assert!(said.contains("would remove the group agentquery"), "{said}");
    assert_eq!(root.all(), installed);
    // What a recorder leaves when it ends.
    for folder in ["sys/fs/bpf/agentquery/1", "run/agentquery"] {
        fs::create_dir_all(root.path(folder)).unwrap();
    }
    root.run(&["uninstall"]);
    let mut after = root.all();
    // A line's end was added to the last line.
    let list = root.path("etc/osquery/extensions.load");
    assert_eq!(after.insert(list.clone(), before[&list].clone()).unwrap().1, b"/opt/another.ext\n");
    assert_eq!(after, before);
    let again = root.try_to(&["uninstall"]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("was not installed"));
}

#[test]
fn what_an_administrator_changed_and_the_history_stay_unless_purged() {
    if !can_install("what_an_administrator_changed_and_the_history_stay_unless_purged") {
        return;
    }
    let root = Root::new();
    fs::remove_dir(root.path("etc/osquery")).unwrap();
    let before = root.all();
    let said = root.run(&["install"]);
    assert!(said.contains("osquery is not installed"), "{said}");
    fs::write(root.path("etc/agentquery/config.yaml"), "retention_days: 3\n").unwrap();
    fs::write(root.path("var/lib/agentquery/history.duckdb"), "rows").unwrap();
    root.run(&["install"]);
    assert_eq!(root.read("etc/agentquery/config.yaml"), "retention_days: 3\n");
    root.run(&["uninstall"]);
    assert_eq!(root.read("etc/agentquery/config.yaml"), "retention_days: 3\n");
    assert_eq!(root.read("var/lib/agentquery/history.duckdb"), "rows");
    assert!(!root.path("usr/local").exists());

    root.run(&["install"]);
    root.run(&["uninstall", "--purge"]);
    let left: Vec<_> = root.all().into_keys().filter(|path| !before.contains_key(path)).collect();
    // They held something when they were no longer ours.
    assert_eq!(left, [root.path("var"), root.path("var/lib")]);
}

#[test]
fn a_step_that_cannot_be_done_says_so_and_can_be_taken_back() {
    if !can_install("a_step_that_cannot_be_done_says_so_and_can_be_taken_back") {
        return;
    }
    let root = Root::new();
    let before = root.all();
    fs::write(root.path("var"), "a file").unwrap();
    let output = root.try_to(&["install"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("make the directory /var/lib/agentquery"), "{said}");
    root.run(&["uninstall"]);
    fs::remove_file(root.path("var")).unwrap();
    assert_eq!(root.all(), before);
}
