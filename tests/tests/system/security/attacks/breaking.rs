//! Breaking what others need.

use serde_json::json;

use super::{ALPHA, Attack, FORGED, attack};

/// Breaking what others need.
pub(super) fn attacks() -> Vec<Attack> {
    let api = "HUB.API";
    let mut attacks = vec![
        attack(
            "acknowledge another site's task",
            format!("$JS.ACK.ROUNDS_TASKS.{ALPHA}_train-round.1.1.1.1.0"),
            "+ACK",
        ),
        attack(
            "end another site's task",
            format!("$JS.ACK.ROUNDS_TASKS.{ALPHA}_fingerprint.1.1.1.1.0"),
            "+TERM",
        ),
        attack(
            "delete another site's queue",
            format!("{api}.CONSUMER.DELETE.ROUNDS_TASKS.{ALPHA}_train-round"),
            "",
        ),
        attack(
            "pause another site's queue",
            format!("{api}.CONSUMER.PAUSE.ROUNDS_TASKS.{ALPHA}_train-round"),
            json!({ "pause_until": "2100-01-01T00:00:00Z" }),
        ),
        attack(
            "make the server step down",
            format!("{api}.STREAM.LEADER.STEPDOWN.ROUNDS_TASKS"),
            "",
        ),
        attack(
            "make a stream of one's own",
            format!("{api}.STREAM.CREATE.{FORGED}"),
            json!({ "name": FORGED, "subjects": ["rounds.evil"] }),
        ),
        attack(
            "mirror the artifacts into one's own account",
            "$JS.API.STREAM.CREATE.COPY",
            json!({ "name": "COPY", "mirror": { "name": "ROUNDS_ARTIFACTS", "external": { "api": "HUB.API" } } }),
        ),
        attack("purge the account", format!("{api}.ACCOUNT.PURGE.HUB"), ""),
        attack(
            "have the server read another configuration",
            "$SYS.REQ.SERVER.PING.RELOAD",
            "",
        ),
        attack(
            "throw others out",
            "$SYS.REQ.SERVER.PING.KICK",
            json!({ "cid": 5 }),
        ),
    ];
    for stream in ["JOBS", "TASKS", "RESULTS", "ARTIFACTS", "SITES"] {
        let stream = format!("ROUNDS_{stream}");
        attacks.extend([
            attack("purge a stream", format!("{api}.STREAM.PURGE.{stream}"), ""),
            attack("delete a stream", format!("{api}.STREAM.DELETE.{stream}"), ""),
            attack(
                "change a stream",
                format!("{api}.STREAM.UPDATE.{stream}"),
                json!({ "name": stream, "subjects": ["rounds.nothing"] }),
            ),
            attack(
                "delete a message",
                format!("{api}.STREAM.MSG.DELETE.{stream}"),
                json!({ "seq": 1 }),
            ),
        ]);
    }
    attacks
}
