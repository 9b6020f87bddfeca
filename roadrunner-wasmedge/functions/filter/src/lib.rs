//! Sharpens or blurs a raw picture (the layout of `picture`) in the buffer that it came in.
//!
//! The parameter `FILTER` is `sharpen` (if it is not set) or `blur`. Beyond its edges the picture is taken to go on with
//! the nearest pixel; alpha stays as it is.

mod convolve;

use convolve::Kernel;
use roadrunner_guest::{function, Buffer};

function!(filter);

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such filter.
    #[error("the parameter FILTER is {0:?}, but must be sharpen or blur")]
    UnknownFilter(String),
    /// The payload is not a picture.
    #[error(transparent)]
    Picture(#[from] picture::Error),
}

/// The handler.
///
/// # Errors
/// Any [`Error`].
pub fn filter(mut payload: Buffer) -> Result<Buffer, Error> {
    let name = std::env::var_os("FILTER").unwrap_or_else(|| "sharpen".into());
    let kernel = kernel(&name.to_string_lossy())?;
    let (size, pixels) = picture::parse_mut(&mut payload)?;
    convolve::in_place(pixels, size, kernel);
    Ok(payload)
}

fn kernel(name: &str) -> Result<&'static Kernel, Error> {
    match name {
        "sharpen" => Ok(&convolve::SHARPEN),
        "blur" => Ok(&convolve::BLUR),
        other => Err(Error::UnknownFilter(other.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use picture::Size;

    #[test]
    fn names_are_checked() {
        assert_eq!(kernel("sharpen").expect("a filter"), &convolve::SHARPEN);
        assert_eq!(kernel("blur").expect("a filter"), &convolve::BLUR);
        let error = kernel("Blur").expect_err("no filter").to_string();
        assert!(
            error.contains("\"Blur\"") && error.contains("sharpen or blur"),
            "{error}"
        );
    }

    /// The only test that sets the parameter, as it belongs to the whole process.
    #[test]
    fn the_parameter_chooses_and_the_buffer_stays() {
        let picture = || {
            let mut payload = picture::blank(Size::new(5, 5).expect("a size")).expect("memory");
            picture::parse_mut(&mut payload).expect("a picture").1[4 * 12] = 160;
            payload
        };
        let red_after = |payload: Buffer| {
            let address = payload.as_ptr();
            let reply = filter(payload).expect("a picture");
            assert_eq!(reply.as_ptr(), address);
            picture::parse(&reply).expect("a picture").1[4 * 12]
        };
        assert_eq!(red_after(picture()), 255);
        std::env::set_var("FILTER", "blur");
        // 160 * 36 / 256, rounded.
        assert_eq!(red_after(picture()), 23);
        std::env::set_var("FILTER", "emboss");
        assert!(matches!(filter(picture()), Err(Error::UnknownFilter(_))));
        std::env::remove_var("FILTER");
        let mut short = picture();
        short.truncate(100);
        assert!(matches!(
            filter(short),
            Err(Error::Picture(picture::Error::Length { .. }))
        ));
    }
}
