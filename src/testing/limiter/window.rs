//! A window that slides in steps: what was used within the last so many slots.

/// Slots are aligned to the clock, not to the first use.
#[derive(Debug)]
pub(super) struct Window {
    /// Milliseconds of the whole.
    length: i64,
    /// Milliseconds of one slot.
    step: i64,
    slots: Vec<Slot>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    start: i64,
    used: u64,
}

impl Window {
    /// A window of so many seconds that slides in `slides` steps; neither is 0.
    pub(super) fn new(seconds: u32, slides: u32) -> Self {
        let length = i64::from(seconds.max(1)) * 1000;
        let slides = slides.max(1);
        let slots = (0..slides).map(|_| Slot::default()).collect();
        Self { length, step: length / i64::from(slides), slots }
    }

    /// What is used at `wall`.
    pub(super) fn used(&self, wall: i64) -> u64 {
        let start = self.start(wall);
        let counts = |slot: &&Slot| (0..self.length).contains(&(start - slot.start));
        self.slots.iter().filter(counts).map(|slot| slot.used).sum()
    }

    /// Counts a use, if the moment that it is reported for is in the current slot; whether it was.
    pub(super) fn add(&mut self, used: u32, reported: i64, wall: i64) -> bool {
        let (start, counts) = (self.start(wall), self.start(reported) == self.start(wall));
        let count = i64::try_from(self.slots.len()).unwrap_or(i64::MAX);
        let place = usize::try_from(wall.div_euclid(self.step).rem_euclid(count)).unwrap_or_default();
        let Some(slot) = self.slots.get_mut(place) else { return false };
        if slot.start != start {
            *slot = Slot { start, used: 0 };
        }
        if counts {
            slot.used += u64::from(used);
        }
        counts
    }

    fn start(&self, wall: i64) -> i64 {
        wall - wall.rem_euclid(self.step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_of_one_slot_begins_anew_at_every_full_length() {
        let mut window = Window::new(10, 1);
        assert!(window.add(3, 20_000, 29_999));
        assert_eq!((window.used(29_999), window.used(30_000)), (3, 0));
        assert!(!window.add(4, 29_999, 30_000), "a report for the window before");
        assert!(!window.add(4, 30_000, 29_999), "a report for the window behind");
        assert_eq!(window.used(29_999), 0, "the slot was taken for the newer window in between");
        assert!(window.add(5, 30_001, 39_999));
        assert_eq!(window.used(30_000), 5);
    }

    #[test]
    fn a_window_of_several_slots_forgets_one_at_a_time() {
        let mut window = Window::new(1, 4);
        for (wall, used) in [(0, 1), (250, 2), (500, 4), (750, 8)] {
            assert!(window.add(used, wall, wall));
        }
        let used = [750, 999, 1000, 1250, 1500, 1749, 1750, 2000].map(|wall| window.used(wall));
        assert_eq!(used, [15, 15, 14, 12, 8, 8, 0, 0]);
        assert!(window.add(16, 1000, 1249));
        assert_eq!(window.used(1249), 30);
        assert!(!window.add(1, 999, 1000), "only the current slot takes reports");
    }

    #[test]
    fn a_clock_that_goes_back_loses_what_it_has_not_reached_yet() {
        let mut window = Window::new(1, 2);
        window.add(7, 5000, 5000);
        assert_eq!((window.used(5000), window.used(4000), window.used(-1)), (7, 0, 0));
    }
}
