//! Many signatures, and starts of programs to hold them against.

/// A signature that is like the shipped ones in the kinds and numbers of its rules.
pub fn signature(n: usize) -> String {
    format!(
        r#"name: made-up-{n}
display_name: Made Up {n}
vendor: Nobody
category: cli
detection:
  packages: ["npm:@made-up-{n}/agent", "pypi:made-up-{n}"]
  names: [made-up-{n}]
  exe_patterns:
    - "*/@made-up-{n}/agent-*/vendor/*/bin/made-up"
    - "*/.local/share/made-up-{n}/versions/*"
    - "*/Cellar/made-up-{n}/*/bin/made-up"
    - regex: '/made-up-{n}-(linux|darwin)/[^/]+$'
  script_patterns:
    - "*/@made-up-{n}/agent/dist/cli.js"
  script_names: [made-up-{n}, mu{n}]
  argv_patterns:
    - '^\S+ (exec|resume|login|logout|mcp|apply|-m|--model|-c|--config|-p|--print)( |$)'
  env: [MADE_UP_{n}]
  not:
    - argv0: rg
    - argv: ' --type='
roles:
  daemon: ['^(\S*node\S* )?(\S*made-up\S* )?serve( |$)']
version:
  - path: '/made-up-{n}/versions/([0-9][0-9A-Za-z.+-]*)$'
  - of: "*/@made-up-{n}/*"
    package_json: ../package.json
sessions: ["~/.made-up-{n}/sessions/*.jsonl"]
unattended: [' --yolo( |$)']
network_endpoints:
  expected: [api.made-up-{n}.example.com, telemetry.example.com]
"#
    )
}

/// A program that starts: path, arguments and script.
pub type Start = (&'static str, &'static str, Option<&'static str>);

/// What runs on the machine of somebody who writes programs.
#[rustfmt::skip]
pub const ORDINARY: &[Start] = &[
    ("/usr/bin/git", "git status --porcelain=v2 --branch", None),
    ("/usr/bin/bash", "bash -c make -j4 test", None),
    ("/usr/bin/x86_64-linux-gnu-gcc-13", "cc -O2 -c -o main.o main.c", None),
    ("/usr/libexec/gcc/x86_64-linux-gnu/13/cc1", "/usr/libexec/gcc/x86_64-linux-gnu/13/cc1 -quiet main.c -O2", None),
    ("/home/u/.rustup/toolchains/stable-x86_64-unknown-linux-gnu/bin/rustc", "rustc --crate-name x --edition=2024 src/lib.rs", None),
    ("/home/u/work/shop/target/debug/build/shop-1f2e3d4c5b6a7980/build-script-build", "build-script-build", None),
    ("/usr/bin/node", "node /home/u/work/shop/node_modules/.bin/eslint --fix src", Some("/home/u/work/shop/node_modules/eslint/bin/eslint.js")),
    ("/home/u/.nvm/versions/node/v22.1.0/bin/node", "node --max-old-space-size=4096 ./node_modules/typescript/bin/tsc -p .", Some("/home/u/work/shop/node_modules/typescript/bin/tsc")),
    ("/usr/bin/python3.12", "python3 -m pytest -x tests", None),
    ("/usr/bin/python3.12", "/home/u/venv/bin/python /home/u/venv/bin/ruff check .", Some("/home/u/venv/bin/ruff")),
    ("/usr/bin/grep", "grep -r codex .", None),
    ("/usr/bin/vim.basic", "vim /home/u/.claude/settings.json", None),
    ("/usr/bin/ls", "ls --color=auto -la", None),
    ("/usr/bin/env", "env node server.js", None),
    ("/usr/lib/systemd/systemd-executor", "/usr/lib/systemd/systemd-executor --deserialize 33", None),
];

/// Agents, as some of the signatures that are compiled in know them, and one that is made up.
#[rustfmt::skip]
pub const AGENTS: &[Start] = &[
    ("/home/u/.local/share/claude/versions/2.1.329", "claude -p hello", None),
    ("/u/node_modules/@openai/codex-linux-x64/vendor/x86_64-unknown-linux-musl/bin/codex", "codex exec hello", None),
    ("/usr/bin/node", "node /u/node_modules/.bin/codex exec hello", Some("/u/node_modules/@openai/codex/bin/codex.js")),
    ("/usr/bin/node", "node --no-warnings /usr/bin/gemini", Some("/usr/lib/node_modules/@google/gemini-cli/bundle/gemini.js")),
    ("/usr/bin/python3.12", "/v/bin/python /v/bin/aider --model x", Some("/h/.local/share/pipx/venvs/aider-chat/bin/aider")),
    ("/home/u/.local/share/made-up-7/versions/1.2.3", "made-up -p hello", None),
];

/// A start's arguments.
pub fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}
