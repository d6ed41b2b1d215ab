//! What works on this machine, what does not, and how to mend it.
//!
//! Each check is a line. It is done as whoever asks: what an ordinary user may not see is said to be unseen, and is no
//! failure. Nothing is changed: the programs for the kernel are loaded, attached and taken away again.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::collect::{Choice, DegradationReason};
use crate::enrich::Meaning;
use crate::identify::Catalogue;
use crate::lock::Place;
use crate::osquery::client::{Client, ClientError};
use crate::shell::escape::visible;
use crate::{os, places};

/// How long a server may take for its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// As it should be.
    Ok,
    /// Works, with less than there could be.
    Warning,
    /// Something that is needed does not work.
    Failed,
    /// This user may not look.
    Unseen,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "FAILED",
            Self::Unseen => "unseen",
        }
    }
}

/// A check's result.
#[derive(Debug)]
struct Check {
    name: &'static str,
    state: State,
    what: String,
    /// How to mend it.
    mend: Option<String>,
}

fn check(name: &'static str, state: State, what: impl Into<String>) -> Check {
    Check { name, state, what: what.into(), mend: None }
}

impl Check {
    fn mend(self, how: impl Into<String>) -> Self {
        Self { mend: Some(how.into()), ..self }
    }
}

/// Something that is needed does not work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// So many checks failed.
    #[error("{0} of the checks failed")]
    Failed(usize),
    /// Nobody reads what was found.
    #[error("cannot write what was found: {0}")]
    Write(#[from] io::Error),
}

/// What is looked at, besides the machine.
#[derive(Debug)]
pub struct Subject<'a> {
    /// Where a recorder would be.
    pub place: &'a Place,
    /// Directories with signatures of one's own.
    pub signature_dirs: &'a [PathBuf],
    /// Which collector the settings ask for.
    pub choice: Choice,
    /// What is wrong with the configuration.
    pub fault: Option<String>,
}

/// Looks, and writes what it found to stdout.
///
/// # Errors
/// When something that is needed does not work.
pub fn run(subject: &Subject<'_>, json: bool) -> Result<(), Error> {
    let checks = examine(subject);
    write(&checks, json, &mut io::stdout().lock())?;
    match checks.iter().filter(|check| check.state == State::Failed).count() {
        0 => Ok(()),
        failed => Err(Error::Failed(failed)),
    }
}

fn write(checks: &[Check], json: bool, out: &mut dyn Write) -> io::Result<()> {
    if json {
        let object = |check: &Check| {
            serde_json::json!({
                "check": check.name,
                "state": check.state.name(),
                "what": check.what,
                "mend": check.mend,
            })
        };
        let all: Vec<_> = checks.iter().map(object).collect();
        return writeln!(out, "{:#}", serde_json::Value::from(all));
    }
    for Check { name, state, what, mend } in checks {
        let mend = mend.as_ref().map(|how| format!("; {how}")).unwrap_or_default();
        writeln!(out, "{:<8} {name:<11} {}", state.name(), visible(&format!("{what}{mend}")))?;
    }
    Ok(())
}

/// The sockets on which a recorder of this machine may answer: that of whoever has the lock, and the usual one.
fn sockets(place: &Place) -> Vec<PathBuf> {
    let held = place.holder().map(|holder| holder.socket).filter(|socket| *socket != place.socket);
    held.into_iter().chain([place.socket.clone()]).chain(place.machine.clone()).collect()
}

/// The first of those sockets that is answered on.
#[must_use]
pub fn recorder(place: &Place) -> Option<PathBuf> {
    let answers = |path: &PathBuf| Client::new(path).with_timeout(PATIENCE).query("SELECT 1").is_ok();
    sockets(place).into_iter().find(answers)
}

fn examine(subject: &Subject<'_>) -> Vec<Check> {
    let recorders = recorders(subject.place);
    // Whoever can ask a recorder need not be able to record.
    let answered = recorders.iter().any(|check| check.name == "recorder" && check.state == State::Ok);
    // And whoever has no eBPF can poll.
    let needed = State::Warning;
    let mut checks = vec![check("version", State::Ok, env!("CARGO_PKG_VERSION")), system(needed), rights(needed)];
    checks.extend(kernel(needed));
    checks.push(collector(&checks, answered, subject.choice));
    checks.extend(recorders);
    checks.extend(subject.fault.as_ref().map(|fault| check("config", State::Failed, fault)));
    checks.extend(signatures(subject.signature_dirs));
    checks.extend(osquery());
    if cfg!(target_os = "linux") {
        checks.push(pins(Path::new("/sys/fs/bpf")));
    }
    checks.push(processes());
    checks.push(open_sockets());
    checks
}

/// What a recorder that is started by this user would record with.
fn collector(checks: &[Check], answered: bool, choice: Choice) -> Check {
    let missing = checks.iter().find(|check| check.state != State::Ok && EVENTS.contains(&check.name));
    let why = match (choice, missing) {
        (Choice::Polling, _) => DegradationReason::Chosen.to_string(),
        (_, None) if os::is_administrator() => return check("collector", State::Ok, TELLS),
        (_, None | Some(_)) if !os::is_administrator() => DegradationReason::NotPrivileged.to_string(),
        (_, missing) => missing.map(|check| format!("{}: {}", check.name, check.what)).unwrap_or_default(),
    };
    if choice == Choice::Ebpf {
        let state = if answered { State::Warning } else { State::Failed };
        return check("collector", state, format!("none, for the settings say collector: ebpf: {why}"))
            .mend("say collector: auto");
    }
    let whose = if os::is_administrator() { "" } else { " this user's processes" };
    check(
        "collector",
        State::Warning,
        format!("polling{whose}, which sees less than {TELLS} (docs/platforms.md): {why}"),
    )
}

/// What events need, by the names of the checks.
const EVENTS: [&str; 7] = ["system", "rights", "btf", "namespace", "program", "endpoint", "etw"];

/// What tells events here.
const TELLS: &str = if cfg!(target_os = "macos") {
    "Endpoint Security"
} else if cfg!(windows) {
    "ETW"
} else {
    "eBPF"
};

fn first_line(path: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.lines().next()?.to_owned())
}

fn system(needed: State) -> Check {
    let release = first_line("/proc/sys/kernel/osrelease").unwrap_or_default();
    let what = format!("{} {release} {}", std::env::consts::OS, std::env::consts::ARCH);
    let linux = cfg!(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")));
    let known = linux || cfg!(target_os = "macos") || cfg!(windows);
    if known {
        check("system", State::Ok, what)
    } else {
        check("system", needed, format!("{what}: {}", DegradationReason::UnsupportedSystem))
    }
}

fn rights(needed: State) -> Check {
    if !os::is_administrator() {
        let user = os::user_name();
        return check(
            "rights",
            State::Ok,
            format!("an ordinary user ({user}): can ask a recorder, and record its own processes by polling"),
        );
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    match status.lines().find_map(|line| line.strip_prefix("CapEff:")).map(|mask| can_load(mask.trim())) {
        Some(false) => check("rights", needed, "root without the capabilities CAP_BPF and CAP_PERFMON")
            .mend("run it outside of what took them away, such as a container"),
        _ => check("rights", State::Ok, if cfg!(windows) { "administrator" } else { "root" }),
    }
}

/// Whether a mask of capabilities allows to load tracing programs: capabilities(7).
fn can_load(mask: &str) -> bool {
    let mask = u64::from_str_radix(mask, 16).unwrap_or(0);
    let has = |capability: u32| mask & (1 << capability) != 0;
    let (admin, perfmon, bpf) = (21, 38, 39);
    has(admin) || (has(perfmon) && has(bpf))
}

#[cfg(windows)]
fn kernel(needed: State) -> Vec<Check> {
    vec![match crate::collect::windows::source::trial() {
        Ok(()) => check("etw", State::Ok, "ETW tells this program what happens"),
        Err(why) => check("etw", needed, why.to_string()),
    }]
}

#[cfg(not(any(target_os = "linux", target_os = "macos", windows)))]
fn kernel(_: State) -> Vec<Check> {
    Vec::new()
}

#[cfg(target_os = "macos")]
fn kernel(needed: State) -> Vec<Check> {
    vec![match crate::collect::macos::client::trial() {
        Ok(()) => check("endpoint", State::Ok, "Endpoint Security tells this program what happens"),
        Err(why) => check("endpoint", needed, why.to_string()),
    }]
}

#[cfg(target_os = "linux")]
fn kernel(needed: State) -> Vec<Check> {
    use crate::collect::linux::{ebpf, trial};
    let mut checks = Vec::new();
    checks.push(if ebpf::has_btf() {
        check("btf", State::Ok, "the kernel tells its types")
    } else {
        check("btf", needed, DegradationReason::NoBtf.to_string())
    });
    checks.push(if ebpf::in_initial_pid_namespace() {
        check("namespace", State::Ok, "pids are the host's")
    } else {
        check("namespace", needed, DegradationReason::PidNamespace.to_string())
    });
    if let Some(modes) = first_line("/sys/kernel/security/lockdown") {
        let mode = modes.split(['[', ']']).nth(1).unwrap_or("unknown").to_owned();
        checks.push(if mode == "confidentiality" {
            check("lockdown", State::Warning, "the kernel is locked down for confidentiality and may refuse programs")
                .mend("boot with lockdown=integrity")
        } else {
            check("lockdown", State::Ok, mode)
        });
    }
    if !os::is_administrator() {
        checks.push(
            check("programs", State::Unseen, "not tried: loading needs root").mend("try: sudo agentquery doctor"),
        );
        return checks;
    }
    for (name, result) in trial::programs() {
        checks.push(match result {
            Ok(()) => check("program", State::Ok, format!("{name} loads and attaches")),
            Err(error) => check("program", needed, format!("{name}: {error}"))
                .mend("see what the kernel says with --log-level debug"),
        });
    }
    checks
}

fn recorders(place: &Place) -> Vec<Check> {
    let mut checks: Vec<Check> = sockets(place).iter().filter_map(|path| recorder_at(path)).collect();
    if checks.is_empty() {
        let what = "none runs: what needs one records by itself meanwhile";
        checks.push(if os::is_administrator() {
            check("recorder", State::Ok, what)
        } else {
            check("recorder", State::Warning, format!("{what}, this user's processes alone"))
                .mend(format!("start one for all: {}", os::elevated("agentquery run")))
        });
    }
    checks
}

/// None where no socket is.
fn recorder_at(path: &Path) -> Option<Check> {
    const SQL: &str = "SELECT sum(seen) AS seen, sum(ring_full + oversized + throttled) + max(recursion_misses) AS lost \
                       FROM agent_collector WHERE event <> 'gap'";
    let shown = path.display();
    let answer = Client::new(path).with_timeout(PATIENCE).query(SQL);
    let kind = if let Err(ClientError::Connect { source, .. }) = &answer { Some(source.kind()) } else { None };
    Some(match (answer, kind) {
        (_, Some(io::ErrorKind::NotFound)) => return None,
        (_, Some(io::ErrorKind::PermissionDenied)) => {
            check("recorder", State::Unseen, format!("{shown} is not for this user")).mend(if cfg!(windows) {
                "ask as administrator"
            } else {
                "ask as root"
            })
        }
        (_, Some(io::ErrorKind::ConnectionRefused)) => {
            check("recorder", State::Warning, format!("{shown} is left over: nobody answers there"))
                .mend("the next recorder replaces it")
        }
        (Err(error), _) => check("recorder", State::Failed, error.to_string()).mend("stop what listens there"),
        (Ok(rows), _) => {
            let number = |name: &str| rows.first().and_then(|row| row.get(name)?.parse::<u64>().ok()).unwrap_or(0);
            let (seen, lost) = (number("seen"), number("lost"));
            let what = format!("answers on {shown}: {seen} events seen, {lost} lost");
            if lost == 0 {
                check("recorder", State::Ok, what)
            } else {
                check("recorder", State::Warning, what).mend("agent_collector says which and where")
            }
        }
    })
}

fn signatures(dirs: &[PathBuf]) -> Vec<Check> {
    let catalogue = Catalogue::load(dirs);
    let rows: Vec<_> = catalogue.rows().into_iter().chain(Meaning::load(dirs).rows()).collect();
    let loaded = rows.iter().filter(|row| row.status == "loaded").count();
    let mut checks = vec![check("signatures", State::Ok, format!("{loaded} agents can be recognised"))];
    for row in rows.iter().filter(|row| row.status != "loaded") {
        let message = row.message.as_deref().unwrap_or("refused");
        checks.push(
            check("signatures", State::Failed, format!("{}: {message}", row.source))
                .mend("without it the others count"),
        );
    }
    checks
}

/// Where osquery's packages put its program, besides the path of programs.
const OSQUERY: [&str; 4] = [
    "/opt/osquery/bin",
    "/usr/local/bin",
    "/opt/osquery/lib/osquery.app/Contents/MacOS",
    r"C:\Program Files\osquery\osqueryd",
];

/// Its list of the extensions that it starts, as its flag `--extensions_autoload` has it by itself.
const AUTOLOAD: &str = if cfg!(windows) {
    r"C:\Program Files\osquery\extensions.load"
} else if cfg!(target_os = "macos") {
    "/private/var/osquery/extensions.load"
} else {
    "/etc/osquery/extensions.load"
};

/// Whether osquery does not start an extension: one that is not root's, that others can change or that cannot be run.
#[cfg(unix)]
fn is_refused(_: &Path, found: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    found.uid() != 0 || found.mode() & 0o022 != 0 || found.mode() & 0o111 == 0
}

/// Whether osquery does not start an extension: one that others can change.
#[cfg(windows)]
fn is_refused(path: &Path, _: &std::fs::Metadata) -> bool {
    !os::open_to_read(path).and_then(|file| os::only_ours_to_change(&file)).unwrap_or(false)
}

#[cfg(unix)]
fn how_to_load(path: &Path) -> String {
    format!("chown root {0} && chmod 755 {0}", path.display())
}

#[cfg(windows)]
fn how_to_load(path: &Path) -> String {
    os::how_to_trust(path)
}

fn osquery() -> Vec<Check> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(OSQUERY.map(PathBuf::from));
    let program = format!("osqueryd{}", std::env::consts::EXE_SUFFIX);
    let Some(installed) = directories.map(|directory| directory.join(&program)).find(|path| path.is_file()) else {
        return vec![check("osquery", State::Ok, "not installed: agentquery answers by itself")];
    };
    let mut checks = vec![check("osquery", State::Ok, format!("{} is installed", installed.display()))];
    checks.push(autoload(Path::new(AUTOLOAD)));
    let socket = places::osquery_socket();
    let asked = Client::new(socket)
        .with_timeout(PATIENCE)
        .query("SELECT version FROM osquery_extensions WHERE name = 'agentquery'");
    checks.push(match asked {
        Ok(rows) if rows.is_empty() => check(
            "osquery",
            State::Warning,
            format!("osqueryd answers on {} without agentquery's tables", socket.display()),
        )
        .mend("its log says why"),
        Ok(_) => check("osquery", State::Ok, format!("osqueryd on {} has agentquery's tables", socket.display())),
        Err(ClientError::Connect { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
            check("osquery", State::Unseen, format!("{} is not for this user", socket.display()))
        }
        Err(error) => check("osquery", State::Warning, format!("osqueryd does not answer: {error}"))
            .mend(format!("start it, or give it the flag --extensions_socket={}", socket.display())),
    });
    checks
}

/// Whether osquery starts the extension by itself, and would: it refuses files that others can change.
fn autoload(list: &Path) -> Check {
    let text = match std::fs::read_to_string(list) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return check("autoload", State::Unseen, format!("{} is not for this user", list.display()));
        }
        Err(_) => String::new(),
    };
    let named = text.lines().map(|line| Path::new(line.trim())).find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("agentquery") && (name.ends_with(".ext") || name.ends_with(".ext.exe"))
    });
    let Some(path) = named else {
        return check("autoload", State::Warning, format!("{} does not name agentquery.ext", list.display()))
            .mend("run: agentquery install, or install the package again");
    };
    match std::fs::metadata(path) {
        Err(error) => check("autoload", State::Failed, format!("{}: {error}", path.display())).mend("install it there"),
        Ok(found) if is_refused(path, &found) => {
            check("autoload", State::Failed, format!("osquery refuses {}: others can change it", path.display()))
                .mend(how_to_load(path))
        }
        Ok(_) => check("autoload", State::Ok, format!("osquery starts {}", path.display())),
    }
}

fn pins(directory: &Path) -> Check {
    match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => check("pinned", State::Ok, "nothing"),
        Err(error) => check("pinned", State::Unseen, format!("{}: {error}", directory.display())),
        Ok(entries) => {
            let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
            let mut ours: Vec<String> = names.filter(|name| name.starts_with("agentquery")).collect();
            ours.sort_unstable();
            listed("pinned", &ours)
        }
    }
}

/// The running programs of ours, but for this one.
fn processes() -> Check {
    let mut ours = running();
    ours.retain(|(pid, name)| name.starts_with("agentquery") && *pid != std::process::id());
    ours.sort_unstable();
    listed("running", &ours.iter().map(|(pid, name)| format!("{name} ({pid})")).collect::<Vec<_>>())
}

/// All that run, by their names.
#[cfg(target_os = "linux")]
fn running() -> Vec<(u32, String)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.map(|pid| (pid, first_line(&format!("/proc/{pid}/comm")).unwrap_or_default())).collect()
}

/// All that run, by their names.
#[cfg(not(target_os = "linux"))]
fn running() -> Vec<(u32, String)> {
    use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System};
    let mut system = System::new();
    system.refresh_processes_specifics(ProcessesToUpdate::All, false, ProcessRefreshKind::nothing());
    let named = |process: &sysinfo::Process| (process.pid().as_u32(), process.name().to_string_lossy().into_owned());
    system.processes().values().map(named).collect()
}

/// The pipes with our name.
#[cfg(windows)]
fn open_sockets() -> Check {
    let Ok(pipes) = std::fs::read_dir(r"\\.\pipe\") else {
        return check("pipes", State::Unseen, "the list of pipes cannot be read");
    };
    let names = pipes.flatten().map(|pipe| pipe.file_name().to_string_lossy().into_owned());
    let mut ours: Vec<String> = names.filter(|name| name.contains("agentquery")).collect();
    ours.sort_unstable();
    ours.dedup();
    listed("pipes", &ours)
}

/// The sockets with our name on which somebody listens.
#[cfg(not(windows))]
fn open_sockets() -> Check {
    let Ok(table) = std::fs::read_to_string("/proc/net/unix") else {
        return check("sockets", State::Unseen, "/proc/net/unix cannot be read");
    };
    listed("sockets", &listening(&table))
}

/// Paths in /proc/net/unix with our name and the flag of listening sockets, `__SO_ACCEPTCON`.
#[cfg(any(not(windows), test))]
fn listening(table: &str) -> Vec<String> {
    let path = |line: &str| {
        let mut fields = line.split_ascii_whitespace().skip(3);
        let flags = u32::from_str_radix(fields.next()?, 16).ok()?;
        let path = fields.nth(3)?;
        (flags & 0x1_0000 != 0 && path.contains("agentquery")).then(|| path.to_owned())
    };
    let mut paths: Vec<String> = table.lines().skip(1).filter_map(path).collect();
    paths.sort_unstable();
    paths.dedup();
    paths
}

fn listed(name: &'static str, ours: &[String]) -> Check {
    check(name, State::Ok, if ours.is_empty() { "nothing".to_owned() } else { ours.join(", ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_that_load_programs() {
        for (mask, can) in [
            ("000001ffffffffff", true),
            ("0000000000200000", true),
            ("000000c000000000", true),
            ("0000008000000000", false),
            ("00000000a80425fb", false),
            ("", false),
        ] {
            assert_eq!(can_load(mask), can, "{mask}");
        }
    }

    #[test]
    fn sockets_that_somebody_listens_on() {
        let table = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 11 /run/agentquery/agentquery.em\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 12 /run/agentquery/other.em\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 13 /run/dbus\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 14\n\
            garbage";
        assert_eq!(listening(table), ["/run/agentquery/agentquery.em"]);
    }

    #[cfg(unix)]
    #[test]
    fn osquerys_list_of_extensions() {
        use std::os::unix::fs::PermissionsExt as _;

        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("extensions.load");
        assert_eq!(autoload(&list).state, State::Warning);
        let extension = folder.path().join("agentquery.ext");
        std::fs::write(&list, format!("/opt/other.ext\n{}\n", extension.display())).unwrap();
        assert_eq!(autoload(&list).state, State::Failed, "it is not there");
        std::fs::write(&extension, "").unwrap();
        std::fs::set_permissions(&extension, std::fs::Permissions::from_mode(0o777)).unwrap();
        let refused = autoload(&list);
        assert_eq!(refused.state, State::Failed, "everybody can change it");
        assert!(refused.mend.unwrap().starts_with("chown root "));
        std::fs::set_permissions(&extension, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(autoload(&list).state == State::Ok, os::is_administrator());
    }

    #[test]
    fn a_bad_signature_fails_by_name() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("bad.yaml"), "name: [").unwrap();
        let checks = signatures(&[folder.path().to_owned()]);
        assert_eq!(checks.len(), 2);
        assert!(checks[1].state == State::Failed && checks[1].what.contains("bad.yaml"), "{checks:?}");
    }

    #[test]
    fn pins_by_name() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(pins(folder.path()).what, "nothing");
        std::fs::write(folder.path().join("agentquery_ring"), "").unwrap();
        std::fs::write(folder.path().join("other"), "").unwrap();
        assert_eq!(pins(folder.path()).what, "agentquery_ring");
        assert_eq!(pins(Path::new("/nothing")).what, "nothing");
    }

    #[test]
    fn a_line_a_check() {
        let checks = [check("a", State::Failed, "bro\nken\u{1b}").mend("mend it"), check("b", State::Ok, "fine")];
        let mut out = Vec::new();
        write(&checks, false, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "FAILED   a           bro\\nken\\x1b; mend it\nok       b           fine\n");
        let mut out = Vec::new();
        write(&checks, true, &mut out).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!((&json[0]["state"], &json[1]["mend"]), (&"FAILED".into(), &serde_json::Value::Null));
    }
}
