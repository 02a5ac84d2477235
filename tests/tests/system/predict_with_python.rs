//! The results folder of a job is Python nnU-Net's: real nnUNetv2_predict takes it.

use std::{path::Path, process::Command};

use nnunet::image::Reader;
use tests::repository;

/// Segments `scans` with `nnUNetv2_predict` and a downloaded model, and compares with what Rounds made of them.
pub fn gives_the_same(model: &Path, scans: &Path, ours: &Path) {
    let output = tempfile::tempdir().unwrap();
    let results = model.parent().and_then(Path::parent).unwrap();
    let predict = Command::new(repository().join(".tools/oracle/bin/nnUNetv2_predict"))
        .args(["-d", "11", "-c", "3d_fullres", "-f", "0", "-device", "cpu"])
        .args(["-npp", "1", "-nps", "1"])
        .arg("-i")
        .arg(scans)
        .arg("-o")
        .arg(output.path())
        .env("nnUNet_results", results)
        .env("OMP_NUM_THREADS", "2")
        .output()
        .unwrap();
    assert!(
        predict.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&predict.stdout),
        String::from_utf8_lossy(&predict.stderr)
    );
    for case in ["case_0.nii.gz", "case_1.nii.gz"] {
        let read = |folder: &Path| Reader::SimpleItk.read_segmentation(&folder.join(case)).unwrap();
        let (ours, theirs) = (read(ours), read(output.path()));
        assert_eq!(ours.labels.dim(), theirs.labels.dim());
        assert!(ours.geometry.is_close_to(&theirs.geometry));
        let pairs = ours.labels.iter().zip(&theirs.labels);
        let equal = pairs.filter(|(a, b)| a == b).count() as f64 / ours.labels.len() as f64;
        assert!(equal >= 0.9999, "{case}: {equal} of the voxels are equal");
        // An empty segmentation would say nothing.
        assert!(ours.labels.iter().any(|label| *label > 0), "{case}");
    }
}
