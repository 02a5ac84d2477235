//! Networks: parameter order, state_dict keys, initial weights' spread, and the forward pass.

use std::{fs, path::Path};

use nnunet::network::{Layout, Mode, ParameterRole, StateDict, Tensor32, UNet, initial_weights};
use nnunet::train::augment::random::SampleKey;
use schemas::nnunet::Architecture;
use serde_json::{Value, json};
use tests::parity_table;

/// Little-endian float32 values one after the other.
pub struct Floats(Vec<u8>, usize);

impl Floats {
    pub fn open(path: &Path) -> Self {
        Self(fs::read(path).unwrap(), 0)
    }

    pub fn take(&mut self, n: usize) -> Vec<f32> {
        let bytes = &self.0[self.1..self.1 + 4 * n];
        self.1 += 4 * n;
        bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    }

    pub fn rest(&self) -> usize {
        (self.0.len() - self.1) / 4
    }
}

/// Reproducible values in 0..n.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn next(&mut self, n: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }

    pub fn float(&mut self) -> f32 {
        self.next(1 << 20) as f32 / (1 << 18) as f32 - 2.0
    }
}

pub fn write(path: &Path, values: &[f32]) {
    fs::write(
        path,
        values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>(),
    )
    .unwrap();
}

/// An architecture in nnU-Net's words. `blocks` are convolutions, or residual blocks, of each stage.
pub fn architecture(
    residual: bool,
    features: &[usize],
    kernels: Value,
    strides: Value,
    blocks: Value,
) -> Value {
    let dimensions = kernels[0].as_array().unwrap().len();
    let class = if residual {
        "ResidualEncoderUNet"
    } else {
        "PlainConvUNet"
    };
    let decoder = vec![if residual { 1 } else { 2 }; features.len() - 1];
    json!({
        "network_class_name": format!("dynamic_network_architectures.architectures.unet.{class}"),
        "arch_kwargs": {
            "n_stages": features.len(),
            "features_per_stage": features,
            "conv_op": format!("torch.nn.modules.conv.Conv{dimensions}d"),
            "kernel_sizes": kernels,
            "strides": strides,
            if residual { "n_blocks_per_stage" } else { "n_conv_per_stage" }: blocks,
            "n_conv_per_stage_decoder": decoder,
            "conv_bias": true,
            "norm_op": format!("torch.nn.modules.instancenorm.InstanceNorm{dimensions}d"),
            "norm_op_kwargs": {"eps": 1e-5, "affine": true},
            "dropout_op": null,
            "dropout_op_kwargs": null,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": true}
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"]
    })
}

/// The same network with other arguments.
fn with(mut architecture: Value, arguments: Value) -> Value {
    let kwargs = architecture["arch_kwargs"].as_object_mut().unwrap();
    kwargs.extend(arguments.as_object().unwrap().clone());
    architecture
}

pub fn networks() -> Vec<Value> {
    let same = |n: usize, axes: usize| json!(vec![vec![3; axes]; n]);
    let strides = || json!([[1, 1], [2, 2], [2, 2]]);
    let plain_2d = |name: &str, arguments: Value| {
        json!({"name": name, "channels": 1, "heads": 2, "shape": [2, 1, 16, 24],
            "architecture": with(architecture(false, &[6, 8, 10], same(3, 2), strides(), json!([2, 1, 1])), arguments)})
    };
    let residual_2d = |name: &str, arguments: Value| {
        json!({"name": name, "channels": 1, "heads": 2, "shape": [2, 1, 16, 24],
            "architecture": with(architecture(true, &[6, 8, 8], same(3, 2), strides(), json!([1, 2, 1])), arguments)})
    };
    vec![
        json!({"name": "plain_3d", "channels": 1, "heads": 3, "shape": [2, 1, 16, 24, 16], "architecture":
            architecture(false, &[8, 16, 24, 32], same(4, 3),
                json!([[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]]), json!([2, 2, 2, 2]))}),
        json!({"name": "plain_2d", "channels": 2, "heads": 2, "shape": [3, 2, 32, 48], "architecture":
            architecture(false, &[8, 16, 32], same(3, 2), json!([[1, 1], [2, 2], [2, 2]]), json!([2, 2, 2]))}),
        json!({"name": "anisotropic_3d", "channels": 3, "heads": 4, "shape": [1, 3, 6, 32, 24], "architecture":
            architecture(false, &[8, 12, 16, 20], json!([[1, 3, 3], [1, 3, 3], [3, 3, 3], [3, 3, 3]]),
                json!([[1, 1, 1], [1, 2, 2], [2, 2, 2], [1, 2, 1]]), json!([2, 1, 2, 3]))}),
        json!({"name": "residual_3d", "channels": 1, "heads": 2, "shape": [2, 1, 16, 16, 16], "architecture":
            architecture(true, &[8, 16, 16, 24], same(4, 3),
                json!([[1, 1, 1], [2, 2, 2], [2, 2, 2], [1, 2, 2]]), json!([1, 3, 2, 2]))}),
        json!({"name": "residual_2d", "channels": 1, "heads": 3, "shape": [2, 1, 32, 32], "architecture":
            architecture(true, &[8, 16, 32], same(3, 2), json!([[1, 1], [2, 2], [2, 2]]), json!([1, 2, 2]))}),
        json!({"name": "batch_norm_3d", "channels": 1, "heads": 2, "shape": [2, 1, 8, 8, 8], "architecture": with(
            architecture(false, &[6, 8, 10], same(3, 3), json!([[1, 1, 1], [2, 2, 2], [1, 2, 2]]), json!([2, 1, 1])),
            json!({"norm_op": "torch.nn.modules.batchnorm.BatchNorm3d", "norm_op_kwargs": {}}))}),
        residual_2d(
            "residual_batch_norm",
            json!({"norm_op": "torch.nn.BatchNorm2d", "stem_channels": 4,
            "norm_op_kwargs": {"eps": 1e-3, "momentum": null}, "conv_bias": false, "deep_supervision": true}),
        ),
        residual_2d(
            "residual_dropout",
            json!({"dropout_op": "torch.nn.Dropout2d", "dropout_op_kwargs": {"p": 0.2},
            "nonlin": "torch.nn.ReLU", "n_conv_per_stage_decoder": [2, 3]}),
        ),
        residual_2d("residual_linear", json!({"nonlin": null, "nonlin_kwargs": null})),
        plain_2d(
            "batch_norm_untracked",
            json!({"norm_op": "torch.nn.BatchNorm2d",
            "norm_op_kwargs": {"track_running_stats": false, "affine": false}, "nonlin": "torch.nn.SiLU"}),
        ),
        plain_2d(
            "instance_norm_tracked",
            json!({"norm_op_kwargs": {"track_running_stats": true, "momentum": 0.3},
            "nonlin": "torch.nn.GELU", "nonlin_kwargs": {"approximate": "tanh"}}),
        ),
        plain_2d(
            "no_norm",
            json!({"norm_op": null, "norm_op_kwargs": null, "nonlin": "torch.nn.ELU",
            "nonlin_kwargs": null}),
        ),
        plain_2d(
            "nonlin_first",
            json!({"nonlin_first": true, "nonlin": "torch.nn.ReLU", "conv_bias": false}),
        ),
        plain_2d(
            "dropout_nonlin_first",
            json!({"nonlin_first": true, "dropout_op": "torch.nn.Dropout2d",
            "dropout_op_kwargs": {}, "nonlin_kwargs": {"negative_slope": 0.2}}),
        ),
        plain_2d(
            "even_kernels",
            json!({"kernel_sizes": [[3, 1], [5, 3], [2, 4]], "nonlin": "torch.nn.Mish",
            "nonlin_kwargs": {"inplace": true}}),
        ),
    ]
}

#[test]
fn keys_spread_and_outputs_are_pythons() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("networks.json"), json!(networks()).to_string()).unwrap();
    tests::oracle::run("network.py", &[folder.path()]).unwrap();
    for network in networks() {
        let name = network["name"].as_str().unwrap();
        let document = fs::read(folder.path().join(format!("{name}.json"))).unwrap();
        let python: Value = serde_json::from_slice(&document).unwrap();
        let architecture: Architecture = serde_json::from_value(network["architecture"].clone()).unwrap();
        let number = |key: &str| network[key].as_u64().unwrap() as usize;
        let layout = Layout::new(&architecture, number("channels"), number("heads")).unwrap();

        let ours: Value = layout
            .parameters()
            .iter()
            .map(|p| json!([p.name, p.shape, p.role.is_trained()]))
            .collect();
        assert_eq!(ours, python["parameters"], "{name}");
        let unique: Vec<&str> = layout.parameters().iter().map(|p| p.name.as_str()).collect();
        let keys: Vec<(&str, &str)> = layout.aliases().collect();
        let theirs: Vec<(&str, &str)> = python["keys"]
            .as_array()
            .unwrap()
            .iter()
            .map(|key| {
                (
                    key[0].as_str().unwrap(),
                    unique[key[1].as_u64().unwrap() as usize],
                )
            })
            .collect();
        assert_eq!(keys, theirs, "{name}");

        let initial = initial_weights(&layout, 7).unwrap();
        for parameter in layout.parameters() {
            let values = &initial.get(&parameter.name).unwrap().data;
            let expected = python["spread"][&parameter.name].as_f64().unwrap();
            let n = values.len() as f64;
            let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
            let deviation = (values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n).sqrt();
            match parameter.role {
                // Both are samples: their deviations scatter by 1 / sqrt(2 n) each.
                ParameterRole::Convolution { .. } => {
                    let allowed = expected * 6.0 / n.sqrt();
                    assert!(
                        (deviation - expected).abs() < allowed,
                        "{name} {}: {deviation} {expected}",
                        parameter.name
                    );
                }
                _ => assert_eq!(deviation, expected, "{name} {}", parameter.name),
            }
        }

        let mut floats = Floats::open(&folder.path().join(format!("{name}.bin")));
        let weights = read_weights(&mut floats, &layout);
        let shape: Vec<i64> = network["shape"]
            .as_array()
            .unwrap()
            .iter()
            .map(|n| n.as_i64().unwrap())
            .collect();
        let input = floats.take(shape.iter().product::<i64>() as usize);
        let unet = UNet::new(layout.clone(), &weights, tch::Device::Cpu).unwrap();
        assert_eq!(unet.state_dict().unwrap(), weights, "{name}");
        let input = tch::Tensor::from_slice(&input).view(&shape[..]);
        let no_draws = |_| panic!("nothing drops out");
        let mut modes = vec![Mode::Inference];
        if network["architecture"]["arch_kwargs"]["dropout_op"].is_null() {
            modes.push(Mode::Training {
                draws: &no_draws,
                first_sample: 0,
            });
        }
        let mut furthest = 0f32;
        for mode in modes {
            let outputs = tch::no_grad(|| unet.outputs(&input, layout.outputs(), mode)).unwrap();
            assert_eq!(outputs.len(), python["outputs"].as_array().unwrap().len());
            let mut of_python = Vec::new();
            for (i, output) in outputs.iter().enumerate() {
                assert_eq!(json!(output.size()), python["outputs"][i], "{name} {i}");
                let theirs = floats.take(output.numel());
                let worst = largest_difference(&values(output), &theirs);
                furthest = furthest.max(worst);
                assert!(worst < 1e-4, "{name}, output {i}: {worst}");
                of_python.push(theirs);
            }
            match mode {
                Mode::Inference => {
                    assert_eq!(unet.state_dict().unwrap(), weights, "{name}");
                    let full = tch::no_grad(|| unet.forward(&input)).unwrap();
                    assert_eq!(full, outputs[0], "{name}");
                    let patch: Vec<usize> = shape[2..].iter().map(|&n| n as usize).collect();
                    let unet = UNet::new(layout.clone(), &weights, tch::Device::Cpu).unwrap();
                    let unet = unet.for_inference(&patch).unwrap();
                    let full = tch::no_grad(|| unet.forward(&input)).unwrap();
                    let worst = largest_difference(&values(&full), &of_python[0]);
                    furthest = furthest.max(worst);
                    assert!(worst < 1e-4, "{name}, as inference has it: {worst}");
                }
                Mode::Training { .. } => {
                    let theirs = read_weights(&mut floats, &layout);
                    for ((key, ours), (_, theirs)) in unet.state_dict().unwrap().iter().zip(theirs.iter()) {
                        let worst = largest_difference(&ours.data, &theirs.data);
                        assert!(worst < 1e-5, "{name} {key} after a training pass: {worst}");
                    }
                }
            }
        }
        assert_eq!(floats.rest(), 0);
        let what = format!("logits of {} resolutions", layout.outputs());
        parity_table::compared("network", name, &what, &format!("{furthest:.1e}")).unwrap();
    }
}

fn values(tensor: &tch::Tensor) -> Vec<f32> {
    Vec::try_from(tensor.contiguous().view(-1)).unwrap()
}

#[test]
fn what_drops_out_depends_on_its_key_alone() {
    let mut network = networks().remove(0);
    let arguments = json!({"dropout_op": "torch.nn.Dropout3d", "dropout_op_kwargs": {"p": 0.25}});
    let architecture = with(network["architecture"].take(), arguments);
    let architecture: Architecture = serde_json::from_value(architecture).unwrap();
    let layout = Layout::new(&architecture, 1, 2).unwrap();
    let weights = initial_weights(&layout, 1).unwrap();
    let unet = UNet::new(layout, &weights, tch::Device::Cpu).unwrap();
    // Samples of one batch with the same image.
    let image: Vec<f32> = (0..512).map(|i| (i as f32).sin()).collect();
    let input = tch::Tensor::from_slice(&image.repeat(4)).view([4, 1, 8, 8, 8]);
    let pass = |iteration: u64| {
        let generator = move |sample| {
            let (purpose, site) = ("dropout", "a");
            SampleKey {
                purpose,
                seed: 1,
                site,
                epoch: 0,
                iteration,
                sample,
            }
            .generator()
        };
        let mut outputs = tch::no_grad(|| {
            unet.outputs(
                &input,
                1,
                Mode::Training {
                    draws: &generator,
                    first_sample: 0,
                },
            )
        })
        .unwrap();
        outputs.remove(0)
    };
    assert_eq!(pass(1), pass(1));
    assert_ne!(pass(1), pass(2));
    let unlike = |x: tch::Tensor| (0..3).filter(|&i| x.get(i) != x.get(i + 1)).count();
    assert_eq!(unlike(pass(1)), 3);
    assert_eq!(unlike(tch::no_grad(|| unet.forward(&input)).unwrap()), 0);
}

#[test]
fn arguments_that_are_not_built_are_refused_by_name() {
    let refused = |network: usize, key: &str, value: Value| {
        let mut architecture = networks().remove(network)["architecture"].take();
        architecture["arch_kwargs"][key] = value;
        let architecture: Architecture = serde_json::from_value(architecture).unwrap();
        Layout::new(&architecture, 1, 2).unwrap_err().to_string()
    };
    for (network, key, value, said) in [
        (0, "norm_op", json!("torch.nn.InstanceNorm2d"), "InstanceNorm3d"),
        (0, "norm_op_kwargs", json!({"eps": "small"}), "norm_op_kwargs.eps"),
        (0, "norm_op_kwargs", json!({"epsilon": 1e-5}), "epsilon"),
        (0, "nonlin", json!("torch.nn.PReLU"), "PReLU"),
        (
            0,
            "nonlin_kwargs",
            json!({"negative_slope": null}),
            "negative_slope",
        ),
        (0, "dropout_op", json!("torch.nn.Dropout3d"), "dropout_op_kwargs"),
        (0, "nonlin_first", json!(1), "nonlin_first"),
        (3, "norm_op", json!(null), "affine"),
        (3, "norm_op_kwargs", json!({}), "affine"),
        (3, "nonlin_first", json!(true), "nonlin_first"),
        (3, "block", json!("...BottleneckD"), "block"),
    ] {
        let message = refused(network, key, value);
        assert!(message.contains(said), "{key}: {message}");
    }
}

pub fn read_weights(floats: &mut Floats, layout: &Layout) -> StateDict {
    let mut weights = StateDict::new();
    for parameter in layout.parameters() {
        let values = floats.take(parameter.shape.iter().product());
        weights
            .insert(
                &parameter.name,
                Tensor32::new(parameter.shape.clone(), values).unwrap(),
            )
            .unwrap();
    }
    weights
}

pub fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, |worst, d| if d > worst || d.is_nan() { d } else { worst })
}
