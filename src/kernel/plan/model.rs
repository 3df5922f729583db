//! A model of the kernel, for the plan's tests.
//!
//! Owns the kernel's rules as far as they matter here: which route a request to delete takes, what
//! goes with an object, and that no request may touch a foreign route.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use super::*;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Object {
    Hop(Family, Ipv6Addr),
    Group(Vec<u32>),
}

/// The tunnel device.
pub(super) const LINK: u32 = 9;

/// A route in the kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Slot {
    Ours(Form),
    /// Somebody else's, with a number to tell it by; perhaps of our protocol.
    Foreign(u8, bool),
}

/// A kernel with the rules that matter here.
#[derive(Default, Debug)]
pub(super) struct Kernel {
    pub objects: BTreeMap<u32, Object>,
    pub routes: BTreeMap<Prefix, Vec<Slot>>,
}

impl Kernel {
    pub(super) fn apply(&mut self, op: &Op) -> Result<(), i32> {
        match op {
            Op::AddHop { id, family, address } => {
                self.add_object(*id, Object::Hop(*family, *address))
            }
            Op::AddGroup { id, members } => {
                assert!(members.len() > 1);
                if members.iter().any(|id| !self.objects.contains_key(&id.0)) {
                    return Err(libc::EINVAL);
                }
                self.add_object(*id, Object::Group(members.iter().map(|id| id.0).collect()))
            }
            Op::DeleteNexthop { id } => {
                let users = self.ours().filter(|(_, form)| **form == Form::Object(*id));
                assert_eq!(users.count(), 0, "{id:?} is deleted with routes that name it");
                for object in self.objects.values() {
                    assert!(!matches!(object, Object::Group(members) if members.contains(&id.0)));
                }
                self.objects.remove(&id.0).map(drop).ok_or(libc::ENOENT)
            }
            Op::Add { prefix, form, place } => {
                self.check_form(*prefix, form)?;
                let slots = self.routes.entry(*prefix).or_default();
                if *place == Place::Alone && !slots.is_empty()
                    || slots.contains(&Slot::Ours(form.clone()))
                {
                    return Err(libc::EEXIST);
                }
                let is_first = *place == Place::First;
                assert!(!is_first || prefix.family() == Family::V4, "IPv6 cannot");
                let at = if is_first { 0 } else { slots.len() };
                slots.insert(at, Slot::Ours(form.clone()));
                Ok(())
            }
            Op::Delete { prefix, form } => self.delete(*prefix, form),
        }
    }

    /// Takes the first route that matches, as the kernel does.
    fn delete(&mut self, prefix: Prefix, form: &Form) -> Result<(), i32> {
        let is_v4 = prefix.family() == Family::V4;
        let matches = |slot: &Slot| match (slot, form) {
            (Slot::Ours(one), Form::Object(_)) => one == form,
            (Slot::Foreign(..), Form::Object(_)) => false,
            (Slot::Foreign(_, is_of_our_protocol), _) => *is_of_our_protocol,
            (Slot::Ours(Form::Object(_)), _) => !is_v4,
            (Slot::Ours(Form::Inline(one)), Form::Inline(other)) => !is_v4 || one[0] == other[0],
            (Slot::Ours(Form::Other { .. }), Form::Inline(_)) => !is_v4,
            (Slot::Ours(_), Form::Other { .. }) => true,
        };
        let slots = self.routes.get_mut(&prefix).ok_or(libc::ESRCH)?;
        let at = slots.iter().position(matches).ok_or(libc::ESRCH)?;
        let gone = slots.remove(at);
        assert!(matches!(gone, Slot::Ours(_)), "a foreign route is deleted");
        Ok(())
    }

    pub(super) fn ours(&self) -> impl Iterator<Item = (Prefix, &Form)> {
        self.routes.iter().flat_map(|(prefix, slots)| {
            slots.iter().filter_map(|slot| match slot {
                Slot::Ours(form) => Some((*prefix, form)),
                Slot::Foreign(..) => None,
            })
        })
    }

    pub(super) fn ours_at(&self, prefix: Prefix) -> Vec<&Form> {
        self.ours().filter(|(one, _)| *one == prefix).map(|(_, form)| form).collect()
    }

    pub(super) fn foreign(&self) -> Vec<(Prefix, u8)> {
        let all = self.routes.iter();
        all.flat_map(|(prefix, slots)| {
            slots.iter().filter_map(|slot| match slot {
                Slot::Ours(_) => None,
                Slot::Foreign(number, _) => Some((*prefix, *number)),
            })
        })
        .collect()
    }

    pub(super) fn retain(&mut self, mut kept: impl FnMut(Prefix, &Slot) -> bool) {
        for (prefix, slots) in &mut self.routes {
            slots.retain(|slot| kept(*prefix, slot));
        }
    }

    fn add_object(&mut self, id: NexthopId, object: Object) -> Result<(), i32> {
        assert!(id.is_in_our_range());
        if self.objects.contains_key(&id.0) {
            return Err(libc::EEXIST);
        }
        self.objects.insert(id.0, object);
        Ok(())
    }

    fn check_form(&self, prefix: Prefix, form: &Form) -> Result<(), i32> {
        match form {
            Form::Object(id) if !self.objects.contains_key(&id.0) => Err(libc::EINVAL),
            Form::Inline(hops) if hops.is_empty() => Err(libc::EINVAL),
            Form::Inline(hops) if hops.len() > 1 && prefix.family() == Family::V6 => {
                Err(libc::EINVAL)
            }
            Form::Other { .. } => Err(libc::EINVAL),
            _ => Ok(()),
        }
    }

    pub(super) fn hops(&self, form: &Form) -> Vec<Ipv6Addr> {
        match form {
            Form::Inline(hops) => hops.to_vec(),
            Form::Other { .. } => Vec::new(),
            Form::Object(id) => match &self.objects[&id.0] {
                Object::Hop(_, address) => vec![*address],
                Object::Group(members) => {
                    members.iter().flat_map(|id| self.hops(&Form::Object(NexthopId(*id)))).collect()
                }
            },
        }
    }

    /// Somebody deletes an object: groups that held it and routes that named it go too.
    pub(super) fn drop_object(&mut self, id: u32) {
        self.objects.remove(&id);
        let groups = self.objects.iter_mut().filter_map(|(group, object)| match object {
            Object::Group(members) => {
                members.retain(|member| *member != id);
                members.is_empty().then_some(*group)
            }
            Object::Hop(..) => None,
        });
        let mut gone: Vec<u32> = groups.collect();
        gone.push(id);
        self.objects.retain(|id, _| !gone.contains(id));
        self.retain(
            |_, slot| !matches!(slot, Slot::Ours(Form::Object(id)) if gone.contains(&id.0)),
        );
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let nexthop = |(id, object): (&u32, &Object)| SeenNexthop {
            id: NexthopId(*id),
            link: matches!(object, Object::Hop(..)).then_some(LINK),
            kind: match object {
                Object::Hop(family, address) => {
                    SeenNexthopKind::Hop { family: *family, address: *address }
                }
                Object::Group(members) => SeenNexthopKind::Group {
                    members: members.iter().copied().map(NexthopId).collect(),
                },
            },
        };
        let route = |prefix: &Prefix, slot: &Slot| SeenRoute {
            prefix: *prefix,
            is_of_our_protocol: !matches!(slot, Slot::Foreign(_, false)),
            link: LINK,
            form: match slot {
                Slot::Ours(form) => Some(form.clone()),
                Slot::Foreign(..) => None,
            },
        };
        let all = self.routes.iter();
        Snapshot {
            ours: Ours { link: Some(LINK), owned: Blocks::ALL, ..Ours::default() },
            nexthops: self.objects.iter().map(nexthop).collect(),
            routes: all.flat_map(|(p, slots)| slots.iter().map(|one| route(p, one))).collect(),
            has_others: true,
        }
    }
}
