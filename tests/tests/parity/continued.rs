//! A training that Python nnU-Net began and Rounds goes on with, and the reverse.

use std::{fs, path::Path};

use serde_json::Value;
use tests::{process, scans::SMALL};

const FOLD: &str = "nnUNet_results/Dataset041_Passed/nnUNetTrainer_5epochs__nnUNetPlans__2d/fold_0";

/// Runs `rounds nnunet ARGUMENTS` with nnU-Net's folders in `root`.
fn rounds(root: &Path, arguments: &str) -> String {
    let output = process::nnunet(root, arguments).unwrap().output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}\n{said}\n{errors}");
    said
}

/// Which epochs Python trained, and how many its log has.
fn python(root: &Path, what: &str) -> (Vec<u64>, u64) {
    let arguments = [root.as_os_str(), what.as_ref(), "41".as_ref()];
    let output = tests::oracle::run("continued.py", &arguments).unwrap();
    let result = output.lines().find_map(|line| line.strip_prefix("RESULT "));
    let result: Value = serde_json::from_str(result.unwrap()).unwrap();
    let epochs = result["epochs"].as_array().unwrap();
    let epochs = epochs.iter().filter_map(Value::as_u64).collect();
    (epochs, result["log"].as_u64().unwrap())
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with("training_log"))
        .collect();
    names.sort();
    names
}

#[test]
fn a_training_passes_from_python_to_rounds_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    SMALL.write(&root.join("nnUNet_raw/Dataset041_Passed")).unwrap();
    rounds(root, "plan-and-preprocess -d 41 -c 2d --no_pbar");
    assert_eq!(python(root, "begin"), (vec![0, 1, 2], 3));
    let fold = root.join(FOLD);
    assert!(fold.join("checkpoint_latest.pth").is_file());

    let settings = "-device cpu --iterations-per-epoch 1 --val-iterations-per-epoch 1";
    let begun = root.join("begun.pth");
    fs::copy(fold.join("checkpoint_latest.pth"), &begun).unwrap();
    let train = format!("train 41 2d 0 -tr nnUNetTrainer_5epochs {settings}");
    let said = rounds(root, &format!("{train} --c"));
    assert!(said.contains("checkpoint_latest.pth at epoch 2"), "{said}");
    for (epoch, trained) in [(1, false), (2, true), (4, true), (5, false)] {
        assert_eq!(
            said.contains(&format!("Epoch {epoch}\n")),
            trained,
            "{epoch}: {said}"
        );
    }
    // What nnU-Net leaves, in its places.
    let expected = [
        "checkpoint_best.pth",
        "checkpoint_final.pth",
        "debug.json",
        "progress.png",
        "validation",
    ];
    assert_eq!(files(&fold), expected);
    assert!(fold.join("validation/summary.json").is_file());

    // Python goes on with what Rounds finished.
    assert_eq!(python(root, "finish"), (vec![5], 6));

    let pretrained = format!(
        "train 41 2d 0 -tr nnUNetTrainer_1epoch {settings} -pretrained_weights {} --disable_checkpointing",
        begun.display()
    );
    let said = rounds(root, &pretrained);
    assert!(said.contains("Starting from the weights of"), "{said}");
    assert!(said.contains("checkpointing is disabled"), "{said}");
    assert!(said.contains("Mean Validation Dice"), "{said}");
    let fold = root.join(FOLD.replace("5epochs", "1epoch"));
    assert_eq!(files(&fold), ["debug.json", "progress.png", "validation"]);
}
