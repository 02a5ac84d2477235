//! The demo's three sites, cut from the MNI ICBM152 2009 template: real anatomy that may be passed on.
//!
//! The brain is divided into blocks. Each site gets the blocks of its own region, from the back of the head
//! to the front, in its own size, intensity range and file ending. What is to be found in the T1 are grey and
//! white matter, after the template's tissue maps. The cases show that the machinery works; as pieces of one
//! averaged brain they are easier than patients.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use ndarray::{Array3, ArrayView3, s};
use nifti::{NiftiHeader, writer::WriterOptions};
use nnunet::image::Reader;
use serde_json::json;

/// A site of the demo and its data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteFolder {
    /// The site's name.
    pub site: String,
    /// The nnU-Net raw data set, `.../Dataset100_<name>`.
    pub folder: PathBuf,
    /// Training cases, in imagesTr and labelsTr.
    pub training: usize,
    /// Cases to segment, in imagesTs, their labels in labelsTs.
    pub test: usize,
}

/// The XYZ of the demo's DatasetXYZ_name, at every site.
pub const DATASET_ID: u32 = 100;

/// What makes a site unlike the others.
struct SitePlan {
    site: &'static str,
    dataset: &'static str,
    /// Blocks of its region, the last [`TEST_CASES`] of them for testing.
    cases: usize,
    /// Largest size of its cases, (z, y, x) in voxels.
    size: [usize; 3],
    /// Intensity at its scanner for a template intensity of 1.
    gain: f32,
    file_ending: &'static str,
}

/// In the order of their regions, from back to front.
const SITES: [SitePlan; 3] = [
    SitePlan {
        site: "north",
        dataset: "Occipital",
        cases: 10,
        size: [46, 44, 46],
        gain: 4.0,
        file_ending: ".nii.gz",
    },
    SitePlan {
        site: "east",
        dataset: "Central",
        cases: 8,
        size: [44, 46, 44],
        gain: 3.2,
        file_ending: ".nii",
    },
    SitePlan {
        site: "south",
        dataset: "Frontal",
        cases: 7,
        size: [42, 40, 48],
        gain: 5.0,
        file_ending: ".nii.gz",
    },
];

/// Test cases of each site.
const TEST_CASES: usize = 2;

/// The brain in the template, (z, y, x): first voxel and size of the box that is divided into blocks.
const BRAIN_START: [usize; 3] = [4, 26, 25];
const BLOCKS: [usize; 3] = [3, 4, 3];
const BLOCK: [usize; 3] = [50, 46, 49];

/// The template: T1 and tissue maps from 0 to 255, on one grid of 1 mm, (z, y, x).
struct Template {
    t1: Array3<f32>,
    grey: Array3<f32>,
    white: Array3<f32>,
    header: NiftiHeader,
}

/// Cuts the template in `mni` (t1.nii.gz, grey_matter.nii.gz, white_matter.nii.gz) into the data sets of three
/// sites under `out`/<site>. The same template gives the same bytes.
///
/// # Errors
/// A file that is missing or not the template; a folder that cannot be written.
pub fn cut(mni: &Path, out: &Path) -> Result<Vec<SiteFolder>> {
    let template = read_template(mni)?;
    let labels = tissue(&template);
    let starts = block_starts(&labels);
    let mut remaining = starts.as_slice();
    let mut folders = Vec::new();
    for (index, plan) in SITES.iter().enumerate() {
        let (blocks, rest) = remaining.split_at(plan.cases);
        remaining = rest;
        folders.push(write_site(&template, &labels, plan, index, blocks, out)?);
    }
    Ok(folders)
}

fn read_template(mni: &Path) -> Result<Template> {
    let read = |name: &str| -> Result<Array3<f32>> {
        let file = mni.join(name);
        if !file.is_file() {
            bail!(
                "{}: missing; `just setup` fetches the MNI template",
                file.display()
            );
        }
        let image = Reader::SimpleItk.read_images(std::slice::from_ref(&file))?;
        Ok(image.data.index_axis_move(ndarray::Axis(0), 0))
    };
    let t1 = read("t1.nii.gz")?;
    let (grey, white) = (read("grey_matter.nii.gz")?, read("white_matter.nii.gz")?);
    for axis in 0..3 {
        let needed = BRAIN_START[axis] + BLOCKS[axis] * BLOCK[axis];
        let found = t1.shape()[axis];
        ensure!(
            found >= needed,
            "{}: axis {axis} (z, y, x) has {found} voxels, expected at least {needed}",
            mni.join("t1.nii.gz").display()
        );
    }
    ensure!(
        t1.shape() == grey.shape() && t1.shape() == white.shape(),
        "{}: the maps have shapes {:?} and {:?}, expected the T1's {:?}",
        mni.display(),
        grey.shape(),
        white.shape(),
        t1.shape()
    );
    let file = mni.join("t1.nii.gz");
    let header = NiftiHeader::from_file(&file).with_context(|| file.display().to_string())?;
    Ok(Template {
        t1,
        grey,
        white,
        header,
    })
}

/// 0 background, 1 grey matter, 2 white matter: whichever the maps hold for most probable.
fn tissue(template: &Template) -> Array3<u8> {
    ndarray::Zip::from(&template.grey)
        .and(&template.white)
        .map_collect(|&grey, &white| {
            let rest = 255.0 - grey - white;
            if grey.max(white) <= rest {
                0
            } else if grey >= white {
                1
            } else {
                2
            }
        })
}

/// First voxels of the blocks with the most tissue, as many as the sites have cases, from back to front.
fn block_starts(labels: &Array3<u8>) -> Vec<[usize; 3]> {
    let wanted: usize = SITES.iter().map(|plan| plan.cases).sum();
    let mut blocks = Vec::new();
    for (z, y, x) in ndarray::indices((BLOCKS[0], BLOCKS[1], BLOCKS[2])) {
        let start = [z, y, x];
        let start: [usize; 3] = std::array::from_fn(|axis| BRAIN_START[axis] + start[axis] * BLOCK[axis]);
        let voxels = block(labels, start, BLOCK)
            .iter()
            .filter(|&&label| label > 0)
            .count();
        blocks.push((voxels, start));
    }
    blocks.sort_by_key(|&(voxels, start)| (std::cmp::Reverse(voxels), start));
    blocks.truncate(wanted);
    let mut starts: Vec<[usize; 3]> = blocks.into_iter().map(|(_, start)| start).collect();
    starts.sort_by_key(|&[z, y, x]| (y, x, z));
    starts
}

fn block<T>(volume: &Array3<T>, start: [usize; 3], size: [usize; 3]) -> ArrayView3<'_, T> {
    let [z, y, x] = start;
    volume.slice(s![z..z + size[0], y..y + size[1], x..x + size[2]])
}

fn write_site(
    template: &Template,
    labels: &Array3<u8>,
    plan: &SitePlan,
    site_index: usize,
    blocks: &[[usize; 3]],
    out: &Path,
) -> Result<SiteFolder> {
    let folder = out
        .join(plan.site)
        .join(format!("Dataset{DATASET_ID:03}_{}", plan.dataset));
    for part in ["imagesTr", "labelsTr", "imagesTs", "labelsTs"] {
        let part = folder.join(part);
        std::fs::create_dir_all(&part).with_context(|| part.display().to_string())?;
    }
    for (index, &start) in blocks.iter().enumerate() {
        // Cases differ in size by up to 6 voxels an axis, and in intensity by up to a tenth.
        let size = std::array::from_fn(|axis| plan.size[axis] - (index * (2 * axis + 3) + site_index) % 7);
        let gain = plan.gain * (0.9 + 0.2 * (index * 3 % plan.cases) as f32 / plan.cases as f32);
        let seed = (site_index * 1000 + index) as u64;
        let scan = scanned(block(&template.t1, start, size), gain, seed);
        let set = if index + TEST_CASES < plan.cases {
            "Tr"
        } else {
            "Ts"
        };
        let name = format!("{}_{index:03}", plan.site);
        let ending = plan.file_ending;
        let header = moved(&template.header, start);
        let image = folder.join(format!("images{set}/{name}_0000{ending}"));
        // NIfTI's axes are x, y, z.
        writer(&image, &header)
            .write_nifti(&scan.reversed_axes())
            .with_context(|| image.display().to_string())?;
        let label = folder.join(format!("labels{set}/{name}{ending}"));
        writer(&label, &header)
            .write_nifti(&block(labels, start, size).reversed_axes())
            .with_context(|| label.display().to_string())?;
    }
    let training = plan.cases - TEST_CASES;
    let descriptor = json!({
        "channel_names": { "0": "T1" },
        "labels": { "background": 0, "grey matter": 1, "white matter": 2 },
        "numTraining": training,
        "file_ending": plan.file_ending,
        "licence": "MNI ICBM152 2009a nonlinear symmetric, (C) 1993-2004 Louis Collins, McConnell Brain Imaging Centre, \
                    Montreal Neurological Institute, McGill University",
    });
    let file = folder.join("dataset.json");
    std::fs::write(&file, format!("{descriptor:#}\n")).with_context(|| file.display().to_string())?;
    Ok(SiteFolder {
        site: plan.site.to_owned(),
        folder,
        training,
        test: TEST_CASES,
    })
}

/// The block as a scanner of that gain would give it: whole numbers, with a little noise where there is signal.
fn scanned(block: ArrayView3<f32>, gain: f32, seed: u64) -> Array3<i16> {
    let mut state = seed;
    block.map(|&value| {
        if value <= 0.0 {
            return 0;
        }
        // Two of splitmix64's numbers, added: a triangular distribution on -8..8 of the template's 0..255.
        let noise = 8.0 * (unit(&mut state) + unit(&mut state) - 1.0);
        ((value + noise) * gain).max(0.0).round() as i16
    })
}

/// The next number of splitmix64 (Steele et al. 2014), in 0..1.
fn unit(state: &mut u64) -> f32 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut bits = *state;
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^= bits >> 31;
    (bits >> 40) as f32 / (1u64 << 24) as f32
}

/// The template's header for a block that begins at voxel `start` (z, y, x): the block stays where it was.
fn moved(header: &NiftiHeader, start: [usize; 3]) -> NiftiHeader {
    let mut header = header.clone();
    let [z, y, x] = start.map(|voxel| voxel as f32);
    for row in [&mut header.srow_x, &mut header.srow_y, &mut header.srow_z] {
        row[3] += row[0] * x + row[1] * y + row[2] * z;
    }
    header
}

/// How a volume is written to `file`.
fn writer<'a>(file: &Path, header: &'a NiftiHeader) -> WriterOptions<'a> {
    WriterOptions::new(file).reference_header(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs the template of `just setup`, as the demo does.
    fn mni() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/mni")
    }

    #[test]
    fn three_unlike_sites_are_cut_the_same_each_time() {
        let scratch = tempfile::tempdir().unwrap();
        let sites = cut(&mni(), &scratch.path().join("first")).unwrap();
        cut(&mni(), &scratch.path().join("second")).unwrap();
        let counts: Vec<_> = sites
            .iter()
            .map(|site| (&*site.site, site.training, site.test))
            .collect();
        assert_eq!(counts, [("north", 8, 2), ("east", 6, 2), ("south", 5, 2)]);
        for site in &sites {
            let data = nnunet::dataset::RawDataset::open(&site.folder).unwrap();
            assert_eq!(data.cases.len(), site.training);
            let again = scratch.path().join("second").join(&site.site);
            let again = again.join(site.folder.file_name().unwrap());
            for case in &data.cases {
                let label = case.label.as_ref().unwrap();
                let labels = data.reader.read_segmentation(label).unwrap().labels;
                assert!(
                    (1..=2).all(|label| labels.iter().any(|&found| found == label)),
                    "{label:?}"
                );
                for file in case.images.iter().chain([label]) {
                    let twin = again.join(file.strip_prefix(&site.folder).unwrap());
                    assert_eq!(
                        std::fs::read(file).unwrap(),
                        std::fs::read(twin).unwrap(),
                        "{file:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_missing_template_is_named() {
        let scratch = tempfile::tempdir().unwrap();
        let error = cut(scratch.path(), scratch.path()).unwrap_err().to_string();
        assert!(
            error.contains("t1.nii.gz") && error.contains("just setup"),
            "{error}"
        );
    }
}
