//! `rounds sites`: who offers which data.

use clap::Args;

use super::Server;

/// List the sites and their data sets
#[derive(Args)]
pub struct Sites {
    #[command(flatten)]
    server: Server,
}

impl Sites {
    /// One line a data set.
    pub async fn run(self) -> anyhow::Result<()> {
        let sites = self.server.client().await?.sites().await?;
        println!(
            "{:<16} {:<32} {:>10} {:>6} {:<10} ANNOUNCED",
            "SITE", "DATA SET", "DATASET_ID", "CASES", "DEVICES"
        );
        for site in sites {
            let devices: Vec<&str> = site.devices.iter().map(|device| device.as_str()).collect();
            for dataset in &site.datasets {
                println!(
                    "{:<16} {:<32} {:>10} {:>6} {:<10} {}",
                    site.site,
                    dataset.id,
                    dataset.dataset_id,
                    dataset.cases,
                    devices.join(","),
                    site.time
                );
            }
        }
        Ok(())
    }
}
