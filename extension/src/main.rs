//! temp
use agentquery::recorder::*;
fn main() {
    let r = Recorder::start(&Settings { syscalls_always: std::env::args().count() > 1, ..Default::default() }).unwrap();
    let _ = std::process::Command::new("bash").arg("-c").arg("sleep 0.2; cp /bin/ls /tmp/t1/node_modules/@anthropic-ai/claude-code/bin/rg2; PATH=/tmp/t1/node_modules/@anthropic-ai/claude-code/bin:$PATH claude.exe -c 'mkdir /tmp/qq; echo hi > /tmp/qq/a; cat /etc/passwd > /tmp/qq/c; (echo 1; sleep 0.3; echo 23)> /tmp/qq/d; mv /tmp/qq/a /tmp/qq/b; rm -r /tmp/qq/; exec 3<>/dev/tcp/127.0.0.1/1'").status();
    std::thread::sleep(std::time::Duration::from_millis(500));
    let s = r.store();
    for a in s.agents().iter() {
        println!("{a:?}");
    }
    for a in s.processes().iter() {
        println!("{a:?}");
    }
    for a in s.connections().iter() {
        println!("{a:?}");
    }
    for a in s.file_ops().iter() {
        println!(
            "{} {} {} {:?} {:?} {:?} {:?} {:?}",
            a.time_ns, a.pid, a.operation, a.path, a.dest_path, a.bytes_read, a.bytes_written, a.close_source
        );
    }
    for a in s.open_files().iter() {
        println!("{a:?}");
    }
    for a in s.collector().iter() {
        println!("{a:?}");
    }
}
