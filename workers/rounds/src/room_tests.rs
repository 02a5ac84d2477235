use std::cell::Cell;

use super::*;

/// A cache in `root`/cases, and a folder `root`/job of a job that uses some of its cases.
struct Made {
    root: tempfile::TempDir,
    cache: CaseCache,
}

impl Made {
    /// Cases with their sizes, the least recently used first.
    fn new(cases: &[(&str, usize)]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let cache = CaseCache::new(root.path().join("cases"));
        for folder in [cache.folder(), &root.path().join("job")] {
            fs::create_dir_all(folder).unwrap();
        }
        for (number, (key, bytes)) in cases.iter().enumerate() {
            for (ending, bytes) in [("npz", bytes - 10), ("pkl", 10)] {
                fs::write(cache.folder().join(format!("{key}.{ending}")), vec![0; bytes]).unwrap();
            }
            let used = SystemTime::UNIX_EPOCH + Duration::from_secs(1000 + number as u64);
            for ending in ["npz", "pkl"] {
                let file = fs::File::open(cache.folder().join(format!("{key}.{ending}"))).unwrap();
                file.set_modified(used).unwrap();
            }
        }
        Self { root, cache }
    }

    /// The job uses a case.
    fn used(&self, key: &str) {
        for ending in ["npz", "pkl"] {
            let name = format!("{key}.{ending}");
            let own = self.root.path().join("job").join(&name);
            fs::hard_link(self.cache.folder().join(&name), own).unwrap();
        }
    }

    fn keys(&self) -> Vec<String> {
        let cases = cached(&self.cache).unwrap();
        cases.into_iter().map(|case| case.key).collect()
    }

    /// Makes room; how often ended jobs were asked for.
    fn make_room(&self, wanted: &[&str], bytes: u64, bound: u64, free: u64) -> (Result<(), Failure>, u32) {
        let keys: Vec<String> = wanted.iter().map(|&key| key.to_owned()).collect();
        let wanted = Wanted {
            keys: &keys,
            bytes: Some(bytes),
            bound: Some(ByteSize(bound)),
        };
        // As on a disk that holds nothing but the cache.
        let before: u64 = cached(&self.cache).unwrap().iter().map(CachedCase::bytes).sum();
        let free = || {
            let now: u64 = cached(&self.cache)?.iter().map(CachedCase::bytes).sum();
            Ok(free + before - now)
        };
        let asked = Cell::new(0);
        let release = || asked.set(asked.get() + 1);
        (make_room(&self.cache, &wanted, &free, &release), asked.get())
    }
}

#[test]
fn the_least_recently_used_go_first_and_only_as_many_as_must() {
    let made = Made::new(&[("a", 100), ("b", 100), ("c", 100), ("d", 100)]);
    // All fits: nobody is asked.
    assert_eq!(made.make_room(&["x"], 100, 500, 1000), (Ok(()), 0));
    assert_eq!(made.keys(), ["a", "b", "c", "d"]);
    note_use(made.cache.folder(), ["a"]);
    assert_eq!(made.keys(), ["b", "c", "d", "a"]);
    assert_eq!(made.make_room(&["x"], 150, 500, 1000), (Ok(()), 1));
    assert_eq!(made.keys(), ["c", "d", "a"]);
    // The disk is short: the same, whatever the bound.
    assert_eq!(made.make_room(&["x"], 150, 5000, 20), (Ok(()), 1));
    assert_eq!(made.keys(), ["a"]);
}

#[test]
fn what_a_job_uses_or_wants_stays() {
    let made = Made::new(&[("a", 100), ("b", 100), ("c", 100)]);
    made.used("a");
    // b is wanted, and there: 100 bytes of the 200 are needed.
    assert_eq!(made.make_room(&["b", "x"], 200, 150, 1000), (Ok(()), 1));
    assert_eq!(made.keys(), ["a", "b"]);
    // Nothing is left to remove: above the bound there is a warning, beyond the disk a failure.
    assert_eq!(made.make_room(&["b", "x"], 200, 150, 1000), (Ok(()), 1));
    let (short, _) = made.make_room(&["b", "x"], 1_500_200, 150, 1_200_000);
    let short = short.unwrap_err();
    assert_eq!((&*short.code, short.retryable), ("disk-short", false));
    for said in [
        "1.5 MB",
        "1500100 bytes",
        "1.2 MB",
        "1200000 bytes",
        "the site's folder",
    ] {
        assert!(short.message.contains(said), "{said:?} is not in {short:?}");
    }
    assert!(!short.message.contains('/'), "{short:?}");
    assert_eq!(made.keys(), ["a", "b"]);
    // All of a job's cases are there: it needs nothing, whatever the estimate says.
    assert_eq!(made.make_room(&["a", "b"], 1_000_000, 200, 0), (Ok(()), 0));
}

#[test]
fn a_job_that_links_a_case_keeps_it() {
    let made = Made::new(&[("a", 100)]);
    let cases = cached(&made.cache).unwrap();
    made.used("a");
    cases[0].remove().unwrap();
    assert!(made.keys().is_empty());
    let own = made.root.path().join("job").join("a.npz");
    assert_eq!(fs::read(own).unwrap().len(), 90);
}

#[test]
fn the_disk_says_what_is_free() {
    let root = tempfile::tempdir().unwrap();
    assert!(free_bytes(root.path()).unwrap() > 0);
    let error = free_bytes(&root.path().join("missing")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}
