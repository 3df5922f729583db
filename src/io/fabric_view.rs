//! The fabric from outside: how it is, for operators.
//!
//! Owns plain values. Must never be more than a copy.

use super::fabric_options::FabricOptions;
use crate::fabric::Status;

/// How a node's part in the fabric is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FabricView {
    /// The fabric's name.
    pub fabric: String,
    /// What this reflector is called.
    pub name: String,
    /// The protocol's side.
    pub status: Status,
    /// The server that it is connected to.
    pub server: Option<ServerSeen>,
    /// The stream, as it was when it was looked at last.
    pub stream: Option<StreamSeen>,
    /// What is wrong with the engine now, and what to do about it.
    pub trouble: Option<String>,
    /// How often it was connected since the start.
    pub links: u64,
}

impl FabricView {
    pub(super) fn of(options: &FabricOptions) -> FabricView {
        FabricView {
            fabric: options.address.fabric.to_string(),
            name: options.name.to_string(),
            ..FabricView::default()
        }
    }
}

/// A server of the engine, as it describes itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ServerSeen {
    /// Its name, or its address.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// The stream, as it was when it was looked at.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StreamSeen {
    /// Its name.
    pub name: String,
    /// How many servers keep it.
    pub replicas: usize,
    /// Messages in it.
    pub messages: u64,
    /// What it takes at the engine.
    pub bytes: u64,
    /// Its last sequence number.
    pub last_sequence: u64,
}
