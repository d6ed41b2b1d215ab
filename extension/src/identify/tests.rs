use std::path::PathBuf;

use proptest::prelude::*;

use super::signature::Signature;
use super::*;

/// A process by its image, its command line (one space between arguments) and its script.
fn identify(path: &str, line: &str, script: Option<&str>) -> Option<Match> {
    let argv: Vec<String> = line.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect();
    identify_argv(path, &argv, script)
}

fn identify_argv(path: &str, argv: &[String], script: Option<&str>) -> Option<Match> {
    thread_local!(static BUILTIN: Catalogue = Catalogue::builtin());
    let facts = ProcessFacts { path, exec_path: path, argv, script, parent_name: Some("bash") };
    BUILTIN.with(|catalogue| catalogue.identify(&facts))
}

fn name(path: &str, line: &str, script: Option<&str>) -> Option<String> {
    identify(path, line, script).map(|found| found.signature.name.to_string())
}

const NODE: &str = "/usr/bin/node";
const NATIVE: &str = "/home/u/.local/share/claude/versions/2.1.329";
const NPM: &str = "/home/u/app/node_modules/@anthropic-ai/claude-code/bin/claude.exe";
const CODEX: &str = "/u/node_modules/@openai/codex-linux-x64/vendor/x86_64-unknown-linux-musl/bin/codex";
const CODEX_JS: &str = "/u/node_modules/@openai/codex/bin/codex.js";
const GEMINI_JS: &str = "/usr/lib/node_modules/@google/gemini-cli/bundle/gemini.js";

#[test]
fn agents_as_they_are_installed() {
    let cases: &[(&str, &str, &str, Option<&str>)] = &[
        ("claude-code", NATIVE, "claude", None),
        ("claude-code", NPM, "claude -p hi", None),
        ("claude-code", "/u/node_modules/@anthropic-ai/claude-code-linux-x64/claude", "claude", None),
        ("claude-code", NODE, "node /usr/bin/claude", Some("/usr/lib/node_modules/@anthropic-ai/claude-code/cli.js")),
        ("claude-code", "/usr/local/bin/claude", "claude --continue", None),
        ("codex", CODEX, "codex exec hi", None),
        ("codex", NODE, "node /u/node_modules/.bin/codex exec hi", Some(CODEX_JS)),
        ("codex", "/usr/bin/node-22", "node /u/.bin/codex", Some(CODEX_JS)),
        ("codex", "/home/u/.codex/packages/app-server-daemon/releases/1/codex", "codex app-server", None),
        ("gemini-cli", NODE, "node --no-warnings /usr/bin/gemini", Some(GEMINI_JS)),
        ("gemini-cli", NODE, "/usr/bin/node --max-old-space-size=7000 /usr/bin/gemini -p hi", Some(GEMINI_JS)),
        ("gemini-cli", "/home/u/.bun/bin/bun", &format!("bun {GEMINI_JS}"), None),
        ("opencode", "/u/node_modules/opencode-linux-x64/bin/opencode", "opencode", None),
        ("opencode", "/u/node_modules/opencode-ai/bin/opencode.exe", "opencode", None),
        ("opencode", "/home/u/.opencode/bin/opencode", "opencode run x", None),
        ("aider", "/usr/bin/python3.12", "/v/bin/python /v/bin/aider --model x", Some("/v/bin/aider")),
        ("aider", "/usr/bin/python3.12", "python3 -m aider", None),
        (
            "aider",
            "/usr/bin/python3.11",
            "python /l/bin/aider",
            Some("/h/.local/share/pipx/venvs/aider-chat/bin/aider"),
        ),
        ("cursor", "/usr/share/cursor/cursor", "/usr/share/cursor/cursor .", None),
        ("cursor", "/tmp/.mount_Cursorabc/usr/share/cursor/cursor", "cursor", None),
        (
            "cursor-agent",
            "/home/u/.local/share/cursor-agent/versions/2025.09.18-39624ef/node",
            "/home/u/.local/bin/cursor-agent --use-system-ca /x/index.js",
            None,
        ),
        ("windsurf", "/usr/share/windsurf/windsurf", "windsurf", None),
    ];
    for (agent, path, line, script) in cases {
        assert_eq!(name(path, line, *script).as_deref(), Some(*agent), "{path} {line}");
    }
}

#[test]
fn what_only_looks_like_an_agent() {
    let cases: &[(&str, &str, Option<&str>)] = &[
        ("/usr/bin/vim", "vim /home/u/.claude/x", None),
        ("/home/claude/bin/x", "x", None),
        ("/home/claude/bin/claude", "claude", None),
        ("/usr/bin/grep", "grep -r codex .", None),
        ("/usr/bin/codex", "codex", None),
        (NODE, "node server.js", Some("/home/u/cursor/server.js")),
        (NODE, "node /home/u/cursor/server.js", Some("/home/u/cursor/server.js")),
        (NODE, "node /usr/bin/gemini", Some("/home/u/gemini/gemini.js")),
        (NODE, "node /usr/bin/gemini", None),
        (NODE, "node eslint /usr/lib/node_modules/@google/gemini-cli/bundle/gemini.js", None),
        (NODE, "node", None),
        (NODE, "node -e codex", None),
        ("/usr/bin/bash", "bash /home/u/q", Some("/home/u/q")),
        ("/home/u/q", "q", None),
        (NODE, "node q", Some("/home/u/q")),
        (NODE, "node /home/u/bin/aider", Some("/home/u/bin/aider")),
        ("/usr/bin/python3", "python3 aider.py", Some("/home/u/aider.py")),
        ("/usr/bin/cat", &format!("cat {CODEX}"), None),
        (NPM, "rg --files", None),
        (NATIVE, "rg --no-config x", None),
        (NATIVE, "/usr/bin/bfs . -name x", None),
        (NATIVE, "ugrep -G x", None),
        (&format!("{NATIVE}/vendor/rg"), "rg", None),
        ("/usr/share/cursor/cursor", "/usr/share/cursor/cursor --type=zygote", None),
        ("/usr/share/cursor/cursor", "cursor --no-sandbox --type=renderer", None),
        ("/usr/share/cursor/cursor", "cursor /usr/share/cursor/resources/app/out/cli.js .", None),
        ("/opt/cursor-theme/cursor", "cursor", None),
        ("/u/node_modules/@openai/codex-linux-x64/vendor/t/bin/codex-code-mode-host", "codex-code-mode-host", None),
        ("", "", None),
    ];
    for (path, line, script) in cases {
        let found = identify(path, line, *script);
        assert!(found.is_none(), "{path} {line}: {found:?}");
    }
}

/// Told by their form, on any system.
#[test]
fn agents_of_windows() {
    const NODE: &str = r"C:\Program Files\nodejs\node.exe";
    let argv = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let name = |path: &str, words: &[&str], script: Option<&str>| {
        identify_argv(path, &argv(words), script).map(|found| found.signature.name.to_string())
    };
    let npm = r"C:\Users\x\AppData\Roaming\npm\node_modules";
    let claude_js = format!(r"{npm}\@anthropic-ai\claude-code\cli.js");
    // As npm's own launcher writes it.
    let codex_js = r"C:\Users\x\AppData\Roaming\npm\\node_modules\@openai\codex\bin\codex.js";
    let gemini_js = format!(r"{npm}\@google\gemini-cli\bundle\gemini.js");
    let aider = r"C:\Users\x\pipx\venvs\aider-chat\Scripts\aider.exe";
    let cases: &[(&str, &str, &[&str], Option<&str>)] = &[
        ("claude-code", &format!(r"{npm}\@anthropic-ai\claude-code\bin\claude.exe"), &["claude"], None),
        ("claude-code", r"C:\Users\X\.local\bin\claude.exe", &["claude"], None),
        ("claude-code", r"c:\users\x\.local\share\claude\versions\2.1.329", &["claude"], None),
        ("claude-code", r"D:\tools\Claude.exe", &["claude", "--continue"], None),
        ("claude-code", NODE, &["node", &claude_js], None),
        ("claude-code", NODE, &["node", &claude_js], Some(&format!(r"\\?\{claude_js}"))),
        ("claude-code", r"C:\Users\x\scoop\apps\nodejs\current\NODE.EXE", &["node", &claude_js.to_uppercase()], None),
        ("codex", NODE, &["node", codex_js], None),
        (
            "codex",
            &format!(
                r"{npm}\@openai\codex\node_modules\@openai\codex-win32-x64\vendor\x86_64-pc-windows-msvc\bin\codex.exe"
            ),
            &["codex.exe"],
            None,
        ),
        ("gemini-cli", NODE, &[NODE, "--no-warnings", &gemini_js, "-p", "hi"], Some(&gemini_js)),
        ("gemini-cli", NODE, &["node", r"gemini.js"], Some(&gemini_js)),
        ("cursor", r"C:\Users\x\AppData\Local\Programs\cursor\Cursor.exe", &["Cursor.exe", "."], None),
        ("windsurf", r"C:\Users\x\AppData\Local\Programs\Windsurf\Windsurf.exe", &["Windsurf.exe"], None),
        (
            "opencode",
            &format!(r"{npm}\opencode-ai\node_modules\opencode-windows-x64\bin\opencode.exe"),
            &["opencode"],
            None,
        ),
        ("aider", r"C:\Python312\python.exe", &["python", aider], Some(aider)),
        ("aider", r"C:\Python312\python.exe", &["python", r"C:\Python312\Scripts\aider.exe", "--model", "x"], None),
        ("aider", r"C:\Windows\py.exe", &["py", "-m", "aider"], None),
    ];
    for (agent, path, words, script) in cases {
        assert_eq!(name(path, words, *script).as_deref(), Some(*agent), "{path} {words:?}");
    }
    let not: &[(&str, &[&str], Option<&str>)] = &[
        (r"C:\Users\claude\bin\x.exe", &["x"], None),
        (r"C:\claude.exe\x.exe", &["x", "--continue"], None),
        (r"C:\Users\x\claude.exe.bak", &["claude.exe.bak", "--continue"], None),
        (r"C:\Users\x\.local\bin\claude.exe.bak", &["claude.exe.bak"], None),
        (r"C:\Users\x\claude.exe", &["claude.exe"], None),
        (r"C:\Users\x\cursor\a.exe", &["a"], None),
        (r"C:\Windows\System32\notepad.exe", &["notepad", &claude_js], None),
        (NODE, &["node", r"C:\Users\x\gemini\gemini.js"], Some(r"C:\Users\x\gemini\gemini.js")),
        (NODE, &["node", "eslint", &gemini_js], None),
        (NODE, &["node"], None),
        (NODE, &["node", r"C:\Users\x\bin\aider.exe"], None),
        (r"C:\Users\x\AppData\Local\Programs\cursor\Cursor.exe", &["Cursor.exe", "--type=renderer"], None),
        // Not of Windows: a name with `\` in it.
        (r"/x/\node_modules\@openai\codex\bin\codex.js", &["x"], None),
    ];
    for (path, words, script) in not {
        let found = name(path, words, *script);
        assert!(found.is_none(), "{path} {words:?}: {found:?}");
    }
}

#[test]
fn prompts_and_odd_arguments_change_nothing() {
    let argv = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let found = |path, words: &[&str]| identify_argv(path, &argv(words), None);
    assert_eq!(&*found(NATIVE, &["claude", "-p", "use gemini"]).unwrap().signature.name, "claude-code");
    assert_eq!(&*found(NATIVE, &["claude", "/usr/bin/gemini", "codex"]).unwrap().signature.name, "claude-code");
    assert_eq!(found(CODEX, &["codex", "app-server is broken"]).unwrap().role, Role::Main);
    assert_eq!(found(CODEX, &["codex", "exec", "app-server"]).unwrap().role, Role::Main);
    assert!(found(NATIVE, &[]).is_some(), "no arguments at all");
    assert!(found("/bin/x", &[]).is_none());
    let long = "é".repeat(1 << 19);
    assert!(found(NATIVE, &[&long]).is_some());
    assert!(found("/bin/x", &[&long, &long, &long]).is_none());
    assert!(found(NODE, &["node", &"/codex".repeat(200_000)]).is_none());
}

#[test]
fn roles() {
    assert_eq!(identify(CODEX, "codex app-server --listen x", None).unwrap().role, Role::Daemon);
    assert_eq!(identify(CODEX, "app-server --listen x", None).unwrap().role, Role::Daemon);
    assert_eq!(identify(NODE, "node /u/.bin/codex app-server", Some(CODEX_JS)).unwrap().role, Role::Daemon);
    assert_eq!(identify("/h/.opencode/bin/opencode", "opencode serve", None).unwrap().role, Role::Daemon);
    assert_eq!(identify(CODEX, "codex", None).unwrap().role, Role::Main);
}

#[test]
fn confidence_and_evidence_say_what_held() {
    let found = identify(NATIVE, "claude", None).unwrap();
    assert_eq!(found.confidence, 90);
    assert_eq!(found.evidence, "executable matches */.local/share/claude/versions/*");
    let found = identify("/usr/bin/codex", "codex exec hi", None).unwrap();
    assert_eq!(found.confidence, 50);
    assert!(found.evidence.starts_with("executable is named codex; arguments match ^"), "{}", found.evidence);
    let found = identify("/usr/bin/python3", "python /v/bin/aider", Some("/v/bin/aider")).unwrap();
    assert_eq!((found.confidence, &*found.evidence), (50, "script matches */bin/aider; run by python*"));
}

#[test]
fn versions() {
    let version = |path, line, script| identify(path, line, script).unwrap().version;
    let json = |path: &str| VersionSource::PackageJson(PathBuf::from(path));
    assert_eq!(version(NATIVE, "claude", None), VersionSource::Known("2.1.329".into()));
    assert_eq!(version(NPM, "claude", None), json("/home/u/app/node_modules/@anthropic-ai/claude-code/package.json"));
    assert_eq!(version(NODE, "node /x/codex", Some(CODEX_JS)), json("/u/node_modules/@openai/codex/package.json"));
    assert_eq!(
        version(CODEX, "codex", None),
        json("/u/node_modules/@openai/codex-linux-x64/vendor/x86_64-unknown-linux-musl/codex-package.json")
    );
    assert_eq!(
        version(NODE, "node /x/gemini", Some(GEMINI_JS)),
        json("/usr/lib/node_modules/@google/gemini-cli/package.json")
    );
    assert_eq!(version("/usr/bin/python3", "python3 -m aider", None), VersionSource::Unknown);
}

#[test]
fn expected_hosts_are_whole_labels() {
    let claude = identify(NATIVE, "claude", None).unwrap().signature;
    let expects = |host| claude.is_expected(host) == Some(true);
    assert!(expects("api.anthropic.com"));
    assert!(expects("Anthropic.com."));
    assert!(!expects("notanthropic.com"));
    assert!(!expects("anthropic.com.example.org"));
    assert!(!expects(""));
}

#[test]
fn no_program_of_every_system_is_a_candidate() {
    let catalogue = Catalogue::builtin();
    let literals = [catalogue.literals(), catalogue.names()].concat();
    for common in ["bin", "usr", "node_modules", "versions", "node", "python3", "index.js", "cli.js", ".local", ""] {
        assert!(!literals.iter().any(|literal| literal == common), "{common}");
    }
    assert!(literals.iter().any(|literal| literal == "gemini"));
    assert!(!catalogue.needs_every_exec());
    // A name may be that of a user, or of a directory: there it says nothing.
    assert!(catalogue.names().iter().any(|name| name == "pi"));
    assert!(!catalogue.literals().iter().any(|literal| literal == "pi"));
}

fn write(dir: &tempfile::TempDir, name: &str, text: impl AsRef<[u8]>) {
    std::fs::write(dir.path().join(name), text).unwrap();
}

fn load(dir: &tempfile::TempDir) -> Catalogue {
    Catalogue::load(&[dir.path().to_owned()])
}

/// The message for a file, without its directory.
fn message(catalogue: &Catalogue, file: &str) -> String {
    let row = catalogue.rows().into_iter().find(|row| std::path::Path::new(&*row.source).ends_with(file)).expect(file);
    let message = row.message.as_deref().unwrap_or_default();
    message.split_once(file).expect("the file is named").1.to_owned()
}

const OWN: &str = "name: own\ndisplay_name: Own\ncategory: cli\n";

#[test]
fn a_bad_file_is_named_with_its_place_and_the_others_load() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir, "good.yaml", format!("{OWN}detection:\n  exe_patterns: ['/opt/own-agent/bin/own']\n"));
    let with = |rest: &str| format!("{OWN}{rest}");
    // File, text, and how its message goes on behind the file's name.
    let cases: &[(&str, Vec<u8>, &str)] = &[
        ("syntax.yaml", with("detection: [a\nfoo: {").into(), ":"),
        ("tab.yaml", with("detection:\n\tnames: [a]\n").into(), ":5:"),
        (
            "unknown.yaml",
            with("detection:\n  exe_paterns: ['/opt/own/x']\n").into(),
            ":5:3: detection: unknown field `exe_paterns`; did you mean exe_patterns?",
        ),
        ("type.yaml", with("detection:\n  names: own\n").into(), ":5:10: detection.names: "),
        ("category.yaml", "name: a\ndisplay_name: A\ncategory: toaster\ndetection: {}\n".into(), ":3:11: category: "),
        ("twice.yaml", with("name: own2\ndetection: {}\n").into(), ":4:1: "),
        ("missing.yaml", "name: a\n".into(), ":"),
        ("empty.yaml", "".into(), ":"),
        ("list.yaml", "- a\n- b\n".into(), ":1:1: "),
        (
            "regex.yaml",
            with("detection:\n  argv_patterns:\n    - ok\n    - 'a('\n").into(),
            ":7:7: argv_patterns: \"a(\"",
        ),
        ("huge-regex.yaml", with("detection:\n  argv_patterns: ['(a{999}){999}']\n").into(), ":5:19: argv_patterns:"),
        ("relative.yaml", with("detection:\n  exe_patterns: [claude]\n").into(), ":5:18: exe_patterns:"),
        ("substring.yaml", with("detection:\n  exe_patterns: ['*own*']\n").into(), ":5:3: detection: nothing here can"),
        ("alone.yaml", with("detection:\n  names: [q]\n").into(), ":5:3: detection: nothing here can"),
        ("name.yaml", "name: A b\ndisplay_name: A\ncategory: cli\ndetection: {}\n".into(), ":1:7: name: must"),
        ("not.yaml", with("detection:\n  names: [q]\n  parent_hints: [zsh]\n  not:\n    - {}\n").into(), ":8:7: not:"),
        (
            "group.yaml",
            with("detection:\n  exe_patterns: ['/opt/own/x']\nversion:\n  - path: x\n").into(),
            ":7:11: version: \"x\" has no group",
        ),
        (
            "both.yaml",
            with("detection:\n  exe_patterns: ['/opt/own/x']\nversion:\n  - path: (x)\n    package_json: y\n").into(),
            ":7:5: version: give one",
        ),
        (
            "host.yaml",
            with("detection:\n  exe_patterns: ['/opt/own/x']\nnetwork_endpoints:\n  expected: ['http://x/']\n").into(),
            ":7:14: expected:",
        ),
        ("two.yaml", format!("{OWN}detection:\n  exe_patterns: ['/opt/own/x']\n---\na: b\n").into(), ":"),
        ("bytes.yaml", b"name: a\n# \xff\n".to_vec(), ":2:3: is not UTF-8"),
        ("large.yaml", vec![b'#'; 2 << 20], ": larger than 1 MiB"),
        ("bomb.yaml", bomb().into(), ":"),
        ("deep.yaml", "[".repeat(100_000).into(), ":"),
    ];
    for (file, text, _) in cases {
        write(&dir, file, text);
    }
    write(&dir, "README.md", "not a signature");
    std::fs::create_dir(dir.path().join("directory.yaml")).unwrap();
    let catalogue = load(&dir);
    for (file, _, expected) in cases {
        let message = message(&catalogue, file);
        assert!(message.starts_with(expected), "{file}{message}");
        assert!(!message.contains('\n'), "{file}{message}");
    }
    assert!(message(&catalogue, "directory.yaml").contains("not a regular file"));
    let rows = catalogue.rows();
    assert_eq!(rows.iter().filter(|row| row.status == "refused").count(), cases.len() + 1);
    assert_eq!(rows.iter().filter(|row| row.status == "loaded").count(), builtin::FILES.len() + 1);
    assert!(catalogue.signatures().any(|signature| &*signature.name == "own"));
}

/// Many uses of one text that a short file can make large.
fn bomb() -> String {
    let aliases = vec!["*a"; 100_000].join(", ");
    format!("{OWN}detection:\n  argv_patterns: [&a '{}', {aliases}]\n", "x".repeat(1000))
}

#[cfg(unix)]
#[test]
fn what_others_can_change_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let text = format!("{OWN}detection:\n  exe_patterns: ['/opt/own/x']\n");
    write(&dir, "open.yaml", &text);
    let mode = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(&dir.path().join("open.yaml"), 0o666);
    assert!(message(&load(&dir), "open.yaml").contains("others can change it"));
    mode(&dir.path().join("open.yaml"), 0o644);
    assert!(load(&dir).signatures().any(|signature| &*signature.name == "own"));
    mode(dir.path(), 0o777);
    let refused = load(&dir).rows().into_iter().find(|row| row.status == "refused").unwrap();
    assert!(refused.message.unwrap().contains("others can change it"));
}

#[cfg(unix)]
#[test]
fn a_fifo_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = std::ffi::CString::new(dir.path().join("fifo.yaml").to_str().unwrap()).unwrap();
    // SAFETY: the path is a C string that lives through the call.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    assert!(message(&load(&dir), "fifo.yaml").contains("not a regular file"));
}

#[test]
fn a_user_file_replaces_a_builtin_of_its_name() {
    let dir = tempfile::tempdir().unwrap();
    write(
        &dir,
        "mine.yaml",
        "name: codex\ndisplay_name: Mine\ncategory: desktop\ndetection:\n  exe_patterns: ['/opt/mine/x']\n",
    );
    let catalogue = load(&dir);
    let rows: Vec<_> = catalogue.rows().into_iter().filter(|row| &*row.agent == "codex").collect();
    assert_eq!(rows.len(), 1);
    assert_eq!(&*rows[0].display_name, "Mine");
    assert_eq!(rows[0].message.as_deref(), Some("replaces builtin:codex"));
    assert!(rows[0].early);
    let facts = |path| ProcessFacts { path, exec_path: path, argv: &[], script: None, parent_name: None };
    assert!(catalogue.identify(&facts("/opt/mine/x")).is_some());
    assert!(catalogue.identify(&facts(CODEX)).is_none());
}

#[test]
fn a_directory_that_is_not_there_is_no_error() {
    let catalogue = Catalogue::load(&[PathBuf::from("/nowhere/at/all")]);
    assert_eq!(catalogue.rows().len(), builtin::FILES.len());
    assert!(catalogue.rows().iter().all(|row| row.status == "loaded" && row.message.is_none() && row.rules > 0));
}

#[test]
fn a_signature_without_a_literal_works_late() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir, "late.yaml", format!("{OWN}detection:\n  exe_patterns: ['*/own-*/bin/own-*']\n"));
    let catalogue = load(&dir);
    assert!(catalogue.needs_every_exec());
    let row = catalogue.rows().into_iter().find(|row| &*row.agent == "own").unwrap();
    assert!(!row.early);
    assert!(row.message.unwrap().starts_with("recognised late: */own-*/bin/own-*"));
    let path = "/x/own-2/bin/own-linux";
    let facts = ProcessFacts { path, exec_path: path, argv: &[], script: None, parent_name: None };
    assert!(catalogue.identify(&facts).is_some());
}

#[test]
fn names_need_a_second_fact() {
    let dir = tempfile::tempdir().unwrap();
    write(
        &dir,
        "q.yaml",
        format!("{OWN}detection:\n  names: [q]\n  argv_patterns: ['^q chat( |$)']\n  parent_hints: [qterm]\n"),
    );
    let catalogue = load(&dir);
    let found = |argv: &[&str], parent_name| {
        let argv: Vec<String> = argv.iter().map(|word| (*word).to_owned()).collect();
        let facts = ProcessFacts { path: "/usr/bin/q", exec_path: "q", argv: &argv, script: None, parent_name };
        catalogue.identify(&facts).map(|found| found.confidence)
    };
    assert_eq!(found(&["q"], Some("bash")), None);
    assert_eq!(found(&["q", "chat about"], None), None, "words of an argument are no arguments");
    assert_eq!(found(&["q", "chat"], None), Some(50));
    assert_eq!(found(&["q"], Some("qterm")), Some(50));
    assert_eq!(found(&["q", "chat"], Some("qterm")), Some(70));
    let argv = ["q".to_owned(), "chat".to_owned()];
    let other =
        ProcessFacts { path: "/usr/bin/x", exec_path: "x", argv: &argv, script: None, parent_name: Some("qterm") };
    assert!(catalogue.identify(&other).is_none(), "second facts alone are nothing");
}

/// Paths of one signature's patterns: the pattern, and how each `*` is filled.
fn patterns(text: &str, key: &str) -> Vec<String> {
    let lines = text.lines().skip_while(|line| line.trim() != format!("{key}:")).skip(1);
    lines
        .map(str::trim)
        .take_while(|line| line.starts_with(['-', '#']))
        .filter_map(|line| line.strip_prefix("- "))
        .map(|pattern| pattern.trim_matches('"').to_owned())
        .collect()
}

proptest! {
    #[test]
    fn every_path_of_a_pattern_has_a_literal(
        fill in "[a-zA-Z0-9._-]{1,12}",
        (name, text) in proptest::sample::select(builtin::FILES),
    ) {
        let literals = Catalogue::builtin().literals();
        let has_literal = |path: &str| window(path).any(|component| literals.iter().any(|literal| literal == component));
        let executables = patterns(text, "exe_patterns");
        let scripts = patterns(text, "script_patterns");
        prop_assert!(!executables.is_empty() || !scripts.is_empty(), "{} has patterns", name);
        for pattern in executables {
            let path = pattern.replacen('*', "/a/b", usize::from(pattern.starts_with('*'))).replace('*', &fill);
            prop_assert!(has_literal(&path), "{}", path);
            let found = identify_argv(&path, &["x".to_owned()], None);
            prop_assert_eq!(found.map(|found| found.signature.name.to_string()), Some(name.to_string()));
        }
        for pattern in scripts {
            let path = pattern.replacen('*', "/a/b", usize::from(pattern.starts_with('*'))).replace('*', &fill);
            prop_assert!(has_literal(&path), "{}", path);
            let found = identify_argv("/usr/bin/python3", &["x".to_owned(), path.clone()], Some(&path));
            prop_assert_eq!(found.map(|found| found.signature.name.to_string()), Some(name.to_string()));
        }
    }

    /// Whatever is recognised, the kernel would have marked too.
    #[test]
    fn a_match_has_a_literal_in_the_window(
        path in "(/(home|u|node|python3|claude|codex|versions|\\.local|share|@openai|bin|cursor|usr|[a-z]{1,3})){1,12}",
        argv in proptest::collection::vec("(/(bin|aider|gemini|codex|@google|gemini-cli|bundle|gemini\\.js|x)){0,10}|-m|aider|exec", 0..5),
    ) {
        if identify_argv(&path, &argv, None).is_some() {
            let literals = Catalogue::builtin().literals();
            let mut paths: Vec<&str> = vec![&path];
            if is_interpreter(&path) {
                paths.extend(argv.iter().take(4).skip(1).map(String::as_str));
            }
            let hit = paths.iter().flat_map(|path| window(path)).any(|component| literals.iter().any(|l| l == component));
            prop_assert!(hit);
        }
    }

    #[test]
    fn nothing_panics(path in ".{0,40}", argv in proptest::collection::vec(".{0,40}", 0..6), script in proptest::option::of(".{0,40}")) {
        let _ = identify_argv(&path, &argv, script.as_deref());
        let _ = script_candidates(&argv).count();
    }

    #[test]
    fn any_text_is_read_without_a_panic(text in "(name|detection|names|version|- |: |\\n|  |[a-z'\"&*!{}\\[\\]|>-]){0,60}") {
        let _ = Signature::compile("test", &text);
        let _ = super::version::package_version(&text);
    }
}
