//! What a limiter knows, and what it answers. Nothing here waits, and the time is passed in.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::check::{self, COUNTER_GONE, NO_COUNTER_KEY, OK};
use super::clients::{Client, Clients};
use super::counter::{Counter, Identity, Terms};
use super::{LimitCounter, Moment};
use crate::model::key::ServiceKey;
use crate::pb::metric;

/// Between two looks for counters that lie idle.
const PURGE: Duration = Duration::from_secs(30);
/// The bits of a key that are the number of a counter; those above say whose it is.
const NUMBER: u32 = 0x00ff_ffff;

#[derive(Debug)]
pub(super) struct State {
    /// Tells the keys of one limiter from those of others.
    myid: u8,
    clients: Clients,
    counters: BTreeMap<u32, Counter>,
    numbers: BTreeMap<Identity, u32>,
    last_number: u32,
    next_purge: Instant,
}

/// What becomes of a report.
#[derive(Debug, Default)]
pub(super) struct Reported {
    pub(super) answer: metric::RateLimitReportResponse,
    /// What others hear of it, by their streams.
    pub(super) pushes: Vec<(u64, metric::RateLimitReportResponse)>,
}

/// Where a real limiter dies of a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Crash;

impl State {
    pub(super) fn new(myid: u8, at: Instant) -> Self {
        Self {
            myid,
            clients: Clients::default(),
            counters: BTreeMap::new(),
            numbers: BTreeMap::new(),
            last_number: 0,
            next_purge: at + PURGE,
        }
    }

    /// `INIT`.
    pub(super) fn init(
        &mut self,
        stream: u64,
        request: &metric::RateLimitInitRequest,
        now: Moment,
    ) -> metric::RateLimitInitResponse {
        self.purge(now.at);
        let target = request.target.clone();
        let bare = metric::RateLimitInitResponse { target, timestamp: now.wall, ..Default::default() };
        // The client is known before its request is looked at: an id that is missing is the id of the stream as well.
        let joined = self.clients.join(stream, &request.client_id);
        let client = match joined.and_then(|client| check::init(request).map(|()| client)) {
            Ok(client) => client,
            Err(code) => return metric::RateLimitInitResponse { code, ..bare },
        };
        let labels = request.target.as_ref().map(|target| target.labels.clone()).unwrap_or_default();
        let counters = self.join(&client, request, &labels, now);
        let slide_count = request.slide_count.max(1);
        metric::RateLimitInitResponse { code: OK, client_key: client.key, counters, slide_count, ..bare }
    }

    /// `BATCH_INIT`.
    pub(super) fn init_all(
        &mut self,
        stream: u64,
        request: &metric::RateLimitBatchInitRequest,
        now: Moment,
    ) -> metric::RateLimitBatchInitResponse {
        self.purge(now.at);
        let bare = metric::RateLimitBatchInitResponse { timestamp: now.wall, ..Default::default() };
        let joined = self.clients.join(stream, &request.client_id);
        let client = match joined.and_then(|client| check::batch(request).map(|()| client)) {
            Ok(client) => client,
            Err(code) => return metric::RateLimitBatchInitResponse { code, ..bare },
        };
        let result = request.request.iter().map(|member| self.init_member(&client, member, now)).collect();
        metric::RateLimitBatchInitResponse { code: OK, client_key: client.key, result, ..bare }
    }

    fn init_member(
        &mut self,
        client: &Client,
        request: &metric::RateLimitInitRequest,
        now: Moment,
    ) -> metric::BatchInitResult {
        let slide_count = request.slide_count;
        let mut target = request.target.clone();
        if let Err(code) = check::batch_member(request) {
            return metric::BatchInitResult { code, target, slide_count, counters: Vec::new() };
        }
        let list = target.as_mut().map(|target| std::mem::take(&mut target.labels_list)).unwrap_or_default();
        if let Some(target) = &mut target {
            target.labels.clear();
        }
        let counters = list.into_iter().map(|labels| {
            let counters = self.join(client, request, &labels, now);
            metric::LabeledQuotaCounter { labels, counters }
        });
        metric::BatchInitResult { code: OK, target, slide_count, counters: counters.collect() }
    }

    /// The counters of a request that was found good, one for each of its totals.
    fn join(
        &mut self,
        client: &Client,
        request: &metric::RateLimitInitRequest,
        labels: &str,
        now: Moment,
    ) -> Vec<metric::QuotaCounter> {
        let longest = request.totals.iter().map(|total| total.duration).max().unwrap_or_default();
        let patience = Duration::from_secs(u64::from(longest) * 2);
        // Another stream of the same client may have ended and taken it along.
        let gone = self.clients.stream_of(&client.id).is_none();
        let service = request.target.as_ref().map(|target| ServiceKey::new(&*target.namespace, &*target.service));
        let mut joined = Vec::new();
        for (total, service) in request.totals.iter().zip(service.iter().cycle()) {
            let terms = Terms { total, slides: request.slide_count.max(1), patience };
            let identity = Identity { service: service.clone(), labels: labels.to_owned(), seconds: total.duration };
            let number = *self.numbers.entry(identity.clone()).or_insert_with(|| {
                self.last_number += 1;
                self.last_number
            });
            let counter = self.counters.entry(number).or_insert_with(|| Counter::new(identity, terms, now));
            counter.settle(now.at);
            counter.join(&client.id, gone, terms, now);
            joined.push(metric::QuotaCounter {
                duration: total.duration,
                counter_key: key(self.myid, number),
                left: counter.left(now.wall),
                mode: metric::Mode::BatchOccupy.into(),
                client_count: counter.clients(),
            });
        }
        joined
    }

    /// `ACQUIRE` and `BATCH_ACQUIRE`, which are the same.
    pub(super) fn report(
        &mut self,
        stream: u64,
        request: &metric::RateLimitReportRequest,
        now: Moment,
    ) -> Result<Reported, Crash> {
        self.purge(now.at);
        let mut reported = Reported::default();
        let answer = &mut reported.answer;
        answer.timestamp = now.wall;
        answer.code = check::report(request).err().unwrap_or(OK);
        let asked = if answer.code == OK { request.quota_uses.as_slice() } else { &[] };
        for quota in asked {
            let (owner, number) = (quota.counter_key >> 24, quota.counter_key & NUMBER);
            if owner != u32::from(self.myid) || number == 0 {
                answer.code = NO_COUNTER_KEY;
                break;
            }
            let Some(counter) = self.counters.get_mut(&number) else {
                answer.code = COUNTER_GONE;
                break;
            };
            let client = self.clients.of_stream(stream);
            if client.is_none() && (quota.used > 0 || quota.limited > 0) {
                return Err(Crash);
            }
            counter.settle(now.at);
            let push = counter.report(quota, request.timestamp, now);
            let left = metric::QuotaLeft {
                counter_key: quota.counter_key,
                left: counter.left(now.wall),
                mode: metric::Mode::BatchOccupy.into(),
                client_count: counter.clients(),
            };
            answer.quota_lefts.push(left);
            if push {
                let others = counter.present().filter(|id| client.is_none_or(|client| client.id != **id));
                let streams = others.filter_map(|id| self.clients.stream_of(id));
                let told =
                    || metric::RateLimitReportResponse { code: OK, quota_lefts: vec![left], timestamp: now.wall };
                reported.pushes.extend(streams.map(|stream| (stream, told())));
            }
        }
        Ok(reported)
    }

    /// A stream has ended.
    pub(super) fn leave(&mut self, stream: u64, at: Instant) {
        if let Some(id) = self.clients.leave(stream) {
            self.counters.values_mut().for_each(|counter| counter.leave(&id, at));
        }
    }

    /// The service that is counted under a key.
    pub(super) fn service_of(&self, key: u32) -> Option<&ServiceKey> {
        let own = key >> 24 == u32::from(self.myid);
        self.counters.get(&(key & NUMBER)).filter(|_| own).map(|counter| &counter.identity.service)
    }

    /// All counters, the oldest first.
    pub(super) fn counters(&mut self, now: Moment) -> Vec<LimitCounter> {
        self.purge(now.at);
        self.counters.values_mut().for_each(|counter| counter.settle(now.at));
        let shown = |(number, counter): (&u32, &Counter)| counter.shown(key(self.myid, *number), now.wall);
        self.counters.iter().map(shown).collect()
    }

    /// Drops the counters that lay idle when it was last looked.
    fn purge(&mut self, at: Instant) {
        let Some(over) = at.checked_duration_since(self.next_purge) else { return };
        let passed = u32::try_from(over.as_secs() / PURGE.as_secs()).unwrap_or(u32::MAX);
        let last = self.next_purge + PURGE.saturating_mul(passed);
        self.next_purge = last + PURGE;
        self.counters.retain(|_, counter| !counter.has_expired(last));
        let counters = &self.counters;
        self.numbers.retain(|_, number| counters.contains_key(number));
    }
}

fn key(myid: u8, number: u32) -> u32 {
    u32::from(myid) << 24 | (number & NUMBER)
}
