//! The little of DER (X.690) that is needed to say what something *is*.
//!
//! Nothing here decides what is trusted: it only words a fault, or tells PKCS#8, PKCS#1 and SEC1 apart.

pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const OID: u8 = 0x06;
pub(super) const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const CONTEXT_0: u8 = 0xa0;

/// `1.2.840.113549.1.7`: the content types of PKCS#7.
const PKCS7: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07];
/// `1.2.840.113549.1.5` and `1.2.840.113549.1.12.1`: encryption schemes of PKCS#5 and PKCS#12.
const PKCS5: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05];
const PKCS12_PBE: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x01];

/// One value: its tag and its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Value<'a> {
    pub(super) tag: u8,
    pub(super) content: &'a [u8],
}

/// How the length that a value announces compares with the bytes that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// One SEQUENCE and nothing behind it.
    Whole,
    /// A SEQUENCE that announces more than there is.
    Short,
    /// No SEQUENCE, or something behind it.
    Other,
}

/// The first value and what follows it.
pub(super) fn read(input: &[u8]) -> Option<(Value<'_>, &[u8])> {
    let (tag, length, rest) = header(input)?;
    (length <= rest.len()).then(|| (Value { tag, content: &rest[..length] }, &rest[length..]))
}

fn header(input: &[u8]) -> Option<(u8, usize, &[u8])> {
    let (&tag, rest) = input.split_first()?;
    let (&first, rest) = rest.split_first()?;
    if first < 0x80 {
        return Some((tag, usize::from(first), rest));
    }
    let count = usize::from(first & 0x7f);
    // 0x80 is BER's indefinite length; more than four bytes is longer than anything taken here.
    if count == 0 || count > 4 || rest.len() < count {
        return None;
    }
    let length = rest[..count].iter().try_fold(0_usize, |n, b| n.checked_mul(256)?.checked_add(usize::from(*b)))?;
    Some((tag, length, &rest[count..]))
}

/// Whether `input` is one SEQUENCE.
pub(super) fn extent(input: &[u8]) -> Extent {
    match header(input) {
        Some((SEQUENCE, length, rest)) if length == rest.len() => Extent::Whole,
        Some((SEQUENCE, length, rest)) if length > rest.len() => Extent::Short,
        None if input.first() == Some(&SEQUENCE) && input.len() < 6 => Extent::Short,
        _ => Extent::Other,
    }
}

/// The values inside a constructed one; `None` if they do not fill it.
pub(super) fn children(mut content: &[u8]) -> Option<Vec<Value<'_>>> {
    const MOST: usize = 16;
    let mut values = Vec::new();
    while !content.is_empty() {
        let (value, rest) = read(content)?;
        // Only the beginning matters to tell forms apart; a list of thousands is not worth the memory.
        if values.len() < MOST {
            values.push(value);
        }
        content = rest;
    }
    Some(values)
}

/// What a whole DER value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Certificate,
    Request,
    Crl,
    Pkcs1Key,
    Pkcs8Key,
    Sec1Key,
    EncryptedKey,
    DsaKey,
    PublicKey,
    Pkcs7,
    Pkcs12,
}

/// Tells what `input` is by its structure alone.
pub(super) fn kind(input: &[u8]) -> Option<Kind> {
    let (outer, rest) = read(input)?;
    if outer.tag != SEQUENCE || !rest.is_empty() {
        return None;
    }
    let values = children(outer.content)?;
    let tags: Vec<u8> = values.iter().map(|v| v.tag).collect();
    match tags.as_slice() {
        [INTEGER, SEQUENCE, OCTET_STRING, ..] => Some(Kind::Pkcs8Key),
        [INTEGER, SEQUENCE, ..] if first_oid(&values[1]).is_some_and(|o| o.starts_with(PKCS7)) => Some(Kind::Pkcs12),
        [OID, ..] if values[0].content.starts_with(PKCS7) => Some(Kind::Pkcs7),
        [INTEGER, OCTET_STRING, ..] => Some(Kind::Sec1Key),
        [INTEGER, INTEGER, INTEGER, INTEGER, INTEGER, INTEGER] => Some(Kind::DsaKey),
        [INTEGER, INTEGER, INTEGER, INTEGER, INTEGER, INTEGER, INTEGER, INTEGER, INTEGER, ..] => Some(Kind::Pkcs1Key),
        [INTEGER, INTEGER] => Some(Kind::PublicKey),
        [SEQUENCE, OCTET_STRING] => first_oid(&values[0])
            .is_some_and(|o| o.starts_with(PKCS5) || o.starts_with(PKCS12_PBE))
            .then_some(Kind::EncryptedKey),
        [SEQUENCE, BIT_STRING] => Some(Kind::PublicKey),
        [SEQUENCE, SEQUENCE, BIT_STRING] => signed_kind(&values[0]),
        _ => None,
    }
}

/// Certificate, request or revocation list: all three are `{content, algorithm, signature}`.
fn signed_kind(content: &Value<'_>) -> Option<Kind> {
    let tags: Vec<u8> = children(content.content)?.iter().map(|v| v.tag).collect();
    if tags.iter().any(|t| matches!(*t, UTC_TIME | GENERALIZED_TIME)) {
        return Some(Kind::Crl);
    }
    match tags.as_slice() {
        [CONTEXT_0, INTEGER, ..] | [INTEGER, SEQUENCE, SEQUENCE, SEQUENCE, ..] => Some(Kind::Certificate),
        [INTEGER, SEQUENCE, SEQUENCE, ..] => Some(Kind::Request),
        _ => None,
    }
}

fn first_oid<'a>(value: &Value<'a>) -> Option<&'a [u8]> {
    let (first, _) = read(value.content)?;
    (first.tag == OID).then_some(first.content)
}

/// The bits of a positive INTEGER's content, leading zeros not counted.
pub(super) fn bits(integer: &[u8]) -> u32 {
    let start = integer.iter().position(|b| *b != 0).unwrap_or(integer.len());
    let significant = &integer[start..];
    match significant.first() {
        None => 0,
        Some(first) => u32::try_from(significant.len()).unwrap_or(u32::MAX).saturating_mul(8) - first.leading_zeros(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_whole_short_and_other_apart() {
        assert_eq!(extent(&[0x30, 2, 5, 0]), Extent::Whole);
        assert_eq!(extent(&[0x30, 3, 5, 0]), Extent::Short);
        assert_eq!(extent(&[0x30, 0x82, 1]), Extent::Short);
        assert_eq!(extent(&[0x30, 1, 5, 0]), Extent::Other);
        assert_eq!(extent(&[0x31, 0]), Extent::Other);
        assert_eq!(extent(&[]), Extent::Other);
    }

    #[test]
    fn never_reads_past_the_end() {
        for input in [&[0x30][..], &[0x30, 0x85, 1, 1, 1, 1, 1], &[0x30, 0x80, 0, 0], &[0x30, 0x84, 255, 255, 255, 255]]
        {
            assert_eq!(read(input), None);
            assert_eq!(kind(input), None);
        }
    }

    #[test]
    fn counts_bits_without_leading_zeros() {
        assert_eq!(bits(&[0, 0x80, 0]), 16);
        assert_eq!(bits(&[1, 0]), 9);
        assert_eq!(bits(&[0]), 0);
        assert_eq!(bits(&[]), 0);
    }
}
