//! A command written as one line, `SET key "a b\r\n\x00"`, as its words: quoted as in redis-cli.

/// Splits at spaces; within double quotes `\n \r \t \" \\ \xHH` mean what they mean in redis-cli.
#[track_caller]
pub fn split(line: &str) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let (word, after) = match rest.strip_prefix('"') {
            Some(quoted) => unquote(quoted).unwrap_or_else(|| panic!("unbalanced quotes in {line:?}")),
            None => {
                let end = rest.find(' ').unwrap_or(rest.len());
                (rest.as_bytes()[..end].to_vec(), &rest[end..])
            }
        };
        words.push(word);
        rest = after.trim_start();
    }
    words
}

/// The bytes up to the closing quote, and what stands after it.
pub fn unquote(text: &str) -> Option<(Vec<u8>, &str)> {
    let mut word = Vec::new();
    let mut at = 0;
    let bytes = text.as_bytes();
    loop {
        match *bytes.get(at)? {
            b'"' => return Some((word, text.get(at + 1..)?)),
            b'\\' => {
                at += 1;
                word.push(match *bytes.get(at)? {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'x' => {
                        at += 2;
                        u8::from_str_radix(text.get(at - 1..at + 1)?, 16).ok()?
                    }
                    other => other,
                });
            }
            plain => word.push(plain),
        }
        at += 1;
    }
}

#[test]
fn a_line_is_split_as_redis_cli_splits_it() {
    assert_eq!(
        split(r#"SET key "a b\r\n\x00\"""#),
        [&b"SET"[..], b"key", b"a b\r\n\0\""]
    );
    assert_eq!(split(r#"  PING  "" "#), [&b"PING"[..], b""]);
}
