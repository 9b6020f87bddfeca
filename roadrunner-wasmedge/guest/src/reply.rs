use crate::Buffer;
use std::fmt::Display;

/// What a handler may return.
pub trait IntoReply {
    /// The reply, `None` for none, or why the handler failed.
    ///
    /// # Errors
    /// The text that the host gets as the reason.
    fn into_reply(self) -> Result<Option<Buffer>, String>;
}

/// A reply, also when it is empty. The payload itself, changed in place or not, costs no copy.
impl IntoReply for Buffer {
    fn into_reply(self) -> Result<Option<Buffer>, String> {
        Ok(Some(self))
    }
}

/// No reply.
impl IntoReply for () {
    fn into_reply(self) -> Result<Option<Buffer>, String> {
        Ok(None)
    }
}

/// No reply where it is `None`.
impl<R: IntoReply> IntoReply for Option<R> {
    fn into_reply(self) -> Result<Option<Buffer>, String> {
        self.map_or(Ok(None), R::into_reply)
    }
}

impl IntoReply for Vec<u8> {
    fn into_reply(self) -> Result<Option<Buffer>, String> {
        Ok(Some(self.into()))
    }
}

impl IntoReply for String {
    fn into_reply(self) -> Result<Option<Buffer>, String> {
        self.into_bytes().into_reply()
    }
}

/// Failed, for the displayed reason, where it is `Err`.
impl<R: IntoReply, E: Display> IntoReply for Result<R, E> {
    fn into_reply(self) -> Result<Option<Buffer>, String> {
        self.map_err(|error| error.to_string())?.into_reply()
    }
}
