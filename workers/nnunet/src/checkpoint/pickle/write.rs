//! Writing a pickle of protocol 2 that torch's `weights_only` loader accepts. The same value gives the same bytes.

use super::{TensorRef, Value};

/// The pickle of `value`. Numpy arrays are refused: they would need code to load.
pub fn write(value: &Value) -> Result<Vec<u8>, String> {
    let mut out = vec![0x80, 2];
    put(&mut out, value)?;
    out.push(b'.');
    Ok(out)
}

fn put(out: &mut Vec<u8>, value: &Value) -> Result<(), String> {
    match value {
        Value::None => out.push(b'N'),
        Value::Bool(true) => out.push(0x88),
        Value::Bool(false) => out.push(0x89),
        Value::Int(v) => put_int(out, *v),
        Value::Float(v) => {
            out.push(b'G');
            out.extend(v.to_be_bytes());
        }
        Value::Str(s) => put_str(out, s),
        // Protocol 2 knows no bytes: Python writes them as a latin-1 string to encode.
        Value::Bytes(bytes) => {
            out.extend(b"c_codecs\nencode\n");
            put_str(out, &bytes.iter().map(|&b| b as char).collect::<String>());
            put_str(out, "latin1");
            out.extend([0x86, b'R']);
        }
        Value::List(items) => {
            out.push(b']');
            put_marked(out, items, b'e')?;
        }
        Value::Set(items) => {
            out.extend(b"cbuiltins\nset\n]");
            put_marked(out, items, b'e')?;
            out.extend([0x85, b'R']);
        }
        Value::Tuple(items) => match items.len() {
            0 => out.push(b')'),
            n @ 1..=3 => {
                items.iter().try_for_each(|v| put(out, v))?;
                out.push(0x84 + n as u8);
            }
            _ => put_marked(out, items, b't')?,
        },
        Value::Dict(items) => {
            out.push(b'}');
            if !items.is_empty() {
                out.push(b'(');
                for (key, value) in items {
                    put(out, key)?;
                    put(out, value)?;
                }
                out.push(b'u');
            }
        }
        Value::Tensor(tensor) => put_tensor(out, tensor),
        Value::Function((module, name)) => out.extend(format!("c{module}\n{name}\n").as_bytes()),
        Value::Array(_) => return Err("a numpy array cannot be written into a pickle".into()),
    }
    Ok(())
}

fn put_marked(out: &mut Vec<u8>, items: &[Value], end: u8) -> Result<(), String> {
    if !items.is_empty() || end == b't' {
        out.push(b'(');
        items.iter().try_for_each(|v| put(out, v))?;
        out.push(end);
    }
    Ok(())
}

fn put_int(out: &mut Vec<u8>, v: i64) {
    if let Ok(v) = u8::try_from(v) {
        out.extend([b'K', v]);
    } else if let Ok(v) = u16::try_from(v) {
        out.push(b'M');
        out.extend(v.to_le_bytes());
    } else if let Ok(v) = i32::try_from(v) {
        out.push(b'J');
        out.extend(v.to_le_bytes());
    } else {
        out.extend([0x8a, 8]);
        out.extend(v.to_le_bytes());
    }
}

fn put_str(out: &mut Vec<u8>, s: &str) {
    out.push(b'X');
    out.extend((s.len() as u32).to_le_bytes());
    out.extend(s.as_bytes());
}

/// `torch._utils._rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, backward_hooks)`.
fn put_tensor(out: &mut Vec<u8>, tensor: &TensorRef) {
    out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
    put_str(out, "storage");
    out.extend(format!("ctorch\n{}\n", tensor.element.storage_class()).as_bytes());
    put_str(out, &tensor.storage);
    put_str(out, "cpu");
    put_int(out, tensor.storage_elements as i64);
    out.extend(b"tQ");
    put_int(out, tensor.offset as i64);
    for sizes in [&tensor.shape, &tensor.strides] {
        out.push(b'(');
        sizes.iter().for_each(|&n| put_int(out, n as i64));
        out.push(b't');
    }
    out.extend(b"\x89ccollections\nOrderedDict\n)RtR");
}
