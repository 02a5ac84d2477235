//! Where a prediction lies, from the `.pkl` that nnU-Net writes beside its probabilities.

use std::{fs, path::Path};

use crate::{
    Error, Result,
    checkpoint::pickle::{self, NumpyArray, Value},
    image::{Geometry, Reader},
};

/// Properties hold sampled voxels of every class: some 240 kB each.
const LARGEST: u64 = 1 << 28;

/// The geometry that `reader` needs to write a segmentation of the case.
///
/// # Errors
/// A file that is not nnU-Net's, or of a case that another reader read.
pub(super) fn read(path: &Path, reader: Reader) -> Result<Geometry> {
    let bad = |reason: String| Error::bad_file(path, reason);
    let length = fs::metadata(path).map_err(Error::io(path))?.len();
    if length > LARGEST {
        return Err(bad(format!("{length} bytes: expected the properties of a case")));
    }
    let properties = pickle::read(&fs::read(path).map_err(Error::io(path))?).map_err(bad)?;
    of_properties(&properties, reader).map_err(|key| {
        bad(format!(
            "{key}: missing, or not what {} keeps of a scan",
            reader.name()
        ))
    })
}

/// On failure the key that is wrong.
fn of_properties(properties: &Value, reader: Reader) -> Result<Geometry, &'static str> {
    let entry =
        |group: &'static str, key: &'static str| properties.get(group).and_then(|g| g.get(key)).ok_or(key);
    let itk = |key| entry("sitk_stuff", key).and_then(|value| floats(value).ok_or(key));
    let affine = |key| {
        let numbers = entry("nibabel_stuff", key).and_then(|value| floats(value).ok_or(key))?;
        let rows = numbers
            .chunks_exact(4)
            .map(|row| [row[0], row[1], row[2], row[3]]);
        <[[f64; 4]; 4]>::try_from(rows.collect::<Vec<_>>()).map_err(|_| key)
    };
    Ok(match reader {
        Reader::SimpleItk => Geometry::SimpleItk {
            spacing: itk("spacing")?,
            origin: itk("origin")?,
            direction: itk("direction")?,
        },
        Reader::SimpleItkReoriented => Geometry::SimpleItkReoriented {
            spacing: itk("spacing")?,
            origin: itk("origin")?,
            direction: itk("direction")?,
            original_orientation: entry("sitk_stuff", "original_orientation")?
                .as_str()
                .ok_or("original_orientation")?
                .to_owned(),
        },
        Reader::Nibabel => Geometry::Nibabel {
            original_affine: affine("original_affine")?,
        },
        Reader::NibabelReoriented => Geometry::NibabelReoriented {
            original_affine: affine("original_affine")?,
            reoriented_affine: affine("reoriented_affine")?,
        },
        Reader::NaturalImage2D | Reader::Tiff3D => {
            let spacing = properties.get("spacing").and_then(floats).ok_or("spacing")?;
            Geometry::SpacingOnly {
                spacing: spacing.try_into().map_err(|_| "spacing")?,
            }
        }
    })
}

/// The numbers of a tuple, a list, or an array of at most two axes, row by row.
fn floats(value: &Value) -> Option<Vec<f64>> {
    match value {
        Value::Array(array) => of_array(array),
        list => list.as_items()?.iter().map(Value::as_f64).collect(),
    }
}

fn of_array(array: &NumpyArray) -> Option<Vec<f64>> {
    let numbers: Vec<f64> = match array.dtype.as_str() {
        "<f8" => array
            .bytes
            .as_chunks::<8>()
            .0
            .iter()
            .map(|b| f64::from_le_bytes(*b))
            .collect(),
        "<f4" => array
            .bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b).into())
            .collect(),
        _ => return None,
    };
    let (rows, columns) = match array.shape[..] {
        [n] => (1, n),
        [rows, columns] => (rows, columns),
        _ => return None,
    };
    if rows.checked_mul(columns) != Some(numbers.len()) {
        return None;
    }
    if !array.fortran {
        return Some(numbers);
    }
    let transposed = (0..numbers.len()).map(|place| numbers[place / columns + rows * (place % columns)]);
    Some(transposed.collect())
}
