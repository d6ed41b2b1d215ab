//! The kernel's names of files, as a person writes them.
//!
//! `\Device\HarddiskVolume3\Users\a` is `C:\Users\a`, `\Device\Mup\server\share\a` is `\\server\share\a`. Which volume has which
//! letter says `QueryDosDeviceW` (<https://learn.microsoft.com/en-us/windows/win32/api/fileapi/nf-fileapi-querydosdevicew>).

/// Which device has which letter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drives {
    /// `\Device\HarddiskVolume3` and `C:`.
    drives: Vec<(String, String)>,
}

/// What is on another machine; some are reached by a provider that is named first, in a name that begins with a semicolon.
const NETWORK: [&str; 2] = [r"\Device\Mup", r"\Device\LanmanRedirector"];

impl Drives {
    /// Of pairs of a letter with its colon and a device.
    #[must_use]
    pub fn new(drives: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut drives: Vec<_> = drives.into_iter().map(|(letter, device)| (device, letter)).collect();
        // The longer names first, for those of others may begin as they do.
        drives.sort_by_key(|(device, _)| std::cmp::Reverse(device.len()));
        Self { drives }
    }

    /// The name, as a person writes it; unchanged where the device has no letter.
    #[must_use]
    pub fn name(&self, path: &str) -> String {
        if let Some(rest) = path.strip_prefix(r"\??\").or_else(|| path.strip_prefix(r"\\?\")) {
            return match below(rest, "UNC") {
                Some(rest) => format!(r"\{rest}"),
                None => rest.to_owned(),
            };
        }
        if let Some(rest) = below(path, r"\SystemRoot") {
            return format!("{}{rest}", windows());
        }
        for (device, letter) in &self.drives {
            if let Some(rest) = below(path, device) {
                return format!("{letter}{rest}");
            }
        }
        for device in NETWORK {
            if let Some(mut rest) = below(path, device) {
                // \;LanmanRedirector\;Z:0000000000012345\server\share
                while let Some(provider) = rest.strip_prefix(r"\;") {
                    rest = provider.find('\\').and_then(|end| provider.get(end..)).unwrap_or_default();
                }
                return format!(r"\{rest}");
            }
        }
        path.to_owned()
    }

    /// The same of what is a file or a directory; none of pipes, consoles, volumes and the like.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<String> {
        let name = self.name(path);
        let is_drive =
            |name: &str| matches!(name.as_bytes(), [letter, b':', b'\\', ..] if letter.is_ascii_alphabetic());
        let on_volume = below(&name, r"\Device")
            .and_then(|rest| rest.strip_prefix(r"\HarddiskVolume"))
            .and_then(|rest| rest.split_once('\\'));
        let shared = name.strip_prefix(r"\\").and_then(|rest| rest.split_once('\\'));
        // A share of pipes is no files.
        let on_share = shared.is_some_and(|(server, rest)| {
            !server.is_empty() && !rest.is_empty() && below(rest, "PIPE").is_none() && below(rest, "IPC$").is_none()
        });
        (is_drive(&name) || on_volume.is_some() || on_share).then_some(name)
    }

    /// Whether it is a volume's name without a letter that is known: it may have got one since.
    #[must_use]
    pub fn is_unknown_volume(&self, path: &str) -> bool {
        let known = |(device, _): &(String, String)| below(path, device).is_some();
        path.starts_with(r"\Device\HarddiskVolume") && !self.drives.iter().any(known)
    }
}

/// Where Windows is.
fn windows() -> String {
    std::env::var("SystemRoot").unwrap_or_else(|_| r"C:\Windows".to_owned())
}

/// What follows a directory's name in a path below it, with its backslash; names have no case.
fn below<'a>(path: &'a str, directory: &str) -> Option<&'a str> {
    let (head, rest) = path.split_at_checked(directory.len())?;
    let is_below = head.eq_ignore_ascii_case(directory) && (rest.is_empty() || rest.starts_with('\\'));
    is_below.then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drives() -> Drives {
        let drive = |letter: &str, device: &str| (letter.to_owned(), device.to_owned());
        Drives::new([drive("C:", r"\Device\HarddiskVolume1"), drive("D:", r"\Device\HarddiskVolume10")])
    }

    #[test]
    fn devices_become_letters_and_shares() {
        let drives = drives();
        for (kernel, person) in [
            (r"\Device\HarddiskVolume1\Users\a", r"C:\Users\a"),
            (r"\Device\HarddiskVolume10\Users\a", r"D:\Users\a"),
            (r"\device\harddiskvolume1\x", r"C:\x"),
            (r"\Device\HarddiskVolume2\x", r"\Device\HarddiskVolume2\x"),
            (r"\Device\Mup\server\share\x", r"\\server\share\x"),
            (r"\Device\Mup\;LanmanRedirector\;Z:00000000000a1b2c\server\share\x", r"\\server\share\x"),
            (r"\Device\LanmanRedirector\;Z:1\server\share\x", r"\\server\share\x"),
            (r"\??\C:\x", r"C:\x"),
            (r"\??\UNC\server\share\x", r"\\server\share\x"),
            (r"\\?\C:\x", r"C:\x"),
            (r"C:\x", r"C:\x"),
            (r"\Device\MupX\a", r"\Device\MupX\a"),
            ("", ""),
        ] {
            assert_eq!(drives.name(kernel), person, "{kernel}");
        }
        assert!(drives.name(r"\SystemRoot\System32\ntoskrnl.exe").ends_with(r"\System32\ntoskrnl.exe"));
        assert!(!drives.name(r"\SystemRoot\System32\ntoskrnl.exe").starts_with(r"\SystemRoot"));
    }

    #[test]
    fn what_is_no_file_is_none() {
        let drives = drives();
        let file = |path: &str| drives.file(path);
        assert_eq!(file(r"\Device\HarddiskVolume1\a").as_deref(), Some(r"C:\a"));
        assert_eq!(file(r"\Device\HarddiskVolume2\a").as_deref(), Some(r"\Device\HarddiskVolume2\a"));
        assert_eq!(file(r"\Device\Mup\server\share\a").as_deref(), Some(r"\\server\share\a"));
        for path in [
            r"\Device\HarddiskVolume1",
            r"\Device\HarddiskVolume2",
            r"\Device\NamedPipe\a",
            r"\Device\ConDrv\Connect",
            r"\Device\Mup\server\PIPE\srvsvc",
            r"\Device\Mup\server",
            r"\Device\Mup",
            r"C:",
            "relative",
            "é",
            "",
        ] {
            assert_eq!(file(path), None, "{path}");
        }
        assert!(drives.is_unknown_volume(r"\Device\HarddiskVolume2\a"));
        assert!(!drives.is_unknown_volume(r"\Device\HarddiskVolume1\a") && !drives.is_unknown_volume(r"\Device\Mup\a"));
    }
}
