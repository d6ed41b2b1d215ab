//! Names of peers, told by real programs in network namespaces of their own, with a DNS server and a TLS server there.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)] // a test fails by panicking

mod support;

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use support::{Agent, Run, can_record, recorder, skipped};

/// A file of tests/programs.
fn program(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/programs").join(name).to_str().unwrap().to_owned()
}

/// A script that runs another where every address of 192.0.2.0/24 and `2001:db8::/64` is the server's, and the server is
/// the resolver.
fn in_a_world(script: &str) -> String {
    format!(
        r"
unshare --mount --net bash -e -s <<'WORLD'
ip link set lo up
ip route add local 192.0.2.0/24 dev lo
ip -6 route add local 2001:db8::/64 dev lo
echo 'nameserver 192.0.2.53' >resolv.conf
printf '127.0.0.1 localhost\n192.0.2.40 file40.example\n' >hosts
echo 'hosts: files dns' >nsswitch.conf
for file in resolv.conf hosts nsswitch.conf; do mount --bind $file /etc/$file; done
mkfifo hold
python3 '{server}' . <hold &
exec 9>hold
for _ in $(seq 600); do [ ! -e ready ] || break; sleep 0.05; done
[ -e ready ]
(
exec 9>&-
{script}
)
WORLD
",
        server = program("names_server.py")
    )
}

/// Name and source of the connection to that address, once it has ended.
fn named(run: &Run, address: &str, port: u16) -> (Option<String>, Option<String>) {
    let sql = format!(
        "SELECT remote_host, host_source FROM agent_connections WHERE agent_id = {} AND remote_address = '{address}' \
         AND remote_port = {port} AND direction = 'outbound' ORDER BY eid DESC LIMIT 1",
        run.id()
    );
    let row = recorder().query(&sql).pop().unwrap_or_else(|| panic!("no connection to {address}:{port}"));
    (row["remote_host"].clone(), row["host_source"].clone())
}

#[track_caller]
fn assert_named(run: &Run, address: &str, port: u16, host: &str, source: &str) {
    assert_eq!(named(run, address, port), (Some(host.into()), Some(source.into())), "{address}:{port}");
}

/// The Rust client: this program again, told by its environment what to fetch.
#[test]
fn as_a_client() {
    let Ok(peer) = std::env::var("NAMES_CLIENT") else { return };
    let mut stream = std::net::TcpStream::connect(peer).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("ok\n"), "{answer}");
}

#[test]
fn the_c_library_tells_what_was_asked_for() {
    if !can_record("the_c_library_tells_what_was_asked_for") {
        return;
    }
    let recorder = recorder();
    let script = format!(
        "curl -sSf http://plain10.names.example/
         curl -sSf http://www11.names.example/
         curl -sSf http://large12.names.example/
         curl -sSf http://six13.names.example/
         curl -sSf http://file40.example/
         NAMES_CLIENT=rust14.names.example:80 '{}' --exact as_a_client
         python3 -c 'import urllib.request; urllib.request.urlopen(\"http://python15.names.example/\").read()'",
        std::env::current_exe().unwrap().display()
    );
    let run = Agent::new().run(&in_a_world(&script)).recorded(recorder);
    assert_named(&run, "192.0.2.10", 80, "plain10.names.example", "getaddrinfo");
    assert_named(&run, "192.0.2.11", 80, "www11.names.example", "getaddrinfo");
    assert_named(&run, "192.0.2.12", 80, "large12.names.example", "getaddrinfo");
    assert_named(&run, "2001:db8::13", 80, "six13.names.example", "getaddrinfo");
    assert_named(&run, "192.0.2.40", 80, "file40.example", "hosts");
    assert_named(&run, "192.0.2.14", 80, "rust14.names.example", "getaddrinfo");
    assert_named(&run, "192.0.2.15", 80, "python15.names.example", "getaddrinfo");
    // The resolver itself was asked by its address.
    assert_eq!(named(&run, "192.0.2.53", 53), (None, None));
}

#[test]
fn a_c_library_of_a_programs_own_tells_too() {
    if !can_record("a_c_library_of_a_programs_own_tells_too") {
        return;
    }
    let recorder = recorder();
    // It is found when the program begins, which a look-up at once would not wait for.
    let script = r#"
        python=$(python3 -c 'import sys; print(sys.executable)')
        loader=$(grep -o '/.*/ld-[^/]*$' /proc/$$/maps | head -1); folder=$(dirname "$loader")
        mkdir own; cp "$loader" "$folder/libc.so.6" own
        own/$(basename "$loader") --library-path "own:$folder" "$python" - <<'P'
import socket, time
for number in range(1, 51):
    socket.create_connection((f"own{number}.names.example", 80)).close()
    time.sleep(0.02)
P"#;
    let run = Agent::new().run(&in_a_world(script)).recorded(recorder);
    assert_named(&run, "192.0.2.50", 80, "own50.names.example", "getaddrinfo");
    // Of the machine's own library; what is held of another namespace would keep its mounts.
    let deadline = Instant::now() + Duration::from_secs(20);
    while recorder.probes() > 2 {
        assert!(Instant::now() < deadline, "{} probes", recorder.probes());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn answers_of_the_dns_tell_what_was_asked_for() {
    if !can_record("answers_of_the_dns_tell_what_was_asked_for") {
        return;
    }
    let recorder = recorder();
    let script = format!("python3 '{}' resolve", program("names_client.py"));
    let run = Agent::new().run(&in_a_world(&script)).recorded(recorder);
    for number in 20..=28 {
        assert_named(&run, &format!("192.0.2.{number}"), 80, &format!("www{number}.names.example"), "dns");
    }
}

#[test]
fn tls_tells_the_name_however_its_first_message_is_written() {
    if !can_record("tls_tells_the_name_however_its_first_message_is_written") {
        return;
    }
    let recorder = recorder();
    let script = format!(
        "curl -sSfk https://api10.names.example/
         curl -sSfk --resolve only16.example:443:192.0.2.16 https://only16.example/
         openssl s_client -connect 192.0.2.17:443 -servername bare17.example </dev/null >/dev/null 2>&1
         openssl s_client -connect '[2001:db8::18]:443' -servername bare18.example </dev/null >/dev/null 2>&1
         openssl s_client -connect 192.0.2.19:443 -noservername </dev/null >/dev/null 2>&1
         python3 '{}' split",
        program("names_client.py")
    );
    let run = Agent::new().run(&in_a_world(&script)).recorded(recorder);
    assert_named(&run, "192.0.2.10", 443, "api10.names.example", "sni");
    assert_named(&run, "192.0.2.16", 443, "only16.example", "sni");
    assert_named(&run, "192.0.2.17", 443, "bare17.example", "sni");
    assert_named(&run, "2001:db8::18", 443, "bare18.example", "sni");
    assert_eq!(named(&run, "192.0.2.19", 443), (None, None));
    for number in 30..=36 {
        for address in [format!("192.0.2.{number}"), format!("2001:db8::{number}")] {
            assert_named(&run, &address, 443, &format!("split{number}.example"), "sni");
        }
    }
}

#[test]
fn a_peer_is_judged_by_its_name() {
    if !can_record("a_peer_is_judged_by_its_name") {
        return;
    }
    let recorder = recorder();
    let script = "curl -sSfk --resolve api.anthropic.com:443:192.0.2.70 https://api.anthropic.com/
         curl -sSfk --resolve api.github.com:443:192.0.2.71 https://api.github.com/
         curl -sSf http://plain72.names.example/
         curl -sSf http://192.0.2.73/
         curl -sSf http://127.0.0.1/";
    let run = Agent::new().run(&in_a_world(script)).recorded(recorder);
    let all = |columns: &str, table: &str, order: &str| {
        let sql = format!("SELECT {columns} FROM {table} ORDER BY {order}");
        let rows = recorder.query(&sql);
        let line = |row: &support::Row| row["line"].clone().unwrap();
        rows.iter().map(line).collect::<Vec<_>>()
    };
    let line = "ifnull(remote_host, remote_address) || ' ' || endpoint_type || ' ' || ifnull(service, '-') || ' ' || \
                ifnull(expected, '-') AS line";
    let of_run = format!("agent_connections WHERE agent_id = {} AND remote_port IN (80, 443)", run.id());
    let wanted = [
        "api.anthropic.com llm_api Anthropic 1",
        "api.github.com source_control GitHub 0",
        "plain72.names.example unknown - 0",
        "192.0.2.73 unknown - -",
        "127.0.0.1 localhost - -",
    ];
    assert_eq!(all(line, &of_run, "eid"), wanted);
    let unexpected = format!("SELECT unexpected_connections FROM ai_agents WHERE agent_id = {}", run.id());
    assert_eq!(recorder.value(&unexpected).as_deref(), Some("2"));
    // Whose they are is known there by the agent alone: others of these tests have peers of other names.
    let line = "remote_host || ' ' || remote_port || ' ' || connections || ' ' || failures || ' ' || (bytes_sent > 0) || ' ' || \
                expected AS line";
    let total =
        "agent_endpoints WHERE agent = 'claude-code' AND remote_host IN ('api.github.com', 'plain72.names.example')";
    let wanted = ["api.github.com 443 1 0 1 0", "plain72.names.example 80 1 0 1 0"];
    assert_eq!(all(line, total, "remote_host"), wanted);
}

#[test]
fn node_tells_by_tls_and_by_its_own_resolver() {
    let name = "node_tells_by_tls_and_by_its_own_resolver";
    if !can_record(name) {
        return;
    }
    if Command::new("node").arg("--version").output().is_err() {
        skipped(name, "there is no node");
        return;
    }
    let recorder = recorder();
    // Its resolver is c-ares.
    let script = r"node - <<'P'
const dns = require('dns').promises, http = require('http'), https = require('https');
const get = (module, url, options) => new Promise((done, fail) =>
  module.get(url, { ...options, agent: false }, answer => answer.resume().on('end', done)).on('error', fail));
(async () => {
  const [own] = await dns.resolve4('www60.names.example');
  await get(http, `http://${own}/`);
  await get(https, 'https://api61.names.example/', { rejectUnauthorized: false });
  await get(https, 'https://192.0.2.62/', { rejectUnauthorized: false, servername: 'bare62.example' });
})();
P";
    let run = Agent::new().run(&in_a_world(script)).recorded(recorder);
    assert_named(&run, "192.0.2.60", 80, "www60.names.example", "dns");
    assert_named(&run, "192.0.2.61", 443, "api61.names.example", "sni");
    assert_named(&run, "192.0.2.62", 443, "bare62.example", "sni");
}

#[test]
fn a_name_holds_where_it_was_learnt_and_from_then_on() {
    if !can_record("a_name_holds_where_it_was_learnt_and_from_then_on") {
        return;
    }
    let recorder = recorder();
    let plain = "python3 -c 'import socket; s = socket.socket(); s.connect((\"192.0.2.10\", 80)); s.send(b\"GET / HTTP/1.0\\r\\n\\r\\n\"); s.recv(100)'";
    // Before the look-up, after it, and with the same address under another name.
    let script = format!(
        "{plain}; curl -sSf http://first10.names.example/; {plain}; curl -sSf http://second10.names.example/
         unshare --net bash -ec 'ip link set lo up; ip route add local 192.0.2.0/24 dev lo
         (exec 3<>/dev/tcp/192.0.2.10/80) 2>/dev/null || true'"
    );
    let run = Agent::new().run(&in_a_world(&script)).recorded(recorder);
    let sql = format!(
        "SELECT remote_host FROM agent_connections WHERE agent_id = {} AND remote_address = '192.0.2.10' \
         AND direction = 'outbound' ORDER BY eid",
        run.id()
    );
    let names: Vec<_> = recorder.query(&sql).into_iter().map(|row| row["remote_host"].clone()).collect();
    let first = Some("first10.names.example".to_owned());
    assert_eq!(names, [None, first.clone(), first, Some("second10.names.example".to_owned()), None]);
    let other = Agent::new().run(&in_a_world(plain)).recorded(recorder);
    assert_eq!(named(&other, "192.0.2.10", 80), (None, None), "another instance");
}

#[test]
fn of_what_is_no_hello_nothing_leaves_the_kernel() {
    if !can_record("of_what_is_no_hello_nothing_leaves_the_kernel") {
        return;
    }
    let recorder = recorder();
    let records = || recorder.value("SELECT seen FROM agent_collector WHERE event = 'name'").unwrap();
    // Whenever it is told to, some connections, on which what comes later looks like TLS.
    let script = r"python3 - <<'P'
import os, socket, time
while True:
    while not os.path.exists('go') and not os.path.exists('end'):
        time.sleep(0.01); os.getcwd()  # which fails when the test is gone
    if os.path.exists('end'):
        break
    os.remove('go')
    for number in range(10):
        peer = socket.socket(); peer.connect(('192.0.2.10', 80))
        peer.send(b'GET / HTTP/1.0\r\n'); peer.send(bytes([22, 3, 1, 1, 1, 1]) * 400); peer.send(b'\r\n\r\n')
        peer.recv(100); peer.close()
    open('done', 'w').close()
P";
    let agent = Agent::new();
    let mut child = agent.start(&in_a_world(script));
    // Other agents of this machine have names too: there is a moment without.
    let deadline = Instant::now() + Duration::from_secs(60);
    let done = agent.work().join("done");
    loop {
        let before = records();
        std::fs::write(agent.work().join("go"), "").unwrap();
        while !done.exists() {
            assert!(Instant::now() < deadline, "no connections");
            std::thread::sleep(Duration::from_millis(5));
        }
        std::fs::remove_file(&done).unwrap();
        if records() == before {
            break;
        }
        assert!(Instant::now() < deadline, "records each time");
    }
    std::fs::write(agent.work().join("end"), "").unwrap();
    assert!(support::ended(&mut child, Duration::from_secs(20)).success());
    let run = Run { pid: child.id() }.recorded(recorder);
    let made =
        format!("SELECT count(*) >= 10 FROM agent_connections WHERE agent_id = {} AND remote_port = 80", run.id());
    recorder.wait_for(&made, "1");
    assert_eq!(named(&run, "192.0.2.10", 80), (None, None));
}
