//! What a member's account may do at the hub, subject by subject. The hub's server lets nothing else through.
//!
//! Each member has an account of its own, and the hub's account exports to it what stands here. In one account,
//! permissions would not do: the server itself publishes on the reply subject of an allowed request. From another
//! account a reply goes back to that account, and nowhere else.

use schemas::names::{GLOBAL, ORCHESTRATOR, Phase};

use crate::{streams, subjects};

/// Where a member finds JetStream's API, which lies under `$JS.API` at the hub.
pub const API_PREFIX: &str = "HUB.API";

/// How a subject may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// The member publishes on it, and gets at most one answer.
    Say,
    /// The member asks on it, and gets many answers.
    AskMany,
    /// The member hears what the hub says on it.
    Hear,
}

/// One thing that a member may do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// The subject, as the hub's account has it.
    pub subject: String,
    /// How it may be used.
    pub way: Way,
}

impl Right {
    fn say(subject: impl Into<String>) -> Self {
        Self {
            subject: subject.into(),
            way: Way::Say,
        }
    }

    fn ask_many(subject: impl Into<String>) -> Self {
        Self {
            subject: subject.into(),
            way: Way::AskMany,
        }
    }

    fn hear(subject: impl Into<String>) -> Self {
        Self {
            subject: subject.into(),
            way: Way::Hear,
        }
    }

    /// The subject as the member's account has it.
    pub fn here(&self) -> String {
        match self.subject.strip_prefix("$JS.API.") {
            Some(rest) => format!("{API_PREFIX}.{rest}"),
            None => self.subject.clone(),
        }
    }
}

fn direct_get(stream: &str, subject: &str) -> String {
    format!("$JS.API.DIRECT.GET.{stream}.{subject}")
}

/// What a site may do: take and acknowledge its own tasks; say its results, artifacts, announcement, folder, progress
/// and heartbeat; read those again, and what the orchestrator made for all.
///
/// Never here: STREAM.MSG.GET and a bare DIRECT.GET, which read any message; CONSUMER.CREATE, by which the server
/// publishes wherever its author likes; STREAM.INFO, which lists everybody's subjects.
pub fn of_site(site: &str) -> Vec<Right> {
    let mut rights = Vec::new();
    for phase in Phase::ALL.into_iter().filter(|phase| !phase.at_orchestrator()) {
        let (stream, durable) = (streams::TASKS, subjects::durable(site, phase));
        rights.extend([
            Right::say(format!("$JS.API.CONSUMER.INFO.{stream}.{durable}")),
            Right::ask_many(format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}")),
            Right::say(format!("$JS.ACK.{stream}.{durable}.>")),
        ]);
    }
    let (results, artifacts) = (
        format!("rounds.result.{site}.>"),
        format!("rounds.artifact.{site}.>"),
    );
    let (announce, folder) = (subjects::announce(site), subjects::folder(site));
    rights.extend([
        Right::say(direct_get(streams::RESULTS, &results)),
        Right::say(direct_get(streams::ARTIFACTS, &artifacts)),
        Right::say(direct_get(
            streams::ARTIFACTS,
            &format!("rounds.artifact.{GLOBAL}.>"),
        )),
        Right::say(direct_get(streams::SITES, &announce)),
        Right::say(direct_get(streams::SITES, &folder)),
    ]);
    rights.extend([results, artifacts, announce, folder].map(Right::say));
    rights.extend([
        Right::say(subjects::progress(site, "*")),
        Right::say(subjects::heartbeat(site)),
        Right::ask_many(subjects::ask_jobs(site)),
        Right::hear(subjects::heartbeat(ORCHESTRATOR)),
    ]);
    rights
}

/// What a submitter may do: submit, cancel and resume jobs, follow all of them, and fetch what they made.
pub fn of_submitter() -> Vec<Right> {
    let read = [streams::JOBS, streams::RESULTS, streams::SITES]
        .map(|stream| Right::ask_many(format!("$JS.API.DIRECT.GET.{stream}")));
    let mut rights = Vec::from(read);
    rights.extend([
        Right::say(direct_get(streams::ARTIFACTS, "rounds.artifact.>")),
        Right::say(subjects::SUBMIT),
        Right::say(subjects::ALL_ENDS),
        Right::say(subjects::ALL_RESUMES),
        Right::hear(subjects::ALL_PROGRESS),
        Right::hear(subjects::ALL_HEARTBEATS),
    ]);
    rights
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_reaches_no_other_site_and_no_stream_as_a_whole() {
        let rights = of_site("a");
        for right in &rights {
            let Right { subject, .. } = right;
            let own = subject
                .split('.')
                .any(|token| token == "a" || token.starts_with("a_"));
            let shared =
                subject.contains(".rounds.artifact.global.") || *subject == "rounds.heartbeat.orchestrator";
            assert!(own || shared, "{subject}");
            for never in [
                "STREAM.",
                "CONSUMER.CREATE",
                "CONSUMER.DURABLE",
                "DIRECT.GET.ROUNDS_TASKS",
            ] {
                assert!(!subject.contains(never), "{subject}");
            }
            let first_wildcard = subject.split('.').position(|token| token == "*" || token == ">");
            assert!(first_wildcard.is_none_or(|at| at >= 3), "{subject}");
        }
        let pull = format!("$JS.API.CONSUMER.MSG.NEXT.{}.a_infer", streams::TASKS);
        let pull = rights.iter().find(|right| right.subject == pull).unwrap();
        assert_eq!(pull.here(), "HUB.API.CONSUMER.MSG.NEXT.ROUNDS_TASKS.a_infer");
        let ack = rights
            .iter()
            .find(|right| right.subject.starts_with("$JS.ACK"))
            .unwrap();
        assert_eq!(ack.here(), ack.subject);
        assert!(
            !of_submitter()
                .iter()
                .any(|right| right.subject.contains("CONSUMER"))
        );
    }
}
