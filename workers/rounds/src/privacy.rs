//! What a job's updates give away, in words.

use nnunet::privacy::{MEANINGLESS, epsilon};
use pipeline::conductor::Record;
use schemas::{
    job::{Payload, Privacy},
    names::Phase,
    task::{Outcome, TaskOutput},
};

/// Epsilon after `rounds` rounds, its unit, and whether it says anything.
pub fn guarantee(privacy: &Privacy, rounds: u32) -> String {
    let epsilon = epsilon(privacy.noise_multiplier, rounds, privacy.delta);
    let judged = if epsilon > MEANINGLESS {
        ": no meaningful protection"
    } else {
        ""
    };
    format!(
        "epsilon {epsilon:.2} at delta {} after {rounds} rounds, the unit being a site and all its cases{judged}; of its \
         updates alone, not of the fingerprint, losses or scores",
        privacy.delta
    )
}

/// The guarantee of what the sites have sent so far: that of the site that sent most updates. None for a job without.
pub fn so_far(record: &Record) -> Option<String> {
    let accepted = record.accepted.as_ref()?;
    let privacy = accepted.message.federation.privacy.as_ref()?;
    let Payload::Training(_) = &accepted.message.payload else {
        return None;
    };
    let sent = |site: &str| {
        let own = record
            .results
            .values()
            .filter(|result| result.key.site == site && result.key.phase == Phase::TrainRound);
        own.filter(|result| {
            matches!(
                &result.outcome,
                Outcome::Done {
                    output: TaskOutput::Trained { update: Some(_), .. }
                }
            )
        })
        .count() as u32
    };
    let most = accepted.members.iter().map(|member| sent(&member.site)).max();
    Some(guarantee(privacy, most.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use schemas::job::PrivacyUnit;

    use super::*;

    #[test]
    fn a_guarantee_says_its_unit_and_when_it_is_none() {
        let privacy = |noise_multiplier| Privacy {
            clip: 1.0,
            noise_multiplier,
            delta: 1e-5,
            unit: PrivacyUnit::Site,
        };
        assert_eq!(
            guarantee(&privacy(2.0), 10),
            "epsilon 8.08 at delta 0.00001 after 10 rounds, the unit being a site and all its cases; of its updates alone, \
             not of the fingerprint, losses or scores"
        );
        let weak = guarantee(&privacy(0.5), 10);
        assert!(
            weak.starts_with("epsilon 48.7") && weak.contains("no meaningful protection"),
            "{weak}"
        );
    }
}
