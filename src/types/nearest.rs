//! What a mistyped word was meant to be.
//!
//! Owns how much two words may differ. Must never choose for the user: it is only a hint in a message.

/// The candidate that is meant by a mistyped word, if it is like one; dashes in front do not count.
pub(crate) fn nearest<'a>(
    word: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    let plain = |text: &str| text.trim_start_matches('-').replace('_', "-").to_lowercase();
    let word = plain(word);
    if word.is_empty() {
        return None;
    }
    let distance = |candidate: &str| {
        let candidate = plain(candidate);
        let begins = word.len() > 2 && candidate.starts_with(&word);
        if begins {
            usize::from(candidate != word)
        } else {
            strsim::osa_distance(&word, &candidate)
        }
    };
    let errors_max = 1 + word.len() / 4;
    candidates
        // A short flag is like any other letter.
        .filter(|candidate| plain(candidate).len() > 1)
        .map(|candidate| (distance(candidate), candidate))
        // Of equals the first.
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= errors_max)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_like_a_word_is_meant() {
        let words = ["peer", "vni", "next-hop", "permit"];
        for (word, meant) in [
            ("pear", Some("peer")),
            ("PERMIT", Some("permit")),
            ("nexthop", Some("next-hop")),
            ("next_hop", Some("next-hop")),
            ("elephant", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, words.into_iter()), meant, "{word}");
        }
    }
}
