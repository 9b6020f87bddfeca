//! Plays the host to `invert.wat`.

use picture::{Size, HEADER};
use std::collections::BTreeSet;
use wasmi::{Caller, Engine, Extern, Instance, Linker, Memory, Module, Store, TypedFunc};

const MIB: i32 = 1 << 20;

struct Host {
    /// Holds the last reason of a failure.
    store: Store<Option<String>>,
    memory: Memory,
    allocate: TypedFunc<(i32, i32), i32>,
    free: TypedFunc<i32, ()>,
    handle: TypedFunc<(i32, i32), i64>,
}

fn module(engine: &Engine) -> Module {
    Module::new(engine, invert::WAT).expect("valid WebAssembly text")
}

fn fail(mut caller: Caller<'_, Option<String>>, ptr: i32, len: i32) -> i32 {
    let Some(Extern::Memory(memory)) = caller.get_export("memory") else {
        return -1;
    };
    let text = memory
        .data(&caller)
        .get(ptr as usize..ptr as usize + len as usize);
    let Some(text) = text
        .and_then(|text| std::str::from_utf8(text).ok())
        .map(String::from)
    else {
        return -1;
    };
    *caller.data_mut() = Some(text);
    0
}

impl Host {
    fn new() -> Self {
        let engine = Engine::default();
        let mut store = Store::new(&engine, None);
        let mut linker = Linker::new(&engine);
        linker
            .func_wrap("roadrunner", "fail", fail)
            .expect("a free name");
        let instance: Instance = linker
            .instantiate_and_start(&mut store, &module(&engine))
            .expect("an instance");
        Self {
            memory: instance.get_memory(&store, "memory").expect("memory"),
            allocate: instance
                .get_typed_func(&store, "roadrunner_allocate")
                .expect("allocate"),
            free: instance
                .get_typed_func(&store, "roadrunner_free")
                .expect("free"),
            handle: instance
                .get_typed_func(&store, "roadrunner_handle")
                .expect("handle"),
            store,
        }
    }

    fn allocate(&mut self, len: i32, align: i32) -> u32 {
        self.allocate
            .call(&mut self.store, (len, align))
            .expect("no trap") as u32
    }

    fn free(&mut self, address: u32) {
        self.free
            .call(&mut self.store, address as i32)
            .expect("no trap");
    }

    fn memory_len(&self) -> usize {
        self.memory.data_size(&self.store)
    }

    /// The reply, which is checked to be the payload's own buffer and freed, or the reason.
    fn call(&mut self, payload: &[u8]) -> Result<Vec<u8>, String> {
        let address = self.allocate(payload.len() as i32, 1);
        assert_ne!(address, 0);
        self.memory
            .write(&mut self.store, address as usize, payload)
            .expect("a buffer in the memory");
        let result = self
            .handle
            .call(&mut self.store, (address as i32, payload.len() as i32));
        let result = result.expect("no trap") as u64;
        if result == u64::MAX {
            return Err(self.store.data_mut().take().expect("a reason"));
        }
        assert_eq!(result, u64::from(address) << 32 | payload.len() as u64);
        let mut reply = vec![0; payload.len()];
        self.memory
            .read(&self.store, address as usize, &mut reply)
            .expect("a buffer in the memory");
        self.free(address);
        Ok(reply)
    }
}

fn picture(width: u32, height: u32) -> Vec<u8> {
    let mut payload = picture::blank(Size::new(width, height).expect("a size"))
        .expect("memory")
        .to_vec();
    for (at, byte) in payload[HEADER..].iter_mut().enumerate() {
        *byte = (at * 7 % 256) as u8;
    }
    payload
}

#[test]
fn it_imports_and_exports_what_the_abi_says() {
    let module = module(&Engine::default());
    let imports: Vec<_> = module
        .imports()
        .map(|import| (import.module(), import.name()))
        .collect();
    assert_eq!(imports, [("roadrunner", "fail")]);
    let exports: BTreeSet<_> = module.exports().map(|export| export.name()).collect();
    let expected = [
        "memory",
        "roadrunner_allocate",
        "roadrunner_free",
        "roadrunner_handle",
    ];
    assert_eq!(exports, BTreeSet::from(expected));
}

#[test]
fn colours_are_inverted_and_alpha_is_kept() {
    let mut host = Host::new();
    for (width, height) in [(1, 1), (3, 5), (600, 500)] {
        let payload = picture(width, height);
        let reply = host.call(&payload).expect("a reply");
        assert_eq!(reply[..HEADER], payload[..HEADER]);
        for (at, (new, old)) in reply.iter().zip(&payload).enumerate().skip(HEADER) {
            assert_eq!(*new, if at % 4 == 3 { *old } else { !*old }, "byte {at}");
        }
    }
}

#[test]
fn it_refuses_what_picture_refuses() {
    let mut host = Host::new();
    let good = picture(3, 2);
    let mut payloads: Vec<Vec<u8>> = (0..good.len()).map(|len| good[..len].to_vec()).collect();
    payloads.push([&good[..], &[0]].concat());
    for at in 0..HEADER {
        for change in [1, 0x80] {
            let mut changed = good.clone();
            changed[at] ^= change;
            payloads.push(changed);
        }
    }
    // Sizes whose product, or whose length in bytes, has nothing but zeros in its low 32 or 64 bits.
    for (width, height) in [
        (0, 2),
        (3, 0),
        (1 << 16, 1 << 16),
        (1 << 31, 2),
        (1 << 31, 1 << 31),
        (1 << 30, 1),
        (u32::MAX, u32::MAX),
    ] {
        let mut changed = good[..HEADER].to_vec();
        changed[8..12].copy_from_slice(&u32::to_le_bytes(width));
        changed[12..16].copy_from_slice(&u32::to_le_bytes(height));
        payloads.push(changed);
    }
    for payload in payloads {
        assert!(picture::parse(&payload).is_err());
        let reason = host.call(&payload).expect_err("not a picture");
        assert!(
            reason.starts_with("not a raw picture:") || reason.starts_with("a raw picture that is"),
            "{reason}"
        );
    }
    assert!(host.call(&good).is_ok());
}

#[test]
fn buffers_are_aligned_apart_and_inside_the_memory() {
    let mut host = Host::new();
    let mut end = 1024;
    for (len, align) in [
        (0, 1),
        (0, 16),
        (1, 64),
        (100, 4096),
        (70_000, 1),
        (MIB, 1),
        (MIB - 1, 2 * MIB),
        (3 * MIB, 8),
    ] {
        let address = host.allocate(len, align) as usize;
        let least = if len >= MIB { 2 * MIB } else { 16 };
        assert_eq!(address % align.max(least) as usize, 0, "{len} {align}");
        assert!(address >= end, "{len} {align}");
        end = address + len.max(1) as usize;
        assert!(end <= host.memory_len(), "{len} {align}");
    }
}

#[test]
fn what_cannot_be_had_is_0_and_not_a_trap() {
    let mut host = Host::new();
    for align in [0, 3, 24, 4 * MIB, i32::MIN, -1] {
        assert_eq!(host.allocate(16, align), 0, "alignment {align}");
    }
    let before = host.memory_len();
    for len in [-1, -65_536, -2 * MIB] {
        assert_eq!(host.allocate(len, 1), 0, "length {}", len as u32);
    }
    assert_eq!(host.memory_len(), before);
    assert!(host.call(&picture(2, 2)).is_ok());
}

#[test]
fn many_calls_need_no_more_memory_than_one() {
    let mut host = Host::new();
    let (good, bad) = (picture(200, 100), vec![0; 80_064]);
    host.call(&good).expect("a reply");
    let after_one = host.memory_len();
    for _ in 0..100 {
        host.call(&good).expect("a reply");
        host.call(&bad).expect_err("not a picture");
    }
    assert_eq!(host.memory_len(), after_one);
}

#[test]
fn freeing_more_than_was_allocated_traps() {
    let mut host = Host::new();
    let address = host.allocate(16, 1);
    host.free(address);
    assert!(host.free.call(&mut host.store, address as i32).is_err());
}
