//! Memory that several linear memories can map: a sealed memfd.

use nix::errno::Errno;
use nix::fcntl::{fcntl, FcntlArg, SealFlag};
use nix::sys::memfd::{memfd_create, MFdFlags};
use nix::sys::stat::fstat;
use nix::sys::statfs::{fstatfs, TMPFS_MAGIC};
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
    /// Who has it, if it has left the process.
    audience: AtomicU64,
}

/// What keeps its length as it is.
const SIZE_SEALS: SealFlag = SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW);
/// What a passed one has besides: nobody can write to it but through mappings that were there before.
const PASSED_SEALS: SealFlag = SealFlag::F_SEAL_FUTURE_WRITE.union(SealFlag::F_SEAL_SEAL);
/// What one has that was passed over a trusted link, whose receiver maps it to write to it.
const ENTRUSTED_SEALS: SealFlag = SealFlag::F_SEAL_SEAL;

/// Those who can look into a segment for as long as they like: the process at the other end of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Audience(u64);

impl Audience {
    const NOBODY: u64 = 0;
    const SEVERAL: u64 = u64::MAX;

    /// For one link to another process.
    #[must_use]
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(Audience::NOBODY + 1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl Default for Audience {
    fn default() -> Self {
        Self::new()
    }
}

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
        fcntl(&descriptor, FcntlArg::F_ADD_SEALS(SIZE_SEALS))?;
        Ok(Self::of(descriptor, len))
    }

    /// One that a peer made and passed: looked at before anything else is done with it.
    ///
    /// # Errors
    /// [`Refused`](TransferError::Refused) if it is no memfd, is not sealed against shrinking and growing, or is not
    /// exactly `len` bytes of whole pages long. The descriptor is closed then.
    pub fn from_received(descriptor: OwnedFd, len: u64) -> Result<Self, TransferError> {
        let refused = |why: String| TransferError::Refused(format!("a passed descriptor {why}"));
        // Only a memfd knows seals, and a file of hugetlbfs: there a page may be missing when it is touched, which is a
        // SIGBUS.
        let seals = fcntl(&descriptor, FcntlArg::F_GET_SEALS)
            .map_err(|error| refused(format!("is no memfd: {error}")))?;
        let kind = fstatfs(&descriptor)
            .map_err(|error| refused(format!("cannot be looked at: {error}")))?
            .filesystem_type();
        if kind != TMPFS_MAGIC {
            return Err(refused("is no memfd of small pages".to_owned()));
        }
        let missing = SIZE_SEALS.difference(SealFlag::from_bits_truncate(seals));
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
            audience: AtomicU64::new(Audience::NOBODY),
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

    /// The descriptor, to be passed to the process at the other end of a link. From now on nobody can map it to write to
    /// it, and its [`Slots`](crate::Slots) use it for nobody else.
    ///
    /// # Errors
    /// What fcntl(2) said of its seals; it must not be passed then.
    pub fn pass_to(&self, audience: Audience) -> io::Result<BorrowedFd<'_>> {
        self.pass(audience, PASSED_SEALS)
    }

    /// The descriptor, to be passed over a trusted link, to an audience that may write to it for as long as it likes: nobody
    /// else ever gets it, and nobody but it sees what is put into it from now on.
    ///
    /// # Errors
    /// What fcntl(2) said of its seals; it must not be passed then.
    pub fn entrust_to(&self, audience: Audience) -> io::Result<BorrowedFd<'_>> {
        self.pass(audience, ENTRUSTED_SEALS)
    }

    fn pass(&self, audience: Audience, seals: SealFlag) -> io::Result<BorrowedFd<'_>> {
        let seen = |before| match before {
            Audience::NOBODY => audience.0,
            same if same == audience.0 => same,
            _ => Audience::SEVERAL,
        };
        // First, so that whoever looks meanwhile sees who will have it.
        let _ = self
            .audience
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |before| {
                Some(seen(before))
            });
        // Not once for all: another thread may be about to, or have failed to.
        if !self.has(seals)? {
            match fcntl(&self.descriptor, FcntlArg::F_ADD_SEALS(seals)) {
                // By another thread meanwhile; or for good without these.
                Err(Errno::EPERM) if self.has(seals)? => {}
                added => drop(added?),
            }
        }
        Ok(self.descriptor.as_fd())
    }

    fn has(&self, seals: SealFlag) -> io::Result<bool> {
        let there = fcntl(&self.descriptor, FcntlArg::F_GET_SEALS)?;
        Ok(SealFlag::from_bits_retain(there).contains(seals))
    }

    /// Whether nobody outside the process has it but this audience.
    pub(crate) fn is_seen_by(&self, audience: Option<Audience>) -> bool {
        let seen = self.audience.load(Ordering::Relaxed);
        seen == Audience::NOBODY || audience == Some(Audience(seen))
    }

    /// Whether it has taken up as much memory as `len` bytes need.
    pub(crate) fn is_filled(&self, len: usize) -> bool {
        /// Bytes of a block (stat(2)).
        const BLOCK: i64 = 512;
        let taken = fstat(&self.descriptor).map_or(0, |stat| stat.st_blocks.saturating_mul(BLOCK));
        usize::try_from(taken).is_ok_and(|taken| taken >= len)
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
    use roadrunner_core::testing::skipped;
    use std::fs::File;
    use std::io::Write;

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
    fn pages_that_may_be_missing_are_refused() {
        let huge = MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB;
        let Ok(descriptor) = memfd_create(c"test", huge) else {
            return skipped("segment", "this kernel has no large pages for memfds");
        };
        fcntl(&descriptor, FcntlArg::F_ADD_SEALS(SIZE_SEALS)).expect("sealed");
        assert!(refusal(descriptor, 0).contains("small pages"));
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
    fn a_passed_segment_is_written_by_nobody_else() {
        let ours = Segment::new(4096).expect("a segment");
        let file = |descriptor: BorrowedFd<'_>| {
            File::from(descriptor.try_clone_to_owned().expect("a descriptor"))
        };
        file(ours.as_fd()).write_all(b"1").expect("not passed yet");
        let (one, other) = (Audience::new(), Audience::new());
        assert!(ours.is_seen_by(None) && ours.is_seen_by(Some(one)));
        let passed = ours.pass_to(one).expect("sealed");
        assert!(file(passed).write_all(b"2").is_err(), "it was written to");
        ours.pass_to(one).expect("again");
        assert!(ours.is_seen_by(Some(one)));
        assert!(!ours.is_seen_by(None) && !ours.is_seen_by(Some(other)));
        ours.pass_to(other).expect("again");
        assert!(!ours.is_seen_by(Some(one)) && !ours.is_seen_by(Some(other)));
    }

    #[test]
    fn an_entrusted_segment_is_written_by_its_audience_and_given_to_nobody_else() {
        let ours = Segment::new(4096).expect("a segment");
        let (one, other) = (Audience::new(), Audience::new());
        let passed = ours.entrust_to(one).expect("sealed");
        let file = passed.try_clone_to_owned().expect("a descriptor");
        File::from(file).write_all(b"1").expect("it may");
        assert!(ours.is_seen_by(Some(one)));
        assert!(!ours.is_seen_by(None) && !ours.is_seen_by(Some(other)));
        assert!(ftruncate(&ours, 8192).is_err(), "it grew");
        let more = fcntl(&ours, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_FUTURE_WRITE));
        assert!(more.is_err(), "the audience can keep us from mapping it");
    }

    #[test]
    fn what_can_still_be_written_to_by_others_is_not_passed() {
        let entrusted = Segment::new(4096).expect("a segment");
        entrusted.entrust_to(Audience::new()).expect("sealed");
        // Its maker saw to it that no seal can be added.
        let seals = Some(SIZE_SEALS | SealFlag::F_SEAL_SEAL);
        let received = Segment::from_received(memfd(4096, seals), 4096).expect("sealed");
        for writable in [entrusted, received] {
            for _ in 0..2 {
                let passed = writable.pass_to(Audience::new());
                let error = passed.expect_err("it is passed");
                assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
            }
        }
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
                refusal(memfd(size, Some(SIZE_SEALS)), said).contains("bytes long"),
                "{size}"
            );
        }
    }
}
