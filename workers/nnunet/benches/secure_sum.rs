//! What hiding an update costs: five sites, three million weights (12 MB), beside the plain average of the same.

use std::{hint::black_box, path::PathBuf};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use nnunet::{
    average::{Contribution, Rule, average},
    checkpoint::safetensors,
    network::{StateDict, Tensor32},
    progress::Unobserved,
    secure_sum::{Group, Member, Own, Revealed, Secret, mask, sum},
};

const SITES: [&str; 5] = ["a", "b", "c", "d", "e"];
const WEIGHTS: usize = 3_000_000;

fn weights(site: usize) -> StateDict {
    let mut state = StateDict::new();
    let values = (0..WEIGHTS).map(|place| ((place * 7 + site * 13) % 1_000) as f32 * 1e-3 - 0.5);
    let tensor = Tensor32::new(vec![WEIGHTS], values.collect()).expect("the shape is the values'");
    state.insert("weight", tensor).expect("the only one");
    state
}

fn masking(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder for temporaries");
    let names: Vec<String> = SITES.map(str::to_owned).into();
    let secrets: Vec<Secret> = (0..5).map(|site| Secret::new([site + 1; 32])).collect();
    let members = names.iter().zip(&secrets).map(|(site, secret)| Member {
        site: site.clone(),
        keys: secret.public_keys(),
    });
    let group = Group::new("bench 0", 3, members.collect()).expect("five members");
    let file = |kind: &str, site: &str| folder.path().join(format!("{kind}-{site}"));
    let contribution = |site: &str, weights: PathBuf| Contribution {
        site: site.to_owned(),
        weights,
        weight: 10,
    };
    let hide = |site: usize| {
        let own = Own {
            site: SITES[site],
            secret: &secrets[site],
            weight: 10,
        };
        let output = file("hidden", SITES[site]);
        mask(&weights(site), &own, &group, &names, &output).expect("weights in range");
        contribution(SITES[site], output)
    };
    let hidden: Vec<Contribution> = (0..5).map(hide).collect();
    let plain: Vec<Contribution> = (0..5)
        .map(|site| {
            let output = file("plain", SITES[site]);
            safetensors::write(&weights(site), &output).expect("room for it");
            contribution(SITES[site], output)
        })
        .collect();
    let sealed: Vec<_> = secrets
        .iter()
        .zip(SITES)
        .map(|(secret, site)| (site, secret.seal(&group, site).expect("a member")))
        .collect();
    let revealed: Vec<Revealed> = SITES
        .iter()
        .zip(&secrets)
        .map(|(own, secret)| {
            let mut seeds = std::collections::BTreeMap::new();
            seeds.insert(
                (*own).to_owned(),
                secret.own_shares(&group, own).expect("a member").seed,
            );
            for (from, shares) in &sealed {
                if let Some((_, shares)) = shares.iter().find(|(to, _)| to == own) {
                    let opened = secret.open(&group, own, from, shares).expect("sealed for it");
                    seeds.insert((*from).to_owned(), opened.seed);
                }
            }
            Revealed {
                by: (*own).to_owned(),
                seeds,
                keys: Default::default(),
            }
        })
        .collect();

    let mut benches = criterion.benchmark_group("secure sum of five sites");
    benches.throughput(Throughput::Elements(WEIGHTS as u64));
    benches.sample_size(10);
    benches.bench_function("a site hides its update", |bencher| {
        bencher.iter(|| black_box(hide(0)))
    });
    let output = folder.path().join("average");
    benches.bench_function("the orchestrator sums hidden updates", |bencher| {
        bencher.iter(|| sum(&hidden, &group, &names, &revealed, &output, &Unobserved).expect("all is told"));
    });
    benches.bench_function("the orchestrator averages plain ones", |bencher| {
        bencher.iter(|| average(&plain, &Rule::Mean, &output, &Unobserved).expect("five updates"));
    });
    benches.finish();
}

criterion_group!(benches, masking);
criterion_main!(benches);
