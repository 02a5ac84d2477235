//! Signatures: results by the site's nkey, jobs by the submitter's, both checked against the roster.

mod roster_file;

use std::{fmt, fs, path::Path, sync::Arc};

use async_nats::HeaderMap;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use nkeys::{KeyPair, KeyPairType};
use schemas::{
    Invalid,
    event::SignedJob,
    job::JobMessage,
    names::ORCHESTRATOR,
    roster::{Keys, Roster},
    task::{Outcome, TaskResult},
};
use serde::Serialize;

use crate::Error;

pub use roster_file::RosterFile;

/// The header that holds the public key of a job's submitter.
pub const SIGNER: &str = "Rounds-Signer";
/// The header that holds the submitter's signature over the bytes of a job's message, in base64.
pub const SIGNATURE: &str = "Rounds-Signature";

/// A key that signs. Cheap to clone; it shows its public half only.
#[derive(Clone)]
pub struct Signer {
    pair: Arc<KeyPair>,
    public: String,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Signer").field(&self.public).finish()
    }
}

impl Signer {
    /// The key of a user nkey's seed, `SU...`.
    ///
    /// # Errors
    /// It is none. The words do not repeat it.
    pub fn of_seed(seed: &str) -> Result<Self, Invalid> {
        let expected = || Invalid::new("seed", "expected the seed of a user nkey, SU...");
        let pair = KeyPair::from_seed(seed.trim()).map_err(|_| expected())?;
        if pair.key_pair_type() != KeyPairType::User {
            return Err(expected());
        }
        Ok(Self {
            public: pair.public_key(),
            pair: Arc::new(pair),
        })
    }

    /// The key whose seed a file holds.
    ///
    /// # Errors
    /// The file cannot be read, or holds no seed.
    pub fn read(file: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(file).map_err(Error::file(file))?;
        let named = |invalid: Invalid| Invalid::new(file.display().to_string(), invalid.reason);
        Ok(Self::of_seed(&text).map_err(named)?)
    }

    /// The public key, `U...`.
    pub fn public(&self) -> &str {
        &self.public
    }

    /// Base64 of the signature over some bytes.
    pub fn sign_bytes(&self, bytes: &[u8]) -> String {
        // A pair that was made of a seed always signs.
        BASE64_STANDARD.encode(self.pair.sign(bytes).unwrap_or_default())
    }

    /// Base64 of the signature over a message's canonical form.
    ///
    /// # Errors
    /// The message cannot be JSON.
    pub fn sign<T: Serialize>(&self, message: &T) -> Result<String, Invalid> {
        Ok(self.sign_bytes(&schemas::canonical(message)?))
    }

    /// Signs a result. One that was signed before is signed anew.
    ///
    /// # Errors
    /// The result cannot be JSON.
    pub fn sign_result(&self, result: &mut TaskResult) -> Result<(), Invalid> {
        result.signature = None;
        result.signature = Some(self.sign(result)?);
        Ok(())
    }

    /// The headers of a signed submit.
    pub fn job_headers(&self, body: &[u8]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(SIGNER, self.public());
        headers.insert(SIGNATURE, &*self.sign_bytes(body));
        headers
    }
}

/// Whether the holder of a public key signed these bytes.
pub fn verify_bytes(public: &str, bytes: &[u8], signature: &str) -> bool {
    let (Ok(pair), Ok(signature)) = (
        KeyPair::from_public_key(public),
        BASE64_STANDARD.decode(signature),
    ) else {
        return false;
    };
    pair.verify(bytes, &signature).is_ok()
}

/// Whether the holder of a public key signed this message.
pub fn verify<T: Serialize>(public: &str, message: &T, signature: &str) -> bool {
    schemas::canonical(message).is_ok_and(|bytes| verify_bytes(public, &bytes, signature))
}

/// Checks a result's signature: by the site that its key names; by an orchestrator where that closed the task.
///
/// # Errors
/// Says who should have signed it.
pub fn check_result(roster: &Roster, result: &TaskResult) -> Result<(), String> {
    let site = &*result.key.site;
    let nobody = Keys::default();
    let (who, keys) = match &result.outcome {
        Outcome::Closed { .. } => (ORCHESTRATOR, &roster.orchestrators),
        _ if site == ORCHESTRATOR => (site, &roster.orchestrators),
        _ => (site, roster.sites.get(site).unwrap_or(&nobody)),
    };
    let Some(signature) = &result.signature else {
        return Err(format!(
            "the result is not signed; expected the signature of {who}"
        ));
    };
    let signed = TaskResult {
        signature: None,
        ..result.clone()
    };
    let bytes = schemas::canonical(&signed).map_err(|error| error.to_string())?;
    if keys.all().any(|key| verify_bytes(key, &bytes, signature)) {
        return Ok(());
    }
    Err(format!(
        "the result's signature is not that of {who} in the roster"
    ))
}

/// Checks a submitted message's signature.
///
/// # Errors
/// It is not signed by a submitter of the roster, or says no `job_id`, without which it could be submitted again.
pub fn check_submit(
    roster: &Roster,
    headers: Option<&HeaderMap>,
    payload: &[u8],
) -> Result<SignedJob, Invalid> {
    let header = |name: &str| Some(headers?.get(name)?.as_str().to_owned());
    let (Some(key), Some(signature)) = (header(SIGNER), header(SIGNATURE)) else {
        let reason = format!(
            "missing: this federation takes jobs that a submitter of its roster signed (headers {SIGNER} and \
             {SIGNATURE}; `rounds submit --submitter FILE` signs)"
        );
        return Err(Invalid::new("signature", reason));
    };
    let Some(submitter) = roster.submitter(&key) else {
        return Err(Invalid::new(
            "signature",
            format!("{key}: no submitter of the roster has this key"),
        ));
    };
    let job = SignedJob {
        submitter: submitter.to_owned(),
        key,
        signature,
        body: String::from_utf8_lossy(payload).into_owned(),
    };
    check_body(&job)?;
    Ok(job)
}

/// Checks that a signed job's body was signed with its key, and says its id; gives the message in it.
///
/// # Errors
/// It was not, or is no message.
pub fn check_body(job: &SignedJob) -> Result<JobMessage, Invalid> {
    if !verify_bytes(&job.key, job.body.as_bytes(), &job.signature) {
        let reason = format!("not the signature of {} over this message", job.submitter);
        return Err(Invalid::new("signature", reason));
    }
    let message = JobMessage::parse(job.body.as_bytes(), None)?;
    if message.job_id.is_none() {
        let reason = "missing: a signed message needs one, or it could be submitted again as another job";
        return Err(Invalid::new("job_id", reason));
    }
    Ok(message)
}

/// Who this process is, and whom it believes. Empty on one machine, where nothing is signed. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// Signs what the process makes.
    pub signer: Option<Signer>,
    /// Whom it believes; none: everybody.
    pub roster: Option<RosterFile>,
}

impl Identity {
    /// The roster as it stands now.
    pub fn roster(&self) -> Option<Arc<Roster>> {
        self.roster.as_ref().map(RosterFile::roster)
    }

    /// Signs a result, where there is a key.
    ///
    /// # Errors
    /// The result cannot be JSON.
    pub fn sign(&self, result: &mut TaskResult) -> Result<(), Invalid> {
        match &self.signer {
            Some(signer) => signer.sign_result(result),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
