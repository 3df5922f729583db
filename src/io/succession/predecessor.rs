//! The server that hands over: it is asked, stops, tells everything, and ends; or goes on as if nothing had been.
//!
//! Owns the moment at which connections stop being ours. Must never end without having seen that the successor has all,
//! nor go on if it has.

use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::net::{SocketFlags, accept_with};
use tracing::{info, warn};

use super::failure::{Failure, Patience};
use super::packets::{DESCRIPTORS_MAX, Other, Packets};
use super::shards::Shards;
use super::{OUT_OF_ORDER, Ties};
use crate::handover::packet::What;
use crate::handover::{self as schema, HandoverError, Item};
use crate::io::letter::{Exported, Letter};
use crate::io::truce::Recess;
use crate::shard::Export;
use crate::types::Time;
use crate::vital;

/// How long somebody may take to say what it wants.
const CLAIM_TIME: Duration = Duration::from_secs(5);

/// How long a successor may take to start its shards. It may wait for an address.
const READY_TIME: Duration = Duration::from_secs(30);

/// How long a refusal may take to be told.
const REFUSAL_TIME: Duration = Duration::from_millis(100);

/// Who may be heard at a time, and how long to wait when there is no room.
const CONVERSATIONS_MAX: usize = 8;
const PAUSE: Duration = Duration::from_millis(50);

/// Bytes of items in a packet, about.
const PACKET_BYTES: usize = 128 << 10;

/// Connections that come between the offer and the last accept give their slots new generations: hardly ever so many.
const GENERATIONS_SPARE: u64 = 10_000;

/// A server that may be asked to hand over.
pub(super) struct Predecessor {
    pub(super) shards: Shards,
    pub(super) ties: Ties,
    pub(super) rules: Rules,
    /// Those that go over, and what for.
    pub(super) listeners: Vec<(schema::Listener, OwnedFd)>,
    /// How long peers may have to wait at most.
    pub(super) time_max: Duration,
}

/// What a successor must know of this server.
#[derive(Clone)]
pub(super) struct Rules {
    pub(super) version: schema::Version,
    pub(super) reflect_own: &'static str,
    /// Its fabric, its name there, and how hosts are told apart; empty without one.
    pub(super) fabric: String,
    pub(super) fabric_name: String,
    pub(super) fabric_identity: &'static str,
    /// Whether it has credentials there.
    pub(super) fabric_creds: bool,
}

/// What was given, and how that went; nobody knows, if the last word did not come.
#[derive(Default)]
struct Given {
    items: u64,
    /// When all stood still, and when all was told.
    still_at: Time,
    told_at: Time,
}

impl Predecessor {
    /// Hears whoever connects, until the process ends.
    pub(super) fn serve(self, socket: &OwnedFd) {
        let this = Arc::new(self);
        let conversations = Arc::new(AtomicUsize::new(0));
        loop {
            let room = conversations.load(Ordering::Relaxed) < CONVERSATIONS_MAX;
            let connection = match accept_with(socket, SocketFlags::CLOEXEC) {
                Ok(connection) if room => connection,
                // Whoever is turned away may try again.
                _ => {
                    thread::sleep(PAUSE);
                    continue;
                }
            };
            conversations.fetch_add(1, Ordering::Relaxed);
            let (for_thread, count) = (Arc::clone(&this), Arc::clone(&conversations));
            let spawned = vital::spawn("handover-asked", move || {
                for_thread.converse(connection);
                count.fetch_sub(1, Ordering::Relaxed);
            });
            if let Err(error) = spawned {
                conversations.fetch_sub(1, Ordering::Relaxed);
                warn!(%error, "nobody can be heard who asks for the connections");
            }
        }
    }

    fn converse(&self, connection: OwnedFd) {
        let result = Packets::over(connection).and_then(|mut packets| {
            let Err(failure) = self.hand_over(&mut packets);
            if !matches!(failure, Failure::Gone | Failure::Refused(_)) {
                let refusal = schema::Refusal { why: failure.to_string() };
                // Fails if nobody reads it.
                let _ = packets.send(What::Refusal(refusal), &[], &self.patience(REFUSAL_TIME));
            }
            Err::<Infallible, _>(failure)
        });
        let Err(failure) = result;
        warn!("nothing is handed over: {failure}");
    }

    /// Ends the process if it succeeds.
    fn hand_over(&self, packets: &mut Packets) -> Result<Infallible, Failure> {
        let other = packets.other()?;
        let What::Claim(claim) = packets.receive(&self.patience(CLAIM_TIME))?.0 else {
            return Err(OUT_OF_ORDER.into());
        };
        let version = claim.version.ok_or(OUT_OF_ORDER)?;
        version.judge()?;
        let under_way = self.ties.truce.begin();
        let _under_way = under_way.ok_or(match self.ties.truce.is_ending() {
            true => Failure::Ending,
            false => Failure::Busy,
        })?;
        let Other { process, .. } = other;
        info!(process, "a successor asks for the connections: {}", version.program);
        let generation = self.offer(packets)?;
        match packets.receive(&self.patience(READY_TIME))?.0 {
            What::Ready(_) => {}
            _ => return Err(OUT_OF_ORDER.into()),
        }
        let began_at = self.ties.clock.now();
        let patience = self.patience(self.time_max);
        // Both end when they are dropped, the last one first.
        let _recess = Recessed::begin(self, &patience)?;
        let _frozen = Frozen(self);
        let given = match self.give(packets, generation, &patience) {
            Ok(given) => given,
            Err(failure) => {
                // From now on the successor cannot say anything; what it has said counts.
                packets.shut();
                who_owns(packets, failure)?;
                Given::default()
            }
        };
        let now = self.ties.clock.now();
        let [took, stopping] = [now, given.still_at].map(|at| at.since(began_at));
        let (telling, filling) = (given.told_at.since(given.still_at), now.since(given.told_at));
        info!(
            process,
            items = given.items,
            ?took,
            ?stopping,
            ?telling,
            ?filling,
            "all connections are the successor's: this process ends"
        );
        vital::exit(0)
    }

    /// Returns the generation that was offered.
    fn offer(&self, packets: &Packets) -> Result<u64, Failure> {
        let patience = self.patience(CLAIM_TIME);
        let seen = self.shards.ask_all(&patience, |shard, _| {
            let (peers, routes) = (shard.peer_count() as u64, shard.usage().routes as u64);
            (shard.is_draining(), shard.next_generation(), peers, routes)
        })?;
        if seen.iter().any(|(is_draining, ..)| *is_draining) {
            return Err(Failure::Ending);
        }
        let generation = seen.iter().map(|seen| seen.1).max().unwrap_or(0) + GENERATIONS_SPARE;
        let offer = schema::Offer {
            version: Some(self.rules.version.clone()),
            hash_seed: self.ties.hash_seed.to_vec(),
            generation,
            uptime_us: self.ties.clock.now().0,
            signed_networks: self.ties.keys.networks().map(|it| it.to_string()).collect(),
            reflect_own: self.rules.reflect_own.to_owned(),
            fabric: self.rules.fabric.clone(),
            fabric_name: self.rules.fabric_name.clone(),
            fabric_identity: self.rules.fabric_identity.to_owned(),
            fabric_creds: self.rules.fabric_creds,
            peers: seen.iter().map(|seen| seen.2).sum(),
            routes: seen.iter().map(|seen| seen.3).sum(),
            listeners: self.listeners.iter().map(|(listener, _)| listener.clone()).collect(),
        };
        let sockets: Vec<BorrowedFd<'_>> =
            self.listeners.iter().map(|(_, socket)| socket.as_fd()).collect();
        packets.send(What::Offer(offer), &sockets, &patience)?;
        Ok(generation)
    }

    /// Stops, tells all, and returns when the successor has it.
    fn give(
        &self,
        packets: &mut Packets,
        generation: u64,
        patience: &Patience,
    ) -> Result<Given, Failure> {
        let fabric = self.shards.freeze_fabric(patience)?;
        self.freeze(patience)?;
        self.shards.wait_until_still(patience)?;
        let still_at = self.ties.clock.now();
        let reached = self.shards.ask_all(patience, |shard, _| shard.next_generation())?;
        if reached.iter().any(|reached| *reached > generation) {
            return Err(HandoverError::Nonsense("more connections came than were offered").into());
        }
        let of_fabric = fabric.len() as u64;
        send_items(packets, fabric, Vec::new(), patience)?;
        let items = of_fabric + self.tell_all(packets, patience)?;
        packets.send(What::End(schema::End { items }), &[], patience)?;
        let told_at = self.ties.clock.now();
        match packets.receive(patience)?.0 {
            What::Taken(_) => Ok(Given { items, still_at, told_at }),
            _ => Err(OUT_OF_ORDER.into()),
        }
    }

    fn freeze(&self, patience: &Patience) -> Result<(), Failure> {
        let (stopped, all_stopped) = mpsc::channel();
        self.shards.tell_all(|| Letter::Freeze(stopped.clone()));
        drop(stopped);
        (0..self.shards.count()).try_for_each(|_| patience.hear(&all_stopped))
    }

    /// While a piece is being sent the next one is made.
    fn tell_all(&self, packets: &Packets, patience: &Patience) -> Result<u64, Failure> {
        let (made, pieces) = mpsc::channel();
        let ask = |export: Box<Export>| {
            let shard = export.shard()?;
            self.shards.tell(shard, Letter::Export(export, made.clone()));
            Some(())
        };
        let mut told = 0;
        let mut asked = ask(Box::new(Export::new(self.shards.count())));
        while asked.is_some() {
            let Exported { export, items, sockets } = patience.hear(&pieces)?;
            told = export.items();
            asked = ask(export);
            let sockets = sockets.map_err(Failure::system("one descriptor more of a peer"))?;
            send_items(packets, items, sockets, patience)?;
        }
        Ok(told)
    }

    fn patience(&self, time: Duration) -> Patience {
        Patience::of(self.ties.clock, time, self.ties.truce.ending())
    }
}

/// Whether the successor had said that it has all, when it could say so no more.
///
/// # Errors
/// Why it has not: the server goes on.
fn who_owns(packets: &mut Packets, failure: Failure) -> Result<(), Failure> {
    let mut why = failure;
    while let Some(said) = packets.leftover() {
        match said {
            Ok(What::Taken(_)) => return Ok(()),
            Ok(_) => {}
            Err(failure) => why = failure,
        }
    }
    Err(why)
}

fn send_items(
    packets: &Packets,
    items: Vec<Item>,
    sockets: Vec<OwnedFd>,
    patience: &Patience,
) -> Result<(), Failure> {
    let mut sockets = sockets.into_iter();
    let mut items = items.into_iter().peekable();
    while items.peek().is_some() {
        let (mut bytes, mut with_them) = (0, Vec::new());
        let mut packet = schema::Items::default();
        while bytes < PACKET_BYTES
            && with_them.len() < DESCRIPTORS_MAX
            && let Some(item) = items.next()
        {
            bytes += item.bytes();
            if item.peer().is_some() {
                with_them.extend(sockets.next());
            }
            packet.items.push(item);
        }
        let with_them: Vec<BorrowedFd<'_>> = with_them.iter().map(AsFd::as_fd).collect();
        packets.send(What::Items(packet), &with_them, patience)?;
    }
    Ok(())
}

/// Nobody is accepted until it is dropped.
struct Recessed<'a>(&'a Predecessor);

impl Recessed<'_> {
    fn begin<'a>(of: &'a Predecessor, patience: &Patience) -> Result<Recessed<'a>, Failure> {
        let (begun, has_begun) = mpsc::channel();
        let recessed = Recessed(of);
        // Fails if there is no acceptor any more: nobody will say that it has begun.
        let _ = of.ties.recesses.send(Recess::Begin(begun));
        patience.hear(&has_begun).map(|()| recessed)
    }
}

impl Drop for Recessed<'_> {
    fn drop(&mut self) {
        // Fails if there is no acceptor any more.
        let _ = self.0.ties.recesses.send(Recess::End);
    }
}

/// Shards stand still until it is dropped.
struct Frozen<'a>(&'a Predecessor);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.0.shards.thaw();
    }
}
