//! The epochs of a round on one site (nnunetv2/training/nnUNetTrainer/nnUNetTrainer.py).

use std::sync::Arc;

use schemas::{
    job::Device as JobDevice,
    nnunet::{DatasetJson, Plans},
};
use tch::{Device, Tensor, kind::Element};

use super::{
    augment::random::SampleKey,
    batch::{Batch, BatchSettings, BatchSource, Split, Target},
    counting::Counting,
    gradient::{MicroBatch, Passes},
    loader::Cases,
    loss::Loss,
    network_of,
    optimiser::{MomentumState, Optimiser},
    proximal::Proximal,
    trainer_table::TrainerVariant,
    validation::ValidationCounts,
};
use crate::{
    Error, Result, device,
    network::{Layout, StateDict, UNet},
    progress::Observer,
};

/// What a training is made of. Two trainings with the same settings, cases and starting weights give the same bytes
/// on the CPU.
#[derive(Clone, Debug)]
pub struct TrainerSettings {
    /// The plans.
    pub plans: Plans,
    /// The name of the configuration in the plans: 2d, 3d_lowres or 3d_fullres.
    pub configuration: String,
    /// The data set's descriptor: channels, labels, regions, ignore label.
    pub dataset_json: DatasetJson,
    /// What the trainer's name changes.
    pub variant: TrainerVariant,
    /// Where to train.
    pub device: JobDevice,
    /// The seed of the job.
    pub seed: u64,
    /// The site, so that sites draw unlike batches.
    pub site: String,
    /// Training iterations of an epoch; nnU-Net's 250.
    pub iterations_per_epoch: usize,
    /// Validation iterations; nnU-Net's 50.
    pub val_iterations_per_epoch: usize,
    /// All epochs of the training, over all rounds: the horizon of the learning rate.
    pub total_epochs: usize,
    /// Whether the network computes in bfloat16, and not in its device's own kind: float16 on CUDA, float32 elsewhere.
    /// Weights, gradients and loss stay in float32.
    pub bfloat16: bool,
    /// Samples that the network sees at once, where the device holds no whole batch; None: the whole batch. Part of what
    /// decides the bytes, as sums are rounded in another order.
    pub micro_batch: Option<usize>,
    /// Threads of one libtorch operation. Part of what decides the bytes.
    pub threads: usize,
    /// Background threads that make batches. No part in the bytes.
    pub loader_threads: usize,
}

/// One epoch of training.
#[derive(Clone, Debug, PartialEq)]
pub struct EpochLog {
    /// Which epoch, from 0, over all rounds.
    pub epoch: usize,
    /// Its iterations.
    pub iterations: usize,
    /// Its learning rate.
    pub learning_rate: f64,
    /// Mean loss of an iteration.
    pub loss: f64,
    /// Iterations whose step was left out because half-precision gradients overflowed; 0 on the CPU.
    pub skipped_steps: usize,
    /// Where the time went. Not part of any result that must be reproducible.
    pub seconds: StageSeconds,
}

/// Seconds of an epoch by stage, by the caller's clock. An accelerator only takes orders in forward and backward; what
/// it then still needs is waited for in load and optimise.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StageSeconds {
    /// Waiting for batches and moving them to the device.
    pub load: f64,
    /// Network and loss.
    pub forward: f64,
    /// Gradients.
    pub backward: f64,
    /// Clipping and the step.
    pub optimise: f64,
}

/// Trains one network on one site's cases.
pub struct Trainer {
    settings: TrainerSettings,
    network: UNet,
    optimiser: Optimiser,
    proximal: Option<Proximal>,
    loss: Loss,
    source: BatchSource,
    /// Labels that a voxel may have; empty with regions.
    labels: i16,
    ignore_label: Option<i16>,
    counting: Counting,
    micro_batch: MicroBatch,
}

impl Trainer {
    /// A trainer that continues from `weights` and `momentum` (the default: none). `train` and `validation` are the
    /// preprocessed cases of the configuration; they may be the same. Fails where weights or momentum are not the
    /// plans' network's, and where the device is absent.
    pub fn new(
        settings: TrainerSettings,
        train: Arc<dyn Cases>,
        validation: Arc<dyn Cases>,
        weights: &StateDict,
        momentum: &MomentumState,
    ) -> Result<Self> {
        let document = &settings.dataset_json;
        let configuration = settings
            .plans
            .configuration(&settings.configuration)
            .map_err(|e| Error::invalid("plans", e))?;
        if configuration.previous_stage.is_some() {
            return Err(Error::invalid(
                "model_configuration",
                "cascades cannot be trained",
            ));
        }
        for (field, value) in [
            ("iterations_per_epoch", settings.iterations_per_epoch),
            ("val_iterations_per_epoch", settings.val_iterations_per_epoch),
            ("total_epochs", settings.total_epochs),
            ("threads", settings.threads),
        ] {
            if value == 0 {
                return Err(Error::invalid(field, "is 0, expected 1 or more"));
            }
        }
        let device = device::open(settings.device)?;
        let heads = document.segmentation_heads();
        let variant = &settings.variant;
        let architecture = network_of(variant.name, &configuration.architecture);
        let layout = Layout::new(&architecture, document.channels(), heads)?;
        let optimiser = Optimiser::new(variant.optimiser, &layout, momentum, device)?;
        let regions = document.has_regions();
        let ignore_label = document.ignore_label().map(|label| label as i16);
        let loss = Loss::new(
            variant.loss,
            configuration.batch_dice,
            regions,
            ignore_label.map(i64::from),
            variant.loss_weights(layout.outputs()),
        )?;

        let mut augmentation = variant.augmentation(&configuration.patch_size)?;
        if variant.deep_supervision {
            augmentation = augmentation.with_deep_supervision(layout.strides());
        }
        augmentation.use_mask_for_norm = configuration.use_mask_for_norm.clone();
        augmentation.regions = regions.then(|| {
            let values = |label: &schemas::nnunet::Label| label.values().iter().map(|&v| v as i16).collect();
            document.regions().iter().map(values).collect()
        });
        augmentation.ignore_label = ignore_label;
        let batch_size = variant.batch_size_of(&configuration);
        let annotated = || document.all_labels().into_iter().map(i32::from).collect();
        let source = BatchSource::new(
            BatchSettings {
                batch_size,
                oversampling: variant.oversampling(batch_size),
                annotated_labels: ignore_label.map(|_| annotated()),
                augmentation,
                seed: settings.seed,
                site: settings.site.clone(),
                threads: settings.loader_threads.max(1),
                prefetch: settings.loader_threads.max(1) + 1,
            },
            train,
            validation,
        )?;
        let micro_batch = MicroBatch::new(settings.micro_batch, &layout)?;
        let network = UNet::new(layout, weights, device)?.in_bfloat16(settings.bfloat16);
        Ok(Self {
            network,
            optimiser,
            proximal: None,
            loss,
            source,
            labels: if regions { 2 } else { heads as i16 },
            ignore_label: ignore_label.filter(|_| !regions),
            counting: Counting {
                regions,
                ignore_label: ignore_label.map(i64::from),
            },
            micro_batch,
            settings,
        })
    }

    /// The same trainer for FedProx: the weights are held to what they are now. The losses that it reports are without
    /// that term, as FedAvg's are. Fails where `mu` is not above 0.
    pub fn with_proximal_term(mut self, mu: f64) -> Result<Self> {
        self.proximal = Some(Proximal::new(mu, self.network.parameters())?);
        Ok(self)
    }

    /// The same trainer with other weights and momentum, as behind an epoch of the round; a proximal term holds on to
    /// what it held to.
    pub fn resume(mut self, weights: &StateDict, momentum: &MomentumState) -> Result<Self> {
        self.optimiser = Optimiser::new(
            self.settings.variant.optimiser,
            self.network.layout(),
            momentum,
            self.network.device(),
        )?;
        self.network.load(weights)?;
        Ok(self)
    }

    /// The current weights.
    pub fn weights(&self) -> Result<StateDict> {
        self.network.state_dict()
    }

    /// What the optimiser remembers.
    pub fn momentum(&self) -> Result<MomentumState> {
        self.optimiser.momentum(self.network.layout())
    }

    /// Scores the current weights on patches of the validation cases: the final patch size, without augmentation,
    /// without mirroring. `epoch` keys which patches are drawn.
    pub fn validate(&self, epoch: usize, observer: &dyn Observer) -> Result<ValidationCounts> {
        device::set_threads(self.settings.threads);
        let iterations = self.settings.val_iterations_per_epoch;
        let mut counts = ValidationCounts::new(self.counting.classes(self.network.layout().heads()));
        let batches = self
            .source
            .stream(Split::Validation, epoch as u64, 0..iterations as u64)?;
        for (iteration, batch) in batches.enumerate() {
            if observer.stop_requested() {
                return Err(Error::Stopped);
            }
            let (data, targets) = self.to_device(&batch?)?;
            let (outputs, loss) = self.passes().validate(&data, &targets)?;
            let loss = loss.f_double_value(&[])?;
            if !loss.is_finite() {
                return Err(not_finite("validation loss", epoch, iteration, loss));
            }
            counts.loss_sum += loss;
            counts.iterations += 1;
            self.counting.add(&outputs[0], &targets[0], &mut counts)?;
            observer.advanced("validation iteration", iteration + 1, iterations);
        }
        Ok(counts)
    }

    /// Trains one epoch; `epoch`, from 0 over all rounds, decides learning rate and batches. `clock` gives seconds
    /// from any start and only fills [`EpochLog::seconds`]. A loss or gradient that is not finite is an error naming
    /// the iteration. After an error, [`Error::Stopped`] included, the weights are those of an unfinished epoch.
    pub fn train_epoch(
        &mut self,
        epoch: usize,
        clock: &dyn Fn() -> f64,
        observer: &dyn Observer,
    ) -> Result<EpochLog> {
        self.train_until(epoch, &|| false, clock, observer)
    }

    /// As [`Trainer::train_epoch`], but the epoch ends behind the first iteration after which `enough` says so. The
    /// same number of iterations gives the same weights.
    pub fn train_until(
        &mut self,
        epoch: usize,
        enough: &dyn Fn() -> bool,
        clock: &dyn Fn() -> f64,
        observer: &dyn Observer,
    ) -> Result<EpochLog> {
        device::set_threads(self.settings.threads);
        let iterations = self.settings.iterations_per_epoch;
        let variant = &self.settings.variant;
        let learning_rate =
            variant
                .schedule
                .learning_rate(variant.initial_learning_rate, epoch, self.settings.total_epochs);
        let mut log = EpochLog {
            epoch,
            iterations: 0,
            learning_rate,
            loss: 0.0,
            skipped_steps: 0,
            seconds: StageSeconds::default(),
        };
        let mut batches = self
            .source
            .stream(Split::Train, epoch as u64, 0..iterations as u64)?;
        let mut load = |trainer: &Self, iteration, seconds: &mut StageSeconds| {
            let start = clock();
            let batch = batches.next().ok_or_else(|| {
                Error::invalid(
                    "batches",
                    format!("the loader ended at iteration {iteration} of {iterations}"),
                )
            })??;
            let batch = trainer.to_device(&batch)?;
            seconds.load += clock() - start;
            Ok::<_, Error>(batch)
        };
        let mut upcoming = Some(load(self, 0, &mut log.seconds)?);
        while let Some((data, targets)) = upcoming.take() {
            if observer.stop_requested() {
                return Err(Error::Stopped);
            }
            let iteration = log.iterations;
            let (loss, gradients) =
                self.differentiate(&data, &targets, (epoch, iteration), clock, &mut log.seconds)?;
            drop((data, targets));
            // An accelerator is still at work on the gradients: the next batch is waited for meanwhile.
            if iteration + 1 < iterations {
                upcoming = Some(load(self, iteration + 1, &mut log.seconds)?);
            }
            let start = clock();
            let norm = self
                .optimiser
                .step(self.network.parameters_mut(), gradients, learning_rate)?;
            let loss = loss.f_double_value(&[])?;
            log.seconds.optimise += clock() - start;
            if !loss.is_finite() {
                return Err(not_finite("loss", epoch, iteration, loss));
            }
            if !norm.is_finite() {
                if self.network.device() == Device::Cpu {
                    return Err(not_finite("gradient", epoch, iteration, norm));
                }
                log.skipped_steps += 1;
            }
            log.loss += loss;
            log.iterations += 1;
            observer.advanced("train iteration", iteration + 1, iterations);
            if enough() {
                break;
            }
        }
        log.loss /= log.iterations as f64;
        Ok(log)
    }

    /// The loss of one iteration, and its gradients times the optimiser's scale. `epoch` and `iteration` key what drops
    /// out.
    fn differentiate(
        &self,
        data: &Tensor,
        targets: &[Tensor],
        (epoch, iteration): (usize, usize),
        clock: &dyn Fn() -> f64,
        seconds: &mut StageSeconds,
    ) -> Result<(Tensor, Vec<Option<Tensor>>)> {
        let start = clock();
        let draws = |layer| {
            let key = SampleKey {
                purpose: "dropout",
                seed: self.settings.seed,
                site: &self.settings.site,
                epoch: epoch as u64,
                iteration: iteration as u64,
                sample: layer,
            };
            key.generator()
        };
        let passes = self.passes();
        let forwarded = passes.forward(data, targets, &draws)?;
        let loss = forwarded.loss.f_detach()?;
        let forward_end = clock();
        let scale = self.optimiser.loss_scale();
        let mut gradients = passes.gradients(data, forwarded, scale, &draws)?;
        if let Some(proximal) = &self.proximal {
            proximal.add(self.network.parameters(), &mut gradients, scale)?;
        }
        seconds.forward += forward_end - start;
        seconds.backward += clock() - forward_end;
        Ok((loss, gradients))
    }

    fn passes(&self) -> Passes<'_> {
        Passes {
            network: &self.network,
            loss: &self.loss,
            micro_batch: self.micro_batch,
        }
    }

    /// The batch as tensors on the device.
    fn to_device(&self, batch: &Batch) -> Result<(Tensor, Vec<Tensor>)> {
        let device = self.network.device();
        let data = on_device(&batch.data, &batch.data_shape, device)?;
        let wanted = self.loss.wanted_outputs();
        if batch.targets.len() < wanted {
            return Err(Error::invalid(
                "batch",
                format!("{} targets for {wanted} resolutions", batch.targets.len()),
            ));
        }
        let targets = batch.targets[..wanted]
            .iter()
            .map(|target| {
                self.check_labels(target)?;
                on_device(&target.values, &target.shape, device)
            })
            .collect::<Result<_>>()?;
        Ok((data, targets))
    }

    /// A label without a head would end libtorch's CUDA context, so it is refused here.
    fn check_labels(&self, target: &Target) -> Result<()> {
        let fits = |&v: &i16| (0..self.labels).contains(&v) || Some(v) == self.ignore_label;
        match target.values.iter().find(|v| !fits(v)) {
            Some(value) => Err(Error::invalid(
                "segmentation",
                format!(
                    "label {value} in a preprocessed case, dataset.json has 0 to {}",
                    self.labels - 1
                ),
            )),
            None => Ok(()),
        }
    }
}

/// A tensor of `values` on `device`.
fn on_device<T: Element>(values: &[T], shape: &[usize], device: Device) -> Result<Tensor> {
    let shape: Vec<i64> = shape.iter().map(|&n| n as i64).collect();
    Ok(Tensor::f_from_slice(values)?
        .f_view(&shape[..])?
        .f_to_device(device)?)
}

fn not_finite(what: &str, epoch: usize, iteration: usize, value: f64) -> Error {
    Error::NotFinite(format!(
        "{what} is {value} at epoch {epoch}, iteration {iteration}"
    ))
}
