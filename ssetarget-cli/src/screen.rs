//! Lines at the bottom of a terminal that are drawn again and again, and lines above them that stay.

use std::io::{self, Stderr, Stdout, Write};

use crossterm::cursor::{Hide, MoveToColumn, MoveUp, Show};
use crossterm::queue;
use crossterm::terminal::{BeginSynchronizedUpdate, Clear, ClearType, EndSynchronizedUpdate, size};

use crate::text::{Abilities, Line};

/// Lines that stay may wrap, up to this many rows.
const MOST_ROWS: usize = 4;

/// The destination of text.
pub(crate) enum Output {
    Stdout(Stdout),
    Stderr(Stderr),
}

impl Output {
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout(stdout) => stdout.write_all(bytes).and_then(|()| stdout.flush()),
            Self::Stderr(stderr) => stderr.write_all(bytes).and_then(|()| stderr.flush()),
        }
    }
}

/// A terminal with a few lines at its bottom that change.
pub(crate) struct Screen {
    output: Output,
    abilities: Abilities,
    /// The columns of the lines that are on the screen.
    drawn: Vec<usize>,
    /// The bytes of the last frame: an equal frame is not written.
    last: Vec<u8>,
    is_hidden: bool,
}

impl Screen {
    pub(crate) fn new(output: Output, abilities: Abilities) -> Self {
        Self {
            output,
            abilities,
            drawn: Vec::new(),
            last: Vec::new(),
            is_hidden: false,
        }
    }

    /// Returns columns and rows.
    pub(crate) fn size() -> (usize, usize) {
        match size() {
            Ok((columns, rows)) if columns > 0 && rows > 0 => (columns.into(), rows.into()),
            _ => (80, 24),
        }
    }

    /// Replaces the lines at the bottom, and adds lines above them that stay.
    pub(crate) fn draw(&mut self, above: &[Line], lines: &[Line]) -> io::Result<()> {
        let (columns, _) = Self::size();
        // The last column stays free: some terminals wrap when it is written.
        let width = columns.saturating_sub(1).max(1);
        let rendered: Vec<(String, usize)> = lines
            .iter()
            .map(|line| line.render(width, self.abilities))
            .collect();
        let text = rendered.iter().map(|(text, _)| text.as_str());
        let frame = text.collect::<Vec<_>>().join("\n").into_bytes();
        if above.is_empty() && frame == self.last && self.rows(columns) == lines.len() {
            return Ok(());
        }
        let mut bytes = Vec::new();
        queue!(bytes, BeginSynchronizedUpdate)?;
        if !self.is_hidden && !lines.is_empty() {
            queue!(bytes, Hide)?;
            self.is_hidden = true;
        }
        self.erase(&mut bytes, columns)?;
        for line in above {
            bytes.extend_from_slice(line.render(width * MOST_ROWS, self.abilities).0.as_bytes());
            bytes.push(b'\n');
        }
        bytes.extend_from_slice(&frame);
        if self.is_hidden && lines.is_empty() {
            queue!(bytes, Show)?;
            self.is_hidden = false;
        }
        queue!(bytes, EndSynchronizedUpdate)?;
        self.drawn = rendered.into_iter().map(|(_, columns)| columns).collect();
        self.last = frame;
        self.output.write(&bytes)
    }

    /// Removes the lines at the bottom, adds lines that stay, and shows the cursor.
    pub(crate) fn finish(&mut self, above: &[Line]) -> io::Result<()> {
        self.draw(above, &[])
    }

    /// Returns the number of rows of the lines: a terminal that became narrower has wrapped them.
    fn rows(&self, columns: usize) -> usize {
        self.drawn
            .iter()
            .map(|drawn| drawn.div_ceil(columns).max(1))
            .sum()
    }

    fn erase(&self, bytes: &mut Vec<u8>, columns: usize) -> io::Result<()> {
        let up = self.rows(columns).saturating_sub(1);
        queue!(bytes, MoveToColumn(0))?;
        if let Ok(up @ 1..) = u16::try_from(up) {
            queue!(bytes, MoveUp(up))?;
        }
        queue!(bytes, Clear(ClearType::FromCursorDown))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.is_hidden {
            // Nobody can be notified of a failure any more.
            let _ = self.finish(&[]);
        }
    }
}
