//! The container of TIFF and BigTIFF files: pages and what they say of their pixels.
//! (TIFF 6.0; tifffile.py)

use std::collections::HashMap;

/// One image of a file, as its tags describe it.
#[derive(Debug)]
pub(super) struct Page {
    /// ImageWidth and ImageLength.
    pub width: usize,
    pub length: usize,
    /// SamplesPerPixel.
    pub samples: usize,
    /// BitsPerSample.
    pub bits: usize,
    /// SampleFormat: 1 unsigned, 2 signed, 3 floating point.
    pub format: u64,
    /// PlanarConfiguration: each sample has a plane of its own.
    pub separate: bool,
    /// PhotometricInterpretation.
    pub photometric: u64,
    /// Compression.
    pub compression: u64,
    /// Predictor.
    pub predictor: u64,
    /// FillOrder: bytes hold their first bit last.
    pub reversed_bits: bool,
    /// TileWidth, or the image's width where it has strips.
    pub chunk_width: usize,
    /// TileLength or RowsPerStrip.
    pub chunk_length: usize,
    /// It has tiles, which are whole also at the image's ends.
    pub tiled: bool,
    /// Where strips or tiles lie in the file, and their bytes.
    pub chunks: Vec<(usize, usize)>,
    /// Bytes are swapped.
    pub big_endian: bool,
    /// ImageDescription, each as it stands.
    pub descriptions: Vec<String>,
    /// The instrument whose own way of storing this is.
    pub vendor: Option<&'static str>,
}

/// Tags of instruments that tifffile reads in a way of its own.
const VENDORS: [(u16, &str); 9] = [
    (33445, "MD Gel"),
    (33560, "Olympus SIS"),
    (33628, "MetaMorph STK"),
    (34362, "FluoView"),
    (34412, "Zeiss LSM"),
    (43314, "NIH Image"),
    (51123, "Micro-Manager"),
    (65007, "EER"),
    (65420, "Hamamatsu NDPI"),
];

impl Page {
    /// The pages of a file in their order.
    pub fn all(file: &[u8]) -> Result<Vec<Page>, String> {
        let layout = Layout::of(file)?;
        let mut offset = layout.word(file, if layout.big { 8 } else { 4 })?;
        let mut pages = Vec::new();
        // Directories that overlap would multiply a small file.
        let mut budget = file.len();
        while offset != 0 {
            let (tags, next) = layout.directory(file, offset, &mut budget)?;
            pages.push(Page::of(file, &layout, &tags).map_err(|reason| {
                let number = pages.len();
                format!("page {number}: {reason}")
            })?);
            offset = next;
        }
        if pages.is_empty() {
            return Err("a TIFF file without pages".into());
        }
        Ok(pages)
    }

    fn of(file: &[u8], layout: &Layout, tags: &HashMap<u16, Vec<Tag>>) -> Result<Page, String> {
        let list = |tag: u16| match tags.get(&tag) {
            Some(found) => layout.numbers(file, &found[0]).map(Some),
            None => Ok(None),
        };
        let one = |tag: u16, default: u64| {
            Ok::<_, String>(
                list(tag)?
                    .and_then(|values| values.first().copied())
                    .unwrap_or(default),
            )
        };
        let size = |tag: u16, name: &str| match usize::try_from(one(tag, 0)?) {
            Ok(size) if size > 0 && size < 1 << 31 => Ok(size),
            _ => Err(format!("{name} is missing or out of range")),
        };
        // A sample's bits and format, which must be alike for all samples.
        let alike = |tag: u16, default: u64, name: &str| {
            let values = list(tag)?.unwrap_or_default();
            let first = values.first().copied().unwrap_or(default);
            match values.iter().find(|&&value| value != first) {
                Some(other) => Err(format!("{name} differs between samples: {first} and {other}")),
                None => Ok(first),
            }
        };
        let (width, length) = (size(256, "ImageWidth")?, size(257, "ImageLength")?);
        if one(32997, 1)? > 1 {
            return Err("a page that holds a volume (ImageDepth) is not supported".into());
        }
        let tiled = tags.contains_key(&322);
        let (chunk_width, chunk_length) = if tiled {
            (size(322, "TileWidth")?, size(323, "TileLength")?)
        } else {
            let rows = usize::try_from(one(278, u64::MAX)?).unwrap_or(usize::MAX);
            (width, rows.clamp(1, length))
        };
        let offsets = list(if tiled { 324 } else { 273 })?.ok_or("its pixels are nowhere")?;
        let counts = list(if tiled { 325 } else { 279 })?.ok_or("its strips have no byte counts")?;
        let fit = |value: &u64| usize::try_from(*value).unwrap_or(usize::MAX);
        let text = |tag: &Tag| {
            let bytes = layout.bytes(file, tag).unwrap_or_default();
            String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
        };
        Ok(Page {
            width,
            length,
            samples: match one(277, 1)? {
                samples @ 1..=0xffff => samples as usize,
                other => return Err(format!("SamplesPerPixel is {other}")),
            },
            bits: usize::try_from(alike(258, 1, "BitsPerSample")?).unwrap_or(usize::MAX),
            format: alike(339, 1, "SampleFormat")?,
            separate: one(284, 1)? == 2,
            photometric: one(262, 0)?,
            compression: one(259, 1)?,
            predictor: one(317, 1)?,
            reversed_bits: one(266, 1)? == 2,
            chunk_width,
            chunk_length,
            tiled,
            chunks: offsets.iter().map(fit).zip(counts.iter().map(fit)).collect(),
            big_endian: layout.big_endian,
            descriptions: tags.get(&270).into_iter().flatten().map(text).collect(),
            vendor: VENDORS
                .iter()
                .find(|(tag, _)| tags.contains_key(tag))
                .map(|(_, name)| *name),
        })
    }

    /// Colours, which tifffile puts into an axis of their own.
    pub fn has_colours(&self) -> bool {
        self.photometric == 2 || self.samples > 1
    }

    /// The shape of its array: (y, x), (y, x, samples), or (samples, y, x) where they have planes of their own.
    pub fn shape(&self) -> Vec<usize> {
        match (self.has_colours(), self.separate) {
            (false, _) => vec![self.length, self.width],
            (true, false) => vec![self.length, self.width, self.samples],
            (true, true) => vec![self.samples, self.length, self.width],
        }
    }

    /// Whether both could stand in one stack (tifffile's `TiffPage.hash`).
    pub fn is_like(&self, other: &Page) -> bool {
        let key = |page: &Page| {
            (
                page.shape(),
                (page.bits, page.format, page.photometric),
                (page.compression, page.predictor, page.reversed_bits),
                (page.chunk_width, page.chunk_length, page.tiled),
            )
        };
        key(self) == key(other)
    }
}

/// A tag's values: what and where they are.
struct Tag {
    kind: u16,
    count: usize,
    /// Where the values lie.
    offset: usize,
}

/// How a file's numbers are laid out.
struct Layout {
    big_endian: bool,
    /// BigTIFF, with 64-bit offsets.
    big: bool,
}

impl Layout {
    fn of(file: &[u8]) -> Result<Layout, String> {
        let big_endian = match file.get(..2) {
            Some(b"II") => false,
            Some(b"MM") => true,
            _ => return Err("not a TIFF file".into()),
        };
        let layout = |big| Layout { big_endian, big };
        match layout(false).number(file, 2, 2)? {
            42 => Ok(layout(false)),
            43 => Ok(layout(true)),
            other => Err(format!("TIFF version {other} is not 42 or 43")),
        }
    }

    /// The number of `size` bytes at `offset`.
    fn number(&self, file: &[u8], offset: usize, size: usize) -> Result<u64, String> {
        let bytes = offset
            .checked_add(size)
            .and_then(|end| file.get(offset..end))
            .ok_or_else(|| format!("it ends before byte {offset}, where its header points"))?;
        let add = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        Ok(if self.big_endian {
            bytes.iter().fold(0, add)
        } else {
            bytes.iter().rev().fold(0, add)
        })
    }

    /// The offset or count at `offset`.
    fn word(&self, file: &[u8], offset: usize) -> Result<usize, String> {
        let word = self.number(file, offset, if self.big { 8 } else { 4 })?;
        Ok(usize::try_from(word).unwrap_or(usize::MAX))
    }

    /// A directory's tags and where the next one lies; 0 where there is none.
    fn directory(
        &self,
        file: &[u8],
        offset: usize,
        budget: &mut usize,
    ) -> Result<(HashMap<u16, Vec<Tag>>, usize), String> {
        let (count_size, entry_size, word) = if self.big { (8, 20, 8) } else { (2, 12, 4) };
        let entries = self.number(file, offset, count_size)? as usize;
        let mut spend = |bytes: usize| {
            *budget = budget
                .checked_sub(bytes)
                .ok_or("its directories hold more than the file")?;
            Ok::<_, String>(())
        };
        spend(entries.saturating_mul(entry_size).saturating_add(count_size))?;
        let mut tags: HashMap<u16, Vec<Tag>> = HashMap::new();
        let start = offset + count_size;
        for entry in (0..entries).map(|entry| start + entry * entry_size) {
            let kind = self.number(file, entry + 2, 2)? as u16;
            let count = self.word(file, entry + 4)?;
            let bytes = kind_size(kind).saturating_mul(count);
            let inline = entry + 4 + word;
            let values = if bytes <= word {
                inline
            } else {
                spend(bytes)?;
                self.word(file, inline)?
            };
            tags.entry(self.number(file, entry, 2)? as u16)
                .or_default()
                .push(Tag {
                    kind,
                    count,
                    offset: values,
                });
        }
        Ok((tags, self.word(file, start + entries * entry_size)?))
    }

    fn bytes<'a>(&self, file: &'a [u8], tag: &Tag) -> Result<&'a [u8], String> {
        let size = kind_size(tag.kind).saturating_mul(tag.count);
        file.get(tag.offset..tag.offset.saturating_add(size))
            .ok_or_else(|| "a tag's values lie beyond its end".into())
    }

    /// A tag's whole numbers; none of another kind.
    fn numbers(&self, file: &[u8], tag: &Tag) -> Result<Vec<u64>, String> {
        if !matches!(tag.kind, 1 | 3 | 4 | 13 | 16 | 18) {
            return Ok(Vec::new());
        }
        self.bytes(file, tag)?;
        let size = kind_size(tag.kind);
        (0..tag.count)
            .map(|i| self.number(file, tag.offset + i * size, size))
            .collect()
    }
}

/// Bytes of one value of a tag.
fn kind_size(kind: u16) -> usize {
    match kind {
        3 | 8 => 2,
        4 | 9 | 11 | 13 => 4,
        5 | 10 | 12 | 16 | 17 | 18 => 8,
        _ => 1,
    }
}
