//! The recorder against a real kernel: what a process of an agent did is in the tables, and nothing else.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)] // a test fails by panicking

mod support;

use std::process::Command;

use support::{Agent, Recorder, Run, can_record, recorder};

/// Bytes written and source of the closes of a path.
fn closes(run: &Run, path: &str) -> Vec<(i64, i64, String)> {
    let sql = format!(
        "SELECT bytes_read, bytes_written, close_source FROM agent_file_ops WHERE operation = 'close' AND agent_id = {} \
         AND path = '{path}' ORDER BY eid",
        run.id()
    );
    let number = |text: &Option<String>| text.as_ref().unwrap().parse().unwrap();
    let row = |row: support::Row| {
        (number(&row["bytes_read"]), number(&row["bytes_written"]), row["close_source"].clone().unwrap())
    };
    recorder().query(&sql).into_iter().map(row).collect()
}

#[test]
fn bytes_of_a_close_are_what_was_written() {
    if !can_record("bytes_of_a_close_are_what_was_written") {
        return;
    }
    let recorder = recorder();
    let agent = Agent::new();
    let script = r#"
        set -e
        dd if=/dev/zero of=by-dd bs=1000 count=7 status=none
        cp by-dd by-cp
        python3 -c 'open("by-python", "w").write("x" * 123456)'
        exec 5>inherited; (echo abc >&5; bash -c 'echo defg >&5'); exec 5>&-
        python3 - <<'P'
import os
fd = os.open("by-dup2", os.O_CREAT | os.O_WRONLY); other = os.open("overwritten", os.O_CREAT | os.O_WRONLY)
os.write(other, b"12"); os.dup2(fd, other); os.close(fd); os.write(other, b"345"); os.close(other)
fd = os.open("by-writev", os.O_CREAT | os.O_RDWR); os.writev(fd, [b"ab", b"cde"]); os.pwrite(fd, b"z", 0); os.pread(fd, 4, 0); os.close(fd)
source = os.open("by-dd", os.O_RDONLY); fd = os.open("by-sendfile", os.O_CREAT | os.O_WRONLY); os.sendfile(fd, source, 0, 4000); os.close(fd)
fd = os.open("by-close-range", os.O_CREAT | os.O_WRONLY); os.write(fd, b"1234"); os.closerange(fd, fd + 1)
P
        python3 -c 'import os; fd = os.open("on-exec", os.O_CREAT | os.O_WRONLY); os.write(fd, b"0123456789"); os.execv("/bin/sleep", ["sleep", "0.2"])'
        python3 -c 'import os; fd = os.open("at-exit", os.O_CREAT | os.O_WRONLY); os.write(fd, b"123"); os._exit(0)'
        python3 - <<'P'
import os, threading
def write():
    with open("by-thread", "w") as file: file.write("thread")
thread = threading.Thread(target=write); thread.start(); thread.join()
P
        git init -q . && git add by-python && git -c user.name=a -c user.email=a@example.com commit -q -m one
    "#;
    let run = agent.run(script).recorded(recorder);
    let at = |name: &str| agent.work().join(name).to_str().unwrap().to_owned();
    let written = |name: &str| -> Vec<i64> {
        closes(&run, &at(name)).into_iter().map(|(_, written, _)| written).filter(|written| *written > 0).collect()
    };
    for (name, bytes) in [
        ("by-dd", 7000),
        ("by-cp", 7000),
        ("by-python", 123_456),
        ("inherited", 9),
        ("by-dup2", 3),
        ("overwritten", 2),
        ("by-writev", 6),
        ("by-sendfile", 4000),
        ("by-close-range", 4),
        ("on-exec", 10),
        ("at-exit", 3),
        ("by-thread", 6),
    ] {
        assert_eq!(written(name), [bytes], "{name}: {:?}", closes(&run, &at(name)));
    }
    let read: Vec<i64> =
        closes(&run, &at("by-dd")).into_iter().map(|(read, ..)| read).filter(|read| *read > 0).collect();
    assert_eq!(read, [7000, 4000], "cp, then sendfile");
    assert_eq!(closes(&run, &at("by-writev")), [(4, 6, "seen".to_owned())]);
    assert_eq!(closes(&run, &at("on-exec"))[0].2, "inferred");
    assert_eq!(closes(&run, &at("at-exit"))[0].2, "inferred");
    for name in [".git/index", ".git/COMMIT_EDITMSG"] {
        // git writes the index beside its name and renames it.
        let made = if name == ".git/index" { ".git/index.lock" } else { name };
        let size = i64::try_from(std::fs::metadata(at(name)).unwrap().len()).unwrap();
        assert_eq!(written(made).last(), Some(&size), "{name}");
    }
    // Every open has its one end.
    let opens = "operation IN ('open_read', 'open_write', 'create') OR (operation = 'truncate' AND mode IS NOT NULL)";
    let open = format!("SELECT count(*) FROM agent_file_ops WHERE agent_id = {} AND ({opens})", run.id());
    let close = format!(
        "SELECT count(DISTINCT open_eid) FROM agent_file_ops WHERE agent_id = {} AND operation = 'close'",
        run.id()
    );
    assert_eq!(recorder.value(&open), recorder.value(&close));
}

#[test]
fn a_storm_of_file_operations_loses_nothing() {
    if !can_record("a_storm_of_file_operations_loses_nothing") {
        return;
    }
    let recorder = recorder();
    let agent = Agent::new();
    // More than 100,000 operations, and well below what the memory for rows holds, for other tests' rows are in it, too.
    let script = r#"python3 - <<'P'
import os
for n in range(34_000):
    os.close(os.open(f"f{n % 100}", os.O_CREAT | os.O_WRONLY)); os.unlink(f"f{n % 100}")
P"#;
    let run = agent.run(script).recorded(recorder);
    let count = |operation: &str| {
        let sql = format!(
            "SELECT count(*) FROM agent_file_ops WHERE agent_id = {} AND operation = '{operation}' AND path LIKE '{}/f%'",
            run.id(),
            agent.work().display()
        );
        recorder.value(&sql)
    };
    for operation in ["create", "delete", "close"] {
        assert_eq!(count(operation).as_deref(), Some("34000"), "{operation}");
    }
    let collector = recorder.query("SELECT * FROM agent_collector WHERE collector = 'linux' AND event <> 'gap'");
    assert!(!collector.is_empty());
    for row in collector {
        let number = |column: &str| -> i64 { row[column].as_ref().unwrap().parse().unwrap() };
        let out = ["submitted", "filtered", "ring_full", "oversized", "throttled"].map(number);
        assert_eq!(number("seen"), out.iter().sum::<i64>(), "{row:?}");
        for lost in ["ring_full", "oversized", "throttled", "recursion_misses"] {
            assert_eq!(number(lost), 0, "{row:?}");
        }
        // Other tests' events may be on their way between the reading of the two numbers.
        assert!((number("submitted") - number("received") - number("in_flight")).abs() < 2000, "{row:?}");
    }
}

#[test]
fn every_open_ends_though_the_ring_was_full_when_it_was_closed() {
    if !can_record("every_open_ends_though_the_ring_was_full_when_it_was_closed") {
        return;
    }
    let recorder = Recorder::start(&["--syscalls", "always"]);
    let agent = Agent::new();
    // Nobody empties the ring: it fills, and then files are closed whose opens are in it.
    recorder.signal(libc::SIGSTOP);
    let script = r#"python3 - <<'P'
import os
held = [os.open(f"held{n}", os.O_CREAT | os.O_WRONLY) for n in range(500)]
for fd in held: os.write(fd, b"abc")
for n in range(20_000):
    os.close(os.open("storm", os.O_CREAT | os.O_WRONLY))
for fd in held: os.close(fd)
P"#;
    let run = agent.run(script);
    recorder.signal(libc::SIGCONT);
    let run = run.recorded(&recorder);
    let full = recorder.value("SELECT sum(ring_full) > 0 FROM agent_collector");
    assert_eq!(full.as_deref(), Some("1"), "the ring was not full: nothing was tested");
    let held = format!(
        "SELECT count(*) FROM agent_file_ops WHERE agent_id = {} AND path LIKE '%/held%' AND operation = 'close' AND \
         bytes_written = 3",
        run.id()
    );
    assert_eq!(recorder.value(&held).as_deref(), Some("500"));
    let unended = format!(
        "SELECT count(*) FROM agent_file_ops WHERE agent_id = {} AND path LIKE '{}/%' AND operation != 'close' AND eid \
         NOT IN (SELECT open_eid FROM agent_file_ops WHERE operation = 'close')",
        run.id(),
        agent.work().display()
    );
    assert_eq!(recorder.value(&unended).as_deref(), Some("0"));
}

#[test]
fn processes_have_their_row_and_their_end_though_fork_and_exit_were_lost() {
    if !can_record("processes_have_their_row_and_their_end_though_fork_and_exit_were_lost") {
        return;
    }
    let recorder = Recorder::start(&["--syscalls", "always"]);
    let agent = Agent::new();
    // Nobody empties the ring: long command lines fill it, and forks the rest, in which no command line has room.
    recorder.signal(libc::SIGSTOP);
    let script = r"
        long=$(printf '%012000d' 1); mkfifo end
        (read line <end) & early=$!
        for n in $(seq 500); do /bin/true $long; done
        for n in $(seq 300); do (:); done
        echo >end; wait $early
        (for n in $(seq 3000); do [ -e go ] && break; sleep 0.02; done; echo x > made-by-a-stray) &
        touch full; wait";
    let run = std::thread::scope(|scope| {
        let run = scope.spawn(|| agent.run(script));
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !agent.work().join("full").exists() {
            assert!(std::time::Instant::now() < deadline, "the agent does not come to its end");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        recorder.signal(libc::SIGCONT);
        let lost = "SELECT group_concat(ring_full > 0) FROM (SELECT ring_full FROM agent_collector WHERE event IN \
                    ('fork', 'exec', 'exit'))";
        assert_eq!(recorder.value(lost).as_deref(), Some("1,1,1"), "nothing was lost: nothing was tested");
        let stray = format!(
            "SELECT count(*) FROM agent_processes WHERE how = 'adopted' AND name = 'claude.exe' AND cwd = '{}'",
            agent.work().display()
        );
        recorder.wait_for(&stray, "1");
        std::fs::write(agent.work().join("go"), "").unwrap();
        run.join().unwrap()
    });
    let run = run.recorded(&recorder);
    let of_run = |what: &str| recorder.query(&format!("{what} AND agent_id = {} ORDER BY eid", run.id()));
    let made =
        of_run("SELECT process_eid FROM agent_file_ops WHERE operation = 'create' AND path LIKE '%/made-by-a-stray'");
    assert_eq!(made.len(), 1);
    let stray = of_run("SELECT * FROM agent_processes WHERE how = 'adopted' AND name = 'claude.exe'");
    assert_eq!(stray.len(), 1, "{stray:?}");
    assert_eq!(stray[0]["eid"], made[0]["process_eid"]);
    assert_eq!((stray[0]["exit_code"].as_deref(), &stray[0]["depth"]), (Some("0"), &Some("1".to_owned())));
    let unseen =
        of_run("SELECT pid FROM agent_processes WHERE state = 'exited' AND exit_code IS NULL AND signal IS NULL");
    assert!(!unseen.is_empty(), "no exit was lost");
    assert!(of_run("SELECT pid FROM agent_processes WHERE state = 'running'").is_empty());
}

/// Operation, path and new path of the changes that a script makes in its folder, without the folder.
fn changes(script: &str) -> Vec<(String, String, String)> {
    let recorder = recorder();
    let agent = Agent::new();
    let run = agent.run(script).recorded(recorder);
    let sql = format!(
        "SELECT operation, path, dest_path FROM agent_file_ops WHERE agent_id = {} AND path LIKE '{}/%' AND \
         open_eid IS NULL AND (operation NOT LIKE 'open%' AND operation != 'create') ORDER BY eid",
        run.id(),
        agent.work().display()
    );
    let folder = format!("{}/", agent.work().display());
    let row = |row: support::Row| {
        let cell = |name: &str| row[name].clone().unwrap_or_default().replace(&folder, "");
        (cell("operation"), cell("path"), cell("dest_path"))
    };
    recorder.query(&sql).into_iter().map(row).collect()
}

#[test]
fn a_change_is_of_what_the_kernel_changed() {
    if !can_record("a_change_is_of_what_the_kernel_changed") {
        return;
    }
    let rows = changes(
        r"set -e; mkdir d; echo x >d/file; ln -s d/file link; ln -s . here; python3 - <<'P'
import ctypes, os
os.chmod('link', 0o600); os.chown('link', 0, 0); os.truncate('link', 0)
os.lchown('link', 0, 0); os.chown('link', 0, 0, follow_symlinks=False)
os.chmod('here/link', 0o640); os.chmod('d/file', 0o600)
ctypes.CDLL(None).linkat(-100, b'link', -100, b'to-file', 0x400); os.link('link', 'to-link')
P",
    );
    let wanted = [
        ("mkdir", "d", ""),
        ("symlink", "d/file", "link"),
        ("symlink", ".", "here"),
        ("chmod", "d/file", ""),
        ("chown", "d/file", ""),
        ("truncate", "d/file", ""),
        ("chown", "link", ""),
        ("chown", "link", ""),
        ("chmod", "d/file", ""),
        ("chmod", "d/file", ""),
        ("link", "d/file", "to-file"),
        ("link", "link", "to-link"),
    ];
    // A symlink's row has for its path what the link holds, which lies in no folder.
    let wanted: Vec<_> = wanted.into_iter().filter(|(operation, ..)| *operation != "symlink").collect();
    let rows: Vec<_> = rows.iter().map(|(a, b, c)| (a.as_str(), b.as_str(), c.as_str())).collect();
    assert_eq!(rows, wanted);
}

#[test]
fn names_that_change_places_are_two_renames() {
    if !can_record("names_that_change_places_are_two_renames") {
        return;
    }
    let script = r"echo x >a; echo y >b; python3 - <<'P'
import ctypes
libc = ctypes.CDLL(None)
assert libc.renameat2(-100, b'a', -100, b'b', 2) == 0
assert libc.renameat2(-100, b'a', -100, b'c', 1) == 0
P";
    let rows = changes(script);
    let rows: Vec<_> = rows.iter().map(|(a, b, c)| (a.as_str(), b.as_str(), c.as_str())).collect();
    assert_eq!(rows, [("rename", "a", "b"), ("rename", "b", "a"), ("rename", "a", "c")]);
}

#[test]
fn a_process_whose_threads_end_at_once_ends_once() {
    if !can_record("a_process_whose_threads_end_at_once_ends_once") {
        return;
    }
    let recorder = recorder();
    let agent = Agent::new();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/programs/threads.c");
    let program = agent.work().join("threads");
    assert!(Command::new("cc").args(["-pthread", source, "-o"]).arg(&program).status().unwrap().success());
    let run = agent.run("./threads 200").recorded(recorder);
    let sql = format!(
        "SELECT count(*) AS rows, count(DISTINCT pid) AS pids, sum(exit_code = 7) AS ends FROM agent_processes WHERE \
         agent_id = {} AND how != 'exec'",
        run.id()
    );
    let row = &recorder.query(&sql)[0];
    let number = |column: &str| row[column].as_deref().unwrap();
    assert_eq!((number("rows"), number("pids"), number("ends")), ("200", "200", "200"));
}

#[test]
#[cfg(target_arch = "x86_64")]
fn calls_of_another_abi_are_decoded_with_their_own_table() {
    if !can_record("calls_of_another_abi_are_decoded_with_their_own_table") {
        return;
    }
    let recorder = recorder();
    let agent = Agent::new();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/programs/int80.c");
    let program = agent.work().join("int80");
    assert!(Command::new("cc").arg(source).arg("-o").arg(&program).status().unwrap().success());
    let run = agent.run("./int80").recorded(recorder);
    let sql = format!(
        "SELECT operation, path, dest_path, bytes_written FROM agent_file_ops WHERE agent_id = {} AND path LIKE '%/by-int80%' ORDER BY eid",
        run.id()
    );
    let rows: Vec<_> = recorder
        .query(&sql)
        .into_iter()
        .map(|row| {
            let cell = |name: &str| row[name].clone().unwrap_or_default();
            (cell("operation"), cell("path"), cell("dest_path"), cell("bytes_written"))
        })
        .collect();
    let at = |name: &str| agent.work().join(name).to_str().unwrap().to_owned();
    let row = |operation: &str, path: &str, dest: &str, bytes: &str| {
        let dest = if dest.is_empty() { String::new() } else { at(dest) };
        (operation.to_owned(), at(path), dest, bytes.to_owned())
    };
    let wanted = [
        row("create", "by-int80", "", ""),
        row("close", "by-int80", "", "5"),
        row("rename", "by-int80", "by-int80-renamed", ""),
        row("delete", "by-int80-renamed", "", ""),
    ];
    assert_eq!(rows, wanted);
}

#[test]
fn what_no_agent_does_is_not_shown() {
    if !can_record("what_no_agent_does_is_not_shown") {
        return;
    }
    let recorder = recorder();
    let folder = tempfile::tempdir().unwrap();
    let marker = folder.path().join("not-an-agents");
    // A name as an argument, a directory called like an agent, an editor of an agent's file: none is an agent.
    let script = format!(
        "echo x > {0}; mkdir -p {1}/claude/bin && cp /bin/true {1}/claude/bin/x && {1}/claude/bin/x; grep -r codex {0}; true",
        marker.display(),
        folder.path().display()
    );
    assert!(Command::new("bash").args(["-c", &script]).status().unwrap().success());
    // An agent afterwards: when its rows are there, those of before would be.
    Agent::new().run("true").recorded(recorder);
    for sql in [
        format!("SELECT count(*) FROM agent_file_ops WHERE path LIKE '{}/%' AND agent <> ''", folder.path().display()),
        format!("SELECT count(*) FROM agent_processes WHERE cmdline LIKE '%{}%'", folder.path().display()),
    ] {
        assert_eq!(recorder.value(&sql).as_deref(), Some("0"), "{sql}");
    }
}

#[test]
fn processes_have_their_place_their_end_and_their_arguments() {
    if !can_record("processes_have_their_place_their_end_and_their_arguments") {
        return;
    }
    let recorder = recorder();
    let agent = Agent::new();
    let long = "y".repeat(12_000);
    let script = format!("(exit 3); bash -c 'kill -9 $$' || true; sh -c 'exec sleep 0.01'; /bin/true {long}");
    let run = agent.run(&script).recorded(recorder);
    let of_run = |what: &str| recorder.query(&format!("{what} AND agent_id = {} ORDER BY eid", run.id()));
    let root = of_run("SELECT * FROM agent_processes WHERE depth = 0 AND name = 'claude.exe'");
    assert_eq!(root.len(), 1);
    assert_eq!(root[0]["pid"].as_deref(), Some(run.pid.to_string().as_str()));
    let forked = of_run("SELECT exit_code, signal, parent_eid FROM agent_processes WHERE how = 'fork'");
    assert!(
        forked.iter().any(|row| row["exit_code"].as_deref() == Some("3") && row["parent_eid"] == root[0]["eid"]),
        "{forked:?}"
    );
    let killed = of_run("SELECT exit_code, signal FROM agent_processes WHERE signal = 9");
    assert_eq!(killed.len(), 1);
    assert_eq!(killed[0]["exit_code"], None);
    // One process, two programs: the first is replaced, the second exits.
    let replaced = of_run("SELECT pid, state, exit_code FROM agent_processes WHERE cmdline LIKE 'sh -c exec sleep%'");
    assert_eq!((replaced.len(), replaced[0]["state"].as_deref()), (1, Some("replaced")));
    assert_eq!(replaced[0]["exit_code"], None);
    let by = of_run("SELECT pid, state, exit_code FROM agent_processes WHERE cmdline = 'sleep 0.01'");
    assert_eq!((by.len(), by[0]["state"].as_deref(), &by[0]["pid"]), (1, Some("exited"), &replaced[0]["pid"]));
    let whole =
        of_run("SELECT length(cmdline) AS n, truncated FROM agent_processes WHERE cmdline LIKE '/bin/true yyy%'");
    assert_eq!((whole[0]["n"].as_deref(), whole[0]["truncated"].as_deref()), (Some("12010"), Some("0")));
    let instance = recorder.query(&format!("SELECT * FROM ai_agents WHERE pid = {}", run.pid));
    assert_eq!(instance[0]["version"].as_deref(), Some("1.2.3"));
    assert_eq!(instance[0]["state"].as_deref(), Some("exited"));
}

#[test]
fn an_agent_without_a_literal_is_recognised_late_and_its_tree_marked() {
    if !can_record("an_agent_without_a_literal_is_recognised_late_and_its_tree_marked") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let signatures = folder.path().join("signatures");
    std::fs::create_dir(&signatures).unwrap();
    let yaml = "name: late\ndisplay_name: Late\ncategory: cli\ndetection:\n  exe_patterns: ['*/late*/ag*nt']\n";
    std::fs::write(signatures.join("late.yaml"), yaml).unwrap();
    std::fs::write(signatures.join("broken.yaml"), "name: [").unwrap();
    let recorder = Recorder::start(&["--syscalls", "always", "--signatures", signatures.to_str().unwrap()]);
    let refused = recorder.query("SELECT message FROM agent_signatures WHERE status = 'refused'");
    assert!(refused[0]["message"].as_ref().unwrap().contains("broken.yaml:1:"), "{refused:?}");
    let agent = folder.path().join("lately/agent");
    std::fs::create_dir(agent.parent().unwrap()).unwrap();
    std::fs::copy("/bin/bash", &agent).unwrap();
    let made = folder.path().join("made");
    let script = format!("sleep 0.3; bash -c 'echo x > {}'; true", made.display());
    let mut child = Command::new(&agent).args(["-c", &script]).spawn().unwrap();
    assert!(child.wait().unwrap().success());
    Run { pid: child.id() }.recorded(&recorder);
    let sql = format!(
        "SELECT name FROM agent_file_ops WHERE agent = 'late' AND operation = 'create' AND path = '{}'",
        made.display()
    );
    recorder.wait_for(&sql, "bash");
    let gap = recorder.value("SELECT start_gap_ms > 0 FROM ai_agents WHERE agent = 'late'");
    assert_eq!(gap.as_deref(), Some("1"), "what it did before it was marked was not seen");
}

#[test]
fn secrets_of_a_command_line_are_masked() {
    if !can_record("secrets_of_a_command_line_are_masked") {
        return;
    }
    let recorder = recorder();
    let run = Agent::new()
        .run("/bin/true -H 'Authorization: Bearer abcdefghijklmnopqrstuvwxyz' https://user:hunter2@example.com/x")
        .recorded(recorder);
    let sql = format!(
        "SELECT cmdline FROM agent_processes WHERE agent_id = {} UNION SELECT cmdline FROM ai_agents WHERE pid = {}",
        run.id(),
        run.pid
    );
    let lines = recorder.query(&sql);
    assert!(lines.len() >= 2, "{lines:?}");
    for line in lines {
        let line = line["cmdline"].clone().unwrap();
        assert!(!line.contains("abcdefghijklmnop") && !line.contains("hunter2"), "{line}");
    }
}

#[test]
fn connections_have_their_ends() {
    if !can_record("connections_have_their_ends") {
        return;
    }
    let recorder = recorder();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let six = std::net::TcpListener::bind("[::1]:0").ok();
    let script = format!(
        "exec 3<>/dev/tcp/127.0.0.1/{port}; exec 3>&-; (exec 3<>/dev/tcp/127.0.0.1/1) 2>/dev/null; python3 - <<'P'
import socket
try: socket.create_connection(('::1', {}), 1).close()
except OSError: pass
try: socket.create_connection(('255.255.255.255', 9), 1)
except OSError: pass
P",
        six.as_ref().map_or(1, |six| six.local_addr().unwrap().port())
    );
    let run = Agent::new().run(&script).recorded(recorder);
    drop((listener, six));
    let count =
        format!("SELECT count(*) FROM agent_connections WHERE agent_id = {} AND end_time IS NOT NULL", run.id());
    recorder.wait_for(&count, "4");
    let row = |port: u16| {
        let sql = format!("SELECT * FROM agent_connections WHERE agent_id = {} AND remote_port = {port}", run.id());
        recorder.query(&sql).remove(0)
    };
    let made = row(port);
    assert!(["closed", "time_wait"].contains(&made["state"].as_deref().unwrap()), "{made:?}");
    assert_eq!(made["remote_address"].as_deref(), Some("127.0.0.1"));
    assert!(made["local_port"].is_some() && made["fd"].is_some() && made["socket"].is_some());
    let refused = row(1);
    assert_eq!((refused["state"].as_deref(), refused["error"].as_deref()), (Some("failed"), Some("ECONNREFUSED")));
    let unreachable = row(9);
    assert_eq!(unreachable["state"].as_deref(), Some("failed"));
    assert!(unreachable["error"].is_some());
}

#[test]
fn a_connect_that_a_signal_interrupts_is_one_connection_that_did_not_fail() {
    if !can_record("a_connect_that_a_signal_interrupts_is_one_connection_that_did_not_fail") {
        return;
    }
    let recorder = recorder();
    // The queue is full: the connection waits until the signal's handler makes room, and python's connect with it.
    // It is full only when the first connection stands in it, which on a busy machine is after its connect's return.
    let script = r"python3 - <<'P'
import select, signal, socket
listener = socket.socket(); listener.bind(('127.0.0.1', 0)); listener.listen(0)
first = socket.create_connection(listener.getsockname())
select.select([listener], [], [])
signal.signal(signal.SIGALRM, lambda *_: listener.accept())
signal.setitimer(signal.ITIMER_REAL, 0.2)
second = socket.create_connection(listener.getsockname())
listener.accept(); second.close(); first.close()
P";
    let run = Agent::new().run(script).recorded(recorder);
    let ends = format!(
        "SELECT count(*) FROM agent_connections WHERE agent_id = {} AND direction = 'outbound' AND error IS NULL AND state != 'failed'",
        run.id()
    );
    recorder.wait_for(&ends, "2");
    let all = format!("SELECT * FROM agent_connections WHERE agent_id = {} AND direction = 'outbound'", run.id());
    let rows = recorder.query(&all);
    assert_eq!(rows.len(), 2, "{rows:?}");
}

#[test]
fn a_connection_that_is_asked_for_again_is_one() {
    if !can_record("a_connection_that_is_asked_for_again_is_one") {
        return;
    }
    let recorder = recorder();
    // Refused, and its error fetched by a second connect; made, and found so by a second connect; each then tried anew.
    let script = r"python3 - <<'P'
import errno, select, socket
def ask(address, results):
    s = socket.socket(); s.setblocking(False)
    for wanted in results:
        select.select([], [s], [], 5)
        got = s.connect_ex(address)
        assert got in wanted, (got, wanted)
    s.close()
listener = socket.socket(); listener.bind(('127.0.0.1', 0)); listener.listen()
none = socket.socket(); none.bind(('127.0.0.1', 0))
begins, refused = [errno.EINPROGRESS], [errno.ECONNREFUSED]
ask(none.getsockname(), [begins, refused, begins, refused])
ask(listener.getsockname(), [begins, [0, errno.EISCONN], [errno.EISCONN]])
listener.accept()  # else the end of the listener may reset it
P";
    let run = Agent::new().run(script).recorded(recorder);
    let of_run = format!("FROM agent_connections WHERE agent_id = {} AND direction = 'outbound'", run.id());
    recorder.wait_for(&format!("SELECT count(*) {of_run} AND end_time IS NOT NULL"), "3");
    let rows = recorder.query(&format!("SELECT state, error {of_run} ORDER BY eid"));
    let rows: Vec<_> = rows.iter().map(|row| (row["state"].as_deref(), row["error"].as_deref())).collect();
    let refused = (Some("failed"), Some("ECONNREFUSED"));
    assert_eq!(rows[..2], [refused, refused]);
    // Which side closes first is left to the moment.
    assert!([(Some("closed"), None), (Some("time_wait"), None)].contains(&rows[2]), "{rows:?}");
    assert_eq!(rows.len(), 3);
}

#[test]
fn the_version_of_an_agent_in_a_mount_namespace_is_the_one_there() {
    if !can_record("the_version_of_an_agent_in_a_mount_namespace_is_the_one_there") {
        return;
    }
    let recorder = recorder();
    let agent = Agent::new();
    let package = agent.shell().parent().unwrap().parent().unwrap().to_owned();
    let script = format!(
        "set -e; mkdir -p {0}/other; echo '{{\"version\": \"9.8.7\"}}' >{0}/other/package.json
         mount --bind {0}/other/package.json {0}/package.json; exec {1} -c 'echo $$; sleep 0.2'",
        package.display(),
        agent.shell().display()
    );
    let output = Command::new("unshare").args(["-m", "bash", "-c", &script]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let pid = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    Run { pid }.recorded(recorder);
    let version = recorder.value(&format!("SELECT version FROM ai_agents WHERE pid = {pid} ORDER BY time_ns DESC"));
    assert_eq!(version.as_deref(), Some("9.8.7"));
}
