//! The name that was probably meant.

use super::{DEFAULT, TrainerVariant};

/// The name of the table that is nearest to an unknown one.
pub(super) fn nearest_name(name: &str) -> &'static str {
    TrainerVariant::all_names()
        .min_by_key(|known| edits(name, known))
        .unwrap_or(DEFAULT.name)
}

/// Levenshtein's distance, without regard to case.
fn edits(a: &str, b: &str) -> usize {
    let (a, b) = (a.to_ascii_lowercase(), b.to_ascii_lowercase());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
