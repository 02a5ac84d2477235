//! Mean, deviation and range of a channel in one pass.

use crate::wide::wide;

const LANES: usize = 16;

/// Sums and range of some values.
#[derive(Debug, Clone, Copy)]
pub(super) struct Statistics {
    pub min: f32,
    pub max: f32,
    count: usize,
    sum: f64,
    squares: f64,
}

impl Statistics {
    pub fn of(values: &[f32]) -> Self {
        // Blocks bound how many additions one lane takes; the order of additions never depends on threads.
        let mut all = Statistics {
            min: f32::INFINITY,
            max: f32::NEG_INFINITY,
            count: 0,
            sum: 0.0,
            squares: 0.0,
        };
        for block in values.chunks(1 << 14) {
            all.add(block);
        }
        all
    }

    /// Adds more values.
    pub fn add(&mut self, values: &[f32]) {
        let block = of_block(values);
        self.min = self.min.min(block.min);
        self.max = self.max.max(block.max);
        self.count += block.count;
        self.sum += block.sum;
        self.squares += block.squares;
    }

    pub fn empty() -> Self {
        Statistics::of(&[])
    }

    pub fn mean(&self) -> f32 {
        (self.sum / self.count as f64) as f32
    }

    /// The unbiased standard deviation, as torch's `std`.
    pub fn deviation(&self) -> f32 {
        let n = self.count as f64;
        (((self.squares - self.sum * self.sum / n) / (n - 1.0)).max(0.0)).sqrt() as f32
    }

    /// The statistics of the negated values.
    pub fn negated(&self) -> Self {
        Statistics {
            min: -self.max,
            max: -self.min,
            sum: -self.sum,
            ..*self
        }
    }
}

wide! {
    fn of_block(values: &[f32]) -> Statistics {
        let mut low = [f32::INFINITY; LANES];
        let mut high = [f32::NEG_INFINITY; LANES];
        let mut sum = [0f64; LANES];
        let mut squares = [0f64; LANES];
        let (chunks, rest) = values.as_chunks::<LANES>();
        for chunk in chunks {
            for i in 0..LANES {
                let v = chunk[i];
                low[i] = if v < low[i] { v } else { low[i] };
                high[i] = if v > high[i] { v } else { high[i] };
                let v = f64::from(v);
                sum[i] += v;
                squares[i] += v * v;
            }
        }
        for (i, &v) in rest.iter().enumerate() {
            low[i] = if v < low[i] { v } else { low[i] };
            high[i] = if v > high[i] { v } else { high[i] };
            sum[i] += f64::from(v);
            squares[i] += f64::from(v) * f64::from(v);
        }
        Statistics {
            min: low.iter().copied().fold(f32::INFINITY, f32::min),
            max: high.iter().copied().fold(f32::NEG_INFINITY, f32::max),
            count: values.len(),
            sum: sum.iter().sum(),
            squares: squares.iter().sum(),
        }
    }
}
