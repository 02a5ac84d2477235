//! Whether a device has the memory that a training needs, before it starts.

use std::{env, fs};

use nnunet::{network::Layout, train::TrainerVariant};
use schemas::{job::Device, nnunet::Configuration};

use crate::byte_size::ByteSize;

/// What a training iteration needs of a device.
pub struct Need<'a> {
    /// The trainer.
    pub variant: &'a TrainerVariant,
    /// The configuration of the plans.
    pub configuration: &'a Configuration,
    /// The network that the trainer builds.
    pub layout: &'a Layout,
    /// Where it trains.
    pub device: Device,
    /// Whether the network computes in bfloat16.
    pub bfloat16: bool,
    /// Samples that the network sees at once; None: the whole batch.
    pub micro_batch: Option<usize>,
}

impl Need<'_> {
    /// Fails with a sentence where `memory` bytes are too few, saying which micro-batch would do.
    pub fn check(&self, memory: Option<u64>) -> Result<(), String> {
        let Some(memory) = memory else {
            return Ok(());
        };
        let samples = self.samples();
        let needed = self.bytes(samples);
        if needed <= memory {
            return Ok(());
        }
        let fitting = (1..samples).rev().find(|&samples| self.bytes(samples) <= memory);
        let way_out = match fitting {
            Some(_) if self.layout.couples_samples() => {
                "batch norm cannot be split into micro-batches".to_owned()
            }
            Some(samples) => format!(
                "micro_batch = {samples} in the site's settings (--micro-batch of rounds nnunet train) would need {}",
                ByteSize(self.bytes(samples))
            ),
            None => format!("a micro_batch of 1 would still need {}", ByteSize(self.bytes(1))),
        };
        Err(format!(
            "training {} samples at a time needs about {} of memory, {} has {} free; {way_out}",
            samples,
            ByteSize(needed),
            self.device.as_str(),
            ByteSize(memory),
        ))
    }

    /// About how many bytes an iteration takes.
    pub fn needed(&self) -> u64 {
        self.bytes(self.samples())
    }

    /// Samples that the network sees at once.
    fn samples(&self) -> usize {
        let batch = self.variant.batch_size_of(self.configuration);
        self.micro_batch.unwrap_or(batch).min(batch)
    }

    fn bytes(&self, samples: usize) -> u64 {
        let weights = self.variant.loss_weights(self.layout.outputs());
        let outputs = weights.iter().filter(|&&weight| weight > 0.0).count();
        let value = if self.bfloat16 || self.device == Device::Cuda {
            2
        } else {
            4
        };
        self.layout.training_bytes(
            &self.configuration.patch_size,
            outputs,
            (samples, self.variant.batch_size_of(self.configuration)),
            value,
            self.variant.optimiser.memory().len(),
        )
    }
}

/// Bytes that a training on `device` may take; None where nobody says, as among unlike accelerators that are counted by
/// their speed. Of a CUDA device it is all of its memory: what libtorch keeps from an earlier task of this process looks
/// taken, and is not.
pub fn of_device(device: Device) -> Option<u64> {
    match device {
        Device::Cpu => available(&fs::read_to_string("/proc/meminfo").ok()?)
            .map(|bytes| bytes.min(control_group().unwrap_or(u64::MAX))),
        Device::Cuda => of_accelerator(&accelerator(
            &env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default(),
            &env::var("CUDA_DEVICE_ORDER").unwrap_or_default(),
        )?),
        Device::Mps => None,
    }
}

/// The accelerator that CUDA counts as the first, in the driver's words.
#[derive(Debug, PartialEq)]
enum Accelerator<'a> {
    Uuid(&'a str),
    /// By its place on the bus.
    Index(u32),
    /// By its speed: which one that is only CUDA knows.
    Rank,
}

/// What CUDA takes from its [environment](https://docs.nvidia.com/cuda/cuda-c-programming-guide/#env-vars). None: no
/// accelerator.
fn accelerator<'a>(visible: &'a str, order: &str) -> Option<Accelerator<'a>> {
    let first = visible.split(',').next().unwrap_or_default().trim();
    if first.starts_with("GPU-") || first.starts_with("MIG-") {
        return Some(Accelerator::Uuid(first));
    }
    let index = if first.is_empty() { 0 } else { first.parse().ok()? };
    Some(match order {
        "PCI_BUS_ID" => Accelerator::Index(index),
        _ => Accelerator::Rank,
    })
}

/// All memory of an accelerator.
fn of_accelerator(accelerator: &Accelerator) -> Option<u64> {
    let driver = nvml_wrapper::Nvml::init().ok()?;
    let total = |device: nvml_wrapper::Device| Some(device.memory_info().ok()?.total);
    match *accelerator {
        Accelerator::Uuid(uuid) => total(driver.device_by_uuid(uuid).ok()?),
        Accelerator::Index(index) => total(driver.device_by_index(index).ok()?),
        Accelerator::Rank => {
            let mut all = (0..driver.device_count().ok()?).map(|i| total(driver.device_by_index(i).ok()?));
            let first = all.next()?;
            first.filter(|_| all.all(|other| other == first))
        }
    }
}

/// What the container that this runs in has left (cgroup v2).
fn control_group() -> Option<u64> {
    let number = |file: &str| -> Option<u64> {
        fs::read_to_string(format!("/sys/fs/cgroup/{file}"))
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    Some(number("memory.max")?.saturating_sub(number("memory.current")?))
}

fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim()
        .strip_suffix(" kB")?
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use nnunet::train::network_of;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_system_says_is_read() {
        let meminfo = "MemTotal:       24683520 kB\nMemAvailable:    1000 kB\nBuffers: 1 kB\n";
        assert_eq!(available(meminfo), Some(1_024_000));
        assert_eq!(available("MemTotal: 1 kB\n"), None);
        #[cfg(target_os = "linux")]
        assert!(of_device(Device::Cpu).is_some_and(|bytes| bytes > 1 << 20));
    }

    #[test]
    fn the_accelerator_is_the_one_that_cuda_sees_first() {
        assert_eq!(accelerator("", ""), Some(Accelerator::Rank));
        assert_eq!(accelerator("2,3", "FASTEST_FIRST"), Some(Accelerator::Rank));
        assert_eq!(accelerator("", "PCI_BUS_ID"), Some(Accelerator::Index(0)));
        assert_eq!(accelerator(" 2,3", "PCI_BUS_ID"), Some(Accelerator::Index(2)));
        assert_eq!(
            accelerator("GPU-8932f937-d72c,1", ""),
            Some(Accelerator::Uuid("GPU-8932f937-d72c"))
        );
        assert_eq!(accelerator("-1", "PCI_BUS_ID"), None);
    }

    #[test]
    fn too_little_memory_is_said_with_what_would_fit() {
        let configuration: Configuration = serde_json::from_value(json!({
            "data_identifier": "x", "batch_size": 4, "patch_size": [64, 64], "spacing": [1.0, 1.0],
            "normalization_schemes": ["ZScoreNormalization"], "use_mask_for_norm": [false], "batch_dice": true,
            "resampling_fn_data": "", "resampling_fn_seg": "", "resampling_fn_probabilities": "",
            "resampling_fn_data_kwargs": {}, "resampling_fn_seg_kwargs": {}, "resampling_fn_probabilities_kwargs": {},
            "architecture": {
                "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                "arch_kwargs": {
                    "n_stages": 2, "features_per_stage": [32, 64], "conv_op": "torch.nn.modules.conv.Conv2d",
                    "kernel_sizes": [[3, 3], [3, 3]], "strides": [[1, 1], [2, 2]], "n_conv_per_stage": [2, 2],
                    "n_conv_per_stage_decoder": [2], "conv_bias": true,
                    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
                    "norm_op_kwargs": {"eps": 1e-5, "affine": true}, "dropout_op": null, "dropout_op_kwargs": null,
                    "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": true}
                },
                "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"]
            },
        }))
        .unwrap();
        let check = |trainer: &str, micro_batch, memory| {
            let variant = TrainerVariant::by_name(trainer).unwrap();
            let architecture = network_of(trainer, &configuration.architecture);
            let need = Need {
                variant,
                configuration: &configuration,
                layout: &Layout::new(&architecture, 1, 3).unwrap(),
                device: Device::Cpu,
                bfloat16: false,
                micro_batch,
            };
            (need.check(memory), [1, 2, 4].map(|samples| need.bytes(samples)))
        };
        let trainer = "nnUNetTrainer";
        let (_, [one, two, four]) = check(trainer, None, None);
        assert!(one < two && two < four);
        check(trainer, None, None).0.unwrap();
        check(trainer, None, Some(four)).0.unwrap();
        check(trainer, Some(2), Some(two)).0.unwrap();
        let error = check(trainer, None, Some(two)).0.unwrap_err();
        assert!(
            error.contains("4 samples") && error.contains("micro_batch = 2"),
            "{error}"
        );
        assert!(error.contains(&ByteSize(four).to_string()), "{error}");
        let error = check(trainer, Some(2), Some(one - 1)).0.unwrap_err();
        assert!(error.contains("a micro_batch of 1 would still need"), "{error}");
        let error = check("nnUNetTrainerBN", None, Some(two)).0.unwrap_err();
        assert!(error.contains("batch norm cannot be split"), "{error}");
    }
}
