//! Why Endpoint Security does not take us for a client, and what to do.
//!
//! [`es_new_client_result_t`](https://developer.apple.com/documentation/endpointsecurity/es_new_client_result_t).

use std::fmt;

/// Why there is no client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// `ES_NEW_CLIENT_RESULT_ERR_NOT_PRIVILEGED`.
    NotPrivileged,
    /// `ES_NEW_CLIENT_RESULT_ERR_NOT_ENTITLED`.
    NotEntitled,
    /// `ES_NEW_CLIENT_RESULT_ERR_NOT_PERMITTED`.
    NotPermitted,
    /// `ES_NEW_CLIENT_RESULT_ERR_TOO_MANY_CLIENTS`.
    TooManyClients,
    /// The system does not tell what is needed.
    TooOld(String),
    /// Anything else, in Apple's words.
    Other(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPrivileged => {
                out.write_str("Endpoint Security needs root: start it with sudo, or ask a running recorder with --connect")
            }
            Self::NotEntitled => out.write_str(
                "this program is not signed with the entitlement com.apple.developer.endpoint-security.client, which Apple \
                 grants to a developer's team: sign it with codesign --entitlements (docs/platforms.md, macOS)",
            ),
            Self::NotPermitted => out.write_str(
                "Endpoint Security needs Full Disk Access: switch it on for this program, or for the terminal that starts it, \
                 in System Settings > Privacy & Security > Full Disk Access, and start it again",
            ),
            Self::TooManyClients => out.write_str(
                "there are as many clients of Endpoint Security as macOS allows: end another one (a second recorder, \
                 eslogger, another security product)",
            ),
            Self::TooOld(version) => {
                write!(out, "macOS {version} does not tell when a process began: 11 or later is needed")
            }
            Self::Other(why) => write!(out, "Endpoint Security cannot be used: {why}"),
        }
    }
}

impl std::error::Error for Refusal {}

/// The version of macOS as `kern.osproductversion` has it, if it is one whose messages are of version 4 at least.
///
/// # Errors
/// When it is an older one, or no version.
pub fn supported(version: &str) -> Result<(u64, u64, u64), Refusal> {
    let mut numbers = version.split('.').map(|number| number.parse().ok());
    let mut next = || numbers.next().unwrap_or(Some(0));
    // 10.16 is what 11 and later call themselves to programs that were built for older ones.
    let parsed = (|| Some((next()?, next()?, next()?)))().filter(|parsed| *parsed >= (10, 16, 0));
    parsed.map(|parsed| parsed.max((11, 0, 0))).ok_or_else(|| Refusal::TooOld(version.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_that_are_new_enough() {
        assert_eq!(supported("14.5"), Ok((14, 5, 0)));
        assert_eq!(supported("13.3.1"), Ok((13, 3, 1)));
        assert_eq!(supported("26"), Ok((26, 0, 0)));
        assert_eq!(supported("10.16"), Ok((11, 0, 0)));
        for old in ["10.15.7", "", "x", "9.9"] {
            assert_eq!(supported(old), Err(Refusal::TooOld(old.to_owned())), "{old}");
        }
    }

    #[test]
    fn each_reason_says_what_to_do() {
        let says = |refusal: Refusal, words: &str| assert!(refusal.to_string().contains(words), "{refusal}");
        says(Refusal::NotPrivileged, "sudo");
        says(Refusal::NotEntitled, "codesign --entitlements");
        says(Refusal::NotPermitted, "System Settings > Privacy & Security > Full Disk Access");
        says(Refusal::TooManyClients, "end another one");
        says(Refusal::TooOld("10.14".into()), "11 or later");
    }
}
