//! A global quota on one client: what it may grant between two answers of a limiter.
//!
//! # The problem
//!
//! All clients share an amount for each period of the limiter's clock. A call cannot wait for the limiter, so a client
//! grants first and reports 30 to 50 ms later, and each answer tells what is left and how many share it. polaris-go and
//! polaris-java let every client use up all that it saw to be left: ten busy clients then grant up to ten times the amount
//! in the first milliseconds of each period.
//!
//! # The choice
//!
//! A client that saw the last period end with a good rest, and refused nothing in it, may use all that is left but what
//! the others use meanwhile: bursts pass whole. Otherwise the quota is *contended*, and it keeps to a plan:
//!
//! * A period opens with a part of the amount: half of the parts is equal, the other half goes by what each used in the
//!   last period. They sum up to one, a newcomer has half of an equal part at once, and where all take what they can,
//!   parts move half of the way to equal ones with each period. Who was refused with less than an equal part has an equal part.
//! * The rest is what the others are not expected to use any more, by their use in this period and in the last one. It is
//!   dealt out in rounds of 100 ms, by the same parts. A round is longer than a report takes: what one dealt itself is
//!   reported before the next one deals.
//! * Where less is left than all are expected to use, parts shrink, and room is left for what is used and not reported.
//! * What was overdrawn in a period is missing at the opening of the next ones, up to a quarter of the amount.
//!
//! A new share is contended in its first period, because nothing is known of the others. Where clients of polaris-go take
//! all at once at the beginning of each period, ours keep to half of their equal part at least, so that much is overdrawn.
//!
//! # What always holds
//!
//! The count of a period and its number are one word ([`period::Word`]), so a grant counts in exactly one period, and a
//! thread with an older clock counts in the open one. What was granted is what was reported, is in flight, or is still to
//! be; what is not reported when its period ends is dropped, because the limiter counts by the period of the report.
//! Calls touch atomics only; [`ledger::Ledger`] belongs to whoever syncs.
//!
//! One report is in flight at a time. Without an answer for a second a share goes by its fail-over, until one comes.
//!
//! A clock that jumps (the limiter restarted elsewhere, or was set) neither ends the current period nor lets it be had
//! twice: the next one begins by the new clock, and until then answers and reports rest.
//!
//! Sources: polaris-limiter's v2 protocol, as its answers show it; the token buckets of polaris-go and polaris-java for
//! what other clients do with what is left. The parts, rounds and reserves are our own; `remote_test` holds their figures.

mod ledger;
mod period;
mod share;

#[cfg(test)]
mod remote_test;
#[cfg(test)]
mod simulation;

pub(crate) use self::share::{Failover, RetryAfter, Share};
