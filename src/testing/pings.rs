//! Counts the HTTP/2 pings of a client, which real servers do not put up with.

use std::time::Duration;

use tokio::time::Instant;

/// Pings closer than this are a strike.
const APART: Duration = Duration::from_secs(300);
/// With so many strikes a server ends the connection: at the fourth ping in a row.
const STRIKES: u32 = 3;
/// What a client says before its first frame.
const PREFACE: usize = 24;
const HEADER: usize = 9;
const PING: u8 = 6;
const ACK: u8 = 1;

/// Follows the frames of a client without looking into them.
#[derive(Debug)]
pub(super) struct Pings {
    /// How many bytes are of no interest.
    skip: usize,
    header: Vec<u8>,
    count: u64,
    strikes: u32,
    last: Option<Instant>,
}

impl Pings {
    pub(super) fn new() -> Self {
        Self { skip: PREFACE, header: Vec::with_capacity(HEADER), count: 0, strikes: 0, last: None }
    }

    /// How many pings came.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Reads on; whether there were too many pings.
    pub(super) fn read(&mut self, mut bytes: &[u8], now: Instant) -> bool {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let taken = (HEADER - self.header.len()).min(bytes.len());
            let (header, rest) = bytes.split_at(taken);
            self.header.extend_from_slice(header);
            bytes = rest;
            if let [a, b, c, kind, flags, _, _, _, _] = *self.header.as_slice() {
                self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                self.header.clear();
                if kind == PING && flags & ACK == 0 {
                    self.ping(now);
                }
            }
        }
        self.strikes >= STRIKES
    }

    fn ping(&mut self, now: Instant) {
        self.count += 1;
        let close = self.last.is_some_and(|last| now < last + APART);
        self.strikes = if close { self.strikes + 1 } else { 0 };
        self.last = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 0];
        frame.extend(body);
        frame
    }

    #[tokio::test(start_paused = true)]
    async fn pings_are_found_however_the_bytes_are_cut_and_the_fourth_is_too_many() {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        for part in [frame(4, 0, &[6; 12]), frame(PING, 0, &[6; 8]), frame(0, 0, &[6; 300]), frame(PING, ACK, &[6; 8])]
        {
            bytes.extend(part);
        }
        for size in [1, 2, 7, 9, 64, bytes.len()] {
            let (mut pings, now) = (Pings::new(), Instant::now());
            assert!(!bytes.chunks(size).any(|chunk| pings.read(chunk, now)));
            assert_eq!(pings.count(), 1, "in pieces of {size}");
            let ping = frame(PING, 0, &[0; 8]);
            let second = Duration::from_secs(1);
            assert_eq!([1, 2, 3].map(|n| pings.read(&ping, now + n * second)), [false, false, true]);
        }
        let (mut pings, now) = (Pings::new(), Instant::now());
        pings.skip = 0;
        assert!(!(0..20).any(|n| pings.read(&frame(PING, 0, &[0; 8]), now + n * APART)));
    }
}
