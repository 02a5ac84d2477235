//! Reading what is others'.

use serde_json::json;

use super::{ALPHA, Attack, MALLORY, attack};

/// Reading what is others'. `job` is at work.
pub(super) fn attacks(job: &str) -> Vec<Attack> {
    let alpha_task = format!("rounds.task.{ALPHA}.>");
    let (alpha_result, alpha_artifact) = (
        format!("rounds.result.{ALPHA}.fingerprint.{job}.0.0.0.1"),
        format!("rounds.artifact.{ALPHA}.{job}.{}.0", "0".repeat(64)),
    );
    let api = "HUB.API";
    let next = |subject: &str| json!({ "seq": 1, "next_by_subj": subject });
    let push = |deliver: &str, filter: &str| {
        json!({ "stream_name": "ROUNDS_RESULTS", "config": {
            "name": "push", "deliver_subject": deliver, "deliver_policy": "all", "ack_policy": "none",
            "filter_subject": filter, "mem_storage": true } })
    };
    let pull = json!({ "stream_name": "ROUNDS_TASKS", "config": {
        "name": "pull", "deliver_policy": "all", "ack_policy": "none", "filter_subject": alpha_task } });
    let mut attacks = vec![
        attack(
            "take the next task of another site",
            format!("{api}.CONSUMER.MSG.NEXT.ROUNDS_TASKS.{ALPHA}_train-round"),
            json!({ "batch": 1, "no_wait": true }),
        ),
        attack(
            "take the orchestrator's next task",
            format!("{api}.CONSUMER.MSG.NEXT.ROUNDS_TASKS.orchestrator_average"),
            json!({ "batch": 1, "no_wait": true }),
        ),
        attack(
            "look at another site's queue",
            format!("{api}.CONSUMER.INFO.ROUNDS_TASKS.{ALPHA}_infer"),
            "",
        ),
        attack(
            "read another site's result by its subject",
            format!("{api}.DIRECT.GET.ROUNDS_RESULTS.{alpha_result}"),
            "",
        ),
        attack(
            "read another site's update by its subject",
            format!("{api}.DIRECT.GET.ROUNDS_ARTIFACTS.{alpha_artifact}"),
            "",
        ),
        attack(
            "read another site's task by its subject",
            format!("{api}.DIRECT.GET.ROUNDS_TASKS.{alpha_task}"),
            "",
        ),
        attack(
            "read any result by a bare direct get",
            format!("{api}.DIRECT.GET.ROUNDS_RESULTS"),
            next("rounds.result.>"),
        ),
        attack(
            "read any artifact by a bare direct get",
            format!("{api}.DIRECT.GET.ROUNDS_ARTIFACTS"),
            next("rounds.artifact.>"),
        ),
        attack(
            "read all jobs by a bare direct get",
            format!("{api}.DIRECT.GET.ROUNDS_JOBS"),
            next("rounds.>"),
        ),
        attack(
            "read a job's submit by its subject",
            format!("{api}.DIRECT.GET.ROUNDS_JOBS.rounds.submit"),
            "",
        ),
        attack(
            "list artifacts with their subjects",
            format!("{api}.STREAM.INFO.ROUNDS_ARTIFACTS"),
            json!({ "subjects_filter": ">" }),
        ),
        attack("list the streams", format!("{api}.STREAM.LIST"), ""),
        attack(
            "list the consumers",
            format!("{api}.CONSUMER.LIST.ROUNDS_TASKS"),
            "",
        ),
        attack(
            "make a pull consumer on all tasks",
            format!("{api}.CONSUMER.CREATE.ROUNDS_TASKS"),
            &pull,
        ),
        attack(
            "make a push consumer to an inbox",
            format!("{api}.CONSUMER.CREATE.ROUNDS_RESULTS.push"),
            push("_INBOX.mallory", "rounds.result.>"),
        ),
        attack(
            "make a push consumer that speaks as another site",
            format!("{api}.CONSUMER.CREATE.ROUNDS_RESULTS.push.rounds.result.{MALLORY}.>"),
            push(&alpha_result, &format!("rounds.result.{MALLORY}.>")),
        ),
        attack(
            "make a durable consumer by the old API",
            format!("{api}.CONSUMER.DURABLE.CREATE.ROUNDS_TASKS.{ALPHA}_infer"),
            &pull,
        ),
        attack(
            "take a snapshot of the artifacts",
            format!("{api}.STREAM.SNAPSHOT.ROUNDS_ARTIFACTS"),
            json!({ "deliver_subject": "_INBOX.mallory" }),
        ),
        attack(
            "ask for another site's jobs",
            format!("rounds.ask.{ALPHA}.jobs"),
            "",
        ),
        attack("read the server's accounts", "$SYS.REQ.SERVER.PING.ACCOUNTZ", ""),
        attack("read the server's connections", "$SYS.REQ.SERVER.PING.CONNZ", ""),
    ];
    for stream in ["JOBS", "TASKS", "RESULTS", "ARTIFACTS", "SITES"] {
        attacks.push(attack(
            "read any message of a stream by its number",
            format!("{api}.STREAM.MSG.GET.ROUNDS_{stream}"),
            json!({ "seq": 1 }),
        ));
        attacks.push(attack(
            "the same without the prefix",
            format!("$JS.API.STREAM.MSG.GET.ROUNDS_{stream}"),
            json!({ "seq": 1 }),
        ));
    }
    attacks
}
