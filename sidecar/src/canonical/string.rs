//! Decides how strings are written: what is escaped, and how keys compare. Pure.

use std::cmp::Ordering;

const HEX: &[u8; 16] = b"0123456789abcdef";
const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// Copies the string whose opening quote stands at `start`. Returns where it ends and whether the copy holds an escape;
/// the offset of what is wrong otherwise.
pub(super) fn copy(input: &str, start: usize, out: &mut Vec<u8>) -> Result<(usize, bool), usize> {
    let bytes = input.as_bytes();
    let mut at = start + 1;
    let mut escaped = false;
    out.push(b'"');
    loop {
        let run = plain_run(&bytes[at..]);
        out.extend_from_slice(&bytes[at..at + run]);
        at += run;
        match bytes.get(at) {
            Some(b'"') => {
                out.push(b'"');
                return Ok((at + 1, escaped));
            }
            Some(b'\\') => {
                let (unit, end) = escape(bytes, at)?;
                write_unit(unit, out);
                at = end;
            }
            Some(0x7f..) => {
                for c in input[at..].chars().take_while(|c| *c >= '\u{7f}') {
                    write_char(c, out);
                    at += c.len_utf8();
                }
            }
            _ => return Err(at),
        }
        // An escape in the input may stand for a plain character, so this errs to the safe side.
        escaped = true;
    }
}

/// Writes a string with its quotes.
pub(super) fn write(value: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for c in value.chars() {
        write_char(c, out);
    }
    out.push(b'"');
}

/// How many bytes stay as they are: printable ASCII but for quote and backslash. Eight at a time; in each test the lowest
/// bit that is set is exact, so the lowest of all is.
fn plain_run(bytes: &[u8]) -> usize {
    let mut run = 0;
    let (chunks, rest) = bytes.as_chunks::<8>();
    for chunk in chunks {
        let x = u64::from_le_bytes(*chunk);
        let zero = |y: u64| y.wrapping_sub(ONES) & !y;
        let control = x.wrapping_sub(ONES * 0x20) & !x;
        let found = (x | control | zero(x ^ (ONES * 0x22)) | zero(x ^ (ONES * 0x5c)) | zero(x ^ (ONES * 0x7f))) & HIGHS;
        if found != 0 {
            return run + found.trailing_zeros() as usize / 8;
        }
        run += 8;
    }
    run + rest.iter().take_while(|b| matches!(b, 0x20..=0x7e) && !matches!(b, b'"' | b'\\')).count()
}

/// Reads the escape at `at`: the UTF-16 unit that it stands for, and where it ends.
fn escape(bytes: &[u8], at: usize) -> Result<(u16, usize), usize> {
    let unit = match bytes.get(at + 1) {
        Some(c @ (b'"' | b'\\' | b'/')) => u16::from(*c),
        Some(b'b') => 8,
        Some(b'f') => 12,
        Some(b'n') => 10,
        Some(b'r') => 13,
        Some(b't') => 9,
        Some(b'u') => return Ok((hex4(bytes, at + 2).ok_or(at)?, at + 6)),
        _ => return Err(at),
    };
    Ok((unit, at + 2))
}

fn hex4(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 4)?.iter().try_fold(0, |n, c| {
        let digit = (*c as char).to_digit(16)?;
        Some(n << 4 | digit as u16)
    })
}

fn write_char(c: char, out: &mut Vec<u8>) {
    for unit in c.encode_utf16(&mut [0; 2]) {
        write_unit(*unit, out);
    }
}

fn write_unit(unit: u16, out: &mut Vec<u8>) {
    let short = match unit {
        0x22 => b'"',
        0x5c => b'\\',
        8 => b'b',
        9 => b't',
        10 => b'n',
        12 => b'f',
        13 => b'r',
        0x20..=0x7e => return out.push(unit as u8),
        _ => {
            let digit = |shift: u16| HEX[usize::from(unit >> shift & 15)];
            return out.extend_from_slice(&[b'\\', b'u', digit(12), digit(8), digit(4), digit(0)]);
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

/// The code points of canonical text without its quotes. A surrogate that stands alone is one, as in Python's strings.
fn code_points(text: &[u8]) -> impl Iterator<Item = u32> {
    let mut at = 0;
    let next = move || {
        let (unit, end) = match text.get(at)? {
            b'\\' => escape(text, at).ok()?,
            plain => (u16::from(*plain), at + 1),
        };
        let low = match unit {
            0xd800..=0xdbff if text.get(end) == Some(&b'\\') => escape(text, end).ok(),
            _ => None,
        };
        match low {
            Some((low @ 0xdc00..=0xdfff, end)) => {
                at = end;
                Some(0x1_0000 + (u32::from(unit - 0xd800) << 10) + u32::from(low - 0xdc00))
            }
            _ => {
                at = end;
                Some(u32::from(unit))
            }
        }
    };
    std::iter::from_fn(next)
}

/// Compares two keys in canonical text by the code points that they stand for.
pub(super) fn cmp_code_points(a: &[u8], b: &[u8]) -> Ordering {
    code_points(a).cmp(code_points(b))
}

/// The string that canonical text without its quotes stands for; none if it holds a lone surrogate.
pub(super) fn decode(text: &[u8]) -> Option<String> {
    code_points(text).map(char::from_u32).collect()
}
