//! Pictures: the training's progress, and a segmentation over its scan.

mod overlay;
mod progress;

pub use overlay::{Overlay, write_overlay};
pub use progress::write_progress;

use std::path::Path;

use crate::{Error, Result};

/// The family under which text is drawn. The font is part of the program, so that pictures need nothing of the machine.
const FONT: &str = "nnunet";

fn register_font() -> Result<()> {
    use plotters::style::{FontStyle, register_font};
    register_font(FONT, FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT)
        .map_err(|_| Error::invalid("figure", "the built-in font cannot be read"))
}

/// Writes RGB pixels as PNG by way of a temporary file beside `path`.
fn write_png(path: &Path, pixels: &[u8], width: u32, height: u32) -> Result<()> {
    use image::{ColorType, ImageEncoder, codecs::png::PngEncoder};
    let mut bytes = Vec::new();
    PngEncoder::new(&mut bytes)
        .write_image(pixels, width, height, ColorType::Rgb8)
        .map_err(|e| Error::bad_file(path, e))?;
    let temporary = path.with_extension("partial");
    std::fs::write(&temporary, bytes).map_err(Error::io(&temporary))?;
    std::fs::rename(&temporary, path).map_err(Error::io(path))
}

#[cfg(test)]
mod tests;
