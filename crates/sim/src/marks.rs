//! Things that are made once and never go away: unique rows, tables, columns, transfers. Whoever was told that one is
//! there finds it there at the end.

use std::collections::BTreeSet;

use crate::history::Ending;
use crate::oracle::Violation;

/// Something that is made once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mark {
    /// A row with a unique value.
    Unique(u64),
    /// A table.
    Table(u64),
    /// A column.
    Column(u64),
    /// A transfer between accounts.
    Transfer(u64),
}

/// What is known of a mark before it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sight {
    /// Nobody else makes it.
    New,
    /// Somebody tried before.
    Maybe,
}

/// What clients were told.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    present: BTreeSet<Mark>,
    refused: BTreeSet<Mark>,
    /// Several have tried to make it, so it may be there although it was refused to one of them.
    retried: BTreeSet<Mark>,
}

impl Marks {
    /// A client was told how its attempt ended.
    pub(crate) fn ended(&mut self, mark: Mark, sight: Sight, ending: Ending) {
        if sight == Sight::Maybe {
            self.retried.insert(mark);
        }
        match ending {
            Ending::Committed => {
                self.present.insert(mark);
            }
            Ending::Refused => {
                self.refused.insert(mark);
            }
            Ending::Unknown => {}
        }
    }

    /// A client was told that it is there already.
    pub(crate) fn seen(&mut self, mark: Mark) {
        self.present.insert(mark);
    }

    /// Compares what clients were told with what is there at the end.
    pub(crate) fn check(&self, found: &BTreeSet<Mark>) -> Result<(), Violation> {
        if let Some(mark) = self.present.iter().find(|mark| !found.contains(mark)) {
            return Err(Violation::new("acknowledged writes stay", format!("{mark:?} is not there")));
        }
        let wrong = |mark: &&Mark| found.contains(mark) && !self.retried.contains(mark);
        if let Some(mark) = self.refused.iter().find(wrong) {
            let text = format!("{mark:?} is there, but its client was told that it is not");
            return Err(Violation::new("refused writes do not happen", text));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_compared_with_what_is() {
        let mut marks = Marks::default();
        marks.ended(Mark::Table(1), Sight::New, Ending::Committed);
        marks.ended(Mark::Table(2), Sight::New, Ending::Refused);
        marks.ended(Mark::Table(3), Sight::New, Ending::Unknown);
        marks.seen(Mark::Unique(4));
        let found = |marks: &[Mark]| marks.iter().copied().collect::<BTreeSet<_>>();
        let good = [Mark::Table(1), Mark::Unique(4)];
        assert!(marks.check(&found(&good)).is_ok());
        assert!(marks.check(&found(&[good[0], good[1], Mark::Table(3)])).is_ok());
        assert!(marks.check(&found(&good[..1])).is_err());
        assert!(marks.check(&found(&good[1..])).is_err());
        let refused = [good[0], good[1], Mark::Table(2)];
        assert!(marks.check(&found(&refused)).is_err());
        marks.ended(Mark::Table(2), Sight::Maybe, Ending::Unknown);
        assert!(marks.check(&found(&refused)).is_ok());
    }
}
