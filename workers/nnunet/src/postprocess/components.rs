//! Connected components of a label map (skimage.measure.label with full connectivity: voxels that touch by a corner
//! are one).
//!
//! Works on runs of voxels along x, so memory follows the surface of what is labelled and not the volume.

use ndarray::ArrayViewMut3;

/// Voxels `start..end` along x.
struct Run {
    start: u32,
    end: u32,
}

/// Sets to `background` every voxel for which `member` holds and which does not belong to the largest component of
/// such voxels. Components of equal size all stay. True where a voxel was changed.
/// (acvl_utils remove_all_but_largest_component)
pub(super) fn keep_largest(
    mut labels: ArrayViewMut3<i16>,
    member: impl Fn(i16) -> bool,
    background: i16,
) -> bool {
    let (slices, rows, _) = labels.dim();
    let mut runs: Vec<Run> = Vec::new();
    // The runs of row r, counted through all slices, are `first[r]..first[r + 1]`.
    let mut first = vec![0];
    for row in labels.rows() {
        let mut start = None;
        for (x, &label) in row.iter().enumerate() {
            match (member(label), start) {
                (true, None) => start = Some(x as u32),
                (false, Some(from)) => {
                    runs.push(Run {
                        start: from,
                        end: x as u32,
                    });
                    start = None;
                }
                _ => {}
            }
        }
        if let Some(from) = start {
            runs.push(Run {
                start: from,
                end: row.len() as u32,
            });
        }
        first.push(runs.len());
    }

    let mut sets = Sets((0..runs.len() as u32).collect());
    for z in 0..slices {
        for y in 0..rows {
            let here = z * rows + y;
            // Neighbours on the other side join when it is their turn.
            let mut earlier = Vec::with_capacity(4);
            if y > 0 {
                earlier.push(here - 1);
            }
            if z > 0 {
                let below = here - rows;
                earlier.extend(below.saturating_sub(usize::from(y > 0))..=below);
                earlier.extend((y + 1 < rows).then_some(below + 1));
            }
            for row in earlier {
                join_rows(
                    &runs,
                    first[here]..first[here + 1],
                    first[row]..first[row + 1],
                    &mut sets,
                );
            }
        }
    }

    let mut sizes = vec![0u64; runs.len()];
    for (index, run) in runs.iter().enumerate() {
        sizes[sets.root(index as u32) as usize] += u64::from(run.end - run.start);
    }
    let largest = sizes.iter().copied().max().unwrap_or(0);
    let mut changed = false;
    for (row, mut voxels) in labels.rows_mut().into_iter().enumerate() {
        for index in first[row]..first[row + 1] {
            if sizes[sets.root(index as u32) as usize] < largest {
                changed = true;
                let Run { start, end } = runs[index];
                for x in start..end {
                    voxels[x as usize] = background;
                }
            }
        }
    }
    changed
}

/// Joins the runs of two neighbouring rows that touch, corners included.
fn join_rows(runs: &[Run], a: std::ops::Range<usize>, b: std::ops::Range<usize>, sets: &mut Sets) {
    let (mut i, mut j) = (a.start, b.start);
    while i < a.end && j < b.end {
        let (one, other) = (&runs[i], &runs[j]);
        if one.start <= other.end && other.start <= one.end {
            sets.join(i as u32, j as u32);
        }
        if one.end < other.end {
            i += 1;
        } else {
            j += 1;
        }
    }
}

/// Disjoint sets: each run's parent, a root being its own.
struct Sets(Vec<u32>);

impl Sets {
    fn root(&mut self, mut run: u32) -> u32 {
        while self.0[run as usize] != run {
            let above = self.0[self.0[run as usize] as usize];
            self.0[run as usize] = above;
            run = above;
        }
        run
    }

    fn join(&mut self, a: u32, b: u32) {
        let (a, b) = (self.root(a), self.root(b));
        // The earlier one leads, so that the sets do not depend on the order of joining.
        self.0[a.max(b) as usize] = a.min(b);
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array3, array};

    use super::*;

    fn kept(mut labels: Array3<i16>) -> Array3<i16> {
        keep_largest(labels.view_mut(), |label| label > 0, 0);
        labels
    }

    #[test]
    fn corners_connect_and_ties_stay() {
        let one = array![
            [[1, 0, 0], [0, 2, 0], [0, 0, 0]],
            [[0, 0, 0], [0, 0, 0], [3, 0, 0]]
        ];
        assert_eq!(kept(one.clone()), one, "two corners make one component");
        let apart = array![[[1, 0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 0, 0, 0]]];
        let expected = array![[[0, 0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0, 0]]];
        assert_eq!(kept(apart), expected);
        let tie = array![[[1, 1, 0, 2, 2, 0, 1]]];
        assert_eq!(kept(tie), array![[[1, 1, 0, 2, 2, 0, 0]]]);
        assert_eq!(kept(Array3::zeros((2, 2, 2))), Array3::<i16>::zeros((2, 2, 2)));
    }

    #[test]
    fn what_joins_late_is_one() {
        // Two arms of a U, which meet in the last row.
        let labels = array![[[1, 0, 1, 0, 1], [1, 0, 1, 0, 0], [1, 1, 1, 0, 1]]];
        let expected = array![[[1, 0, 1, 0, 0], [1, 0, 1, 0, 0], [1, 1, 1, 0, 0]]];
        assert_eq!(kept(labels), expected);
    }

    #[test]
    fn slow_and_fast_agree() {
        // A flood fill over all 26 neighbours, on speckles of every density.
        let mut state = 7u32;
        let mut random = || {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            state >> 16
        };
        for density in 1..40 {
            let shape = (
                1 + random() as usize % 4,
                1 + random() as usize % 7,
                1 + random() as usize % 9,
            );
            let labels = Array3::from_shape_fn(shape, |_| i16::from(random() % 40 < density));
            assert_eq!(kept(labels.clone()), flooded(&labels), "{labels}");
        }
    }

    fn flooded(labels: &Array3<i16>) -> Array3<i16> {
        let mut component = labels.mapv(|_| 0usize);
        let mut sizes = vec![0];
        let voxels: Vec<_> = labels
            .indexed_iter()
            .filter(|(_, l)| **l > 0)
            .map(|(at, _)| at)
            .collect();
        for &seed in &voxels {
            if component[seed] > 0 {
                continue;
            }
            let number = sizes.len();
            sizes.push(0);
            let mut open = vec![seed];
            component[seed] = number;
            while let Some(at) = open.pop() {
                sizes[number] += 1;
                let near = |a: usize, b: usize| a.abs_diff(b) <= 1;
                for &to in &voxels {
                    if component[to] == 0 && near(at.0, to.0) && near(at.1, to.1) && near(at.2, to.2) {
                        component[to] = number;
                        open.push(to);
                    }
                }
            }
        }
        let largest = sizes.iter().copied().max().unwrap_or(0);
        component.mapv(|number| i16::from(number > 0 && sizes[number] == largest))
    }
}
