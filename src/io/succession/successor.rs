//! The server that takes over: it asks, starts, takes everything, and owns it from one word on.
//!
//! Owns when that word is said. Must never touch a connection before, nor end once it is said.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::failure::{Failure, Patience};
use super::packets::Packets;
use super::predecessor::Rules;
use super::sabotage::Sabotage;
use super::shards::Shards;
use super::{OUT_OF_ORDER, is_same};
use crate::handover::listener::For;
use crate::handover::packet::What;
use crate::handover::{self as schema, HandoverError, Item};
use crate::io::acceptor::Dispatcher;
use crate::io::clock::Clock;
use crate::io::error::ServeError;
use crate::io::letter::{Arrival, Letter, Restored};
use crate::io::signals::Signals;
use crate::shard::Import;
use crate::types::{ShardId, Time};
use crate::vital;

/// How long the other one may take to answer.
const OFFER_TIME: Duration = Duration::from_secs(10);

/// How long it may say nothing, while it works off what is under way. It gives up long before that.
const SILENCE_TIME: Duration = Duration::from_secs(120);

/// How long a refusal may take to be told.
const REFUSAL_TIME: Duration = Duration::from_millis(100);

/// What another server has offered.
pub(in crate::io) struct Claimed {
    packets: Packets,
    offer: schema::Offer,
    pub(in crate::io) hash_seed: [u64; 4],
    /// Its listening sockets that nobody has asked for yet.
    pub(in crate::io) listeners: Vec<TcpListener>,
    pub(super) http: Vec<TcpListener>,
    clock: Clock,
    sabotage: Sabotage,
}

/// How a succession ends.
pub(in crate::io) enum Succession {
    /// All is ours; the first signal may have come meanwhile.
    Taken { dispatcher: Dispatcher, is_ending: bool },
    /// A signal came before anything was ours.
    Ending,
}

/// What is decided once: by the word that all is ours, or by a signal before that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Decision {
    Take,
    End,
}

/// Asks the server at the other end to hand over.
///
/// # Errors
/// Why it does not.
pub(super) fn claim(socket: OwnedFd, rules: &Rules) -> Result<Claimed, Failure> {
    let clock = Clock::start();
    let mut packets = Packets::over(socket)?;
    if !rustix::process::geteuid().is_root() {
        packets.other()?;
    }
    let sabotage = Sabotage::asked();
    let version = schema::Version { major: sabotage.version_major(), ..rules.version.clone() };
    let claim = schema::Claim { version: Some(version) };
    let claimed = packets.send(What::Claim(claim), &[], &patience(clock, OFFER_TIME));
    claimed.map_err(|failure| packets.why_gone(failure))?;
    let (What::Offer(offer), descriptors) = packets.receive(&patience(clock, OFFER_TIME))? else {
        return Err(OUT_OF_ORDER.into());
    };
    offer.version.as_ref().ok_or(OUT_OF_ORDER)?.judge()?;
    let hash_seed = <[u64; 4]>::try_from(&offer.hash_seed[..])
        .map_err(|_| HandoverError::Nonsense("a seed has four numbers"))?;
    if descriptors.len() != offer.listeners.len() {
        return Err(HandoverError::Nonsense("each listener has a socket").into());
    }
    let mut claimed = Claimed {
        packets,
        hash_seed,
        listeners: Vec::new(),
        http: Vec::new(),
        clock,
        sabotage,
        offer,
    };
    for (listener, socket) in claimed.offer.listeners.iter().zip(descriptors) {
        match listener.r#for() {
            For::Peers => claimed.listeners.push(socket.into()),
            For::Http => claimed.http.push(socket.into()),
        }
    }
    Ok(claimed)
}

impl Claimed {
    /// Whether this server sees routes as the other one does.
    ///
    /// # Errors
    /// What differs, in a sentence.
    pub(super) fn judge(&self, rules: &Rules) -> Result<(), Failure> {
        let offer = &self.offer;
        let told = [
            ("--reflect-own", &offer.reflect_own, rules.reflect_own),
            ("--fabric .../", &offer.fabric, &rules.fabric),
            ("--fabric-name", &offer.fabric_name, &rules.fabric_name),
            ("--fabric-identity", &offer.fabric_identity, rules.fabric_identity),
        ];
        match told.into_iter().find(|(_, theirs, ours)| theirs.as_str() != *ours) {
            // NATS would refuse it, when all sessions are here.
            None if offer.fabric_creds && !rules.fabric_creds => {
                let theirs = "--fabric-creds".to_owned();
                Err(Failure::Differs { ours: format!("no {theirs}"), theirs })
            }
            None => Ok(()),
            Some((flag, theirs, ours)) => {
                Err(Failure::Differs { theirs: as_given(flag, theirs), ours: as_given(flag, ours) })
            }
        }
    }

    /// The other one's time.
    pub(in crate::io) fn time(&self) -> Time {
        Time(self.offer.uptime_us)
    }

    /// Networks whose connections the other one has signed, and which may be so no more.
    pub(in crate::io) fn signed_networks(&self) -> Vec<IpNet> {
        self.offer.signed_networks.iter().filter_map(|network| network.parse().ok()).collect()
    }

    /// The other one's socket that listens at this address, if it has one.
    pub(in crate::io) fn inherit(&mut self, address: SocketAddr) -> Option<TcpListener> {
        take_same(&mut self.listeners, address)
    }

    /// Tells the other one that nothing will come of it.
    pub(super) fn refuse(&self, why: &dyn std::fmt::Display) {
        let refusal = schema::Refusal { why: why.to_string() };
        // Fails if it has gone: then it knows.
        let patience = patience(self.clock, REFUSAL_TIME);
        let _ = self.packets.send(What::Refusal(refusal), &[], &patience);
    }

    /// Takes over all that the other one has, unless a signal comes before. The shards have been told nothing yet.
    ///
    /// # Errors
    /// Why nothing comes of it: this process has to end without touching what it has got.
    pub(in crate::io) async fn succeed(
        self,
        dispatcher: Dispatcher,
        fabric: Option<UnboundedSender<Letter>>,
        signals: &mut Signals,
    ) -> Result<Succession, ServeError> {
        let decision = Arc::new(OnceLock::new());
        let (done, is_done) = oneshot::channel();
        let for_thread = Arc::clone(&decision);
        let body = move || {
            let mut claimed = self;
            let result = claimed.take_over(&dispatcher, fabric, &for_thread);
            let result = result.map_err(|failure| claimed.packets.why_gone(failure));
            if let Err(failure) = &result {
                claimed.refuse(failure);
            }
            // Fails if a signal came: the process ends.
            let _ = done.send(result.map(|()| (dispatcher, claimed.listeners, claimed.http)));
        };
        vital::spawn("handover-takes", body)
            .map_err(|source| ServeError::Start { what: "the handover's thread", source })?;
        tokio::pin!(is_done);
        let mut is_ending = false;
        let result = tokio::select! {
            result = &mut is_done => result,
            () = signals.received() => {
                if *decision.get_or_init(|| Decision::End) == Decision::End {
                    return Ok(Succession::Ending);
                }
                is_ending = true;
                is_done.await
            }
        };
        let result = result.expect("its panic would have ended the process");
        let (dispatcher, listeners, http) =
            result.map_err(|failure| ServeError::Handover(failure.to_string()))?;
        for listener in listeners.iter().chain(&http) {
            if let Ok(address) = listener.local_addr() {
                warn!("no longer listening on {address}: the flags do not name it any more");
            }
        }
        Ok(Succession::Taken { dispatcher, is_ending })
    }

    fn take_over(
        &mut self,
        dispatcher: &Dispatcher,
        fabric: Option<UnboundedSender<Letter>>,
        decision: &OnceLock<Decision>,
    ) -> Result<(), Failure> {
        let shards = Shards { mailboxes: dispatcher.mailboxes(), fabric };
        let generation = self.offer.generation;
        shards.tell_all(|| Letter::BeginRestoring(generation));
        let patience = || patience(self.clock, SILENCE_TIME);
        self.packets.send(What::Ready(schema::Ready {}), &[], &patience())?;
        let began_at = self.clock.now();
        let (failures, failed) = mpsc::channel();
        let mut import = Import::new(shards.count());
        let mut peers = 0;
        loop {
            match self.packets.receive(&patience())? {
                (What::Items(items), sockets) => {
                    peers += sockets.len();
                    let letters = sort(items.items, sockets, &mut import, dispatcher, &shards)?;
                    for (shard, orders) in letters {
                        shards.tell(shard, Letter::Restore(orders, failures.clone()));
                    }
                    self.sabotage.note_items(import.items());
                }
                (What::End(end), _) => {
                    import.end(end.items)?;
                    shards.inherit_fabric(import.take_fabric(), &patience())?;
                    break;
                }
                _ => return Err(OUT_OF_ORDER.into()),
            }
            if let Ok(error) = failed.try_recv() {
                return Err(error.into());
            }
        }
        shards.wait_until_still(&patience())?;
        if let Ok(error) = failed.try_recv() {
            return Err(error.into());
        }
        self.sabotage.note_all();
        if *decision.get_or_init(|| Decision::Take) == Decision::End {
            return Err(Failure::Ending);
        }
        self.packets.send(What::Taken(schema::Taken {}), &[], &patience())?;
        shards.thaw();
        let (items, took) = (import.items(), self.clock.now().since(began_at));
        info!(peers, items, ?took, "took over all connections");
        Ok(())
    }
}

/// What each shard is to do for some items; each peer among them comes with its connection.
fn sort(
    items: Vec<Item>,
    sockets: Vec<OwnedFd>,
    import: &mut Import,
    dispatcher: &Dispatcher,
    shards: &Shards,
) -> Result<Vec<(ShardId, Vec<Restored>)>, Failure> {
    let mut letters: Vec<(ShardId, Vec<Restored>)> =
        (0..shards.count()).map(|shard| (ShardId(shard), Vec::new())).collect();
    let (mut sockets, mut orders) = (sockets.into_iter(), Vec::new());
    for item in items {
        let (mut shard, mut arrival) = (ShardId(0), None);
        if let Some(peer) = item.peer() {
            let remote = peer.remote()?;
            let socket = sockets.next();
            let socket =
                socket.ok_or(HandoverError::Nonsense("a peer comes without its connection"))?;
            let (at, place) = dispatcher.bring_in(remote);
            shard = at;
            arrival = Some(Arrival { socket: TcpStream::from(socket), remote, place });
        }
        import.take(item, || shard, &mut orders)?;
        for (shard, order) in orders.drain(..) {
            let arrival = if order.is_peer() { arrival.take() } else { None };
            letters[shard.index()].1.push((order, arrival));
        }
    }
    if sockets.next().is_some() {
        return Err(HandoverError::Nonsense("a connection comes without its peer").into());
    }
    letters.retain(|(_, orders)| !orders.is_empty());
    Ok(letters)
}

/// Takes the socket out that listens at this address.
pub(super) fn take_same(
    listeners: &mut Vec<TcpListener>,
    address: SocketAddr,
) -> Option<TcpListener> {
    let is_it =
        |listener: &TcpListener| listener.local_addr().is_ok_and(|bound| is_same(address, bound));
    let at = listeners.iter().position(is_it)?;
    Some(listeners.swap_remove(at))
}

fn patience(clock: Clock, time: Duration) -> Patience {
    Patience::of(clock, time, &Arc::new(AtomicBool::new(false)))
}

/// What a server was started with.
fn as_given(flag: &str, value: &str) -> String {
    match (value, flag.ends_with('/')) {
        ("", _) => format!("no {}", flag.trim_end_matches(" .../")),
        (_, true) => format!("{flag}{value}"),
        (_, false) => format!("{flag} {value}"),
    }
}
