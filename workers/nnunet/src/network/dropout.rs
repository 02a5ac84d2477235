//! Dropout of whole channels (torch.nn.Dropout2d/3d), as the plans name it.

use super::arguments::{Keywords, class, invalid};
use crate::Result;

/// The chance of a channel to drop out, if `op`, a dotted Python path, names a dropout; None for null.
pub(super) fn probability(op: Option<&str>, keywords: &Keywords, dimensions: usize) -> Result<Option<f64>> {
    let Some(op) = op else {
        return Ok(None);
    };
    let expected = format!("Dropout{dimensions}d");
    if class(op) != expected {
        return Err(invalid("dropout_op", op, &format!("{expected} or null")));
    }
    keywords.must_be_there()?;
    keywords.only(&["p", "inplace"])?;
    keywords.boolean("inplace", false)?;
    keywords.number("p", 0.5, 0.0..=1.0).map(Some)
}

/// `x` (b, c, ...) with each channel of each sample zeroed with the chance `p`, the others multiplied by 1 / (1 - p).
/// `random` is at its start; what it gives for the samples before `first_sample` is left out.
#[cfg(feature = "torch")]
pub(super) fn apply(
    x: &tch::Tensor,
    p: f64,
    random: &mut rand_chacha::ChaCha8Rng,
    first_sample: usize,
) -> Result<tch::Tensor> {
    use rand::Rng;

    let mut shape = vec![1; x.dim()];
    shape[..2].copy_from_slice(&x.size()[..2]);
    for _ in 0..first_sample * shape[1] as usize {
        random.random::<f64>();
    }
    let factors: Vec<f32> = (0..shape[0] * shape[1])
        .map(|_| match random.random::<f64>() < p {
            true => 0.0,
            false => (1.0 / (1.0 - p)) as f32,
        })
        .collect();
    let factors = tch::Tensor::f_from_slice(&factors)?.f_view(&shape[..])?;
    Ok(x.f_mul(&factors.f_to_device(x.device())?.f_to_kind(x.kind())?)?)
}

#[cfg(all(test, feature = "torch"))]
mod tests {
    use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

    use super::*;

    #[test]
    fn whole_channels_drop_out_and_the_others_make_up_for_them() {
        let x = tch::Tensor::ones([50, 40, 3, 2], (tch::Kind::Float, tch::Device::Cpu));
        let y = apply(&x, 0.25, &mut ChaCha8Rng::seed_from_u64(1), 0).unwrap();
        let values = Vec::<f32>::try_from(y.view(-1)).unwrap();
        let channels: Vec<&[f32]> = values.chunks(6).collect();
        assert!(channels.iter().all(|c| c.iter().all(|v| *v == c[0])));
        let (dropped, kept): (Vec<&[f32]>, Vec<&[f32]>) = channels.into_iter().partition(|c| c[0] == 0.0);
        assert!(kept.iter().all(|c| c[0] == 1.0 / 0.75));
        // 2000 channels: 500 +- 19.
        assert!((430..570).contains(&dropped.len()), "{}", dropped.len());
    }

    #[test]
    fn a_part_of_a_batch_loses_the_same_channels() {
        let x = tch::Tensor::ones([4, 40, 3, 2], (tch::Kind::Float, tch::Device::Cpu));
        let apply = |x, first| apply(x, 0.25, &mut ChaCha8Rng::seed_from_u64(1), first).unwrap();
        assert_eq!(apply(&x.narrow(0, 1, 2), 1), apply(&x, 0).narrow(0, 1, 2),);
    }
}
