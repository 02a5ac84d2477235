//! Numbers as Pydantic's lax mode reads them: `2`, `2.0`, `"2"`, `" 2 "`, `"2.0"`, `"1_000"` and `true` are integers.

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error},
};
use serde_json::Value;

/// What a JSON value is, for messages.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// An integer in lax mode. Beyond 64 bits is refused, where Python would go on.
pub fn integer(value: &Value) -> Result<i64, String> {
    let read = match value {
        Value::Bool(flag) => Some(i64::from(*flag)),
        Value::Number(number) => number.as_i64().or_else(|| number.as_f64().and_then(whole)),
        Value::String(text) => integer_text(text),
        _ => None,
    };
    read.ok_or_else(|| format!("{value}: expected an integer"))
}

/// A non-negative integer of 32 bits in lax mode.
pub fn unsigned(value: &Value) -> Result<u32, String> {
    let number = integer(value)?;
    u32::try_from(number).map_err(|_| format!("{value}: expected an integer from 0 to {}", u32::MAX))
}

fn whole(number: f64) -> Option<i64> {
    (number.fract() == 0.0 && number.abs() < 9.0e18).then_some(number as i64)
}

/// Text that Pydantic takes for an integer: surrounding white space, a sign, single underscores between
/// digits, and a fraction of zeros.
fn integer_text(text: &str) -> Option<i64> {
    let text = text.trim();
    let (digits, fraction) = match text.split_once('.') {
        Some((digits, fraction)) => (digits, fraction),
        None => (text, ""),
    };
    if !fraction.bytes().all(|byte| byte == b'0') || text.ends_with('.') {
        return None;
    }
    let (negative, digits) = match digits.as_bytes().first()? {
        b'-' => (true, &digits[1..]),
        b'+' => (false, &digits[1..]),
        _ => (false, digits),
    };
    let shaped = digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_')
        && digits.starts_with(|c: char| c.is_ascii_digit())
        && digits.ends_with(|c: char| c.is_ascii_digit())
        && !digits.contains("__");
    if !shaped {
        return None;
    }
    let number: i64 = digits.replace('_', "").parse().ok()?;
    Some(if negative { -number } else { number })
}

/// For `#[serde(deserialize_with)]`: a unit variant by its name. Serde alone would also take `{"name": null}`.
pub fn name<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<T, D::Error> {
    match Value::deserialize(deserializer)? {
        text @ Value::String(_) => T::deserialize(text).map_err(D::Error::custom),
        other => Err(D::Error::custom(format!(
            "expected a string, found {}",
            kind(&other)
        ))),
    }
}

/// For `#[serde(deserialize_with)]`: a non-negative integer in lax mode.
pub fn u32<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    unsigned(&Value::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// For `#[serde(deserialize_with)]`: an optional non-negative integer in lax mode.
pub fn optional_u32<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(None),
        value => unsigned(&value).map(Some).map_err(D::Error::custom),
    }
}

/// For `#[serde(deserialize_with)]`: a non-negative integer of 63 bits in lax mode.
pub fn u63<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let number = integer(&value).map_err(D::Error::custom)?;
    u64::try_from(number).map_err(|_| D::Error::custom(format!("{value}: expected an integer >= 0")))
}
