//! Medians and quartiles of a few rounds.

/// The middle half of some figures and their middle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) low: f64,
    pub(crate) median: f64,
    pub(crate) high: f64,
}

impl Spread {
    /// `None` of nothing.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_unstable_by(f64::total_cmp);
        let last = values.len().checked_sub(1)?;
        // Between two of them where the place falls between two.
        let at = |quarter: usize| {
            let (whole, rest) = (last * quarter / 4, last * quarter % 4);
            let next = values[last.min(whole + 1)];
            values[whole] + (next - values[whole]) * rest as f64 / 4.0
        };
        Some(Self { low: at(1), median: at(2), high: at(3) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_of_few_and_of_many() {
        assert_eq!(Spread::of([]), None);
        let spread = |low, median, high| Some(Spread { low, median, high });
        assert_eq!(Spread::of([3.0]), spread(3.0, 3.0, 3.0));
        assert_eq!(Spread::of([1.0, 2.0]), spread(1.25, 1.5, 1.75));
        assert_eq!(Spread::of([7.0, 1.0, 3.0, 2.0, 5.0, 6.0, 4.0]), spread(2.5, 4.0, 5.5));
    }
}
