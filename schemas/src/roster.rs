//! Who belongs to a federation: `roster.json`, public keys by name. Every member holds a copy.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The members of a federation. Keys are public user nkeys, `U...`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Roster {
    /// Those with data, by name: what they make is signed.
    #[serde(default)]
    pub sites: BTreeMap<String, Keys>,
    /// Those who may submit jobs, by name.
    #[serde(default)]
    pub submitters: BTreeMap<String, Keys>,
    /// All orchestrators together.
    #[serde(default)]
    pub orchestrators: Keys,
}

/// A member's public keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// They sign and connect.
    #[serde(default)]
    pub current: Vec<String>,
    /// Replaced or revoked ones. What they signed stands, or a job's past would read differently today; they neither
    /// connect nor submit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former: Vec<String>,
}

impl Keys {
    /// Every key that is or was the member's.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        self.current.iter().chain(&self.former).map(String::as_str)
    }
}

impl Roster {
    /// The submitter whose key this is now.
    pub fn submitter(&self, key: &str) -> Option<&str> {
        let holds = |keys: &Keys| keys.current.iter().any(|current| current == key);
        self.submitters
            .iter()
            .find(|(_, keys)| holds(keys))
            .map(|(name, _)| &**name)
    }
}
