//! Memory that several linear memories can map: a sealed memfd.

use nix::errno::Errno;
use nix::fcntl::{fcntl, FcntlArg, SealFlag};
use nix::sys::memfd::{memfd_create, MFdFlags};
use nix::sys::stat::fstat;
use nix::unistd::ftruncate;
use roadrunner_core::TransferError;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// A memfd of whole pages that can neither shrink nor grow (memfd_create(2), fcntl(2) `F_ADD_SEALS`): whoever maps it
/// gets no SIGBUS, whatever the others do.
#[derive(Debug)]
pub struct Segment {
    descriptor: OwnedFd,
    len: usize,
    id: u64,
}

/// What keeps its length as it is, and keeps these seals.
const SEALS: SealFlag = SealFlag::F_SEAL_SHRINK
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_SEAL);

/// `MFD_NOEXEC_SEAL` (linux/memfd.h): nobody will ever run it as a program.
const NOEXEC_SEAL: MFdFlags = MFdFlags::from_bits_retain(8);

impl Segment {
    /// A new one of at least `len` bytes, rounded up to whole pages and to at least one; all zeros, taken up as they are
    /// touched.
    ///
    /// # Errors
    /// What memfd_create(2), ftruncate(2) or fcntl(2) said.
    pub fn new(len: usize) -> io::Result<Self> {
        let len = len
            .max(1)
            .checked_next_multiple_of(crate::PAGE_SIZE)
            .filter(|len| i64::try_from(*len).is_ok())
            .ok_or(io::ErrorKind::OutOfMemory)?;
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let descriptor = match memfd_create(c"roadrunner", flags | NOEXEC_SEAL) {
            // Before Linux 6.3.
            Err(Errno::EINVAL) => memfd_create(c"roadrunner", flags)?,
            made => made?,
        };
        while let Err(errno) = ftruncate(&descriptor, len as i64) {
            if errno != Errno::EINTR {
                return Err(errno.into());
            }
        }
        fcntl(&descriptor, FcntlArg::F_ADD_SEALS(SEALS))?;
        Ok(Self::of(descriptor, len))
    }

    /// One that a peer made and passed: looked at before anything else is done with it.
    ///
    /// # Errors
    /// [`Refused`](TransferError::Refused) if it is no memfd, is not sealed against shrinking and growing, or is not
    /// exactly `len` bytes of whole pages long. The descriptor is closed then.
    pub fn from_received(descriptor: OwnedFd, len: u64) -> Result<Self, TransferError> {
        let refused = |why: String| TransferError::Refused(format!("a passed descriptor {why}"));
        // Only a memfd (or a file of hugetlbfs, which has the same promises) knows seals at all.
        let seals = fcntl(&descriptor, FcntlArg::F_GET_SEALS)
            .map_err(|error| refused(format!("is no memfd: {error}")))?;
        let missing = SEALS.difference(SealFlag::from_bits_truncate(seals));
        if !missing.is_empty() {
            return Err(refused(format!("is not sealed: {missing:?} is missing")));
        }
        // After the seals, so that it cannot change any more.
        let size = fstat(&descriptor)
            .map_err(|error| refused(format!("cannot be looked at: {error}")))?
            .st_size;
        let whole_pages = len > 0 && len % crate::PAGE_SIZE as u64 == 0;
        if !whole_pages || u64::try_from(size).ok() != Some(len) {
            return Err(refused(format!(
                "is {size} bytes long, where {len} in whole pages were promised"
            )));
        }
        // A multiple of the page size that off_t holds fits usize, as lib.rs asserts 64 bits.
        Ok(Self::of(descriptor, len as usize))
    }

    fn of(descriptor: OwnedFd, len: usize) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            descriptor,
            len,
            id: NEXT.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// How many bytes: whole pages, at least one.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: it has at least a page.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// What tells it from every other of this process.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }
}

impl AsFd for Segment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn refusal(descriptor: OwnedFd, len: u64) -> String {
        match Segment::from_received(descriptor, len) {
            Err(TransferError::Refused(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    fn memfd(len: i64, seals: Option<SealFlag>) -> OwnedFd {
        let descriptor = memfd_create(c"test", MFdFlags::MFD_ALLOW_SEALING).expect("a memfd");
        ftruncate(&descriptor, len).expect("room");
        if let Some(seals) = seals {
            fcntl(&descriptor, FcntlArg::F_ADD_SEALS(seals)).expect("sealed");
        }
        descriptor
    }

    #[test]
    fn a_segment_of_ours_is_accepted() {
        let ours = Segment::new(5000).expect("a segment");
        assert_eq!(ours.len(), 8192);
        let passed = ours.as_fd().try_clone_to_owned().expect("a descriptor");
        let theirs = Segment::from_received(passed, 8192).expect("sealed");
        assert_eq!(theirs.len(), 8192);
        assert!(ftruncate(&ours, 4096).is_err(), "it shrank");
        assert!(ftruncate(&ours, 12288).is_err(), "it grew");
    }

    #[test]
    fn whatever_is_not_sealed_or_not_as_long_is_refused() {
        let null = File::open("/dev/null").expect("there");
        assert!(refusal(null.into(), 4096).contains("no memfd"));
        let file = tempfile::tempfile().expect("a file");
        file.set_len(4096).expect("room");
        let why = refusal(file.into(), 4096);
        assert!(
            why.contains("no memfd") || why.contains("not sealed"),
            "{why}"
        );
        for seals in [
            None,
            Some(SealFlag::F_SEAL_GROW),
            Some(SealFlag::F_SEAL_SHRINK),
            Some(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW),
        ] {
            assert!(
                refusal(memfd(4096, seals), 4096).contains("not sealed"),
                "{seals:?}"
            );
        }
        for (size, said) in [
            (4096, 8192),
            (8192, 4096),
            (5000, 5000),
            (0, 0),
            (4096, u64::MAX),
        ] {
            assert!(
                refusal(memfd(size, Some(SEALS)), said).contains("bytes long"),
                "{size}"
            );
        }
    }
}
