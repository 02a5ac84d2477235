//! The members of a federation, as they are listed.

use schemas::{names, roster::Keys};

use super::{Hub, Kind, certificates};

/// A member as it is listed.
pub struct Listed {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// Its public keys.
    pub keys: Keys,
    /// When its certificate ends, in seconds since 1970; none where its folder was taken away.
    pub certificate_end: Option<i64>,
}

impl Hub {
    /// All members, the hub's own last.
    pub fn list(&self) -> Vec<Listed> {
        let of = |kind: Kind, name: &str, keys: &Keys| Listed {
            kind,
            name: name.to_owned(),
            keys: keys.clone(),
            certificate_end: {
                let file = self.folder_of(kind, name).join(format!("{}.pem", kind.as_str()));
                certificates::end_of(&file).ok()
            },
        };
        let sites = self
            .roster
            .sites
            .iter()
            .map(|(name, keys)| of(Kind::Site, name, keys));
        let submitters = self.roster.submitters.iter();
        let submitters = submitters.map(|(name, keys)| of(Kind::Submitter, name, keys));
        let orchestrator = of(
            Kind::Orchestrator,
            names::ORCHESTRATOR,
            &self.roster.orchestrators,
        );
        sites.chain(submitters).chain([orchestrator]).collect()
    }
}
