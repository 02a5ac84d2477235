//! Whether a submitted message is a job: all that can be said without a stream.

use std::collections::BTreeMap;

use schemas::{
    Invalid, PROTOCOL_VERSION,
    event::{Accepted, Event, Member},
    job::{Device, JobMessage, Payload},
    names,
    site::Announce,
    task::ArtifactRef,
};

use super::resume;

/// A job that was accepted at some time.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// How it was accepted.
    pub accepted: Accepted,
    /// Whether it has ended.
    pub ended: bool,
    /// How often it was resumed.
    pub resumes: u32,
    /// Its results folder, when it finished training.
    pub results: Option<ArtifactRef>,
}

impl Known {
    /// Takes an event of the job, as its record does.
    pub fn happened(&mut self, event: &Event) {
        match event {
            Event::Resumed(resumed) if resumed.number == self.resumes + 1 => {
                self.resumes = resumed.number;
                self.ended = false;
            }
            event if event.resumes() == Some(self.resumes) && !self.ended => {
                self.ended = true;
                if let Event::Finished(finished) = event {
                    self.results.clone_from(&finished.results);
                }
            }
            _ => {}
        }
    }
}

/// The id of a submit: the message's own, or `job-<sequence>`. Also for a message that is no job.
pub(super) fn job_id(payload: &[u8], submit: u64) -> String {
    let given = serde_json::from_slice::<serde_json::Value>(payload).ok();
    let given = given.as_ref().and_then(|message| message["job_id"].as_str());
    match given {
        Some(id) if names::check_token("job_id", id).is_ok() => id.to_owned(),
        _ => format!("job-{submit}"),
    }
}

/// Refuses an id that is used, or that a later submit would get.
pub(super) fn check_id(message: &JobMessage, known: &BTreeMap<String, Known>) -> Result<(), Invalid> {
    let Some(id) = &message.job_id else {
        return Ok(());
    };
    if known.contains_key(id) {
        return Err(Invalid::new(
            "job_id",
            format!("{id:?} is used by an earlier job"),
        ));
    }
    let reserved = id
        .strip_prefix("job-")
        .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()));
    if reserved {
        let reason = format!("{id:?}: ids of the form job-<number> are for jobs that give none");
        return Err(Invalid::new("job_id", reason));
    }
    Ok(())
}

/// Finds the site of each data set, sorted by site. `own`: the orchestrator's version, and its algorithm's.
pub(super) fn members(
    message: &JobMessage,
    sites: &[Announce],
    own: (&str, u32),
) -> Result<Vec<Member>, Invalid> {
    let mut members: Vec<Member> = Vec::new();
    for (index, dataset) in message.datasets.iter().enumerate() {
        let path = format!("datasets[{index}]");
        let holders: Vec<&Announce> = sites
            .iter()
            .filter(|site| site.datasets.iter().any(|offered| offered.id == *dataset))
            .collect();
        let site = match holders[..] {
            [site] => site,
            [] => {
                let mut offered: Vec<&str> = sites
                    .iter()
                    .flat_map(|site| &site.datasets)
                    .map(|set| &*set.id)
                    .collect();
                offered.sort_unstable();
                let offered = match offered[..] {
                    [] => "no site has announced any".to_owned(),
                    _ => format!("announced are {}", offered.join(", ")),
                };
                return Err(Invalid::new(
                    path,
                    format!("no site has data set {dataset:?}; {offered}"),
                ));
            }
            _ => {
                let names: Vec<&str> = holders.iter().map(|site| &*site.site).collect();
                let reason = format!(
                    "data set {dataset:?} is announced by several sites: {}",
                    names.join(", ")
                );
                return Err(Invalid::new(path, reason));
            }
        };
        if let Some(other) = members.iter().find(|member| member.site == site.site) {
            let reason = format!(
                "{dataset:?} and {:?} are both at site {}: data sets of one job must be at different sites",
                other.dataset, site.site
            );
            return Err(Invalid::new(path, reason));
        }
        members.push(member(message, &path, dataset, site, own)?);
    }
    for site in message.federation.site_devices.keys() {
        if !members.iter().any(|member| member.site == *site) {
            let path = format!("federation.site_devices.{site}");
            return Err(Invalid::new(path, "not a site of this job's data sets"));
        }
    }
    members.sort_by(|a, b| a.site.cmp(&b.site));
    Ok(members)
}

fn member(
    message: &JobMessage,
    path: &str,
    dataset: &str,
    site: &Announce,
    own: (&str, u32),
) -> Result<Member, Invalid> {
    let name = &site.site;
    let (version, algorithm) = own;
    if (site.protocol, site.algorithm) != (PROTOCOL_VERSION, algorithm) {
        let reason = format!(
            "site {name} runs version {} (protocol {}, algorithm {}); the orchestrator runs {version} (protocol \
             {PROTOCOL_VERSION}, algorithm {algorithm})",
            site.version, site.protocol, site.algorithm
        );
        return Err(Invalid::new(path, reason));
    }
    let offered = site.datasets.iter().find(|offered| offered.id == dataset);
    let offered = offered.ok_or_else(|| Invalid::new(path, format!("site {name} does not have it")))?;
    let own_device = message.federation.site_devices.get(name).copied();
    let (device_path, device) = match (&message.payload, own_device) {
        (_, Some(device)) => (format!("federation.site_devices.{name}"), Some(device)),
        (Payload::Training(training), None) => ("payload.device".to_owned(), Some(training.device)),
        (Payload::Inference(inference), None) => ("payload.device".to_owned(), inference.device),
    };
    if let Some(device) = device.filter(|device| !site.devices.contains(device)) {
        let has: Vec<&str> = site.devices.iter().copied().map(Device::as_str).collect();
        let reason = format!(
            "site {name} has no device {}; it has {}",
            device.as_str(),
            has.join(", ")
        );
        return Err(Invalid::new(device_path, reason));
    }
    if let Payload::Training(training) = &message.payload {
        if offered.dataset_id != training.dataset_id {
            let reason = format!(
                "{}: data set {dataset:?} at site {name} has the id {}",
                training.dataset_id, offered.dataset_id
            );
            return Err(Invalid::new("payload.dataset_id", reason));
        }
        if offered.cases == 0 {
            return Err(Invalid::new(
                path,
                format!("{dataset:?} at site {name} has no training cases"),
            ));
        }
    }
    Ok(Member {
        site: name.clone(),
        dataset: dataset.to_owned(),
        device,
        cases: offered.cases,
    })
}

/// The earlier job that a message with starting_fed_round > 0 continues; none for one that starts anew.
pub(super) fn earlier_job(
    message: &JobMessage,
    known: &BTreeMap<String, Known>,
) -> Result<Option<String>, Invalid> {
    let Payload::Training(training) = &message.payload else {
        return Ok(None);
    };
    if training.starting_fed_round == 0 {
        return Ok(None);
    }
    let earlier = match &message.resume_from {
        Some(id) => known
            .get_key_value(id)
            .ok_or_else(|| Invalid::new("resume_from", format!("there is no job {id:?}")))?,
        None => {
            let matching: Vec<_> = known
                .iter()
                .filter(|(_, known)| resume::matches(&known.accepted, message))
                .collect();
            match matching[..] {
                [one] => one,
                [] => {
                    let all: Vec<&str> = known.keys().map(String::as_str).collect();
                    let reason = format!(
                        "not given, and no earlier job has the same data sets, configuration, fold and trainer; jobs are: {}",
                        if all.is_empty() {
                            "none".to_owned()
                        } else {
                            all.join(", ")
                        }
                    );
                    return Err(Invalid::new("resume_from", reason));
                }
                _ => {
                    let names: Vec<&str> = matching.iter().map(|(id, _)| &***id).collect();
                    let reason = format!("not given, and several earlier jobs match: {}", names.join(", "));
                    return Err(Invalid::new("resume_from", reason));
                }
            }
        }
    };
    let (id, known) = earlier;
    if !resume::matches(&known.accepted, message) {
        let reason =
            format!("job {id} has other data sets, another configuration, fold or trainer, or was a dry run");
        return Err(Invalid::new("resume_from", reason));
    }
    if !known.ended {
        return Err(Invalid::new("resume_from", format!("job {id} has not ended yet")));
    }
    Ok(Some(id.clone()))
}

/// The results folder of the model that a message names `job:<id>`; none for a folder at the sites.
pub(super) fn model(
    message: &JobMessage,
    known: &BTreeMap<String, Known>,
) -> Result<Option<ArtifactRef>, Invalid> {
    let Some((path, id)) = message
        .model()
        .and_then(|model| Some((model.path_field, model.job()?)))
    else {
        return Ok(None);
    };
    let Some(known) = known.get(id) else {
        return Err(Invalid::new(path, format!("there is no job {id:?}")));
    };
    match &known.results {
        Some(results) => Ok(Some(results.clone())),
        None => Err(Invalid::new(
            path,
            format!("job {id:?} has no results: expected a finished training job"),
        )),
    }
}
