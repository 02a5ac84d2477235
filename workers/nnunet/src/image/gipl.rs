//! GIPL files: a header of fixed length and big-endian voxels. They know no direction.
//! (itkGiplImageIO.cxx)

use std::path::Path;

use super::{
    files::Content,
    geometry::ItkSpace,
    grid::LabelBytes,
    gzip,
    simple_itk::ItkImage,
    voxels::{Scaling, VoxelType, Voxels, byte_size},
};

const HEADER: usize = 256;
/// The two numbers that a GIPL header may end in; ITK writes the first.
const MAGIC: [u32; 2] = [0xefff_e9b0, 0x2ae3_89b8];

/// Reads a file, compressed where `gzipped`.
pub(super) fn read(file: Vec<u8>, gzipped: bool) -> Result<ItkImage, String> {
    let head = if gzipped {
        gzip::head(&file, HEADER).map_err(|error| format!("broken gzip data: {error}"))?
    } else {
        file.iter().copied().take(HEADER).collect()
    };
    let head: &[u8; HEADER] = head
        .as_slice()
        .try_into()
        .map_err(|_| format!("{} bytes are too few for a GIPL header", head.len()))?;
    if !MAGIC.contains(&u32::from_be_bytes(take(head, 252))) {
        return Err("not a GIPL file".into());
    }
    let sizes = [0, 2, 4, 6].map(|offset| u16::from_be_bytes(take(head, offset)));
    // The first axes of no voxels are absent, and so is a fourth of one.
    let axes = sizes[..3].iter().filter(|&&size| size > 0).count() + usize::from(sizes[3] > 1);
    let dims: Vec<usize> = sizes[..axes].iter().map(|&size| size.into()).collect();
    if dims.is_empty() || dims.contains(&0) {
        return Err(format!("its shape is {sizes:?}"));
    }
    let voxel_type = match u16::from_be_bytes(take(head, 8)) {
        1 | 8 => VoxelType::U8,
        7 => VoxelType::I8,
        15 => VoxelType::I16,
        16 => VoxelType::U16,
        64 => VoxelType::F32,
        65 => VoxelType::F64,
        other => return Err(format!("GIPL type {other} is none that ITK reads")),
    };
    let mut space = ItkSpace::identity(axes);
    for axis in 0..axes {
        space.spacing[axis] = f32::from_be_bytes(take(head, 10 + 4 * axis)).into();
        space.origin[axis] = f64::from_be_bytes(take(head, 204 + 8 * axis));
    }
    let space = space.checked()?;
    let content = if gzipped {
        gzip::inflate(&file, byte_size(&dims, voxel_type)?.saturating_add(HEADER))?
    } else {
        file
    };
    Ok(ItkImage {
        dims,
        space,
        voxels: Voxels {
            voxel_type,
            big_endian: true,
            scaling: Scaling::Itk,
            content,
            start: HEADER,
        },
    })
}

fn take<const N: usize>(head: &[u8; HEADER], offset: usize) -> [u8; N] {
    std::array::from_fn(|i| head[offset + i])
}

/// The file of a segmentation. Like ITK's, it has three axes even of a 2D image, and no direction.
pub(super) fn write(
    dims: &[usize],
    space: &ItkSpace,
    values: LabelBytes,
    file: &Path,
) -> Result<Vec<Content>, String> {
    let mut bytes = vec![0; HEADER];
    let mut put = |offset: usize, field: &[u8]| bytes[offset..offset + field.len()].copy_from_slice(field);
    for axis in 0..4 {
        let dim = dims.get(axis).copied().unwrap_or(1);
        let dim =
            u16::try_from(dim).map_err(|_| format!("an axis of {dim} voxels does not fit a GIPL file"))?;
        put(2 * axis, &dim.to_be_bytes());
        let spacing = space.spacing.get(axis).copied().unwrap_or(1.0);
        put(10 + 4 * axis, &(spacing as f32).to_be_bytes());
        let origin = space.origin.get(axis).copied().unwrap_or(0.0);
        put(204 + 8 * axis, &origin.to_be_bytes());
    }
    let code: u16 = if values.size == 1 { 8 } else { 16 };
    put(8, &code.to_be_bytes());
    put(26, b"No Patient Information");
    put(252, &MAGIC[0].to_be_bytes());
    bytes.extend(values.big_endian().bytes);
    if file.to_string_lossy().ends_with(".gz") {
        bytes = gzip::deflate(&bytes)?;
    }
    Ok(vec![(file.to_owned(), bytes)])
}
