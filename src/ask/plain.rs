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

/// Whether it is shown as what it is, and moves or hides nothing.
pub(crate) fn is_harmless(c: char) -> bool {
    // 2028 to 202e: ends of lines, and what turns the order of letters, as some of the others do.
    let is_unseen = matches!(c, '\u{00ad}' | '\u{061c}' | '\u{180e}' | '\u{feff}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}');
    !c.is_control() && !is_unseen
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
        for harm in [
            "\x1b[2J",
            "\x07",
            "\r",
            "\n",
            "\u{9b}2J",
            "\x7f",
            "\u{202e}",
            "\u{2066}",
            "\t",
            "\0",
            "\u{200b}",
            "\u{200d}",
            "\u{2060}",
            "\u{feff}",
            "\u{ad}",
            "\u{e0041}",
            "\u{2028}",
        ] {
            let text = plain(&format!("a{harm}b"));
            assert!(text.starts_with("a\u{fffd}") && text.ends_with('b'), "{text:?}");
        }
    }
}
