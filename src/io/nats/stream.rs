//! The stream that a fabric lives in, as it has to be.
//!
//! Owns its configuration. Must never change one that there is.

use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{
    Context, CreateStreamErrorKind, GetStreamErrorKind, RequestErrorKind,
};
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, RetentionPolicy, StorageType};

use super::fault::Fault;
use crate::fabric::Subjects;

/// How long the engine keeps the mark of a record whose lifetime is over.
const MARKER_LIFETIME: Duration = Duration::from_secs(30 * 60);

/// What the engine takes as a message, in bytes: much more than any of ours has, and so little that nobody fills the memory of
/// all who read.
const MESSAGE_BYTES_MAX: i32 = 4_096;

/// The name of a fabric's stream.
pub(super) fn stream_name(fabric: &str) -> String {
    format!("MB_{fabric}")
}

/// What is created if there is no such stream.
pub(super) fn wanted(fabric: &str, replicas: u32) -> Config {
    Config {
        name: stream_name(fabric),
        description: Some(format!("routes of the reflectors of the fabric {fabric}")),
        subjects: vec![Subjects::new(fabric).all()],
        retention: RetentionPolicy::Limits,
        max_messages_per_subject: 1,
        max_message_size: MESSAGE_BYTES_MAX,
        discard: DiscardPolicy::New,
        storage: StorageType::File,
        num_replicas: replicas as usize,
        allow_direct: true,
        allow_message_ttl: true,
        subject_delete_marker_ttl: Some(MARKER_LIFETIME),
        ..Config::default()
    }
}

/// Sees to it that the stream is there, as it should be.
///
/// # Errors
/// [`Fault`], also if there is one of another configuration: that is left to the operator.
pub(super) async fn ensure(
    context: &Context,
    wanted: &Config,
    creates: bool,
) -> Result<Info, Fault> {
    for _ in 0..2 {
        match context.get_stream(&wanted.name).await {
            Ok(stream) => {
                let info = stream.cached_info().clone();
                return match difference(&info.config, wanted) {
                    None => Ok(info),
                    Some((field, found, wanted)) => {
                        Err(Fault::OtherStream { stream: info.config.name, field, found, wanted })
                    }
                };
            }
            Err(error) => match error.kind() {
                GetStreamErrorKind::JetStream(error)
                    if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {}
                GetStreamErrorKind::JetStream(error) => return Err(Fault::of_engine(&error)),
                _ => return Err(asked(&error)),
            },
        }
        if !creates {
            return Err(Fault::NoStream(wanted.name.clone()));
        }
        match context.create_stream(wanted.clone()).await {
            Ok(stream) => return Ok(stream.cached_info().clone()),
            Err(error) => match error.kind() {
                // Another reflector was first, and it may want another one.
                CreateStreamErrorKind::JetStream(error)
                    if error.error_code() == ErrorCode::STREAM_NAME_EXIST => {}
                CreateStreamErrorKind::JetStream(error)
                    if Fault::of_engine(&error) == Fault::NoJetStream =>
                {
                    return Err(Fault::NoJetStream);
                }
                CreateStreamErrorKind::JetStream(error) => {
                    let (stream, replicas) = (wanted.name.clone(), wanted.num_replicas);
                    let hint = match error.error_code() {
                        ErrorCode::CLUSTER_NO_PEERS | ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED => {
                            ". --fabric-replicas must not be more than there are servers"
                        }
                        _ => "",
                    };
                    return Err(Fault::Create { stream, replicas, why: format!("{error}{hint}") });
                }
                CreateStreamErrorKind::TimedOut => {
                    return Err(Fault::Silent("the creation of the stream"));
                }
                CreateStreamErrorKind::JetStreamUnavailable => return Err(Fault::NoJetStream),
                _ => return Err(Fault::Other(error.to_string())),
            },
        }
    }
    Err(Fault::Other(format!("the stream {} comes and goes", wanted.name)))
}

/// Why the engine did not tell of the stream.
fn asked(error: &async_nats::jetstream::context::GetStreamError) -> Fault {
    use std::error::Error;
    let source = error.source();
    let request =
        source.and_then(|it| it.downcast_ref::<async_nats::jetstream::context::RequestError>());
    match request.map(|request| request.kind()) {
        Some(RequestErrorKind::NoResponders) => Fault::NoJetStream,
        Some(RequestErrorKind::TimedOut) => Fault::Silent("a question about the stream"),
        _ => Fault::Other(error.to_string()),
    }
}

/// The first thing that is not as wanted, as it is, and as it should be. What only bounds the stream, or says how safe
/// it is, is the operator's: limits of bytes, copies, placement, compression.
fn difference(found: &Config, wanted: &Config) -> Option<(&'static str, String, String)> {
    let Config { max_messages_per_subject, subject_delete_marker_ttl, .. } = wanted;
    let is = |field, found: &dyn std::fmt::Debug, wanted: &dyn std::fmt::Debug| {
        let (found, wanted) = (format!("{found:?}"), format!("{wanted:?}"));
        (found != wanted).then_some((field, found, wanted))
    };
    let nothing = "none";
    let there = |present: bool| if present { "some" } else { nothing };
    let per_subject = &found.max_messages_per_subject;
    let is_sourced = found.sources.as_ref().is_some_and(|sources| !sources.is_empty());
    [
        is("subjects", &found.subjects, &wanted.subjects),
        is("max_msgs_per_subject", per_subject, max_messages_per_subject),
        is("discard", &found.discard, &wanted.discard),
        is("discard_new_per_subject", &found.discard_new_per_subject, &false),
        is("retention", &found.retention, &wanted.retention),
        is("storage", &found.storage, &wanted.storage),
        is("max_age", &found.max_age, &wanted.max_age),
        is("allow_direct", &found.allow_direct, &wanted.allow_direct),
        is("allow_msg_ttl", &found.allow_message_ttl, &wanted.allow_message_ttl),
        is(
            "subject_delete_marker_ttl",
            &found.subject_delete_marker_ttl,
            subject_delete_marker_ttl,
        ),
        is("no_ack", &found.no_ack, &false),
        is("sealed", &found.sealed, &false),
        is("deny_purge", &found.deny_purge, &false),
        is("mirror", &there(found.mirror.is_some()), &nothing),
        is("sources", &there(is_sourced), &nothing),
        is("republish", &there(found.republish.is_some()), &nothing),
        is("subject_transform", &there(found.subject_transform.is_some()), &nothing),
    ]
    .into_iter()
    .flatten()
    .next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_named() {
        let found = wanted("f", 1);
        assert_eq!(difference(&found, &wanted("f", 3)), None, "copies are the operator's");
        let bounded = Config { max_bytes: 1 << 30, max_messages: -1, ..wanted("f", 1) };
        assert_eq!(difference(&bounded, &found), None, "a limit too");
        for (config, field) in [
            (Config { subjects: vec!["mb.>".into()], ..wanted("f", 1) }, "subjects"),
            (Config { max_messages_per_subject: 2, ..wanted("f", 1) }, "max_msgs_per_subject"),
            (Config { discard: DiscardPolicy::Old, ..wanted("f", 1) }, "discard"),
            (Config { discard_new_per_subject: true, ..wanted("f", 1) }, "discard_new_per_subject"),
            (Config { retention: RetentionPolicy::Interest, ..wanted("f", 1) }, "retention"),
            (Config { storage: StorageType::Memory, ..wanted("f", 1) }, "storage"),
            (Config { max_age: Duration::from_secs(60), ..wanted("f", 1) }, "max_age"),
            (Config { allow_message_ttl: false, ..wanted("f", 1) }, "allow_msg_ttl"),
            (
                Config { subject_delete_marker_ttl: None, ..wanted("f", 1) },
                "subject_delete_marker_ttl",
            ),
            (Config { deny_purge: true, ..wanted("f", 1) }, "deny_purge"),
            (Config { no_ack: true, ..wanted("f", 1) }, "no_ack"),
            (Config { sources: Some(vec![Default::default()]), ..wanted("f", 1) }, "sources"),
        ] {
            let difference = difference(&config, &found).map(|(field, ..)| field);
            assert_eq!(difference, Some(field));
        }
    }
}
