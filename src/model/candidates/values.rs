//! The labels of one call, each asked for once.

use std::borrow::Cow;

use crate::model::label::{LabelKey, Labels};

/// How many labels of a call are kept while it is matched; those beyond are asked for each time.
const KEPT: usize = 8;

/// The labels of one call, each asked for once.
///
/// Most are borrowed, and these lie in an array that costs nothing to make and nothing to drop.
pub(crate) struct Values<'r> {
    pub(super) labels: Option<&'r dyn Labels>,
    /// A bit for each of the first slots that was asked for.
    asked: u8,
    borrowed: [Option<&'r str>; KEPT],
    /// Those that the request had to make.
    made: Vec<(usize, String)>,
}

impl<'r> Values<'r> {
    #[inline]
    pub(crate) fn new(labels: Option<&'r dyn Labels>) -> Self {
        Self { labels, asked: 0, borrowed: [None; KEPT], made: Vec::new() }
    }

    /// Says what the label of this slot is, so that nobody is asked for it.
    #[inline]
    pub(crate) fn know(&mut self, slot: usize, value: Option<&'r str>) {
        if let Some(place) = self.borrowed.get_mut(slot) {
            *place = value;
            self.asked |= 1 << slot;
        }
    }

    /// Reads the label of this slot.
    #[inline]
    pub(crate) fn with<T>(&mut self, slot: usize, slots: &[LabelKey], read: impl FnOnce(Option<&str>) -> T) -> T {
        if slot >= KEPT {
            return read(self.get(slots.get(slot)).as_deref());
        }
        if self.asked & 1 << slot == 0 {
            return self.ask(slot, slots, read);
        }
        match self.borrowed.get(slot) {
            Some(Some(value)) => read(Some(value)),
            _ if self.made.is_empty() => read(None),
            _ => read(self.made.iter().find(|(of, _)| *of == slot).map(|(_, value)| value.as_str())),
        }
    }

    #[inline]
    fn get(&self, label: Option<&LabelKey>) -> Option<Cow<'r, str>> {
        let label = label?;
        self.labels?.get(label.kind, &label.key)
    }

    /// Reads what the request answers rather than what is kept of it, which takes its time to be there.
    #[inline]
    fn ask<T>(&mut self, slot: usize, slots: &[LabelKey], read: impl FnOnce(Option<&str>) -> T) -> T {
        self.asked |= 1 << slot;
        match self.get(slots.get(slot)) {
            None => read(None),
            Some(Cow::Borrowed(value)) => {
                if let Some(place) = self.borrowed.get_mut(slot) {
                    *place = Some(value);
                }
                read(Some(value))
            }
            Some(Cow::Owned(value)) => {
                let answer = read(Some(&value));
                self.made.push((slot, value));
                answer
            }
        }
    }
}
