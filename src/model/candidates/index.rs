//! Many rules at once: for each label a table from its values to the rules that may match, as bits.
//!
//! A call looks up one row for each label and keeps the rules that are in all of them: a few words for a thousand rules
//! (the bit-vector scheme of Lakshman and Stiliadis, SIGCOMM 1998). Conditions that are no literal values (ranges, regular
//! expressions) count as "may match" and are checked afterwards, in the order of the rules.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::Candidate;
use super::check::Check;
use super::values::Values;
use crate::model::label::LabelKey;
use crate::util::hash::NameHash;

/// Words of a row: more candidates are in further chunks, which are looked at only if the ones before have no match.
const WORDS: usize = 16;
const CHUNK: usize = WORDS * 64;

/// One bit for each candidate of a chunk.
type Bits = [u64; WORDS];

/// The index of all candidates.
#[derive(Debug)]
pub(crate) struct RuleIndex(Box<[Chunk]>);

/// How far a walk over all that match has come.
#[derive(Debug, Default)]
pub(super) struct Progress {
    chunk: usize,
    /// The candidates of it that may match and are still to be looked at; none before it is begun.
    rest: Option<Bits>,
}

#[derive(Debug)]
struct Chunk {
    first: usize,
    all: Bits,
    columns: Box<[Column]>,
}

/// One label: which candidates may match by what it says.
#[derive(Debug)]
struct Column {
    slot: usize,
    rows: HashMap<Arc<str>, Bits, NameHash>,
    /// For a value that no rule names.
    other: Bits,
    absent: Bits,
}

impl RuleIndex {
    pub(super) fn new(candidates: &[Candidate]) -> Self {
        let chunks = candidates.chunks(CHUNK).enumerate();
        Self(chunks.map(|(n, chunk)| Chunk::new(n * CHUNK, chunk)).collect())
    }

    /// The answer of `verify` about the first candidate from `from` on that it has one about.
    pub(super) fn first<T>(
        &self,
        from: usize,
        values: &mut Values<'_>,
        slots: &[LabelKey],
        verify: impl Fn(usize, &mut Values<'_>) -> Option<T>,
    ) -> Option<T> {
        for chunk in self.0.iter().skip(from / CHUNK) {
            let mut bits = chunk.all;
            if let Some(skip) = from.checked_sub(chunk.first) {
                keep_from(&mut bits, skip);
            }
            chunk.narrow(&mut bits, values, slots);
            let found = chunk.take_first(&mut bits, values, &verify);
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// The answer of `verify` about the next candidate of a walk that it has one about: each chunk is narrowed once.
    pub(super) fn go_on<T>(
        &self,
        progress: &mut Progress,
        values: &mut Values<'_>,
        slots: &[LabelKey],
        verify: impl Fn(usize, &mut Values<'_>) -> Option<T>,
    ) -> Option<T> {
        loop {
            let chunk = self.0.get(progress.chunk)?;
            let rest = progress.rest.get_or_insert_with(|| {
                let mut bits = chunk.all;
                chunk.narrow(&mut bits, values, slots);
                bits
            });
            let found = chunk.take_first(rest, values, &verify);
            if found.is_some() {
                return found;
            }
            *progress = Progress { chunk: progress.chunk + 1, rest: None };
        }
    }
}

impl Chunk {
    fn new(first: usize, candidates: &[Candidate]) -> Self {
        let mut all = [0; WORDS];
        (0..candidates.len()).for_each(|at| set(&mut all, at));
        let mut slots: Vec<usize> =
            candidates.iter().flat_map(|candidate| &candidate.checks).map(|(slot, _)| *slot).collect();
        slots.sort_unstable();
        slots.dedup();
        let columns = slots.into_iter().map(|slot| Column::new(slot, candidates, all)).collect();
        Self { first, all, columns }
    }

    /// Leaves of `bits` those that may match.
    fn narrow(&self, bits: &mut Bits, values: &mut Values<'_>, slots: &[LabelKey]) {
        for column in &self.columns {
            values.with(column.slot, slots, |value| and(bits, column.row(value)));
            if bits.iter().all(|word| *word == 0) {
                break;
            }
        }
    }

    /// The answer about the first of `bits` that there is one about; the bits up to it are cleared.
    fn take_first<T>(
        &self,
        bits: &mut Bits,
        values: &mut Values<'_>,
        verify: impl Fn(usize, &mut Values<'_>) -> Option<T>,
    ) -> Option<T> {
        for (n, word) in bits.iter_mut().enumerate() {
            while *word != 0 {
                let at = self.first + n * 64 + word.trailing_zeros() as usize;
                *word &= *word - 1;
                if let Some(answer) = verify(at, values) {
                    return Some(answer);
                }
            }
        }
        None
    }
}

impl Column {
    fn new(slot: usize, candidates: &[Candidate], all: Bits) -> Self {
        let checks = |at: usize| {
            let checks = candidates.get(at).map(|candidate| &*candidate.checks).unwrap_or_default();
            checks.iter().filter(move |(of, _)| *of == slot).map(|(_, check)| check)
        };
        let range: Range<usize> = 0..candidates.len();
        let (mut other, mut absent) = (all, all);
        for at in range.clone() {
            for check in checks(at) {
                // A label that a rule asks for has to be there; and of literal values only those match.
                clear(&mut absent, at);
                if check.tokens().is_some() {
                    clear(&mut other, at);
                }
            }
        }
        let mut rows: HashMap<Arc<str>, Bits, NameHash> = HashMap::default();
        for at in range.clone() {
            for token in checks(at).filter_map(Check::tokens).flatten() {
                set(rows.entry(Arc::clone(token)).or_insert(other), at);
            }
            for value in checks(at).filter_map(Check::excluded).flatten() {
                rows.entry(Arc::clone(value)).or_insert(other);
            }
        }
        // Last, so that a row that another rule made loses the bit too.
        for at in range {
            for value in checks(at).filter_map(Check::excluded).flatten() {
                rows.entry(Arc::clone(value)).and_modify(|row| clear(row, at));
            }
        }
        Self { slot, rows, other, absent }
    }

    fn row(&self, value: Option<&str>) -> &Bits {
        match value {
            Some(value) => self.rows.get(value).unwrap_or(&self.other),
            None => &self.absent,
        }
    }
}

fn set(bits: &mut Bits, at: usize) {
    if let Some(word) = bits.get_mut(at / 64) {
        *word |= 1 << (at % 64);
    }
}

fn clear(bits: &mut Bits, at: usize) {
    if let Some(word) = bits.get_mut(at / 64) {
        *word &= !(1 << (at % 64));
    }
}

fn and(bits: &mut Bits, row: &Bits) {
    bits.iter_mut().zip(row).for_each(|(word, other)| *word &= other);
}

/// Clears the bits before `at`.
fn keep_from(bits: &mut Bits, at: usize) {
    for (n, word) in bits.iter_mut().enumerate() {
        *word &= match at.saturating_sub(n * 64) {
            0 => u64::MAX,
            before @ 1..64 => u64::MAX << before,
            _ => 0,
        };
    }
}
