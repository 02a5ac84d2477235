//! Reading a .pth of Python nnU-Net (or ours) without running anything that is in it.

use std::{
    cell::RefCell,
    collections::HashMap,
    fs::File,
    io::{Cursor, Read},
    path::{Path, PathBuf},
};

use memmap2::Mmap;
use schemas::job::FoldId;
use zip::{CompressionMethod, ZipArchive};

use super::{
    Checkpoint, InitArgs, Logging, optimizer_state,
    pickle::{self, Element, TensorRef, Value},
};
use crate::{
    Error, Result,
    network::{Layout, StateDict, Tensor32},
    train::ScalerState,
};

/// A checkpoint file of nnU-Net. Tensors are read when they are asked for.
pub struct PthFile {
    path: PathBuf,
    map: Mmap,
    /// Position and length of each storage, by its key.
    storages: HashMap<String, (u64, u64)>,
    big_endian: bool,
    root: Value,
}

impl PthFile {
    /// Reads the structure of `path`, but no tensor.
    ///
    /// # Errors
    /// Where the file is not a zip archive written by `torch.save`, or names something that a checkpoint has no use for:
    /// nothing is ever called.
    pub fn open(path: &Path) -> Result<PthFile> {
        let bad = |reason: String| Error::bad_file(path, reason);
        let file = File::open(path).map_err(Error::io(path))?;
        // SAFETY: a checkpoint is not changed while it is read; a change could at worst stop this process.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path))?;
        let mut archive = ZipArchive::new(Cursor::new(&map[..])).map_err(|e| {
            bad(format!(
                "no zip archive of torch.save (files older than torch 1.6 are not read): {e}"
            ))
        })?;

        let mut storages = HashMap::new();
        let mut pickled = None;
        let mut big_endian = false;
        for index in 0..archive.len() {
            let mut member = archive.by_index(index).map_err(|e| bad(e.to_string()))?;
            let name = member.name().to_owned();
            if member.compression() != CompressionMethod::Stored {
                return Err(bad(format!(
                    "member {name} is compressed, which torch.save never does"
                )));
            }
            // The names begin with the archive's, which is whatever the file was called when it was saved.
            let Some((_, inner)) = name.split_once('/') else {
                continue;
            };
            let mut read = || {
                let mut bytes = Vec::new();
                member
                    .read_to_end(&mut bytes)
                    .map_err(|e| bad(format!("member {name}: {e}")))?;
                Ok::<_, Error>(bytes)
            };
            match inner {
                "data.pkl" => pickled = Some(read()?),
                "byteorder" => big_endian = read()? == b"big",
                _ => {
                    if let Some(key) = inner.strip_prefix("data/") {
                        storages.insert(key.to_owned(), (member.data_start(), member.size()));
                    }
                }
            }
        }
        let pickled = pickled.ok_or_else(|| bad("no data.pkl in the archive".into()))?;
        let root = pickle::read(&pickled).map_err(bad)?;
        if root.as_dict().is_none() {
            return Err(bad(format!(
                "holds {}, expected nnU-Net's dictionary",
                root.kind()
            )));
        }
        Ok(PthFile {
            path: path.to_owned(),
            map,
            storages,
            big_endian,
            root,
        })
    }

    /// Everything, for the network of `layout`.
    pub fn checkpoint(&self, layout: &Layout) -> Result<Checkpoint> {
        Ok(Checkpoint {
            weights: self.weights(layout)?,
            momentum: self.momentum(layout)?,
            optimiser: optimizer_state::group(&self.root),
            scaler: self.scaler()?,
            logging: self.logging()?,
            best_ema: self.best_ema(),
            current_epoch: self.current_epoch()?,
            init_args: self.init_args()?,
            trainer_name: self.trainer_name()?.to_owned(),
            mirror_axes: self.mirror_axes()?,
        })
    }

    /// The weights, each once, for the network of `layout`. Strict as nnU-Net: all keys of the state_dict and no other.
    /// The prefixes of a network that was wrapped for several GPUs or compiled are taken off.
    ///
    /// # Errors
    /// A key that is missing, unexpected, of another shape or not finite; keys of one tensor with different values.
    pub fn weights(&self, layout: &Layout) -> Result<StateDict> {
        let stored = self.named_tensors()?;
        let bad = |key: &str, reason: &str| self.bad(format!("network_weights: tensor {key} {reason}"));
        let keys: std::collections::HashSet<&str> = layout.aliases().map(|(key, _)| key).collect();
        if let Some((key, _)) = stored.iter().find(|(key, _)| !keys.contains(**key)) {
            return Err(bad(key, "is not one of the network that the plans describe"));
        }
        let cache = RefCell::default();
        let mut read: HashMap<&str, (&TensorRef, Tensor32)> = HashMap::new();
        for (key, unique) in layout.aliases() {
            let tensor = *stored.get(key).ok_or_else(|| bad(key, "is missing"))?;
            match read.get(unique) {
                Some((first, _)) if *first == tensor => {}
                Some((_, first)) => {
                    if self.tensor(key, tensor, &cache)? != *first {
                        return Err(bad(
                            key,
                            &format!("differs from {unique}, which is the same in nnU-Net"),
                        ));
                    }
                }
                None => _ = read.insert(unique, (tensor, self.tensor(key, tensor, &cache)?)),
            }
        }
        let mut weights = StateDict::new();
        for parameter in layout.parameters() {
            let (_, tensor) = read
                .remove(parameter.name.as_str())
                .ok_or_else(|| bad(&parameter.name, "is missing"))?;
            weights.insert(&parameter.name, tensor)?;
        }
        weights.check(layout).map_err(|e| self.bad(e.to_string()))?;
        Ok(weights)
    }

    /// `own` with the weights of this file put in, as `nnUNetv2_train -pretrained_weights` does: all but the
    /// segmentation heads, and none may be missing or of another shape (run/load_pretrained_weights.py).
    pub fn pretrained(&self, own: &StateDict) -> Result<StateDict> {
        let stored = self.named_tensors()?;
        let cache = RefCell::default();
        let mut weights = own.clone();
        for (name, tensor) in own.iter() {
            if name.contains(".seg_layers.") {
                continue;
            }
            let bad = |reason: String| self.bad(format!("pretrained weights: tensor {name} {reason}"));
            let found = stored.get(name).ok_or_else(|| bad("is missing".into()))?;
            if found.shape != tensor.shape {
                return Err(bad(format!(
                    "has the shape {:?}, this network needs {:?}",
                    found.shape, tensor.shape
                )));
            }
            let found = self.tensor(name, found, &cache)?;
            if let Some(slot) = weights.get_mut(name) {
                *slot = found;
            }
        }
        Ok(weights)
    }

    /// What the optimiser remembers of each parameter; empty where the file has no optimizer state.
    pub fn momentum(&self, layout: &Layout) -> Result<StateDict> {
        let cache = RefCell::default();
        optimizer_state::read(&self.root, layout, |name, view| self.tensor(name, view, &cache))
            .map_err(|e| self.bad(e.to_string()))
    }

    /// The state of torch's GradScaler; None of a training on the CPU.
    pub fn scaler(&self) -> Result<Option<ScalerState>> {
        let Some(state) = self.root.get("grad_scaler_state") else {
            return Ok(None);
        };
        // A scaler that is switched off has an empty state.
        if *state == Value::None || state.as_dict().is_some_and(<[_]>::is_empty) {
            return Ok(None);
        }
        let scale = state.get("scale").and_then(Value::as_f64);
        let scale = scale.filter(|scale| scale.is_finite() && *scale > 0.0);
        let scale = scale.ok_or_else(|| self.bad("grad_scaler_state.scale: no number above 0".into()))?;
        let tracker = state.get("_growth_tracker").and_then(Value::as_int);
        let tracker = tracker.and_then(|tracker| u32::try_from(tracker).ok());
        Ok(Some(ScalerState {
            scale: scale as f32,
            growth_tracker: tracker
                .ok_or_else(|| self.bad("grad_scaler_state._growth_tracker: no count".into()))?,
        }))
    }

    /// The training curves.
    pub fn logging(&self) -> Result<Logging> {
        Logging::from_pickle(self.field("logging")?).map_err(|reason| self.bad(reason))
    }

    /// The best moving average of the pseudo Dice.
    pub fn best_ema(&self) -> Option<f64> {
        self.root.get("_best_ema").and_then(Value::as_f64)
    }

    /// How many epochs are completed.
    pub fn current_epoch(&self) -> Result<usize> {
        let value = self.field("current_epoch")?;
        value
            .as_int()
            .and_then(|v| usize::try_from(v).ok())
            .ok_or_else(|| self.bad("current_epoch: no count".into()))
    }

    /// What the trainer was started with. A file made for prediction only may leave out all but the configuration.
    pub fn init_args(&self) -> Result<InitArgs> {
        let value = self.field("init_args")?;
        let document = |key: &str| match value.get(key) {
            Some(v) => v
                .to_json()
                .ok_or_else(|| self.bad(format!("init_args.{key}: holds more than a JSON document"))),
            None => Ok(serde_json::Value::Null),
        };
        Ok(InitArgs {
            plans: document("plans")?,
            configuration: self.configuration()?.to_owned(),
            fold: match value.get("fold") {
                None => FoldId::All,
                Some(Value::Str(all)) if all == "all" => FoldId::All,
                Some(v) => {
                    let number = v.as_int().and_then(|n| u32::try_from(n).ok());
                    FoldId::Fold(
                        number.ok_or_else(|| self.bad("init_args.fold: neither a number nor all".into()))?,
                    )
                }
            },
            dataset_json: document("dataset_json")?,
        })
    }

    /// The name of the configuration.
    pub fn configuration(&self) -> Result<&str> {
        let value = self
            .field("init_args")?
            .get("configuration")
            .and_then(Value::as_str);
        value.ok_or_else(|| self.bad("init_args.configuration: missing".into()))
    }

    /// The trainer's class name.
    pub fn trainer_name(&self) -> Result<&str> {
        self.field("trainer_name")?
            .as_str()
            .ok_or_else(|| self.bad("trainer_name: no string".into()))
    }

    /// The axes over which predictions may be mirrored; None where the trainer forbids it or the file does not say.
    pub fn mirror_axes(&self) -> Result<Option<Vec<usize>>> {
        let Some(items) = self
            .root
            .get("inference_allowed_mirroring_axes")
            .and_then(Value::as_items)
        else {
            return Ok(None);
        };
        let axis = |v: &Value| v.as_int().filter(|a| (0..3).contains(a)).map(|a| a as usize);
        let axes = items.iter().map(axis).collect::<Option<Vec<_>>>();
        axes.map(Some)
            .ok_or_else(|| self.bad("inference_allowed_mirroring_axes: not among 0, 1, 2".into()))
    }

    fn bad(&self, reason: String) -> Error {
        Error::bad_file(&self.path, reason)
    }

    fn field(&self, key: &str) -> Result<&Value> {
        self.root
            .get(key)
            .ok_or_else(|| self.bad(format!("{key}: missing")))
    }

    fn named_tensors(&self) -> Result<HashMap<&str, &TensorRef>> {
        let entries = self.field("network_weights")?.as_dict();
        let entries = entries.ok_or_else(|| self.bad("network_weights: no dictionary".into()))?;
        let mut tensors = HashMap::with_capacity(entries.len());
        for (key, value) in entries {
            match (key, value) {
                (Value::Str(key), Value::Tensor(tensor)) => {
                    if tensors.insert(unwrapped(key), tensor).is_some() {
                        return Err(self.bad(format!(
                            "network_weights: {} is there twice, with and without a prefix",
                            unwrapped(key)
                        )));
                    }
                }
                _ => return Err(self.bad(format!("network_weights: {key:?} holds {}", value.kind()))),
            }
        }
        Ok(tensors)
    }

    /// The values of a view as float32, finite. `cache` keeps the storage that was converted last.
    fn tensor(
        &self,
        name: &str,
        view: &TensorRef,
        cache: &RefCell<Option<(String, Vec<f32>)>>,
    ) -> Result<Tensor32> {
        let mut cache = cache.borrow_mut();
        let bad = |reason: &str| self.bad(format!("tensor {name} {reason}"));
        if cache.as_ref().is_none_or(|(key, _)| *key != view.storage) {
            *cache = Some((view.storage.clone(), self.storage(name, view)?));
        }
        let Some((_, values)) = cache.as_ref() else {
            return Err(bad("has no storage"));
        };
        let data = gather(values, view).ok_or_else(|| bad("lies outside its storage"))?;
        if let Some(value) = data.iter().find(|v| !v.is_finite()) {
            return Err(bad(&format!("holds the value {value}")));
        }
        Tensor32::new(view.shape.clone(), data)
    }

    fn storage(&self, name: &str, view: &TensorRef) -> Result<Vec<f32>> {
        let bad = |reason: String| self.bad(format!("tensor {name}: {reason}"));
        let &(start, length) = self
            .storages
            .get(&view.storage)
            .ok_or_else(|| bad(format!("storage {} is missing", view.storage)))?;
        let size = view.element.size();
        if view.storage_elements.checked_mul(size) != Some(length as usize) {
            let promised = view.storage_elements;
            return Err(bad(format!(
                "its storage has {length} bytes, {promised} elements of {size} bytes were promised"
            )));
        }
        let end = start
            .checked_add(length)
            .filter(|&end| end <= self.map.len() as u64);
        let end = end.ok_or_else(|| bad("its storage lies outside the file".into()))?;
        let mut bytes = std::borrow::Cow::Borrowed(&self.map[start as usize..end as usize]);
        if self.big_endian {
            bytes.to_mut().chunks_exact_mut(size).for_each(<[u8]>::reverse);
        }
        Ok(to_f32(&bytes, view.element))
    }
}

/// A key without what DistributedDataParallel (`module.`) and torch.compile (`_orig_mod.`) put in front, in any order.
fn unwrapped(mut key: &str) -> &str {
    while let Some(rest) = key
        .strip_prefix("module.")
        .or_else(|| key.strip_prefix("_orig_mod."))
    {
        key = rest;
    }
    key
}

/// The elements of a view in C order; None where it reaches beyond `values` or repeats elements.
fn gather(values: &[f32], view: &TensorRef) -> Option<Vec<f32>> {
    if view.shape.len() != view.strides.len() {
        return None;
    }
    let count = view.shape.iter().try_fold(1usize, |n, &s| n.checked_mul(s))?;
    if count == 0 {
        return Some(Vec::new());
    }
    let last = view
        .shape
        .iter()
        .zip(&view.strides)
        .try_fold(view.offset, |at, (&n, &stride)| {
            at.checked_add((n - 1).checked_mul(stride)?)
        })?;
    if last >= values.len() || count > values.len() {
        return None;
    }
    let mut data = Vec::with_capacity(count);
    let mut position = vec![0; view.shape.len()];
    let mut at = view.offset;
    for _ in 0..count {
        data.push(values[at]);
        for axis in (0..position.len()).rev() {
            position[axis] += 1;
            at += view.strides[axis];
            if position[axis] < view.shape[axis] {
                break;
            }
            at -= position[axis] * view.strides[axis];
            position[axis] = 0;
        }
    }
    Some(data)
}

fn to_f32(bytes: &[u8], element: Element) -> Vec<f32> {
    fn each<const N: usize>(bytes: &[u8], convert: impl Fn([u8; N]) -> f32) -> Vec<f32> {
        bytes.as_chunks::<N>().0.iter().map(|b| convert(*b)).collect()
    }
    match element {
        Element::F32 => each(bytes, f32::from_le_bytes),
        Element::F64 => each(bytes, |b| f64::from_le_bytes(b) as f32),
        Element::F16 => each(bytes, |b| half::f16::from_le_bytes(b).to_f32()),
        Element::BF16 => each(bytes, |b| half::bf16::from_le_bytes(b).to_f32()),
        Element::I64 => each(bytes, |b| i64::from_le_bytes(b) as f32),
        Element::I32 => each(bytes, |b| i32::from_le_bytes(b) as f32),
        Element::I16 => each(bytes, |b| i16::from_le_bytes(b).into()),
        Element::I8 => each(bytes, |b| i8::from_le_bytes(b).into()),
        Element::U8 => each(bytes, |[b]| b.into()),
        Element::Bool => each(bytes, |[b]| f32::from(b != 0)),
    }
}
