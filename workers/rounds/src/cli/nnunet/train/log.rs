//! nnU-Net's training log: on standard output and in training_log_*.txt.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context;

/// The log of one run of `train`.
pub struct TrainingLog {
    file: File,
    path: String,
}

impl TrainingLog {
    /// Starts a log in a fold's folder, named after the time.
    pub fn create(fold: &Path) -> anyhow::Result<Self> {
        let Local {
            year,
            month,
            day,
            hour,
            minute,
            second,
            ..
        } = now();
        // The name is nnU-Net's, which pads only the time.
        let name = format!("training_log_{year}_{month}_{day}_{hour:02}_{minute:02}_{second:02}.txt");
        let path = fold.join(name);
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("{}", path.display()))?;
        Ok(Self {
            file,
            path: path.display().to_string(),
        })
    }

    /// Writes a line with the time in front.
    pub fn line(&mut self, text: impl std::fmt::Display) -> anyhow::Result<()> {
        let Local {
            year,
            month,
            day,
            hour,
            minute,
            second,
            microsecond,
        } = now();
        self.plain(format!(
            "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{microsecond:06}: {text}"
        ))
    }

    /// Writes a line as it is.
    pub fn plain(&mut self, text: impl std::fmt::Display) -> anyhow::Result<()> {
        println!("{text}");
        writeln!(self.file, "{text}").with_context(|| self.path.clone())
    }
}

/// Seconds since 1970.
pub fn unix_seconds() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |elapsed| elapsed.as_secs_f64())
}

struct Local {
    year: i32,
    month: i32,
    day: i32,
    hour: i32,
    minute: i32,
    second: i32,
    microsecond: u32,
}

/// The local time, as Python's datetime gives it.
fn now() -> Local {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = elapsed.as_secs() as libc::time_t;
    // SAFETY: both pointers are to values on this stack; tm has no invalid bit patterns.
    let tm = unsafe {
        let mut tm: libc::tm = std::mem::zeroed();
        libc::localtime_r(&seconds, &mut tm);
        tm
    };
    Local {
        year: tm.tm_year + 1900,
        month: tm.tm_mon + 1,
        day: tm.tm_mday,
        hour: tm.tm_hour,
        minute: tm.tm_min,
        second: tm.tm_sec,
        microsecond: elapsed.subsec_micros(),
    }
}
