//! Redis's patterns: those of `COMMAND LIST FILTERBY PATTERN`, without regard to case, and those of `SCAN MATCH`.

/// `*` any bytes, `?` one byte, `[abc]`, `[a-z]`, `[^a]` one of these, `\x` just x; upper case is as lower case.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    matches_by(pattern, text, |byte| byte.to_ascii_lowercase())
}

/// As [`matches`], but upper case is not as lower case.
pub fn matches_exactly(pattern: &[u8], text: &[u8]) -> bool {
    matches_by(pattern, text, |byte| byte)
}

/// What bytes are taken for when they are compared.
type Fold = fn(u8) -> u8;

fn matches_by(pattern: &[u8], text: &[u8], fold: Fold) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where the last `*` stands and how much of the text it swallowed: only the last one ever needs to take more.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
            continue;
        }
        if let Some(next) = step(pattern, p, fold(text[t]), fold) {
            p = next;
            t += 1;
            continue;
        }
        let Some((at, swallowed)) = star else { return false };
        star = Some((at, swallowed + 1));
        p = at + 1;
        t = swallowed + 1;
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

/// The place after the element of `pattern` at `p`, if that element takes `byte`, which is folded.
fn step(pattern: &[u8], p: usize, byte: u8, fold: Fold) -> Option<usize> {
    match *pattern.get(p)? {
        b'?' => Some(p + 1),
        b'[' => class(pattern, p + 1, byte, fold),
        b'\\' if p + 1 < pattern.len() => (fold(pattern[p + 1]) == byte).then_some(p + 2),
        literal => (fold(literal) == byte).then_some(p + 1),
    }
}

/// As Redis does, a class that is never closed ends with the pattern.
fn class(pattern: &[u8], mut p: usize, byte: u8, fold: Fold) -> Option<usize> {
    let negated = pattern.get(p) == Some(&b'^');
    p += usize::from(negated);
    let mut found = false;
    loop {
        match pattern[p.min(pattern.len())..] {
            [] => break,
            [b']', ..] => {
                p += 1;
                break;
            }
            [b'\\', literal, ..] => {
                found |= fold(literal) == byte;
                p += 2;
            }
            [from, b'-', to, ..] => {
                let (from, to) = (fold(from), fold(to));
                found |= (from.min(to)..=from.max(to)).contains(&byte);
                p += 3;
            }
            [literal, ..] => {
                found |= fold(literal) == byte;
                p += 1;
            }
        }
    }
    (found != negated).then_some(p)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_redis() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("get", "GET", true),
            ("get", "gets", false),
            ("*get*", "forget it", true),
            ("a*b*c", "aXbXbXc", true),
            ("a*b*c", "aXbXbX", false),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h[ae]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hBllo", true),
            ("h[c-a]llo", "hbllo", true),
            ("h[ae", "ha", true),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("client|*", "client|list", true),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), text.as_bytes()),
                expected,
                "{pattern:?} on {text:?}"
            );
        }
    }

    #[test]
    fn a_pattern_of_many_stars_ends_soon() {
        let pattern = b"*a".repeat(40);
        assert!(!matches(&pattern, &b"a".repeat(30)));
        assert!(!matches(&[pattern, b"b".to_vec()].concat(), &b"a".repeat(4000)));
    }
}
