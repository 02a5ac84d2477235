//! BMP files, as Pillow reads and writes them. (BmpImagePlugin.py)

use ndarray::{ArrayD, ArrayView2};

use super::voxels::too_short;

/// Bytes of the header that names the file's parts.
const FILE_HEADER: usize = 14;
/// Bytes of the header that Pillow writes behind it.
const WRITTEN_HEADER: usize = 40;
/// 96 dots per inch, in dots per metre.
const RESOLUTION: u32 = 3780;

/// How a pixel becomes values.
enum Pixels {
    /// An index into the palette.
    Palette(Vec<[u8; 3]>),
    /// As it stands.
    Grey,
    /// 0 or 1.
    BlackAndWhite,
    /// The widths in bits of blue, green and red, blue being the lowest.
    Packed([u32; 3]),
    /// Which byte holds red, green, blue, and alpha where there is one.
    Bytes(Vec<usize>),
}

/// Reads a file: (y, x) or (y, x, colours). `most_pixels` bounds what a header may promise.
pub(super) fn read(file: &[u8], most_pixels: usize) -> Result<ArrayD<f32>, String> {
    let number = |offset: usize, size: usize| -> Result<usize, String> {
        let bytes = file.get(offset..offset + size).ok_or("its header is cut short")?;
        Ok(bytes
            .iter()
            .rev()
            .fold(0, |number, &byte| number << 8 | usize::from(byte)))
    };
    if !file.starts_with(b"BM") {
        return Err("not a BMP file".into());
    }
    let mut data = number(10, 4)?;
    let header = number(14, 4)?;
    let old = header == 12;
    if !old && ![40, 52, 56, 64, 108, 124].contains(&header) {
        return Err(format!("BMP headers of {header} bytes are not supported"));
    }
    let at = |offset: usize| 18 + offset;
    let (width, height, bits) = if old {
        (number(at(0), 2)?, number(at(2), 2)?, number(at(6), 2)?)
    } else {
        (number(at(0), 4)?, number(at(4), 4)?, number(at(10), 2)?)
    };
    // A negative height stands for rows from the top.
    let from_top = !old && height >> 24 == 0xff;
    let height = if from_top { (1 << 32) - height } else { height };
    let compression = if old { 0 } else { number(at(12), 4)? };
    let colours = match if old { 0 } else { number(at(28), 4)? } {
        0 => 1 << bits.min(16),
        colours => colours,
    };
    if width == 0 || height == 0 || width.saturating_mul(height) > most_pixels {
        return Err(format!("{width} x {height} pixels"));
    }
    let mut palette_start = FILE_HEADER + header;
    let entry = if old { 3 } else { 4 };
    if data == palette_start && bits <= 8 {
        data += entry * colours;
    }
    let pixels = match (bits, compression) {
        (1 | 4 | 8, 0) => {
            if colours > 1 << 16 {
                return Err(format!("a palette of {colours} colours"));
            }
            let palette: Vec<[u8; 3]> = file
                .get(palette_start..)
                .unwrap_or_default()
                .chunks(entry)
                .take(colours)
                .filter_map(|entry| entry.first_chunk().copied())
                .map(|[blue, green, red]| [red, green, blue])
                .collect();
            greys(palette, colours, bits)?
        }
        (16, 0) => Pixels::Packed([5, 5, 5]),
        (24, 0) => Pixels::Bytes(vec![2, 1, 0]),
        (32, 0) => Pixels::Bytes(vec![2, 1, 0]),
        (16 | 24 | 32, 3) => {
            let mask = |i: usize| number(at(36) + 4 * i, 4);
            let alpha = if header >= 56 { mask(3)? } else { 0 };
            if header == 40 {
                palette_start += 12;
            }
            masked(bits, [mask(0)?, mask(1)?, mask(2)?, alpha])?
        }
        (_, 1 | 2) => return Err("run-length encoded BMP files are not supported".into()),
        _ => {
            return Err(format!(
                "{bits} bits with compression {compression} are not supported"
            ));
        }
    };
    // Without a place, pixels follow what has been read.
    let data = if data == 0 { palette_start } else { data };
    let stride = (width * bits).div_ceil(32) * 4;
    let end = stride.saturating_mul(height).saturating_add(data);
    let Some(rows) = file.get(data..end) else {
        return Err(too_short(end, file.len()));
    };
    let mut values = Vec::new();
    for number in 0..height {
        let number = if from_top { number } else { height - 1 - number };
        pixels.append(&rows[number * stride..][..stride], width, bits, &mut values)?;
    }
    let depth = values.len() / (width * height);
    let shape: &[usize] = match depth {
        1 => &[height, width],
        depth => &[height, width, depth],
    };
    ArrayD::from_shape_vec(shape, values).map_err(|error| error.to_string())
}

/// A palette that only counts up is none, for Pillow.
fn greys(palette: Vec<[u8; 3]>, colours: usize, bits: usize) -> Result<Pixels, String> {
    let grey = |(index, colour): (usize, &[u8; 3])| {
        let grey = if colours == 2 { index * 255 } else { index };
        colour.iter().all(|&part| usize::from(part) == grey)
    };
    let counts_up = palette.len() == colours && palette.iter().enumerate().all(grey);
    match (counts_up, bits) {
        (false, _) => Ok(Pixels::Palette(palette)),
        (true, 8) if colours > 2 => Ok(Pixels::Grey),
        (true, 1) if colours <= 2 => Ok(Pixels::BlackAndWhite),
        // Pillow would read bytes for pixels.
        _ => Err(format!("{colours} greys in {bits} bits are not supported")),
    }
}

/// The layouts that Pillow knows.
fn masked(bits: usize, masks: [usize; 4]) -> Result<Pixels, String> {
    const BYTE: usize = 0xff;
    let [red, green, blue, alpha] = masks;
    Ok(match (bits, [red, green, blue], alpha) {
        (16, [0xf800, 0x7e0, 0x1f], _) => Pixels::Packed([5, 6, 5]),
        (16, [0x7c00, 0x3e0, 0x1f], _) => Pixels::Packed([5, 5, 5]),
        (24, [0xff_0000, 0xff00, 0xff], _) => Pixels::Bytes(vec![2, 1, 0]),
        (32, [0, 0, 0], 0) => Pixels::Bytes(vec![2, 1, 0, 3]),
        (32, parts, alpha) => {
            let byte = |mask: usize| (0..4).find(|byte| BYTE << (8 * byte) == mask);
            let parts: Option<Vec<usize>> = parts.into_iter().map(byte).collect();
            let known = [[2, 1, 0], [3, 2, 1], [3, 1, 0], [0, 1, 2]];
            match parts {
                Some(mut parts) if known.iter().any(|known| parts == known) => {
                    if alpha != 0 {
                        parts.push(byte(alpha).ok_or("an alpha mask of no byte")?);
                    }
                    Pixels::Bytes(parts)
                }
                _ => return Err("a layout of colours that is not supported".into()),
            }
        }
        _ => return Err("a layout of colours that is not supported".into()),
    })
}

impl Pixels {
    fn append(&self, row: &[u8], width: usize, bits: usize, values: &mut Vec<f32>) -> Result<(), String> {
        let index = |x: usize| {
            let place = x * bits;
            usize::from(row[place / 8]) >> (8 - bits - place % 8) & ((1 << bits) - 1)
        };
        let bytes = bits / 8;
        match self {
            Pixels::Palette(palette) => {
                for x in 0..width {
                    let index = index(x);
                    let colour = palette
                        .get(index)
                        .ok_or_else(|| format!("colour {index} of {}", palette.len()))?;
                    values.extend(colour.map(f32::from));
                }
            }
            Pixels::Grey | Pixels::BlackAndWhite => {
                values.extend((0..width).map(|x| index(x) as f32));
            }
            Pixels::Packed(widths) => {
                for pixel in row.as_chunks::<2>().0.iter().take(width) {
                    let pixel = u32::from(u16::from_le_bytes(*pixel));
                    let mut parts = [0.0; 3];
                    let mut shift = 0;
                    for (part, width) in parts.iter_mut().rev().zip(widths) {
                        let most = (1 << width) - 1;
                        *part = ((pixel >> shift & most) * 255 / most) as f32;
                        shift += width;
                    }
                    values.extend(parts);
                }
            }
            Pixels::Bytes(parts) => {
                for pixel in row.chunks_exact(bytes).take(width) {
                    values.extend(parts.iter().map(|&part| f32::from(pixel[part])));
                }
            }
        }
        Ok(())
    }
}

/// A file of grey pixels (y, x), as Pillow writes one.
pub(super) fn bytes(labels: ArrayView2<u16>) -> Result<Vec<u8>, String> {
    let (height, width) = labels.dim();
    if labels.iter().any(|&label| label >= 255) {
        return Err("a BMP file holds no labels of 255 or more".into());
    }
    let stride = width.next_multiple_of(4);
    let start = FILE_HEADER + WRITTEN_HEADER + 4 * 256;
    let small = |size: usize| u32::try_from(size).map_err(|_| "too large for a BMP file".to_owned());
    let pixels = stride.checked_mul(height).ok_or("too large for a BMP file")?;
    let mut file = b"BM".to_vec();
    for word in [
        small(start + pixels)?,
        0,
        start as u32,
        WRITTEN_HEADER as u32,
        small(width)?,
        small(height)?,
    ] {
        file.extend(word.to_le_bytes());
    }
    file.extend([1, 0, 8, 0]);
    for word in [0, small(pixels)?, RESOLUTION, RESOLUTION, 256, 256] {
        file.extend(word.to_le_bytes());
    }
    file.extend((0..=255u8).flat_map(|grey| [grey, grey, grey, 0]));
    for row in labels.rows().into_iter().rev() {
        file.extend(row.iter().map(|&label| label as u8));
        file.resize(file.len() + stride - width, 0);
    }
    Ok(file)
}
