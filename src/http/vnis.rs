//! `/vnis.json`: what there is in each VNI, and what to compare reflectors by.
//!
//! Owns its shape. Must never look at a single route.

use std::collections::BTreeMap;

use serde::Serialize;

use super::answer::{Content, Refusal};
use super::query::Filter;
use super::{View, collect};
use crate::types::{Digest, Vni};

#[derive(Serialize)]
struct Vnis {
    vnis: Vec<Row>,
}

#[derive(Serialize, Default)]
struct Row {
    vni: u32,
    routes: usize,
    sources: usize,
    subscribers: usize,
    slow_subscribers: usize,
    digest: String,
}

/// The VNIs that the filter lets pass, ascending.
pub(super) async fn vnis(view: &View, filter: &Filter) -> Result<Content, Refusal> {
    let mut rows: BTreeMap<Vni, Row> = BTreeMap::new();
    for (vni, told) in
        collect::vnis(view).await?.into_iter().filter(|(vni, _)| filter.has_vni(*vni))
    {
        let row = Row {
            routes: told.routes,
            sources: told.sources,
            digest: told.digest.to_string(),
            ..Row::of(vni)
        };
        rows.insert(vni, row);
    }
    collect::subscribers(view, |group| {
        if filter.has_vni(group.vni) && group.subscribers > 0 {
            let row = rows.entry(group.vni).or_insert_with(|| Row::of(group.vni));
            row.subscribers += group.subscribers;
            row.slow_subscribers += group.slow;
        }
    })
    .await?;
    // What is left of a VNI is a base that somebody may want again.
    let vnis = rows.into_values().filter(|row| row.routes + row.subscribers > 0).collect();
    Ok(Content::json(&Vnis { vnis }))
}

impl Row {
    fn of(vni: Vni) -> Row {
        Row { vni: vni.0, digest: Digest::default().to_string(), ..Row::default() }
    }
}
