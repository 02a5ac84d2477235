//! What the conductor cannot know of a submitted message: what the algorithm says of it.

use schemas::{
    Invalid,
    job::{JobMessage, Payload},
};

use crate::privacy;

/// What only the algorithm knows about a job: whether the trainer exists. Returns warnings.
pub fn check(message: &JobMessage) -> Result<Vec<String>, Invalid> {
    let Payload::Training(payload) = &message.payload else {
        return Ok(Vec::new());
    };
    let variant = nnunet::train::TrainerVariant::by_name(&payload.trainer_name).map_err(|error| {
        let reason = match error {
            nnunet::Error::Invalid { reason, .. } => reason,
            other => other.to_string(),
        };
        Invalid::new("payload.trainer_name", reason)
    })?;
    let mut warnings = Vec::new();
    let epochs = payload.num_rounds as usize * payload.epochs_per_round as usize;
    if variant.name != "nnUNetTrainer" && variant.epochs != 1000 && variant.epochs != epochs {
        warnings.push(format!(
            "trainer {} is named for {} epochs; this job trains num_rounds x epochs_per_round = {epochs}",
            variant.name, variant.epochs
        ));
    }
    let federation = &message.federation;
    if (
        federation.iterations_per_epoch,
        federation.val_iterations_per_epoch,
    ) != (250, 50)
    {
        warnings.push(format!(
            "an epoch has {} training and {} validation iterations; nnU-Net's has 250 and 50",
            federation.iterations_per_epoch, federation.val_iterations_per_epoch
        ));
    }
    if let Some(privacy) = &federation.privacy {
        warnings.push(format!(
            "privacy: {}",
            privacy::guarantee(privacy, payload.num_rounds)
        ));
    }
    Ok(warnings)
}
