//! The digest that sites compare, and where two plans differ.

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Plans, PlansError};

impl Plans {
    /// The sha256, in hexadecimal, of the plans without `dataset_name` and `image_reader_writer`, which are
    /// each site's own. Taken over the canonical form (RFC 8785), so order of keys and spelling of numbers
    /// do not count.
    pub fn digest(&self) -> Result<String, PlansError> {
        let mut value = self.to_value();
        if let Some(object) = value.as_object_mut() {
            for key in SITE_KEYS {
                object.remove(key);
            }
        }
        self.check_finite()?;
        let canonical = serde_json_canonicalizer::to_vec(&value).map_err(|e| PlansError {
            path: String::new(),
            reason: e.to_string(),
        })?;
        Ok(hex::encode(Sha256::digest(canonical)))
    }

    // serde_json turns NaN and infinity into null, so the typed fields are looked at.
    fn check_finite(&self) -> Result<(), PlansError> {
        let bad = |path: String, value: f64| PlansError {
            path,
            reason: format!("expected a finite number, found {value}"),
        };
        for (i, &value) in self.original_median_spacing_after_transp.iter().enumerate() {
            if !value.is_finite() {
                return Err(bad(format!("original_median_spacing_after_transp[{i}]"), value));
            }
        }
        for (channel, p) in &self.foreground_intensity_properties_per_channel {
            for value in [
                p.max,
                p.mean,
                p.median,
                p.min,
                p.percentile_00_5,
                p.percentile_99_5,
                p.std,
            ] {
                if !value.is_finite() {
                    return Err(bad(
                        format!("foreground_intensity_properties_per_channel.{channel}"),
                        value,
                    ));
                }
            }
        }
        Ok(())
    }

    /// The keys in which two plans differ, with both values, leaving out what a site may choose
    /// (`dataset_name`, `image_reader_writer`).
    pub fn differences(&self, other: &Plans) -> Vec<Difference> {
        let mut found = Vec::new();
        let (ours, theirs) = (self.to_value(), other.to_value());
        compare("", Some(&ours), Some(&theirs), &mut found);
        found.retain(|d| !SITE_KEYS.contains(&d.path.as_str()));
        found
    }
}

/// What may differ between the sites of a job.
const SITE_KEYS: [&str; 2] = ["dataset_name", "image_reader_writer"];

/// A key in which two documents differ.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The JSON path, such as `configurations.2d.batch_size`.
    pub path: String,
    /// The first document's value; None where it has no such key.
    pub left: Option<Value>,
    /// The second document's value; None where it has no such key.
    pub right: Option<Value>,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let show = |v: &Option<Value>| v.as_ref().map_or("absent".to_owned(), Value::to_string);
        write!(
            f,
            "{}: {} against {}",
            self.path,
            show(&self.left),
            show(&self.right)
        )
    }
}

fn compare(path: &str, left: Option<&Value>, right: Option<&Value>, found: &mut Vec<Difference>) {
    match (left, right) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let keys = a.keys().chain(b.keys().filter(|k| !a.contains_key(*k)));
            for key in keys {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                compare(&path, a.get(key), b.get(key), found);
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) if a.len() == b.len() => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                compare(&format!("{path}[{i}]"), Some(a), Some(b), found);
            }
        }
        // 1 and 1.0 are the same number.
        (Some(Value::Number(a)), Some(Value::Number(b))) if a.as_f64() == b.as_f64() => {}
        (a, b) if a == b => {}
        (a, b) => found.push(Difference {
            path: path.to_owned(),
            left: a.cloned(),
            right: b.cloned(),
        }),
    }
}
