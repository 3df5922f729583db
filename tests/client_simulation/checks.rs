//! What the model says, compared with what is.

use std::collections::BTreeSet;

use metalbond_uring::types::Time;

use crate::link::Link;
use crate::world::World;

impl World {
    pub fn observe_time(&mut self) {
        let (now, stale_time) = (self.now, self.stale_time);
        for server in &mut self.servers {
            server.memory.forget_old(now);
            if let Some(link) = &mut server.link {
                link.observe_time(now, stale_time);
                if link.may_have_told_all {
                    server.memory.may_be_over();
                }
            }
        }
        self.look_at_former_run();
    }

    pub fn look_at_former_run(&mut self) {
        let stands = |link: &&Link| link.established_at.is_some();
        let mut links =
            self.servers.iter().filter_map(|server| server.link.as_ref()).filter(stands);
        let all_told = links.clone().all(|link| link.may_have_told_all);
        self.may_be_synchronized |= links.next().is_some() && all_told;
        let since = self.away_since;
        self.may_be_synchronized |=
            since.is_some_and(|since| self.now >= since.after(self.stale_time));
    }

    /// What the route client holds is what it must hold, and nothing that it may not.
    pub fn check(&mut self) {
        assert!(self.marks.is_empty(), "all marks were heard");
        assert!(self.installing.events.is_empty(), "all was dealt with");
        self.check_must(self.now);
        let mut may = BTreeSet::new();
        for server in &self.servers {
            may.extend(server.memory.may());
            may.extend(server.link.iter().flat_map(|link| link.told.keys().copied()));
        }
        let beyond: Vec<_> = self.view.difference(&may).collect();
        assert!(beyond.is_empty(), "nobody told {beyond:?}");
        let unwanted = self.view.iter().find(|(vni, _)| !self.wants.contains_key(vni));
        assert!(unwanted.is_none(), "nobody wants {unwanted:?}");
        for server in &self.servers {
            let stands = |link: &&Link| link.established_at.is_some();
            let link = server.link.as_ref().filter(stands);
            if let Some(player) = link.and_then(|link| link.player.as_ref())
                && !server.is_stuck
                && !server.is_mute
            {
                assert_eq!(player.announced, self.announced, "it was told what is announced");
            }
        }
        let held = self.servers.iter().map(|server| server.memory.must(self.now).count() as u64);
        *self.tally.entry("held at a look").or_default() += held.sum::<u64>();
        *self.tally.entry("known at a look").or_default() += self.view.len() as u64;
        let held_out = self.view.len() - self.installing.count();
        *self.tally.entry("held out at a look").or_default() += held_out as u64;
    }

    /// What was told before then, and wanted, is there.
    pub fn check_must(&self, before: Time) {
        for (at, server) in self.servers.iter().enumerate() {
            let told = server.link.iter().flat_map(|link| &link.told);
            for (key, told_at) in told.chain(server.memory.must(self.now)) {
                let is_wanted = self.wants.get(&key.0).is_some_and(|since| *since <= before);
                let is_there = self.view.contains(key);
                assert!(
                    !is_wanted || *told_at > before || is_there,
                    "{key:?} of server {at} is gone"
                );
            }
        }
    }

    /// Servers know what the node announces, and have told what they know.
    pub fn check_servers(&self) {
        for server in &self.servers {
            let link = server.link.as_ref().expect("it is connected");
            let wanted = server.table.iter().filter(|(vni, _)| self.wants.contains_key(vni));
            for key in wanted {
                assert!(link.told.contains_key(key), "{key:?} was not told");
            }
            if let Some(core) = &server.core {
                let routes = server.table.union(&self.announced).count();
                assert_eq!(core.shard.usage().routes, routes);
            }
        }
    }
}
