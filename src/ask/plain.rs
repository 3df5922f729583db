//! Text of others, made harmless for a terminal.
//!
//! Owns what counts as harmless. Must never let an escape sequence through, whatever comes.

/// Stands for what is left out.
const REPLACEMENT: char = '\u{fffd}';

/// Letters of a message.
const WORDS_MAX: usize = 300;

/// The text in one line: what would move the cursor, change colours or turn the order of letters is replaced.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if is_harmless(c) { c } else { REPLACEMENT }).collect()
}

/// The same of a text that may be of any length, for a message.
pub(crate) fn plain_words(text: &str) -> String {
    let mut chars = text.chars();
    let words: String = chars.by_ref().take(WORDS_MAX).collect();
    let end = if chars.next().is_some() { "…" } else { "" };
    format!("{}{end}", plain(&words))
}

fn is_harmless(c: char) -> bool {
    let turns_order = matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let ends_line = matches!(c, '\u{2028}' | '\u{2029}');
    !c.is_control() && !turns_order && !ends_line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut() {
        assert_eq!(plain_words("ü\n"), "ü\u{fffd}");
        assert_eq!(plain_words(&"ü".repeat(WORDS_MAX)), "ü".repeat(WORDS_MAX));
        let cut = plain_words(&"ü".repeat(WORDS_MAX + 1));
        assert_eq!(cut, "ü".repeat(WORDS_MAX) + "…");
    }

    #[test]
    fn what_a_terminal_would_obey_is_replaced() {
        assert_eq!(
            plain("rr1.example [2001:db8::1]:4711 – ü 網"),
            "rr1.example [2001:db8::1]:4711 – ü 網"
        );
        for harm in
            ["\x1b[2J", "\x07", "\r", "\n", "\u{9b}2J", "\x7f", "\u{202e}", "\u{2066}", "\t", "\0"]
        {
            let text = plain(&format!("a{harm}b"));
            assert!(text.starts_with("a\u{fffd}") && text.ends_with('b'), "{text:?}");
        }
    }
}
