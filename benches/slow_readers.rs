//! What slow readers cost: the core alone, announcers at full speed, and readers that stall, read slowly, or
//! come back all at once.
//!
//! Owns the measurement: CPU, in columns that say per what. Must never touch a socket, nor look at what is sent.
//!
//! `METALBOND_BENCH_TURNS` (default 300) is the number of turns of a case, `METALBOND_BENCH_READERS` (default
//! 10000) the most readers. A word of the command line chooses the cases whose name has it. Without `--bench`,
//! as `cargo test` starts it, each case runs once and small.
#![allow(clippy::unwrap_used)]

#[path = "common/config.rs"]
mod config;
#[path = "common/cpu.rs"]
mod cpu;
#[path = "common/heap.rs"]
mod heap;
#[path = "common/routes.rs"]
mod routes;

use std::collections::VecDeque;
use std::io::Write;
use std::time::Duration;

use metalbond_uring::internals::shard::{Shard, TcpSample, Transmit, Wake};
use metalbond_uring::internals::wire::{Hello, Message, frame_len};
use metalbond_uring::types::{Action, PeerId, Time, Vni};

use config::shard_config;
use cpu::thread_cpu;
use routes::updates;

const VNI: Vni = Vni(7);
const ANNOUNCERS: u32 = 16;
/// Routes that each announcer adds, removes, and so on.
const ROUTES_EACH: u32 = 5_000;
const READ_BYTES: usize = 64 << 10;
/// Virtual time of a turn. One takes 8,192 updates at most: 0.8 million a second.
const TURN: Duration = Duration::from_millis(10);
/// A slow reader takes one piece in this time.
const PIECE_EVERY: Duration = Duration::from_secs(1);
/// CPU that each half of a case may take.
const CASE_CPU_MAX: Duration = Duration::from_secs(10);

/// How readers read while updates flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Readers {
    /// Whatever there is, at once.
    Fast,
    /// Nothing: the first SEND does not end.
    Stalled,
    /// Nothing but the beginning of the table with which they joined.
    InBase,
    /// First as the fast ones; then they stall, one after the other, till half of the turns are over.
    StallInTurns,
    /// One piece in [`PIECE_EVERY`], at different moments.
    Slow,
}

struct Case {
    name: &'static str,
    readers: Readers,
    count: usize,
}

fn number(name: &str) -> Option<usize> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| words.iter().any(|word| word == flag);
    let in_full = has("--bench") && !has("--test");
    let chosen = words.into_iter().find(|word| !word.starts_with('-')).unwrap_or_default();
    let turns = number("METALBOND_BENCH_TURNS").unwrap_or(if in_full { 300 } else { 12 });
    let most = number("METALBOND_BENCH_READERS").unwrap_or(if in_full { 10_000 } else { 10 });
    let counts: Vec<usize> = [10, 200, 2_000, 10_000].into_iter().filter(|&n| n <= most).collect();
    let mut cases = vec![
        Case { name: "no subscriber", readers: Readers::Fast, count: 0 },
        Case { name: "one that reads", readers: Readers::Fast, count: 1 },
    ];
    for (name, readers) in [
        ("stalled", Readers::Stalled),
        ("stall in a base", Readers::InBase),
        ("stall in turns", Readers::StallInTurns),
        ("slow", Readers::Slow),
    ] {
        cases.extend(counts.iter().map(|&count| Case { name, readers, count }));
    }
    println!(
        "{ANNOUNCERS} announcers toggle {ROUTES_EACH} routes each, {turns} turns of {} ms; a case is cut at \
         {} s of CPU. Then the announcers are silent, and all come back.\n",
        TURN.as_millis(),
        CASE_CPU_MAX.as_secs()
    );
    println!("{}", Row::HEADER);
    for case in cases.iter().filter(|case| case.name.contains(&chosen)) {
        println!("{}", measure(case, turns).line(case));
        // To be seen also if the output is a file and the next case does not end.
        std::io::stdout().flush().unwrap();
    }
}

/// What one case took.
#[derive(Default)]
struct Row {
    turns: usize,
    updates: u64,
    /// receive, turn and mail: all of them, and the worst.
    taking_in: Duration,
    worst: Duration,
    /// transmit and transmitted while updates flow.
    sending: Duration,
    sent_bytes: u64,
    log_bytes_max: usize,
    laggard_bytes_max: usize,
    heap_bytes_max: usize,
    closed: u64,
    /// When all come back.
    back: Duration,
    back_worst: Duration,
    back_bytes: u64,
    back_bytes_most: u64,
    /// Both halves.
    back_heap_bytes_max: usize,
    /// Whether that was cut.
    back_cut: bool,
}

impl Row {
    const HEADER: &str = "                           | while updates flow: receive, turn, mail       | sending   \
                          | at most, MiB          |        | when all come back\n\
                          readers                    |  updates us/update turn mean, worst (ms) turns | ns/record \
                          | logs laggards   heap  | closed | ns/record records each, most turn worst, ms heap, MiB";

    fn line(&self, case: &Case) -> String {
        let frame = frame_len(&updates(Action::Add, VNI, 0..1)) as f64;
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
        let per_record = |time: Duration, bytes: u64| match bytes {
            0 => "-".to_owned(),
            bytes => format!("{:.1}", time.as_secs_f64() * 1e9 * frame / bytes as f64),
        };
        let readers = case.count.max(1) as f64;
        format!(
            "{:>6} {:<19} | {:>8} {:>9.2} {:>9.2} {:>11.2} {:>5} | {:>9} | {:>4.0} {:>8.0} {:>6.0} | {:>6} | {:>9} \
             {:>12.0} {:>6.0} {:>14.2} {:>9.0}{}",
            case.count,
            case.name,
            self.updates,
            self.taking_in.as_secs_f64() * 1e6 / self.updates as f64,
            ms(self.taking_in) / self.turns as f64,
            ms(self.worst),
            self.turns,
            per_record(self.sending, self.sent_bytes),
            mib(self.log_bytes_max),
            mib(self.laggard_bytes_max),
            mib(self.heap_bytes_max),
            self.closed,
            per_record(self.back, self.back_bytes),
            self.back_bytes as f64 / frame / readers,
            self.back_bytes_most as f64 / frame,
            ms(self.back_worst),
            mib(self.back_heap_bytes_max),
            if self.back_cut { "  (cut)" } else { "" },
        )
    }
}

fn measure(case: &Case, turns: usize) -> Row {
    heap::restart();
    let mut core = Core::new(case);
    let mut row = Row::default();
    while row.turns < turns && row.taking_in + row.sending < CASE_CPU_MAX {
        core.turn_with_updates(&mut row);
        core.read(case.readers, &mut row, turns);
    }
    row.updates = core.shard.counters().updates_received;
    row.heap_bytes_max = heap::most();
    if case.readers != Readers::Fast {
        core.come_back(&mut row);
    }
    row.back_heap_bytes_max = heap::most();
    row.closed = core.shard.counters().peers_over_budget;
    row
}

struct Announcer {
    id: PeerId,
    /// What it says, again and again, and how far it is.
    cycle: Vec<u8>,
    said: usize,
}

struct Reader {
    id: PeerId,
    /// Bytes of its SEND under way.
    in_flight: Option<usize>,
    stalls: bool,
    sent_bytes: u64,
}

struct Core {
    shard: Shard,
    now: Time,
    announcers: Vec<Announcer>,
    readers: Vec<Option<Reader>>,
    /// Readers whose writer was woken, if they read at once.
    woken: VecDeque<usize>,
}

impl Core {
    fn new(case: &Case) -> Core {
        let now = Time(1);
        let mut core = Core {
            shard: Shard::new(shard_config(0, 1), now),
            now,
            announcers: Vec::new(),
            readers: Vec::new(),
            woken: VecDeque::new(),
        };
        for at in 0..ANNOUNCERS {
            let numbers = at * ROUTES_EACH..(at + 1) * ROUTES_EACH;
            let mut cycle = updates(Action::Add, VNI, numbers.clone());
            cycle.extend(updates(Action::Remove, VNI, numbers));
            let id = core.connect();
            core.announcers.push(Announcer { id, cycle, said: 0 });
        }
        if case.readers == Readers::InBase {
            core.announce_all();
        }
        for _ in 0..case.count {
            let id = core.connect();
            core.say(id, &[Message::Subscribe(VNI)]);
            core.readers.push(Some(Reader { id, in_flight: None, stalls: false, sent_bytes: 0 }));
            match case.readers {
                Readers::Stalled => {
                    // Something to send: the answer to a KEEPALIVE.
                    core.say(id, &[Message::Keepalive]);
                    core.stall(core.readers.len() - 1);
                }
                Readers::InBase => core.stall(core.readers.len() - 1),
                Readers::Fast | Readers::StallInTurns | Readers::Slow => {}
            }
        }
        core
    }

    /// All routes are there.
    fn announce_all(&mut self) {
        for announcer in &mut self.announcers {
            let adds = updates(Action::Add, VNI, 0..ROUTES_EACH).len();
            self.shard.receive(self.now, announcer.id, &announcer.cycle[..adds]);
            while self.shard.turn(self.now) {}
            announcer.said = adds;
        }
        while self.shard.take_woken().is_some() {}
    }

    fn connect(&mut self) -> PeerId {
        let id = self.shard.accept(self.now, ([127, 0, 0, 1], 1).into());
        let hello = Hello { keepalive_interval_s: 86_400, is_server: false, reassembles: true };
        self.say(id, &[Message::Hello(hello), Message::Keepalive]);
        while let Transmit::Send(piece) = self.shard.transmit(self.now, id, TcpSample::default()) {
            let length = piece.as_slice().len();
            drop(piece);
            self.shard.transmitted(self.now, id, length);
        }
        id
    }

    fn say(&mut self, id: PeerId, messages: &[Message]) {
        let mut bytes = Vec::new();
        messages.iter().for_each(|message| message.encode(&mut bytes));
        self.shard.receive(self.now, id, &bytes);
        while self.shard.turn(self.now) {}
        while self.shard.take_woken().is_some() {}
    }

    /// Each announcer that may has 64 KiB read; then a turn.
    fn turn_with_updates(&mut self, row: &mut Row) {
        let before = thread_cpu();
        for announcer in &mut self.announcers {
            if self.shard.wants_read(announcer.id) {
                let end = (announcer.said + READ_BYTES).min(announcer.cycle.len());
                self.shard.receive(self.now, announcer.id, &announcer.cycle[announcer.said..end]);
                announcer.said = end % announcer.cycle.len();
            }
        }
        self.turn();
        let took = thread_cpu() - before;
        row.turns += 1;
        row.taking_in += took;
        row.worst = row.worst.max(took);
        self.look(row);
        self.take_woken();
    }

    fn turn(&mut self) -> bool {
        self.now = self.now.after(TURN);
        let left = self.shard.turn(self.now);
        while self.shard.take_mail().is_some() {}
        left
    }

    fn look(&self, row: &mut Row) {
        let held = self.shard.usage();
        row.log_bytes_max = row.log_bytes_max.max(held.log_bytes);
        row.laggard_bytes_max = row.laggard_bytes_max.max(held.laggard_bytes);
    }

    fn take_woken(&mut self) {
        while let Some(id) = self.shard.take_writer() {
            // Peers are numbered as they come, the announcers first.
            let guess = (id.slot() as usize).saturating_sub(self.announcers.len());
            let reader = self.readers.get(guess).and_then(Option::as_ref);
            if reader.is_some_and(|reader| reader.id == id) {
                self.woken.push_back(guess);
            }
        }
        while let Some((id, wake)) = self.shard.take_woken() {
            let of = |reader: &Option<Reader>| reader.as_ref().is_some_and(|it| it.id == id);
            match wake {
                Wake::Close => {
                    if let Some(at) = self.readers.iter().position(of) {
                        self.readers[at] = None;
                    }
                    self.shard.release(self.now, id);
                }
                Wake::Read | Wake::Sample | Wake::Poll | Wake::State => {}
            }
        }
    }

    /// What the readers do after a turn.
    fn read(&mut self, readers: Readers, row: &mut Row, turns: usize) {
        let before = (thread_cpu(), self.sent_bytes());
        let count = self.readers.len();
        match readers {
            Readers::Stalled | Readers::InBase => self.woken.clear(),
            Readers::Fast => self.read_woken(),
            Readers::StallInTurns => {
                self.read_woken();
                let stalled = |turn: usize| (2 * turn * count / turns).min(count);
                (stalled(row.turns - 1)..stalled(row.turns)).for_each(|at| {
                    if let Some(reader) = &mut self.readers[at] {
                        reader.stalls = true;
                    }
                });
            }
            Readers::Slow => {
                self.woken.clear();
                let period = (PIECE_EVERY.as_micros() / TURN.as_micros()) as usize;
                for at in (row.turns % period..count).step_by(period) {
                    self.finish_send(at);
                    self.begin_send(at);
                }
            }
        }
        row.sending += thread_cpu() - before.0;
        row.sent_bytes += self.sent_bytes() - before.1;
    }

    fn read_woken(&mut self) {
        while let Some(at) = self.woken.pop_front() {
            if self.begin_send(at) && !self.readers[at].as_ref().unwrap().stalls {
                while self.finish_send(at) && self.begin_send(at) {}
            }
        }
    }

    fn stall(&mut self, at: usize) {
        assert!(self.begin_send(at));
        self.readers[at].as_mut().unwrap().stalls = true;
    }

    fn begin_send(&mut self, at: usize) -> bool {
        let Some(reader) = &mut self.readers[at] else { return false };
        if reader.in_flight.is_none()
            && let Transmit::Send(piece) =
                self.shard.transmit(self.now, reader.id, TcpSample::default())
        {
            reader.in_flight = Some(piece.as_slice().len());
            return true;
        }
        false
    }

    /// True if another SEND may begin.
    fn finish_send(&mut self, at: usize) -> bool {
        let Some(reader) = &mut self.readers[at] else { return false };
        let Some(length) = reader.in_flight.take() else { return true };
        reader.sent_bytes += length as u64;
        self.shard.transmitted(self.now, reader.id, length);
        true
    }

    fn sent_bytes(&self) -> u64 {
        self.readers.iter().flatten().map(|reader| reader.sent_bytes).sum()
    }

    /// Nothing is announced any more, and all read whatever there is: a piece each, then a turn.
    fn come_back(&mut self, row: &mut Row) {
        let begun = thread_cpu();
        while self.turn() && thread_cpu() - begun < CASE_CPU_MAX {
            self.look(row);
        }
        self.take_woken();
        let before: Vec<u64> =
            self.readers.iter().map(|it| it.as_ref().map_or(0, |it| it.sent_bytes)).collect();
        let mut busy: Vec<usize> = (0..self.readers.len()).collect();
        while !busy.is_empty() && row.back < CASE_CPU_MAX {
            let begun = thread_cpu();
            busy.retain(|&at| {
                self.finish_send(at);
                self.begin_send(at)
            });
            let sent = thread_cpu();
            let left = self.turn();
            let ended = thread_cpu();
            row.back += ended - begun;
            row.back_worst = row.back_worst.max(ended - sent);
            self.look(row);
            self.take_woken();
            // Whom the turn woke reads on; who is busy anyway stands there once.
            busy.extend(self.woken.drain(..));
            busy.sort_unstable();
            busy.dedup();
            if busy.is_empty() && left {
                busy.push(0);
            }
        }
        row.back_cut = !busy.is_empty();
        for (reader, before) in self.readers.iter().zip(before) {
            let bytes = reader.as_ref().map_or(0, |it| it.sent_bytes - before);
            row.back_bytes += bytes;
            row.back_bytes_most = row.back_bytes_most.max(bytes);
        }
    }
}
