//! A job that goes on where an earlier one ended.

use pipeline::client::Verdict;
use schemas::event::Finished;
use serde_json::{Value, json};
use tests::federation::Federation;

/// One round more of what job spine trained.
fn message(job: &str, datasets: &[&str], resume_from: Option<&str>, starting_fed_round: u32) -> Value {
    let mut message = json!({
        "job_id": job,
        "datasets": datasets,
        "payload": { "mode": "training", "num_rounds": 1, "dataset_id": 11, "fold_id": 0,
                     "model_configuration": "3d_fullres", "device": "cpu",
                     "starting_fed_round": starting_fed_round },
        "federation": { "iterations_per_epoch": 4, "val_iterations_per_epoch": 1, "shard_cases": 2 },
    });
    if let Some(job) = resume_from {
        message["resume_from"] = job.into();
    }
    message
}

/// Digests of the initial weights and of each average.
fn weights(finished: &Finished) -> Vec<String> {
    let scores = finished.history.scores.iter();
    scores.map(|score| score.weights.clone()).collect()
}

/// Job spine is finished with two rounds: others go on with its averages, or are refused where there is nothing
/// to go on with.
pub fn goes_on(federation: &Federation, earlier: &Finished) {
    let all = ["north-scans", "east-scans", "west-scans"];
    let refused = |message: Value, path: &str, named: &str| match federation.publish(&message.to_string()) {
        Ok(Verdict::Rejected(rejected)) => {
            assert_eq!(rejected.path, path, "{rejected:?}");
            assert!(rejected.reason.contains(named), "{rejected:?}");
        }
        other => panic!("{other:?}"),
    };
    // No job was trained on these two alone.
    refused(message("no", &all[..2], None, 1), "resume_from", "jobs are: ");
    refused(message("no", &all[..2], None, 1), "resume_from", "spine");
    refused(message("no", &all[..2], Some("spine"), 1), "resume_from", "spine");
    refused(message("no", &all, Some("spin"), 1), "resume_from", "spin");
    refused(
        message("no", &all, Some("spine"), 3),
        "payload.starting_fed_round",
        "rounds 0 to 1",
    );

    // Round 1 once more, with the average and the momentum of round 0: the same bytes come of it.
    let again = federation.submit(&message("again", &all, None, 1)).unwrap();
    let again = federation.finished(&again).unwrap();
    assert_eq!(weights(&again), weights(earlier));
    assert_eq!(again.history.epochs.len(), 2);
    assert_eq!(again.history.epochs[0], earlier.history.epochs[0]);
    assert_eq!(again.history.epochs[1].epoch, 1);

    refused(message("no", &all, None, 2), "resume_from", "again, spine");
    let further = message("further", &all, Some("again"), 2);
    let further = federation.submit(&further).unwrap();
    let further = federation.finished(&further).unwrap();
    assert_eq!(weights(&further)[..3], weights(earlier));
    assert_eq!(further.history.scores.len(), 4);
    assert_eq!(further.history.epochs[2].round, 2);
    assert!(!federation.said().contains("the momentum is lost"));
}
