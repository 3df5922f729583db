//! Peers that do not behave, and what they have done.
//!
//! Owns everything that may be done to a server from outside. Must never do it to those who behave, and never use chance that
//! cannot be repeated by its seed.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::common::process::Process;
use crate::common::{
    PATIENCE, add, frame, hello, keepalive, remove, route, subscribe, unsubscribe,
};
use crate::rng::Rng;
use crate::{
    PEERS_MAX, ROUTES_PER_PEER_MAX, UPDATES_PER_S_MAX, VNIS, VNIS_PER_PEER_MAX, WILD, WILD_VNIS,
};

macro_rules! deeds {
    ($($name:ident,)*) => {
        /// What those who do not behave have done, so that a chaos that was none is noticed.
        #[derive(Default, Debug)]
        pub struct Deeds { $($name: AtomicU64,)* }

        impl Deeds {
            pub fn each(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.load(Ordering::Relaxed)),)*]
            }
        }
    };
}

deeds! {
    connected, established, announced, withdrew, subscribed, unsubscribed, half_closed, reset, stalled, garbage,
    too_many_routes, too_many_vnis, too_many_connections, flooded, silent, killed,
}

fn count(deed: &AtomicU64) {
    deed.fetch_add(1, Ordering::Relaxed);
}

/// A thread of peers that do not behave.
pub struct Wild {
    pub rng: Rng,
    pub address: SocketAddr,
    pub deeds: Arc<Deeds>,
    pub over: Arc<AtomicBool>,
}

impl Wild {
    /// Until it is over; whoever `kills` ends clients of our own too.
    pub fn rage(&mut self, kills: bool) {
        // Once for certain: chance may pass them by on a busy machine.
        if kills {
            self.kill();
            self.too_many_connections();
        }
        while !self.over.load(Ordering::Relaxed) {
            match self.rng.below(40) {
                0..4 if kills => self.kill(),
                4 => self.too_many_connections(),
                _ => {
                    if let Some(stream) = self.connect() {
                        // What goes wrong now is what was wanted.
                        let _ = self.converse(stream);
                    }
                }
            }
        }
    }

    /// From one of few addresses, so that they come back to what was left.
    fn connect(&mut self) -> Option<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let number = if self.rng.chance(50) { 1 } else { 1 + self.rng.below(5) as u8 };
        let from = Ipv4Addr::new(127, WILD, 0, number);
        socket.bind(&SocketAddr::new(IpAddr::V4(from), 0).into()).unwrap();
        if self.rng.chance(20) {
            let _ = socket.set_recv_buffer_size(4096);
        }
        match socket.connect_timeout(&self.address.into(), PATIENCE) {
            Ok(()) => count(&self.deeds.connected),
            Err(_) => return None,
        }
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
        Some(stream)
    }

    /// Does this and that, and goes in one way or another.
    fn converse(&mut self, mut stream: TcpStream) -> std::io::Result<()> {
        if self.rng.chance(90) {
            let (interval_s, reassembles) = (1 + self.rng.below(3) as u32, self.rng.chance(50));
            stream.write_all(&hello(interval_s, self.rng.chance(10), reassembles))?;
            self.hear(&mut stream)?;
            stream.write_all(&keepalive())?;
            if self.hear(&mut stream)? {
                count(&self.deeds.established);
            }
        }
        for _ in 0..self.rng.below(25) {
            if self.over.load(Ordering::Relaxed) {
                break;
            }
            self.say(&mut stream)?;
            if self.rng.chance(50) {
                self.hear(&mut stream)?;
            }
        }
        match self.rng.below(4) {
            0 => {
                count(&self.deeds.half_closed);
                stream.shutdown(Shutdown::Write)?;
                self.hear(&mut stream)?;
            }
            1 => {
                count(&self.deeds.reset);
                Socket::from(stream).set_linger(Some(Duration::ZERO))?;
            }
            2 => stream.write_all(&add(&route(1, 1, 1))[..7])?,
            _ => {}
        }
        Ok(())
    }

    fn say(&mut self, stream: &mut TcpStream) -> std::io::Result<()> {
        let vnis = [&VNIS[..], &WILD_VNIS[..]].concat();
        let vni = vnis[self.rng.below(vnis.len())];
        let one = route(vni, self.rng.below(64) as u32, self.rng.below(3) as u32);
        match self.rng.below(20) {
            0..=6 => {
                count(&self.deeds.announced);
                stream.write_all(&add(&one))
            }
            7..=9 => {
                count(&self.deeds.withdrew);
                stream.write_all(&remove(&one))
            }
            10..=12 => {
                count(&self.deeds.subscribed);
                stream.write_all(&subscribe(vni))
            }
            13 => {
                count(&self.deeds.unsubscribed);
                stream.write_all(&unsubscribe(vni))
            }
            14 => {
                count(&self.deeds.too_many_routes);
                let wild = WILD_VNIS[0];
                let hop = 3 + self.rng.below(20) as u32;
                let many = (0..2 * ROUTES_PER_PEER_MAX).map(|number| route(wild, number, hop));
                stream.write_all(&many.flat_map(|one| add(&one)).collect::<Vec<u8>>())
            }
            15 => {
                count(&self.deeds.too_many_vnis);
                let many = (100..100 + 2 * VNIS_PER_PEER_MAX).flat_map(subscribe);
                stream.write_all(&many.collect::<Vec<u8>>())
            }
            16 => {
                count(&self.deeds.garbage);
                let length = 1 + self.rng.below(60);
                let bytes: Vec<u8> = (0..length).map(|_| self.rng.next() as u8).collect();
                match self.rng.below(3) {
                    0 => stream.write_all(&bytes),
                    1 => stream.write_all(&frame(5, &bytes)),
                    _ => stream.write_all(&frame(1 + self.rng.below(5) as u8, &bytes)),
                }
            }
            17 => {
                count(&self.deeds.stalled);
                std::thread::sleep(Duration::from_millis(self.rng.below(400) as u64));
                Ok(())
            }
            18 if self.rng.chance(50) => {
                // Until it is not read any more.
                count(&self.deeds.flooded);
                let pair = [add(&one), remove(&one)].concat();
                stream.write_all(&pair.repeat(20 * UPDATES_PER_S_MAX as usize))
            }
            18 if self.rng.chance(20) => {
                // Longer than its hold time, if that is 2.5 s.
                count(&self.deeds.silent);
                std::thread::sleep(Duration::from_secs(3));
                Ok(())
            }
            _ => stream.write_all(&keepalive()),
        }
    }

    /// Reads what there is. False if that is nothing, an error if the server has closed the connection.
    fn hear(&self, stream: &mut TcpStream) -> std::io::Result<bool> {
        let mut buffer = [0; 16_384];
        match stream.read(&mut buffer) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// More than there may be; some of them greet.
    fn too_many_connections(&mut self) {
        count(&self.deeds.too_many_connections);
        let mut streams: Vec<_> = (0..2 * PEERS_MAX).filter_map(|_| self.connect()).collect();
        for stream in streams.iter_mut().step_by(3) {
            let _ = stream.write_all(&hello(2, false, true));
        }
        for stream in &mut streams {
            let _ = self.hear(stream);
        }
    }

    /// A client of our own dies in the middle.
    fn kill(&mut self) {
        count(&self.deeds.killed);
        let server = self.address.to_string();
        let announced = format!("1#10.9.0.{}/32#2001:db8::9", self.rng.below(9));
        let flags = ["--server", &server, "--subscribe", "1", "--announce", &announced];
        let client = Process::client(&flags);
        std::thread::sleep(Duration::from_millis(self.rng.below(300) as u64));
        drop(client); // SIGKILL
    }
}
