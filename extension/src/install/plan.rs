//! What an installation is made of on each system. Nothing here looks at the machine, so that every system's is tested on
//! all of them.

use std::path::PathBuf;

use super::LOADED;
use crate::osquery::GROUP;

const UNIT: &str = include_str!("../../../packaging/agentquery.service");
const DAEMON: &str = include_str!("../../../packaging/io.github.agentquery.plist");
const CONFIG: &str = include_str!("../../../packaging/config.yaml");

/// The folder of a package; these are Linux' alone.
const PACKAGED: &str = "usr/lib/agentquery";

/// What launchd knows the daemon by: the name of its file, and in it.
pub(super) const LABEL: &str = "io.github.agentquery";

/// The service's name on Windows.
pub(super) const SERVICE: &str = "agentquery";

/// Whose habits an installation follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum System {
    Linux,
    MacOs,
    Windows,
}

/// Where things are on a system, below its root, with `/`.
pub(super) struct Places {
    /// The program and what belongs to it. osquery wants an extension to be root's, and so each directory above it; on
    /// Windows nobody but administrators and the system may have the right to write it or its folder
    /// (<https://osquery.readthedocs.io/en/stable/deployment/extensions/>).
    pub program: &'static str,
    pub settings: &'static str,
    pub state: &'static str,
    /// Directories of osquery and of Fleet's agent (fleetd), which are there when these are installed.
    pub osquery: [&'static str; 2],
    /// What a recorder may have left: programs in the kernel, and a folder for its socket.
    pub left: &'static [&'static str],
    name: &'static str,
    /// osquery takes only what is called so.
    extension: &'static str,
    pub library: &'static str,
}

impl System {
    pub(super) const HERE: Self = if cfg!(windows) {
        Self::Windows
    } else if cfg!(target_os = "macos") {
        Self::MacOs
    } else {
        Self::Linux
    };

    pub(super) fn places(self, packaged: bool) -> Places {
        match self {
            Self::Linux => Places {
                program: if packaged { PACKAGED } else { "usr/local/lib/agentquery" },
                settings: "etc/agentquery",
                state: "var/lib/agentquery",
                osquery: ["etc/osquery", "opt/orbit"],
                left: &["sys/fs/bpf/agentquery", "run/agentquery"],
                name: "agentquery",
                extension: "agentquery.ext",
                library: "libduckdb.so",
            },
            // What is below /usr/local belongs to a user where Homebrew has it.
            Self::MacOs => Places {
                program: "Library/agentquery",
                settings: "Library/Application Support/agentquery",
                state: "Library/Application Support/agentquery/state",
                osquery: ["var/osquery", "opt/orbit"],
                left: &["var/run/agentquery"],
                name: "agentquery",
                extension: "agentquery.ext",
                library: "libduckdb.dylib",
            },
            Self::Windows => Places {
                program: "Program Files/agentquery",
                settings: "ProgramData/agentquery",
                state: "ProgramData/agentquery",
                osquery: ["Program Files/osquery", "Program Files/Orbit"],
                left: &[],
                name: "agentquery.exe",
                extension: "agentquery.ext.exe",
                library: "duckdb.dll",
            },
        }
    }

    /// A place as people and other programs of the system write it.
    pub(super) fn shown(self, path: &str) -> String {
        match self {
            Self::Linux | Self::MacOs => format!("/{path}"),
            Self::Windows => format!(r"{}\{}", drive(), path.replace('/', r"\")),
        }
    }

    /// How the recorder is started without osquery.
    pub(super) fn start(self) -> String {
        match self {
            Self::Linux => "systemctl daemon-reload && systemctl enable --now agentquery".to_owned(),
            Self::MacOs => format!("launchctl bootstrap system /Library/LaunchDaemons/{LABEL}.plist"),
            Self::Windows => format!("sc.exe start {SERVICE}; it starts with the machine as well"),
        }
    }

    /// Commands of the system for a group: whether it is there, what makes it and what takes it away. On Linux files tell
    /// whether it is there, and Windows has administrators.
    pub(super) fn group_commands(self, name: &str) -> [Vec<String>; 3] {
        let words = |line: &str| line.split(' ').map(str::to_owned).chain([name.to_owned()]).collect();
        match self {
            Self::Linux => [Vec::new(), words("groupadd --system"), words("groupdel")],
            Self::MacOs => ["read", "create", "delete"].map(|what| words(&format!("dseditgroup -q -o {what}"))),
            Self::Windows => [const { Vec::new() }; 3],
        }
    }
}

/// The drive of Windows; elsewhere, where an installation is only shown, the usual one.
fn drive() -> String {
    std::env::var("SystemDrive").ok().filter(|_| cfg!(windows)).unwrap_or_else(|| "C:".to_owned())
}

/// A step of an installation.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Directory(&'static str, u32),
    /// The program and its library: always the new ones.
    Copy(PathBuf, String),
    /// A second name, for the program does by its name what osquery or a user wants.
    SecondName(String, String),
    Link(&'static str, &'static str),
    /// A text: what an administrator has changed stays.
    Text(String, &'static str),
    Line(String, String),
    Group(&'static str),
    /// Windows: only administrators and the system may write there, and all, or nobody else, read.
    Protect(&'static str, Readers),
    /// Windows: a service.
    Service(Service),
}

/// Who may read what is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Readers {
    Everybody,
    Nobody,
}

/// A service of Windows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Service {
    pub name: &'static str,
    pub display_name: &'static str,
    pub description: &'static str,
    pub program: String,
    pub arguments: [&'static str; 2],
    /// It is started again after so many seconds, when it has ended for the first time, the second, and the next ones;
    /// a day without an end begins anew.
    pub restarts: [u64; 3],
    pub forgets: u64,
}

impl Service {
    /// What the service manager starts.
    pub(super) fn command_line(&self) -> String {
        format!("\"{}\" {}", self.program, self.arguments.join(" "))
    }
}

impl Step {
    /// It is of the machine itself, and cannot be done below another root.
    pub(super) fn is_the_machines(&self, system: System) -> bool {
        match self {
            Self::Protect(..) | Self::Service(_) => true,
            // shadow's programs know of another root.
            Self::Group(_) => system != System::Linux,
            _ => false,
        }
    }

    /// What it does, for people.
    pub(super) fn says(&self, system: System) -> String {
        let shown = |path: &str| system.shown(path);
        let mode = |mode: u32| if system == System::Windows { String::new() } else { format!(" (mode {mode:04o})") };
        match self {
            Self::Directory(path, bits) => format!("make the directory {}{}", shown(path), mode(*bits)),
            Self::Copy(from, to) => format!("copy {} to {}{}", from.display(), shown(to), mode(0o755)),
            Self::SecondName(of, name) => format!("give {} a second name, {}", shown(of), shown(name)),
            Self::Link(path, to) => format!("link {} to {to}", shown(path)),
            Self::Text(path, _) => format!("write {}{}", shown(path), mode(0o644)),
            Self::Line(file, line) => format!("add the line {line} to {}", shown(file)),
            Self::Group(name) => format!("create the group {name}, whose members see all rows"),
            Self::Protect(path, readers) => {
                let commands = protecting(&shown(path), *readers).map(|words| quoted(&words));
                format!("give {} to the administrators: {}", shown(path), commands.join("; "))
            }
            Self::Service(service) => format!(
                "create the service {}, which starts with the machine and again when it fails: {}",
                service.name,
                service.command_line()
            ),
        }
    }
}

/// A command as it is typed.
fn quoted(words: &[String]) -> String {
    let word = |word: &String| if word.contains(' ') { format!("\"{word}\"") } else { word.clone() };
    words.iter().map(word).collect::<Vec<_>>().join(" ")
}

/// The commands that leave the right to write to administrators and the system alone: nothing is inherited, for what is
/// below `Program Files` would be its installer's too, and below `ProgramData` everybody's to add to. Names of groups are
/// other ones in each language, their numbers are not.
pub(super) fn protecting(path: &str, readers: Readers) -> [Vec<String>; 2] {
    let owner = ["icacls.exe", path, "/setowner", "*S-1-5-32-544", "/t", "/q"];
    let rights = ["icacls.exe", path, "/inheritance:r", "/grant:r", "*S-1-5-18:(OI)(CI)F", "*S-1-5-32-544:(OI)(CI)F"];
    let users = match readers {
        Readers::Everybody => Some("*S-1-5-32-545:(OI)(CI)RX"),
        Readers::Nobody => None,
    };
    [owner.iter().map(ToString::to_string).collect(), rights.into_iter().chain(users).map(str::to_owned).collect()]
}

/// The steps. `program` and `library` are what is copied, `osquery` the directories of [`Places::osquery`] that are there.
pub(super) fn plan(
    system: System,
    packaged: bool,
    program: PathBuf,
    library: Option<PathBuf>,
    osquery: &[&str],
) -> Vec<Step> {
    let places = system.places(packaged);
    let in_folder = |name: &str| format!("{}/{name}", places.program);
    let text = |path: String, text| Step::Text(path, text);
    let mut steps = Vec::new();
    if packaged {
        steps.push(Step::Link("usr/bin/agentquery", "../lib/agentquery/agentquery"));
    } else {
        steps.extend([Step::Directory(places.program, 0o755), Step::Copy(program, in_folder(places.name))]);
        steps.extend(library.map(|from| Step::Copy(from, in_folder(places.library))));
        match system {
            System::Linux => steps.extend([
                Step::Directory("usr/local/bin", 0o755),
                Step::Link("usr/local/bin/agentquery", "../lib/agentquery/agentquery"),
            ]),
            System::MacOs => steps.extend([
                Step::Directory("usr/local/bin", 0o755),
                Step::Link("usr/local/bin/agentquery", "/Library/agentquery/agentquery"),
            ]),
            System::Windows => {}
        }
        steps.extend([
            Step::Directory(places.settings, 0o755),
            text(format!("{}/config.yaml", places.settings), CONFIG),
        ]);
        match system {
            System::Linux => steps.extend([
                Step::Directory("etc/systemd/system", 0o755),
                text("etc/systemd/system/agentquery.service".to_owned(), UNIT),
            ]),
            System::MacOs => steps.extend([
                Step::Directory("Library/LaunchDaemons", 0o755),
                text(format!("Library/LaunchDaemons/{LABEL}.plist"), DAEMON),
            ]),
            System::Windows => {}
        }
    }
    steps.push(Step::SecondName(in_folder(places.name), in_folder(places.extension)));
    if system != System::Windows {
        steps.push(Step::Group(GROUP));
    }
    steps.push(Step::Directory(signatures(system), 0o755));
    if places.state != places.settings {
        steps.push(Step::Directory(places.state, 0o700));
    }
    if system == System::Windows {
        steps.extend([
            Step::Protect(places.program, Readers::Everybody),
            Step::Protect(places.settings, Readers::Nobody),
            Step::Service(Service {
                name: SERVICE,
                display_name: "agentquery",
                description: "Records what AI coding agents do on this machine, and answers SQL about it.",
                program: system.shown(&in_folder(places.name)),
                arguments: ["run", "--service"],
                restarts: [2, 10, 60],
                forgets: 24 * 60 * 60,
            }),
        ]);
    }
    let line = system.shown(&in_folder(places.extension));
    steps.extend(osquery.iter().map(|directory| Step::Line(format!("{directory}/{LOADED}"), line.clone())));
    steps
}

/// Signatures of one's own.
fn signatures(system: System) -> &'static str {
    match system {
        System::Linux => "etc/agentquery/signatures",
        System::MacOs => "Library/Application Support/agentquery/signatures",
        System::Windows => "ProgramData/agentquery/signatures",
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn says(system: System) -> Vec<String> {
        let places = system.places(false);
        let steps = plan(system, false, "/new/agentquery".into(), Some("/new/duckdb".into()), &places.osquery);
        steps.iter().map(|step| step.says(system)).collect()
    }

    #[test]
    fn what_is_done_on_macos() {
        assert_eq!(
            says(System::MacOs),
            [
                "make the directory /Library/agentquery (mode 0755)",
                "copy /new/agentquery to /Library/agentquery/agentquery (mode 0755)",
                "copy /new/duckdb to /Library/agentquery/libduckdb.dylib (mode 0755)",
                "make the directory /usr/local/bin (mode 0755)",
                "link /usr/local/bin/agentquery to /Library/agentquery/agentquery",
                "make the directory /Library/Application Support/agentquery (mode 0755)",
                "write /Library/Application Support/agentquery/config.yaml (mode 0644)",
                "make the directory /Library/LaunchDaemons (mode 0755)",
                "write /Library/LaunchDaemons/io.github.agentquery.plist (mode 0644)",
                "give /Library/agentquery/agentquery a second name, /Library/agentquery/agentquery.ext",
                "create the group agentquery, whose members see all rows",
                "make the directory /Library/Application Support/agentquery/signatures (mode 0755)",
                "make the directory /Library/Application Support/agentquery/state (mode 0700)",
                "add the line /Library/agentquery/agentquery.ext to /var/osquery/extensions.load",
                "add the line /Library/agentquery/agentquery.ext to /opt/orbit/extensions.load",
            ]
        );
    }

    #[test]
    fn what_is_done_on_windows() {
        let says = says(System::Windows).join("\n").replace(&drive(), "C:");
        assert_eq!(
            says,
            r#"make the directory C:\Program Files\agentquery
copy /new/agentquery to C:\Program Files\agentquery\agentquery.exe
copy /new/duckdb to C:\Program Files\agentquery\duckdb.dll
make the directory C:\ProgramData\agentquery
write C:\ProgramData\agentquery\config.yaml
give C:\Program Files\agentquery\agentquery.exe a second name, C:\Program Files\agentquery\agentquery.ext.exe
make the directory C:\ProgramData\agentquery\signatures
give C:\Program Files\agentquery to the administrators: icacls.exe "C:\Program Files\agentquery" /setowner *S-1-5-32-544 /t /q; icacls.exe "C:\Program Files\agentquery" /inheritance:r /grant:r *S-1-5-18:(OI)(CI)F *S-1-5-32-544:(OI)(CI)F *S-1-5-32-545:(OI)(CI)RX
give C:\ProgramData\agentquery to the administrators: icacls.exe C:\ProgramData\agentquery /setowner *S-1-5-32-544 /t /q; icacls.exe C:\ProgramData\agentquery /inheritance:r /grant:r *S-1-5-18:(OI)(CI)F *S-1-5-32-544:(OI)(CI)F
create the service agentquery, which starts with the machine and again when it fails: "C:\Program Files\agentquery\agentquery.exe" run --service
add the line C:\Program Files\agentquery\agentquery.ext.exe to C:\Program Files\osquery\extensions.load
add the line C:\Program Files\agentquery\agentquery.ext.exe to C:\Program Files\Orbit\extensions.load"#
        );
    }

    /// The program looks for its settings where they are put.
    #[test]
    fn places_are_those_of_the_program() {
        let places = System::HERE.places(false);
        assert_eq!(crate::places::state(), Path::new(&System::HERE.shown(places.state)));
        assert_eq!(crate::places::config(), Path::new(&System::HERE.shown(places.settings)).join("config.yaml"));
        assert_eq!(crate::places::signatures(), Path::new(&System::HERE.shown(signatures(System::HERE))));
    }

    #[test]
    fn a_package_brings_the_files_itself() {
        let steps = plan(System::Linux, true, "/x".into(), None, &["etc/osquery"]);
        assert!(!steps.iter().any(|step| matches!(step, Step::Copy(..) | Step::Text(..))), "{steps:?}");
        let line = Step::Line("etc/osquery/extensions.load".into(), "/usr/lib/agentquery/agentquery.ext".into());
        assert_eq!(steps.last(), Some(&line));
    }

    /// What launchd reads says what is installed (launchd.plist(5)).
    #[test]
    fn the_daemon_of_launchd() {
        let daemon = plist::Value::from_reader_xml(DAEMON.as_bytes()).unwrap();
        let daemon = daemon.as_dictionary().unwrap();
        let text = |key: &str| daemon[key].as_string().unwrap();
        assert_eq!(text("Label"), LABEL);
        let arguments: Vec<_> = daemon["ProgramArguments"].as_array().unwrap().iter().collect();
        let program = System::MacOs.shown(&format!("{}/agentquery", System::MacOs.places(false).program));
        assert_eq!(arguments, [&plist::Value::from(program), &plist::Value::from("run")]);
        for key in ["RunAtLoad", "KeepAlive"] {
            assert_eq!(daemon[key].as_boolean(), Some(true), "{key}");
        }
        assert_eq!(daemon["Umask"].as_unsigned_integer(), Some(0o077));
        assert!(text("StandardErrorPath").starts_with("/var/log/"));
        let known = ["ThrottleInterval", "ExitTimeOut", "ProcessType"];
        let tested = ["Label", "ProgramArguments", "RunAtLoad", "KeepAlive", "Umask", "StandardErrorPath"];
        assert!(daemon.keys().all(|key| known.contains(&&**key) || tested.contains(&&**key)), "{daemon:?}");
    }
}
