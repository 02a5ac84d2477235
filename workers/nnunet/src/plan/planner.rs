//! The planners as a table of values.

use schemas::nnunet::NetworkKind;

/// A planner of nnU-Net's code base.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Planner {
    /// `ExperimentPlanner`: plain convolutions, 8 GB.
    #[default]
    Default,
    /// `ResEncUNetPlanner`: residual encoder, 8 GB.
    ResEnc,
    /// `nnUNetPlannerResEncM`: residual encoder, about 9 to 11 GB.
    ResEncM,
    /// `nnUNetPlannerResEncL`: residual encoder, about 24 GB.
    ResEncL,
    /// `nnUNetPlannerResEncXL`: residual encoder, about 40 GB.
    ResEncXL,
    /// `nnUNetPlanner_torchres`: the default, resampled with torch.
    Torchres,
    /// `nnUNetPlannerResEncL_torchres`: residual encoder, about 24 GB, resampled with torch.
    ResEncLTorchres,
    /// `nnUNetPlannerResEncL_torchres_sepz`: the same, thick slices on their own.
    ResEncLTorchresSepz,
    /// `nnUNetPlannerResEncL_noResampling`: residual encoder, about 24 GB, not resampled.
    ResEncLNoResampling,
}

/// How a planner has volumes resampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResamplingPlan {
    /// skimage's splines.
    Splines,
    /// torch's linear interpolation of volumes.
    Torch,
    /// The same, but slice by slice where the spacing is anisotropic.
    TorchBySlices,
    /// Volumes stay as they are.
    Unchanged,
}

/// What a run of a planner may choose. `default()` is `nnUNetv2_plan_experiment` without flags.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Options {
    /// Which planner.
    pub planner: Planner,
    /// GPU memory to plan for, in GB; None is the planner's own.
    pub gpu_memory_target_gb: Option<f64>,
    /// Name of the plans; None is the planner's own.
    pub plans_name: Option<String>,
    /// Spacing of 3d_fullres in mm, untransposed (z, y, x); None is the data set's median.
    pub overwrite_target_spacing: Option<[f64; 3]>,
    /// Name of the preprocessor class; None is `DefaultPreprocessor`.
    pub preprocessor_name: Option<String>,
    /// Keep the order of the axes.
    pub suppress_transpose: bool,
}

impl Options {
    /// The name of the plans.
    pub fn plans_name(&self) -> String {
        self.plans_name
            .clone()
            .unwrap_or_else(|| self.planner.values().plans_name.to_owned())
    }

    /// GPU memory to plan for, in GB.
    pub fn gpu_memory_target_gb(&self) -> f64 {
        self.gpu_memory_target_gb
            .unwrap_or(self.planner.values().reference_gb)
    }
}

/// What tells one planner from another.
pub(super) struct Values {
    pub class_name: &'static str,
    pub plans_name: &'static str,
    pub network: NetworkKind,
    /// The memory estimates that fill `reference_gb`.
    pub reference_3d: f64,
    pub reference_2d: f64,
    /// GPU memory of the references, also the default target.
    pub reference_gb: f64,
    /// How much of the data set's voxels a batch may hold.
    pub max_dataset_covered: f64,
    /// Convolutions or blocks of each encoder stage.
    pub encoder: [usize; 14],
    /// Convolutions of each decoder stage.
    pub decoder: [usize; 13],
    /// Whether the references stand for the reference batch size, so that the loop that shrinks the patch
    /// corrects for it. The residual planners do not.
    pub corrects_batch_size: bool,
    /// How volumes are resampled.
    pub resampling: ResamplingPlan,
    /// Whether 2d and 3d_fullres use the default planner's preprocessed cases, whatever the plans are called.
    pub shares_cases: bool,
}

const PLAIN: Values = Values {
    class_name: "ExperimentPlanner",
    plans_name: "nnUNetPlans",
    network: NetworkKind::PlainConvUNet,
    reference_3d: 560e6,
    reference_2d: 85e6,
    reference_gb: 8.0,
    max_dataset_covered: 0.05,
    encoder: [2; 14],
    decoder: [2; 13],
    corrects_batch_size: true,
    resampling: ResamplingPlan::Splines,
    shares_cases: false,
};

const RES_ENC: Values = Values {
    class_name: "ResEncUNetPlanner",
    plans_name: "nnUNetResEncUNetPlans",
    network: NetworkKind::ResidualEncoderUNet,
    reference_3d: 680e6,
    reference_2d: 135e6,
    encoder: [1, 3, 4, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6],
    decoder: [1; 13],
    corrects_batch_size: false,
    shares_cases: true,
    ..PLAIN
};

const RES_ENC_M: Values = Values {
    class_name: "nnUNetPlannerResEncM",
    plans_name: "nnUNetResEncUNetMPlans",
    max_dataset_covered: 1.0,
    ..RES_ENC
};

const RES_ENC_L: Values = Values {
    class_name: "nnUNetPlannerResEncL",
    plans_name: "nnUNetResEncUNetLPlans",
    reference_3d: 2.1e9,
    reference_2d: 380e6,
    reference_gb: 24.0,
    ..RES_ENC_M
};

const RES_ENC_XL: Values = Values {
    class_name: "nnUNetPlannerResEncXL",
    plans_name: "nnUNetResEncUNetXLPlans",
    reference_3d: 3.6e9,
    reference_2d: 560e6,
    reference_gb: 40.0,
    ..RES_ENC_M
};

const TORCHRES: Values = Values {
    class_name: "nnUNetPlanner_torchres",
    plans_name: "nnUNetPlans_torchres",
    resampling: ResamplingPlan::Torch,
    ..PLAIN
};

const RES_ENC_L_TORCHRES: Values = Values {
    class_name: "nnUNetPlannerResEncL_torchres",
    plans_name: "nnUNetResEncUNetLPlans_torchres",
    resampling: ResamplingPlan::Torch,
    shares_cases: false,
    ..RES_ENC_L
};

const RES_ENC_L_TORCHRES_SEPZ: Values = Values {
    class_name: "nnUNetPlannerResEncL_torchres_sepz",
    plans_name: "nnUNetResEncUNetLPlans_torchres_sepz",
    resampling: ResamplingPlan::TorchBySlices,
    ..RES_ENC_L_TORCHRES
};

const RES_ENC_L_NO_RESAMPLING: Values = Values {
    class_name: "nnUNetPlannerResEncL_noResampling",
    plans_name: "nnUNetResEncUNetLPlans_noResampling",
    resampling: ResamplingPlan::Unchanged,
    ..RES_ENC_L_TORCHRES
};

impl Planner {
    /// All planners.
    pub const ALL: [Planner; 9] = [
        Planner::Default,
        Planner::ResEnc,
        Planner::ResEncM,
        Planner::ResEncL,
        Planner::ResEncXL,
        Planner::Torchres,
        Planner::ResEncLTorchres,
        Planner::ResEncLTorchresSepz,
        Planner::ResEncLNoResampling,
    ];

    pub(super) fn values(self) -> &'static Values {
        match self {
            Planner::Default => &PLAIN,
            Planner::ResEnc => &RES_ENC,
            Planner::ResEncM => &RES_ENC_M,
            Planner::ResEncL => &RES_ENC_L,
            Planner::ResEncXL => &RES_ENC_XL,
            Planner::Torchres => &TORCHRES,
            Planner::ResEncLTorchres => &RES_ENC_L_TORCHRES,
            Planner::ResEncLTorchresSepz => &RES_ENC_L_TORCHRES_SEPZ,
            Planner::ResEncLNoResampling => &RES_ENC_L_NO_RESAMPLING,
        }
    }

    /// nnU-Net's class name, such as `nnUNetPlannerResEncL`.
    pub fn class_name(self) -> &'static str {
        self.values().class_name
    }

    /// The planner with nnU-Net's class name. None for planners that are not among [`Planner::ALL`].
    pub fn from_class_name(name: &str) -> Option<Planner> {
        Planner::ALL.into_iter().find(|p| p.class_name() == name)
    }

    /// The folder of a configuration's preprocessed cases.
    pub(super) fn data_identifier(self, plans_name: &str, configuration: &str) -> String {
        let shares = self.values().shares_cases && matches!(configuration, "2d" | "3d_fullres");
        format!(
            "{}_{configuration}",
            if shares { PLAIN.plans_name } else { plans_name }
        )
    }
}
