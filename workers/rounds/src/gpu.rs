//! What NVIDIA's driver says of the accelerators, as metrics. Without the driver there are none.

use std::time::Duration;

use nvml_wrapper::{Nvml, enum_wrappers::device::TemperatureSensor, error::NvmlError};
use pipeline::metrics::Metrics;
use tokio_util::sync::CancellationToken;

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(10);

/// Looks at the accelerators every few seconds until `stop`.
pub async fn watch(metrics: Metrics, site: String, stop: CancellationToken) -> Result<(), pipeline::Error> {
    // The library is loaded at run time: a machine without it has no such accelerator.
    let driver = match Nvml::init() {
        Ok(driver) => driver,
        Err(error) => {
            tracing::debug!("no accelerator of NVIDIA: {error}");
            return Ok(());
        }
    };
    while !stop.is_cancelled() {
        if let Err(error) = look(&driver, &metrics, &site) {
            tracing::debug!("accelerators: {error}");
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
    Ok(())
}

fn look(driver: &Nvml, metrics: &Metrics, site: &str) -> Result<(), NvmlError> {
    for index in 0..driver.device_count()? {
        let device = driver.device_by_index(index)?;
        let gpu = index.to_string();
        let labels = [site, &gpu];
        let memory = device.memory_info()?;
        metrics
            .gpu_memory_used
            .with_label_values(&labels)
            .set(memory.used as f64);
        metrics
            .gpu_memory
            .with_label_values(&labels)
            .set(memory.total as f64);
        let busy = f64::from(device.utilization_rates()?.gpu) / 100.0;
        metrics.gpu_utilisation.with_label_values(&labels).set(busy);
        let degrees = f64::from(device.temperature(TemperatureSensor::Gpu)?);
        metrics.gpu_temperature.with_label_values(&labels).set(degrees);
        // Some do not say.
        if let Ok(milliwatts) = device.power_usage() {
            metrics
                .gpu_power
                .with_label_values(&labels)
                .set(f64::from(milliwatts) / 1_000.0);
        }
    }
    Ok(())
}
