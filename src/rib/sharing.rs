//! Addresses that several hosts share: what is announced here from there is told apart.
//!
//! Owns what that changes at a home. Must never tell a subscriber anything: it may see more, and asks for the table again.

use std::net::IpAddr;

use super::jobs::Job;
use super::{RecordSink, Rib, Rules};
use crate::types::{GroupClass, SourceId, Speaker, Vni};

impl Rib {
    /// From now on each source at this address speaks for itself. Whoever joins from now on gets the table as it is seen
    /// so; other reflectors are told (by [`Rib::run_jobs`]).
    pub fn share(&mut self, address: IpAddr) {
        let Rules { speakers, hasher, .. } = &mut self.common.rules;
        if !speakers.share(address, hasher) {
            return;
        }
        for (source, vni) in self.sources.announced_for(Speaker::Host(address)) {
            if let Some(home) = self.homes.find_mut(vni, hasher)
                && let Some(feed) = home.feeds.of_mut(GroupClass::Client)
            {
                feed.forget_base(&mut home.table);
            }
            self.jobs.add(Job::Publish(source, vni));
        }
    }

    /// Tells other reflectors of all that a source announces in a VNI.
    pub(super) fn publish(
        &mut self,
        source: SourceId,
        vni: Vni,
        budget: &mut usize,
        sink: &mut impl RecordSink,
    ) {
        let Rules { speakers, hasher, .. } = &self.common.rules;
        let Some(home) = self.homes.find(vni, hasher) else { return };
        for place in home.table.places_of(source, hasher) {
            *budget = budget.saturating_sub(1);
            let route = home.table.entry(place).route;
            sink.publish(vni, &route, home.published(place, speakers));
        }
    }
}
