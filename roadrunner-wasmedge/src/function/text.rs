//! Texts from guests: bounded, and fit to be shown.

/// Bytes of one text at most: a line of log, a reason, what goes to standard output in one line.
pub(super) const LIMIT: usize = 8 << 10;

/// Reads the first bytes of a text of `len` bytes. `None` if they are not UTF-8; a character that the limit cuts in two
/// is left out.
pub(super) fn decode(mut bytes: Vec<u8>, len: u64) -> Option<String> {
    if let Err(error) = std::str::from_utf8(&bytes) {
        let cut_here = error.error_len().is_none() && (bytes.len() as u64) < len;
        if !cut_here {
            return None;
        }
        bytes.truncate(error.valid_up_to());
    }
    let cut = (bytes.len() as u64) < len;
    let mut text = String::from_utf8(bytes).ok()?;
    if cut {
        text.push('…');
    }
    Some(text)
}

/// Replaces what could drive a terminal: control characters other than tab and line feed.
pub(crate) fn tame(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' => c,
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect()
}

/// Bytes of an output that are not a whole line yet.
#[derive(Debug, Default)]
pub(super) struct Line {
    bytes: Vec<u8>,
    cut: bool,
}

impl Line {
    /// Takes in what was written and passes every line on that it completes.
    pub(super) fn write(&mut self, bytes: &[u8], mut emit: impl FnMut(&str)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            let room = LIMIT - self.bytes.len();
            self.cut |= text.len() > room;
            self.bytes.extend_from_slice(&text[..text.len().min(room)]);
            if ends {
                self.finish(true, &mut emit);
            }
        }
    }

    /// Passes on what there is; nothing if there is none, unless it `ended`: then it is an empty line.
    pub(super) fn finish(&mut self, ended: bool, mut emit: impl FnMut(&str)) {
        if self.bytes.is_empty() && !ended {
            return;
        }
        let mut text = tame(&String::from_utf8_lossy(&self.bytes));
        if self.cut {
            text.push('…');
        }
        self.bytes.clear();
        self.cut = false;
        emit(&text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(decode(b"all".to_vec(), 3).as_deref(), Some("all"));
        assert_eq!(
            decode("aé".as_bytes()[..2].to_vec(), 3).as_deref(),
            Some("a…")
        );
        assert_eq!(decode("aé".as_bytes()[..2].to_vec(), 2), None);
        assert_eq!(decode(vec![0xff, b'a'], 9), None);
    }

    #[test]
    fn lines_come_one_at_a_time_and_bounded() {
        let mut lines = Vec::new();
        let mut line = Line::default();
        line.write(b"one\ntw", |text| lines.push(text.to_owned()));
        line.write(b"o\n\n", |text| lines.push(text.to_owned()));
        line.write(&vec![b'x'; 3 * LIMIT], |text| lines.push(text.to_owned()));
        line.finish(false, |text| lines.push(text.to_owned()));
        line.finish(false, |text| lines.push(text.to_owned()));
        assert_eq!(lines[..3], ["one", "two", ""]);
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[3].len(), LIMIT + '…'.len_utf8());
    }

    #[test]
    fn escape_sequences_do_not_reach_a_terminal() {
        assert_eq!(tame("a\x1b[2Jb\tc\u{9b}"), "a\u{fffd}[2Jb\tc\u{fffd}");
    }
}
