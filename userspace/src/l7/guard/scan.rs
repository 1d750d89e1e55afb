//! Classes of bytes, and how many of one class come first.

const fn table(classes: &[(u8, u8)]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut class = 0;
    while class < classes.len() {
        let (first, last) = classes[class];
        let mut byte = first as usize;
        while byte <= last as usize {
            table[byte] = true;
            byte += 1;
        }
        class += 1;
    }
    table
}

/// RFC 9110, 5.6.2.
static TOKEN: [bool; 256] = table(&[
    (b'!', b'!'),
    (b'#', b'\''),
    (b'*', b'+'),
    (b'-', b'.'),
    (b'0', b'9'),
    (b'A', b'Z'),
    (b'^', b'z'),
    (b'|', b'|'),
    (b'~', b'~'),
]);

/// What RFC 3986 allows in a URI, and `\ ^ { | }`, which clients send. No `#`: a fragment is not sent.
static TARGET: [bool; 256] =
    table(&[(b'!', b'!'), (b'$', b';'), (b'=', b'='), (b'?', b'_'), (b'a', b'~')]);

/// How many bytes of a token come first.
pub(super) fn token(bytes: &[u8]) -> usize {
    run(bytes, &TOKEN)
}

/// How many bytes of a request target come first.
pub(super) fn target(bytes: &[u8]) -> usize {
    run(bytes, &TARGET)
}

fn run(bytes: &[u8], class: &[bool; 256]) -> usize {
    bytes.iter().position(|byte| !class[usize::from(*byte)]).unwrap_or(bytes.len())
}

/// How many bytes of a field value come first: no control characters but the tab (RFC 9110, 5.5).
pub(super) fn text(bytes: &[u8]) -> usize {
    let mut at = 0;
    // Values are long: eight bytes at a time.
    while let Some(word) = bytes.get(at..at + 8).and_then(|word| word.try_into().ok()) {
        if has_control(u64::from_ne_bytes(word)) && bytes[at..at + 8].iter().any(is_no_text) {
            break;
        }
        at += 8;
    }
    let rest = &bytes[at..];
    at + rest.iter().position(is_no_text).unwrap_or(rest.len())
}

fn is_no_text(byte: &u8) -> bool {
    byte.is_ascii_control() && *byte != b'\t'
}

/// Whether one of eight bytes is below 0x20 or 0x7f.
fn has_control(word: u64) -> bool {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES * 0x80;
    let below_space = word.wrapping_sub(ONES * 0x20) & !word & HIGH;
    let other = word ^ (ONES * 0x7f);
    let delete = other.wrapping_sub(ONES) & !other & HIGH;
    below_space | delete != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_those_of_the_rfc() {
        for byte in 0..=255u8 {
            let is_token = byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            assert_eq!(token(&[byte]) == 1, is_token, "{byte:#x}");
        }
    }

    #[test]
    fn targets_have_no_controls_spaces_fragments_quotes_or_raw_utf8() {
        for byte in 0..=255u8 {
            let is_target = byte.is_ascii_graphic() && !b"\"#<>`".contains(&byte);
            assert_eq!(target(&[byte]) == 1, is_target, "{byte:#x}");
        }
    }

    #[test]
    fn text_ends_at_the_first_control_wherever_it_stands() {
        for byte in 0..=255u8 {
            for at in 0..20 {
                let mut bytes = [b'\xe4', b'a', b'\t', b' '].repeat(5);
                bytes[at] = byte;
                let is_text = byte == b'\t' || (byte >= b' ' && byte != 0x7f);
                assert_eq!(text(&bytes), if is_text { 20 } else { at }, "{byte:#x} at {at}");
            }
        }
    }
}
