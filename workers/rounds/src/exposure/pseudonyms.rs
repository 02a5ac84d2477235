//! What cases are called outside: `case_0000` and so on, in an order that a secret of the site decides anew for each
//! job. Which is which stands in `pseudonyms/<job>.json`, and nowhere else.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use hmac::{Hmac, Mac};
use rand::TryRngCore;
use schemas::event::Accepted;
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::site::{write_first, write_whole};

/// The pseudonyms of one job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pseudonyms {
    /// Tells them from those of another job of the name; it leaves the site.
    pub id: String,
    /// The cases by what they are called outside.
    pub cases: BTreeMap<String, String>,
}

/// The secret that decides orders: 32 bytes, made once, for the site's own user alone.
fn secret(root: &Path) -> io::Result<Vec<u8>> {
    let file = root.join("secret");
    if !file.exists() {
        let mut bytes = [0; 32];
        rand::rngs::OsRng
            .try_fill_bytes(&mut bytes)
            .map_err(io::Error::other)?;
        // Of workers that come at once, the first one's stands.
        write_first(&file, &bytes)?;
    }
    fs::read(&file)
}

fn keyed(key: &[u8], parts: &[&str]) -> io::Result<[u8; 32]> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(io::Error::other)?;
    for part in parts {
        mac.update(&(part.len() as u64).to_le_bytes());
        mac.update(part.as_bytes());
    }
    Ok(mac.finalize().into_bytes().into())
}

fn file(root: &Path, job: &str) -> PathBuf {
    root.join("pseudonyms").join(format!("{job}.json"))
}

/// Where the pseudonyms of an earlier job of the name are.
fn earlier(root: &Path, job: &str, id: &str) -> PathBuf {
    root.join("pseudonyms").join(format!("{job}.{id}.json"))
}

fn read(file: &Path) -> io::Result<Option<Pseudonyms>> {
    match fs::read(file) {
        Ok(bytes) => {
            let read =
                schemas::parse(&bytes).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
            Ok(Some(read))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The order in which a job lists these cases, as places in `names`; a case's place in it is its number outside.
///
/// # Errors
/// The site's secret cannot be read or made.
pub fn order(root: &Path, job: &Accepted, names: &[&str]) -> io::Result<(String, Vec<usize>)> {
    let key = keyed(
        &secret(root)?,
        &["pseudonyms", &job.job, &job.time, &job.submit.to_string()],
    )?;
    let id = hex::encode(&keyed(&key, &["id"])?[..8]);
    let ranks: Vec<[u8; 32]> = names
        .iter()
        .map(|name| keyed(&key, &["case", name]))
        .collect::<io::Result<_>>()?;
    let mut order: Vec<usize> = (0..names.len()).collect();
    order.sort_by_key(|&place| ranks[place]);
    Ok((id, order))
}

/// What the case with this number is called outside.
pub fn pseudonym(number: usize) -> String {
    format!("case_{number:04}")
}

/// Whether a name may be one of [`pseudonym`]'s.
pub fn is_one(name: &str) -> bool {
    let number = name.strip_prefix("case_").unwrap_or_default();
    number.len() >= 4 && number.bytes().all(|byte| byte.is_ascii_digit())
}

/// Keeps a job's pseudonyms. Those of an earlier job of the name are moved aside.
///
/// # Errors
/// The file cannot be written.
pub fn keep(root: &Path, job: &str, pseudonyms: &Pseudonyms) -> io::Result<()> {
    let file = file(root, job);
    if let Some(other) = read(&file)?.filter(|other| other.id != pseudonyms.id) {
        fs::rename(&file, earlier(root, job, &other.id))?;
    }
    write_whole(&file, &serde_json::to_vec_pretty(pseudonyms)?)
}

/// The pseudonyms of a job with this id; none where the site has none.
///
/// # Errors
/// A file that cannot be read.
pub fn of_job(root: &Path, job: &str, id: &str) -> io::Result<Option<Pseudonyms>> {
    let fits = |pseudonyms: &Pseudonyms| pseudonyms.id == id;
    match read(&file(root, job))?.filter(fits) {
        Some(pseudonyms) => Ok(Some(pseudonyms)),
        None => Ok(read(&earlier(root, job, id))?.filter(fits)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::job_folder::tests::accepted;

    #[test]
    fn orders_are_the_secrets_and_the_jobs() {
        let (root, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let names: Vec<String> = (0..40).map(|case| format!("name_{case:02}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let of = |root: &Path, job: &str| order(root, &accepted(job, "now"), &names).unwrap();
        let (id, first) = of(root.path(), "one");
        assert_eq!(of(root.path(), "one"), (id.clone(), first.clone()));
        assert!(!first.is_sorted());
        for (other_id, order) in [of(root.path(), "two"), of(other.path(), "one")] {
            assert!(order != first && other_id != id);
        }
        let mode = fs::metadata(root.path().join("secret"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn those_of_an_earlier_job_of_the_name_are_found() {
        let root = tempfile::tempdir().unwrap();
        let pseudonyms = |id: &str| Pseudonyms {
            id: id.into(),
            cases: BTreeMap::from([(pseudonym(0), format!("name-{id}"))]),
        };
        for id in ["a", "b", "b"] {
            keep(root.path(), "job", &pseudonyms(id)).unwrap();
        }
        for id in ["a", "b"] {
            assert_eq!(of_job(root.path(), "job", id).unwrap(), Some(pseudonyms(id)));
        }
        assert_eq!(of_job(root.path(), "job", "c").unwrap(), None);
        let mode = fs::metadata(file(root.path(), "job"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
