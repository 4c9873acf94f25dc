//! Clients and a limiter in virtual time. The limiter does as polaris-limiter does, as far as counts go.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "small numbers of a simulation"
)]

use std::collections::BTreeMap;
use std::mem;
use std::ops::Range;

use super::{Failover, Share};
use crate::model::limiter::{QuotaLeft, QuotaTotal};
use crate::util::draw;

pub(super) const MILLI: u64 = 1_000;
pub(super) const SECOND: u64 = 1_000_000;
/// The limiter's clock at the beginning; anything but aligned.
const WALL: i64 = 1_700_000_000_123_456;

/// How calls come to a client.
#[derive(Clone, Copy)]
pub(super) enum Demand {
    Idle,
    /// As many as pass.
    Greedy,
    /// So many a second, at even distances, give or take so many microseconds.
    Paced(u64, u64),
    /// So many a second on average, each on its own.
    Poisson(u64),
}

pub(super) enum Kind {
    Ours(Box<Share>),
    /// Uses up what it saw last, as polaris-go does.
    Go {
        left: i64,
        unreported: u64,
        window: i64,
        due: u64,
    },
}

pub(super) struct Client {
    pub(super) kind: Kind,
    pub(super) demand: Demand,
    next_call: u64,
    /// Its clock less that of the simulation.
    pub(super) clock: u64,
    down_since: Option<u64>,
    pub(super) asked: u64,
    there: u64,
    back: u64,
    /// By windows of the limiter.
    granted: Vec<u64>,
    wanted: Vec<u64>,
}

#[derive(Clone, Copy)]
enum Event {
    Ask { client: usize, used: u64, millis: i64 },
    Join { client: usize },
    Answer { client: usize, left: QuotaLeft, millis: i64 },
}

pub(super) struct Simulation {
    total: QuotaTotal,
    pub(super) clients: Vec<Client>,
    pub(super) now: u64,
    /// The limiter's clock less that of the simulation.
    pub(super) wall: i64,
    /// Whether anything reaches the limiter, and it anyone.
    pub(super) up: bool,
    /// Whether clients see that it is gone.
    pub(super) seen_gone: bool,
    first_window: i64,
    window: i64,
    pub(super) used: i64,
    pushed: bool,
    events: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    entropy: u64,
    /// How often calls come.
    pub(super) step: u64,
    /// How often clients look whether a report is due.
    pub(super) tick: u64,
    /// What all were granted, in tenths of a second of the simulation.
    pub(super) tenths: Vec<u64>,
}

impl Simulation {
    pub(super) fn new(seconds: u32, amount: u32, seed: u64) -> Self {
        let total = QuotaTotal { seconds, amount, per_client: false };
        let first = WALL / (i64::from(seconds) * 1_000_000);
        Self {
            total,
            clients: Vec::new(),
            now: 0,
            wall: WALL,
            up: true,
            seen_gone: true,
            first_window: first,
            window: first,
            used: 0,
            pushed: false,
            events: BTreeMap::new(),
            sequence: 0,
            entropy: draw::mix(seed),
            // A tick of 1 ms makes little difference, and long periods many.
            step: if seconds > 1 { 5 * MILLI } else { MILLI },
            tick: 2 * MILLI,
            tenths: Vec::new(),
        }
    }

    fn random(&mut self, below: u64) -> u64 {
        self.entropy = draw::mix(self.entropy);
        draw::level(self.entropy, below)
    }

    fn length(&self) -> i64 {
        i64::from(self.total.seconds) * 1_000_000
    }

    fn add(&mut self, kind: Kind, demand: Demand) {
        let at = self.clients.len();
        let clock = 10 * SECOND + self.random(1000 * SECOND);
        let next_call = self.random(10 * MILLI);
        self.clients.push(Client {
            kind,
            demand,
            next_call,
            clock,
            down_since: None,
            asked: 0,
            there: 0,
            back: 0,
            granted: Vec::new(),
            wanted: Vec::new(),
        });
        let offset = self.wall - clock as i64 + self.random(2000) as i64 - 1000;
        if let Kind::Ours(share) = &self.clients[at].kind {
            share.offset(offset, clock);
        }
        self.send(at, Event::Join { client: at });
    }

    pub(super) fn ours(self, count: usize, demand: Demand) -> Self {
        self.ours_with(count, demand, Failover::Local)
    }

    pub(super) fn ours_with(mut self, count: usize, demand: Demand, failover: Failover) -> Self {
        for _ in 0..count {
            let entropy = self.random(u64::MAX);
            let share = Share::new(self.total, failover, entropy);
            self.add(Kind::Ours(Box::new(share)), demand);
        }
        self
    }

    pub(super) fn go(mut self, demand: Demand) -> Self {
        self.add(Kind::Go { left: 0, unreported: 0, window: 0, due: 0 }, demand);
        self
    }

    fn at(&mut self, time: u64, event: Event) {
        self.sequence += 1;
        self.events.insert((time, self.sequence), event);
    }

    fn send(&mut self, client: usize, event: Event) {
        let delay = 300 + self.random(4700);
        let time = (self.now + delay).max(self.clients[client].there + 1);
        self.clients[client].there = time;
        self.at(time, event);
    }

    fn reply(&mut self, client: usize) {
        let left = QuotaLeft {
            counter: 1,
            left: i64::from(self.total.amount) - self.used,
            clients: self.clients.len() as u32,
        };
        let millis = (self.now as i64 + self.wall).div_euclid(1000);
        let delay = 300 + self.random(4700);
        let time = (self.now + delay).max(self.clients[client].back + 1);
        self.clients[client].back = time;
        self.at(time, Event::Answer { client, left, millis });
    }

    fn handle(&mut self, event: Event) {
        let length = self.length();
        let window = (self.now as i64 + self.wall).div_euclid(length);
        if window != self.window {
            (self.window, self.used, self.pushed) = (window, 0, false);
        }
        match event {
            Event::Join { client } if self.up => self.reply(client),
            Event::Ask { client, used, millis } if self.up => {
                if (millis * 1000).div_euclid(length) == window {
                    self.used += used as i64;
                }
                self.reply(client);
                if self.used >= i64::from(self.total.amount) && !self.pushed {
                    self.pushed = true;
                    (0..self.clients.len()).filter(|other| *other != client).for_each(|other| self.reply(other));
                }
            }
            Event::Answer { client, left, millis } => {
                let wall = self.wall;
                let length = self.length();
                let client = &mut self.clients[client];
                let now = self.now + client.clock;
                match &mut client.kind {
                    Kind::Ours(share) => {
                        client.down_since = None;
                        share.answered(left, millis, now);
                    }
                    Kind::Go { left: mine, unreported, window, .. } => {
                        if (millis * 1000).div_euclid(length) == (self.now as i64 + wall).div_euclid(length) {
                            *window = (self.now as i64 + wall).div_euclid(length);
                            *mine = left.left - *unreported as i64;
                        }
                    }
                }
            }
            _ => {}
        }
    }

    fn call(&mut self, at: usize) -> bool {
        let window = (self.now as i64 + self.wall).div_euclid(self.length());
        let index = (window - self.first_window).max(0) as usize;
        let client = &mut self.clients[at];
        if client.granted.len() <= index {
            client.granted.resize(index + 1, 0);
            client.wanted.resize(index + 1, 0);
        }
        let granted = match &mut client.kind {
            Kind::Ours(share) => {
                let stale = client.clock + self.now - (self.sequence % 3) * MILLI;
                let granted = share.take(stale).is_ok();
                if !granted {
                    share.refused();
                }
                granted
            }
            Kind::Go { left, unreported, window: theirs, .. } => {
                if *theirs != window {
                    (*theirs, *left, *unreported) = (window, i64::from(self.total.amount), 0);
                }
                let granted = *left > 0;
                if granted {
                    *left -= 1;
                    *unreported += 1;
                }
                granted
            }
        };
        client.wanted[index] += 1;
        client.granted[index] += u64::from(granted);
        let tenth = (self.now / (100 * MILLI)) as usize;
        self.tenths.resize(self.tenths.len().max(tenth + 1), 0);
        self.tenths[tenth] += u64::from(granted);
        granted
    }

    fn calls(&mut self, at: usize) {
        match self.clients[at].demand {
            Demand::Idle => {}
            Demand::Greedy => while self.call(at) {},
            Demand::Paced(rate, jitter) => {
                while self.clients[at].next_call <= self.now {
                    let _ = self.call(at);
                    let distance = (SECOND / rate).saturating_add(self.random(2 * jitter + 1)).saturating_sub(jitter);
                    self.clients[at].next_call += distance;
                }
            }
            Demand::Poisson(rate) => {
                while self.clients[at].next_call <= self.now {
                    let _ = self.call(at);
                    let uniform = (self.random(1 << 52) + 1) as f64 / (1u64 << 52) as f64;
                    self.clients[at].next_call += (-uniform.ln() * 1e6 / rate as f64) as u64;
                }
            }
        }
    }

    fn synchronize(&mut self, at: usize) {
        let wall = self.wall;
        let now = self.now;
        let jitter = 30 * MILLI + self.random(19) * MILLI;
        let mut down = false;
        let client = &mut self.clients[at];
        let local = now + client.clock;
        let asked = match &mut client.kind {
            Kind::Ours(share) => {
                if !self.up && client.down_since.is_none() && self.seen_gone {
                    client.down_since = Some(now);
                    share.unanswered(local);
                }
                down = client.down_since.is_some();
                if share.next_report(local) <= local {
                    client.asked += 1;
                    share.report(local).map(|report| (u64::from(report.used), report.timestamp_millis))
                } else {
                    None
                }
            }
            Kind::Go { unreported, due, window, .. } => {
                let current = (now as i64 + wall).div_euclid(i64::from(self.total.seconds) * 1_000_000);
                if *window == current && *unreported > 0 && now >= *due {
                    *due = now + jitter;
                    let used = mem::take(unreported);
                    Some((used, (now as i64 + wall).div_euclid(1000)))
                } else {
                    None
                }
            }
        };
        if down && self.up && self.random(50) == 0 {
            self.send(at, Event::Join { client: at });
        }
        if let Some((used, millis)) = asked {
            self.send(at, Event::Ask { client: at, used, millis });
        }
    }

    /// Runs on for so long.
    pub(super) fn run(&mut self, micros: u64) {
        let end = self.now + micros;
        while self.now < end {
            let step = self.now + self.step;
            while let Some(next) = self.events.first_entry().filter(|next| next.key().0 <= step) {
                let ((time, _), event) = next.remove_entry();
                self.now = self.now.max(time);
                self.handle(event);
            }
            self.now = step;
            let first = self.random(self.clients.len() as u64) as usize;
            for at in 0..self.clients.len() {
                let at = (at + first) % self.clients.len();
                self.calls(at);
                if (self.now / self.step).is_multiple_of((self.tick / self.step).max(1)) {
                    self.synchronize(at);
                }
            }
        }
    }

    pub(super) fn granted(&self, client: usize, windows: Range<usize>) -> u64 {
        windows.filter_map(|window| self.clients[client].granted.get(window)).sum()
    }

    pub(super) fn wanted(&self, client: usize, windows: Range<usize>) -> u64 {
        windows.filter_map(|window| self.clients[client].wanted.get(window)).sum()
    }

    /// What all were granted in these windows, in parts of the quota.
    pub(super) fn part(&self, windows: Range<usize>) -> f64 {
        let all: u64 = (0..self.clients.len()).map(|client| self.granted(client, windows.clone())).sum();
        all as f64 / (windows.len() as f64 * f64::from(self.total.amount))
    }
}
