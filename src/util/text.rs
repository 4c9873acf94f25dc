//! Comparing short texts, which the way of every pick does a dozen times.

/// Whether both are the same text.
///
/// What `==` does, without the call that it makes: most labels are shorter than a word of the machine or two, and two
/// overlapping words decide those.
#[inline]
pub(crate) fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    match a.len() {
        0 => true,
        1..=3 => a.iter().zip(b).all(|(x, y)| x == y),
        4..=7 => first::<4>(a) == first::<4>(b) && last::<4>(a) == last::<4>(b),
        8..=16 => first::<8>(a) == first::<8>(b) && last::<8>(a) == last::<8>(b),
        _ => a == b,
    }
}

#[inline]
fn first<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.first_chunk().copied()
}

#[inline]
fn last<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.last_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::same;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_equality(a in "[ab]{0,40}", b in "[ab]{0,40}", at in any::<proptest::sample::Index>()) {
            prop_assert_eq!(same(&a, &b), a == b);
            prop_assert!(same(&a, &a.clone()));
            if !a.is_empty() {
                let mut other = a.clone().into_bytes();
                let at = at.index(other.len());
                other[at] ^= 1;
                prop_assert!(!same(&a, std::str::from_utf8(&other).unwrap()), "differs at {at}");
            }
        }
    }
}
