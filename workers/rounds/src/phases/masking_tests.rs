//! Sites of their own folders through a masked round, and what each of them refuses.

use std::fs;

use nkeys::KeyPair;
use nnunet::{
    average::Contribution,
    checkpoint::safetensors,
    network::{StateDict, Tensor32},
    progress::Unobserved,
};
use schemas::{
    event::{Accepted, Member},
    job::SecureAggregation,
    masking::{SealedShares, SignedKeys, SiteShares, Unmasking},
    names::Phase,
    task::{Failure, Task, TaskInput, TaskKey, TaskOutput},
};
use serde_json::json;

use super::{average::combine, masking, protected};
use crate::{job_folder, settings::SiteSettings, site::Site};

const SITES: [&str; 4] = ["a", "b", "c", "d"];
const ROUND: u32 = 2;

struct Federation {
    folder: tempfile::TempDir,
    sites: Vec<Site>,
}

impl Federation {
    /// Sites with nkeys, and a roster that knows them.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let roster = folder.path().join("roster.json");
        let pairs: Vec<KeyPair> = SITES.iter().map(|_| KeyPair::new_user()).collect();
        let known: serde_json::Map<_, _> = SITES
            .iter()
            .zip(&pairs)
            .map(|(site, pair)| ((*site).to_owned(), json!({ "current": [pair.public_key()] })))
            .collect();
        fs::write(&roster, json!({ "sites": known }).to_string()).unwrap();
        let open = |(site, pair): (&&str, &KeyPair)| {
            let seed = folder.path().join(format!("{site}.nk"));
            fs::write(&seed, pair.seed().unwrap()).unwrap();
            let settings: SiteSettings = serde_json::from_value(json!({
                "site": site,
                "nats": { "url": "nats://127.0.0.1:4222", "nkey": seed },
                "roster": roster,
                "root": folder.path().join(site),
                "datasets": [{ "id": format!("set-{site}"), "path": "/nowhere/Dataset004_Set" }],
            }))
            .unwrap();
            Site::open(settings).unwrap()
        };
        let sites = SITES.iter().zip(&pairs).map(open).collect();
        Self { folder, sites }
    }

    fn job() -> Accepted {
        let mut job = job_folder::tests::accepted("masked", "then");
        job.message.federation.secure_aggregation = Some(SecureAggregation::default());
        job.members = SITES
            .iter()
            .map(|site| Member {
                site: (*site).to_owned(),
                dataset: format!("set-{site}"),
                device: None,
                cases: 3,
            })
            .collect();
        job
    }

    /// A task of that site; what it starts from is passed apart.
    fn task(site: &Site) -> Task {
        Task {
            key: TaskKey {
                site: site.settings.site.clone(),
                phase: Phase::TrainRound,
                job: "masked".into(),
                round: ROUND,
                pass: 0,
                shard: 0,
                attempt: 1,
            },
            shards: 1,
            job: Self::job(),
            input: TaskInput::MakeKeys {},
        }
    }

    fn keys(&self) -> Vec<SignedKeys> {
        self.keys_for(Self::task)
    }

    fn keys_for(&self, task: impl Fn(&Site) -> Task) -> Vec<SignedKeys> {
        let made = self.sites.iter().map(|site| {
            let task = task(site);
            let keys = |output| match output {
                TaskOutput::Keys { keys } => keys,
                other => panic!("{other:?}"),
            };
            let first = keys(masking::make_keys(site, &task).unwrap());
            assert_eq!(
                keys(masking::make_keys(site, &task).unwrap()),
                first,
                "once a round"
            );
            first
        });
        made.collect()
    }

    /// A shard of a site's scan.
    fn scan(site: &Site, shard: u32, shards: u32) -> Task {
        let mut task = Self::task(site);
        task.key.phase = Phase::Fingerprint;
        (task.key.round, task.key.pass, task.key.shard, task.shards) = (0, 1, shard, shards);
        task.input = TaskInput::Scan {
            cases_total: 9,
            keys: Vec::new(),
        };
        task
    }

    fn shared(&self, keys: &[SignedKeys]) -> Vec<SealedShares> {
        let all =
            self.sites.iter().flat_map(
                |site| match masking::share(site, &Self::task(site), keys).unwrap() {
                    TaskOutput::Shared { shares } => shares,
                    other => panic!("{other:?}"),
                },
            );
        all.collect()
    }

    fn told(&self, site: &Site, counted: &[&str], sealed: &[SealedShares]) -> Result<SiteShares, Failure> {
        match masking::unmask(site, &Self::task(site), &names(&SITES), &names(counted), sealed)? {
            TaskOutput::Unmasked { shares } => Ok(shares),
            other => panic!("{other:?}"),
        }
    }
}

fn names(sites: &[&str]) -> Vec<String> {
    sites.iter().map(|site| (*site).to_owned()).collect()
}

fn weights(value: f32) -> StateDict {
    let mut state = StateDict::new();
    let tensor = Tensor32::new(vec![3], vec![value, -value, 0.5]).unwrap();
    state.insert("w", tensor).unwrap();
    state
}

#[test]
fn a_round_of_sites_sums_what_none_tells() {
    let federation = Federation::new();
    let keys = federation.keys();
    let sealed = federation.shared(&keys);
    assert_eq!(sealed.len(), 12);
    assert_eq!(
        federation.shared(&keys),
        sealed,
        "a second delivery seals the same"
    );

    // Site b vanishes behind sharing.
    let counted = ["a", "c", "d"];
    let there = || {
        federation
            .sites
            .iter()
            .filter(|site| counted.contains(&&*site.settings.site))
    };
    let contributions: Vec<Contribution> = there()
        .zip([1.0, 2.0, 3.0])
        .map(|(site, value)| {
            let task = Federation::task(site);
            let file = protected::update(site, &task).unwrap();
            let mask = || masking::mask(site, &task, &weights(value), 3, &names(&SITES), &file).unwrap();
            assert_eq!(mask(), mask());
            Contribution {
                site: site.settings.site.clone(),
                weights: file,
                weight: 3,
            }
        })
        .collect();
    let shares: Vec<SiteShares> = there()
        .map(|site| federation.told(site, &counted, &sealed).unwrap())
        .collect();
    assert!(
        shares
            .iter()
            .all(|told| told.seeds.len() == 3 && told.keys.len() == 1)
    );
    let unmasking = Unmasking {
        keys: keys.clone(),
        sharers: names(&SITES),
        shares,
    };
    let output = federation.folder.path().join("sum");
    combine::sum(
        &Federation::job(),
        ROUND,
        &contributions,
        &unmasking,
        &output,
        &Unobserved,
    )
    .unwrap();
    assert_eq!(safetensors::read(&output).unwrap(), weights(2.0));

    // What was agreed to stands, whatever is asked later.
    let site = &federation.sites[0];
    let task = Federation::task(site);
    let message = |failure: Failure| {
        assert_eq!((&*failure.code, failure.retryable), ("masking", false));
        failure.message
    };
    let error = message(federation.told(site, &SITES, &sealed).unwrap_err());
    assert!(
        error.contains("the sites whose updates count are others"),
        "{error}"
    );
    let fewer = names(&["a", "b", "c"]);
    let file = protected::update(site, &task).unwrap();
    let error = message(masking::mask(site, &task, &weights(1.0), 3, &fewer, &file).unwrap_err());
    assert!(
        error.contains("whom it masked its update for are others"),
        "{error}"
    );
    let error = message(masking::share(site, &task, &keys[..3]).unwrap_err());
    assert!(
        error.contains("the keys that it shared its secrets by are others"),
        "{error}"
    );
}

#[test]
fn numbers_of_the_fingerprint_are_hidden_in_their_sum() {
    let federation = Federation::new();
    let keys = federation.keys_for(|site| Federation::scan(site, 0, 1));
    let plain = |site: usize, shard: u32| vec![site as u64, u64::from(shard), u64::MAX, 7];
    let hide = |site: usize, shard: u32, shards: u32| {
        let mut numbers = plain(site, shard);
        let site = &federation.sites[site];
        let task = Federation::scan(site, shard, shards);
        masking::hide(site, &task, &keys, &mut numbers).unwrap();
        numbers
    };
    // Site c has three shards.
    let shards = [(0, 0, 1), (1, 0, 1), (2, 0, 3), (2, 1, 3), (2, 2, 3), (3, 0, 1)];
    let add = |sum: Vec<u64>, other: Vec<u64>| -> Vec<u64> {
        sum.iter().zip(other).map(|(a, b)| a.wrapping_add(b)).collect()
    };
    let sum = |of: &dyn Fn(usize, u32, u32) -> Vec<u64>| {
        shards
            .iter()
            .map(|(site, shard, count)| of(*site, *shard, *count))
            .fold(vec![0; 4], add)
    };
    let expected = sum(&|site, shard, _| plain(site, shard));
    assert_eq!(sum(&hide), expected);
    for (site, shard, count) in shards {
        let hidden = hide(site, shard, count);
        assert_eq!(
            hide(site, shard, count),
            hidden,
            "a second delivery sends the same"
        );
        let own = plain(site, shard);
        assert!(hidden.iter().zip(&own).all(|(hidden, own)| hidden != own));
    }
    // Without one shard nothing is known.
    let all_but_one = shards[1..]
        .iter()
        .map(|(site, shard, count)| hide(*site, *shard, *count));
    assert_ne!(add(all_but_one.fold(vec![0; 4], add), plain(0, 0)), expected);

    // Another question is hidden by another mask, so the two answers' difference tells nothing.
    let site = &federation.sites[0];
    let asked = |change: &dyn Fn(&mut Task)| {
        let mut task = Federation::scan(site, 0, 1);
        change(&mut task);
        let mut numbers = plain(0, 0);
        masking::hide(site, &task, &keys, &mut numbers).map(|()| numbers)
    };
    let first = asked(&|_| {}).unwrap();
    let total = |task: &mut Task| {
        task.input = TaskInput::Scan {
            cases_total: 10,
            keys: Vec::new(),
        };
    };
    assert_ne!(asked(&total).unwrap(), first);
    assert_ne!(asked(&|task| task.key.pass = 2).unwrap(), first);
    assert_ne!(asked(&|task| task.shards = 2).unwrap(), first);

    // The keys of a round may be told, so they hide no fingerprint; and all sites' are needed, the same each time.
    let of_rounds = federation.keys_for(|site| {
        let mut task = Federation::task(site);
        task.key.round = 0;
        task
    });
    let refused = |keys: &[SignedKeys]| {
        let failure = masking::hide(site, &Federation::scan(site, 0, 1), keys, &mut [0]).unwrap_err();
        assert!(!failure.retryable);
        (failure.code, failure.message)
    };
    let site_b = &federation.sites[1];
    let failure = masking::hide(site_b, &Federation::scan(site_b, 0, 1), &of_rounds, &mut [0]).unwrap_err();
    assert_eq!(failure.code, "masking");
    assert!(refused(&keys[..3]).1.contains("each of the job's sites"));
    assert!(
        refused(&of_rounds)
            .1
            .contains("the keys by which it hid its fingerprint are others")
    );
    let fresh = Federation::new();
    let own = fresh.keys_for(|site| Federation::scan(site, 0, 1));
    let mut changed = own.clone();
    changed[1].keys.phase = Phase::TrainRound;
    let site = &fresh.sites[0];
    let failure = masking::hide(site, &Federation::scan(site, 0, 1), &changed, &mut [0]).unwrap_err();
    assert!(
        failure
            .message
            .contains("expected keys of the job's sites for fingerprint 0"),
        "{failure:?}"
    );
    let mut changed = own;
    changed[1].keys.masking = changed[2].keys.masking.clone();
    let failure = masking::hide(site, &Federation::scan(site, 0, 1), &changed, &mut [0]).unwrap_err();
    assert_eq!(failure.code, "bad-signature");
}

#[test]
fn keys_that_no_site_of_the_roster_signed_are_refused() {
    let federation = Federation::new();
    let keys = federation.keys();
    let site = &federation.sites[0];
    let task = Federation::task(site);
    let refused = |change: &dyn Fn(&mut Vec<SignedKeys>)| {
        let mut changed = keys.clone();
        change(&mut changed);
        let failure = masking::share(site, &task, &changed).unwrap_err();
        (failure.code, failure.message)
    };
    // The hub's own key in the place of one of b's, or no signature, or c's.
    let (code, message) = refused(&|keys| keys[1].keys.sharing = keys[2].keys.sharing.clone());
    assert_eq!(code, "bad-signature");
    assert!(message.contains("the keys of site b"), "{message}");
    assert_eq!(refused(&|keys| keys[1].signature = None).0, "bad-signature");
    assert_eq!(
        refused(&|keys| keys[1].signature = keys[2].signature.clone()).0,
        "bad-signature"
    );
    // Keys of another round, of a stranger, and too few.
    assert_eq!(refused(&|keys| keys[1].keys.round = 1).0, "masking");
    assert_eq!(refused(&|keys| keys[3].keys.site = "e".into()).0, "masking");
    assert_eq!(refused(&|keys| keys.truncate(2)).0, "masking");
    masking::share(site, &task, &keys).unwrap();

    // Without its secret a site takes no part.
    fs::remove_dir_all(protected::folder(site, &task)).unwrap();
    let failure = masking::share(site, &task, &keys).unwrap_err();
    assert_eq!(
        (&*failure.code, &*failure.message),
        ("masking", "the secret that this site drew for the round is lost")
    );
}
