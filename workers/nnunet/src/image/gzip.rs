//! Deflate, as gzip (also of several members) or zlib wrap it, without trusting a size that a file promises.

use std::io::{self, Read};

use flate2::read::{MultiGzDecoder, ZlibDecoder};
use libdeflater::{CompressionLvl, Compressor, Decompressor};

use super::voxels::too_short;

/// Deflate packs at most 1032 bytes into one (zlib's technical notes).
const LARGEST_RATIO: usize = 1032;
/// What SimpleITK writes with.
const LEVEL: i32 = 6;

/// True for the bytes of a gzip file.
pub(super) fn is_gzip(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x1f, 0x8b])
}

/// The first `length` inflated bytes, or fewer where there are no more.
pub(super) fn head(compressed: &[u8], length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(length);
    MultiGzDecoder::new(compressed)
        .take(length as u64)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The first `expected` inflated bytes; the error says what is wrong. Checksums are checked to the end.
pub(super) fn inflate(compressed: &[u8], expected: usize) -> Result<Vec<u8>, String> {
    check_ratio(compressed, expected)?;
    // The usual file is one member of just the expected size: its last four bytes say so.
    let claimed = compressed
        .last_chunk()
        .map_or(0, |bytes| u32::from_le_bytes(*bytes));
    if claimed == expected as u32 {
        let mut bytes = vec![0; expected];
        if Decompressor::new().gzip_decompress(compressed, &mut bytes) == Ok(expected) {
            return Ok(bytes);
        }
    }
    first(MultiGzDecoder::new(compressed), expected, "gzip")
}

/// As [`inflate`], of what zlib wrapped.
pub(super) fn inflate_zlib(compressed: &[u8], expected: usize) -> Result<Vec<u8>, String> {
    check_ratio(compressed, expected)?;
    first(ZlibDecoder::new(compressed), expected, "zlib")
}

fn check_ratio(compressed: &[u8], expected: usize) -> Result<(), String> {
    if expected / LARGEST_RATIO > compressed.len() {
        let length = compressed.len();
        return Err(format!(
            "its header promises {expected} bytes, more than {length} compressed bytes can hold"
        ));
    }
    Ok(())
}

fn first(mut decoder: impl Read, expected: usize, wrapper: &str) -> Result<Vec<u8>, String> {
    let broken = |error: io::Error| format!("broken {wrapper} data: {error}");
    let mut bytes = Vec::new();
    decoder
        .by_ref()
        .take(expected as u64)
        .read_to_end(&mut bytes)
        .map_err(broken)?;
    if bytes.len() < expected {
        return Err(too_short(expected, bytes.len()));
    }
    io::copy(&mut decoder, &mut io::sink()).map_err(broken)?;
    Ok(bytes)
}

/// One gzip member, without a time or a name in it.
pub(super) fn deflate(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let mut compressor = compressor()?;
    let mut compressed = vec![0; compressor.gzip_compress_bound(bytes.len())];
    let length = compressor
        .gzip_compress(bytes, &mut compressed)
        .map_err(|error| error.to_string())?;
    compressed.truncate(length);
    Ok(compressed)
}

/// As [`deflate`], wrapped as zlib does.
pub(super) fn deflate_zlib(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let mut compressor = compressor()?;
    let mut compressed = vec![0; compressor.zlib_compress_bound(bytes.len())];
    let length = compressor
        .zlib_compress(bytes, &mut compressed)
        .map_err(|error| error.to_string())?;
    compressed.truncate(length);
    Ok(compressed)
}

fn compressor() -> Result<Compressor, String> {
    CompressionLvl::new(LEVEL)
        .map(Compressor::new)
        .map_err(|error| format!("{error:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_members_read_as_one() {
        let mut compressed = deflate(b"hello ").unwrap();
        compressed.extend(deflate(b"world").unwrap());
        assert_eq!(inflate(&compressed, 11).unwrap(), b"hello world");
        assert_eq!(inflate(&compressed, 8).unwrap(), b"hello wo");
        assert_eq!(head(&compressed, 20).unwrap(), b"hello world");
    }

    #[test]
    fn zlib_reads_back() {
        let mut compressed = deflate_zlib(b"hello world").unwrap();
        assert_eq!(inflate_zlib(&compressed, 11).unwrap(), b"hello world");
        assert_eq!(inflate_zlib(&compressed, 5).unwrap(), b"hello");
        assert!(inflate_zlib(&compressed, 12).unwrap_err().contains("holds 11"));
        let checksum = compressed.len() - 1;
        compressed[checksum] ^= 1;
        assert!(inflate_zlib(&compressed, 11).unwrap_err().contains("broken"));
    }

    #[test]
    fn promises_and_damage_are_refused() {
        let mut compressed = deflate(b"hello").unwrap();
        assert!(inflate(&compressed, 1 << 40).unwrap_err().contains("promises"));
        assert!(inflate(&compressed, 6).unwrap_err().contains("holds 5"));
        let checksum = compressed.len() - 6;
        compressed[checksum] ^= 1;
        assert!(inflate(&compressed, 5).unwrap_err().contains("broken"));
    }
}
