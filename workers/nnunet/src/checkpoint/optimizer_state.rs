//! `optimizer_state` of a checkpoint: what torch's `optimizer.state_dict()` holds, for the optimisers of nnU-Net's
//! trainers. Parameters are known by their number among those that are trained.

use super::{
    Checkpoint, OptimiserGroup,
    pickle::{TensorRef, Value},
    pth_write::Storages,
};
use crate::{
    Error, Result,
    network::{Layout, StateDict, Tensor32},
    train::{
        OptimiserKind, TrainerVariant,
        optimiser::{ADAM_BETAS, ADAN_BETAS, EPS, MOMENTUM, STEP, WEIGHT_DECAY, memory_name},
    },
};

/// The state of `checkpoint`, whose momentum was checked. Adds to `storages` what it refers to.
pub(super) fn write<'a>(
    checkpoint: &'a Checkpoint,
    layout: &Layout,
    storages: &mut Storages<'a>,
) -> Result<Value> {
    let kind = checkpoint.optimiser.kind;
    let mut state = Vec::new();
    for (i, parameter) in layout.trained().enumerate() {
        let Some(memory) = kind.memory_of(&checkpoint.momentum, &parameter.name)? else {
            continue;
        };
        let entries = kind.memory().iter().zip(memory).map(|(name, tensor)| {
            let value = match (kind, *name, &tensor.data[..]) {
                // Adam counts its steps in a tensor, Adan in a Python integer.
                (OptimiserKind::Adan, STEP, [steps]) => Value::Int(steps.round() as i64),
                _ => storages.floats(tensor),
            };
            (*name, value)
        });
        state.push((Value::Int(i as i64), Value::dict(entries.collect::<Vec<_>>())));
    }
    let parameters = (0..layout.trained().count() as i64).map(Value::Int).collect();
    let mut group = settings(&checkpoint.optimiser);
    group.push(("params", Value::List(parameters)));
    Ok(Value::dict([
        ("state", Value::Dict(state)),
        ("param_groups", Value::List(vec![Value::dict(group)])),
    ]))
}

/// The group's settings by Python's names.
fn settings(group: &OptimiserGroup) -> Vec<(&'static str, Value)> {
    let betas = |betas: &[f64]| Value::Tuple(betas.iter().copied().map(Value::Float).collect());
    let rate = Value::Float(group.learning_rate);
    let initial = Value::Float(group.initial_learning_rate);
    let decay = Value::Float(WEIGHT_DECAY);
    match group.kind {
        OptimiserKind::Sgd => vec![
            ("lr", rate),
            ("momentum", Value::Float(MOMENTUM)),
            ("dampening", Value::Int(0)),
            ("weight_decay", decay),
            ("nesterov", Value::Bool(true)),
            ("maximize", Value::Bool(false)),
            ("foreach", Value::None),
            ("differentiable", Value::Bool(false)),
            ("fused", Value::None),
            ("initial_lr", initial),
        ],
        OptimiserKind::Adam | OptimiserKind::AdamWAmsgrad => {
            let decoupled = Value::Bool(group.kind == OptimiserKind::AdamWAmsgrad);
            vec![
                ("lr", rate),
                ("betas", betas(&ADAM_BETAS)),
                ("eps", Value::Float(EPS)),
                ("weight_decay", decay),
                ("amsgrad", decoupled.clone()),
                ("maximize", Value::Bool(false)),
                ("foreach", Value::None),
                ("capturable", Value::Bool(false)),
                ("differentiable", Value::Bool(false)),
                ("fused", Value::None),
                ("decoupled_weight_decay", decoupled),
                ("initial_lr", initial),
            ]
        }
        OptimiserKind::Adan => vec![
            ("lr", rate),
            ("betas", betas(&ADAN_BETAS)),
            ("eps", Value::Float(EPS)),
            ("weight_decay", decay),
            ("restart_cond", Value::None),
            ("initial_lr", initial),
        ],
    }
}

/// The optimiser of a checkpoint and its learning rates, by its settings; SGD where there are none.
pub(super) fn group(root: &Value) -> OptimiserGroup {
    let groups = root
        .get("optimizer_state")
        .and_then(|state| state.get("param_groups"))
        .and_then(Value::as_items);
    let setting = |key: &str| groups?.first()?.get(key);
    let betas = setting("betas").and_then(Value::as_items).map(<[Value]>::len);
    let kind = match (betas, setting("amsgrad")) {
        (Some(3), _) => OptimiserKind::Adan,
        (Some(_), Some(Value::Bool(true))) => OptimiserKind::AdamWAmsgrad,
        (Some(_), _) => OptimiserKind::Adam,
        (None, _) => OptimiserKind::Sgd,
    };
    let default = TrainerVariant::default();
    let number = |key: &str, default| setting(key).and_then(Value::as_f64).unwrap_or(default);
    OptimiserGroup {
        kind,
        learning_rate: number("lr", default.initial_learning_rate),
        initial_learning_rate: number("initial_lr", default.initial_learning_rate),
    }
}

/// What the optimiser remembers of the layout's parameters. `tensor` reads a view, by a name for messages.
pub(super) fn read(
    root: &Value,
    layout: &Layout,
    tensor: impl Fn(&str, &TensorRef) -> Result<Tensor32>,
) -> Result<StateDict> {
    let mut memory = StateDict::new();
    let Some(state) = root
        .get("optimizer_state")
        .and_then(|state| state.get("state"))
        .and_then(Value::as_dict)
    else {
        return Ok(memory);
    };
    let kind = group(root).kind;
    for (i, parameter) in layout.trained().enumerate() {
        let Some((_, entry)) = state.iter().find(|(key, _)| key.as_int() == Some(i as i64)) else {
            continue;
        };
        for name in kind.memory() {
            let name = (memory_name(&parameter.name, name), entry.get(name));
            match name {
                (name, Some(Value::Tensor(view))) => memory.insert(&name, tensor(&name, view)?)?,
                (name, Some(Value::Int(steps))) => {
                    memory.insert(name, Tensor32::new(Vec::new(), vec![*steps as f32])?)?;
                }
                // SGD writes None for a parameter that it has not updated. What is missing beside others is found out
                // below.
                _ => {}
            }
        }
    }
    let parameters = layout.trained().count() as i64;
    if let Some((key, _)) = state
        .iter()
        .find(|(key, _)| key.as_int().is_none_or(|i| !(0..parameters).contains(&i)))
    {
        return Err(Error::invalid(
            "optimizer_state",
            format!("{key:?} is no parameter of the network"),
        ));
    }
    kind.check(&memory, layout)?;
    Ok(memory)
}
