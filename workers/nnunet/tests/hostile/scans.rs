//! NIfTI files, written without the crate under test, so that they may lie.

#![allow(dead_code, reason = "each test program uses a part")]

use std::{fs, io::Write, path::Path};

/// A scan of single precision, little-endian.
#[derive(Clone)]
pub struct Scan {
    /// What the header says, (z, y, x).
    pub shape: [usize; 3],
    /// What the header says; 1 leaves the fourth axis out.
    pub channels: usize,
    /// (z, y, x), mm.
    pub spacing: [f32; 3],
    /// NIfTI's `datatype`.
    pub datatype: i16,
    values: Vec<f32>,
}

impl Scan {
    /// Smooth intensities.
    pub fn waves(shape: [usize; 3], phase: f32) -> Scan {
        Scan::of(shape, |[z, y, x]| {
            40.0 * (z as f32 * 0.7 + phase).sin() + 30.0 * (y as f32 * 0.5).cos() + x as f32 + 1.0
        })
    }

    /// Labels 0 to `labels` - 1.
    pub fn blocks(shape: [usize; 3], labels: usize) -> Scan {
        Scan::of(shape, |[z, y, x]| ((z / 2 + y / 3 + x / 3) % labels) as f32)
    }

    fn of(shape: [usize; 3], value: impl Fn([usize; 3]) -> f32) -> Scan {
        let [depth, height, width] = shape;
        let mut values = Vec::new();
        for z in 0..depth {
            for y in 0..height {
                values.extend((0..width).map(|x| value([z, y, x])));
            }
        }
        Scan {
            shape,
            channels: 1,
            spacing: [1.0; 3],
            datatype: 16,
            values,
        }
    }

    /// Changes a voxel.
    pub fn put(&mut self, voxel: usize, value: f32) {
        self.values[voxel] = value;
    }

    /// A voxel of that value.
    pub fn voxel_of(&self, value: f32) -> usize {
        self.values.iter().position(|&v| v == value).unwrap()
    }

    /// The file, not compressed.
    pub fn bytes(&self) -> Vec<u8> {
        let mut file = vec![0u8; 352];
        let mut put = |offset: usize, bytes: &[u8]| file[offset..offset + bytes.len()].copy_from_slice(bytes);
        put(0, &348i32.to_le_bytes());
        let [z, y, x] = self.shape;
        let axes = if self.channels == 1 { 3 } else { 4 };
        for (i, n) in [axes, x, y, z, self.channels, 1, 1, 1].into_iter().enumerate() {
            put(40 + 2 * i, &(n as i16).to_le_bytes());
        }
        put(70, &self.datatype.to_le_bytes());
        put(72, &32i16.to_le_bytes());
        let [z, y, x] = self.spacing;
        for (i, s) in [1.0, x, y, z, 1.0].into_iter().enumerate() {
            put(76 + 4 * i, &s.to_le_bytes());
        }
        put(108, &352f32.to_le_bytes());
        put(123, &[2]);
        put(252, &1i16.to_le_bytes());
        put(344, b"n+1\0");
        file.extend(self.values.iter().flat_map(|value| value.to_le_bytes()));
        file
    }

    /// Writes the file, compressed where its name says so, and the folders above it.
    pub fn write(&self, path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let bytes = self.bytes();
        let compressed = path.extension().is_some_and(|ending| ending == "gz");
        fs::write(path, if compressed { gzip(&bytes) } else { bytes }).unwrap();
    }
}

/// One gzip member.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
