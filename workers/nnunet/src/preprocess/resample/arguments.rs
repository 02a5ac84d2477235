//! A resampling function and its arguments, as plans name them.

use serde_json::{Map, Value};

use super::{
    ANISO_THRESHOLD, Method, Resampling, Separate,
    torch::{Mode, Vote},
};
use crate::{Error, Result};

/// skimage's splines (default_resampling.py).
pub(super) const DEFAULT: &str = "resample_data_or_seg_to_shape";
/// torch's interpolation (resample_torch.py).
pub(super) const TORCH: &str = "resample_torch_fornnunet";
/// None at all (no_resampling.py).
pub(super) const UNCHANGED: &str = "no_resampling_hack";

impl Resampling {
    /// The function `name` of the plans' entry `entry`, for label maps or not.
    ///
    /// # Errors
    /// A function or an argument that is not implemented, by name.
    pub fn from_plans(entry: &str, name: &str, kwargs: &Map<String, Value>, of_labels: bool) -> Result<Self> {
        let mut arguments = Arguments {
            entry,
            kwargs: kwargs.clone(),
        };
        let found = match name {
            DEFAULT => arguments.splines(of_labels)?,
            TORCH => arguments.torch(of_labels)?,
            UNCHANGED => Resampling {
                method: Method::Unchanged,
                separate: Separate::default(),
            },
            "resample_torch_simple" | "resample_data_or_seg_to_spacing" => {
                return Err(Error::invalid(
                    format!("plans: {entry}"),
                    format!(
                        "'{name}' does not take a shape and two spacings: nnU-Net cannot call it by its plans"
                    ),
                ));
            }
            _ => {
                return Err(Error::invalid(
                    format!("plans: {entry}"),
                    format!("'{name}' is not implemented; {DEFAULT}, {TORCH} and {UNCHANGED} are"),
                ));
            }
        };
        match arguments.kwargs.iter().next() {
            Some((key, value)) => Err(arguments.refused(key, value, &format!("no argument of {name}"))),
            None => Ok(found),
        }
    }
}

/// The arguments that were not looked at yet.
struct Arguments<'a> {
    entry: &'a str,
    kwargs: Map<String, Value>,
}

impl Arguments<'_> {
    fn refused(&self, key: &str, found: &Value, reason: &str) -> Error {
        Error::invalid(
            format!("plans: {}_kwargs.{key}", self.entry),
            format!("{found}: {reason}"),
        )
    }

    /// Takes an argument; `default` where it is absent.
    fn take<T>(
        &mut self,
        key: &str,
        default: T,
        expected: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<T> {
        match self.kwargs.shift_remove(key) {
            None => Ok(default),
            Some(value) => {
                read(&value).ok_or_else(|| self.refused(key, &value, &format!("expected {expected}")))
            }
        }
    }

    fn splines(&mut self, of_labels: bool) -> Result<Resampling> {
        self.kind(of_labels)?;
        // nnU-Net's own default is 3. Labels of that order would be cubic indicators, which no planner asks for.
        let (orders, expected): (&[u64], _) = if of_labels {
            (&[0, 1], "0 or 1 for segmentations")
        } else {
            (&[0, 1, 3], "0, 1 or 3")
        };
        let absent = if orders.contains(&3) { Some(3) } else { None };
        let order = self.take("order", absent, expected, |v| {
            v.as_u64().filter(|v| orders.contains(v)).map(|v| Some(v as u8))
        })?;
        let order = order.ok_or_else(|| self.refused("order", &3.into(), &format!("expected {expected}")))?;
        self.take("order_z", (), "0", |v| (v.as_u64() == Some(0)).then_some(()))?;
        Ok(Resampling {
            method: Method::Splines { order },
            separate: self.separate(Some(false))?,
        })
    }

    fn torch(&mut self, of_labels: bool) -> Result<Resampling> {
        self.kind(of_labels)?;
        // How many threads and which device is ours to choose: the result is the CPU's.
        self.take("num_threads", (), "a whole number", |v| v.as_u64().map(|_| ()))?;
        self.take("device", (), "a device's name", |v| v.as_str().map(|_| ()))?;
        let sparing = self.take(
            "memefficient_seg_resampling",
            false,
            "true or false",
            Value::as_bool,
        )?;
        let in_plane = self.take("mode", Mode::Linear, "linear, nearest or nearest-exact", |v| {
            mode(v, "bilinear")
        })?;
        let across = self.take(
            "aniso_axis_mode",
            Mode::NearestExact,
            "linear, nearest or nearest-exact",
            |v| mode(v, "trilinear"),
        )?;
        Ok(Resampling {
            method: Method::Torch {
                in_plane,
                across,
                vote: if sparing { Vote::Majority } else { Vote::Largest },
            },
            separate: self.separate(None)?,
        })
    }

    /// Whether the function is told the right kind of volume.
    fn kind(&mut self, of_labels: bool) -> Result<()> {
        let is_seg = self.take("is_seg", false, "true or false", Value::as_bool)?;
        if is_seg == of_labels {
            return Ok(());
        }
        let reason = format!("expected {of_labels} here");
        Err(self.refused("is_seg", &is_seg.into(), &reason))
    }

    /// `force_separate_z` is null, true or false; `absent` is the function's own default.
    fn separate(&mut self, absent: Option<bool>) -> Result<Separate> {
        Ok(Separate {
            force: self.take("force_separate_z", absent, "true, false or null", |v| match v {
                Value::Null => Some(None),
                v => v.as_bool().map(Some),
            })?,
            threshold: self.take(
                "separate_z_anisotropy_threshold",
                ANISO_THRESHOLD,
                "a number",
                Value::as_f64,
            )?,
        })
    }
}

fn mode(value: &Value, linear: &str) -> Option<Mode> {
    match value.as_str()? {
        "linear" => Some(Mode::Linear),
        "nearest" => Some(Mode::Nearest),
        "nearest-exact" => Some(Mode::NearestExact),
        name => (name == linear).then_some(Mode::Linear),
    }
}
