//! Runs of bytes that need no decision one by one.

const fn token_table() -> [bool; 256] {
    let mut table = [false; 256];
    let mut at = 0;
    while at < 256 {
        let b = at as u8;
        table[at] = b.is_ascii_alphanumeric()
            || matches!(
                b,
                b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
            );
        at += 1;
    }
    table
}

/// RFC 9110 section 5.6.2.
static TOKEN: [bool; 256] = token_table();

/// Whether a method or a field name may have it.
pub(super) fn is_token(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

/// How many bytes at the beginning are of a token.
pub(super) fn token_run(bytes: &[u8]) -> usize {
    bytes.iter().position(|b| !is_token(*b)).unwrap_or(bytes.len())
}

/// How many bytes at the beginning are at least `least` and not DEL.
pub(super) fn plain_run(bytes: &[u8], least: u8) -> usize {
    let stops = |b: &u8| (*b < least) | (*b == 0x7f);
    let (blocks, _) = bytes.as_chunks::<16>();
    // Without a branch per byte, so that a block is a few vector instructions.
    let clean = blocks.iter().take_while(|block| block.iter().fold(0, |bad, b| bad | u8::from(stops(b))) == 0).count();
    let from = clean * 16;
    from + bytes[from..].iter().position(stops).unwrap_or(bytes.len() - from)
}
