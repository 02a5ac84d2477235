//! The pixels of a TIFF page: decompressed, unpredicted, as intensities.
//! (TIFF 6.0; TIFF Technical Note 3 for the floating point predictor)

use half::f16;
use weezl::{BitOrder, LzwStatus, decode::Decoder};

use super::{
    gzip,
    tiff::Page,
    voxels::{Scaling, VoxelType, too_short},
};

/// What a sample is.
#[derive(Clone, Copy, PartialEq)]
enum Sample {
    Whole(VoxelType),
    Half,
    /// Unsigned integers of so many bits, packed into bytes row by row.
    Packed(usize),
}

impl Sample {
    fn of(page: &Page) -> Result<Sample, String> {
        Ok(match (page.format, page.bits) {
            (1, 8) => Sample::Whole(VoxelType::U8),
            (1, 16) => Sample::Whole(VoxelType::U16),
            (1, 32) => Sample::Whole(VoxelType::U32),
            (1, 64) => Sample::Whole(VoxelType::U64),
            (2, 8) => Sample::Whole(VoxelType::I8),
            (2, 16) => Sample::Whole(VoxelType::I16),
            (2, 32) => Sample::Whole(VoxelType::I32),
            (2, 64) => Sample::Whole(VoxelType::I64),
            (3, 16) => Sample::Half,
            (3, 32) => Sample::Whole(VoxelType::F32),
            (3, 64) => Sample::Whole(VoxelType::F64),
            (1, bits @ 1..=31) => Sample::Packed(bits),
            (format, bits) => {
                return Err(format!(
                    "samples of format {format} with {bits} bits are not supported"
                ));
            }
        })
    }

    /// Bytes of a row of so many samples.
    fn row_bytes(self, samples: usize) -> Option<usize> {
        match self {
            Sample::Whole(voxel_type) => samples.checked_mul(voxel_type.bytes()),
            Sample::Half => samples.checked_mul(2),
            Sample::Packed(bits) => Some(samples.checked_mul(bits)?.div_ceil(8)),
        }
    }
}

/// How much larger its inflated bytes can be than what a compression stores.
fn largest_ratio(compression: u64) -> Result<usize, String> {
    Ok(match compression {
        1 => 1,
        // A string of the longest table in a code of 12 bits.
        5 => 4096 * 8 / 9,
        8 | 32946 => 1032,
        // 128 bytes of two.
        32773 => 64,
        other => {
            let name = match other {
                2..=4 => "CCITT fax",
                6 | 7 => "JPEG",
                34925 => "LZMA",
                50000 | 34926 => "Zstandard",
                50001 | 34927 => "WebP",
                _ => "this",
            };
            return Err(format!(
                "compression {other} ({name}) is not supported; none, LZW, deflate and PackBits are"
            ));
        }
    })
}

/// Adds the page's intensities to `out` in the order of [`Page::shape`].
pub(super) fn decode(page: &Page, file: &[u8], out: &mut Vec<f32>) -> Result<(), String> {
    let sample = Sample::of(page)?;
    let stored: usize = page
        .chunks
        .iter()
        .map(|&(_, bytes)| bytes)
        .fold(0, usize::saturating_add);
    let (planes, samples) = if page.separate {
        (page.samples, 1)
    } else {
        (1, page.samples)
    };
    let across = page.width.div_ceil(page.chunk_width);
    let down = page.length.div_ceil(page.chunk_length);
    let row_bytes = |width: usize| sample.row_bytes(width.checked_mul(samples)?);
    let size = row_bytes(page.width)
        .and_then(|row| row.checked_mul(page.length)?.checked_mul(planes))
        .ok_or("more pixels than can be addressed")?;
    let ratio = largest_ratio(page.compression)?;
    if stored > file.len() || size / ratio > stored {
        return Err(too_short(size, stored.min(file.len())));
    }
    if page.photometric == 6 {
        return Err("YCbCr colours are not supported".into());
    }
    if page.chunks.len() < across.saturating_mul(down).saturating_mul(planes) {
        return Err(format!("{} strips or tiles are too few", page.chunks.len()));
    }
    // Zeroed memory costs nothing before it is written, so that a header's promise alone takes none.
    let mut pixels = vec![0.0; page.width * page.length * samples * planes];
    let row_values = page.width * samples;
    for (number, &(offset, bytes)) in page.chunks.iter().take(across * down * planes).enumerate() {
        let (plane, place) = (number / (across * down), number % (across * down));
        let (top, left) = (
            place / across * page.chunk_length,
            place % across * page.chunk_width,
        );
        let rows = page.chunk_length.min(page.length - top);
        let stored_rows = if page.tiled { page.chunk_length } else { rows };
        let row_bytes = row_bytes(page.chunk_width).ok_or("a strip too large to address")?;
        let expected = row_bytes
            .checked_mul(stored_rows)
            .ok_or("a strip too large to address")?;
        if expected / ratio > bytes {
            return Err(too_short(expected, bytes));
        }
        let stored = offset
            .checked_add(bytes)
            .and_then(|end| file.get(offset..end))
            .ok_or("a strip or tile lies beyond its end")?;
        let mut chunk = decompress(page, stored, expected)?;
        let shown = page.chunk_width.min(page.width - left) * samples;
        for (row, bytes) in chunk.chunks_exact_mut(row_bytes).take(rows).enumerate() {
            unpredict(page, sample, samples, bytes)?;
            let first = (plane * page.length + top + row) * row_values + left * samples;
            values(sample, bytes, &mut pixels[first..first + shown]);
        }
    }
    if out.is_empty() {
        *out = pixels;
    } else {
        out.extend(pixels);
    }
    Ok(())
}

fn decompress(page: &Page, stored: &[u8], expected: usize) -> Result<Vec<u8>, String> {
    let reversed: Vec<u8>;
    let stored = if page.reversed_bits {
        reversed = stored.iter().map(|byte| byte.reverse_bits()).collect();
        &reversed
    } else {
        stored
    };
    let bytes = match page.compression {
        1 => stored[..expected.min(stored.len())].to_vec(),
        5 => lzw(stored, expected)?,
        32773 => pack_bits(stored, expected),
        _ => gzip::inflate_zlib(stored, expected)?,
    };
    if bytes.len() < expected {
        return Err(too_short(expected, bytes.len()));
    }
    Ok(bytes)
}

fn lzw(stored: &[u8], expected: usize) -> Result<Vec<u8>, String> {
    let mut decoder = Decoder::with_tiff_size_switch(BitOrder::Msb, 8);
    let mut bytes = vec![0; expected];
    let (mut read, mut written) = (0, 0);
    while written < expected {
        let result = decoder.decode_bytes(&stored[read..], &mut bytes[written..]);
        read += result.consumed_in;
        written += result.consumed_out;
        match result.status {
            Ok(LzwStatus::Ok) if result.consumed_in + result.consumed_out > 0 => {}
            Ok(_) => break,
            Err(error) => return Err(format!("broken LZW data: {error}")),
        }
    }
    bytes.truncate(written);
    Ok(bytes)
}

/// As many bytes as there are, `expected` at most.
fn pack_bits(mut stored: &[u8], expected: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < expected
        && let [length, rest @ ..] = stored
    {
        let length = *length as i8;
        stored = rest;
        match length {
            0.. => {
                let (literal, rest) = stored.split_at((length as usize + 1).min(stored.len()));
                bytes.extend_from_slice(literal);
                stored = rest;
            }
            i8::MIN => {}
            _ => {
                let [byte, rest @ ..] = stored else { break };
                bytes.extend(std::iter::repeat_n(*byte, (1 - isize::from(length)) as usize));
                stored = rest;
            }
        }
    }
    bytes.truncate(expected);
    bytes
}

/// Undoes the predictor in a row, and leaves its numbers little-endian.
fn unpredict(page: &Page, sample: Sample, samples: usize, row: &mut [u8]) -> Result<(), String> {
    let size = match sample {
        Sample::Whole(voxel_type) => voxel_type.bytes(),
        Sample::Half => 2,
        Sample::Packed(_) if page.predictor > 1 => {
            return Err(format!("predictor {} with {} bits", page.predictor, page.bits));
        }
        Sample::Packed(_) => return Ok(()),
    };
    if page.big_endian && page.predictor != 3 {
        row.chunks_exact_mut(size).for_each(<[u8]>::reverse);
    }
    macro_rules! add_up {
        ($type:ty) => {{
            let numbers = row.as_chunks_mut::<{ size_of::<$type>() }>().0;
            for i in samples..numbers.len() {
                let sum = <$type>::from_le_bytes(numbers[i - samples])
                    .wrapping_add(<$type>::from_le_bytes(numbers[i]));
                numbers[i] = sum.to_le_bytes();
            }
        }};
    }
    match (page.predictor, size) {
        (1, _) => {}
        (2, 1) => add_up!(u8),
        (2, 2) => add_up!(u16),
        (2, 4) => add_up!(u32),
        (2, _) => add_up!(u64),
        (3, _) if page.format == 3 => {
            for i in samples..row.len() {
                row[i] = row[i].wrapping_add(row[i - samples]);
            }
            // The first bytes of all numbers stand first, the highest byte being the first.
            let shuffled = row.to_vec();
            let numbers = row.len() / size;
            for (i, byte) in row.iter_mut().enumerate() {
                *byte = shuffled[(size - 1 - i % size) * numbers + i / size];
            }
        }
        (other, _) => return Err(format!("predictor {other} is not supported")),
    }
    Ok(())
}

/// The first numbers of a row.
fn values(sample: Sample, row: &[u8], out: &mut [f32]) {
    match sample {
        Sample::Whole(voxel_type) => voxel_type.decode(row, false, Scaling::Itk, out),
        Sample::Half => {
            for (out, bytes) in out.iter_mut().zip(row.as_chunks::<2>().0) {
                *out = f16::from_le_bytes(*bytes).to_f32();
            }
        }
        Sample::Packed(bits) => {
            let mut bit = 0;
            for out in out {
                let mut number = 0u32;
                for _ in 0..bits {
                    number = number << 1 | u32::from(row[bit / 8] >> (7 - bit % 8) & 1);
                    bit += 1;
                }
                *out = number as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pack_bits_of_the_specification() {
        // Apple's example in the TIFF specification's reference.
        let packed = [
            0xFE, 0xAA, 0x02, 0x80, 0x00, 0x2A, 0xFD, 0xAA, 0x03, 0x80, 0x00, 0x2A, 0x22, 0xF7, 0xAA,
        ];
        let unpacked = [
            0xAA, 0xAA, 0xAA, 0x80, 0x00, 0x2A, 0xAA, 0xAA, 0xAA, 0xAA, 0x80, 0x00, 0x2A, 0x22, 0xAA, 0xAA,
            0xAA, 0xAA, 0xAA, 0xAA, 0xAA, 0xAA, 0xAA, 0xAA,
        ];
        assert_eq!(pack_bits(&packed, 100), unpacked);
        assert_eq!(pack_bits(&packed, 4), unpacked[..4]);
    }
}
