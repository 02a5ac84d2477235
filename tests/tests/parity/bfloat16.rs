//! Every kind of network that is compared with Python's, computing in bfloat16.

use nnunet::{
    network::{Layout, Mode, UNet, initial_weights},
    train::augment::random::SampleKey,
};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::network::{Numbers, networks};

#[test]
fn every_network_computes_in_bfloat16() {
    for network in networks() {
        let name = network["name"].as_str().unwrap();
        let number = |key: &str| network[key].as_u64().unwrap() as usize;
        let architecture = serde_json::from_value(network["architecture"].clone()).unwrap();
        let layout = Layout::new(&architecture, number("channels"), number("heads")).unwrap();
        let weights = initial_weights(&layout, 7).unwrap();
        let sizes = network["shape"].as_array().unwrap().iter();
        let shape: Vec<i64> = sizes.filter_map(Value::as_i64).collect();
        let mut numbers = Numbers(3);
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| numbers.float()).collect();
        let input = Tensor::from_slice(&values).view(&shape[..]);

        // The logits of training, of inference, and the gradients of the former.
        let passes = |on: bool| {
            let unet = UNet::new(layout.clone(), &weights, Device::Cpu).unwrap();
            let unet = unet.in_bfloat16(on);
            let draws = |sample| {
                let (purpose, seed, site, epoch, iteration) = ("dropout", 1, "a", 0, 0);
                SampleKey {
                    purpose,
                    seed,
                    site,
                    epoch,
                    iteration,
                    sample,
                }
                .generator()
            };
            let mode = Mode::Training {
                draws: &draws,
                first_sample: 0,
            };
            let logits = unet.outputs(&input, 1, mode).unwrap().remove(0);
            let parameters = unet.parameters().iter().zip(unet.used(1));
            let used: Vec<&Tensor> = parameters.filter_map(|(p, used)| used.then_some(p)).collect();
            let sum = logits.square().mean(Kind::Float);
            let mut tensors = Tensor::f_run_backward(&[sum], &used, false, false).unwrap();
            tensors.push(logits.detach());
            let patch: Vec<usize> = shape[2..].iter().map(|&n| n as usize).collect();
            let unet = unet.for_inference(&patch).unwrap();
            tensors.push(tch::no_grad(|| unet.forward(&input)).unwrap());
            tensors
        };
        let (exact, near) = (passes(false), passes(true));
        assert!(near.iter().all(|tensor| tensor.kind() == Kind::Float), "{name}");
        let size = |of: &[Tensor]| -> f64 {
            let squares = of.iter().map(|t| t.square().sum(Kind::Double).double_value(&[]));
            squares.sum::<f64>().sqrt()
        };
        let apart = |range: std::ops::Range<usize>| {
            let differences: Vec<Tensor> = range.clone().map(|i| &near[i] - &exact[i]).collect();
            size(&differences) / size(&exact[range])
        };
        let gradients = exact.len() - 2;
        let (of_gradients, of_logits) = (apart(0..gradients), apart(gradients..exact.len()));
        println!("{name}: logits apart by {of_logits:.4}, gradients by {of_gradients:.4}");
        // 8 bits, and the errors of layers are independent.
        assert!(of_logits > 0.0 && of_logits < 0.1, "{name}: {of_logits}");
        assert!(
            of_gradients > 0.0 && of_gradients < 0.25,
            "{name}: {of_gradients}"
        );
    }
}
