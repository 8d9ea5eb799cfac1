//! Talk goes to stderr, data to stdout; both may be closed by whoever reads them.

use std::io::{self, IsTerminal, Write};

/// Says something to the person at the terminal.
pub fn say(words: impl std::fmt::Display) {
    // A closed stderr is no reason to stop.
    drop(writeln!(io::stderr().lock(), "{words}"));
}

/// Writes a line of data.
///
/// # Errors
/// When stdout is closed.
pub fn data(line: impl std::fmt::Display) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{line}")
}

/// Shows how long work gets on: a line that is rewritten on a terminal, and a plain line every
/// tenth of the way elsewhere.
pub struct Progress {
    bar: Option<indicatif::ProgressBar>,
    what: &'static str,
    total: u64,
    done: u64,
    said: u64,
}

impl Progress {
    /// Begins work of so many steps.
    #[must_use]
    pub fn new(what: &'static str, total: u64) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = indicatif::ProgressBar::new(total);
            bar.set_message(what);
            bar
        });
        Self { bar, what, total, done: 0, said: 0 }
    }

    /// Notes that a step is done.
    pub fn step(&mut self) {
        self.steps(1);
    }

    /// Notes that so many steps are done.
    pub fn steps(&mut self, count: u64) {
        self.done += count;
        match &self.bar {
            Some(bar) => bar.inc(count),
            None => {
                let tenth = self.done * 10 / self.total.max(1);
                if tenth > self.said {
                    self.said = tenth;
                    say(format_args!("{}: {} of {}", self.what, self.done, self.total));
                }
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
