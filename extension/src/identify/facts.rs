//! What each field of the format means for a process.

use std::collections::HashMap;
use std::path::Path;

use super::signature::Signature;
use super::{Ask, Catalogue, Match, NothingToAsk, ProcessFacts, Role, VersionSource};

/// A process' environment and the files around it.
#[derive(Default)]
struct World {
    variables: Vec<&'static str>,
    files: HashMap<&'static str, &'static str>,
    asked: std::cell::Cell<usize>,
}

impl Ask for World {
    fn has_variable(&self, name: &str) -> bool {
        self.asked.set(self.asked.get() + 1);
        self.variables.contains(&name)
    }

    fn names_in(&self, directory: &Path) -> Vec<String> {
        self.asked.set(self.asked.get() + 1);
        let name =
            |path: &&str| Path::new(path).strip_prefix(directory).ok()?.iter().next()?.to_str().map(str::to_owned);
        self.files.keys().filter_map(name).collect()
    }

    fn text(&self, file: &Path) -> Option<String> {
        self.asked.set(self.asked.get() + 1);
        self.files.get(file.to_str()?).map(|text| (*text).to_owned())
    }
}

/// A catalogue of one file beside those that are compiled in.
fn catalogue(text: &str) -> Catalogue {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("own.yaml"), text).unwrap();
    let catalogue = Catalogue::load(&[folder.path().to_owned()]);
    let refused: Vec<_> = catalogue.rows().into_iter().filter(|row| row.status == "refused").collect();
    assert!(refused.is_empty(), "{refused:?}");
    catalogue
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn find(catalogue: &Catalogue, path: &str, line: &str, script: Option<&str>, ask: &dyn Ask) -> Option<Match> {
    let argv = words(line);
    let facts = ProcessFacts { path, exec_path: path, argv: &argv, script, parent_name: Some("bash") };
    catalogue.identify_asking(&facts, ask)
}

fn remark(catalogue: &Catalogue, agent: &str) -> Option<String> {
    let row = catalogue.rows().into_iter().find(|row| &*row.agent == agent).unwrap();
    row.message.map(|message| message.to_string())
}

#[test]
fn aliases_and_the_flat_shape_are_the_full_one() {
    // Where it stands differs, and nothing else.
    let meaning = |text: &str| {
        let mut signature = Signature::compile("test", text).unwrap();
        signature.at = serde_saphyr::Location::UNKNOWN;
        format!("{signature:?}")
    };
    let full = meaning(
        "name: own\ndisplay_name: own\ncategory: cli\ndetection:\n  names: [own, Own, own.bin]\n  \
         exe_patterns: [{regex: bin/own}]\n  argv_patterns: [chat, run]\n  parent_hints: [launcher]\n\
         child_process_tracking: false\nnetwork_endpoints:\n  expected: [api.example.com]\n  \
         suspicious_if_not_in_list: true\n",
    );
    let aliases = meaning(
        "name: own\nicon: own.svg\ndetection:\n  process_names: [own, ^Own$, '^own\\.bin$']\n  \
         exe_patterns: [{regex: bin/own}]\n  command_patterns: [{regex: chat}, run]\n  parent_hints: [launcher]\n\
         track_children: false\nnetwork_endpoints: ['*.api.example.com']\n",
    );
    assert_eq!(aliases, full);
    let flat = meaning(
        "name: own\nprocess_patterns: ['own', '^Own$', '^own\\.bin$']\nexe_path_patterns: [bin/own]\n\
         command_patterns: [{regex: chat}, run]\nparent_hints: [launcher]\ntrack_children: false\n\
         network_endpoints: [api.example.com]\n",
    );
    assert_eq!(flat, full);
}

#[test]
fn names_of_a_flat_file_are_whole_and_expressions_are_listed() {
    let catalogue = catalogue("name: own\nprocess_patterns: ['^[Oo]wn$', 'Own Helper']\ncommand_patterns: [chat]\n");
    for (path, is_it) in [("/x/own", true), ("/x/Own", true), ("/x/Own Helper", true), ("/x/own-desktop", false)] {
        assert_eq!(find(&catalogue, path, "own chat", None, &NothingToAsk).is_some(), is_it, "{path}");
    }
    assert!(!catalogue.needs_every_exec());
}

#[test]
fn a_package_decides_and_tells_the_version() {
    let catalogue = catalogue(
        "name: own\ndetection:\n  packages: ['npm:@example/own', 'pypi:own-agent', 'vsix:example.own']\n  \
         script_names: [own]\n",
    );
    assert!(!catalogue.needs_every_exec());
    let world = World {
        files: HashMap::from([(
            "/v/lib/python3.12/site-packages/own_agent-1.5.dist-info/RECORD",
            "../../../bin/own,,\n",
        )]),
        ..World::default()
    };
    let found = |path: &str, line: &str, script: Option<&str>| find(&catalogue, path, line, script, &world);
    let script = "/usr/lib/node_modules/@example/own/dist/cli.js";
    let npm = found("/usr/bin/node", "node /usr/bin/own", Some(script)).unwrap();
    assert_eq!((npm.confidence, &*npm.evidence), (90, "script is in npm:@example/own"));
    assert_eq!(npm.version, VersionSource::PackageJson("/usr/lib/node_modules/@example/own/package.json".into()));
    let unresolved = found("/usr/bin/node", &format!("node {script}"), None).unwrap();
    assert_eq!(unresolved.confidence, 80);
    let native = found("/u/node_modules/@example/own/bin/own-native", "own", None).unwrap();
    assert_eq!(&*native.evidence, "executable is in npm:@example/own");
    assert!(found("/u/node_modules/@example/other/bin/own-native", "own", None).is_none());
    let pypi = found("/usr/bin/python3", "/v/bin/python /v/bin/own", Some("/v/bin/own")).unwrap();
    assert_eq!((pypi.confidence, &*pypi.evidence), (90, "script is in pypi:own-agent"));
    assert_eq!(pypi.version, VersionSource::Known("1.5".into()));
    assert!(found("/usr/bin/python3", "python /w/bin/own", Some("/w/bin/own")).is_none(), "own of another environment");
    let vsix = found("/h/.vscode/extensions/example.own-2.0.1-linux-x64/bin/server", "server", None).unwrap();
    assert_eq!(
        (&*vsix.evidence, vsix.version),
        ("executable is in vsix:example.own", VersionSource::Known("2.0.1".into()))
    );
    assert!(found("/h/.vscode/extensions/other.own-2.0.1/bin/server", "server", None).is_none());
}

/// Rules are written for all systems, and paths of Windows are held against them by their form.
#[test]
fn rules_hold_for_paths_of_windows() {
    let catalogue = catalogue(
        "name: own\ndetection:\n  packages: ['npm:@example/own', 'pypi:own-agent', 'vsix:example.own']\n  \
         exe_patterns: ['*/Own Agent/Own.exe', {regex: '[/\\\\]OwnTool[/\\\\]own\\.exe$'}, 'C:/Own/*']\n  \
         names: [Own]\n  parent_hints: [Launcher.exe]\nversion:\n  - path: '/App-([0-9.]+)/'\n",
    );
    assert!(!catalogue.needs_every_exec());
    let world = World {
        files: HashMap::from([
            (
                "c:/python312/lib/site-packages/own_agent-1.5.dist-info/RECORD",
                "..\\..\\Scripts\\Own.exe,sha256=x,1\r\n",
            ),
            ("c:/n/node_modules/@example/own/package.json", r#"{"version": "3.1.0"}"#),
        ]),
        ..World::default()
    };
    let found = |path: &str, words: &[&str], script: Option<&str>, parent: &str| {
        let argv: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let facts = ProcessFacts { path, exec_path: path, argv: &argv, script, parent_name: Some(parent) };
        catalogue.identify_asking(&facts, &world)
    };
    let exe = |path: &str| found(path, &["x"], None, "cmd.exe");
    assert_eq!(exe(r"D:\Apps\own agent\OWN.exe").unwrap().evidence, "executable matches */Own Agent/Own.exe");
    assert!(exe(r"D:\Apps\owntool\Own.EXE").is_some() && exe(r"D:\Apps\owntool\owner.exe").is_none());
    assert!(exe(r"C:\own\x.exe").is_some() && exe(r"D:\own\x.exe").is_none());
    assert!(exe("/apps/own agent/OWN.exe").is_none(), "elsewhere case counts");
    let app = exe(r"C:\Own\app-1.2\x.exe").unwrap();
    assert_eq!(app.version, VersionSource::Known("1.2".into()));
    let script = r"C:\Python312\Scripts\own.exe";
    let pypi = found(r"C:\Python312\python.exe", &["python", script], Some(script), "cmd.exe").unwrap();
    assert_eq!((&*pypi.evidence, pypi.version), ("script is in pypi:own-agent", VersionSource::Known("1.5".into())));
    assert!(found(r"C:\Python312\python.exe", &["python", script], Some(r"D:\v\Scripts\own.exe"), "x").is_none());
    let script = r"\\?\C:\n\node_modules\@example\own\cli.js";
    let npm = found(r"C:\nodejs\node.exe", &["node", "cli.js"], Some(script), "cmd.exe").unwrap();
    assert_eq!(npm.version.read(&world).as_deref(), Some("3.1.0"));
    let named = found(r"C:\x\own.exe", &["own"], None, "launcher.exe").unwrap();
    assert_eq!(named.evidence, "executable is named Own; parent is launcher");
    let vsix = exe(r"C:\Users\x\.vscode\extensions\example.own-2.0.1-win32-x64\bin\s.exe").unwrap();
    assert_eq!(vsix.evidence, "executable is in vsix:example.own");
    let facts = ProcessFacts {
        path: r"C:\x\own.exe",
        exec_path: "",
        argv: &[],
        script: None,
        parent_name: Some("launcher.exe"),
    };
    let trial = catalogue.explain(&facts, &NothingToAsk, None).remove(0);
    let held: Vec<_> = trial.rules.iter().filter(|rule| rule.held).map(|rule| rule.key).collect();
    assert_eq!((held, trial.verdict.is_ok()), (vec!["names", "parent_hints"], true));
}

#[test]
fn the_environment_is_a_second_fact_and_asked_for_only_then() {
    let catalogue = catalogue("name: own\ndetection:\n  names: [own]\n  env: [OWN_AGENT]\n");
    let world = World { variables: vec!["OWN_AGENT"], ..World::default() };
    let found = find(&catalogue, "/usr/bin/own", "own", None, &world).unwrap();
    assert_eq!((found.confidence, &*found.evidence), (50, "executable is named own; environment has OWN_AGENT"));
    assert!(find(&catalogue, "/usr/bin/own", "own", None, &World::default()).is_none());
    let asked = world.asked.get();
    for (path, line) in
        [("/usr/bin/vim", "vim own"), ("/home/own/bin/x", "x"), ("/usr/bin/node", "node /home/own/x.js")]
    {
        assert!(find(&catalogue, path, line, None, &world).is_none(), "a second fact alone is nothing");
    }
    assert_eq!(world.asked.get(), asked, "nobody's environment was read for this");
}

#[test]
fn a_signature_holds_for_its_versions() {
    let catalogue = catalogue(
        "name: own\ndetection:\n  packages: ['npm:own']\n  exe_patterns: ['*/own-agent/*/own']\n  versions: '>=1.2, <2'\n\
         version:\n  - path: '/own-agent/([^/]+)/'\n",
    );
    let found = |path: &str, world: &World| find(&catalogue, path, "own", None, world);
    let at = |version: &str| found(&format!("/opt/own-agent/{version}/own"), &World::default());
    assert_eq!(at("1.2.0").unwrap().evidence, "executable matches */own-agent/*/own; version is 1.2.0");
    assert!(at("1.10").is_some() && at("1.1.9").is_none() && at("2.0.0-beta").is_none());
    assert!(at("nightly").is_some(), "what has no number is not outside");
    let path = "/x/node_modules/own/bin/own";
    let package =
        |text| World { files: HashMap::from([("/x/node_modules/own/package.json", text)]), ..World::default() };
    let inside = found(path, &package(r#"{"version": "1.9.3"}"#)).unwrap();
    assert_eq!(inside.version, VersionSource::Known("1.9.3".into()));
    assert!(found(path, &package(r#"{"version": "2.0.0"}"#)).is_none());
    assert!(found(path, &World::default()).is_some(), "it cannot be read");
}

#[test]
fn roles_and_flags() {
    let catalogue = catalogue(
        "name: own\ndetection: {packages: ['npm:own']}\nroles:\n  daemon: [' serve( |$)']\n  helper: [{regex: ' worker( |$)'}]\n\
         unattended: [' --yes( |$)', {regex: ' --mode=auto( |$)'}]\nsessions: ['~/.own/*.jsonl']\n",
    );
    let found = |line: &str| find(&catalogue, "/n/node_modules/own/own", line, None, &NothingToAsk).unwrap();
    assert_eq!(found("own chat").role, Role::Main);
    assert_eq!(found("own serve").role, Role::Daemon);
    assert_eq!(found("own worker").role.as_str(), "helper");
    assert!(!found("own chat --yes-but").unattended);
    assert!(found("own chat --mode=auto").unattended);
    assert!(found("own -p do --model m --output json --yes").unattended, "flags stand behind prompts");
    let argv = ["own".to_owned(), "-p".to_owned(), "say --yes to all".to_owned()];
    let path = "/n/node_modules/own/own";
    let facts = ProcessFacts { path, exec_path: path, argv: &argv, script: None, parent_name: None };
    assert!(!catalogue.identify(&facts).unwrap().unattended, "a word of a prompt is no flag");
    assert_eq!(catalogue.named("own").unwrap().sessions, ["~/.own/*.jsonl"]);
}

#[test]
fn what_every_program_has_is_left_out_and_told() {
    let catalogue = catalogue(
        "name: own\ndetection:\n  process_names: [own, node]\n  command_patterns: ['own chat']\n  parent_hints: [bash, zsh, launcher]\n",
    );
    let message = remark(&catalogue, "own").unwrap();
    for part in ["names: node is left out: an interpreter", "parent_hints: bash is left out", "zsh is left out"] {
        assert!(message.contains(part), "{message}");
    }
    assert!(!message.contains("launcher is"), "{message}");
    assert!(find(&catalogue, "/usr/bin/own", "own", None, &NothingToAsk).is_none(), "its parent is bash");
    assert!(find(&catalogue, "/usr/bin/node", "node own chat", None, &NothingToAsk).is_none());
    assert!(!catalogue.literals().iter().any(|literal| literal == "node"));
}

#[test]
fn expressions_of_paths_are_early_where_they_can_be() {
    let early =
        catalogue("name: own\ndetection:\n  exe_patterns: [{regex: '[/\\\\](own|other)-agent[/\\\\][^/]+$'}]\n");
    assert_eq!(remark(&early, "own"), None);
    assert!(early.literals().contains(&"other-agent".to_owned()));
    assert_eq!(find(&early, "/opt/other-agent/x", "x", None, &NothingToAsk).unwrap().confidence, 90);
    let late =
        catalogue("name: own\ndetection:\n  names: [own]\n  env: [OWN]\n  exe_patterns: [{regex: 'own.*bin'}]\n");
    assert!(remark(&late, "own").unwrap().starts_with("recognised late: own.*bin"));
    assert!(late.needs_every_exec());
    assert!(find(&late, "/x/own-1/bin", "x", None, &NothingToAsk).is_none(), "a substring is a weak fact");
}

#[test]
fn hosts_that_are_not_listed_may_be_left_open() {
    let signature = |endpoints: &str| {
        let text = format!("name: own\ndetection: {{packages: ['npm:own']}}\nnetwork_endpoints: {endpoints}\n");
        Signature::compile("test", &text).unwrap()
    };
    let open = signature("{expected: [example.com], suspicious_if_not_in_list: false}");
    assert_eq!((open.is_expected("api.example.com"), open.is_expected("example.org")), (Some(true), None));
    assert!(!open.judges_endpoints());
    let closed = signature("[example.com]");
    assert_eq!((closed.is_expected("api.example.com"), closed.is_expected("example.org")), (Some(true), Some(false)));
    assert!(!signature("[]").judges_endpoints());
}

#[test]
fn an_explanation_tells_each_rule_and_why() {
    let catalogue = catalogue(
        "name: own\ndetection:\n  packages: ['npm:own']\n  names: [own]\n  argv_patterns: [' chat( |$)']\n  env: [OWN]\n  \
         versions: '>=2'\n  not: [{argv0: rg}]\n",
    );
    let explain = |path: &str, line: &str, ask: &dyn Ask, named| {
        let argv = words(line);
        let facts = ProcessFacts { path, exec_path: path, argv: &argv, script: None, parent_name: None };
        let mut trials = catalogue.explain(&facts, ask, named);
        assert!(trials.len() < 2);
        trials.pop().map(|trial| {
            let held: Vec<_> = trial.rules.iter().filter(|rule| rule.held).map(|rule| rule.key).collect();
            (held, trial.verdict.map(|found| found.confidence).map_err(|why| why.clone()), trial.rules.len())
        })
    };
    let world = World { variables: vec!["OWN"], ..World::default() };
    let (held, verdict, rules) = explain("/bin/own", "own chat", &world, None).unwrap();
    assert_eq!((held, verdict, rules), (vec!["names", "argv_patterns", "env"], Ok(70), 5));
    let why = |path: &str, line: &str, ask: &dyn Ask| explain(path, line, ask, Some("own")).unwrap().1.unwrap_err();
    assert!(why("/bin/own", "own", &NothingToAsk).contains("counts for 30, and 50 are needed"));
    assert!(why("/n/node_modules/own/own", "rg x", &NothingToAsk).contains("`not` excludes: argv0 rg"));
    assert!(why("/bin/ls", "ls chat", &world).contains("second facts alone are nothing"));
    let old = World {
        files: HashMap::from([("/n/node_modules/own/package.json", r#"{"version":"1.0"}"#)]),
        ..World::default()
    };
    assert!(why("/n/node_modules/own/own", "own", &old).contains("not in the range >=2"));
    assert!(explain("/bin/ls", "ls", &world, None).is_none(), "nobody looks at it");
}

proptest::proptest! {
    /// What holds for a process is also what it is looked for by, here and in the kernel.
    #[test]
    fn whatever_fits_is_a_candidate(
        path in "(/(opt|own-agent|other-agent|node_modules|@example|own|extensions|example\\.own-1\\.2|bin|x)){1,8}",
    ) {
        thread_local!(static OWN: Catalogue = catalogue(
            "name: own\ndetection:\n  packages: ['npm:@example/own', 'vsix:example.own']\n  \
             exe_patterns: [{regex: '[/\\\\](own|other)-agent[/\\\\][^/]+$'}, {regex: '^/opt/(x/)?own/'}]\n",
        ));
        let facts = ProcessFacts { path: &path, exec_path: &path, argv: &[], script: None, parent_name: None };
        let verdict = OWN.with(|own| own.explain(&facts, &NothingToAsk, Some("own")).remove(0).verdict);
        if let Err(why) = verdict {
            proptest::prop_assert!(!why.contains("looked for"), "{path}: {why}");
        }
    }
}
