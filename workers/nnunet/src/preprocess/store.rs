//! A preprocessed case on disk: `<case>.npz` with stored, aligned members `data` and `seg`, which Rounds maps
//! into memory and Python nnU-Net reads, and `<case>.pkl` with the properties for Python.
//!
//! Rounds keeps its own copy of the properties in the `.npz`, so that it never reads a pickle. What is there is
//! whole.

use std::{
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};

use memmap2::Mmap;
use ndarray::ArrayView4;
use serde::{Deserialize, Serialize};

use super::{
    case::{CaseProperties, PreprocessedCase},
    class_locations::{ClassKey, ClassLocations},
    npz::{Array, Reader, Writer, map, numbers},
    pickle::{Python, to_pickle},
    whole,
};
use crate::{
    Error, Result,
    image::Geometry,
    train::loader::{Case, Cases, ClassVoxels},
};

/// The member that holds what Rounds reads instead of the pickle.
const DESCRIPTION: &str = "rounds.json";

/// What Rounds keeps beside the voxels.
#[derive(Serialize, Deserialize)]
struct Description {
    /// What the case was made from: see [`super::preprocess_dataset`].
    key: String,
    properties: CaseProperties,
    /// Each class with the number of its voxels in the member `class_locations`.
    classes: Vec<(ClassKey, usize)>,
}

/// Writes `<identifier>.npz` and `<identifier>.pkl` into `folder`, which is made if needed. `key` says what
/// the case was made from, and is found again by [`stored_key`]. Returns the bytes written.
///
/// # Errors
/// A folder or file that cannot be written.
pub fn write_case(folder: &Path, identifier: &str, case: &PreprocessedCase, key: &str) -> Result<u64> {
    let properties = &case.properties;
    let locations: Vec<u32> = properties
        .class_locations
        .iter()
        .flat_map(|class| class.voxels.as_flattened())
        .copied()
        .collect();
    let description = Description {
        key: key.to_owned(),
        properties: properties.clone(),
        classes: properties
            .class_locations
            .iter()
            .map(|class| (class.key.clone(), class.voxels.len()))
            .collect(),
    };
    let description = serde_json::to_vec(&description).map_err(|e| Error::bad_case(identifier, e))?;
    let pickle = to_python(properties);

    // The pickle goes first: a case is there once its .npz is.
    let mut bytes = pickle.len() as u64;
    whole::write(folder, &format!("{identifier}.pkl"), |file, path| {
        file.write_all(&pickle).map_err(Error::io(path))
    })?;
    whole::write(folder, &format!("{identifier}.npz"), |file, path| {
        let (data, seg) = (case.data.as_standard_layout(), case.seg.as_standard_layout());
        let mut writer = Writer::new(file, path);
        // Arrays in standard layout are slices.
        writer.array("data", data.shape(), data.as_slice().unwrap_or_default())?;
        writer.array("seg", seg.shape(), seg.as_slice().unwrap_or_default())?;
        writer.array("class_locations", &[locations.len() / 3, 3], &locations)?;
        writer.bytes(DESCRIPTION, &description)?;
        writer.finish()?;
        bytes += path.metadata().map_err(Error::io(path))?.len();
        Ok(())
    })?;
    Ok(bytes)
}

/// nnU-Net's pickle of a case's properties.
pub(crate) fn to_python(properties: &CaseProperties) -> Vec<u8> {
    to_pickle(&python_properties(properties))
}

/// nnU-Net's `properties`, in its order.
fn python_properties(properties: &CaseProperties) -> Python<'_> {
    use Python::{Dict, Int, Int64Array, List, Str};
    let bbox = properties.bbox_used_for_cropping.iter();
    let bbox = bbox
        .map(|[lower, upper]| List(vec![Int(*lower as i64), Int(*upper as i64)]))
        .collect();
    let classes = properties.class_locations.iter().map(|class| {
        let key = match &class.key {
            ClassKey::Label(label) => Int((*label).into()),
            ClassKey::Region(labels) => Python::Tuple(labels.iter().map(|&l| Int(l.into())).collect()),
        };
        let voxels = match class.voxels.len() {
            0 => List(Vec::new()),
            // The leading 0 is the channel of the segmentation.
            n => Int64Array {
                shape: vec![n, 4],
                values: class
                    .voxels
                    .iter()
                    .flat_map(|v| [0, v[0].into(), v[1].into(), v[2].into()])
                    .collect(),
            },
        };
        (key, voxels)
    });
    let mut entries: Vec<_> = python_geometry(&properties.geometry).into_iter().collect();
    entries.extend([
        (
            Str("spacing"),
            List(properties.spacing.iter().map(|&s| Python::Float(s)).collect()),
        ),
        (
            Str("shape_before_cropping"),
            Python::ints(&properties.shape_before_cropping),
        ),
        (Str("bbox_used_for_cropping"), List(bbox)),
        (
            Str("shape_after_cropping_and_before_resampling"),
            Python::ints(&properties.shape_after_cropping_and_before_resampling),
        ),
        (Str("class_locations"), Dict(classes.collect())),
    ]);
    Dict(entries)
}

/// What nnU-Net's readers keep of a scan's geometry; nothing of a natural image or a TIFF volume.
fn python_geometry(geometry: &Geometry) -> Option<(Python<'_>, Python<'_>)> {
    use Python::{Dict, Float64Array, Str};
    let floats = Python::floats;
    let affine = |rows: &[[f64; 4]; 4]| Float64Array {
        shape: vec![4, 4],
        values: rows.as_flattened().to_vec(),
    };
    let itk = |spacing, origin, direction| {
        vec![
            (Str("spacing"), floats(spacing)),
            (Str("origin"), floats(origin)),
            (Str("direction"), floats(direction)),
        ]
    };
    let (name, entries) = match geometry {
        Geometry::SimpleItk {
            spacing,
            origin,
            direction,
        } => ("sitk_stuff", itk(spacing, origin, direction)),
        Geometry::SimpleItkReoriented {
            spacing,
            origin,
            direction,
            original_orientation,
        } => {
            let mut entries = itk(spacing, origin, direction);
            entries.push((Str("original_orientation"), Str(original_orientation)));
            ("sitk_stuff", entries)
        }
        Geometry::Nibabel { original_affine } => (
            "nibabel_stuff",
            vec![(Str("original_affine"), affine(original_affine))],
        ),
        Geometry::NibabelReoriented {
            original_affine,
            reoriented_affine,
        } => (
            "nibabel_stuff",
            vec![
                (Str("original_affine"), affine(original_affine)),
                (Str("reoriented_affine"), affine(reoriented_affine)),
            ],
        ),
        Geometry::SpacingOnly { .. } => return None,
    };
    Some((Str(name), Dict(entries)))
}

/// A stored case, mapped into memory: a patch costs the pages that it touches.
#[derive(Debug)]
pub struct MappedCase {
    map: Mmap,
    data: Array,
    seg: Array,
    key: String,
    properties: CaseProperties,
    class_voxels: Vec<ClassVoxels>,
}

impl MappedCase {
    /// Maps `<identifier>.npz` in `folder`.
    ///
    /// # Errors
    /// A file that is missing, cut short, or was not written by Rounds.
    pub fn open(folder: &Path, identifier: &str) -> Result<MappedCase> {
        let path = folder.join(format!("{identifier}.npz"));
        let map = map(&path)?;
        let mut reader = Reader::new(&map, &path)?;
        let data = reader.array::<f32>("data")?;
        let seg = reader.array::<i16>("seg")?;
        let locations = reader.array::<u32>("class_locations")?;
        let description: Description = serde_json::from_slice(reader.bytes(DESCRIPTION)?)
            .map_err(|e| Error::bad_file(&path, format!("{DESCRIPTION}: {e}")))?;
        let (d, s) = (&data.shape, &seg.shape);
        if d.len() != 4 || s.len() != 4 || s[0] != 1 || d[1..] != s[1..] {
            let reason = format!("expected data (c, z, y, x) and seg (1, z, y, x), found {d:?} and {s:?}");
            return Err(Error::bad_file(&path, reason));
        }
        let voxels = numbers::<u32>(&map[locations.bytes]).unwrap_or_default();
        let (mut voxels, odd) = voxels.as_chunks::<3>();
        let mut class_voxels = Vec::with_capacity(description.classes.len());
        for (key, count) in &description.classes {
            let Some((own, rest)) = voxels.split_at_checked(*count) else {
                return Err(Error::bad_file(
                    &path,
                    "class_locations is shorter than the classes it holds",
                ));
            };
            class_voxels.push(ClassVoxels {
                labels: key.labels().to_vec(),
                voxels: own.to_vec(),
            });
            voxels = rest;
        }
        let inside = |v: &[u32; 3]| (0..3).all(|axis| (v[axis] as usize) < s[axis + 1]);
        if !odd.is_empty() || !voxels.is_empty() || !class_voxels.iter().flat_map(|c| &c.voxels).all(inside) {
            return Err(Error::bad_file(
                &path,
                "class_locations does not fit the classes and the shape of seg",
            ));
        }
        let mut properties = description.properties;
        properties.class_locations = description
            .classes
            .into_iter()
            .map(|(key, _)| ClassLocations {
                key,
                voxels: Vec::new(),
            })
            .collect();
        Ok(MappedCase {
            data,
            seg,
            key: description.key,
            properties,
            class_voxels,
            map,
        })
    }

    /// Normalised intensities, (c, z, y, x).
    pub fn data(&self) -> ArrayView4<'_, f32> {
        view(&self.map, &self.data)
    }

    /// Labels, (1, z, y, x); -1 outside of the nonzero mask.
    pub fn seg(&self) -> ArrayView4<'_, i16> {
        view(&self.map, &self.seg)
    }

    /// How to get back to the raw scan. The voxels of the classes are in [`MappedCase::class_voxels`] only.
    pub fn properties(&self) -> &CaseProperties {
        &self.properties
    }

    /// nnU-Net's class_locations, in its order.
    pub fn class_voxels(&self) -> &[ClassVoxels] {
        &self.class_voxels
    }

    /// What the case was made from, as given to [`write_case`].
    pub fn key(&self) -> &str {
        &self.key
    }
}

/// An array whose place, length and alignment [`Reader::array`] has checked, and [`MappedCase::open`] its axes.
fn view<'a, T: super::npz::Number>(map: &'a Mmap, array: &Array) -> ArrayView4<'a, T> {
    let shape = (array.shape[0], array.shape[1], array.shape[2], array.shape[3]);
    let start = map[array.bytes.clone()].as_ptr().cast();
    // SAFETY: the bytes hold exactly so many numbers, aligned, and live as long as the map.
    unsafe { ArrayView4::from_shape_ptr(shape, start) }
}

impl Case for MappedCase {
    fn data(&self) -> ArrayView4<'_, f32> {
        self.data()
    }

    fn seg(&self) -> ArrayView4<'_, i16> {
        self.seg()
    }

    fn class_locations(&self) -> &[ClassVoxels] {
        &self.class_voxels
    }
}

/// The key of a stored case. None where there is no whole case of that name.
pub fn stored_key(folder: &Path, identifier: &str) -> Option<String> {
    if !folder.join(format!("{identifier}.pkl")).is_file() {
        return None;
    }
    let path = folder.join(format!("{identifier}.npz"));
    let map = map(&path).ok()?;
    let description = Reader::new(&map, &path)
        .and_then(|mut reader| reader.bytes(DESCRIPTION))
        .ok()?;
    serde_json::from_slice::<Description>(description)
        .ok()
        .map(|d| d.key)
}

/// The stored cases that a training draws from.
#[derive(Debug, Clone)]
pub struct StoredCases {
    folder: PathBuf,
    identifiers: Vec<String>,
}

impl StoredCases {
    /// The cases `identifiers` in `folder`, in that order.
    ///
    /// # Errors
    /// A case that is not there.
    pub fn open(folder: &Path, identifiers: Vec<String>) -> Result<StoredCases> {
        for identifier in &identifiers {
            if !folder.join(format!("{identifier}.npz")).is_file() {
                let file = folder.join(format!("{identifier}.npz"));
                return Err(Error::bad_file(file, "missing: the case is not preprocessed"));
            }
        }
        Ok(StoredCases {
            folder: folder.to_owned(),
            identifiers,
        })
    }
}

impl Cases for StoredCases {
    fn identifiers(&self) -> &[String] {
        &self.identifiers
    }

    fn open(&self, index: usize) -> Result<Arc<dyn Case>> {
        let identifier = self.identifiers.get(index).ok_or_else(|| {
            Error::invalid(
                "case",
                format!("there is no number {index} of {}", self.identifiers.len()),
            )
        })?;
        Ok(Arc::new(MappedCase::open(&self.folder, identifier)?))
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
