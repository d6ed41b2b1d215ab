//! The packages, on a machine on which nothing else is installed: a small Debian in a directory, which nobody else sees.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)] // a test fails by panicking

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use support::{AGENTQUERY, Agent, Row, can_record, ended};

/// Where Debian remembers services that were removed.
const MASKED: &str = "var/lib/systemd/deb-systemd-helper-masked";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Runs a command, which must succeed; what it wrote.
fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {said}{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stdout).unwrap()
}

/// The packages of the program under test.
fn packages() -> &'static Path {
    static PACKAGES: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = PACKAGES.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        run(Command::new(repository().join("dev")).args(["package", "--quick", AGENTQUERY]).arg(folder.path()));
        folder
    });
    folder.path()
}

fn package(ending: &str) -> PathBuf {
    let files = fs::read_dir(packages()).unwrap().map(|entry| entry.unwrap().path());
    let mut found = files.filter(|path| path.extension().is_some_and(|extension| extension == ending));
    found.next().unwrap()
}

/// A machine. Its files lie over those of the base, in a mount namespace of the thread that made it.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        let base = run(&mut Command::new(repository().join("tests/machine.sh")));
        let machine = Self(tempfile::tempdir().unwrap());
        // SAFETY: changes what this thread and those that it starts see as mounted.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0);
        run(Command::new("mount").args(["--make-rprivate", "/"]));
        for folder in ["root", "upper", "work"] {
            fs::create_dir(machine.0.path().join(folder)).unwrap();
        }
        let over = machine.0.path().display();
        let options = format!("lowerdir={},upperdir={over}/upper,workdir={over}/work", base.trim());
        run(Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(machine.path("")));
        for kind in ["proc", "sysfs"] {
            let place = machine.path(if kind == "proc" { "proc" } else { "sys" });
            run(Command::new("mount").args(["-t", kind, kind]).arg(place));
        }
        run(Command::new("mount").args(["--bind", "/dev"]).arg(machine.path("dev")));
        machine
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join("root").join(path)
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    fn command(&self, line: &[&str]) -> Command {
        let mut command = Command::new("chroot");
        command.arg(self.path("")).args(line).env_clear();
        command.env("PATH", "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").env("DEBIAN_FRONTEND", "noninteractive");
        command
    }

    fn run(&self, line: &[&str]) -> String {
        run(&mut self.command(line))
    }

    /// Runs a script where files are brought to, as somebody who types it.
    fn sh(&self, script: &str) -> String {
        self.run(&["sh", "-e", "-c", &format!("cd /root\n{script}")])
    }

    /// Brings a file there.
    fn bring(&self, file: &Path) -> String {
        let name = format!("root/{}", file.file_name().unwrap().to_str().unwrap());
        fs::copy(file, self.path(&name)).unwrap();
        format!("/{name}")
    }

    /// Every file and directory, but for what keeps the books of packages; of links and configuration with what they hold.
    fn all(&self) -> BTreeMap<String, String> {
        const BOOKS: [&str; 10] = [
            "dev",
            "proc",
            "sys",
            "root",
            "tmp",
            "var/lib/dpkg",
            "var/lib/rpm",
            "var/cache",
            "var/log",
            "usr/lib/sysimage",
        ];
        fn walk(top: &Path, folder: &Path, found: &mut BTreeMap<String, String>) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(top).unwrap().to_str().unwrap().to_owned();
                // shadow's backups and lock, and what the linker and apt remember.
                let passing =
                    ["/ld.so.cache", "/.pwd.lock", "/extended_states", "-"].iter().any(|end| name.ends_with(end));
                if BOOKS.contains(&name.as_str()) || (passing && !name.starts_with("usr")) {
                    continue;
                }
                let metadata = path.symlink_metadata().unwrap();
                let held = if metadata.is_symlink() {
                    fs::read_link(&path).unwrap().display().to_string()
                } else if metadata.is_file() && name.starts_with("etc") {
                    String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned()
                } else {
                    String::new()
                };
                found.insert(name, format!("{:o} {held}", metadata.permissions().mode()));
                if metadata.is_dir() {
                    walk(top, &path, found);
                }
            }
        }
        let mut found = BTreeMap::new();
        walk(&self.path(""), &self.path(""), &mut found);
        found
    }

    /// What is there and was not, or is another.
    fn since(&self, before: &BTreeMap<String, String>) -> Vec<String> {
        let after = self.all();
        let new = after.iter().filter(|(name, held)| before.get(*name) != Some(held)).map(|(name, _)| name.clone());
        let gone = before.keys().filter(|name| !after.contains_key(*name)).map(|name| format!("without {name}"));
        new.chain(gone).collect()
    }

    /// Records there while an agent of the real machine runs; the agent's row, and those of the history.
    fn record(&self) -> (Row, Row) {
        let mut recorder = self.command(&["agentquery", "run"]);
        let log = self.0.path().join("log");
        let errors = fs::File::create(&log).unwrap();
        let mut recorder = recorder.stdin(Stdio::null()).stderr(errors).spawn().unwrap();
        let wait = |sql: &str| {
            let deadline = Instant::now() + Duration::from_secs(20);
            loop {
                let output = self.command(&["agentquery", "query", "--json", sql]).output().unwrap();
                let mut rows = serde_json::from_slice::<Vec<Row>>(&output.stdout).unwrap_or_default();
                if let Some(row) = rows.pop() {
                    return row;
                }
                let log = fs::read_to_string(&log).unwrap();
                assert!(Instant::now() < deadline, "{sql}: {}\n{log}", String::from_utf8_lossy(&output.stderr));
                std::thread::sleep(Duration::from_millis(50));
            }
        };
        let agent = Agent::new();
        // What is in the agent's folder has the same name for this recorder, which knows another root directory.
        let folder = agent.work().parent().unwrap().to_owned();
        let here = self.path(folder.strip_prefix("/").unwrap().to_str().unwrap());
        fs::create_dir_all(&here).unwrap();
        run(Command::new("mount").arg("--bind").args([&folder, &here]));
        // Not before it records: a query would begin to, too.
        while !self.path("run/agentquery/agentquery.em").exists() {
            assert!(recorder.try_wait().unwrap().is_none(), "the recorder ended");
            std::thread::sleep(Duration::from_millis(20));
        }
        // Not for ever, should this fail.
        let mut child = agent.start("for n in {1..2000}; do [ -e stop ] && break; sleep 0.02; done");
        let pid = child.id();
        let found = wait(&format!("SELECT agent, version FROM ai_agents WHERE pid = {pid}"));
        fs::write(agent.work().join("stop"), "").unwrap();
        ended(&mut child, Duration::from_secs(20));
        wait(&format!("SELECT agent FROM ai_agents WHERE pid = {pid} AND state = 'exited' AND agent = 'claude-code'"));
        let kept =
            wait("SELECT count(*) AS rows FROM ai_agents WHERE time > 0 AND time < strftime('%s', 'now') - 3600");
        // SAFETY: a child of ours that was not waited for, so its pid is its own.
        unsafe { libc::kill(recorder.id().cast_signed(), libc::SIGTERM) };
        assert!(ended(&mut recorder, Duration::from_secs(20)).success());
        (found, kept)
    }
}

/// The same package as if it were of a version before.
fn older(deb: &Path, folder: &Path) -> PathBuf {
    let (tree, older) = (folder.join("tree"), folder.join("older.deb"));
    run(Command::new("dpkg-deb").arg("--raw-extract").arg(deb).arg(&tree));
    let control = tree.join("DEBIAN/control");
    let text = fs::read_to_string(&control).unwrap();
    let line = text.lines().find(|line| line.starts_with("Version: ")).unwrap();
    fs::write(&control, text.replace(line, "Version: 0.0.1-1")).unwrap();
    run(Command::new("dpkg-deb").args(["--build", "-Znone"]).args([&tree, &older]));
    older
}

/// The commands of a part of docs/install.md that can be run here, block by block.
fn blocks(part: &str) -> Vec<String> {
    let page = fs::read_to_string(repository().join("docs/install.md")).unwrap();
    let (_, from) = page.split_once(&format!("\n{part}\n")).unwrap();
    let part = from.split("\n## ").next().unwrap();
    let blocks = part.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap().to_owned());
    blocks.collect()
}

/// Follows the page: the package lies where one stands.
fn run_page(machine: &Machine, part: &str, package: &Path) {
    machine.bring(package);
    let blocks = blocks(part);
    assert_eq!(blocks.len(), 2);
    for block in blocks {
        machine.sh(&block);
    }
}

#[test]
fn the_page_for_who_has_no_package_is_right_word_by_word() {
    if !can_record("the_page_for_who_has_no_package_is_right_word_by_word") {
        return;
    }
    let machine = Machine::new();
    let before = machine.all();
    let needed = run(Command::new("ldd").arg(AGENTQUERY));
    let library = needed.lines().find_map(|line| line.trim().strip_prefix("libduckdb.so => ")).unwrap();
    machine.bring(Path::new(AGENTQUERY));
    machine.bring(Path::new(library.split(' ').next().unwrap()));
    let (blocks, removal) = (blocks("## Without a package"), blocks("## Removal"));
    assert_eq!(blocks.len(), 2);
    let said = machine.sh(&blocks[0]);
    assert!(said.contains("would make the directory /usr/local/lib/agentquery"), "{said}");
    assert!(machine.path("usr/local/lib/agentquery/agentquery.ext").exists());
    fs::create_dir_all(machine.path("root/image/etc")).unwrap();
    for file in ["group", "gshadow", "login.defs"] {
        fs::copy(machine.path("etc").join(file), machine.path("root/image/etc").join(file)).unwrap();
    }
    machine.sh(&format!("IMAGE=/root/image; {}", blocks[1]));
    assert!(machine.path("root/image/usr/local/lib/agentquery/libduckdb.so").exists());
    machine.sh(&removal[2]);
    assert_eq!(machine.since(&before), [""; 0]);
}

#[test]
fn the_package_for_debian_installs_upgrades_and_goes() {
    if !can_record("the_package_for_debian_installs_upgrades_and_goes") {
        return;
    }
    let (deb, folder) = (package("deb"), tempfile::tempdir().unwrap());
    let machine = Machine::new();
    fs::create_dir(machine.path("etc/osquery")).unwrap();
    fs::write(machine.path("etc/osquery/extensions.load"), "/opt/another.ext\n").unwrap();
    let before = machine.all();
    let install = |file: &Path| machine.run(&["dpkg", "--force-unsafe-io", "--install", &machine.bring(file)]);
    install(&older(&deb, folder.path()));

    assert!(machine.run(&["agentquery", "--version"]).contains(env!("CARGO_PKG_VERSION")));
    assert!(machine.run(&["/usr/lib/agentquery/agentquery.ext", "--version"]).contains(env!("CARGO_PKG_VERSION")));
    let found = machine.run(&["ldd", "/usr/lib/agentquery/agentquery"]);
    assert!(found.contains("libduckdb.so => /usr/lib/agentquery/libduckdb.so"), "{found}");
    assert!(machine.read("etc/group").contains("\nagentquery:"));
    let list = "etc/osquery/extensions.load";
    assert_eq!(machine.read(list), "/opt/another.ext\n/usr/lib/agentquery/agentquery.ext\n");
    for (path, mode) in [("var/lib/agentquery", 0o700), ("usr/lib/agentquery/agentquery.ext", 0o755)] {
        assert_eq!(machine.path(path).metadata().unwrap().permissions().mode() & 0o7777, mode, "{path}");
    }
    assert!(machine.path("etc/systemd/system/multi-user.target.wants/agentquery.service").is_symlink());
    // Pages, completions, what it is made of.
    let page = run(Command::new("gzip").args(["-dc"]).arg(machine.path("usr/share/man/man1/agentquery.1.gz")));
    assert!(page.contains("AI coding agents"), "{page}");
    machine.run(&["bash", "-n", "/usr/share/bash-completion/completions/agentquery"]);
    let materials: serde_json::Value =
        serde_json::from_str(&machine.read("usr/share/doc/agentquery/agentquery.cdx.json")).unwrap();
    assert_eq!((&materials["bomFormat"], &materials["specVersion"]), (&"CycloneDX".into(), &"1.5".into()));
    let named = |name: &str| {
        let all = materials["components"].as_array().unwrap();
        all.iter().find(|component| component["name"] == name).unwrap().clone()
    };
    assert!(named("thrift")["purl"].as_str().unwrap().starts_with("pkg:cargo/thrift@"));
    assert_eq!(named("duckdb")["type"], "library");
    let doctor = machine.command(&["agentquery", "doctor"]).output().unwrap();
    let said = String::from_utf8_lossy(&doctor.stdout);
    assert!(doctor.status.success(), "{said}");

    // A history of before, and settings that somebody has made.
    let packed = repository().join("tests/data/history/v1.duckdb.gz");
    let history = machine.path("var/lib/agentquery/history.duckdb");
    let unpack = format!("gzip -dc '{}' > '{}'", packed.display(), history.display());
    run(Command::new("sh").args(["-c", &unpack]));
    fs::write(machine.path("etc/agentquery/config.yaml"), "retention_days: 36500\n").unwrap();
    let (agent, kept) = machine.record();
    assert_eq!((agent["agent"].as_deref(), agent["version"].as_deref()), (Some("claude-code"), Some("1.2.3")));
    assert_ne!(kept["rows"].as_deref(), Some("0"));

    // As the page for who installs says: the command blocks of its part on packages are run as they stand there.
    run_page(&machine, "## From packages", &deb);
    assert_ne!(machine.run(&["dpkg-query", "--show", "--showformat=${Version}", "agentquery"]), "0.0.1-1");
    assert_eq!(machine.read("etc/agentquery/config.yaml"), "retention_days: 36500\n");
    assert_eq!(machine.read(list).lines().count(), 2);
    assert_eq!(machine.record().1, kept, "the history goes over to the next version");

    let removal = blocks("## Removal");
    machine.sh(&removal[0]);
    let left = machine.since(&before);
    let mine = |name: &String| name.contains("agentquery") || name == MASKED;
    assert!(left.iter().all(mine), "{left:?}");
    assert!(history.exists() && machine.path("etc/agentquery/config.yaml").exists());
    assert!(
        !machine.path("usr/lib/agentquery").exists() && !machine.path("usr/bin/agentquery").is_symlink(),
        "{left:?}"
    );
    assert_eq!(machine.read(list), "/opt/another.ext\n");
    machine.sh(&removal[1]);
    let left: Vec<_> = machine.since(&before).into_iter().filter(|name| name != MASKED).collect();
    assert_eq!(left, [""; 0]);
}

#[test]
fn the_package_for_rpm_installs_and_goes() {
    if !can_record("the_package_for_rpm_installs_and_goes") {
        return;
    }
    let machine = Machine::new();
    let before = machine.all();
    let file = machine.bring(&package("rpm"));
    let list = machine.run(&["rpm", "--query", "--list", "--package", &file]);
    for path in [
        "/usr/lib/agentquery/agentquery",
        "/usr/lib/agentquery/libduckdb.so",
        "/usr/lib/systemd/system/agentquery.service",
        "/usr/share/man/man1/agentquery.1.gz",
        "/usr/share/bash-completion/completions/agentquery",
        "/usr/share/zsh/site-functions/_agentquery",
        "/usr/share/fish/vendor_completions.d/agentquery.fish",
        "/usr/share/doc/agentquery/agentquery.cdx.json",
    ] {
        assert!(list.lines().any(|line| line == path), "{path}\n{list}");
    }
    let configuration = machine.run(&["rpm", "--query", "--configfiles", "--package", &file]);
    assert_eq!(configuration.trim(), "/etc/agentquery/config.yaml");
    // What it needs is there, by other names.
    machine.run(&["rpm", "--install", "--nodeps", &file]);
    assert!(machine.run(&["agentquery", "--version"]).contains(env!("CARGO_PKG_VERSION")));
    assert!(machine.read("etc/group").contains("\nagentquery:"));
    let history = machine.path("var/lib/agentquery/history.duckdb");
    fs::write(&history, "rows").unwrap();
    machine.run(&["rpm", "--install", "--replacepkgs", "--nodeps", &file]);
    machine.run(&["rpm", "--erase", "agentquery"]);
    assert_eq!(fs::read(&history).unwrap(), b"rows");
    fs::remove_file(&history).unwrap();
    fs::remove_dir(history.parent().unwrap()).unwrap();
    // Directories of shells, which other systems have.
    let left = machine.since(&before);
    assert!(left.iter().all(|name| name.starts_with("usr/share/") && machine.path(name).is_dir()), "{left:?}");
    assert!(!left.iter().any(|name| name.contains("agentquery")), "{left:?}");
}
