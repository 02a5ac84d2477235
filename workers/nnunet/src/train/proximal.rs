//! FedProx (Li et al., Federated Optimization in Heterogeneous Networks, 2020): a site minimises its loss plus
//! mu / 2 |w - w0|^2, w0 being the weights that the round started from, so that unlike sites drift less far apart.

use tch::Tensor;

use crate::{Error, Result};

/// The proximal term of one round.
pub struct Proximal {
    mu: f64,
    /// The weights that the round started from.
    anchor: Vec<Tensor>,
}

impl Proximal {
    /// The term that holds to `parameters` as they are now.
    ///
    /// # Errors
    /// A mu that is not above 0.
    pub fn new(mu: f64, parameters: &[Tensor]) -> Result<Self> {
        if !(mu > 0.0 && mu.is_finite()) {
            return Err(Error::invalid("fedprox_mu", format!("is {mu}, expected above 0")));
        }
        let anchor = parameters
            .iter()
            .map(|parameter| Ok(parameter.f_detach_copy()?))
            .collect::<Result<_>>()?;
        Ok(Self { mu, anchor })
    }

    /// Adds mu (w - w0) to the gradients, one per parameter, of a loss that was multiplied by `loss_scale`. A
    /// parameter without a gradient never moves, and gets none.
    pub fn add(
        &self,
        parameters: &[Tensor],
        gradients: &mut [Option<Tensor>],
        loss_scale: f64,
    ) -> Result<()> {
        tch::no_grad(|| {
            for ((parameter, anchor), gradient) in parameters.iter().zip(&self.anchor).zip(gradients) {
                if let Some(gradient) = gradient {
                    let pull = parameter.f_sub(anchor)?.f_mul_scalar_(self.mu * loss_scale)?;
                    let _ = gradient.f_add_(&pull)?;
                }
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;

    #[test]
    fn the_gradient_is_that_of_the_objective() {
        let start = Tensor::from_slice(&[1.0f64, -2.0, 0.5]);
        let now = Tensor::from_slice(&[1.5f64, -2.5, 0.25]).set_requires_grad(true);
        let data = Tensor::from_slice(&[0.3f64, 0.7, -1.1]);
        let (mu, scale) = (0.25, 8.0);
        let loss = |w: &Tensor| (w * &data).sin().sum(Kind::Double);

        let gradient = Tensor::run_backward(&[loss(&now) * scale], &[&now], false, false);
        let mut gradients = vec![gradient.into_iter().next(), None];
        let unused = Tensor::from_slice(&[7.0f64]);
        let proximal = Proximal::new(mu, &[start.shallow_clone(), unused.shallow_clone()]).unwrap();
        proximal
            .add(&[now.detach(), unused], &mut gradients, scale)
            .unwrap();
        let ours: Vec<f64> = (gradients[0].as_ref().unwrap() / scale).try_into().unwrap();
        assert!(gradients[1].is_none());

        // Central differences of the whole objective.
        let objective = |w: &Tensor| {
            let distance = (w - &start).square().sum(Kind::Double) * (mu / 2.0);
            (loss(w) + distance).double_value(&[])
        };
        let values: Vec<f64> = now.detach().try_into().unwrap();
        for (index, ours) in ours.iter().enumerate() {
            let at = |step: f64| {
                let mut moved = values.clone();
                moved[index] += step;
                objective(&Tensor::from_slice(&moved))
            };
            let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((ours - slope).abs() < 1e-8, "{index}: {ours} {slope}");
        }
    }

    #[test]
    fn it_holds_to_what_the_weights_were() {
        let mut parameters = [Tensor::from_slice(&[1.0f32])];
        let proximal = Proximal::new(0.5, &parameters).unwrap();
        let _ = parameters[0].f_add_scalar_(2.0).unwrap();
        let mut gradients = [Some(Tensor::from_slice(&[0.25f32]))];
        proximal.add(&parameters, &mut gradients, 1.0).unwrap();
        let gradient: Vec<f32> = gradients[0].take().unwrap().try_into().unwrap();
        assert_eq!(gradient, [1.25]);
        for mu in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(Proximal::new(mu, &parameters).is_err());
        }
    }
}
