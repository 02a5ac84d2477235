//! Writing a .pth that `torch.load(weights_only=True)` and every part of nnU-Net accept.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use schemas::job::FoldId;
use zip::{CompressionMethod, DateTime, ZipWriter, write::SimpleFileOptions};

use super::{
    Checkpoint, optimizer_state,
    pickle::{self, Element, TensorRef, Value},
};
use crate::{
    Error, Result,
    network::{Layout, ParameterRole, Tensor32},
};

/// Writes `checkpoint` to `path` by way of a temporary file beside it.
///
/// Each tensor is stored once, all of nnU-Net's names for it share that storage. Only plain Python values are written,
/// so that loading runs no code. The archive is stored uncompressed, its members aligned to 64 bytes, without dates:
/// the same checkpoint gives the same bytes.
///
/// # Errors
/// Where the weights are not those of `layout`, or `path` cannot be written.
pub fn write_pth(checkpoint: &Checkpoint, layout: &Layout, path: &Path) -> Result<()> {
    checkpoint.weights.check(layout)?;
    checkpoint.optimiser.kind.check(&checkpoint.momentum, layout)?;

    let mut storages = Storages::default();
    let root = document(checkpoint, layout, &mut storages)?;
    let pickle = pickle::write(&root).map_err(|reason| Error::bad_file(path, reason))?;

    let temporary = path.with_extension("partial");
    let file = File::create(&temporary).map_err(Error::io(&temporary))?;
    let mut archive = Archive {
        zip: ZipWriter::new(BufWriter::with_capacity(1 << 20, file)),
        path,
    };
    archive.member("data.pkl", |out| out.write_all(&pickle))?;
    archive.member(".format_version", |out| out.write_all(b"1"))?;
    archive.member("byteorder", |out| out.write_all(b"little"))?;
    for (key, storage) in storages.0.iter().enumerate() {
        archive.member(&format!("data/{key}"), |out| match storage {
            Storage::Floats(values) => write_values(out, values),
            Storage::Count(count) => out.write_all(&count.to_le_bytes()),
        })?;
    }
    archive.member("version", |out| out.write_all(b"3\n"))?;
    let bad = |e: zip::result::ZipError| Error::bad_file(path, e);
    let file = archive
        .zip
        .finish()
        .map_err(bad)?
        .into_inner()
        .map_err(|e| Error::bad_file(path, e.error()))?;
    file.sync_all().map_err(Error::io(&temporary))?;
    std::fs::rename(&temporary, path).map_err(Error::io(path))
}

struct Archive<'a> {
    zip: ZipWriter<BufWriter<File>>,
    path: &'a Path,
}

impl Archive<'_> {
    fn member(
        &mut self,
        name: &str,
        write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
    ) -> Result<()> {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .last_modified_time(DateTime::default())
            .unix_permissions(0o644)
            .with_alignment(64);
        self.zip
            .start_file(format!("archive/{name}"), options)
            .map_err(|e| Error::bad_file(self.path, e))?;
        write(&mut self.zip).map_err(Error::io(self.path))
    }
}

fn write_values(out: &mut dyn Write, values: &[f32]) -> std::io::Result<()> {
    for chunk in values.chunks(1 << 16) {
        let bytes: Vec<u8> = chunk.iter().flat_map(|v| v.to_le_bytes()).collect();
        out.write_all(&bytes)?;
    }
    Ok(())
}

/// The storages of an archive; the place of each is its key.
#[derive(Default)]
pub(super) struct Storages<'a>(Vec<Storage<'a>>);

enum Storage<'a> {
    Floats(&'a [f32]),
    Count(i64),
}

impl<'a> Storages<'a> {
    /// Adds a float32 tensor in C order; returns the view of it.
    pub(super) fn floats(&mut self, tensor: &'a Tensor32) -> Value {
        self.0.push(Storage::Floats(&tensor.data));
        self.view(Element::F32, &tensor.shape)
    }

    /// Adds a scalar of a whole number; returns the view of it.
    fn count(&mut self, value: f32) -> Value {
        self.0.push(Storage::Count(value.round() as i64));
        self.view(Element::I64, &[])
    }

    /// The whole of the last storage in C order.
    fn view(&self, element: Element, shape: &[usize]) -> Value {
        let mut strides = vec![1; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis] * shape[axis].max(1);
        }
        Value::Tensor(TensorRef {
            storage: (self.0.len() - 1).to_string(),
            element,
            storage_elements: shape.iter().product(),
            offset: 0,
            shape: shape.to_vec(),
            strides,
        })
    }
}

/// The pickled dictionary. Adds to `storages` what it refers to.
fn document<'a>(checkpoint: &'a Checkpoint, layout: &Layout, storages: &mut Storages<'a>) -> Result<Value> {
    let stored: Vec<Value> = checkpoint
        .weights
        .iter()
        .zip(layout.parameters())
        .map(
            |((_, tensor), parameter)| match (parameter.role, &tensor.data[..]) {
                (ParameterRole::BatchCount, [count]) => storages.count(*count),
                _ => storages.floats(tensor),
            },
        )
        .collect();
    let index: std::collections::HashMap<&str, usize> = checkpoint
        .weights
        .names()
        .enumerate()
        .map(|(i, name)| (name, i))
        .collect();
    let mut network_weights = Vec::new();
    for (key, unique) in layout.aliases() {
        let &i = index
            .get(unique)
            .ok_or_else(|| Error::invalid(format!("tensor {unique}"), "missing"))?;
        network_weights.push((key, stored[i].clone()));
    }

    let optimizer_state = optimizer_state::write(checkpoint, layout, storages)?;

    let init_args = &checkpoint.init_args;
    Ok(Value::dict([
        ("network_weights", Value::dict(network_weights)),
        ("optimizer_state", optimizer_state),
        (
            "grad_scaler_state",
            checkpoint.scaler.map_or(Value::None, |scaler| {
                Value::dict([
                    ("scale", Value::Float(scaler.scale.into())),
                    ("growth_factor", Value::Float(2.0)),
                    ("backoff_factor", Value::Float(0.5)),
                    ("growth_interval", Value::Int(2000)),
                    ("_growth_tracker", Value::Int(scaler.growth_tracker.into())),
                ])
            }),
        ),
        ("logging", checkpoint.logging.to_pickle()),
        ("_best_ema", checkpoint.best_ema.map_or(Value::None, Value::Float)),
        ("current_epoch", Value::Int(checkpoint.current_epoch as i64)),
        (
            "init_args",
            Value::dict([
                ("plans", Value::from_json(&init_args.plans)),
                ("configuration", Value::Str(init_args.configuration.clone())),
                (
                    "fold",
                    match init_args.fold {
                        FoldId::All => Value::Str("all".into()),
                        FoldId::Fold(number) => Value::Int(number.into()),
                    },
                ),
                ("dataset_json", Value::from_json(&init_args.dataset_json)),
            ]),
        ),
        ("trainer_name", Value::Str(checkpoint.trainer_name.clone())),
        (
            "inference_allowed_mirroring_axes",
            match &checkpoint.mirror_axes {
                Some(axes) => Value::Tuple(axes.iter().map(|&a| Value::Int(a as i64)).collect()),
                None => Value::None,
            },
        ),
    ]))
}
