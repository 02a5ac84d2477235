//! A trained model, opened to predict.

use std::path::{Path, PathBuf};

use ndarray::{Array3, Array4, ArrayView4, Axis, s};
use schemas::{
    job::{Device, FoldId},
    nnunet::{Configuration, DatasetJson, Plans},
};

use super::{Export, Logits, Settings, SlidingWindow};
use crate::{
    Error, Result,
    checkpoint::results::ModelFolder,
    dataset::check_numbers,
    device,
    image::Reader,
    network::{Layout, StateDict, UNet},
    preprocess::{self, CaseProperties, PreprocessedCase},
    progress::Observer,
    train::network_of,
};

/// A trained model: the networks of its folds, and what the plans say of preprocessing and export.
pub struct Predictor {
    pub(super) networks: Vec<UNet>,
    pub(super) model: Model,
}

/// What a model is beside its weights.
#[derive(Clone, Debug)]
pub struct ModelSettings {
    /// The plans.
    pub plans: Plans,
    /// The name of the configuration in the plans.
    pub configuration_name: String,
    /// The data set's descriptor.
    pub dataset_json: DatasetJson,
    /// The trainer.
    pub trainer_name: String,
    /// The axes over which predictions may be mirrored; None for none.
    pub mirror_axes: Option<Vec<usize>>,
}

/// The part of a model that all threads may look at.
pub(super) struct Model {
    pub plans: Plans,
    pub configuration_name: String,
    pub configuration: Configuration,
    pub dataset: DatasetJson,
    pub reader: Reader,
    pub trainer: String,
    pub folds: Vec<FoldId>,
    pub layout: Layout,
    pub window: SlidingWindow,
    /// Where a cascade finds the segmentations of its previous stage.
    pub previous_stage: Option<PathBuf>,
}

impl Predictor {
    /// Opens the model in `folder` (`Trainer__Plans__Configuration`) with the weights `checkpoint_name` of `folds`;
    /// of every fold but `all` where `folds` is empty, as nnU-Net chooses. Logits of several folds are averaged.
    ///
    /// Any trainer will do whose weights are those of the network that the plans describe.
    ///
    /// # Errors
    /// No such fold (the error lists what there is), another network, a reader or a device that is not there.
    pub fn open(
        folder: &Path,
        folds: &[FoldId],
        checkpoint_name: &str,
        device: Device,
        settings: Settings,
    ) -> Result<Predictor> {
        let model = ModelFolder::open(folder)?;
        let folds = match folds {
            [] => model
                .folds(checkpoint_name)?
                .into_iter()
                .filter(|f| *f != FoldId::All)
                .collect(),
            folds => folds.to_vec(),
        };
        let Some(&first) = folds.first() else {
            return Err(Error::bad_file(
                folder,
                format!("no fold has a {checkpoint_name}"),
            ));
        };
        let checkpoint = model.checkpoint(first, checkpoint_name)?;
        let configuration_name = checkpoint.configuration()?.to_owned();
        let trainer = checkpoint.trainer_name()?.to_owned();
        let mirror_axes = checkpoint.mirror_axes()?;
        let bad = |e: &dyn std::fmt::Display| Error::bad_file(folder, e);
        let dataset = match &model.dataset_json {
            serde_json::Value::Object(document) => DatasetJson::from_document(document.clone())
                .map_err(|e| bad(&format!("dataset.json: {e}")))?,
            _ => return Err(bad(&"dataset.json: no object")),
        };
        let mut predictor = Predictor::without_weights(
            ModelSettings {
                plans: model.plans.clone(),
                configuration_name,
                dataset_json: dataset,
                trainer_name: trainer,
                mirror_axes,
            },
            settings,
        )?;
        for &fold in &folds {
            let checkpoint = model.checkpoint(fold, checkpoint_name)?;
            let weights = checkpoint.weights(&predictor.model.layout).map_err(|e| {
                let trainer = &predictor.model.trainer;
                bad(&format!(
                    "fold {fold} of trainer {trainer}, held against the network of its plans: {e}"
                ))
            })?;
            predictor.add(fold, &weights, device)?;
        }
        Ok(predictor)
    }

    /// A model whose weights are in memory, such as those of a training that just ended.
    ///
    /// # Errors
    /// Weights of another network, a reader or a device that is not there.
    pub fn of_weights(
        model: ModelSettings,
        fold: FoldId,
        weights: &StateDict,
        device: Device,
        settings: Settings,
    ) -> Result<Predictor> {
        let mut predictor = Predictor::without_weights(model, settings)?;
        predictor.add(fold, weights, device)?;
        Ok(predictor)
    }

    fn without_weights(model: ModelSettings, settings: Settings) -> Result<Predictor> {
        let ModelSettings {
            plans,
            configuration_name,
            dataset_json,
            trainer_name,
            mirror_axes,
        } = model;
        let configuration = plans
            .configuration(&configuration_name)
            .map_err(|e| Error::invalid(format!("plans: {}", e.path), e.reason))?;
        // A cascade sees every foreground label of its previous stage as a channel.
        let more = match configuration.previous_stage {
            Some(_) => dataset_json.foreground_labels().len(),
            None => 0,
        };
        let (channels, heads) = (dataset_json.channels() + more, dataset_json.segmentation_heads());
        let architecture = network_of(&trainer_name, &configuration.architecture);
        let layout = Layout::new(&architecture, channels, heads)?;
        let mirror_axes = mirror_axes.filter(|_| settings.use_mirroring).unwrap_or_default();
        let window = SlidingWindow {
            patch: configuration.patch_size.clone(),
            mirror_axes,
            settings,
        };
        let reader = Reader::by_name(&plans.image_reader_writer)?;
        let model = Model {
            plans,
            configuration_name,
            configuration,
            dataset: dataset_json,
            reader,
            trainer: trainer_name,
            folds: Vec::new(),
            layout,
            window,
            previous_stage: None,
        };
        Ok(Predictor {
            networks: Vec::new(),
            model,
        })
    }

    fn add(&mut self, fold: FoldId, weights: &StateDict, device: Device) -> Result<()> {
        let network = UNet::new(self.model.layout.clone(), weights, device::open(device)?)?;
        self.networks.push(
            network
                .in_bfloat16(self.model.window.settings.bfloat16)
                .for_inference(&self.model.window.patch)?,
        );
        self.model.folds.push(fold);
        Ok(())
    }

    /// Reads and writes with `reader` in place of the plans', for a site whose files are of another kind.
    pub fn with_reader(mut self, reader: Reader) -> Predictor {
        self.model.reader = reader;
        self
    }

    /// Takes the segmentations of a cascade's previous stage from `folder`: IDENTIFIER with the data set's file ending.
    ///
    /// # Errors
    /// Where the model is no cascade.
    pub fn with_previous_stage(mut self, folder: &Path) -> Result<Predictor> {
        if self.previous_stage().is_none() {
            let reason = format!(
                "{} has no previous stage: it takes no predictions of one",
                self.configuration()
            );
            return Err(Error::invalid("configuration", reason));
        }
        self.model.previous_stage = Some(folder.to_owned());
        Ok(self)
    }

    /// The configuration whose segmentations a cascade needs.
    pub fn previous_stage(&self) -> Option<&str> {
        self.model.configuration.previous_stage.as_deref()
    }

    /// The model's dataset.json.
    pub fn dataset_json(&self) -> &DatasetJson {
        &self.model.dataset
    }

    /// The model's plans.
    pub fn plans(&self) -> &Plans {
        &self.model.plans
    }

    /// The name of the configuration.
    pub fn configuration(&self) -> &str {
        &self.model.configuration_name
    }

    /// The trainer that made the model.
    pub fn trainer_name(&self) -> &str {
        &self.model.trainer
    }

    /// The folds whose logits are averaged.
    pub fn folds(&self) -> &[FoldId] {
        &self.model.folds
    }

    /// The logits of preprocessed data (c, z, y, x).
    pub fn logits(&self, data: ArrayView4<f32>, observer: &dyn Observer) -> Result<Logits> {
        self.model.window.logits(&self.networks, data, observer)
    }

    /// The segmentation (z, y, x) of a scan, one file per channel.
    ///
    /// # Errors
    /// Files that cannot be read, or a cascade, whose cases need names.
    pub fn predict(&self, images: &[PathBuf], observer: &dyn Observer) -> Result<Array3<u16>> {
        let case = self.model.prepare(images, None)?;
        let logits = self.logits(case.data.view(), observer)?;
        self.model.segmentation(&logits, &case.properties)
    }

    /// Predicts a scan and writes its segmentation to `output`, in the scan's geometry.
    pub fn predict_case(&self, images: &[PathBuf], output: &Path, observer: &dyn Observer) -> Result<()> {
        let case = self.model.prepare(images, None)?;
        let logits = self.logits(case.data.view(), observer)?;
        let labels = self.model.segmentation(&logits, &case.properties)?;
        self.model
            .reader
            .write_segmentation(labels.view(), &case.properties.geometry, output)
    }
}

impl Model {
    /// The file with a cascade's previous segmentation of a case.
    pub fn previous_file(&self, identifier: &str) -> Option<PathBuf> {
        let ending = self.dataset.file_ending();
        let folder = self.previous_stage.as_ref()?;
        Some(folder.join(format!("{identifier}{ending}")))
    }

    /// A cascade cannot do without its previous stage, here a file or a folder.
    pub fn check_previous_stage(&self, given: Option<&Path>) -> Result<()> {
        match (&self.configuration.previous_stage, given) {
            (Some(stage), None) => {
                let reason = format!(
                    "{} is a cascade: it needs segmentations of {stage}",
                    self.configuration_name
                );
                Err(Error::invalid("configuration", reason))
            }
            _ => Ok(()),
        }
    }

    /// Reads and preprocesses a scan, for a cascade with the segmentation of its previous stage.
    pub fn prepare(&self, images: &[PathBuf], previous: Option<&Path>) -> Result<PreprocessedCase> {
        self.check_previous_stage(previous)?;
        let image = self.reader.read_images(images)?;
        check_numbers(&image, images)?;
        let previous = previous
            .map(|file| self.reader.read_segmentation(file))
            .transpose()?;
        let mut case = preprocess::preprocess_case(
            &image,
            previous.as_ref(),
            &self.plans,
            &self.configuration,
            &self.dataset,
        )?;
        if previous.is_some() {
            case.properties.class_locations.clear();
            case.data = with_labels(&case, &self.dataset.foreground_labels());
        }
        Ok(case)
    }

    pub fn segmentation(&self, logits: &Logits, properties: &CaseProperties) -> Result<Array3<u16>> {
        self.export().segmentation(logits, properties)
    }

    pub fn export(&self) -> Export<'_> {
        Export {
            plans: &self.plans,
            configuration: &self.configuration,
            dataset: &self.dataset,
        }
    }
}

/// A case's channels, and a channel of zeros and ones for each of `labels` in its segmentation.
fn with_labels(case: &PreprocessedCase, labels: &[u16]) -> Array4<f32> {
    let (channels, z, y, x) = case.data.dim();
    let mut data = Array4::zeros((channels + labels.len(), z, y, x));
    data.slice_mut(s![..channels, .., .., ..]).assign(&case.data);
    let seg = case.seg.index_axis(Axis(0), 0);
    for (mut channel, &label) in data.outer_iter_mut().skip(channels).zip(labels) {
        channel.zip_mut_with(&seg, |out, &found| {
            *out = f32::from(u8::from(i32::from(found) == i32::from(label)));
        });
    }
    data
}
