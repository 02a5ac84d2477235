//! Hidden sums are the plain ones, bit for bit, whoever vanishes; one hidden update says nothing.

use std::path::{Path, PathBuf};

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha20Rng;
use schemas::masking::LARGEST_TOTAL;

use super::{masked::CHUNK, *};
use crate::{
    average::Contribution,
    checkpoint::safetensors::{self, TensorFile},
    network::{StateDict, Tensor32},
    progress::Unobserved,
};

const SITES: [&str; 5] = ["a", "b", "c", "d", "e"];
const WEIGHTS: [u64; 5] = [20, 3, 117, 1, 64];
const THRESHOLD: usize = 3;

struct Federation {
    folder: tempfile::TempDir,
    secrets: Vec<Secret>,
    group: Group,
}

fn site(place: usize) -> String {
    SITES[place].to_owned()
}

fn sites(places: &[usize]) -> Vec<String> {
    places.iter().map(|place| site(*place)).collect()
}

fn secret(place: usize) -> Secret {
    let mut bytes = [0; 32];
    ChaCha20Rng::seed_from_u64(place as u64).fill_bytes(&mut bytes);
    Secret::new(bytes)
}

fn member(place: usize) -> Member {
    Member {
        site: site(place),
        keys: secret(place).public_keys(),
    }
}

/// A site's weights: more in one tensor than one thread takes at a time.
fn weights(place: usize) -> StateDict {
    let mut random = ChaCha20Rng::seed_from_u64(1_000 + place as u64);
    let mut state = StateDict::new();
    for (name, shape) in [("z", vec![2, 3]), ("a", vec![CHUNK + 5]), ("s", vec![])] {
        let count = shape.iter().product();
        let values = (0..count).map(|_| (random.next_u32() as i32 as f32) * 1e-9);
        state
            .insert(name, Tensor32::new(shape, values.collect()).unwrap())
            .unwrap();
    }
    state
}

impl Federation {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            secrets: (0..5).map(secret).collect(),
            group: Group::new("job 0", THRESHOLD, (0..5).map(member).collect()).unwrap(),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn mask(&self, place: usize, sharers: &[usize]) -> Contribution {
        let own = Own {
            site: SITES[place],
            secret: &self.secrets[place],
            weight: WEIGHTS[place],
        };
        let file = self.file(SITES[place]);
        mask(&weights(place), &own, &self.group, &sites(sharers), &file).unwrap();
        Contribution {
            site: site(place),
            weights: file,
            weight: WEIGHTS[place],
        }
    }

    /// What each of `by` reveals, having read what the sharers sealed for it.
    fn reveal(&self, by: &[usize], sharers: &[usize], survivors: &[usize]) -> Vec<Revealed> {
        let reveal = |&place: &usize| {
            let (own, secret) = (SITES[place], &self.secrets[place]);
            let mut revealed = Revealed {
                by: site(place),
                seeds: Default::default(),
                keys: Default::default(),
            };
            for &from in sharers {
                let shares = if from == place {
                    secret.own_shares(&self.group, own).unwrap()
                } else {
                    let sealed = self.secrets[from].seal(&self.group, SITES[from]).unwrap();
                    let (_, sealed) = sealed.into_iter().find(|(to, _)| to == own).unwrap();
                    secret.open(&self.group, own, SITES[from], &sealed).unwrap()
                };
                if survivors.contains(&from) {
                    revealed.seeds.insert(site(from), shares.seed);
                } else {
                    revealed.keys.insert(site(from), shares.masking);
                }
            }
            revealed
        };
        by.iter().map(reveal).collect()
    }

    fn sum(&self, sharers: &[usize], survivors: &[usize], revealed: &[Revealed]) -> crate::Result<StateDict> {
        let contributions: Vec<Contribution> = survivors
            .iter()
            .rev()
            .map(|place| self.mask(*place, sharers))
            .collect();
        let output = self.file("sum");
        let sharers = sites(sharers);
        sum(
            &contributions,
            &self.group,
            &sharers,
            revealed,
            &output,
            &Unobserved,
        )?;
        safetensors::read(&output)
    }
}

/// The weighted mean, in integers of steps of 2^-32.
fn plain(survivors: &[usize]) -> StateDict {
    let total: u64 = survivors.iter().map(|place| WEIGHTS[*place]).sum();
    let all: Vec<StateDict> = survivors.iter().map(|place| weights(*place)).collect();
    let mut mean = StateDict::new();
    for (name, tensor) in all[0].iter() {
        let at = |index: usize| {
            let sum: i128 = all
                .iter()
                .zip(survivors)
                .map(|(state, place)| {
                    let value = f64::from(state.get(name).unwrap().data[index]);
                    i128::from(WEIGHTS[*place]) * (value * 2f64.powi(32)).round_ties_even() as i128
                })
                .sum();
            (sum as f64 / (total as f64 * 2f64.powi(32))) as f32
        };
        let data = (0..tensor.data.len()).map(at).collect();
        mean.insert(name, Tensor32::new(tensor.shape.clone(), data).unwrap())
            .unwrap();
    }
    mean
}

#[test]
fn a_hidden_sum_is_the_plain_one_whoever_vanishes() {
    let federation = Federation::new();
    // Sharers, those whose updates count, those who reveal.
    let histories: [(&[usize], &[usize], &[usize]); 5] = [
        (&[0, 1, 2, 3, 4], &[0, 1, 2, 3, 4], &[0, 1, 2, 3, 4]),
        (&[0, 1, 2, 3, 4], &[0, 2, 3, 4], &[0, 2, 3, 4]),
        (&[0, 1, 2, 3, 4], &[1, 2, 4], &[1, 2, 4]),
        (&[0, 2, 3, 4], &[0, 3, 4], &[0, 3, 4]),
        // One more vanishes before it reveals.
        (&[0, 1, 2, 3, 4], &[0, 1, 2, 3], &[1, 2, 3]),
    ];
    for (sharers, survivors, by) in histories {
        let revealed = federation.reveal(by, sharers, survivors);
        let found = federation.sum(sharers, survivors, &revealed).unwrap();
        assert_eq!(found, plain(survivors), "{sharers:?} {survivors:?} {by:?}");
    }
    // The plain mean of the float32 weights differs by rounding alone.
    let state = plain(&[0, 1, 2]);
    let value = f64::from(state.get("z").unwrap().data[0]);
    let mean =
        [0, 1, 2].map(|place| WEIGHTS[place] as f64 * f64::from(weights(place).get("z").unwrap().data[0]));
    assert!((value - mean.iter().sum::<f64>() / 140.0).abs() < 1e-7);
}

#[test]
fn too_few_shares_or_wrong_ones_are_named() {
    let federation = Federation::new();
    let (all, survivors) = ([0, 1, 2, 3, 4], [0, 1, 2, 4]);
    let message = |result: crate::Result<StateDict>| result.unwrap_err().to_string();
    let few = federation.reveal(&[1, 2], &all, &survivors);
    let error = message(federation.sum(&all, &survivors, &few));
    assert_eq!(
        error,
        "site a: 2 shares of its secret were revealed: expected the threshold, 3"
    );
    let error = message(federation.sum(&all, &[0, 1], &federation.reveal(&[0, 1, 2], &all, &[0, 1])));
    assert!(
        error.contains("the sites that sent an update: 2 of 5 sites"),
        "{error}"
    );

    let mut wrong = federation.reveal(&[0, 1, 2], &all, &survivors);
    wrong[1].seeds.get_mut("c").unwrap()[7] ^= 1;
    let error = message(federation.sum(&all, &survivors, &wrong));
    assert_eq!(
        error,
        "site c: the shares that a, b, c revealed do not fit its keys"
    );
    let mut wrong = federation.reveal(&[0, 1, 2], &all, &survivors);
    wrong[0].keys.get_mut("d").unwrap()[7] ^= 1;
    let error = message(federation.sum(&all, &survivors, &wrong));
    assert!(error.starts_with("site d: the shares"), "{error}");
}

#[test]
fn only_the_one_it_is_for_opens_a_share() {
    let federation = Federation::new();
    let (group, secrets) = (&federation.group, &federation.secrets);
    let sealed = secrets[0].seal(group, "a").unwrap();
    assert_eq!(
        sealed,
        secrets[0].seal(group, "a").unwrap(),
        "the same at each call"
    );
    assert_eq!(sealed.len(), 4);
    let (to, bytes) = &sealed[0];
    assert_eq!(to, "b");
    let opened = secrets[1].open(group, "b", "a", bytes).unwrap();
    assert_ne!(opened.masking, opened.seed);
    assert!(secrets[2].open(group, "c", "a", bytes).is_err());
    assert!(secrets[1].open(group, "b", "c", bytes).is_err());
    let mut damaged = bytes.clone();
    damaged[0] ^= 1;
    assert!(secrets[1].open(group, "b", "a", &damaged).is_err());
    assert!(secrets[1].open(group, "b", "a", &bytes[..10]).is_err());
    let other = Group::new("job 1", THRESHOLD, group.members().to_vec()).unwrap();
    assert!(secrets[1].open(&other, "b", "a", bytes).is_err());
    // Keys that this site did not make.
    let error = secrets[1].seal(group, "a").unwrap_err().to_string();
    assert_eq!(error, "site a: the round goes by other keys than this site made");
    // A key by which everybody agrees on the same.
    let mut members = group.members().to_vec();
    members[3].keys.sharing = [0; 32];
    let weak = Group::new("job 0", THRESHOLD, members).unwrap();
    let error = secrets[0].seal(&weak, "a").unwrap_err().to_string();
    assert!(error.starts_with("site d: its public key is no key"), "{error}");
}

#[test]
fn groups_that_protect_nobody_are_refused() {
    let group = |threshold, places: &[usize]| {
        let members = places.iter().map(|place| member(*place)).collect();
        Group::new("job 0", threshold, members).map(|_| ())
    };
    assert!(group(3, &[0, 1, 2]).is_ok());
    assert!(group(4, &[0, 1, 2, 3, 4]).is_ok());
    for (threshold, places) in [
        (2, &[0, 1][..]),
        (2, &[0, 1, 2]),
        (4, &[0, 1, 2]),
        (6, &[0, 1, 2, 3, 4]),
        (3, &[0, 2, 1]),
        (3, &[0, 1, 1]),
    ] {
        assert!(group(threshold, places).is_err(), "{threshold} of {places:?}");
    }
    let federation = Federation::new();
    let check = |places: &[usize]| federation.group.check_some("those", &sites(places));
    assert!(check(&[0, 3, 4]).is_ok());
    assert!(check(&[0, 4]).is_err() && check(&[0, 4, 3]).is_err() && check(&[0, 1, 1]).is_err());
}

#[test]
fn what_cannot_be_hidden_is_refused_by_name() {
    let federation = Federation::new();
    let all = sites(&[0, 1, 2, 3, 4]);
    let refused = |value: f32, weight: u64| {
        let mut state = weights(0);
        state.get_mut("a").unwrap().data[CHUNK + 1] = value;
        let own = Own {
            site: "a",
            secret: &federation.secrets[0],
            weight,
        };
        let file = federation.file("refused");
        mask(&state, &own, &federation.group, &all, &file)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        refused(f32::NAN, 1),
        "tensor a holds NaN: expected a number of size below 1024"
    );
    assert!(refused(-1_024.0, 1).starts_with("tensor a holds -1024"));
    assert!(refused(0.0, 0).starts_with("site a: counts 0"));
    assert!(refused(0.0, LARGEST_TOTAL + 1).starts_with("site a: counts 2097152"));
}

/// The bytes of tensor a of a hidden update.
fn of_tensor_a(file: &Path) -> Vec<u8> {
    let tensors = TensorFile::<u64>::open(file).unwrap();
    let mut bytes = vec![0; 8 * tensors.shapes()["a"].iter().product::<usize>()];
    tensors.read("a", 0, &mut bytes).unwrap();
    bytes
}

/// The bytes of one hidden update are uniform: chi-square of 256 values, 255 degrees of freedom, below its quantile of
/// 0.9999 (about 347).
#[test]
fn one_hidden_update_is_noise() {
    let federation = Federation::new();
    let all = [0, 1, 2, 3, 4];
    let chi_square = |file: &Path| {
        let bytes = of_tensor_a(file);
        let mut counts = [0f64; 256];
        bytes.iter().for_each(|byte| counts[usize::from(*byte)] += 1.0);
        let expected = bytes.len() as f64 / 256.0;
        counts
            .iter()
            .map(|count| (count - expected).powi(2) / expected)
            .sum::<f64>()
    };
    let hidden = federation.mask(0, &all);
    assert!(chi_square(&hidden.weights) < 347.0);
    // Unhidden it would not be.
    let update = weights(0);
    let encoded = update.get("a").unwrap().data.iter();
    let encoded: Vec<u64> = encoded
        .map(|value| fixed_point::encode(*value, 20).unwrap())
        .collect();
    let plain = federation.file("plain");
    let shapes = [("a".to_owned(), vec![encoded.len()])];
    let mut writer = safetensors::Writer::<u64>::create(&plain, &shapes).unwrap();
    writer.push(&encoded).unwrap();
    writer.finish().unwrap();
    assert!(chi_square(&plain) > 10_000.0);
    // With the masks of the others alone, or its own alone, it is noise too.
    let revealed = federation.reveal(&[0, 1, 2], &all, &all);
    let seeds: Vec<(u8, Bytes32)> = [1, 2, 3]
        .into_iter()
        .zip(revealed.iter().map(|part| part.seeds["a"]))
        .collect();
    let bytes = of_tensor_a(&hidden.weights);
    let bytes = bytes.as_chunks().0.iter();
    let mut values: Vec<u64> = bytes.map(|bytes| u64::from_le_bytes(*bytes)).collect();
    // Tensor z has 6 values before it.
    mask::Stream::own(shamir::combine(&seeds))
        .turned()
        .apply(6, &mut values);
    let mut writer = safetensors::Writer::<u64>::create(&plain, &shapes).unwrap();
    writer.push(&values).unwrap();
    writer.finish().unwrap();
    assert!(chi_square(&plain) < 347.0);
    // The same bytes when it is hidden again.
    let bytes = std::fs::read(&hidden.weights).unwrap();
    federation.mask(0, &all);
    assert_eq!(std::fs::read(&hidden.weights).unwrap(), bytes);
}
