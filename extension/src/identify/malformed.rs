//! Files that are wrong in every way that people and attackers find: each is named with its place, and the rest loads.

use std::path::Path;
use std::time::{Duration, Instant};

use super::{Catalogue, builtin};

const OWN: &str = "name: own\ndisplay_name: Own\ncategory: cli\n";
const GOOD: &str = "name: good\ndetection:\n  exe_patterns: ['/opt/good-agent/bin/good']\n";

/// What the loader says of a file that lies beside a good one, behind the file's name. The good one must be there.
fn refused(text: impl AsRef<[u8]>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("bad.yaml"), text).unwrap();
    std::fs::write(folder.join("good.yaml"), GOOD).unwrap();
    let catalogue = load(folder);
    assert!(catalogue.named("good").is_some(), "the rest is loaded");
    let rows = catalogue.rows();
    assert_eq!(rows.iter().filter(|row| row.status == "loaded").count(), builtin::FILES.len() + 1);
    let row = rows.iter().find(|row| row.status == "refused").expect("it is refused");
    assert_eq!(&*row.source, folder.join("bad.yaml").to_str().unwrap());
    let message = row.message.as_deref().unwrap();
    assert!(!message.contains('\n') && message.len() < 500, "{message}");
    message.strip_prefix(&*row.source).expect("the file is named first").to_owned()
}

fn load(folder: &Path) -> Catalogue {
    Catalogue::load(&[folder.to_owned()])
}

fn assert_says(text: impl AsRef<[u8]>, place: &str, parts: &[&str]) {
    let message = refused(text);
    assert!(message.starts_with(place), "{message}");
    for part in parts {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn bad_yaml() {
    assert_says(format!("{OWN}detection:\n  names: [a\nversion: }}"), ":6:", &[]);
    assert_says(format!("{OWN}detection:\n\tnames: [a]\n"), ":5:", &[]);
    assert_says(format!("{OWN}\"detection\n"), ":", &["quoted"]);
}

#[test]
fn a_bad_regex() {
    let with = |entry: &str| format!("{OWN}detection:\n  names: [own]\n  argv_patterns:\n    - fine\n    - {entry}\n");
    assert_says(with("'a('"), ":8:7: argv_patterns: \"a(\" is not a regular expression: ", &["unclosed group"]);
    assert_says(with("{regex: '[z-a]'}"), ":8:7: argv_patterns: \"[z-a]\"", &["range"]);
    let path = format!("{OWN}detection:\n  exe_patterns: [{{regex: '/own/(?<x>'}}]\n");
    assert_says(path, ":5:18: exe_patterns: ", &["is not a regular expression"]);
    let role = format!("{OWN}detection:\n  exe_patterns: ['/opt/own/x']\nroles:\n  helper: ['*']\n");
    assert_says(role, ":7:12: roles.helper: \"*\"", &["repetition operator"]);
}

#[test]
fn an_expression_that_would_take_for_ever_elsewhere_just_works() {
    let folder = tempfile::tempdir().unwrap();
    let text =
        format!("{OWN}detection:\n  names: [own]\n  argv_patterns: ['^(a+)+$', '^\\S+ (x|x|x)*y$', '(.*a){{20}}$']\n");
    std::fs::write(folder.path().join("own.yaml"), text).unwrap();
    let catalogue = load(folder.path());
    let argv = ["own".to_owned(), "x".repeat(1 << 16), format!("{}!", "a".repeat(500))];
    let facts =
        super::ProcessFacts { path: "/bin/own", exec_path: "own", argv: &argv, script: None, parent_name: None };
    let begun = Instant::now();
    assert!(catalogue.identify(&facts).is_none());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn a_name_that_is_there_twice() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let text = |place: &str| format!("display_name: X\nname: own\ndetection:\n  exe_patterns: ['{place}']\n");
    std::fs::write(folder.join("a.yaml"), text("/opt/own-a/x")).unwrap();
    std::fs::write(folder.join("b.yaml"), text("/opt/own-b/x")).unwrap();
    std::fs::write(folder.join("c.yaml"), GOOD).unwrap();
    let catalogue = load(folder);
    let rows = catalogue.rows();
    let refused: Vec<_> = rows.iter().filter(|row| row.status == "refused").collect();
    assert_eq!(refused.len(), 1);
    let (a, b) = (folder.join("a.yaml"), folder.join("b.yaml"));
    let expected =
        format!("{}:2:7: name: own is the name in {} too; give one of them another name", b.display(), a.display());
    assert_eq!(refused[0].message.as_deref(), Some(&*expected));
    let own = rows.iter().find(|row| &*row.agent == "own").unwrap();
    assert_eq!((&*own.source, own.message.as_deref()), (a.to_str().unwrap(), None), "the first one holds");
    assert!(catalogue.named("good").is_some());
}

#[test]
fn a_name_of_a_directory_before_it_is_replaced() {
    let (site, team) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let text = |place: &str| format!("name: codex\ndetection:\n  exe_patterns: ['{place}']\n");
    std::fs::write(site.path().join("x.yaml"), text("/opt/site/x")).unwrap();
    std::fs::write(team.path().join("y.yaml"), text("/opt/team/y")).unwrap();
    let catalogue = Catalogue::load(&[site.path().to_owned(), team.path().to_owned()]);
    let rows: Vec<_> = catalogue.rows().into_iter().filter(|row| &*row.agent == "codex").collect();
    assert_eq!(rows.len(), 1);
    assert_eq!(&*rows[0].source, team.path().join("y.yaml").to_str().unwrap());
    let replaced = format!("replaces {}", site.path().join("x.yaml").display());
    assert_eq!(rows[0].message.as_deref(), Some(&*replaced));
}

#[test]
fn a_wrong_type() {
    let with = |rest: &str| format!("{OWN}{rest}");
    assert_says(with("detection:\n  names: own\n"), ":5:10: detection.names: ", &["expected", "sequence"]);
    assert_says(with("detection: [own]\n"), ":4:12: detection: ", &[]);
    assert_says(with("detection:\n  names:\n    - ok\n    - {a: b}\n"), ":7:7: detection.names[1]: ", &["string"]);
    assert_says(
        with("detection:\n  exe_patterns: [[a]]\n"),
        ":5:18: detection.exe_patterns[0]: ",
        &["a text or {regex: ...}"],
    );
    assert_says(with("detection: {}\ntrack_children: perhaps\n"), ":5:17: track_children: ", &["bool"]);
    assert_says(with("detection: {}\nnetwork_endpoints: 3\n"), ":5:1: network_endpoints: ", &["a list of hosts"]);
    assert_says("name: [own]\n", ":1:7: name: ", &["string"]);
    assert_says("- name: own\n", ":1:1: ", &[]);
    assert_says("own\n", ":1:1: ", &[]);
}

#[test]
fn an_unknown_key() {
    assert_says(format!("{OWN}detecton: {{}}\n"), ":4:1: unknown field `detecton`; did you mean detection?", &[]);
    let nested = format!("{OWN}detection:\n  exe_paterns: ['/opt/own/x']\n");
    assert_says(nested, ":5:3: detection: unknown field `exe_paterns`; did you mean exe_patterns?", &[]);
    let far = format!("{OWN}detection:\n  argv_patterns: [{{glob: x}}]\n");
    assert_says(far, ":5:", &["detection.argv_patterns[0]", "unknown field `glob`", "regex"]);
    let missing = "display_name: Own\ndetection: {}\n";
    assert_says(missing, ":", &["missing field `name`"]);
}

#[test]
fn a_key_that_is_there_twice() {
    assert_says(format!("{OWN}name: other\n"), ":4:1: ", &["name"]);
    let alias = format!("{OWN}detection:\n  names: [a]\n  process_names: [b]\n");
    assert_says(alias, ":5:3: detection: ", &["names"]);
}

#[test]
fn ten_megabytes() {
    let long = format!("{OWN}detection:\n  names:\n{}", "    - own\n".repeat(1 << 20));
    assert!(long.len() > 10_000_000);
    assert_says(long, ": larger than 1 MiB", &[]);
}

#[test]
fn a_list_that_is_too_long() {
    let long = format!("{OWN}detection:\n  names:\n{}", "    - own\n".repeat(300));
    assert_says(long, ":262:7: names: more than 256 entries", &[]);
    let begun = Instant::now();
    assert_says(format!("{OWN}detection:\n  names:\n{}", "    - own\n".repeat(50_000)), ":", &[]);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn an_alias_bomb() {
    let begun = Instant::now();
    // A short text, many times.
    let flat = format!("{OWN}detection:\n  names: [&a '{}', {}]\n", "x".repeat(1000), vec!["*a"; 100_000].join(", "));
    assert_says(flat, ":5:", &[]);
    // Lists of lists of lists: nine of these would be ten to the ninth.
    let level = |level: usize| {
        let before = vec![format!("*a{}", level - 1); 10].join(", ");
        format!("x{level}: &a{level} [{before}]\n")
    };
    let lol = format!("{OWN}x: &a0 [lol]\n{}", (1..10).map(level).collect::<String>());
    assert_says(lol, ":", &[]);
    // An alias to what it is in.
    assert_says(format!("{OWN}detection: &a\n  names: *a\n"), ":5:10: ", &[]);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn deep_nesting() {
    assert_says("[".repeat(100_000), ":1:", &[]);
    assert_says(format!("{OWN}detection: {}{}\n", "{a: ".repeat(100), "}".repeat(100)), ":4:", &[]);
    let regex =
        format!("{OWN}detection:\n  names: [own]\n  argv_patterns: ['{}{}']\n", "(".repeat(400), ")".repeat(400));
    assert_says(regex, ":6:19: argv_patterns: ", &["nest"]);
}

#[test]
fn what_is_not_utf_8() {
    assert_says(b"name: a\n# \xff\n", ":2:3: is not UTF-8; save it in that encoding", &[]);
    let utf_16: Vec<u8> = OWN.encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_says([&[0xff, 0xfe], &utf_16[..]].concat(), ":1:1: is not UTF-8", &[]);
    assert_says(format!("{OWN}detection:\n  names: [\"a\\u0007\"]\n"), ":5:11: names: has control characters", &[]);
}

#[test]
fn an_empty_file() {
    for text in ["", "\n\n", "# nothing yet\n", "---\n"] {
        let message = refused(text);
        assert!(message.starts_with(':'), "{message}");
        assert!(message.contains("name") || message.contains("empty") || message.contains("expected"), "{message}");
    }
}

#[test]
fn values_that_could_never_hold() {
    let with = |rest: &str| format!("{OWN}detection:\n{rest}");
    assert_says(with("  packages: [codex]\n"), ":5:14: packages: \"codex\" must be npm:NAME", &[]);
    assert_says(with("  packages: ['npm:a*']\n"), ":5:14: packages: ", &["npm:NAME"]);
    let env = with("  names: [own]\n  env: ['OWN=1']\n");
    assert_says(env, ":6:9: env: \"OWN=1\" must be the name of a variable; values are not looked at", &[]);
    let range = with("  exe_patterns: ['/opt/own/x']\n  versions: newest\n");
    assert_says(range, ":6:13: versions: \"newest\" is no range of versions, such as \">=1.2, <2\"", &[]);
    let sessions = with("  exe_patterns: ['/opt/own/x']\nsessions: ['.own/*.jsonl']\n");
    assert_says(sessions, ":6:12: sessions: ", &["must begin with /, ~/ or */"]);
    let both = with("  exe_patterns: ['/opt/own/x']\nprocess_patterns: [own]\n");
    assert_says(both, ":6:20: process_patterns: there is detection already; put it in there", &[]);
    let names = "name: own\nprocess_patterns: ['own.*']\ncommand_patterns: [x]\n";
    assert_says(names, ":2:20: process_patterns: \"own.*\" stands for more names than can be listed", &[]);
    let alone = with("  names: [node, own]\n  parent_hints: [bash]\n");
    assert_says(alone, ":5:3: detection: nothing here can decide", &["bash is left out", "node is left out"]);
    assert_says("name: own\n", ":1:7: detection: nothing here can decide", &[]);
}
