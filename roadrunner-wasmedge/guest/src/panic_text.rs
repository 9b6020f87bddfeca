//! What the panic hook tells the host.

use std::fmt::{self, Write};

/// The message of a panic. Allocates nothing, because memory may be what is missing.
pub(crate) fn panic_text(panic: impl fmt::Display) -> ShortText {
    let mut text = ShortText::default();
    // Fails where the text was cut, which is all there is to it.
    let _ = write!(text, "{panic}");
    text
}

/// A text that is cut off where its room ends.
pub(crate) struct ShortText {
    bytes: [u8; 1024],
    len: usize,
}

impl Default for ShortText {
    fn default() -> Self {
        Self {
            bytes: [0; 1024],
            len: 0,
        }
    }
}

impl ShortText {
    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

impl Write for ShortText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.len() - self.len;
        let mut fits = text.len().min(room);
        while !text.is_char_boundary(fits) {
            fits -= 1;
        }
        self.bytes[self.len..self.len + fits].copy_from_slice(&text.as_bytes()[..fits]);
        self.len += fits;
        if fits == text.len() {
            Ok(())
        } else {
            Err(fmt::Error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_panic_message_is_cut_between_characters() {
        assert_eq!(panic_text("short").as_str(), "short");
        let text = panic_text("x".repeat(1023) + "é");
        assert_eq!(text.as_str(), "x".repeat(1023));
        let parts = panic_text(format_args!("{}{}", "é".repeat(600), "lost"));
        assert_eq!(parts.as_str(), "é".repeat(512));
    }
}
