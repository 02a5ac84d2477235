//! How far the work is: a bar on a terminal, now and then a line elsewhere.

use std::{
    collections::HashMap,
    io::IsTerminal,
    sync::Mutex,
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use nnunet::progress::Observer;

/// The least time between two lines where there is no terminal.
const BETWEEN_LINES: Duration = Duration::from_secs(15);

/// Shows the progress of one stretch of work on standard error. Kinds of units may be nested, such as cases and the
/// tiles of each.
pub struct Progress {
    look: Look,
    bars: MultiProgress,
    shown: Mutex<HashMap<String, Shown>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Look {
    Silent,
    Bar,
    Lines,
    /// A line for every unit.
    EveryUnit,
}

/// One kind of unit.
struct Shown {
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
        Self {
            look,
            bars: MultiProgress::new(),
            shown: Mutex::default(),
        }
    }
}

impl Observer for Progress {
    fn advanced(&self, what: &str, done: usize, total: usize) {
        match self.look {
            Look::Silent => return,
            Look::EveryUnit => return eprintln!("{what}: {done} of {total}"),
            Look::Bar | Look::Lines => {}
        }
        // A thread that panicked while it showed progress is no reason to stop the work.
        let mut all = self.shown.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let shown = all.entry(what.to_owned()).or_insert_with(|| Shown {
            done: 0,
            bar: if self.look == Look::Bar {
                self.bars.add(bar(what, total))
            } else {
                ProgressBar::hidden()
            },
            last_line: Instant::now(),
        });
        // Threads may report out of order.
        shown.done = shown.done.max(done);
        if self.look == Look::Bar {
            shown.bar.set_position(shown.done as u64);
        } else if shown.last_line.elapsed() >= BETWEEN_LINES {
            shown.last_line = Instant::now();
            eprintln!("{what}: {} of {total}", shown.done);
        }
        if shown.done >= total {
            shown.bar.finish_and_clear();
            self.bars.remove(&shown.bar);
            all.remove(what);
        }
    }
}

fn bar(what: &str, total: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {bar:40} {pos}/{len} [{elapsed}<{eta}]")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total as u64)
        .with_style(style)
        .with_message(what.to_owned())
}
