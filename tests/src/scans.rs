//! Small raw data sets, made up: bright bodies in noise, the same bytes each time.

use std::{fs, path::Path};

use anyhow::Result;
use ndarray::Array3;
use nnunet::image::{Geometry, Reader};
use serde_json::{Map, Value};

/// What is in a made-up raw data set.
#[derive(Clone, Copy)]
pub struct Scans<'a> {
    /// `.nii.gz` or `.nii`.
    pub file_ending: &'a str,
    /// The channels' names, from channel 0.
    pub channels: &'a [&'a str],
    /// The labels' names, from label 1.
    pub labels: &'a [&'a str],
    /// Training cases.
    pub cases: usize,
    /// Decides the noise and where the bodies lie.
    pub seed: u64,
}

/// Five cases of one channel and two labels.
pub const SMALL: Scans = Scans {
    file_ending: ".nii.gz",
    channels: &["T1"],
    labels: &["shell", "core"],
    cases: 5,
    seed: 0,
};

impl Scans<'_> {
    /// Writes the data set: dataset.json, imagesTr and labelsTr.
    pub fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder.join("labelsTr"))?;
        let names = |names: &[&str]| names.iter().map(|name| Value::from(*name)).collect::<Vec<_>>();
        let channels: Map<String, Value> = names(self.channels)
            .into_iter()
            .enumerate()
            .map(|(channel, name)| (channel.to_string(), name))
            .collect();
        let mut labels = Map::from_iter([("background".to_owned(), Value::from(0))]);
        for (index, name) in self.labels.iter().enumerate() {
            labels.insert((*name).to_owned(), Value::from(index + 1));
        }
        let document = serde_json::json!({
            "channel_names": channels,
            "labels": labels,
            "numTraining": self.cases,
            "file_ending": self.file_ending,
        });
        fs::write(folder.join("dataset.json"), document.to_string())?;
        self.images(&folder.join("imagesTr"), self.cases)?;
        for case in 0..self.cases {
            let labels = bodies(self.seed, case);
            let file = folder
                .join("labelsTr")
                .join(format!("case_{case}{}", self.file_ending));
            self.volume(&labels, &file)?;
        }
        Ok(())
    }

    /// Writes the images of `cases` cases; the same case is the same scan in any folder.
    pub fn images(&self, folder: &Path, cases: usize) -> Result<()> {
        fs::create_dir_all(folder)?;
        for case in 0..cases {
            let labels = bodies(self.seed, case);
            for channel in 0..self.channels.len() {
                let mut number = 0;
                let image = labels.mapv(|label| {
                    number += 1;
                    let noise = mixed(mixed(self.seed, case as u64 * 16 + channel as u64), number) % 40;
                    100 + 80 * label + noise as u16
                });
                let name = format!("case_{case}_{channel:04}{}", self.file_ending);
                self.volume(&image, &folder.join(name))?;
            }
        }
        Ok(())
    }

    fn volume(&self, values: &Array3<u16>, file: &Path) -> Result<()> {
        // Neither centred nor upright: a segmentation must come back where its scan lies.
        let (reader, geometry) = if self.file_ending == ".nii" {
            let original_affine = [
                [-1.0, 0.0, 0.0, 5.0],
                [0.0, -1.0, 0.0, -7.0],
                [0.0, 0.0, 1.25, 9.0],
                [0.0, 0.0, 0.0, 1.0],
            ];
            (Reader::Nibabel, Geometry::Nibabel { original_affine })
        } else {
            let geometry = Geometry::SimpleItk {
                spacing: vec![1.0, 1.0, 1.25],
                origin: vec![5.0, -7.0, 9.0],
                direction: vec![1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
            };
            (Reader::SimpleItk, geometry)
        };
        reader.write_segmentation(values.view(), &geometry, file)?;
        Ok(())
    }
}

/// Labels of a case (z, y, x): a ball of label 1 around a ball of label 2.
fn bodies(seed: u64, case: usize) -> Array3<u16> {
    let draw = |what: u64, below: u64| (mixed(mixed(seed, case as u64), what) % below) as f64;
    let centre = [10.0 + draw(1, 4), 12.0 + draw(2, 8), 10.0 + draw(3, 4)];
    let radius = 6.0 + draw(4, 3);
    Array3::from_shape_fn((24, 32, 24 + 2 * (case % 2)), |(z, y, x)| {
        let squares = [z, y, x].into_iter().zip(centre);
        let distance: f64 = squares
            .map(|(at, centre)| (at as f64 - centre).powi(2))
            .sum::<f64>()
            .sqrt();
        u16::from(distance < radius) + u16::from(distance < 0.6 * radius)
    })
}

/// A number that looks drawn (splitmix64).
fn mixed(seed: u64, number: u64) -> u64 {
    let mut value = seed
        .wrapping_mul(0xA24B_AED4_963E_E407)
        .wrapping_add(number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}
