//! Every message that travels between the parts of Rounds, and every nnU-Net document.
//!
//! - [`job`]: what a user submits.
//! - [`event`]: what happens to a job: accepted, released, failed, finished. The job's durable record.
//! - [`task`]: one message of work, and its result.
//! - [`site`]: what a site tells of itself: its announcement and its progress.
//! - [`survey`]: what a site says of its data and machine in a dry run.
//! - [`names`]: subject tokens and the phases.
//! - [`roster`]: who belongs to a federation.
//! - [`nnunet`]: nnU-Net's own documents, with nnU-Net's keys.

pub mod event;
pub mod job;
pub mod masking;
pub mod names;
pub mod nnunet;
pub mod roster;
pub mod site;
pub mod survey;
pub mod task;

use sha2::{Digest as _, Sha256};

/// The version of these messages. Sites and orchestrators must agree on it.
pub const PROTOCOL_VERSION: u32 = 3;

/// A message or document that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct Invalid {
    /// The field, as a dotted path from the document's root.
    pub path: String,
    /// What was found and what was expected.
    pub reason: String,
}

impl Invalid {
    /// An error at `path`.
    pub fn new(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            reason: reason.into(),
        }
    }
}

/// Deserialises a JSON message; an error names the field.
pub fn parse<'a, T: serde::Deserialize<'a>>(json: &'a [u8]) -> Result<T, Invalid> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| at_path(None, error))?;
    reader
        .end()
        .map_err(|error| Invalid::new(".", error.to_string()))?;
    Ok(value)
}

/// Deserialises a JSON value found at `prefix` ("" for the root) in a larger message; an error names the whole path.
pub fn parse_value<T: serde::de::DeserializeOwned>(
    prefix: &str,
    value: serde_json::Value,
) -> Result<T, Invalid> {
    serde_path_to_error::deserialize(value).map_err(|error| at_path(Some(prefix), error))
}

fn at_path(prefix: Option<&str>, error: serde_path_to_error::Error<serde_json::Error>) -> Invalid {
    // A document that breaks off before any field has no path.
    let inner = Some(error.path().to_string()).filter(|path| path != "?");
    let inner = inner.unwrap_or_else(|| ".".to_owned());
    let mut reason = error.into_inner().to_string();
    let mut fields = vec![prefix.unwrap_or_default(), &inner];
    // A missing field is reported at the object that lacks it: name the field itself.
    let missing = reason
        .strip_prefix("missing field `")
        .and_then(|rest| rest.split_once('`'))
        .map(|(field, _)| field.to_owned());
    if let Some(field) = &missing {
        fields.push(field);
        reason = "missing".to_owned();
    }
    fields.retain(|field| !field.is_empty() && *field != ".");
    let path = if fields.is_empty() {
        ".".to_owned()
    } else {
        fields.join(".")
    };
    Invalid::new(path, reason)
}

/// A message in canonical form (RFC 8785): what a signature or a digest is taken over.
///
/// # Errors
/// The message cannot be JSON.
pub fn canonical<T: serde::Serialize>(message: &T) -> Result<Vec<u8>, Invalid> {
    serde_json_canonicalizer::to_vec(message).map_err(|error| Invalid::new(".", error.to_string()))
}

/// The lower-case hexadecimal SHA-256 of some bytes.
pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
