//! The table that `just parity` prints: what was compared with Python nnU-Net, how far it differs, how long both
//! took. Tests add their rows to the file that the recipe names; without it they print them.

use std::{fs::OpenOptions, io::Write};

use anyhow::{Context, Result};

/// The variable that names the file.
const FILE: &str = "ROUNDS_PARITY_TABLE";

/// A row.
pub struct Row<'a> {
    /// Part of nnU-Net, such as `plan`.
    pub stage: &'a str,
    /// What it was run on.
    pub dataset: &'a str,
    /// Which values were compared.
    pub compared: &'a str,
    /// The largest difference.
    pub difference: &'a str,
    /// Seconds that ours and Python's took, in the same run with the same number of cores.
    pub seconds: Option<(f64, f64)>,
}

impl std::fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Row {
            stage,
            dataset,
            compared,
            difference,
            seconds,
        } = self;
        write!(f, "{stage:<12}{dataset:<24}{compared:<72}{difference:>14}")?;
        match seconds {
            Some((ours, pythons)) => write!(f, "{ours:>10.2}{pythons:>10.2}{:>8.1}", pythons / ours),
            None => write!(f, "{:>10}{:>10}{:>8}", "", "", ""),
        }
    }
}

/// Adds a row on what was compared of a `dataset`, without times.
///
/// # Errors
/// The file cannot be written.
pub fn compared(stage: &str, dataset: &str, compared: &str, difference: &str) -> Result<()> {
    add(&Row {
        stage,
        dataset,
        compared,
        difference,
        seconds: None,
    })
}

/// Adds a row to the table.
///
/// # Errors
/// The file cannot be written.
pub fn add(row: &Row) -> Result<()> {
    let line = format!("{row}\n");
    let Some(file) = std::env::var_os(FILE) else {
        print!("{line}");
        return Ok(());
    };
    // One write, appended: rows of tests that run at the same time do not mix.
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(&file)
        .and_then(|mut file| file.write_all(line.as_bytes()))
        .with_context(|| format!("{}", file.display()))
}
