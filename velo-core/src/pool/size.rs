//! How many branches a pool keeps ready.

/// It follows the requests: see [`crate::pool`].
#[derive(Debug)]
pub(super) struct Size {
    wanted: usize,
    least: usize,
    most: usize,
    /// Whether somebody has asked since the last look.
    asked: bool,
    /// Whether one could not be started since the last look.
    paused: bool,
}

impl Size {
    pub(super) fn new(most: usize) -> Self {
        Self { wanted: 0, least: 0, most, asked: false, paused: false }
    }

    pub(super) fn wanted(&self) -> usize {
        self.wanted
    }

    /// How many of them are to be started before anybody asks.
    pub(super) fn ahead(&self) -> usize {
        if self.paused { 0 } else { self.wanted }
    }

    pub(super) fn least(&self) -> usize {
        self.least
    }

    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// Somebody asked, and got one.
    pub(super) fn met(&mut self) {
        self.asked = true;
        self.set(self.wanted.max(1));
    }

    /// Somebody asked, and there was none.
    pub(super) fn missed(&mut self) {
        self.asked = true;
        self.set((self.wanted * 2).max(1));
    }

    /// One could not be started: ahead of time none is tried before the next look, or before one could.
    pub(super) fn failed(&mut self) {
        self.wanted = self.least;
        self.paused = true;
    }

    pub(super) fn started(&mut self) {
        self.paused = false;
    }

    /// Looks whether anybody has asked since it last did. Whether there is nothing to look after any
    /// more.
    pub(super) fn rest(&mut self) -> bool {
        if !std::mem::take(&mut self.asked) {
            self.set(self.wanted / 2);
        }
        !std::mem::take(&mut self.paused) && self.wanted == self.least
    }

    pub(super) fn limit(&mut self, least: usize, most: usize) {
        (self.least, self.most) = (least, most);
        self.set(self.wanted);
    }

    fn set(&mut self, wanted: usize) {
        self.wanted = wanted.clamp(self.least, self.most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_while_there_are_none_and_shrinks_while_nobody_asks() {
        let mut size = Size::new(6);
        assert_eq!(size.wanted(), 0);
        let missed = |size: &mut Size| {
            size.missed();
            size.wanted()
        };
        assert_eq!([(); 4].map(|()| missed(&mut size)), [1, 2, 4, 6]);
        size.met();
        assert_eq!(size.wanted(), 6, "there are enough");
        assert!(!size.rest(), "somebody has asked");
        assert_eq!(size.wanted(), 6);
        assert!(!size.rest());
        assert_eq!(size.wanted(), 3);
        assert!(!size.rest());
        assert_eq!(size.wanted(), 1);
        assert!(size.rest());
        assert_eq!(size.wanted(), 0);
    }

    #[test]
    fn it_keeps_to_its_limits() {
        let mut size = Size::new(6);
        size.limit(2, 3);
        assert_eq!(size.wanted(), 2);
        assert!(size.rest());
        for _ in 0..4 {
            size.missed();
        }
        assert_eq!(size.wanted(), 3);
        size.limit(0, 1);
        assert_eq!(size.wanted(), 1);
        size.limit(0, 0);
        size.missed();
        assert_eq!(size.wanted(), 0);
    }

    #[test]
    fn where_none_can_be_started_none_is_tried_ahead_of_time() {
        let mut size = Size::new(4);
        size.missed();
        size.missed();
        size.failed();
        assert_eq!((size.wanted(), size.ahead()), (0, 0));
        // Nor for the sake of whoever asks, until he has one.
        size.missed();
        assert_eq!((size.wanted(), size.ahead()), (1, 0));
        size.started();
        assert_eq!(size.ahead(), 1);
    }

    #[test]
    fn the_least_is_tried_again_after_a_while() {
        let mut size = Size::new(4);
        size.limit(2, 4);
        assert_eq!(size.ahead(), 2);
        size.failed();
        assert_eq!((size.wanted(), size.ahead()), (2, 0));
        assert!(!size.rest(), "it is to be looked at whether they could be started");
        assert_eq!(size.ahead(), 2);
        assert!(size.rest());
    }
}
