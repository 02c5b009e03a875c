//! CBOR as text, for people who read the format document.

use std::fmt::Write;

use ciborium::Value;

use crate::object::{FormatError, decode_cbor};

/// Decodes one CBOR value of any shape, and shows it in the notation of RFC 8949, section 8, an entry of a map a line.
pub fn cbor_as_text(bytes: &[u8]) -> Result<String, FormatError> {
    let value: Value = decode_cbor(bytes)?;
    let mut text = String::new();
    write_value(&value, 0, &mut text).map_err(|_| FormatError::invalid("its CBOR cannot be shown"))?;
    Ok(text)
}

fn write_value(value: &Value, depth: usize, text: &mut String) -> std::fmt::Result {
    let indent = "  ".repeat(depth + 1);
    match value {
        Value::Map(entries) => {
            text.push_str("{\n");
            for (key, value) in entries {
                text.push_str(&indent);
                write_value(key, depth + 1, text)?;
                text.push_str(": ");
                write_value(value, depth + 1, text)?;
                text.push('\n');
            }
            write!(text, "{}}}", "  ".repeat(depth))
        }
        Value::Array(values) => {
            text.push('[');
            for (position, value) in values.iter().enumerate() {
                text.push_str(if position == 0 { "" } else { ", " });
                write_value(value, depth + 1, text)?;
            }
            text.write_char(']')
        }
        Value::Bytes(bytes) => {
            text.push_str("h'");
            bytes.iter().try_for_each(|byte| write!(text, "{byte:02x}"))?;
            text.write_char('\'')
        }
        Value::Text(string) => write!(text, "{string:?}"),
        Value::Integer(number) => write!(text, "{}", i128::from(*number)),
        Value::Bool(value) => write!(text, "{value}"),
        Value::Null => text.write_str("null"),
        other => write!(text, "{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::encode_cbor;

    #[test]
    fn maps_arrays_bytes_and_numbers_are_shown() {
        let value = Value::Map(vec![
            (Value::from("ids"), Value::Bytes(vec![0xab, 0x01])),
            (Value::from("lengths"), Value::Array(vec![1.into(), 300.into()])),
            (Value::from("parent"), Value::Null),
        ]);
        let shown = "{\n  \"ids\": h'ab01'\n  \"lengths\": [1, 300]\n  \"parent\": null\n}";
        assert_eq!(cbor_as_text(&encode_cbor(&value)).unwrap(), shown);
    }

    #[test]
    fn hostile_depth_is_an_error() {
        assert!(cbor_as_text(&vec![0x81; 100_000]).is_err());
    }
}
