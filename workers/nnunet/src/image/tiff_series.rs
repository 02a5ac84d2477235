//! The array that tifffile's `imread` makes of a TIFF file: its first series of pages.
//! (TiffFile.series in tifffile.py)

use ndarray::ArrayD;
use serde::Deserialize;

use super::{
    tiff::Page,
    tiff_pixels,
    voxels::{VoxelType, byte_size, too_short},
};

/// What tifffile writes about the shape of an array.
#[derive(Deserialize)]
struct Shaped {
    shape: Vec<usize>,
    #[serde(default)]
    truncated: bool,
}

/// Reads a file.
pub(super) fn read(file: &[u8]) -> Result<ArrayD<f32>, String> {
    let pages = Page::all(file)?;
    let first = &pages[0];
    if let Some(vendor) = first.vendor {
        return Err(format!(
            "{vendor} files are not supported: save them as plain TIFF"
        ));
    }
    let starts = |start: &str| first.descriptions.iter().find(|text| text.starts_with(start));
    let shaped = first
        .descriptions
        .iter()
        .filter(|text| text.starts_with('{'))
        .find_map(|text| serde_json::from_str::<Shaped>(text).ok());
    if let Some(series) = shaped.and_then(|shaped| as_shaped(&pages, shaped)) {
        return series.array(file);
    }
    if first
        .descriptions
        .iter()
        .any(|text| text.trim_end().ends_with("OME>"))
    {
        return as_ome(&pages)?.array(file);
    }
    if let Some(description) = starts("ImageJ=").or_else(|| starts("SCIFIO=")) {
        return as_imagej(&pages, description)?.array(file);
    }
    for vendor in [
        "Aperio",
        "<scn",
        "SISPOS",
        "<PerkinElmer",
        "<iScan",
        "<DataObject",
    ] {
        if first.descriptions.iter().any(|text| text.contains(vendor)) {
            return Err(format!(
                "{vendor} files are not supported: save them as plain TIFF"
            ));
        }
    }
    plain(&pages)?.array(file)
}

/// Pages and the shape of what they hold together.
struct Series<'a> {
    pages: Vec<&'a Page>,
    shape: Vec<usize>,
}

impl Series<'_> {
    fn array(&self, file: &[u8]) -> Result<ArrayD<f32>, String> {
        let first = self.pages[0];
        let values = byte_size(&self.shape, VoxelType::F32)? / VoxelType::F32.bytes();
        let stored: usize = self
            .pages
            .iter()
            .flat_map(|page| page.chunks.iter().map(|&(_, bytes)| bytes))
            .fold(0, usize::saturating_add);
        // Strips that pages share would multiply a small file.
        if stored > file.len() {
            return Err(too_short(stored, file.len()));
        }
        let mut data = Vec::new();
        let held: usize = self
            .pages
            .iter()
            .map(|page| page.shape().iter().product::<usize>())
            .fold(0, usize::saturating_add);
        if self.pages.len() == 1 && held < values {
            // One page stands for all, whose pixels follow its own.
            tiff_pixels::decode(&stretched(first, values / held)?, file, &mut data)?;
        } else {
            for page in &self.pages {
                tiff_pixels::decode(page, file, &mut data)?;
            }
        }
        ArrayD::from_shape_vec(self.shape.as_slice(), data).map_err(|_| {
            format!(
                "its pages do not hold the {:?} pixels that they promise",
                self.shape
            )
        })
    }
}

/// A page that holds so many times the rows.
fn stretched(page: &Page, times: usize) -> Result<Page, String> {
    let strips_follow = page
        .chunks
        .windows(2)
        .all(|two| two[0].0.checked_add(two[0].1) == Some(two[1].0));
    if page.compression != 1 || page.tiled || page.separate || !page.bits.is_multiple_of(8) || !strips_follow
    {
        return Err(format!(
            "it promises {times} pages in one, but does not store them in a row"
        ));
    }
    let length = page
        .length
        .checked_mul(times)
        .ok_or("more pixels than can be addressed")?;
    let bytes = byte_size(&[length, page.width, page.samples, page.bits / 8], VoxelType::U8)?;
    let start = page.chunks.first().map_or(0, |&(start, _)| start);
    Ok(Page {
        length,
        chunk_length: length,
        chunks: vec![(start, bytes)],
        descriptions: Vec::new(),
        ..*page
    })
}

/// As tifffile wrote it. None where the pages are others than it says.
fn as_shaped(pages: &[Page], shaped: Shaped) -> Option<Series<'_>> {
    let first = &pages[0];
    let of_page: usize = first.shape().iter().product();
    let total = shaped
        .shape
        .iter()
        .try_fold(1usize, |product, &size| product.checked_mul(size))?;
    let count = total / of_page;
    if count == 0 || total % of_page != 0 {
        return None;
    }
    let enough = count <= pages.len() && !shaped.truncated;
    let used = if enough { count } else { 1 };
    let others_say_their_own = pages
        .get(used)
        .is_none_or(|next| next.descriptions.iter().any(|text| text.starts_with('{')));
    let alike = pages[..used].iter().all(|page| page.is_like(first));
    (others_say_their_own && alike).then(|| Series {
        pages: pages[..used].iter().collect(),
        shape: shaped.shape,
    })
}

/// As ImageJ wrote it: frames, slices and channels, of which those of one are dropped.
fn as_imagej<'a>(pages: &'a [Page], description: &str) -> Result<Series<'a>, String> {
    let number = |key: &str| {
        description
            .lines()
            .filter_map(|line| line.split_once('='))
            .find(|(name, _)| *name == key)
            .map_or(Some(1), |(_, value)| value.trim().parse::<usize>().ok())
            .filter(|&number| number > 0)
            .ok_or_else(|| format!("ImageJ's {key} is no number"))
    };
    let first = &pages[0];
    let (frames, slices, channels) = (number("frames")?, number("slices")?, number("channels")?);
    if first.has_colours() {
        return Err("ImageJ stacks in colour are not supported".into());
    }
    let images = frames.saturating_mul(slices).saturating_mul(channels);
    let axes: Vec<usize> = [frames, slices, channels]
        .into_iter()
        .filter(|&size| size > 1)
        .collect();
    let (images, axes) = match images {
        // Some do not say how many there are.
        1 if pages.len() > 1 => (pages.len(), vec![pages.len()]),
        _ => (images, axes),
    };
    if images > pages.len() && pages.len() > 1 {
        return Err(format!(
            "ImageJ's header promises {images} images, but it has {} pages",
            pages.len()
        ));
    }
    Ok(Series {
        pages: pages[..images.min(pages.len())].iter().collect(),
        shape: [axes, first.shape()].concat(),
    })
}

/// OME-TIFF, where its pages are a plain stack along one axis.
fn as_ome(pages: &[Page]) -> Result<Series<'_>, String> {
    let text = pages[0].descriptions.join(" ");
    let sizes: Vec<usize> = ["SizeT", "SizeC", "SizeZ"]
        .iter()
        .filter_map(|key| {
            text.split_once(&format!("{key}=\""))?
                .1
                .split('"')
                .next()?
                .parse()
                .ok()
        })
        .filter(|&size| size > 1)
        .collect();
    let of_one_stack = text.matches("<Image ").count() == 1 && text.matches("<TiffData").count() <= 1;
    let count = sizes.iter().product::<usize>().max(1);
    let alike = pages
        .iter()
        .all(|page| page.is_like(&pages[0]) && !page.has_colours());
    if !of_one_stack || sizes.len() > 1 || count != pages.len() || !alike {
        return Err(
            "only OME-TIFF with one image, whose pages are a stack along one axis, is supported".into(),
        );
    }
    Ok(Series {
        pages: pages.iter().collect(),
        shape: [sizes, pages[0].shape()].concat(),
    })
}

/// The pages that are like the first; one of them stands for itself.
fn plain(pages: &[Page]) -> Result<Series<'_>, String> {
    let first = &pages[0];
    let alike: Vec<&Page> = pages.iter().filter(|page| page.is_like(first)).collect();
    let sampled = [pages.get(1), pages.get(7), pages.last()];
    let looks_uniform = pages.len() > 7 && sampled.into_iter().flatten().all(|page| page.is_like(first));
    if looks_uniform && alike.len() < pages.len() {
        return Err("its pages differ".into());
    }
    let mut shape = first.shape();
    if shape.len() == 3 && first.samples == 1 {
        // tifffile drops a colour axis of one where it counts pages.
        shape = vec![first.length, first.width];
    }
    if alike.len() > 1 {
        shape.insert(0, alike.len());
    }
    Ok(Series { pages: alike, shape })
}
