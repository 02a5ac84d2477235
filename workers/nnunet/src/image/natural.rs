//! nnU-Net's NaturalImage2DIO: PNG, BMP and TIFF as scikit-image reads and writes them.
//! (nnunetv2/imageio/natural_image_reader_writer.py; skimage/io/_io.py, imageio's Pillow plugin)

use std::path::Path;

use ndarray::{ArrayD, ArrayView3, Axis, Ix4};
use png::{BitDepth, ColorType, Decoder, Encoder, Limits};

use super::{
    Geometry, bmp,
    files::Content,
    grid::{Grid, LabelBytes, THICKNESS_OF_2D},
    tiff_series, tiff_write,
    voxels::too_short,
};
use crate::{Error, Result};

/// Pillow refuses images of more pixels, as bombs.
const MOST_PIXELS: usize = 178_956_970;
/// Deflate packs at most 1032 bytes into one.
const LARGEST_RATIO: usize = 1032;

/// The formats.
#[derive(Clone, Copy, PartialEq)]
enum Format {
    Png,
    Bmp,
    Tiff,
}

impl Format {
    fn of(file: &Path) -> Result<Format> {
        match file
            .extension()
            .unwrap_or_default()
            .to_string_lossy()
            .to_lowercase()
            .as_str()
        {
            "png" => Ok(Format::Png),
            "bmp" => Ok(Format::Bmp),
            "tif" | "tiff" => Ok(Format::Tiff),
            "jpg" | "jpeg" => Err(Error::bad_file(
                file,
                "JPEG files are not supported, nor by nnU-Net: what they lose would be lost of labels, too",
            )),
            _ => Err(Error::bad_file(
                file,
                "NaturalImage2DIO reads .png, .bmp and .tif",
            )),
        }
    }
}

/// Reads a file's colours as channels.
pub(super) fn read_grid(file: &Path) -> Result<Grid> {
    let format = Format::of(file)?;
    let content = std::fs::read(file).map_err(Error::io(file))?;
    let array = match format {
        Format::Tiff => tiff_series::read(&content).map(colours_last),
        // Pillow goes by content.
        _ if content.starts_with(b"BM") => bmp::read(&content, MOST_PIXELS),
        _ => read_png(&content),
    };
    array
        .and_then(grid)
        .map_err(|reason| Error::bad_file(file, reason))
}

/// scikit-image takes a first axis of three or four for colours, and moves it back.
fn colours_last(array: ArrayD<f32>) -> ArrayD<f32> {
    match *array.shape() {
        [3 | 4, _, last] if !(3..=4).contains(&last) => array
            .permuted_axes(vec![1, 2, 0])
            .as_standard_layout()
            .into_owned(),
        _ => array,
    }
}

fn grid(array: ArrayD<f32>) -> Result<Grid, String> {
    let array = match *array.shape() {
        [_, _] => array.insert_axis(Axis(0)).insert_axis(Axis(0)),
        [_, _, 3 | 4] => array.permuted_axes(vec![2, 0, 1]).insert_axis(Axis(1)),
        ref shape => {
            return Err(format!(
                "its shape is {shape:?}; NaturalImage2DIO takes (y, x), (y, x, 3) and (y, x, 4)"
            ));
        }
    };
    let array = array
        .into_dimensionality::<Ix4>()
        .map_err(|error| error.to_string())?;
    let spacing = [THICKNESS_OF_2D, 1.0, 1.0];
    Ok(Grid {
        data: array.as_standard_layout().into_owned(),
        spacing,
        geometry: Geometry::SpacingOnly { spacing },
    })
}

fn read_png(file: &[u8]) -> Result<ArrayD<f32>, String> {
    let bad = |error: png::DecodingError| format!("broken PNG data: {error}");
    let mut decoder = Decoder::new_with_limits(file, Limits { bytes: usize::MAX });
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let mut reader = decoder.read_info().map_err(bad)?;
    let info = reader.info();
    let (width, height) = (info.width as usize, info.height as usize);
    let (colour, depth) = (info.color_type, info.bit_depth);
    if info
        .animation_control()
        .is_some_and(|animation| animation.num_frames > 1)
    {
        return Err("an animation".into());
    }
    if width.saturating_mul(height) > MOST_PIXELS {
        return Err(format!("{width} x {height} pixels"));
    }
    let palette = info
        .palette
        .as_ref()
        .map(|palette| palette.to_vec())
        .unwrap_or_default();
    let size = reader.output_buffer_size();
    if size / LARGEST_RATIO > file.len() {
        return Err(too_short(size, file.len()));
    }
    let mut bytes = vec![0; size];
    let frame = reader.next_frame(&mut bytes).map_err(bad)?;
    reader.finish().map_err(bad)?;
    let bits = depth as usize;
    let mut values = Vec::with_capacity(width * height);
    for row in bytes.chunks_exact(frame.line_size).take(height) {
        append_png_row(row, width, colour, bits, &palette, &mut values)?;
    }
    let shape: &[usize] = match values.len() / (width * height) {
        1 => &[height, width],
        depth => &[height, width, depth],
    };
    ArrayD::from_shape_vec(shape, values).map_err(|error| error.to_string())
}

/// A row as Pillow sees it: bits are 0 or 1, fewer bits than 8 are scaled to 255, colours keep 8 bits only.
fn append_png_row(
    row: &[u8],
    width: usize,
    colour: ColorType,
    bits: usize,
    palette: &[u8],
    values: &mut Vec<f32>,
) -> Result<(), String> {
    let small = |x: usize| {
        let place = x * bits;
        usize::from(row[place / 8]) >> (8 - bits - place % 8) & ((1 << bits) - 1)
    };
    match (colour, bits) {
        (ColorType::Grayscale, 16) => {
            let pixels = row.as_chunks::<2>().0.iter();
            values.extend(pixels.map(|pixel| f32::from(u16::from_be_bytes(*pixel))));
        }
        (ColorType::Grayscale, bits) => {
            let scale = if bits == 1 { 1 } else { 255 / ((1 << bits) - 1) };
            values.extend((0..width).map(|x| (small(x) * scale) as f32));
        }
        (ColorType::Indexed, _) => {
            let colours = palette.as_chunks::<3>().0;
            for x in 0..width {
                let index = small(x);
                let colour = colours
                    .get(index)
                    .ok_or_else(|| format!("colour {index} of {}", colours.len()))?;
                values.extend(colour.map(f32::from));
            }
        }
        (ColorType::GrayscaleAlpha, 16) => {
            for pixel in row.as_chunks::<4>().0 {
                let (grey, alpha) = (f32::from(pixel[0]), f32::from(pixel[2]));
                values.extend([grey, grey, grey, alpha]);
            }
        }
        (ColorType::GrayscaleAlpha, _) => {
            return Err("grey with alpha: NaturalImage2DIO takes grey, RGB and RGBA".into());
        }
        (ColorType::Rgb | ColorType::Rgba, bits) => {
            values.extend(row.iter().step_by(bits / 8).map(|&part| f32::from(part)));
        }
    }
    Ok(())
}

/// The file of a segmentation of one slice (1, y, x).
pub(super) fn write(labels: ArrayView3<u16>, file: &Path) -> Result<Vec<Content>> {
    let format = Format::of(file)?;
    let write = || {
        let (z, y, x) = labels.dim();
        if z != 1 || y == 0 || x == 0 {
            return Err(format!("NaturalImage2DIO writes one slice, not ({z}, {y}, {x})"));
        }
        match format {
            Format::Png => png_bytes(labels),
            Format::Bmp => bmp::bytes(labels.index_axis(Axis(0), 0)),
            Format::Tiff => tiff_write::bytes(labels, &[y, x]),
        }
    };
    let bytes = write().map_err(|reason| Error::bad_file(file, reason))?;
    Ok(vec![(file.to_owned(), bytes)])
}

fn png_bytes(labels: ArrayView3<u16>) -> Result<Vec<u8>, String> {
    let (_, height, width) = labels.dim();
    let small = |size: usize| u32::try_from(size).map_err(|_| "too large for a PNG file".to_owned());
    let values = LabelBytes::of(labels.iter()).big_endian();
    let mut file = Vec::new();
    let mut encoder = Encoder::new(&mut file, small(width)?, small(height)?);
    encoder.set_color(ColorType::Grayscale);
    encoder.set_depth(if values.size == 1 {
        BitDepth::Eight
    } else {
        BitDepth::Sixteen
    });
    let mut writer = encoder.write_header().map_err(|error| error.to_string())?;
    writer
        .write_image_data(&values.bytes)
        .map_err(|error| error.to_string())?;
    writer.finish().map_err(|error| error.to_string())?;
    Ok(file)
}
