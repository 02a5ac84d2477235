//! Samples whose augmentation is compared, with the parameters of each.

use ndarray::{Array4, ArrayView4};
use nnunet::train::{
    augment::{
        Augmentation, AugmentationSettings, Drawn, Patch, SegInterpolation, Transform, blur::Blur,
        intensity::PerChannel, low_resolution::LowResolution, mirror::Mirror, noise::Noise,
        random::SampleKey, spatial::Spatial,
    },
    loader::{Case, Cases, ClassVoxels, Window},
};
use serde_json::{Value, json};
use std::{fs, path::Path, sync::Arc};

/// A case in memory.
pub struct Memory {
    pub data: Array4<f32>,
    pub seg: Array4<i16>,
    pub locations: Vec<ClassVoxels>,
}

impl Memory {
    /// A case without class locations.
    pub fn new(data: Array4<f32>, seg: Array4<i16>) -> Self {
        Memory {
            data,
            seg,
            locations: Vec::new(),
        }
    }

    /// Writes what Python reads: `<name>.in.data`, `<name>.in.seg`.
    pub fn write(&self, folder: &Path, name: &str) {
        let data: Vec<u8> = self.data.iter().flat_map(|v| v.to_le_bytes()).collect();
        fs::write(folder.join(format!("{name}.in.data")), data).unwrap();
        let seg: Vec<u8> = self.seg.iter().flat_map(|v| v.to_le_bytes()).collect();
        fs::write(folder.join(format!("{name}.in.seg")), seg).unwrap();
    }
}

impl Case for Memory {
    fn data(&self) -> ArrayView4<'_, f32> {
        self.data.view()
    }
    fn seg(&self) -> ArrayView4<'_, i16> {
        self.seg.view()
    }
    fn class_locations(&self) -> &[ClassVoxels] {
        &self.locations
    }
}

/// The only case of a data set.
pub struct Only {
    names: Vec<String>,
    case: Arc<Memory>,
}

impl Only {
    pub fn new(case: Memory) -> Arc<Self> {
        Arc::new(Only {
            names: vec!["a".into()],
            case: Arc::new(case),
        })
    }
}

impl Cases for Only {
    fn identifiers(&self) -> &[String] {
        &self.names
    }
    fn open(&self, _: usize) -> nnunet::Result<Arc<dyn Case>> {
        Ok(self.case.clone())
    }
}

/// A case with structure and noise, and `labels` labels from -1 on in wavy shapes.
pub fn case(channels: usize, [z, y, x]: [usize; 3], labels: i16) -> Memory {
    let mut state = 12345u32;
    let data = Array4::from_shape_fn((channels, z, y, x), |(c, z, y, x)| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let noise = (state >> 8) as f32 / (1 << 24) as f32;
        (z as f32 / 3.0 + c as f32).sin() + (y as f32 / 4.0).cos() * (x as f32 / 5.0).sin() * 2.0 + noise
            - 0.3
    });
    let seg = Array4::from_shape_fn((1, z, y, x), |(_, z, y, x)| {
        let wave = (z as f32 / 4.0).sin() + (y as f32 / 5.0).cos() + (x as f32 / 3.0).sin();
        ((wave + 3.0) / 6.0 * f32::from(labels)) as i16 - 1
    });
    Memory::new(data, seg)
}

/// A sample of a case with what is done to it.
pub struct Sample {
    pub name: String,
    pub settings: AugmentationSettings,
    pub drawn: Drawn,
    case: Memory,
    start: [i64; 3],
    size: [usize; 3],
}

impl Sample {
    /// A sample of a case with `labels` labels, in a box that reaches past the case on some sides.
    pub fn new(name: &str, settings: AugmentationSettings, drawn: Drawn, labels: i16) -> Self {
        let shape = if settings.is_2d { [5, 70, 66] } else { [40, 60, 44] };
        Sample {
            name: name.into(),
            size: settings.initial_patch_size(),
            settings,
            drawn,
            case: case(2, shape, labels),
            start: if shape[0] == 5 { [2, -3, 4] } else { [-2, 5, -6] },
        }
    }

    pub fn window(&self) -> Window<'_> {
        Window::new(&self.name, &self.case, self.start, self.size).unwrap()
    }

    /// Writes what Python reads, and returns its request.
    pub fn write(&self, folder: &Path) -> Value {
        self.case.write(folder, &self.name);
        let channels = self.case.data.dim().0;
        let noise = self.drawn.transforms.iter().find_map(|t| match t {
            Transform::Noise(noise) => Some(noise),
            _ => None,
        });
        if let Some(noise) = noise {
            let voxels = self.settings.patch_size.iter().product::<usize>();
            let mut patch = Patch {
                data: vec![0.0; voxels * channels],
                seg: vec![0; voxels],
                channels,
                size: self.settings.patch_size,
            };
            noise.apply(&mut patch);
            let bytes: Vec<u8> = patch.data.iter().flat_map(|v| v.to_le_bytes()).collect();
            fs::write(folder.join(format!("{}.noise", self.name)), bytes).unwrap();
        }
        let s = &self.settings;
        json!({
            "name": self.name,
            "channels": channels,
            "shape": [self.case.data.dim().1, self.case.data.dim().2, self.case.data.dim().3],
            "start": self.start,
            "size": self.size,
            "drawn": self.drawn,
            "settings": {
                "patch_size": s.patch_size,
                "is_2d": s.is_2d,
                "rotation": s.rotation,
                "dummy_2d": s.dummy_2d,
                "augmentation": format!("{:?}", s.augmentation),
                "nearest": s.seg_interpolation == SegInterpolation::Nearest,
                "nearest_image": s.nearest_image,
                "mirror_axes": s.mirror_axes,
                "use_mask_for_norm": s.use_mask_for_norm,
                "regions": s.regions,
                "ignore_label": s.ignore_label,
                "scales": s.deep_supervision_scales,
            },
        })
    }
}

/// Settings with targets at four resolutions.
pub fn base(patch: &[usize]) -> AugmentationSettings {
    let axes = patch.len();
    AugmentationSettings::new(patch).unwrap().with_deep_supervision(&[
        vec![1; axes],
        vec![2; axes],
        vec![2; axes],
        vec![2; axes],
    ])
}

/// One transform and nothing else.
pub fn only(transform: Transform) -> Drawn {
    Drawn {
        spatial: None,
        transforms: vec![transform],
    }
}

/// Rotation and scaling and nothing else.
pub fn some(spatial: Spatial) -> Drawn {
    Drawn {
        spatial: Some(spatial),
        transforms: Vec::new(),
    }
}

/// What sample `number` draws that draws several transforms at once, with rotation and scaling or without.
pub fn drawn(settings: &AugmentationSettings, number: usize, spatial: bool) -> Drawn {
    let key = SampleKey {
        purpose: "parity",
        seed: 1,
        site: "a",
        epoch: 0,
        iteration: 0,
        sample: number as u64,
    };
    let mut random = key.generator();
    loop {
        let drawn = Drawn::draw(settings, 2, &mut random);
        if drawn.transforms.len() + usize::from(spatial) > 3 && spatial == drawn.spatial.is_some() {
            return drawn;
        }
    }
}

/// Every transform of the default augmentation alone, then all kinds together as drawn; and validation.
pub fn default_samples() -> Vec<Sample> {
    let volume = || base(&[24, 32, 20]);
    let plane = || base(&[48, 40]);
    let thin = || base(&[8, 40, 36]);
    let mut samples = Vec::new();
    let mut add = |name: &str, settings: AugmentationSettings, drawn: Drawn, labels: i16| {
        samples.push(Sample::new(name, settings, drawn, labels));
    };
    add("nothing", volume(), Drawn::NOTHING, 5);
    add("nothing_2d", plane(), Drawn::NOTHING, 5);
    for labels in [1, 2, 3, 12] {
        let turned = some(Spatial::new([0.3, -0.2, 0.45], [1.0; 3]));
        add(&format!("rotated_{labels}"), volume(), turned, labels);
        let both = some(Spatial::new([-0.5, 0.5, 0.5], [1.39; 3]));
        add(&format!("both_{labels}"), volume(), both, labels);
    }
    add("shrunk", volume(), some(Spatial::new([0.0; 3], [1.4; 3])), 5);
    add("grown", volume(), some(Spatial::new([0.0; 3], [0.75; 3])), 5);
    add("turned_2d", plane(), some(Spatial::in_plane(2.3, [1.0; 2])), 5);
    add("both_2d", plane(), some(Spatial::in_plane(-0.7, [1.37; 2])), 4);
    add("turned_thin", thin(), some(Spatial::in_plane(-1.1, [1.2; 2])), 5);
    let nearest = AugmentationSettings {
        seg_interpolation: SegInterpolation::Nearest,
        ..volume()
    };
    let turned = some(Spatial::new([0.3, -0.2, 0.45], [1.1; 3]));
    add("nearest", nearest, turned, 6);

    let noise = Noise {
        sigma: 0.07,
        seed: [3; 32],
    };
    add("noise", volume(), only(Transform::Noise(noise)), 5);
    let blur = |sigmas| only(Transform::Blur(Blur { sigmas }));
    add("blur", volume(), blur(vec![None, Some([0.52, 0.7, 0.97])]), 5);
    let flat = vec![Some([0.0, 0.95, 0.6]), Some([0.0, 0.55, 0.99])];
    add("blur_2d", plane(), blur(flat), 5);
    let two = || PerChannel(vec![Some(0.8), Some(1.2)]);
    add("brightness", volume(), only(Transform::Brightness(two())), 5);
    let contrast = Transform::Contrast {
        factors: two(),
        keep_range: true,
    };
    add("contrast", volume(), only(contrast), 5);
    for (name, first, second, inverted) in [("gamma", 0.8, 1.2, false), ("gamma_inverted", 1.47, 0.71, true)]
    {
        let exponents = PerChannel(vec![Some(first), Some(second)]);
        add(name, volume(), only(Transform::Gamma { exponents, inverted }), 5);
    }
    let low = |scales| only(Transform::LowResolution(LowResolution { scales }));
    add(
        "low_resolution",
        volume(),
        low(vec![Some([0.53; 3]), Some([0.87; 3])]),
        5,
    );
    add(
        "low_resolution_thin",
        thin(),
        low(vec![None, Some([1.0, 0.61, 0.61])]),
        5,
    );
    add(
        "low_resolution_2d",
        plane(),
        low(vec![Some([1.0, 0.5, 0.5]), None]),
        5,
    );
    let mirror = |axes| only(Transform::Mirror(Mirror(axes)));
    add("mirror", volume(), mirror([true, false, true]), 5);
    add("mirror_2d", plane(), mirror([false, true, false]), 5);
    let masked = AugmentationSettings {
        use_mask_for_norm: vec![false, true],
        ..volume()
    };
    let turned = some(Spatial::new([0.3, -0.2, 0.45], [1.3; 3]));
    add("masked", masked.clone(), turned, 5);
    let regions = AugmentationSettings {
        regions: Some(vec![vec![1, 2, 3], vec![2, 3], vec![3]]),
        ..volume()
    };
    add("regions", regions.clone(), Drawn::NOTHING, 6);
    let ignored = AugmentationSettings {
        ignore_label: Some(4),
        ..regions
    };
    add("regions_ignore", ignored, Drawn::NOTHING, 6);
    for number in 0..24 {
        let settings = [volume(), plane(), thin(), masked.clone()][number % 4].clone();
        let drawn = drawn(&settings, number, number % 8 < 4);
        add(&format!("drawn_{number}"), settings, drawn, 5);
    }
    let validation = AugmentationSettings {
        augmentation: Augmentation::None,
        ..masked
    };
    add("validation", validation, Drawn::NOTHING, 5);
    samples
}
