//! What files of macOS are, by the rules that come with the program.

use super::Meaning;

#[test]
fn what_every_program_of_macos_reads_is_noise() {
    let rules = Meaning::builtin().files;
    for path in [
        "/System/Library/Frameworks/CoreFoundation.framework/Resources/Info.plist",
        "/System/Volumes/Preboot/Cryptexes/OS/System/Library/dyld/dyld_shared_cache_arm64e",
        "/usr/lib/libSystem.B.dylib",
        "/opt/homebrew/Cellar/openssl@3/3.5.0/lib/libssl.3.dylib",
        "/private/var/db/timezone/tz/2025a.1.0/zoneinfo/Europe/Vienna",
        "/Users/ann/.CFUserTextEncoding",
        "/private/etc/zshrc",
        "/private/etc/ssl/cert.pem",
        "/Library/Developer/CommandLineTools/usr/share/git-core/gitconfig",
        "/opt/homebrew/Cellar/python@3.12/3.12.9/Frameworks/Python.framework/Versions/3.12/lib/python3.12/os.py",
        "/dev/null",
    ] {
        assert!(rules.is_noise(path), "{path}");
    }
    for path in [
        "/private/etc/passwd",
        "/private/etc/sudoers",
        "/Library/LaunchDaemons/x.plist",
        "/Users/ann/Library/Keychains/login.keychain-db",
        "/Users/ann/p/x.dylib",
        "/private/tmp/x",
        "/Applications/Cursor.app/Contents/Info.plist",
    ] {
        assert!(!rules.is_noise(path), "{path}");
    }
}

#[test]
fn what_files_of_macos_are() {
    let rules = Meaning::builtin().files;
    for (path, category, sensitivity) in [
        ("/Users/ann/Library/Keychains/login.keychain-db", "secret", "high"),
        ("/Users/ann/Library/Application Support/Google/Chrome/Default/Cookies", "secret", "high"),
        ("/Users/ann/Library/Application Support/BraveSoftware/Brave-Browser/Default/Login Data", "secret", "high"),
        ("/Users/ann/Library/Application Support/com.apple.TCC/TCC.db", "secret", "high"),
        ("/Users/ann/Library/Messages/chat.db", "secret", "high"),
        ("/Users/ann/.ssh/id_ed25519", "secret", "high"),
        ("/private/etc/sudoers", "secret", "high"),
        ("/private/var/db/dslocal/nodes/Default/users/ann.plist", "secret", "high"),
        ("/Users/ann/.zsh_history", "secret", "high"),
        ("/Users/ann/Library/Application Support/Claude/claude_desktop_config.json", "agent", "medium"),
        ("/Library/Application Support/ClaudeCode/managed-settings.json", "agent", "medium"),
        ("/Users/ann/.claude/settings.json", "agent", "medium"),
        ("/private/etc/passwd", "system", "medium"),
        ("/Library/LaunchDaemons/org.x.plist", "system", "medium"),
        ("/Users/ann/Library/LaunchAgents/org.x.plist", "config", "medium"),
        ("/Users/ann/.zshrc", "config", "medium"),
        ("/private/etc/paths", "system", "low"),
        ("/System/Library/x", "system", "low"),
        ("/opt/homebrew/bin/git", "system", "low"),
        ("/Applications/Safari.app/Contents/Info.plist", "system", "low"),
        ("/private/tmp/x.rs", "temp", "low"),
        ("/private/var/folders/zz/abc/T/x", "temp", "low"),
        ("/Users/ann/Library/Caches/x", "temp", "low"),
        ("/private/tmp/node_modules/x/index.js", "dependency", "low"),
        ("/Users/ann/p/main.swift", "source", "low"),
    ] {
        let (got, much) = rules.judge(path, false);
        assert_eq!((got.as_str(), much.as_str()), (category, sensitivity), "{path}");
    }
    assert_eq!(rules.judge("/private/tmp/p/src/main.rs", true).0.as_str(), "source", "a project may lie there");
}
