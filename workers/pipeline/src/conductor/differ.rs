//! Where two JSON documents differ.

use serde_json::Value;

/// The first difference.
#[derive(Debug, PartialEq)]
pub(super) struct Difference {
    /// The field, as a dotted path.
    pub path: String,
    /// The one value.
    pub left: String,
    /// The other.
    pub right: String,
}

/// The first difference of two documents, in the left one's order. The order of keys is none.
pub(super) fn first(path: &str, left: &Value, right: &Value) -> Option<Difference> {
    match (left, right) {
        (Value::Object(a), Value::Object(b)) => {
            let missing = b.keys().filter(|key| !a.contains_key(*key));
            a.keys()
                .chain(missing)
                .find_map(|key| first_of(&format!("{path}.{key}"), a.get(key), b.get(key)))
        }
        (Value::Array(a), Value::Array(b)) => (0..a.len().max(b.len()))
            .find_map(|index| first_of(&format!("{path}[{index}]"), a.get(index), b.get(index))),
        _ if left == right => None,
        _ => Some(Difference {
            path: path.to_owned(),
            left: shown(Some(left)),
            right: shown(Some(right)),
        }),
    }
}

fn first_of(path: &str, left: Option<&Value>, right: Option<&Value>) -> Option<Difference> {
    match (left, right) {
        (Some(left), Some(right)) => first(path, left, right),
        (left, right) => Some(Difference {
            path: path.to_owned(),
            left: shown(left),
            right: shown(right),
        }),
    }
}

/// A value for a message: whole where it is short.
fn shown(value: Option<&Value>) -> String {
    let Some(value) = value else {
        return "absent".to_owned();
    };
    let text = value.to_string();
    if text.chars().count() <= 200 {
        return text;
    }
    let start: String = text.chars().take(200).collect();
    format!("{start}...")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_difference_is_named() {
        let a = json!({"configurations": {"2d": {"patch_size": [64, 56], "x": 1}}, "y": null});
        assert_eq!(first("plans", &a, &a), None);
        let b = json!({"y": null, "configurations": {"2d": {"x": 1, "patch_size": [64, 48]}}});
        let found = first("plans", &a, &b).unwrap();
        assert_eq!(found.path, "plans.configurations.2d.patch_size[1]");
        assert_eq!((&*found.left, &*found.right), ("56", "48"));
        let c = json!({"configurations": {"2d": {"patch_size": [64, 56]}}, "y": null, "z": 1});
        assert_eq!(first("plans", &a, &c).unwrap().right, "absent");
    }
}
