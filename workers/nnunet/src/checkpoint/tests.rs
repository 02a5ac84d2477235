use serde_json::json;

use super::*;
use crate::{
    average::{Contribution, Rule, average},
    network::{Layout, Tensor32, initial_weights},
    progress::Unobserved,
    train::optimiser::memory_name,
    update::Update,
};

/// Two stages, in 2D: 2 encoder convolutions, one decoder stage.
fn layout() -> Layout {
    let architecture = json!({
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": 2, "features_per_stage": [4, 6], "conv_op": "torch.nn.modules.conv.Conv2d",
            "kernel_sizes": [[3, 3], [3, 3]], "strides": [[1, 1], [2, 2]], "n_conv_per_stage": [1, 1],
            "n_conv_per_stage_decoder": [1], "conv_bias": true,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d", "norm_op_kwargs": {"eps": 1e-5, "affine": true},
            "dropout_op": null, "dropout_op_kwargs": null,
            "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": true}
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"]
    });
    Layout::new(&serde_json::from_value(architecture).unwrap(), 1, 2).unwrap()
}

fn checkpoint(layout: &Layout) -> Checkpoint {
    let weights = initial_weights(layout, 7).unwrap();
    let mut momentum = StateDict::new();
    for (name, tensor) in weights.iter().skip(3) {
        momentum
            .insert(memory_name(name, "momentum_buffer"), tensor.clone())
            .unwrap();
    }
    let mut logging = Logging::default();
    for epoch in 0..3 {
        logging.record(LoggedEpoch {
            dice_per_class_or_region: vec![0.25 * epoch as f64, f64::NAN],
            train_loss: 1.0,
            val_loss: -0.5,
            lr: 0.01,
            start: epoch as f64,
            end: epoch as f64 + 1.0,
        });
    }
    Checkpoint {
        weights,
        momentum,
        optimiser: OptimiserGroup::of(&TrainerVariant::default(), None),
        scaler: Some(crate::train::ScalerState {
            scale: 32768.0,
            growth_tracker: 7,
        }),
        logging,
        best_ema: Some(0.0475),
        current_epoch: 3,
        init_args: InitArgs {
            plans: json!({"a": [1, 2.5, null, {"b": "\u{e9}"}], "big": 4_000_000_000u64, "less": -3}),
            configuration: "2d".into(),
            fold: FoldId::Fold(2),
            dataset_json: json!({"labels": {"background": 0}}),
        },
        trainer_name: "nnUNetTrainer_5epochs".into(),
        mirror_axes: Some(vec![0, 1]),
    }
}

#[test]
fn a_checkpoint_comes_back_as_it_was_and_has_the_same_bytes_twice() {
    let (layout, folder) = (layout(), tempfile::tempdir().unwrap());
    let written = checkpoint(&layout);
    let paths = ["a.pth", "b.pth"].map(|name| folder.path().join(name));
    for path in &paths {
        write_pth(&written, &layout, path).unwrap();
    }
    let bytes = std::fs::read(&paths[0]).unwrap();
    assert_eq!(bytes, std::fs::read(&paths[1]).unwrap());

    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(bytes)).unwrap();
    for index in 0..archive.len() {
        assert_eq!(archive.by_index(index).unwrap().data_start() % 64, 0);
    }
    let read = PthFile::open(&paths[0]).unwrap().checkpoint(&layout).unwrap();
    // NaN is not equal to itself, so the text is held against the text.
    assert_eq!(format!("{read:?}"), format!("{written:?}"));
}

#[test]
fn the_moving_average_is_numpys_float32() {
    // import numpy as np; e = np.float32(0); for v in (.25, .5): e = e * .9 + .1 * np.float32(v)
    let logging = checkpoint(&layout()).logging;
    assert_eq!(logging.mean_fg_dice, [0.0, 0.25, 0.5]);
    assert_eq!(
        logging.ema_fg_dice,
        [0.0, 0.02500000037252903, 0.07249999791383743]
    );
}

#[test]
fn pretrained_weights_leave_the_heads_alone() {
    let (layout, folder) = (layout(), tempfile::tempdir().unwrap());
    let path = folder.path().join("a.pth");
    write_pth(&checkpoint(&layout), &layout, &path).unwrap();
    let own = initial_weights(&layout, 8).unwrap();
    let loaded = PthFile::open(&path).unwrap().pretrained(&own).unwrap();
    let theirs = initial_weights(&layout, 7).unwrap();
    for (name, tensor) in loaded.iter() {
        let expected = if name.contains(".seg_layers.") {
            &own
        } else {
            &theirs
        };
        assert_eq!(Some(tensor), expected.get(name), "{name}");
    }
}

#[test]
fn a_pickle_may_not_name_what_it_likes() {
    let error = pickle::read(b"\x80\x02cposix\nsystem\nX\x02\0\0\0id\x85R.").unwrap_err();
    assert_eq!(
        error,
        "pickle, byte 16: the name posix.system is not one that a pickle may use here"
    );
    let error = pickle::read(b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.").unwrap_err();
    assert!(error.contains("builtins.eval"), "{error}");
}

#[test]
fn broken_pickles_are_errors() {
    let whole = pickle::write(&pickle::Value::from_json(
        &json!({"a": [1, 2, {"b": [0.5, "text"]}]}),
    ))
    .unwrap();
    for end in 0..whole.len() {
        pickle::read(&whole[..end]).unwrap_err();
    }
    // A list that holds itself, and one that doubles with every level.
    assert!(pickle::read(b"\x80\x02]q\0h\0a.").unwrap_err().contains("deep"));
    let mut bomb = b"\x80\x02]q\0(K\x01K\x01e".to_vec();
    for _ in 0..60 {
        bomb.extend(b"]q\x01(h\0h\0eq\0");
    }
    bomb.push(b'.');
    assert!(pickle::read(&bomb).unwrap_err().contains("expand"));
}

#[test]
fn numpy_scalars_and_arrays_are_plain_numbers() {
    // pickle.dumps([np.float32(.5), 7], 2)
    let bytes = b"\x80\x02]q\x00(cnumpy._core.multiarray\nscalar\nq\x01cnumpy\ndtype\nq\x02X\x02\x00\x00\x00f4q\x03\x89\
        \x88\x87q\x04Rq\x05(K\x03X\x01\x00\x00\x00<q\x06NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x07bc_codecs\nencode\n\
        q\x08X\x04\x00\x00\x00\x00\x00\x00?q\tX\x06\x00\x00\x00latin1q\n\x86q\x0bRq\x0c\x86q\rRq\x0eK\x07e.";
    let read = pickle::read(bytes).unwrap();
    assert_eq!(
        read,
        pickle::Value::List(vec![pickle::Value::Float(0.5), pickle::Value::Int(7)])
    );
}

fn state(values: [f32; 3]) -> StateDict {
    let mut state = StateDict::new();
    state
        .insert("z", Tensor32::new(vec![1, 2], values[..2].to_vec()).unwrap())
        .unwrap();
    state
        .insert("a", Tensor32::new(vec![], values[2..].to_vec()).unwrap())
        .unwrap();
    state
}

#[test]
fn safetensors_keep_order_and_values() {
    let state = state([1.0, -2.5, 3.0]);
    let bytes = safetensors::to_bytes(&state);
    let read = safetensors::from_bytes(&bytes, "test").unwrap();
    assert_eq!(read, state);
    assert_eq!(read.names().collect::<Vec<_>>(), ["z", "a"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    assert_eq!(
        safetensors::write(&state, &path).unwrap(),
        safetensors::digest(&bytes)
    );
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    assert_eq!(safetensors::read(&path).unwrap(), state);
    safetensors::from_bytes(&bytes[..bytes.len() - 1], "test").unwrap_err();
    let error = safetensors::from_bytes(&safetensors::to_bytes(&self::state([1.0, f32::NAN, 0.0])), "test");
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("tensor z holds the value NaN")
    );
}

#[test]
fn momentum_is_averaged_with_the_weights_and_missing_momentum_is_zero() {
    let (layout, folder) = (layout(), tempfile::tempdir().unwrap());
    let constant = |value: f32, without: &[&str], name: &dyn Fn(&str) -> String| {
        let mut state = StateDict::new();
        for parameter in layout.parameters() {
            if !without.contains(&&*parameter.name) {
                let data = vec![value; parameter.shape.iter().product()];
                state
                    .insert(
                        name(&parameter.name),
                        Tensor32::new(parameter.shape.clone(), data).unwrap(),
                    )
                    .unwrap();
            }
        }
        state
    };
    let plain = |name: &str| name.to_owned();
    let buffer = |name: &str| memory_name(name, "momentum_buffer");
    // No site has momentum for the head without loss; site a has none for the first weight either.
    let head = layout.lowest_head();
    let first = &*layout.parameters()[0].name;
    let of_a: Vec<&str> = head.iter().copied().chain([first]).collect();
    let contributions = [("a", 1, 4.0, &of_a), ("b", 3, 8.0, &head)].map(|(site, weight, value, without)| {
        let update = Update {
            weights: constant(value / 2.0, &[], &plain),
            momentum: constant(value, without, &buffer),
        };
        let weights = folder.path().join(site);
        std::fs::write(&weights, update.into_bytes().unwrap()).unwrap();
        Contribution {
            site: site.into(),
            weights,
            weight,
        }
    });
    let output = folder.path().join("average");
    average(&contributions, &Rule::Mean, &output, &Unobserved).unwrap();
    let bytes = std::fs::read(&output).unwrap();
    let averaged = Update::from_bytes(&bytes, "test", &layout).unwrap();
    assert_eq!(averaged.weights, constant(3.5, &[], &plain));
    assert_eq!(averaged.momentum.len(), layout.parameters().len() - head.len());
    for (name, tensor) in averaged.momentum.iter() {
        let expected = if *name == buffer(first) { 6.0 } else { 7.0 };
        assert!(tensor.data.iter().all(|value| *value == expected), "{name}");
    }
    assert_eq!(averaged.clone().into_bytes().unwrap().len(), bytes.len());

    // Momentum of what is no weight, and an update that lacks a weight.
    let mut stray = averaged.clone();
    stray
        .momentum
        .insert("stray", Tensor32::new(vec![], vec![0.0]).unwrap())
        .unwrap();
    let bytes = stray.into_bytes().unwrap();
    std::fs::write(folder.path().join("b"), bytes).unwrap();
    let error = average(&contributions, &Rule::Mean, &output, &Unobserved)
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "site b: tensor momentum/stray of shape [] is the momentum of no weight"
    );
    let short = Update {
        weights: constant(0.0, &[first], &plain),
        ..averaged
    };
    let error = Update::from_bytes(&short.into_bytes().unwrap(), "test", &layout).unwrap_err();
    assert!(error.to_string().contains(first), "{error}");
}

#[test]
fn averaging_weighs_and_names_the_culprit() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("average.safetensors");
    let contribution = |site: &str, weight, state: &StateDict| {
        let weights = folder.path().join(site);
        safetensors::write(state, &weights).unwrap();
        Contribution {
            site: site.into(),
            weights,
            weight,
        }
    };
    let run = |contributions: &[Contribution]| average(contributions, &Rule::Mean, &output, &Unobserved);
    let a = contribution("a", 1, &state([1.0, 2.0, 3.0]));
    let b = contribution("b", 3, &state([5.0, 2.0, 4.0]));
    let digest = run(&[b.clone(), a.clone()]).unwrap();
    assert_eq!(safetensors::read(&output).unwrap(), state([4.0, 2.0, 3.75]));
    assert_eq!(digest, run(&[a.clone(), b.clone()]).unwrap());

    let bad = contribution("c", 1, &state([1.0, f32::INFINITY, 0.0]));
    let error = run(&[a.clone(), bad]).unwrap_err().to_string();
    assert_eq!(error, "site c: tensor z holds a value that is not finite");
    let mut other = state([1.0, 1.0, 1.0]);
    *other.get_mut("z").unwrap() = Tensor32::new(vec![2, 1], vec![1.0, 1.0]).unwrap();
    let error = run(&[a.clone(), contribution("d", 1, &other)])
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "site d: tensor z has the shape [2, 1], expected [1, 2] (held against site a)"
    );
    run(&[a.clone(), a]).unwrap_err();
    run(&[]).unwrap_err();
}
