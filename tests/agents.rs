//! Real agents as npm and PyPI install them, each started offline in a network namespace of its own: the recorder finds
//! each of them, once, with its version.
//!
//! `lab/lab` installs and starts them. They come as far as where they want their model, or their user's account.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)] // a test fails by panicking

mod support;

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use support::{Recorder, can_record};

/// An agent, and how it is started.
struct Start {
    /// Name of the signature.
    agent: &'static str,
    /// What its user enters: name of the link that npm or pip makes.
    command: &'static str,
    /// Where the link leads, below the folder of the agents.
    target: &'static str,
    arguments: &'static [&'static str],
    /// Folder of npm's package, or name of PyPI's, whose version it has; none where its signature cannot tell.
    package: Option<&'static str>,
    role: &'static str,
    /// What it is started as, or starts, besides its first program, all of it one instance: how paths end, and how often.
    programs: &'static [(&'static str, usize)],
}

const STARTS: &[Start] = &[
    Start {
        agent: "claude-code",
        command: "claude",
        target: "node_modules/@anthropic-ai/claude-code/bin/claude.exe",
        arguments: &["-p", "use gemini"],
        package: Some("@anthropic-ai/claude-code"),
        role: "main",
        programs: &[],
    },
    Start {
        agent: "codex",
        command: "codex",
        target: "node_modules/@openai/codex/bin/codex.js",
        arguments: &["exec", "--skip-git-repo-check", "hi"],
        package: Some("@openai/codex"),
        role: "main",
        programs: &[("/bin/codex", 1), ("/node", 1)],
    },
    Start {
        agent: "codex",
        command: "codex",
        target: "node_modules/@openai/codex/bin/codex.js",
        arguments: &["app-server"],
        package: Some("@openai/codex"),
        role: "daemon",
        programs: &[("/bin/codex", 1), ("/node", 1)],
    },
    Start {
        agent: "gemini-cli",
        command: "gemini",
        target: "node_modules/@google/gemini-cli/bundle/gemini.js",
        arguments: &["--skip-trust", "-p", "hi"],
        package: Some("@google/gemini-cli"),
        // It starts itself again with more memory.
        role: "main",
        programs: &[("/node", 2)],
    },
    Start {
        agent: "qwen-code",
        command: "qwen",
        target: "node_modules/@qwen-code/qwen-code/cli-entry.js",
        arguments: &["--auth-type", "openai", "-p", "hi"],
        package: Some("@qwen-code/qwen-code"),
        role: "main",
        programs: &[("/node", 2)],
    },
    Start {
        agent: "cline",
        command: "cline",
        target: "node_modules/cline/bin/cline",
        arguments: &["say hi"],
        package: Some("cline"),
        role: "main",
        programs: &[("/bin/cline", 1), ("/node", 1)],
    },
    Start {
        agent: "crush",
        command: "crush",
        target: "node_modules/@charmland/crush/run-crush.js",
        arguments: &["run", "hi"],
        package: Some("@charmland/crush"),
        // The program itself is fetched at the first start, for which there is no network.
        role: "main",
        programs: &[],
    },
    Start {
        agent: "opencode",
        command: "opencode",
        target: "node_modules/opencode-ai/bin/opencode.exe",
        arguments: &["run", "hi"],
        package: Some("opencode-ai"),
        role: "main",
        programs: &[],
    },
    Start {
        agent: "opencode",
        command: "opencode",
        target: "node_modules/opencode-ai/bin/opencode.exe",
        arguments: &["serve"],
        package: Some("opencode-ai"),
        role: "daemon",
        programs: &[],
    },
    Start {
        agent: "copilot-cli",
        command: "copilot",
        target: "node_modules/@github/copilot/npm-loader.js",
        arguments: &["-p", "hi"],
        package: Some("@github/copilot"),
        role: "main",
        programs: &[("/copilot", 1), ("/node", 1)],
    },
    Start {
        agent: "amp",
        command: "amp",
        target: "node_modules/@ampcode/cli/bin/amp.exe",
        arguments: &["-x", "hi"],
        package: Some("@ampcode/cli"),
        role: "main",
        programs: &[],
    },
    Start {
        agent: "continue",
        command: "cn",
        target: "node_modules/@continuedev/cli/dist/cn.js",
        arguments: &["-p", "hi"],
        package: Some("@continuedev/cli"),
        role: "main",
        programs: &[],
    },
    Start {
        agent: "kimi-code",
        command: "kimi",
        target: "node_modules/@moonshot-ai/kimi-code/dist/main.mjs",
        arguments: &["-p", "hi"],
        package: Some("@moonshot-ai/kimi-code"),
        role: "main",
        programs: &[],
    },
    Start {
        agent: "auggie",
        command: "auggie",
        target: "node_modules/@augmentcode/auggie/augment.mjs",
        arguments: &["--print", "hi"],
        package: Some("@augmentcode/auggie"),
        role: "main",
        programs: &[],
    },
    Start {
        agent: "codebuff",
        command: "codebuff",
        target: "node_modules/codebuff/index.js",
        arguments: &["hi"],
        package: Some("codebuff"),
        role: "main",
        programs: &[],
    },
    Start {
        agent: "aider",
        command: "aider",
        target: "python/bin/aider",
        arguments: &["--message", "hi", "--no-git", "--yes-always", "--no-check-update", "--model", "gpt-4o"],
        package: Some("pypi:aider-chat"),
        role: "main",
        programs: &[],
    },
];

/// Seconds that an agent without its network may take.
const LIMIT: &str = "15";

/// How many run at the same time.
const AT_ONCE: usize = 6;

fn lab() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/lab/lab").canonicalize().unwrap()
}

/// Where `lab install` puts them.
fn agents() -> PathBuf {
    let cache = std::env::var_os("AGENTQUERY_CACHE").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/agentquery");
    cache.unwrap_or_else(home).join("lab-agents").canonicalize().unwrap()
}

/// The version that was installed: of npm as the package says, of PyPI as was asked for.
fn version(agents: &Path, package: &str) -> String {
    if let Some(name) = package.strip_prefix("pypi:") {
        let wanted = include_str!("lab/requirements.txt").lines().find_map(|line| line.strip_prefix(name));
        return wanted.and_then(|rest| rest.strip_prefix("==")).unwrap().to_owned();
    }
    let file = agents.join("node_modules").join(package).join("package.json");
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    json["version"].as_str().unwrap().to_owned()
}

/// Starts one, waits until it and all that it started has ended, and says what is wrong with its rows.
fn start(recorder: &Recorder, agents: &Path, folder: &Path, start: &Start) -> Result<(), String> {
    let folder = folder.join(format!("{}-{}", start.command, start.role));
    std::fs::create_dir(&folder).unwrap();
    let link = folder.join(start.command);
    symlink(agents.join(start.target), &link).unwrap();
    let out = folder.join("out");
    let output =
        Command::new(lab()).arg("start").arg(&out).arg(LIMIT).arg(&link).args(start.arguments).output().unwrap();
    let log = || std::fs::read_to_string(out.join("agent.log")).unwrap_or_default();
    if !output.status.success() {
        return Err(format!("{}: {}", start.agent, String::from_utf8_lossy(&output.stderr)));
    }
    // Whatever else is an agent on this machine is left to itself.
    let ours = format!("cwd LIKE '{}/%'", out.display());
    recorder.wait_for(&format!("SELECT count(*) > 0 AND sum(processes) = 0 FROM ai_agents WHERE {ours}"), "1");
    let rows = recorder.query(&format!(
        "SELECT agent, version, role, processes_total AS processes, confidence, evidence, path, cmdline, agent_id \
         FROM ai_agents WHERE {ours}"
    ));
    let [row] = &rows[..] else {
        return Err(format!("{}: {} instances: {rows:#?}\n{}", start.agent, rows.len(), log()));
    };
    let wanted = start.package.map(|package| version(agents, package));
    let is = |column: &str| row[column].as_deref();
    if (is("agent"), is("version"), is("role")) != (Some(start.agent), wanted.as_deref(), Some(start.role)) {
        return Err(format!("{} {wanted:?}: {row:?}\n{}", start.agent, log()));
    }
    let of_it = format!("agent_id = {}", is("agent_id").unwrap());
    for (end, times) in start.programs {
        let programs = format!("SELECT count(*) FROM agent_processes WHERE {of_it} AND path LIKE '%{end}'");
        let got: usize = recorder.value(&programs).unwrap().parse().unwrap();
        if got < *times {
            let all = recorder.query(&format!("SELECT path, cmdline FROM agent_processes WHERE {of_it}"));
            return Err(format!("{}: {got} times {end} in {all:#?}\n{}", start.agent, log()));
        }
    }
    eprintln!("{} {} {} processes", start.agent, is("version").unwrap_or("?"), is("processes").unwrap());
    Ok(())
}

#[test]
fn real_agents_are_found_once_each_with_their_version() {
    let test = "real_agents_are_found_once_each_with_their_version";
    if !can_record(test) {
        return;
    }
    if std::env::var_os("AGENTQUERY_NO_AGENTS").is_some() {
        support::skipped(test, "real agents are left out (--no-agents)");
        return;
    }
    let installed = Command::new(lab()).arg("install").output().unwrap();
    assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
    let agents = agents();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    let recorder = Recorder::start(&[]);
    let (there, missing): (Vec<_>, Vec<_>) = STARTS.iter().partition(|start| agents.join(start.target).exists());
    for start in &missing {
        // This machine's Python is not one that it runs with.
        assert_eq!(start.agent, "aider", "{} is not installed", start.target);
        support::skipped(test, start.agent);
    }
    // Those that take long come first.
    let waiting = Mutex::new(there.into_iter());
    let failures = Mutex::new(Vec::new());
    let work = || {
        loop {
            let Some(next) = waiting.lock().unwrap().next() else { return };
            if let Err(failure) = start(&recorder, &agents, &folder, next) {
                failures.lock().unwrap().push(failure);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(work);
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
