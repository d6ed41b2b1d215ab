//! Rows of `agent_file_ops` as two agents of a busy developer make them: the same ones each time.
//!
//! The shares of operations, the gaps between them, how long files stay open and how paths repeat are those of a
//! recorded day of git, grep, compilers and scripts.

use std::collections::VecDeque;

use agentquery::tables;
use agentquery::value::{Text, Value};

/// Nanoseconds over which rows are spread.
pub const SPAN: i64 = 10 * 24 * 3600 * 1_000_000_000;

const SECOND: i64 = 1_000_000_000;
/// Rows of a command, on an average.
const ROWS_A_COMMAND: i64 = 94;
const AGENTS: [&str; 2] = ["claude-code", "codex"];

/// Makes rows, the oldest first.
pub struct Maker {
    random: Random,
    columns: Vec<&'static str>,
    lanes: [Lane; 2],
    gap: i64,
    last: i64,
    names: Vec<Text>,
    agents: Vec<Text>,
    project: Pool,
    packages: Pool,
    system: Pool,
}

/// Files that are there, with their sizes.
struct Pool(Vec<(Text, i64)>);

/// What one agent does.
struct Lane {
    time: i64,
    commands: i64,
    agent: usize,
    agent_id: i64,
    pid: i64,
    process_eid: i64,
    name: usize,
    steps: VecDeque<Step>,
    opened: Vec<i64>,
}

struct Step {
    time: i64,
    operation: &'static str,
    path: Text,
    dest: Option<Text>,
    /// Which of the command's opens is opened, or closed.
    open: usize,
    bytes: Option<(i64, i64)>,
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: i64) -> i64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        i64::try_from(self.0 >> 16).unwrap() % end.max(1)
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[usize::try_from(self.below(i64::try_from(all.len()).unwrap())).unwrap()]
    }

    /// About `median`, and now and then much more.
    fn about(&mut self, median: i64) -> i64 {
        let spread = median / 2 + self.below(median);
        match self.below(100) {
            0 => spread * 1000,
            1..5 => spread * 100,
            5..20 => spread * 5,
            _ => spread,
        }
    }
}

impl Pool {
    fn new(random: &mut Random, count: usize, path: impl Fn(&mut Random, usize) -> String) -> Self {
        Self((0..count).map(|n| (path(random, n).into(), random.about(3000))).collect())
    }
}

const WORDS: [&str; 24] = [
    "account",
    "auth",
    "billing",
    "cache",
    "client",
    "config",
    "core",
    "database",
    "events",
    "export",
    "handler",
    "index",
    "invoice",
    "mapper",
    "metrics",
    "migrations",
    "model",
    "parser",
    "queue",
    "report",
    "router",
    "schema",
    "session",
    "worker",
];

impl Maker {
    /// So many rows, of which each call gets `size` or, the last, what is left; and how many come after them.
    pub fn batches(&mut self, rows: i64, size: usize, mut take: impl FnMut(&[Vec<Value>], usize)) {
        let mut batch = vec![Vec::new(); size];
        let mut left = usize::try_from(rows).unwrap();
        while left > 0 {
            let count = left.min(size);
            for row in &mut batch[..count] {
                self.next(row);
            }
            left -= count;
            take(&batch[..count], left);
        }
    }

    /// A maker of so many rows, from that time on.
    pub fn new(rows: i64, start: i64) -> Self {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let project = Pool::new(&mut random, 6000, |random, n| {
            let (a, b, c) = (WORDS[n / 500 % 24], WORDS[n / 20 % 24], *random.of(&WORDS));
            let end = ["ts", "rs", "test.ts", "py", "json"][n % 5];
            format!("/home/dev/work/{}/src/{a}/{b}/{c}_{}.{end}", ["shop", "ledger", "site"][n / 2000], n % 20)
        });
        let packages = Pool::new(&mut random, 20_000, |random, n| {
            let (a, b) = (WORDS[n / 800 % 24], *random.of(&WORDS));
            format!("/home/dev/work/shop/node_modules/@{a}/{}-kit/dist/{b}/index.{}.js", WORDS[n / 40 % 24], n % 40)
        });
        let system = Pool::new(&mut random, 1500, |random, n| {
            let word = random.of(&WORDS);
            format!("/usr/lib/python3.12/{}/{word}{n}.py", WORDS[n / 60 % 24])
        });
        let gap = SPAN / (rows / ROWS_A_COMMAND + 1) * 2;
        let lane = |agent| Lane {
            time: start + gap / 2 * i64::try_from(agent).unwrap(),
            commands: 0,
            agent,
            agent_id: 0,
            pid: 4000 + 300 * i64::try_from(agent).unwrap(),
            process_eid: 0,
            name: 0,
            steps: VecDeque::new(),
            opened: Vec::new(),
        };
        Self {
            random,
            columns: tables::find("agent_file_ops").unwrap().columns().iter().map(|column| column.name).collect(),
            lanes: [lane(0), lane(1)],
            gap,
            last: 0,
            names: ["node", "git", "rg", "bash", "rustc", "python3.12"].map(Into::into).into(),
            agents: AGENTS.map(Into::into).into(),
            project,
            packages,
            system,
        }
    }

    fn command(&mut self, which: usize) {
        let (random, lane) = (&mut self.random, &mut self.lanes[which]);
        lane.time += random.below(self.gap * 2);
        if lane.commands % 400 == 0 {
            lane.agent_id = lane.time - SECOND;
        }
        lane.commands += 1;
        lane.pid = 2000 + (lane.pid + 1 + random.below(12)) % 4_000_000;
        lane.process_eid = lane.time - 1_500_000 + random.below(1000);
        let mut command = Command { time: lane.time, opens: 0, steps: Vec::new() };
        match random.below(20) {
            0..3 => {
                lane.name = 2;
                let from = random.below(5600);
                for n in from..from + 80 + random.below(320) {
                    command.read(random, self.project.0[usize::try_from(n).unwrap()].clone(), 24_000);
                }
            }
            3..5 => {
                lane.name = 0;
                let from = random.below(19_500);
                for n in from..from + 40 + random.below(200) {
                    command.read(random, self.packages.0[usize::try_from(n).unwrap()].clone(), 60_000);
                }
            }
            5..7 => {
                lane.name = 4;
                for n in 0..20 + random.below(60) {
                    let pool = if n % 4 == 0 { &self.system } else { &self.project };
                    command.read(random, random_of(pool, n, lane.commands), 2_000_000);
                }
                for n in 0..12 + random.below(20) {
                    let path = format!("/home/dev/work/ledger/target/debug/deps/{}-{:x}.{n}.o", WORDS[5], lane.pid);
                    command.write(random, &path.into(), n % 2 == 0);
                }
            }
            7..11 => {
                lane.name = 1;
                let project = *random.of(&["shop", "ledger", "site"]);
                for name in ["HEAD", "config", "index", "packed-refs", "refs/heads/main"] {
                    command.read(random, (format!("/home/dev/work/{project}/.git/{name}").into(), 412), 20_000);
                }
                for _ in 0..random.below(14) {
                    let hash = format!(
                        "{:02x}/{:012x}{:012x}",
                        random.below(256),
                        random.below(1 << 46),
                        random.below(1 << 46)
                    );
                    command.rename(random, &format!("/home/dev/work/{project}/.git/objects/"), &hash);
                }
            }
            11..14 => {
                lane.name = 5;
                for n in 0..30 + random.below(60) {
                    let module = n * 7 + random.below(3);
                    command.read(random, self.system.0[usize::try_from(module).unwrap()].clone(), 30_000);
                }
                for n in 0..4 {
                    let path = format!("/tmp/tmp{:x}/{n}.json", random.below(1 << 30));
                    command.write(random, &path.into(), true);
                }
            }
            14..16 => {
                lane.name = 0;
                for _ in 0..2 + random.below(4) {
                    let path = random.of(&self.project.0[..900]).0.clone();
                    command.write(random, &path, false);
                }
            }
            _ => {
                lane.name = 3;
                for _ in 0..=random.below(5) {
                    let path = random.of(&self.project.0).clone();
                    command.read(random, path, 30_000);
                }
            }
        }
        command.steps.sort_by_key(|step| step.time);
        lane.opened = vec![0; command.opens];
        lane.steps = command.steps.into();
    }

    /// The next row, into a buffer.
    pub fn next(&mut self, row: &mut Vec<Value>) {
        for which in 0..2 {
            if self.lanes[which].steps.is_empty() {
                self.command(which);
            }
        }
        let front = |lane: &Lane| lane.steps.front().map_or(i64::MAX, |step| step.time);
        let which = usize::from(front(&self.lanes[1]) < front(&self.lanes[0]));
        let lane = &mut self.lanes[which];
        let step = lane.steps.pop_front().unwrap();
        lane.time = lane.time.max(step.time);
        self.last = step.time.max(self.last + 1);
        let close = step.operation == "close";
        let open_eid = lane.opened.get(step.open).copied().filter(|_| close);
        if let Some(opened) = lane.opened.get_mut(step.open).filter(|_| !close) {
            *opened = self.last;
        }
        let (random, inside) = (&mut self.random, !step.path.starts_with("/usr"));
        let mut cell = |column: &&str| match *column {
            "eid" => self.last.into(),
            "time_ns" => step.time.into(),
            "time" => step.time.div_euclid(SECOND).into(),
            "agent" => self.agents[lane.agent].clone().into(),
            "agent_id" => lane.agent_id.into(),
            "pid" => lane.pid.into(),
            "process_eid" => lane.process_eid.into(),
            "name" => self.names[lane.name].clone().into(),
            "operation" => step.operation.into(),
            "path" => step.path.clone().into(),
            "dest_path" => step.dest.clone().into(),
            "path_source" => if step.dest.is_some() { "resolved" } else { "kernel" }.into(),
            "mode" if step.operation == "open_read" => if inside { "0644" } else { "0755" }.into(),
            "mode" if ["create", "truncate"].contains(&step.operation) => "0644".into(),
            "in_project" => inside.into(),
            "uid" => 1000_i64.into(),
            "open_eid" => open_eid.into(),
            "bytes_read" => step.bytes.map(|bytes| bytes.0).into(),
            "bytes_written" => step.bytes.map(|bytes| bytes.1).into(),
            "close_source" if close => if random.below(5) == 0 { "inferred" } else { "seen" }.into(),
            "truncated" => false.into(),
            _ => Value::Null,
        };
        row.clear();
        row.extend(self.columns.iter().map(&mut cell));
    }
}

/// Files that a compiler reads again each time.
fn random_of(pool: &Pool, n: i64, command: i64) -> (Text, i64) {
    pool.0[usize::try_from(n * 13 + command % 7 * 101).unwrap() % pool.0.len()].clone()
}

struct Command {
    time: i64,
    opens: usize,
    steps: Vec<Step>,
}

impl Command {
    fn step(&mut self, operation: &'static str, path: &Text, open: usize, time: i64, bytes: Option<(i64, i64)>) {
        self.steps.push(Step { time, operation, path: path.clone(), dest: None, open, bytes });
    }

    fn pass(&mut self, random: &mut Random) {
        self.time += random.about(20_000);
    }

    fn open(&mut self, random: &mut Random, operation: &'static str, path: &Text, life: i64, bytes: (i64, i64)) {
        self.pass(random);
        let (open, end) = (self.opens, self.time + random.about(life));
        self.opens += 1;
        self.step(operation, path, open, self.time, None);
        self.step("close", path, open, end, Some(bytes));
        if life < 100_000 {
            self.time = self.time.max(end.min(self.time + life));
        }
    }

    fn read(&mut self, random: &mut Random, (path, size): (Text, i64), life: i64) {
        let read = if random.below(5) < 2 { 0 } else { size };
        self.open(random, "open_read", &path, life, (read, 0));
    }

    fn write(&mut self, random: &mut Random, path: &Text, passing: bool) {
        let size = random.about(4000);
        self.open(random, if passing { "create" } else { "truncate" }, path, 80_000, (0, size));
        if passing {
            self.time += 400_000_000.min(random.about(200_000));
            self.step("delete", path, usize::MAX, self.time, None);
        }
    }

    fn rename(&mut self, random: &mut Random, folder: &str, hash: &str) {
        let from: Text = format!("{folder}{}/tmp_obj_{}", &hash[..2], &hash[4..10]).into();
        let size = random.about(700);
        self.open(random, "create", &from, 40_000, (0, size));
        self.time += random.about(90_000);
        self.step("rename", &from, usize::MAX, self.time, None);
        if let Some(step) = self.steps.last_mut() {
            step.dest = Some(format!("{folder}{hash}").into());
        }
    }
}
