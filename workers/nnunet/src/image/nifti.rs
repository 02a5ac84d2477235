//! NIfTI-1 files: header, voxels, writing. (nifti1.h of the NIfTI-1 standard)

use super::{
    gzip,
    voxels::{VoxelType, byte_size, too_short},
};

/// Bytes of a NIfTI-1 header with its (empty) list of extensions.
const HEADER: usize = 352;

/// A header, in the file's own terms.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Header {
    /// Voxels per axis, x first; as many as the file says there are axes.
    pub dims: Vec<usize>,
    /// What the voxels are.
    pub voxel_type: VoxelType,
    /// Bytes are swapped.
    pub big_endian: bool,
    /// Where the voxels begin in the (inflated) file.
    pub offset: usize,
    /// `pixdim`: [0] is qfac, then the spacing per axis.
    pub pixdim: [f32; 8],
    /// `scl_slope`.
    pub slope: f32,
    /// `scl_inter`.
    pub intercept: f32,
    /// `xyzt_units`.
    pub units: u8,
    /// `qform_code`.
    pub qform_code: i16,
    /// `sform_code`.
    pub sform_code: i16,
    /// `quatern_b, c, d`.
    pub quaternion: [f32; 3],
    /// `qoffset_x, y, z`.
    pub quaternion_offset: [f32; 3],
    /// `srow_x, y, z`.
    pub rows: [[f32; 4]; 3],
}

/// Reads `.nii` and `.nii.gz`, told apart by content: the header, and the inflated content from its first byte
/// to at least the last voxel's.
pub(super) fn read(file: Vec<u8>) -> Result<(Header, Vec<u8>), String> {
    if !gzip::is_gzip(&file) {
        let header = Header::parse(&file)?;
        if file.len() < header.end() {
            return Err(too_short(header.end(), file.len()));
        }
        return Ok((header, file));
    }
    let head = gzip::head(&file, HEADER).map_err(|error| format!("broken gzip data: {error}"))?;
    let header = Header::parse(&head)?;
    let content = gzip::inflate(&file, header.end())?;
    Ok((header, content))
}

/// Picks numbers out of a header in the file's byte order.
struct Fields<'a> {
    bytes: &'a [u8; HEADER],
    big_endian: bool,
}

impl Fields<'_> {
    fn take<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut field: [u8; N] = std::array::from_fn(|i| self.bytes[offset + i]);
        if self.big_endian {
            field.reverse();
        }
        field
    }

    fn i16(&self, offset: usize) -> i16 {
        i16::from_le_bytes(self.take(offset))
    }

    fn f32(&self, offset: usize) -> f32 {
        f32::from_le_bytes(self.take(offset))
    }

    fn f32s<const N: usize>(&self, offset: usize) -> [f32; N] {
        std::array::from_fn(|i| self.f32(offset + 4 * i))
    }
}

impl Header {
    /// A header for unsigned integers of `bytes_per_voxel`, without any geometry.
    pub fn new(dims: &[usize], voxel_type: VoxelType) -> Header {
        Header {
            dims: dims.to_vec(),
            voxel_type,
            big_endian: false,
            offset: HEADER,
            pixdim: [1.0; 8],
            slope: 1.0,
            intercept: 0.0,
            units: 0,
            qform_code: 0,
            sform_code: 0,
            quaternion: [0.0; 3],
            quaternion_offset: [0.0; 3],
            rows: [[0.0; 4]; 3],
        }
    }

    fn parse(file: &[u8]) -> Result<Header, String> {
        // A file may end right after the header proper, so the four bytes after it are optional here.
        let Some(proper) = file.get(..348) else {
            return Err(format!("{} bytes are too few for a NIfTI-1 header", file.len()));
        };
        let mut bytes = [0; HEADER];
        bytes[..348].copy_from_slice(proper);
        let size = |big_endian| {
            i32::from_le_bytes(
                Fields {
                    bytes: &bytes,
                    big_endian,
                }
                .take(0),
            )
        };
        let big_endian = match (size(false), size(true)) {
            (348, _) => false,
            (_, 348) => true,
            (540, _) | (_, 540) => return Err("a NIfTI-2 file; only NIfTI-1 is supported".into()),
            _ => return Err("not a NIfTI file".into()),
        };
        if &bytes[344..347] != b"n+1" {
            return Err("not a single-file NIfTI-1 (.hdr and .img pairs are not supported)".into());
        }
        let fields = Fields {
            bytes: &bytes,
            big_endian,
        };
        let axes = fields.i16(40);
        if !(1..=7).contains(&axes) {
            return Err(format!("dim[0] is {axes}, expected 1 to 7"));
        }
        let mut dims = Vec::new();
        for axis in 1..=axes as usize {
            let dim = fields.i16(40 + 2 * axis);
            dims.push(
                usize::try_from(dim)
                    .ok()
                    .filter(|&dim| dim > 0)
                    .ok_or_else(|| format!("dim[{axis}] is {dim}, expected at least 1"))?,
            );
        }
        let voxel_type = VoxelType::from_code(fields.i16(70))?;
        let offset = fields.f32(108);
        // Python's libraries and ITK read a 0 here as right after the header.
        let offset = if offset == 0.0 { HEADER as f32 } else { offset };
        if !(348.0..1e9).contains(&offset) {
            return Err(format!("vox_offset is {offset}, expected at least {HEADER}"));
        }
        let header = Header {
            dims,
            voxel_type,
            big_endian,
            offset: offset as usize,
            pixdim: fields.f32s(76),
            slope: fields.f32(112),
            intercept: fields.f32(116),
            units: bytes[123],
            qform_code: fields.i16(252),
            sform_code: fields.i16(254),
            quaternion: fields.f32s(256),
            quaternion_offset: fields.f32s(268),
            rows: std::array::from_fn(|row| fields.f32s(280 + 16 * row)),
        };
        header.checked_end().ok_or("more voxels than can be addressed")?;
        Ok(header)
    }

    /// The size of the inflated file up to its last voxel.
    fn end(&self) -> usize {
        self.checked_end().unwrap_or(usize::MAX)
    }

    fn checked_end(&self) -> Option<usize> {
        byte_size(&self.dims, self.voxel_type)
            .ok()?
            .checked_add(self.offset)
    }

    /// The header as little-endian bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        let mut put =
            |offset: usize, field: &[u8]| bytes[offset..offset + field.len()].copy_from_slice(field);
        put(0, &348i32.to_le_bytes());
        put(38, b"r");
        put(40, &(self.dims.len() as i16).to_le_bytes());
        for axis in 0..7 {
            let dim = self.dims.get(axis).map_or(1, |&dim| dim as i16);
            put(42 + 2 * axis, &dim.to_le_bytes());
        }
        put(70, &self.voxel_type.code().to_le_bytes());
        put(72, &(8 * self.voxel_type.bytes() as i16).to_le_bytes());
        for (i, value) in self.pixdim.iter().enumerate() {
            put(76 + 4 * i, &value.to_le_bytes());
        }
        put(108, &(HEADER as f32).to_le_bytes());
        put(112, &self.slope.to_le_bytes());
        put(116, &self.intercept.to_le_bytes());
        put(123, &[self.units]);
        put(252, &self.qform_code.to_le_bytes());
        put(254, &self.sform_code.to_le_bytes());
        let transform = self
            .quaternion
            .iter()
            .chain(&self.quaternion_offset)
            .chain(self.rows.as_flattened());
        for (i, value) in transform.enumerate() {
            put(256 + 4 * i, &value.to_le_bytes());
        }
        put(344, b"n+1\0");
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        let mut header = Header::new(&[2, 3, 4], VoxelType::U16);
        header.rows[1] = [1.0, -2.0, 3.5, 4.0];
        header.quaternion[2] = 0.5;
        header.sform_code = 1;
        header.units = 10;
        header
    }

    #[test]
    fn a_header_reads_back() {
        assert_eq!(Header::parse(&header().bytes()).unwrap(), header());
    }

    #[test]
    fn a_header_that_promises_too_much_is_refused() {
        let huge = Header::new(&[30000, 30000, 30000, 30000], VoxelType::F64).bytes();
        for file in [gzip::deflate(&huge).unwrap(), huge] {
            assert!(read(file).unwrap_err().contains("promises"));
        }
    }

    proptest::proptest! {
        #[test]
        fn no_header_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 340..400)) {
            let mut bytes = bytes;
            let _ = Header::parse(&bytes);
            bytes[..4].copy_from_slice(&348i32.to_le_bytes());
            bytes.truncate(bytes.len().max(347));
            if bytes.len() >= 347 { bytes[344..347].copy_from_slice(b"n+1"); }
            let _ = Header::parse(&bytes);
        }
    }
}
