//! Every socket of an agent: its direction, its states and end, who is at the other end, and its bytes.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)] // a test fails by panicking

mod support;

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use support::{Agent, Recorder, Row, Run, can_record, recorder};

/// More than 8192 connections at once end the `time_wait` of others early.
static MANY: RwLock<()> = RwLock::new(());

fn without_many() -> RwLockReadGuard<'static, ()> {
    MANY.read().unwrap_or_else(PoisonError::into_inner)
}

/// The connections of an agent that have come to their end, when all have.
fn ended(run: &Run) -> Vec<Row> {
    let open = format!("SELECT count(*) FROM agent_connections WHERE agent_id = {} AND end_time IS NULL", run.id());
    recorder().wait_for(&open, "0");
    recorder().query(&format!("SELECT * FROM agent_connections WHERE agent_id = {} ORDER BY eid", run.id()))
}

fn cells(row: &Row, columns: &[&str]) -> Vec<String> {
    columns.iter().map(|column| row[*column].clone().unwrap_or_else(|| "-".into())).collect()
}

/// Runs Python as the agent, in a network namespace of its own with a loopback.
fn python(script: &str) -> Run {
    recorder();
    let script = format!(
        "exec unshare -n sh -c 'ip link set lo up; sysctl -qw net.ipv4.tcp_syn_retries=1 net.ipv4.tcp_syncookies=0; \
         exec python3 -' <<'P'\n{script}\nP"
    );
    Agent::new().run(&script).recorded(recorder())
}

fn sum(run: &Run, column: &str) -> Option<String> {
    recorder().value(&format!("SELECT {column} FROM ai_agents WHERE agent_id = {}", run.id()))
}

#[test]
fn both_ends_of_a_tcp_connection() {
    if !can_record("both_ends_of_a_tcp_connection") {
        return;
    }
    let _rest = without_many();
    for (family, address) in [("AF_INET", "127.0.0.1"), ("AF_INET6", "::1")] {
        let run = python(&format!(
            r"
import socket
listener = socket.socket(socket.{family}); listener.bind(('{address}', 0)); listener.listen()
client = socket.create_connection(listener.getsockname()[:2])
server, _ = listener.accept()
client.sendall(b'x' * 100_000); got = 0
while got < 100_000: got += len(server.recv(1 << 16))
server.sendall(b'y' * 7); client.recv(100, socket.MSG_PEEK); client.recv(100)
server.close(); assert client.recv(1) == b''; client.close(); listener.close()
"
        ));
        let rows = ended(&run);
        let shown: Vec<_> = rows
            .iter()
            .map(|row| {
                cells(row, &["direction", "transport", "state", "error", "bytes_sent", "bytes_received"]).join(" ")
            })
            .collect();
        assert_eq!(
            shown,
            ["listen tcp closed - - -", "outbound tcp closed - 100000 7", "inbound tcp time_wait - 7 100000"],
            "{rows:?}"
        );
        let (listener, client, server) = (&rows[0], &rows[1], &rows[2]);
        assert_eq!(client["remote_port"], listener["local_port"]);
        assert_eq!((&server["local_port"], &server["remote_port"]), (&client["remote_port"], &client["local_port"]));
        for row in [client, server] {
            assert_eq!(cells(row, &["local_address", "remote_address"]), [address, address]);
            assert!(row["fd"].is_some() && row["socket"].is_some());
        }
        assert_eq!(listener["local_address"].as_deref(), Some(address));
        assert_eq!(sum(&run, "connections_total").as_deref(), Some("2"));
        assert_eq!(sum(&run, "bytes_sent").as_deref(), Some("100007"));
        assert_eq!(sum(&run, "bytes_received").as_deref(), Some("100007"));
    }
}

#[test]
fn ends_that_are_none() {
    if !can_record("ends_that_are_none") {
        return;
    }
    let _rest = without_many();
    let run = python(
        r"
import socket, struct, subprocess
none = socket.socket(); none.bind(('127.0.0.1', 0))
socket.socket().connect_ex(none.getsockname())
# A full queue answers no SYN.
full = socket.socket(); full.bind(('127.0.0.1', 0)); full.listen(0)
first = socket.create_connection(full.getsockname())
late = socket.socket(); late.setsockopt(socket.IPPROTO_TCP, 18, 300)
try: late.connect(full.getsockname())
except OSError as error: print(error)
late.close()
listener = socket.socket(); listener.bind(('127.0.0.1', 0)); listener.listen()
# Reset by the other end, and then half closed by it.
client = socket.create_connection(listener.getsockname()); server, _ = listener.accept()
server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)); server.close()
try: client.recv(1)
except ConnectionResetError: pass
client.close()
client = socket.create_connection(listener.getsockname()); server, _ = listener.accept()
server.shutdown(socket.SHUT_WR); client.recv(1); client.send(b'more'); server.recv(4)
print('half', flush=True)
client.close(); server.close()
",
    );
    let rows = ended(&run);
    let of = |direction: &str| -> Vec<_> {
        let is = |row: &&Row| row["direction"].as_deref() == Some(direction);
        rows.iter().filter(is).map(|row| cells(row, &["state", "error"]).join(" ")).collect()
    };
    assert_eq!(of("outbound")[0], "failed ECONNREFUSED");
    assert_eq!(of("outbound")[2], "failed ETIMEDOUT", "{rows:?}");
    assert_eq!(of("outbound")[3..], ["closed ECONNRESET", "closed -"], "{rows:?}");
    assert_eq!(of("inbound"), ["closed -", "time_wait -"], "{rows:?}");
    assert_eq!(of("listen"), ["closed -", "closed -"]);
}

/// Takes the minute that it tests; the others run beside it.
#[test]
fn a_flow_ends_after_a_minute_of_silence_and_so_does_time_wait() {
    if !can_record("a_flow_ends_after_a_minute_of_silence_and_so_does_time_wait") {
        return;
    }
    let _rest = without_many();
    let run = python(
        r"
import socket, time
listener = socket.socket(); listener.bind(('127.0.0.1', 0)); listener.listen()
client = socket.create_connection(listener.getsockname()); server, _ = listener.accept()
client.close(); server.recv(1); server.close(); listener.close()
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.sendto(b'once', ('127.0.0.1', 1001))
for _ in range(14):
    sender.sendto(b'again', ('127.0.0.1', 1002))
    time.sleep(5)
",
    );
    let rows = ended(&run);
    let shown: Vec<_> = rows.iter().map(|row| cells(row, &["direction", "transport", "state"]).join(" ")).collect();
    assert_eq!(
        shown,
        [
            "listen tcp closed",
            "outbound tcp closed",
            "inbound tcp closed",
            "outbound udp closed",
            "outbound udp closed"
        ],
        "{rows:?}"
    );
    let lasted = |row: &Row| {
        let time = |column: &str| row[column].as_ref().unwrap().parse::<i64>().unwrap();
        time("end_time") - time("start_time")
    };
    assert_eq!(cells(&rows[3], &["remote_port", "bytes_sent"]), ["1001", "4"]);
    assert!((60..68).contains(&lasted(&rows[3])), "{rows:?}");
    assert_eq!(cells(&rows[4], &["remote_port", "bytes_sent"]), ["1002", "70"]);
    assert!(lasted(&rows[4]) >= 69, "{rows:?}");
}

#[test]
fn a_half_closed_connection_says_so_while_it_is() {
    if !can_record("a_half_closed_connection_says_so_while_it_is") {
        return;
    }
    let agent = Agent::new();
    let script = r"exec python3 - <<'P'
import os, socket, time
listener = socket.socket(); listener.bind(('127.0.0.1', 0)); listener.listen()
client = socket.create_connection(listener.getsockname()); client.shutdown(socket.SHUT_WR)
server, _ = listener.accept(); server.send(b'12345'); client.recv(5)
while not os.path.exists('go'): time.sleep(0.01)
P";
    recorder();
    let mut child = agent.start(script);
    let id = format!("(SELECT agent_id FROM ai_agents WHERE pid = {} ORDER BY time_ns DESC LIMIT 1)", child.id());
    let shown = format!(
        "SELECT group_concat(state || ' ' || ifnull(bytes_sent, '-') || ' ' || ifnull(bytes_received, '-'), ', ') FROM \
         (SELECT * FROM agent_connections WHERE agent_id = {id} ORDER BY eid)"
    );
    // Accepted when the other end had closed its side already; bytes of what is still open.
    recorder().wait_for(&shown, "listening - -, closing 0 5, close_wait 5 0");
    recorder().wait_for(&format!("SELECT bytes_sent FROM ai_agents WHERE agent_id = {id}"), "5");
    std::fs::write(agent.work().join("go"), "").unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn bytes_are_those_of_every_way_to_send() {
    if !can_record("bytes_are_those_of_every_way_to_send") {
        return;
    }
    let run = python(
        r"
import os, socket, threading
listener = socket.socket(); listener.bind(('127.0.0.1', 0)); listener.listen()
client = socket.create_connection(listener.getsockname()); server, _ = listener.accept()
got = []
def receive():
    n = 0
    while True:
        part = server.recv(1 << 16)
        if not part: break
        n += len(part)
    got.append(n)
thread = threading.Thread(target=receive); thread.start()
open('file', 'wb').write(b'z' * 300_000)
file = os.open('file', os.O_RDONLY); left = 300_000
while left: left -= os.sendfile(client.fileno(), file, None, left)
os.write(client.fileno(), b'1'); os.writev(client.fileno(), [b'22', b'333'])
client.send(b'4'); client.sendmsg([b'5', b'66'])
r, w = os.pipe(); os.write(w, b'spliced'); os.splice(r, client.fileno(), 7)
client.shutdown(socket.SHUT_WR); thread.join(); assert got == [300_000 + 1 + 5 + 1 + 3 + 7], got
server.send(b'back'); os.splice(client.fileno(), w, 4)
client.close(); server.close()
",
    );
    let rows = ended(&run);
    let bytes = |at: usize| cells(&rows[at], &["direction", "bytes_sent", "bytes_received"]).join(" ");
    assert_eq!((bytes(1), bytes(2)), ("outbound 300017 4".into(), "inbound 4 300017".into()), "{rows:?}");
}

#[test]
fn bytes_that_io_uring_sends_and_receives() {
    if !can_record("bytes_that_io_uring_sends_and_receives") {
        return;
    }
    let recorder = recorder();
    let agent = Agent::new();
    build("uring", &agent, &[]);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let got = std::io::copy(&mut client, &mut std::io::sink()).unwrap();
        client.write_all(&[0; 777]).unwrap();
        got
    });
    let script = format!("./uring {port} 100001 >got; [ $? != 77 ] || {{ echo none >got; exit 0; }}; ./uring accept");
    let run = agent.run(&script).recorded(recorder);
    if std::fs::read_to_string(agent.work().join("got")).unwrap() == "none\n" {
        return support::skipped("bytes_that_io_uring_sends_and_receives", "there is no io_uring here");
    }
    assert_eq!(server.join().unwrap(), 100_001);
    let rows = ended(&run);
    assert_eq!(rows.len(), 4, "{rows:?}");
    let shown = cells(&rows[0], &["direction", "state", "bytes_sent", "bytes_received"]);
    assert!(["time_wait", "closed"].contains(&&*shown[1]), "{shown:?}");
    assert_eq!((&*shown[0], &*shown[2], &*shown[3]), ("outbound", "100001", "777"));
    let accepted = rows.iter().find(|row| row["direction"].as_deref() == Some("inbound")).unwrap();
    assert_eq!(cells(accepted, &["name", "bytes_received"]), ["uring", "5"], "{rows:?}");
}

#[test]
fn of_many_short_connections_none_is_missing() {
    if !can_record("of_many_short_connections_none_is_missing") {
        return;
    }
    let _alone = MANY.write().unwrap_or_else(PoisonError::into_inner);
    let agent = Agent::new();
    recorder();
    build("short", &agent, &["-pthread"]);
    // The server is not the agent's.
    let mut server = Command::new(agent.work().join("short")).stdout(Stdio::piped()).spawn().unwrap();
    let mut port = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut port).unwrap();
    let run = agent.run(&format!("[ $(./short {} 20000) = 20000 ]", port.trim())).recorded(recorder());
    server.kill().unwrap();
    server.wait().unwrap();
    let ended = format!(
        "SELECT count(*) FROM agent_connections WHERE agent_id = {} AND direction = 'outbound' AND remote_port = {} AND \
         end_time IS NOT NULL AND error IS NULL AND bytes_sent = 1",
        run.id(),
        port.trim()
    );
    recorder().wait_for(&ended, "20000");
    assert_eq!(sum(&run, "connections_total").as_deref(), Some("20000"));
}

/// Builds a program into an agent's folder.
fn build(name: &str, agent: &Agent, flags: &[&str]) {
    let source = format!("{}/../tests/programs/{name}.c", env!("CARGO_MANIFEST_DIR"));
    let mut cc = Command::new("cc");
    assert!(cc.args(flags).arg(source).arg("-o").arg(agent.work().join(name)).status().unwrap().success());
}

#[test]
fn udp_flows() {
    if !can_record("udp_flows") {
        return;
    }
    let run = python(
        r"
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); server.bind(('127.0.0.1', 5353))
connected = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); connected.connect(('127.0.0.1', 5353))
connected.send(b'abc'); data, peer = server.recvfrom(100); server.sendto(b'reply', peer); connected.recv(100)
free = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
free.sendto(b'1', ('127.0.0.1', 5353)); free.sendmsg([b'22', b'3'], [], 0, ('127.0.0.1', 5353))
server.recvmsg(100); server.recvfrom(100, socket.MSG_PEEK); server.recvfrom(100)
ghost = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); ghost.connect(('::1', 9)); ghost.close()
six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); six.sendto(b'12', ('::1', 9))
",
    );
    let rows = ended(&run);
    let shown: Vec<_> = rows
        .iter()
        .map(|row| {
            cells(row, &["transport", "direction", "remote_address", "state", "bytes_sent", "bytes_received"]).join(" ")
        })
        .collect();
    assert_eq!(
        shown,
        [
            "udp listen - closed - -",
            "udp outbound 127.0.0.1 closed 3 5",
            "udp inbound 127.0.0.1 closed 5 3",
            "udp outbound 127.0.0.1 closed 4 0",
            "udp inbound 127.0.0.1 closed 0 4",
            "udp outbound ::1 closed 0 0",
            "udp outbound ::1 closed 2 0",
        ],
        "{rows:?}"
    );
    assert_eq!(rows[0]["local_port"].as_deref(), Some("5353"));
    assert_eq!(sum(&run, "connections_total").as_deref(), Some("5"), "a connect without a datagram is none");
    assert_eq!(sum(&run, "bytes_sent").as_deref(), Some("14"));
}

#[test]
fn of_one_udp_socket_so_many_flows_are_told() {
    if !can_record("of_one_udp_socket_so_many_flows_are_told") {
        return;
    }
    let recorder = recorder();
    let throttled = "SELECT throttled FROM agent_collector WHERE event = 'connection'";
    let before: i64 = recorder.value(throttled).unwrap().parse().unwrap();
    let run = python(
        r"
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for port in range(1, 301): s.sendto(b'x', ('127.0.0.1', port))
",
    );
    assert_eq!(ended(&run).len(), 256);
    let after: i64 = recorder.value(throttled).unwrap().parse().unwrap();
    assert_eq!(after - before, 44);
}

#[test]
fn a_resolvers_connects_are_no_connections() {
    if !can_record("a_resolvers_connects_are_no_connections") {
        return;
    }
    // getaddrinfo sorts addresses by what a UDP socket would use to reach them.
    recorder();
    let script =
        "printf '127.0.0.1 two\\n127.0.0.2 two\\n' >hosts; exec unshare -m sh -c 'mount --bind hosts /etc/hosts
        exec python3 -c \"import socket; socket.getaddrinfo(\\\"two\\\", 80, type=socket.SOCK_STREAM)\"'";
    let run = Agent::new().run(script).recorded(recorder());
    let rows = ended(&run);
    let ghosts = rows.iter().filter(|row| row["transport"].as_deref() == Some("udp")).count();
    assert!(ghosts > 0, "{rows:?}");
    assert!(rows.iter().all(|row| row["bytes_sent"].as_deref() == Some("0")), "{rows:?}");
    let connected = rows.len() - ghosts;
    assert_eq!(sum(&run, "connections_total"), Some(connected.to_string()));
}

#[test]
fn unix_sockets() {
    if !can_record("unix_sockets") {
        return;
    }
    let agent = Agent::new();
    let script = r"exec python3 - <<'P'
import os, socket
def pair(name):
    listener = socket.socket(socket.AF_UNIX); listener.bind(name); listener.listen()
    client = socket.socket(socket.AF_UNIX); client.connect(name); server, _ = listener.accept()
    client.send(b'hello'); server.recv(10); os.write(server.fileno(), b'yes'); client.recv(10)
pair('here.sock'); pair('\0hidden')
for name in 'none.sock', 'here.sock', '/var/run/nscd/socket':
    try: socket.socket(socket.AF_UNIX).connect(name)
    except OSError: pass
a, b = socket.socketpair(); a.send(b'x')
d = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); d.bind('d.sock')
e = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); e.connect('d.sock'); e.send(b'12')
P";
    recorder();
    let run = agent.run(script).recorded(recorder());
    let rows = ended(&run);
    let shown: Vec<_> = rows
        .iter()
        .map(|row| cells(row, &["direction", "path", "state", "error", "bytes_sent", "bytes_received"]).join(" "))
        .collect();
    assert_eq!(
        shown,
        [
            "listen here.sock closed - - -",
            "outbound here.sock closed - 5 3",
            "inbound here.sock closed - 3 5",
            "listen @hidden closed - - -",
            "outbound @hidden closed - 5 3",
            "inbound @hidden closed - 3 5",
            "outbound none.sock failed ENOENT 0 0",
            "outbound here.sock failed ECONNREFUSED 0 0",
            "outbound d.sock closed - 2 0",
        ],
        "{rows:?}"
    );
    let pid = recorder().value(&format!("SELECT pid FROM ai_agents WHERE agent_id = {}", run.id()));
    for row in &rows {
        assert_eq!(cells(row, &["family", "protocol", "transport"]), ["1", "0", "unix"]);
        let connected = row["error"].is_none() && row["direction"].as_deref() != Some("listen");
        let stream = row["path"].as_deref() != Some("d.sock");
        assert_eq!(row["remote_pid"], pid.clone().filter(|_| connected && stream), "{row:?}");
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn sockets_of_another_abi() {
    if !can_record("sockets_of_another_abi") {
        return;
    }
    let agent = Agent::new();
    recorder();
    build("sockets80", &agent, &[]);
    let run = agent.run("./sockets80 >port").recorded(recorder());
    let port = std::fs::read_to_string(agent.work().join("port")).unwrap().trim().to_owned();
    let rows = ended(&run);
    let shown: Vec<_> =
        rows.iter().map(|row| cells(row, &["direction", "bytes_sent", "bytes_received", "error"]).join(" ")).collect();
    assert_eq!(shown, ["listen - - -", "outbound 5 0 -", "inbound 0 5 -"], "{rows:?}");
    assert_eq!(rows[0]["local_port"].as_ref(), Some(&port));
    assert_eq!(rows[1]["remote_port"].as_ref(), Some(&port));
    assert!(rows.iter().all(|row| row["fd"].is_some()));
}

#[test]
fn sockets_that_were_there_before_recording() {
    if !can_record("sockets_that_were_there_before_recording") {
        return;
    }
    let agent = Agent::new();
    let script = r#"unshare -n sh -c 'ip link set lo up; exec python3 -' <<'P'
import os, socket, time
def reach(name, then):
    open(name, "w").close()
    while not os.path.exists(then): time.sleep(0.01)
udp = lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
listener = socket.socket(socket.AF_UNIX); listener.bind("a.sock"); listener.listen()
client = socket.socket(socket.AF_UNIX); client.connect("a.sock"); server, _ = listener.accept()
one, other = socket.socketpair()
server_udp = udp(); server_udp.bind(("127.0.0.1", 5454)); unbound = udp(); unbound.bind(("127.0.0.1", 0))
client_udp = udp(); client_udp.connect(("127.0.0.1", 5454)); free = udp(); free.sendto(b"x", ("127.0.0.1", 5454))
reach("ready", "go")
client.send(b"12345"); server.recv(10); client_udp.send(b"678"); free.sendto(b"99", ("127.0.0.1", 5454))
reach("sent", "end")
P
true"#; // the shell stays: an agent that runs is told by its program
    let mut child = agent.start(script);
    let reached = |name: &str| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !agent.work().join(name).exists() {
            assert!(Instant::now() < deadline, "the agent does not come to {name}");
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    reached("ready");
    let recorder = Recorder::start(&["--syscalls", "always"]);
    let shown = format!(
        "SELECT group_concat(transport || ' ' || direction || ' ' || state || ' ' || ifnull(bytes_sent, '-') || ' ' || \
         ifnull(bytes_received, '-') || ' ' || ifnull(path, ifnull(remote_port, local_port)), ', ') FROM (SELECT * FROM \
         agent_connections c JOIN ai_agents a USING (agent_id) WHERE a.pid = {} ORDER BY c.transport, c.direction, \
         c.bytes_sent)",
        child.id()
    );
    let shown = shown.replace("SELECT * FROM agent", "SELECT c.* FROM agent");
    let all = |bytes: [i64; 3], state: &str, listening: &str, more: &str| {
        format!(
            "udp listen {listening} - - 5454, {more}udp outbound {state} {} 0 5454, unix inbound {state} 0 {} a.sock, unix \
             listen {listening} - - a.sock, unix outbound {state} {} 0 a.sock",
            bytes[0], bytes[1], bytes[2]
        )
    };
    recorder.wait_for(&shown, &all([0, 0, 0], "established", "listening", ""));
    std::fs::write(agent.work().join("go"), "").unwrap();
    reached("sent");
    recorder.wait_for(&shown, &all([3, 5, 5], "established", "listening", "udp outbound established 2 0 5454, "));
    std::fs::write(agent.work().join("end"), "").unwrap();
    assert!(child.wait().unwrap().success());
    recorder.wait_for(&shown, &all([3, 5, 5], "closed", "closed", "udp outbound closed 2 0 5454, "));
    let sums = format!("SELECT bytes_sent || ' ' || bytes_received FROM ai_agents WHERE pid = {}", child.id());
    recorder.wait_for(&sums, "10 5");
}
