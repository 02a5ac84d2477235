//! What this build and this machine can compute on. A build without libtorch can on nothing but the processor.

use schemas::job::Device;

#[cfg(feature = "torch")]
use crate::{Error, Result};

/// Whether this build's libtorch has CUDA, whatever this machine has: libtorch's own `has_cuda` asks for a device.
pub fn cuda_built() -> bool {
    #[cfg(feature = "torch")]
    return tch::utils::has_cudart();
    #[cfg(not(feature = "torch"))]
    false
}

/// How many CUDA devices there are.
#[cfg(feature = "torch")]
pub fn cuda_count() -> i64 {
    tch::Cuda::device_count()
}

/// Whether there is a Metal device.
#[cfg(feature = "torch")]
pub fn mps_present() -> bool {
    tch::utils::has_mps()
}

/// Sets the threads of one libtorch operation. libtorch keeps the number per process and takes it over in a thread at its
/// first parallel operation.
#[cfg(feature = "torch")]
pub fn set_threads(threads: usize) {
    tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
}

/// libtorch's device for a job's. On CUDA, convolutions are chosen by their time from then on, as Python nnU-Net does
/// (run_training.py, predict_from_raw_data.py): all patches are of one size.
///
/// # Errors
/// The build or the machine lacks it.
#[cfg(feature = "torch")]
pub(crate) fn open(device: Device) -> Result<tch::Device> {
    let (present, opened) = match device {
        Device::Cpu => (true, tch::Device::Cpu),
        Device::Cuda => (tch::Cuda::is_available(), tch::Device::Cuda(0)),
        Device::Mps => (mps_present(), tch::Device::Mps),
    };
    if !present {
        let reason = format!("{} is not there, or this build cannot use it", device.as_str());
        return Err(Error::invalid("device", reason));
    }
    if device == Device::Cuda {
        tch::Cuda::cudnn_set_benchmark(true);
    }
    Ok(opened)
}

/// The fastest of `devices`: CUDA, then Metal, then the processor.
pub fn best(devices: &[Device]) -> Option<Device> {
    [Device::Cuda, Device::Mps, Device::Cpu]
        .into_iter()
        .find(|device| devices.contains(device))
}

/// The instruction set that libtorch's kernels use on this processor, as libtorch names it
/// (aten/src/ATen/native/DispatchStub.cpp). Other sets round differently.
pub fn instruction_set() -> String {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        if has!("avx512vl") && has!("avx512bw") && has!("avx512dq") && has!("fma") {
            return "AVX512".to_owned();
        }
        if has!("avx2") && has!("fma") {
            return "AVX2".to_owned();
        }
    }
    "DEFAULT".to_owned()
}
