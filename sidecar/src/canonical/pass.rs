//! Decides what is JSON, as Python's `json.loads` reads it, in one pass that feeds the reader. Pure.
//!
//! A loop, not a recursion: how deep an input nests costs no stack.

use super::{MAX_DEPTH, Reader, Refused, number, string};

/// Reads the document that begins at `start` into a cleared reader.
pub(super) fn run(input: &str, start: usize, reader: &mut Reader) -> Result<(), Refused> {
    Pass { input, at: start, reader }.document()
}

/// The one pass over an input.
struct Pass<'i, 'r> {
    input: &'i str,
    at: usize,
    reader: &'r mut Reader,
}

impl Pass<'_, '_> {
    fn document(&mut self) -> Result<(), Refused> {
        self.skip_space();
        while !self.value()? || self.more()? {}
        if self.at == self.input.len() { Ok(()) } else { Err(self.syntax()) }
    }

    fn syntax(&self) -> Refused {
        Refused::Syntax { at: self.at }
    }

    fn peek(&self) -> Option<u8> {
        self.input.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// Reads a value, or the opening of an array or object that is not empty: then false, and a value comes next.
    fn value(&mut self) -> Result<bool, Refused> {
        match self.peek() {
            Some(b'"') => self.string().map(|_| true),
            Some(b'{') => self.opening(true),
            Some(b'[') => self.opening(false),
            Some(b'-' | b'0'..=b'9') => self.number().map(|()| true),
            Some(b't') => self.word("true"),
            Some(b'f') => self.word("false"),
            Some(b'n') => self.word("null"),
            Some(b'N') => self.word("NaN"),
            Some(b'I') => self.word("Infinity"),
            _ => Err(self.syntax()),
        }
    }

    fn opening(&mut self, object: bool) -> Result<bool, Refused> {
        if self.reader.frames.len() == MAX_DEPTH {
            return Err(Refused::TooDeep { at: self.at });
        }
        self.reader.open(object);
        self.at += 1;
        self.skip_space();
        if self.peek() == Some(if object { b'}' } else { b']' }) {
            self.at += 1;
            self.reader.close();
            return Ok(true);
        }
        if object {
            self.key()?;
        }
        Ok(false)
    }

    /// After a complete value: closes what ends here; true when a further value must follow, false at the document's end.
    fn more(&mut self) -> Result<bool, Refused> {
        loop {
            self.skip_space();
            let Some(frame) = self.reader.frames.last() else { return Ok(false) };
            let object = frame.object;
            if object {
                let end = self.reader.text.len();
                if let Some(member) = self.reader.members.last_mut() {
                    member.end = end;
                }
            }
            match self.peek() {
                Some(b',') => {
                    self.at += 1;
                    self.reader.text.push(b',');
                    self.skip_space();
                    if object {
                        self.key()?;
                    }
                    return Ok(true);
                }
                Some(b'}') if object => {}
                Some(b']') if !object => {}
                _ => return Err(self.syntax()),
            }
            self.at += 1;
            self.reader.close();
        }
    }

    fn key(&mut self) -> Result<(), Refused> {
        let start = self.reader.text.len();
        if self.peek() != Some(b'"') {
            return Err(self.syntax());
        }
        let escaped = self.string()?;
        self.skip_space();
        if self.peek() != Some(b':') {
            return Err(self.syntax());
        }
        self.at += 1;
        self.reader.text.push(b':');
        self.reader.note_key(start, escaped);
        self.skip_space();
        Ok(())
    }

    /// Reads a string; true if its canonical form holds an escape.
    fn string(&mut self) -> Result<bool, Refused> {
        let (end, escaped) =
            string::copy(self.input, self.at, &mut self.reader.text).map_err(|at| Refused::Syntax { at })?;
        self.at = end;
        Ok(escaped)
    }

    fn number(&mut self) -> Result<(), Refused> {
        self.at = number::copy(self.input, self.at, &mut self.reader.text)?;
        Ok(())
    }

    fn word(&mut self, word: &str) -> Result<bool, Refused> {
        if !self.input.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(self.syntax());
        }
        self.reader.text.extend_from_slice(word.as_bytes());
        self.at += word.len();
        Ok(true)
    }
}
