//! Frames and messages.

/// The type of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum MessageType {
    /// Opens a session.
    Hello = 1,
    /// Keeps it alive.
    Keepalive = 2,
    /// Asks for a VNI's routes.
    Subscribe = 3,
    /// Ends that.
    Unsubscribe = 4,
    /// A route comes or goes.
    Update = 5,
}

/// The fields of a HELLO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Seconds.
    pub keepalive_interval_s: u32,
    /// The sender is a server.
    pub is_server: bool,
    /// The sender reassembles frames.
    pub reassembles: bool,
}
