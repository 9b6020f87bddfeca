//! The calls that can be made to fail, and how the kernel lets each fail.

use nix::errno::Errno;

macro_rules! calls {
    ($($(#[$doc:meta])* $call:ident: $symbols:literal, [$($errno:ident),*];)*) => {
        /// A function of the C library through which a program reaches the kernel. One that has several symbols goes by
        /// one name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(usize)]
        pub enum Call {
            $($(#[$doc])* #[doc = concat!("`", $symbols, "`.")] $call,)*
        }

        impl Call {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$call),*];

            /// The symbols of the C library that it stands for, separated by spaces.
            #[must_use]
            pub const fn symbols(self) -> &'static str {
                match self {
                    $(Self::$call => $symbols),*
                }
            }

            /// Errors that section 2 of the manual lists for it and that a correct program can meet. Not those that tell
            /// of a peer's death, such as `EPIPE`: for the peer would have to be dead ([`Plan::dies`](crate::Plan::dies)).
            #[must_use]
            pub const fn errors(self) -> &'static [Errno] {
                match self {
                    $(Self::$call => &[$(Errno::$errno),*]),*
                }
            }
        }
    };
}

calls! {
    Read: "read", [EINTR, EIO];
    Readv: "readv", [EINTR, EIO];
    Recv: "recv", [EINTR, EAGAIN, ENOMEM];
    Recvfrom: "recvfrom", [EINTR, EAGAIN, ENOMEM];
    Recvmsg: "recvmsg", [EINTR, EAGAIN, ENOMEM];
    Write: "write", [EINTR, EAGAIN, ENOSPC];
    Writev: "writev", [EINTR, EAGAIN, ENOSPC];
    Send: "send", [EINTR, EAGAIN, ENOBUFS, ENOMEM];
    Sendto: "sendto", [EINTR, EAGAIN, ENOBUFS, ENOMEM];
    Sendmsg: "sendmsg", [EINTR, EAGAIN, ENOBUFS, ENOMEM];
    Splice: "splice", [EINTR, EAGAIN, ENOMEM, EINVAL];
    Vmsplice: "vmsplice", [EINTR, EAGAIN, ENOMEM, EINVAL];
    Accept: "accept accept4", [EINTR, EAGAIN, EMFILE, ENFILE, ENOBUFS, ENOMEM, ECONNABORTED];
    Bind: "bind", [ENOMEM, EACCES, EADDRINUSE];
    Connect: "connect", [EINTR, EAGAIN, ECONNREFUSED];
    Listen: "listen", [EADDRINUSE];
    Socket: "socket", [EMFILE, ENFILE, ENOBUFS, ENOMEM];
    Socketpair: "socketpair", [EMFILE, ENFILE, ENOMEM];
    Setsockopt: "setsockopt", [ENOMEM, EINVAL];
    Getsockopt: "getsockopt", [ENOMEM, EINVAL];
    Getsockname: "getsockname", [ENOBUFS];
    Getpeername: "getpeername", [ENOBUFS];
    Shutdown: "shutdown", [];
    Pipe: "pipe2", [EMFILE, ENFILE];
    Dup: "dup", [EMFILE];
    Fcntl: "fcntl", [EMFILE, EPERM, ENOMEM];
    Ioctl: "ioctl", [EINVAL];
    Poll: "poll ppoll", [EINTR, ENOMEM];
    Open: "open64", [EINTR, EMFILE, ENFILE, ENOMEM, EACCES];
    Stat: "statx stat64 fstat64 lstat64", [ENOMEM, EACCES];
    Chmod: "fchmod", [EIO, EPERM];
    Flock: "flock", [EINTR, ENOLCK, EAGAIN];
    Unlink: "unlink", [EIO, EACCES];
    Sync: "fsync", [EINTR, EIO, ENOSPC];
    Truncate: "ftruncate ftruncate64", [EINTR, EFBIG];
    Memfd: "memfd_create", [EMFILE, ENFILE, ENOMEM];
    /// A mapping where the kernel finds room.
    Map: "mmap mmap64", [ENOMEM, EAGAIN];
    /// A mapping in the place of what is there: `MAP_FIXED`.
    MapFixed: "mmap mmap64", [ENOMEM, EAGAIN];
    Unmap: "munmap", [ENOMEM];
    /// Also through `syscall`.
    Remap: "mremap syscall", [ENOMEM, EAGAIN, EFAULT];
    Advise: "madvise", [ENOMEM, EAGAIN];
    Thread: "pthread_create", [EAGAIN];
    /// Through `syscall`, like the next two: the C library has no names for them. What is sent and received by a ring goes
    /// past the plan.
    RingSetup: "syscall", [ENOSYS, EPERM, EMFILE, ENFILE, ENOMEM];
    RingRegister: "syscall", [ENOMEM, EINVAL];
    RingEnter: "syscall", [EINTR, EAGAIN, EBUSY];
}

impl Call {
    /// Whether it moves bytes, so that it may move fewer than it was asked to.
    #[must_use]
    pub const fn can_be_short(self) -> bool {
        use Call::{
            Read, Readv, Recv, Recvfrom, Recvmsg, Send, Sendmsg, Sendto, Splice, Vmsplice, Write,
            Writev,
        };
        matches!(
            self,
            Read | Readv
                | Recv
                | Recvfrom
                | Recvmsg
                | Write
                | Writev
                | Send
                | Sendto
                | Sendmsg
                | Splice
                | Vmsplice
        )
    }
}
