//! `find-best-configuration`: nnUNetv2_find_best_configuration.

mod instructions;

use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::Args;
use nnunet::{
    checkpoint::results::model_folder_name,
    cross_validation::{CrossValidated, folds_name},
    document,
    ensemble::{Merge, ensemble_folds},
    evaluate::{evaluate_files, pairs},
    postprocess::{Determined, PICKLE, determine_in_folder},
};
use schemas::nnunet::python_json;

use super::{
    accumulate_crossval_results::accumulate, determine_postprocessing, folders, progress::Progress, threads,
};
use instructions::{Best, Member};

/// The command's flags.
#[derive(Debug, Args)]
pub struct FindBestConfiguration {
    /// The data set, by id or by name (DatasetXYZ_name)
    #[arg(value_name = "dataset_name_or_id")]
    dataset: String,
    /// The plans
    #[arg(short = 'p', value_name = "NAME", num_args = 1.., default_values = ["nnUNetPlans"])]
    plans: Vec<String>,
    /// The configurations; those that the plans lack are left out
    #[arg(short = 'c', value_name = "NAME", num_args = 1..,
          default_values = ["2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres"])]
    configurations: Vec<String>,
    /// The trainers
    #[arg(long = "tr", value_name = "NAME", num_args = 1.., default_values = ["nnUNetTrainer"])]
    trainers: Vec<String>,
    /// Threads; nnU-Net's default of 8, or as many as there are cores
    #[arg(long = "np", value_name = "N")]
    threads: Option<usize>,
    /// The folds
    #[arg(short = 'f', value_name = "FOLD", num_args = 1.., default_values = ["0", "1", "2", "3", "4"])]
    folds: Vec<u32>,
    /// Do not try pairs of models
    #[arg(long = "disable_ensembling")]
    disable_ensembling: bool,
    /// Keep what earlier calls collected and merged
    #[arg(long = "no_overwrite")]
    no_overwrite: bool,
}

/// A model or a pair of models, with its cross-validation's score.
struct Candidate {
    identifier: String,
    members: Vec<Member>,
    folder: PathBuf,
    dice: f64,
}

impl FindBestConfiguration {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<()> {
        let threads = self.threads.map_or_else(threads::default_threads, Ok)?;
        threads::with(threads, || self.find())
    }

    fn find(&self) -> anyhow::Result<()> {
        let dataset = folders::dataset_name(&self.dataset)?;
        let considered = self.considered(&dataset)?;
        let mut models = Vec::new();
        for member in &considered {
            let folder = folders::results()?.join(&dataset).join(member.identifier());
            models.push((member, CrossValidated::open(&folder, &self.folds)?));
        }
        let mut candidates = Vec::new();
        for (member, model) in &models {
            candidates.push(self.single(member, model)?);
        }
        if !self.disable_ensembling {
            for (number, first) in models.iter().enumerate() {
                for second in &models[number + 1..] {
                    candidates.push(self.pair(&dataset, first, second)?);
                }
            }
        }
        println!("all results:");
        for candidate in &candidates {
            println!("  {}: {}", candidate.identifier, candidate.dice);
        }
        // The first of equals: single models come before pairs.
        let known = candidates.iter().filter(|candidate| !candidate.dice.is_nan());
        let best = known
            .reduce(|best, other| if other.dice > best.dice { other } else { best })
            .context("no model has a Dice: no case of the cross-validation holds any foreground")?;
        println!("best: {}: {}", best.identifier, best.dice);

        let determined = self.postprocessing(&dataset, best)?;
        determine_postprocessing::print(&determined);
        let best = Best {
            dataset: &dataset,
            folds: &self.folds,
            members: &best.members,
            considered: &considered,
            ensembling: !self.disable_ensembling,
            results: candidates
                .iter()
                .map(|c| (c.identifier.clone(), c.dice))
                .collect(),
            dice: [best.dice, determined.after.foreground_mean().dice()],
            steps: best.folder.join(PICKLE),
            plans: best.folder.join("plans.json"),
            processes: threads::default_processes()?,
        };
        let results = folders::results()?.join(&dataset);
        let information = python_json::to_string(&best.information())?;
        folders::write(&results.join("inference_information.json"), &information)?;
        let instructions = best.instructions();
        println!("\n{instructions}");
        folders::write(&results.join("inference_instructions.txt"), &instructions)
    }

    /// The models that the flags name and the plans have. Each must have been trained.
    fn considered(&self, dataset: &str) -> anyhow::Result<Vec<Member>> {
        let mut considered = Vec::new();
        for trainer in &self.trainers {
            for configuration in &self.configurations {
                for plans in &self.plans {
                    let file = folders::preprocessed()?
                        .join(dataset)
                        .join(format!("{plans}.json"));
                    let there = folders::read_plans(&file)?;
                    if !there.configuration_names().any(|name| name == configuration) {
                        println!("{configuration} is not in {}: left out", file.display());
                        continue;
                    }
                    let member = Member {
                        trainer: trainer.clone(),
                        plans: plans.clone(),
                        configuration: configuration.clone(),
                    };
                    let folder = folders::results()?.join(dataset).join(member.identifier());
                    ensure!(
                        folder.is_dir(),
                        "{}: missing; train this model first (with --npz, to try pairs), or name others with -c",
                        folder.display()
                    );
                    considered.push(member);
                }
            }
        }
        Ok(considered)
    }

    fn single(&self, member: &Member, model: &CrossValidated) -> anyhow::Result<Candidate> {
        let folder = model.results_folder();
        let progress = Progress::new(false, false);
        let summary = accumulate(model, &folder, !self.no_overwrite, &progress)?;
        Ok(Candidate {
            identifier: member.identifier(),
            members: vec![member.clone()],
            folder,
            dice: summary.foreground_mean().dice(),
        })
    }

    fn pair(
        &self,
        dataset: &str,
        first: &(&Member, CrossValidated),
        second: &(&Member, CrossValidated),
    ) -> anyhow::Result<Candidate> {
        let identifier = format!(
            "ensemble___{}___{}___{}",
            first.0.identifier(),
            second.0.identifier(),
            folds_name(&self.folds)
        );
        let folder = folders::results()?
            .join(dataset)
            .join("ensembles")
            .join(&identifier);
        folders::make(&folder)?;
        let model = &first.1;
        let merge = Merge {
            dataset: &model.dataset,
            reader: model.reader,
            save_probabilities: false,
        };
        let ending = model.dataset.file_ending();
        let mut cases = ensemble_folds(&[model.validations(), second.1.validations()])?;
        if self.no_overwrite {
            cases.retain(|case| !folder.join(format!("{}{ending}", case.identifier)).is_file());
        }
        let progress = Progress::new(false, false);
        folders::none_failed(&merge.cases(&cases, &folder, &progress)?)?;
        for name in ["plans.json", "dataset.json"] {
            folders::write(&folder.join(name), &document::read(&model.folder.join(name))?)?;
        }
        let pairs = pairs(&references(dataset)?, &folder, ending, true)?;
        let (labels, ignore) = (model.dataset.foreground(), model.dataset.ignore_label());
        let summary = evaluate_files(&pairs, model.reader, &labels, ignore, &progress)?;
        summary.write(&folder.join("summary.json"))?;
        Ok(Candidate {
            identifier,
            members: vec![first.0.clone(), second.0.clone()],
            folder,
            dice: summary.foreground_mean().dice(),
        })
    }

    fn postprocessing(&self, dataset: &str, best: &Candidate) -> anyhow::Result<Determined> {
        let (document, reader) = folders::documents_of_predictions(&best.folder, None, None)?;
        let progress = Progress::new(false, false);
        let references = references(dataset)?;
        Ok(determine_in_folder(
            &best.folder,
            &references,
            reader,
            &document,
            true,
            &progress,
        )?)
    }
}

fn references(dataset: &str) -> anyhow::Result<PathBuf> {
    Ok(folders::preprocessed()?.join(dataset).join("gt_segmentations"))
}

impl Member {
    fn identifier(&self) -> String {
        model_folder_name(&self.trainer, &self.plans, &self.configuration)
    }
}
