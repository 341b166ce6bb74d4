//! Decides which value a JSON pointer (RFC 6901) names in text that the reader has written. Pure.

use std::ops::Range;

use super::string;

/// What is wrong with a JSON pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PointerError {
    /// It is neither empty nor does it begin with a slash.
    #[error("a JSON pointer begins with `/`, for example `/event_id`")]
    NoSlash,
    /// A tilde stands for nothing but `~0` (a tilde) and `~1` (a slash).
    #[error("in a JSON pointer `~` is written `~0` and a `/` inside a name `~1`")]
    Tilde,
}

/// Checks how a pointer is written; what it names is another question.
///
/// # Errors
/// [`PointerError`] says what is wrong.
pub fn check_pointer(pointer: &str) -> Result<(), PointerError> {
    if !pointer.is_empty() && !pointer.starts_with('/') {
        return Err(PointerError::NoSlash);
    }
    if pointer.split('~').skip(1).any(|after| !after.starts_with(['0', '1'])) {
        return Err(PointerError::Tilde);
    }
    Ok(())
}

/// A token as the name that it stands for.
pub(super) fn unescape(token: &str) -> String {
    token.replace("~1", "/").replace("~0", "~")
}

/// Finds the value that a checked pointer names inside `span` of canonical text (valid JSON without white space). Of equal
/// keys the last counts.
pub(super) fn find(text: &[u8], mut span: Range<usize>, pointer: &str) -> Option<Range<usize>> {
    for token in pointer.split('/').skip(1) {
        let token = unescape(token);
        span = match text.get(span.start)? {
            b'{' => member(text, span.start, &token)?,
            b'[' => element(text, span.start, &token)?,
            _ => return None,
        };
    }
    Some(span)
}

fn member(text: &[u8], open: usize, name: &str) -> Option<Range<usize>> {
    let mut wanted = Vec::with_capacity(name.len() + 2);
    string::write(name, &mut wanted);
    let mut found = None;
    let mut at = open + 1;
    while text.get(at) == Some(&b'"') {
        let key = at..skip(text, at);
        let value = key.end + 1..skip(text, key.end + 1);
        at = value.end + 1;
        if text[key] == wanted[..] {
            found = Some(value);
        }
    }
    found
}

fn element(text: &[u8], open: usize, token: &str) -> Option<Range<usize>> {
    if token.len() > 1 && token.starts_with('0') || !token.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let index: usize = token.parse().ok()?;
    let mut at = open + 1;
    if text.get(at) == Some(&b']') {
        return None;
    }
    for _ in 0..index {
        at = skip(text, at);
        if text.get(at) != Some(&b',') {
            return None;
        }
        at += 1;
    }
    Some(at..skip(text, at))
}

/// Where the value that begins at `at` ends.
fn skip(text: &[u8], mut at: usize) -> usize {
    let mut depth = 0_usize;
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => at = skip_string(text, at),
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' => {
                // Not ours: the value was a word or number, and what holds it ends here.
                if depth == 0 {
                    return at;
                }
                depth -= 1;
                at += 1;
            }
            b',' | b':' if depth == 0 => return at,
            _ => {
                at += 1;
                continue;
            }
        }
        if depth == 0 {
            return at;
        }
    }
    at
}

fn skip_string(text: &[u8], open: usize) -> usize {
    let mut at = open + 1;
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    at
}
