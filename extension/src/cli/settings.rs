//! `config check` and `config show`: the settings of a machine, and where they come from.

use std::io::{self, Write};
use std::path::Path;

use agentquery::collect::polling;
use agentquery::collect::{Choice, Syscalls};
use agentquery::config::{KEYS, NONE, Source};
use agentquery::{places, trust};
use anyhow::anyhow;
use clap::ArgMatches;
use clap::parser::ValueSource;

use super::{Recording, retention};

/// Says that the file is right, or what is wrong with it.
pub(super) fn check(recording: &Recording) -> anyhow::Result<()> {
    let source = Source::load(recording.config.as_deref())?;
    let wrong = wrong(&source);
    if !wrong.is_empty() {
        return Err(anyhow!(wrong.join("\nagentquery: ")));
    }
    match &source.file {
        Some(file) => println!("ok: {}", file.display()),
        None => println!("ok: there is no {}, so the defaults hold", places::config().display()),
    }
    Ok(())
}

/// What the file says of directories, and what is there.
fn wrong(source: &Source) -> Vec<String> {
    let config = &source.config;
    let untrusted = |key: &str, directory: &Path| {
        let error = trust::directory(directory).err()?;
        Some(format!("{}: {error}", source.place(key).unwrap_or_default()))
    };
    let mut wrong: Vec<_> =
        config.signatures.iter().filter_map(|directory| untrusted("signatures", directory)).collect();
    // These two are made where they are not.
    let history = config.database.as_deref().and_then(Path::parent).filter(|directory| directory.is_absolute());
    for (key, directory) in [("state_dir", config.state_dir.as_deref()), ("database", history)] {
        let there = directory.filter(|directory| directory.exists());
        wrong.extend(there.and_then(|directory| untrusted(key, directory)));
    }
    if let Some(directory) = config.socket.as_deref().and_then(Path::parent)
        && Some(directory) != places::socket().parent()
        && !directory.is_dir()
    {
        let place = source.place("socket").unwrap_or_default();
        wrong.push(format!("{place}: there is no directory {}; make it", directory.display()));
    }
    wrong
}

/// Shows every setting as a file would say it, and where it comes from.
pub(super) fn show(recording: &Recording, matches: &ArgMatches, out: &mut dyn Write) -> anyhow::Result<()> {
    let source = Source::load(recording.config.as_deref())?;
    let lines: Vec<_> = KEYS
        .iter()
        .map(|key| (format!("{key}: {}", value(key, recording, &source)), origin(key, recording, matches, &source)))
        .collect();
    let widest = lines.iter().map(|(setting, _)| setting.chars().count()).max().unwrap_or(0);
    for (setting, origin) in lines {
        unless_closed(writeln!(out, "{setting:widest$}  # {origin}"))?;
    }
    Ok(())
}

/// A reader that has seen enough, such as `head`, is no error.
pub(super) fn unless_closed(written: io::Result<()>) -> io::Result<()> {
    written.or_else(|error| if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) })
}

/// The value that holds.
fn value(key: &str, recording: &Recording, source: &Source) -> String {
    let (settings, place) = recording.settings(source.config.clone(), None);
    match key {
        "collector" => match settings.collector.choice {
            Choice::Auto => "auto".to_owned(),
            Choice::Ebpf => "ebpf".to_owned(),
            Choice::Polling => "polling".to_owned(),
        },
        "poll_interval_ms" => settings.collector.interval.unwrap_or(polling::INTERVAL).as_millis().to_string(),
        "syscalls" => match settings.collector.syscalls {
            Syscalls::OnDemand => "on_demand".to_owned(),
            Syscalls::Always => "always".to_owned(),
        },
        "signatures" => {
            // The first one is there by itself.
            let own: Vec<_> = settings.signature_dirs.iter().skip(1).map(|directory| quoted(directory)).collect();
            format!("[{}]", own.join(", "))
        }
        "state_dir" => quoted(&place.state_dir),
        "socket" => quoted(&place.socket),
        "database" => settings.history.map_or_else(|| NONE.to_owned(), |history| quoted(&history.path)),
        "pin" => settings.pins.map_or_else(|| NONE.to_owned(), |folder| quoted(&folder)),
        "retention_days" => (retention(&source.config).seconds / 86_400).to_string(),
        "retention_bytes" => retention(&source.config).bytes.to_string(),
        "pack_keys" => format!("[{}]", source.config.pack_keys.join(", ")),
        _ => String::new(),
    }
}

/// Where it comes from.
fn origin(key: &str, recording: &Recording, matches: &ArgMatches, source: &Source) -> String {
    let flag = format!("--{}", key.replace('_', "-"));
    // What is said before a command's name and after it is one to the innermost.
    let mut innermost = matches;
    while let Some((_, inner)) = innermost.subcommand() {
        innermost = inner;
    }
    let given = innermost.try_contains_id(key).is_ok_and(|there| there).then(|| innermost.value_source(key)).flatten();
    let place = source.place(key).filter(|_| value_is_set(key, source));
    match (given, place) {
        (Some(ValueSource::CommandLine), Some(place)) if key == "signatures" && !recording.signatures.is_empty() => {
            format!("{place} and {flag}")
        }
        (Some(ValueSource::CommandLine), _) => flag,
        (Some(ValueSource::EnvVariable), _) => format!("AGENTQUERY_{}", key.to_uppercase()),
        (_, Some(place)) => place,
        _ => "default".to_owned(),
    }
}

/// Whether the file gives the key a value; without one it says nothing.
fn value_is_set(key: &str, source: &Source) -> bool {
    let config = &source.config;
    match key {
        "collector" => config.collector.is_some(),
        "poll_interval_ms" => config.poll_interval_ms.is_some(),
        "syscalls" => config.syscalls.is_some(),
        "signatures" => !config.signatures.is_empty(),
        "state_dir" => config.state_dir.is_some(),
        "socket" => config.socket.is_some(),
        "database" => config.database.is_some(),
        "pin" => config.pin.is_some(),
        "retention_days" => config.retention_days.is_some(),
        "retention_bytes" => config.retention_bytes.is_some(),
        "pack_keys" => !config.pack_keys.is_empty(),
        _ => false,
    }
}

/// A path as YAML. JSON's way to write texts is YAML's too.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_alphanumeric() || "/._-+@".contains(c);
    if text.chars().all(plain) { text.into_owned() } else { serde_json::Value::from(text).to_string() }
}

// What they show are paths of UNIX, and the places of a socket and of pins.
#[cfg(unix)]
#[cfg(test)]
mod tests {
    use super::super::Cli;
    use super::*;
    use clap::{CommandFactory as _, FromArgMatches as _};

    fn shown(file: &Path, arguments: &[&str]) -> Vec<String> {
        let line = [&["agentquery", "config", "show", "--config", file.to_str().unwrap()], arguments].concat();
        let matches = Cli::command().try_get_matches_from(line).unwrap();
        let cli = Cli::from_arg_matches(&matches).unwrap();
        let mut out = Vec::new();
        show(&cli.recording, &matches, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap().replace(&file.display().to_string(), "FILE");
        // What is shown can be a file.
        std::fs::write(file, &text).unwrap();
        Source::load(Some(file)).unwrap();
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    #[test]
    fn each_setting_says_where_it_comes_from() {
        if !agentquery::os::is_administrator() {
            return; // the places of others are their own
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.yaml");
        std::fs::write(
            &file,
            "# ours\nstate_dir: /s t\nsignatures:\n  - /sig\nretention_bytes: 64MiB\nsocket:\npoll_interval_ms: 250\n",
        )
        .unwrap();
        let expected = [
            "collector: auto # default",
            "poll_interval_ms: 250 # FILE:7",
            "syscalls: always # --syscalls",
            "signatures: [/sig, /more] # FILE:3 and --signatures",
            "state_dir: \"/s t\" # FILE:2",
            "socket: \"/s t/agentquery.em\" # default",
            "database: none # --database",
            "pin: none # default",
            "retention_days: 30 # default",
            "retention_bytes: 67108864 # FILE:5",
            "pack_keys: [] # default",
        ];
        let arguments = ["--syscalls", "always", "--database", "none", "--signatures", "/more"];
        assert_eq!(shown(&file, &arguments), expected);
        std::fs::write(&file, "pin: none\n").unwrap();
        let expected = [
            "collector: polling # --collector",
            "poll_interval_ms: 500 # default",
            "syscalls: on_demand # default",
            "signatures: [] # default",
            "state_dir: /var/lib/agentquery # default",
            "socket: /run/agentquery/agentquery.em # default",
            "database: /var/lib/agentquery/history.duckdb # default",
            "pin: none # FILE:1",
            "retention_days: 30 # default",
            "retention_bytes: 1073741824 # default",
            "pack_keys: [] # default",
        ];
        assert_eq!(shown(&file, &["--collector", "polling"]), expected);
    }

    #[cfg(unix)]
    #[test]
    fn what_a_file_names_must_be_there_and_be_safe() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let (file, open) = (folder.path().join("config.yaml"), folder.path().join("open"));
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
        let open = open.display();
        let text =
            format!("signatures:\n  - /nowhere\nstate_dir: {open}\ndatabase: {open}/a.duckdb\nsocket: /nowhere/a.em\n");
        std::fs::write(&file, text).unwrap();
        let found = wrong(&Source::load(Some(&file)).unwrap());
        let expected = [(1, "/nowhere: cannot be read"), (3, "chown"), (4, "chown"), (5, "no directory /nowhere")];
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (error, (line, part)) in found.iter().zip(expected) {
            assert!(error.starts_with(&format!("{}:{line}: ", file.display())) && error.contains(part), "{error}");
        }
        assert_eq!(wrong(&Source::default()), [] as [String; 0]);
    }
}
