//! The doors to what is inside, for the programs, benches, tests and fuzz targets of this repository.
//!
//! Owns the list of what they use. Must never be used from within the library, and nothing in it is
//! promised to anybody else.

#[cfg(feature = "cli")]
pub mod cli {
    pub use crate::cli::{
        ClientOptions, Command, DiffOptions, Exit, ForgetOptions, Grammar, Invocation, LogFormat,
        PROGRAM, Program, ServerOptions, ShowOptions, Side, SideAt, Stream, Subject, Takes,
        VERSION, parse, parse_flags, usage_of, version_of,
    };
}
pub mod client {
    pub use crate::client::Installer;
}
#[cfg(feature = "fabric")]
pub mod fabric {
    pub use crate::fabric::{
        Contents, Dropped, Effect, Ended, Fabric, FabricConfig, Lease, LeaseState, NAME_LEN_MAX,
        NameError, Publish, PublishError, Record, ReflectorStatus, Rule, Standing, State, Status,
        Subject, Subjects, Timers, check_name, decode_announcers, encode_announcers, record_hash,
    };
}
#[cfg(feature = "http")]
pub mod http {
    pub use crate::http::{HttpError, HttpListener, HttpServer, Servers, View};
}
pub mod handover {
    pub use crate::handover::*;
}
pub mod io {
    #[cfg(feature = "fabric")]
    pub use crate::io::nats::{
        Acks, Connected, Delivered, Fault, Feed, ForgetError, Link, Publication, forget,
    };
    pub use crate::io::{
        Asker, Handover, HandoverOptions, SEGMENT_BYTES_MAX_DEFAULT, ServeError, Server,
        ServerConfig, Signals, explain, probe, raise_descriptor_limit, receive_ready,
        runtime_builder, serve, survive_file_size_limit,
    };
    #[cfg(feature = "fabric")]
    pub use crate::io::{
        FabricAddress, FabricName, FabricOptions, FabricView, ServerSeen, StreamSeen,
    };
}
pub mod kernel {
    pub use crate::kernel::{
        Counters, KernelConfig, KernelError, KernelRoutes, NexthopObjects, StrangeKernel,
    };
}
pub mod log {
    pub use crate::log::{
        Compaction, Cursor, FramesList, Laggard, LiveBytes, Merge, Reader, Scope, Turned, VniLog,
    };
}
pub mod policy {
    pub use crate::policy::{
        AnnouncePolicy, Denial, FILE_BYTES_MAX, Judge, NextHopPolicy, Policy, PolicyError,
        RULES_MAX,
    };
}
pub mod rib {
    pub use crate::rib::{
        BASE_KEPT, Introduction, Join, Joined, Ledger, Outcome, Pressure, RecordSink, Refusal, Rib,
        Rules, UpdateGroup,
    };
}
pub mod session {
    pub use crate::session::{CloseReason, Direction, Session, SessionConfig, State, Verdict};
}
pub mod shard {
    pub use crate::shard::{
        Announcer, Audience, BATCH_BYTES_MAX, Budgets, Correspondent, Counters, EndsPiece, Export,
        Extremes, Identity, Import, Ledger, Limits, Mail, MemoryBounds, Order, PaceCounters,
        PeerView, PeersPiece, Piece, Pressure, RefusedWhat, RoutesPiece, STRANGERS, SessionEnd,
        Shard, ShardConfig, Sight, Sources, Standing, StandingView, StandingsPiece, Stillness,
        SubscribersPiece, SubscribersView, TIMING_BOUNDS_US, TcpSample, Timings, Transmit, Usage,
        VniView, VnisPiece, Wake,
    };
}
pub mod vital {
    pub use crate::vital::{PANIC_STATUS, before_exit, exit, spawn};
}
pub mod wire {
    pub use crate::wire::{
        DecodeError, Deframer, Fault, Frame, FrameError, HEADER_BYTES, Hello, InvalidUpdate,
        KEEPALIVE_FRAME, Message, MessageType, Reaction, Update, decode, decode_update,
        encode_update, frame_len, frames,
    };
}
