//! The program.
use agentquery::collect::{self, Interest, Syscalls};
fn main() {
    let interest = Interest { literals: vec!["cp".into(), "fake.js".into(),"bash".into()], interpreters: vec!["node".into()], every_exec: false };
    let mut c = match collect::start(&interest, Syscalls::Always) { Ok(c) => c, Err(e) => { println!("{e}"); return } };
    let mut events = Vec::new();
    let child = std::process::Command::new("true").status();
    println!("{child:?}");
    let t = std::time::Instant::now();
    while t.elapsed().as_secs() < 4 {
        c.drain(std::time::Duration::from_millis(5), &mut events).unwrap();
        c.commit();
        if events.iter().any(|e| matches!(e.kind, agentquery::event::EventKind::Exit(_))) { c.sweep(); }
        for e in events.drain(..) { println!("{e:?}"); }
    }
    for r in c.probe().collector() { println!("{r:?}"); }
}
