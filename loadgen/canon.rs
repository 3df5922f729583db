//! The canonical frame of every route, made once: what a server of canonical encoding sends, byte for byte.
//!
//! Owns the bytes. Must never be what an update is judged by alone: what differs from them may be right,
//! too, and is decoded.

use metalbond_uring::internals::wire::{HEADER_BYTES, encode_update};
use metalbond_uring::types::Action;

use crate::plan::Plan;

/// Runs with more routes do without: the bytes would take more than 50 MB.
const ROUTES_MAX: usize = 1 << 20;

/// How the payload of a canonical REMOVE begins; the rest is that of the ADD.
const REMOVE: [u8; 2] = [8, 1];

/// The frames of all routes, by their bits.
pub struct Canon {
    frames: Vec<u8>,
    /// Where each frame begins, and where the last one ends; empty if there are too many routes.
    starts: Vec<u32>,
}

impl Canon {
    /// Makes the frames.
    pub fn new(plan: &Plan) -> Canon {
        let bits = plan.words() * 64;
        let mut canon = Canon { frames: Vec::new(), starts: Vec::new() };
        if bits > ROUTES_MAX {
            return canon;
        }
        canon.starts.push(0);
        for (vni, routes) in plan.vnis.iter().enumerate() {
            for number in 0..routes.words() as u32 * 64 {
                if number < routes.routes() {
                    let (vni, route) = (plan.vni(vni as u32), routes.route(number));
                    encode_update(&mut canon.frames, Action::Add, vni, &route);
                }
                canon.starts.push(canon.frames.len() as u32);
            }
        }
        canon
    }

    /// Whether `bytes` begin with the canonical update of this route: what it does, and its length.
    #[inline]
    pub fn matches(&self, bit: usize, bytes: &[u8]) -> Option<(Action, usize)> {
        let &[start, end] = self.starts.get(bit..bit + 2)? else {
            return None;
        };
        let add = &self.frames[start as usize..end as usize];
        if add.is_empty() {
            return None;
        }
        if bytes.starts_with(add) {
            return Some((Action::Add, add.len()));
        }
        let length = add.len() + REMOVE.len();
        let (header, payload) = bytes.get(..length)?.split_at(HEADER_BYTES);
        let (add_header, add_payload) = add.split_at(HEADER_BYTES);
        let is_remove = header[..2] == add_header[..2]
            && usize::from(header[2]) == payload.len()
            && header[3] == add_header[3]
            && payload[..2] == REMOVE
            && &payload[2..] == add_payload;
        is_remove.then_some((Action::Remove, length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_bytes_match() {
        let mut plan = Plan::new(7, 1, 2, 100);
        plan.announce(0, 0);
        plan.announce(0, 1);
        let plan = plan.finish();
        let canon = Canon::new(&plan);
        for (vni, routes) in plan.vnis.iter().enumerate() {
            for number in 0..100 {
                let bit = routes.first_bit + number as usize;
                for action in [Action::Add, Action::Remove] {
                    let mut frame = Vec::new();
                    let vni = plan.vni(vni as u32);
                    encode_update(&mut frame, action, vni, &routes.route(number));
                    let length = frame.len();
                    frame.extend_from_slice(&[1, 0, 0]);
                    assert_eq!(canon.matches(bit, &frame), Some((action, length)));
                    assert_eq!(canon.matches(bit + 1, &frame), None);
                    assert_eq!(canon.matches(bit, &frame[..length - 1]), None);
                    for at in 0..length {
                        frame[at] ^= 1;
                        assert_eq!(canon.matches(bit, &frame), None, "byte {at}");
                        frame[at] ^= 1;
                    }
                }
            }
        }
        assert_eq!(canon.matches(100, &[]), None);
        assert_eq!(canon.matches(1 << 30, &[1]), None);
    }
}
