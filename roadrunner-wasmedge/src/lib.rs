//! Roadrunner on WasmEdge: functions, workflows and the roadrunner program
