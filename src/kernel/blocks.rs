//! Blocks of nexthop ids, owned by this process.
//!
//! Owns one abstract socket for each block that is ours. Such names are of the network namespace, as
//! the objects are, and they vanish with the process: nothing stays behind that is not true any
//! more. Anybody in the namespace can take a name: all that does is that a block looks owned. Must
//! never take a block that another client owns.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use super::plan::{BLOCKS, Blocks, Form, SeenNexthop, SeenNexthopKind, Snapshot};

/// The blocks that we own, and those that a former run has left.
#[derive(Debug, Default)]
pub(super) struct OwnedBlocks {
    sockets: Vec<UnixDatagram>,
    owned: Blocks,
    orphaned: Blocks,
    home: Option<u32>,
    /// Blocks that others own, with our device and our tables.
    rivals: Blocks,
}

impl OwnedBlocks {
    /// Looks at what a dump found. Blocks of a former run with this device and these tables are taken
    /// as soon as nobody owns them; a former run may end after we have started. If there are none, a
    /// new one from `first` on is. What else nobody owned at the first look is orphaned for as long
    /// as nobody owns it.
    pub(super) fn survey(
        &mut self,
        snapshot: &Snapshot,
        link: Option<u32>,
        is_mapped: impl Fn(u32) -> bool,
        first: u32,
    ) -> io::Result<()> {
        let found = found_blocks(snapshot, link, is_mapped);
        let is_first = self.home.is_none();
        self.rivals = Blocks::default();
        let owned = self.owned;
        for block in found.all.iter().filter(|block| !owned.contains(*block)) {
            let is_as_ours = found.on_link.contains(block) && found.in_tables.contains(block);
            if is_as_ours && !self.take(block)? {
                self.rivals.insert(block);
            } else if !is_as_ours && is_first && !is_owned_by_others(block) {
                self.orphaned.insert(block);
            }
        }
        for block in self.orphaned.iter() {
            if self.owned.contains(block) || is_owned_by_others(block) {
                self.orphaned.remove(block);
            }
        }
        for block in (first..first + BLOCKS).map(|block| block % BLOCKS) {
            if self.home.is_none() && !found.all.contains(block) {
                self.take(block)?;
            }
        }
        self.home.map(drop).ok_or_else(|| io::ErrorKind::AddrInUse.into())
    }

    /// Whether there are clients with our device and our tables.
    pub(super) fn has_rivals(&self) -> bool {
        self.rivals != Blocks::default()
    }

    /// Whether one of them has ended: what it has left can be taken over.
    pub(super) fn has_rival_ended(&self) -> bool {
        self.rivals.iter().any(|block| !is_owned_by_others(block))
    }

    /// Takes what is orphaned; returns whether anything was.
    pub(super) fn take_orphaned(&mut self) -> io::Result<bool> {
        let orphaned = std::mem::take(&mut self.orphaned);
        for block in orphaned.iter() {
            self.take(block)?;
        }
        Ok(orphaned != Blocks::default())
    }

    pub(super) fn owned(&self) -> Blocks {
        self.owned
    }

    pub(super) fn orphaned(&self) -> Blocks {
        self.orphaned
    }

    /// The block for new ids.
    pub(super) fn home(&self) -> u32 {
        self.home.unwrap_or(0)
    }

    /// Takes a block unless somebody else owns it.
    fn take(&mut self, block: u32) -> io::Result<bool> {
        match UnixDatagram::bind_addr(&name(block)?) {
            Ok(socket) => self.sockets.push(socket),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Ok(false),
            Err(error) => return Err(error),
        }
        self.owned.insert(block);
        self.home.get_or_insert(block);
        Ok(true)
    }
}

/// Blocks with objects of our protocol: all, with one on the device, named by a route in our tables.
#[derive(Default)]
struct FoundBlocks {
    all: Blocks,
    on_link: Blocks,
    in_tables: Blocks,
}

fn found_blocks(
    snapshot: &Snapshot,
    link: Option<u32>,
    is_mapped: impl Fn(u32) -> bool,
) -> FoundBlocks {
    let mut found = FoundBlocks::default();
    let is_ours = |one: &&SeenNexthop| one.kind != SeenNexthopKind::Foreign;
    for nexthop in snapshot.nexthops.iter().filter(is_ours) {
        let Some(block) = nexthop.id.block() else { continue };
        found.all.insert(block);
        if nexthop.link.is_some() && nexthop.link == link {
            found.on_link.insert(block);
        }
    }
    for route in snapshot.routes.iter().filter(|route| is_mapped(route.prefix.table)) {
        if let Some(Form::Object(id)) = route.form
            && let Some(block) = id.block()
        {
            found.in_tables.insert(block);
        }
    }
    found
}

fn name(block: u32) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("metalbond-nexthops-{block}"))
}

/// Asks without taking the name, so that nobody who starts meanwhile finds it taken.
fn is_owned_by_others(block: u32) -> bool {
    let connect = || UnixDatagram::unbound()?.connect_addr(&name(block)?);
    !matches!(connect(), Err(error) if error.kind() == io::ErrorKind::ConnectionRefused)
}
