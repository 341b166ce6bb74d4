//! Decides how numbers are written: integers digit for digit, floats as Python's `repr`. Pure.

use std::io::Write;

use super::{MAX_INTEGER_DIGITS, Refused};

/// Decimals of up to this many digits and the nearest double name each other, so the digits need no arithmetic.
const EXACT_DIGITS: usize = 15;

/// Copies the number (or `-Infinity`) at `start`; returns where it ends.
pub(super) fn copy(input: &str, start: usize, out: &mut Vec<u8>) -> Result<usize, Refused> {
    let bytes = input.as_bytes();
    let digits = |at: usize| bytes[at..].iter().take_while(|b| b.is_ascii_digit()).count();
    let negative = bytes[start] == b'-';
    let first = start + usize::from(negative);
    if negative && bytes[first..].starts_with(b"Infinity") {
        out.extend_from_slice(b"-Infinity");
        return Ok(first + b"Infinity".len());
    }
    let whole = if bytes.get(first) == Some(&b'0') { 1 } else { digits(first) };
    if whole == 0 {
        return Err(Refused::Syntax { at: first });
    }
    let point = first + whole;
    let fraction = if bytes.get(point) == Some(&b'.') { digits(point + 1) } else { 0 };
    let mantissa_end = if fraction > 0 { point + 1 + fraction } else { point };
    let end = mantissa_end + exponent(&bytes[mantissa_end..]);
    if end == point {
        return integer(&bytes[first..point], negative, out).map(|()| end).ok_or(Refused::LongInteger { at: start });
    }
    if end == mantissa_end && exact(&bytes[first..point], &bytes[point + 1..end], negative, out) {
        return Ok(end);
    }
    // The grammar above is within what `parse` takes; too large reads as infinity, as in Python.
    let value: f64 = input[start..end].parse().map_err(|_| Refused::Syntax { at: start })?;
    write_float(value, out);
    Ok(end)
}

/// How many bytes an exponent takes; none where its digits are missing.
fn exponent(rest: &[u8]) -> usize {
    if !matches!(rest.first(), Some(b'e' | b'E')) {
        return 0;
    }
    let sign = usize::from(matches!(rest.get(1), Some(b'+' | b'-')));
    match rest[1 + sign..].iter().take_while(|b| b.is_ascii_digit()).count() {
        0 => 0,
        digits => 1 + sign + digits,
    }
}

fn integer(digits: &[u8], negative: bool, out: &mut Vec<u8>) -> Option<()> {
    if digits.len() > MAX_INTEGER_DIGITS {
        return None;
    }
    // There is no negative zero among Python's integers.
    if negative && digits != b"0" {
        out.push(b'-');
    }
    out.extend_from_slice(digits);
    Some(())
}

/// Writes a float of few digits straight from its text; false if it needs the long way.
fn exact(whole: &[u8], fraction: &[u8], negative: bool, out: &mut Vec<u8>) -> bool {
    let small = whole == b"0";
    if fraction.len() + if small { 0 } else { whole.len() } > EXACT_DIGITS {
        return false;
    }
    let kept = fraction.iter().rposition(|b| *b != b'0').map_or(&b"0"[..], |last| &fraction[..=last]);
    // From 0.0001 down Python writes an exponent.
    if small && kept.starts_with(b"0000") {
        return false;
    }
    if negative {
        out.push(b'-');
    }
    out.extend_from_slice(whole);
    out.push(b'.');
    out.extend_from_slice(kept);
    true
}

/// Writes a float as Python's `repr` does: the fewest digits that read back as the same number, with an exponent below 1e-4
/// and from 1e16 on.
fn write_float(value: f64, out: &mut Vec<u8>) {
    if value.is_sign_negative() {
        out.push(b'-');
    }
    if value.is_infinite() {
        return out.extend_from_slice(b"Infinity");
    }
    let (mut room, mut other) = ([0_u8; ROOM], [0_u8; ROOM]);
    let mut shown = show(&mut room, format_args!("{:e}", value.abs()));
    // Halfway between two shortest candidates, which takes 16 digits or a subnormal, Python takes the even one and Rust the
    // upper one. Rust rounds to even where it is told the number of digits; near a power of two that may be another number.
    let digits = shown.iter().take_while(|b| **b != b'e').filter(|b| b.is_ascii_digit()).count();
    if digits > EXACT_DIGITS || value.is_subnormal() {
        let even = show(&mut other, format_args!("{:.*e}", digits - 1, value.abs()));
        if even != shown && std::str::from_utf8(even).ok().and_then(|t| t.parse().ok()) == Some(value.abs()) {
            shown = even;
        }
    }
    write_digits(shown, out);
}

/// At most 17 digits, a point and an exponent of 5 characters.
const ROOM: usize = 32;

fn show<'r>(room: &'r mut [u8; ROOM], number: std::fmt::Arguments<'_>) -> &'r [u8] {
    let mut rest = &mut room[..];
    let written = rest.write_fmt(number);
    debug_assert!(written.is_ok(), "a float's digits fit in the room");
    let left = rest.len();
    &room[..ROOM - left]
}

/// Writes digits and exponent (`d.ddde-x`) in Python's layout.
fn write_digits(shown: &[u8], out: &mut Vec<u8>) {
    let e = shown.iter().position(|b| *b == b'e').unwrap_or(shown.len());
    let exponent: i32 =
        std::str::from_utf8(&shown[(e + 1).min(shown.len())..]).ok().and_then(|t| t.parse().ok()).unwrap_or(0);
    let (head, tail) = (&shown[..1], shown.get(2..e).unwrap_or_default());
    match exponent {
        0..16 => {
            let exponent = exponent.unsigned_abs() as usize;
            out.extend_from_slice(head);
            out.extend_from_slice(&tail[..exponent.min(tail.len())]);
            out.resize(out.len() + exponent.saturating_sub(tail.len()), b'0');
            out.push(b'.');
            out.extend_from_slice(tail.get(exponent..).filter(|t| !t.is_empty()).unwrap_or(b"0"));
        }
        -4..0 => {
            out.extend_from_slice(b"0.");
            out.resize(out.len() + exponent.unsigned_abs() as usize - 1, b'0');
            out.extend_from_slice(head);
            out.extend_from_slice(tail);
        }
        _ => {
            out.extend_from_slice(head);
            if !tail.is_empty() {
                out.push(b'.');
                out.extend_from_slice(tail);
            }
            out.extend_from_slice(if exponent < 0 { b"e-" } else { b"e+" });
            let exponent = exponent.unsigned_abs();
            if exponent >= 100 {
                out.push(b'0' + (exponent / 100) as u8);
            }
            out.extend_from_slice(&[b'0' + (exponent / 10 % 10) as u8, b'0' + (exponent % 10) as u8]);
        }
    }
}
