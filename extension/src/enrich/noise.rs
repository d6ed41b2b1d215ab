//! Reads that every program does before it does anything: left out of the file operations. Nothing else is.

const PSEUDO: [&str; 3] = ["/proc/", "/sys/", "/dev/"];
/// The last one is a locale file that Debian keeps in /etc, behind a link in /usr/share/locale.
const FILES: [&str; 3] = ["/etc/ld.so.cache", "/etc/ld.so.preload", "/etc/locale.alias"];
const LOCALE: [&str; 3] = ["/usr/share/locale/", "/usr/lib/locale/", "/usr/share/i18n/"];

/// Whether *reading* this file says nothing about an agent.
#[must_use]
pub fn is_noise(path: &str) -> bool {
    let library = || {
        let below = ["/lib", "/usr/lib"].into_iter().any(|top| {
            path.strip_prefix(top)
                .and_then(|rest| rest.split_once('/'))
                .is_some_and(|(suffix, _)| is_abi_suffix(suffix))
        });
        below && (is_shared_object(path) || path.contains("/gconv/"))
    };
    PSEUDO.into_iter().chain(LOCALE).any(|top| path.starts_with(top)) || FILES.contains(&path) || library()
}

/// `/lib`, `/lib32`, `/lib64`, `/libx32`.
fn is_abi_suffix(suffix: &str) -> bool {
    matches!(suffix, "" | "32" | "64" | "x32")
}

/// `libc.so.6`, `_ssl.cpython-311-x86_64-linux-gnu.so`.
fn is_shared_object(path: &str) -> bool {
    // Names of the loader are as they are, whatever their case.
    let name = path.rsplit('/').next().unwrap_or(path);
    name.split('.').skip(1).any(|part| part == "so")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loader_and_pseudo_files_are_noise() {
        for path in [
            "/proc/self/maps",
            "/sys/devices/system/cpu/online",
            "/dev/null",
            "/etc/ld.so.cache",
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/usr/lib/x86_64-linux-gnu/libssl.so.3",
            "/usr/lib64/libm.so.6",
            "/usr/lib/x86_64-linux-gnu/gconv/gconv-modules.cache",
            "/usr/lib/locale/locale-archive",
            "/usr/share/locale/locale.alias",
            "/etc/locale.alias",
        ] {
            assert!(is_noise(path), "{path}");
        }
    }

    #[test]
    fn what_an_agent_reads_is_not() {
        for path in [
            "/etc/passwd",
            "/home/u/lib/x.so",
            "/usr/lib/python3/dist-packages/x.py",
            "/usr/libexec/git-core/x.so",
            "/home/u/proc/x",
            "/usr/lib/os-release",
            "/development/x",
        ] {
            assert!(!is_noise(path), "{path}");
        }
    }
}
