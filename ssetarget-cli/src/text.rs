//! Text for a terminal. Everything that came over the wire goes through [`clean`].

use std::time::Duration;

use unicode_width::UnicodeWidthChar;

/// The most characters of a string that are examined.
const MOST: usize = 2000;
/// The most marks without a width that follow one another: some scripts need a few.
const MOST_MARKS: usize = 4;

/// Returns whether a character could make a terminal, or its reader, see anything but text: control
/// characters with all escape sequences, characters that change the direction of text, that are
/// invisible, or that end a line.
pub(crate) fn is_hostile(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff0}'..='\u{fffb}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Makes a string harmless, on one line: line ends and tabs become spaces, other hostile characters
/// U+FFFD; very long strings are cut.
pub(crate) fn clean(text: &str) -> String {
    let mut cleaned = String::new();
    let (mut spaces, mut marks) = (false, 0);
    for (index, character) in text.chars().enumerate() {
        if index == MOST {
            cleaned.push('…');
            break;
        }
        if character.is_whitespace() {
            spaces = true;
            continue;
        }
        if std::mem::take(&mut spaces) {
            cleaned.push(' ');
        }
        let character = match is_hostile(character) {
            true => char::REPLACEMENT_CHARACTER,
            false => character,
        };
        marks = match character.width() {
            Some(0) => marks + 1,
            _ => 0,
        };
        if marks <= MOST_MARKS {
            cleaned.push(character);
        }
    }
    if spaces {
        cleaned.push(' ');
    }
    cleaned
}

/// The look of a piece of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    Plain,
    Bold,
    Dim,
    Green,
    Red,
    Yellow,
    Cyan,
}

impl Look {
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Bold => "\x1b[1m",
            Self::Dim => "\x1b[2m",
            Self::Green => "\x1b[32m",
            Self::Red => "\x1b[31m",
            Self::Yellow => "\x1b[33m",
            Self::Cyan => "\x1b[36m",
        }
    }
}

/// The abilities of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Abilities {
    pub(crate) color: bool,
    pub(crate) unicode: bool,
}

/// A line of harmless text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Line {
    parts: Vec<(Look, String)>,
}

impl Line {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds text, made harmless.
    pub(crate) fn push(&mut self, look: Look, text: &str) {
        self.parts.push((look, clean(text)));
    }

    /// Adds text of our own, with all of its spaces.
    pub(crate) fn push_exactly(&mut self, look: Look, text: &str) {
        self.parts.push((look, text.to_owned()));
    }

    /// Adds text, and spaces up to a width, at least one.
    pub(crate) fn push_padded(&mut self, look: Look, text: &str, width: usize) {
        let text = clean(text);
        let spaces = width.saturating_sub(columns_of(&text)).max(1);
        self.parts.push((look, text));
        self.parts.push((Look::Plain, " ".repeat(spaces)));
    }

    pub(crate) fn with(mut self, look: Look, text: &str) -> Self {
        self.push(look, text);
        self
    }

    /// Returns the line with its colours, cut to `width` columns, and the number of its columns.
    pub(crate) fn render(&self, width: usize, abilities: Abilities) -> (String, usize) {
        let mut rendered = String::new();
        let mut columns = 0;
        let total: usize = self.parts.iter().map(|(_, text)| columns_of(text)).sum();
        // In a cut line, the last column is for the mark.
        let room = if total > width {
            width.saturating_sub(1)
        } else {
            width
        };
        let mut is_full = false;
        for (look, text) in &self.parts {
            let code = if abilities.color { look.code() } else { "" };
            rendered.push_str(code);
            for character in text.chars() {
                let wide = character.width().unwrap_or(0);
                is_full |= columns + wide > room;
                if is_full {
                    break;
                }
                columns += wide;
                rendered.push(if abilities.unicode {
                    character
                } else {
                    ascii(character)
                });
            }
            if is_full && width > 0 {
                rendered.push(if abilities.unicode { '…' } else { '~' });
                columns += 1;
            }
            if !code.is_empty() {
                rendered.push_str("\x1b[0m");
            }
            if is_full {
                break;
            }
        }
        (rendered, columns)
    }
}

fn columns_of(text: &str) -> usize {
    text.chars()
        .map(|character| character.width().unwrap_or(0))
        .sum()
}

fn ascii(character: char) -> char {
    match character {
        '…' => '~',
        '├' | '└' => '+',
        '│' => '|',
        '─' | '–' => '-',
        '·' => ',',
        other if other.is_ascii() => other,
        _ => '?',
    }
}

/// Returns a duration in words, with two units at most.
pub(crate) fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    let two = |large: u64, unit: &str, small: u64, smaller: &str| match small {
        0 => format!("{large} {unit}"),
        _ => format!("{large} {unit} {small} {smaller}"),
    };
    match seconds {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => two(seconds / 60, "min", seconds % 60, "s"),
        3600..86_400 => two(seconds / 3600, "h", seconds % 3600 / 60, "min"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

/// Returns whole seconds in words: the rest of a time.
pub(crate) fn countdown(time: Duration) -> String {
    let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    match seconds {
        0..10 => format!("{seconds} s"),
        _ => duration(Duration::from_secs(seconds)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Abilities = Abilities {
        color: true,
        unicode: true,
    };
    const NONE: Abilities = Abilities {
        color: false,
        unicode: false,
    };

    #[test]
    fn hostile_text_is_harmless() {
        for (hostile, harmless) in [
            (
                "\x1b[31mred\x1b]0;title\x07",
                "\u{fffd}[31mred\u{fffd}]0;title\u{fffd}",
            ),
            ("\u{9b}2J\u{90}x\u{9c}", "\u{fffd}2J\u{fffd}x\u{fffd}"),
            ("a\r\nb\tc\u{b}d\u{85}e\u{2028}f", "a b c d e f"),
            ("\x08\x7f\0", "\u{fffd}\u{fffd}\u{fffd}"),
            ("a\u{202e}b\u{2066}c\u{200f}", "a\u{fffd}b\u{fffd}c\u{fffd}"),
            (
                "a\u{200b}\u{2060}\u{feff}\u{e0041}\u{ad}",
                "a\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}",
            ),
            ("Grüße, 注文 👍🏽 é", "Grüße, 注文 👍🏽 é"),
            ("  two  words ", " two words "),
        ] {
            assert_eq!(clean(hostile), harmless, "{hostile:?}");
        }
        let marks = format!("a{}b", "\u{301}".repeat(1000));
        assert_eq!(clean(&marks).chars().count(), 2 + MOST_MARKS);
        assert_eq!(clean(&"x".repeat(1 << 20)).chars().count(), MOST + 1);
    }

    #[test]
    fn every_character_that_is_shown_is_printable() {
        for character in ('\0'..=char::MAX).filter(|c| *c != ' ') {
            let cleaned = clean(&character.to_string());
            assert!(
                !cleaned
                    .chars()
                    .any(|c| c.is_control() || is_hostile(c) && c != '\u{fffd}'),
                "{character:?}"
            );
            let (rendered, columns) = Line::new()
                .with(Look::Plain, &character.to_string())
                .render(5, NONE);
            assert!(
                rendered.bytes().all(|byte| (b' '..=b'~').contains(&byte)),
                "{character:?}"
            );
            assert!(columns <= 3);
        }
    }

    #[test]
    fn lines_are_cut_to_the_columns_that_they_have() {
        let line = Line::new()
            .with(Look::Green, "注文注文")
            .with(Look::Plain, " abc");
        for width in 0..14 {
            let (rendered, columns) = line.render(width, ALL);
            assert!(columns <= width, "{width}: {rendered:?}");
            let codes = rendered.matches("\x1b[").count();
            assert_eq!(codes, 2, "every colour ends: {rendered:?}");
        }
        assert_eq!(line.render(12, NONE), ("???? abc".to_owned(), 12));
        assert_eq!(
            line.render(
                6,
                Abilities {
                    color: false,
                    ..ALL
                }
            ),
            ("注文…".to_owned(), 5)
        );
        assert_eq!(
            line.render(
                99,
                Abilities {
                    color: false,
                    ..ALL
                }
            )
            .0,
            "注文注文 abc"
        );
    }

    #[test]
    fn durations_are_short() {
        for (seconds, text) in [
            (0.44, "0.4 s"),
            (12.9, "12 s"),
            (60.0, "1 min"),
            (200.0, "3 min 20 s"),
            (7500.0, "2 h 5 min"),
            (360_000.0, "4 d 4 h"),
        ] {
            assert_eq!(duration(Duration::from_secs_f64(seconds)), text);
        }
        assert_eq!(countdown(Duration::from_millis(4200)), "5 s");
        assert_eq!(countdown(Duration::from_secs(70)), "1 min 10 s");
    }
}
