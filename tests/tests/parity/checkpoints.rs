//! Every kind of checkpoint that Python nnU-Net 2.x writes is read; one that would run something is refused by name.

use std::path::Path;

use nnunet::{
    checkpoint::{Checkpoint, PthFile, write_pth},
    network::StateDict,
    train::ScalerState,
};
use serde_json::Value;

use super::model;

/// The largest difference of values, over the largest value.
fn difference(ours: &StateDict, theirs: &StateDict) -> f32 {
    let values = |state: &StateDict| -> Vec<f32> {
        state
            .iter()
            .flat_map(|(_, tensor)| tensor.data.iter().copied())
            .collect()
    };
    let (ours, theirs) = (values(ours), values(theirs));
    assert_eq!(ours.len(), theirs.len());
    let pairs = ours.iter().zip(&theirs);
    let largest = theirs
        .iter()
        .fold(0f32, |largest, value| largest.max(value.abs()));
    pairs.fold(0f32, |worst, (a, b)| worst.max((a - b).abs())) / largest
}

#[test]
fn checkpoints_of_every_kind_are_read_and_none_runs_anything() {
    let folder = tempfile::tempdir().unwrap();
    let layout = model::layout("3d_fullres");
    let written = Checkpoint {
        scaler: Some(ScalerState {
            scale: 1024.0,
            growth_tracker: 3,
        }),
        ..model::checkpoint(&layout, "3d_fullres", 0)
    };
    let file = |name: &str| folder.path().join(format!("{name}.pth"));
    write_pth(&written, &layout, &file("ours")).unwrap();
    let output = tests::oracle::run("checkpoints.py", &[folder.path()]).unwrap();
    let result = output.lines().find_map(|line| line.strip_prefix("RESULT "));
    let result: Value = serde_json::from_str(result.unwrap()).unwrap();
    assert_eq!(
        (&result["scale"], &result["tracker"]),
        (&1024.0.into(), &3.into())
    );
    assert_eq!(result["python"]["scale"], 4096.0);

    let read = |name: &str| PthFile::open(&file(name)).unwrap();
    for (name, tolerance) in [
        ("double", 0.0),
        ("half", 1e-3),
        ("bfloat16", 4e-3),
        ("ddp", 0.0),
        ("compiled", 0.0),
        ("both", 0.0),
        ("channels_last", 0.0),
        ("views", 0.0),
        ("every_second", 0.0),
        ("parameters", 0.0),
        ("protocol_3", 0.0),
        ("protocol_4", 0.0),
        ("protocol_5", 0.0),
        ("trainer", 0.0),
    ] {
        let difference = difference(&read(name).weights(&layout).unwrap(), &written.weights);
        assert!(difference <= tolerance, "{name}: {difference}");
        let own = model::checkpoint(&layout, "3d_fullres", 1).weights;
        read(name).pretrained(&own).unwrap();
    }

    let trainer = read("trainer").checkpoint(&layout).unwrap();
    let scaler = ScalerState {
        scale: 4096.0,
        growth_tracker: 17,
    };
    assert_eq!(trainer.scaler, Some(scaler));
    assert_eq!((trainer.best_ema, trainer.current_epoch), (Some(0.5), 2));
    assert_eq!(trainer.init_args.fold.to_string(), "1");
    assert_eq!(trainer.momentum, written.momentum);
    assert_eq!(trainer.logging.mean_fg_dice, written.logging.mean_fg_dice);
    assert_eq!(trainer.logging.train_losses, written.logging.train_losses);
    assert_eq!(trainer.logging.val_losses[0], 0.39990234375, "a half of 0.4");
    assert_eq!(read("scaler_off").scaler().unwrap(), None);

    refused(&file("twice"), "is there twice", Some(&layout));
    refused(&file("old_format"), "older than torch 1.6", None);
    for (name, global) in [
        ("system", "posix.system"),
        ("eval", ".eval"),
        ("popen", ".Popen"),
        ("partial", "functools.partial"),
        ("getattr", ".getattr"),
    ] {
        refused(&file(&format!("evil_{name}")), global, None);
        refused(&file(&format!("evil_{name}_4")), global, None);
    }
}

fn refused(file: &Path, named: &str, layout: Option<&nnunet::network::Layout>) {
    let read = PthFile::open(file).and_then(|read| match layout {
        Some(layout) => read.weights(layout).map(|_| ()),
        None => Ok(()),
    });
    let error = read.unwrap_err().to_string();
    assert!(error.contains(named), "{}: {error}", file.display());
}
