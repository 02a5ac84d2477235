//! numpy's legacy `RandomState`, draw for draw.
//!
//! nnU-Net's fingerprint, class locations and splits are defined by numpy's Mersenne Twister. Numpy draws
//! bounded integers by masking 32 random bits to the next power of two and rejecting what is too large
//! (numpy/random/src/distributions/distributions.c).

use rand_mt::Mt;

/// Counts that the processor's caches hold: as many as 16 bits can tell apart.
const NEAR: usize = 1 << 16;
/// Numbers of one neighbourhood that wait to be counted.
const WAITING: usize = 1 << 14;

/// The generator behind `numpy.random.RandomState(seed)`, for integer seeds.
#[derive(Clone, Debug)]
pub struct RandomState {
    generator: Mt,
}

impl RandomState {
    /// `numpy.random.RandomState(seed)`.
    pub fn new(seed: u32) -> Self {
        Self {
            generator: Mt::new(seed),
        }
    }

    /// One integer, uniform in `0..=max`. Draws nothing where `max` is 0.
    #[inline]
    pub fn up_to(&mut self, max: u32) -> u32 {
        if max == 0 {
            return 0;
        }
        let mask = u32::MAX >> max.leading_zeros();
        loop {
            let value = self.generator.next_u32() & mask;
            if value <= max {
                return value;
            }
        }
    }

    /// The indices that `choice(n, size, replace=True)` draws, one after the other: each in `0..n`.
    ///
    /// # Panics
    /// Where `n` is 0: there is nothing to choose from.
    pub fn choice_with_replacement(&mut self, n: u32, size: usize) -> impl Iterator<Item = u32> + '_ {
        assert!(n > 0, "choice from nothing");
        (0..size).map(move |_| self.up_to(n - 1))
    }

    /// How often `choice(n, size, replace=True)` draws each of `0..n`.
    ///
    /// # Panics
    /// As [`choice_with_replacement`](Self::choice_with_replacement).
    pub fn choice_counts(&mut self, n: u32, size: u64) -> Vec<u32> {
        assert!(n > 0, "choice from nothing");
        let max = n - 1;
        if max == 0 {
            return vec![u32::try_from(size).unwrap_or(u32::MAX)];
        }
        // Rejected numbers are counted too and cut off at the end: no branch that the processor could guess wrong.
        let mask = u32::MAX >> max.leading_zeros();
        let mut counts = vec![0u32; mask as usize + 1];
        let mut draw = {
            let mut left = size;
            move || {
                (left > 0).then(|| {
                    let value = self.generator.next_u32() & mask;
                    left -= u64::from(value <= max);
                    value
                })
            }
        };
        if counts.len() <= NEAR {
            while let Some(value) = draw() {
                counts[value as usize] += 1;
            }
        } else {
            // Drawn numbers wait with their neighbours, so that not every one of them misses the cache.
            let mut waiting = vec![Vec::with_capacity(WAITING); counts.len() / NEAR];
            let count = |near: &mut [u32], waiting: &mut Vec<u16>| {
                waiting.drain(..).for_each(|low| near[usize::from(low)] += 1);
            };
            while let Some(value) = draw() {
                let high = value as usize / NEAR;
                waiting[high].push(value as u16);
                if waiting[high].len() == WAITING {
                    count(&mut counts[high * NEAR..][..NEAR], &mut waiting[high]);
                }
            }
            for (near, waiting) in counts.chunks_exact_mut(NEAR).zip(&mut waiting) {
                count(near, waiting);
            }
        }
        counts.truncate(n as usize);
        counts
    }

    /// `shuffle(values)` of a one-dimensional array.
    pub fn shuffle<T>(&mut self, values: &mut [T]) {
        for i in (1..values.len()).rev() {
            let j = self.up_to(i as u32) as usize;
            values.swap(i, j);
        }
    }

    /// `permutation(n)`: the numbers `0..n` shuffled.
    pub fn permutation(&mut self, n: u32) -> Vec<u32> {
        let mut values: Vec<u32> = (0..n).collect();
        self.shuffle(&mut values);
        values
    }

    /// `choice(n, size, replace=False)`: the first `size` of a full permutation, in drawn order.
    /// A `size` over `n` gives `n` numbers.
    pub fn choice_without_replacement(&mut self, n: u32, size: usize) -> Vec<u32> {
        let mut values = self.permutation(n);
        values.truncate(size);
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(state: &mut RandomState, n: u32, size: usize) -> Vec<u32> {
        state.choice_with_replacement(n, size).collect()
    }

    // Golden values: numpy 2.4.6.
    #[test]
    fn choice_with_replacement_is_numpys() {
        let mut state = RandomState::new(1234);
        assert_eq!(
            chosen(&mut state, 1000, 8),
            [815, 723, 294, 53, 204, 372, 664, 655]
        );
        assert_eq!(chosen(&mut state, 7, 6), [1, 1, 2, 6, 3, 6]);
        assert_eq!(chosen(&mut state, 1, 3), [0, 0, 0]);
        assert_eq!(chosen(&mut state, 5, 3), [4, 4, 2]);
    }

    #[test]
    fn counts_are_those_of_the_draws() {
        for n in [1, 2, 7, 1000, 1025, 65_536, 65_537, 300_000] {
            let (mut drawing, mut counting) = (RandomState::new(5), RandomState::new(5));
            let mut expected = vec![0; n as usize];
            drawing
                .choice_with_replacement(n, 5000)
                .for_each(|value| expected[value as usize] += 1);
            assert_eq!(counting.choice_counts(n, 5000), expected);
            assert_eq!(
                counting.up_to(u32::MAX),
                drawing.up_to(u32::MAX),
                "both consumed as much"
            );
        }
    }

    #[test]
    fn choice_without_replacement_is_numpys() {
        let mut state = RandomState::new(1234);
        assert_eq!(state.choice_without_replacement(10, 4), [7, 2, 9, 1]);
        assert_eq!(state.permutation(6), [5, 0, 3, 4, 2, 1]);
        assert_eq!(
            RandomState::new(12347).choice_without_replacement(10, 8),
            [3, 1, 5, 0, 2, 4, 9, 6]
        );
    }
}
