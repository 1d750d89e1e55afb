//! Tables of byte sequences, each with what is to become of it: `tests/hostile`.

/// The lines of a table that are neither empty nor comments: number, what is before the first `: `, and
/// what is after it.
pub(crate) fn lines(table: &str) -> impl Iterator<Item = (usize, &str, &str)> {
    let lines = (1..).zip(table.lines());
    lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).map(|(number, line)| {
        let (head, text) = line.split_once(": ").unwrap_or_else(|| panic!("line {number}: {line}"));
        (number, head, text)
    })
}

/// The bytes that a text stands for: `|` is CRLF, `\r \n \\t \\0 \\xNN \\p` (a pipe) and other escaped
/// characters are bytes, `{a*900}` is a text again and again, and `{NAME}` what `named` says.
pub(crate) fn unescaped(text: &str, named: &dyn Fn(&str) -> Option<Vec<u8>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let used = match first {
            '|' => {
                bytes.extend_from_slice(b"\r\n");
                1
            }
            '\\' => {
                let (byte, used) = match rest.as_bytes()[1] {
                    b'r' => (b'\r', 2),
                    b'n' => (b'\n', 2),
                    b't' => (b'\t', 2),
                    b'0' => (0, 2),
                    b'p' => (b'|', 2),
                    b'x' => (u8::from_str_radix(&rest[2..4], 16).unwrap(), 4),
                    other => (other, 2),
                };
                bytes.push(byte);
                used
            }
            '{' => {
                let end = rest.find('}').unwrap();
                match named(&rest[1..end]) {
                    Some(known) => bytes.extend(known),
                    None => {
                        let (what, times) = rest[1..end].rsplit_once('*').unwrap();
                        bytes.extend(unescaped(what, named).repeat(times.parse().unwrap()));
                    }
                }
                end + 1
            }
            _ => {
                bytes.extend_from_slice(first.to_string().as_bytes());
                first.len_utf8()
            }
        };
        rest = &rest[used..];
    }
    bytes
}
