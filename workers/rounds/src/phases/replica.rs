//! What decides the bytes of a site's training: build, device, threads, instruction set. All of a site's workers on a
//! job must be alike in it.
//!
//!     jobs/<job>/replica.json     of the first of them

use std::fs;

use pipeline::worker::Described;
use schemas::task::{Failure, Task};
use serde_json::{Value, json};

use super::failure;
use crate::{
    job_folder::REPLICA,
    parts::{REVISION, VERSION},
    site::{Site, write_first},
};

/// Refuses a worker that is not like the first that trained for the job here. A worker that is like it may take the
/// next attempt.
pub fn check(site: &Site, task: &Task, described: &Described) -> Result<(), Failure> {
    let file = site.job(task).join(REPLICA);
    let own = json!({
        "build": format!("{VERSION} {REVISION}"),
        "device": described.device,
        "threads": described.threads,
        "instruction set": described.instruction_set,
    });
    let io = |error| failure::io("the job's replica", &file, &error);
    write_first(&file, own.to_string().as_bytes()).map_err(io)?;
    let first: Value = serde_json::from_slice(&fs::read(&file).map_err(io)?).unwrap_or_default();
    let Some(differs) = difference(&first, &own) else {
        return Ok(());
    };
    if site.settings.unlike_replicas {
        tracing::warn!(job = task.key.job, "{differs}: its bytes may differ");
        return Ok(());
    }
    Err(Failure::retryable("replica-differs", differs))
}

fn difference(first: &Value, own: &Value) -> Option<String> {
    let (name, value) = own
        .as_object()?
        .iter()
        .find(|(name, value)| first.get(name) != Some(value))?;
    let before = first.get(name).unwrap_or(&Value::Null);
    Some(format!(
        "this worker's {name} is {value}; the site began the job with {before}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_named() {
        let first = json!({ "build": "0.1.0", "threads": 4 });
        assert_eq!(difference(&first, &first), None);
        let said = difference(&first, &json!({ "build": "0.1.0", "threads": 2 })).unwrap();
        assert_eq!(said, "this worker's threads is 2; the site began the job with 4");
        assert!(difference(&Value::Null, &first).unwrap().contains("build"));
    }
}
