//! The flags are those of nnU-Net 2.8.1's console scripts.

use clap::{Arg, ArgAction, Parser};

use super::*;

/// nnU-Net's parsers, printed by argparse: name, `flag`, `one` or `many` values, default (`-` for none). Positionals
/// and required flags end in `!`. Python leaves `-d` optional and crashes without it; here it is required.
const PYTHON: &str = "
extract-fingerprint
    -d! many -
    -fpe one DatasetFingerprintExtractor
    -np one threads
    --verify_dataset_integrity flag
    --clean flag
    --verbose flag
    --no_pbar flag
plan
    -d! many -
    -pl one ExperimentPlanner
    -gpu_memory_target one -
    -preprocessor_name one DefaultPreprocessor
    -overwrite_target_spacing many -
    -overwrite_plans_name one -
preprocess
    -d! many -
    -plans_name one nnUNetPlans
    -c many 2d 3d_fullres 3d_lowres
    -np many threads
    --verbose flag
    --no_pbar flag
plan-and-preprocess
    -d! many -
    -fpe one DatasetFingerprintExtractor
    -npfp one threads
    --verify_dataset_integrity flag
    --no_pp flag
    --clean flag
    -pl one ExperimentPlanner
    -gpu_memory_target one -
    -preprocessor_name one DefaultPreprocessor
    -overwrite_target_spacing many -
    -overwrite_plans_name one -
    -c many 2d 3d_fullres 3d_lowres
    -np many threads
    --verbose flag
    --no_pbar flag
train
    dataset! one -
    configuration! one -
    fold! one -
    -tr one nnUNetTrainer
    -p one nnUNetPlans
    -pretrained_weights one -
    -num_gpus one 1
    --npz flag
    --c flag
    --val flag
    --val_best flag
    --disable_checkpointing flag
    -device one cuda
predict
    -i! one -
    -o! one -
    -d! one -
    -p one nnUNetPlans
    -tr one nnUNetTrainer
    -c! one -
    -f many 0 1 2 3 4
    -step_size one 0.5
    --disable_tta flag
    --verbose flag
    --save_probabilities flag
    --continue_prediction flag
    -chk one checkpoint_final.pth
    -npp one threads
    -nps one threads
    -prev_stage_predictions one -
    -num_parts one 1
    -part_id one 0
    -device one cuda
    --disable_progress_bar flag
    --not_on_device flag
predict-from-modelfolder
    -i! one -
    -o! one -
    -m! one -
    -f many 0 1 2 3 4
    -step_size one 0.5
    --disable_tta flag
    --verbose flag
    --save_probabilities flag
    --continue_prediction flag
    -chk one checkpoint_final.pth
    -npp one threads
    -nps one threads
    -prev_stage_predictions one -
    -device one cuda
    --disable_progress_bar flag
    --not_on_device flag
evaluate-folder
    references! one -
    predictions! one -
    -djfile! one -
    -pfile! one -
    -o one -
    -np one threads
    --chill flag
evaluate-simple
    references! one -
    predictions! one -
    -l! many -
    -il one -
    -o one -
    -np one threads
    --chill flag
ensemble
    -i! many -
    -o! one -
    -np one threads
    --save_npz flag
determine-postprocessing
    -i! one -
    -ref! one -
    -plans_json one -
    -dataset_json one -
    -np one threads
    --remove_postprocessed flag
apply-postprocessing
    -i! one -
    -o! one -
    -pp_pkl_file! one -
    -np one threads
    -plans_json one -
    -dataset_json one -
accumulate-crossval-results
    dataset! one -
    -c! one -
    -o one -
    -f many 0 1 2 3 4
    -p one nnUNetPlans
    -tr one nnUNetTrainer
find-best-configuration
    dataset! one -
    -p many nnUNetPlans
    -c many 2d 3d_fullres 3d_lowres 3d_cascade_fullres
    -tr many nnUNetTrainer
    -np one threads
    -f many 0 1 2 3 4
    --disable_ensembling flag
    --no_overwrite flag
export-model-to-zip
    -d! one -
    -o! one -
    -c many 3d_lowres 3d_fullres 2d 3d_cascade_fullres
    -tr one nnUNetTrainer
    -p one nnUNetPlans
    -f many 0 1 2 3 4
    -chk many checkpoint_final.pth
    --not_strict flag
    --exp_cv_preds flag
install-pretrained-model-from-zip
    zip! one -
";

/// What Rounds adds, as the help says.
const OWN: [&str; 5] = [
    "bfloat16 flag",
    "iterations-per-epoch one 250",
    "val-iterations-per-epoch one 50",
    "micro-batch one -",
    "seed one 0",
];

#[derive(Parser)]
struct Program {
    #[command(subcommand)]
    command: Command,
}

fn describe(arg: &Arg) -> String {
    let name = match (arg.get_short(), arg.get_long()) {
        (Some(short), _) => format!("-{short}"),
        (None, Some(long)) => long.to_owned(),
        (None, None) => arg.get_id().to_string(),
    };
    let many = arg.get_num_args().is_some_and(|n| n.max_values() > 1);
    let defaults: Vec<&str> = arg
        .get_default_values()
        .iter()
        .filter_map(|v| v.to_str())
        .collect();
    let values = match (
        matches!(arg.get_action(), ArgAction::SetTrue),
        many,
        &defaults[..],
    ) {
        (true, ..) => " flag".to_owned(),
        (_, many, []) => format!(" {} -", if many { "many" } else { "one" }),
        (_, many, defaults) => format!(" {} {}", if many { "many" } else { "one" }, defaults.join(" ")),
    };
    format!("{name}{}{values}", if arg.is_required_set() { "!" } else { "" })
}

#[test]
fn flags_and_defaults_are_pythons() {
    use clap::CommandFactory;
    let mut program = Program::command();
    program.build();
    let mut seen = 0;
    for block in PYTHON
        .trim()
        .split("\n")
        .collect::<Vec<_>>()
        .chunk_by(|_, next| next.starts_with(' '))
    {
        let command = program.find_subcommand(block[0]).unwrap();
        let ours: Vec<String> = command
            .get_arguments()
            .filter(|arg| arg.get_id() != "help")
            .map(describe)
            .filter(|ours| !OWN.contains(&&**ours))
            .collect();
        for line in &block[1..] {
            let line = line.trim();
            // clap knows long flags without dashes, and the number of threads is found when it is run.
            let is_short = line[1..].starts_with(|c: char| c.is_ascii_alphabetic())
                && !line[2..].starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
            let name = if is_short {
                line
            } else {
                line.trim_start_matches('-')
            };
            let expected = name.replace("threads", "-");
            assert!(
                ours.contains(&expected),
                "{}: no {expected:?} in {ours:#?}",
                block[0]
            );
        }
        assert_eq!(ours.len(), block.len() - 1, "{}: {ours:#?}", block[0]);
        seen += 1;
    }
    assert_eq!(seen, 16);
}

fn parse(line: &str) -> Result<Command, clap::Error> {
    let args = long_flags(line.split(' ').map(Into::into));
    // The program is `nnunet` here, its own first word.
    Program::try_parse_from(args.into_iter().skip(1)).map(|program| program.command)
}

#[test]
fn command_lines_of_nnunets_documentation_parse() {
    for line in [
        "rounds nnunet plan-and-preprocess -d 4 --verify_dataset_integrity",
        "rounds nnunet plan-and-preprocess -d 2 4 5 -c 3d_fullres -np 4 -npfp 2 -pl nnUNetPlannerResEncL --clean",
        "rounds nnunet plan -d 4 -overwrite_target_spacing 1 0.5 0.5 -overwrite_plans_name mine -gpu_memory_target 11",
        "rounds nnunet preprocess -d 4 -plans_name mine -c 2d 3d_fullres -np 8 4",
        "rounds nnunet train 4 3d_fullres 0 -tr nnUNetTrainer_5epochs -p nnUNetPlans --npz --c -device cpu",
        "rounds nnunet train Dataset004_Hippocampus 2d all --val --val_best --seed 7 --iterations-per-epoch 10",
        "rounds nnunet predict -i in -o out -d 4 -c 3d_fullres -f 0 all -chk checkpoint_best.pth -device cpu",
        "rounds nnunet predict -i in -o out -d 4 -c 2d -num_parts 5 -part_id 3 -step_size 0.7 --disable_tta",
        "rounds nnunet predict-from-modelfolder -i in -o out -m model --c -npp 1 -nps 1 --not_on_device",
        "rounds nnunet evaluate-simple gt pred -l 1 2 3 -il 4 --chill",
        "rounds nnunet ensemble -i a b c -o out -np 2 --save_npz",
        "rounds nnunet determine-postprocessing -i a -ref gt -plans_json p -dataset_json d -np 2 --remove_postprocessed",
        "rounds nnunet apply-postprocessing -i a -o b -pp_pkl_file postprocessing.pkl -np 8 -plans_json plans.json",
        "rounds nnunet accumulate-crossval-results 4 -c 3d_fullres -f 0 1",
        "rounds nnunet find-best-configuration 4 -c 2d 3d_fullres -f 0 1 --disable_ensembling --no_overwrite",
        "rounds nnunet export-model-to-zip -d 4 -o model.zip -c 3d_fullres -f 0 all -chk a b --not_strict",
        "rounds nnunet install-pretrained-model-from-zip model.zip",
        "rounds nnunet evaluate gt pred -djfile dataset.json -pfile plans.json -o summary.json -np 2 --chill",
    ] {
        if let Err(error) = parse(line) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn wrong_values_are_refused_by_name() {
    for (line, named) in [
        ("rounds nnunet train 4 3d_fullres five", "five"),
        ("rounds nnunet train 4 3d_fullres -1", "-1"),
        ("rounds nnunet train 4 3d_fullres 0 -device tpu", "tpu"),
        (
            "rounds nnunet train 4 3d_fullres 0 --iterations-per-epoch 0",
            "iterations-per-epoch",
        ),
        ("rounds nnunet predict -i in -o out -d 4", "-c"),
        ("rounds nnunet evaluate gt pred -pfile plans.json", "djfile"),
        ("rounds nnunet plan -d 4 -no_such_flag 1", "no_such_flag"),
    ] {
        let error = parse(line).unwrap_err().to_string();
        assert!(error.contains(named), "{line}: {error}");
    }
}
