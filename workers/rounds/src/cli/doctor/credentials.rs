//! What a site proves itself with, and whether the hub keeps it to its own.

use std::path::Path;

use pipeline::{
    clock,
    connection::{Connection, host_of, is_loopback},
    known, probe,
    signing::Signer,
};
use schemas::roster::Roster;

use super::Findings;
use crate::{
    provision::{certificates, files},
    settings::SiteSettings,
};

/// A certificate that ends sooner is worth a word.
const SOON_DAYS: i64 = 30;

/// The key, the certificates and the roster, as they lie here.
pub(super) fn look(settings: &SiteSettings, findings: &mut Findings) {
    let nats = &settings.nats;
    if let Some(file) = &nats.nkey {
        key(settings, file, findings);
    }
    let own = nats.certificate.as_ref().map(|(certificate, _)| certificate);
    for file in own.into_iter().chain(&nats.ca) {
        certificate(file, findings);
    }
    if let Some((_, file)) = &nats.certificate {
        owner_only(file, findings);
    }
}

/// False, and said, where others may read a secret, or nobody.
fn owner_only(file: &Path, findings: &mut Findings) -> bool {
    match files::is_open(file) {
        Ok(false) => return true,
        Ok(true) => findings.broken(
            "key",
            format!("{}: others on this machine may read it", file.display()),
            "chmod 600; and where others may have read it, ask the hub to rotate it",
        ),
        Err(error) => findings.broken(
            "key",
            format!("{error:#}"),
            "it came in this site's folder from the hub",
        ),
    }
    false
}

fn key(settings: &SiteSettings, file: &Path, findings: &mut Findings) {
    if !owner_only(file, findings) {
        return;
    }
    let signer = match Signer::read(file) {
        Ok(signer) => signer,
        Err(error) => {
            let advice = "nats.nkey names the file with this site's seed, SU...";
            return findings.broken("key", error, advice);
        }
    };
    let public = signer.public();
    let Some(roster) = &settings.roster else {
        return findings.fine("key", public);
    };
    let roster = files::read(roster).and_then(|text| Ok(schemas::parse::<Roster>(text.as_bytes())?));
    match roster {
        Err(error) => findings.broken("roster", format!("{error:#}"), "ask the hub for its roster.json"),
        Ok(roster) => match roster.sites.get(&settings.site) {
            Some(keys) if keys.current.iter().any(|key| key == public) => {
                findings.fine("key", format!("{public}, as in the roster"));
            }
            Some(keys) if keys.former.iter().any(|key| key == public) => findings.broken(
                "key",
                format!("{public}: was replaced or revoked"),
                "ask the hub for the new key, or why there is none",
            ),
            _ => findings.broken(
                "key",
                format!("{public}: is not site {}'s in the roster", settings.site),
                "is roster.json the newest, and site the name that the hub gave?",
            ),
        },
    }
}

fn certificate(file: &Path, findings: &mut Findings) {
    let end = match certificates::end_of(file) {
        Ok(end) => end,
        Err(error) => return findings.broken("certificate", format!("{error:#}"), "it came from the hub"),
    };
    let days = (end - clock::unix() as i64).div_euclid(86_400);
    let found = format!("{}: ends in {days} days", file.display());
    let advice = "the hub makes a new one: rounds provision renew";
    match days {
        ..0 => findings.broken("certificate", format!("{}: has ended", file.display()), advice),
        0..SOON_DAYS => findings.odd("certificate", found, advice),
        _ => findings.fine("certificate", found),
    }
}

/// What the hub answers, and what it must not.
pub(super) async fn rights(settings: &SiteSettings, connection: &Connection, findings: &mut Findings) {
    if !connection.is_guest() {
        if !settings
            .nats
            .url
            .split(',')
            .all(|url| is_loopback(host_of(url.trim())))
        {
            findings.odd(
                "account",
                "this site has no account of its own at the hub (nats.api_prefix)",
                "sites in one account can forge each other's results: the hub's `rounds provision` gives each its own",
            );
        }
        return;
    }
    match probe::reaches_all(connection).await {
        true => findings.broken(
            "account",
            "the hub tells this site what all tasks are",
            "its nats-server does not run with what `rounds provision` wrote: tell the hub",
        ),
        false => findings.fine("account", "its own: other sites' tasks are out of reach"),
    }
    match known::jobs_of(connection, &settings.site).await {
        Ok(jobs) => findings.fine("jobs", format!("{} of this site are known", jobs.len())),
        Err(error) => findings.odd(
            "jobs",
            error,
            "is an orchestrator running, of this version? ask the hub",
        ),
    }
}
