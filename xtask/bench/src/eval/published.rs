//! What was published: *Roadrunner: Accelerating Data Delivery to WebAssembly-Based Serverless Functions*, Middleware
//! 2025; the figures of the prototype's own CSV files, on other machines than this one.

/// Payloads, in MB.
pub(super) const MEGABYTES: [f64; 6] = [1.0, 10.0, 60.0, 100.0, 200.0, 500.0];

/// Total latency on one host, in seconds.
pub(super) const SEQUENTIAL: [(&str, [f64; 6]); 4] = [
    ("user", [0.0027, 0.0197, 0.1336, 0.2297, 0.4589, 1.0993]),
    ("kernel", [0.1728, 0.1995, 0.3600, 0.4825, 0.7983, 1.6415]),
    (
        "container HTTP",
        [0.0137, 0.0378, 0.2325, 0.3233, 0.6590, 1.8867],
    ),
    (
        "WasmEdge HTTP",
        [0.0205, 0.2114, 1.2341, 2.0300, 3.9961, 9.7879],
    ),
];
