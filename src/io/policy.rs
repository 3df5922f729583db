//! The policy as a node is told it: a word, and a file.
//!
//! Owns what may be wrong with the file besides its text. Must never be read on a thread that serves peers: a disk may
//! take its time.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;
use tracing::{info, warn};

use crate::policy::{AnnouncePolicy, FILE_BYTES_MAX, NextHopPolicy, Policy, PolicyError};

/// What peers that connect to this node may announce. A route must be permitted by both.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PolicyConfig {
    /// Which next hops.
    pub next_hops: NextHopPolicy,
    /// The file with rules for all else (docs/POLICY.md); none: anything. The server program reads it again at SIGHUP.
    pub announce_file: Option<PathBuf>,
}

/// Why a policy's file is of no use.
#[derive(Error, Debug)]
#[non_exhaustive]
pub enum PolicyFileError {
    /// It cannot be read.
    #[error("cannot read the policy {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// The system's error.
        source: io::Error,
    },
    /// It is a directory, a pipe or a device.
    #[error("cannot read the policy {path}: it is no regular file")]
    NotAFile {
        /// The file.
        path: String,
    },
    /// Its text is wrong.
    #[error("the policy {path} is wrong:\n{source}")]
    Wrong {
        /// The file.
        path: String,
        /// All that is wrong with it.
        source: PolicyError,
    },
}

/// The file's rules, if there is a file, and the policy that they are part of.
pub(super) type Loaded = (Option<Arc<AnnouncePolicy>>, Option<Arc<Policy>>);

impl PolicyConfig {
    /// Reads the file.
    ///
    /// # Errors
    /// [`PolicyFileError`].
    pub(super) fn load(&self) -> Result<Loaded, PolicyFileError> {
        let rules = self.announce_file.as_deref().map(read).transpose()?.map(Arc::new);
        if let (Some(rules), Some(path)) = (&rules, &self.announce_file) {
            let path = path.display();
            match rules.rule_count() {
                0 => warn!("the policy {path} has no rules: all that peers announce is refused"),
                count => info!(rules = count, "read the policy {path}"),
            }
        }
        let policy = Policy::new(self.next_hops, rules.clone());
        Ok((rules, policy))
    }
}

/// Reads a policy's file.
///
/// # Errors
/// [`PolicyFileError`].
fn read(path: &Path) -> Result<AnnouncePolicy, PolicyFileError> {
    let name = || path.display().to_string();
    let failed = |source| PolicyFileError::Read { path: name(), source };
    // A pipe would keep us waiting.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(PolicyFileError::NotAFile { path: name() });
    }
    let mut text = Vec::new();
    let bytes_max = FILE_BYTES_MAX as u64 + 1;
    File::open(path)
        .and_then(|file| file.take(bytes_max).read_to_end(&mut text))
        .map_err(failed)?;
    AnnouncePolicy::parse(&text).map_err(|source| PolicyFileError::Wrong { path: name(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let said = |path: &str| read(Path::new(path)).unwrap_err().to_string();
        assert_eq!(said("/"), "cannot read the policy /: it is no regular file");
        assert_eq!(said("/dev/zero"), "cannot read the policy /dev/zero: it is no regular file");
        let missing = said("/nonexistent/policy");
        assert!(missing.starts_with("cannot read the policy /nonexistent/policy: "), "{missing}");
    }
}
