//! The fabric's thread from inside: it carries between shards, the core and the engine.
//!
//! Owns the core of the fabric, the link and what is under way on it. Must never wait for the engine: mail is taken
//! whatever it does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use async_nats::Event;
use futures_util::FutureExt;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tracing::{debug, error, info};

use super::super::clock::Clock;
use super::super::fabric_options::FabricOptions;
use super::super::fabric_view::{FabricView, StreamSeen};
use super::super::letter::Letter;
use super::fault::Fault;
use super::link::{Acks, Connected, Link, Publication};
use super::reader::{Delivered, Feed};
use super::retry::{Retry, Said};
use crate::fabric::{Effect, Fabric, PublishError};
use crate::types::Time;
use crate::vital::EndOnPanic;

/// How long an acknowledgement may take.
const ACK_TIMEOUT: Duration = Duration::from_secs(5);

/// What is taken of one kind before others have their turn.
const BATCH: usize = 256;

/// For so long a process has just begun.
const BEGINNING: Duration = Duration::from_secs(60);

/// What is not permitted is tried again, and told again, within this time.
const DENIED_FOR: Duration = Duration::from_secs(30);

/// How long the last words may take when the process ends.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(3);

/// What the thread starts with.
pub(super) struct Driver {
    pub(super) options: FabricOptions,
    pub(super) clock: Clock,
    pub(super) fabric: Fabric,
    pub(super) mailbox: UnboundedReceiver<Letter>,
    /// The mailboxes of all shards, by index.
    pub(super) shards: Vec<UnboundedSender<Letter>>,
    /// Told if there is no sense in trying again.
    pub(super) fatal: UnboundedSender<String>,
    /// Another process has our name, until this one has taken over from it.
    pub(super) waits: bool,
}

/// What is true besides what the core knows.
struct Run {
    driver: Driver,
    live: Option<Live>,
    feed: Option<Feed>,
    /// What is to be sent, in this order.
    outgoing: VecDeque<Publication>,
    /// Publications without an answer, and until when they may take.
    unanswered: BTreeMap<u64, Time>,
    deadlines: VecDeque<(Time, u64)>,
    /// Feeds that were asked for; only the last one counts.
    opened: u64,
    done: UnboundedSender<Done>,
    retry: Retry,
    /// What was said of an engine without room.
    fullness: Said,
    /// Another process has our name: no more links.
    is_fenced: bool,
    /// What the server did not permit last, and when.
    denied: Option<(Time, Fault)>,
    /// Servers that are too old end a process that has just begun, and that nobody counts on.
    old_is_fatal_until: Time,
    /// Those that were met, by their ids.
    old_servers: BTreeSet<String>,
    leave_by: Option<Time>,
    view: FabricView,
}

/// A link that is up.
struct Live {
    link: Link,
    acks: Acks,
    events: UnboundedReceiver<Event>,
}

/// What was done beside the loop. Of links that are lost it counts no more.
enum Done {
    Connected(Result<Box<Connected>, Fault>),
    Opened(u64, Result<Box<(Vec<Delivered>, Feed, StreamSeen)>, Fault>),
    Purged(u64, u64, Result<u64, Fault>),
}

/// What happened.
enum Input {
    Letter(Option<Letter>),
    Done(Done),
    Event(Option<Event>),
    Acked(Option<(u64, Result<u64, PublishError>)>),
    Delivered(Result<Delivered, String>),
    Sent(Result<(), PublishError>),
    Time,
}

impl Driver {
    /// Runs until [`Letter::Stop`].
    pub(super) async fn run(self) {
        let (done, mut results) = unbounded_channel();
        let view = FabricView::of(&self.options);
        let now = self.clock.now();
        let retry = Retry::new(now);
        let old_is_fatal_until = if self.waits { now } else { now.after(BEGINNING) };
        let mut run = Run {
            driver: self,
            live: None,
            feed: None,
            outgoing: VecDeque::new(),
            unanswered: BTreeMap::new(),
            deadlines: VecDeque::new(),
            opened: 0,
            done,
            retry,
            fullness: Said::default(),
            is_fenced: false,
            denied: None,
            old_is_fatal_until,
            old_servers: BTreeSet::new(),
            leave_by: None,
            view,
        };
        loop {
            run.carry_out();
            if run.is_over() {
                break;
            }
            let input = run.next_input(&mut results).await;
            run.take(input);
            // The connection has a task of its own on this thread.
            tokio::task::yield_now().await;
        }
        if let Some(live) = run.live {
            let _ = tokio::time::timeout(LEAVE_TIMEOUT, live.link.flush()).await;
        }
    }
}

impl Run {
    fn now(&self) -> Time {
        self.driver.clock.now()
    }

    /// Has the core do what is due, and sees to what it wants.
    fn carry_out(&mut self) {
        if self.driver.waits {
            return;
        }
        let now = self.now();
        self.give_up_waiting(now);
        self.connect_if_due(now);
        self.driver.fabric.turn(now);
        while let Some(effect) = self.driver.fabric.take_effect() {
            self.begin(now, effect);
        }
        self.send_mail();
        self.send_some(now);
    }

    fn send_mail(&mut self) {
        while let Some((to, mail)) = self.driver.fabric.take_mail() {
            // Fails when that shard has stopped already: nobody is left there to tell.
            let _ = self.driver.shards[to.index()].send(Letter::Mail(mail));
        }
    }

    fn begin(&mut self, now: Time, effect: Effect) {
        match effect {
            Effect::Publish(publish) => {
                let token = publish.token;
                let deadline = now.after(ACK_TIMEOUT);
                self.unanswered.insert(token, deadline);
                self.deadlines.push_back((deadline, token));
                self.outgoing.push_back(Publication::from(publish));
            }
            Effect::Open => self.open(now),
            Effect::Purge { token, filter, below } => {
                let Some(live) = &self.live else {
                    let error = PublishError::Other("there is no connection".to_owned());
                    return self.driver.fabric.refused(now, token, &error);
                };
                let (link, done, of) = (live.link.clone(), self.done.clone(), self.view.links);
                tokio::task::spawn_local(async move {
                    let _end = EndOnPanic;
                    let purged = link.purge(&filter, below).await;
                    let _ = done.send(Done::Purged(of, token, purged));
                });
            }
            Effect::Leave => {
                let fault = Fault::Twin(self.view.name.clone());
                error!(fabric = self.view.fabric, reason = fault.reason(), "fabric: {fault}");
                self.is_fenced = true;
                self.unlink(now);
                self.view.trouble = Some(fault.to_string());
            }
        }
    }

    fn open(&mut self, now: Time) {
        self.feed = None;
        self.opened += 1;
        let Some(live) = &self.live else { return self.driver.fabric.feed_broken(now) };
        let (link, done, number) = (live.link.clone(), self.done.clone(), self.opened);
        tokio::task::spawn_local(async move {
            let _end = EndOnPanic;
            let opened = async {
                let stream = link.stream().await?;
                let leases = link.leases().await?;
                Ok(Box::new((leases, link.open().await?, stream)))
            };
            let _ = done.send(Done::Opened(number, opened.await));
        });
    }

    fn connect_if_due(&mut self, now: Time) {
        if self.live.is_some() || self.is_fenced || !self.retry.begin(now) {
            return;
        }
        let (options, done) = (self.driver.options.clone(), self.done.clone());
        let first = self.retry.attempts();
        tokio::task::spawn_local(async move {
            let _end = EndOnPanic;
            let connected = Link::connect_from(first, &options).await.map(Box::new);
            let _ = done.send(Done::Connected(connected));
        });
    }

    /// Sends as much as the connection has room for.
    fn send_some(&mut self, now: Time) {
        let Some(live) = &self.live else { return };
        while let Some(publication) = self.outgoing.front() {
            if self.unanswered.contains_key(&publication.token) {
                match live.link.publish(publication).now_or_never() {
                    None => return,
                    Some(Ok(())) => {}
                    Some(Err(error)) => {
                        self.unanswered.remove(&publication.token);
                        self.driver.fabric.refused(now, publication.token, &error);
                    }
                }
            }
            self.outgoing.pop_front();
        }
    }

    /// What was not answered in time may have been published or not.
    fn give_up_waiting(&mut self, now: Time) {
        while let Some(&(deadline, token)) = self.deadlines.front() {
            if deadline > now && self.unanswered.contains_key(&token) {
                return;
            }
            self.deadlines.pop_front();
            if self.unanswered.remove(&token).is_some() {
                let error = PublishError::Other(format!("no answer within {ACK_TIMEOUT:?}"));
                self.driver.fabric.refused(now, token, &error);
            }
        }
    }

    /// Waits for something to happen.
    async fn next_input(&mut self, results: &mut UnboundedReceiver<Done>) -> Input {
        let now = self.now();
        let wakeup = self.wakeup();
        let wants_feed = self.driver.fabric.wants_feed();
        let Run { driver, live, feed, outgoing, .. } = self;
        let (link, acks, events) = match live {
            Some(Live { link, acks, events }) => (Some(&*link), Some(acks), Some(events)),
            None => (None, None, None),
        };
        tokio::select! {
            letter = driver.mailbox.recv() => Input::Letter(letter),
            // Never None: we hold a sender ourselves.
            Some(done) = results.recv() => Input::Done(done),
            event = of(events, async |events| events.recv().await) => Input::Event(event),
            acked = of(acks, async |acks| acks.next().await) => Input::Acked(acked),
            delivered = of(feed.as_mut().filter(|_| wants_feed), async |feed| feed.next().await) => {
                Input::Delivered(delivered)
            }
            sent = of(link.zip(outgoing.front()), async |(link, first)| link.publish(first).await) => {
                Input::Sent(sent)
            }
            () = sleep(wakeup, now) => Input::Time,
        }
    }

    fn wakeup(&self) -> Time {
        if self.driver.waits {
            return self.leave_by.unwrap_or(Time::NEVER);
        }
        let connect = match self.live.is_none() && !self.is_fenced {
            true => self.retry.next_at(),
            false => Time::NEVER,
        };
        let deadline = self.deadlines.front().map_or(Time::NEVER, |&(deadline, _)| deadline);
        let core = self.driver.fabric.next_wakeup();
        core.min(connect).min(deadline).min(self.leave_by.unwrap_or(Time::NEVER))
    }

    /// Takes what happened, and more of its kind.
    fn take(&mut self, input: Input) {
        let now = self.now();
        match input {
            // A shard's thread that is gone ends everything anyway.
            Input::Letter(None) | Input::Time => {}
            Input::Letter(Some(letter)) => {
                self.read(now, letter);
                for _ in 0..BATCH {
                    let Ok(letter) = self.driver.mailbox.try_recv() else { break };
                    self.read(now, letter);
                }
            }
            Input::Done(done) => self.finish(now, done),
            Input::Event(event) => self.hear(now, event),
            Input::Acked(acked) => {
                self.answer(now, acked);
                for _ in 0..BATCH {
                    let Some(live) = &mut self.live else { break };
                    let Some(acked) = live.acks.next().now_or_never() else { break };
                    self.answer(now, acked);
                }
            }
            Input::Delivered(delivered) => {
                self.hand_over(now, delivered);
                for _ in 0..BATCH {
                    let Some(feed) = &mut self.feed else { break };
                    if !self.driver.fabric.wants_feed() {
                        break;
                    }
                    let Some(delivered) = feed.next().now_or_never() else { break };
                    self.hand_over(now, delivered);
                }
            }
            Input::Sent(sent) => {
                if let (Some(publication), Err(error)) = (self.outgoing.pop_front(), sent) {
                    self.unanswered.remove(&publication.token);
                    self.driver.fabric.refused(now, publication.token, &error);
                }
            }
        }
    }

    fn read(&mut self, now: Time, letter: Letter) {
        match letter {
            Letter::Mail(mail) => self.driver.fabric.deliver(now, mail),
            Letter::AskFabric(answer) => {
                self.view.status = self.driver.fabric.status(now);
                let mut view = self.view.clone();
                let fault = self.denied_at(now).or_else(|| Fault::of_status(&view.status));
                view.trouble = view.trouble.or_else(|| fault.map(|fault| fault.to_string()));
                // Fails if nobody waits for it any more.
                let _ = answer.send(view);
            }
            Letter::FreezeFabric(told) => {
                let items = self.driver.fabric.freeze(now);
                // Before that is known.
                self.send_mail();
                // Fails if nobody waits for it any more: then it is told to go on.
                let _ = told.send(items);
            }
            Letter::InheritFabric(items, done) => {
                // Fails if nothing comes of it for another reason.
                let _ = done.send(self.driver.fabric.inherit(now, items));
            }
            Letter::Thaw => {
                self.driver.waits = false;
                self.driver.fabric.thaw();
            }
            Letter::StopWithdrawing(_) | Letter::Drain(_) => self.driver.fabric.leave(now),
            Letter::Stop => self.leave_by = Some(now.after(LEAVE_TIMEOUT)),
            _ => unreachable!("the fabric has no peers, and dials nobody"),
        }
    }

    fn finish(&mut self, now: Time, done: Done) {
        match done {
            Done::Connected(Ok(connected)) => self.link(now, *connected),
            Done::Connected(Err(fault)) => {
                self.retry.failed(now);
                self.fail(now, &fault);
            }
            Done::Opened(number, _) if number != self.opened || self.live.is_none() => {}
            Done::Opened(_, Ok(opened)) => {
                let (leases, feed, stream) = *opened;
                for lease in &leases {
                    self.driver.fabric.found(now, &lease.record());
                }
                self.driver.fabric.opened(now, feed.pending_at_first);
                self.retry.is_well();
                self.view.trouble = None;
                self.view.stream = Some(stream);
                self.feed = Some(feed);
            }
            // Another server may know better: this one may be cut off from the others.
            Done::Opened(_, Err(fault)) => {
                // What is not permitted is not answered.
                let denied = self.denied.take().filter(|_| matches!(fault, Fault::Silent(_)));
                self.unlink(now);
                self.fail(now, &denied.map_or(fault, |(_, denied)| denied));
            }
            Done::Purged(of, ..) if of != self.view.links || self.live.is_none() => {}
            Done::Purged(_, token, Ok(purged)) => {
                debug!(purged, "what a reflector had left is purged");
                self.driver.fabric.purged(now, token);
            }
            Done::Purged(_, token, Err(fault)) => {
                let error = PublishError::Other(fault.to_string());
                self.driver.fabric.refused(now, token, &error);
            }
        }
    }

    /// A link is up.
    fn link(&mut self, now: Time, connected: Connected) {
        let Connected { link, acks, events, server, stream } = connected;
        self.retry.connected();
        if self.is_fenced {
            return;
        }
        info!(
            fabric = self.view.fabric,
            name = self.view.name,
            stream = stream.name,
            replicas = stream.replicas,
            "linked to the NATS server {} (version {})",
            server.name,
            server.version
        );
        self.view.links += 1;
        self.view.server = Some(server);
        self.view.stream = Some(stream);
        self.view.trouble = None;
        self.denied = None;
        self.live = Some(Live { link, acks, events });
        self.driver.fabric.linked(now);
    }

    /// The link is lost, or given up.
    fn unlink(&mut self, now: Time) {
        self.live = None;
        self.feed = None;
        self.opened += 1;
        self.outgoing.clear();
        self.unanswered.clear();
        self.deadlines.clear();
        self.view.server = None;
        self.driver.fabric.unlinked(now);
        self.retry.lost(now);
    }

    fn hear(&mut self, now: Time, event: Option<Event>) {
        match event {
            Some(Event::Disconnected | Event::Closed) | None => {
                self.unlink(now);
                self.fail(now, &Fault::Lost);
            }
            Some(Event::ServerError(error)) => self.hear_complaint(now, &error.to_string()),
            Some(event) => debug!("NATS: {event}"),
        }
    }

    /// Something is not permitted, as a rule. No answer comes to it.
    fn hear_complaint(&mut self, now: Time, text: &str) {
        let fault = Fault::of_violation(text, self.driver.fabric.subjects(), &self.view.name);
        if fault == Some(Fault::MayNotPurge) {
            self.driver.fabric.may_not_purge();
        }
        self.retry.report(now, fault.as_ref().unwrap_or(&Fault::Other(text.to_owned())));
        if let Some(fault @ (Fault::Denied(_) | Fault::Forbidden(_))) = fault {
            self.denied = Some((now, fault));
        }
    }

    /// What is not permitted, as long as something waits for it.
    fn denied_at(&self, now: Time) -> Option<Fault> {
        let status = &self.view.status;
        let waits = status.dirty > 0 || status.in_flight > 0 || status.lease_error.is_some();
        let denied = self.denied.as_ref().filter(|(at, _)| waits && now.since(*at) < DENIED_FOR);
        denied.map(|(_, fault)| fault.clone())
    }

    fn answer(&mut self, now: Time, acked: Option<(u64, Result<u64, PublishError>)>) {
        let Some((token, outcome)) = acked else {
            return self.hear(now, None);
        };
        // One that was given up is told no more: whether it is there shows in the feed.
        if self.unanswered.remove(&token).is_some() {
            match outcome {
                Ok(sequence) => self.driver.fabric.acked(now, token, sequence),
                Err(error) => {
                    if error == PublishError::Full {
                        self.fullness.report(now, &Fault::Full);
                    }
                    self.driver.fabric.refused(now, token, &error);
                }
            }
        }
    }

    fn hand_over(&mut self, now: Time, delivered: Result<Delivered, String>) {
        match delivered {
            Ok(delivered) => self.driver.fabric.record(now, &delivered.record()),
            Err(why) => {
                debug!("the feed is broken: {why}");
                self.feed = None;
                self.driver.fabric.feed_broken(now);
            }
        }
    }

    /// Says what is wrong, if that is news; and that there is no sense in it if all servers are too old from the start.
    fn fail(&mut self, now: Time, fault: &Fault) {
        if self.is_fenced {
            return;
        }
        let has_begun = self.view.links > 0 || now >= self.old_is_fatal_until;
        if let Fault::TooOld { id, .. } = fault
            && !has_begun
        {
            self.old_servers.insert(id.clone());
            if self.old_servers.len() >= self.driver.options.address.hosts.len() {
                // Fails if nobody is there to end.
                let _ = self.driver.fatal.send(fault.to_string());
            }
        }
        self.retry.report(now, fault);
        self.view.trouble = Some(fault.to_string());
    }

    /// Whether the thread may end.
    fn is_over(&self) -> bool {
        self.leave_by.is_some_and(|leave_by| {
            self.driver.fabric.has_left() || self.live.is_none() || self.now() >= leave_by
        })
    }
}

/// What comes of something that there may be; never if there is none.
async fn of<T, O>(what: Option<T>, next: impl AsyncFnOnce(T) -> O) -> O {
    match what {
        Some(what) => next(what).await,
        None => std::future::pending().await,
    }
}

async fn sleep(until: Time, now: Time) {
    match until {
        Time::NEVER => std::future::pending().await,
        until => tokio::time::sleep(until.since(now)).await,
    }
}
