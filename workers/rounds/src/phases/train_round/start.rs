//! What a round's training begins with: cases, weights, momentum.

use std::sync::Arc;

use nnunet::{
    checkpoint::safetensors,
    network::StateDict,
    preprocess::StoredCases,
    train::{MomentumState, Trainer, TrainerSettings, TrainerVariant},
    update::Update,
};
use pipeline::worker::TaskContext;
use schemas::task::{Failure, Pooled, Task, Weights};

use crate::{
    phases::{
        average::fetch_average, device_of, failure, initial, mid_round::Trained, momentum, planned::Planned,
        preprocess::cases_of, training,
    },
    site::Site,
};

/// What a round's task says to begin with.
pub struct Start<'a> {
    /// What was planned from.
    pub pooled: &'a Pooled,
    /// The digest every site's plans had.
    pub plans_digest: &'a str,
    /// The global weights.
    pub base: &'a Weights,
    /// The site's last averaged update.
    pub previous_update: Option<&'a str>,
}

/// What a round's training begins with.
pub struct Started {
    /// Trains.
    pub trainer: Trainer,
    /// The weights that the round starts from.
    pub base: StateDict,
    /// Training cases.
    pub cases: usize,
}

/// The trainer of this round, behind what is `trained` of it.
pub fn trainer(
    site: &Site,
    task: &Task,
    context: &TaskContext,
    start: &Start,
    trained: Option<Trained>,
    total_epochs: u32,
) -> Result<Started, Failure> {
    let payload = training(task)?;
    let federation = &task.job.message.federation;
    let dataset = site.dataset(task)?;
    let planned = initial::planned(site, task, context, start.pooled, &dataset)?;
    planned.must_be(start.plans_digest)?;
    let base = base(site, task, context, &planned, start.base)?;
    let momentum = match &trained {
        Some(_) => MomentumState::default(),
        None => momentum::load(site, task, start.previous_update, base.momentum)?,
    };
    planned.must_fit(site, task)?;
    let split = site.split(&dataset, payload.fold_id)?;
    let cases = split.train.len();
    let folder = cases_of(site, task, context, &dataset, &planned, &split)?;
    let open = |identifiers: Vec<String>| StoredCases::open(&folder, identifiers).map(Arc::new);
    let settings = settings(site, task, planned, total_epochs)?;
    let make = || {
        let (train, val) = (open(split.train)?, open(split.val)?);
        let mut trainer = Trainer::new(settings, train, val, &base.weights, &momentum)?;
        if let Some(mu) = federation.fedprox_mu {
            trainer = trainer.with_proximal_term(mu)?;
        }
        match trained {
            Some(Trained { weights, momentum }) => trainer.resume(&weights, &momentum),
            None => Ok(trainer),
        }
    };
    let trainer = make().map_err(failure::of_error)?;
    Ok(Started {
        trainer,
        base: base.weights,
        cases,
    })
}

/// How a job trains at a site.
pub fn settings(
    site: &Site,
    task: &Task,
    planned: Planned,
    total_epochs: u32,
) -> Result<TrainerSettings, Failure> {
    let federation = &task.job.message.federation;
    let payload = training(task)?;
    Ok(TrainerSettings {
        variant: *TrainerVariant::by_name(&payload.trainer_name).map_err(failure::of_error)?,
        device: device_of(site, task)?,
        seed: task.job.seed,
        site: task.key.site.clone(),
        iterations_per_epoch: federation.iterations_per_epoch as usize,
        val_iterations_per_epoch: federation.val_iterations_per_epoch as usize,
        total_epochs: total_epochs as usize,
        bfloat16: federation.bfloat16,
        micro_batch: site.settings.micro_batch,
        threads: site.settings.threads,
        loader_threads: site.settings.threads.min(8),
        configuration: payload.model_configuration.as_str().to_owned(),
        plans: planned.plans,
        dataset_json: planned.dataset_json,
    })
}

/// The global weights by their source, with the averaged momentum where there is one.
fn base(
    site: &Site,
    task: &Task,
    context: &TaskContext,
    planned: &Planned,
    weights: &Weights,
) -> Result<Update, Failure> {
    match weights {
        Weights::Average { artifact } => fetch_average(context, planned, artifact),
        Weights::Initial { digest } => {
            let weights = initial::weights(site, task, context, planned)?;
            let made = digest_of(&weights);
            if made != *digest {
                let reason = format!("the initial weights made here have digest {made}, the job's {digest}");
                return Err(Failure::fatal("weights-differ", reason));
            }
            Ok(Update {
                weights,
                momentum: StateDict::new(),
            })
        }
    }
}

fn digest_of(weights: &StateDict) -> String {
    safetensors::digest(&safetensors::to_bytes(weights))
}
