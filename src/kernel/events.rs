//! What changes in the kernel: links, routes and nexthop objects.
//!
//! Owns the socket that is told. What we change ourselves, and routes in tables that are of no
//! interest, are dropped within the kernel. Must never decide what follows.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{NLM_F_APPEND, NLM_F_REPLACE};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;
use socket2::{SockFilter, SockRef};

use super::answers::split;
use super::messages;
use super::netlink::{DATAGRAM_BYTES, RECEIVE_BYTES};
use super::plan::{Change, Family, NexthopId, Prefix, SeenRoute};
use super::seen::{self, LinkSeen};

const RTNLGRP_LINK: u32 = 1;
const RTNLGRP_IPV4_ROUTE: u32 = 7;
const RTNLGRP_IPV6_ROUTE: u32 = 11;
const RTNLGRP_NEXTHOP: u32 = 32;
/// What the header of a route message says of tables that do not fit into it.
const RT_TABLE_COMPAT: u8 = 252;
/// Tables that the filter tells apart at most; with more, all routes are told.
const FILTERED_TABLES_MAX: usize = 64;
/// Messages read in a row, so that a flood of them does not keep the caller from its work.
const MESSAGES_MAX: usize = 4096;

/// What happened.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// A link is new, or something about it has changed.
    Link(LinkSeen),
    /// A link is gone.
    LinkGone(LinkSeen),
    /// Somebody has added or deleted a route.
    Route(SeenRoute, Change),
    /// Somebody has made, changed or deleted a nexthop object.
    Nexthop(NexthopId),
    /// Notifications were lost.
    Lost,
}

pub(super) struct Events {
    socket: Socket,
    datagram: Vec<u8>,
}

impl Events {
    /// Opens a socket in the caller's network namespace. `port` is that of the socket which our own
    /// requests come from.
    pub(super) fn open(port: u32, tables: &[u32]) -> io::Result<Events> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        let _ = socket.set_rx_buf_sz(RECEIVE_BYTES); // what is lost is noticed
        SockRef::from(&socket).attach_filter(&filter(port, tables))?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        for group in [RTNLGRP_LINK, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE] {
            socket.add_membership(group)?;
        }
        let _ = socket.add_membership(RTNLGRP_NEXTHOP); // since Linux 5.3
        Ok(Events { socket, datagram: vec![0; DATAGRAM_BYTES] })
    }

    /// The events since the last call; does not block. Routes are left out unless `matters` says
    /// yes to their prefix, and whether they have our protocol number.
    pub(super) fn take(&mut self, matters: impl Fn(&Prefix, bool) -> bool) -> Vec<Event> {
        let mut events = Vec::new();
        for _ in 0..MESSAGES_MAX {
            let mut buffer = &mut self.datagram[..];
            match self.socket.recv(&mut buffer, libc::MSG_DONTWAIT) {
                Ok(read) => events.extend(told(&self.datagram[..read], &matters)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    events.push(Event::Lost);
                    break;
                }
            }
        }
        events
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The events that a datagram tells of.
pub(super) fn told(
    datagram: &[u8],
    matters: &impl Fn(&Prefix, bool) -> bool,
) -> impl Iterator<Item = Event> {
    split(datagram).filter_map(|one| event(one.message_type(), one.flags(), one.payload(), matters))
}

fn event(
    kind: u16,
    flags: u16,
    payload: &[u8],
    matters: &impl Fn(&Prefix, bool) -> bool,
) -> Option<Event> {
    match kind {
        messages::RTM_NEWLINK => seen::seen_link(payload).map(Event::Link),
        messages::RTM_DELLINK => seen::seen_link(payload).map(Event::LinkGone),
        messages::RTM_NEWNEXTHOP | messages::RTM_DELNEXTHOP => {
            seen::seen_nexthop(payload).map(|seen| Event::Nexthop(seen.id))
        }
        messages::RTM_NEWROUTE | messages::RTM_DELROUTE => {
            let (prefix, is_of_our_protocol) = seen::route_key(payload)?;
            if !matters(&prefix, is_of_our_protocol) {
                return None;
            }
            let change = match prefix.family() {
                _ if kind == messages::RTM_DELROUTE => Change::Removed,
                _ if flags & NLM_F_REPLACE != 0 => Change::Replaced,
                Family::V4 if flags & NLM_F_APPEND == 0 => Change::AddedFirst,
                _ => Change::AddedLast,
            };
            seen::seen_route(payload).map(|seen| Event::Route(seen, change))
        }
        _ => None,
    }
}

/// A program for the kernel: no messages that our requests caused, and no routes of other tables.
/// It loads numbers in network order, so those to compare with are turned around.
fn filter(port: u32, tables: &[u32]) -> Vec<SockFilter> {
    const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const LOAD_HALF: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
    const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    const JUMP_IF: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let number = |kind: u16| u32::from(kind.to_be());
    let mut tables: Vec<u8> =
        tables.iter().map(|table| u8::try_from(*table).unwrap_or(RT_TABLE_COMPAT)).collect();
    tables.sort_unstable();
    tables.dedup();
    let mut program = vec![
        SockFilter::new(LOAD_WORD, 0, 0, 12), // nlmsg_pid
        SockFilter::new(JUMP_IF, 0, 1, port.to_be()),
        SockFilter::new(RETURN, 0, 0, 0),
    ];
    if tables.len() <= FILTERED_TABLES_MAX {
        let count = tables.len() as u8;
        program.push(SockFilter::new(LOAD_HALF, 0, 0, 4)); // nlmsg_type
        program.push(SockFilter::new(JUMP_IF, 1, 0, number(messages::RTM_NEWROUTE)));
        program.push(SockFilter::new(JUMP_IF, 0, count + 2, number(messages::RTM_DELROUTE)));
        program.push(SockFilter::new(LOAD_BYTE, 0, 0, 16 + 4)); // rtm_table
        for (at, table) in tables.iter().enumerate() {
            program.push(SockFilter::new(JUMP_IF, count - at as u8, 0, u32::from(*table)));
        }
        program.push(SockFilter::new(RETURN, 0, 0, 0));
    }
    program.push(SockFilter::new(RETURN, 0, 0, u32::MAX));
    program
}
