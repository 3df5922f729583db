//! `/`: the page for people.
//!
//! Owns what a browser may do with it: run this one script, and ask this node. Must never put a value into the page: the
//! script asks for all of them, and shows them as text.

use std::sync::LazyLock;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hyper::header::HeaderValue;
use sha2::{Digest, Sha256};

use super::answer::Content;

/// `Content-Type` of the page, and of nothing else.
pub(super) const KIND: &str = "text/html; charset=utf-8";

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The page: one answer, with its style and its script.
pub(super) fn page() -> Content {
    static PAGE: LazyLock<String> = LazyLock::new(|| {
        let page = include_str!("page.html").replacen("{style}", STYLE, 1);
        page.replacen("{script}", SCRIPT, 1)
    });
    Content::whole(KIND, PAGE.as_str())
}

/// `Content-Security-Policy` of the page.
pub(super) fn policy() -> HeaderValue {
    static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
        let [style, script] = [STYLE, SCRIPT].map(hash);
        let policy = format!(
            "default-src 'none'; style-src '{style}'; script-src '{script}'; connect-src 'self'; img-src data:; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
        );
        policy.parse().expect("plain words")
    });
    POLICY.clone()
}

/// What lets an element in: the hash of what stands in it.
fn hash(inside: &str) -> String {
    format!("sha256-{}", BASE64_STANDARD.encode(Sha256::digest(inside)))
}
