//! What is wrong with the engine, in words for the operator.
//!
//! Owns the sentences. Must never repeat what a file of credentials says.

use std::fmt::Display;
use std::path::Path;

use async_nats::{Event, jetstream};
use thiserror::Error;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::fabric::{PublishError, Status, Subject, Subjects};

/// The oldest server that can carry a fabric: leases need lifetimes of messages.
pub(super) const VERSION_MIN: (u32, u32) = (2, 11);

/// Why there is no link, or no feed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum Fault {
    /// No server can be reached.
    #[error("cannot connect to {servers}: {why}")]
    Connect {
        /// Those that were tried.
        servers: String,
        /// The last error.
        why: String,
    },
    /// It knows us not, or does not let us in.
    #[error(
        "{servers} refuses the connection: {why}. See --fabric-creds, and the server's `authorization`"
    )]
    Unauthorized {
        /// Those that were tried.
        servers: String,
        /// What it says.
        why: String,
    },
    /// What a file has.
    #[error("{flag}: {path}: {why}")]
    File {
        /// The flag that names it.
        flag: &'static str,
        /// The file.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// Leases would never end.
    #[error(
        "the NATS server {server} is of version {version}, which cannot carry a fabric: install nats-server 2.11 or \
         newer (on all servers of the cluster)"
    )]
    TooOld {
        /// What it calls itself among servers.
        id: String,
        /// Where it is.
        server: String,
        /// What it says that it is.
        version: String,
    },
    /// A server without it, or a cluster without a leader.
    #[error(
        "the NATS server has no JetStream (now): start nats-server with -js and a store (-sd), and see that more than \
         half of a cluster runs"
    )]
    NoJetStream,
    /// A question without an answer.
    #[error(
        "NATS does not answer {0}: the cluster may have no leader, or these credentials may not ask ($JS.API.>)"
    )]
    Silent(&'static str),
    /// There is no such fabric.
    #[error("there is no stream {0}: no reflector has joined a fabric of that name there")]
    NoStream(String),
    /// There is a stream of that name, made otherwise.
    #[error(
        "the stream {stream} has {field} {found}, and it must be {wanted}: remove it (`nats stream rm {stream}`; \
         reflectors fill a new one), or give the fabric another name"
    )]
    OtherStream {
        /// Its name.
        stream: String,
        /// What differs.
        field: &'static str,
        /// As it is.
        found: String,
        /// As it should be.
        wanted: String,
    },
    /// It cannot be created.
    #[error("the stream {stream} cannot be created with {replicas} replica(s): {why}")]
    Create {
        /// Its name.
        stream: String,
        /// Its copies.
        replicas: usize,
        /// What the engine says, and what to do.
        why: String,
    },
    /// Others take us for dead when the lease before is over.
    #[error(
        "NATS has no room, not even for this reflector's lease: what changes here is not seen elsewhere, and others may \
         take it for dead. Give JetStream a larger max_file_store (and restart the server), or the stream a larger \
         max_bytes (`nats stream edit`)"
    )]
    FullForLease,
    /// The same, for another reason.
    #[error(
        "NATS does not take this reflector's lease: {0}. Others take it for dead, and their peers lose its routes: see the \
         server's log, and what these credentials may publish"
    )]
    Lease(String),
    /// What we publish is not permitted.
    #[error(
        "NATS does not permit these credentials to publish to {0}: what changes here is not seen elsewhere. See the \
         server's `authorization`, and which permissions docs/FABRIC.md names"
    )]
    Denied(String),
    /// What a connection needs is not permitted.
    #[error(
        "NATS says: {0}. See the server's `authorization`, and which permissions docs/FABRIC.md names"
    )]
    Forbidden(String),
    /// What others left cannot be removed.
    #[error(
        "NATS does not permit these credentials to remove what reflectors left that are gone. That takes room until an \
         operator does it: `metalbond-uring fabric forget NAME`"
    )]
    MayNotPurge,
    /// Two processes of one name.
    #[error(
        "another reflector with the name {0} was started later, and this one has left the fabric. Give each its own \
         --fabric-name, and start this one again"
    )]
    Twin(String),
    /// There is no room for some of our routes, or their withdrawals.
    #[error(
        "NATS has no room for changes of routes: peers of other reflectors do not see them. Give the stream a larger \
         max_bytes (`nats stream edit`), or JetStream a larger max_file_store (and restart the server)"
    )]
    Full,
    /// It was there.
    #[error("the connection to NATS is lost: connecting again")]
    Lost,
    /// Whatever else.
    #[error("NATS: {0}")]
    Other(String),
}

impl Fault {
    /// An error of JetStream's.
    pub(super) fn of_engine(error: &jetstream::Error) -> Fault {
        match error.error_code() {
            jetstream::ErrorCode::JETSTREAM_NOT_ENABLED
            | jetstream::ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT
            | jetstream::ErrorCode::CLUSTER_NOT_AVAILABLE => Fault::NoJetStream,
            _ => Fault::Other(error.to_string()),
        }
    }

    /// What is wrong though there is a link, and a feed.
    pub(super) fn of_status(status: &Status) -> Option<Fault> {
        match &status.lease_error {
            Some(PublishError::Full) => Some(Fault::FullForLease),
            Some(PublishError::Other(why)) => Some(Fault::Lease(why.clone())),
            Some(PublishError::WrongSequence) | None => (status.full > 0).then_some(Fault::Full),
        }
    }

    /// What is wrong with the file that a flag names.
    pub(super) fn of_file(flag: &'static str, path: &Path, why: impl Display) -> Fault {
        Fault::File { flag, path: path.display().to_string(), why: why.to_string() }
    }

    /// A connection that could not be made.
    pub(super) fn of_connect(servers: String, why: String) -> Fault {
        let hint = match () {
            () if why.contains("UnknownIssuer") => {
                ". Name whoever signed the server's certificate with --fabric-ca"
            }
            () if why.contains("InvalidContentType") => {
                ". The server seems to speak no TLS: begin with nats://, without --fabric-ca, if that is meant"
            }
            () => "",
        };
        Fault::Connect { servers, why: why + hint }
    }

    /// What the server has complained of meanwhile, which tells more than that no answer came.
    pub(super) fn of_complaint(events: &mut UnboundedReceiver<Event>) -> Option<Fault> {
        let mut happened = std::iter::from_fn(|| events.try_recv().ok());
        happened.find_map(|event| match event {
            Event::ServerError(error) => Some(Fault::Forbidden(error.to_string())),
            _ => None,
        })
    }

    /// What a server says is not permitted to the reflector of this name. None if it says something else.
    pub(super) fn of_violation(text: &str, subjects: &Subjects, name: &str) -> Option<Fault> {
        let is_it = text.to_lowercase().contains("permissions violation for publish");
        let subject = text.split('"').nth(1).filter(|_| is_it)?;
        Some(match subjects.parse(subject) {
            Ok(Subject::Lease(of)) if of != name => Fault::MayNotPurge,
            // Each route has a subject of its own.
            Ok(Subject::Route { .. }) => Fault::Denied(subjects.routes(name)),
            _ if subject.starts_with("$JS.API.STREAM.PURGE.") => Fault::MayNotPurge,
            _ if subject.starts_with("$JS.") => {
                // Each feed has a name of its own.
                let end = match subject.contains(".MSG.NEXT.") {
                    true => subject.rfind('.').unwrap_or(subject.len()),
                    false => subject.len(),
                };
                Fault::Forbidden(format!("it does not permit to publish to {}", &subject[..end]))
            }
            _ => Fault::Denied(subject.to_owned()),
        })
    }

    /// A server of this version, as it says itself; None if it is new enough.
    pub(super) fn of_version(id: &str, server: &str, version: &str) -> Option<Fault> {
        let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
        let at_least = match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= VERSION_MIN,
            _ => false,
        };
        let [id, server, version] = [id, server, version].map(str::to_owned);
        (!at_least).then_some(Fault::TooOld { id, server, version })
    }

    /// A word for it, by which lines of the log and figures are told apart.
    pub fn reason(&self) -> &'static str {
        match self {
            Fault::Connect { .. } => "connect",
            Fault::Unauthorized { .. } => "unauthorized",
            Fault::File { .. } => "file",
            Fault::TooOld { .. } => "too_old",
            Fault::NoJetStream => "no_jetstream",
            Fault::NoStream(_) => "no_stream",
            Fault::Silent(_) => "silent",
            Fault::OtherStream { .. } => "other_stream",
            Fault::Create { .. } => "create",
            Fault::FullForLease | Fault::Full => "full",
            Fault::Lease(_) => "lease",
            Fault::Denied(_) | Fault::Forbidden(_) | Fault::MayNotPurge => "denied",
            Fault::Twin(_) => "twin",
            Fault::Lost => "lost",
            Fault::Other(_) => "other",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 10.0.0.0/24 via 2001:db8::5.
    const ROUTE: &str = "EGQaCBIECgAAABgYIhIKECABDbgAAAAAAAAAAAAAAAU";

    #[test]
    fn what_is_not_permitted_is_said_once_for_all_routes() {
        let subjects = Subjects::new("main");
        let route = format!("mb.main.r.64.rr-1.{ROUTE}");
        let fault = |subject: &str| {
            let text = format!("Permissions Violation for Publish to \"{subject}\"");
            Fault::of_violation(&text, &subjects, "rr-1")
        };
        assert_eq!(fault(&route), Some(Fault::Denied("mb.main.r.*.rr-1.>".into())));
        assert_eq!(fault("mb.main.l.rr-1"), Some(Fault::Denied("mb.main.l.rr-1".into())));
        assert_eq!(fault("mb.main.l.rr-2"), Some(Fault::MayNotPurge));
        assert_eq!(fault("$JS.API.STREAM.PURGE.MB_main"), Some(Fault::MayNotPurge));
        let next = fault("$JS.API.CONSUMER.MSG.NEXT.MB_main.a1b2").expect("not permitted");
        assert!(next.to_string().contains("to $JS.API.CONSUMER.MSG.NEXT.MB_main."), "{next}");
        assert_eq!(Some(next), fault("$JS.API.CONSUMER.MSG.NEXT.MB_main.c3"));
        assert_eq!(Fault::of_violation("maximum payload", &subjects, "rr-1"), None);
    }

    #[test]
    fn versions() {
        for version in ["2.11.0", "2.11.0-RC.3", "2.15.1", "3.0.0", "2.100.1", "10.0"] {
            assert_eq!(Fault::of_version("x", "a:1", version), None, "{version}");
        }
        for version in ["2.9.10", "2.10.29", "1.99.0", "", "x", "2", "-2.11", "v2.11.0"] {
            let fault = Fault::of_version("x", "a:1", version).expect(version);
            assert!(fault.to_string().contains("install nats-server 2.11"), "{fault}");
        }
    }
}
