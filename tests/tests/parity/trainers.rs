//! Trainers: names and numbers, steps of their optimisers, and checkpoints that pass both ways.

use std::{collections::BTreeSet, fs, path::Path};

use ndarray::Array4;
use nnunet::{
    checkpoint::{
        Checkpoint, InitArgs, LoggedEpoch, Logging, OptimiserGroup, PthFile,
        results::{CHECKPOINT_FINAL, ResultsFolder},
        write_pth,
    },
    network::{Layout, ParameterRole, StateDict, UNet, initial_weights},
    predict::{Logits, Predictor, Settings},
    progress::Unobserved,
    train::{
        MomentumState, OptimiserKind, Schedule, TrainerVariant, network_of, optimiser::Optimiser,
        trainer_table::TRAINS,
    },
};
use schemas::{
    job::{Device, FoldId},
    nnunet::Plans,
};
use serde_json::{Value, json};
use tch::Tensor;
use tests::parity_table;

use super::{
    model::{dataset, plans},
    network::{Floats, Numbers, largest_difference, write},
};

#[test]
fn names_and_numbers_are_pythons() {
    let names: Vec<&str> = TRAINS.iter().map(|variant| variant.name).collect();
    let output = tests::oracle::run("trainers.py", &["table", &json!(names).to_string()]).unwrap();
    let line = output
        .lines()
        .find_map(|line| line.strip_prefix("RESULT "))
        .unwrap();
    let python: Value = serde_json::from_str(line).unwrap();
    let theirs: BTreeSet<&str> = python["names"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .collect();
    assert_eq!(TrainerVariant::all_names().collect::<BTreeSet<_>>(), theirs);
    for variant in TRAINS {
        let optimiser = match variant.optimiser {
            OptimiserKind::Sgd => "SGD",
            OptimiserKind::Adam => "Adam",
            OptimiserKind::AdamWAmsgrad => "AdamW",
            OptimiserKind::Adan => "Adan",
        };
        let schedule = match variant.schedule {
            Schedule::Poly => "PolyLRScheduler",
            Schedule::Cosine => "CosineAnnealingLR",
            Schedule::WarmUpThenPoly { .. } => "Lin_incr_LRScheduler",
        };
        let ours = json!([variant.epochs, variant.initial_learning_rate, optimiser, schedule]);
        assert_eq!(ours, python["numbers"][variant.name], "{}", variant.name);
    }
}

const STEPS: usize = 8;
const CONFIGURATION: &str = "3d_fullres";

/// A network at work under a trainer's optimiser.
struct Work {
    variant: &'static TrainerVariant,
    layout: Layout,
    network: UNet,
    optimiser: Optimiser,
    /// By step and tensor.
    gradients: Vec<Vec<Option<Vec<f32>>>>,
}

impl Work {
    fn new(name: &str, numbers: &mut Numbers) -> Self {
        let variant = TrainerVariant::by_name(name).unwrap();
        let planned = Plans::from_value(&plans())
            .unwrap()
            .configuration(CONFIGURATION)
            .unwrap()
            .architecture;
        let layout = Layout::new(&network_of(name, &planned), 1, 3).unwrap();
        let mut weights = initial_weights(&layout, 5).unwrap();
        for parameter in layout.parameters() {
            let tensor = weights.get_mut(&parameter.name).unwrap();
            tensor.data.iter_mut().for_each(|value| match parameter.role {
                ParameterRole::RunningMean => *value = 0.1 * numbers.float(),
                ParameterRole::RunningVariance => *value = 1.0 + 0.2 * numbers.float(),
                ParameterRole::BatchCount => *value = 7.0,
                _ => {}
            });
        }
        let lowest = layout.lowest_head();
        let gradients = (0..STEPS).map(|step| {
            // The third step is clipped, then the mean squares fall: amsgrad keeps the largest.
            let scale = if step == 2 { 1.0 } else { 0.02 };
            let gradient = layout.parameters().iter().map(|parameter| {
                let n = parameter.shape.iter().product::<usize>();
                let there = parameter.role.is_trained() && !lowest.contains(&parameter.name.as_str());
                there.then(|| (0..n).map(|_| scale * numbers.float()).collect())
            });
            gradient.collect()
        });
        Self {
            gradients: gradients.collect(),
            variant,
            network: UNet::new(layout.clone(), &weights, tch::Device::Cpu).unwrap(),
            optimiser: Optimiser::new(
                variant.optimiser,
                &layout,
                &MomentumState::default(),
                tch::Device::Cpu,
            )
            .unwrap(),
            layout,
        }
    }

    fn step(&mut self, step: usize) {
        let gradients =
            self.gradients[step]
                .iter()
                .zip(self.layout.parameters())
                .map(|(gradient, parameter)| {
                    let shape: Vec<i64> = parameter.shape.iter().map(|&n| n as i64).collect();
                    gradient
                        .as_ref()
                        .map(|values| Tensor::from_slice(values).view(&shape[..]))
                });
        let rate = self.variant.initial_learning_rate;
        let norm = self
            .optimiser
            .step(self.network.parameters_mut(), gradients.collect(), rate)
            .unwrap();
        assert_eq!(norm > 12.0, step == 2, "{norm}");
    }

    fn momentum(&self) -> StateDict {
        self.optimiser.momentum(&self.layout).unwrap().buffers
    }

    fn checkpoint(&self) -> Checkpoint {
        let mut logging = Logging::default();
        logging.record(LoggedEpoch {
            dice_per_class_or_region: vec![0.4, 0.2],
            train_loss: 0.5,
            val_loss: 0.4,
            lr: self.variant.initial_learning_rate,
            start: 0.0,
            end: 1.0,
        });
        Checkpoint {
            weights: self.network.state_dict().unwrap(),
            momentum: self.momentum(),
            scaler: None,
            optimiser: OptimiserGroup::of(self.variant, logging.lrs.last().copied()),
            best_ema: logging.ema_fg_dice.last().copied(),
            current_epoch: 1,
            logging,
            init_args: InitArgs {
                plans: plans(),
                configuration: CONFIGURATION.into(),
                fold: FoldId::Fold(0),
                dataset_json: dataset(CONFIGURATION),
            },
            trainer_name: self.variant.name.into(),
            mirror_axes: Some(vec![0, 1, 2]),
        }
    }
}

fn assert_close(what: &str, ours: &StateDict, theirs: &StateDict) -> f32 {
    assert_eq!(
        ours.names().collect::<Vec<_>>(),
        theirs.names().collect::<Vec<_>>(),
        "{what}"
    );
    let mut worst = 0f32;
    for ((name, ours), (_, theirs)) in ours.iter().zip(theirs.iter()) {
        let scale = theirs.data.iter().fold(f32::MIN_POSITIVE, |m, v| m.max(v.abs()));
        let difference = largest_difference(&ours.data, &theirs.data) / scale;
        assert!(difference < 1e-5, "{what} {name}: {difference} of {scale}");
        worst = worst.max(difference);
    }
    worst
}

#[test]
fn steps_and_checkpoints_are_pythons() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let shape = [1, 18, 16, 24];
    let mut numbers = Numbers(9);
    let image: Vec<f32> = (0..shape.iter().product()).map(|_| numbers.float()).collect();
    fs::write(root.join("image.json"), json!(shape).to_string()).unwrap();
    let names = [
        "nnUNetTrainer",
        "nnUNetTrainerAdam",
        "nnUNetTrainerVanillaAdam",
        "nnUNetTrainerAdan",
        "nnUNetTrainerBN",
    ];
    let mut works = names.map(|name| Work::new(name, &mut numbers));
    for work in &mut works {
        let name = work.variant.name;
        write_pth(
            &work.checkpoint(),
            &work.layout,
            &root.join(format!("{name}.start.pth")),
        )
        .unwrap();
        (0..STEPS / 2).for_each(|step| work.step(step));
        let results = ResultsFolder::create(
            &root.join("nnUNet_results"),
            "Dataset001_Tiny",
            name,
            "nnUNetPlans",
            CONFIGURATION,
            FoldId::Fold(0),
        )
        .unwrap();
        results
            .write_documents(&plans().to_string(), &dataset(CONFIGURATION).to_string(), "{}")
            .unwrap();
        results
            .write_checkpoint(CHECKPOINT_FINAL, &work.checkpoint(), &work.layout)
            .unwrap();
        let gradients = work.gradients.iter().flatten().flatten().flatten();
        let values: Vec<f32> = gradients.chain(&image).copied().collect();
        write(&root.join(format!("{name}.bin")), &values);
    }
    let list: Value = names
        .iter()
        .map(|name| json!({"name": name, "steps": STEPS}))
        .collect();
    fs::write(root.join("trainers.json"), list.to_string()).unwrap();
    tests::oracle::run("trainers.py", &["steps".as_ref(), root]).unwrap();

    for mut work in works {
        let name = work.variant.name;
        compare_logits(root, name, &Array4::from_shape_vec(shape, image.clone()).unwrap());
        (STEPS / 2..STEPS).for_each(|step| work.step(step));
        let weights = work.network.state_dict().unwrap();
        for kind in ["all", "continued"] {
            let file = PthFile::open(&root.join(format!("{name}.{kind}.pth"))).unwrap();
            let python = file.momentum(&work.layout).unwrap();
            let weights = assert_close(name, &weights, &file.weights(&work.layout).unwrap());
            let memory = assert_close(name, &work.momentum(), &python);
            let what = format!("{kind} by Python: weights of a tensor's largest (memory {memory:.1e})");
            let dataset = name.replace("nnUNetTrainer", "checkpoint ");
            parity_table::compared("checkpoint", &dataset, &what, &format!("{weights:.1e}")).unwrap();
            // What Python wrote is a state to go on from.
            let momentum = MomentumState {
                buffers: python,
                scaler: None,
            };
            Optimiser::new(work.variant.optimiser, &work.layout, &momentum, tch::Device::Cpu).unwrap();
        }
    }
}

/// The sliding window over `image` with the checkpoint that both have.
fn compare_logits(root: &Path, name: &str, image: &Array4<f32>) {
    let model = root.join(format!(
        "nnUNet_results/Dataset001_Tiny/{name}__nnUNetPlans__{CONFIGURATION}"
    ));
    let settings = Settings {
        use_mirroring: false,
        ..Settings::default()
    };
    let predictor = Predictor::open(
        &model,
        &[FoldId::Fold(0)],
        CHECKPOINT_FINAL,
        Device::Cpu,
        settings,
    )
    .unwrap();
    let ours: Vec<f32> = match predictor.logits(image.view(), &Unobserved).unwrap() {
        Logits::Half(a) => a.iter().map(|v| v.to_f32()).collect(),
        Logits::Single(a) => a.iter().copied().collect(),
    };
    let theirs = Floats::open(&root.join(format!("{name}.logits"))).take(ours.len());
    let scale = theirs.iter().fold(0f32, |m, v| m.max(v.abs()));
    let difference = largest_difference(&ours, &theirs) / scale;
    // Both are kept in half precision.
    assert!(
        difference < 2e-3,
        "{name}: logits differ by {difference} of {scale}"
    );
}
