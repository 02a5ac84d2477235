//! How far the work is: a bar on a terminal, now and then a line elsewhere.

use std::{
    io::IsTerminal,
    sync::Mutex,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use nnunet::progress::Observer;

/// The least time between two lines where there is no terminal.
const BETWEEN_LINES: Duration = Duration::from_secs(15);

/// Shows the progress of one stretch of work on standard error.
pub struct Progress {
    look: Look,
    shown: Mutex<Option<Shown>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Look {
    Silent,
    Bar,
    Lines,
    /// A line for every unit.
    EveryUnit,
}

struct Shown {
    what: String,
    done: usize,
    bar: ProgressBar,
    last_line: Instant,
}

impl Progress {
    /// As nnU-Net's `--verbose` and `--no_pbar` ask.
    pub fn new(verbose: bool, hidden: bool) -> Self {
        let look = match (verbose, hidden) {
            (true, _) => Look::EveryUnit,
            (false, true) => Look::Silent,
            (false, false) if std::io::stderr().is_terminal() => Look::Bar,
            (false, false) => Look::Lines,
        };
        Self { look, shown: Mutex::new(None) }
    }
}

impl Observer for Progress {
    fn advanced(&self, what: &str, done: usize, total: usize) {
        if self.look == Look::Silent {
            return;
        }
        // A thread that panicked while it showed progress is no reason to stop the work.
        let mut shown = self.shown.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if shown.as_ref().is_none_or(|shown| shown.what != what || done < shown.done && done <= 1) {
            *shown = Some(Shown {
                what: what.to_owned(),
                done: 0,
                bar: if self.look == Look::Bar { bar(what, total) } else { ProgressBar::hidden() },
                last_line: Instant::now(),
            });
        }
        let Some(shown) = shown.as_mut() else {
            return;
        };
        // Threads may report out of order.
        shown.done = shown.done.max(done);
        match self.look {
            Look::Silent => {}
            Look::Bar => {
                shown.bar.set_position(shown.done as u64);
                if shown.done >= total {
                    shown.bar.finish_and_clear();
                }
            }
            Look::EveryUnit => eprintln!("{what}: {done} of {total}"),
            Look::Lines if shown.last_line.elapsed() >= BETWEEN_LINES => {
                shown.last_line = Instant::now();
                eprintln!("{what}: {} of {total}", shown.done);
            }
            Look::Lines => {}
        }
    }
}

fn bar(what: &str, total: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {bar:40} {pos}/{len} [{elapsed}<{eta}]")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total as u64).with_style(style).with_message(what.to_owned())
}
