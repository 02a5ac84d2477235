//! What is odd about a site beside the others.
//!
//! Each site is compared with the median of all, which one odd site of three or more does not move; one of two with the
//! other. The bounds are wide: what they let through may be odd still, and what they name is worth a look, not wrong.

use schemas::survey::{ClassSurvey, DataSurvey};

use super::median;

/// Times the others' spacing, or 1 / that.
const SPACING: f64 = 2.0;
/// The others' standard deviations.
const INTENSITY: f64 = 2.0;
/// Times the others' mean volume of a class, or 1 / that.
const VOLUME: f64 = 3.0;
/// Two classes look swapped where that brings them nearer to the others' by so much: in powers of e of the volume, and
/// standard deviations of the intensity.
const SWAP: f64 = 1.0;

/// What the sites have, in the middle.
struct Others {
    spacing: [f64; 3],
    /// Mean and deviation, by channel; none where nobody has foreground.
    channels: Vec<Option<(f64, f64)>>,
    classes: Vec<Option<(f64, Vec<f64>)>>,
}

/// Sentences on what is odd, each with its site. `name` gives a label's name. Fewer than two sites are never odd.
pub fn oddities(sites: &[(String, DataSurvey)], name: &dyn Fn(u16) -> String) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (place, (site, own)) in sites.iter().enumerate() {
        let others: Vec<&DataSurvey> = sites
            .iter()
            .enumerate()
            .filter(|(other, _)| sites.len() > 2 || *other != place)
            .map(|(_, (_, survey))| survey)
            .collect();
        if sites.len() < 2 {
            break;
        }
        let others = middle(&others, own);
        let mut say = |what: String| found.push((site.clone(), what));
        spacing(own, &others, &mut say);
        intensities(own, &others, &mut say);
        volumes(own, &others, name, &mut say);
        swaps(own, &others, name, &mut say);
    }
    found
}

fn middle(others: &[&DataSurvey], own: &DataSurvey) -> Others {
    let axis = |axis: usize| median(others.iter().map(|other| other.spacing[axis]));
    let channels = (0..own.channels.len()).map(|channel| {
        let known: Vec<_> = others
            .iter()
            .filter_map(|other| other.channels.get(channel).copied().flatten())
            .collect();
        let of = |value: fn(&schemas::survey::Intensity) -> f64| median(known.iter().map(value));
        (!known.is_empty()).then(|| (of(|i| i.mean), of(|i| i.deviation)))
    });
    let classes = own.classes.iter().map(|class| {
        let known: Vec<&ClassSurvey> = others
            .iter()
            .flat_map(|other| &other.classes)
            .filter(|other| other.label == class.label && other.cases > 0)
            .collect();
        let means = (0..own.channels.len())
            .map(|channel| median(known.iter().filter_map(|class| class.means.get(channel)).copied()));
        (!known.is_empty()).then(|| (median(known.iter().map(|class| class.volume)), means.collect()))
    });
    Others {
        spacing: [axis(0), axis(1), axis(2)],
        channels: channels.collect(),
        classes: classes.collect(),
    }
}

fn spacing(own: &DataSurvey, others: &Others, say: &mut dyn FnMut(String)) {
    let far = own
        .spacing
        .iter()
        .zip(others.spacing)
        .any(|(own, other)| own.max(other) > SPACING * own.min(other));
    if far {
        let mm = |spacing: [f64; 3]| spacing.map(|axis| format!("{axis:.3}")).join(" x ");
        say(format!(
            "median spacing {} mm, elsewhere {} mm",
            mm(own.spacing),
            mm(others.spacing)
        ));
    }
}

fn intensities(own: &DataSurvey, others: &Others, say: &mut dyn FnMut(String)) {
    for (channel, (own, other)) in own.channels.iter().zip(&others.channels).enumerate() {
        let (Some(own), Some((mean, deviation))) = (own, other) else {
            continue;
        };
        if (own.mean - mean).abs() > INTENSITY * deviation.max(own.deviation) {
            say(format!(
                "channel {channel} has mean {:.4} in the foreground, elsewhere {mean:.4} (standard deviation \
                 {deviation:.4})",
                own.mean
            ));
        }
    }
}

fn volumes(own: &DataSurvey, others: &Others, name: &dyn Fn(u16) -> String, say: &mut dyn FnMut(String)) {
    for (class, other) in own.classes.iter().zip(&others.classes) {
        let Some((volume, _)) = other else { continue };
        let label = name(class.label);
        if class.cases == 0 {
            say(format!("no case has {label}, which other sites have"));
        } else if class.volume.max(*volume) > VOLUME * class.volume.min(*volume) {
            say(format!(
                "{label} has a mean volume of {:.1} mm³, elsewhere {volume:.1} mm³",
                class.volume
            ));
        }
    }
}

fn swaps(own: &DataSurvey, others: &Others, name: &dyn Fn(u16) -> String, say: &mut dyn FnMut(String)) {
    let deviations: Vec<f64> = own
        .channels
        .iter()
        .zip(&others.channels)
        .map(|(own, other)| {
            let own = own.map_or(0.0, |own| own.deviation);
            other.map_or(own, |(_, deviation)| deviation.max(own))
        })
        .collect();
    let distance = |class: &ClassSurvey, (volume, means): &(f64, Vec<f64>)| {
        let intensity: f64 = class
            .means
            .iter()
            .zip(means)
            .zip(&deviations)
            .filter(|(_, deviation)| **deviation > 0.0)
            .map(|((own, other), deviation)| (own - other).abs() / deviation)
            .sum();
        (class.volume / volume).ln().abs() + intensity
    };
    let known: Vec<_> = own
        .classes
        .iter()
        .zip(&others.classes)
        .filter_map(|(class, other)| Some((class, other.as_ref()?)))
        .filter(|(class, _)| class.cases > 0)
        .collect();
    for (place, (a, as_a)) in known.iter().enumerate() {
        for (b, as_b) in &known[place + 1..] {
            let straight = distance(a, as_a) + distance(b, as_b);
            let swapped = distance(a, as_b) + distance(b, as_a);
            if straight - swapped > SWAP && swapped < straight / 2.0 {
                say(format!(
                    "{} looks like the others' {} and the other way round: are the two swapped?",
                    name(a.label),
                    name(b.label)
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use schemas::survey::Intensity;

    use super::*;

    /// A liver of 1.5 l at 110, a tumour of 20 ml at 60.
    fn usual() -> DataSurvey {
        let class = |label, volume, mean| ClassSurvey {
            label,
            cases: 20,
            volume,
            means: vec![mean],
        };
        DataSurvey {
            cases: 20,
            spacing: [2.5, 0.8, 0.8],
            shape: [200.0, 512.0, 512.0],
            channels: vec![Some(Intensity {
                mean: 108.0,
                deviation: 30.0,
            })],
            classes: vec![class(1, 1.5e6, 110.0), class(2, 2.0e4, 60.0)],
        }
    }

    fn odd(last: DataSurvey) -> Vec<(String, String)> {
        let mut near = usual();
        near.spacing[0] = 3.0;
        near.classes[1].volume = 3.0e4;
        let sites = [("a", usual()), ("b", near), ("c", last)];
        let sites = sites.map(|(site, survey)| (site.to_owned(), survey));
        oddities(&sites, &|label| {
            ["liver", "tumour"][usize::from(label) - 1].to_owned()
        })
    }

    #[test]
    fn like_sites_are_not_odd_and_one_alone_never_is() {
        assert_eq!(odd(usual()), []);
        assert_eq!(oddities(&[("a".to_owned(), usual())], &|_| String::new()), []);
    }

    #[test]
    fn an_odd_site_is_named_and_the_others_are_not() {
        let mut last = usual();
        last.spacing = [5.0 + 2.5, 0.8, 0.8];
        last.channels[0] = Some(Intensity {
            mean: 1108.0,
            deviation: 30.0,
        });
        last.classes[1] = ClassSurvey {
            cases: 0,
            volume: 0.0,
            means: Vec::new(),
            ..last.classes[1].clone()
        };
        let found = odd(last);
        assert!(found.iter().all(|(site, _)| site == "c"), "{found:?}");
        let text: Vec<&str> = found.iter().map(|(_, what)| &**what).collect();
        assert_eq!(text.len(), 3, "{text:?}");
        assert!(text[0].contains("spacing 7.500 x 0.800 x 0.800 mm"), "{text:?}");
        assert!(text[1].contains("channel 0 has mean 1108"), "{text:?}");
        assert_eq!(text[2], "no case has tumour, which other sites have");
    }

    #[test]
    fn swapped_labels_are_suspected() {
        let mut last = usual();
        last.classes.swap(0, 1);
        (last.classes[0].label, last.classes[1].label) = (1, 2);
        let found = odd(last);
        let swapped = found.iter().filter(|(_, what)| what.contains("swapped"));
        let swapped: Vec<_> = swapped.map(|(site, what)| (&**site, &**what)).collect();
        let said = "liver looks like the others' tumour and the other way round: are the two swapped?";
        assert_eq!(swapped, [("c", said)], "{found:?}");
    }
}
