//! Sizes, as options take them.

/// Reads a number of bytes, or of KiB, MiB or GiB.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let units = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("", 1),
    ];
    let (digits, unit) = units
        .iter()
        .find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)))
        .unwrap_or((text, 1));
    let count: u64 = digits
        .parse()
        .map_err(|_| format!("`{text}` is no size such as 64KiB, 4MiB or 1000"))?;
    count
        .checked_mul(unit)
        .ok_or_else(|| format!("{text} is more than 64 bits can say"))
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn a_size_is_a_number_with_or_without_a_unit() {
        for (text, bytes) in [
            ("0", 0),
            ("1000", 1000),
            ("64KiB", 64 << 10),
            ("4MiB", 4 << 20),
            ("2GiB", 2 << 30),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "4MB", "4 MiB", "-1", "99999999999GiB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
