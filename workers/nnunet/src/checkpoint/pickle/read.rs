//! Reading a pickle of protocols 2 to 4 without running anything.

use std::collections::HashMap;

use super::{Element, KEEP_LARGEST, NumpyArray, TensorRef, Value};

/// Values nested deeper than this are refused.
const MAX_DEPTH: usize = 200;
/// What a value without content weighs against the bound on a pickle's expansion, in bytes.
const VALUE_WEIGHT: usize = 32;

/// The value that a pickle holds. An unknown name of Python's is an error that gives the name.
pub fn read(bytes: &[u8]) -> Result<Value, String> {
    let mut machine = Machine {
        bytes,
        at: 0,
        nodes: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    let root = machine
        .run()
        .map_err(|reason| format!("pickle, byte {}: {reason}", machine.at))?;
    // Shared references let a small file expand without bound. Honest ones stay far below this.
    let mut left = (64 << 20) + 64 * bytes.len();
    machine
        .value(root, 0, &mut left)
        .map_err(|reason| format!("pickle: {reason}"))
}

/// The names that a pickle may use. Nothing else of Python exists here.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Known {
    OrderedDict,
    Set,
    Encode,
    RebuildTensor,
    RebuildParameter,
    Storage(Element),
    TorchSize,
    Device,
    NumpyScalar,
    NumpyDtype,
    NumpyReconstruct,
    NumpyFromBuffer,
    NumpyArray,
    KeepLargest,
}

fn known(module: &str, name: &str) -> Result<Known, String> {
    let numpy_core = matches!(module, "numpy.core.multiarray" | "numpy._core.multiarray");
    Ok(match (module, name) {
        ("collections", "OrderedDict") => Known::OrderedDict,
        ("builtins" | "__builtin__", "set" | "frozenset") => Known::Set,
        ("_codecs", "encode") => Known::Encode,
        ("torch._utils", "_rebuild_tensor_v2") => Known::RebuildTensor,
        ("torch._utils", "_rebuild_parameter") => Known::RebuildParameter,
        ("torch", "Size") => Known::TorchSize,
        ("torch", "device") => Known::Device,
        (_, "scalar") if numpy_core => Known::NumpyScalar,
        (_, "_reconstruct") if numpy_core => Known::NumpyReconstruct,
        ("numpy.core.numeric" | "numpy._core.numeric", "_frombuffer") => Known::NumpyFromBuffer,
        ("numpy", "ndarray") => Known::NumpyArray,
        ("numpy", "dtype") => Known::NumpyDtype,
        KEEP_LARGEST => Known::KeepLargest,
        _ => match Element::from_storage_class(name).filter(|_| module == "torch") {
            Some(element) => Known::Storage(element),
            None => {
                return Err(format!(
                    "the name {module}.{name} is not one that a pickle may use here"
                ));
            }
        },
    })
}

type Id = usize;

/// A value under construction. Lists and dictionaries are filled after they were named, so all are held by number.
#[derive(Clone, Debug)]
enum Node {
    Plain(Value),
    List(Vec<Id>),
    Tuple(Vec<Id>),
    Set(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Known(Known),
    Storage {
        key: String,
        element: Element,
        elements: usize,
    },
    Dtype(String),
    Array(NumpyArray),
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl Machine<'_> {
    fn take(&mut self, n: usize) -> Result<&[u8], String> {
        let end = self
            .at
            .checked_add(n)
            .filter(|&e| e <= self.bytes.len())
            .ok_or("the file ends too early")?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.array::<1>()?[0])
    }

    fn length(&mut self, width: usize) -> Result<usize, String> {
        let mut wide = [0; 8];
        wide[..width].copy_from_slice(self.take(width)?);
        usize::try_from(u64::from_le_bytes(wide)).map_err(|_| "a length that does not fit".into())
    }

    fn string(&mut self, n: usize) -> Result<String, String> {
        String::from_utf8(self.take(n)?.to_vec()).map_err(|_| "a string that is not UTF-8".into())
    }

    fn line(&mut self) -> Result<String, String> {
        let rest = &self.bytes[self.at..];
        let n = rest
            .iter()
            .position(|&b| b == b'\n')
            .ok_or("a name without an end")?;
        let line = self.string(n)?;
        self.at += 1;
        Ok(line)
    }

    fn push(&mut self, node: Node) {
        self.nodes.push(node);
        self.stack.push(self.nodes.len() - 1);
    }

    fn plain(&mut self, value: Value) {
        self.push(Node::Plain(value));
    }

    fn pop(&mut self) -> Result<Id, String> {
        // A mark is a floor: what lies below belongs to an outer value.
        if self.marks.last().is_some_and(|&m| self.stack.len() <= m) {
            return Err("the stack is empty above its mark".into());
        }
        self.stack.pop().ok_or_else(|| "the stack is empty".into())
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().ok_or("no mark is set")?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn top(&self) -> Result<Id, String> {
        self.stack
            .last()
            .copied()
            .ok_or_else(|| "the stack is empty".into())
    }

    fn remember(&mut self, slot: u32) -> Result<(), String> {
        let id = self.top()?;
        self.memo.insert(slot, id);
        Ok(())
    }

    fn recall(&mut self, slot: u32) -> Result<(), String> {
        let id = *self.memo.get(&slot).ok_or("a reference to nothing")?;
        self.stack.push(id);
        Ok(())
    }

    fn run(&mut self) -> Result<Id, String> {
        loop {
            let code = self.byte()?;
            match code {
                0x80 => {
                    let version = self.byte()?;
                    if !(2..=5).contains(&version) {
                        return Err(format!("pickle protocol {version}; 2 to 5 are known"));
                    }
                }
                0x95 => _ = self.take(8)?, // the length of a frame: nothing to do with it here
                b'.' => return self.pop(),
                b'(' => self.marks.push(self.stack.len()),
                b'0' => _ = self.pop()?,
                b'1' => _ = self.pop_mark()?,
                b'2' => {
                    let id = self.top()?;
                    self.stack.push(id);
                }
                b'N' => self.plain(Value::None),
                0x88 => self.plain(Value::Bool(true)),
                0x89 => self.plain(Value::Bool(false)),
                b'K' => {
                    let v = self.byte()?;
                    self.plain(Value::Int(v.into()));
                }
                b'M' => {
                    let v = u16::from_le_bytes(self.array()?);
                    self.plain(Value::Int(v.into()));
                }
                b'J' => {
                    let v = i32::from_le_bytes(self.array()?);
                    self.plain(Value::Int(v.into()));
                }
                0x8a => {
                    let n = self.byte()?.into();
                    let digits = self.take(n)?;
                    let negative = digits.last().is_some_and(|b| b & 0x80 != 0);
                    if n > 8 {
                        return Err("an integer of more than 64 bits".into());
                    }
                    let mut wide = [if negative { 0xff } else { 0 }; 8];
                    wide[..n].copy_from_slice(digits);
                    self.plain(Value::Int(i64::from_le_bytes(wide)));
                }
                b'G' => {
                    let v = f64::from_be_bytes(self.array()?);
                    self.plain(Value::Float(v));
                }
                b'X' | 0x8c | 0x8d => {
                    let n = self.length(match code {
                        b'X' => 4,
                        0x8c => 1,
                        _ => 8,
                    })?;
                    let s = self.string(n)?;
                    self.plain(Value::Str(s));
                }
                b'U' | b'T' | b'C' | b'B' | 0x8e => {
                    let n = self.length(match code {
                        b'U' | b'C' => 1,
                        b'T' | b'B' => 4,
                        _ => 8,
                    })?;
                    let bytes = self.take(n)?.to_vec();
                    self.plain(Value::Bytes(bytes));
                }
                b']' => self.push(Node::List(Vec::new())),
                b'}' => self.push(Node::Dict(Vec::new())),
                b')' => self.push(Node::Tuple(Vec::new())),
                0x8f => self.push(Node::Set(Vec::new())),
                0x85..=0x87 => {
                    let mut items = Vec::new();
                    for _ in 0..code - 0x84 {
                        items.push(self.pop()?);
                    }
                    items.reverse();
                    self.push(Node::Tuple(items));
                }
                b't' => {
                    let items = self.pop_mark()?;
                    self.push(Node::Tuple(items));
                }
                b'l' => {
                    let items = self.pop_mark()?;
                    self.push(Node::List(items));
                }
                0x91 => {
                    let items = self.pop_mark()?;
                    self.push(Node::Set(items));
                }
                b'd' => {
                    let items = self.pop_mark()?;
                    let pairs = items.chunks_exact(2).map(|p| (p[0], p[1])).collect();
                    self.push(Node::Dict(pairs));
                }
                b'a' => {
                    let item = self.pop()?;
                    self.extend(vec![item])?;
                }
                b'e' | 0x90 => {
                    let items = self.pop_mark()?;
                    self.extend(items)?;
                }
                b's' => {
                    let value = self.pop()?;
                    let key = self.pop()?;
                    self.extend(vec![key, value])?;
                }
                b'u' => {
                    let items = self.pop_mark()?;
                    self.extend(items)?;
                }
                b'q' => {
                    let slot = self.byte()?.into();
                    self.remember(slot)?;
                }
                b'r' => {
                    let slot = u32::from_le_bytes(self.array()?);
                    self.remember(slot)?;
                }
                0x94 => self.remember(self.memo.len() as u32)?,
                b'h' => {
                    let slot = self.byte()?.into();
                    self.recall(slot)?;
                }
                b'j' => {
                    let slot = u32::from_le_bytes(self.array()?);
                    self.recall(slot)?;
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.push(Node::Known(known(&module, &name)?));
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let (name, module) = (self.text(name)?.to_owned(), self.text(module)?.to_owned());
                    self.push(Node::Known(known(&module, &name)?));
                }
                b'Q' => {
                    let id = self.pop()?;
                    let storage = self.storage(id)?;
                    self.push(storage);
                }
                b'R' | 0x81 => {
                    let (arguments, function) = (self.pop()?, self.pop()?);
                    let made = self.call(function, arguments)?;
                    self.push(made);
                }
                b'b' => {
                    let state = self.pop()?;
                    let object = self.top()?;
                    self.set_state(object, state)?;
                }
                other => {
                    return Err(format!(
                        "instruction {other:#04x} is not one that a checkpoint may use"
                    ));
                }
            }
        }
    }

    /// Adds items to the list, set or dictionary on top of the stack.
    fn extend(&mut self, items: Vec<Id>) -> Result<(), String> {
        let top = self.top()?;
        match &mut self.nodes[top] {
            Node::List(list) | Node::Set(list) => list.extend(items),
            Node::Dict(pairs) if items.len().is_multiple_of(2) => {
                pairs.extend(items.chunks_exact(2).map(|p| (p[0], p[1])))
            }
            _ => return Err("items added to what is no list, set or dictionary".into()),
        }
        Ok(())
    }

    fn text(&self, id: Id) -> Result<&str, String> {
        match &self.nodes[id] {
            Node::Plain(Value::Str(s)) => Ok(s),
            other => Err(format!("a string was expected, found {}", short(other))),
        }
    }

    fn size(&self, id: Id) -> Result<usize, String> {
        match &self.nodes[id] {
            Node::Plain(Value::Int(v)) => usize::try_from(*v).map_err(|_| format!("a size of {v}")),
            other => Err(format!("a size was expected, found {}", short(other))),
        }
    }

    fn sizes(&self, id: Id) -> Result<Vec<usize>, String> {
        self.tuple(id)?.iter().map(|&i| self.size(i)).collect()
    }

    fn bytes_of(&self, id: Id) -> Result<Vec<u8>, String> {
        match &self.nodes[id] {
            Node::Plain(Value::Bytes(b)) => Ok(b.clone()),
            other => Err(format!("bytes were expected, found {}", short(other))),
        }
    }

    fn tuple(&self, id: Id) -> Result<&[Id], String> {
        match &self.nodes[id] {
            Node::Tuple(items) | Node::List(items) => Ok(items),
            other => Err(format!("a tuple was expected, found {}", short(other))),
        }
    }

    /// `('storage', torch.FloatStorage, key, location, elements)`.
    fn storage(&self, id: Id) -> Result<Node, String> {
        let &[kind, class, key, _, elements] = self.tuple(id)? else {
            return Err("a persistent id that is no torch storage".into());
        };
        if self.text(kind)? != "storage" {
            return Err("a persistent id that is no torch storage".into());
        }
        let Node::Known(Known::Storage(element)) = self.nodes[class] else {
            return Err("a storage without an element type".into());
        };
        Ok(Node::Storage {
            key: self.text(key)?.to_owned(),
            element,
            elements: self.size(elements)?,
        })
    }

    fn call(&self, function: Id, arguments: Id) -> Result<Node, String> {
        let Node::Known(function) = self.nodes[function] else {
            return Err("a call of what is no function".into());
        };
        let arguments = self.tuple(arguments)?;
        Ok(match (function, arguments) {
            (Known::OrderedDict, []) => Node::Dict(Vec::new()),
            (Known::OrderedDict, &[pairs]) => {
                let mut dict = Vec::new();
                for &pair in self.tuple(pairs)? {
                    let &[key, value] = self.tuple(pair)? else {
                        return Err("an OrderedDict of what are no pairs".into());
                    };
                    dict.push((key, value));
                }
                Node::Dict(dict)
            }
            (Known::Set, []) => Node::Set(Vec::new()),
            (Known::Set, &[items]) => Node::Set(self.tuple(items)?.to_vec()),
            (Known::TorchSize, &[sizes]) => Node::Tuple(self.tuple(sizes)?.to_vec()),
            (Known::Device, names) => {
                let parts: Vec<String> = names
                    .iter()
                    .map(|&n| {
                        self.text(n)
                            .map(str::to_owned)
                            .or_else(|_| self.size(n).map(|i| i.to_string()))
                    })
                    .collect::<Result<_, _>>()?;
                Node::Plain(Value::Str(parts.join(":")))
            }
            (Known::Encode, &[text, encoding]) => {
                let encoding = self.text(encoding)?;
                if !matches!(encoding, "latin1" | "latin-1" | "iso-8859-1") {
                    return Err(format!("bytes in the encoding {encoding}"));
                }
                let bytes = self.text(text)?.chars().map(|c| u8::try_from(c as u32));
                Node::Plain(Value::Bytes(
                    bytes
                        .collect::<Result<_, _>>()
                        .map_err(|_| "bytes that are not latin-1")?,
                ))
            }
            (Known::RebuildTensor, &[storage, offset, shape, strides, ..]) => {
                let Node::Storage {
                    key,
                    element,
                    elements,
                } = &self.nodes[storage]
                else {
                    return Err("a tensor without a storage".into());
                };
                Node::Plain(Value::Tensor(TensorRef {
                    storage: key.clone(),
                    element: *element,
                    storage_elements: *elements,
                    offset: self.size(offset)?,
                    shape: self.sizes(shape)?,
                    strides: self.sizes(strides)?,
                }))
            }
            (Known::RebuildParameter, &[tensor, ..]) => self.nodes[tensor].clone(),
            (Known::NumpyDtype, &[name, ..]) => Node::Dtype(format!("|{}", self.text(name)?)),
            (Known::NumpyScalar, &[dtype, bytes]) => {
                let Node::Dtype(dtype) = &self.nodes[dtype] else {
                    return Err("a numpy scalar without a type".into());
                };
                Node::Plain(numpy_scalar(dtype, &self.bytes_of(bytes)?)?)
            }
            (Known::NumpyReconstruct, _) => Node::Array(NumpyArray {
                dtype: String::new(),
                shape: Vec::new(),
                fortran: false,
                bytes: Vec::new(),
            }),
            (Known::NumpyFromBuffer, &[buffer, dtype, shape, order]) => {
                let Node::Dtype(dtype) = &self.nodes[dtype] else {
                    return Err("a numpy array without a type".into());
                };
                Node::Array(NumpyArray {
                    dtype: dtype.clone(),
                    shape: self.sizes(shape)?,
                    fortran: self.text(order)? == "F",
                    bytes: self.bytes_of(buffer)?,
                })
            }
            (function, arguments) => {
                return Err(format!("{function:?} called with {} arguments", arguments.len()));
            }
        })
    }

    /// `object.__setstate__(state)`, for the few objects that need it.
    fn set_state(&mut self, object: Id, state: Id) -> Result<(), String> {
        match self.nodes[object].clone() {
            // A state_dict carries its modules' versions, which nothing here reads.
            Node::Dict(_) => {}
            // (version, byte order, ...)
            Node::Dtype(name) => {
                let order = *self
                    .tuple(state)?
                    .get(1)
                    .ok_or("a numpy type without a byte order")?;
                let order = self.text(order)?.to_owned();
                self.nodes[object] =
                    Node::Dtype(format!("{order}{}", name.trim_start_matches(['|', '<', '>'])));
            }
            // (version, shape, dtype, fortran, bytes)
            Node::Array(_) => {
                let &[_, shape, dtype, fortran, bytes] = self.tuple(state)? else {
                    return Err("a numpy array of an unknown form".into());
                };
                let Node::Dtype(dtype) = &self.nodes[dtype] else {
                    return Err("a numpy array without a type".into());
                };
                let fortran = matches!(self.nodes[fortran], Node::Plain(Value::Bool(true)));
                let array = NumpyArray {
                    dtype: dtype.clone(),
                    shape: self.sizes(shape)?,
                    fortran,
                    bytes: self.bytes_of(bytes)?,
                };
                self.nodes[object] = Node::Array(array);
            }
            other => return Err(format!("a state for {}", short(&other))),
        }
        Ok(())
    }

    /// The finished value of a node.
    fn value(&self, id: Id, depth: usize, left: &mut usize) -> Result<Value, String> {
        if depth > MAX_DEPTH {
            return Err(format!("values are nested more than {MAX_DEPTH} deep"));
        }
        let content = match &self.nodes[id] {
            Node::Plain(Value::Str(s)) => s.len(),
            Node::Plain(Value::Bytes(b)) => b.len(),
            Node::Array(array) => array.bytes.len(),
            _ => 0,
        };
        *left = left
            .checked_sub(VALUE_WEIGHT + content)
            .ok_or("its values expand far beyond the file's size")?;
        let mut all = |ids: &[Id]| {
            ids.iter()
                .map(|&i| self.value(i, depth + 1, left))
                .collect::<Result<Vec<_>, _>>()
        };
        Ok(match &self.nodes[id] {
            Node::Plain(value) => value.clone(),
            Node::List(ids) => Value::List(all(ids)?),
            Node::Tuple(ids) => Value::Tuple(all(ids)?),
            Node::Set(ids) => Value::Set(all(ids)?),
            Node::Dict(pairs) => {
                let mut items: Vec<(Value, Value)> = Vec::with_capacity(pairs.len().min(1 << 16));
                for &(key, value) in pairs {
                    items.push((
                        self.value(key, depth + 1, left)?,
                        self.value(value, depth + 1, left)?,
                    ));
                }
                Value::Dict(items)
            }
            Node::Array(array) => Value::Array(array.clone()),
            Node::Known(Known::KeepLargest) => Value::Function(KEEP_LARGEST),
            Node::Known(_) | Node::Storage { .. } | Node::Dtype(_) => {
                return Err(format!(
                    "{} stands where a value was expected",
                    short(&self.nodes[id])
                ));
            }
        })
    }
}

fn short(node: &Node) -> String {
    match node {
        Node::Plain(value) => value.kind().into(),
        Node::List(_) => "a list".into(),
        Node::Tuple(_) => "a tuple".into(),
        Node::Set(_) => "a set".into(),
        Node::Dict(_) => "a dictionary".into(),
        Node::Known(known) => format!("the name {known:?}"),
        Node::Storage { .. } => "a storage".into(),
        Node::Dtype(_) => "a numpy type".into(),
        Node::Array(_) => "an array".into(),
    }
}

/// A numpy scalar as a plain number.
fn numpy_scalar(dtype: &str, bytes: &[u8]) -> Result<Value, String> {
    let (order, kind) = dtype.split_at_checked(1).ok_or("an empty numpy type")?;
    let mut little = bytes.to_vec();
    if order == ">" {
        little.reverse();
    }
    let wrong = || format!("a numpy scalar of type {dtype} with {} bytes", bytes.len());
    fn fixed<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
        bytes.try_into().ok()
    }
    let value = match kind {
        "f8" => fixed(&little).map(|b| Value::Float(f64::from_le_bytes(b))),
        "f4" => fixed(&little).map(|b| Value::Float(f32::from_le_bytes(b).into())),
        "f2" => fixed(&little).map(|b| Value::Float(half::f16::from_le_bytes(b).into())),
        "i8" => fixed(&little).map(|b| Value::Int(i64::from_le_bytes(b))),
        "i4" => fixed(&little).map(|b| Value::Int(i32::from_le_bytes(b).into())),
        "i2" => fixed(&little).map(|b| Value::Int(i16::from_le_bytes(b).into())),
        "i1" => fixed(&little).map(|b| Value::Int(i8::from_le_bytes(b).into())),
        "u4" => fixed(&little).map(|b| Value::Int(u32::from_le_bytes(b).into())),
        "u2" => fixed(&little).map(|b| Value::Int(u16::from_le_bytes(b).into())),
        "u1" => fixed(&little).map(|b: [u8; 1]| Value::Int(b[0].into())),
        "u8" => fixed(&little)
            .and_then(|b| i64::try_from(u64::from_le_bytes(b)).ok())
            .map(Value::Int),
        "b1" => fixed(&little).map(|b: [u8; 1]| Value::Bool(b[0] != 0)),
        _ => None,
    };
    value.ok_or_else(wrong)
}
