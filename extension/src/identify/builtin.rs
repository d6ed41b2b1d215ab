//! The signatures that are compiled in.

macro_rules! builtin {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../../signatures/agents/", $name, ".yaml")))),*]
    };
}

/// Name and text of every file in `signatures/agents`.
pub(super) const FILES: &[(&str, &str)] = builtin![
    "agentquery-demo",
    "aider",
    "amazon-q",
    "amp",
    "antigravity",
    "auggie",
    "claude-code",
    "claude-desktop",
    "cline",
    "codebuff",
    "codeium",
    "codex",
    "cody",
    "continue",
    "continue-editors",
    "copilot-cli",
    "copilot-editors",
    "crush",
    "cursor",
    "cursor-agent",
    "devin",
    "droid",
    "forge",
    "gemini-cli",
    "goose",
    "gpt4all",
    "gptme",
    "grok",
    "grok-cli",
    "hermes",
    "iflow",
    "jan",
    "junie",
    "kilo-code",
    "kimi-code",
    "kiro",
    "kiro-cli",
    "llama-server",
    "lm-studio",
    "localai",
    "mistral-vibe",
    "ollama",
    "omp",
    "openclaw",
    "opencode",
    "openhands",
    "pi",
    "qoder",
    "qoder-cli",
    "qwen-code",
    "roo-code",
    "supermaven",
    "tabnine",
    "trae",
    "vllm",
    "warp",
    "windsurf",
    "zed",
    "zencoder",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identify::signature::Signature;

    #[test]
    fn the_list_is_the_directory() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../signatures/agents");
        let mut names: Vec<String> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .map(|name| name.strip_suffix(".yaml").expect("only .yaml files belong here").to_owned())
            .collect();
        names.sort();
        assert_eq!(names, FILES.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    }

    #[test]
    fn every_file_compiles_and_is_called_as_its_agent() {
        for (name, text) in FILES {
            let signature = Signature::compile(name, text).unwrap();
            assert_eq!(*signature.name, **name);
            assert!(signature.literals().1.is_empty(), "{name} would be recognised late");
            assert!(!signature.lacks_script_names(), "{name}");
        }
    }
}
