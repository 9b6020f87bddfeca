//! Pages are made to hold nothing.

use super::PAGE;
use nix::libc;
use nix::sys::signal::SigSet;
use roadrunner_core::Span;

/// Fills with zeros.
pub(crate) fn clear(span: Span<'_>) {
    // SAFETY: a span is valid for `len` writes.
    unsafe { std::ptr::write_bytes(span.as_ptr(), 0, span.len()) };
}

/// Fills with zeros that go past the caches: so many that they would throw out what the functions work with. Several
/// times as fast then; slower where the caches could have held them for whoever writes to them next.
pub(crate) fn clear_past_caches(span: Span<'_>) {
    let rest = match span.as_ptr() as usize % PAGE {
        0 => stream(span),
        _ => span,
    };
    clear(rest);
}

/// Fills all whole blocks of a span, which starts on a page, with zeros that go past the caches. Gives what is left.
#[cfg(target_arch = "x86_64")]
fn stream(span: Span<'_>) -> Span<'_> {
    use std::arch::x86_64::{__m128i, _mm_setzero_si128, _mm_sfence, _mm_stream_si128};

    let (blocks, rest) = span.split_at(span.len() - span.len() % 64);
    // SAFETY: SSE2 is part of x86-64. The blocks are 64 bytes each, all inside a span, which is valid for `len` writes, and
    // begin at multiples of 64. The fence orders these stores before those that tell another thread of them.
    unsafe {
        let zero = _mm_setzero_si128();
        for block in (0..blocks.len()).step_by(64) {
            let at = blocks.as_ptr().add(block).cast::<__m128i>();
            _mm_stream_si128(at, zero);
            _mm_stream_si128(at.add(1), zero);
            _mm_stream_si128(at.add(2), zero);
            _mm_stream_si128(at.add(3), zero);
        }
        _mm_sfence();
    }
    rest
}

#[cfg(not(target_arch = "x86_64"))]
fn stream(span: Span<'_>) -> Span<'_> {
    span
}

/// Has the kernel put pages, which hold zeros, where there are none yet.
pub(crate) fn touch(span: Span<'_>) {
    for at in (0..span.len()).step_by(PAGE) {
        // SAFETY: inside a span, which is valid for writes. Volatile, as nothing here reads it.
        unsafe { span.as_ptr().add(at).write_volatile(0) };
    }
}

/// Lets every other thread go first, and handle every signal: for a thread that works for later.
pub(crate) fn lower_priority() {
    /// Where 0 is usual and 19 the most (sched(7)): gets a tenth of a processor that others want.
    const NICE: libc::c_int = 10;
    // Neither can fail in a way that matters: the thread works as well without.
    let _ = SigSet::all().thread_block();
    // SAFETY: no memory is involved; 0 stands for the calling thread (setpriority(2), "C library/kernel differences").
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_a_span_is_cleared_and_nothing_beside_it() {
        const SIZE: usize = 8 * PAGE;
        let mut buffer = crate::PageBuffer::new(SIZE).expect("memory");
        for clear in [clear, clear_past_caches] {
            for start in [0, 1, PAGE, PAGE + 64] {
                for len in [0, 1, 63, 64, PAGE - 1, PAGE, 2 * PAGE + 65] {
                    buffer.span().copy_from_slice(&[0xaa; SIZE]);
                    clear(buffer.span().split_at(start).1.split_at(len).0);
                    let inside = |at: usize| (start..start + len).contains(&at);
                    let right = |(at, byte): (usize, &u8)| (*byte == 0) == inside(at);
                    let bytes = buffer.as_slice();
                    assert!(bytes.iter().enumerate().all(right), "{len} from {start}");
                }
            }
        }
    }

    #[test]
    fn a_thread_that_works_for_later_waits_for_others_and_handles_no_signal() {
        std::thread::spawn(|| {
            lower_priority();
            // SAFETY: no memory is involved; 0 stands for the calling thread.
            assert_eq!(unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }, 10);
            let mask = SigSet::thread_get_mask().expect("a mask");
            assert!(mask.contains(nix::sys::signal::Signal::SIGTERM));
        })
        .join()
        .expect("no panic");
    }
}
