//! What was found, as nnU-Net writes it: inference_information.json and inference_instructions.txt, whose commands are
//! nnU-Net's. `rounds nnunet` takes the same flags.

use std::{fmt::Write as _, path::PathBuf};

use schemas::nnunet::python_json::float;
use serde_json::{Map, Value, json};

/// A trained model.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub trainer: String,
    pub plans: String,
    pub configuration: String,
}

/// The best model or pair of models.
pub(super) struct Best<'a> {
    pub dataset: &'a str,
    pub folds: &'a [u32],
    pub members: &'a [Member],
    pub considered: &'a [Member],
    pub ensembling: bool,
    /// Every candidate's Dice.
    pub results: Vec<(String, f64)>,
    /// The best one's Dice before and after post-processing.
    pub dice: [f64; 2],
    /// Its postprocessing.pkl.
    pub steps: PathBuf,
    /// Plans of one of its members.
    pub plans: PathBuf,
    /// Processes that nnU-Net is told to use.
    pub processes: usize,
}

impl Best<'_> {
    /// inference_information.json: keys are sorted.
    pub fn information(&self) -> Value {
        let mut results = self.results.clone();
        results.sort_by(|a, b| a.0.cmp(&b.0));
        let results: Map<String, Value> = results
            .into_iter()
            .map(|(name, dice)| (name, float(dice)))
            .collect();
        let models = |members: &[Member], plans: &str| -> Vec<Value> {
            let entry = |member: &Member| json!({"configuration": member.configuration, plans: member.plans, "trainer": member.trainer});
            members.iter().map(entry).collect()
        };
        json!({
            "all_results": results,
            "best_model_or_ensemble": {
                "postprocessing_file": self.steps,
                "result_on_crossval_post_pp": float(self.dice[1]),
                "result_on_crossval_pre_pp": float(self.dice[0]),
                "selected_model_or_models": models(self.members, "plans_identifier"),
                "some_plans_file": self.plans,
            },
            "considered_models": models(self.considered, "plans"),
            "dataset_name_or_id": self.dataset,
            "ensembling_allowed": self.ensembling,
            "folds": self.folds,
        })
    }

    /// inference_instructions.txt.
    pub fn instructions(&self) -> String {
        let pair = self.members.len() > 1;
        let mut text = String::from("***Run inference like this:***\n\n");
        if pair {
            text += "An ensemble won! What a surprise! Run the following commands to run predictions with the ensemble \
                     members:\n\n";
        }
        let mut outputs = Vec::new();
        for (number, member) in self.members.iter().enumerate() {
            let output = match pair {
                true => format!("OUTPUT_FOLDER_MODEL_{}", number + 1),
                false => "OUTPUT_FOLDER".to_owned(),
            };
            let folds: String = self.folds.iter().map(|fold| format!(" {fold}")).collect();
            let Member {
                trainer,
                plans,
                configuration,
            } = member;
            let save = if pair { " --save_probabilities" } else { "" };
            // A String takes whatever is written.
            _ = writeln!(
                text,
                "nnUNetv2_predict -d {} -i INPUT_FOLDER -o {output} -f {folds} -tr {trainer} -c {configuration} -p {plans}{save}",
                self.dataset
            );
            outputs.push(output);
        }
        let processes = self.processes;
        if pair {
            _ = writeln!(
                text,
                "\nThe run ensembling with:\n\nnnUNetv2_ensemble -i {} -o OUTPUT_FOLDER -np {processes}",
                outputs.join(" ")
            );
        }
        _ = writeln!(
            text,
            "\n***Once inference is completed, run postprocessing like this:***\n\nnnUNetv2_apply_postprocessing -i \
             OUTPUT_FOLDER -o OUTPUT_FOLDER_PP -pp_pkl_file {} -np {processes} -plans_json {}",
            self.steps.display(),
            self.plans.display()
        );
        text
    }
}
