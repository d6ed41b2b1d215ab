//! temp
use agentquery::recorder::*;
use agentquery::value::Value;
fn main() {
    let out = std::env::args().nth(1).unwrap();
    let r = Recorder::start(&Settings{ syscalls_always: std::env::args().nth(2).as_deref() == Some("always"), ..Default::default()}).unwrap();
    println!("ready");
    let mut s = String::new();
    std::io::stdin().read_line(&mut s).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let store = r.store();
    for t in ["ai_agents","agent_processes","agent_connections","agent_file_ops","agent_collector"] {
        let table = agentquery::tables::all().into_iter().find(|x| x.info().name == t).unwrap();
        let rows = agentquery::tables::scan(&store, table, &Default::default()).unwrap();
        let j: Vec<serde_json::Value> = rows.rows.iter().map(|row| serde_json::Value::Object(rows.columns.iter().zip(row).map(|(c,v)| (c.name.to_string(), match v { Value::Null => serde_json::Value::Null, Value::Integer(i) => i.to_string().into(), Value::Double(i) => i.to_string().into(), Value::Text(t) => t.to_string().into() })).collect())).collect();
        std::fs::write(format!("{out}/{t}.json"), serde_json::to_string(&j).unwrap()).unwrap();
    }
}
