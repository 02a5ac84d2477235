//! `predict`: nnUNetv2_predict.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Args;
use nnunet::{
    checkpoint::results::model_folder_name,
    dataset::input_cases,
    predict::{Outcome, Predictor, Settings},
};
use schemas::{
    job::{Device, FoldId},
    nnunet::python_json,
};
use serde_json::json;

use super::{flags::fold, folders, progress::Progress};
use crate::memory::KeepFreed;

/// The command's flags.
#[derive(Debug, Args)]
pub struct Predict {
    #[command(flatten)]
    flags: PredictFlags,
    /// The data set the model was trained on, by id or by name (DatasetXYZ_name)
    #[arg(short = 'd', value_name = "DATASET", required = true)]
    dataset: String,
    /// The plans
    #[arg(short = 'p', value_name = "NAME", default_value = "nnUNetPlans")]
    plans: String,
    /// The trainer
    #[arg(long = "tr", value_name = "NAME", default_value = "nnUNetTrainer")]
    trainer: String,
    /// The configuration: 2d, 3d_lowres, 3d_fullres or 3d_cascade_fullres
    #[arg(short = 'c', value_name = "NAME", required = true)]
    configuration: String,
    /// Into how many calls the work is split
    #[arg(long = "num_parts", value_name = "N", default_value_t = 1)]
    parts: usize,
    /// Which of them this is, from 0
    #[arg(long = "part_id", value_name = "N", default_value_t = 0)]
    part: usize,
}

/// What both ways to predict have in common.
#[derive(Debug, Args)]
pub struct PredictFlags {
    /// Folder of scans: IDENTIFIER_0000.nii.gz and so on, one file per channel. Also one scan, or a .json file with
    /// a list of files for each case
    #[arg(short = 'i', value_name = "INPUT", required = true)]
    input: PathBuf,
    /// Folder for the segmentations; made if missing
    #[arg(short = 'o', value_name = "FOLDER", required = true)]
    output: PathBuf,
    /// The folds whose predictions are averaged
    #[arg(short = 'f', value_name = "FOLD", num_args = 1.., default_values = ["0", "1", "2", "3", "4"],
          value_parser = fold)]
    folds: Vec<FoldId>,
    /// The distance of neighbouring tiles as a part of the patch
    #[arg(long = "step_size", value_name = "PART", default_value_t = 0.5)]
    step_size: f64,
    /// No mirroring: faster, and a little less accurate
    #[arg(long = "disable_tta")]
    disable_tta: bool,
    /// A line for every tile and case
    #[arg(long = "verbose")]
    verbose: bool,
    /// Write the probabilities too, as .npz and .pkl, for ensembles
    #[arg(long = "save_probabilities")]
    save_probabilities: bool,
    /// Leave out cases whose segmentation is there
    #[arg(long = "continue_prediction", alias = "c")]
    continue_prediction: bool,
    /// The checkpoint's file name
    #[arg(long = "chk", value_name = "FILE", default_value = "checkpoint_final.pth")]
    checkpoint: String,
    /// Threads for preprocessing; the default is one per core
    #[arg(long = "npp", value_name = "N", env = "nnUNet_npp")]
    preprocessing_threads: Option<usize>,
    /// Threads for export, which share those for preprocessing: the larger number counts
    #[arg(long = "nps", value_name = "N", env = "nnUNet_nps")]
    export_threads: Option<usize>,
    /// For a cascade: folder with the segmentations of its previous stage. Without it they are made first, with the
    /// previous stage's model in the folder beside this one
    #[arg(long = "prev_stage_predictions", value_name = "FOLDER")]
    previous_stage: Option<PathBuf>,
    /// cpu, cuda or mps
    #[arg(long = "device", value_name = "DEVICE", default_value = "cuda")]
    device: Device,
    /// The network computes in bfloat16, where the processor has it: faster; not in nnU-Net
    #[arg(long = "bfloat16")]
    bfloat16: bool,
    /// No progress bar
    #[arg(long = "disable_progress_bar")]
    no_bar: bool,
    /// Collect results in main memory: for scans that are too large for the accelerator
    #[arg(long = "not_on_device")]
    not_on_device: bool,
}

/// One model of a prediction: the one that was asked for, or the previous stage of a cascade.
struct Stage<'a> {
    model: &'a Path,
    output: &'a Path,
    save_probabilities: bool,
}

impl Predict {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<()> {
        ensure!(
            self.part < self.parts,
            "-part_id {}: expected less than -num_parts, which is {}",
            self.part,
            self.parts
        );
        let model = folders::results()?
            .join(folders::dataset_name(&self.dataset)?)
            .join(model_folder_name(&self.trainer, &self.plans, &self.configuration));
        self.flags.predict(&model, self.part, self.parts)
    }
}

impl PredictFlags {
    /// Predicts with the model in that folder: every `parts`-th case, from case `part` on.
    pub fn predict(&self, model: &Path, part: usize, parts: usize) -> anyhow::Result<()> {
        if let Some(threads) = self.preprocessing_threads.max(self.export_threads) {
            // Reading and writing run on threads of their own, so the limit must be the program's.
            rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build_global()
                .context("cannot start threads")?;
        }
        let stage = Stage {
            model,
            output: &self.output,
            save_probabilities: self.save_probabilities,
        };
        let failed = self.predict_stage(&stage, self.previous_stage.as_deref(), part, parts)?;
        ensure!(failed == 0, "{failed} cases failed; see above");
        Ok(())
    }

    /// Predicts with the model of one stage; a cascade that lacks its previous stage's segmentations has them made.
    /// The number of cases that failed.
    fn predict_stage(
        &self,
        stage: &Stage,
        previous: Option<&Path>,
        part: usize,
        parts: usize,
    ) -> anyhow::Result<usize> {
        let settings = Settings {
            tile_step_size: self.step_size,
            use_mirroring: !self.disable_tta,
            results_on_device: !self.not_on_device,
            save_probabilities: stage.save_probabilities,
            bfloat16: self.bfloat16,
            ..Settings::default()
        };
        let mut predictor =
            Predictor::open(stage.model, &self.folds, &self.checkpoint, self.device, settings)?;
        let previous = match (previous, predictor.previous_stage()) {
            (None, Some(name)) => Some(self.predict_previous(&predictor, stage, name, part, parts)?),
            (folder, _) => folder.map(Path::to_owned),
        };
        if let Some(folder) = &previous {
            predictor = predictor
                .with_previous_stage(folder)
                .context("-prev_stage_predictions")?;
        }
        let cases = input_cases(&self.input, predictor.dataset_json())?;
        println!("There are {} cases in the source folder", cases.len());
        let cases: Vec<_> = cases.into_iter().skip(part).step_by(parts).collect();
        if parts > 1 {
            println!("Part {part} of {parts}: {} cases", cases.len());
        }
        self.write_documents(&predictor, stage, previous.as_deref(), part, parts)?;

        let progress = Progress::new(self.verbose, self.no_bar);
        let overwrite = !self.continue_prediction;
        let kept = KeepFreed::small();
        let outcomes = predictor.predict_cases(&cases, stage.output, None, overwrite, &progress)?;
        drop(kept);
        let (mut written, mut skipped, mut failed) = (0, 0, 0);
        for case in &outcomes {
            match &case.outcome {
                Outcome::Written => written += 1,
                Outcome::Skipped => skipped += 1,
                Outcome::Failed(error) => {
                    failed += 1;
                    eprintln!("error: {error}");
                }
            }
        }
        println!(
            "{written} cases predicted, {skipped} were there already; they are in {}",
            stage.output.display()
        );
        Ok(failed)
    }

    /// The folder with the segmentations of a cascade's previous stage, made with the model beside the cascade's.
    fn predict_previous(
        &self,
        cascade: &Predictor,
        stage: &Stage,
        name: &str,
        part: usize,
        parts: usize,
    ) -> anyhow::Result<PathBuf> {
        let configuration = cascade.configuration();
        let own = stage.model.canonicalize()?;
        // Trainer__Plans__Configuration
        let beside = own
            .file_name()
            .and_then(|own| own.to_str())
            .and_then(|own| own.strip_suffix(configuration))
            .map(|start| own.with_file_name(format!("{start}{name}")));
        let Some(model) = beside.filter(|model| model.is_dir()) else {
            bail!(
                "{configuration} is a cascade on {name}: name the folder with {name}'s segmentations \
                 (-prev_stage_predictions), or put its model beside {}, and they are made first",
                own.display()
            );
        };
        println!("{name} goes first: {configuration} needs its segmentations");
        let output = stage.output.join(format!("predictions_{name}"));
        let previous = Stage {
            model: &model,
            output: &output,
            save_probabilities: false,
        };
        // A case that fails here fails again below, for want of its segmentation.
        self.predict_stage(&previous, None, part, parts)?;
        Ok(output)
    }

    /// What nnU-Net leaves beside its predictions: the documents, and what was asked for.
    fn write_documents(
        &self,
        predictor: &Predictor,
        stage: &Stage,
        previous: Option<&Path>,
        part: usize,
        parts: usize,
    ) -> anyhow::Result<()> {
        folders::make(stage.output)?;
        let folds: Vec<String> = predictor.folds().iter().map(FoldId::to_string).collect();
        let arguments = json!({
            "list_of_lists_or_source_folder": self.input,
            "output_folder_or_list_of_truncated_output_files": stage.output,
            "save_probabilities": stage.save_probabilities,
            "overwrite": !self.continue_prediction,
            "folder_with_segs_from_prev_stage": previous,
            "num_parts": parts,
            "part_id": part,
            "trainer": predictor.trainer_name(),
            "configuration": predictor.configuration(),
            "folds": folds,
            "checkpoint_name": self.checkpoint,
            "step_size": self.step_size,
            "use_mirroring": !self.disable_tta,
            "device": self.device.as_str(),
        });
        let write = |name: &str, text: &str| folders::write(&stage.output.join(name), text);
        write(
            "predict_from_raw_data_args.json",
            &python_json::to_string(&arguments)?,
        )?;
        write(
            "dataset.json",
            &python_json::to_string(predictor.dataset_json().document())?,
        )?;
        write("plans.json", &predictor.plans().to_json())
    }
}
