//! JSON as Python's `json.dump(obj, file, indent=4)` writes it, byte for byte.
//!
//! Against serde_json's pretty printing: four blanks, floats as Python's `repr` (`1e-05`, `1e+16`), and
//! everything outside printable ASCII escaped.

use std::io;

use serde::Serialize;
use serde_json::ser::{CharEscape, Formatter, PrettyFormatter, Serializer};

/// Writes `value` as Python does with `indent=4`. Keys keep their order.
///
/// # Errors
/// The value cannot be written as JSON, such as a map whose keys are not strings.
pub fn to_string<T: Serialize + ?Sized>(value: &T) -> Result<String, serde_json::Error> {
    let mut bytes = Vec::new();
    value.serialize(&mut Serializer::with_formatter(
        &mut bytes,
        Python(PrettyFormatter::with_indent(b"    ")),
    ))?;
    let text = String::from_utf8(bytes).map_err(serde::ser::Error::custom)?;
    Ok(text.replace("\"\\ue000NaN\"", "NaN"))
}

/// Stands for NaN, which JSON's values do not know. The first character is nobody's.
const NOT_A_NUMBER: &str = "\u{e000}NaN";

/// A float of a document; NaN too, which [`to_string`] writes as Python does.
pub fn float(value: f64) -> serde_json::Value {
    if value.is_nan() {
        NOT_A_NUMBER.into()
    } else {
        value.into()
    }
}

/// A float as Python's `repr` prints it. `value` is finite.
pub fn repr(value: f64) -> String {
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if value != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    // Rust prints plain decimals with the same shortest digits, without a point where there is no fraction.
    let plain = format!("{value}");
    if plain.contains('.') {
        plain
    } else {
        format!("{plain}.0")
    }
}

/// Changes what Python writes differently; leaves the layout to the pretty printer.
struct Python(PrettyFormatter<'static>);

impl Formatter for Python {
    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(repr(value).as_bytes())
    }

    fn write_f32<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f32) -> io::Result<()> {
        self.write_f64(writer, value.into())
    }

    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        for character in fragment.chars() {
            if (' '..='~').contains(&character) {
                writer.write_all(&[character as u8])?;
            } else {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }

    fn write_char_escape<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        escape: CharEscape,
    ) -> io::Result<()> {
        self.0.write_char_escape(writer, escape)
    }

    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_array(writer)
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array(writer)
    }

    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(writer, first)
    }

    fn end_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array_value(writer)
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object(writer)
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object(writer)
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object_value(writer)
    }

    fn end_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object_value(writer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_pythons() {
        let cases = [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (1e-5, "1e-05"),
            (0.0001, "0.0001"),
            (1.5e-7, "1.5e-07"),
            (1e16, "1e+16"),
            (1234567890123456.0, "1234567890123456.0"),
            (1.2345e100, "1.2345e+100"),
            (0.699999988079071, "0.699999988079071"),
        ];
        for (value, expected) in cases {
            assert_eq!(repr(value), expected);
        }
    }

    #[test]
    fn nan_is_pythons() {
        let value = serde_json::json!({"a": float(f64::NAN), "b": float(0.5), "c": "NaN"});
        let expected = "{\n    \"a\": NaN,\n    \"b\": 0.5,\n    \"c\": \"NaN\"\n}";
        assert_eq!(to_string(&value).unwrap(), expected);
    }

    #[test]
    fn layout_and_escapes_are_pythons() {
        let value = serde_json::json!({"b": [1, 2.0], "a": {}, "c": [], "d": "ä\u{7f}\n\"😀"});
        let expected = "{\n    \"b\": [\n        1,\n        2.0\n    ],\n    \"a\": {},\n    \"c\": [],\n    \"d\": \"\\u00e4\\u007f\\n\\\"\\ud83d\\ude00\"\n}";
        assert_eq!(to_string(&value).unwrap(), expected);
    }
}
