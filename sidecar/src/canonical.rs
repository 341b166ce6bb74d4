//! Decides what JSON text means: one canonical form for all spellings of a value, byte for byte what Python's `json`
//! prints with `sort_keys=True, separators=(",", ":")`. Pure.
//!
//! The reader goes over the input once and writes canonical text as it goes, in the input's member order; there is no tree
//! of values. An object whose keys came out of order (or twice) is noted, and only its members are put in order when the
//! text is asked for. So the usual event, with few keys, costs one copy, and the worst input stays linear in its nesting.

mod number;
mod pass;
mod pointer;
mod string;

use std::cmp::Ordering;
use std::ops::Range;

pub use pointer::{PointerError, check_pointer};

/// Nesting deeper than this is refused. CPython's own limit depends on how deep its caller stands (996 for a bare call), so
/// ours is one that every caller of it accepts.
pub const MAX_DEPTH: usize = 900;

/// Integers of more digits than this are refused, as CPython refuses them.
pub const MAX_INTEGER_DIGITS: usize = 4300;

/// Buffers above this many bytes are given back after a large document.
const KEEP_BYTES: usize = 1 << 20;

/// Why a document has no canonical form. Offsets are in bytes of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The bytes are not UTF-8.
    #[error("not UTF-8 from byte {at} on")]
    NotUtf8 {
        /// Where the first wrong byte stands.
        at: usize,
    },
    /// The text is not JSON as Python's `json.loads` reads it.
    #[error("not JSON at byte {at}")]
    Syntax {
        /// Where reading stopped.
        at: usize,
    },
    /// More than [`MAX_DEPTH`] arrays and objects inside each other.
    #[error("nested deeper than {MAX_DEPTH} at byte {at}")]
    TooDeep {
        /// Where the first one too many opens.
        at: usize,
    },
    /// An integer of more than [`MAX_INTEGER_DIGITS`] digits.
    #[error("an integer of more than {MAX_INTEGER_DIGITS} digits at byte {at}")]
    LongInteger {
        /// Where it begins.
        at: usize,
    },
}

/// Part of a document: where one value stands in the reader's text.
pub type Span = Range<usize>;

/// Reads documents, and keeps its buffers from one to the next.
#[derive(Debug, Default)]
pub struct Reader {
    /// Canonical text with the members of each object still in the input's order.
    text: Vec<u8>,
    /// Arrays and objects now open.
    frames: Vec<Frame>,
    /// Members of the objects now open; in the end those of the outermost one.
    members: Vec<Member>,
    /// Members of the objects in `shuffles`, in canonical order.
    moved: Vec<Member>,
    /// Objects whose members must change places, by `start`.
    shuffles: Vec<Shuffle>,
}

#[derive(Debug)]
struct Frame {
    object: bool,
    /// Where it opens in `text`.
    start: usize,
    /// Its first member in `members`.
    members: usize,
    /// Keys so far came in strictly rising order.
    sorted: bool,
}

/// A member `"key":value` in the text.
#[derive(Clone, Debug)]
struct Member {
    /// Where the key's opening quote stands.
    start: usize,
    /// Where the value begins.
    value: usize,
    /// Where the value ends.
    end: usize,
    /// The key holds an escape, so its bytes do not sort like its code points.
    escaped: bool,
}

impl Member {
    fn key<'t>(&self, text: &'t [u8]) -> &'t [u8] {
        &text[self.start + 1..self.value - 2]
    }

    fn cmp_key(&self, other: &Self, text: &[u8]) -> Ordering {
        let (mine, theirs) = (self.key(text), other.key(text));
        if self.escaped || other.escaped { string::cmp_code_points(mine, theirs) } else { mine.cmp(theirs) }
    }
}

#[derive(Debug)]
struct Shuffle {
    start: usize,
    end: usize,
    moved: Range<usize>,
}

impl Reader {
    /// Reads one document: UTF-8, with or without a byte order mark. Buffers are reused, so the result lives until the next.
    ///
    /// # Errors
    /// [`Refused`] for everything that Python's `json.loads` refuses, and for nesting deeper than [`MAX_DEPTH`].
    pub fn read(&mut self, input: &[u8]) -> Result<Document<'_>, Refused> {
        self.clear();
        let text = std::str::from_utf8(input).map_err(|e| Refused::NotUtf8 { at: e.valid_up_to() })?;
        let start = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        pass::run(text, start, self)?;
        self.shuffles.sort_unstable_by_key(|s| s.start);
        Ok(Document { reader: self })
    }

    fn clear(&mut self) {
        self.text.clear();
        self.text.shrink_to(KEEP_BYTES);
        self.frames.clear();
        for members in [&mut self.members, &mut self.moved] {
            members.clear();
            members.shrink_to(KEEP_BYTES / size_of::<Member>());
        }
        self.shuffles.clear();
        self.shuffles.shrink_to(KEEP_BYTES / size_of::<Shuffle>());
    }

    fn open(&mut self, object: bool) {
        let start = self.text.len();
        self.text.push(if object { b'{' } else { b'[' });
        self.frames.push(Frame { object, start, members: self.members.len(), sorted: true });
    }

    /// Closes the innermost array or object.
    fn close(&mut self) {
        let Some(frame) = self.frames.pop() else { return };
        self.text.push(if frame.object { b'}' } else { b']' });
        if !frame.sorted {
            self.note_shuffle(&frame);
        }
        if !self.frames.is_empty() {
            self.members.truncate(frame.members);
        }
    }

    /// Puts the members of an object in canonical order; of equal keys only the last stays.
    fn note_shuffle(&mut self, frame: &Frame) {
        let first = self.moved.len();
        self.moved.extend_from_slice(&self.members[frame.members..]);
        let text = &self.text;
        let members = &mut self.moved[first..];
        // Equal keys are ordered last first, so that the one that wins is the one that the loop below keeps.
        members.sort_unstable_by(|a, b| a.cmp_key(b, text).then(b.start.cmp(&a.start)));
        let mut kept = 1;
        for i in 1..members.len() {
            if members[i].key(text) != members[kept - 1].key(text) {
                members.swap(kept, i);
                kept += 1;
            }
        }
        self.moved.truncate(first + kept);
        self.shuffles.push(Shuffle { start: frame.start, end: self.text.len(), moved: first..first + kept });
    }

    /// Notes a key that was just written, from its quote at `start` to the colon after it.
    fn note_key(&mut self, start: usize, escaped: bool) {
        let value = self.text.len();
        let member = Member { start, value, end: value, escaped };
        if let Some(frame) = self.frames.last_mut()
            && frame.sorted
            && self.members.len() > frame.members
            && let Some(last) = self.members.last()
        {
            frame.sorted = last.cmp_key(&member, &self.text) == Ordering::Less;
        }
        self.members.push(member);
    }
}

/// One document that was read. Cheap to copy.
#[derive(Clone, Copy, Debug)]
pub struct Document<'a> {
    reader: &'a Reader,
}

impl<'a> Document<'a> {
    /// The whole document.
    #[must_use]
    pub fn span(&self) -> Span {
        0..self.reader.text.len()
    }

    /// The document is an object.
    #[must_use]
    pub fn is_object(&self) -> bool {
        self.reader.text.first() == Some(&b'{')
    }

    /// A value as it was read: canonical but for the order (and repetition) of keys in objects; exact for anything else.
    #[must_use]
    pub fn text(&self, span: Span) -> &'a [u8] {
        &self.reader.text[span]
    }

    /// The member of that name, if the document is an object; the last one of equal names.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<Span> {
        let wanted = self.reader.members.iter().rev().find(|m| {
            let key = m.key(&self.reader.text);
            if m.escaped { string::decode(key).as_deref() == Some(name) } else { key == name.as_bytes() }
        });
        wanted.map(|m| m.value..m.end)
    }

    /// The members of an object in the input's order, repeated names included. Names with a lone surrogate are left out.
    pub fn members(&self) -> impl Iterator<Item = (String, Span)> + use<'a> {
        let reader = self.reader;
        reader.members.iter().filter_map(|m| string::decode(m.key(&reader.text)).map(|name| (name, m.value..m.end)))
    }

    /// The value that an RFC 6901 pointer names; an empty pointer names the document.
    #[must_use]
    pub fn pointer(&self, pointer: &str) -> Option<Span> {
        check_pointer(pointer).ok()?;
        let Some(tokens) = pointer.strip_prefix('/').filter(|_| self.is_object()) else {
            return pointer::find(&self.reader.text, self.span(), pointer);
        };
        // The outermost members are known, so the usual pointer, of one token, costs no second look at the text.
        let (first, rest) = tokens.split_at(tokens.find('/').unwrap_or(tokens.len()));
        let span = self.member(&pointer::unescape(first))?;
        pointer::find(&self.reader.text, span, rest)
    }

    /// The value as a string, if it is one without lone surrogates.
    #[must_use]
    pub fn string(&self, span: Span) -> Option<String> {
        self.text(span).strip_prefix(b"\"").and_then(|t| t.strip_suffix(b"\"")).and_then(string::decode)
    }

    /// The canonical form of a value; `buffer` is used only where an object's keys have to change places.
    #[must_use]
    pub fn canonical<'b>(&self, span: Span, buffer: &'b mut Vec<u8>) -> &'b [u8]
    where
        'a: 'b,
    {
        let first = self.first_shuffle(span.start);
        if self.reader.shuffles.get(first).is_none_or(|s| s.start >= span.end) {
            return self.text(span);
        }
        buffer.clear();
        buffer.shrink_to(KEEP_BYTES);
        self.emit(span, first, buffer);
        buffer
    }

    /// Appends the canonical form of a value.
    pub fn write(&self, span: Span, out: &mut Vec<u8>) {
        let first = self.first_shuffle(span.start);
        self.emit(span, first, out);
    }

    fn first_shuffle(&self, start: usize) -> usize {
        self.reader.shuffles.partition_point(|s| s.start < start)
    }

    /// Copies `span`, whose first noted object is `next`, and puts members in order on the way. Calls itself once a level of
    /// nesting, so at most `MAX_DEPTH` deep.
    fn emit(&self, span: Span, mut next: usize, out: &mut Vec<u8>) {
        let Reader { text, moved, shuffles, .. } = self.reader;
        let mut at = span.start;
        while let Some(shuffle) = shuffles.get(next).filter(|s| s.start < span.end) {
            out.extend_from_slice(&text[at..=shuffle.start]);
            let nested = shuffles.get(next + 1).is_some_and(|s| s.start < shuffle.end);
            for (i, member) in moved[shuffle.moved.clone()].iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                if nested {
                    self.emit(member.start..member.end, self.first_shuffle(member.start), out);
                } else {
                    out.extend_from_slice(&text[member.start..member.end]);
                }
            }
            out.push(b'}');
            at = shuffle.end;
            next = if nested { self.first_shuffle(at) } else { next + 1 };
        }
        out.extend_from_slice(&text[at..span.end]);
    }
}

/// A string in canonical form, quotes included.
pub fn write_string(value: &str, out: &mut Vec<u8>) {
    string::write(value, out);
}

/// The canonical form of a document.
///
/// # Errors
/// [`Refused`], as [`Reader::read`].
pub fn canonical(input: &[u8]) -> Result<Vec<u8>, Refused> {
    let mut reader = Reader::default();
    let document = reader.read(input)?;
    let mut out = Vec::new();
    document.write(document.span(), &mut out);
    Ok(out)
}

#[cfg(test)]
mod tests;
