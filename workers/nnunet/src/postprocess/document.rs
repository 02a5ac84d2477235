//! nnU-Net's files of a post-processing: postprocessing.pkl, which its commands take, and postprocessing.json for
//! people. The pickle names a function of nnU-Net's; nothing here ever runs one.

use std::{fs, path::Path};

use schemas::nnunet::{Label, python_json};
use serde_json::{Value as Json, json};

use super::{Determined, KeepLargest, Selection};
use crate::{
    Error, Result,
    checkpoint::pickle::{self, KEEP_LARGEST, Value},
    document,
};

/// The pickle's name.
pub const PICKLE: &str = "postprocessing.pkl";
/// A pickle of a thousand steps is far smaller.
const LARGEST: u64 = 1 << 20;

/// Writes postprocessing.pkl and postprocessing.json into `folder`.
pub fn write_documents(determined: &Determined, folder: &Path) -> Result<()> {
    let path = folder.join(PICKLE);
    let steps = &determined.steps;
    let functions = steps.iter().map(|_| Value::Function(KEEP_LARGEST)).collect();
    let kwargs: Vec<Value> = steps.iter().map(arguments).collect();
    let json: Vec<_> = kwargs.iter().map(Value::to_json).collect();
    let value = Value::Tuple(vec![Value::List(functions), Value::List(kwargs)]);
    let bytes = pickle::write(&value).map_err(|reason| Error::bad_file(&path, reason))?;
    document::write_bytes(&path, &bytes)?;

    let document = json!({
        "input_folder": determined.before.means_json(),
        "postprocessed": determined.after.means_json(),
        "postprocessing_fns": vec![KEEP_LARGEST.1; steps.len()],
        "postprocessing_kwargs": json,
    });
    let path = folder.join("postprocessing.json");
    let text = python_json::to_string::<Json>(&document).map_err(|e| Error::bad_file(&path, e))?;
    document::write(&path, &text)
}

fn arguments(step: &KeepLargest) -> Value {
    let number = |value: &u16| Value::Int((*value).into());
    let one = |label: &Label| match label {
        Label::Value(value) => number(value),
        Label::Region(values) => Value::Tuple(values.iter().map(number).collect()),
    };
    let selection = match &step.selection {
        Selection::One(label) => one(label),
        Selection::All(labels) => Value::List(labels.iter().map(one).collect()),
    };
    let mut entries = vec![("labels_or_regions", selection)];
    if step.background != 0 {
        entries.push(("background_label", Value::Int(step.background.into())));
    }
    Value::dict(entries)
}

/// Reads a postprocessing.pkl, Python's or ours.
///
/// # Errors
/// A file that is none, names another function, or has arguments that this one does not take.
pub fn read_steps(path: &Path) -> Result<Vec<KeepLargest>> {
    let bad = |reason: String| Error::bad_file(path, reason);
    let length = fs::metadata(path).map_err(Error::io(path))?.len();
    if length > LARGEST {
        return Err(bad(format!(
            "{length} bytes are no post-processing: expected at most {LARGEST}"
        )));
    }
    let bytes = fs::read(path).map_err(Error::io(path))?;
    let value = pickle::read(&bytes).map_err(bad)?;
    let lists = value.as_items().unwrap_or_default();
    let [functions, arguments] = lists else {
        return Err(bad(format!(
            "expected functions and their arguments, found {}",
            value.kind()
        )));
    };
    let (Some(functions), Some(arguments)) = (functions.as_items(), arguments.as_items()) else {
        return Err(bad(
            "expected a list of functions and one of their arguments".into()
        ));
    };
    if functions.len() != arguments.len() {
        let (n, m) = (functions.len(), arguments.len());
        return Err(bad(format!("{n} functions, but arguments for {m}")));
    }
    let steps = functions.iter().zip(arguments).enumerate();
    steps
        .map(|(number, (function, arguments))| {
            match function {
                Value::Function(KEEP_LARGEST) => step(arguments),
                other => Err(format!("expected a function, found {}", other.kind())),
            }
            .map_err(|reason| bad(format!("step {number}: {reason}")))
        })
        .collect()
}

fn step(arguments: &Value) -> Result<KeepLargest, String> {
    let entries = arguments.as_dict().ok_or("its arguments are no dictionary")?;
    let (mut selection, mut background) = (None, 0);
    for (key, value) in entries {
        match key.as_str() {
            Some("labels_or_regions") => selection = Some(read_selection(value)?),
            Some("background_label") => {
                let found = value
                    .as_int()
                    .and_then(|v| i16::try_from(v).ok())
                    .filter(|v| *v >= 0);
                background = found.ok_or("background_label: expected a label")?;
            }
            _ => return Err(format!("{key:?} is no argument that is known")),
        }
    }
    let selection = selection.ok_or("no labels_or_regions")?;
    Ok(KeepLargest {
        selection,
        background,
    })
}

fn read_selection(value: &Value) -> Result<Selection, String> {
    match value {
        Value::List(labels) => Ok(Selection::All(
            labels.iter().map(read_label).collect::<Result<_, _>>()?,
        )),
        one => Ok(Selection::One(read_label(one)?)),
    }
}

fn read_label(value: &Value) -> Result<Label, String> {
    let number = |value: &Value| {
        let number = value.as_int().and_then(|v| u16::try_from(v).ok());
        number.ok_or_else(|| format!("labels_or_regions: expected labels, found {}", value.kind()))
    };
    match value {
        Value::Tuple(values) => Ok(Label::Region(
            values.iter().map(number).collect::<Result<_, _>>()?,
        )),
        one => Ok(Label::Value(number(one)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pickle_of_another_kind_is_refused_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(PICKLE);
        let step = |arguments: Value| {
            Value::Tuple(vec![
                Value::List(vec![Value::Function(KEEP_LARGEST)]),
                Value::List(vec![arguments]),
            ])
        };
        for (value, named) in [
            (Value::Int(1), "an integer"),
            (
                Value::Tuple(vec![Value::None, Value::None]),
                "a list of functions",
            ),
            (step(Value::None), "step 0"),
            (
                step(Value::dict([("labels_or_regions", Value::Str("a".into()))])),
                "a string",
            ),
            (
                step(Value::dict([("labels_or_regions", Value::Int(-1))])),
                "labels",
            ),
            (step(Value::dict([("threshold", Value::Int(1))])), "threshold"),
            (step(Value::dict::<String>([])), "no labels_or_regions"),
        ] {
            fs::write(&path, pickle::write(&value).unwrap()).unwrap();
            let error = read_steps(&path).unwrap_err().to_string();
            assert!(error.contains(named), "{value:?}: {error}");
        }
        fs::write(&path, b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.").unwrap();
        let error = read_steps(&path).unwrap_err().to_string();
        assert!(error.contains("os.system"), "{error}");
    }
}
