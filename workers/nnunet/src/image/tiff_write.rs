//! TIFF files of labels, such as tifffile writes: a page per slice, each in one strip of deflate.

use ndarray::{ArrayView3, Axis};
use rayon::prelude::*;

use super::{grid::LabelBytes, gzip};

/// Entries of a page's directory; the first page has one more, which tells the shape.
const ENTRIES: usize = 11;

/// The file of labels (z, y, x). tifffile reads an array of `shape`, which holds as many.
pub(super) fn bytes(labels: ArrayView3<u16>, shape: &[usize]) -> Result<Vec<u8>, String> {
    let (_, length, width) = labels.dim();
    let values = LabelBytes::of(labels.iter());
    let bits = 8 * values.size as u32;
    let slice_bytes = values.size * length * width;
    if slice_bytes == 0 {
        return Err(format!("a segmentation of {shape:?} voxels"));
    }
    let strips = values
        .bytes
        .par_chunks(slice_bytes)
        .map(gzip::deflate_zlib)
        .collect::<Result<Vec<_>, _>>()?;
    let sizes: Vec<String> = shape.iter().map(usize::to_string).collect();
    let mut description = format!("{{\"shape\": [{}]}}\0", sizes.join(", ")).into_bytes();
    // Words in an even place.
    description.resize(description.len().next_multiple_of(2), 0);

    let small = |size: usize| u32::try_from(size).map_err(|_| "too large for a TIFF file".to_owned());
    let (width, length) = (small(width)?, small(length)?);
    let mut file = vec![b'I', b'I', 42, 0, 8, 0, 0, 0];
    let last = labels.len_of(Axis(0)) - 1;
    for (page, strip) in strips.iter().enumerate() {
        let entries = ENTRIES + usize::from(page == 0);
        let after = file.len() + 2 + 12 * entries + 4;
        let text = if page == 0 { description.len() } else { 0 };
        let offset = small(after + text)?;
        let next = (after + text + strip.len()).next_multiple_of(2);
        file.extend((entries as u16).to_le_bytes());
        let mut entry = |tag: u16, kind: u16, count: u32, value: u32| {
            file.extend(tag.to_le_bytes());
            file.extend(kind.to_le_bytes());
            file.extend(count.to_le_bytes());
            file.extend(value.to_le_bytes());
        };
        entry(256, 4, 1, width);
        entry(257, 4, 1, length);
        entry(258, 3, 1, bits);
        // Deflate.
        entry(259, 3, 1, 8);
        // Black is zero.
        entry(262, 3, 1, 1);
        if page == 0 {
            entry(270, 2, small(description.len())?, small(after)?);
        }
        entry(273, 4, 1, offset);
        entry(277, 3, 1, 1);
        entry(278, 4, 1, length);
        entry(279, 4, 1, small(strip.len())?);
        // Samples of a pixel lie together, and are unsigned.
        entry(284, 3, 1, 1);
        entry(339, 3, 1, 1);
        let next_directory = if page == last { 0 } else { small(next)? };
        file.extend(next_directory.to_le_bytes());
        if page == 0 {
            file.extend_from_slice(&description);
        }
        file.extend_from_slice(strip);
        file.resize(next, 0);
    }
    Ok(file)
}
