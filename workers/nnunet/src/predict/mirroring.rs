//! The prediction for a tile: the mean over mirrored inputs, on the processor two batches of them at once.

use std::{sync::mpsc::sync_channel, thread};

use tch::{Device, Tensor};

use super::mirror_combinations;
use crate::{Error, Result, network::UNet};

/// How a tile is mirrored.
pub(super) struct Mirroring {
    /// Sets of axes of the patch, the empty one first.
    combinations: Vec<Vec<usize>>,
    device: Device,
    threads: i32,
}

impl Mirroring {
    /// Over all subsets of `axes` of the patch, on so many threads where the device is the processor.
    pub fn new(axes: &[usize], device: Device, threads: i32) -> Self {
        let mut combinations = mirror_combinations(axes);
        combinations.insert(0, Vec::new());
        Self {
            combinations,
            device,
            threads,
        }
    }

    /// Whether threads of its own predict, and not the one that asks.
    pub fn is_on_own_threads(&self) -> bool {
        self.device == Device::Cpu && self.threads > 1 && self.combinations.len() > 1
    }

    /// The prediction for a tile (1, c, ...).
    pub fn predict(&self, network: &UNet, input: &Tensor) -> Result<Tensor> {
        let mut sum = Sum::default();
        if self.is_on_own_threads() {
            two_at_once(network, input, &self.combinations, self.threads, &mut sum)?;
        } else {
            for axes in &self.combinations {
                let one = predict_mirrored(network, input, std::slice::from_ref(axes))?;
                one.into_iter().try_for_each(|prediction| sum.add(prediction))?;
            }
        }
        sum.mean(self.combinations.len())
    }
}

/// The network's outputs for an input mirrored over each of these sets of axes of the patch, mirrored back: a batch.
fn predict_mirrored(network: &UNet, input: &Tensor, sets: &[Vec<usize>]) -> Result<Vec<Tensor>> {
    let flip = |x: &Tensor, axes: &[usize]| -> Result<Tensor> {
        let axes: Vec<i64> = axes.iter().map(|&a| a as i64 + 2).collect();
        Ok(if axes.is_empty() {
            x.shallow_clone()
        } else {
            x.f_flip(&axes)?
        })
    };
    let batch: Vec<Tensor> = sets.iter().map(|axes| flip(input, axes)).collect::<Result<_>>()?;
    let outputs = network.forward(&Tensor::f_cat(&batch, 0)?)?;
    let mirrored = |(sample, axes): (usize, &Vec<usize>)| flip(&outputs.f_narrow(0, sample as i64, 1)?, axes);
    sets.iter().enumerate().map(mirrored).collect()
}

/// Adds up predictions on the processor, two batches at once with half of the threads each: layers that are too small for
/// all threads then leave none without work. They are added in their order.
fn two_at_once(
    network: &UNet,
    input: &Tensor,
    combinations: &[Vec<usize>],
    threads: i32,
    sum: &mut Sum,
) -> Result<()> {
    const AT_ONCE: usize = 2;
    // Of one sample, libtorch has what is small convolved by code that is several times slower. More gain no more.
    const TOGETHER: usize = 2;
    thread::scope(|scope| {
        let start = |worker: usize| {
            let (made, predictions) = sync_channel(0);
            let (network, input) = (network.shared(), input.shallow_clone());
            let own = (threads + 1 - worker as i32) / AT_ONCE as i32;
            scope.spawn(move || {
                // Both are the thread's own.
                let _guard = tch::no_grad_guard();
                tch::set_num_threads(own);
                for sets in combinations.chunks(TOGETHER).skip(worker).step_by(AT_ONCE) {
                    if made.send(predict_mirrored(&network, &input, sets)).is_err() {
                        return;
                    }
                }
            });
            predictions
        };
        let workers: Vec<_> = (0..AT_ONCE).map(start).collect();
        for number in 0..combinations.len().div_ceil(TOGETHER) {
            let predictions = workers[number % AT_ONCE].recv();
            let predictions =
                predictions.map_err(|_| Error::invalid("prediction", "a thread of it died"))??;
            predictions
                .into_iter()
                .try_for_each(|prediction| sum.add(prediction))?;
        }
        Ok(())
    })
}

/// Predictions, added up.
#[derive(Default)]
struct Sum(Option<Tensor>);

impl Sum {
    fn add(&mut self, prediction: Tensor) -> Result<()> {
        self.0 = Some(match self.0.take() {
            None => prediction,
            Some(mut sum) => sum.f_add_(&prediction)?,
        });
        Ok(())
    }

    fn mean(self, count: usize) -> Result<Tensor> {
        let mut sum = self
            .0
            .ok_or_else(|| Error::invalid("prediction", "there is none"))?;
        Ok(match count {
            1 => sum,
            count => sum.f_div_scalar_(count as i64)?,
        })
    }
}
