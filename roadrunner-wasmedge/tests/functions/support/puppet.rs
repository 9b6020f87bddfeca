//! A function that does as its payload says: one call, store or look after the other.

use super::{module, soon};
use roadrunner_core::{Delivery, Payload, Receipt, Region};
use roadrunner_mem::SlotTransfer;
use roadrunner_wasmedge::function::{
    Function, FunctionError, FunctionOptions, Given, NoOutbox, Outbox, Reply, SendError,
};
use std::ops::{Deref, DerefMut};

/// Where every payload of up to 1024 bytes comes, one in the place of the other.
pub(crate) const SMALL: u64 = 4096;

/// Lists of commands come at [`SMALL`], and results are at 8192. Larger payloads come from 8 MiB on, at multiples of 2 MiB and
/// never twice at the same place; what lies between 1 MiB and 8 MiB is the test's to use.
const TEXT: &str = r#"(module
    (import "roadrunner" "send" (func $send (param i32 i32 i32 i32 i32) (result i32)))
    (import "roadrunner" "loan" (func $loan (param i32) (result i32)))
    (import "roadrunner" "bind" (func $bind (param i32 i32) (result i32)))
    RELEASE_IMPORT
    (memory (export "memory") 128 2048)
    RELEASE_FUNCTION
    (data (i32.const 64) "next")
    (global $top (mut i32) (i32.const 0x800000))
    (func (export "roadrunner_allocate") (param $len i32) (param $align i32) (result i32)
        (local $start i32)
        (if (i32.le_u (local.get $len) (i32.const 1024)) (then (return (i32.const 4096))))
        (local.set $start (global.get $top))
        (global.set $top (i32.and (i32.const 0xffe00000)
            (i32.add (i32.const 0x1fffff) (i32.add (local.get $start) (local.get $len)))))
        (loop $more (if (i32.lt_u (i32.mul (memory.size) (i32.const 65536)) (global.get $top)) (then
            (if (i32.eq (i32.const -1) (memory.grow (i32.const 32))) (then (return (i32.const 0))))
            (br $more))))
        (local.get $start))
    (func (export "roadrunner_free") (param $ptr i32) (drop (call $release (local.get $ptr))))
    (func $fill (param $at i32) (param $len i32) (param $byte i32) (result i32)
        (memory.fill (local.get $at) (local.get $byte) (local.get $len)) (i32.const 0))
    (func $count (param $at i32) (param $len i32) (param $byte i32) (result i32)
        (local $found i32)
        (loop $on (if (local.get $len) (then
            (local.set $len (i32.sub (local.get $len) (i32.const 1)))
            (local.set $found (i32.add (local.get $found)
                (i32.eq (local.get $byte) (i32.load8_u (i32.add (local.get $at) (local.get $len))))))
            (br $on))))
        (local.get $found))
    (func $search (param $low i32) (param $high i32) (result i32)
        (local $secret i64) (local $at i32) (local $found i32)
        (local.set $secret (i64.xor (i64.const 0x5555555555555555) (i64.or
            (i64.extend_i32_u (local.get $low))
            (i64.shl (i64.extend_i32_u (local.get $high)) (i64.const 32)))))
        (local.set $at (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 7)))
        (loop $on (if (local.get $at) (then
            (local.set $at (i32.sub (local.get $at) (i32.const 1)))
            (local.set $found (i32.add (local.get $found)
                (i64.eq (local.get $secret) (i64.load (local.get $at)))))
            (br $on))))
        (local.get $found))
    (func $grow (param $pages i32) (result i32) (memory.grow (local.get $pages)))
    (func $trap (result i32) (unreachable))
    (func $store (param $at i32) (param $low i32) (param $high i32) (result i32)
        (i64.store (local.get $at) (i64.xor (i64.const 0x5555555555555555) (i64.or
            (i64.extend_i32_u (local.get $low))
            (i64.shl (i64.extend_i32_u (local.get $high)) (i64.const 32)))))
        (i32.const 0))
    (func (export "roadrunner_handle") (param $ptr i32) (param $len i32) (result i64)
        (local $at i32) (local $out i32) (local $op i32) (local $a i32) (local $b i32) (local $c i32)
        ;; A payload that is no list of commands.
        (if (i32.ne (local.get $ptr) (i32.const 4096)) (then (return (i64.const 0))))
        (local.set $out (i32.const 8192))
        (loop $next (if (i32.lt_u (local.get $at) (local.get $len)) (then
            (local.set $op (i32.load (i32.add (local.get $ptr) (local.get $at))))
            (local.set $a (i32.load offset=4 (i32.add (local.get $ptr) (local.get $at))))
            (local.set $b (i32.load offset=8 (i32.add (local.get $ptr) (local.get $at))))
            (local.set $c (i32.load offset=12 (i32.add (local.get $ptr) (local.get $at))))
            (if (i32.eq (local.get $op) (i32.const -1)) (then (return
                (i64.or (i64.shl (i64.extend_i32_u (local.get $a)) (i64.const 32)) (i64.extend_i32_u (local.get $b))))))
            (i32.store (local.get $out) COMMANDS)
            (local.set $at (i32.add (local.get $at) (i32.const 16)))
            (local.set $out (i32.add (local.get $out) (i32.const 4)))
            (br $next))))
        (i64.or (i64.const 0x200000000000)
            (i64.extend_i32_u (i32.sub (local.get $out) (i32.const 8192))))))"#;

/// What the function does for each command, in the order of [`Do`].
const COMMANDS: [&str; 10] = [
    "(call $loan (local.get $a))",
    "(call $bind (local.get $a) (local.get $b))",
    "(call $release (local.get $a))",
    "(call $send (i32.const 64) (i32.const 4) (local.get $a) (local.get $b) (local.get $c))",
    "(call $fill (local.get $a) (local.get $b) (local.get $c))",
    "(call $count (local.get $a) (local.get $b) (local.get $c))",
    "(call $grow (local.get $a))",
    "(call $trap)",
    "(call $search (local.get $a) (local.get $b))",
    "(call $store (local.get $a) (local.get $b) (local.get $c))",
];

/// One command, and what its result is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Do {
    /// `loan` of so many bytes: the import's result.
    Loan(u32),
    /// `bind` of an address and a length: the import's result.
    Bind(u32, u32),
    /// `release` of an address: the import's result.
    Release(u32),
    /// `send` to `next` of an address and a length, with `GIVE` or not: the import's result.
    Send(u32, u32, bool),
    /// Fills bytes from an address on: 0.
    Fill(u32, u32, u8),
    /// Counts, among the bytes from an address on, those of this value.
    Count(u32, u32, u8),
    /// Pages to grow the memory by: what `memory.grow` gives.
    Grow(u32),
    /// Traps.
    Trap,
    /// In how many places of the whole memory the secret is. It is not among the commands itself, which have it masked.
    Search(u64),
    /// Stores the secret: 0.
    Store(u32, u64),
}

const MASK: u64 = 0x5555_5555_5555_5555;

impl Do {
    fn code(self) -> [u32; 4] {
        let halves = |secret: u64| (((secret ^ MASK) as u32), ((secret ^ MASK) >> 32) as u32);
        match self {
            Self::Loan(len) => [0, len, 0, 0],
            Self::Bind(at, len) => [1, at, len, 0],
            Self::Release(at) => [2, at, 0, 0],
            Self::Send(at, len, give) => [3, at, len, give.into()],
            Self::Fill(at, len, byte) => [4, at, len, byte.into()],
            Self::Count(at, len, byte) => [5, at, len, byte.into()],
            Self::Grow(pages) => [6, pages, 0, 0],
            Self::Trap => [7, 0, 0, 0],
            Self::Search(secret) => [8, halves(secret).0, halves(secret).1, 0],
            Self::Store(at, secret) => [9, at, halves(secret).0, halves(secret).1],
        }
    }
}

fn bytes_of(codes: impl IntoIterator<Item = [u32; 4]>) -> Vec<u8> {
    codes
        .into_iter()
        .flatten()
        .flat_map(u32::to_le_bytes)
        .collect()
}

pub(crate) struct Puppet(Function);

impl Puppet {
    pub(crate) fn new() -> Self {
        Self::with(FunctionOptions::new("puppet"))
    }

    pub(crate) fn with(options: FunctionOptions) -> Self {
        let release = r#"(import "roadrunner" "release" (func $release (param i32) (result i32)))"#;
        Self::of(release, options)
    }

    /// One that does not import `release`.
    pub(crate) fn that_never_releases() -> Self {
        let release = "(func $release (param i32) (result i32) (i32.const 0))";
        Self::of(release, FunctionOptions::new("puppet"))
    }

    fn of(release: &str, options: FunctionOptions) -> Self {
        let mut commands = "(i32.const 0)".to_owned();
        for (number, command) in COMMANDS.iter().enumerate().rev() {
            commands = format!(
                "(if (result i32) (i32.eq (local.get $op) (i32.const {number})) (then {command}) (else {commands}))"
            );
        }
        // An import comes before, a function after the memory.
        let (import, function) = if release.starts_with("(import") {
            (release, "")
        } else {
            ("", release)
        };
        let text = TEXT
            .replace("RELEASE_IMPORT", import)
            .replace("RELEASE_FUNCTION", function)
            .replace("COMMANDS", &commands);
        Self(Function::new(&module(&text), options).expect("a function"))
    }

    /// Does one thing after the other; gives the results.
    #[track_caller]
    pub(crate) fn act(&mut self, commands: &[Do]) -> Vec<i32> {
        self.try_act(commands, &mut NoOutbox).expect("results")
    }

    #[track_caller]
    pub(crate) fn one(&mut self, command: Do) -> i32 {
        self.act(&[command])[0]
    }

    /// As [`act`](Self::act), with somebody to send to.
    pub(crate) fn try_act(
        &mut self,
        commands: &[Do],
        outbox: &mut dyn Outbox,
    ) -> Result<Vec<i32>, FunctionError> {
        let list = bytes_of(commands.iter().map(|command| command.code()));
        let region = super::put(&mut self.0, &list);
        let Reply::Region(reply) = self.0.handle(region, outbox, soon())? else {
            panic!("no results");
        };
        let results = super::bytes(&mut self.0, reply);
        let number = |four: &[u8]| i32::from_le_bytes(four.try_into().expect("four bytes"));
        Ok(results.chunks_exact(4).map(number).collect())
    }

    /// Replies with those bytes.
    #[track_caller]
    pub(crate) fn reply(&mut self, at: u32, len: u32) -> Region {
        let list = bytes_of([[u32::MAX, at, len, 0]]);
        let region = super::put(&mut self.0, &list);
        match self.0.handle(region, &mut NoOutbox, soon()) {
            Ok(Reply::Region(region)) => region,
            other => panic!("no reply: {other:?}"),
        }
    }

    /// Receives a payload, and lets the function handle it, which does nothing.
    #[track_caller]
    pub(crate) fn take(&mut self, link: &mut dyn SlotTransfer) -> Delivery {
        let delivery = self.0.receive(link, soon()).expect("a payload");
        let handled = self.0.handle(delivery.region(), &mut NoOutbox, soon());
        assert_eq!(handled.expect("handled"), Reply::None);
        delivery
    }

    pub(crate) fn bytes(&mut self, region: Region) -> Vec<u8> {
        super::bytes(&mut self.0, region)
    }
}

impl Deref for Puppet {
    type Target = Function;

    fn deref(&self) -> &Function {
        &self.0
    }
}

impl DerefMut for Puppet {
    fn deref_mut(&mut self) -> &mut Function {
        &mut self.0
    }
}

/// Sends everything by one link, and remembers how.
pub(crate) struct By<'l> {
    pub(crate) link: &'l mut dyn SlotTransfer,
    pub(crate) receipts: Vec<Receipt>,
}

impl<'l> By<'l> {
    pub(crate) fn new(link: &'l mut dyn SlotTransfer) -> Self {
        Self {
            link,
            receipts: Vec::new(),
        }
    }
}

impl Outbox for By<'_> {
    fn send(&mut self, _target: &str, payload: Payload<'_>) -> Result<(), SendError> {
        self.receipts.push(self.link.send(payload, soon())?);
        Ok(())
    }

    fn give(&mut self, _target: &str, given: Given<'_>) -> Result<(), SendError> {
        self.receipts.push(given.send(self.link, soon())?);
        Ok(())
    }
}
