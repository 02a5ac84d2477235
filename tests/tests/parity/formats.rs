//! Every image format that nnU-Net's readers take, against those readers: hundreds of files read by both, and the
//! choice of a reader.

use std::{collections::BTreeMap, path::Path};

use ndarray::{Array3, Array4};
use nnunet::image::{Geometry, Reader};
use serde_json::{Value, json};
use tests::oracle;

/// Files that Python takes and Rounds refuses. None is the other way round. Names end in `*` where they stand for
/// several.
const DIFFERENCES: [(&str, &str); 31] = [
    (
        "bmp_4_greys.bmp",
        "Pillow takes the bytes of half as many pixels for pixels",
    ),
    (
        "bmp_8_few.bmp",
        "colours beyond the palette: Pillow takes them for black",
    ),
    ("bmp_rle.bmp", "run-length encoding is not supported"),
    ("gipl_dims_3.gipl", "an image without voxels"),
    ("gipl_dims_5.gipl", "an image without voxels"),
    ("gipl_short.gipl", "cut short: ITK makes the rest up"),
    ("itk_vector_*", VECTORS),
    (
        "meta_detached_list.mhd",
        "voxels in several files are not supported",
    ),
    (
        "meta_missing.mha",
        "compressed, but not how long: ITK inflates the header, too",
    ),
    (
        "meta_nan.mha",
        "an origin that is not a number: ITK takes it for 0",
    ),
    ("meta_sizes_0.mha", "an image without voxels"),
    (
        "meta_small.mha",
        "compressed data cut short: ITK makes the rest up",
    ),
    (
        "meta_text_large.mha",
        "a number too large for its type: ITK wraps it around",
    ),
    ("meta_type_UCHAR_ARRAY.mha", "arrays for voxels"),
    (
        "meta_words.mha",
        "an origin that is not a number: ITK takes it for 0",
    ),
    ("nrrd_axes_0.nrrd", VECTORS),
    ("nrrd_axes_3.nrrd", VECTORS),
    ("nrrd_axes_10.nrrd", VECTORS),
    (
        "nrrd_axes_12.nrrd",
        "two axes of voxel parts: ITK mistakes one for the image's",
    ),
    (
        "nrrd_encoded_20.nrrd",
        "zlib's data called gzip: ITK takes them for voxels",
    ),
    ("pil_fax.tif", TIFF),
    ("pil_jpeg.tif", TIFF),
    (
        "png_grey_alpha_8.png",
        "grey with alpha, which only 3 or 4 rows get past nnU-Net's check",
    ),
    (
        "png_palette_short.png",
        "colours beyond the palette: Pillow takes them for black",
    ),
    ("png_short.png", "cut short: Pillow makes the rest up"),
    ("tiff_c8_*", "complex numbers: numpy drops what is imaginary"),
    (
        "tiff_flat_c8.tif",
        "complex numbers: numpy drops what is imaginary",
    ),
    ("tiff_jpeg_*", TIFF),
    ("tiff_lzma_*", TIFF),
    ("tiff_zstd_*", TIFF),
    ("tiff_no_spacing_0000.tif", "a spacing of 0"),
];
/// nnU-Net takes the parts of a voxel for its last axis, and is left with two spacings for three axes.
const VECTORS: &str = "voxels of several numbers: nnU-Net takes these for an axis and lacks its spacing";
const TIFF: &str = "a compression that is not supported; none, LZW, deflate and PackBits are";

/// The last line that a command of the oracle prints.
pub(crate) fn printed(command: &str, folder: &Path) -> Value {
    let printed = oracle::run("formats.py", &[command.as_ref(), folder.as_os_str()]).unwrap();
    serde_json::from_str(printed.lines().last().unwrap_or("null")).unwrap()
}

fn floats(value: &Value) -> Vec<f64> {
    let list = value.as_array().unwrap().iter();
    list.map(|x| x.as_f64().unwrap_or(f64::NAN)).collect()
}

/// A geometry's numbers by the names of nnU-Net's properties, and its orientation where it has one.
fn named(geometry: &Geometry) -> (Vec<(&'static str, Vec<f64>)>, Option<&str>) {
    match geometry {
        Geometry::SimpleItk {
            spacing,
            origin,
            direction,
        } => (
            vec![
                ("itk_spacing", spacing.clone()),
                ("origin", origin.clone()),
                ("direction", direction.clone()),
            ],
            None,
        ),
        Geometry::SimpleItkReoriented {
            spacing,
            origin,
            direction,
            original_orientation,
        } => (
            vec![
                ("itk_spacing", spacing.clone()),
                ("origin", origin.clone()),
                ("direction", direction.clone()),
            ],
            Some(original_orientation),
        ),
        Geometry::Nibabel { original_affine } => (
            vec![("original_affine", original_affine.as_flattened().to_vec())],
            None,
        ),
        Geometry::NibabelReoriented {
            original_affine,
            reoriented_affine,
        } => (
            vec![
                ("original_affine", original_affine.as_flattened().to_vec()),
                ("reoriented_affine", reoriented_affine.as_flattened().to_vec()),
            ],
            None,
        ),
        Geometry::SpacingOnly { .. } => (Vec::new(), None),
    }
}

/// What differs between an image and what the oracle printed of it.
pub(crate) fn difference(
    data: &Array4<f32>,
    spacing: [f64; 3],
    geometry: &Geometry,
    expected: &Value,
) -> Option<String> {
    let shape: Vec<f64> = data.shape().iter().map(|&n| n as f64).collect();
    if shape != floats(&expected["shape"]) {
        return Some(format!("shape {shape:?}, expected {}", expected["shape"]));
    }
    let bits = expected["bits"].as_array().unwrap();
    for (place, (found, expected)) in data.iter().zip(bits).enumerate() {
        let expected = f32::from_bits(expected.as_u64().unwrap() as u32);
        if *found != expected && !(found.is_nan() && expected.is_nan()) {
            return Some(format!("value {place} is {found}, expected {expected}"));
        }
    }
    let (mut numbers, orientation) = named(geometry);
    numbers.push(("spacing", spacing.to_vec()));
    for (key, found) in numbers {
        let expected = floats(&expected[key]);
        let close = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-6 * b.abs().max(1.0);
        if found.len() != expected.len() || !found.iter().zip(&expected).all(close) {
            return Some(format!("{key} {found:?}, expected {expected:?}"));
        }
    }
    let expected = expected["original_orientation"].as_str();
    (orientation != expected).then(|| format!("orientation {orientation:?}, expected {expected:?}"))
}

/// Whether a listed name stands for a file.
fn stands_for(pattern: &str, file: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => file.starts_with(start),
        None => file == pattern,
    }
}

fn listed(file: &str) -> Option<&'static str> {
    let found = DIFFERENCES.iter().find(|(pattern, _)| stands_for(pattern, file));
    found.map(|(_, why)| *why)
}

#[test]
fn files_of_every_format_read_as_in_python() {
    let folder = tempfile::tempdir().unwrap();
    oracle::run("formats.py", &["write".as_ref(), folder.path().as_os_str()]).unwrap();
    let expected = printed("read", folder.path());
    let (mut read, mut refused, mut wrong) = (0, 0, Vec::new());
    let mut one_sided: BTreeMap<(&str, &str), String> = BTreeMap::new();
    for (name, readers) in expected.as_object().unwrap() {
        for (reader, expected) in readers.as_object().unwrap() {
            let reader = Reader::by_name(reader).unwrap();
            let path = folder.path().join(name);
            let label = format!("{name} {}", reader.name());
            match (
                reader.read_images(std::slice::from_ref(&path)),
                expected.get("error"),
            ) {
                (Ok(image), None) => {
                    read += 1;
                    if let Some(difference) =
                        difference(&image.data, image.spacing, &image.geometry, expected)
                    {
                        wrong.push(format!("{label}: {difference}"));
                    }
                }
                (Err(error), Some(_)) => {
                    refused += 1;
                    let error = error.to_string();
                    if !error.contains(&*folder.path().to_string_lossy()) {
                        wrong.push(format!("{label}: the error names no file: {error}"));
                    }
                }
                (Err(error), None) => {
                    let error = error.to_string().replace(&*folder.path().to_string_lossy(), "");
                    one_sided.insert(
                        (name, reader.name()),
                        format!("only Python reads it; Rounds: {error}"),
                    );
                }
                (Ok(_), Some(error)) => {
                    one_sided.insert(
                        (name, reader.name()),
                        format!("only Rounds reads it; Python: {error}"),
                    );
                }
            }
        }
    }
    println!(
        "{read} read alike, {refused} refused by both, {} by one:",
        one_sided.len()
    );
    for ((name, reader), what) in &one_sided {
        let why = listed(name).filter(|_| what.starts_with("only Python"));
        println!("  {name} {reader}: {what}\n    {}", why.unwrap_or("NOT LISTED"));
        if why.is_none() {
            wrong.push(format!("{name} {reader}: {what}"));
        }
    }
    for (pattern, _) in DIFFERENCES {
        if !one_sided.keys().any(|(name, _)| stands_for(pattern, name)) {
            wrong.push(format!("{pattern} is listed, but both sides agree on it"));
        }
    }
    // The choice of a reader follows from who can read the file.
    for (name, chosen) in printed("choose", folder.path()).as_object().unwrap() {
        let path = folder.path().join(name);
        let endings = [".nii.gz", ".gipl.gz"];
        let ending = endings.into_iter().find(|ending| name.ends_with(ending));
        let ending = ending.unwrap_or(&name[name.rfind('.').unwrap()..]);
        let found = Reader::for_ending(ending, &path).ok().map(Reader::name);
        if found != chosen.as_str() && listed(name).is_none() {
            wrong.push(format!("{name}: Rounds chooses {found:?}, Python {chosen}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} differences:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(read > 400, "only {read} files were read");

    turned_back(folder.path());
}

/// Segmentations of reoriented scans lie where the scans lie, for the reader that does not reorient.
fn turned_back(scans: &Path) {
    let folder = tempfile::tempdir().unwrap();
    let (mut written, mut expected) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(scans).unwrap() {
        let scan = entry.unwrap().path();
        let name = scan.file_name().unwrap().to_string_lossy().into_owned();
        let readers: &[_] = match () {
            () if name.starts_with("direction_") && name.ends_with(".nii") => &[
                (Reader::NibabelReoriented, Reader::Nibabel),
                (Reader::SimpleItkReoriented, Reader::SimpleItk),
            ],
            () if name.starts_with("direction_") => &[(Reader::SimpleItkReoriented, Reader::SimpleItk)],
            () if name.starts_with("sheared_") => &[(Reader::NibabelReoriented, Reader::Nibabel)],
            () => continue,
        };
        for &(reorienting, plain) in readers {
            let image = reorienting.read_images(std::slice::from_ref(&scan)).unwrap();
            let least = image.data.iter().copied().fold(f32::INFINITY, f32::min);
            let label = |value: &f32| ((value - least) * 3.0).round() as u16 % 251;
            let labels: Array3<u16> = image.data.index_axis(ndarray::Axis(0), 0).map(label);
            let file = format!("{}_{name}", plain.name());
            let path = folder.path().join(&file);
            reorienting
                .write_segmentation(labels.view(), &image.geometry, &path)
                .unwrap();
            let straight = plain.read_images(std::slice::from_ref(&scan)).unwrap();
            let data = straight.data.map(|value| f32::from(label(value)));
            expected.push((file.clone(), data, straight.spacing, straight.geometry));
            written.push(json!({"reader": plain.name(), "file": file}));
        }
    }
    assert!(written.len() > 90, "{}", written.len());
    let path = folder.path().join("written.json");
    std::fs::write(path, serde_json::to_string(&written).unwrap()).unwrap();
    let found = printed("back", folder.path());
    for ((file, data, mut spacing, geometry), found) in expected.into_iter().zip(found.as_array().unwrap()) {
        if file.starts_with("NibabelIO") {
            // What nibabel writes holds the lengths of the affine, not the scan's pixdim.
            let own = floats(&found["spacing"]);
            spacing = [own[0], own[1], own[2]];
        }
        let difference = difference(&data, spacing, &geometry, found);
        assert!(difference.is_none(), "{file}: {}", difference.unwrap());
    }
}
