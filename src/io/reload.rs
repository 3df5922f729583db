//! A node's policy, read again while it runs.
//!
//! Owns the way from the file to the shards. Must never give up a policy that works for one that does not.

use std::sync::Arc;

use tokio::sync::mpsc;
use tracing::{info, warn};

use super::asker::Asker;
use super::error::ServeError;
use super::policy::PolicyConfig;
use super::signals::acceptor_runtime;
use crate::policy::AnnouncePolicy;
use crate::vital;

/// Reads the file again whenever it is asked to, on a thread of its own, as long as somebody can ask.
///
/// # Errors
/// [`ServeError::Start`].
pub(super) fn when_asked(
    config: PolicyConfig,
    rules: Arc<AnnouncePolicy>,
    asker: Asker,
    mut asked: mpsc::Receiver<()>,
) -> Result<(), ServeError> {
    let runtime = acceptor_runtime()?;
    let mut reloader = Reloader { config, rules, asker };
    let body = move || {
        runtime.block_on(async {
            while asked.recv().await.is_some() {
                reloader.reload().await;
            }
        });
    };
    let started = vital::spawn("policy", body);
    started.map_err(|source| ServeError::Start { what: "the policy's thread", source })?;
    Ok(())
}

struct Reloader {
    config: PolicyConfig,
    /// Those that count.
    rules: Arc<AnnouncePolicy>,
    asker: Asker,
}

impl Reloader {
    async fn reload(&mut self) {
        let (rules, policy) = match self.config.load() {
            Ok((Some(rules), policy)) => (rules, policy),
            Ok((None, _)) => return,
            Err(error) => {
                // One line of the log.
                let error = error.to_string().replace(":\n", ": ").replace('\n', "; ");
                warn!("SIGHUP: the former policy stays: {error}");
                return;
            }
        };
        let difference = rules.since(&self.rules);
        self.rules = rules;
        if difference.is_none() {
            info!("SIGHUP: the policy is what it was");
            return;
        }
        for shard in self.asker.shards() {
            let policy = policy.clone();
            // Fails only while it shuts down.
            let _ = self.asker.ask(shard, move |shard, now| shard.set_policy(now, policy)).await;
        }
        info!(rules = self.rules.rule_count(), "SIGHUP: the policy has changed: {difference}");
    }
}
