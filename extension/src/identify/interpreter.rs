//! Programs that run another program's script.
//!
//! With `#!/usr/bin/env node` the kernel ends up running `node` with the script's path, as it was invoked, in argv.
//! The interpreter itself says nothing; which of its arguments is the script does.

use super::{ARGUMENTS, file_name, windows};

/// File names of interpreters, as the image that runs has them. The kernel compares whole names, so versions are listed.
/// `env` is one: of a script that begins with `#!/usr/bin/env node` it is the first image, and what it does is the
/// agent's already. `Python` is the program in the framework of macOS. In the order of the alphabet, for it is searched at every start of a program.
#[rustfmt::skip]
pub const INTERPRETERS: &[&str] = &[
    "Python", "bun", "deno", "env", "node", "node-16", "node-18", "node-20", "node-22", "node-24", "node-26", "node16",
    "node18", "node20", "node22", "node24", "node26", "nodejs", "npx", "pypy3", "python", "python3",
    "python3.10", "python3.11", "python3.12", "python3.13", "python3.13t", "python3.14", "python3.14t",
    "python3.15", "python3.16", "python3.8", "python3.9", "tsx", "uv", "uvx",
];

/// Options of these interpreters that take the next argument as their value.
#[rustfmt::skip]
const WITH_VALUE: &[&str] = &[
    "-r", "--require", "--import", "--loader", "--experimental-loader", "-C", "--conditions", "--title", "--preload",
    "-W", "-X", "--check-hash-based-pycs", "--from", "--with", "--python", "--config", "--env-file", "--cwd",
    "--project", "--directory",
];

/// Options whose value is the program: there is no script.
const INLINE: &[&str] = &["-c", "-e", "-p", "-pe", "-m", "--eval", "--print"];

/// Words that stand before the script.
const SUBCOMMANDS: &[&str] = &["run", "x", "exec", "tool"];

/// Whether the file name of a path is one of [`INTERPRETERS`].
#[must_use]
pub fn is_interpreter(path: &str) -> bool {
    INTERPRETERS.binary_search(&file_name(&windows::plain(path))).is_ok()
}

/// Those of `argv[1..=3]` that could be the script, the likeliest first: the first argument that is neither an option
/// nor an option's value. What follows the script is the script's own, such as a prompt or a path that it shall edit.
pub fn script_candidates(argv: &[String]) -> impl Iterator<Item = &str> {
    let mut skip_value = false;
    let mut done = false;
    argv.iter().take(ARGUMENTS).skip(1).map(String::as_str).filter(move |argument| {
        if done || std::mem::take(&mut skip_value) {
            return false;
        }
        if argument.starts_with('-') {
            done = INLINE.contains(argument);
            skip_value = WITH_VALUE.contains(argument);
            return false;
        }
        done = !SUBCOMMANDS.contains(argument);
        !argument.is_empty()
    })
}

/// The module of `python -m MODULE`.
pub(super) fn module(argv: &[String]) -> Option<&str> {
    let mut arguments = argv.iter().take(ARGUMENTS).skip(1).map(String::as_str);
    while let Some(argument) = arguments.next() {
        if argument == "-m" {
            return arguments.next();
        }
        if !argument.starts_with('-') || argument == "-c" {
            return None;
        }
        if WITH_VALUE.contains(&argument) {
            arguments.next();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(line: &str) -> Vec<String> {
        let argv: Vec<String> = line.split(' ').map(str::to_owned).collect();
        script_candidates(&argv).map(str::to_owned).collect()
    }

    #[test]
    fn the_script_is_the_first_argument_that_is_no_option() {
        assert_eq!(candidates("node /x/.bin/codex exec hi"), ["/x/.bin/codex"]);
        assert_eq!(candidates("node --no-warnings --max-old-space-size=8 /x/gemini -p"), ["/x/gemini"]);
        assert_eq!(candidates("node -r ./hook.js app.js"), ["app.js"]);
        assert_eq!(candidates("bun run app.ts"), ["run", "app.ts"]);
        assert_eq!(candidates("node -e 1 gemini"), [""; 0]);
        assert_eq!(candidates("python3 -m aider x"), [""; 0]);
        assert_eq!(candidates("node eslint /x/gemini.js"), ["eslint"], "what a script is given is not the script");
        assert_eq!(candidates("node"), [""; 0]);
        assert_eq!(candidates("node --a --b --c gemini"), [""; 0], "only three arguments count");
        assert_eq!(script_candidates(&[]).count(), 0);
    }

    #[test]
    fn modules() {
        let module = |line: &str| {
            let argv: Vec<String> = line.split(' ').map(str::to_owned).collect();
            module(&argv).map(str::to_owned)
        };
        assert_eq!(module("python3 -m aider").as_deref(), Some("aider"));
        assert_eq!(module("python3 -u -m aider").as_deref(), Some("aider"));
        assert_eq!(module("python3 x.py -m aider"), None);
        assert_eq!(module("python3 -c -m aider"), None);
        assert_eq!(module("python3 -m"), None);
    }

    #[test]
    fn interpreters_by_their_whole_name() {
        assert!(INTERPRETERS.is_sorted());
        assert!(is_interpreter("/usr/bin/python3.12"));
        assert!(is_interpreter("node"));
        assert!(!is_interpreter("/usr/bin/node-gyp"));
        assert!(!is_interpreter("/opt/node/x"));
        assert!(!is_interpreter(""));
        assert!(is_interpreter(r"C:\Program Files\nodejs\NODE.exe") && is_interpreter(r"C:\Windows\pyw.exe"));
        assert!(!is_interpreter(r"C:\node.exe\x.exe") && !is_interpreter(r"/x\node"));
    }
}
