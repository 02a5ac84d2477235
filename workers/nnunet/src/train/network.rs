//! The networks that trainers build.

use schemas::nnunet::Architecture;
use serde_json::{Map, json};

use super::trainer_table::TRAINS;

/// The network that a trainer of that name builds from the plans' (its `build_network_architecture`): the plans', but
/// for one that puts batch norm in (`nnUNetTrainerBN`).
pub fn network_of(trainer: &str, planned: &Architecture) -> Architecture {
    let mut architecture = planned.clone();
    let variant = TRAINS.iter().find(|variant| variant.name == trainer);
    if variant.is_some_and(|variant| variant.batch_norm) {
        let arguments = &mut architecture.arch_kwargs;
        let convolution = arguments.conv_op.rsplit('.').next().unwrap_or_default();
        let class = convolution.replace("Conv", "BatchNorm");
        arguments.norm_op = Some(format!("torch.nn.modules.batchnorm.{class}"));
        arguments.norm_op_kwargs = Some(Map::from_iter([
            ("eps".to_owned(), json!(1e-5)),
            ("affine".to_owned(), json!(true)),
        ]));
    }
    architecture
}
