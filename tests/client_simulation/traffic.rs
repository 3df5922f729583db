//! How bytes, mail and wake-ups get from one place to another.

use metalbond_uring::internals::session::CloseReason;
use metalbond_uring::internals::shard::{TcpSample, Transmit, Wake};
use metalbond_uring::internals::wire::{self, Message, Update};
use metalbond_uring::types::{Action, PeerId, Route, Time, Vni};

use crate::installing::Event;
use crate::link::Heard;
use crate::memory::Maybe;
use crate::world::{Server, World};

impl World {
    pub fn run_a_writer(&mut self) -> bool {
        let Some(id) = self.shards[0].take_writer() else { return false };
        let mut in_flight = None;
        let is_client = id == self.client;
        let place = match is_client {
            true => Some(&mut self.client_in_flight),
            false => {
                let mut links = self.servers.iter_mut().filter_map(|server| server.link.as_mut());
                links.find(|link| link.id == id).map(|link| &mut link.in_flight)
            }
        };
        let Some(place) = place.filter(|place| place.is_none()) else { return true };
        if let Transmit::Send(piece) = self.shards[0].transmit(self.now, id, TcpSample::default()) {
            in_flight = Some(piece);
        }
        *place = in_flight;
        if is_client && let Some(piece) = &self.client_in_flight {
            self.client_in_flight_since = self.now;
            self.installing.events.push_back(Event::Frames(piece.as_slice().to_vec()));
        }
        self.after_call();
        true
    }

    /// The kernel takes some of what the node sends.
    fn node_sends(&mut self, at: usize) -> bool {
        let short = self.rng.chance(20);
        let now = self.now;
        let server = &mut self.servers[at];
        let Some(link) = server.link.as_mut().filter(|_| !server.is_stuck) else { return false };
        let Some(piece) = link.in_flight.take() else { return false };
        let mut bytes = piece.as_slice();
        assert!(link.reassembles() || bytes.len() <= 1_192, "a segment at most");
        if short && link.reassembles() {
            bytes = &bytes[..self.rng.below(bytes.len() + 1)];
        }
        link.observe_sent(now, bytes);
        link.to_server.extend(bytes);
        let (id, length) = (link.id, bytes.len());
        drop(piece);
        self.shards[0].transmitted(now, id, length);
        true
    }

    fn server_reads(&mut self, at: usize) -> bool {
        let share = 1 + self.rng.below(3);
        let now = self.now;
        let server = &mut self.servers[at];
        let Some(link) = server.link.as_mut().filter(|_| !server.is_stuck) else { return false };
        let length = link.to_server.len().div_ceil(share);
        let bytes: Vec<u8> = link.to_server.drain(..length).collect();
        if let Some(player) = &mut link.player {
            player.read(&bytes, &server.table, server.is_mute);
            let moved = length > 0 || !player.out.is_empty();
            link.to_node.append(&mut player.out);
            return moved;
        }
        let core = server.core.as_mut().expect("it is up");
        let node = core.node.expect("it is connected");
        core.shard.receive(now, node, &bytes);
        core.turn(now);
        let mut moved = length > 0;
        loop {
            let bytes = core.write(now, node);
            link.to_node.extend(&bytes);
            if bytes.is_empty() {
                break;
            }
            moved = true;
        }
        link.hung_up |= core.closed;
        moved
    }

    fn node_reads(&mut self, at: usize) -> bool {
        let share = 1 + self.rng.below(3);
        let now = self.now;
        let server = &mut self.servers[at];
        let Some(link) = server.link.as_mut().filter(|_| !server.is_stuck) else { return false };
        let (id, length) = (link.id, link.to_node.len().div_ceil(share));
        if length == 0 {
            let ends = link.hung_up;
            if ends {
                self.break_link(at);
            }
            return ends;
        }
        let bytes: Vec<u8> = link.to_node.drain(..length).collect();
        self.node_hears(at, &bytes);
        self.shards[0].receive(now, id, &bytes);
        assert!(self.shards[0].wants_read(id), "homes have room");
        self.after_call();
        true
    }

    /// What that means for the model.
    fn node_hears(&mut self, at: usize, mut bytes: &[u8]) {
        let now = self.now;
        let server = &mut self.servers[at];
        let Some(link) = &mut server.link else { return };
        let announced = &self.announced;
        let is_own = |vni: Vni, route: &Route| announced.contains(&(vni, *route));
        while let Some(heard) = link.observe_heard(now, &mut bytes, is_own) {
            match heard {
                Heard::Established => {
                    let maybe = server.memory.is_back(now);
                    link.established(now, self.wants.keys().copied(), maybe);
                    self.away_since = None;
                    *self.tally.entry("established").or_default() += 1;
                    *self.tally.entry("provisional").or_default() += u64::from(maybe == Maybe::Yes);
                }
                Heard::Update(Update { action: Action::Remove, vni, route }) => {
                    server.memory.withdraw(&(vni, route));
                }
                Heard::Update(_) | Heard::Nothing => {}
            }
        }
        if link.may_have_told_all {
            server.memory.may_be_over();
        }
        self.look_at_former_run();
    }

    fn feed_client(&mut self) -> bool {
        if self.client_is_slow {
            return false;
        }
        let Some(event) = self.installing.events.pop_front() else { return false };
        match event {
            Event::Frames(bytes) => {
                self.installing.read(&bytes);
                self.client_hears(&bytes);
                let piece = self.client_in_flight.take().expect("its frames were handed over");
                drop(piece);
                self.shards[0].transmitted(self.now, self.client, bytes.len());
            }
            Event::Own(action, vni, route) => self.installing.own(action, vni, route),
            Event::Replay(vni) => {
                self.installing.replay(vni);
                self.count("replayed");
            }
        }
        self.installing.check(&self.view, self.synchronized);
        true
    }

    fn client_hears(&mut self, mut bytes: &[u8]) {
        while let Some(frame) = self.client_frames.next(&mut bytes).expect("frames are whole") {
            match wire::decode(frame).expect("messages decode") {
                Message::Update(Update { action, vni, route }) => {
                    let is_wanted = self.wants.contains_key(&vni) || self.marks.contains(&vni);
                    assert!(is_wanted, "{action:?} {vni} {route}: not wanted");
                    let is_news = match action {
                        Action::Add => self.view.insert((vni, route)),
                        Action::Remove => self.view.remove(&(vni, route)),
                    };
                    assert!(is_news, "{action:?} {vni} {route} changes nothing");
                }
                Message::Unsubscribe(vni) => {
                    let at = self.marks.iter().position(|mark| *mark == vni);
                    self.marks.remove(at.expect("a mark for each time"));
                    self.view.retain(|&(of, _)| of != vni);
                }
                Message::Keepalive => {
                    assert!(!std::mem::replace(&mut self.synchronized, true), "said once");
                    assert!(self.may_be_synchronized, "somebody may still tell");
                    if self.shards.len() == 1 {
                        let taken = self.client_in_flight_since;
                        self.check_must(Time(taken.0.saturating_sub(1_000_000)));
                    }
                    self.count("synchronized");
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// What the node's side wants done after a call.
    pub fn after_call(&mut self) {
        while let Some((id, wake)) = self.shards[0].take_woken() {
            match wake {
                Wake::Close => self.closed(id),
                Wake::Read | Wake::Sample | Wake::Poll | Wake::State => {}
            }
        }
    }

    fn closed(&mut self, id: PeerId) {
        let now = self.now;
        let is_it = |server: &Server| server.link.as_ref().is_some_and(|link| link.id == id);
        let at = self.servers.iter().position(is_it).expect("a connection is closed once");
        let server = &mut self.servers[at];
        let link = server.link.take().expect("it has one");
        if link.in_flight.is_some() {
            let error = std::io::Error::from_raw_os_error(32);
            self.shards[0].transmit_failed(now, id, &error);
        }
        let end = self.shards[0].release(now, id).expect("it has ended");
        let may_return = end.reason != CloseReason::Shutdown;
        if let Some(core) = &mut server.core {
            core.hung_up(now);
        }
        if link.established_at.is_some() {
            server.memory.is_gone(now);
            let is_provisional = match (link.is_provisional, link.may_have_told_all) {
                (Maybe::Yes, true) => Maybe::Perhaps,
                (maybe, _) => maybe,
            };
            if may_return && link.has_told && is_provisional != Maybe::Yes {
                server.memory.hold(now, link.told, is_provisional == Maybe::No);
            }
        }
        self.look_at_former_run();
        self.count("lost");
    }

    pub fn turn(&mut self) {
        let now = self.now;
        loop {
            let mut left = false;
            for at in 0..self.shards.len() {
                left |= self.shards[at].turn(now);
                while let Some((to, block)) = self.shards[at].take_mail() {
                    self.mail[to.index()][at].push_back(block);
                    left = true;
                }
                for from in 0..self.shards.len() {
                    while let Some(block) = self.mail[at][from].pop_front() {
                        self.shards[at].deliver(block);
                        left = true;
                    }
                }
            }
            if !left {
                break;
            }
        }
        self.after_call();
        for server in &mut self.servers {
            if let Some(core) = &mut server.core {
                core.turn(now);
            }
        }
    }

    pub fn move_something(&mut self, at: usize) {
        let _ = match self.rng.below(5) {
            0 => self.node_sends(at),
            1 if self.servers[at].is_slow && self.rng.chance(90) => false,
            1 => self.server_reads(at),
            2 => self.node_reads(at),
            3 => self.feed_client(),
            _ => {
                self.turn();
                true
            }
        };
        self.run_a_writer();
    }

    /// Moves what can be moved, as far as so many rounds go. True if something did.
    pub fn move_all(&mut self, rounds: usize) -> bool {
        let mut any = false;
        for _ in 0..rounds {
            let mut moved = false;
            while self.run_a_writer() {}
            for at in 0..self.servers.len() {
                moved |= self.node_sends(at);
                if self.servers[at].is_slow && self.rng.chance(95) {
                    continue;
                }
                moved |= self.server_reads(at);
                moved |= self.node_reads(at);
            }
            moved |= self.feed_client();
            if !moved {
                break;
            }
            any = true;
            self.turn();
        }
        any
    }
}
