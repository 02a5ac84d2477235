//! An inference job that scores: what its zips hold, and the summary of all sites.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use serde_json::Value;
use tests::{federation::Federation, process};

/// The summary of all sites has the cases of each zip's own, which `rounds nnunet evaluate-folder` finds too.
/// `downloaded`: the zips by site, then the summary.
pub fn summary_is_of_all_sites(federation: &Federation, downloaded: &[PathBuf]) {
    let (summary, zips) = downloaded.split_last().unwrap();
    let pooled = read(summary);
    let mut pooled_cases = pooled["metric_per_case"].as_array().unwrap().iter();
    for (zip, site) in zips.iter().zip(["alpha", "beta", "gamma"]) {
        let folder = federation.folder().join("scored").join(site);
        zip::ZipArchive::new(File::open(zip).unwrap())
            .unwrap()
            .extract(&folder)
            .unwrap();
        let made = folder.join(site);
        let told = read(&made.join("inference.json"));
        assert_eq!(told["plan"]["configuration"], "3d_fullres");
        assert_eq!(told["plan"]["trainer"], "nnUNetTrainerBN");
        assert_eq!(told["metrics"]["cases"], 5);
        assert_eq!(told["cases"].as_array().unwrap().len(), 5);

        let own = read(&made.join("summary.json"));
        assert_eq!(own["mean"], told["metrics"]["mean"]);
        let evaluated = evaluated(federation, site, &made);
        for (ordinal, case) in own["metric_per_case"].as_array().unwrap().iter().enumerate() {
            let pooled = pooled_cases.next().unwrap();
            assert_eq!(case["prediction_file"], format!("case_{ordinal}.nii.gz"));
            assert_eq!(pooled["prediction_file"], format!("{site}/{ordinal}"));
            assert_eq!(pooled["metrics"], case["metrics"]);
            assert_eq!(evaluated["metric_per_case"][ordinal]["metrics"], case["metrics"]);
        }
    }
    assert!(pooled_cases.next().is_none());
}

/// A training job's validation by counts is that of an inference job with its result on the same cases, and the
/// post-processing is what `rounds nnunet determine-postprocessing` decides with all files in one folder.
pub fn validation_is_as_of_one_folder(federation: &Federation, validation: &Path, downloaded: &[PathBuf]) {
    let (segmented, _) = downloaded.split_last().unwrap();
    let segmented = read(segmented);
    assert_eq!(read(&validation.join("summary.json")), segmented);

    let [predictions, references] = ["predictions", "references"].map(|name| federation.folder().join(name));
    for folder in [&predictions, &references] {
        fs::create_dir_all(folder).unwrap();
    }
    for site in ["alpha", "beta", "gamma"] {
        let made = federation.folder().join("scored").join(site).join(site);
        let labels = federation
            .folder()
            .join(format!("Dataset041_{site}"))
            .join("labelsTr");
        for case in 0..5 {
            let name = format!("case_{case}.nii.gz");
            let own = format!("{site}_{name}");
            fs::copy(made.join(&name), predictions.join(&own)).unwrap();
            fs::copy(labels.join(&name), references.join(&own)).unwrap();
        }
        for document in ["plans.json", "dataset.json"] {
            fs::copy(made.join(document), predictions.join(document)).unwrap();
        }
    }
    let arguments: [&Path; 6] = [
        Path::new("nnunet"),
        Path::new("determine-postprocessing"),
        Path::new("-i"),
        &predictions,
        Path::new("-ref"),
        &references,
    ];
    process::run(&arguments).unwrap();
    let decided = |folder: &Path| read(&folder.join("postprocessing.json"));
    assert_eq!(decided(validation), decided(&predictions));
    let pickle = |folder: &Path| fs::read(folder.join("postprocessing.pkl")).unwrap();
    assert!(pickle(validation) == pickle(&predictions));
}

/// The pages of both jobs: the scores of whole cases, and the pictures of the one site that allows them.
pub fn reports_show_it(federation: &Federation, model: &Path) {
    let page = |job: &str, more: &[&str]| {
        let file = federation.folder().join(format!("{job}.html"));
        let mut arguments = vec!["report", job, "--output", file.to_str().unwrap()];
        arguments.extend(more);
        federation.command(&arguments).unwrap();
        fs::read_to_string(file).unwrap()
    };
    let trained = page("steady", &["--results", model.to_str().unwrap()]);
    for part in [
        "Training loss",
        "Dice of whole cases",
        "Who worked when",
        "PlainConvUNet",
        "shell",
        "train-round",
    ] {
        assert!(trained.contains(part), "{part:?} is not in the report");
    }
    let segmented = page("segment", &[]);
    assert_eq!(segmented.matches("data:image/png;base64,").count(), 2);
    assert!(segmented.contains("alpha, case") && !segmented.contains("beta, case"));
    assert!(segmented.contains("Dice of whole cases"));
    for page in [trained, segmented] {
        let loads = ["src=\"http", "href=", "url(", "<script", "@import"];
        assert!(
            loads.iter().all(|load| !page.contains(load)),
            "it needs the network"
        );
    }
}

/// What nnU-Net's command finds in an unpacked zip.
fn evaluated(federation: &Federation, site: &str, made: &Path) -> Value {
    let dataset = federation.folder().join(format!("Dataset041_{site}"));
    let output = federation.folder().join(format!("{site}.json"));
    let arguments: [&Path; 10] = [
        Path::new("nnunet"),
        Path::new("evaluate-folder"),
        &dataset.join("labelsTr"),
        made,
        Path::new("-djfile"),
        &made.join("dataset.json"),
        Path::new("-pfile"),
        &made.join("plans.json"),
        Path::new("-o"),
        &output,
    ];
    process::run(&arguments).unwrap();
    read(&output)
}

/// A document of Python's, whose NaN is none of JSON's values.
fn read(file: &Path) -> Value {
    let text = fs::read_to_string(file).unwrap();
    serde_json::from_str(&text.replace(": NaN", ": null")).unwrap()
}
