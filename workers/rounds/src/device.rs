//! Which devices this build and this machine have.

use anyhow::bail;
use schemas::job::Device;

/// Fails with a sentence where `device` cannot be used here.
pub fn check_present(device: Device) -> anyhow::Result<()> {
    match device {
        Device::Cpu => Ok(()),
        #[cfg(feature = "torch")]
        Device::Cuda if !nnunet::device::cuda_built() => {
            bail!("devices: cuda: this build has the CPU libtorch; `just setup-cuda` makes the CUDA build")
        }
        #[cfg(feature = "torch")]
        Device::Cuda if nnunet::device::cuda_count() == 0 => {
            bail!("devices: cuda: libtorch finds no CUDA device on this machine")
        }
        #[cfg(feature = "torch")]
        Device::Cuda => Ok(()),
        #[cfg(feature = "torch")]
        Device::Mps if nnunet::device::mps_present() => Ok(()),
        _ => bail!("devices: {}: not available in this build", device.as_str()),
    }
}
