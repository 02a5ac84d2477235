//! `rounds overlay`: a segmentation over its scan.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use nnunet::{
    figures::{Overlay as Picture, write_overlay},
    image::Reader,
};

/// Draw a segmentation over its scan as a PNG
#[derive(Args)]
pub struct Overlay {
    /// The scan, in any format that nnU-Net reads
    scan: PathBuf,
    /// The segmentation of the scan
    segmentation: PathBuf,
    /// A reference segmentation, drawn as a contour
    #[arg(long)]
    reference: Option<PathBuf>,
    /// Where the picture goes
    #[arg(long, short)]
    output: PathBuf,
}

impl Overlay {
    /// Reads, draws, writes.
    pub fn run(self) -> anyhow::Result<()> {
        draw(
            &self.scan,
            &self.segmentation,
            self.reference.as_deref(),
            &self.output,
        )?;
        println!("{}", self.output.display());
        Ok(())
    }
}

/// Draws `segmentation` (and the contour of `reference`) over `scan` into the PNG `output`.
pub fn draw(
    scan: &std::path::Path,
    segmentation: &std::path::Path,
    reference: Option<&std::path::Path>,
    output: &std::path::Path,
) -> anyhow::Result<()> {
    let read = |file: &std::path::Path| {
        reader_of(file)?
            .read_segmentation(file)
            .with_context(|| format!("{}", file.display()))
    };
    let image = reader_of(scan)?.read_images(&[scan.to_owned()])?;
    let segmentation = read(segmentation)?;
    let reference = reference.map(read).transpose()?;
    write_overlay(&Picture::of(&image, &segmentation, reference.as_ref()), output)?;
    Ok(())
}

/// nnU-Net's reader for a single file. Of formats in two files, which no ending stands for, SimpleITKIO's.
fn reader_of(file: &std::path::Path) -> anyhow::Result<Reader> {
    let name = file.to_string_lossy().to_lowercase();
    let extension = file
        .extension()
        .unwrap_or_default()
        .to_string_lossy()
        .to_lowercase();
    Ok(match extension.as_str() {
        "mhd" | "nhdr" => Reader::SimpleItk,
        "gz" if name.ends_with(".nii.gz") => Reader::for_ending(".nii.gz", file)?,
        extension => Reader::for_ending(&format!(".{extension}"), file)?,
    })
}
