//! A case's properties as the pickle that Python nnU-Net loads beside the voxels.
//!
//! Only plain values and numpy arrays are written, so the bytes are a function of the values. Rounds itself
//! never reads a pickle: it keeps its own copy in the `.npz`.

/// A Python value.
pub(super) enum Python<'a> {
    Int(i64),
    Float(f64),
    Str(&'a str),
    Tuple(Vec<Python<'a>>),
    List(Vec<Python<'a>>),
    Dict(Vec<(Python<'a>, Python<'a>)>),
    /// A numpy array of int64 in C order.
    Int64Array {
        shape: Vec<usize>,
        values: Vec<i64>,
    },
    /// A numpy array of float64 in C order.
    Float64Array {
        shape: Vec<usize>,
        values: Vec<f64>,
    },
}

impl Python<'_> {
    /// A tuple of ints.
    pub fn ints(values: &[usize]) -> Self {
        Python::Tuple(values.iter().map(|&v| Python::Int(v as i64)).collect())
    }

    /// A tuple of floats.
    pub fn floats(values: &[f64]) -> Self {
        Python::Tuple(values.iter().map(|&v| Python::Float(v)).collect())
    }
}

/// The pickle, in protocol 3: the first that has bytes.
pub(super) fn to_pickle(value: &Python) -> Vec<u8> {
    let mut out = vec![0x80, 3];
    write(value, &mut out);
    out.push(b'.');
    out
}

fn write(value: &Python, out: &mut Vec<u8>) {
    match value {
        Python::Int(v) => match i32::try_from(*v) {
            Ok(v) => {
                out.push(b'J');
                out.extend(v.to_le_bytes());
            }
            Err(_) => {
                out.extend([0x8a, 8]);
                out.extend(v.to_le_bytes());
            }
        },
        Python::Float(v) => {
            out.push(b'G');
            out.extend(v.to_be_bytes());
        }
        Python::Str(v) => {
            out.push(b'X');
            out.extend((v.len() as u32).to_le_bytes());
            out.extend(v.as_bytes());
        }
        Python::Tuple(values) => {
            out.push(b'(');
            values.iter().for_each(|v| write(v, out));
            out.push(b't');
        }
        Python::List(values) => {
            out.extend(b"](");
            values.iter().for_each(|v| write(v, out));
            out.push(b'e');
        }
        Python::Dict(entries) => {
            out.extend(b"}(");
            for (key, value) in entries {
                write(key, out);
                write(value, out);
            }
            out.push(b'u');
        }
        Python::Int64Array { shape, values } => {
            array(
                shape,
                "i8",
                values.iter().flat_map(|v| v.to_le_bytes()).collect(),
                out,
            );
        }
        Python::Float64Array { shape, values } => {
            array(
                shape,
                "f8",
                values.iter().flat_map(|v| v.to_le_bytes()).collect(),
                out,
            );
        }
    }
}

/// What numpy's own `ndarray.__reduce__` gives; the module's old name works with numpy 1 and 2.
fn array(shape: &[usize], dtype: &str, bytes: Vec<u8>, out: &mut Vec<u8>) {
    // _reconstruct(ndarray, (0,), b"b")
    out.extend(b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR");
    // state: (1, shape, dtype, False, bytes)
    out.extend(b"(K\x01");
    write(&Python::ints(shape), out);
    out.extend(b"cnumpy\ndtype\n(");
    write(&Python::Str(dtype), out);
    out.extend(b"\x89\x88tR(K\x03");
    write(&Python::Str("<"), out);
    out.extend(b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89B");
    out.extend((bytes.len() as u32).to_le_bytes());
    out.extend(bytes);
    out.extend(b"tb");
}
