//! Speaking for others.

use serde_json::json;

use super::{ALPHA, Attack, FORGED, MALLORY, attack, through_reply, with_headers};

/// Speaking for others.
pub(super) fn attacks(job: &str) -> Vec<Attack> {
    let result = |site: &str, round: u32| format!("rounds.result.{site}.train-round.{job}.{round}.0.0.1");
    let answer = json!({ "key": { "site": ALPHA, "phase": "train-round", "job": job, "round": 1, "pass": 0,
        "shard": 0, "attempt": 1 }, "outcome": "failed", "failure": { "code": FORGED, "message": FORGED, "retryable": false } });
    let announce = json!({ "site": ALPHA, "protocol": 1, "version": FORGED, "datasets": [], "devices": ["cpu"], "time": "" });
    let own = format!("rounds.result.{MALLORY}.infer.{FORGED}.0.0.0.1");
    let at = "rounds.result";
    vec![
        attack("answer another site's task", result(ALPHA, 0), &answer),
        attack(
            "answer another site's task of a round to come",
            result(ALPHA, 1),
            &answer,
        ),
        attack(
            "answer the orchestrator's task",
            format!("{at}.orchestrator.average.{job}.0.0.0.1"),
            &answer,
        ),
        attack("store bytes that are found again", own.clone(), FORGED),
        through_reply(
            "answer as another site through the reply of a direct get",
            format!("HUB.API.DIRECT.GET.ROUNDS_RESULTS.{own}"),
            "",
            &result(ALPHA, 1),
        ),
        through_reply(
            "answer as another site through the reply of a pull",
            format!("HUB.API.CONSUMER.MSG.NEXT.ROUNDS_TASKS.{MALLORY}_infer"),
            json!({ "batch": 1, "no_wait": true }),
            &result(ALPHA, 1),
        ),
        through_reply(
            "answer as another site through the reply of a look at a queue",
            format!("HUB.API.CONSUMER.INFO.ROUNDS_TASKS.{MALLORY}_infer"),
            FORGED,
            &result(ALPHA, 1),
        ),
        through_reply(
            "answer as another site through the reply of an allowed publish",
            format!("rounds.artifact.{MALLORY}.{FORGED}.{}.0", "0".repeat(64)),
            FORGED,
            &result(ALPHA, 1),
        ),
        through_reply(
            "end the job through the reply of a direct get",
            format!("HUB.API.DIRECT.GET.ROUNDS_RESULTS.{own}"),
            "",
            &format!("rounds.job.{job}.end.0"),
        ),
        with_headers(
            attack(
                "answer as another site by a schedule",
                format!("rounds.result.{MALLORY}.infer.{FORGED}.0.0.1.1"),
                FORGED,
            ),
            &[
                ("Nats-Schedule", "@at 2020-01-01T00:00:00Z"),
                ("Nats-Schedule-Target", &result(ALPHA, 1)),
            ],
        ),
        with_headers(
            attack(
                "wipe a stream by a roll-up",
                format!("rounds.result.{MALLORY}.infer.{FORGED}.0.0.2.1"),
                FORGED,
            ),
            &[("Nats-Rollup", "all")],
        ),
        attack(
            "store an update as another site",
            format!("rounds.artifact.{ALPHA}.{job}.{}.0", "0".repeat(64)),
            FORGED,
        ),
        attack(
            "replace the global weights",
            format!("rounds.artifact.global.{job}.{}.0", "0".repeat(64)),
            FORGED,
        ),
        attack(
            "announce as another site",
            format!("rounds.site.{ALPHA}.announce"),
            &announce,
        ),
        attack(
            "move another site's folder",
            format!("rounds.site.{ALPHA}.folder"),
            json!({ "site": ALPHA, "mark": FORGED }),
        ),
        attack(
            "beat as another site",
            format!("rounds.heartbeat.{ALPHA}"),
            FORGED,
        ),
        attack(
            "beat as the orchestrator",
            "rounds.heartbeat.orchestrator",
            FORGED,
        ),
        attack(
            "tell of another site's progress",
            format!("rounds.progress.{ALPHA}.{job}"),
            FORGED,
        ),
        attack(
            "give another site a task",
            format!("rounds.task.{ALPHA}.train-round.{job}.9.0.0.1"),
            FORGED,
        ),
        attack(
            "give oneself a task",
            format!("rounds.task.{MALLORY}.train-round.{job}.9.0.0.1"),
            FORGED,
        ),
        attack(
            "release a round",
            format!("rounds.job.{job}.release.train-round.1.0"),
            FORGED,
        ),
        attack(
            "fail the job",
            format!("rounds.job.{job}.end.0"),
            json!({ "event": "failed", "job": job, "reason": FORGED }),
        ),
        attack(
            "say that a deadline has passed",
            format!("rounds.job.{job}.deadline.train-round.0.0"),
            FORGED,
        ),
        attack(
            "accept a job of one's own",
            format!("rounds.job.{FORGED}.verdict.1"),
            FORGED,
        ),
        attack(
            "submit a job",
            "rounds.submit",
            json!({ "job_id": FORGED, "datasets": [ALPHA], "payload": { "mode": "training",
            "num_rounds": 1, "dataset_id": 61, "model_configuration": "2d", "device": "cpu" } }),
        ),
        attack(
            "tell another site that its jobs have ended",
            format!("rounds.ask.{ALPHA}.jobs"),
            FORGED,
        ),
    ]
}
