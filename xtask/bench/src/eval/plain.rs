//! A function whose host reads and writes its memory through the SDK's calls: what the prototype builds on.

use super::wasi::{config, wasmedge};
use anyhow::{ensure, Result};
use std::path::Path;
use std::time::{Duration, Instant};
use wasmedge_sys::{
    AsInstance, Executor, Instance, Loader, Store, Validator, WasiModule, WasmValue,
};

/// An instance of `plain.wasm`.
pub(super) struct Plain {
    /// What finding room for the last payload took.
    pub(super) placed: Duration,
    instance: Instance,
    executor: Executor,
    _store: Store,
    _wasi: WasiModule,
}

impl Plain {
    /// From a module that was compiled ahead of time.
    pub(super) fn load(module: &Path) -> Result<Self> {
        let config = config()?;
        let module = Loader::create(Some(&config))
            .and_then(|loader| loader.from_file(module))
            .map_err(wasmedge)?;
        Validator::create(Some(&config))
            .and_then(|validator| validator.validate(&module))
            .map_err(wasmedge)?;
        let mut executor = Executor::create(Some(&config), None).map_err(wasmedge)?;
        let mut store = Store::create().map_err(wasmedge)?;
        let wasi = WasiModule::create(None, None, None).map_err(wasmedge)?;
        executor
            .register_import_module(&mut store, &wasi)
            .map_err(wasmedge)?;
        let instance = executor
            .register_active_module(&mut store, &module)
            .map_err(wasmedge)?;
        Ok(Self {
            placed: Duration::ZERO,
            instance,
            executor,
            _store: store,
            _wasi: wasi,
        })
    }

    fn call(&mut self, name: &str, arguments: &[WasmValue]) -> Result<Vec<WasmValue>> {
        let mut function = self.instance.get_func_mut(name).map_err(wasmedge)?;
        self.executor
            .call_func(&mut function, arguments.iter().copied())
            .map_err(wasmedge)
    }

    /// Fills a buffer; says where it is.
    pub(super) fn produce(&mut self, bytes: u64, base: u64) -> Result<u32> {
        let place = self.place(bytes)?;
        self.call("produce", &[WasmValue::from_i64(base as i64)])?;
        Ok(place)
    }

    /// What `memory.read` of the SDK does.
    pub(super) fn read(&mut self, place: u32, bytes: u64) -> Result<Vec<u8>> {
        let memory = self.instance.get_memory_ref("memory").map_err(wasmedge)?;
        memory
            .get_data(place, u32::try_from(bytes)?)
            .map_err(wasmedge)
    }

    /// What `memory.write` of the SDK does, into a buffer that the function has made room for.
    pub(super) fn write(&mut self, payload: Vec<u8>) -> Result<()> {
        let asked = Instant::now();
        let place = self.place(payload.len() as u64)?;
        self.placed = asked.elapsed();
        let mut memory = self.instance.get_memory_mut("memory").map_err(wasmedge)?;
        memory.set_data(payload, place).map_err(wasmedge)
    }

    /// Lets the function read all of it.
    pub(super) fn sum(&mut self) -> Result<u64> {
        let results = self.call("consume", &[])?;
        ensure!(results.len() == 1, "consume has one result");
        Ok(results[0].to_i64() as u64)
    }

    fn place(&mut self, bytes: u64) -> Result<u32> {
        let len = WasmValue::from_i32(u32::try_from(bytes)? as i32);
        let results = self.call("place", &[len])?;
        ensure!(results.len() == 1, "place has one result");
        Ok(results[0].to_i32() as u32)
    }
}
