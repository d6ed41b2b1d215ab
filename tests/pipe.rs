//! osquery's protocol over the system's own transport, a UNIX socket or a named pipe of Windows: the program as an extension
//! of a core that is played here, and as a server and its client.
//!
//! The other side is none of the program's code: its transport is the crate interprocess, its protocol thrift's own.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test may end at once

#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::restriction, elided_lifetimes_in_paths, unused)]
#[path = "../extension/src/osquery/generated.rs"]
#[rustfmt::skip]
mod generated;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use generated::{
    ExtensionManagerSyncHandler, ExtensionManagerSyncProcessor, ExtensionPluginRequest, ExtensionPluginResponse,
    ExtensionRegistry, ExtensionResponse, ExtensionStatus, ExtensionSyncClient, ExtensionSyncHandler,
    InternalExtensionInfo, InternalExtensionList, InternalOptionList,
};
use interprocess::local_socket::traits::{Listener as _, Stream as _};
use interprocess::local_socket::{GenericFilePath, ListenerOptions, Stream, ToFsName as _};
use thrift::protocol::{TBinaryInputProtocol, TBinaryOutputProtocol};
use thrift::server::TProcessor as _;
use thrift::transport::{TBufferedReadTransport, TBufferedWriteTransport};

/// On a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// What an agent has that starts the extension for a test and is killed.
const STARTS: &str = "AGENTQUERY_TEST_STARTS";

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A socket's name in a folder; names of pipes are the whole machine's.
fn socket(folder: &Path) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    if cfg!(windows) {
        format!(r"\\.\pipe\agentquery-test-{}-{number}.em", std::process::id()).into()
    } else {
        folder.join(format!("osquery{number}.em"))
    }
}

fn connect(path: &Path) -> std::io::Result<Stream> {
    Stream::connect(path.to_fs_name::<GenericFilePath>()?)
}

/// A direction of a connection.
struct Half(Arc<Stream>);

impl Read for Half {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        (&*self.0).read(buffer)
    }
}

impl Write for Half {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        (&*self.0).write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        (&*self.0).flush()
    }
}

type Input = TBinaryInputProtocol<TBufferedReadTransport<Half>>;
type Output = TBinaryOutputProtocol<TBufferedWriteTransport<Half>>;

fn protocols(stream: Stream) -> (Input, Output) {
    let stream = Arc::new(stream);
    let (input, output) = (Half(Arc::clone(&stream)), Half(stream));
    (
        TBinaryInputProtocol::new(TBufferedReadTransport::new(input), true),
        TBinaryOutputProtocol::new(TBufferedWriteTransport::new(output), true),
    )
}

/// osquery's core: it knows extensions, and asks them.
#[derive(Default)]
struct Known {
    next: i64,
    extensions: InternalExtensionList,
    registry: ExtensionRegistry,
}

#[derive(Clone)]
struct Handler {
    known: Arc<Mutex<Known>>,
    events: Sender<(&'static str, i64)>,
}

fn status(code: i32, message: &str, uuid: i64) -> ExtensionStatus {
    ExtensionStatus::new(code, message.to_owned(), uuid)
}

impl ExtensionSyncHandler for Handler {
    fn handle_ping(&self) -> thrift::Result<ExtensionStatus> {
        Ok(status(0, "OK", 0))
    }

    fn handle_call(&self, _: String, _: String, _: ExtensionPluginRequest) -> thrift::Result<ExtensionResponse> {
        Ok(ExtensionResponse::new(status(1, "no such plugin", 0), Vec::new()))
    }

    fn handle_shutdown(&self) -> thrift::Result<()> {
        Ok(())
    }
}

impl ExtensionManagerSyncHandler for Handler {
    fn handle_extensions(&self) -> thrift::Result<InternalExtensionList> {
        Ok(self.known.lock().unwrap().extensions.clone())
    }

    fn handle_options(&self) -> thrift::Result<InternalOptionList> {
        Ok(BTreeMap::new())
    }

    fn handle_register_extension(
        &self,
        info: InternalExtensionInfo,
        registry: ExtensionRegistry,
    ) -> thrift::Result<ExtensionStatus> {
        let mut known = self.known.lock().unwrap();
        known.next += 1;
        let uuid = known.next;
        known.extensions.insert(uuid, info);
        known.registry = registry;
        let _ = self.events.send(("registered", uuid));
        Ok(status(0, "OK", uuid))
    }

    fn handle_deregister_extension(&self, uuid: i64) -> thrift::Result<ExtensionStatus> {
        self.known.lock().unwrap().extensions.remove(&uuid);
        let _ = self.events.send(("gone", uuid));
        Ok(status(0, "OK", uuid))
    }

    fn handle_query(&self, _: String) -> thrift::Result<ExtensionResponse> {
        Ok(ExtensionResponse::new(status(1, "no queries here", 0), Vec::new()))
    }

    fn handle_get_query_columns(&self, _: String) -> thrift::Result<ExtensionResponse> {
        self.handle_query(String::new())
    }
}

struct Core {
    path: PathBuf,
    handler: Handler,
    events: Receiver<(&'static str, i64)>,
    ended: Arc<AtomicBool>,
    serving: Option<std::thread::JoinHandle<()>>,
}

impl Core {
    /// One that gives out numbers from `first` on.
    fn start(path: &Path, first: i64) -> Self {
        let (sender, events) = channel();
        let known = Known { next: first, ..Known::default() };
        let handler = Handler { known: Arc::new(Mutex::new(known)), events: sender };
        let ended = Arc::new(AtomicBool::new(false));
        // The connections of one before it may keep the name for a moment.
        let mut listener = None;
        wait_until("the core listens", || {
            let name = path.to_fs_name::<GenericFilePath>().unwrap();
            listener = ListenerOptions::new().name(name).create_sync().ok();
            listener.is_some()
        });
        let listener = listener.unwrap();
        let (serves, over) = (handler.clone(), Arc::clone(&ended));
        let serving = std::thread::spawn(move || {
            while let Ok(stream) = listener.accept() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let handler = serves.clone();
                std::thread::spawn(move || {
                    let (mut input, mut output) = protocols(stream);
                    let processor = ExtensionManagerSyncProcessor::new(handler);
                    while processor.process(&mut input, &mut output).is_ok() {}
                });
            }
        });
        Self { path: path.to_owned(), handler, events, ended, serving: Some(serving) }
    }

    fn wait_for(&self, event: &str) -> i64 {
        loop {
            let (what, uuid) = self.events.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("not {event}"));
            if what == event {
                return uuid;
            }
        }
    }

    /// Where an extension serves.
    fn socket_of(&self, uuid: i64) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(format!(".{uuid}"));
        path.into()
    }

    /// The extension that registers next, once it serves.
    fn extension(&self) -> Asked {
        let asked = Asked(self.socket_of(self.wait_for("registered")));
        wait_until("the extension serves", || asked.try_ping().is_ok());
        asked
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        drop(connect(&self.path));
        if let Some(serving) = self.serving.take() {
            let _ = serving.join();
        }
    }
}

/// An extension, by its socket.
struct Asked(PathBuf);

impl Asked {
    fn call<T>(
        &self,
        ask: impl FnOnce(&mut dyn generated::TExtensionSyncClient) -> thrift::Result<T>,
    ) -> thrift::Result<T> {
        let (input, output) = protocols(connect(&self.0)?);
        ask(&mut ExtensionSyncClient::new(input, output))
    }

    fn try_ping(&self) -> thrift::Result<i64> {
        Ok(self.call(|client| client.ping())?.uuid.unwrap_or_default())
    }

    fn ask(&self, table: &str, request: &[(&str, &str)]) -> ExtensionResponse {
        let request = request.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        self.call(|client| client.call("table".to_owned(), table.to_owned(), request)).unwrap()
    }

    /// All rows of a table, once it has some.
    fn rows(&self, table: &str) -> ExtensionPluginResponse {
        let mut rows = Vec::new();
        wait_until(table, || {
            let answer = self.ask(table, &[("action", "generate"), ("context", "{}")]);
            rows = answer.response.unwrap_or_default();
            !rows.is_empty()
        });
        rows
    }
}

/// A child that is gone at the end of its test.
struct Running(Child);

impl Running {
    fn start(mut command: Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().unwrap())
    }

    fn ended(&mut self) -> std::process::ExitStatus {
        let mut status = None;
        wait_until("the end", || {
            status = self.0.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the program is told, that polls so that it needs no rights.
fn with_settings(mut command: Command, folder: &Path) -> Command {
    let signatures = folder.join("signatures");
    let config = folder.join("config.yaml");
    std::fs::create_dir_all(&signatures).unwrap();
    let text = format!("collector: polling\nsignatures: [{}]\n", serde_json::json!(signatures));
    std::fs::write(&config, text).unwrap();
    command.env("AGENTQUERY_CONFIG", config).env("AGENTQUERY_STATE_DIR", folder.join("state"));
    command
}

/// The program as osquery starts it.
fn extension(folder: &Path, core: &Path) -> Command {
    let name = format!("agentquery.ext{}", std::env::consts::EXE_SUFFIX);
    let program = folder.join(name);
    if !program.exists() {
        let built = Path::new(env!("CARGO_BIN_EXE_agentquery"));
        std::fs::hard_link(built, &program).or_else(|_| std::fs::copy(built, &program).map(drop)).unwrap();
    }
    let mut command = Command::new(program);
    command.arg("--socket").arg(core).args(["--timeout", "20", "--interval", "1"]);
    with_settings(command, folder)
}

#[test]
fn an_extension_registers_and_answers() {
    let folder = tempfile::tempdir().unwrap();
    // Much to tell of: a table of hundreds of kilobytes.
    let signatures = folder.path().join("signatures");
    std::fs::create_dir(&signatures).unwrap();
    for number in 0..1000 {
        std::fs::write(signatures.join(format!("{number:04}{}.yaml", "x".repeat(100))), "name: [").unwrap();
    }
    let core = Core::start(&socket(folder.path()), 0);
    let _running = Running::start(extension(folder.path(), &core.path));
    let asked = core.extension();
    assert_eq!(asked.try_ping().unwrap(), 1, "by the number that it was given");
    let tables = core.handler.known.lock().unwrap().registry["table"].clone();
    assert_eq!(asked.ask("ai_agents", &[("action", "columns")]).response.unwrap(), tables["ai_agents"]);

    let rows = asked.rows("agent_signatures");
    let bytes: usize = rows.iter().flatten().map(|(name, value)| name.len() + value.len()).sum();
    assert!(rows.len() > 1000 && bytes > 300_000, "{} rows of {bytes} bytes", rows.len());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..3 {
                    assert_eq!(asked.rows("agent_signatures"), rows);
                    assert_eq!(asked.try_ping().unwrap(), 1);
                }
            });
        }
    });
    let refused = asked.ask("processes", &[("action", "generate"), ("context", "{}")]).status.unwrap();
    assert_eq!((refused.code, refused.message.unwrap().contains("processes")), (Some(1), true));
}

#[test]
fn neither_garbage_nor_silence_harms_others() {
    let folder = tempfile::tempdir().unwrap();
    let core = Core::start(&socket(folder.path()), 6);
    let _running = Running::start(extension(folder.path(), &core.path));
    let asked = core.extension();
    // They say half a word, or nothing, and stay.
    let silent: Vec<_> = (0..20).map(|_| connect(&asked.0).unwrap()).collect();
    let half: Vec<_> = (0..20).map(|_| connect(&asked.0).unwrap()).collect();
    for mut stream in &half {
        stream.write_all(&[0x80, 1, 0]).unwrap();
    }
    for garbage in [
        &[0xff; 10_000][..],
        &[0; 10_000],
        b"GET / HTTP/1.1\r\n\r\n",
        &[0x80, 1, 0, 1, 0x7f, 0xff, 0xff, 0xff],
        &[0x80, 1, 0, 1, 0xff, 0xff, 0xff, 0xff],
    ] {
        let mut stream = &connect(&asked.0).unwrap();
        // It may hang up before it has read all.
        let _ = stream.write_all(garbage);
        // The end, and not an answer; a reset is one, too.
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert_eq!(asked.try_ping().unwrap(), 7);
    }
    assert!(!asked.rows("agent_collector").is_empty());
    drop((silent, half));
}

#[test]
fn a_core_that_comes_back_has_the_tables_again_and_says_when_to_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = socket(folder.path());
    let core = Core::start(&path, 0);
    let mut running = Running::start(extension(folder.path(), &path));
    let first = core.extension();
    drop(core);
    assert!(running.0.try_wait().unwrap().is_none(), "without a core it waits for the next one");
    let core = Core::start(&path, 40);
    let second = core.extension();
    assert_eq!(second.try_ping().unwrap(), 41);
    wait_until("the first registration is served no more", || first.try_ping().is_err());
    assert!(!second.rows("agent_collector").is_empty());

    second.call(|client| client.shutdown()).unwrap();
    assert!(running.ended().success());
    assert_eq!(core.wait_for("gone"), 41, "it says goodbye");
    wait_until("nothing is served", || connect(&second.0).is_err());
}

/// Not a test of its own: the process that starts the extension for the next one, and is killed.
#[test]
fn start_an_extension() {
    let Some(line) = std::env::var_os(STARTS) else { return };
    let (folder, core): (PathBuf, PathBuf) = serde_json::from_str(line.to_str().unwrap()).unwrap();
    Running::start(extension(&folder, &core)).ended();
}

#[test]
fn an_extension_ends_with_who_started_it() {
    let folder = tempfile::tempdir().unwrap();
    let core = Core::start(&socket(folder.path()), 0);
    let mut starter = Command::new(std::env::current_exe().unwrap());
    starter.args(["--exact", "start_an_extension", "--nocapture"]).stdout(Stdio::null());
    starter.env(STARTS, serde_json::json!([folder.path(), core.path]).to_string());
    let starter = Running::start(starter);
    let asked = core.extension();
    drop(starter);
    assert_eq!(core.wait_for("gone"), 1);
    wait_until("nothing is served", || connect(&asked.0).is_err());
}

#[test]
fn the_program_serves_and_asks() {
    let folder = tempfile::tempdir().unwrap();
    let path = socket(folder.path());
    let program = || Command::new(env!("CARGO_BIN_EXE_agentquery"));
    let mut serve = with_settings(program(), folder.path());
    serve.arg("run").arg("--socket").arg(&path);
    let _serving = Running::start(serve);
    wait_until("the recorder serves", || connect(&path).is_ok());
    let ask = |sql: &str| {
        let mut command = with_settings(program(), folder.path());
        command.args(["query", "--json", sql, "--connect"]).arg(&path);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    assert_eq!(ask("SELECT 1 + 1 AS two"), serde_json::json!([{"two": "2"}]));
    let hash = ask("SELECT hex(zeroblob(400000)) AS zeros");
    assert_eq!(hash[0]["zeros"].as_str().unwrap().len(), 800_000);
    assert_eq!(
        ask("SELECT DISTINCT mode FROM agent_collector WHERE event <> 'blind_spot'"),
        serde_json::json!([{"mode": "polling"}])
    );

    // One more finds the recorder by the lock, and asks it.
    let mut query = with_settings(program(), folder.path());
    let other = query.args(["query", "--csv", "SELECT count(*) > 0 AS some FROM agent_signatures"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&other.stdout), "some\r\n1\r\n", "{}", String::from_utf8_lossy(&other.stderr));

    // wine gives the name of a pipe out twice, so that the second one would serve as well.
    if std::env::var_os("AGENTQUERY_UNDER_WINE").is_some() {
        return;
    }
    let mut second = with_settings(program(), folder.path());
    second.env("AGENTQUERY_STATE_DIR", folder.path().join("other")).arg("run").arg("--socket").arg(&path);
    let mut second = Running::start({
        second.stderr(Stdio::piped());
        second
    });
    let mut said = String::new();
    let errors = std::io::BufReader::new(second.0.stderr.take().unwrap());
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        std::io::BufRead::lines(errors).map_while(Result::ok).try_for_each(|line| sender.send(line))
    });
    while !said.contains("is in use by a running server") {
        said += &lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("it is in use: {said}"));
    }
}
