//! Removing what a reflector has left that will not come back.
//!
//! Owns the order: the others are told first. Must never touch one that lives, unless told to.

use std::time::Duration;

use thiserror::Error;
use tokio::runtime;

use super::super::fabric_options::{FabricName, FabricOptions};
use super::fault::Fault;
use super::link::{Acks, Connected, Link, Publication};
use super::reader::Delivered;
use crate::fabric::{Lease, LeaseState, Publish, PublishError, Subjects, Timers};

/// How long the engine may take to acknowledge.
const ACK_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a reflector is not forgotten.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum ForgetError {
    /// The engine.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// No thread.
    #[error("cannot start: {0}")]
    Start(String),
    /// It has a lease.
    #[error(
        "{0} lives ({1}): end it first, and wait until its lease is over (--fabric-lease), or use --force"
    )]
    Lives(FabricName, &'static str),
    /// Somebody wrote its lease meanwhile.
    #[error("{0} has just shown a sign of life: it is not forgotten")]
    Stirs(FabricName),
    /// The engine does not take it.
    #[error("the engine does not take it: {0}")]
    Refused(String),
    /// These credentials may not.
    #[error(
        "NATS says: {0}. Take credentials that may remove what others left, as the operator's of docs/FABRIC.md (--fabric-creds)"
    )]
    Denied(String),
    /// There is nothing.
    #[error("nothing is known of {0} in the fabric: `fabric status` shows the names")]
    Unknown(FabricName),
}

/// Removes what a reflector has published. Returns how many records that were.
///
/// # Errors
/// [`ForgetError`].
pub fn forget(
    options: &FabricOptions,
    reflector: &FabricName,
    force: bool,
) -> Result<u64, ForgetError> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| ForgetError::Start(error.to_string()))?;
    runtime.block_on(async {
        let Connected { link, acks, mut events, .. } = Link::visit(options).await?;
        let done = forget_over(&link, acks, options, reflector, force).await;
        // What is not permitted is not answered.
        done.map_err(|error| match (error, Fault::of_complaint(&mut events)) {
            (
                ForgetError::Fault(Fault::Silent(_)) | ForgetError::Refused(_),
                Some(Fault::Forbidden(text)),
            ) => ForgetError::Denied(text),
            (error, _) => error,
        })
    })
}

async fn forget_over(
    link: &Link,
    mut acks: Acks,
    options: &FabricOptions,
    reflector: &FabricName,
    force: bool,
) -> Result<u64, ForgetError> {
    let subjects = Subjects::new(options.address.fabric.as_str());
    let subject = subjects.lease(reflector.as_str());
    let leases = link.leases().await?;
    let lease = leases.iter().find(|lease| lease.subject.as_str() == subject);
    if let Some(state) = lease.and_then(living)
        && !force
    {
        return Err(ForgetError::Lives(reflector.clone(), state));
    }
    let routes = subjects.routes(reflector.as_str());
    if lease.is_none() && link.count(&routes).await? == 0 {
        return Err(ForgetError::Unknown(reflector.clone()));
    }
    // It is known by its name, or not at all: what it has published has that name too.
    let last = lease.map_or(0, |lease| lease.sequence);
    let gone = Publish::gone(1, subject, last, Timers::default().gone);
    let publication = Publication::from(gone);
    let told = async {
        link.publish(&publication).await?;
        let answer = tokio::time::timeout(ACK_TIMEOUT, acks.next()).await;
        match answer {
            Ok(Some((_, outcome))) => outcome,
            _ => Err(PublishError::Other("no answer".to_owned())),
        }
    };
    let below = told.await.map_err(|error| match error {
        PublishError::WrongSequence => ForgetError::Stirs(reflector.clone()),
        PublishError::Full => ForgetError::Refused("it is full".to_owned()),
        PublishError::Other(why) => ForgetError::Refused(why),
    })?;
    Ok(link.purge(&routes, below).await?)
}

/// What a lease says that stands, in a word; None of one that is over.
fn living(lease: &Delivered) -> Option<&'static str> {
    if lease.ended.is_some() || lease.value.is_empty() {
        return None;
    }
    match Lease::decode(&lease.value) {
        Ok(Lease { state: LeaseState::Gone, .. }) => None,
        Ok(says) => Some(says.state.word()),
        // A later version may know what it means.
        Err(_) => Some("a state that this version does not know"),
    }
}
