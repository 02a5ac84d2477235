//! `rounds demo`: the main job, start to end, on one machine.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use clap::Args;
use pipeline::{client::Client, connection::Connection, metrics::Metrics, server::Server};
use schemas::{
    job::{Device, JobMessage, ModelConfiguration},
    nnunet::DatasetJson,
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{demo_data, download, overlay, submit, up::Up, watch};
use crate::{parts, settings, site::Site};

/// Rounds and iterations of the demo as it is; a shorter one shows that all runs, not that it learns.
const ROUNDS: u32 = 8;
const ITERATIONS: u32 = 8;
/// The mean foreground Dice under which a demo of at least that length counts as failed.
const PASSING_DICE: f64 = 0.5;

/// Cut a federation of three sites out of the MNI brain, train on it, segment with the result
#[derive(Args)]
pub struct Demo {
    /// Your own sites in place of the MNI brain: one nnU-Net raw data set (DatasetXYZ_name) each
    folders: Vec<PathBuf>,
    /// The folder for everything that is kept
    #[arg(long, env = "ROUNDS_HOME", default_value = ".rounds")]
    home: PathBuf,
    /// The MNI template's files, as `just setup` fetches them
    #[arg(long, default_value = ".tools/mni")]
    mni: PathBuf,
    /// Rounds to train
    #[arg(long, default_value_t = ROUNDS)]
    rounds: u32,
    /// Iterations of a local epoch
    #[arg(long, default_value_t = ITERATIONS)]
    iterations: u32,
    /// 2d, 3d_lowres or 3d_fullres
    #[arg(long, default_value = "3d_fullres")]
    configuration: String,
    /// cpu, cuda or mps
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// The nats-server program
    #[arg(long, env = "ROUNDS_NATS_SERVER", default_value = "nats-server")]
    nats_server: PathBuf,
    /// Where /metrics is served
    #[arg(long)]
    metrics: Option<String>,
}

/// A site of the demo: its name and its raw data set.
type NamedFolder = (String, PathBuf);

impl Demo {
    /// Runs both jobs and prints what came of them.
    pub fn run(self) -> anyhow::Result<()> {
        let begun = Instant::now();
        let configuration: ModelConfiguration = serde_json::from_value(json!(self.configuration))
            .with_context(|| format!("--configuration {:?}", self.configuration))?;
        let folders = self.site_folders()?;
        let dataset_id = settings::folder_id(&name_of(&folders[0].1))?;
        let up = Up {
            home: self.home.clone(),
            sites: folders
                .iter()
                .map(|(site, folder)| format!("{site}={}", folder.display()))
                .collect(),
            dataset_id: Some(dataset_id),
            devices: vec![self.device],
            models: Vec::new(),
            nats_server: self.nats_server.clone(),
            port: None,
            metrics: self.metrics.clone(),
        };
        let (server, sites) = up.prepare()?;
        super::on_runtime(async {
            let stop = CancellationToken::new();
            super::stop_on_signal(stop.clone());
            let mut working = std::pin::pin!(up.work(&server, sites.clone(), stop.clone(), || ()));
            let jobs = self.jobs(&server, &sites, &folders, dataset_id, configuration, begun);
            let done = tokio::select! {
                worked = &mut working => return worked.and_then(|()| bail!("interrupted")),
                done = jobs => done,
            };
            stop.cancel();
            done.and(working.await)
        })
    }

    fn site_folders(&self) -> anyhow::Result<Vec<NamedFolder>> {
        if !self.folders.is_empty() {
            ensure!(
                self.folders.len() <= 26,
                "{} folders: expected at most 26",
                self.folders.len()
            );
            return Ok(('a'..='z')
                .map(|letter| format!("site-{letter}"))
                .zip(self.folders.clone())
                .collect());
        }
        eprintln!(
            "cutting three sites out of the MNI brain in {}",
            self.mni.display()
        );
        let sites = demo_data::cut(&self.mni, &self.home.join("demo"))?;
        for site in &sites {
            eprintln!(
                "  {}: {} training cases, {} to segment",
                site.site, site.training, site.test
            );
        }
        Ok(sites.into_iter().map(|site| (site.site, site.folder)).collect())
    }

    async fn jobs(
        &self,
        server: &Server,
        sites: &[Arc<Site>],
        folders: &[NamedFolder],
        dataset_id: u32,
        configuration: ModelConfiguration,
        begun: Instant,
    ) -> anyhow::Result<()> {
        let connection = Connection::open(&server.access(), "demo", parts::PATIENCE, &Metrics::new()).await?;
        let client = Client::new(connection);
        announced(&client, sites).await?;
        let datasets: Vec<&str> = folders.iter().map(|(site, _)| site.as_str()).collect();

        let job = self
            .submit(
                &client,
                json!({
                    "datasets": datasets,
                    "payload": {
                        "mode": "training",
                        "num_rounds": self.rounds,
                        "dataset_id": dataset_id,
                        "model_configuration": configuration,
                        "device": self.device,
                    },
                    "federation": {
                        "name": "Demo",
                        "iterations_per_epoch": self.iterations,
                        "val_iterations_per_epoch": 4,
                    },
                }),
            )
            .await?;
        let trained = watch::follow(&client, &job).await?;
        let output = self.home.join("results").join(&job);
        let model = download::fetch(&client, &trained, &output).await?;

        let inference = self
            .submit(
                &client,
                json!({
                    "datasets": datasets,
                    "payload": {
                        "mode": "inference",
                        "checkpoint_path": format!("job:{job}"),
                        "fold_id": "all",
                        "device": self.device,
                    },
                }),
            )
            .await?;
        let segmented = watch::follow(&client, &inference).await?;
        let zips = download::fetch(&client, &segmented, &output).await?;

        println!();
        for made in &segmented.segmentations {
            println!(
                "{}: {} segmented, {} failed",
                made.site,
                made.cases,
                made.failures.len()
            );
        }
        for model in &model {
            println!(
                "checkpoint:    {}",
                model.join("fold_all/checkpoint_final.pth").display()
            );
            println!("progress:      {}", model.join("fold_all/progress.png").display());
        }
        for zip in &zips {
            println!("segmentations: {}", zip.display());
        }
        if let (Some(zip), Some(made)) = (zips.first(), segmented.segmentations.first())
            && let Some(folder) = folders.iter().find(|(site, _)| *site == made.site)
        {
            println!("picture:       {}", picture(zip, folder, &output)?.display());
        }
        println!("took {:.0} s", begun.elapsed().as_secs_f64());
        let dice = trained
            .history
            .scores
            .last()
            .and_then(|score| score.mean_dice)
            .unwrap_or(0.0);
        let long = self.rounds >= ROUNDS && self.iterations >= ITERATIONS;
        if self.folders.is_empty() && long && dice < PASSING_DICE {
            bail!("the final foreground Dice is {dice:.4}, expected at least {PASSING_DICE}");
        }
        Ok(())
    }

    async fn submit(&self, client: &Client, message: serde_json::Value) -> anyhow::Result<String> {
        let text = serde_json::to_string_pretty(&message)?;
        eprintln!("\nrounds submit <<< {text}");
        let message = JobMessage::parse(text.as_bytes(), None)?;
        let job = submit::submit(client, &message).await?;
        eprintln!("{job}");
        Ok(job)
    }
}

fn name_of(folder: &Path) -> String {
    folder
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Waits until all sites are known.
async fn announced(client: &Client, sites: &[Arc<Site>]) -> anyhow::Result<()> {
    loop {
        let known = client.sites().await.unwrap_or_default();
        if sites
            .iter()
            .all(|site| known.iter().any(|known| known.site == site.settings.site))
        {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Draws the first segmentation of a zip over its scan, with the contour of its reference where there is one.
fn picture(zip: &Path, (_, folder): &NamedFolder, output: &Path) -> anyhow::Result<PathBuf> {
    let unpacked = tempfile::tempdir_in(output)?;
    crate::phases::model::unpack(zip, unpacked.path())
        .map_err(|failure| anyhow::anyhow!("{}", failure.message))?;
    let document = std::fs::read_to_string(folder.join("dataset.json"))?;
    let document = DatasetJson::parse(&document)?;
    let ending = document.file_ending();
    let mut segmentations: Vec<PathBuf> = Vec::new();
    for dataset in std::fs::read_dir(unpacked.path())? {
        for file in std::fs::read_dir(dataset?.path())? {
            let file = file?.path();
            if name_of(&file).ends_with(ending) {
                segmentations.push(file);
            }
        }
    }
    segmentations.sort();
    let segmentation = segmentations.first().context("the zip holds no segmentation")?;
    let name = name_of(segmentation);
    let identifier = name.strip_suffix(ending).unwrap_or(&name);
    let scans = if folder.join("imagesTs").is_dir() {
        "Ts"
    } else {
        "Tr"
    };
    let scan = folder
        .join(format!("images{scans}"))
        .join(format!("{identifier}_0000{ending}"));
    let reference = folder.join(format!("labels{scans}")).join(&name);
    let picture = output.join(format!("{identifier}.png"));
    overlay::draw(
        &scan,
        segmentation,
        reference.exists().then_some(&*reference),
        &picture,
    )?;
    Ok(picture)
}
