//! What a peer is: a model's API, a place for source code, this machine itself.
//!
//! All of it is data: `signatures/endpoints.yaml`, and one's own `endpoints.yaml` in a directory of signatures, whose rules
//! come first. Its format is told in `docs/rules.md`.

use std::net::IpAddr;

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::meaning::Check;
use super::paths::PathSet;
use crate::identify::is_at_or_below;
use crate::value::Text;
use crate::yaml::FileError;

/// A kind of peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum EndpointType {
    LlmApi,
    SourceControl,
    PackageRegistry,
    Telemetry,
    Mcp,
    Cloud,
    Localhost,
    Private,
    Ipc,
    Unknown,
}

impl EndpointType {
    /// As it stands in a row.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LlmApi => "llm_api",
            Self::SourceControl => "source_control",
            Self::PackageRegistry => "package_registry",
            Self::Telemetry => "telemetry",
            Self::Mcp => "mcp",
            Self::Cloud => "cloud",
            Self::Localhost => "localhost",
            Self::Private => "private",
            Self::Ipc => "ipc",
            Self::Unknown => "unknown",
        }
    }
}

/// A file of rules, as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(default)]
    rules: Vec<Spanned<Rule>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    #[serde(rename = "type")]
    kind: EndpointType,
    service: Option<String>,
    #[serde(default)]
    hosts: Vec<Spanned<String>>,
    #[serde(default)]
    addresses: Vec<Spanned<String>>,
    #[serde(default)]
    paths: Vec<Spanned<String>>,
    #[serde(default)]
    ports: Vec<u16>,
}

/// A peer, as far as it is known.
#[derive(Debug, Clone, Copy, Default)]
pub struct Peer<'a> {
    /// Its name.
    pub host: Option<&'a str>,
    /// Its address.
    pub address: Option<IpAddr>,
    /// The port that it listens on; none of one that connected to us.
    pub port: Option<u16>,
    /// Path or abstract name, of a UNIX socket.
    pub path: Option<&'a str>,
}

/// What a peer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The kind.
    pub kind: EndpointType,
    /// The service, by the name that people know.
    pub service: Option<Text>,
}

#[derive(Debug)]
struct Compiled {
    verdict: Verdict,
    hosts: Vec<String>,
    networks: Vec<Network>,
    paths: Option<PathSet>,
    ports: Vec<u16>,
}

/// The rules that hold, those of users before those that are compiled in.
#[derive(Debug, Default)]
pub struct Endpoints {
    rules: Vec<Compiled>,
}

impl Endpoints {
    /// Adds a file's rules behind those that there are. Nothing of a file with a mistake is added.
    pub(super) fn add(&mut self, file: &File, check: &Check<'_>) -> Result<(), FileError> {
        let rules: Result<Vec<_>, _> = file.rules.iter().map(|rule| compile(rule, check)).collect();
        self.rules.extend(rules?);
        Ok(())
    }

    /// What a peer is, by the first rule that fits.
    #[must_use]
    pub fn judge(&self, peer: &Peer<'_>) -> Verdict {
        let host = peer.host.map(|host| host.trim_end_matches('.').to_ascii_lowercase());
        let peer = Peer { host: host.as_deref(), ..*peer };
        let found = self.rules.iter().find(|rule| rule.fits(&peer)).map(|rule| rule.verdict.clone());
        let kind = if peer.path.is_some() { EndpointType::Ipc } else { EndpointType::Unknown };
        found.unwrap_or(Verdict { kind, service: None })
    }
}

impl Compiled {
    fn fits(&self, peer: &Peer<'_>) -> bool {
        if !self.ports.is_empty() && !peer.port.is_some_and(|port| self.ports.contains(&port)) {
            return false;
        }
        let anywhere = self.hosts.is_empty() && self.networks.is_empty() && self.paths.is_none();
        anywhere
            || peer.host.is_some_and(|host| self.hosts.iter().any(|suffix| is_at_or_below(host, suffix)))
            || peer.address.is_some_and(|address| self.networks.iter().any(|network| network.holds(address)))
            || peer.path.zip(self.paths.as_ref()).is_some_and(|(path, paths)| paths.holds(path))
    }
}

/// A range of addresses, as `10.0.0.0/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    prefix: u32,
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Some(most), |prefix| prefix.parse().ok())?;
        (prefix <= most).then_some(Self { address, prefix })
    }

    fn holds(self, address: IpAddr) -> bool {
        // An IPv4 peer of an IPv6 socket.
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let mask = u32::MAX.checked_shl(32 - self.prefix).unwrap_or(0);
                u32::from(own) & mask == u32::from(other) & mask
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let mask = u128::MAX.checked_shl(128 - self.prefix).unwrap_or(0);
                u128::from(own) & mask == u128::from(other) & mask
            }
            _ => false,
        }
    }
}

fn compile(rule: &Spanned<Rule>, check: &Check<'_>) -> Result<Compiled, FileError> {
    let Rule { kind, service, hosts, addresses, paths, ports } = &rule.value;
    if hosts.is_empty() && addresses.is_empty() && paths.is_empty() && ports.is_empty() {
        return Err(
            check.wrong(rule.referenced, "a rule needs hosts, addresses, paths or ports: this one fits everything")
        );
    }
    let networks = addresses.iter().map(|text| {
        Network::parse(&text.value).ok_or_else(|| {
            let message = format!("addresses: {:?} must be an address or a range such as 10.0.0.0/8", text.value);
            check.wrong(text.referenced, message)
        })
    });
    let mut set = PathSet::default();
    for path in paths {
        check.path("paths", path)?;
        set.add(&path.value, 0);
    }
    Ok(Compiled {
        verdict: Verdict { kind: *kind, service: service.as_deref().map(Text::from) },
        hosts: hosts.iter().map(|host| check.host("hosts", host)).collect::<Result<_, _>>()?,
        networks: networks.collect::<Result<_, _>>()?,
        paths: (!paths.is_empty()).then_some(set),
        ports: ports.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::Meaning;
    use super::*;

    fn judge(peer: Peer<'_>) -> (&'static str, Option<String>) {
        let Verdict { kind, service } = Meaning::builtin().endpoints.judge(&peer);
        (kind.as_str(), service.map(|service| service.to_string()))
    }

    fn host(host: &str) -> (&'static str, Option<String>) {
        judge(Peer { host: Some(host), address: "203.0.113.7".parse().ok(), port: Some(443), path: None })
    }

    fn address(text: &str, port: u16) -> &'static str {
        judge(Peer { address: text.parse().ok(), port: Some(port), ..Peer::default() }).0
    }

    #[test]
    fn by_name() {
        assert_eq!(host("api.anthropic.com"), ("llm_api", Some("Anthropic".into())));
        assert_eq!(host("API.OpenAI.com."), ("llm_api", Some("OpenAI".into())));
        assert_eq!(host("codewhisperer.us-east-1.amazonaws.com").0, "llm_api");
        assert_eq!(host("s3.amazonaws.com").0, "cloud");
        assert_eq!(host("github.com").0, "source_control");
        assert_eq!(host("api.githubcopilot.com").0, "llm_api");
        assert_eq!(host("registry.npmjs.org").0, "package_registry");
        assert_eq!(host("o1.ingest.sentry.io").0, "telemetry");
        assert_eq!(host("mcp.linear.app").0, "mcp");
        assert_eq!(host("notgithub.com"), ("unknown", None));
        assert_eq!(host("github.com.evil.example"), ("unknown", None));
    }

    #[test]
    fn by_address_port_and_path() {
        assert_eq!(address("127.0.0.1", 8080), "localhost");
        assert_eq!(address("::1", 1), "localhost");
        assert_eq!(address("::ffff:127.0.0.1", 1), "localhost");
        assert_eq!(address("10.1.2.3", 1), "private");
        assert_eq!(address("172.32.0.1", 1), "unknown");
        assert_eq!(address("fd00::1", 1), "private");
        assert_eq!(address("104.18.7.47", 443), "unknown");
        let ollama = Peer { address: "127.0.0.1".parse().ok(), port: Some(11434), ..Peer::default() };
        assert_eq!(judge(ollama), ("llm_api", Some("Ollama".into())));
        assert_eq!(judge(Peer { port: None, ..ollama }).0, "localhost", "a client that came to us from anywhere");
        assert_eq!(judge(Peer { path: Some("/run/x"), ..Peer::default() }).0, "ipc");
        assert_eq!(judge(Peer { path: Some("@x"), ..Peer::default() }).0, "ipc");
        let docker = Peer { path: Some("/var/run/docker.sock"), ..Peer::default() };
        assert_eq!(judge(docker), ("ipc", Some("Docker".into())));
    }

    #[test]
    fn ranges_hold_their_addresses() {
        let holds = |range: &str, address: &str| Network::parse(range).unwrap().holds(address.parse().unwrap());
        assert!(holds("0.0.0.0/0", "255.1.1.1") && holds("::/0", "fe80::1") && holds("1.2.3.4", "1.2.3.4"));
        assert!(holds("10.0.0.0/9", "10.127.0.0") && !holds("10.0.0.0/9", "10.128.0.0") && !holds("::/0", "10.0.0.1"));
        assert!(!holds("1.2.3.4/32", "1.2.3.5") && holds("fe80::/10", "febf::1") && !holds("fe80::/10", "fec0::1"));
        for wrong in ["", "10.0.0.0/33", "10.0.0.0/", "x/8", "::/129", "10.0.0.0/-1"] {
            assert_eq!(Network::parse(wrong), None, "{wrong}");
        }
    }
}
