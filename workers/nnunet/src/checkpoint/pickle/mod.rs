//! Python pickles without Python: a reader that can run nothing, and a small writer.
//!
//! A pickle is a program for a stack machine that may call any function of the interpreter which loads it.
//! The reader here knows a fixed list of names (tensors, numpy scalars and arrays, ordered dictionaries, the function of a post-processing) and
//! refuses every other by name. It never looks anything up.

mod read;
mod write;

pub use read::read;
pub use write::write;

/// The function that nnU-Net's post-processing names, by module and name.
pub const KEEP_LARGEST: (&str, &str) = (
    "nnunetv2.postprocessing.remove_connected_components",
    "remove_all_but_largest_component_from_segmentation",
);

/// What a pickle holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `None`.
    None,
    /// `True` or `False`; also numpy's.
    Bool(bool),
    /// An integer; also a numpy integer scalar.
    Int(i64),
    /// A float; also a numpy float scalar.
    Float(f64),
    /// A string, and a `torch.device` by its name.
    Str(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// A list.
    List(Vec<Value>),
    /// A tuple.
    Tuple(Vec<Value>),
    /// A set or frozenset, in stored order.
    Set(Vec<Value>),
    /// A dictionary or OrderedDict, in stored order.
    Dict(Vec<(Value, Value)>),
    /// A torch tensor: a view of a storage that lives outside the pickle.
    Tensor(TensorRef),
    /// A numpy array.
    Array(NumpyArray),
    /// A function of Python's, named and not called: [`KEEP_LARGEST`], the only one there is.
    Function((&'static str, &'static str)),
}

/// A view of a torch storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorRef {
    /// The storage's key, the last part of its file name in the archive.
    pub storage: String,
    /// The element type of the storage.
    pub element: Element,
    /// How many elements the storage has.
    pub storage_elements: usize,
    /// The element at which the view begins.
    pub offset: usize,
    /// The view's shape.
    pub shape: Vec<usize>,
    /// Elements to step per axis.
    pub strides: Vec<usize>,
}

/// The element type of a torch storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// 64-bit float.
    F64,
    /// 32-bit float.
    F32,
    /// 16-bit float.
    F16,
    /// bfloat16.
    BF16,
    /// 64-bit integer.
    I64,
    /// 32-bit integer.
    I32,
    /// 16-bit integer.
    I16,
    /// 8-bit integer.
    I8,
    /// Unsigned 8-bit integer.
    U8,
    /// One byte, zero or not.
    Bool,
}

impl Element {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Element::F64 | Element::I64 => 8,
            Element::F32 | Element::I32 => 4,
            Element::F16 | Element::BF16 | Element::I16 => 2,
            Element::I8 | Element::U8 | Element::Bool => 1,
        }
    }

    /// The name of torch's storage class.
    pub fn storage_class(self) -> &'static str {
        match self {
            Element::F64 => "DoubleStorage",
            Element::F32 => "FloatStorage",
            Element::F16 => "HalfStorage",
            Element::BF16 => "BFloat16Storage",
            Element::I64 => "LongStorage",
            Element::I32 => "IntStorage",
            Element::I16 => "ShortStorage",
            Element::I8 => "CharStorage",
            Element::U8 => "ByteStorage",
            Element::Bool => "BoolStorage",
        }
    }

    fn from_storage_class(name: &str) -> Option<Element> {
        use Element::*;
        [F64, F32, F16, BF16, I64, I32, I16, I8, U8, Bool]
            .into_iter()
            .find(|e| e.storage_class() == name)
    }
}

/// A numpy array, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NumpyArray {
    /// numpy's name of the type with its byte order, such as `<i8`.
    pub dtype: String,
    /// The shape.
    pub shape: Vec<usize>,
    /// Whether the first axis changes fastest.
    pub fortran: bool,
    /// The elements.
    pub bytes: Vec<u8>,
}

impl Value {
    /// The value of a dictionary under the string `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let Value::Dict(items) = self else { return None };
        items
            .iter()
            .find(|(k, _)| matches!(k, Value::Str(s) if s == key))
            .map(|(_, v)| v)
    }

    /// The integer.
    pub fn as_int(&self) -> Option<i64> {
        if let Value::Int(v) = self { Some(*v) } else { None }
    }

    /// The number, integers and booleans included.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Float(v) => Some(*v),
            Value::Int(v) => Some(*v as f64),
            Value::Bool(v) => Some(f64::from(*v)),
            _ => None,
        }
    }

    /// The string.
    pub fn as_str(&self) -> Option<&str> {
        if let Value::Str(v) = self { Some(v) } else { None }
    }

    /// The elements of a list, tuple or set.
    pub fn as_items(&self) -> Option<&[Value]> {
        match self {
            Value::List(v) | Value::Tuple(v) | Value::Set(v) => Some(v),
            _ => None,
        }
    }

    /// The entries of a dictionary.
    pub fn as_dict(&self) -> Option<&[(Value, Value)]> {
        if let Value::Dict(v) = self { Some(v) } else { None }
    }

    /// A dictionary with string keys.
    pub fn dict<K: Into<String>>(items: impl IntoIterator<Item = (K, Value)>) -> Value {
        Value::Dict(
            items
                .into_iter()
                .map(|(k, v)| (Value::Str(k.into()), v))
                .collect(),
        )
    }

    /// What kind of value this is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::None => "None",
            Value::Bool(_) => "a bool",
            Value::Int(_) => "an integer",
            Value::Float(_) => "a float",
            Value::Str(_) => "a string",
            Value::Bytes(_) => "bytes",
            Value::List(_) => "a list",
            Value::Tuple(_) => "a tuple",
            Value::Set(_) => "a set",
            Value::Dict(_) => "a dictionary",
            Value::Tensor(_) => "a tensor",
            Value::Array(_) => "an array",
            Value::Function(_) => "a function",
        }
    }

    /// As JSON. Integers used as keys become strings, as in Python's `json`; not finite numbers become null.
    /// Tensors, arrays and bytes have no JSON form: `None`.
    pub fn to_json(&self) -> Option<serde_json::Value> {
        use serde_json::Value as Json;
        Some(match self {
            Value::None => Json::Null,
            Value::Bool(v) => Json::Bool(*v),
            Value::Int(v) => Json::from(*v),
            Value::Float(v) => Json::from(*v),
            Value::Str(v) => Json::from(v.as_str()),
            Value::List(v) | Value::Tuple(v) | Value::Set(v) => {
                Json::Array(v.iter().map(Value::to_json).collect::<Option<_>>()?)
            }
            Value::Dict(items) => {
                let mut map = serde_json::Map::new();
                for (key, value) in items {
                    let key = match key {
                        Value::Str(s) => s.clone(),
                        Value::Int(i) => i.to_string(),
                        _ => return None,
                    };
                    map.insert(key, value.to_json()?);
                }
                Json::Object(map)
            }
            Value::Bytes(_) | Value::Tensor(_) | Value::Array(_) | Value::Function(_) => return None,
        })
    }

    /// The same document as Python's `json.load` would give it.
    pub fn from_json(json: &serde_json::Value) -> Value {
        use serde_json::Value as Json;
        match json {
            Json::Null => Value::None,
            Json::Bool(v) => Value::Bool(*v),
            Json::Number(n) => match n.as_i64() {
                Some(v) => Value::Int(v),
                None => Value::Float(n.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(s) => Value::Str(s.clone()),
            Json::Array(v) => Value::List(v.iter().map(Value::from_json).collect()),
            Json::Object(map) => Value::dict(map.iter().map(|(k, v)| (k.clone(), Value::from_json(v)))),
        }
    }
}
