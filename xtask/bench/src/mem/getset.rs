//! What WasmEdge's own SDK has for a payload between two functions: `Memory::get_data`, which makes a `Vec` of it, and
//! `Memory::set_data`. A process of its own.

use crate::peer::Control;
use crate::usage::{self, Cpu};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};
use wasmedge_sys::config::Config;
use wasmedge_sys::{AsInstance, Compiler, Executor, Instance, Loader, Store, Validator, WasmValue};
use wasmedge_types::RunMode;

/// Of the peer.
pub(super) const NAME: &str = "mem.getset";

/// Where the payload lies in either memory.
const AT: i32 = 2 << 20;

/// The payload of `sequence`, written and summed.
const FUNCTION: &str = r#"(module
  (memory (export "memory") 1)
  (global $step i64 (i64.const 0x9e3779b97f4a7c15))

  (func (export "grow") (param $bytes i32)
    (drop (memory.grow (i32.add (i32.const 1)
      (i32.shr_u (local.get $bytes) (i32.const 16))))))

  ;; Whole words; the rest is written as one more, behind the payload.
  (func (export "fill") (param $at i32) (param $len i32) (param $base i64)
    (local $end i32) (local $step i64)
    (local.set $end (i32.add (local.get $at) (local.get $len)))
    (loop $next
      (if (i32.lt_u (local.get $at) (local.get $end))
        (then
          (i64.store (local.get $at) (i64.xor (local.get $base) (local.get $step)))
          (local.set $step (i64.add (local.get $step) (global.get $step)))
          (local.set $at (i32.add (local.get $at) (i32.const 8)))
          (br $next)))))

  ;; The sum of the whole words.
  (func (export "sum") (param $at i32) (param $len i32) (result i64)
    (local $end i32) (local $step i64) (local $sum i64)
    (local.set $end (i32.add (local.get $at) (i32.and (local.get $len) (i32.const -8))))
    (loop $next
      (if (i32.lt_u (local.get $at) (local.get $end))
        (then
          (local.set $sum (i64.add (local.get $sum)
            (i64.xor (i64.load (local.get $at)) (local.get $step))))
          (local.set $step (i64.add (local.get $step) (global.get $step)))
          (local.set $at (i32.add (local.get $at) (i32.const 8)))
          (br $next))))
    (local.get $sum)))"#;

/// What one round took.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Round {
    pub(super) transfer: (Duration, Cpu),
    /// With filling and reading.
    pub(super) whole: (Duration, Cpu),
    pub(super) peak: u64,
    pub(super) same: bool,
}

/// Hears how many bytes a payload has, then the base of one after the other; answers each with a [`Round`].
pub(super) fn peer(control: &mut Control) -> Result<()> {
    let bytes: u64 = control.hear()?;
    let len = i32::try_from(bytes)?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("function.wasm");
    let mut config = Config::create()?;
    config.set_run_mode(RunMode::Aot);
    Compiler::create(Some(&config))?
        .compile_from_bytes(wat::parse_str(FUNCTION)?, &file)
        .context("compiling ahead of time")?;
    let module = Loader::create(Some(&config))?.from_file(&file)?;
    Validator::create(Some(&config))?.validate(&module)?;
    let mut executor = Executor::create(Some(&config), None)?;
    let mut instance = || -> Result<(Store, Instance)> {
        let mut store = Store::create()?;
        let mut instance = executor.register_active_module(&mut store, &module)?;
        call(
            &mut executor,
            &mut instance,
            "grow",
            &[WasmValue::from_i32(AT + len)],
        )?;
        Ok((store, instance))
    };
    let (_producers, mut producer) = instance()?;
    let (_consumers, mut consumer) = instance()?;
    while let Some(base) = control.hear_or_end::<u64>()? {
        usage::reset_peak().ok();
        let round = round(&mut executor, &mut producer, &mut consumer, len, base)?;
        control.say(&round)?;
    }
    Ok(())
}

fn round(
    executor: &mut Executor,
    producer: &mut Instance,
    consumer: &mut Instance,
    len: i32,
    base: u64,
) -> Result<Round> {
    let began = Instant::now();
    let before = Cpu::of_process();
    let arguments = [WasmValue::from_i32(AT), WasmValue::from_i32(len)];
    let fill = [arguments[0], arguments[1], WasmValue::from_i64(base as i64)];
    call(executor, producer, "fill", &fill)?;

    let filled = Instant::now();
    let cpu = Cpu::of_process();
    let data = producer
        .get_memory_ref("memory")?
        .get_data(AT as u32, len as u32)?;
    consumer
        .get_memory_mut("memory")?
        .set_data(data, AT as u32)?;
    let transfer = (filled.elapsed(), Cpu::of_process() - cpu);

    let sum = call(executor, consumer, "sum", &arguments)?;
    let words = (len as u64) & !7;
    let same = sum.first().map(WasmValue::to_i64) == Some(sequence::expected(words, base) as i64);
    Ok(Round {
        transfer,
        whole: (began.elapsed(), Cpu::of_process() - before),
        peak: usage::peak_rss().unwrap_or(0),
        same,
    })
}

fn call(
    executor: &mut Executor,
    instance: &mut Instance,
    name: &str,
    arguments: &[WasmValue],
) -> Result<Vec<WasmValue>> {
    let mut function = instance.get_func_mut(name)?;
    executor
        .call_func(&mut function, arguments.iter().copied())
        .with_context(|| format!("calling {name}"))
}
