//! NRRD headers, read as strictly as ITK's NrrdIO reads them, and where ITK sees what they describe.
//! (parseNrrd.c, formatNRRD.c, simple.c, axis.c of NrrdIO; itkNrrdImageIO.cxx)

use std::collections::HashSet;

use super::{
    geometry::ItkSpace,
    nrrd_words::{self, Encoding, Field, Kind},
    voxels::VoxelType,
};

/// More axes than these NrrdIO does not hold.
const MOST_AXES: usize = 16;
/// More dimensions of space than these NrrdIO does not hold.
const MOST_SPACE: usize = 8;

/// What a header says of one axis. None is not a number in NRRD's own terms.
#[derive(Clone, Default)]
struct Axis {
    size: usize,
    spacing: Option<f64>,
    min: Option<f64>,
    max: Option<f64>,
    /// Samples lie at the ends of the axis, not in the middle of its parts.
    node: bool,
    has_units: bool,
    kind: Option<Kind>,
    direction: Option<Vec<f64>>,
}

/// A header, in the file's own terms.
#[derive(Default)]
pub(super) struct Header {
    axes: Vec<Axis>,
    /// Dimensions of the space; 0 where there is none.
    space: usize,
    /// Signs that turn the space's axes to the left, posterior and superior.
    to_lps: [f64; 3],
    space_origin: Option<Vec<f64>>,
    voxel_type: Option<VoxelType>,
    encoding: Option<Encoding>,
    big_endian: Option<bool>,
    /// Lines to skip before the data.
    pub line_skip: usize,
    /// Bytes to skip before the data; negative counts from the file's end.
    pub byte_skip: i64,
    /// The file that holds the data; none where they follow the header.
    pub data_file: Option<String>,
    /// Bytes of the header, with the empty line that ends it.
    pub length: usize,
}

impl Header {
    pub fn parse(file: &[u8]) -> Result<Header, String> {
        let mut header = Header {
            to_lps: [1.0; 3],
            ..Header::default()
        };
        let mut seen = HashSet::new();
        let mut ended = false;
        for (number, line) in file.split_inclusive(|&byte| byte == b'\n').enumerate() {
            // A line without its end is none.
            let Some(text) = line.strip_suffix(b"\n") else {
                break;
            };
            header.length += line.len();
            let text = String::from_utf8_lossy(text.strip_suffix(b"\r").unwrap_or(text));
            if number == 0 {
                if !nrrd_words::MAGIC.contains(&text.as_ref()) {
                    return Err("not a NRRD file".into());
                }
                continue;
            }
            if text.is_empty() {
                ended = true;
                break;
            }
            if text.starts_with('#') {
                continue;
            }
            let field = text.split_once(": ").and_then(|(name, value)| {
                let field = nrrd_words::field(name)?;
                Some((field, value.trim_start_matches([' ', '\t'])))
            });
            match field {
                Some((field, value)) => {
                    if !seen.insert(field) && field != Field::Other {
                        return Err(format!("{field:?} is set twice"));
                    }
                    header
                        .set(field, value)
                        .map_err(|reason| format!("{field:?} is {value:?}: {reason}"))?;
                }
                None if text.contains(":=") => {}
                None => return Err(format!("expected a line FIELD: VALUE, found {text:?}")),
            }
        }
        if !ended && header.data_file.is_none() {
            return Err("its header has no end".into());
        }
        for (field, there) in [
            ("type", header.voxel_type.is_some()),
            ("dimension", seen.contains(&Field::Dimension)),
            ("sizes", seen.contains(&Field::Sizes)),
            ("encoding", header.encoding.is_some()),
        ] {
            if !there {
                return Err(format!("{field} is missing"));
            }
        }
        for axis in &header.axes {
            if let Some(size) = axis
                .kind
                .and_then(|kind| kind.size)
                .filter(|&size| size != axis.size)
            {
                return Err(format!("an axis of {} is of a kind that has {size}", axis.size));
            }
        }
        if header.big_endian.is_none() && header.endian_matters() {
            return Err("endian is missing".into());
        }
        Ok(header)
    }

    fn set(&mut self, field: Field, value: &str) -> Result<(), String> {
        match field {
            Field::Dimension => {
                let axes = value.trim().parse().unwrap_or(0);
                if !(1..=MOST_AXES).contains(&axes) {
                    return Err(format!("expected 1 to {MOST_AXES}"));
                }
                self.axes = vec![Axis::default(); axes];
            }
            Field::Type => self.voxel_type = Some(nrrd_words::voxel_type(value)?),
            Field::Encoding => self.encoding = Some(nrrd_words::encoding(value)?),
            Field::Endian => {
                self.big_endian = Some(match value.to_lowercase().as_str() {
                    "little" => false,
                    "big" => true,
                    _ => return Err("expected little or big".into()),
                });
            }
            Field::Sizes => {
                let words = self.word_per_axis(value)?;
                for (axis, word) in self.axes.iter_mut().zip(words) {
                    axis.size = word
                        .parse()
                        .ok()
                        .filter(|&size| size > 0)
                        .ok_or("expected sizes of at least 1")?;
                }
            }
            Field::Spacings => self.number_per_axis(value, |axis, number| axis.spacing = number)?,
            Field::AxisMins => self.number_per_axis(value, |axis, number| axis.min = number)?,
            Field::AxisMaxs => self.number_per_axis(value, |axis, number| axis.max = number)?,
            Field::Centers => {
                let words = self.word_per_axis(value)?;
                for (axis, word) in self.axes.iter_mut().zip(words) {
                    axis.node = match word.to_lowercase().as_str() {
                        "node" => true,
                        "cell" | "???" | "none" => false,
                        _ => return Err("expected node, cell or none".into()),
                    };
                }
            }
            Field::Kinds => {
                let words = self.word_per_axis(value)?;
                for (axis, word) in self.axes.iter_mut().zip(words) {
                    axis.kind = nrrd_words::kind(word)?;
                }
            }
            Field::Units => {
                if self.axes.is_empty() {
                    return Err("dimension must come before".into());
                }
                let units = value.split('"').skip(1).step_by(2);
                for (axis, unit) in self.axes.iter_mut().zip(units) {
                    axis.has_units = !unit.is_empty();
                }
            }
            Field::Space | Field::SpaceDimension if self.space > 0 => {
                return Err("the space is set twice".into());
            }
            Field::Space => (self.space, self.to_lps) = nrrd_words::space(value)?,
            Field::SpaceDimension => {
                self.space = value.trim().parse().unwrap_or(0);
                if !(1..=MOST_SPACE).contains(&self.space) {
                    return Err(format!("expected 1 to {MOST_SPACE}"));
                }
            }
            Field::SpaceDirections => {
                let vectors = self.vectors(value)?;
                if self.axes.is_empty() || vectors.len() != self.axes.len() {
                    return Err(format!("expected {} vectors", self.axes.len()));
                }
                for (axis, vector) in self.axes.iter_mut().zip(vectors) {
                    axis.direction = vector;
                }
            }
            Field::SpaceOrigin => match self.vectors(value)?.as_slice() {
                [origin] => self.space_origin = origin.clone(),
                _ => return Err("expected one vector".into()),
            },
            Field::LineSkip => {
                self.line_skip = value.trim().parse().map_err(|_| "expected a number of lines")?;
            }
            Field::ByteSkip => {
                self.byte_skip = value.trim().parse().map_err(|_| "expected a number of bytes")?;
            }
            Field::DataFile => {
                if value.starts_with("LIST") || value.contains('%') {
                    return Err("voxels in several files are not supported".into());
                }
                self.data_file = Some(value.to_owned());
            }
            Field::Other => {}
        }
        let clash = |axis: &Axis| {
            let scalars = axis.spacing.is_some() || axis.min.is_some() || axis.max.is_some();
            axis.direction.is_some() && (scalars || axis.has_units)
        };
        if self.axes.iter().any(clash) {
            return Err("an axis with a space direction has no spacing, min, max or units".into());
        }
        Ok(())
    }

    fn word_per_axis<'a>(&self, value: &'a str) -> Result<Vec<&'a str>, String> {
        let words: Vec<&str> = value.split_whitespace().collect();
        match self.axes.len() {
            0 => Err("dimension must come before".into()),
            axes if axes != words.len() => Err(format!("expected {axes} values")),
            _ => Ok(words),
        }
    }

    fn number_per_axis(
        &mut self,
        value: &str,
        mut set: impl FnMut(&mut Axis, Option<f64>),
    ) -> Result<(), String> {
        let numbers = self
            .word_per_axis(value)?
            .into_iter()
            .map(number)
            .collect::<Result<Vec<_>, _>>()?;
        for (axis, number) in self.axes.iter_mut().zip(numbers) {
            set(axis, number);
        }
        if self.axes.iter().any(|axis| axis.spacing == Some(0.0)) {
            return Err("a spacing is not 0".into());
        }
        Ok(())
    }

    /// Vectors in parentheses, or `none`.
    fn vectors(&self, value: &str) -> Result<Vec<Option<Vec<f64>>>, String> {
        if self.space == 0 {
            return Err("space or space dimension must come before".into());
        }
        let mut vectors = Vec::new();
        let mut rest = value.trim();
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix("none") {
                vectors.push(None);
                rest = after.trim_start();
                continue;
            }
            let (inside, after) = rest
                .strip_prefix('(')
                .and_then(|rest| rest.split_once(')'))
                .ok_or("expected vectors in parentheses, or none")?;
            let numbers = inside
                .split(',')
                .map(|word| number(word.trim()))
                .collect::<Result<Vec<_>, _>>()?;
            if numbers.len() != self.space {
                return Err(format!("expected vectors of {} numbers", self.space));
            }
            let known: Vec<f64> = numbers.iter().copied().flatten().collect();
            vectors.push(match known.len() {
                0 => None,
                n if n == self.space => Some(known),
                _ => return Err("a vector is known or not".into()),
            });
            rest = after.trim_start();
        }
        Ok(vectors)
    }

    /// What the voxels are.
    pub fn voxel_type(&self) -> VoxelType {
        // parse() has seen to it.
        self.voxel_type.unwrap_or(VoxelType::U8)
    }

    /// How the voxels are encoded.
    pub fn encoding(&self) -> Encoding {
        // parse() has seen to it.
        self.encoding.unwrap_or(Encoding::Raw)
    }

    /// Whether bytes are swapped.
    pub fn is_big_endian(&self) -> bool {
        self.endian_matters() && self.big_endian.unwrap_or(false)
    }

    fn endian_matters(&self) -> bool {
        self.voxel_type().bytes() > 1 && self.encoding() != Encoding::Text
    }

    /// The axes of the image, x first, and where ITK sees it.
    pub fn grid(&self) -> Result<(Vec<usize>, ItkSpace), String> {
        let is_domain = |axis: &&Axis| axis.kind.is_none_or(|kind| kind.is_domain);
        let domain: Vec<&Axis> = self.axes.iter().filter(is_domain).collect();
        let values: Vec<&Axis> = self.axes.iter().filter(|axis| !is_domain(axis)).collect();
        if values.len() > 1 {
            return Err(format!("{} axes hold parts of a voxel", values.len()));
        }
        if let Some(axis) = values.first().filter(|axis| axis.size > 1) {
            return Err(format!(
                "its voxels are lists of {} numbers; only voxels of one number are supported: give each channel its \
                 own file",
                axis.size
            ));
        }
        let axes = domain.len();
        if self.space > 0 && self.space != axes {
            return Err(format!("{axes} axes in a space of {} dimensions", self.space));
        }
        let sign = |row: usize| if axes == 3 { self.to_lps[row] } else { 1.0 };
        let mut space = ItkSpace::identity(axes);
        for (number, axis) in domain.iter().enumerate() {
            match (&axis.direction, axis.spacing) {
                (Some(vector), _) => {
                    let length = vector.iter().map(|x| x * x).sum::<f64>().sqrt();
                    space.spacing[number] = length;
                    let cosines: Vec<f64> = vector
                        .iter()
                        .enumerate()
                        .map(|(row, x)| sign(row) * x / length)
                        .collect();
                    space.set_axis(number, &cosines);
                }
                (None, Some(_)) if self.space > 0 => return Err("spacings in a space".into()),
                (None, Some(spacing)) => space.spacing[number] = spacing,
                (None, None) => {}
            }
        }
        if self.space > 0 {
            if let Some(origin) = &self.space_origin {
                space.origin = origin.iter().enumerate().map(|(row, x)| sign(row) * x).collect();
            }
        } else if let Some(origin) = origin_of_mins(&domain) {
            space.origin = origin;
        }
        Ok((domain.iter().map(|axis| axis.size).collect(), space.checked()?))
    }
}

/// The first samples' places, where every axis says where it begins and either where it ends or its spacing.
fn origin_of_mins(axes: &[&Axis]) -> Option<Vec<f64>> {
    axes.iter()
        .map(|axis| {
            let min = axis.min?;
            let parts = if axis.node { axis.size - 1 } else { axis.size };
            let spacing = axis
                .spacing
                .or_else(|| Some((axis.max? - min) / parts.max(1) as f64))?;
            Some(if axis.node { min } else { min + spacing / 2.0 })
        })
        .collect()
}

/// A number; none where the file says that it is not a number.
fn number(word: &str) -> Result<Option<f64>, String> {
    match word.parse::<f64>() {
        Ok(number) if number.is_infinite() => Err(format!("{word} is infinite")),
        Ok(number) => Ok(Some(number).filter(|number| !number.is_nan())),
        Err(_) => Err(format!("{word:?} is not a number")),
    }
}
