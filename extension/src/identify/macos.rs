//! Agents as they are installed on macOS: by npm, Homebrew, pipx and uv, and as applications.

use super::*;

fn name(path: &str, line: &str, script: Option<&str>) -> Option<String> {
    thread_local!(static BUILTIN: Catalogue = Catalogue::builtin());
    let argv: Vec<String> = line.split(' ').map(str::to_owned).collect();
    let facts = ProcessFacts { path, exec_path: path, argv: &argv, script, parent_name: Some("zsh") };
    BUILTIN.with(|catalogue| catalogue.identify(&facts)).map(|found| found.signature.name.to_string())
}

const NODE: &str = "/opt/homebrew/Cellar/node/24.1.0/bin/node";
/// What a Python of Homebrew or of python.org goes on as, after its first moment.
const PYTHON: &str = "/opt/homebrew/Cellar/python@3.12/3.12.9/Frameworks/Python.framework/Versions/3.12/Resources/Python.app/Contents/MacOS/Python";

#[test]
fn agents_as_they_are_installed_on_macos() {
    let cases: &[(&str, &str, &str, Option<&str>)] = &[
        // npm below Homebrew, below the package of nodejs.org, and below a version manager
        (
            "claude-code",
            NODE,
            "node /opt/homebrew/bin/claude",
            Some("/opt/homebrew/lib/node_modules/@anthropic-ai/claude-code/cli.js"),
        ),
        (
            "claude-code",
            "/usr/local/bin/node",
            "node /usr/local/bin/claude -p x",
            Some("/usr/local/lib/node_modules/@anthropic-ai/claude-code/cli.js"),
        ),
        ("claude-code", "/opt/homebrew/lib/node_modules/@anthropic-ai/claude-code/bin/claude.exe", "claude", None),
        ("claude-code", "/usr/local/lib/node_modules/@anthropic-ai/claude-code-darwin-arm64/claude", "claude", None),
        (
            "codex",
            "/Users/ann/.nvm/versions/node/v22.1.0/lib/node_modules/@openai/codex/vendor/aarch64-apple-darwin/codex/codex",
            "codex",
            None,
        ),
        (
            "codex",
            "/opt/homebrew/lib/node_modules/@openai/codex-darwin-arm64/vendor/aarch64-apple-darwin/bin/codex",
            "codex exec x",
            None,
        ),
        (
            "gemini-cli",
            NODE,
            "node /opt/homebrew/bin/gemini",
            Some("/opt/homebrew/lib/node_modules/@google/gemini-cli/dist/index.js"),
        ),
        // the native installer, whose ~/.local/bin/claude is a link, and casks of Homebrew
        ("claude-code", "/Users/ann/.local/share/claude/versions/2.1.330", "/Users/ann/.local/bin/claude", None),
        ("claude-code", "/opt/homebrew/Caskroom/claude-code/2.1.330/claude", "claude", None),
        ("codex", "/opt/homebrew/Caskroom/codex/0.60.1/codex-aarch64-apple-darwin", "codex", None),
        ("codex", "/usr/local/Cellar/codex/0.20.0/bin/codex", "codex", None),
        ("opencode", "/opt/homebrew/Cellar/opencode/1.0.1/bin/opencode", "opencode", None),
        // aider by Homebrew, pipx, uv and in a virtual environment
        (
            "aider",
            PYTHON,
            "/opt/homebrew/Cellar/aider/0.86.1/libexec/bin/python /opt/homebrew/bin/aider",
            Some("/opt/homebrew/Cellar/aider/0.86.1/libexec/bin/aider"),
        ),
        (
            "aider",
            PYTHON,
            "python /Users/ann/.local/bin/aider --yes",
            Some("/Users/ann/.local/pipx/venvs/aider-chat/bin/aider"),
        ),
        (
            "aider",
            "/Users/ann/.local/share/uv/python/cpython-3.12.9-macos-aarch64-none/bin/python3.12",
            "python /Users/ann/.local/bin/aider",
            Some("/Users/ann/.local/share/uv/tools/aider-chat/bin/aider"),
        ),
        ("aider", PYTHON, "Python /Users/ann/p/.venv/bin/aider", Some("/Users/ann/p/.venv/bin/aider")),
        ("aider", PYTHON, "Python -m aider", None),
        // applications
        (
            "cursor",
            "/Applications/Cursor.app/Contents/MacOS/Cursor",
            "/Applications/Cursor.app/Contents/MacOS/Cursor",
            None,
        ),
        ("cursor", "/Users/ann/Applications/Cursor.app/Contents/MacOS/Cursor", "Cursor .", None),
        (
            "windsurf",
            "/Applications/Windsurf.app/Contents/MacOS/Electron",
            "/Applications/Windsurf.app/Contents/MacOS/Electron",
            None,
        ),
        ("claude-desktop", "/Applications/Claude.app/Contents/MacOS/Claude", "Claude", None),
        ("ollama", "/Applications/Ollama.app/Contents/MacOS/Ollama", "Ollama", None),
        ("zed", "/Applications/Zed.app/Contents/MacOS/zed", "zed", None),
        // the binary in the extension for VS Code, and one that an editor's helper runs as node does
        (
            "claude-code",
            "/Users/ann/.vscode/extensions/anthropic.claude-code-2.1.30-darwin-arm64/resources/native-binary/claude",
            "claude --output-format stream-json",
            None,
        ),
        (
            "copilot-editors",
            "node",
            "Code\u{a0}Helper /Users/ann/.vscode/extensions/github.copilot-1.372.0/dist/language-server.js --stdio",
            Some("/Users/ann/.vscode/extensions/github.copilot-1.372.0/dist/language-server.js"),
        ),
    ];
    for (agent, path, line, script) in cases {
        assert_eq!(name(path, line, *script).as_deref(), Some(*agent), "{path} {line}");
    }
}

#[test]
fn what_is_no_agent_on_macos() {
    let helper = |editor: &str, kind: &str| {
        format!(
            "/Applications/{editor}.app/Contents/Frameworks/{editor} Helper ({kind}).app/Contents/MacOS/{editor} Helper ({kind})"
        )
    };
    let cursor = "/Applications/Cursor.app/Contents/MacOS/Cursor";
    let cases: &[(&str, &str, Option<&str>)] = &[
        (&helper("Cursor", "Renderer"), "Cursor --type=renderer", None),
        (&helper("Cursor", "Plugin"), "Cursor --type=utility", None),
        (&helper("Code", "Plugin"), "Code --type=utility --utility-sub-type=node.mojom.NodeService", None),
        ("/Applications/Visual Studio Code.app/Contents/MacOS/Electron", "Electron .", None),
        (cursor, &format!("{cursor} /Applications/Cursor.app/Contents/Resources/app/out/cli.js ."), None),
        (PYTHON, "Python manage.py", Some("/Users/ann/aider/manage.py")),
        (PYTHON, "Python", None),
        (NODE, "node server.js", Some("/Users/claude/codex/server.js")),
        ("/Users/ann/Claude.app.txt", "x", None),
        ("/usr/bin/codesign", "codesign --verify /Applications/Claude.app", None),
    ];
    for (path, line, script) in cases {
        assert_eq!(name(path, line, *script), None, "{path} {line}");
    }
}

#[test]
fn the_python_of_a_framework_is_an_interpreter() {
    assert!(is_interpreter(PYTHON));
}
